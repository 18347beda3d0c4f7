"""Options of the Python API: keyword arguments for the fields of :class:`fruits.config.RunConfig`, for type checkers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypedDict

from fruits.config import Fit, RunConfig
from fruits.errors import ConfigError, option

StrPath: TypeAlias = str | os.PathLike[str]
#: Options that may contain secrets and are left out of records.
_SECRET: Final = ("spark_conf",)


class EngineOptions(TypedDict, total=False):
    """Options of :func:`run` and :func:`apply`; documented in :class:`fruits.config.RunConfig`."""

    workers: int
    engine: str
    master: str | None
    spark_conf: Sequence[str]
    device: str
    repair: bool
    follow_links: bool
    allow_source: Sequence[str]


class ApplyOptions(EngineOptions, total=False):
    """Options of :func:`apply`: those of the engine, and whether to find regions, too (``regions.parquet``)."""

    regions: bool


class RunOptions(EngineOptions, total=False):
    """Options of :func:`run`: the fields of :class:`fruits.config.RunConfig` except ``sources`` and ``out``."""

    backbone: str
    size: int | None
    resize_mode: Fit | None
    variance: float | None
    components: int | None
    head: str
    max_rejected: float
    only: Sequence[str]
    sample: int | None
    seed: int
    taxonomy: str | None
    min_precision: float
    balance: bool | None
    gallery: int
    core_hour_usd: float | None
    keep_missing: bool


def config_of(
    sources: tuple[str, ...], out: str, options: Mapping[str, Any], *, among: Collection[str] = ()
) -> RunConfig:
    """Return the configuration for keyword options; only those in ``among`` are allowed, by default all.

    Raises
    ------
    ConfigError
        If an option is invalid or unknown.
    """
    known = set(among) or RunConfig.__dataclass_fields__.keys() - {"sources", "out"}
    if unknown := sorted(options.keys() - known):
        raise ConfigError(f"no option {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    return RunConfig(sources=sources, out=out, **plain(options))


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with paths as strings and sequences as tuples; a single string becomes a tuple of one."""
    several = {name for name, hint in RunConfig.__annotations__.items() if hint.startswith("tuple")}
    values = {}
    for name, value in options.items():
        if name in several:
            values[name] = paths(value, name)
        else:
            values[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return values


def path_of(given: object, what: str) -> str:
    """Return a path as a string.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(f"{option(what, given)}: expected a path, or s3://bucket/prefix")
    path = os.fspath(given)
    if not isinstance(path, str):
        raise ConfigError(f"{option(what, given)}: expected a path of text, not of bytes")
    return path


def paths(given: StrPath | Iterable[StrPath], what: str = "photos") -> tuple[str, ...]:
    """Return one path or several as a tuple of strings.

    Raises
    ------
    ConfigError
        If something else is given.
    """
    if isinstance(given, str | os.PathLike):
        return (path_of(given, what),)
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise ConfigError(f"{option(what, given)}: expected a path, or several")
    return tuple(path_of(path, what) for path in given)


def as_call(name: str, sources: tuple[str, ...], out: str, options: Mapping[str, Any]) -> str:
    """Return the source text of an API call, for the record."""
    told = {key: value for key, value in plain(options).items() if key not in _SECRET}
    given = [repr(sources[0] if len(sources) == 1 else list(sources)), f"to={out!r}"]
    return f"fruits.{name}({', '.join([*given, *(f'{key}={value!r}' for key, value in told.items())])})"
