"""Resources of a running service: opening and closing them, and the background tasks (bundle reload, erasure, counts).

Opening is all or nothing: on an error, what is already open is closed again. Independent of requests.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from fruits.errors import FruitsError, ImageDecodeError, NotFoundError, StoreError
from fruits.learning.drift import Drift
from fruits.recogniser.bundle import Bundle
from fruits.recogniser.bundle_files import folder_of
from fruits.service.http.delivery import Undelivered
from fruits.service.http.limits.rate_exchange import RateExchange
from fruits.service.http.limits.rate_limits import Limits
from fruits.service.http.uploads import Budget
from fruits.service.inference.workers import Recogniser
from fruits.service.settings import ServiceConfig
from fruits.service.statistics import Statistics
from fruits.service.submissions.database import Database, NotCleanedError
from fruits.service.submissions.group_commit import GroupCommit
from fruits.service.submissions.repository import Submissions
from fruits.service.submissions.reviewed.evaluations import Evaluation, Evaluations
from fruits.service.submissions.tokens import Tokens
from fruits.service.telemetry import Telemetry
from fruits.storage.objects import Objects, is_remote, opened
from fruits.storage.outputs.marker import kind_of, mark
from fruits.storage.outputs.runs import BUNDLE, RECORD

_FLUSH_S: Final = 5.0
_BUDGET_BYTES: Final = 48 << 20
_RECOVER_S: Final = 60.0
_PURGE_S: Final = 3600.0
#: Interval of asking the open bundle about stored photos, and photos per turn.
_EVALUATE_S: Final = 10.0
_EVALUATED_AT_ONCE: Final = 50
_IDLE_S: Final = 0.05
_PULSE_S: Final = 30.0
#: A request for an unknown bundle makes the service look for a new one at most this often.
_LOOK_AGAIN_S: Final = 1.0


class Resources:
    """All resources of one service, or of one of its processes; ``chores``: whether this one looks after what is stored.

    Attributes
    ----------
    config : ServiceConfig
    telemetry : Telemetry
    limits : Limits
        Shared by the processes of one service.
    recogniser : Recogniser
    submissions : Submissions
    evaluations : Evaluations
    statistics : Statistics
    tokens : Tokens
    group_commit : GroupCommit
    undelivered : Undelivered
    stopping : bool
        Whether new photos are refused.
    budget : Budget
        Bytes of uploads that are being read or processed.
    """

    def __init__(
        self, config: ServiceConfig, telemetry: Telemetry, limits: Limits | None = None, *, chores: bool = True
    ) -> None:
        self.config, self.telemetry = config, telemetry
        self.limits = limits or Limits()
        self._chores = chores
        self.stopping = False
        self.budget = Budget(max(_BUDGET_BYTES, 4 * config.max_bytes))
        self._tasks: list[asyncio.Task[None]] = []
        self._reloading = asyncio.Lock()
        self._seen: object = None
        self._refused = ""
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._adopt = config.adopt
        with ExitStack() as on_failure:
            self.recogniser = Recogniser(
                config.out,
                workers=config.workers,
                batch=config.batch,
                decode_s=config.decode_timeout,
                root=config.root_path,
            )
            self._seen = self._look()
            database = Database.open(config.database, connections=config.database_connections)
            on_failure.callback(database.close)
            self._database = database
            # A SQLite file belongs to one machine, whose processes share limits in memory.
            self._exchange = (
                None if database.is_sqlite else RateExchange(database, self.limits, telemetry, hears=chores)
            )
            if Path(config.data).is_dir():
                mark(Objects(config.data), "service")
            self.submissions = Submissions(
                database, Objects(config.photos), keep_days=config.keep_days, feedback_hours=config.feedback_hours
            )
            self.evaluations = Evaluations(database)
            try:
                self.submissions.recover()
            except NotCleanedError as exc:  # no reason to refuse visitors; it is tried again every minute
                telemetry.log("chore_failed", level="error", chore="recover", reason=str(exc)[:500])
            self.statistics = Statistics(database)
            self.tokens = Tokens(database)
            self.group_commit = GroupCommit(self.submissions, lambda exc: telemetry.log_bug("", exc))
            self.undelivered = Undelivered(self.submissions)
            on_failure.pop_all()

    @property
    def ready(self) -> bool:
        """Whether the service accepts photos."""
        return self.recogniser.warm and not self.stopping

    def drift(self) -> Drift:
        """Return the reference distribution of the open bundle's training photos."""
        return self.recogniser.model.bundle.drift

    def identity(self) -> str:
        """Return the identity of the open bundle."""
        return self.recogniser.model.identity

    def bundle(self) -> Bundle:
        """Return the open bundle."""
        return self.recogniser.model.bundle

    def record(self) -> dict[str, Any] | None:
        """Return the record of the run that made the open bundle; None if it is a bundle without its run."""
        root, _, name = folder_of(self.recogniser.out).rpartition("/")
        data = Objects(root).read_if_present(RECORD) if name == BUNDLE and root else None
        try:
            record = json.loads(data) if data is not None else None
        except ValueError:
            return None
        return record if isinstance(record, dict) else None

    def evaluate(self) -> int:
        """Ask the open bundle about stored photos that it has not seen; return how many.

        One photo at a time, and only while no visitor waits.
        """
        if not self.ready:
            return 0
        model = self.identity()
        pending = self.evaluations.pending(model, _EVALUATED_AT_ONCE)
        if not pending:
            self.evaluations.drop_older(model)
            return 0
        # One instance at a time; of the processes on one SQLite file only the first has chores.
        if not (self._database.is_sqlite or self._database.claim_interval("evaluate", _EVALUATE_S)):
            return 0
        done = list[Evaluation]()
        failed: StoreError | None = None
        try:
            for name in pending:
                while self.recogniser.waiting and not self.stopping:
                    time.sleep(_IDLE_S)
                if self.stopping:
                    break
                try:
                    asked, answer = self.recogniser.answer(self.submissions.photo(name))
                except (
                    NotFoundError,
                    ImageDecodeError,
                ):  # unreadable, or its file is lost; deleted ones are left out below
                    asked, answer = model, None
                except StoreError as exc:  # the others are not held up
                    failed = failed or exc
                    continue
                done.append(Evaluation(name, asked, answer))
        finally:
            self.evaluations.add(done)
        if failed is not None:
            raise failed
        return len(done)

    def hide_withdrawn(self) -> None:
        """Remove visitors' photos from answers once consent to show them is withdrawn."""
        for model in self.recogniser.models:
            if submission_ids := model.bundle.gallery.submission_ids:
                shown = self.submissions.shown(list(submission_ids.values()))
                model.hidden = frozenset(number for number, name in submission_ids.items() if name not in shown)

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Warm up and start the background tasks on the running event loop.

        Parameters
        ----------
        failed : callable
            Called with the exception if warming up fails.
        """
        self._warming = self._do(self._warm_up(failed))
        if self._exchange is not None:
            self._do(self._exchange.run())
        self._do(self._repeat(_FLUSH_S, self.statistics.flush))
        self._do(self._repeat(_FLUSH_S, self.hide_withdrawn, at_once=True))
        self._do(self._repeat(_RECOVER_S, self.undelivered.retry))
        if self._chores:
            self._do(self._repeat(_RECOVER_S, self.submissions.recover))
            self._do(self._repeat(_PURGE_S, self._purge, at_once=True))
            self._do(self._repeat(_EVALUATE_S, self.evaluate))
            if is_remote(self.config.photos) or not Path(self.config.photos).is_relative_to(self.config.data):
                self._do(self._repeat(_PURGE_S, self._mark_photos, at_once=True))
        self._do(self._repeat(_PULSE_S, self._pulse))
        if self.config.watch:
            self._do(self._watch())

    async def warmed(self) -> None:
        """Wait until the service is warmed up, or that failed."""
        await self._warming

    async def stop(self) -> None:
        """Stop the background tasks, finish pending work and write the counts to the database."""
        self.stopping = True
        tasks = [*self._tasks, *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.undelivered.finish()
        await asyncio.to_thread(self._close)

    async def reload(self) -> None:
        """Load a new bundle if there is one; keep the old one if the new one fails its check."""
        async with self._reloading:
            started = time.perf_counter()
            try:
                self._seen = await asyncio.to_thread(self._look)
                changed = await asyncio.to_thread(self.recogniser.reload)
            except Exception as exc:
                self._seen = None  # retried at the next poll: a copy may still be in progress
                if str(exc) != self._refused:
                    self._refused = str(exc)
                    self.telemetry.reloads.labels("failed").inc()
                    self.telemetry.log("reload_failed", level="error", reason=str(exc)[:500], error=type(exc).__name__)
                return
            self._refused = ""
            self.telemetry.reloads.labels("changed" if changed else "same").inc()
            self._show_model()
            self.telemetry.log(
                "reload", changed=changed, model=self.recogniser.model.identity,
                seconds=round(time.perf_counter() - started, 3),
            )  # fmt: skip

    def _close(self) -> None:
        if self.recogniser.warm:
            self.recogniser.close()
        self.group_commit.close()
        try:
            self.statistics.flush()
        except StoreError as exc:
            self.telemetry.log("counts_lost", level="error", reason=str(exc)[:500])
        if self._exchange is not None:
            self._exchange.close()
        self._database.close()

    async def _warm_up(self, failed: Callable[[BaseException], None]) -> None:
        started = time.perf_counter()
        try:
            await asyncio.to_thread(self.recogniser.start)
        except Exception as exc:
            failed(exc)
            return
        # Objects allocated so far live as long as the process; scanning them in every collection would delay requests.
        gc.collect()
        gc.freeze()
        self._show_model()
        self.telemetry.log(
            "ready", model=self.recogniser.model.identity, labels=len(self.recogniser.model.bundle.labels),
            workers=self.config.workers, seconds=round(time.perf_counter() - started, 3),
        )  # fmt: skip

    def _show_model(self) -> None:
        self.telemetry.serving(self.recogniser.model.identity)

    async def _repeat(self, seconds: float, what: Callable[[], Any], *, at_once: bool = False) -> None:
        """Call a function in a thread at a fixed interval; a failure is logged and the call repeated at the next one."""
        while True:
            if not at_once:
                await asyncio.sleep(seconds)
            at_once = False
            try:
                await asyncio.to_thread(what)
            except FruitsError as exc:
                self.telemetry.log("chore_failed", level="error", chore=what.__name__, reason=str(exc)[:500])
            except Exception as exc:
                self.telemetry.log_bug("", exc)

    def _pulse(self) -> None:
        # Autoscaling by queue length needs this value even without requests.
        self.telemetry.log("pulse", waiting=self.recogniser.waiting)

    def _purge(self) -> None:
        # One instance at a time, once an hour for all of them. A SQLite file belongs to one machine, which may have been off
        # for long, so it takes no turns.
        if not (self._database.is_sqlite or self._adopt or self._database.claim_interval("sweep", 0.9 * _PURGE_S)):
            return
        self.statistics.purge()
        adopt, self._adopt = self._adopt, False  # only once, at start-up: rows missing later are a fault
        self.submissions.purge(adopt=adopt)
        if in_quarantine := self.submissions.quarantined():
            self.telemetry.log("quarantine", level="warning", photos=in_quarantine)

    def _mark_photos(self) -> None:
        # Also mark an empty store: a catalogue of the surrounding folder must not include visitors' photos.
        photos = Objects(self.config.photos)
        if kind_of(photos) is None:
            mark(photos, "photos")

    async def look_for_a_new_bundle(self) -> None:
        """Load a new bundle now rather than at the next poll, and wait until it is open; without polls do nothing.

        Another instance may answer with a bundle that became current just after the last poll here. So a request for an unknown
        bundle waits for the next poll, which all such requests share: there is one a second at most.
        """
        if not self.config.watch:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._reload_soon())
        await asyncio.shield(self._looking)

    async def _reload_soon(self) -> None:
        await asyncio.sleep(max(0.0, self._looked + _LOOK_AGAIN_S - time.monotonic()))
        await self._reload_if_new()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.watch)
            await self._reload_if_new()

    async def _reload_if_new(self) -> None:
        self._looked = time.monotonic()
        try:
            seen = await asyncio.to_thread(self._look)
        except (FruitsError, OSError):
            return
        if seen is not None and seen != self._seen:
            await self.reload()
        else:
            async with self._reloading:  # it may be what is being loaded
                pass

    def _look(self) -> object:
        """Return a value that changes with the current run and with the bundle's manifest; None if there is no manifest."""
        root = folder_of(self.recogniser.out)
        if is_remote(root):
            manifest = opened(root).stat("manifest.json")
            return manifest and (root, manifest)
        try:
            found = (Path(root) / "manifest.json").stat()
        except OSError:
            return None
        return root, found.st_ino, found.st_size, found.st_mtime_ns

    def _do(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.get_running_loop().create_task(what))
        return self._tasks[-1]
