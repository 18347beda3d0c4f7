"""The notebook does what it says, from its first cell to its last, on the local engine; and is kept without outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/notebooks/explore.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_notebook_is_kept_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 20, "small cells"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # of the kernel's sockets, which nbclient leaves to the collector
def test_notebook_runs_from_end_to_end(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, on photos that it makes itself; only what comes out is kept, to be looked at."""
    from nbclient import NotebookClient

    monkeypatch.delenv("FRUITS_PHOTOS", raising=False)
    monkeypatch.delenv("FRUITS_ENGINE", raising=False)
    monkeypatch.setenv("FRUITS_OUT", str(tmp_path / "results"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for folder in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    done = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
        env=dict(os.environ),
    ).execute()
    said = "\n".join(
        output.get("text", "") for cell in done.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "160 photos of 8 labels" in said
    assert "160 computed" in said
    [difference] = re.findall(r"differ by (\S+)", said)
    assert float(difference) < 1e-6, "float64 sums in another order"
    [accuracy] = re.findall(r"accuracy ([\d.]+)%", said)
    assert float(accuracy) > 70, "the sample is small, and most of it is told apart"
    assert any("image/svg+xml" in output.get("data", {}) for cell in done.cells for output in cell.get("outputs", ()))
    assert (tmp_path / "results/embeddings").is_dir()
