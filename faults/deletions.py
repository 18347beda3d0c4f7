"""Scenarios: a service is killed while it erases a submission, or while it keeps one; nothing of it may be left.

Every byte of the database's files, the photo folder and the logs is searched for what was planted in the submission: photo,
features, labels, note, its name. In every fourth trial of deletions the process is killed at a random moment; in the others, and
while keeping, which is over in 2 ms, it kills itself at a random call within the work. Then a new process starts, as a service
does. That the search finds what is there is shown in every trial: before the deletion it must find all of it, and afterwards all
of the submission that stays.
"""

from __future__ import annotations

import multiprocessing
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from faults import postgres_server
from faults.checks import Verdict
from faults.erasure_process import SIZE, marks, work
from faults.trials import Figure, SkippedError, Trials

_TIMEOUT_S = 120
#: Processes of their own, forked off one that has imported all and done nothing: importing would take 2 s each time.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["faults.erasure_process"])
#: Recovery leaves alone what another process may be writing right now: ten minutes.
_LONG_AGO_S = 660


@dataclass
class Service:
    """What is kept in a trial, and where."""

    folder: Path
    url: str
    more: Callable[[], dict[str, bytes]]
    receipts: dict[str, tuple[str, str]] = field(default_factory=dict)

    def keep(self) -> None:
        """Keep two submissions: one stays, one goes."""
        (self.receipts,) = self.run("keep")

    def start(self, action: str, at: int | None = None) -> tuple[Any, Connection]:
        """Start a process that does something, and may kill itself within; return it and what it says."""
        ours, theirs = _PROCESSES.Pipe(duplex=False)
        given = (self.url, str(self.folder / "photos"), str(self.folder / "log"), action, self.receipts.get("goes"), at)
        process = _PROCESSES.Process(target=work, args=(*given, theirs))
        process.start()
        theirs.close()
        return process, ours

    def run(self, action: str) -> list[Any]:
        """Do something undisturbed; return what was said."""
        process, said = self.start(action)
        lines = _all(said)
        process.join(_TIMEOUT_S)
        if process.exitcode != 0:
            raise RuntimeError(f"'{action}' failed: {(self.folder / 'log').read_text()[-2000:]}")
        return lines

    def measure(self, action: str) -> tuple[list[int], float]:
        """Do something undisturbed; return how many calls it took, and until the photo is deleted, and how many seconds."""
        process, said = self.start(action)
        said.recv()
        begun = time.monotonic()
        calls = said.recv()
        seconds = time.monotonic() - begun
        process.join(_TIMEOUT_S)
        return calls, seconds

    def kill(self, action: str, *, at_call: int | None = None, after_s: float = 0.0) -> bool:
        """Do something and be killed within, at a call or at a moment; return whether it was."""
        process, said = self.start(action, at_call)
        said.recv()
        if at_call is None:
            time.sleep(after_s)
            process.kill()
        lines = _all(said)
        process.join(_TIMEOUT_S)
        return process.exitcode == -signal.SIGKILL and not lines

    def found(self, name: str) -> set[str]:
        """Return which marks of a submission are in any file."""
        everything = self.more() | {
            str(path.relative_to(self.folder)): path.name.encode() + b"\n" + path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }
        searched = marks(name)
        if name in self.receipts:
            searched["name"] = self.receipts[name][0].encode()
        return {mark for mark, planted in searched.items() if any(planted in data for data in everything.values())}


def delete_sqlite(trials: Trials) -> Figure:
    """Kill deletions; SQLite."""
    figure = Figure("delete-sqlite", "killed (SIGKILL) while it deletes a submission; SQLite, photos in a folder")
    return _deletions(figure, trials, lambda folder: Service(folder, f"sqlite:///{folder}/data/service.db", dict))


def delete_postgresql(trials: Trials) -> Figure:
    """Kill deletions; PostgreSQL."""
    figure = Figure(
        "delete-postgresql", "killed (SIGKILL) while it deletes a submission; PostgreSQL, photos in a folder"
    )
    if reason := postgres_server.why_not():
        raise SkippedError(reason)
    with postgres_server.PostgresServer() as server:
        return _deletions(figure, trials, lambda folder: Service(folder, server.empty_database(), server.table_files))


def keep_sqlite(trials: Trials) -> Figure:
    """Kill processes that keep a photo: its visitor got no receipt, so nobody could ask for its deletion."""
    figure = Figure("keep-sqlite", "killed (SIGKILL) while it keeps a photo; SQLite, photos in a folder")
    chance, measured = trials.chance(figure.name), None
    wanted = trials.number(50)
    while figure.trials < wanted:
        with trials.folder() as folder:
            service = Service(folder, f"sqlite:///{folder}/data/service.db", dict)
            service.keep()
            if measured is None:
                measured = service.measure("add")
                continue
            killed = service.kill("add", at_call=chance.randint(1, measured[0][0]))
            begun = service.found("added")
            with sqlite3.connect(folder / "data/service.db") as connection:
                connection.execute("pragma secure_delete = on")
                connection.execute("update submissions set created_s = created_s - ?", (_LONG_AGO_S,))
                (complete,) = connection.execute("select count(*) from submissions where state = 'kept'").fetchone()
            connection.close()
            service.run("recover")
            verdict = _stays(service)
            if complete == 3:  # killed after all was done, before anybody was told
                _complete(verdict, service, "added")
                figure.count("complete, no receipt" if killed else "had ended before the kill", verdict)
            else:
                _gone(verdict, service, "added")
                figure.count("gone after the next start" if begun else "not begun", verdict)
        trials.say(f"{figure.name}: {figure.trials} trials")
    return figure


def _all(said: Connection) -> list[Any]:
    lines = []
    with said, suppress(EOFError):
        while True:
            lines.append(said.recv())
    return lines


def _deletions(figure: Figure, trials: Trials, service_in: Callable[[Path], Service]) -> Figure:
    chance, measured = trials.chance(figure.name), None
    wanted = trials.number(50)
    while figure.trials < wanted:
        number = figure.trials
        with trials.folder() as folder:
            service = service_in(folder)
            service.keep()
            if measured is None:
                measured = service.measure("delete")
                continue
            verdict = Verdict()
            if missing := {*marks("goes"), "name"} - service.found("goes"):
                verdict.note(f"the search does not find what is there: {', '.join(sorted(missing))}", wrong=1)
            (calls, tombstone), seconds = measured
            # Before there is a tombstone, a killed deletion is none: most calls from there on.
            moment, call = chance.uniform(0, seconds), chance.randint(int(0.8 * tombstone), calls)
            killed = service.kill("delete", at_call=call) if number % 4 else service.kill("delete", after_s=moment)
            service.run("recover")
            if "note" in service.found("goes"):
                outcome = "not begun; asked again"
                _complete(verdict, service, "goes")
                service.run("delete")
            else:
                outcome = "finished by the next start" if killed else "had ended before the kill"
            _gone(verdict, service, "goes")
            verdict.add(_stays(service))
            figure.count(outcome, verdict)
        trials.say(f"{figure.name}: {figure.trials} trials")
    return figure


def _gone(verdict: Verdict, service: Service, name: str) -> None:
    if left := service.found(name):
        verdict.note(f"left of what {name}: {', '.join(sorted(left))}", wrong=1)


def _complete(verdict: Verdict, service: Service, name: str) -> None:
    """Note what is missing of a submission that must be there whole; no feedback was given on the one that was added."""
    expected = {*marks(name)} - ({"note", "said"} if name == "added" else set())
    if missing := expected - service.found(name):
        verdict.note(f"lost of what {name}: {', '.join(sorted(missing))}", lost=1)


def _stays(service: Service) -> Verdict:
    """Look for all of the submission that nobody deleted."""
    verdict = Verdict()
    _complete(verdict, service, "stays")
    photo = service.folder / "photos" / f"{service.receipts['stays'][0]}.jpg"
    planted = marks("stays")["photo"]
    if not photo.is_file() or photo.read_bytes() != planted.ljust(SIZE, b"\n") + planted:
        verdict.note("the photo that stays is not as it was", lost=1)
    return verdict
