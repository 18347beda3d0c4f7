"""Networks from a Hugging Face hub: one ONNX file at a pinned revision, verified by its hash, with a card.

The card is derived from the preprocessing settings of the repository. ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_TOKEN`` and the
hub's cache are supported by ``huggingface_hub`` itself (extra ``hub``). Independent of what networks compute.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from fruits.embedding.card import read_card
from fruits.embedding.graphs.onnx_file import MAX_BYTES, named_files, whole_file
from fruits.errors import BackboneError

PREFIX: Final = "hf:"
_ADDRESS: Final = re.compile(r"hf:(\w[\w.-]*)/(\w[\w.-]*)((?:/\w[\w.-]*)*\.onnx)?(?:@(\w[\w./-]*))?", re.ASCII)
_COMMIT: Final = re.compile("[0-9a-f]{40}")
#: Usual paths of the network in a repository, in order of preference.
_FILES: Final = ("model.onnx", "onnx/model.onnx", "onnx/vision_model.onnx")
#: Files with settings of the preprocessing.
_SETTINGS: Final = ("preprocessor_config.json", "config.json")
_MAX_SETTINGS_BYTES: Final = 1 << 20
_KERNELS: Final = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


class Address(NamedTuple):
    """The parts of ``hf:owner/name/file.onnx@revision``; file and revision are optional."""

    repository: str
    file: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address; raise :class:`BackboneError` if it is invalid."""
        if not (found := _ADDRESS.fullmatch(text)):
            raise BackboneError(
                f"'{text[:200]}' is no address; expected hf:owner/name, hf:owner/name/file.onnx or ...@revision"
            )
        owner, name, file, revision = found.groups()
        return cls(f"{owner}/{name}", (file or "").lstrip("/"), revision or "")


class HubNetwork(NamedTuple):
    """A network fetched from the hub.

    Attributes
    ----------
    network : bytes
        The ONNX file, including external data.
    source : str
        Its pinned address: file and commit.
    card : dict
        Fields of a card that the repository provides; without ``size`` if it has no settings of the preprocessing.
    """

    network: bytes
    source: str
    card: dict[str, Any]


def already_pulled(address: Address, folder: Path) -> Path | None:
    """Return a network that was pulled before, if the address is pinned or the hub is offline; None if there is none."""
    from huggingface_hub import constants  # noqa: PLC0415 - an extra, and slow to import

    if not _COMMIT.fullmatch(address.revision) and not constants.HF_HUB_OFFLINE:
        return None
    for path in sorted(folder.glob("*.onnx")):
        try:
            source = Address.parse(read_card(path.with_suffix(".json")).source)
        except BackboneError:
            continue
        same_file = source.file == address.file or not address.file
        if source.repository == address.repository and same_file and source.revision.startswith(address.revision):
            return path
    return None


def pull(address: Address, sha256: str = "") -> HubNetwork:
    """Fetch a network.

    Parameters
    ----------
    address : Address
    sha256 : str
        Expected hash of the ONNX file; empty: the one given by the hub.

    Raises
    ------
    BackboneError
        If the hub cannot be reached, has no such network, or serves a file with another hash.
    """
    from huggingface_hub import HfApi, constants  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    if constants.HF_HUB_OFFLINE:
        raise BackboneError(
            f"'{address.repository}' was not pulled before, and HF_HUB_OFFLINE is set; pull it where there is a network and "
            "copy the two files (with --sha256, --embedding, --card or another --name it is always fetched)"
        )
    api = HfApi()
    try:
        info = api.model_info(address.repository, revision=address.revision or None, files_metadata=True)
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise BackboneError(f"the hub names no commit of '{address.repository}'; is {constants.ENDPOINT} a hub?")
        files = {one.rfilename: one for one in info.siblings or []}
        name = _file(address, list(files))
        pulled = _Repository(address.repository, commit, files)
        with tempfile.TemporaryDirectory() as folder:
            network = pulled.whole(name, sha256, Path(folder))
        settings = [json.loads(pulled.read(one, _MAX_SETTINGS_BYTES)) for one in _SETTINGS if one in files]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as exc:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        raise BackboneError(
            f"'{address.repository}' cannot be fetched from {constants.ENDPOINT} ({status or type(exc).__name__}); check the "
            "name and the revision, HF_ENDPOINT, and HF_TOKEN if it is private"
        ) from exc
    except (OSError, ValueError) as exc:
        if isinstance(exc, BackboneError):
            raise
        raise BackboneError(
            f"'{address.repository}' cannot be fetched from {constants.ENDPOINT} ({str(exc)[:200]}); is there a network?"
        ) from exc
    except Exception as exc:
        # The hub's client does not wrap errors of its HTTP library, and the library differs between its versions.
        if type(exc).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "requests", "urllib3"):
            raise
        raise BackboneError(
            f"{constants.ENDPOINT} cannot be reached ({type(exc).__name__}); check the network and HF_ENDPOINT, or set "
            "HF_HUB_OFFLINE=1 to use what was pulled before"
        ) from exc
    source = f"{PREFIX}{address.repository}/{name}@{commit}"
    about: Any = info.card_data or {}
    licence, datasets = about.get("license") or "", about.get("datasets") or []
    card = {
        "title": f"{address.repository}, {name}",
        "source": source,
        "licence": str(licence),
        "attribution": f"{address.repository} on {constants.ENDPOINT}",
        "made_by": f"fruits backbones pull {source}",
        "training_data": ", ".join(map(str, datasets if isinstance(datasets, list) else [datasets])),
        **pixels_of(settings),
    }
    return HubNetwork(network, source, card)


def pixels_of(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return size, scaling, fit and kernel from a repository's settings; empty if they have none.

    Parameters
    ----------
    settings : list of dict
        ``preprocessor_config.json`` of transformers, ``config.json`` of timm, in any order.
    """
    try:
        for one in settings:
            if "image_mean" in one or "do_rescale" in one or "rescale_factor" in one:
                return _of_transformers(one)
            if "input_size" in (given := one.get("pretrained_cfg") or {}):
                return of_timm(given)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as exc:
        raise BackboneError(
            f"what the repository says of its pixels cannot be understood ({exc}); give --card"
        ) from exc
    return {}


def of_timm(given: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a card from timm's ``pretrained_cfg``."""
    return {
        "size": int(given["input_size"][-1]),
        "scale": tuple(1 / (255 * float(value)) for value in given["std"]),
        "shift": tuple(-float(m) / float(s) for m, s in zip(given["mean"], given["std"], strict=True)),
        "fit": "crop",
        "kernel": given.get("interpolation") if given.get("interpolation") in ("bilinear", "lanczos") else "bicubic",
    }


def _of_transformers(given: dict[str, Any]) -> dict[str, Any]:
    factor = float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 1.0
    normalised = given.get("do_normalize", True) and given.get("image_mean") is not None
    mean, deviation = (given["image_mean"], given["image_std"]) if normalised else ([0.0] * 3, [1.0] * 3)
    cropped = bool(given.get("do_center_crop")) and given.get("crop_size") is not None
    sizes = given["crop_size"] if cropped else given["size"]
    short = isinstance(sizes, dict) and "shortest_edge" in sizes
    if isinstance(sizes, dict):
        sizes = sizes.get("height") or sizes.get("shortest_edge")
    return {
        "size": int(sizes),
        "scale": tuple(factor / float(value) for value in deviation),
        "shift": tuple(-float(m) / float(s) for m, s in zip(mean, deviation, strict=True)),
        "fit": "crop" if cropped or short else "squash",
        "kernel": _KERNELS.get(given.get("resample", 2), "bicubic"),
    }


class _Repository:
    """The files of a repository at a commit."""

    def __init__(self, repository: str, commit: str, files: dict[str, Any]) -> None:
        self._repository, self._commit, self._files = repository, commit, files

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return a file, from the hub's cache if it is there; raise unless it has the hash given by the hub."""
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        about = self._files[name]
        if about.size is not None and about.size > most_bytes:
            raise BackboneError(
                f"'{self._repository}': {name} has {about.size:,} bytes; expected at most {most_bytes:,}"
            )
        data = Path(hf_hub_download(self._repository, name, revision=self._commit)).read_bytes()
        announced = about.lfs.sha256 if about.lfs else None
        if announced and hashlib.sha256(data).hexdigest() != announced:
            raise BackboneError(f"'{self._repository}': {name} is not the file that the hub announced; pull it again")
        return data

    def whole(self, name: str, sha256: str, folder: Path) -> bytes:
        """Return an ONNX file with its external data included."""
        data = self.read(name, MAX_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        if sha256 and digest != sha256.lower():
            raise BackboneError(
                f"'{self._repository}': {name} has sha256 {digest}; expected {sha256}: another file than the one you know"
            )
        path = folder / PurePosixPath(name).name
        path.write_bytes(data)
        beside = PurePosixPath(name).parent
        for location in named_files(data, name):
            there = (beside / location).as_posix()
            if there not in self._files:
                raise BackboneError(
                    f"'{self._repository}': {name} keeps weights in '{location}', which is not in the repository"
                )
            target = folder / location
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(there, MAX_BYTES))
        return whole_file(path)[1]


def _file(address: Address, names: list[str]) -> str:
    networks = [name for name in names if name.endswith(".onnx")]
    if address.file:
        if address.file in networks:
            return address.file
    elif len(networks) == 1:
        return networks[0]
    else:
        for name in _FILES:
            if name in networks:
                return name
    told = ", ".join(networks[:12]) or "none"
    asked = f"no {address.file}" if address.file else "no ONNX file to begin with"
    raise BackboneError(
        f"'{address.repository}' has {asked}; its networks: {told}. Name one: hf:{address.repository}/FILE"
    )
