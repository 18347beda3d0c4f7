"""The commands for pretrained networks: parse, call one function, print."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruits.cli.conventions import SETTINGS, Group, command
from fruits.cli.terminal import JSON, OUTPUT, note
from fruits.config import DEFAULT_BACKBONE
from fruits.errors import BackboneError, ExtensionError
from fruits.storage.sanitising import json_text, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fruits.embedding.backbone import Backbone

_TO = typer.Option(
    *OUTPUT, metavar="FOLDER", help="Folder for the network and its card; default: where --backbone NAME finds it."
)
_NAME = typer.Option(metavar="NAME", help="Name for --backbone; default: that of the network.")
_ADDRESS = typer.Argument(metavar="HF:OWNER/NAME[/FILE.ONNX][@REVISION]", help="Network on a Hugging Face hub.")


def add_to(app: typer.Typer) -> None:
    """Add ``backbones`` to the command line."""
    group = typer.Typer(cls=Group, help="List, pull and export pretrained networks.", **SETTINGS)
    command(group, "list")(backbones_list)
    command(group, "pull")(backbones_pull)
    command(group, "export")(backbones_export)
    app.add_typer(group, name="backbones")


def backbones_list(as_json: Annotated[bool, JSON] = False) -> None:
    """List the networks available to --backbone by name: of the package, pulled, exported, or of other packages."""
    from fruits import extensions  # noqa: PLC0415
    from fruits.embedding.backbone import known_backbones, network_of  # noqa: PLC0415
    from fruits.embedding.card import read_card  # noqa: PLC0415

    rows: list[dict[str, Any]] = []
    known = known_backbones()
    for added in extensions.others("backbone"):
        try:
            known.setdefault(added.name, network_of(added).with_suffix(".json"))
        except ExtensionError as exc:
            rows.append({"name": added.name, "default": False, "file": None, "error": str(exc)})
    for name, path in known.items():
        row: dict[str, Any] = {
            "name": name,
            "default": name == DEFAULT_BACKBONE,
            "file": str(path.with_suffix(".onnx")),
        }
        try:
            card = read_card(path)
        except BackboneError as exc:
            rows.append({**row, "error": str(exc)})
            continue
        rows.append(
            {
                **row, "title": card.title, "size": card.size, "embedding_size": card.embedding_size,
                "megabytes": round(path.with_suffix(".onnx").stat().st_size / 1e6, 1), "licence": card.licence,
                "source": card.source, "training_data": card.training_data, "error": None,
            }
        )  # fmt: skip
    if as_json:
        typer.echo(json_text({"backbones": rows}))
        return
    for row in rows:
        if row["error"]:
            typer.echo(f"{row['name']}: {row['error']}")
            continue
        sides = " to ".join(map(str, row["size"])) if isinstance(row["size"], tuple) else row["size"]
        typer.echo(
            f"{row['name']}{' (default)' if row['default'] else ''}: {printable(row['title'])}; {sides} pixels, "
            f"{row['embedding_size']:,} numbers, {row['megabytes']} MB; {printable(row['licence']) or 'licence unknown'}"
        )


def backbones_pull(
    address: Annotated[str, _ADDRESS],
    to: Annotated[Path | None, _TO] = None,
    name: Annotated[str | None, _NAME] = None,
    sha256: Annotated[
        str, typer.Option(metavar="HEX", help="Expected hash of the ONNX file; another file is refused.")
    ] = "",
    embedding: Annotated[
        str,
        typer.Option(
            "--embedding", metavar="OUTPUT", help="Name of the output that is the embedding, if there are several."
        ),
    ] = "",
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON with size, scale, shift, fit, if the repository does not define them."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Download an ONNX network from a Hugging Face hub, at a pinned revision, and write its card. Needs fruits[hub]."""
    from fruits.embedding.backbone import find_backbone, own_folder  # noqa: PLC0415
    from fruits.embedding.sources import hub  # noqa: PLC0415

    asked = hub.Address.parse(address)
    folder = to or own_folder()
    # A choice of the caller may differ from that of before, and a hash is of the file on the hub: then it is fetched.
    path = None if sha256 or embedding or card else hub.already_pulled(asked, folder)
    if path is not None and name in (None, path.stem):
        note(f"{path.stem} was pulled before: nothing is fetched")
        found = find_backbone(str(path))
    else:
        from fruits.embedding.sources.published import as_backbone, checked_name, save  # noqa: PLC0415

        called = checked_name(name or asked.repository.partition("/")[2])
        own = _card(card)  # an error in it is reported before anything is fetched
        pulled = hub.pull(asked, sha256)
        given = {**pulled.card, **own, "name": called}
        if "size" not in given:
            raise BackboneError(
                f"'{asked.repository}' does not say how its pixels are prepared; give --card FILE with size, scale, shift and "
                "fit: docs/backbones.md shows a whole one"
            )
        found = as_backbone(pulled.network, given, embedding)
        path = save(found, folder)
    _print_backbone(found, path, as_json=as_json)


def backbones_export(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK", help="efficientnet-lite0, efficientnet-lite1, efficientnet-lite2 or timm:NAME."
        ),
    ],
    to: Annotated[Path | None, _TO] = None,
    name: Annotated[str | None, _NAME] = None,
    photos: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Photos for comparing ONNX with torch, in addition to synthetic ones."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export a published torch network as ONNX, compare it with torch, and write its card. Needs fruits[train]."""
    from fruits.embedding.backbone import own_folder  # noqa: PLC0415
    from fruits.embedding.sources.export import export  # noqa: PLC0415
    from fruits.embedding.sources.published import save  # noqa: PLC0415

    found, apart = export(network, None if photos is None else lambda size: _pixels(photos, size), name or "")
    note(f"as torch says it, up to {apart:.1g} of the largest number")
    _print_backbone(found, save(found, to or own_folder()), as_json=as_json)


def _print_backbone(found: Backbone, path: Path, *, as_json: bool) -> None:
    from fruits.embedding.backbone import own_folder  # noqa: PLC0415

    card = found.card
    asked = card.name if path.parent == own_folder() else str(path)
    if as_json:
        told = {"name": card.name, "file": str(path), "sha256": card.sha256, "source": card.source, "backbone": asked}
        typer.echo(
            json_text({**told, "embedding_size": card.embedding_size, "size": card.size, "licence": card.licence})
        )
        return
    typer.echo(
        f"{card.name}: {card.embedding_size:,} numbers, {len(found.network) / 1e6:.1f} MB, "
        f"{printable(card.licence) or 'licence unknown'}; {card.source}\nuse it with --backbone {asked}"
    )


def _card(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from fruits.embedding.card import read_fields  # noqa: PLC0415

    return read_fields(path)


def _pixels(folder: Path, size: int) -> NDArray[np.uint8]:
    """Return some photos of a folder as network input of the given size; photos that cannot be decoded are left out."""
    import numpy as np  # noqa: PLC0415

    from fruits.errors import ImageDecodeError  # noqa: PLC0415
    from fruits.photos.decoding.decoder import own_decoder  # noqa: PLC0415
    from fruits.photos.decoding.images import Preprocessing  # noqa: PLC0415
    from fruits.photos.reading.access import Access  # noqa: PLC0415
    from fruits.photos.reading.reading import read_photo  # noqa: PLC0415

    root = folder.absolute()
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    access, preprocessing, pixels = Access.to([str(root)]), Preprocessing(size, "crop"), []
    for path in paths[:: max(1, len(paths) // 32)][:32]:
        with suppress(OSError, ImageDecodeError):
            pixels.append(own_decoder().to_network_input(read_photo(str(path), access), preprocessing).pixels)
    if not pixels:
        raise BackboneError(f"no photos in '{folder}'; expected JPEG, PNG or WebP that open")
    return np.stack(pixels)
