"""Bodies of answers, joined from pieces: to the byte what encoding the documented object as a whole gives."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fruits.messages import LANGUAGES, translations
from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.recogniser.explain import relative
from fruits.recogniser.taxonomy import Name
from fruits.service.http.routes.answer_body import body_of, photo_of
from fruits.service.inference.model import Model
from fruits.service.inference.pieces import number
from fruits.service.inference.workers import Recognised, Recogniser
from fruits.service.submissions.repository import Receipt

RECEIPT = Receipt("i" * 22, "s" * 32)


@pytest.fixture(scope="module")
def recognised(finished_run: Any) -> list[Recognised]:
    """Answers to some photos, with their maps and regions."""
    made = Recogniser(str(finished_run.out), workers=1)
    made.start()
    photos = [path.read_bytes() for path in sorted(finished_run.photos.glob("Test/*/*.jpg"))[::9]]

    async def ask() -> list[Recognised]:
        return await asyncio.gather(
            *(
                made.submit(photo, explain=at % 2 == 0, regions=at == 0, heavy=at == 0)
                for at, photo in enumerate(photos)
            )
        )

    found = asyncio.run(ask())
    made.close()
    return found


def whole(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def fields(answer: Any, one: Recognised) -> dict[str, Any]:
    """Return what docs/api.md says of an answer."""
    taxonomy = one.model.bundle.taxonomy
    kinds = dict(zip(taxonomy.kind_ids, taxonomy.kinds, strict=True))
    varieties = dict(zip(taxonomy.variety_ids, taxonomy.varieties, strict=True))
    named = {
        label: varieties[taxonomy.variety_ids[variety]] if variety >= 0 else kinds[taxonomy.kind_ids[kind]]
        for label, kind, variety in zip(taxonomy.labels, taxonomy.kind_of, taxonomy.variety_of, strict=True)
    }
    said: Name | None = varieties[answer.variety] if answer.variety else kinds.get(answer.kind)
    return {
        "outcome": answer.outcome,
        "kind": answer.kind or None,
        "variety": answer.variety or None,
        "name": said and said.names(),
        "line": said and said.lines(),
        "probability": round(answer.probability, 6),
        "kinds": [{"kind": kind, **name.names(), "probability": round(p, 6)} for kind, name, p in answer.kinds],
        "labels": [
            {"label": label, **named[label].names(), "probability": round(p, 6)}
            for label, p in zip(answer.labels, answer.probabilities, strict=True)
        ],
        "ood_score": round(answer.ood_score, 6) if abs(answer.ood_score) < 1e30 else None,
        "advice": [{"code": code, **translations(f"page.{code}")} for code in answer.advice],
    }


def expected(one: Recognised, *, explain: bool = False, regions: bool = False, box: Any = None) -> dict[str, Any]:
    gallery, labels = one.model.bundle.gallery, one.model.bundle.labels
    similar = [
        {
            "label": labels[gallery.labels[at]],
            **one.model.names[labels[gallery.labels[at]]],
            "thumbnail": f"/v1/gallery/{one.model.identity}/{at}.jpg",
            "similarity": round(cosine, 4),
        }
        for at, cosine in one.similar
    ]
    said = fields(one.answer, one)
    extra: dict[str, Any] = {"box": [round(side, 4) for side in box]} if box else {}
    if explain:
        extra["map"] = None
        if one.places is not None:
            shown = np.round(relative(one.places).astype(np.float64), 3)
            rows, columns = shown.shape
            fit = one.model.bundle.preprocessing.fit
            extra["map"] = {"rows": rows, "columns": columns, "values": shown.ravel().tolist(), "fit": fit}
    if regions:
        extra["regions"] = one.regions and [
            {"box": [round(side, 4) for side in region.box], **fields(region.answer, one)} for region in one.regions
        ]
    parts = (("queue", one.queue_s), ("decode", one.decode_s), ("infer", one.infer_s), ("total", 0.0123456))
    return {
        "id": RECEIPT.id, "secret": RECEIPT.secret, **said,
        "similar": similar, "kept": one.kept is not None, **extra,
        "milliseconds": {name: round(1000 * seconds, 2) for name, seconds in parts},
    }  # fmt: skip


def test_a_body_is_to_the_byte_the_object_encoded_as_a_whole(recognised: list[Recognised]) -> None:
    said = [photo_of(one, RECEIPT, 0.0123456) for one in recognised]
    assert said == [whole(expected(one)) for one in recognised]
    model = recognised[0].model
    about = {"identity": model.identity, "labels": len(model.bundle.labels)}
    assert json.loads(body_of(said[:2], model)) == {"photos": [expected(one) for one in recognised[:2]], "model": about}
    assert body_of(said[:2], model).decode() == whole(json.loads(body_of(said[:2], model)))


def test_maps_regions_and_parts_are_said_where_they_are_asked_for(recognised: list[Recognised]) -> None:
    with_map = next(one for one in recognised if one.places is not None)
    assert recognised[0].regions is not None
    for one in (recognised[0], with_map, replace(with_map, places=None)):
        for asked in ({"explain": True}, {"regions": True}, {"box": (0.1, 0.25, 0.33333333, 1.0), "explain": True}):
            assert photo_of(one, RECEIPT, 0.0123456, **asked) == whole(expected(one, **asked))  # type: ignore[arg-type]


def test_every_outcome_advice_and_name_is_said_as_it_is(recognised: list[Recognised]) -> None:
    shipped_one = Model(bundles.load(shipped.path()))  # it has varieties
    one = replace(
        recognised[0],
        model=shipped_one,
        similar=[],
        answer=replace(recognised[0].answer, kinds=(), labels=(), probabilities=()),
    )
    taxonomy = shipped_one.bundle.taxonomy
    named = [(kind, "") for kind in taxonomy.kind_ids]
    named += [(taxonomy.kind_ids[taxonomy.kind_of_variety(at)], name) for at, name in enumerate(taxonomy.variety_ids)]
    assert any(variety for _, variety in named)
    answers = [replace(one.answer, outcome="kind", kind=kind, variety=variety) for kind, variety in named]
    answers += [
        replace(
            one.answer, outcome="unknown", kind="", variety="", ood_score=float("inf"), advice=("small", "blurred")
        ),
        replace(one.answer, outcome="unsure", kind="", variety="", ood_score=1e-7, advice=("dark",), probability=1.0),
    ]
    for answer in answers:
        changed = replace(one, answer=answer, kept=b"a photo")
        assert photo_of(changed, RECEIPT, 0.0123456) == whole(expected(changed))
    assert {"en", "fr", "es"} <= set(LANGUAGES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_number_for_is_null(value: float) -> None:
    assert number(value) == "null"
