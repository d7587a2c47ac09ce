"""Labelled classes, from text files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .finding import text_lines

_QUOTES = "\"'"
MOST_CLASSES = (1 << 31) - 1
"""The largest index of a class."""


def read_classes(path: str | Path, names: Sequence[str], classes: Sequence[str] | None = None) -> NDArray[np.int64]:
    """The labelled class of each image.

    Args:
        path: a text file. It has either a line per image, ``file name<space, tab or comma>class`` (in any order; lines
            about other files are ignored), or one class index per line, in the order of ``names``.
        names: the names of the images, as ``ImageSet.names``. A line may have the bare file name if it is unique.
        classes: class names. A line may then have the name of a class, otherwise it must have an index. If names are
            numbers, such as the digits "1, 2, …, 9, 0", a number is refused if it means one class as an index and
            another as a name. A number in quotes is a name.

    Returns:
        int64 array (N,) of class indices.

    Raises:
        ImageError: a class does not exist, an image has two classes, the file names no image of the set, or an image
            has no label. The error gives the line number.
    """
    path = Path(path)
    lines = [(number, line.strip()) for number, line in enumerate(text_lines(path), 1) if line.strip()]
    if not lines:
        raise ImageError("contains no labels", where=str(path))
    known = {name.casefold(): index for index, name in enumerate(classes or ())}
    counts = Counter(name.casefold() for name in classes or ())

    def parse(text: str, number: int) -> int:
        where = f"{path}:{number}"
        quoted, text = text[:1] in _QUOTES, text.strip(_QUOTES)
        named = known.get(text.casefold())
        if re.fullmatch(r"-?\d+", text) and not (quoted and named is not None):
            index = class_index(text)
            if named is not None and 0 <= index < len(classes or ()) and named != index:
                raise ImageError(
                    f"class {text} means two classes: class {named} by its name, and class {text} by its index, which "
                    f"is called {(classes or ())[index]!r}",
                    where=where,
                    hint=f'write names in quotes ("{text}"), here and on the other lines',
                )
            if named is not None:
                return named
            most = len(classes) - 1 if classes else MOST_CLASSES
            if not 0 <= index <= most:
                raise ImageError(f"class {text[:20]} is out of range (0 to {most})", where=where)
            return index
        name = text.casefold()
        if counts[name] > 1:
            raise ImageError(f"several classes have the name {text!r}", where=where, hint="give the index")
        if name not in known:
            hint = "give a class index or one of the model's class names" if classes else "give a class index"
            raise ImageError(f"no class is called {text!r}", where=where, hint=hint)
        return known[name]

    if all(re.fullmatch(r"""(["']?)-?\d+\1""", line) for _, line in lines):
        if len(lines) != len(names):
            raise ImageError(
                f"{len(lines)} labels for {len(names)} images",
                where=f"{path}:{lines[min(len(lines), len(names) + 1) - 1][0]}",
                hint="write lines 'file name, class' if some images were skipped or dropped as duplicates",
            )
        return np.array([parse(line, number) for number, line in lines], np.int64)

    places = places_of(names)
    found: dict[int, int] = {}
    for number, line in lines:
        place, text = _divide(line, places)
        if place is None:
            if not re.search(r"[\s,]", line):
                raise ImageError("is neither 'file name, class' nor a class index", where=f"{path}:{number}")
            continue
        label = parse(text, number)
        if found.setdefault(place, label) != label:
            raise ImageError(f"{names[place]} has another class on an earlier line", where=f"{path}:{number}")
    missing = [name for index, name in enumerate(names) if index not in found]
    if not found:
        raise ImageError("names no image of the set", where=f"{path}:{lines[0][0]}", hint=f"the first is {names[0]}")
    if missing:
        raise ImageError(f"has no label for {missing[0]} ({len(missing)} of {len(names)} images)", where=str(path))
    return np.array([found[index] for index in range(len(names))], np.int64)


def class_index(text: str) -> int:
    """A whole number as a class; -1 if no class has it. Raises ValueError if it is no whole number."""
    digits = text.strip().lstrip("+-")
    index = int(text) if len(digits) < 20 or not digits.isdecimal() else -1
    return index if 0 <= index <= MOST_CLASSES else -1


def places_of(names: Sequence[str]) -> dict[str, int]:
    """Name of a sample in a line of labels -> the index of the sample."""
    base = [name.rsplit("/", 1)[-1] for name in names]
    counts = Counter(base)
    places = {name: index for index, name in enumerate(base) if counts[name] == 1}
    return places | {name: index for index, name in enumerate(names)}


def _divide(line: str, places: Mapping[str, int]) -> tuple[int | None, str]:
    # File names and class names may contain spaces and commas: the file name is the shortest prefix that is an image.
    for match in re.finditer(r"[\s,]+", line):
        name = line[: match.start()].strip("\"'").removeprefix("./")
        if name in places:
            return places[name], line[match.end() :].strip()
    return None, ""
