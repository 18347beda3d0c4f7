from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fruits.photos.catalogue.consent import ConsentMark, consent_of, mark, unmark
from fruits.photos.reading.samples import gallery_thumbnails, thumbnail

ID = "abcdefghijklmnopqrst-_"


def jpeg(**options: object) -> bytes:
    out = BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("options", [{}, {"comment": b"of the operator"}, {"progressive": True}])
@pytest.mark.parametrize("may_show", [True, False])
def test_mark_goes_with_the_photo_and_leaves_its_pixels(may_show: bool, options: dict[str, object]) -> None:
    photo = jpeg(**options)
    marked = mark(photo, ConsentMark(ID, may_show))
    assert consent_of(marked) == ConsentMark(ID, may_show)
    assert consent_of(photo) is None
    assert unmark(marked) == photo
    assert mark(marked, ConsentMark(ID, not may_show)) == mark(photo, ConsentMark(ID, not may_show)), "marked once"
    before, after = (np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in (photo, marked))
    np.testing.assert_array_equal(before, after)


def test_what_is_no_marked_jpeg_has_no_giver() -> None:
    marked = mark(jpeg(), ConsentMark(ID, True))
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG", *(marked[:end] for end in range(2, 60))):
        assert consent_of(data) is None
        assert unmark(data) == data
    with pytest.raises(ValueError, match="expected a JPEG"):
        mark(b"\x89PNG", ConsentMark(ID, True))
    with pytest.raises(ValueError, match="expected a JPEG"):
        mark(jpeg(), ConsentMark("../x", True))


def test_pictures_are_made_only_of_photos_that_may_be_shown(tmp_path: object) -> None:
    paths = [f"{tmp_path}/{name}.jpg" for name in ("own", "shown", "hidden")]
    for path, data in zip(
        paths, (jpeg(), mark(jpeg(), ConsentMark(ID, True)), mark(jpeg(), ConsentMark(ID, False))), strict=True
    ):
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(data)
    assert [thumbnail(path) is None for path in paths] == [False, False, True]
    own, shown, hidden = gallery_thumbnails(paths, 32, 70)
    assert own is not None
    assert consent_of(own) is None
    assert shown is not None
    assert consent_of(shown) == ConsentMark(ID, True), "the small one says whose it is, too"
    assert hidden is None
