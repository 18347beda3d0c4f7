"""``fruits study backbones``: several networks, input sizes and number formats on the same photos, in accuracy and cost.

Each network gets a finished run of its own on the output, so embeddings are shared with ``fruits run`` and the best run can be
used at once. Its accuracy is that of ``fruits evaluate``; its speed and memory are measured anew in one worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from fruits.assessment.evaluation import SEEN, evaluate, in_order
from fruits.assessment.printed import with_interval
from fruits.assessment.study.frontier import components_for, mark_frontier, recommended
from fruits.assessment.study.record import begun, text_of, write
from fruits.assessment.study.speed import measured_speed
from fruits.config import RunConfig
from fruits.embedding.graphs.graph import parse
from fruits.errors import ConfigError, counted, option
from fruits.learning.neighbours import LEAK_LIMIT
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.report import render_study
from fruits.storage.objects import Objects, uri_of
from fruits.storage.outputs import publishing
from fruits.storage.outputs.runs import key_of
from fruits.training import finished, pipeline
from fruits.training.embed import Network, catalogued, prepare

#: Shares of the variance for which k is given.
SHARES: Final = (0.9, 0.95, 0.99)
_SCORES: Final = (
    "accuracy", "low", "high", "kind_accuracy", "kind_low", "kind_high", "calibration_error", "leakage", "seen", "photos",
    "groups", "too_few_to_say",
)  # fmt: skip
#: ONNX types of weights, as they are called.
_FORMATS: Final = {1: "float32", 2: "int8", 3: "int8", 10: "float16", 11: "float64", 16: "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How a study measures.

    Attributes
    ----------
    protocols : tuple of str
        Protocols of ``fruits evaluate``; empty for all that apply.
    repeats : int
        Passes of the measurement of speed; their median counts.
    photos : int
        Photos of a pass.
    """

    protocols: tuple[str, ...] = ()
    repeats: int = 5
    photos: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", tuple(in_order(self.protocols)))
        if self.repeats < 1:
            raise ConfigError(f"{option('repeats', self.repeats)}: expected 1 or more")
        if self.photos < 1:
            raise ConfigError(f"{option('speed_photos', self.photos)}: expected 1 or more")


def study_backbones(
    config: RunConfig,
    backbones: Sequence[str],
    sizes: Sequence[int] = (),
    *,
    options: StudyOptions | None = None,
    progress: Progress | None = None,
    command: str = "fruits study backbones",
) -> dict[str, Any]:
    """Compare networks on the same photos; write ``study/backbones.json`` and ``study/backbones.html`` into the output.

    The current run of the output stays the current one. If there was none, the recommended one becomes it.

    Parameters
    ----------
    config : RunConfig
        Photos, output and the other choices of the runs; its ``backbone`` and ``size`` are replaced.
    backbones : sequence of str
        Names or files, as for ``fruits run --backbone``; several formats of one network are several files.
    sizes : sequence of int
        Sides of the input in pixels, each tried with each network; empty for the one that ``fruits run`` would use.
    options : StudyOptions, optional
    progress : Progress, optional
    command : str
        The user's command line, for the record.

    Returns
    -------
    dict
        Content of ``study/backbones.json``; docs/studies.md explains it.

    Raises
    ------
    ConfigError
        If no network is given, or one twice.
    FruitsError
        As :func:`fruits.run` and :func:`fruits.evaluate`.
    """
    progress, options, clock = progress or Silent(), options or StudyOptions(), Clock()
    about = begun("backbones", command)
    if not backbones:
        raise ConfigError(f"{option('backbones')}: none given; expected names or files, with commas between them")
    # Each once, so that a network given twice is not two points of the plot.
    tries = list(dict.fromkeys((name, size) for name in backbones for size in (sizes or (None,))))
    configs = [replace(config, backbone=name, size=size) for name, size in tries]
    networks = {
        one.backbone: Network.of(one, progress) for one in configs
    }  # what is missing is said before the first run
    out = Objects(config.out)
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {}
    for number, one in enumerate(configs, 1):
        progress.note(f"{number} of {len(configs)}: {one.backbone}{f' at {one.size} pixels' if one.size else ''}")
        record = pipeline.run(one, progress=progress, command=command, make_current=False)
        rows.append(_row(one, networks[one.backbone], record, options, progress))
    chosen = common_protocol([row["protocols"] for row in rows])
    best = _compare(rows, chosen)
    if publishing.current(out) is None:
        finished.use(config.out, rows[best if best is not None else 0]["run"])
    study = {
        **about,
        "out": config.out,
        "sources": record["sources"],
        "photos": record["photos"],
        "labels": record["labels"],
        "repeats": options.repeats,
        "protocol": chosen,
        "rows": rows,
        "recommended": None if best is None else rows[best]["run"],
        "seconds": {"total": clock.total()},
    }
    write(out, study, render_study)
    return study


def _row(
    config: RunConfig, network: Network, record: dict[str, Any], options: StudyOptions, progress: Progress
) -> dict[str, Any]:
    """Return what is known of one network: its run, its scores, its speed and its sizes."""
    evaluation = evaluate(uri_of(config.out, key_of(record["run"])), options.protocols, progress=progress)
    card = network.backbone.card
    catalogue = catalogued(config, Silent())
    prepared = prepare(config, network, catalogue, Objects(config.out))
    progress.start(f"speed of {card.name}", None)
    speed = measured_speed(catalogue, prepared, repeats=options.repeats, photos=options.photos)
    shares = components_for(record["explained_variance_ratio"], SHARES)
    return {
        "name": card.name,
        "title": card.title,
        "backbone": config.backbone,
        "size": prepared.preprocessing.size,
        "number_format": number_format(network.backbone.network),
        "device": prepared.device,
        "run": record["run"],
        "seen_share": evaluation["seen"]["share"] if evaluation["seen"]["checked"] else None,
        "file_bytes": len(network.backbone.network),
        "embedding_size": card.embedding_size,
        "components": record["components"],
        "components_for": [{"share": share, "components": k} for share, k in zip(SHARES, shares, strict=True)],
        "embedding_bytes_per_million": 4_000_000 * card.embedding_size,
        "feature_bytes_per_million": 4_000_000 * record["components"],
        "protocols": {found["protocol"]: _scores(found) for found in evaluation["protocols"]},
        **speed,
        "seconds_of_run": record["seconds"]["total"],
    }


def _scores(measured: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a protocol; where sources were held out, also how many, and how many of them the network has seen."""
    scores = {name: measured[name] for name in _SCORES}
    sources = measured.get("sources")
    if sources:
        scores |= {"sources": len(sources), "seen_sources": sum(source["seen"] for source in sources)}
    return scores


def common_protocol(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> str | None:
    """Return the protocol by which networks are compared; None if none has a score by label.

    It has a score for as many networks as possible: not seen, not of too few photos. Of those, one whose score is not memory
    of near-duplicates, then the strictest, which is the one with the lowest mean.

    Parameters
    ----------
    found : sequence of mapping
        For each network: protocol to its scores.
    """
    scored = Counter(name for one in found for name, scores in one.items() if _has_score(scores))
    if not scored:
        return None

    def order(name: str) -> tuple[int, bool, float]:
        own = [one[name] for one in found if name in one and _has_score(one[name])]
        leakage, accuracy = (np.mean([scores[key] for scores in own]) for key in ("leakage", "accuracy"))
        return -scored[name], bool(leakage > LEAK_LIMIT), float(accuracy)

    return min(sorted(scored), key=order)


def _has_score(scores: Mapping[str, Any]) -> bool:
    return scores["accuracy"] is not None and not scores["seen"] and not scores["too_few_to_say"]


def _compare(rows: list[dict[str, Any]], protocol: str | None) -> int | None:
    """Mark the frontier in the rows; return the position of the recommended one, None if none has a score."""
    for row in rows:
        scores = row["protocols"].get(protocol)
        has = scores is not None and _has_score(scores)
        row["score"] = {name: scores[name] for name in _SCORES} if has else None
        row["frontier"] = False
    scored = [at for at, row in enumerate(rows) if row["score"]]
    if not scored:
        return None
    costs = [rows[at]["core_s_per_1000"] for at in scored]
    values = [rows[at]["score"]["accuracy"] for at in scored]
    mark_frontier([rows[at] for at in scored], costs, values)
    return scored[recommended(costs, values, [rows[at]["score"]["low"] for at in scored])]


def number_format(network: bytes) -> str:
    """Return the number format of most of a network's weights, such as float32 or int8."""
    numbers: Counter[str] = Counter()
    for weights in parse(network, "network").graph.initializer:
        numbers[_FORMATS.get(weights.data_type, "other")] += int(np.prod(weights.dims))
    return numbers.most_common(1)[0][0] if numbers else "other"


def as_text(study: Mapping[str, Any]) -> str:
    """Return a study as text for a terminal: a table, the recommended network, and what to do next."""
    rows = [
        ("", "network", "pixels", "weights", "accuracy (95% interval)", "ece", "photos/s", "MB of memory", "d", "k")
    ]
    for row in study["rows"]:
        score = row["score"]
        seen = any(scores["seen"] for scores in row["protocols"].values())
        said = with_interval(score) if score else "seen" if seen else "not scored"
        mark = "recommended" if row["run"] == study["recommended"] else "frontier" if row["frontier"] else ""
        rows.append(
            (
                mark, row["name"], str(row["size"]), row["number_format"], said,
                f"{score['calibration_error']:.3f}" if score else "-", f"{row['photos_per_s']:,.0f}",
                f"{row['peak_memory_mb'] or 0:,}", f"{row['embedding_size']:,}", f"{row['components']:,}",
            )
        )  # fmt: skip
    held_out = study["protocol"] or "none: no protocol has a score by label for any network"
    lines = [
        (
            f"{counted(study['photos'], 'photo')}; protocol {held_out}; photos/s of one worker, median of "
            f"{study['repeats']} passes on {study['machine']['cpu']}"
        )
    ]
    lines += [
        f"{row['name']} at {row['size']} pixels was trained on {row['seen_share']:.0%} of these photos, but not on those tested: "
        "it may be less accurate on photos from elsewhere"
        for row in study["rows"]
        if row["score"] and (row["seen_share"] or 0) >= SEEN
    ]
    if study["recommended"]:
        lines.append(
            f"next: fruits runs {study['out']} --use {study['recommended'][:12]} makes the recommended network the current run"
        )
    return text_of(study, rows, lines)
