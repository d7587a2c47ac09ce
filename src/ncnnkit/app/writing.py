"""Writes the files of an app: renders templates, which quote values for each language."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import quoting
from .bundling import standalone
from .parts import FILES

if TYPE_CHECKING:
    from jinja2 import Environment


def write_project(source: Path, target: Path, values: Mapping[str, Any]) -> None:
    """Copy a project's files, without those of parts that the app does not have.

    Files that end in ``.jinja`` are rendered with ``values``, and written without that suffix.
    """
    environment = templates(source)
    for path in files_in(source):
        name = path.relative_to(source).as_posix()
        if FILES.get(name.removesuffix(".jinja"), "") not in {"", *values["parts"]}:
            continue
        to = target / name.removesuffix(".jinja")
        to.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jinja"):
            to.write_text(environment.get_template(name).render(values), encoding="utf-8")
        elif path.suffix == ".py":
            for part, code in standalone(path.read_text(encoding="utf-8"), values["facts"].task.kind).items():
                file = to.parent / part if part else to
                file.parent.mkdir(exist_ok=True)
                file.write_text(code, encoding="utf-8")
        else:
            shutil.copyfile(path, to)
        if to.suffix in (".sh", ".py"):
            to.chmod(0o755)  # a wheel does not keep the mode of its files


def templates(source: Path) -> Environment:
    """The Jinja2 environment for the templates in a folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(source), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    # No text of a card, a .param or a run.json stands in a file but through one of these.
    languages = ("cpp", "cmake", "shell", "markdown", "markdown_code", "line", "float32", "float64")
    environment.filters |= {language: getattr(quoting, language) for language in languages}
    environment.filters["json"] = lambda facts: json.dumps(asdict(facts), indent=2)
    return environment


def files_in(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, in order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
