"""Work on the cluster: ``fruits run``, ``apply`` or ``evaluate``, told by one JSON document, with progress as lines of JSON.

The lines go to the driver's log; the dashboard makes numbers of them. Files of one's own (a network, its card, a taxonomy) travel
under their hash, so that each is sent once and none can be exchanged. Imports no boto3.
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
from fruits.errors import ConfigError, FruitsError
from fruits.storage.sanitising import json_text

#: A line of progress about so often; CloudWatch charges by the byte, and a minute of silence is what people bear.
EVERY_S: Final = 30.0


def to_json(config: RunConfig) -> str:
    """Return the choices of a run as the cluster is given them; :func:`from_json` undoes it."""
    default = {field.name: field.default for field in fields(RunConfig)}
    return json_text({name: value for name, value in asdict(config).items() if value != default[name]}, sort_keys=True)


def from_json(text: str) -> RunConfig:
    """Return the choices that :func:`to_json` wrote.

    Raises
    ------
    ConfigError
        If they are not such, or impossible.
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


#: What the cluster can do.
COMMANDS: Final = ("run", "apply", "evaluate")


@dataclass(frozen=True, slots=True)
class Carried:
    """A file of one's own on its way to the cluster.

    Attributes
    ----------
    role : str
        ``backbone`` or ``taxonomy``.
    name : str
        Of the file; a network's card has the network's with another suffix.
    sha256 : str
    uri : str
        The folder in the bucket that it lies in.
    """

    role: str
    name: str
    sha256: str
    uri: str


@dataclass(frozen=True, slots=True)
class Job:
    """What the cluster is to do.

    Attributes
    ----------
    command : {"run", "apply", "evaluate"}
    out : str
        Where its results go; of ``evaluate``, the results that are evaluated.
    choices : mapping
        As JSON: of a run what :func:`to_json` gives; of ``apply`` ``bundle``, ``sources`` and ``repair``; of ``evaluate``
        ``protocols``.
    carried : tuple of Carried
        The first of a role is the file itself, the others belong beside it.
    """

    command: str
    out: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    carried: tuple[Carried, ...] = ()

    @property
    def home(self) -> str:
        """Return below what its ``job.json`` lies: an evaluation must not take the place of the run's."""
        return f"{self.out.rstrip('/')}/evaluate" if self.command == "evaluate" else self.out

    def as_json(self) -> str:
        """Return it as the cluster is given it; :meth:`parse` undoes it."""
        return json_text(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Job:
        """Return the job that :meth:`as_json` wrote.

        Raises
        ------
        ConfigError
            If it is none.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            job = cls(
                values["command"],
                values["out"],
                dict(values["choices"]),
                tuple(Carried(**one) for one in values["carried"]),
            )
            if job.command not in COMMANDS or not isinstance(job.out, str):
                raise ValueError(f"command {job.command!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(f"the cluster was given {text[:200]!r}; expected a job of 'fruits aws' ({exc})") from exc
        return job


def run_job(config: RunConfig, carried: tuple[Carried, ...] = ()) -> Job:
    """Return the job of a run."""
    return Job("run", config.out, json.loads(to_json(config)), carried)


def fetch(carried: tuple[Carried, ...], folder: Path) -> dict[str, str]:
    """Bring files that travelled into a folder, those of a role beside each other; return each role's path.

    Raises
    ------
    ConfigError
        If one is not the file that was sent.
    """
    from fruits.storage.objects import Objects  # noqa: PLC0415 - only where files travelled

    paths: dict[str, str] = {}
    for one in carried:
        data = Objects(one.uri).read(one.name)
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise ConfigError(
                f"{one.uri}/{one.name} is not the file that was sent (its sha256 differs); start the job again"
            )
        # A name of its own per content: what is computed with two networks of one name is told apart.
        first = next(other for other in carried if other.role == one.role)
        path = folder / first.sha256[:16] / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.setdefault(one.role, str(path))
    return paths


class Lines:
    """Progress as lines of JSON on a stream that is flushed after each.

    Parameters
    ----------
    cores : callable
        Returns how many cores work at the moment.
    core_hour_usd : float, optional
        Of the run; then lines say what a million photos cost at the present rate.
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
        """Say that a step begins."""
        self._step, self._total = step, total
        self._photos = self._photos_then = 0
        self._then = time.monotonic()
        self._line({"fruits": "step", "step": step, "total": total})

    def advance(self, photos: int) -> None:
        """Count photos; now and then say how many."""
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

    def say(self, message: str) -> None:
        """Pass a message on."""
        self._line({"fruits": "message", "message": message})

    def _line(self, values: dict[str, Any]) -> None:
        self._write(json_text(values, ensure_ascii=False) + "\n")
        if self._write == sys.stdout.write:
            sys.stdout.flush()


def perform(job: Job, lines: Lines, folder: Path) -> dict[str, Any]:
    """Do a job in the session that is open; return what its last line says.

    Parameters
    ----------
    job : Job
    lines : Lines
        Told of progress.
    folder : Path
        For files that travelled.
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
    """Do what the first argument says, in the session that is open; end with exit code 1 and a message if it fails."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - the cluster's, and only there

    try:
        job = Job.parse(sys.argv[1] if len(sys.argv) > 1 else "")
        session = SparkSession.getActiveSession()

        def cores() -> int:
            return session.sparkContext.defaultParallelism if session is not None else 1

        told = perform(
            job, Lines(cores, job.choices.get("core_hour_usd")), Path(tempfile.gettempdir()) / "fruits-carried"
        )
    except FruitsError as exc:
        sys.stderr.write(f"fruits: {exc}\n")
        raise SystemExit(1) from exc
    sys.stdout.write(json_text({"fruits": "done", "command": job.command, **told}) + "\n")
