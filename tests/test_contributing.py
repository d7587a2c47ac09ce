"""The example diffs of docs/contributing.md apply to the code, and the commands below them pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
EXAMPLES = {
    section.split("\n")[0]: (found[2], found[3])
    for section in PAGE.split("\n## ")
    if (found := re.search(r"^(`{3,})diff\n(.*?)^\1\n\n```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
}
"""Heading -> (its diff, the commands)."""


def test_every_kind_of_change_has_an_example() -> None:
    assert set(EXAMPLES) == {"Add a board", "Add a layer type", "Add a pass", "Add a task"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
@pytest.mark.parametrize("heading", EXAMPLES)
def test_a_worked_diff(heading: str, tmp_path: Path) -> None:
    diff, commands = EXAMPLES[heading]
    for name in ("src", "tests", "scripts", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, capture_output=True, text=True)
    assert done.returncode == 0, f"the diff does not apply any more: {done.stderr}"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "src"),
    }
    for command in commands.splitlines():
        words = command.replace("pytest ", "python -m pytest -q -n 0 -p no:cacheprovider ", 1)
        done = subprocess.run(words, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
