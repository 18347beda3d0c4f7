"""The body of an answer: JSON, joined from the pieces of the bundle (``inference/pieces.py``) and the numbers of the photo.

Encoding all of it anew, names in every language included, took a third of the time of a request's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fruits.recogniser.answers import Answer
from fruits.recogniser.explain import relative
from fruits.recogniser.regions import Box
from fruits.service.inference.model import Model
from fruits.service.inference.pieces import compact, number
from fruits.service.inference.workers import Recognised
from fruits.service.submissions.repository import Receipt


def body_of(photos: Iterable[str], model: Model) -> bytes:
    """Return the body of a response.

    Parameters
    ----------
    photos : iterable of str
        What is said of each photo, as JSON.
    model : Model
    """
    return f'{{"photos":[{",".join(photos)}],"model":{model.pieces.model}}}'.encode()


def photo_of(
    one: Recognised,
    receipt: Receipt,
    total_s: float,
    *,
    box: Box | None = None,
    explain: bool = False,
    regions: bool = False,
) -> str:
    """Return what is said of a photo.

    Parameters
    ----------
    one : Recognised
    receipt : Receipt
    total_s : float
        Seconds that the request took until now.
    box : Box, optional
        The part of the photo that was asked about.
    explain, regions : bool
        Whether positions and regions were asked for.
    """
    pieces = one.model.pieces.similar
    similar = ",".join(f"{pieces[at]}{number(round(cosine, 4))}}}" for at, cosine in one.similar)
    asked = ""
    if box is not None:
        asked += f'"box":{_numbers(box)},'
    if explain:
        asked += f'"map":{_map(one)},'
    if regions:
        asked += f'"regions":{_regions(one)},'
    queue, decode, infer, total = (
        number(round(1000 * seconds, 2)) for seconds in (one.queue_s, one.decode_s, one.infer_s, total_s)
    )
    # An id and a secret are letters, digits, - and _.
    return (
        f'{{"id":"{receipt.id}","secret":"{receipt.secret}",{_said(one.answer, one.model)},"similar":[{similar}],'
        f'"kept":{"true" if one.kept is not None else "false"},{asked}'
        f'"milliseconds":{{"queue":{queue},"decode":{decode},"infer":{infer},"total":{total}}}}}'
    )


def _said(answer: Answer, model: Model) -> str:
    """Return the fields that are said of a photo, or of a region of it."""
    pieces = model.pieces
    score = number(round(answer.ood_score, 6)) if abs(answer.ood_score) < 1e30 else "null"
    kinds = ",".join(f"{pieces.kinds[kind]}{number(round(p, 6))}}}" for kind, _, p in answer.kinds)
    labels = ",".join(
        f"{pieces.labels[label]}{number(round(p, 6))}}}"
        for label, p in zip(answer.labels, answer.probabilities, strict=True)
    )
    advice = ",".join(pieces.advice[code] for code in answer.advice)
    return (
        f'"outcome":"{answer.outcome}",{pieces.said[answer.kind, answer.variety]},'
        f'"probability":{number(round(answer.probability, 6))},"kinds":[{kinds}],"labels":[{labels}],'
        f'"ood_score":{score},"advice":[{advice}]'
    )


def _numbers(box: Sequence[float]) -> str:
    return compact([round(side, 4) for side in box])


def _regions(one: Recognised) -> str:
    """Return the regions; null if the network or the head does not tell."""
    if one.regions is None:
        return "null"
    said = (f'{{"box":{_numbers(region.box)},{_said(region.answer, one.model)}}}' for region in one.regions)
    return f"[{','.join(said)}]"


def _map(one: Recognised) -> str:
    """Return where the answer comes from; null if the network or the head does not tell."""
    if one.places is None:
        return "null"
    shown = relative(one.places)
    rows, columns = shown.shape
    values = np.round(shown.astype(np.float64), 3).ravel().tolist()
    fit = one.model.bundle.preprocessing.fit
    return compact({"rows": rows, "columns": columns, "values": values, "fit": fit})
