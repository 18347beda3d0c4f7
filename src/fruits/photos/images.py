"""The earlier name of :mod:`fruits.photos.decoding.images`, for scripts written before that package existed."""

from fruits.photos.decoding.images import *  # noqa: F403
