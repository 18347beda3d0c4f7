"""What to do next after a run, the most important first: how the score is misread, where the errors are, what to try.

Computed from the run record alone. Says nothing that the record does not show.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fruits.learning.metrics import FEWEST_PHOTOS
from fruits.report.localisation import LocalisedText, localised

#: A label with fewer right answers than this share of its photos is named; of fewer photos, nothing is said.
_WEAK: Final = 0.5
_FEWEST_OF_A_LABEL: Final = 5


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Parameters
    ----------
    text : LocalisedText
    label, other : str
        Labels that it is about, shown behind the text.
    command : str
        Command that does it.
    at : str
        Id of the section with the details.
    """

    text: LocalisedText
    label: str = ""
    other: str = ""
    command: str = ""
    at: str = ""


def command_on_results(name: str, record: Mapping[str, Any]) -> str:
    """Return a command of fruits on the results of a run."""
    out = (record.get("config") or {}).get("out") or "OUT"
    return f"fruits {name} {shlex.quote(str(out))}"


def next_steps(record: Mapping[str, Any], *, evaluated: bool) -> Sequence[Step]:
    """Return what to do next.

    Parameters
    ----------
    record : Mapping[str, Any]
        The run record.
    evaluated : bool
        Whether there are results of ``fruits evaluate``.
    """
    return [*_on_the_score(record, evaluated=evaluated), *_on_the_photos(record), *_to_try(record)]


def _on_the_score(record: Mapping[str, Any], *, evaluated: bool) -> list[Step]:
    """Return what the score needs before it can be trusted."""
    scored = record.get("evaluated")
    if not record.get("metrics") or not scored:
        return [Step(localised("next_no_test"))]
    steps = []
    if scored.get("too_few_to_say"):
        steps.append(Step(localised("next_few", fewest=FEWEST_PHOTOS)))
    if not evaluated:
        leaks = bool((record.get("leakage") or {}).get("high"))
        steps.append(
            Step(localised("next_leaks" if leaks else "next_evaluate"), command=command_on_results("evaluate", record))
        )
    return steps


def _on_the_photos(record: Mapping[str, Any]) -> list[Step]:
    """Return what better photos or labels would help."""
    steps = []
    if record["confusions"]:
        worst = record["confusions"][0]
        step = localised("next_confusion", n=worst["count"])
        steps.append(Step(step, label=str(worst["label"]), other=str(worst["predicted"]), at="confusions"))
    weak = [row for row in record["per_label"] if row["evaluated"] >= _FEWEST_OF_A_LABEL and _recall(row) < _WEAK]
    if weak:
        least = min(weak, key=_recall)
        steps.append(Step(localised("next_weak", n=len(weak)), label=str(least["label"]), at="per_label"))
    if untrained := record.get("labels_without_training"):
        steps.append(Step(localised("next_untrained", n=len(untrained)), at="notes"))
    if record["rejections"]:
        rejected = record.get("rejections_total") or len(record["rejections"])
        steps.append(Step(localised("next_rejected", n=rejected), at="rejections"))
    return steps


def _to_try(record: Mapping[str, Any]) -> list[Step]:
    """Return what is always worth doing."""
    config = record.get("config") or {}
    sources = " ".join(shlex.quote(str(source)) for source in config.get("sources") or ["PHOTOS"])
    audit = f"fruits audit {sources} --to {shlex.quote(str(config.get('out') or 'OUT').rstrip('/') + '-audit')}"
    return [
        Step(localised("next_audit"), command=audit),
        Step(localised("next_serve"), command=command_on_results("serve", record)),
    ]


def _recall(row: Mapping[str, Any]) -> float:
    recall = row["recall"]
    return float(recall) if isinstance(recall, int | float) else 1.0
