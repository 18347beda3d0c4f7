"""Objects in a folder or a bucket behind one interface, which the rest of fruits imports from here."""

from fruits.storage.objects.buckets import is_remote
from fruits.storage.objects.failures import AbsentError, ExistsError, NoPathError
from fruits.storage.objects.store import ObjectInfo, Objects, opened, reach, split_uri, uri_of

__all__ = [
    "AbsentError",
    "ExistsError",
    "NoPathError",
    "ObjectInfo",
    "Objects",
    "is_remote",
    "opened",
    "reach",
    "split_uri",
    "uri_of",
]
