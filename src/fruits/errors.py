"""The exceptions of fruits; those of pure computation are in ``learning``.

A message says what was found, what was expected and what to do. A single bad photo is data (a row with a status), not an
exception: :class:`ImageDecodeError` is the only one about a single photo, and the stage turns it into such a row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

#: Set while a command runs. An environment variable, so that worker processes name options in the same way.
_COMMAND_LINE: Final = "FRUITS_COMMAND_LINE"
_UNSET: Final = object()
#: Keyword arguments whose option is called otherwise.
_FLAGS: Final = {"protocols": "--protocol"}


@contextmanager
def command_line() -> Iterator[None]:
    """Let messages name options and commands as on the command line; elsewhere they are named as in Python."""
    before = os.environ.get(_COMMAND_LINE)
    os.environ[_COMMAND_LINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_COMMAND_LINE]


def option(name: str, value: Any = _UNSET) -> str:
    """Return an option as the caller of fruits writes it, for a message.

    Parameters
    ----------
    name : str
        Name of the keyword argument, such as ``max_rejected``.
    value : object, optional
        Its value, found or recommended.

    Returns
    -------
    str
        ``--max-rejected 2`` on the command line, ``max_rejected=2`` in Python.
    """
    if _COMMAND_LINE not in os.environ:
        return f"{name}={'' if value is _UNSET else repr(value)}"
    flag = _FLAGS.get(name) or f"--{name.replace('_', '-')}"
    if value is _UNSET or value is True:
        return flag
    text = str(value)
    return f"{flag} {text if text and text.isprintable() else repr(value)}"


@contextmanager
def naming(name: str, value: Any) -> Iterator[None]:
    """Let an error about the value of an option begin with that option in Python, where no command line is to be seen."""
    try:
        yield
    except FruitsError as exc:
        if _COMMAND_LINE in os.environ:
            raise
        raise type(exc)(f"{option(name, value)}: {exc}") from exc


def command(name: str, *arguments: str, **options: str) -> str:
    """Return a command as the caller of fruits writes it, for a message.

    Returns
    -------
    str
        ``'fruits run PHOTOS --to OUT'`` on the command line, ``fruits.run(PHOTOS, to='OUT')`` in Python.
    """
    given = [option(key, value) for key, value in options.items()]
    if _COMMAND_LINE in os.environ:
        return f"'{' '.join(['fruits', name, *arguments, *given])}'"
    return f"fruits.{name}({', '.join([*arguments, *given])})"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, for a message: ``1 photo``, ``1,200 photos``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


class FruitsError(Exception):
    """Base class of all errors that a user can act on; programming errors are not among them."""


class ConfigError(FruitsError, ValueError):
    """An option is invalid, or two options contradict each other."""


class CatalogueError(FruitsError, ValueError):
    """The photos as a whole cannot be used: none found, no labels, an unreadable manifest."""


class ImageDecodeError(FruitsError, ValueError):
    """A photo cannot be decoded; a retry gives the same result.

    Parameters
    ----------
    code : str
        One of ``empty``, ``not an image``, ``unsupported format``, ``damaged``, ``too large`` (in pixels or in the memory needed
        for decoding); ``crashed`` or ``timeout`` of the decoding process; or ``no embedding`` if the network gives no
        usable values.
    message : str
        What was found and what was expected.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[ImageDecodeError], tuple[str, str]]:
        # By default only the message would be pickled from a worker to its parent.
        return type(self), (self.code, str(self))


class PhotoTypeError(FruitsError, TypeError):
    """An object is of no supported type of photo: path, bytes, image or array."""


class BackboneError(FruitsError, ValueError):
    """The network or its card cannot be used."""


class BundleError(FruitsError, ValueError):
    """The bundle is incomplete, damaged or of another format version."""


class TaxonomyError(FruitsError, ValueError):
    """The taxonomy file cannot be used."""


class MessagesError(FruitsError, ValueError):
    """A message catalogue cannot be read."""


class EvaluationError(FruitsError, ValueError):
    """Nothing could be measured."""


class LeakageError(FruitsError, RuntimeError):
    """More test photos than allowed have a near-duplicate among the training photos."""


class StoreError(FruitsError, OSError):
    """Stored bytes are missing, damaged or cannot be written."""


class PermanentStoreError(StoreError):
    """An error of a bucket that a retry cannot fix: access denied, bucket absent or in another region."""


class NotFoundError(FruitsError, LookupError):
    """The object does not exist, or the caller may not see it: both give the same error."""


class EngineError(FruitsError, RuntimeError):
    """Workers died or could not be started."""


class ExtensionError(FruitsError, ImportError):
    """An engine, head or backbone of another package cannot be used."""


class TooManyRejectedError(FruitsError, RuntimeError):
    """More photos were rejected or failed than the run allows."""
