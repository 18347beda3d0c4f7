"""``fruits study preprocessing``: what geometry, views, colour and background give under an honest protocol, and what they cost.

A run on a bounded sample of the photos gives labels, groups and folds. Every photo is decoded once per pass; all treatments start
from these pixels and are scored on the same folds, so that gains are paired. Treatments that help are combined; which ones is
decided on one half of the groups and scored on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.assessment.dataset import Dataset, FinishedRun, dataset_of, open_run
from fruits.assessment.evaluation import evaluate, folds_of, in_order, score_fold, seen_folds
from fruits.assessment.printed import with_interval
from fruits.assessment.study.backbones import common_protocol
from fruits.assessment.study.frontier import mark_frontier
from fruits.assessment.study.preprocessing.treated import Embedded, Variant, embed_variants
from fruits.assessment.study.preprocessing.treatments import NAMED, TREATMENTS
from fruits.assessment.study.record import begun, text_of, write
from fruits.config import RunConfig
from fruits.embedding.backbone import Embedder, find_backbone, training_photos
from fruits.errors import ConfigError, counted, option
from fruits.learning.folds import Fold, interval
from fruits.learning.metrics import expected_calibration_error
from fruits.learning.moments import Moments
from fruits.learning.pca import PCA
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.report import render_preprocessing_study
from fruits.storage.objects import Objects, uri_of
from fruits.storage.outputs import publishing
from fruits.storage.outputs.runs import key_of
from fruits.storage.sanitising import json_text
from fruits.training import finished, pipeline
from fruits.training.embed import catalogued

#: Photos of the sample, unless ``--sample`` gives a number per label.
PHOTOS: Final = 1000
_DRAWS: Final = 2000
#: Protocols whose score is that of kinds.
BY_KIND: Final = ("variety", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How a preprocessing study measures.

    Attributes
    ----------
    photos : int
        Size of the sample, unless the configuration gives one per label.
    treatments : tuple of str
        Names from :data:`fruits.assessment.study.preprocessing.treatments.TREATMENTS`; empty for all.
    protocol : str
        A protocol of ``fruits evaluate``; empty for that of sources if they are named, else the strictest that has a score.
    keep : str, optional
        Where the network is written with the best resize mode in its card.
    """

    photos: int = PHOTOS
    treatments: tuple[str, ...] = ()
    protocol: str = ""
    keep: str | None = None

    def __post_init__(self) -> None:
        if self.photos < 1:
            raise ConfigError(f"{option('photos', self.photos)}: expected 1 or more")
        if self.protocol:
            in_order([self.protocol])
        for name in self.treatments:
            if name not in NAMED:
                raise ConfigError(f"{option('treatments', name)}: expected some of {', '.join(NAMED)}")
        if self.keep is not None and not _is_new_network(Path(self.keep)):
            raise ConfigError(
                f"{option('keep', self.keep)}: expected the path of an .onnx file that is not there yet, in a folder that is"
            )


@dataclass(frozen=True, slots=True)
class Scored:
    """What a variant gives: the test rows, whether each is right, and the confidence if labels were asked for; shape (m,)."""

    rows: NDArray[np.int64]
    right: NDArray[np.bool_]
    confidence: NDArray[np.float32] | None


def study_preprocessing(
    config: RunConfig,
    *,
    options: StudyOptions | None = None,
    progress: Progress | None = None,
    command: str = "fruits study preprocessing",
) -> dict[str, Any]:
    """Compare treatments; write ``study/preprocessing.json`` and ``study/preprocessing.html`` into the output.

    The current run of the output stays the current one. If there was none, the run on the sample becomes it.

    Parameters
    ----------
    config : RunConfig
        Photos, network, output and the other choices of the run.
    options : StudyOptions, optional
    progress : Progress, optional
    command : str
        The user's command line, for the record.

    Returns
    -------
    dict
        Content of ``study/preprocessing.json``; docs/studies.md explains it.

    Raises
    ------
    ConfigError
        If the protocol gives no folds, or none has a score.
    FruitsError
        As :func:`fruits.run` and :func:`fruits.evaluate`.
    """
    progress, options, clock = progress or Silent(), options or StudyOptions(), Clock()
    about = begun("preprocessing", command)
    config = bounded(config, options.photos, progress)
    record = pipeline.run(config, progress=progress, command=command, make_current=False)
    out = Objects(config.out)
    if publishing.current(out) is None:
        finished.use(config.out, record["run"])
    run = open_run(uri_of(config.out, key_of(record["run"])))
    dataset, _ = dataset_of(run)
    protocol, folds = _protocol(options.protocol, config.out, record, dataset, run, progress)
    size, own = run.bundle.preprocessing.size, run.bundle.preprocessing.fit
    embedder = Embedder(run.bundle.model_file.fetch(), run.bundle.manifest["about"].get("device", "cpu"))
    names = [one.name for one in TREATMENTS if one.name in (options.treatments or NAMED) and one.name != own]
    left_out = {} if embedder.has_map else {"closer": "no map"}
    base = Variant(own)
    variants = {"": base, **{name: base.with_treatment(name) for name in names if name not in left_out}}
    progress.start("treatments", len(dataset.uris))
    embedded = embed_variants(list(variants.values()), run, dataset, embedder, size, progress)
    scored = {}
    progress.start("scores", None)
    for name, variant in variants.items():
        scored[name] = _scored(embedded.vectors[variant], folds, dataset, run.record, protocol)
    groups = dataset.belonging[1][scored[""].rows]
    rows = [_row(name, variants[name], scored, embedded.costs, groups) for name in variants]
    together = _together(base, variants, scored, groups)
    more = [variant for variant in dict.fromkeys(together) if variant not in variants.values()]
    if more:
        progress.start("best together", len(dataset.uris))
        also = embed_variants(more, run, dataset, embedder, size, progress)
        embedded = Embedded(embedded.vectors | also.vectors, embedded.costs | also.costs)
    of_variant = {variant: scored[name] for name, variant in variants.items()}
    for variant in more:
        of_variant[variant] = _scored(embedded.vectors[variant], folds, dataset, run.record, protocol)
    best = _best(together, of_variant, embedded.costs, groups, scored[""])
    points = [*rows, best]
    mark_frontier(points, [one["cost_ms"] for one in points], [one["accuracy"] for one in points])
    keep = _kept(rows, own)
    if keep and options.keep:
        keep["file"] = keep_in_card(config.backbone, keep["resize_mode"], Path(options.keep))
    study = {
        **about,
        "out": config.out,
        "run": record["run"],
        "backbone": run.bundle.card.name,
        "size": size,
        "resize_mode": own,
        "sources": record["sources"],
        "photos": record["photos"],
        "asked": len(groups),
        "labels": record["labels"],
        "sample": config.sample,
        "components": record["components"],
        "protocol": protocol,
        "folds": len(folds),
        "groups": len(np.unique(groups)),
        "treatments": rows,
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out.items() if name in names],
        "together": best,
        "keep": keep,
        "seconds": {"total": clock.total()},
    }
    write(out, study, render_preprocessing_study)
    return study


def bounded(config: RunConfig, photos: int, progress: Progress) -> RunConfig:
    """Return the configuration with the largest sample per label with which there are not more than ``photos`` in all.

    A sample that the configuration gives is taken.
    """
    if config.sample is not None:
        return config
    progress.start("catalogue", None)
    label = catalogued(config, progress).listed.coded["label"]
    counts = sorted(label.counts().values())
    if sum(counts) <= photos:
        return config
    least, most = 1, max(counts)
    while least < most:  # the largest number per label with which there are not more
        middle = (least + most + 1) // 2
        least, most = (middle, most) if sum(min(n, middle) for n in counts) <= photos else (least, middle - 1)
    progress.note(
        f"a sample of {counted(sum(min(n, least) for n in counts), 'photo')} of {sum(counts):,}: at most {least} per label "
        f"({option('photos')} gives another number)"
    )
    return replace(config, sample=least)


def _protocol(
    wanted: str, out: str, record: Mapping[str, Any], dataset: Dataset, run: FinishedRun, progress: Progress
) -> tuple[str, list[Fold]]:
    """Return the protocol by which treatments are compared, and its folds: as asked, else by source, else the strictest."""
    found = evaluate(uri_of(out, key_of(record["run"])), [wanted] if wanted else (), progress=progress)
    scores = {one["protocol"]: one for one in found["protocols"]}
    chosen = common_protocol([scores])
    # New photos come from sources that were not learnt; varieties are held out only if asked for.
    for name in (wanted or "source",):
        one = scores.get(name) if name in BY_KIND else None
        if one and one["kind_accuracy"] is not None and not one["seen"] and not one["too_few_to_say"]:
            chosen = name
    if chosen is None:
        why = "; ".join(f"{one['protocol']}: {one['reason']} ({one['found']})" for one in found["not_applicable"])
        seen = "the network was trained on these photos" if any(one["seen"] for one in found["protocols"]) else ""
        raise ConfigError(
            f"no protocol has a score ({'; '.join(filter(None, (seen, why))) or 'too few test photos'}); expected one: "
            f"give more photos, another network ({option('backbone')}) or {option('protocol')}"
        )
    folds, _, _ = folds_of(chosen, dataset, run, asked_for=True)
    # Of sources, those that the network has seen are not scored.
    return chosen, [fold for fold, seen in zip(folds, seen_folds(chosen, folds, dataset), strict=True) if not seen]


def _scored(
    vectors: NDArray[np.float32],
    folds: Sequence[Fold],
    dataset: Dataset,
    record: dict[str, Any],
    protocol: str,
) -> Scored:
    """Fit the head of the run on other embeddings of the same photos, and score it on each fold."""
    by_kind = protocol in BY_KIND
    train = np.flatnonzero(dataset.split == "train")
    treated = replace(dataset, embeddings=vectors, pca=PCA.from_moments(Moments.from_rows(vectors[train])))
    found = [(fold, score_fold(fold, treated, record, by_kind=by_kind)) for fold in folds]
    return Scored(
        rows=np.concatenate([fold.test[one.possible] for fold, one in found]),
        right=np.concatenate([(one.kind if by_kind else one.label)[one.possible] for _, one in found]),
        confidence=None if by_kind else np.concatenate([one.confidence[one.possible] for _, one in found]),
    )


def _row(
    name: str,
    variant: Variant,
    scored: Mapping[str, Scored],
    costs: Mapping[Variant, tuple[float, float]],
    groups: NDArray[np.int64],
) -> dict[str, Any]:
    own = scored[name]
    return {
        "name": name or variant.geometry,
        "base": not name,
        "sort": NAMED[name or variant.geometry].sort,
        "exact": NAMED[name or variant.geometry].exact,
        "passes": variant.passes,
        **_figures(own, scored[""], groups),
        **_milliseconds(costs[variant]),
    }


def _figures(own: Scored, base: Scored, groups: NDArray[np.int64]) -> dict[str, Any]:
    """Return accuracy, its interval, calibration error, and the paired gain over the base with its interval."""
    low, high = interval(own.right, groups)
    gain, error, gain_low, gain_high = paired_gain(own.right, base.right, groups)
    return {
        "accuracy": float(own.right.mean()),
        "low": low,
        "high": high,
        "calibration_error": None if own.confidence is None else expected_calibration_error(own.confidence, own.right),
        "gain": gain,
        "gain_error": error,
        "gain_low": gain_low,
        "gain_high": gain_high,
    }


def paired_gain(
    right: NDArray[np.bool_], base: NDArray[np.bool_], groups: NDArray[np.int64], *, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return the gain in accuracy on the same rows, its standard error and its 95 % interval, by bootstrapping whole groups.

    Paired, because most photos are easy or hard in every one: the interval of the gain is narrower than those of the accuracies.

    Parameters
    ----------
    right, base : bool array, shape (n,)
        n is at least 1.
    groups : int64 array, shape (n,)
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    change = np.bincount(number, weights=right.astype(np.float64) - base)
    kinds, repeats = np.unique(np.stack([change, sizes.astype(np.float64)]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sizes), repeats / len(sizes), size=_DRAWS)
    gains = (drawn @ kinds[0]) / (drawn @ kinds[1])
    low, high = np.quantile(gains, (0.025, 0.975))
    return float(change.sum() / sizes.sum()), float(gains.std()), float(low), float(high)


def _together(
    base: Variant, variants: Mapping[str, Variant], scored: Mapping[str, Scored], groups: NDArray[np.int64]
) -> tuple[Variant, Variant, Variant]:
    """Return the combination chosen on all rows, on those of the first half of the groups, and on those of the second."""
    half = random_half(groups)
    return tuple(  # type: ignore[return-value]
        combined(base, variants, scored, groups, rows) for rows in (np.ones(len(groups), bool), half, ~half)
    )


def random_half(groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """Return which rows are in the first of two halves of the groups, at random."""
    distinct, number = np.unique(groups, return_inverse=True)
    first = np.random.default_rng(seed).permutation(len(distinct)) < len(distinct) / 2
    return np.asarray(first[number])


def combined(
    base: Variant,
    variants: Mapping[str, Variant],
    scored: Mapping[str, Scored],
    groups: NDArray[np.int64],
    rows: NDArray[np.bool_],
) -> Variant:
    """Return the treatments that help on some rows, together: those whose gain is larger than its standard error.

    Of geometries and of views the one that gains most; of colour all.
    """
    gains = {}
    for name in variants:
        if name and rows.any():
            gain, error, _, _ = paired_gain(scored[name].right[rows], scored[""].right[rows], groups[rows])
            if gain > error:
                gains[name] = gain
    variant = base
    for sort in ("geometry", "views"):
        own = [name for name in gains if NAMED[name].sort == sort]
        if own:
            variant = variant.with_treatment(max(own, key=lambda name: gains[name]))
    for name in (one.name for one in TREATMENTS if one.sort == "colour"):
        if name in gains:
            variant = variant.with_treatment(name)
    return variant


def _best(
    together: tuple[Variant, Variant, Variant],
    of_variant: Mapping[Variant, Scored],
    costs: Mapping[Variant, tuple[float, float]],
    groups: NDArray[np.int64],
    base: Scored,
) -> dict[str, Any]:
    """Return the best together: what was chosen, and its figures, each half scored by what the other half chose."""
    chosen, first, second = together
    half = random_half(groups)
    ours, theirs = of_variant[second], of_variant[first]
    sure = None
    if ours.confidence is not None and theirs.confidence is not None:
        sure = np.where(half, ours.confidence, theirs.confidence)
    honest = Scored(base.rows, np.where(half, ours.right, theirs.right), sure)
    return {
        "treatments": chosen.parts,
        "chosen_by_halves": [first.parts, second.parts],
        "passes": chosen.passes,
        **_figures(honest, base, groups),
        "optimistic_accuracy": float(of_variant[chosen].right.mean()),
        **_milliseconds(costs[chosen]),
    }


def _milliseconds(spent: tuple[float, float]) -> dict[str, float]:
    pixels, network = (seconds * 1e3 for seconds in spent)
    return {"pixels_ms": pixels, "network_ms": network, "cost_ms": pixels + network}


def _kept(rows: Sequence[Mapping[str, Any]], own: str) -> dict[str, Any] | None:
    """Return the geometry that a run can keep, if one gains more than its standard error; None if there is none.

    Only the resize mode is part of the decoder. Other treatments would need steps that it does not have.
    """
    better = [row for row in rows if row["exact"] and row["name"] != own and row["gain"] > row["gain_error"]]
    if not better:
        return None
    best = max(better, key=lambda row: row["gain"])
    return {"resize_mode": best["name"], "gain": best["gain"], "clear": best["gain_low"] > 0}


def _is_new_network(path: Path) -> bool:
    return (
        path.suffix == ".onnx" and path.parent.is_dir() and not path.exists() and not path.with_suffix(".json").exists()
    )


def keep_in_card(backbone: str, resize_mode: str, path: Path) -> str:
    """Write a network with a card that has another resize mode, so that runs with it use that; return its path.

    The network is the same to the bit. The list of its training photos comes along, so that runs know which photos it has seen.

    Parameters
    ----------
    backbone : str
        As given to :func:`fruits.embedding.backbone.find_backbone`.
    resize_mode : str
    path : Path
        An ``.onnx`` file; the card is written beside it.
    """
    found = find_backbone(backbone)
    fields = asdict(found.card) | {"name": path.stem, "fit": resize_mode}
    seen = training_photos(found.card, backbone)
    if seen is not None:
        fields["training_photos"] = f"{path.stem}.seen"
        path.with_suffix(".seen").write_bytes(seen.astype(">u8").tobytes())
    path.write_bytes(found.network)
    path.with_suffix(".json").write_text(json_text(fields, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return str(path)


def as_text(study: Mapping[str, Any]) -> str:
    """Return a study as text for a terminal: a table, the best together, and what a run can keep."""
    table = [
        ("", "treatment", "right (95% interval)", "gain (95% interval)", "ece", "passes", "pixels ms", "network ms")
    ]
    best = study["together"]
    for row in [*study["treatments"], {**best, "name": "best together", "base": False}]:
        gain = "-" if row["base"] else f"{row['gain']:+.1%} ({row['gain_low']:+.1%} to {row['gain_high']:+.1%})"
        mark = "base" if row["base"] else "clear" if row["gain_low"] > 0 else "worse" if row["gain_high"] < 0 else ""
        table.append(
            (
                mark, row["name"], with_interval(row), gain,
                "-" if row["calibration_error"] is None else f"{row['calibration_error']:.3f}", str(row["passes"]),
                f"{row['pixels_ms']:.1f}", f"{row['network_ms']:.1f}",
            )
        )  # fmt: skip
    lines = [
        (
            f"{counted(study['asked'], 'photo')} asked of {study['photos']:,} in {counted(study['groups'], 'group')}; protocol "
            f"{study['protocol']}; best together is {', '.join(best['treatments'])}, each half of the groups scored by what the "
            "other chose"
        ),
        *(f"{one['name']} left out: the network gives no feature map" for one in study["left_out"]),
    ]
    if study["keep"]:
        where = study["keep"].get("file")
        mode = study["keep"]["resize_mode"]
        said = option("backbone", where) if where else option("resize_mode", mode)
        lines.append(f"next: 'fruits run' with {said} keeps the best geometry, {mode}")
    lines.append("other treatments cannot be kept: the decoder does the resize mode alone")
    return text_of(study, table, lines)
