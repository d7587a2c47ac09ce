"""The package: its supported Pythons, its requirements, and its files."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ncnnkit.cli import app
from ncnnkit.older import tomllib

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "ncnnkit").rglob("*.py"))
# In the standard library since Python 3.11.
NEWER = {("tomllib", ""), ("typing", "Self"), ("datetime", "UTC"), ("hashlib", "file_digest"), ("enum", "StrEnum")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_are_of_python_310(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    if path.name == "older.py":
        return
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add((node.value.id, node.attr))
    assert not used & NEWER, "take it from ncnnkit.older"


def test_nothing_that_is_installed_by_default_asks_for_torch_or_scipy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.10"
    assert not [each for each in project["dependencies"] if each.startswith(("torch", "scipy", "sympy", "pnnx"))]
    assert "onnx-ir>=0.1.16,<0.2" in project["dependencies"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source distribution."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def tracked(folder: str) -> set[str]:
    """The files of a folder that git tracks."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.splitlines())


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "ncnnkit = ncnnkit.cli:main" in wheel.read(entry).decode()
    assert names == {name.removeprefix("src/") for name in tracked("src")}
    assert {"ncnnkit/py.typed", "ncnnkit/data/efficientnet-lite0.onnx", "ncnnkit/onboard/agent.py"} <= names


@pytest.mark.slow
def test_the_source_distribution_has_its_tests_and_documents(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert tracked("src") | tracked("tests") | tracked("docs") | tracked("scripts") <= names


def test_the_workflow_of_the_page_is_one() -> None:
    """It is YAML, and its commands have the options that they are given."""
    page = (ROOT / "docs/how-to/fail-ci.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (job,) = yaml.safe_load(text)["jobs"].values()
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines() if line.startswith("ncnnkit ")]
    assert len(lines) == 2
    for line in lines:
        _, command, *words = shlex.split(line)
        group: Any = get_command(app)
        known = {option for each in group.resolve_command(None, [command])[1].params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= known
