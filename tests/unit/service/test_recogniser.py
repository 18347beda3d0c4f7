"""Inference workers around the open bundle: batches, photos that are none, estimates, new bundles; without HTTP."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fruits.errors import BundleError, ImageDecodeError
from fruits.photos.decoding.images import read_size
from fruits.recogniser import bundle as bundles
from fruits.service.inference.model import made_photo
from fruits.service.inference.workers import Recogniser, share


@pytest.fixture(scope="module")
def recogniser(finished_run: Any) -> Iterator[Recogniser]:
    """Two workers, warm."""
    made = Recogniser(str(finished_run.out), workers=2, batch=8)
    assert not made.warm
    made.start()
    assert made.warm
    yield made
    made.close()


def ask(recogniser: Recogniser, photos: list[bytes], **options: Any) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(recogniser.submit(photo, **options) for photo in photos), return_exceptions=True)

    return asyncio.run(all_at_once())


def test_answers_are_the_bundles_in_the_order_of_the_photos(recogniser: Recogniser, finished_run: Any) -> None:
    photos = [path.read_bytes() for path in sorted(finished_run.photos.glob("Test/*/*.jpg"))[:40]]
    expected = bundles.load(finished_run.out).recognise(photos)
    got = ask(recogniser, photos)
    assert [one.answer.labels for one in got] == [answer.labels for answer in expected]
    assert [one.answer.outcome for one in got] == [answer.outcome for answer in expected]
    assert max(one.batch_size for one in got) > 1
    assert max(one.batch_size for one in got) <= 8
    assert all(one.kept is None for one in got)


def test_a_bad_photo_in_a_batch_is_its_own_problem(recogniser: Recogniser, a_photo: bytes) -> None:
    got = ask(recogniser, [a_photo, b"", a_photo[:300], a_photo, b"text", a_photo])
    assert [isinstance(one, ImageDecodeError) for one in got] == [False, True, True, False, True, False]
    assert [one.code for one in got if isinstance(one, ImageDecodeError)] == ["empty", "damaged", "not an image"]


def test_kept_photos_come_as_fresh_jpegs(recogniser: Recogniser, a_photo: bytes) -> None:
    (got,) = ask(recogniser, [a_photo], keep=True)
    assert read_size(got.kept) == read_size(a_photo)
    assert got.kept != a_photo


def test_heavy_photos_are_answered_alone(recogniser: Recogniser, a_photo: bytes) -> None:
    got = ask(recogniser, [a_photo] * 6, heavy=True)
    assert {one.batch_size for one in got} == {1}


def test_nobody_waits_where_nothing_is_to_do(recogniser: Recogniser) -> None:
    assert recogniser.waiting == 0
    assert recogniser.wait_s() == 0
    assert recogniser.wait_s(heavy=True) == 0


def test_estimate_grows_with_the_queue(finished_run: Any, a_photo: bytes) -> None:
    made = Recogniser(str(finished_run.out), workers=1, batch=1)

    async def queue() -> list[float]:
        seen = []
        for _ in range(5):
            made.submit(a_photo)  # nobody is at work yet
            seen.append(made.wait_s())
        return seen

    waits = asyncio.run(queue())
    assert waits == sorted(waits)
    assert waits[0] > 0


def test_a_new_bundle_takes_over_and_the_old_one_can_still_be_looked_at(finished_run: Any, tmp_path: Path) -> None:
    out = finished_run.copy_to(tmp_path)
    made = Recogniser(str(out), workers=1)
    first = made.model
    assert made.reload() is False
    bundle = (out / "bundle").resolve()
    weights = bundle / "weights.npy"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(BundleError, match=r"weights\.npy"):
        made.reload()
    assert made.model is first
    shutil.rmtree(bundle)
    with pytest.raises(BundleError, match="no bundle"):
        made.reload()
    assert made.model_of(first.identity) is first
    assert made.model_of("0123456789abcdef") is None


def test_made_photo_is_a_photo() -> None:
    assert read_size(made_photo()) == (200, 160)


@pytest.mark.parametrize(
    ("waiting", "work_s", "taken"),
    [(8, 0.02, 4), (8, 0.0005, 8), (3, 0.0005, 3), (100, 0.02, 8), (1, 0.5, 1), (6, 0.0015, 4)],
)
def test_photos_are_divided_among_workers_only_if_they_take_time(waiting: int, work_s: float, taken: int) -> None:
    assert share(waiting, workers=2, batch=8, work_s=work_s) == taken
