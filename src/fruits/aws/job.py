"""A run on the cluster: the same as ``fruits run``, told by one JSON document, with its progress as lines of JSON.

The lines go to the driver's log; the dashboard makes numbers of them. Imports no boto3.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Final

from fruits.config import RunConfig
from fruits.errors import ConfigError, FruitsError
from fruits.harmless import json_text

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


def main() -> None:
    """Run what the first argument says, in the session that is open; end with exit code 1 and a message if it fails."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - the cluster's, and only there

    from fruits import pipeline  # noqa: PLC0415

    try:
        config = from_json(sys.argv[1] if len(sys.argv) > 1 else "")
        session = SparkSession.getActiveSession()

        def cores() -> int:
            return session.sparkContext.defaultParallelism if session is not None else 1

        record = pipeline.run(config, progress=Lines(cores, config.core_hour_usd), command="fruits aws run")
    except FruitsError as exc:
        sys.stderr.write(f"fruits: {exc}\n")
        raise SystemExit(1) from exc
    told = ("photos", "ok", "rejected", "failed", "computed", "reused", "components", "seconds", "up_to_date")
    sys.stdout.write(json_text({"fruits": "done", **{name: record[name] for name in told}}) + "\n")
