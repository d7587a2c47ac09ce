"""Writes the program that ships: a CMake project in C++, or one file of Python, around a variant of a run.

The folders ``cpp`` and ``python`` beside this file are those projects. Files that end in ``.jinja`` are Jinja2
templates and lose that ending; all others are copied as they are.
"""

from __future__ import annotations

import json
import shlex
import shutil
import string
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..artifact import card_of
from ..errors import FormatError, ModelError, RecipeError, StorageError
from ..model.ncnnfile import load
from ..model.precision import PRECISIONS
from ..record.folder import LABELS, content, load_run, staging
from ..record.run import PLAIN_NAME, Run, Variant

Language = Literal["cpp", "python"]
LANGUAGES: tuple[Language, ...] = ("cpp", "python")

RECORD = "app.json"
"""The files of an app and their hashes; where it lies, the folder is an app's."""

_HOME = Path(__file__).parent


def make_app(out: Path, variant: str, folder: Path, lang: str = "cpp", embed: bool = False) -> Variant:
    """Write the project of a program that runs a run's model.

    Args:
        out: the run folder, or its run.json.
        variant: a variant's name, as ``int8-vulkan``, or a precision, which means its CPU variant.
        folder: where to write: a new or empty folder, or an app's as it was written, which is replaced. What else lies
            beside its files and folders, as ``build``, stays.
        lang: ``cpp`` or ``python``.
        embed: the model becomes part of the program by default; ``cpp`` only.

    Returns:
        The variant chosen.

    Raises:
        FormatError: ``out`` is not a run folder, or its files are missing.
        RecipeError: no such variant or language.
        ModelError: the variant has no model, or the network takes several inputs.
        StorageError: ``folder`` holds something else or an app that was changed, or cannot be written.
    """
    if lang not in LANGUAGES:
        raise RecipeError(f"unknown language {lang!r}", hint=" or ".join(LANGUAGES))
    if embed and lang != "cpp":
        raise RecipeError("--embed is for C++ only", hint="leave it out, or --lang cpp")
    run = load_run(out)
    home = out if out.is_dir() else out.parent
    chosen = choose(run, variant, home)
    facts = describe(run, chosen, home)
    with staging(folder, RECORD, files_of_app) as new:
        copy_models(run, chosen.device, facts, home, new / "models")
        write_project(_HOME / lang, new, {**facts, "run": run, "variant": chosen, "embed": embed})
        _write_json(hashes(new), new / RECORD)
    return chosen


def choose(run: Run, name: str, where: Path) -> Variant:
    """The variant of this name or precision. Raises RecipeError and ModelError."""
    by_name = {variant.name: variant for variant in run.variants}
    # Of several devices, a precision means the first's.
    of_precision = (v for v in run.variants if (v.precision, v.backend) == (name, "cpu"))
    variant = by_name.get(name) or next(of_precision, None)
    if variant is None:
        raise RecipeError(f"the run has no variant {name!r}", where=str(where), hint=f"one of {', '.join(by_name)}")
    if variant.files is None:
        raise ModelError(f"the variant {variant.name} has no model: {variant.reason}", where=str(where))
    if len(run.model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in run.model.inputs)
        raise ModelError(f"an app supports one input, but the network has several ({names})", where=str(where))
    return variant


def describe(run: Run, variant: Variant, home: Path) -> dict[str, Any]:
    """What a program must know of its model, as plain JSON values. Raises FormatError."""
    assert variant.files is not None
    graph = load(home / variant.files.param)
    return {
        "model": run.model.name,
        "variant": variant.name,
        "precision": variant.precision,
        "backend": variant.backend,
        "stem": Path(variant.files.param).stem,
        "input": {"name": graph.inputs[0], "shape": run.model.inputs[0].shape},
        # Blobs that nobody reads count as outputs in ncnn, too; they come after the model's own.
        "outputs": list(graph.outputs[: len(run.model.outputs)]),
        "preprocess": run.preprocess
        and {
            **run.preprocess.to_dict(),
            "origin": run.preprocess_origin,
            "may_swap": may_swap_passes(run),
        },
        "precisions": {name: {"fp16": row.fp16, "bf16": row.bf16} for name, row in PRECISIONS.items()},
    }


def may_swap_passes(run: Run) -> bool:
    """Whether the Pillow of a run may resize by height first, which rounds otherwise: from version 13 on."""
    major = run.environment.pillow.partition(".")[0]
    return int(major if major.isdecimal() else version("Pillow").partition(".")[0]) >= 13


def copy_models(run: Run, device: str, facts: Mapping[str, Any], home: Path, models: Path) -> None:
    """The files of every variant of a device, the class names, ``variants.txt`` (name, precision, backend and model a
    line) and ``model.json``, the facts.

    Raises:
        FormatError: a file that run.json names is missing.
    """
    models.mkdir()
    rows = []
    for variant in run.variants:
        if variant.files is None or variant.device != device:
            continue
        for name in (variant.files.param, variant.files.bin):
            _copy(home / name, models / name)
        stem = Path(variant.files.param).stem
        card = card_of(home / variant.files.param)
        if card.is_file():  # a run of an older ncnnkit wrote none
            _copy(card, models / card.name)
        precision, backend = variant.precision, variant.backend
        rows.append((f"{precision}-{backend}", precision, backend, stem))
    rows.sort(key=lambda row: row[0] != "fp32-cpu")  # what the others are compared with comes first
    (models / "variants.txt").write_text("".join(" ".join(row) + "\n" for row in rows), encoding="utf-8")
    if run.model.labels:
        _copy(home / LABELS, models / LABELS)
    else:
        (models / LABELS).touch()
    _write_json(facts, models / "model.json")


def write_project(source: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Copy a project's files, rendering its templates with ``facts``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(source), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    # Nothing that a run.json says stands in a file of code but through one of these.
    environment.filters |= {
        "float32": float32_literal, "cpp": cpp_literal, "cmake": cmake_argument, "shell": shlex.quote,
    }  # fmt: skip
    for path in _files(source):
        name = path.relative_to(source).as_posix()
        to = target / name.removesuffix(".jinja")
        to.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jinja"):
            to.write_text(environment.get_template(name).render(facts), encoding="utf-8")
        else:
            shutil.copyfile(path, to)
        if to.suffix == ".sh" or to.name == "infer.py":
            to.chmod(0o755)  # a wheel does not keep it


def float32_literal(value: float) -> str:
    """The shortest C++ literal of a number's nearest float32."""
    return f"{np.float32(value)!s}f"


def cpp_literal(text: str) -> str:
    """A C++ string literal with these characters in UTF-8, whatever they are.

    Example:
        >>> print(cpp_literal('a"b'))
        "a\\042b"
    """
    plain = (chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in text.encode("utf-8", "replace"))
    return f'"{"".join(plain)}"'


_PLAIN = set(string.ascii_letters + string.digits + " .,:;_-+/()[]@=")
"""Characters that mean themselves in a C++ string literal."""


def cmake_argument(text: str) -> str:
    """A quoted argument for CMake with these characters. Raises ValueError for what no list of CMake can hold."""
    if not PLAIN_NAME.fullmatch(text):
        raise ValueError(f"{text!r} cannot be written into a CMakeLists.txt")
    return f'"{text}"'


def _files(source: Path) -> Iterator[Path]:
    return (path for path in sorted(source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        hint = "put the class names there, one a line" if source.name == LABELS else "do the run again"
        raise FormatError("is missing", where=str(source), hint=hint) from None


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def hashes(folder: Path) -> dict[str, str]:
    """Path of every file below a folder -> SHA-256 of its content."""
    return {path.relative_to(folder).as_posix(): _hash(path) for path in _files(folder)}


def files_of_app(folder: Path) -> set[str]:
    """The files and folders that belong to the app in a folder: those that its app.json lists, and app.json.

    Returns:
        Their names in ``folder``; empty where there is no folder or nothing in it.

    Raises:
        StorageError: the folder holds no app, or one that was changed: replacing it would lose what a user wrote.
    """
    if not folder.is_dir() or not content(folder):
        return set()
    try:
        written = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        ours = {path.partition("/")[0] for path in written}
    except (OSError, ValueError, AttributeError):
        raise StorageError(
            "is not empty and contains no app", where=str(folder), hint="choose another folder with -o"
        ) from None
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in ours and written.get(name) != _hash(path):
            raise StorageError(
                f"{name} was changed since ncnnkit wrote it", where=str(folder), hint="choose another folder with -o"
            )
    return ours | {RECORD}


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
