"""Writes the program that ships: a CMake project in C++, or one file of Python, around a model.

The folders ``cpp`` and ``python`` beside this file are those projects. Files that end in ``.jinja`` are Jinja2
templates and lose that ending; all others are copied as they are.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from ..artifact import Artifact
from ..errors import FormatError, ModelError, RecipeError, StorageError
from ..model.graph import Graph
from ..record.folder import LABELS, content, save_labels, staging
from .examples import FOLDER, bounds, examples_of_images, words, write_examples
from .facts import RELEASE, Facts, facts_of
from .head import box_head
from .models import Shipment, Shipped, shipment
from .parts import parts_of
from .steps import steps_of
from .writing import files_in, write_project

Language = Literal["cpp", "python"]
LANGUAGES: tuple[Language, ...] = ("cpp", "python")

RECORD = "app.json"
"""The files of an app and their hashes; where it lies, the folder is an app's."""

_HOME = Path(__file__).parent


def make_app(
    model: Artifact | Graph | str | Path,
    folder: str | Path,
    *,
    variant: str | None = None,
    lang: str = "cpp",
    embed: bool = False,
    images: str | Path | None = None,
    extras: Sequence[str] = (),
) -> Shipped:
    """Write the project of a program that runs a model.

    Args:
        model: an Artifact, a Graph, or the path of a ``.param``, whose card holds the options, the preprocessing and
            the class names. Or a run folder or its run.json: then the app holds all models of the variant's device.
        folder: where to write: a new or empty folder, or an app's as it was written, which is replaced. What else lies
            beside its files and folders, as ``build``, stays.
        variant: of a run: a variant's name, as ``int8-vulkan``, or a precision, which means its CPU variant. By default
            it is the recommended one.
        lang: ``cpp`` or ``python``.
        embed: whether the model becomes part of the program, which then reads no model files; ``cpp`` only.
        images: of a model that is no run: a few of them become the examples of the program's self-test, with what the
            model makes of them on this machine. A run has examples of its own, with the original's outputs.
        extras: parts of a C++ program that not everybody needs: ``streams`` or ``camera``.

    Returns:
        The model that the program runs by default.

    Raises:
        FormatError: there is neither a run nor a model, or its files are missing or corrupt.
        RecipeError: no such variant or language.
        ModelError: the variant has no model, or an input has an unknown shape, or there are several and images are
            cut into tiles, in C++.
        StorageError: ``folder`` holds something else or an app that was changed, or cannot be written.

    Example:
        >>> nk.make_app("model.param", "myapp", lang="python").name  # for the files of a run: nk.make_app("out", ...)
        'fp32-cpu'
    """
    if lang not in LANGUAGES:
        raise RecipeError(f"unknown language {lang!r}", hint=" or ".join(LANGUAGES))
    if embed and lang != "cpp":
        raise RecipeError("--embed is for C++ only", hint="leave it out, or --lang cpp")
    shipped = shipment(model, variant)
    if images is not None:
        shipped = replace(shipped, examples=examples_of_images(shipped.chosen.model, images))
    facts = facts_of(shipped)
    parts = parts_of(shipped, facts, embed, tuple(extras))
    if lang == "cpp" and parts >= {"several", "tiles"}:
        what = "an app in C++ cuts no images into tiles where the network has several inputs"
        raise ModelError(what, where=shipped.name, hint="--lang python")
    with staging(Path(folder), RECORD, files_of_app) as new:
        write_models(shipped, new / "models")
        write_examples(shipped.examples, facts, new / FOLDER)
        values = values_of(facts, parts)
        write_project(_HOME / lang, new, values)
        if lang == "cpp":
            write_project(_HOME / "cpp_tasks" / facts.task.kind, new, values)
        (new / RECORD).write_text(json.dumps(hashes(new), indent=2) + "\n", encoding="utf-8")
    return shipped.chosen


def values_of(facts: Facts, parts: frozenset[str]) -> dict[str, object]:
    """What the templates of a program read."""
    return {
        "facts": facts,
        "preprocess": facts.inputs[facts.main].preprocess,
        "steps": steps_of(facts),
        "head": box_head(facts.task.decoder) if facts.task.kind == "boxes" and facts.task.decoder else None,
        "parts": parts,
        "release": RELEASE,
    }


def write_models(shipped: Shipment, models: Path) -> None:
    """Write the models' files, the class names, ``variants.txt`` and ``checksums.txt``.

    A line of ``variants.txt`` is name, precision, backend, model, and the bounds of its self-test. One of
    ``checksums.txt`` is the CRC-32 and the name of a ``.param`` or ``.bin``; the program checks it when it loads that
    file.

    Raises:
        FormatError: a model's file is missing.
    """
    models.mkdir()
    # Of several variants of a file, the card says the one that the app was made for.
    for row in {row.stem: row for row in (*shipped.models, shipped.chosen)}.values():
        param = models / f"{row.stem}.param"
        if row.model.param is None:
            row.model.save(param)
            continue
        for ending in (".param", ".bin", *([] if row.model.derived else [".json"])):
            _copy(row.model.param.with_suffix(ending), param.with_suffix(ending))
    lines = [
        f"{row.name} {row.model.precision} {row.backend} {row.stem} {words(bounds(row, shipped.examples))}\n"
        for row in shipped.models
    ]
    (models / "variants.txt").write_text("".join(lines), encoding="utf-8")
    checked = sorted(path for path in models.iterdir() if path.suffix in (".param", ".bin"))
    sums = [f"{zlib.crc32(path.read_bytes()):08x} {path.name}\n" for path in checked]
    (models / "checksums.txt").write_text("".join(sums), encoding="utf-8")
    save_labels(shipped.chosen.model.labels, models / LABELS)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise FormatError("is missing", where=str(source), hint="make the model again") from None


def hashes(folder: Path) -> dict[str, str]:
    """Path of every file below a folder -> SHA-256 of its content."""
    return {path.relative_to(folder).as_posix(): _hash(path) for path in files_in(folder)}


def files_of_app(folder: Path) -> set[str]:
    """The files and folders that belong to the app in a folder: those that its app.json lists, and app.json.

    Returns:
        Their names in ``folder``; empty if there is no folder or nothing in it.

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
    for path in files_in(folder):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in ours and written.get(name) != _hash(path):
            raise StorageError(
                f"{name} was changed since ncnnkit wrote it", where=str(folder), hint="choose another folder with -o"
            )
    return ours | {RECORD}


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
