"""Answers written down before they are given, those of concurrent requests in one commit.

One thread takes whatever waits and hands it over as a whole. Under load it waits a moment for more, because a commit costs as
much as writing ten answers; without load nobody waits for company. Counting for the owner's page happens in the same thread,
off the event loop. Knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fruits.service.submissions import NewSubmission, Receipt, Submissions

#: Requests in one commit, at most: a long transaction would hold up whoever deletes or reviews.
_MOST: Final = 128
#: How long the writer waits for more, while there is more to come.
_MOMENT_S: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    answers: Sequence[NewSubmission]
    future: asyncio.Future[list[Receipt]]
    count: Callable[[], Any]


class Receipts:
    """The writer of one service.

    Parameters
    ----------
    submissions : Submissions
    busy : callable
        Tells whether more answers are about to come.
    """

    def __init__(self, submissions: Submissions, busy: Callable[[], bool]) -> None:
        self._submissions, self._busy = submissions, busy
        self._waiting: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._closed = False
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
            Called by the writer afterwards; whatever need not be done on the event loop.
        """
        future: asyncio.Future[list[Receipt]] = asyncio.get_running_loop().create_future()
        with self._ready:
            self._waiting.append(_Waiting(answers, future, count))
            self._ready.notify()
        return future

    def close(self) -> None:
        """Write what waits, then end."""
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
        # A photo takes its own time, and may fail alone.
        plain = [one for one in taken if not any(answer.photo for answer in one.answers)]
        for together in filter(None, [plain, *([one] for one in taken if one not in plain)]):
            try:
                receipts = iter(self._submissions.add_many([answer for one in together for answer in one.answers]))
                outcomes: list[Any] = [[next(receipts) for _ in one.answers] for one in together]
            except Exception as exc:  # the database is away: each of these requests is told so
                outcomes = [exc] * len(together)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                together[0].future.get_loop().call_soon_threadsafe(_settle, together, outcomes)
        for one in taken:
            one.count()


def _settle(done: list[_Waiting], outcomes: list[list[Receipt] | Exception]) -> None:
    for one, outcome in zip(done, outcomes, strict=True):
        if one.future.done():  # cancelled
            continue
        if isinstance(outcome, Exception):
            one.future.set_exception(outcome)
        else:
            one.future.set_result(outcome)
