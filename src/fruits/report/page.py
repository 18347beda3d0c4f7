"""The report of a run: one self-contained HTML document from the run record.

Stylesheet, script, plots and photos are inside the document, and its content security policy allows exactly those. Labels, file
names and messages are untrusted text. Computes no results: the page shows only values of the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fruits.learning.metrics import FEWEST_PHOTOS
from fruits.learning.neighbours import LEAK_LIMIT
from fruits.report.answers import view_answers, view_calibration, view_coverage
from fruits.report.curve import plot_variance
from fruits.report.document import assemble, compile_templates, data_uri
from fruits.report.evaluation import Evaluation, Protocol, view_evaluation
from fruits.report.localisation import LocalisedText, count, localised, share
from fruits.report.next_steps import command_on_results, next_steps
from fruits.report.sums import sums_of
from fruits.report.timeline import view_timeline

N_PICTURED_PAIRS = 12
_N_OPEN_PAIRS = 4
_N_PHOTOS_PER_SIDE = 3
_N_PHOTOS_ON_TOP = 14
_N_REJECTIONS = 1000
_CONFIG_IN_ORDER = (
    *("sources", "out", "backbone", "size", "resize_mode", "variance", "components"),
    *("head", "min_precision", "balance", "taxonomy", "gallery", "only", "sample", "seed", "max_rejected"),
    *("engine", "master", "spark_conf", "workers", "device", "core_hour_usd", "repair", "follow_links", "allow_source"),
)
_BACKBONE_IN_ORDER = (
    *("name", "title", "licence", "attribution", "embedding_size", "size", "fit", "kernel", "sha256"),
)
_METRICS_IN_ORDER = (
    *("accuracy", "f1", "weightedPrecision", "weightedRecall", "weightedFMeasure", "hammingLoss", "logLoss"),
    *("top3Accuracy", "expectedCalibrationError"),
)


@dataclass(frozen=True)
class Pair:
    """Photos of ``label`` beside photos of the label they were confused with; the photos are data URIs.

    ``maps`` shows the mistaken photos again, with the regions that led to the answer.
    """

    label: str
    predicted: str
    count: int
    of: int | None
    share: float | None
    mistaken: Sequence[str]
    maps: Sequence[str]
    others: Sequence[str]


@dataclass(frozen=True)
class Headline:
    """The score of the run, with what is needed to interpret it.

    Parameters
    ----------
    few : bool
        Too few photos were scored to give a share.
    right : int
        Number of photos with the right label.
    fewest : int
        Minimum number of photos for a score.
    interval : Sequence[float], optional
        Bounds of the 95 % interval.
    leakage : Mapping[str, Any], optional
        From the record: share of the photos that may have been recognised from memory.
    harder : Protocol, optional
        The protocol with the lowest score among the stricter ones.
    """

    few: bool
    right: int
    fewest: int
    interval: Sequence[float] | None
    leakage: Mapping[str, Any] | None
    strictest: Protocol | None


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage; ``width`` is the length of its bar, in per cent of the longest."""

    name: str
    seconds: float
    share: float
    width: float


def load_ahead() -> None:
    """Compile the templates of the report in advance."""
    compile_templates(
        *(
            "base.html.j2",
            "macros.html.j2",
            "evaluation.html.j2",
            "answers.html.j2",
            "timeline.html.j2",
            "report.html.j2",
        )
    )


def render(
    record: Mapping[str, Any],
    examples: Mapping[str, Sequence[bytes]],
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """Return the report of one run.

    Parameters
    ----------
    record : Mapping[str, Any]
        The run record, format 1; ``metrics``, ``evaluated`` and the head may be null. ``leakage``, ``kinds``, ``kind_metrics``,
        ``calibration``, ``answers``, ``coverage``, ``balanced`` and ``timeline`` may be missing; their sections are then left
        out.
    examples : Mapping[str, Sequence[bytes]]
        Label -> small JPEG images; labels may be missing. The key of a label, U+0000 and another label holds photos of
        the first that were classified as the second; with another U+0000 and ``map``, the same photos with class activation
        maps.
    evaluation : Mapping[str, Any], optional
        Results of ``fruits evaluate``, format 1; without them the page shows the command.

    Returns
    -------
    str
        A complete HTML document, the same for the same input; to be written as UTF-8.
    """
    measured = view_evaluation(evaluation)
    headline = _headline(record, measured)
    return assemble(
        "report.html.j2",
        titles=_title(record, headline),
        record=record,
        headline=headline,
        fewest_photos=FEWEST_PHOTOS,
        on_top=_photos_on_top(record, examples),
        sums=sums_of(record),
        kinds=_kinds(record),
        evaluation=measured,
        evaluate_command=command_on_results("evaluate", record),
        next_steps=next_steps(record, evaluated=measured is not None),
        n_open_pairs=_N_OPEN_PAIRS,
        leak_limit=LEAK_LIMIT,
        answers=view_answers(record),
        coverage=view_coverage(record),
        calibration=view_calibration(record),
        metrics=_scalar_metrics(record.get("metrics") or {}),
        curve=plot_variance(
            record.get("explained_variance_ratio") or [],
            record.get("components"),
            trials=record.get("component_trials") or [],
        ),
        pairs=_pairs(record, examples),
        more_pairs=record["confusions"][N_PICTURED_PAIRS:],
        first_photo={label: data_uri(photos[0]) for label, photos in examples.items() if photos},
        rejections=record["rejections"][:_N_REJECTIONS],
        stages=_stages(record["seconds"]),
        rate=_embedding_rate(record),
        timeline=view_timeline(record),
        config=_in_order(record.get("config") or {}, _CONFIG_IN_ORDER),
        backbone=_in_order(record.get("backbone") or {}, _BACKBONE_IN_ORDER),
        head=record.get("head") or {},
    )


def _headline(record: Mapping[str, Any], evaluation: Evaluation | None) -> Headline | None:
    """Return the headline; None if nothing was scored."""
    metrics, evaluated = record.get("metrics"), record.get("evaluated")
    if not metrics or not evaluated:
        return None
    return Headline(
        few=bool(evaluated.get("too_few_to_say")),
        right=round(metrics["accuracy"] * evaluated["photos"]),
        fewest=FEWEST_PHOTOS,
        interval=metrics.get("accuracyInterval"),
        leakage=record.get("leakage"),
        strictest=evaluation.strictest if evaluation else None,
    )


def _title(record: Mapping[str, Any], headline: Headline | None) -> LocalisedText:
    """Return the document's title, which contains only numbers as values."""
    if headline is None:
        return localised("title")
    if headline.few:
        return localised("title_few")
    numbers = {"accuracy": share(record["metrics"]["accuracy"]), "n": count(record["evaluated"]["photos"])}
    if not headline.interval:
        return localised("title_score", **numbers)
    low, high = map(share, headline.interval)
    return localised("title_interval", **numbers, low=low, high=high)


def _photos_on_top(record: Mapping[str, Any], examples: Mapping[str, Sequence[bytes]]) -> Sequence[str]:
    """Return one photo each of some labels, evenly spread over the list, so that neighbours differ."""
    pictured = [row["label"] for row in record["per_label"] if examples.get(row["label"])]
    n_shown = min(_N_PHOTOS_ON_TOP, len(pictured))
    return [data_uri(examples[pictured[i * len(pictured) // n_shown]][0]) for i in range(n_shown)]


def _kinds(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the scores by kind, if kinds differ from labels."""
    kinds, scores = record.get("kinds"), record.get("kind_metrics")
    trained = sum(row["train"] > 0 for row in record["per_label"])
    return {**scores, "kinds": kinds} if kinds and scores and kinds < trained else None


def _scalar_metrics(metrics: Mapping[str, Any]) -> Sequence[tuple[str, float | None]]:
    """Return the scalar metrics, the most common ones first; the others are in the table of labels."""
    scalars = {name: value for name, value in metrics.items() if not isinstance(value, Mapping | list)}
    return list(_in_order(scalars, _METRICS_IN_ORDER).items())


def _pairs(record: Mapping[str, Any], examples: Mapping[str, Sequence[bytes]]) -> Sequence[Pair]:
    """Return the most frequent confusions, with photos to compare."""
    evaluated = {row["label"]: row["evaluated"] for row in record["per_label"]}

    def pair(row: Mapping[str, Any]) -> Pair:
        label, predicted = row["label"], row["predicted"]
        key = row.get("wrong_examples") or f"{label}\0{predicted}"
        mistaken = examples.get(key) or examples.get(label) or ()
        return Pair(
            label=label,
            predicted=predicted,
            count=row["count"],
            of=evaluated.get(label) or None,
            share=row.get("share"),
            mistaken=[data_uri(photo) for photo in mistaken[:_N_PHOTOS_PER_SIDE]],
            maps=[data_uri(photo) for photo in examples.get(f"{key}\0map", ())[:_N_PHOTOS_PER_SIDE]],
            others=[data_uri(photo) for photo in examples.get(predicted, ())[:_N_PHOTOS_PER_SIDE]],
        )

    return [pair(row) for row in record["confusions"][:N_PICTURED_PAIRS]]


def _stages(seconds: Mapping[str, float]) -> Sequence[StageTime]:
    """Return the seconds per stage in the order of the run, and the rest of the total."""
    stages = {name: value for name, value in seconds.items() if name != "total"}
    total = seconds.get("total", sum(stages.values()))
    in_between = total - sum(stages.values())
    if in_between >= 0.05:
        stages["other"] = in_between
    longest = max(stages.values(), default=0.0) or 1.0
    return [
        StageTime(name, value, share=value / total if total else 0.0, width=round(100 * max(value, 0.0) / longest, 2))
        for name, value in stages.items()
    ]


def _embedding_rate(record: Mapping[str, Any]) -> int | None:
    """Return photos per second of decoding and inference; None if nothing was computed."""
    seconds, photos = record["seconds"].get("embeddings"), record.get("computed")
    return round(photos / seconds) if seconds and photos else None


def _in_order(values: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return the mapping with the named keys first; unknown keys of newer records come last."""
    return {name: values[name] for name in (*names, *values) if name in values}
