"""Jobs on the cluster: ``fruits run``, ``apply`` or ``evaluate``, defined by one JSON document, with progress as JSON lines.

The lines go to the driver's log, and the dashboard derives metrics from them. Local files (a network, its card, a taxonomy) are
stored by hash, so that each is sent once and none can be replaced. Does not import boto3.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from fruits.config import RunConfig
from fruits.errors import ConfigError, FruitsError, command_line
from fruits.storage.sanitising import json_text

#: Interval of progress lines: CloudWatch charges by the byte, and users expect a sign of life every minute.
EVERY_S: Final = 30.0


def to_json(config: RunConfig) -> str:
    """Serialise the options of a run for the cluster; the inverse of :func:`from_json`."""
    default = {field.name: field.default for field in fields(RunConfig)}
    return json_text({name: value for name, value in asdict(config).items() if value != default[name]}, sort_keys=True)


def from_json(text: str) -> RunConfig:
    """Return the options that :func:`to_json` wrote.

    Raises
    ------
    ConfigError
        If the text is malformed or an option is invalid.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return RunConfig(**values)
    except (ValueError, TypeError, AttributeError) as exc:
        if isinstance(exc, ConfigError):
            raise
        raise ConfigError(f"the job was given {text[:200]!r}; expected the choices of a run as JSON ({exc})") from exc


#: Commands that run on the cluster.
COMMANDS: Final = ("run", "apply", "evaluate")


@dataclass(frozen=True, slots=True)
class JobFile:
    """A local file sent to the cluster.

    Attributes
    ----------
    role : str
        ``backbone`` or ``taxonomy``.
    name : str
        Name of the file; a network's card has the same name with another suffix.
    sha256 : str
    uri : str
        Its folder in the bucket.
    """

    role: str
    name: str
    sha256: str
    uri: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job for the cluster.

    Attributes
    ----------
    command : {"run", "apply", "evaluate"}
    out : str
        Destination of the results; for ``evaluate``, the results to evaluate.
    choices : mapping
        Options as JSON. For a run, the output of :func:`to_json`; for ``apply``, ``bundle``, ``sources`` and ``repair``; for
        ``evaluate``, ``protocols``.
    carried : tuple of JobFile
        The first file of a role is the file itself, the others are placed beside it.
    """

    command: str
    out: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    carried: tuple[JobFile, ...] = ()

    @property
    def folder(self) -> str:
        """Return the folder of ``job.json``: an evaluation must not overwrite that of the run."""
        return f"{self.out.rstrip('/')}/evaluate" if self.command == "evaluate" else self.out

    def as_json(self) -> str:
        """Serialise the job for the cluster; the inverse of :meth:`parse`."""
        return json_text(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Job:
        """Return the job that :meth:`as_json` wrote.

        Raises
        ------
        ConfigError
            If the text is malformed.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            job = cls(
                values["command"],
                values["out"],
                dict(values["choices"]),
                tuple(JobFile(**one) for one in values["carried"]),
            )
            if job.command not in COMMANDS or not isinstance(job.out, str):
                raise ValueError(f"command {job.command!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(f"the cluster was given {text[:200]!r}; expected a job of 'fruits aws' ({exc})") from exc
        return job


def run_job(config: RunConfig, carried: tuple[JobFile, ...] = ()) -> Job:
    """Return the job of a run."""
    return Job("run", config.out, json.loads(to_json(config)), carried)


def fetch(carried: tuple[JobFile, ...], folder: Path) -> dict[str, str]:
    """Download carried files to a folder, those of one role beside each other; return the path of each role.

    Raises
    ------
    ConfigError
        If the hash of a file does not match.
    """
    from fruits.storage.objects import Objects  # noqa: PLC0415 - only where files travelled

    paths: dict[str, str] = {}
    for one in carried:
        data = Objects(one.uri).read(one.name)
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise ConfigError(
                f"{one.uri}/{one.name} is not the file that was sent (its sha256 differs); start the job again"
            )
        # One folder per content, so that two networks of the same name are distinguished.
        first = next(other for other in carried if other.role == one.role)
        path = folder / first.sha256[:16] / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.setdefault(one.role, str(path))
    return paths


class Lines:
    """Progress as JSON lines on a stream, flushed after each.

    Parameters
    ----------
    cores : callable
        Returns the number of cores currently in use.
    core_hour_usd : float, optional
        Cost of a core hour; if given, lines include the cost of a million photos at the current rate.
    """

    def __init__(
        self, cores: Callable[[], int], core_hour_usd: float | None = None, *, write: Callable[[str], Any] | None = None
    ) -> None:
        self._cores, self._usd = cores, core_hour_usd
        self._write = write or sys.stdout.write
        self._step = ""
        self._total: int | None = None
        self._photos, self._photos_then = 0, 0
        self._then = time.monotonic()

    def start(self, step: str, total: int | None) -> None:
        """Report the start of a step."""
        self._step, self._total = step, total
        self._photos = self._photos_then = 0
        self._then = time.monotonic()
        self._line({"fruits": "step", "step": step, "total": total})

    def advance(self, photos: int) -> None:
        """Count photos; report them at intervals of :data:`EVERY_S`."""
        self._photos += photos
        now = time.monotonic()
        if self._step != "embeddings" or (now - self._then < EVERY_S and self._photos != self._total):
            return
        rate = (self._photos - self._photos_then) / max(now - self._then, 1e-3)
        line = {"fruits": "progress", "photos": self._photos, "total": self._total, "photos_per_second": round(rate, 1)}
        if self._usd is not None and rate > 0:
            line["cost_per_million_usd"] = round(self._usd * self._cores() / 3600 / rate * 1e6, 4)
        self._line(line)
        self._photos_then, self._then = self._photos, now

    def note(self, message: str) -> None:
        """Report a message."""
        self._line({"fruits": "message", "message": message})

    def _line(self, values: dict[str, Any]) -> None:
        self._write(json_text(values, ensure_ascii=False) + "\n")
        if self._write == sys.stdout.write:
            sys.stdout.flush()


def perform(job: Job, lines: Lines, folder: Path) -> dict[str, Any]:
    """Run a job in the active Spark session; return the content of its last line.

    Parameters
    ----------
    job : Job
    lines : Lines
        Receives the progress.
    folder : Path
        Folder for carried files.
    """
    from fruits.assessment import evaluation  # noqa: PLC0415
    from fruits.training import pipeline  # noqa: PLC0415

    if job.command == "apply":
        record = pipeline.apply(
            job.choices["bundle"], job.choices["sources"], job.out, workers=1, engine="spark",
            repair=bool(job.choices.get("repair")), progress=lines,
        )  # fmt: skip
        return {name: record[name] for name in ("photos", "ok", "rejected", "failed", "computed", "reused", "seconds")}
    if job.command == "evaluate":
        found = evaluation.evaluate(job.out, job.choices.get("protocols") or (), progress=lines)
        protocols = [one["protocol"] for one in found["protocols"]]
        return {"photos": found["photos"], "protocols": protocols, "seconds": found["seconds"]}
    config = replace(from_json(json_text(job.choices)), **fetch(job.carried, folder))  # type: ignore[arg-type]
    record = pipeline.run(config, progress=lines, command="fruits aws run")
    told = ("photos", "ok", "rejected", "failed", "computed", "reused", "components", "seconds", "up_to_date")
    return {name: record[name] for name in told}


def main() -> None:
    """Run the job given as the first argument in the active session; on failure, exit with code 1 and a message."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - the cluster's, and only there

    try:
        job = Job.parse(sys.argv[1] if len(sys.argv) > 1 else "")
        session = SparkSession.getActiveSession()

        def cores() -> int:
            return session.sparkContext.defaultParallelism if session is not None else 1

        with command_line():  # the job was started by one
            told = perform(
                job, Lines(cores, job.choices.get("core_hour_usd")), Path(tempfile.gettempdir()) / "fruits-carried"
            )
    except FruitsError as exc:
        sys.stderr.write(f"fruits: {exc}\n")
        raise SystemExit(1) from exc
    sys.stdout.write(json_text({"fruits": "done", "command": job.command, **told}) + "\n")
