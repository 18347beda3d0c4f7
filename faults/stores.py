"""Scenarios: the store misbehaves. Thirteen kinds of fault between fruits and a bucket, and races for a name and for a commit."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from faults.proxy import KINDS, FaultyProxy
from faults.running import Running, describe
from faults.s3_server import S3Server
from faults.trials import Figure, Trials

#: How often a fault strikes, in turns: now and then; all the time for a while from some moment on; hard.
_WEATHER = (
    ("now and then", {"rate": 0.03}),
    ("a spell", {"rate": 0.0, "burst": 12}),
    ("hard", {"rate": 0.3}),
)
#: So that what is never answered is given up in seconds: twice what the slowest answer takes. With 10, a hard trial takes 900 s.
#: Elsewhere a request has the usual minute: on a busy machine the store itself may need seconds, and repeats make it worse.
_PATIENCE = {"stalled": {"FRUITS_STORE_TIMEOUT_S": "4"}}


def proxy(kind: str, trials: Trials) -> Figure:
    """Run through a proxy that injects one kind of fault; then, if the run gave up, once more without."""
    figure = Figure(f"s3-{kind}", f"bucket: {KINDS[kind]}")
    expected = trials.expected()
    injected: Counter[str] = Counter()
    with trials.server() as server:
        photos = trials.to_bucket(server, "photos")

        def one(number: int) -> None:
            name = f"out-{number}"
            server.make_bucket(name)
            weather, force = _WEATHER[number % len(_WEATHER)]
            skip = trials.chance(figure.name, number).randrange(200)
            with FaultyProxy(server.port, kind, seed=trials.seed + number, skip=skip, **force) as between:  # type: ignore[arg-type]
                environment = server.environment(between.endpoint) | _PATIENCE.get(kind, {})
                ended = trials.start(f"s3://{name}", photos=photos, environment=environment).wait()
                with figure.lock:
                    injected[weather] += sum(between.done.values())
            _judge(figure, trials, server, name, ended_well=ended.code == 0, clear=ended.is_clear_error,
                   said=describe(ended), photos=photos, expected=expected)  # fmt: skip

        trials.each(figure, trials.number(9), one)
    figure.what += f" ({injected.total():,} times)"
    return figure


def _judge(
    figure: Figure, trials: Trials, server: S3Server, name: str, *,
    ended_well: bool, clear: bool, said: str, photos: str, expected: Any,
) -> None:  # fmt: skip
    """Check the results of a run amid faults, or of the run after it."""
    if not ended_well and not clear:
        figure.fail(said)
        return
    with trials.folder() as folder:
        del folder
        if ended_well:
            verdict = trials.check_bucket(server, name, expected)
            if verdict.good:
                figure.count("right in spite of it", verdict)
                return
            failed = [note for note in verdict.notes if note.startswith("run.json says failed")]
            if not failed:
                figure.count("exit 0 and wrong", verdict)
                return
        after = trials.start(f"s3://{name}", photos=photos, environment=server.environment()).wait()
        if after.code != 0:
            figure.fail(f"the run after it, undisturbed: {describe(after)}")
            return
        # Photos that failed are planned again, so sums come in another order.
        verdict = trials.check_bucket(server, name, expected, to_the_bit=not ended_well)
        how = "counted photos as failed" if ended_well else "said so"
        figure.count(f"{how}, and was finished by the next run", verdict)


def race(trials: Trials) -> Figure:
    """Have processes race for names in a bucket: one must win each."""
    figure = Figure("race", "8 processes put names in a bucket if absent, all at the same moment")
    many, counted = _race(trials, native_races=False)
    figure.trials = counted
    figure.outcomes["names with exactly one winner"] = counted - len(many)
    figure.verdict.wrong = len(many)
    figure.failed += [f"{name}: {winners} winners" for name, winners in many.items()]
    return figure


def race_control(trials: Trials) -> Figure:
    """The same where put-if-absent is not atomic: the race must show it, or it shows nothing."""
    figure = Figure("race-control", "the same on a store whose put-if-absent is not atomic (control: must be noticed)")
    many, counted = _race(trials, native_races=True)
    figure.trials = counted
    figure.outcomes["names with more than one winner, noticed"] = len(many)
    if not many:
        figure.failed.append("no name had more than one winner: the race would notice nothing")
    return figure


def _race(trials: Trials, *, native_races: bool) -> tuple[dict[str, int], int]:
    """Return the names that had other than one winner with their number, and how many names there were."""
    keys, processes = trials.times or (40 if trials.quick else 200), 8
    with trials.server(native_races=native_races) as server, trials.folder() as folder:
        server.make_bucket("race")
        said = _said(server, folder, "names", "s3://race/names", processes, keys)
    return {name: count for name, count in said.items() if count != 1}, len(said)


def commits(trials: Trials) -> Figure:
    """Have processes commit to one table at the same moment: all must count, each once."""
    figure = Figure("commits", "4 processes commit files to one table in a bucket, all at the same moment")
    said = _committed(trials, native_races=False)
    figure.trials = said["commits"]
    figure.outcomes["commits that all count, each once"] = said["returned"]
    figure.verdict.lost, figure.verdict.doubled = said["lost"], said["doubled"]
    if said["returned"] != said["commits"] or said["lost"] or said["doubled"]:
        figure.failed.append(f"{said}")
    return figure


def commits_control(trials: Trials) -> Figure:
    """The same where put-if-absent is not atomic: the race must show it, or it shows nothing."""
    figure = Figure(
        "commits-control", "the same on a store whose put-if-absent is not atomic (control: losses must be noticed)"
    )
    said = _committed(trials, native_races=True)
    figure.trials = said["commits"]
    figure.outcomes["files lost by other commits of the same version, noticed"] = said["lost"]
    if not said["lost"]:
        figure.failed.append("no commit was lost: the race would notice nothing")
    return figure


def _committed(trials: Trials, *, native_races: bool) -> dict[str, int]:
    times = trials.times or (5 if trials.quick else 50)
    with trials.server(native_races=native_races) as server, trials.folder() as folder:
        server.make_bucket("race")
        return _said(server, folder, "commits", "s3://race/out", 4, times)


def _said(server: S3Server, folder: Path, kind: str, *about: object) -> dict[str, int]:
    """Run a race; return what it printed."""
    command = [sys.executable, "-m", "faults.racer", kind, *map(str, about)]
    ended = Running(command, folder / "logs", server.environment()).wait()
    if ended.code != 0:
        raise RuntimeError(f"the race failed: {describe(ended)}\n{ended.stderr[-2000:]}")
    said: dict[str, int] = json.loads(ended.stdout)
    return said


PROXIES = {f"s3-{kind}": partial(proxy, kind) for kind in KINDS}
