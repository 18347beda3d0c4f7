"""Backbones: finding, preparing and checking the network from pixels to an embedding.

A backbone is an ONNX file from pixels to one vector per photo, with a card (JSON) beside it. Preparing it adds the card's scaling
to the graph, so that every network takes the same input: decoded uint8 RGB. Independent of photo files, labels and engines.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass, replace
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits import extensions
from fruits.embedding.card import Card, read_card
from fruits.embedding.graphs.onnx_file import whole_file
from fruits.embedding.session import first_line, open_session
from fruits.errors import BackboneError, ImageDecodeError, counted, option
from fruits.photos.decoding.images import DECODER, Preprocessing
from fruits.storage.disk.local import read_plain
from fruits.storage.sanitising import json_text, printable
from fruits.storage.tables import schemas

#: Photos per inference call. Larger batches exceed the processor's cache and are slower; results do not depend on it.
BATCH_SIZE: Final = 32
#: Pixels that the processor computes on at a time. Measured with MobileNetV2 on a core with 1 MB of second-level cache,
#: microseconds per photo, least of 30: at 100 x 100 850 by 4, 857 by 8, 872 by 10, 900 by 16, 1,050 by 32; at 160 x 160 1,858 by
#: 3, 1,972 by 8; at 224 x 224 3,492 one by one, 3,602 by 2, 4,413 by 8. Quantised networks take a little less by more.
_PIXELS_IN_CACHE: Final = 80_000
#: Largest magnitude in an embedding. Learning squares and sums numbers in float32: up to this limit, nothing overflows with 10
#: million photos of 1,280 numbers. Typical networks give numbers below 1,000.
LARGEST: Final = 1e12
#: Largest difference between a photo's embedding alone and in a batch, relative to the largest number: float32 sums in another
#: order, and half precision.
_SAME: Final = 1e-4
_SAME_HALF: Final = 4e-3
#: Numbers per synthetic photo in a card's reference, and their tolerance between machines: quantised networks round differently
#: with and without VNNI.
_REFERENCE: Final = 32
_SAME_AS_REFERENCE: Final = 0.03
_MAX_LIST_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network whose file matches its card.

    Attributes
    ----------
    card : Card
        With the sha256 of ``network``.
    network : bytes
        The ONNX file, including external data from files beside it.
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
        model = self._taking_pixels(preprocessing.size)
        Embedder(model).check(self.card, preprocessing.size)
        if self.card.reference:
            self._compare_with_reference(model, preprocessing.size)
        return model

    def reference(self, size: int) -> dict[str, Any]:
        """Return the reference for the card: some numbers of the embeddings of synthetic photos of a size."""
        embeddings = Embedder(self._taking_pixels(size)).embed(probes(size))
        return {"size": size, "values": np.round(_some(embeddings, _REFERENCE), 5).tolist()}

    def _compare_with_reference(self, model: bytes, size: int) -> None:
        """Raise unless the embeddings of synthetic photos match the reference on the card."""
        told = self.card.reference
        values = np.asarray(told["values"], np.float64)
        model = model if told["size"] == size else self._taking_pixels(told["size"])
        found = _some(Embedder(model).embed(probes(told["size"])), values.shape[-1])
        # Infinite if the shapes differ; NaN fails the comparison too.
        apart = float(np.abs(found - values).max()) if found.shape == values.shape else math.inf
        if not apart <= _SAME_AS_REFERENCE * float(np.abs(values).max()):
            raise BackboneError(
                f"'{self.card.name}' does not say of known pixels what its card says that it does (apart by {apart:.2g}, of up "
                f"to {np.abs(values).max():.2g}); scale, shift, channels, layout, dtype or output in the card were changed or "
                "are another network's: fetch the card again, or take the field reference out of it"
            )

    def _taking_pixels(self, size: int) -> bytes:
        """Return the network with the input ``pixels`` and the output ``embedding``."""
        if _takes_pixels(self.network, self.card):
            return self.network
        # Half a second of imports, which workers, and runs with a network of the package, never need.
        from fruits.embedding.graphs.graph import with_pixel_input  # noqa: PLC0415

        return with_pixel_input(self.network, self.card, size)


class Embedder:
    """An inference session of a prepared network. One thread: workers fill the cores, and results do not depend on their number.

    Parameters
    ----------
    model : bytes or Path
        A prepared graph.
    device : str
        As returned by :func:`fruits.embedding.session.usable_device`.

    Raises
    ------
    BackboneError
        If ONNX Runtime cannot open it.
    """

    def __init__(self, model: bytes | Path, device: str = "cpu") -> None:
        self._session = open_session(model, device)
        self._in_cache = device == "cpu"

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings, shape (n, d), of pixels of shape (n, size, size, 3); see also :func:`usable`.

        On the processor, a few photos at a time: what the layers pass on then stays in its cache. The numbers are the same.
        """
        n = len(pixels)
        at_once = max(1, round(_PIXELS_IN_CACHE / max(1, pixels[0].size // 3))) if self._in_cache and n else n
        if n <= at_once:
            return self._run(pixels)
        return np.concatenate([self._run(pixels[start : start + at_once]) for start in range(0, n, at_once)])

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        (embedding,) = self._session.run(["embedding"], {"pixels": pixels})
        return np.asarray(embedding, np.float32)

    @property
    def has_map(self) -> bool:
        """Whether the network outputs the feature map of which the embedding is the mean."""
        return any(output.name == "map" for output in self._session.get_outputs())

    def embed_with_map(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the embeddings, shape (n, d), and the feature maps, shape (n, d, rows, columns), of which they are the means."""
        embedding, maps = self._session.run(["embedding", "map"], {"pixels": pixels})
        return np.asarray(embedding, np.float32), np.asarray(maps, np.float32)

    def check(self, card: Card, size: int) -> None:
        """Raise :class:`BackboneError` unless embeddings have the card's size and each depends on its photo only.

        Embeddings of some photos may be unusable; such photos are rejected individually. That of a grey photo must be usable.
        """
        photos = probes(size)
        n = len(photos)
        try:
            together, again = self._run(photos), self._run(photos)
            alone = np.concatenate([self._run(photo[None]) for photo in photos])
            turned = self._run(photos[::-1])[::-1]
        except Exception as exc:  # ONNX Runtime raises plain subclasses of Exception
            raise BackboneError(
                f"'{card.name}' cannot take photos of {size} x {size} ({first_line(exc)}); check size and layout in its card"
            ) from exc
        if together.shape != (n, card.embedding_size) or not usable(together)[0]:
            worst = np.abs(together[:1]).max(initial=0.0)
            raise BackboneError(
                f"'{card.name}' gives shape {together.shape} and numbers up to {worst:.3g} for {counted(n, 'photo')}; expected "
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
    """Return which of n embeddings (n, d) are usable: all numbers finite and at most ``LARGEST`` in magnitude."""
    return np.asarray((np.abs(embeddings) <= LARGEST).all(axis=1))  # false for NaN too


def no_embedding() -> ImageDecodeError:
    """Return the error for a photo without a usable embedding, shared by batch, command line and service."""
    return ImageDecodeError("no embedding", f"the network gave numbers that are not finite or beyond {LARGEST:.0e}")


def find_backbone(name: str) -> Backbone:
    """Find a backbone by name (in this package, pulled, exported, or from another package) or by the path of an ONNX file.

    Another package adds one by an entry point in ``fruits.backbones``: the path of its ONNX file, or a function that returns it.
    ``a+b`` is one network that concatenates the embeddings of both.

    The card of a file is ``FILE`` with the suffix ``.json``, or one in the package that names the file's sha256.

    Raises
    ------
    BackboneError
        If there is none, its card is missing, or the file does not match the sha256 of the card.
    ExtensionError
        If it comes from another package that cannot be loaded.
    """
    folder, path = _package_folder(), _path_of(name)
    if "+" in name and not os.path.isfile(path):  # noqa: PTH113 - false also for names that no file can have
        return _joined(name)
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
            f"no backbone '{printable(name[:200])}'; expected one of {', '.join(backbone_names())}, or the path of an .onnx "
            f"file; 'fruits backbones' lists, pulls and exports networks; or {extensions.more('backbone')}"
        )
    path = folder / f"{name}.onnx"
    network = path.read_bytes()
    return Backbone(_verified(read_card(folder / f"{name}.json"), network, network, path), network)


def _path_of(name: str) -> Path:
    """Return the path of a network that was pulled, exported or added by another package; of any other name, the name itself."""
    if name in _embedded(_package_folder()) or "/" in name or "+" in name:
        return Path(name)
    own = own_folder() / f"{name}.onnx"
    if os.path.isfile(own):  # noqa: PTH113 - false also for names that no file can have
        return own
    added = extensions.find("backbone", name)
    return Path(name) if added is None else network_of(added)


def known_backbones() -> dict[str, Path]:
    """Return the named networks with the paths of their cards: those of the package, then those pulled or exported."""
    found = {name: _package_folder() / f"{name}.json" for name in _embedded(_package_folder())}
    for path in sorted(own_folder().glob("*.onnx")):
        found.setdefault(path.stem, path.with_suffix(".json"))
    return found


def backbone_names() -> list[str]:
    """Return every name that :func:`find_backbone` accepts; names from other packages come last."""
    return list(dict.fromkeys([*known_backbones(), *(one.name for one in extensions.others("backbone"))]))


def network_of(added: extensions.Extension) -> Path:
    """Return the path of the ONNX file of another package's backbone.

    Raises
    ------
    ExtensionError
        If the package cannot be loaded, or names no file.
    """
    given = added.load()
    if callable(given):
        try:
            given = given()
        except Exception as exc:  # the function of another package may raise anything
            added.fail("cannot be found", exc)
    if not isinstance(given, str | os.PathLike) or not os.path.isfile(given):  # noqa: PTH113 - false for names no file can have
        added.fail(f"names no file ({printable(str(given)[:200])}; expected the path of an ONNX file)")
    return Path(given)


def own_folder() -> Path:
    """Return the folder of pulled and exported networks in the user's data folder; it may not exist."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local/share") / "fruits/backbones"


def _joined(name: str) -> Backbone:
    from fruits.embedding.graphs.joining import joined, typical_length  # noqa: PLC0415 - imports onnx

    names = tuple(name.split("+"))
    if len(names) != 2 or not all(names):
        raise BackboneError(
            f"{option('backbone', printable(name[:200]))}: expected two networks, such as fruits-photo+my-network"
        )
    found = [find_backbone(one) for one in names]
    lengths = []
    for one in found:
        size = one.card.size if isinstance(one.card.size, int) else one.card.size[1]
        one.prepared(one.card.preprocessing(size, None))  # an error of either network names that network
        embeddings = Embedder(one._taking_pixels(size)).embed(probes(size))
        lengths.append(typical_length(embeddings[usable(embeddings)]))
    first, second = found
    both = joined(
        (names[0], names[1]), (first.card, second.card), (first.network, second.network), (lengths[0], lengths[1])
    )
    return Backbone(*both)


def training_photos(card: Card, name: str) -> NDArray[np.uint64] | None:
    """Return the first 8 bytes of the sha256 of each photo that a backbone was trained on; None if its card has no list.

    Parameters
    ----------
    card : Card
    name : str
        As given to :func:`find_backbone`.

    Raises
    ------
    BackboneError
        If the card names a list that is missing or unreadable.
    """
    if not card.training_photos:
        return None
    if card.training_photos == "+":  # two networks: the union of their lists
        lists = [training_photos(find_backbone(one).card, one) for one in name.split("+")]
        return np.unique(np.concatenate([one for one in lists if one is not None]))
    own = {read_card(path).sha256 for path in _package_folder().glob("*.json")}
    # A network made anew has the same names as that of the package, and another list.
    beside = () if name in _embedded(_package_folder()) else (_path_of(name).parent,)
    for folder in (*beside, *((_package_folder(),) if card.sha256 in own else ())):
        path = folder / Path(card.training_photos).name
        if path.exists():
            try:
                listed = read_plain(path, _MAX_LIST_BYTES)
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


def computation_id(card: Card, preprocessing: Preprocessing, device: str = "cpu") -> str:
    """Return the id of an embedding job, 16 hexadecimal digits: a hash of everything that can change a bit of an embedding.

    That is the network, its preprocessing, the version of the decoder, the device, and the releases of the libraries
    (:func:`releases`).
    """
    parts = {
        "decoder": DECODER,
        "sha256": card.sha256,
        "input": [card.layout, card.dtype, card.channels, card.scale, card.shift],
        "output": card.output,
        "preprocessing": asdict(preprocessing),
        "schema": schemas.VERSION,
        "releases": releases(),
        "device": device,
    }
    return hashlib.sha256(json_text(parts, sort_keys=True).encode()).hexdigest()[:16]


def releases() -> dict[str, str]:
    """Return the releases of the libraries that decode, scale, measure and embed photos.

    Pillow 13 scales tall photos differently from Pillow 12; releases of ONNX Runtime differ in the order of sums. If pillow-heif
    is installed, photos can be decoded that were rejected before.
    """
    found = {package: _release(package) for package in ("numpy", "pillow", "pillow-heif")}
    runtimes = [f"{name} {_release(name)}" for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")]
    return {**found, "onnxruntime": ", ".join(one for one in runtimes if not one.endswith(" "))}


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _takes_pixels(model: bytes, card: Card) -> bool:
    """Return whether the graph has the input and output of a prepared one already, as the networks made by fruits."""
    if (card.layout, card.dtype, card.channels) != ("NHWC", "uint8", "RGB"):
        return False
    try:
        session = open_session(model)
    except BackboneError:
        return False  # preparing it gives a better error message
    inputs = [(end.name, end.type) for end in session.get_inputs()]
    outputs = {end.name: end.type for end in session.get_outputs()}
    return (
        inputs == [("pixels", "tensor(uint8)")]
        and outputs.get("embedding") == "tensor(float)"
        and not set(outputs) - {"embedding", "map"}
        and card.output in ("", "embedding")
    )


def _some(embeddings: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return ``count`` numbers of each embedding, spread evenly: after a ReLU, many numbers are zero."""
    d = embeddings.shape[1]
    return embeddings[:, np.linspace(0, d - 1, min(count, d)).astype(np.int64)].astype(np.float64)


def probes(size: int) -> NDArray[np.uint8]:
    """Return five synthetic photos, shape (5, size, size, 3), grey first, that differ in brightness, colour and detail."""
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
    """Return the card with the sha256 of the whole network. The card may name that hash, the one of the given file, or none."""
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
