"""The guides in docs/: their commands run, and the messages and words that they explain exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, blocks, printing, run_block

import ncnnkit as nk

DATA = ROOT / "src/ncnnkit/data"
HOW_TO = sorted(path.stem for path in (ROOT / "docs/how-to").glob("*.md"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the how-tos start from: model.onnx, calib/, eval/, samples.npy, x.npy and a run in out/."""
    folder = tmp_path_factory.mktemp("guides")
    shutil.copy(DATA / "efficientnet-lite0.onnx", folder / "model.onnx")
    for name, source, every in (("calib", "calibration", 3), ("eval", "evaluation", 4)):
        (folder / name).mkdir()
        for path in sorted((DATA / "images" / source).iterdir())[::every]:
            shutil.copy(path, folder / name)
    samples = np.random.default_rng(0).normal(0, 1, (8, 3, 224, 224)).astype(np.float32)
    np.save(folder / "samples.npy", samples)
    np.save(folder / "x.npy", samples[0])
    recipe = nk.Recipe(
        str(folder / "model.onnx"), images=str(folder / "calib"), eval_images=str(folder / "eval"), backends=("cpu",),
        precisions=("fp32", "int8", "mixed"), effort="fast", seconds=0.05, rounds=1,
    )  # fmt: skip
    nk.run(recipe, folder / "out")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", HOW_TO)
def test_the_commands_of_a_how_to_run(page: str, made: Path) -> None:
    for number in range(len(blocks(f"how-to/{page}"))):
        run_block(number, made, page=f"how-to/{page}")


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO)
def test_the_python_of_a_how_to_prints_what_it_says(
    page: str, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8")
    assert len(printing(text)) == text.count("```python"), "each has what it prints below it"
    monkeypatch.chdir(made)
    for code, printed in printing(text):
        exec(code, {"__name__": "page"})
        assert capsys.readouterr().out == printed


def test_every_how_to_has_commands_that_run() -> None:
    assert HOW_TO
    for page in HOW_TO:
        assert blocks(f"how-to/{page}") or printing((ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8")), page
