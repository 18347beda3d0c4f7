"""The errors that fruits raises on purpose; those of the arithmetic alone are in ``learning``.

A message says what was found, what was expected and what to do. One bad photo is data (a row with a status), not one of
these; only :class:`ImageDecodeError` is about a single photo, and the stage turns it into such a row.
"""

from __future__ import annotations


class FruitsError(Exception):
    """Base of all: whoever catches this catches what a user can act on, and no programming mistake."""


class ConfigError(FruitsError, ValueError):
    """A choice of the run is impossible or contradicts another."""


class CatalogueError(FruitsError, ValueError):
    """The photos as a whole cannot be used: none found, no labels, an unreadable manifest."""


class ImageDecodeError(FruitsError, ValueError):
    """These bytes will never become pixels.

    Parameters
    ----------
    code : str
        One of ``empty``, ``not an image``, ``unsupported format``, ``damaged``, ``too large`` (in pixels or in the memory that
        decoding takes); what became of the process that decoded: ``crashed``, ``timeout``; or ``no embedding`` where the network
        has no usable numbers for the pixels.
    message : str
        What was found and what was expected.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[ImageDecodeError], tuple[str, str]]:
        # By default only the message would travel from a worker to its parent.
        return type(self), (self.code, str(self))


class PhotoTypeError(FruitsError, TypeError):
    """What a program gave is none of the things that a photo can be: a path, bytes, an image, an array."""


class BackboneError(FruitsError, ValueError):
    """The network or its card cannot be used."""


class BundleError(FruitsError, ValueError):
    """The bundle is incomplete, damaged or of another format version."""


class TaxonomyError(FruitsError, ValueError):
    """The file that says what labels mean cannot be used."""


class MessagesError(FruitsError, ValueError):
    """A message catalogue cannot be read."""


class EvaluationError(FruitsError, ValueError):
    """Nothing could be measured."""


class LeakageError(FruitsError, RuntimeError):
    """More test photos than allowed have a near-duplicate among the training photos."""


class StoreError(FruitsError, OSError):
    """Stored bytes are missing, damaged or cannot be written."""


class PermanentStoreError(StoreError):
    """A bucket will give the same answer tomorrow: denied, not there, in another region. Somebody must change something."""


class NotFoundError(FruitsError, LookupError):
    """There is nothing under this name, or not for whoever asks: both are answered alike."""


class EngineError(FruitsError, RuntimeError):
    """Workers died or could not be started."""


class ExtensionError(FruitsError, ImportError):
    """An engine, head or backbone of another package cannot be used."""


class TooManyRejectedError(FruitsError, RuntimeError):
    """More photos were rejected or failed than the run allows."""
