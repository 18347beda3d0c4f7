"""Answers written down before they are given, those of concurrent requests in one commit.

One thread takes whatever waits and hands it over as a whole. Under load it waits a moment for more, because a commit costs as
much as writing ten answers; without load nobody waits for company. Photos that are kept are written by other threads, so that
a slow store holds up nobody else. Counting for the owner's page happens in these threads, off the event loop; whatever goes wrong
there is told to the log, never to who asked: what is committed is told so. Knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions

#: Requests in one commit, at most: a long transaction would hold up whoever deletes or reviews.
_MOST: Final = 128
#: How long the writer waits for more, while there is more to come.
_MOMENT_S: Final = 0.01
#: Requests whose photos are written at the same time: a store waits more than it works.
_STORED_AT_ONCE: Final = 4


def _to_the_log(exc: Exception) -> None:
    logging.getLogger(__name__).error("an answer was written, but not counted", exc_info=exc)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    answers: Sequence[NewSubmission]
    future: asyncio.Future[list[Receipt]]
    count: Callable[[], Any]


class GroupCommit:
    """The writer of one service.

    Parameters
    ----------
    submissions : Submissions
    busy : callable
        Tells whether more answers are about to come.
    bug : callable
        Told of what went wrong after a commit.
    """

    def __init__(
        self, submissions: Submissions, busy: Callable[[], bool], bug: Callable[[Exception], None] = _to_the_log
    ) -> None:
        self._submissions, self._busy, self._bug = submissions, busy, bug
        self._waiting: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._storing = ThreadPoolExecutor(_STORED_AT_ONCE, "storing")
        self._thread = threading.Thread(target=self._work, name="receipts", daemon=True)
        self._thread.start()

    def add(
        self, answers: Sequence[NewSubmission], count: Callable[[], Any] = lambda: None
    ) -> asyncio.Future[list[Receipt]]:
        """Write answers down; the future gives their receipts once they are committed, or ``StoreError``.

        Parameters
        ----------
        answers : sequence of NewSubmission
            Of one request.
        count : callable, optional
            Called once they are written, not on the event loop. What it raises goes to the log.
        """
        loop = asyncio.get_running_loop()
        if any(answer.photo is not None for answer in answers):
            return loop.run_in_executor(self._storing, self._store, answers, count)
        future: asyncio.Future[list[Receipt]] = loop.create_future()
        with self._ready:
            self._waiting.append(_Waiting(answers, future, count))
            self._ready.notify()
        return future

    def close(self) -> None:
        """Write what waits, then end."""
        self._storing.shutdown()
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._closed:
                        return
                    self._ready.wait()
            if self._busy():
                time.sleep(_MOMENT_S)
            with self._ready:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST))]
            self._write(taken)

    def _write(self, taken: list[_Waiting]) -> None:
        outcomes: list[Any]
        try:
            receipts = iter(self._submissions.add_many([answer for one in taken for answer in one.answers]))
        except (
            Exception
        ) as exc:  # the database is away: each of these requests is told so, and the next ones are written
            outcomes = [exc] * len(taken)
        else:
            outcomes = [[next(receipts) for _ in one.answers] for one in taken]
            for one in taken:
                self._count(one.count)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            taken[0].future.get_loop().call_soon_threadsafe(_settle, taken, outcomes)

    def _store(self, answers: Sequence[NewSubmission], count: Callable[[], Any]) -> list[Receipt]:
        receipts = self._submissions.add_many(answers)
        self._count(count)
        return receipts

    def _count(self, count: Callable[[], Any]) -> None:
        try:
            count()
        except Exception as exc:
            self._bug(exc)


def _settle(done: list[_Waiting], outcomes: list[list[Receipt] | Exception]) -> None:
    for one, outcome in zip(done, outcomes, strict=True):
        if one.future.done():  # cancelled
            continue
        if isinstance(outcome, Exception):
            one.future.set_exception(outcome)
        else:
            one.future.set_result(outcome)
