"""Inference workers: queue, decoders, warm-up, and bundle reload without downtime.

A worker is a thread with a decoder of its own (a child process that a bad photo may crash). It takes waiting photos, decodes and
recognises them. Photos of different requests share a batch; an answer does not depend on the other photos of the batch. The
network is opened once for all workers. Independent of HTTP and of storage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import BundleError, FruitsError, ImageDecodeError
from fruits.photos.decoding.decoder import Decoder, Limits
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import Answer
from fruits.recogniser.regions import (
    Box,
    Region,
    find_regions,
    part_of,
    picture_of,
    short_side,
)
from fruits.service.inference.model import Model, made_photo
from fruits.service.settings import ServiceConfig

#: Longer side in pixels and JPEG quality of a stored photo.
KEPT_SIDE: Final = 1024
KEPT_QUALITY: Final = 88
#: Number of bundles, the newest included, whose thumbnails and networks are served.
_MODELS_KEPT: Final = 2
#: Wall-clock timeout of a decoder: a minimum in seconds, and a multiple of its limit on processor time. It includes the decoder's
#: start, which is many times slower on a busy machine than on an idle one.
_WALL_S: Final = 30.0
_WALL_FACTOR: Final = 4.0
_MEMORY_MIB: Final = 2048
#: Weight of the newest batch in the moving average of the time per photo.
_NEWEST: Final = 0.1
#: Seconds of work in a batch below which it is not divided among idle workers: a batch costs a good millisecond at any size,
#: so many small ones of a fast network take more of the cores than they save.
_WORTH_DIVIDING_S: Final = 0.006
#: Initial estimate of the seconds per light and per heavy photo; soon replaced by measurements.
_FIRST_GUESS_S: Final = (0.01, 0.5)
#: One measurement may raise the estimate by this factor at most: a single outlier says little about the next photos.
_MOST_RAISE: Final = 4.0


@dataclass(frozen=True, slots=True)
class Recognised:
    """A recognised photo.

    Attributes
    ----------
    model : Model
        The model that gave the answer.
    answer, similar, bins, places
        As in :class:`fruits.service.inference.model.ModelAnswer`.
    kept : bytes or None
        The photo re-encoded as JPEG, if requested.
    queue_s, decode_s, infer_s : float
        Seconds in the queue, and seconds of decoding and inference of its batch.
    batch_size : int
        Photos in its batch.
    regions : list of Region or None
        The regions of the photo, if asked for and the network and the head tell where an answer comes from.
    """

    model: Model
    answer: Answer
    similar: list[tuple[int, float]]
    bins: NDArray[np.int64]
    places: NDArray[np.float32] | None
    kept: bytes | None
    queue_s: float
    decode_s: float
    infer_s: float
    batch_size: int = 1
    regions: list[Region] | None = None


class UnreadableError(ImageDecodeError):
    """A photo that could not be opened, with the time spent on it.

    Attributes
    ----------
    decode_s : float
        Its share of the batch's decoding time, in seconds.
    """

    def __init__(self, code: str, message: str, decode_s: float) -> None:
        super().__init__(code, message)
        self.decode_s = decode_s


@dataclass(slots=True, eq=False)
class _Job:
    data: bytes
    keep: bool
    heavy: bool
    future: Future[Recognised] | asyncio.Future[Recognised]
    loop: asyncio.AbstractEventLoop | None
    explain: bool = False
    regions: bool = False
    box: Box | None = None
    since: float = field(default_factory=time.perf_counter)


class Recogniser:
    """Pool of inference workers around one open bundle.

    Parameters
    ----------
    out : str
        Results of a run, or a bundle.
    workers : int
    batch : int
        Maximum number of photos per batch.
    decode_s : float
        Seconds of processor time to decode a photo.

    Attributes
    ----------
    out : str

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    """

    def __init__(self, out: str, *, workers: int, batch: int = 8, decode_s: float = 5.0, root: str = "") -> None:
        self.out, self._batch = out, batch
        self._limits = Limits(cpu_s=decode_s, wall_s=max(_WALL_S, _WALL_FACTOR * decode_s), memory_mib=_MEMORY_MIB)
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._root = root
        self._install(Model(bundles.load(out), root))
        self._light: deque[_Job] = deque()
        self._heavy: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._photo_s = list(_FIRST_GUESS_S)
        self._work_s = _FIRST_GUESS_S[0]
        self._at_work = self._to_wake = 0
        self._since = [0.0] * workers
        self._workers = [
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True)
            for number in range(workers)
        ]
        # At most half of the workers decode heavy photos, so that these never block all others.
        self._heavy_workers, self._heavy_at_work = max(1, workers // 2), 0
        self.warm = False

    @property
    def model(self) -> Model:
        """The newest model."""
        return self._model

    @property
    def models(self) -> list[Model]:
        """The models whose thumbnails are served, the newest last."""
        return list(self._models.values())

    def model_of(self, identity: str) -> Model | None:
        """Return a model that is still served."""
        return self._models.get(identity)

    @property
    def waiting(self) -> int:
        """Number of photos queued or being processed."""
        return len(self._light) + len(self._heavy) + self._at_work

    def wait_s(self, *, heavy: bool = False) -> float:
        """Estimate how long a new photo would wait in the queue, from recent times per photo."""
        since = self._since
        # If all workers are busy, assume that the most recent batch takes as long again as it already has.
        stuck_s = time.perf_counter() - max(since) if all(since) else 0.0
        light_s = len(self._light) * self._photo_s[0] / len(self._workers)
        heavy_s = (len(self._heavy) + self._heavy_at_work) * self._photo_s[1] / self._heavy_workers if heavy else 0.0
        return max(light_s + heavy_s, stuck_s)

    def start(self) -> None:
        """Start the workers and warm each one up with a synthetic photo, so that the first request is not slow."""
        photo = made_photo()
        for worker in self._workers:
            worker.start()
        for future in [self._ask(photo) for _ in self._workers]:
            try:
                seen: Answer | ImageDecodeError = future.result().answer
            except UnreadableError as exc:
                seen = exc
            self._model.check(seen)
        self.warm = True

    def submit(
        self,
        photo: bytes,
        *,
        keep: bool = False,
        heavy: bool = False,
        explain: bool = False,
        regions: bool = False,
        box: Box | None = None,
    ) -> asyncio.Future[Recognised]:
        """Queue a photo from an event loop; the future resolves to a ``Recognised``, or to ``UnreadableError``.

        Parameters
        ----------
        photo : bytes
        keep : bool
            Whether to re-encode it as JPEG as well.
        heavy : bool
            Whether decoding takes long: heavy photos are decoded alone, and never on all workers at once.
        explain : bool
            Whether to return the contributions of positions.
        regions : bool
            Whether to return the regions of the photo as well; expected with ``heavy``.
        box : Box, optional
            The part of the photo to recognise; all of it by default. Expected with ``heavy``.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Recognised] = loop.create_future()
        self._put(_Job(photo, keep, heavy, future, loop, explain, regions, box))
        if not self._to_wake:  # once for all photos of this turn of the loop, which then share a batch
            loop.call_soon(self._wake)
        self._to_wake += 1
        return future

    def answer(self, photo: bytes) -> tuple[str, Answer]:
        """Return the identity of the model and its answer to a stored photo; waits, from a thread without an event loop.

        Raises
        ------
        ImageDecodeError
            If the photo cannot be read.
        FruitsError
            If the service is stopping.
        """
        found = self._ask(photo).result()
        return found.model.identity, found.answer

    def reload(self) -> bool:
        """Reload the bundle; return whether it changed. If the new bundle fails its check, the old one stays.

        Raises
        ------
        BundleError, StoreError
            If the new bundle cannot be used.
        """
        new = Model(self._load_patiently(), self._root)
        if new.identity == self._model.identity:
            return False
        size = new.bundle.preprocessing.size
        with Decoder(self._limits) as decoder:
            photo = decoder.to_network_input(made_photo(), new.bundle.preprocessing)
        (seen,) = new.recognise(photo.pixels.reshape(1, size, size, 3), np.array([min(photo.width, photo.height)]))
        new.check(seen if isinstance(seen, ImageDecodeError) else seen.answer)
        old = self._model
        self._install(new)
        old.bundle.release()  # it is served from memory
        return True

    def close(self) -> None:
        """Process the queued photos, then stop the workers and their decoders."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join()

    def _load_patiently(self) -> bundles.Bundle:
        """Load the bundle with retries: one that is copied by hand is incomplete or absent for a while."""
        for _ in range(3):
            with suppress(BundleError):
                return bundles.load(self.out)
            time.sleep(0.2)
        return bundles.load(self.out)

    def _install(self, model: Model) -> None:
        self._model = model
        models = OrderedDict(self._models)
        models[model.identity] = model
        models.move_to_end(model.identity)
        while len(models) > _MODELS_KEPT:
            models.popitem(last=False)
        self._models = models  # replaced in one assignment: other threads read it

    def _ask(self, photo: bytes) -> Future[Recognised]:
        """Queue a photo from any thread."""
        future: Future[Recognised] = Future()
        self._put(_Job(photo, False, False, future, None))
        with self._ready:
            self._ready.notify()
        return future

    def _put(self, job: _Job) -> None:
        with self._ready:
            if self._closed:
                raise FruitsError("the service is stopping")
            (self._heavy if job.heavy else self._light).append(job)

    def _wake(self) -> None:
        """Wake as many workers as photos came in this turn of the event loop; those at work find theirs by themselves."""
        with self._ready:
            self._ready.notify(self._to_wake)
        self._to_wake = 0

    def _take(self) -> list[_Job]:
        """Wait for photos; return the next batch of a worker, empty on shutdown."""
        with self._ready:
            while True:
                may_heavy = self._heavy and self._heavy_at_work < self._heavy_workers
                # First come, first served, within the limit on heavy photos.
                if may_heavy and (not self._light or self._heavy[0].since < self._light[0].since):
                    self._heavy_at_work += 1
                    self._at_work += 1
                    return [self._heavy.popleft()]
                if self._light:
                    jobs = [self._light.popleft() for _ in range(self._next_batch())]
                    self._at_work += len(jobs)
                    return jobs
                if self._closed and not self._heavy:
                    return []
                self._ready.wait()

    def _next_batch(self) -> int:
        return share(len(self._light), workers=len(self._workers), batch=self._batch, work_s=self._work_s)

    def _work(self, number: int) -> None:
        with Decoder(self._limits) as decoder:
            while jobs := self._take():
                started = self._since[number] = time.perf_counter()
                try:
                    outcomes = self._do(decoder, jobs, started)
                except Exception as exc:  # these photos get the error as their outcome, and the worker continues
                    outcomes = [exc] * len(jobs)
                self._since[number] = 0.0
                self._done(jobs, (time.perf_counter() - started) / len(jobs))
                _deliver(jobs, outcomes)

    def _done(self, jobs: list[_Job], each_s: float) -> None:
        heavy = jobs[0].heavy
        with self._ready:
            self._at_work -= len(jobs)
            if heavy:
                self._heavy_at_work -= 1
                self._ready.notify_all()  # a waiting worker may take the next heavy photo or, on shutdown, end
            before = self._photo_s[heavy]
            self._photo_s[heavy] = before + _NEWEST * (min(each_s, _MOST_RAISE * before) - before)

    def _do(self, decoder: Decoder, jobs: list[_Job], started: float) -> list[Recognised | Exception]:
        model = self._model
        if jobs[0].regions or jobs[0].box is not None:  # heavy, so alone
            return [_in_parts(model, decoder, jobs[0], started)]
        preprocessing = model.bundle.preprocessing
        size = preprocessing.size
        with decoder.begin([job.data for job in jobs], preprocessing) as decoding:
            sizes = decoding.outcomes()
            decoded, inferring = time.perf_counter(), time.thread_time()
            good = [row for row, one in enumerate(sizes) if not isinstance(one, ImageDecodeError)]
            each_s = (decoded - started) / len(jobs)
            outcomes: list[Any] = [
                UnreadableError(one.code, str(one), self._limits.cpu_s if one.code == "timeout" else each_s)
                if isinstance(one, ImageDecodeError)
                else one
                for one in sizes
            ]
            sides = np.array([min(outcomes[row]) for row in good], np.int64)
            explained = [jobs[row].explain for row in good]
            recognised = model.recognise(decoding.pixels(size), sides, explained=explained) if good else []
        inferred = time.perf_counter()
        if not jobs[0].heavy:
            # The least of late: waiting for a core takes time too, but is no reason to divide more.
            work_s = each_s + (time.thread_time() - inferring) / len(jobs)
            self._work_s = min(work_s, (1 + _NEWEST) * self._work_s)
        for row, one in zip(good, recognised, strict=True):
            if isinstance(one, ImageDecodeError):
                outcomes[row] = UnreadableError(one.code, str(one), each_s)
                continue
            kept: bytes | None = None
            if jobs[row].keep:
                try:
                    kept = decoder.to_thumbnail(jobs[row].data, KEPT_SIDE, KEPT_QUALITY)
                except ImageDecodeError as exc:
                    outcomes[row] = exc
                    continue
            outcomes[row] = Recognised(
                model, *one, kept, started - jobs[row].since, decoded - started, inferred - decoded, len(jobs)
            )
        return outcomes


def _in_parts(model: Model, decoder: Decoder, job: _Job, started: float) -> Recognised | Exception:
    """Recognise a part of a photo; or all of it, and find its regions."""
    preprocessing = model.bundle.preprocessing
    try:
        picture, size = picture_of(decoder, job.data, preprocessing)
        if job.box is None:
            pixels, side = decoder.to_network_input(job.data, preprocessing).pixels, min(size)
        else:
            pixels, side = part_of(picture, job.box, preprocessing), short_side(job.box, size)
        decoded = time.perf_counter()
        (seen,) = model.recognise(pixels[None], np.array([side], np.int64), explained=[job.explain])
        if isinstance(seen, ImageDecodeError):
            raise seen
        regions = find_regions(model.bundle, model.embedder, picture, size) if job.regions and model.explains else None
        inferred = time.perf_counter()
        kept = decoder.to_thumbnail(job.data, KEPT_SIDE, KEPT_QUALITY) if job.keep else None
    except ImageDecodeError as exc:
        return UnreadableError(exc.code, str(exc), time.perf_counter() - started)
    return Recognised(model, *seen, kept, started - job.since, decoded - started, inferred - decoded, regions=regions)


def share(waiting: int, *, workers: int, batch: int, work_s: float) -> int:
    """Return how many of the waiting photos make the next batch, at ``work_s`` seconds of work each.

    An equal share, so that no worker is idle while another has a long batch; all of them if they take no time anyway.
    """
    equal = -(-waiting // workers)
    return min(waiting, batch, max(equal, int(_WORTH_DIVIDING_S / work_s)))


def _deliver(jobs: list[_Job], outcomes: Sequence[Recognised | Exception]) -> None:
    """Set the result of every photo's future; one call per event loop, which wakes it once."""
    loops: dict[asyncio.AbstractEventLoop | None, list[tuple[_Job, Recognised | Exception]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        loops.setdefault(job.loop, []).append((job, outcome))
    for loop, done in loops.items():
        if loop is None:
            _settle(done)
        else:
            with suppress(RuntimeError):  # the loop is closed: no request waits any more
                loop.call_soon_threadsafe(_settle, done)


def _settle(done: list[tuple[_Job, Recognised | Exception]]) -> None:
    for job, outcome in done:
        if job.future.done():  # cancelled
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)


def check(config: ServiceConfig) -> dict[str, Any]:
    """Open a bundle as the service does, recognise a synthetic photo and return the result with timings.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    """
    started = time.perf_counter()
    recogniser = Recogniser(config.out, workers=1, decode_s=config.decode_timeout)
    opened = time.perf_counter()
    recogniser.start()
    warm = time.perf_counter()
    try:
        answer = recogniser._ask(made_photo()).result().answer
    finally:
        recogniser.close()
    return {
        "model": recogniser.model.identity,
        "labels": len(recogniser.model.bundle.labels),
        "outcome": answer.outcome,
        "kinds": [{"kind": kind, "probability": probability} for kind, _, probability in answer.kinds],
        "ood_score": answer.ood_score,
        "seconds": {"open": opened - started, "warm": warm - started},
        "milliseconds": 1000 * (time.perf_counter() - warm),
    }
