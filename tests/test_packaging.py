"""What the package promises about the Pythons it runs under and the packages it asks for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ncnnkit.older import tomllib

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "ncnnkit").rglob("*.py"))
# Of the standard library, since Python 3.11.
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
