"""Writes the files of an app: renders templates, and escapes values for each language."""

from __future__ import annotations

import json
import shlex
import shutil
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..record.names import PLAIN_NAME
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
    # Every value from a card or run.json is written into code through one of these filters, which escape it.
    environment.filters |= {
        "float32": float32_literal, "float64": float64_literal, "cpp": cpp_literal,
        "cmake": cmake_argument, "shell": shlex.quote,
        "json": lambda facts: json.dumps(asdict(facts), indent=2),
    }  # fmt: skip
    return environment


def files_in(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, in order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def float32_literal(value: float) -> str:
    """The shortest C++ literal of the float32 nearest to a number. Raises ValueError if it is infinite or NaN."""
    with np.errstate(over="ignore"):
        number = np.float32(value)
    if not np.isfinite(number):
        raise ValueError(f"{value} is not a finite float32")
    return f"{number!s}f"


def float64_literal(value: float) -> str:
    """The shortest C++ literal of a number. Raises ValueError if it is infinite or NaN."""
    if not np.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return repr(float(value))


def cpp_literal(text: str) -> str:
    """A C++ string literal for any text, in UTF-8.

    Example:
        >>> print(cpp_literal('a"b'))
        "a\\042b"
    """
    plain = (chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in text.encode("utf-8", "replace"))
    return f'"{"".join(plain)}"'


_PLAIN = set(string.ascii_letters + string.digits + " .,:;_-+/()[]@=")
"""Characters that need no escape in a C++ string literal."""


def cmake_argument(text: str) -> str:
    """A quoted argument for CMake. Raises ValueError if the text has other characters than a plain name."""
    if not PLAIN_NAME.fullmatch(text):
        raise ValueError(f"{text!r} cannot be written into a CMakeLists.txt")
    return f'"{text}"'
