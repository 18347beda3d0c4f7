"""The network that turns pixels into an embedding, and the card that says how it wants them.

A backbone is an ONNX file from pixels to one vector per photo, with a card (JSON) beside it. Preparing one puts the card's
scaling into the graph, so that from then on every network takes the same input: uint8 RGB as decoded. Knows nothing of
files of photos, labels or engines.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fruits.config import Fit
from fruits.embedding.onnx_file import whole_file
from fruits.embedding.session import first_line, open_session
from fruits.errors import BackboneError, ConfigError, ImageDecodeError
from fruits.harmless import json_text, printable
from fruits.photos.images import DECODER, Kernel, Preprocessing
from fruits.storage import schemas
from fruits.storage.files import read_regular

#: Photos per inference call. Larger batches leave the cache and are slower; the answer per photo does not depend on it.
BATCH_SIZE: Final = 32
#: Largest magnitude in an embedding. Learning squares and sums numbers in float32: of 10 million photos of 1,280 numbers up to
#: here nothing overflows. Networks give numbers below 1,000.
LARGEST: Final = 1e12
#: Largest difference of a photo's numbers alone and beside others, as a share of the largest: float32 sums in another order, and
#: half precision.
_SAME: Final = 1e-4
_SAME_HALF: Final = 4e-3
_MAX_CARD_BYTES: Final = 1 << 20
_MAX_LIST_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What must be known of a network to use it rightly.

    Attributes
    ----------
    name, title : str
        For people.
    sha256 : str
        Of the ONNX file; 64 hexadecimal digits.
    embedding_size : int
        d.
    size : int or tuple of two int
        Side of the input in pixels; or the smallest and largest sensible side of a network that takes any. Then a run uses
        the side of its photos within these bounds: scaling photos up costs time and adds nothing.
    layout : {"NHWC", "NCHW"}
        Order of the input's axes.
    dtype : {"uint8", "float32"}
        Of the input. uint8 takes pixels as they are.
    scale, shift : tuple of 3 float
        Per channel, float32 input only: ``pixel * scale + shift``.
    output : str
        Name of the output that is the embedding, where there are several and none has that name.
    fit, kernel : str
        How a photo becomes a square; see ``Preprocessing``.
    licence, attribution, made_by : str
        Whose it is and how it was made.
    training_data : str
        What it was trained on, for people.
    training_photos : str
        Name of a file beside the card that lists the photos it was trained on: the first 8 bytes of the sha256 of each,
        sorted. Empty: not known by content.
    figures : dict
        What was measured, for people.

    Raises
    ------
    BackboneError
        If a value is impossible.
    """

    name: str
    sha256: str
    embedding_size: int
    size: int | tuple[int, int]
    title: str = ""
    layout: Literal["NHWC", "NCHW"] = "NCHW"
    dtype: Literal["uint8", "float32"] = "float32"
    scale: tuple[float, float, float] = (1 / 127.5, 1 / 127.5, 1 / 127.5)
    shift: tuple[float, float, float] = (-1.0, -1.0, -1.0)
    output: str = ""
    fit: Fit = "pad"
    kernel: Kernel = "bicubic"
    licence: str = ""
    attribution: str = ""
    made_by: str = ""
    training_data: str = ""
    training_photos: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout not in ("NHWC", "NCHW") or self.dtype not in ("uint8", "float32"):
            raise BackboneError(
                f"card of '{self.name}': layout {self.layout}, dtype {self.dtype}; expected NHWC or NCHW, uint8 or float32"
            )
        for name in (
            "name",
            "sha256",
            "title",
            "output",
            "licence",
            "attribution",
            "made_by",
            "training_data",
            "training_photos",
        ):
            if not isinstance(getattr(self, name), str):
                raise BackboneError(f"card of '{self.name}': {name} is {getattr(self, name)!r}; expected text")
        numbers = (*self.scale, *self.shift)
        if len(self.scale) != 3 or len(self.shift) != 3 or not all(isinstance(value, int | float) for value in numbers):
            raise BackboneError(f"card of '{self.name}': expected 3 numbers each in scale and shift, one per channel")
        if not isinstance(self.embedding_size, int) or self.embedding_size < 1:
            raise BackboneError(f"card of '{self.name}': embedding_size {self.embedding_size!r}; expected 1 or more")
        bounds = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if len(bounds) != 2 or not 8 <= bounds[0] <= bounds[1] <= 2048:
            raise BackboneError(
                f"card of '{self.name}': size {self.size}; expected one side or two, from 8 to 2048 pixels"
            )
        try:
            Preprocessing(bounds[0], self.fit, self.kernel)
        except ConfigError as exc:
            raise BackboneError(f"card of '{self.name}': {exc}") from exc

    def preprocessing(self, size: int | None, fit: Fit | None, photo_side: int | None = None) -> Preprocessing:
        """Return what a run uses: the card's word unless the user said otherwise.

        Parameters
        ----------
        size, fit : optional
            The user's choice.
        photo_side : int, optional
            Typical short side of the photos, for a card that gives bounds.
        """
        if size is None:
            low, high = self.size if isinstance(self.size, tuple) else (self.size, self.size)
            size = high if photo_side is None else min(max(photo_side, low), high)
        return Preprocessing(size, fit or self.fit, self.kernel)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network that was found and whose file is the one its card speaks of.

    Attributes
    ----------
    card : Card
        With the sha256 of ``network``.
    network : bytes
        ONNX, whole: what the file keeps in others beside it is taken in.
    """

    card: Card
    network: bytes

    def prepared(self, preprocessing: Preprocessing) -> bytes:
        """Return the ONNX graph from ``pixels`` (uint8, NHWC, RGB) to ``embedding`` (float32, (batch, d)).

        Raises
        ------
        BackboneError
            If the graph is not from one image input to one vector per photo.
        """
        model = self.network
        if not _takes_pixels(model, self.card):
            # Half a second of imports that a worker, and a run with an embedded network, never needs.
            from fruits.embedding.graph import with_pixel_input  # noqa: PLC0415

            model = with_pixel_input(model, self.card, preprocessing.size)
        Embedder(model).check(self.card, preprocessing.size)
        return model


class Embedder:
    """An open network: one thread, so that workers fill the cores and the answer never depends on their number.

    Parameters
    ----------
    model : bytes or Path
        A prepared graph.

    Raises
    ------
    BackboneError
        If ONNX Runtime cannot open it.
    """

    def __init__(self, model: bytes | Path) -> None:
        self._session = open_session(model)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings, shape (n, d), of pixels of shape (n, size, size, 3); see also :func:`usable`."""
        (embedding,) = self._session.run(["embedding"], {"pixels": pixels})
        return np.asarray(embedding, np.float32)

    @property
    def has_map(self) -> bool:
        """Whether the network gives the feature map whose mean the embedding is."""
        return any(output.name == "map" for output in self._session.get_outputs())

    def embed_with_map(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the embeddings, shape (n, d), and the maps that they are the mean of, shape (n, d, rows, columns)."""
        embedding, maps = self._session.run(["embedding", "map"], {"pixels": pixels})
        return np.asarray(embedding, np.float32), np.asarray(maps, np.float32)

    def check(self, card: Card, size: int) -> None:
        """Raise :class:`BackboneError` unless photos get vectors of the card's size that depend on nothing but the photo.

        Some numbers may be unusable for some photos, which are then rejected one by one; never those of a grey one.
        """
        photos = _probes(size)
        n = len(photos)
        try:
            together, again = self.embed(photos), self.embed(photos)
            alone = np.concatenate([self.embed(photo[None]) for photo in photos])
            turned = self.embed(photos[::-1])[::-1]
        except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
            raise BackboneError(
                f"'{card.name}' cannot take photos of {size} x {size} ({first_line(exc)}); check size and layout in its card"
            ) from exc
        if together.shape != (n, card.embedding_size) or not usable(together)[0]:
            worst = np.abs(together[:1]).max(initial=0.0)
            raise BackboneError(
                f"'{card.name}' gives shape {together.shape} and numbers up to {worst:.3g} for {n} photos; expected "
                f"({n}, {card.embedding_size}), finite and up to {LARGEST:.0e}: check embedding_size and scale in its card"
            )
        good = usable(together)
        if not np.array_equal(together, again, equal_nan=True):
            raise BackboneError(
                f"'{card.name}' gives the same photos other numbers each time; expected the same: export it for inference, "
                "such as with model.eval(), which turns Dropout off"
            )
        scale = float(np.abs(together[good]).max(initial=0.0))
        half = (
            np.array_equal(together[good], together[good].astype(np.float16).astype(np.float32))
            if scale < 6e4
            else False
        )
        allowed = (_SAME_HALF if half else _SAME) * scale
        for other in (alone, turned):
            apart = (
                float(np.abs(other[good] - together[good]).max(initial=0.0)) if usable(other)[good].all() else math.inf
            )
            if apart > allowed:
                raise BackboneError(
                    f"'{card.name}' gives a photo other numbers beside other photos than alone (apart by {apart:.2g}, of up to "
                    f"{scale:.2g}); expected the same: export it for inference, such as with model.eval(), which fixes "
                    "BatchNorm, and quantise it statically, not dynamically"
                )
        if scale == 0 or (good.sum() > 1 and np.ptp(together[good], axis=0).max() <= 1e-6 * scale):
            raise BackboneError(
                f"'{card.name}' gives different photos the same numbers; expected others: check scale and shift in its card"
            )


def usable(embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which of n embeddings (n, d) can be learnt from and recognised: finite, and none beyond ``LARGEST``."""
    return np.asarray((np.abs(embeddings) <= LARGEST).all(axis=1))  # false also where it is no number


def no_embedding() -> ImageDecodeError:
    """Return why a photo is rejected that the network has no usable numbers for: the same in batch, terminal and service."""
    return ImageDecodeError("no embedding", f"the network gave numbers that are not finite or beyond {LARGEST:.0e}")


def find_backbone(name: str) -> Backbone:
    """Return the embedded backbone of that name, or the one in that ONNX file.

    The card of a file is ``FILE`` with the suffix ``.json``, or one in the package that names the file's sha256.

    Raises
    ------
    BackboneError
        If there is none, its card is missing, or the file is not the one the card names.
    """
    folder, path = _package_folder(), Path(name)
    if path.suffix.lower() == ".onnx":
        try:
            given, network = whole_file(path)
        except OSError as exc:
            known = ", ".join(_embedded(folder))
            raise BackboneError(
                f"'{printable(name[:200])}' cannot be read ({exc.strerror}); expected an ONNX file, or one of {known}"
            ) from exc
        beside = path.with_suffix(".json")
        if beside.exists():
            return Backbone(_verified(read_card(beside), given, network, path), network)
        digests = {hashlib.sha256(data).hexdigest() for data in (given, network)}
        for card_path in sorted(folder.glob("*.json")):
            card = read_card(card_path)
            if card.sha256 in digests:
                return Backbone(_verified(card, given, network, path), network)
        raise BackboneError(_no_card(path, hashlib.sha256(network).hexdigest()))
    if name not in _embedded(folder):
        raise BackboneError(
            f"no backbone '{name}'; expected one of {', '.join(_embedded(folder))}, or the path of an .onnx file"
        )
    path = folder / f"{name}.onnx"
    network = path.read_bytes()
    return Backbone(_verified(read_card(folder / f"{name}.json"), network, network, path), network)


def training_photos(card: Card, name: str) -> NDArray[np.uint64] | None:
    """Return the photos that a backbone was trained on, by the first 8 bytes of their sha256; None if its card names none.

    Parameters
    ----------
    card : Card
    name : str
        As given to :func:`find_backbone`.

    Raises
    ------
    BackboneError
        If the card names a list that is not there.
    """
    if not card.training_photos:
        return None
    for folder in (_package_folder(), Path(name).parent):
        path = folder / Path(card.training_photos).name
        if path.exists():
            try:
                listed = read_regular(path, _MAX_LIST_BYTES)
                return np.frombuffer(listed, ">u8").astype(np.uint64)
            except (OSError, ValueError) as exc:
                raise BackboneError(
                    f"'{path.name}', the list of training photos of '{card.name}', cannot be read "
                    f"({getattr(exc, 'strerror', None) or exc}); expected a file of 8 bytes per photo"
                ) from exc
    raise BackboneError(
        f"the card of '{card.name}' names '{card.training_photos}' as the list of its training photos, which is not there; "
        "put it beside the network, or take the field training_photos out of the card"
    )


def read_card(path: Path) -> Card:
    """Read a card.

    Raises
    ------
    BackboneError
        If it is not JSON, lacks a field or has one that is unknown.
    """
    try:
        values = json.loads(read_regular(path, _MAX_CARD_BYTES))
    except (OSError, ValueError, RecursionError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise BackboneError(f"card '{path.name}' cannot be read ({why}); docs/backbones.md shows a whole one") from exc
    return parse_card(values)


def parse_card(values: dict[str, Any]) -> Card:
    """Return the card of plain JSON values.

    Raises
    ------
    BackboneError
        If a field is missing, unknown or impossible.
    """
    try:
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return Card(**fields)
    except (TypeError, AttributeError) as exc:
        raise BackboneError(f"the backbone's card cannot be used ({exc}); docs/backbones.md shows a whole one") from exc


def computation_id(card: Card, preprocessing: Preprocessing) -> str:
    """Return the identity of the computation, 16 hexadecimal digits: a hash of all that can change a bit of an embedding.

    That is the network, what it is given, how photos are decoded, and the releases of what computes (:func:`releases`).
    """
    parts = {
        "decoder": DECODER,
        "sha256": card.sha256,
        "input": [card.layout, card.dtype, card.scale, card.shift],
        "output": card.output,
        "preprocessing": asdict(preprocessing),
        "schema": schemas.VERSION,
        "releases": releases(),
    }
    return hashlib.sha256(json_text(parts, sort_keys=True).encode()).hexdigest()[:16]


def releases() -> dict[str, str]:
    """Return the releases of what turns a photo into an embedding: decoding and scaling, measuring, the network itself.

    Pillow 13 scales tall photos otherwise than Pillow 12; other releases of ONNX Runtime add up in another order. With
    pillow-heif, where it is installed, photos can be read that were rejected before.
    """
    return {package: _release(package) for package in ("numpy", "onnxruntime", "pillow", "pillow-heif")}


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _takes_pixels(model: bytes, card: Card) -> bool:
    """Whether the graph is one that fruits made: its input and output are already what preparing would give."""
    if (card.layout, card.dtype) != ("NHWC", "uint8"):
        return False
    try:
        session = open_session(model)
    except BackboneError:
        return False  # whoever takes it apart says better what is wrong
    inputs = [(end.name, end.type) for end in session.get_inputs()]
    outputs = {end.name: end.type for end in session.get_outputs()}
    return (
        inputs == [("pixels", "tensor(uint8)")]
        and outputs.get("embedding") == "tensor(float)"
        and not set(outputs) - {"embedding", "map"}
        and card.output in ("", "embedding")
    )


def _probes(size: int) -> NDArray[np.uint8]:
    """Return five made-up photos, shape (5, size, size, 3), grey first, that differ in light, colour and detail."""
    y, x = np.mgrid[:size, :size].astype(np.float64) / size
    ramp = np.stack([255 * x, 255 * y, 255 * (1 - x)], axis=2)
    disk = np.where(((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.12)[..., None], (200, 40, 30), (250, 250, 250))
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    dark = np.full((size, size, 3), (12, 25, 8))
    grey = np.full((size, size, 3), 128)
    return np.stack([grey, ramp, disk, noise, dark]).astype(np.uint8)


def _package_folder() -> Path:
    return Path(str(resources.files("fruits.embedding") / "backbones"))


def _embedded(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.onnx"))


def _verified(card: Card, given: bytes, network: bytes, path: Path) -> Card:
    """Return the card with the sha256 of the whole network; it may name that, the file as given, or none."""
    digest = hashlib.sha256(given).hexdigest()
    whole = digest if network is given else hashlib.sha256(network).hexdigest()
    if card.sha256 not in ("", digest, whole):
        raise BackboneError(
            f"'{path.name}' has sha256 {digest[:12]}..., its card names {card.sha256[:12]}...; "
            "the file is damaged or another one: fetch it again, or correct the card"
        )
    return replace(card, sha256=whole)


def _no_card(path: Path, digest: str) -> str:
    example = {
        "name": path.stem,
        "sha256": digest,
        "embedding_size": 1280,
        "size": 224,
        "layout": "NCHW",
        "dtype": "float32",
        "scale": [round(1 / 127.5, 9)] * 3,
        "shift": [-1.0] * 3,
        "fit": "crop",
    }
    return (
        f"'{path.name}' has no card, so its size and scaling are not known; write '{path.with_suffix('.json').name}' beside it, "
        f"such as: {json_text(example)}"
    )
