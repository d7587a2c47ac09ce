"""Labelled texts: a table of names and texts, or a text file for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ImageError
from .classes import places_of
from .finding import csv_rows, files_of, text_lines

ENDING = ".txt"


def read_texts(path: str | Path, names: Sequence[str]) -> list[str]:
    """The labelled text of each sample.

    Args:
        path: a file with lines ``file name<tab>text`` (``file name,text`` if it ends in .csv), in any order; lines
            about other files are ignored. Or a folder with a ``.txt`` file for each sample, with the sample's name.
            names: the names of the samples, as ``ImageSet.names``. A line may have the bare file name if it is unique.

    Raises:
        ImageError: a line has another form, or a sample has two texts or none. The error gives the line number.
    """
    path = Path(path)
    if path.is_dir():
        files = files_of(path, names, (ENDING,))
        _need_all(path, names, [file is not None for file in files])
        return ["\n".join(text_lines(file)).strip() for file in files if file is not None]
    places = places_of(names)
    found: dict[int, str] = {}
    for number, cells in _rows(path):
        if len(cells) < 2:
            raise ImageError("is not 'file name<tab>text'", where=f"{path}:{number}")
        place = places.get(cells[0].strip().removeprefix("./"))
        if place is not None and found.setdefault(place, cells[1].strip()) != cells[1].strip():
            raise ImageError(f"{names[place]} has another text on an earlier line", where=f"{path}:{number}")
    _need_all(path, names, [place in found for place in range(len(names))])
    return [found[place] for place in range(len(names))]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the lines that are not empty."""
    if path.suffix.lower() == ".csv":
        yield from ((number, row) for number, row in csv_rows(path) if row)
    else:
        yield from ((number, line.split("\t", 1)) for number, line in enumerate(text_lines(path), 1) if line.strip())


def _need_all(path: Path, names: Sequence[str], known: Sequence[bool]) -> None:
    missing = [name for name, there in zip(names, known) if not there]
    if missing:
        raise ImageError(f"has no text for {missing[0]} ({len(missing)} of {len(names)} samples)", where=str(path))
