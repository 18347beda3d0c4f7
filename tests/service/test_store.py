"""A bucket of photos that will not do tomorrow either: a 500 for the client, one clear line for the operator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fruits.aws.installation import stacks
from fruits.errors import CatalogueError
from fruits.photos.catalogue.catalogue import list_photos
from fruits.service import ServiceConfig
from fruits.storage.objects import Objects
from fruits.storage.outputs import marker


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing", r"there is no bucket 'no-such-bucket' here; create it, or check its name"),
        ("denied", r"denied \(SignatureDoesNotMatch\)|denied"),
    ],
)
def test_a_bucket_that_is_missing_or_denied_is_said_once_and_clearly(
    given: str, said: str, serve: Callable[..., Any], s3: Any, a_photo: bytes
) -> None:
    environment = dict(s3.environment())
    place = f"{s3.make_bucket('kept-photos')}/photos" if given == "denied" else "s3://no-such-bucket/photos"
    if given == "denied":
        environment["AWS_SECRET_ACCESS_KEY"] = "not-the-right-one"
    service = serve("--rate", 0, "--photos", place, **environment)
    answer = service.recognise(a_photo, keep="true")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal"), answer.text
    assert "retry-after" not in answer.headers
    assert "bucket" not in answer.text
    service.wait_until(lambda: len(service.log("request")) > 0)
    (line,) = service.log("store_unusable")
    assert line["level"] == "error"
    assert line["request_id"] == answer.json()["error"]["request_id"]
    assert re.search(said, line["message"]), line
    assert service.log("bug") == []
    # Photos that nobody wants kept need no bucket.
    assert service.recognise(a_photo).status_code == 200


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_photos_of_visitors_among_photos_are_known_as_such_from_the_start(
    where: str, serve: Callable[..., Any], request: pytest.FixtureRequest, tmp_path: Path, a_photo: bytes
) -> None:
    if where == "disk":
        around, environment = str(tmp_path / "PHOTOS"), {}
    else:
        s3 = request.getfixturevalue("s3")
        around, environment = s3.make_bucket("around"), dict(s3.environment())
        for name, value in environment.items():
            request.getfixturevalue("monkeypatch").setenv(name, value)
    service = serve("--rate", 0, "--photos", f"{around}/kept", **environment)
    assert service.recognise(a_photo, keep="true").json()["photos"][0]["kept"]
    service.wait_until(lambda: marker.kind_of(Objects(f"{around}/kept")) == "photos")
    with pytest.raises(CatalogueError, match="written by fruits"):
        list_photos([around], labelled=False)


def test_idle_connections_are_ended_by_the_load_balancer_and_not_by_the_service() -> None:
    template = stacks.template("service")
    (idle,) = re.findall(r"Key: idle_timeout.timeout_seconds, Value: \"(\d+)\"", template)
    assert int(idle) < ServiceConfig(out="out").keep_alive == 75
