"""What can be chosen in the lists of labels on the pages."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fruits.service.pages.routes import FOLDER

_PAGE = """
globalThis.document = { documentElement: { dataset: { languages: "en" }, lang: "en" } };
globalThis.fruitsMessages = Promise.resolve({ messages: {}, plural: "" });
const { optionsOf } = await import("./combobox.js");
console.log(JSON.stringify(optionsOf(JSON.parse(process.argv[2])).map(({ value, hint }) => [value, hint])));
"""


def test_labels_that_differ_in_case_alone_are_one_choice(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    shutil.copytree(FOLDER / "js", tmp_path / "js")
    (tmp_path / "js" / "package.json").write_text('{"type": "module"}')
    (tmp_path / "js" / "page.js").write_text(_PAGE)
    labels = [
        {"label": "Apricot", "kind": "apricot", "variety": None, "en": "Apricot"},
        {"label": "Pear 1", "kind": "pear", "variety": None, "en": "Pear"},
        {"label": "apricot", "kind": "apricot", "variety": None, "en": "Apricot"},
        {"label": "Pear 2", "kind": "pear", "variety": None, "en": "Pear"},
    ]
    given = json.dumps({"labels": labels, "kinds": []})
    run = subprocess.run(
        [node, "page.js", given], cwd=tmp_path / "js", capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(run.stdout) == [["Apricot", None], ["Pear 1", "Pear 1"], ["Pear 2", "Pear 2"]]
