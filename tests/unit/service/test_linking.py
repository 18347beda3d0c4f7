"""Modules joined into files: each exists once, forms that are not known are refused, and the result is what the modules say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fruits.service.pages.linking import LinkError, link

MODULES = {
    "page.js": """// A page.
import { count, name as called } from "./state.js";
import { later } from "./between.js";
export const told = [];
count();
told.push(called); // twice
later().then((text) => console.log(told.join(), text, count()));
""",
    "between.js": """export const later = async () => {
  const { finish } = await import("./end.js");
  return finish("http://a // no comment");
};
""",
    "end.js": """import { count } from "./state.js";
/**
 * Ends.
 */
export function finish(text) {
  return `${text} ${count()}`;
}
""",
    "state.js": """let counted = await Promise.resolve(0);
export const name = "state";
export const count = () => ++counted;
""",
}


def test_linked_page_does_what_its_modules_do(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    said = {}
    files = link(MODULES, "page.js")
    (end,) = files.keys() - {"page.js"}
    assert re.fullmatch(r"page\.end\.[0-9a-f]{8}\.js", end)
    for way, written in (("apart", MODULES), ("joined", files)):
        (tmp_path / way).mkdir()
        (tmp_path / way / "package.json").write_text('{"type": "module"}')
        for name, text in written.items():
            (tmp_path / way / name).write_text(text)
        run = subprocess.run([node, "page.js"], cwd=tmp_path / way, capture_output=True, text=True, check=True)
        said[way] = run.stdout
    assert said["joined"] == said["apart"] == "state http://a // no comment 2 3\n"
    assert "// twice" not in files["page.js"]
    assert "Ends." not in files[end]


def test_part_of_another_version_of_a_page_has_another_name() -> None:
    changed = link(MODULES | {"state.js": MODULES["state.js"] + "export const more = 1;\n"}, "page.js")
    parts = [files.keys() - {"page.js"} for files in (link(MODULES, "page.js"), link(MODULES, "page.js"), changed)]
    assert parts[0] == parts[1]
    assert parts[0].isdisjoint(parts[2])


def test_worker_is_a_file_of_its_own_that_changes_its_name_with_the_page() -> None:
    modules = {
        "page.js": 'import { both } from "./both.js";\nnew Worker("/static/js/work.js", both);\n',
        "work.js": 'import { both } from "./both.js";\npostMessage(both);\n',
        "both.js": 'export const both = { type: "module" };\n',
    }
    files = link(modules, "page.js")
    (worker,) = files.keys() - {"page.js"}
    assert re.fullmatch(r"page\.work\.[0-9a-f]{8}\.js", worker)
    assert f'new Worker("/static/linked/{worker}", both)' in files["page.js"]
    assert "postMessage" not in files["page.js"]
    assert all("const both = {" in text for text in files.values()), "a worker shares nothing with its page"
    for name in ("work.js", "both.js"):
        changed = link(modules | {name: modules[name] + "export const more = 1;\n"}, "page.js")
        assert worker not in changed
    with pytest.raises(LinkError, match=r"work\.js imports both\.js later"):
        link(modules | {"work.js": 'import("./both.js");\n'}, "page.js")


def test_module_that_two_later_parts_need_exists_once() -> None:
    modules = {
        "page.js": 'import("./one.js"), import("./two.js");\n',
        "one.js": 'import { both } from "./both.js";\nexport const one = both;\n',
        "two.js": 'import { both } from "./both.js";\nexport const two = both;\n',
        "both.js": "export const both = {};\n",
    }
    files = {re.sub(r"\.[0-9a-f]{8}\.js$", ".js", name): text for name, text in link(modules, "page.js").items()}
    assert sorted(files) == ["page.both.js", "page.js", "page.one.js", "page.two.js"]
    assert sum("const both = {};" in text for text in files.values()) == 1
    assert all('from "./page.both.' in files[f"page.{name}.js"] for name in ("one", "two"))


def test_modules_lie_in_folders_and_are_joined_under_their_names() -> None:
    modules = {
        "visits/page.js": 'import { one } from "../one.js";\nimport("./later.js");\nconsole.log(one);\n',
        "visits/later.js": 'import { one } from "../one.js";\nexport const later = one;\n',
        "one.js": "export const one = 1;\n",
    }
    names = [re.sub(r"\.[0-9a-f]{8}\.js$", ".js", name) for name in link(modules, "visits/page.js")]
    assert sorted(names) == ["page.js", "page.later.js"]
    wrong = modules | {"visits/later.js": 'import { one } from "./one.js";\n'}
    with pytest.raises(LinkError, match=r"visits/later\.js imports visits/one\.js, which is not there"):
        link(wrong, "visits/page.js")
    with pytest.raises(LinkError, match=r"has the name of one\.js"):
        link(modules | {"visits/one.js": "export const one = 2;\n"}, "visits/page.js")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('import * as all from "./state.js";\n', "expected imports by name"),
        ('import thing from "./state.js";\n', "expected imports by name"),
        ("export default 1;\n", "expected imports by name"),
        ("export let changing = 1;\n", "expected imports by name"),
        ('import { a } from "./page.js";\n', "expected no circle"),
        ('import { a } from "./missing.js";\n', "missing.js, which is not there"),
    ],
)
def test_what_cannot_be_joined_is_refused(text: str, said: str) -> None:
    with pytest.raises(LinkError, match=said):
        link({"page.js": text, "state.js": ""}, "page.js")
