"""The notebooks of examples/ run from their first cell to their last, in their order; none is stored with outputs."""

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="notebooks are run where nbclient is installed")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run where nbclient is installed")
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SECONDS = 240  # for a cell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them work: the later ones go on from the run of the first."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


# one kernel's socket library warns that it talks over this machine's own TCP, which is what is wanted here
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebooks_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()
        said = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert said
        assert not [output for output in said if output.output_type == "error"]
