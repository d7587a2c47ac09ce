"""Chooses the samples that test the programs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..comparison.noise import Noise, sqnr_db
from ..comparison.outputs import Outputs
from ..onboard.userfiles import read_bytes
from ..record.examples import FILE_BYTES, MOST, OUTPUT_BYTES, Example, Examples, array_file, checked, near
from ..samples.images import ImageSet
from ..samples.items import ArrayFile, Group, Item, Picture, Row


def choose_examples(evaluation: ImageSet, reference: Outputs, measured: Mapping[str, Outputs]) -> Examples:
    """Samples that are small enough, spread evenly over the set.

    Args:
        evaluation: the samples. For an image with tiles, the first tile is used. A program runs all tiles, and compares
            this one.
        reference: the original's outputs for them.
        measured: variant -> its outputs. A slow variant may have run only the first samples.
    """
    if not len(evaluation):
        return Examples()
    rows: dict[int, Example] = {}
    starts = [i for i, item in enumerate(evaluation.items) if not any(part.tile for part in pictures_of(item))]
    for index in starts[:: max(1, len(starts) // MOST)]:
        item, outputs = evaluation.items[index], reference[index]
        if sum(output.nbytes for output in outputs) > OUTPUT_BYTES:
            continue
        files = files_of(item)
        if sum(len(content) for _, content in files) <= FILE_BYTES and len(rows) < MOST:
            rows[index] = Example(files, outputs, evaluation.placement(index))
    ran = {name: [index for index in rows if index < len(each)] for name, each in measured.items()}
    return Examples(
        tuple(rows.values()),
        {name: _sqnr(indices, measured[name], reference) for name, indices in ran.items() if indices},
    )


def pictures_of(item: Item) -> list[Picture]:
    """The images of a sample."""
    return [part for part in (item.parts if isinstance(item, Group) else (item,)) if isinstance(part, Picture)]


def files_of(item: Item) -> tuple[tuple[str, bytes], ...]:
    """(file extension, bytes of the file) for each input of a sample."""
    if isinstance(item, Group):
        return tuple(file for part in item.parts for file in files_of(part))
    if isinstance(item, Picture):
        path = Path(item.path)
        return ((ending_of(path), read_bytes(path)),)
    # A program normalises an array itself.
    raw = replace(item, preprocess=None) if isinstance(item, (ArrayFile, Row)) else item
    return tuple(map(array_file, raw.load()))


def ending_of(path: Path) -> str:
    """The extension of an image file; ``.img`` if it is not a usual one."""
    ending = path.suffix.lower()
    return ending if ending[1:].isalnum() and ending.isascii() else ".img"


def _sqnr(indices: list[int], outputs: Outputs, reference: Outputs) -> float:
    noise = Noise()
    for index in indices:
        noise.add([checked(output) for output in outputs[index]], [checked(output) for output in reference[index]])
    return near(sqnr_db(noise.relative))
