"""Failures of a folder or a bucket: errors that say what to do, and how long a request is retried.

Independent of what is stored.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from fruits.errors import PermanentStoreError, StoreError
from fruits.storage.objects.buckets import is_remote

#: Attempts, and time, for a whole operation: obstore does not always retry a response that breaks off in its body. If one
#: response in three breaks off, four attempts would lose one photo in a hundred, and these one in a million.
_ATTEMPTS: Final = 12
_PATIENCE_S: Final = 90.0
_LONGEST_PAUSE_S: Final = 5.0


class AbsentError(StoreError):
    """The object does not exist."""


class NoPathError(StoreError):
    """A listing contains a key that is no valid path."""


class ExistsError(StoreError):
    """The object exists already."""


class RetryBudget:
    """Retry budget of one operation; none on disk."""

    def __init__(self, is_local: bool) -> None:
        self._attempts = 1 if is_local else _ATTEMPTS
        self._until = time.monotonic() + _PATIENCE_S
        self._pause_s = 0.1

    def wait_or_raise(self, exc: StoreError) -> None:
        """Wait before the next attempt, or raise the error if it is permanent or the budget is exhausted."""
        self._attempts -= 1
        may_pass = isinstance(exc.__cause__, GenericError) and _may_pass(str(exc.__cause__))
        if isinstance(exc, AbsentError | ExistsError) or not may_pass or not self._attempts:
            raise exc
        if time.monotonic() > self._until:
            raise exc
        # Jitter, because many threads and machines use the same bucket.
        time.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def _may_pass(message: str) -> bool:
    """Return whether an error may be transient, so that a retry makes sense."""
    return not re.search(
        r"status code: (301|400|403|404|405|411|501)\b|AuthorizationHeaderMalformed|PermanentRedirect", message
    )


@contextmanager
def translated(verb: str, name: str) -> Iterator[None]:
    """Raise what a store or the system says as a :class:`StoreError` that says what to do."""
    try:
        yield
    except StoreError:
        raise
    except AlreadyExistsError as exc:
        raise ExistsError(f"'{name}' exists already") from exc
    except (OSError, BaseError) as exc:
        text = str(exc)
        if is_remote(name):
            raise _of_bucket(verb, name, exc, text) from exc
        if isinstance(exc, FileNotFoundError) and verb != "write":
            raise AbsentError(f"cannot {verb} '{name}': it is not there") from exc
        raise _of_folder(verb, name, exc) from exc


def error_of(verb: str, name: str, exc: Exception) -> StoreError:
    """Return the error for what another library met in a bucket or a folder."""
    return _of_bucket(verb, name, exc, str(exc)) if is_remote(name) else _of_folder(verb, name, exc)


def _of_folder(verb: str, name: str, exc: Exception) -> StoreError:
    first = (str(exc).splitlines() or [type(exc).__name__])[0]
    return StoreError(f"cannot {verb} '{name}': {first}; check space and permissions, then run again")


def _of_bucket(verb: str, name: str, exc: Exception, text: str) -> StoreError:
    """Return the error for a bucket's response: what it means and what to do."""
    bucket = name.split("/")[2] if name.count("/") >= 2 else name
    say = f"cannot {verb} '{name}'"
    if "NoSuchBucket" in text:
        return PermanentStoreError(
            f"{say}: there is no bucket '{bucket}' here; create it, or check its name, region and endpoint"
        )
    if isinstance(exc, FileNotFoundError):
        return AbsentError(f"{say}: it is not there")
    expected = re.search(r"expecting '([a-z0-9-]+)'|<Region>([a-z0-9-]+)</Region>", text)
    redirected = "PermanentRedirect" in text or "301 Moved" in text or "AuthorizationHeaderMalformed" in text
    if redirected or "IllegalLocationConstraint" in text or "Received redirect without LOCATION" in text:
        region = next((found for found in expected.groups() if found), None) if expected else None
        return PermanentStoreError(
            f"{say}: the bucket is in another region; set AWS_REGION={region or '<the region of the bucket>'}"
        )
    if isinstance(exc, PermissionDeniedError | UnauthenticatedError) or re.search(
        r"status code: 40[13]\b|<Code>AccessDenied", text
    ):
        code = re.search(r"<Code>(\w+)</Code>", text)
        why = f" ({code.group(1)})" if code else ""
        return PermanentStoreError(
            f"{say}: denied{why}; check credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE or the role) and rights"
        )
    if "169.254.169.254" in text or "credential" in text.lower():
        return StoreError(
            f"{say}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    first = (text.splitlines() or [type(exc).__name__])[0][:300]
    return StoreError(f"{say}: {first}; check the network and AWS_ENDPOINT_URL, then run again: what is done is kept")
