"""The page of ``fruits study preprocessing``: what each treatment gives and costs. Computes no results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fruits.report.document import assemble
from fruits.report.localisation import say
from fruits.report.study import Measured, lay_out


def render_preprocessing_study(study: Mapping[str, Any]) -> str:
    """Return the page of a study of preprocessing.

    Parameters
    ----------
    study : Mapping[str, Any]
        Format 1, as in ``study/preprocessing.json``.

    Returns
    -------
    str
        A complete HTML document, the same for the same input; to be written as UTF-8.
    """
    points = [*study["treatments"], study["together"]]
    return assemble(
        "study_preprocessing.html.j2",
        titles=say("study_preprocessing_title"),
        record=study,
        rows=study["treatments"],
        best=study["together"],
        plot=lay_out(
            [
                Measured(number, one["cost_ms"], one, one["frontier"], number == len(points))
                for number, one in enumerate(points, 1)
            ]
        ),
        on_top=(),
    )
