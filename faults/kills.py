"""Scenarios: processes die. The whole run, an executor of Spark, a Python worker; then everything must still be right."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from faults import checks
from faults.running import Running, describe, linked_spark_home
from faults.trials import Figure, Trials, must_end_well

SPARK = ("--engine", "spark", "--master", "local[2]")
#: Executors in processes of their own, on this machine: the only way to kill one and keep the driver.
CLUSTER = ("--engine", "spark", "--master", "local-cluster[2,1,1024]")
_RUNS_AT_MOST = 5
ENDED_BEFORE = "had ended before the kill"


def kill_local(trials: Trials) -> Figure:
    """Kill whole runs of the local engine."""
    return _killed_on_disk(trials, "kill-local", "whole run killed (SIGKILL), local engine, results on a disk")


def kill_spark(trials: Trials) -> Figure:
    """Kill whole runs on Spark, Java and all."""
    return _killed_on_disk(trials, "kill-spark", "whole run killed (SIGKILL), Spark local[2], results on a disk", SPARK)


def kill_s3(trials: Trials) -> Figure:
    """Kill whole runs that read from and write to a bucket."""
    figure = Figure("kill-s3", "whole run killed (SIGKILL), local engine, photos and results in a bucket")
    expected = trials.expected()
    with trials.server() as server:
        photos, environment = trials.to_bucket(server, "photos"), server.environment()
        undisturbed = itertools.count()

        def start(name: str) -> Running:
            return trials.start(f"s3://{name}", photos=photos, environment=environment)

        def duration() -> float:
            name = f"undisturbed-{next(undisturbed)}"
            server.make_bucket(name)
            return must_end_well(start(name)).seconds

        seconds = trials.measure(duration)
        trials.say(f"{figure.name}: an undisturbed run takes {seconds:.1f} s")

        def one(number: int) -> None:
            name = f"killed-{number}"
            server.make_bucket(name)
            moment = trials.chance(figure.name, number).uniform(0, seconds)
            how = _kill_and_finish(figure, lambda: start(name), moment, whole=number % 2 == 0)
            if how is not None:
                figure.count(how, trials.check_bucket(server, name, expected))

        trials.each(figure, trials.number(20), one)
    return figure


def executor(trials: Trials) -> Figure:
    """Kill one of two executors amid the work."""
    return _one_killed(trials, "executor", "one of Spark's two executors killed, the run goes on", _executors)


def python_worker(trials: Trials) -> Figure:
    """Kill a Python worker of an executor amid the work."""
    return _one_killed(trials, "python-worker", "a Python worker of Spark killed, the run goes on", _python_workers)


def _killed_on_disk(trials: Trials, name: str, what: str, options: tuple[str, ...] = ()) -> Figure:
    figure = Figure(name, what)
    expected, seconds = trials.expected(), trials.seconds(*options)

    def one(number: int) -> None:
        with trials.folder() as folder:
            out = folder / "out"
            moment = trials.chance(name, number).uniform(0, seconds)
            # In turns: all at once, as a machine that fails; the command alone, whose helpers must notice.
            how = _kill_and_finish(figure, lambda: trials.start(out, *options), moment, whole=number % 2 == 0)
            if how is not None:
                figure.count(how, checks.check(out, expected))

    trials.each(figure, trials.number(50), one)
    return figure


def _kill_and_finish(figure: Figure, start: Callable[[], Running], moment: float, *, whole: bool) -> str | None:
    """Start, kill at a moment, start again until it is done; None if that is never, and then it is counted as a failure.

    Returns how it ended: on a machine with less to do than before, a run may end before its moment.
    """
    running = start()
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(moment)
    killed = running.process.poll() is None
    running.kill(whole=whole)
    if not whole:
        following = start()  # at once: workers of the killed one may still be writing
        orphans = running.left_behind()
    else:
        following, orphans = start(), []
    for _ in range(_RUNS_AT_MOST):
        ended = following.wait()
        if ended.code == 0:
            break
        following = start()
    else:
        figure.fail(f"killed after {moment:.2f} s, never finished: {describe(ended)}")
        following.kill()
        return None
    if orphans:
        figure.fail(f"killed after {moment:.2f} s, these lived on: {', '.join(orphans)}")
        return None
    return "finished by the next run" if killed else ENDED_BEFORE


def _one_killed(
    trials: Trials, name: str, what: str, find: Callable[[list[psutil.Process]], list[psutil.Process]]
) -> Figure:
    """Kill one process that ``find`` gives, some time after there is one; the run itself must come to its end."""
    figure = Figure(name, what)
    expected = trials.expected()

    def lifetime() -> float:
        with trials.folder() as folder:
            return _lifetime(_on_cluster(trials, folder), find)

    lives = trials.measure(lifetime)
    trials.say(f"{name}: there is one to kill for {lives:.1f} s of an undisturbed run")

    def one(number: int) -> None:
        chance = trials.chance(name, number)
        with trials.folder() as folder:
            running = _on_cluster(trials, folder)
            killed = _kill_one(running, find, chance.uniform(0, lives), chance.random())
            ended = running.wait()
            if orphans := running.left_behind():
                figure.fail(f"these lived on: {', '.join(orphans)}")
            elif ended.code == 0:
                outcome = "finished by itself" if killed else ENDED_BEFORE
                figure.count(outcome, checks.check(folder / "out", expected))
            elif ended.is_clear_error and _on_cluster(trials, folder).wait().code == 0:
                figure.count("said so and was finished by the next run", checks.check(folder / "out", expected))
            else:
                figure.fail(describe(ended))

    trials.each(figure, trials.number(20), one)
    return figure


def _on_cluster(trials: Trials, folder: Path) -> Running:
    home = folder / "spark"
    if not home.exists():
        home.mkdir()
        linked_spark_home(home)
    return trials.start(folder / "out", *CLUSTER, environment={"SPARK_HOME": str(home)})


def _lifetime(running: Running, find: Callable[[list[psutil.Process]], list[psutil.Process]]) -> float:
    """Return for how many seconds of an undisturbed run there is something to kill."""
    first = last = time.monotonic()
    seen = False
    while running.process.poll() is None:
        if find(running.members()):
            first = first if seen else time.monotonic()
            seen, last = True, time.monotonic()
        time.sleep(0.1)
    if not seen:
        raise RuntimeError(f"an undisturbed run had nothing to kill: {describe(running.wait())}")
    must_end_well(running)
    return last - first


def _kill_one(
    running: Running,
    find: Callable[[list[psutil.Process]], list[psutil.Process]],
    moment: float,
    which: float,
) -> bool:
    """Kill one, ``moment`` seconds after the first is seen; return whether one was killed."""
    while running.process.poll() is None and not find(running.members()):
        time.sleep(0.05)
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(moment)
    while running.process.poll() is None:
        if victims := find(running.members()):
            with suppress(psutil.Error):
                victims[int(which * len(victims))].kill()
                return True
        time.sleep(0.02)
    return False


def _executors(members: list[psutil.Process]) -> list[psutil.Process]:
    return [member for member in members if "CoarseGrainedExecutorBackend" in _command(member)]


def _python_workers(members: list[psutil.Process]) -> list[psutil.Process]:
    """Return the workers, which are forks of a daemon with the same command line: those whose parent is one, too."""
    daemons = {member.pid for member in members if "pyspark.daemon" in _command(member)}
    workers = []
    for member in members:
        with suppress(psutil.Error):
            if member.pid in daemons and member.ppid() in daemons:
                workers.append(member)
    return workers


def _command(member: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(member.cmdline())
    return ""
