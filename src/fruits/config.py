"""Configuration of a run: one frozen object, validated when it is made and stored with the results."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final, Literal, get_args

from fruits import extensions
from fruits.errors import ConfigError, naming, option
from fruits.monitoring.cores import usable_cores

#: Default backbone: an embedded network for photos taken by people.
DEFAULT_BACKBONE: Final = "fruits-photo"
#: Devices that run the network.
DEVICES: Final = ("auto", "cpu", "cuda", "openvino")
#: How a photo that is not square becomes square: padded with white, cropped to the largest centred square, or stretched.
Fit = Literal["pad", "crop", "squash"]


#: Key of a field's metadata with its :class:`Choice`.
OPTION: Final = "option"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Command-line properties of a field: see :func:`choice`."""

    help: str
    names: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    envvar: str | None = None
    unset: bool = False


def choice(default: Any, about: str, **more: Any) -> Any:
    """Return a dataclass field that is also a command-line option.

    Parameters
    ----------
    default : object
        Default of the field.
    about : str
        Help text of the option; also documents the field.
    more
        Properties of the option: ``names`` (by default ``--field-name``), ``metavar``, ``least`` (lower bound), ``envvar``, and
        ``unset`` if its default is not shown, such as 0 for "one per core".
    """
    return field(default=default, metadata={OPTION: Choice(help=about, **more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Options of one ``fruits run``; each field made by :func:`choice` is a command-line option of the same name.

    Parameters
    ----------
    sources : tuple of str
        Folders of photos, packs, datasets or manifests (``.csv``, ``.parquet``), on a disk or in a bucket; labels are merged by
        name.
    out : str
        Folder of the results, or ``s3://bucket/prefix``.

    Raises
    ------
    ConfigError
        If an option is invalid, or two options contradict each other.
    """

    sources: tuple[str, ...]
    out: str
    backbone: str = choice(
        DEFAULT_BACKBONE, "Name of an embedded network, an ONNX file, or several joined by +.", metavar="NAME|FILE"
    )
    size: int | None = choice(None, "Side of the network's input in pixels; default: the card's.", metavar="PIXELS")
    resize_mode: Fit | None = choice(
        None,
        "pad, crop or squash a photo that is not square; default: the card's.",
        names=("--resize-mode", "--fit"),
        metavar="MODE",
    )
    variance: float | None = choice(
        None, "Keep the components that explain this share of the variance, above 0 and up to 1."
    )
    components: int | None = choice(
        None, "Keep this many components; default: the smallest number at which validation accuracy no longer improves."
    )
    workers: int = choice(0, "Worker processes; by default one per core.", least=1, unset=True)
    max_rejected: float = choice(0.05, "Largest share of rejected or failed photos; a larger one stops the run.")
    only: tuple[str, ...] = choice(
        (), 'Use only labels of this name or pattern, such as "Apple *"; may be repeated.', metavar="PATTERN"
    )
    sample: int | None = choice(None, "Use at most this many photos per label, chosen at random.")
    taxonomy: str | None = choice(
        None, "CSV file with kind, variety and names of labels (label,kind,variety,en,fr,...), or none.", metavar="FILE"
    )
    min_precision: float = choice(
        0.92, "Share of named answers that must be right on validation photos; a higher one gives more 'not sure'."
    )
    balance: bool | None = choice(
        None, "Weight every kind, and every source of it, equally in training; default: if there are several sources."
    )
    seed: int = choice(0, "Random seed for sampling and validation splits.")
    gallery: int = choice(1000, "Thumbnails of training photos in the bundle, shown beside answers; 0: none.")
    head: str = choice("logistic", "Classifier on the features: {heads}.", metavar="NAME")
    engine: str = choice(
        "local", "Where the work runs: {engines} (spark needs fruits[spark] and Java).", metavar="NAME"
    )
    master: str | None = choice(
        None, "Spark master, such as local[4] or spark://host:7077; default: this machine.", metavar="URL"
    )
    spark_conf: tuple[str, ...] = choice((), "Spark setting, key=value; may be repeated.", metavar="KEY=VALUE")
    device: str = choice(
        "auto",
        "Device that runs the network: auto, cpu, cuda (fruits[gpu]) or openvino (fruits[openvino]).",
        metavar="DEVICE",
    )
    core_hour_usd: float | None = choice(
        None, "Price of a core hour in USD; the report then includes the cost of a million photos.", metavar="USD"
    )
    repair: bool = choice(False, "Verify all stored data first; recompute what is damaged.")
    keep_missing: bool = choice(
        False, "Keep the embeddings of photos that are no longer listed; --only and --sample keep them, too."
    )
    follow_links: bool = choice(False, "Follow symbolic links that lead out of their source.")
    allow_source: tuple[str, ...] = choice(
        (), "Folder or s3://bucket/prefix that links and manifests may lead to; may be repeated.", metavar="PLACE"
    )

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.sources:
            raise ConfigError("no photos given; expected at least one folder or manifest")
        if not self.out or not is_utf8(self.out):
            raise ConfigError(f"{option('to', self.out)}: expected a folder for the results, with a name in UTF-8")
        check_place(self.out)
        if self.resize_mode is not None and self.resize_mode not in get_args(Fit):
            raise ConfigError(f"{option('resize_mode', self.resize_mode)}: expected one of {', '.join(get_args(Fit))}")
        if self.size is not None and not 8 <= self.size <= 2048:
            raise ConfigError(f"{option('size', self.size)}: expected 8 to 2048 pixels")
        if self.variance is not None and self.components is not None:
            raise ConfigError(
                f"both {option('variance')} and {option('components')} given; they choose the same thing: give one"
            )
        if self.variance is not None and not 0 < self.variance <= 1:
            raise ConfigError(
                f"{option('variance', self.variance)}: expected a share above 0 and up to 1, such as 0.99"
            )
        if self.components is not None and self.components < 1:
            raise ConfigError(f"{option('components', self.components)}: expected 1 or more")
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(
                f"{option('max_rejected', self.max_rejected)}: expected a share from 0 to 1, such as 0.05"
            )
        if self.sample is not None and self.sample < 1:
            raise ConfigError(f"{option('sample', self.sample)}: expected 1 or more photos per label")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"{option('seed', self.seed)}: expected 0 or more")
        if not 0.5 <= self.min_precision < 1:
            raise ConfigError(
                f"{option('min_precision', self.min_precision)}: expected a share from 0.5 to below 1, such as 0.92"
            )
        if not 0 <= self.gallery <= 2000:
            raise ConfigError(f"{option('gallery', self.gallery)}: expected 0 to 2000 photos")
        if self.core_hour_usd is not None and not 0 <= self.core_hour_usd < 1e6:
            raise ConfigError(
                f"{option('core_hour_usd', self.core_hour_usd)}: expected what a core costs in an hour, such as 0.05"
            )
        if self.device not in DEVICES:
            raise ConfigError(f"{option('device', self.device)}: expected one of {', '.join(DEVICES)}")
        for kind, name in (("head", self.head), ("engine", self.engine)):
            with naming(kind, name):
                extensions.get(kind, name)
        if self.workers < 0:
            raise ConfigError(f"{option('workers', self.workers)}: expected 1 or more")
        if self.workers == 0:
            object.__setattr__(self, "workers", usable_cores())

    def with_photo_defaults(self, named_sources: int) -> RunConfig:
        """Return the options with defaults that depend on the photos filled in.

        Parameters
        ----------
        named_sources : int
            Number of sources named in manifests.
        """
        several = len(set(self.sources)) > 1 or named_sources > 1
        return self if self.balance is not None else replace(self, balance=several)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values for JSON, without possible secrets."""
        return {
            name: value for name, value in asdict(self).items() if name not in ("spark_conf", "repair", "keep_missing")
        }

    def as_shared(self) -> dict[str, Any]:
        """Return the options for a bundle, which may be published: no paths or addresses, only file names."""
        values = {name: value for name, value in self.as_dict().items() if name not in ("sources", "out", "master")}
        for name in ("backbone", "taxonomy"):
            if values[name]:
                values[name] = re.split(r"[/\\]", values[name])[-1]
        return values


#: Type in an annotation: types of Python that are accepted, and what they are called.
_ACCEPTED: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "int": ((Integral,), "a whole number"),
    "float": ((Real,), "a number"),
    "str": ((str,), "text"),
    "bool": ((bool,), "True or False"),
    "tuple[str, ...]": ((tuple,), "a tuple of texts"),
}


#: Fields that the Python API calls otherwise.
_KEYWORDS: Final = {"sources": "photos", "out": "to"}


def check_place(out: str) -> None:
    """Refuse a folder whose path the Delta library would misread.

    delta-rs (1.6) takes ``%41`` in a path for an escaped character, however it is quoted, and a backslash for a slash.

    Raises
    ------
    ConfigError
        If the absolute path has one of these. Buckets are not checked.
    """
    if "://" not in out and (found := re.search(r"%[0-9A-Fa-f]{2}|\\", str(Path(out).resolve()))):
        raise ConfigError(
            f"{option('to', out)}: its absolute path contains {found[0]}, which the library of the embeddings' table misreads; "
            "expected a folder without it: choose another"
        )


def _check_types(config: RunConfig) -> None:
    """Raise :class:`ConfigError` for a value of another type: the Python API checks nothing before."""
    for one in fields(config):
        value, (kind, _, optional) = getattr(config, one.name), str(one.type).partition(" | ")
        if kind not in _ACCEPTED or (optional and value is None):
            continue
        accepted, called = _ACCEPTED[kind]
        is_flag = isinstance(value, bool)
        if not isinstance(value, accepted) or (is_flag and kind != "bool"):
            raise ConfigError(
                f"{option(_KEYWORDS.get(one.name, one.name), value)}: expected {called}{' or None' if optional else ''}"
            )


def is_utf8(name: str) -> bool:
    """Return whether a name can be encoded as UTF-8, which tables need; file names in other encodings cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
