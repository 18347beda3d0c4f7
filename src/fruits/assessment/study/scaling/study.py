"""``fruits study scaling``: a bigger machine against more machines, measured on the same photos and projected to larger ones.

Upscaling is 1 to N worker processes of the local engine, outscaling 1 to M Spark executors of one core (``local-cluster``). Runs
of both kinds alternate. The projection is simulated; the simulation is fed with runs of one worker and checked against all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Final

import numpy as np

from fruits.assessment.study.machine import machine
from fruits.assessment.study.record import begun, text_of, write
from fruits.assessment.study.scaling import scalability
from fruits.assessment.study.scaling.projection import Offer, ProjectionOptions, project
from fruits.assessment.study.scaling.simulation import Cluster, Requests, Simulated, Work, simulate
from fruits.assessment.study.scaling.trials import STAGES, Trial, medians, run_trial
from fruits.assessment.study.speed import measured_speed
from fruits.config import RunConfig
from fruits.engines.spark.session import check_requirements
from fruits.errors import CatalogueError, ConfigError, EngineError, counted, option
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.monitoring.cores import usable_cores
from fruits.photos.catalogue.catalogue import Catalogue
from fruits.report import render_scaling_study
from fruits.storage.objects import Objects
from fruits.storage.outputs.marker import claim
from fruits.training.embed import Network, catalogued, prepare

KINDS: Final = ("up", "out")
#: Runs of one worker and of the most are made on this share of the photos, too, to tell fixed costs from those per photo; not if
#: there are too few photos for that.
SHARE: Final = 0.25
#: Fewest photos, also of the smaller runs: four shards, so that later ones can be told from the first.
FEWEST: Final = 256
#: The simulation is expected to be this close to what was measured.
GOAL: Final = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How a scaling study measures, and what it projects.

    Attributes
    ----------
    up, out : tuple of int
        Numbers of workers; empty ``out`` leaves Spark out. One worker is always measured.
    repeats : int
        Runs of each; their median counts.
    projection : ProjectionOptions
    """

    up: tuple[int, ...] = ()
    out: tuple[int, ...] = ()
    repeats: int = 3
    projection: ProjectionOptions = field(default_factory=ProjectionOptions)

    def __post_init__(self) -> None:
        for name in KINDS:
            given = getattr(self, name)
            if any(workers < 1 for workers in given):
                raise ConfigError(f"{option(f'{name}_workers', given)}: expected numbers of 1 or more")
            object.__setattr__(self, name, tuple(sorted({1, *given})) if given else ())
        if not self.up:
            object.__setattr__(self, "up", (1,))
        if self.repeats < 1:
            raise ConfigError(f"{option('repeats', self.repeats)}: expected 1 or more")


def worker_counts(most: int) -> tuple[int, ...]:
    """Return numbers of workers up to ``most``: all up to 4, then about two per doubling."""
    some = {1, 2, 3, 4, *(round(2 ** (half / 2)) for half in range(5, 20)), most}
    return tuple(sorted(n for n in some if n <= most))


def study_scaling(
    config: RunConfig,
    offers: Sequence[Offer],
    prices_of: str,
    *,
    options: StudyOptions | None = None,
    progress: Progress | None = None,
    command: str = "fruits study scaling",
) -> dict[str, Any]:
    """Measure upscaling and outscaling; write ``study/scaling.json`` and ``study/scaling.html`` into the output.

    Parameters
    ----------
    config : RunConfig
        Photos, network and output; runs are made in temporary outputs.
    offers : sequence of Offer
        Machines of the projection, with their prices.
    prices_of : str
        Region and date of the prices.
    options : StudyOptions, optional
    progress : Progress, optional
    command : str
        The user's command line, for the record.

    Returns
    -------
    dict
        Content of ``study/scaling.json``; docs/studies.md explains it.

    Raises
    ------
    CatalogueError
        If there are fewer than :data:`FEWEST` photos.
    EngineError
        If Spark is asked for and cannot run.
    """
    progress, clock = progress or Silent(), Clock()
    options = options or StudyOptions(up=worker_counts(usable_cores()), out=worker_counts(usable_cores()))
    about = begun("scaling", command)
    if options.out:
        try:
            check_requirements("local-cluster")
        except EngineError as exc:
            raise EngineError(f"{exc}; or leave Spark out: {option('out_workers', 0)}") from exc
    network = Network.of(config, progress)
    progress.start("catalogue", None)
    catalogue = catalogued(config, progress)
    listing = _listing(config)
    n = catalogue.num_rows
    if n < FEWEST:
        raise CatalogueError(
            f"{counted(n, 'photo')}; expected {FEWEST} or more, so that workers have several shards each"
        )
    out = Objects(config.out)
    claim(out, "results")
    progress.start("speed of one worker", None)
    prepared = prepare(config, network, catalogue, out)
    speed = measured_speed(catalogue, prepared, repeats=max(3, options.repeats), photos=512)
    found = _measured(config, network, catalogue, options, progress)
    rows = [medians(trials) for trials in found.values()]
    cores = usable_cores()
    works = {kind: work_of(found, kind, n, speed) for kind in KINDS if getattr(options, kind)}
    for row, trials in zip(rows, found.values(), strict=True):
        row["simulated"] = _checked(row, trials, works[row["kind"]], cores)
    curves = [_curve([row for row in rows if row["kind"] == kind and row["photos"] == n], kind) for kind in works]
    progress.start("projection", None)
    efficiency = {kind: _efficiency([row for row in rows if row["kind"] == kind], cores) for kind in works}
    projection = options.projection
    table = catalogue.table
    photo_bytes = float(np.mean(table["size_bytes"].to_numpy()))
    requests = Requests.of(photo_bytes, packed=projection.packed, prefixes=projection.prefixes)
    elsewhere = {kind: elsewhere_of(work, efficiency[kind], listing["photo_s"]) for kind, work in works.items()}
    projected = project(elsewhere, offers, projection, requests)
    held_out = [abs(row["simulated"]["error"]) for row in rows if not row["simulated"]["fed"]]
    study = {
        **about,
        "out": config.out,
        "backbone": network.backbone.card.name,
        "sources": list(config.sources),
        "photos": n,
        "labels": len(table["label"].combine_chunks().unique()),
        "photo_bytes": photo_bytes,
        "repeats": options.repeats,
        "cores": cores,
        "listing": listing,
        "speed": speed,
        "runs": rows,
        "curves": curves,
        "works": {kind: asdict(work) for kind, work in works.items()},
        "efficiency": efficiency,
        "simulation": {
            "goal": GOAL,
            "runs": len(rows),
            "not_fed": len(held_out),
            "median_error": median(held_out) if held_out else None,
            "largest_error": max(held_out, default=None),
            "within_goal": sum(error <= GOAL for error in held_out),
        },
        "prices": prices_of,
        "asked": asdict(projection),
        "requests": asdict(requests),
        "projected": projected,
        "machine_after": machine(),
        "seconds": {"total": clock.total()},
    }
    write(out, study, render_scaling_study)
    return study


def _measured(
    config: RunConfig, network: Network, catalogue: Catalogue, options: StudyOptions, progress: Progress
) -> dict[Trial, list[dict[str, Any]]]:
    """Run every trial ``repeats`` times, in turns, so that a change of the machine's load meets all of them."""
    n = catalogue.num_rows
    trials = [Trial(kind=kind, workers=workers, photos=n) for kind in KINDS for workers in getattr(options, kind)]
    few = max(FEWEST, round(n * SHARE))
    for kind in KINDS if 2 * few <= n else ():
        given = getattr(options, kind)
        ends = sorted({min(given), max(given)} if given else ())
        trials += [Trial(kind=kind, workers=workers, photos=few) for workers in ends]
    found: dict[Trial, list[dict[str, Any]]] = {trial: [] for trial in trials}
    progress.start("runs", None)
    for repeat in range(1, options.repeats + 1):
        for trial in trials:
            progress.note(
                f"{repeat} of {options.repeats}: {counted(trial.photos, 'photo')}, "
                f"{counted(trial.workers, 'worker')} of the engine {'local' if trial.kind == 'up' else 'spark'}"
            )
            found[trial].append(run_trial(config, network, catalogue, trial))
    return found


def work_of(found: Mapping[Trial, list[dict[str, Any]]], kind: str, n: int, speed: Mapping[str, Any]) -> Work:
    """Return what the job takes, from the trials of one worker of a kind: all photos, and a share of them.

    Parameters
    ----------
    found : mapping
        Trial to its repeats, from :func:`fruits.assessment.study.scaling.trials.run_trial`.
    kind : str
    n : int
        Photos of the larger trials.
    speed : mapping
        From :func:`fruits.assessment.study.speed.measured_speed`.
    """
    lone = {trial.photos: trials for trial, trials in found.items() if trial.kind == kind and trial.workers == 1}
    every = [one for trials in lone.values() for one in trials]
    size = max(shard["photos"] for one in lone[n] for shard in one["shards"])
    shards = [shard for one in lone[n] for shard in one["shards"] if shard["photos"] == size and not shard["first"]]
    rate, core_s = speed["photos_per_s"], speed["core_s_per_1000"] / 1000
    whole = median(shard["seconds"] + shard["gap_s"] for shard in shards) if shards else size / rate
    used = median(shard["processor_s"] for shard in shards) if shards else size * core_s

    few = min(lone)
    driver = {
        photos: median(one["seconds"]["prepare"] + one["seconds"]["commit"] for one in lone[photos]) for photos in lone
    }
    merge = {photos: median(one["seconds"]["merge"] for one in lone[photos]) for photos in lone}
    # Processor time, and the least of the repeats: a difference of seconds of a busy machine, extrapolated a million times, would
    # be noise.
    least = {photos: min(one["driver_processor_s"] for one in lone[photos]) for photos in lone}
    driver_each, merge_each = _each(least, n, few), _each(merge, n, few)
    return Work(
        photos_per_s=rate,
        core_s=core_s,
        shard_s=max(0.0, whole - size / rate),
        shard_core_s=max(0.0, used - size * core_s),
        session_s=median(one["seconds"]["session"] for one in every),
        worker_s=median(one["seconds"]["start"] for one in every),
        driver_s=max(0.0, driver[n] - driver_each * n),
        driver_photo_s=driver_each,
        merge_s=max(0.0, merge[n] - merge_each * n),
        merge_photo_s=merge_each,
    )


def _each(seconds: Mapping[int, float], n: int, few: int) -> float:
    """Return the seconds per photo, from those of all photos and of few; of a single number, at most all of them."""
    if few == n:
        return seconds[n] / n
    return min(seconds[n] / n, max(0.0, (seconds[n] - seconds[few]) / (n - few)))


def _checked(row: Mapping[str, Any], trials: list[dict[str, Any]], work: Work, cores: int) -> dict[str, Any]:
    """Simulate a measured run; return its seconds, and the relative error of the whole and of the work alone."""
    sizes = np.array([shard["photos"] for shard in trials[0]["shards"]], np.int64)
    took: Simulated = simulate(work, Cluster(workers=row["workers"], cores=cores), np.sort(sizes)[::-1])
    seconds = row["seconds"]
    return {
        "total": took.total_s,
        "working": took.working_s,
        "error": took.total_s / seconds["total"] - 1,
        "working_error": took.working_s / seconds["working"] - 1 if seconds["working"] > 0 else 0.0,
        "fed": row["workers"] == 1,
    }


def _efficiency(rows: list[dict[str, Any]], cores: int) -> float:
    """Return the measured rate of as many workers as cores, as a share of the simulated one; at most 1.

    What workers of one machine cost each other beyond the cores that they share: caches, memory, hyper-threads.
    """
    full = [row for row in rows if row["workers"] <= cores]
    most = max(full, key=lambda row: (row["workers"], row["photos"]))
    if most["workers"] == 1:
        return 1.0
    return float(min(1.0, most["simulated"]["working"] / most["seconds"]["working"]))


def elsewhere_of(work: Work, efficiency: float, listing_s: float) -> Work:
    """Return what the job takes on a machine of its own: with all its cores busy, and with the listing of the photos.

    A worker whose photos are on a disk keeps at least one core busy; if it was measured with less, other programs had the rest.
    """
    return replace(
        work,
        photos_per_s=max(work.photos_per_s, 1 / work.core_s) * efficiency,
        core_s=work.core_s / efficiency,
        driver_photo_s=work.driver_photo_s + listing_s,
    )


def _listing(config: RunConfig) -> dict[str, float]:
    """Return the processor seconds of the listing of all photos, with those that a sample leaves out."""
    started = time.process_time()
    n = catalogued(replace(config, sample=None), Silent()).num_rows
    seconds = time.process_time() - started
    return {"photos": n, "seconds": seconds, "photo_s": seconds / max(n, 1)}


def _curve(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Fit the Universal Scalability Law to the rates of a kind."""
    law = scalability.fit({row["workers"]: row["photos_per_s"] for row in rows})
    between = scalability.intervals({row["workers"]: row["rates"] for row in rows})
    most = max(rows, key=lambda row: row["workers"])
    return {
        "kind": kind,
        "points": len(rows),
        "fitted": list(law.fitted),
        "assumed": [name for name in ("contention", "coherence") if name not in law.fitted],
        **{
            name: {"value": getattr(law, name), "low": None, "high": None}
            for name in ("rate", "contention", "coherence")
        },
        **{name: {"value": getattr(law, name), "low": low, "high": high} for name, (low, high) in between.items()},
        "peak": law.peak,
        "line": [{"workers": n, "photos_per_s": law.at(n)} for n in np.linspace(1, 2 * most["workers"], 40).tolist()],
        "speedup": most["photos_per_s"] / min(rows, key=lambda row: row["workers"])["photos_per_s"],
        "workers": most["workers"],
        "limits": most["limits"],
        "occupied": most["occupied"],
        "cores_busy": most["cores_busy"],
    }


def as_text(study: Mapping[str, Any]) -> str:
    """Return a study as text for a terminal: runs, law, check of the simulation, and the cheapest plans."""
    table = [
        (
            "workers", "photos", "photos/s (range)", "total s", "start", *STAGES, "merge", "limits", "simulated s", "error",
        )
    ]  # fmt: skip
    for row in study["runs"]:
        seconds, checked = row["seconds"], row["simulated"]
        table.append(
            (
                f"{row['workers']} {_called(row['kind'])}", f"{row['photos']:,}",
                f"{row['photos_per_s']:,.0f} ({row['photos_per_s_low']:,.0f} to {row['photos_per_s_high']:,.0f})",
                f"{seconds['total']:.1f}", f"{seconds['session'] + seconds['start']:.1f}",
                *(f"{row['work'][name]:.1f}" for name in STAGES), f"{seconds['merge']:.2f}", row["limits"],
                f"{checked['total']:.1f}", f"{checked['error']:+.0%}{' fed' if checked['fed'] else ''}",
            )
        )  # fmt: skip
    lines = []
    for curve in study["curves"]:
        said = [f"{name} {_said(curve[name])}" for name in curve["fitted"]]
        if curve["assumed"]:
            said.append(
                f"{' and '.join(curve['assumed'])} assumed 0: {counted(curve['points'], 'number')} of workers cannot tell more"
            )
        lines.append(f"{_called(curve['kind'])}: x {curve['speedup']:.2f} with {curve['workers']}; {'; '.join(said)}")
    checked = study["simulation"]
    if checked["largest_error"] is not None:
        within = f"{checked['within_goal']} within {checked['goal']:.0%}"
        lines.append(
            f"simulation against {counted(checked['not_fed'], 'run')} that it was not fed with: error "
            f"{checked['median_error']:.0%} (median), {checked['largest_error']:.0%} (largest); {within}"
        )
    for one in study["projected"]:
        for what, at in (("cheapest", one["cheapest"]), ("fastest", one["fastest"]),
                         ("in time", one["in_time"]), ("in budget", one["in_budget"])):  # fmt: skip
            if at is not None:
                plan = one["plans"][at]
                lines.append(
                    f"{one['photos']:,} photos, {what}: {plan['machines']} x {plan['offer']}, {plan['hours']:,.1f} hours, "
                    f"{plan['usd']:,.2f} USD (prices of {study['prices']})"
                )
        for name, limit in (("in_time", "deadline_h"), ("in_budget", "budget_usd")):
            if study["asked"][limit] is not None and one[name] is None:
                lines.append(
                    f"{one['photos']:,} photos: no plan within {limit.rpartition('_')[0]} {study['asked'][limit]:g}"
                )
    return text_of(study, table, lines)


def _called(kind: str) -> str:
    return "local" if kind == "up" else "Spark"


def _said(parameter: Mapping[str, Any]) -> str:
    low, high = parameter["low"], parameter["high"]
    if low is None:
        return f"{parameter['value']:.3g}"
    return f"{parameter['value']:.3g} ({low:.3g} to {high:.3g})"
