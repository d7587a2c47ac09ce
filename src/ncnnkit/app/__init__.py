"""Writes an app: a program around a model, as a CMake project in C++ or as Python files.

The folders ``cpp`` and ``python`` beside this file are these projects. Files that end in ``.jinja`` are Jinja2
templates, and are written without that suffix. All other files are copied.
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
from ..codec import decode
from ..errors import FormatError, ModelError, RecipeError, StorageError
from ..model.graph import Graph
from ..onboard.userfiles import read_bytes
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
"""The file with the hashes of an app's files. A folder that contains it is an app."""

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
        model: an Artifact, a Graph, or the path of a ``.param``; its card gives the options, the preprocessing and the
            class names. Or a run folder or its run.json: the app then contains all models of the variant's device.
        folder: a new or empty folder, or the folder of an app that was not changed, which is replaced. Other files and
            folders in it, such as ``build``, are kept.
        variant: of a run: the name of a variant, such as ``int8-vulkan``, or a precision, which means its CPU variant.
            By default the recommended variant.
        lang: ``cpp`` or ``python``.
        embed: whether the model is compiled into the program; ``cpp`` only.
        images: if ``model`` is not a run: a few of these images become the examples of the program's self-test. Their
            expected outputs are those of the model on this machine. A run has examples of its own, with the outputs of
            the original.
        extras: optional parts of a C++ program, see :data:`~ncnnkit.app.parts.EXTRAS`.

    Returns:
        The model that the program runs by default.

    Raises:
        FormatError: there is neither a run nor a model, or its files are missing or corrupt.
        RecipeError: there is no such variant, language or part.
        ModelError: the variant has no model, the shape of an input is unknown, or a program in C++ would have to cut
            images into tiles for a network with several inputs.
        StorageError: ``folder`` contains other files or an app that was changed, or it cannot be written.

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
        what = "an app in C++ cannot cut images into tiles for a network with several inputs"
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
    """The variables of a program's templates."""
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

    A line of ``variants.txt`` is: name, precision, backend, model, and the bounds of the self-test. A line of
    ``checksums.txt`` is: the CRC-32 and the name of a ``.param`` or ``.bin``. The program checks the CRC-32 when it
    loads the file.

    Raises:
        FormatError: a model's file is missing.
    """
    models.mkdir()
    # If several variants share a file, its card is that of the variant for which the app is made.
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
    """The files and folders that belong to the app in a folder: those in its app.json, and app.json itself.

    Returns:
        Their names in ``folder``; empty if the folder does not exist or is empty.

    Raises:
        StorageError: the folder contains no app, or an app that was changed. Replacing it would lose a user's work.
    """
    if not folder.is_dir() or not content(folder):
        return set()
    try:
        written = decode(read_bytes(folder / RECORD), dict[str, str])
        ours = {path.partition("/")[0] for path in written} - {"", ".", ".."}
    except (OSError, FormatError):
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
