"""What every scenario needs: photos, results to compare with, a place to work, chance, and figures to fill."""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from faults import checks
from faults.checks import Results, Verdict
from faults.photos import bucket, download, planted, upload
from faults.running import Ended, Running, describe, fruits
from faults.s3_server import S3Server, why_not

#: A number of components that is given takes most of the fitting away: the trials are about the rest.
COMPONENTS = 8
#: Java that lives for seconds: it need not learn to be fast.
BRIEF_JAVA = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


class SkippedError(Exception):
    """The machine lacks what a scenario needs; the message says what."""


@dataclass
class Figure:
    """A row of the table: what was done to how many runs, and what came of it.

    Attributes
    ----------
    name, what : str
    trials : int
    verdict : Verdict
        Of all trials together.
    outcomes : Counter
        How the trials ended, in words.
    failed : list of str
        What went wrong, with the trial's number.
    """

    name: str
    what: str
    trials: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    skipped: str = ""
    lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def good(self) -> bool:
        """Whether every trial ended as it should."""
        return self.verdict.good and not self.failed

    def count(self, outcome: str, verdict: Verdict | None = None) -> None:
        """Count a trial, how it ended and what its results are worth."""
        with self.lock:
            self.trials += 1
            self.outcomes[outcome] += 1
            if verdict is not None and not verdict.good:
                self.verdict.add(verdict)
                self.failed.append(f"trial {self.trials}: {'; '.join(verdict.notes[:4])}")

    def fail(self, what: str) -> None:
        """Count a trial that did not end as it should."""
        with self.lock:
            self.count("not as it should be")
            self.verdict.wrong += 1
            self.failed.append(f"trial {self.trials}: {what}")

    def outcome(self) -> str:
        """Say how the trials ended."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        return "; ".join(f"{count:,} {outcome}" for outcome, count in self.outcomes.most_common())


@dataclass
class Trials:
    """The trials of one call of ``python -m faults``.

    Parameters
    ----------
    scratch : Path
        For photos, results and logs.
    quick : bool
        A few trials of each, to see that the machinery works.
    times : int, optional
        So many trials of each instead of the usual number.
    seed : int
    say : callable
        Told how far things are.
    at_once : int
        So many trials of a scenario run side by side.
    small : bool
        Few photos and the small network, as with ``quick``, but the usual number of trials.

    Attributes
    ----------
    uses_photos : bool
        Whether any scenario has asked for the photos.
    """

    scratch: Path
    quick: bool = False
    times: int | None = None
    seed: int = 0
    say: Callable[[str], None] = print
    at_once: int = 1
    small: bool = False
    uses_photos: bool = False
    _expected: dict[tuple[str, ...], Results] = field(default_factory=dict)
    _durations: dict[tuple[str, ...], float] = field(default_factory=dict)

    def number(self, usual: int, quick: int = 2) -> int:
        """Return how many trials to make."""
        return self.times or (quick if self.quick else usual)

    def chance(self, name: str, number: int = 0) -> random.Random:
        """Return numbers that are the same in every call with the same seed, whatever runs beside it."""
        return random.Random(f"{name} {number} {self.seed}")

    def each(self, figure: Figure, number: int, trial: Callable[[int], None]) -> None:
        """Make trials, ``at_once`` of them side by side."""
        with ThreadPoolExecutor(self.at_once, thread_name_prefix=figure.name) as pool:
            try:
                for future in as_completed([pool.submit(trial, each) for each in range(number)]):
                    future.result()
                    self.say(f"{figure.name}: {figure.trials} of {number} trials, {len(figure.failed)} not right")
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def measure(self, one: Callable[[], float]) -> float:
        """Return the middle of several values that are measured side by side, as trials run."""
        times = max(self.at_once, 1 if self.quick else 3)
        with ThreadPoolExecutor(self.at_once) as pool:
            return statistics.median(pool.map(lambda _: one(), range(times)))

    @cached_property
    def photos(self) -> Path:
        """The photos of all scenarios but one."""
        self.say("planting photos")
        self.uses_photos = True
        return planted(self.scratch / "photos", *((120, 4) if self.quick else (320, 8) if self.small else ()))

    def expected(self, *options: str) -> Results:
        """Return what an undisturbed local run leaves with these options beside the usual ones."""
        if options not in self._expected:
            out = self.out(options)
            if not (out / "run.json").is_file():
                ended = must_end_well(self.start(out, *options))
                if self.quick:
                    self._durations.setdefault(options, ended.seconds)
            verdict = Verdict()
            results = checks.read(out, verdict)
            if results is None or not verdict.good:
                raise RuntimeError(f"an undisturbed run is not right: {verdict.notes}")
            self._expected[options] = results
        return self._expected[options]

    def out(self, options: tuple[str, ...] = ()) -> Path:
        """Return the folder of the undisturbed results."""
        return self.scratch / "undisturbed" / (" ".join(options).replace("/", "_") or "local")

    def seconds(self, *options: str) -> float:
        """Return how long an undisturbed run takes beside others like it."""
        if options not in self._durations:

            def one() -> float:
                with self.folder() as folder:
                    return must_end_well(self.start(folder / "out", *options)).seconds

            self._durations[options] = self.measure(one)
            taken = self._durations[options]
            self.say(f"an undisturbed run{' with ' * bool(options)}{' '.join(options)} takes {taken:.1f} s")
        return self._durations[options]

    def start(
        self, out: object, *options: str, photos: object | None = None, environment: dict[str, str] | None = None
    ) -> Running:
        """Start ``fruits run`` on the photos."""
        environment = (BRIEF_JAVA if "spark" in options else {}) | (environment or {})
        return Running(self.command(out, *options, photos=photos), self.scratch / "logs", environment)

    def command(self, out: object, *options: str, photos: object | None = None) -> list[str]:
        """Return the command line of ``fruits run`` on the photos."""
        components = () if "--components" in options else ("--components", str(COMPONENTS))
        # The machinery is the same whatever the network; the small one takes a fifth of the time.
        network = ("--backbone", "fruits-small") if (self.quick or self.small) and "--backbone" not in options else ()
        return fruits("run", photos or self.photos, "--to", out, *components, *network, *options)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a fresh folder for a trial; gone afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=self.scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def server(self, *, native_races: bool = False) -> Iterator[S3Server]:
        """Give an S3 server."""
        folder = Path(tempfile.mkdtemp(prefix="s3-", dir=self.scratch))
        if reason := why_not(folder):
            raise SkippedError(reason)
        with S3Server(folder, native_races=native_races) as server:
            yield server
        shutil.rmtree(folder, ignore_errors=True)

    def to_bucket(self, server: S3Server, name: str) -> str:
        """Put the photos into a new bucket; return its address."""
        server.make_bucket(name)
        upload(self.photos, bucket(name, server.environment()))
        return f"s3://{name}"

    def check_bucket(self, server: S3Server, name: str, expected: Results, *, to_the_bit: bool = True) -> Verdict:
        """Compare the results in a bucket, without any fault on the way, with those of an undisturbed run."""
        with self.folder() as folder:
            out = download(bucket(name, server.environment()), folder / "copy")
            return checks.check(out, expected, to_the_bit=to_the_bit)


def must_end_well(running: Running) -> Ended:
    """Wait for a command that nothing disturbs."""
    ended = running.wait()
    if ended.code != 0:
        raise RuntimeError(f"an undisturbed run failed: {describe(ended)}\n{ended.stderr[-2000:]}")
    return ended
