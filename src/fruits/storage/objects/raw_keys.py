"""Listing a bucket with keys that are no valid paths, such as ``a//b.jpg``: obstore refuses a page that contains one.

Only S3 accepts such keys from other programs. boto3 lists them; it is used after obstore has refused.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

from fruits.errors import StoreError


def is_no_path(message: str) -> bool:
    """Return whether an error message means that a listing contains a key that is no valid path for obstore."""
    return "Encountered object with invalid path" in message or "contained empty path segment" in message


def has_bad_segment(key: str) -> bool:
    """Return whether a key, relative to the listed prefix, has an empty, ``.`` or ``..`` segment."""
    return not {"", ".", ".."}.isdisjoint(key.removesuffix("/").split("/"))


def list_raw(root: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield ``path`` (relative to the root), ``size``, ``e_tag`` and ``last_modified`` of all objects below a prefix.

    Raises
    ------
    StoreError
        If boto3 is not installed, the bucket is not on S3, or the request is refused.
    """
    scheme, _, rest = root.partition("://")
    bucket, _, folder = rest.partition("/")
    if scheme not in ("s3", "s3a"):
        raise StoreError(
            f"'{root}' holds a key with an empty, '.' or '..' segment, which cannot be listed; rename or delete it"
        )
    try:  # part of the extra "aws", because the case is rare
        boto3, botocore = importlib.import_module("boto3"), importlib.import_module("botocore.config")
        errors = importlib.import_module("botocore.exceptions")
    except ImportError as exc:
        raise StoreError(
            f"'{root}' holds a key with an empty, '.' or '..' segment: rename or delete it, or let it be skipped by "
            "pip install 'fruits[aws]'"
        ) from exc
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = botocore.Config(
        retries={"max_attempts": 10, "mode": "standard"}, s3={"addressing_style": "path" if endpoint else "auto"}
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    client = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    base = f"{folder}/" if folder else ""
    below = f"{base}{prefix.rstrip('/')}/" if prefix else base
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below):
            for found in page.get("Contents", ()):
                yield {
                    "path": found["Key"].removeprefix(base),
                    "size": found["Size"],
                    "e_tag": found.get("ETag"),
                    "last_modified": found["LastModified"],
                }
    except (errors.BotoCoreError, errors.ClientError) as exc:
        raise StoreError(f"cannot list '{root}': {exc}; check credentials, bucket and region, then run again") from exc
