"""The notebook in docs/ runs, and its stored outputs have the same form as new outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"


def shown(cell: Any) -> list[str]:
    """The kinds of a cell's outputs: the name of a stream, or the formats of a value. Parts of a stream are merged."""
    kinds = [output.get("name") or ",".join(sorted(output["data"])) for output in cell["outputs"]]
    return list(dict.fromkeys(kinds))


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_small_and_was_run_as_a_whole() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 40_000
    cells = code(json.loads(text))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert "/home" not in text, "a path of the machine that ran it"
    assert "/tmp" not in text
    assert "\\u001b" not in text, "colours of a terminal"


@pytest.mark.slow  # two runs
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    before = [shown(cell) for cell in code(notebook)]
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [shown(cell) for cell in code(notebook)] == before
    assert (tmp_path / "out/report.html").is_file()
    assert (tmp_path / "classify/infer.py").is_file()
