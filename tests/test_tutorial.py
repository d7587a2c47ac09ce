"""The tutorial's way from a model to a program, as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ncnn_library import installed, run

ROOT = Path(__file__).parents[1]
DATA = ROOT / "src/ncnnkit/data"


@pytest.mark.app
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_newcomers_whole_way(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    assert block is not None
    shutil.copy(DATA / "efficientnet-lite0.onnx", tmp_path)
    shutil.copytree(DATA / "images/calibration", tmp_path / "calibration")
    shutil.copy(DATA / "images/evaluation/chelsea-1.jpg", tmp_path / "cat.jpg")
    command = tmp_path / "bin/ncnnkit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ncnnkit.cli "$@"\n')
    command.chmod(0o755)
    env = {
        **os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "CMAKE_PREFIX_PATH": str(installed("native")),
        "PYTHONPATH": str(ROOT / "src"), "CMAKE_GENERATOR": "Ninja",
    }  # fmt: skip
    said = run("sh", "-e", "-c", block[1], cwd=tmp_path, env=env)
    *_, first, second, third, _, _ = said.splitlines()
    assert {line.split(None, 1)[1] for line in (first, second, third)} == {"tiger cat", "Egyptian cat", "tabby"}
    shutil.rmtree(tmp_path / "myapp/models")
    moved = shutil.move(tmp_path / "myapp/build/infer", tmp_path / "infer")
    alone = subprocess.run([moved, tmp_path / "cat.jpg"], capture_output=True, text=True)
    assert "tiger cat" in alone.stdout, "the model is part of the program"
