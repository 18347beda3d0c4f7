"""Answers written down before they are given, those of concurrent requests in one commit.

One thread takes whatever waits and hands it over as a whole: under load a commit is shared by many, without load nobody waits for
company. Counting for the owner's page happens in the same thread, off the event loop. Knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from fruits.service.submissions import NewSubmission, Receipt, Submissions

#: Submissions in one commit, at most: a long transaction would hold up whoever deletes or reviews.
_MOST: Final = 256


class Receipts:
    """The writer of one service.

    Parameters
    ----------
    submissions : Submissions
    """

    def __init__(self, submissions: Submissions) -> None:
        self._submissions = submissions
        self._waiting: deque[tuple[Sequence[NewSubmission], asyncio.Future[list[Receipt]], Callable[[], Any]]] = deque()
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
            self._waiting.append((answers, future, count))
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
                taken, size = [], 0
                while self._waiting and size < _MOST:
                    taken.append(self._waiting.popleft())
                    size += len(taken[-1][0])
            self._write(taken)

    def _write(self, taken: list[Any]) -> None:
        plain = [one for one in taken if not any(answer.photo for answer in one[0])]
        done: list[tuple[asyncio.Future[list[Receipt]], list[Receipt] | Exception]] = []
        try:
            together = [answer for answers, _, _ in plain for answer in answers]
            add_many = getattr(self._submissions, "add_many", None)
            receipts = iter(add_many(together) if add_many else [self._submissions.add(one) for one in together])
            done += [(future, [next(receipts) for _ in answers]) for answers, future, _ in plain]
        except Exception as exc:  # the database is away: each of these requests is told so
            done += [(future, exc) for _, future, _ in plain]
        _deliver(done)
        for answers, future, _ in taken:
            if any(answer.photo for answer in answers):  # a photo takes its own time, and may fail alone
                try:
                    _deliver([(future, [self._submissions.add(answer) for answer in answers])])
                except Exception as exc:
                    _deliver([(future, exc)])
        for _, _, count in taken:
            count()


def _deliver(done: list[tuple[asyncio.Future[list[Receipt]], list[Receipt] | Exception]]) -> None:
    if done:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            done[0][0].get_loop().call_soon_threadsafe(_settle, done)


def _settle(done: list[tuple[asyncio.Future[list[Receipt]], list[Receipt] | Exception]]) -> None:
    for future, outcome in done:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
