"""A discrete-event simulation of the embedding job: machines, workers and shards, and a model of requests to S3.

Workers of a machine share its cores: a shard that needs more cores than are left takes longer, in proportion. It knows shards,
not photos, so that 10^9 photos take seconds. Fed with measured times; knows neither engines nor prices.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Rows of a shard and of a chunk of a large run; see :data:`fruits.storage.embeddings.inventory.ROWS_PER_CHUNK`.
SHARD: Final = 4096
#: Shards are simulated in groups where there are more than this, and more than so many per worker.
MOST_TASKS: Final = 20_000
TASKS_PER_WORKER: Final = 50
#: Latency of a small object, and requests that a worker makes at a time; see ``photos/reading``.
_MEDIAN_S: Final = 0.03
_P99_S: Final = 0.2
_CONNECTIONS: Final = 32
#: Size of the pieces in which packs are read, bytes read ahead by a worker, and bytes per second of one connection (assumed).
_PIECE: Final = 4e6
_AHEAD: Final = 16e6
_CONNECTION: Final = 50e6
#: Attempts that a refused request makes at most; see the client's setting in ``storage/objects/buckets``.
_ATTEMPTS: Final = 10
_Z99: Final = 2.3263478740408408


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the job takes, as measured with one worker that had the machine to itself.

    Attributes
    ----------
    photos_per_s : float
        Of one worker within a long shard.
    core_s : float
        Processor seconds per photo, of the worker and its decoder. ``photos_per_s * core_s`` is the number of cores that a worker
        keeps busy: more than 1, as the decoder works beside the network.
    shard_s, shard_core_s : float
        Seconds, and processor seconds, that a shard takes beside its photos: first batch, file, receipt, next shard.
    session_s : float
        Start of the engine.
    worker_s : float
        Start of a worker, until its first photo: processor seconds of one core.
    driver_s, driver_photo_s : float
        Seconds of the driver alone, and those per photo: listing, inventory, commits.
    merge_s, merge_photo_s : float
        The same for the moments; the latter is divided among workers.
    """

    photos_per_s: float
    core_s: float
    shard_s: float = 0.0
    shard_core_s: float = 0.0
    session_s: float = 0.0
    worker_s: float = 0.0
    driver_s: float = 0.0
    driver_photo_s: float = 0.0
    merge_s: float = 0.0
    merge_photo_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """A model of GET requests to S3: log-normal latency, a limit per prefix, and retries of what was refused.

    Attributes
    ----------
    per_photo : float
        1 for single objects, less for photos in packs.
    median_s, p99_s : float
        Latency of a whole request of one photo.
    prefixes : int
        Prefixes among which the photos are spread.
    per_s : float
        Requests per second and prefix; above that S3 answers 503 "Slow Down".
    connections : int
        Requests of one worker at a time.
    backoff_s : float
        Mean wait before a refused request is made again.

    References
    ----------
    "Best practices design patterns: optimizing Amazon S3 performance": 5,500 GET per second and prefix; 100 to 200 ms for
    small objects, of which most of the distribution is below.
    """

    per_photo: float = 1.0
    median_s: float = _MEDIAN_S
    p99_s: float = _P99_S
    prefixes: int = 1
    per_s: float = 5500.0
    connections: int = _CONNECTIONS
    backoff_s: float = 0.2

    @classmethod
    def of(cls, photo_bytes: float, *, packed: bool = False, prefixes: int = 1) -> Requests:
        """Return the model for photos of a mean size, as single objects or in packs; the transfer adds to the latency."""
        size = _PIECE if packed else photo_bytes
        transfer = size / _CONNECTION
        at_once = int(max(1, min(_CONNECTIONS, _AHEAD / max(size, 1.0))))
        return cls(
            per_photo=min(1.0, photo_bytes / _PIECE) if packed else 1.0,
            median_s=_MEDIAN_S + transfer,
            p99_s=_P99_S + 3 * transfer,
            prefixes=prefixes,
            connections=at_once,
        )

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm of the latency."""
        return math.log(self.p99_s / self.median_s) / _Z99

    @property
    def mean_s(self) -> float:
        """Mean latency."""
        return self.median_s * math.exp(self.sigma**2 / 2)

    @property
    def limit(self) -> float:
        """Requests per second that are answered."""
        return self.per_s * self.prefixes

    def means(self, requests: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the mean latency of ``requests`` requests, ``n`` times.

        Up to 64 requests are drawn one by one; the mean of more is normal, by the central limit theorem.
        """
        count = max(1, round(requests))
        if count <= 64:
            draws = rng.lognormal(math.log(self.median_s), self.sigma, (n, count))
            return np.asarray(draws.mean(axis=1))
        deviation = self.mean_s * math.sqrt((math.exp(self.sigma**2) - 1) / count)
        return np.asarray(np.maximum(rng.normal(self.mean_s, deviation, n), self.median_s))

    def retries(self, readers: int, wanted: float) -> float:
        """Return how often a request is made again, if ``readers`` workers want ``wanted`` requests per second together.

        Below the limit never. Above it, connections that wait their turn make requests that are refused: so many that the rate
        of answers is the limit, and at most as many as a client makes.
        """
        if wanted <= self.limit or not self.limit:
            return 0.0
        spare = readers * self.connections / self.limit - self.mean_s
        return min(_ATTEMPTS - 1.0, max(0.0, spare) / (self.median_s + self.backoff_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the job runs.

    Attributes
    ----------
    machines, workers : int
        Machines, and workers of each.
    cores : float
        Of each machine.
    speed : float
        Of a core, relative to the measured one.
    """

    machines: int = 1
    workers: int
    cores: float
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated job took, in seconds.

    Attributes
    ----------
    session_s, start_s, working_s, merge_s, driver_s : float
        Start of the engine; from there until the first worker reads photos; from there until the last shard is done; moments;
        the driver alone.
    busy : float
        Share of the cores that was in use while working.
    requests : float
        GET requests, with those made again.
    limit : str
        What limited the work: ``processor``, ``requests`` or ``driver``.
    """

    session_s: float
    start_s: float
    working_s: float
    merge_s: float
    driver_s: float
    busy: float
    requests: float
    limit: str

    @property
    def total_s(self) -> float:
        """Seconds from the first to the last."""
        return self.session_s + self.start_s + self.working_s + self.merge_s + self.driver_s


@dataclass(slots=True)
class _Machine:
    """A machine: its tasks by the virtual time at which they end.

    Virtual time runs at the share of its demand that every task gets, the same for all, so that a task that begins or ends
    changes one number and not the time left of every other.
    """

    cores: float
    now: float = 0.0
    virtual: float = 0.0
    demand: float = 0.0
    version: int = 0
    used: float = 0.0
    tasks: list[tuple[float, int, float, float]] = field(default_factory=list)

    def to(self, time: float) -> None:
        """Let time pass."""
        if self.demand > 0:
            share = min(1.0, self.cores / self.demand)
            self.virtual += (time - self.now) * share
            self.used += (time - self.now) * min(self.cores, self.demand)
        self.now = time

    def begin(self, worker: int, alone_s: float, demand: float, photos: float) -> None:
        """Start a task that takes ``alone_s`` if ``demand`` cores are free."""
        heapq.heappush(self.tasks, (self.virtual + alone_s, worker, demand, photos))
        self.demand += demand

    def end(self) -> tuple[int, float]:
        """End the task that is due; return its worker and photos."""
        _, worker, demand, photos = heapq.heappop(self.tasks)
        self.demand = self.demand - demand if self.tasks else 0.0
        return worker, photos

    def due(self) -> float:
        """Return when the next task ends if nothing else happens."""
        share = min(1.0, self.cores / self.demand) if self.demand > 0 else 1.0
        return self.now + max(0.0, self.tasks[0][0] - self.virtual) / share


def simulate(
    work: Work, cluster: Cluster, shards: NDArray[np.int64], *, requests: Requests | None = None, seed: int = 0
) -> Simulated:
    """Run the job once.

    Parameters
    ----------
    work : Work
    cluster : Cluster
    shards : int array, shape (s,)
        Photos of each shard, in the order in which they are given out; at least one.
    requests : Requests, optional
        By default photos are on a disk, whose time is in ``work``.
    seed : int
        Of the latencies.

    Notes
    -----
    O(s log w) for w workers. The limit of S3 is shared by the workers that read when a shard begins; a shard that begins earlier
    keeps its rate until it ends.
    """
    rng, speed = np.random.default_rng(seed), cluster.speed
    photos = float(shards.sum())
    n_workers = cluster.machines * cluster.workers
    latency = (
        requests.means(requests.per_photo * float(shards.mean()), len(shards), rng) if requests is not None else None
    )
    machines = [_Machine(cluster.cores) for _ in range(cluster.machines)]
    events: list[tuple[float, int, int]] = []
    todo, reading, made, throttled = 0, 0, 0.0, 0
    began, done = math.inf, 0.0

    def schedule(at: int) -> None:
        machine = machines[at]
        machine.version += 1
        if machine.tasks:
            heapq.heappush(events, (machine.due(), at, machine.version))

    for at, machine in enumerate(machines):
        for worker in range(cluster.workers):
            if at + worker * cluster.machines < len(shards):  # more workers than shards are not started
                machine.begin(worker, max(work.worker_s, 1e-9) / speed, 1.0, -1.0)
        schedule(at)
    while events:
        time, at, version = heapq.heappop(events)
        machine = machines[at]
        if version != machine.version:
            continue
        machine.to(time)
        worker, ended = machine.end()
        if ended < 0:
            began = min(began, time)
        else:
            done = max(done, time)
            reading -= 1
        if todo < len(shards):
            size = float(shards[todo])
            rate = work.photos_per_s * speed
            reading += 1
            if requests is not None and latency is not None:
                rate = min(rate, requests.connections / latency[todo] / requests.per_photo)
                wanted = reading * rate * requests.per_photo
                again = requests.retries(reading, wanted)
                if wanted > requests.limit:
                    rate *= requests.limit / wanted
                    throttled += 1
                made += size * requests.per_photo * (1 + again)
            alone = size / rate + work.shard_s / speed
            core_s = (size * work.core_s + work.shard_core_s) / speed
            machine.begin(worker, alone, core_s / alone, size)
            todo += 1
        schedule(at)
    used = sum(machine.used for machine in machines)
    working = done - began
    parallel = min(n_workers, max(1, math.ceil(photos / SHARD)))
    driver = (work.driver_s + work.driver_photo_s * photos) / speed
    merge = (work.merge_s + work.merge_photo_s * photos / parallel) / speed
    limit = "requests" if throttled > len(shards) / 2 else "processor"
    return Simulated(
        session_s=work.session_s / speed,
        start_s=began,
        working_s=working,
        merge_s=merge,
        driver_s=driver,
        busy=min(1.0, used / (cluster.machines * cluster.cores * done)) if done else 0.0,
        requests=made,
        limit="driver" if driver > working else limit,
    )


def shards_of(photos: int, workers: int, shard: int = SHARD) -> NDArray[np.int64]:
    """Return the shards of a large run: groups of whole shards where there are more than :data:`MOST_TASKS`.

    A worker has at least :data:`TASKS_PER_WORKER` groups, so that the time in which the last ones end is right to 2 %.
    """
    n = math.ceil(photos / shard)
    group = max(1, n // max(MOST_TASKS, TASKS_PER_WORKER * workers))
    tasks = math.ceil(n / group)
    sizes = np.full(tasks, shard * group, np.int64)
    sizes[-1] = photos - shard * group * (tasks - 1)
    return sizes
