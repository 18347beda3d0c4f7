"""Group commit: one database transaction for the answers of many concurrent requests, before the responses are sent.

One thread takes all waiting answers and commits them together: those of one turn of the event loop, such as of a batch of photos,
and those that came while the last commit was written. It waits for nothing else: in a closed loop the clients would wait as well,
and the cores with them. Photos to be stored are written by other threads, so that a slow store delays no other request. These
threads count the statistics, off the event loop; an error there is logged and does not fail the request, whose answer is already
committed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fruits.service.submissions.repository import NewSubmission, Receipt, Submissions

#: Requests in one commit, at most: a long transaction would delay deletions and reviews.
_MOST: Final = 128
#: Requests whose photos are written at the same time: writing is bound by latency, not by the processor.
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
    bug : callable
        Called with an exception raised after a commit.
    """

    def __init__(self, submissions: Submissions, bug: Callable[[Exception], None] = _to_the_log) -> None:
        self._submissions, self._bug = submissions, bug
        #: Answers of this turn of the event loop, and those for the writer.
        self._given: list[_Waiting] = []
        self._waiting: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._storing = ThreadPoolExecutor(_STORED_AT_ONCE, "storing")
        self._thread = threading.Thread(target=self._work, name="group-commit", daemon=True)
        self._thread.start()

    def add(
        self, answers: Sequence[NewSubmission], count: Callable[[], Any] = lambda: None
    ) -> asyncio.Future[list[Receipt]]:
        """Queue answers for the next commit; the future resolves to their receipts, or to ``StoreError``.

        Parameters
        ----------
        answers : sequence of NewSubmission
            Of one request.
        count : callable, optional
            Called after the commit, not on the event loop. Its exceptions are logged.
        """
        loop = asyncio.get_running_loop()
        if any(answer.photo is not None for answer in answers):
            return loop.run_in_executor(self._storing, self._store, answers, count)
        future: asyncio.Future[list[Receipt]] = loop.create_future()
        if not self._given:  # the requests of this turn are answered first, then the writer is woken once
            loop.call_soon(self._hand_over)
        self._given.append(_Waiting(answers, future, count))
        return future

    def close(self) -> None:
        """Commit the waiting answers, then stop the threads."""
        self._storing.shutdown()
        self._hand_over(closed=True)
        self._thread.join()

    def _hand_over(self, *, closed: bool = False) -> None:
        with self._ready:
            given, self._given = self._given, []
            self._waiting += given
            self._closed |= closed
            self._ready.notify()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._closed:
                        return
                    self._ready.wait()
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST))]
            self._write(taken)

    def _write(self, taken: list[_Waiting]) -> None:
        outcomes: list[Any]
        try:
            receipts = iter(self._submissions.add_many([answer for one in taken for answer in one.answers]))
        except Exception as exc:  # database unavailable: these requests fail, the thread continues
            outcomes = [exc] * len(taken)
        else:
            outcomes = [[next(receipts) for _ in one.answers] for one in taken]
            for one in taken:
                self._count(one.count)
        with suppress(RuntimeError):  # the loop is closed: no request waits any more
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
