"""Resumable uploads of files and packs of photos to a bucket, in parts with checksums.

Parts already in the bucket are not sent again. The bucket's listing is the only record of progress; nothing is stored locally
except the pack itself, which is kept until the upload is complete.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fruits.aws.calls import Aws, AwsAbsentError, AwsError, Call
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.photos.catalogue.builder import CatalogueBuilder
from fruits.photos.catalogue.listing import add_sources
from fruits.photos.reading import packing
from fruits.photos.reading.packs import MANIFEST, read_contents
from fruits.storage.objects import Objects, is_remote

#: Bytes of a part, the unit that is sent again when a connection breaks. S3 accepts 10,000 parts, 160 GB.
PART_BYTES: Final = 16 << 20
_AT_ONCE: Final = 4
#: Key of the object's metadata that holds the sha256 of its content.
_DIGEST: Final = "sha256"


@dataclass(frozen=True, slots=True)
class UploadResult:
    """Result of sending one file."""

    key: str
    size_bytes: int
    sent_bytes: int
    parts_kept: int


def calls_for(path: Path, bucket: str, key: str) -> list[Call]:
    """Return the calls that send a file if the bucket has no part of it."""
    size = path.stat().st_size
    where = {"Bucket": bucket, "Key": key}
    look = Call("s3", "head_object", where, "is it there already?")
    if size <= PART_BYTES:
        return [look, Call("s3", "put_object", {**where, "Body": f"<{size:,} bytes of {path.name}>"}, "send it")]
    parts = -(-size // PART_BYTES)
    return [
        look,
        Call("s3", "list_multipart_uploads", {"Bucket": bucket, "Prefix": key}, "has an upload of it begun?"),
        Call("s3", "create_multipart_upload", {**where, "ChecksumAlgorithm": "SHA256"}, "begin one"),
        Call("s3", "upload_part", {**where, "Body": f"<{size:,} bytes of {path.name}, in parts>"}, "send it", parts),
        Call("s3", "complete_multipart_upload", where, "put it together"),
        Call("s3", "head_object", where, "is all of it there?"),
    ]


def send(aws: Aws, path: Path, bucket: str, key: str, *, progress: Progress | None = None) -> UploadResult:
    """Send a file to a bucket unless it is already there; resume an interrupted upload.

    Every part and the whole are sent with their SHA-256; S3 verifies them and stores the latter with the object.

    Raises
    ------
    AwsError
        If a call fails. Parts that arrived are kept; the same call resumes.
    """
    progress = progress or Silent()
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(AwsAbsentError):
        there = aws.call("s3", "head_object", Bucket=bucket, Key=key)
        if there["ContentLength"] == size and there.get("Metadata", {}).get(_DIGEST) == digest:
            progress.advance(size)
            return UploadResult(key, size, 0, 0)
    about = {"Metadata": {_DIGEST: digest}, "ChecksumAlgorithm": "SHA256"}
    if size <= PART_BYTES:
        aws.call(
            "s3", "put_object", Bucket=bucket, Key=key, Body=path.read_bytes(),
            ChecksumSHA256=_base64(bytes.fromhex(digest)), **about,
        )  # fmt: skip
        progress.advance(size)
        return UploadResult(key, size, size, 0)
    upload, arrived = _begun(aws, bucket, key)
    if upload is None:
        upload = aws.call("s3", "create_multipart_upload", Bucket=bucket, Key=key, **about)["UploadId"]
    parts = _Parts(aws, path, bucket, key, upload, arrived, progress)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
        made = list(pool.map(parts.send, range(1, -(-size // PART_BYTES) + 1)))
    aws.call(
        "s3", "complete_multipart_upload", Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": made}
    )
    there = aws.call("s3", "head_object", Bucket=bucket, Key=key)
    if there["ContentLength"] != size:
        raise AwsError(f"s3://{bucket}/{key} has {there['ContentLength']:,} bytes, expected {size:,}; upload again")
    return UploadResult(key, size, parts.sent_bytes, parts.kept)


def upload_photos(
    aws: Aws, sources: Sequence[str], bucket: str, prefix: str, *, labelled: bool = True, folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Pack photos and upload the pack to a bucket; the same call again resumes.

    Parameters
    ----------
    sources : sequence of str
        Sources as for ``fruits pack``, or one pack on this disk.
    bucket, prefix : str
        Destination. Readers follow ``pack.json``, which is sent last: until then they see the previous pack.
    labelled : bool
    folder : Path, optional
        Local folder of packs until they are uploaded; by default ``~/.cache/fruits/packs``.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, sizes, bytes sent by this call, unreadable photos.
    """
    progress, clock = progress or Silent(), Clock()
    packed: dict[str, Any] = {}
    own = len(sources) == 1 and not is_remote(sources[0]) and (Path(sources[0]) / MANIFEST).is_file()
    if own:
        root = Path(sources[0])
    else:
        with clock.step("catalogue"):
            progress.start("catalogue", None)
            kept = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruits/packs"
            root = kept / _fingerprint(sources, labelled)
        if not (root / MANIFEST).is_file():
            with clock.step("pack"):
                packed = packing.pack(sources, str(root), labelled=labelled, progress=progress)
    contents = read_contents(Objects(str(root)))
    if contents is None:
        raise AwsError(f"'{root}' is no pack any more; upload again")
    names = [file.name for file in contents.files]
    with clock.step("upload"):
        progress.start("upload", sum(file.size_bytes for file in contents.files) + (root / MANIFEST).stat().st_size)
        sent = [send(aws, root / name, bucket, f"{prefix}/{name}", progress=progress) for name in names]
        left = _others(aws, bucket, prefix, {f"{prefix}/{name}" for name in [*names, MANIFEST]})
        sent.append(send(aws, root / MANIFEST, bucket, f"{prefix}/{MANIFEST}", progress=progress))
    if not own:
        shutil.rmtree(root)
    return {
        "pack": f"s3://{bucket}/{prefix}",
        "photos": contents.photos,
        "files": len(names),
        "bytes": sum(one.size_bytes for one in sent),
        "sent_bytes": sum(one.sent_bytes for one in sent),
        "parts_kept": sum(one.parts_kept for one in sent),
        "unreadable": packed.get("unreadable", 0),
        "unreadable_photos": packed.get("unreadable_photos", []),
        "files_of_an_older_pack": left,
        "seconds": {**clock.seconds, "total": clock.total()},
    }


class _Parts:
    """The parts of one upload."""

    def __init__(
        self,
        aws: Aws,
        path: Path,
        bucket: str,
        key: str,
        upload: str,
        arrived: dict[int, dict[str, Any]],
        progress: Progress,
    ) -> None:
        self.sent_bytes = self.kept = 0
        self._aws, self._path, self._arrived, self._progress = aws, path, arrived, progress
        self._where = {"Bucket": bucket, "Key": key, "UploadId": upload}

    def send(self, number: int) -> dict[str, Any]:
        """Send a part unless the bucket has it, byte for byte; return its entry for completing the upload."""
        with self._path.open("rb") as file:
            file.seek((number - 1) * PART_BYTES)
            data = file.read(PART_BYTES)
        checksum = _base64(hashlib.sha256(data).digest())
        there = self._arrived.get(number, {})
        if there.get("Size") == len(data) and _same(there, data, checksum):
            self.kept += 1
            etag = there["ETag"]
        else:
            answer = self._aws.call(
                "s3", "upload_part", **self._where, PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
            etag = answer["ETag"]
            self.sent_bytes += len(data)
        self._progress.advance(len(data))
        return {"PartNumber": number, "ETag": etag, "ChecksumSHA256": checksum}


def _same(there: dict[str, Any], data: bytes, checksum: str) -> bool:
    """Return whether a part in the bucket has these bytes; False if the bucket does not report enough to decide."""
    if "ChecksumSHA256" in there:
        return bool(there["ChecksumSHA256"] == checksum)
    # Without a KMS key the etag is the MD5; with one it is another value, which never matches.
    return bool(there["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest())


def _begun(aws: Aws, bucket: str, key: str) -> tuple[str | None, dict[int, dict[str, Any]]]:
    """Return the newest unfinished upload of an object, and its parts by number."""
    found = [
        upload
        for page in aws.pages("s3", "list_multipart_uploads", Bucket=bucket, Prefix=key)
        for upload in page.get("Uploads", ())
        if upload["Key"] == key
    ]
    for upload in sorted(found, key=lambda upload: str(upload.get("Initiated", "")), reverse=True):
        with suppress(AwsAbsentError):
            pages = aws.pages("s3", "list_parts", Bucket=bucket, Key=key, UploadId=upload["UploadId"])
            parts = {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
            return upload["UploadId"], parts
    return None, {}


def _fingerprint(sources: Sequence[str], labelled: bool) -> str:
    """Return a name for the pack of these photos by their versions, so that the same photos are not packed twice."""
    builder = CatalogueBuilder(labelled=labelled, progress=lambda _: None)
    add_sources(builder, sources)
    digest = hashlib.sha256(f"{labelled}".encode())
    labels = list(builder.codes["label"])
    for table in builder.merged():
        for batch in table.select(["uri", "label", "size_bytes", "version"]).to_batches(8192):
            for uri, code, *rest in zip(*batch.to_pydict().values(), strict=True):
                digest.update(repr((uri, None if code is None else labels[code], *rest)).encode())
    return digest.hexdigest()[:32]


def _others(aws: Aws, bucket: str, prefix: str, named: set[str]) -> int:
    """Count other objects under the prefix: files of a replaced pack, which the uploader may not delete."""
    pages = aws.pages("s3", "list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/")
    return sum(found["Key"] not in named for page in pages for found in page.get("Contents", ()))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
