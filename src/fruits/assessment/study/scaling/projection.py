"""Hours and money of a large job on machines that can be rented: every offer at every size, the cheapest plan named.

A plan is an offer and a number of its machines. All plans are estimated; those that no other one beats in hours and money are
simulated. Prices are given by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fruits.assessment.study.frontier import frontier, mark_frontier
from fruits.assessment.study.scaling.simulation import SHARD, Cluster, Requests, Simulated, Work, shards_of, simulate

#: Numbers of machines that are tried: about three per doubling.
_SIZES: Final = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024,
)  # fmt: skip
#: Plans that are simulated for a number of photos, at most.
_SIMULATED: Final = 12
#: Memory that the driver needs per photo: docs/growth.md, 29 bytes, and 50 while Spark fits the head.
DRIVER_BYTES: Final = 80
#: Keys of an answer to LIST.
_KEYS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A kind of machine that can be rented, and what comes with it.

    Attributes
    ----------
    name : str
        As its provider calls it.
    kind : {"up", "out"}
        One machine with the local engine, or a cluster with Spark.
    cores : int
        Of a machine; it runs a worker on each.
    usd_hour : float
        Of a machine.
    beside_usd_hour : float
        Of what a cluster has beside its machines, such as the driver.
    start_s, idle_s : float
        From the order to the first work, and from the last work to the end of the bill.
    most : int
        Machines, at most.
    """

    name: str
    kind: str
    cores: int
    usd_hour: float
    beside_usd_hour: float = 0.0
    start_s: float = 0.0
    idle_s: float = 0.0
    most: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionOptions:
    """What is projected.

    Attributes
    ----------
    photos : tuple of int
        Numbers of photos.
    deadline_h, budget_usd : float, optional
    packed : bool
        Whether the photos are in packs, not single objects.
    prefixes : int
        Prefixes of the bucket among which they are spread.
    get_usd, put_usd : float
        Price of a GET, and of a PUT or LIST.
    speed : float
        Of a rented core, relative to the measured one.
    """

    photos: tuple[int, ...] = (1_000_000, 1_000_000_000)
    deadline_h: float | None = None
    budget_usd: float | None = None
    packed: bool = False
    prefixes: int = 1
    get_usd: float = 0.0
    put_usd: float = 0.0
    speed: float = 1.0


def project(
    works: Mapping[str, Work], offers: Sequence[Offer], options: ProjectionOptions, requests: Requests
) -> list[dict[str, Any]]:
    """Return, for each number of photos, the simulated plans and the best of them.

    Parameters
    ----------
    works : mapping
        Kind to what the job takes, measured with that kind.
    offers : sequence of Offer
        Those of a kind that was not measured are left out.
    options : ProjectionOptions
    requests : Requests
        Model of the bucket.

    Returns
    -------
    list of dict
        ``photos``, ``plans`` (sorted by hours), ``cheapest``, ``fastest``, ``in_time`` and ``in_budget`` (positions in ``plans``,
        None if there is none or nothing was asked), ``driver_gb`` (memory of the driver, without what does not grow).
    """
    usable = [offer for offer in offers if offer.kind in works]
    return [_projected(photos, works, usable, options, requests) for photos in options.photos]


def _projected(
    photos: int, works: Mapping[str, Work], offers: Sequence[Offer], options: ProjectionOptions, requests: Requests
) -> dict[str, Any]:
    tries = [(offer, n) for offer in offers for n in _SIZES if n <= offer.most]

    def plan(offer: Offer, n: int, how: Callable[..., Simulated]) -> dict[str, Any]:
        took = how(works[offer.kind], offer, n, photos, options.speed, requests)
        return _plan(offer, n, photos, took, options, requests)

    guessed = [plan(offer, n, _estimated) for offer, n in tries]
    on = frontier([one["hours"] for one in guessed], [-one["usd"] for one in guessed])
    picked = _thinned(sorted((at for at, good in enumerate(on) if good), key=lambda at: guessed[at]["hours"]))
    # The cheapest of every offer as well, so that offers can be compared.
    for offer in offers:
        own = [at for at, (one, _) in enumerate(tries) if one is offer]
        picked.append(min(own, key=lambda at: guessed[at]["usd"]))
    plans = [plan(*tries[at], _simulated) for at in sorted(set(picked))]
    plans.sort(key=lambda one: (one["hours"], one["usd"]))
    mark_frontier(plans, [one["hours"] for one in plans], [-one["usd"] for one in plans])
    places = range(len(plans))
    in_time = [at for at in places if options.deadline_h is not None and plans[at]["hours"] <= options.deadline_h]
    in_budget = [at for at in places if options.budget_usd is not None and plans[at]["usd"] <= options.budget_usd]
    return {
        "photos": photos,
        "plans": plans,
        "cheapest": min(places, key=lambda at: plans[at]["usd"]),
        "fastest": min(places, key=lambda at: plans[at]["hours"]),
        "in_time": min(in_time, key=lambda at: plans[at]["usd"], default=None),
        "in_budget": min(in_budget, key=lambda at: plans[at]["hours"], default=None),
        "driver_gb": photos * DRIVER_BYTES / 1e9,
    }


def _thinned(places: Sequence[int]) -> list[int]:
    """Return at most :data:`_SIMULATED` of the plans, spread evenly, with both ends."""
    if len(places) <= _SIMULATED:
        return list(places)
    step = (len(places) - 1) / (_SIMULATED - 1)
    return [places[round(number * step)] for number in range(_SIMULATED)]


def _estimated(work: Work, offer: Offer, machines: int, photos: int, speed: float, requests: Requests) -> Simulated:
    """Return the times as if all cores were busy from the first to the last moment."""
    rate = machines * offer.cores * speed / max(work.core_s, 1 / work.photos_per_s)
    rate = min(rate, requests.limit / requests.per_photo)
    parallel = min(machines * offer.cores, max(1, photos // SHARD))
    return Simulated(
        session_s=0.0,
        start_s=work.worker_s,
        working_s=photos / rate,
        merge_s=work.merge_s + work.merge_photo_s * photos / parallel,
        driver_s=(work.driver_s + work.driver_photo_s * photos) / speed,
        busy=1.0,
        requests=photos * requests.per_photo,
        limit="processor",
    )


def _simulated(work: Work, offer: Offer, machines: int, photos: int, speed: float, requests: Requests) -> Simulated:
    # The provider's start replaces that of the engine on this machine.
    own = replace(work, session_s=0.0)
    cluster = Cluster(machines=machines, workers=offer.cores, cores=offer.cores, speed=speed)
    return simulate(own, cluster, shards_of(photos, machines * offer.cores), requests=requests)


def _plan(
    offer: Offer, machines: int, photos: int, took: Simulated, options: ProjectionOptions, requests: Requests
) -> dict[str, Any]:
    seconds = offer.start_s + took.total_s
    billed = (seconds + offer.idle_s) / 3600
    rented = billed * (machines * offer.usd_hour + offer.beside_usd_hour)
    lists = math.ceil(photos * min(1.0, requests.per_photo) / _KEYS)
    asking = took.requests * options.get_usd + (lists + 2 * math.ceil(photos / SHARD)) * options.put_usd
    return {
        "offer": offer.name,
        "kind": offer.kind,
        "machines": machines,
        "cores": machines * offer.cores,
        "hours": seconds / 3600,
        "usd": rented + asking,
        "requests_usd": asking,
        "busy": took.busy,
        "limit": took.limit,
        "driver_hours": took.driver_s / 3600,
    }
