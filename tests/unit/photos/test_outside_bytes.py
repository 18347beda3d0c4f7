"""Bytes from outside are decoded in a process that may die of them, and nowhere else: looked for in every module."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import fruits

SOURCE = Path(fruits.__file__).parent
#: What decodes in the process that calls it.
IN_PROCESS = {"from_image", "to_network_input", "to_thumbnail", "read_size", "made_photos"}
#: Who may: the decoder itself, and the process that it is called in.
DECODERS = {
    "photos/decoding/images.py",
    "photos/decoding/decoder_process.py",
    "photos/images.py",  # another name of the first
    "photos/reading/inputs.py",  # images that a program holds in memory; files that Pillow has not decoded go to the sandbox
}
#: Who may have Pillow at all, and for what.
PILLOW = {
    "photos/decoding/images.py": "the decoder",
    "photos/decoding/colour.py": "its colours",
    "photos/decoding/jpeg.py": "its way with small JPEGs",
    "recogniser/explain.py": "draws maps on pixels",
    "recogniser/regions.py": "cuts parts out of pixels",
    "assessment/study/preprocessing/treatments.py": "treats pixels",
    "photos/generated/generator.py": "draws photos",
    "photos/generated/samples.py": "writes the pictures that the page offers to try",
    "photos/reading/inputs.py": "takes images that a program holds in memory",
    "photos/decoding/retouch.py": "opens the JPEG that it has just made",
    "service/inference/model.py": "draws the photo that warms up the inference workers",
    "service/pages/routes.py": "asks which way resampling goes, on pixels of its own; joins the package's own pictures",
}
#: Of these, who may read a file's bytes with it.
OPENERS = {"photos/decoding/retouch.py", "service/pages/routes.py"}
READERS = {"open", "Parser", "from_bytes", "preinit", "init"}


@functools.cache
def modules() -> list[tuple[str, list[ast.AST]]]:
    """Every module of the package with its nodes, parsed once."""
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if "node_modules" not in path.parts]
    return [(path.relative_to(SOURCE).as_posix(), list(ast.walk(ast.parse(path.read_text())))) for path in paths]


def imported(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """Every import as module and name."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_only_the_decoders_process_decodes_in_itself() -> None:
    found = {
        name
        for name, nodes in modules()
        for module, what in imported(nodes)
        if (module == "fruits.photos.decoding.images" and what in IN_PROCESS)
        or (module, what) in {("fruits.photos.decoding", "images"), ("fruits.photos.decoding", "jpeg")}
        or module == "fruits.photos.decoding.jpeg"
        or (module == "fruits.photos.decoding.images" and what == "*")
        or (module == "fruits.photos.decoding.images" and not what)
    }
    assert found <= DECODERS
    assert "photos/decoding/decoder_process.py" in found, "the test looks at what is there"


def test_pillow_is_where_it_is_expected() -> None:
    found = {
        name
        for name, nodes in modules()
        for module, _ in imported(nodes)
        if module.split(".")[0] in ("PIL", "pillow_heif")
    }
    assert found == set(PILLOW)


def test_no_module_opens_images_but_those_that_made_them() -> None:
    found = {
        name
        for name, nodes in modules()
        for node in nodes
        if isinstance(node, ast.Attribute)
        and node.attr in READERS
        and isinstance(node.value, ast.Name)
        and node.value.id in ("Image", "ImageFile")
    }
    assert found == OPENERS
