"""The notebooks run as they are, in a kernel of Jupyter's, and are kept without what they print."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_what_it_prints(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [c for c in code if c.outputs or c.execution_count is not None] == []


@pytest.mark.parametrize(("name", "pictures"), [("probe.ipynb", 2), ("prompts.ipynb", 0)])
def test_a_notebook_runs(
    name: str, pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, from top to bottom, with no complaint on the error stream.

    But for tqdm's, which dependencies bring and which would rather draw bars with ipywidgets.
    """
    for place in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(place, str(tmp_path / "jupyter"))
    (tmp_path / "here").mkdir()
    notebook = nbformat.read(FOLDER / name, as_version=4)
    there = {"metadata": {"path": str(tmp_path / "here")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=there).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    said = [o.text for o in outputs if o.get("name") == "stderr"]
    assert [text for text in said if "TqdmWarning" not in text] == []
    assert sum("image/png" in o.get("data", {}) for o in outputs) == pictures
    assert (tmp_path / "here" / "films.zarr" / "zarr.json").is_file()


def test_every_notebook_is_run() -> None:
    assert NOTEBOOKS == ["probe.ipynb", "prompts.ipynb"]
