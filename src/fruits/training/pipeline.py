"""The whole flow: run() from photos to a recogniser with its report, apply() from a recogniser to predictions.

Both functions are short enough to serve as documentation, read from top to bottom. Each step is a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np

from fruits.config import RunConfig
from fruits.embedding.session import usable_device
from fruits.engines import Engine, get_engine
from fruits.errors import ConfigError, StoreError, naming, option
from fruits.learning.drift import Drift
from fruits.learning.heads import get_head
from fruits.learning.pca import PCA
from fruits.monitoring.clock import Clock, Progress, Silent, Steps, Watcher
from fruits.monitoring.timeline import Timeline
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.reading.samples import example_photos, gallery_thumbnails
from fruits.recogniser import bundle as bundles
from fruits.recogniser.answers import Certainty
from fruits.recogniser.gallery import QUALITY, SIDE, Gallery, choose
from fruits.recogniser.regions import refuse_without_map
from fruits.recogniser.saving import save
from fruits.recogniser.taxonomy import Taxonomy
from fruits.report import load_ahead, render
from fruits.storage.embeddings.inventory import Inventory
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.embeddings.upkeep import lock_table
from fruits.storage.objects import Objects, is_remote, reach, uri_of
from fruits.storage.outputs import publishing
from fruits.storage.outputs.marker import claim
from fruits.storage.outputs.runs import BUNDLE, RECORD, REPORT, stored_pointer
from fruits.storage.sanitising import json_text
from fruits.training import finished
from fruits.training import run_record as records
from fruits.training.embed import (
    TRAINING_PHOTOS,
    Network,
    Prepared,
    access_of,
    catalogued,
    embed,
    prepare,
    repair_embeddings,
    start_early,
)
from fruits.training.fitting import fit as fitting
from fruits.training.fitting.certainty import certainty_by, look_alikes
from fruits.training.fitting.feature_file import FeatureFile
from fruits.training.fitting.features import Features, Part, project_all
from fruits.training.fitting.remarks import note_choices, note_findings, refuse_hopeless
from fruits.training.fitting.training_set import TrainingSet, grouped_by_clusters, seen_rows, source_names
from fruits.training.predicting.predictions import write_predictions
from fruits.training.predicting.regions import KEY as REGIONS_KEY
from fruits.training.predicting.regions import delete_regions, write_regions
from fruits.training.scoring import leakage
from fruits.training.scoring import scores as scoring


def check(config: RunConfig) -> None:
    """Check what can be checked without the photos, and mark the output.

    Raises
    ------
    FruitsError
        A subclass that says what to do.
    """
    Network.of(config, Silent())
    with naming("taxonomy", config.taxonomy):
        Taxonomy.of((), config.taxonomy)
    access_of(config)
    get_engine(config.engine, config.workers, master=config.master, conf=config.spark_conf).close()
    _claimed(config.out)


def run(
    config: RunConfig,
    *,
    progress: Progress | None = None,
    command: str = "fruits run",
    make_current: bool = True,
    listed: Catalogue | None = None,
) -> dict[str, Any]:
    """Train a recogniser on labelled photos; compute only what is new since the last run on the same output.

    Parameters
    ----------
    config : RunConfig
    progress : Progress, optional
        Receives progress.
    command : str
        The user's command line, for the record.
    make_current : bool
        Whether readers of the output get this run from now on.
    listed : Catalogue, optional
        The photos, if they have just been listed with these options.

    Returns
    -------
    dict
        The run record, as in ``run.json``, and ``run`` (name of its folder in ``OUT/runs``), ``current`` (whether readers of
        ``OUT`` now get it) and ``up_to_date``; docs/results.md explains it.

    Raises
    ------
    FruitsError
        A subclass that says what to do. What was computed until then is kept.
    """
    begun = datetime.now(UTC)
    started, since = begun.isoformat(timespec="seconds"), begun.isoformat(timespec="microseconds")
    clock = Clock()
    with ExitStack() as stack:
        # What can be checked without the photos comes first: listing a bucket may take hours.
        network = Network.of(config, progress or Silent())
        with naming("taxonomy", config.taxonomy):
            Taxonomy.of((), config.taxonomy)
        access_of(config)
        engine = stack.enter_context(
            closing(get_engine(config.engine, config.workers, master=config.master, conf=config.spark_conf))
        )
        objects = _claimed(config.out)
        pointer = stored_pointer(objects.root)
        timeline = stack.enter_context(Timeline(progress or Silent(), engine.executors))
        step = Steps(clock, timeline)
        job = _embedded(config, network, objects, engine, step, listed)
        if job.prepared.lock is not None:
            stack.callback(job.prepared.lock.release)
        about = {
            **records.about(
                job.config, job.catalogue, job.prepared.card, job.prepared.preprocessing,
                device=job.prepared.device, command=command, started=started,
            ),
            **job.counts,
        }  # fmt: skip

        def published(name: str, *, now: bool) -> dict[str, Any]:
            if not now and make_current:
                timeline.note(
                    f"another run that began later is current in '{config.out}'; this one is kept: 'fruits runs {config.out} "
                    f"--use {name[:12]}' makes it the current one"
                )
            finished.remove_damaged(objects, job.identity, name)
            publishing.clear(objects)
            publishing.tidy(objects, timeline.note)
            return {"run": name, "current": now}

        def as_before() -> dict[str, Any] | None:
            same = finished.find_same(objects, job.identity, job.catalogue.listed)
            if same is None:
                return None
            now = publishing.current(objects) == same.name or (
                make_current and publishing.point(objects, same.name, since, pointer)
            )
            return {
                **same.record,
                **about,
                **_cost(clock, timeline),
                **published(same.name, now=now),
                "up_to_date": True,
            }

        if before := as_before():
            return before

        # Any number of runs may share this output. Each writes a folder of its own, and nobody reads it before it is complete.
        mine = stack.enter_context(publishing.begin(objects, job.identity))
        fitted = _fitted(job, mine.objects, engine, step)
        with step("bundle"):
            _save_bundle(job, fitted, mine.objects)
        record = {
            **about,
            "rejections": job.rejections[: records.REJECTIONS_KEPT],
            "rejections_total": len(job.rejections),
            **records.fitted(fitted.pca, fitted.choice, fitted.recogniser, fitted.grouped_by, config.head),
            **fitted.scores,
            "leakage": fitted.leakage,
            "coverage": fitted.coverage,
            "identity": job.identity,
        }
        with step("report"):
            record |= _cost(clock, timeline)
            record["timeline"] = timeline.summary(
                seconds=clock.seconds["embeddings"], cores=config.workers, work=clock.work, usd=config.core_hour_usd
            )
            examples = example_photos(
                job.catalogue.listed, records.misclassified(record), job.catalogue.access,
                explained=bundles.load(mine.objects.root).explained_thumbnail if record["confusions"] else None,
            )  # fmt: skip
            mine.objects.write(REPORT, render(record, examples).encode())
        record |= _cost(clock, timeline)
        job.catalogue.listed.write(mine.objects, "catalogue.parquet")
        if before := as_before():  # another process has just done the same
            mine.discard()
            return before
        mine.objects.write(RECORD, json_text(record, indent=1, ensure_ascii=False).encode())
        now = mine.publish(since, pointer) if make_current else mine.keep()
        return {**record, **published(mine.name, now=now), "up_to_date": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Embedded:
    """Photos with their embeddings, and what identifies the run."""

    config: RunConfig
    catalogue: Catalogue
    meaning: Taxonomy
    prepared: Prepared
    inventory: Inventory
    counts: dict[str, Any]
    rejections: list[dict[str, Any]]
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Everything fitted on the embeddings, and the scores."""

    pca: PCA
    choice: fitting.Choice
    recogniser: fitting.Recogniser
    taxonomy: Taxonomy
    certainty: Certainty
    coverage: Any
    look_alikes: dict[str, Any]
    drift: Drift
    gallery: Gallery
    scores: dict[str, Any]
    leakage: dict[str, Any] | None
    grouped_by: str


def _claimed(out: str) -> Objects:
    """Open an output. It is marked before photos are listed, so that files below it are not listed as photos."""
    reach(out)
    objects = Objects(out)
    claim(objects, "results")
    if not is_remote(out) and not os.access(out, os.W_OK):  # results of before on a disk that is now read-only
        raise StoreError(
            f"'{out}' cannot be written; change its permissions, or give another folder with {option('to')}"
        )
    return objects


def _embedded(
    config: RunConfig, network: Network, objects: Objects, engine: Engine, step: Steps, listed: Catalogue | None
) -> _Embedded:
    """List the photos and embed those that have no embedding yet."""
    with step("catalogue"):
        catalogue = listed if listed is not None else catalogued(config, step.progress)
        config = config.with_photo_defaults(len(source_names(catalogue.listed)))
        labels = sorted(catalogue.listed.coded["label"].counts())
        meaning = Taxonomy.of(labels, config.taxonomy)
        start_early(engine, catalogue, objects)
        prepared = prepare(config, network, catalogue, objects)
    note_findings(catalogue, step.progress)
    refuse_hopeless(catalogue)
    if config.repair:
        with step("repair", shown=False):
            repair_embeddings(prepared.stored, step.progress)
    part = bool(config.keep_missing or config.only or config.sample)
    inventory, computed = embed(
        engine,
        catalogue,
        prepared,
        step.progress,
        step.clock,
        keep_missing=part,
        has_option=True,
        meanwhile=_load_ahead,
    )
    counts = records.counts(catalogue, inventory, computed)
    rejections = records.rejections(catalogue, inventory)
    records.write_rejections(objects, rejections)
    records.refuse_too_many(counts, rejections, config.max_rejected, f"{config.out}/rejected.csv")
    return _Embedded(
        config=config, catalogue=catalogue, meaning=meaning, prepared=prepared, inventory=inventory, counts=counts,
        rejections=rejections,
        identity=records.identity(
            config, catalogue, inventory, prepared.card, prepared.preprocessing, prepared.device, meaning
        ),
    )  # fmt: skip


def _load_ahead() -> None:
    """Load what the steps after the embeddings need: a second of one core, while this process only waits for workers."""
    for module in ("scipy.optimize", "scipy.sparse.csgraph"):
        import_module(module)
    load_ahead()


def _fitted(job: _Embedded, objects: Objects, engine: Engine, step: Steps) -> _Fitted:
    """Fit everything on the embeddings, and score it; write the features."""
    config, catalogue, inventory, prepared = job.config, job.catalogue, job.inventory, job.prepared
    stored = prepared.stored
    with step("moments"):
        training_set, grouped_by = grouped_by_clusters(stored, inventory, TrainingSet.of(catalogue.listed, inventory))
        listed = stored.objects.read_if_present(f"{stored.prefix}/{TRAINING_PHOTOS}")
        seen = seen_rows(stored, inventory, listed, len(training_set.ok)) if listed is not None else None
        split = fitting.ValidationSplit.of(training_set, config.seed, seen)
        weights = training_set.balance(job.meaning.kind_of) if config.balance else None
        learnt, held_out = fitting.training_moments(engine, stored, inventory, training_set, split)
    with step("pca", shown=False):
        pca, blind = PCA.from_several([learnt.merge(held_out), learnt])
    with step("choices"):
        choice = fitting.choose(
            engine, stored, inventory, training_set, split, pca=pca, blind=blind, variance=config.variance,
            components=config.components, weights=weights, head=get_head(config.head),
        )  # fmt: skip
        note_choices(choice, step.progress)
    with step("features", job.counts["photos"]):
        features = project_all(
            engine, stored, inventory, pca, choice.components, training_set.ok, step.progress.advance
        )
        about = {"identity": job.identity, "components": choice.components, "backbone": prepared.card.name}
        file = FeatureFile.write(objects, catalogue.listed, training_set, features, about)
    with step("head"):
        fit_on_engine = fitting.head_by_engine(engine, stored, inventory, pca, choice)
        recogniser = fitting.fit_recogniser(features, training_set, choice, config.seed, weights, fit_on_engine)
        taxonomy = Taxonomy.of(recogniser.labels, config.taxonomy)
        limits = fitting.photo_limits(stored, inventory, training_set, prepared.preprocessing.size, config.seed)
        certainty, coverage = certainty_by(choice, training_set, limits, config.taxonomy, config.min_precision)
        drift = fitting.drift(choice, recogniser, features, training_set, config.seed)
    with step("gallery"):
        gallery = _gallery(config, catalogue, training_set, features, recogniser.labels)
    with step("leakage"):
        to_score = scoring.ScoredPhotos.of(training_set, recogniser.labels)
        checked = leakage.check(
            to_score.rows, training_set, listed=catalogue.listed, access=catalogue.access, prepared=prepared,
            inventory=inventory, engine=engine, pca=pca, file=file, features=features,
            numbers_are_informative=grouped_by == "names",
        )  # fmt: skip
    with step("metrics", shown=False):
        scores = scoring.scores(
            engine, catalogue.listed, training_set, file, features, recogniser, taxonomy, certainty, choice, to_score=to_score,
            grouped_by=checked.grouped_by, groups=checked.groups,
        )  # fmt: skip
    return _Fitted(
        pca=pca, choice=choice, recogniser=recogniser, taxonomy=taxonomy, certainty=certainty, coverage=coverage,
        look_alikes=look_alikes(choice, training_set, config.taxonomy),
        drift=drift, gallery=gallery, scores=scores, leakage=checked.leakage, grouped_by=grouped_by,
    )  # fmt: skip


def _save_bundle(job: _Embedded, fitted: _Fitted, objects: Objects) -> None:
    save(
        uri_of(objects.root, BUNDLE),
        model=job.prepared.model.fetch().read_bytes(),
        card=job.prepared.card,
        preprocessing=job.prepared.preprocessing,
        mean=fitted.pca.mean,
        components=fitted.pca.axes[: fitted.choice.components],
        head=fitted.recogniser.head,
        head_name=job.config.head,
        ood_detector=fitted.recogniser.ood_detector,
        taxonomy=fitted.taxonomy,
        certainty=fitted.certainty,
        drift=fitted.drift,
        gallery=fitted.gallery,
        about={
            "identity": job.identity,
            "device": job.prepared.device,
            "metrics": fitted.scores["metrics"],
            "config": job.config.as_shared(),
            "versions": records.versions(),
            **fitted.look_alikes,
        },
    )


def _cost(clock: Clock, timeline: Timeline) -> dict[str, Any]:
    return {"seconds": {**clock.seconds, "total": clock.total()}, "peak_memory_mb": timeline.megabytes}


def apply(
    bundle_path: str,
    sources: Sequence[str],
    to: str,
    *,
    workers: int = 0,
    engine: str = "local",
    master: str | None = None,
    spark_conf: Sequence[str] = (),
    repair: bool = False,
    follow_links: bool = False,
    allow_source: Sequence[str] = (),
    device: str = "auto",
    regions: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Recognise photos in batch; compute only what is new since the last call with the same output.

    Parameters
    ----------
    bundle_path : str
        A bundle, or the results of a run.
    sources : sequence of str
        Folders of photos in any layout, manifests with a column ``uri``, or single photos.
    to : str
        Folder for the predictions and the data needed to resume.
    workers : int
        Worker processes; 0 for one per core.
    engine, master, spark_conf, repair, follow_links, allow_source
        As in :class:`fruits.config.RunConfig`.
    regions : bool
        Whether to look for several kinds in each photo and write ``regions.parquet`` as well. Takes about fifteen times as long.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, seconds and where the predictions are.

    Raises
    ------
    FruitsError
        A subclass that says what to do. Photos that cannot be decoded are rows with a status, never an error.
    """
    progress, clock = progress or Silent(), Clock()
    config = RunConfig(
        sources=tuple(sources), out=to, workers=workers, engine=engine, master=master, spark_conf=tuple(spark_conf),
        device=device, repair=repair, follow_links=follow_links, allow_source=tuple(allow_source),
    )  # fmt: skip
    if not isinstance(regions, bool):
        raise ConfigError(f"{option('regions', regions)}: expected True or False")
    access = access_of(config)
    with ExitStack() as stack:
        memory = stack.enter_context(Watcher())
        where = stack.enter_context(closing(get_engine(engine, config.workers, master=master, conf=config.spark_conf)))
        with clock.step("catalogue"):
            progress.start("catalogue", None)
            recogniser = bundles.load(bundle_path)
            used, word = usable_device(device)
            if word:
                progress.note(word)
            if regions:
                refuse_without_map(recogniser, recogniser.embedder)
            objects = _claimed(to)
            catalogue = list_photos(
                sources,
                labelled=False,
                access=access,
                progress=progress.advance,
            )
            for remark in catalogue.remarks():
                progress.note(remark)
        stored = EmbeddingTable(to, f"embeddings/{recogniser.computation_on(used)}")
        prepared = Prepared(
            recogniser.card, recogniser.preprocessing, recogniser.model_file, stored, used, lock_table(stored)
        )
        if repair:
            with clock.step("repair"):
                repair_embeddings(stored, progress)
        inventory, computed = embed(where, catalogue, prepared, progress, clock)
        counts = records.counts(catalogue, inventory, computed)
        with clock.step("predictions"):
            progress.start("predictions", counts["photos"])
            predicted = write_predictions(where, objects, stored, inventory, recogniser.classifier, progress.advance)
        found = {}
        if regions:
            with clock.step("regions"):
                progress.start("regions", counts["ok"])
                named = write_regions(where, objects, stored, inventory, recogniser, access, progress.advance)
                found = {"regions": f"{to}/{REGIONS_KEY}", "regions_named": named}
        else:
            delete_regions(objects, catalogue.listed.texts)
        seconds = {**clock.seconds, "total": clock.total()}
    return {
        **counts,
        **found,
        "outcomes": predicted.outcomes,
        "device": used,
        "seconds": seconds,
        "peak_memory_mb": memory.megabytes,
        "predictions": f"{to}/{predicted.key}",
    }


def _gallery(
    config: RunConfig, catalogue: Catalogue, training_set: TrainingSet, features: Features, labels: list[str]
) -> Gallery:
    """Choose training photos to show beside answers, and make their thumbnails."""
    if not config.gallery:
        return Gallery.empty(features.shape[1])
    number_of = {name: number for number, name in enumerate(labels)}
    numbers = np.array([number_of.get(name, -1) for name in training_set.names])[training_set.label[training_set.ok]]
    trained = np.flatnonzero(training_set.of_split("train")[training_set.ok])
    chosen = trained[choose(Part(features, trained), numbers[trained], config.gallery)]
    uris = catalogue.listed.uris(np.flatnonzero(training_set.ok)[chosen])
    return Gallery.of(features[chosen], numbers[chosen], gallery_thumbnails(uris, SIDE, QUALITY, catalogue.access))
