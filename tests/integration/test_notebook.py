"""The notebooks do what they say, from their first cell to their last, on the local engine; and are kept without outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs/notebooks"
#: Of the kernel's sockets, which nbclient leaves to the collector, and of what it imports.
LEFT_TO_THE_COLLECTOR = (
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """Run a notebook as it is, on photos that it makes itself; return it and all that it printed."""
    from nbclient import NotebookClient

    monkeypatch.delenv("FRUITS_PHOTOS", raising=False)
    monkeypatch.delenv("FRUITS_ENGINE", raising=False)
    monkeypatch.setenv("FRUITS_OUT", str(folder / "results"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for place in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(place, str(folder / place))
    done = NotebookClient(
        read(name),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        env=dict(os.environ),
    ).execute()
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    return done, "\n".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("name", [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))])
def test_notebook_is_kept_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 20, "small cells"


@pytest.mark.filterwarnings(*LEFT_TO_THE_COLLECTOR)
def test_library_in_ten_cells_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, said = execute("library.ipynb", tmp_path, monkeypatch)
    assert len(done.cells) == 10
    assert "320 photos of 8 labels" in said
    assert "no photo -> rejected: not an image" in said
    [accuracy] = re.findall(r"accuracy ([\d.]+)%$", said, re.MULTILINE)
    assert float(accuracy) > 80, "of the pipeline of scikit-learn"
    pictures = [
        cell for cell in done.cells if any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))
    ]
    assert len(pictures) >= 6
    imported = set(re.findall(r"(?:from|import) (fruits[.\w]*)", "\n".join(cell.source for cell in done.cells)))
    assert imported == {"fruits", "fruits.sklearn", "fruits.photos.generated"}, (
        "the public API, and photos to show it on"
    )


@pytest.mark.filterwarnings(*LEFT_TO_THE_COLLECTOR)
def test_notebook_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what comes out is kept, to be looked at."""
    done, said = execute("explore.ipynb", tmp_path, monkeypatch)
    assert "160 photos of 8 labels" in said
    assert "160 computed" in said
    [difference] = re.findall(r"differ by (\S+)", said)
    assert float(difference) < 1e-6, "float64 sums in another order"
    [accuracy] = re.findall(r"accuracy ([\d.]+)%", said)
    assert float(accuracy) > 70, "the sample is small, and most of it is told apart"
    assert any("image/svg+xml" in output.get("data", {}) for cell in done.cells for output in cell.get("outputs", ()))
    assert (tmp_path / "results/embeddings").is_dir()
