"""docs/architecture.md is true: imports follow it (the contracts are in pyproject.toml), and the names in it exist."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ncnnkit
import ncnnkit.pipeline
import ncnnkit.reuse
from ncnnkit.pipeline import stages_to_come
from ncnnkit.recipe import Recipe

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/ncnnkit"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
ROWS = [
    line for line in PAGE.split("## Where a change belongs")[1].split("\n## ")[0].splitlines() if line.startswith("| ")
][2:]
BINARY = {".onnx", ".jpg", ".png", ".bin", ".pyc", ".npy"}
SOURCES = sorted(
    path for folder in ("src", "scripts", "tests") for path in (ROOT / folder).rglob("*") if path.is_file()
)  # fmt: skip


def test_imports_follow_the_layers() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def found(name: str) -> Path | None:
    """The file or folder of a path relative to the package or to the repository."""
    return next((home / name for home in (PACKAGE, ROOT) if (home / name).exists()), None)


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def is_path(name: str) -> bool:
    return bool("/" in name or re.search(r"\w\.(py|h|jinja|toml|md|json|sh)$", name))


def test_the_table_is_read() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_row_of_where_a_change_belongs(row: str) -> None:
    cell = row.split("|")[2]
    paths = [name for name in names(cell) if is_path(name)]
    folders = [path for name in paths if (path := found(name)) is not None and path.is_dir()]
    missing = [name for name in paths if not (found(name) or any((folder / name).exists() for folder in folders))]
    assert not missing, "files that do not exist"
    files = [file for path in map(found, paths) if path for file in ([path] if path.is_file() else path.glob("*.py"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    for name in names(cell):
        if not is_path(name) and not name.startswith((".", "ncnnkit ")):
            for part in name.split("."):
                assert re.search(rf"(def|class) {part}\b|^\s*{part}\b.*[=:]", text, re.MULTILINE), (
                    f"{name} is not defined in {paths}"
                )


def test_the_stages_are_those_of_a_run() -> None:
    rows = [row.split("|") for row in PAGE.split("## Stages")[1].split("\n## ")[0].splitlines() if row.startswith("| ")]
    written = [(name, *names(row[3])) for row in rows[2:] for name in row[1].strip().split(", ")]
    recipe = Recipe(
        model="model.onnx",
        precisions=("fp32", "int8", "mixed"),
        on=("board",),
        shape_too=((3, 8, 8),),
        engines=("mnn",),
        scheduler="local",
    )
    stages = stages_to_come(recipe)
    assert [name for name, _ in written if name != "look at this machine"] == stages
    assert "look at this machine" in stages_to_come(Recipe(model="model.onnx"))
    source = inspect.getsource(ncnnkit.pipeline) + inspect.getsource(ncnnkit.reuse)
    for name, function in written:
        assert re.search(rf"\b{function}\(", source), f"{name}: the pipeline does not call {function}"


def test_names_on_the_page_exist() -> None:
    """Outside the table: each file exists, and each name in code occurs in the sources."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in SOURCES if path.suffix not in BINARY]
    everything = "\n".join(texts)
    files = {path.name for path in SOURCES} | {path.name for path in ROOT.iterdir()}
    for name in names(PAGE.split("## Decisions")[1]):
        if is_path(name):
            assert found(name) or Path(name).name in files or name in everything, f"there is no {name}"
        elif re.fullmatch(r"[\w.:]+", name):
            last = re.split(r"[.:]+", name)[-1]
            assert re.search(rf"\b{re.escape(last)}\b", everything), f"the code knows no {name}"


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_are_valid(page: Path) -> None:
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        file = page.parent / path if path else page
        assert file.exists(), f"{target} does not exist"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{file.name} has no heading {anchor}"


def modules() -> list[str]:
    found = pkgutil.walk_packages(ncnnkit.__path__, "ncnnkit.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def test_no_module_has_the_name_of_something_its_package_exports() -> None:
    """Importing the module would replace the exported object."""
    packages = [ncnnkit, *(m for m in map(importlib.import_module, modules()) if hasattr(m, "__path__"))]
    for package in packages:
        inside = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert not inside & set(getattr(package, "__all__", ())), package.__name__


def test_what_is_exported_is_what_its_name_says() -> None:
    for name in modules():
        importlib.import_module(name)
    for name in ncnnkit.__all__:
        assert not inspect.ismodule(getattr(ncnnkit, name)), name
        assert getattr(ncnnkit, name).__name__ == name
