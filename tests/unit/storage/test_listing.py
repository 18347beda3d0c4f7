"""A listing that breaks off gives every key once, whatever the order of the store: resumed only where the order is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from obstore.exceptions import GenericError

from fruits.storage.objects import Objects
from fruits.storage.objects import store as module
from fruits.storage.objects.buckets import lists_in_order

KEYS = [f"{number:04d}" for number in range(500)]


class Listing:
    """Stands in for obstore's listing of a bucket: pages of 7 keys in an order of its own, broken off again and again."""

    def __init__(self, order: list[str], cut_after: Iterator[int]) -> None:
        self.order, self._cut_after = order, cut_after
        self.offsets: list[str | None] = []

    def __call__(self, _store: Any, _prefix: str | None, *, offset: str | None, chunk_size: int) -> Iterator[Any]:
        assert chunk_size > 0
        self.offsets.append(offset)
        left = [key for key in self.order if offset is None or key > offset]
        cut = next(self._cut_after, None)
        for start in range(0, len(left), 7):
            if cut is not None and start // 7 >= cut:
                raise GenericError("error decoding response body")
            yield [
                {"path": key, "size": 1, "e_tag": None, "last_modified": datetime(2026, 1, 1, tzinfo=UTC)}
                for key in left[start : start + 7]
            ]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], Listing]]:
    """List a bucket through the stand-in; return the keys that came."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "nobody")

    def look(root: str, order: list[str], *cut_after: int) -> tuple[list[str], Listing]:
        listing = Listing(order, iter(cut_after))
        monkeypatch.setattr(module.obstore, "list", listing)
        return [found.key for found in Objects(root).list()], listing

    return look


@pytest.mark.parametrize(
    "root", ["s3://some-bucket/photos", "s3://some--euw1-az1--x-s3/photos", "az://container/photos"]
)
@pytest.mark.parametrize("seed", range(5))
def test_a_store_that_lists_in_any_order_loses_no_key(
    listed: Callable[..., tuple[list[str], Listing]], root: str, seed: int
) -> None:
    order = random.Random(seed).sample(KEYS, len(KEYS))
    keys, _ = listed(root, order, 1, 3, 20, 20, 60)
    assert sorted(keys) == KEYS
    assert len(keys) == len(KEYS), "and gives none twice"


def test_a_directory_bucket_is_not_trusted_though_it_began_in_order(
    listed: Callable[..., tuple[list[str], Listing]],
) -> None:
    order = KEYS[100:] + KEYS[:100]
    keys, listing = listed("s3://some--euw1-az1--x-s3", order, 30, 50)
    assert keys == order
    assert listing.offsets == [None, None, None]


def test_where_the_order_is_known_it_goes_on_where_it_was(
    listed: Callable[..., tuple[list[str], Listing]],
) -> None:
    keys, listing = listed("s3://some-bucket/photos", KEYS, 10, 10, 10)
    assert keys == KEYS
    assert listing.offsets == [None, KEYS[69], KEYS[139], KEYS[209]]


def test_a_listing_that_never_gets_further_is_an_error(listed: Callable[..., tuple[list[str], Listing]]) -> None:
    with pytest.raises(module.StoreError, match="cannot list"):
        listed("s3://some--euw1-az1--x-s3", KEYS, *([2] * 40))


def test_whose_order_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert lists_in_order("s3://bucket/a")
    assert lists_in_order("gs://bucket")
    assert not lists_in_order("s3://bucket--use1-az4--x-s3/a")
    assert not lists_in_order("az://container/a")
    assert not lists_in_order("/photos")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert not lists_in_order("s3://bucket/a")
