"""A few samples of a run with the outputs of the original. They test a program on a board."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, reading
from ..onboard.picture import Placement
from ..onboard.userfiles import read_npz

EXAMPLES = "examples.npz"
"""The file in the run folder that holds the examples."""
MOST = 3
"""The largest number of examples."""
FILE_BYTES = 1 << 20
"""The largest size of the files of an example, in bytes."""
OUTPUT_BYTES = 4 << 20
"""The largest size of the outputs of one example, in bytes. A network with larger outputs has no examples."""
CHECKED = 1024
"""The number of values of an output that a program compares. They are evenly spread over the output."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Example:
    """A sample and the outputs of the original for it.

    Attributes:
        files: for each input of the network, the suffix of its file, such as ``.jpg``, and the bytes; ``.npy`` for an
            array.
        outputs: the outputs of the original, without the batch axis.
        placement: where the first image is in its input; None if there are only arrays.
    """

    files: tuple[tuple[str, bytes], ...]
    outputs: tuple[Array, ...]
    placement: Placement | None


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples, and how accurate the measured variants are on them.

    Attributes:
        rows: the examples; empty if no example is small enough.
        sqnr_db: variant -> SQNR of the checked values of its measured outputs over all examples, dB; infinite if they
            are equal.
    """

    rows: tuple[Example, ...] = ()
    sqnr_db: Mapping[str, float] | None = None

    def save(self, path: Path) -> None:
        """Write the examples to a file."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for i, row in enumerate(self.rows):
            for k, (ending, content) in enumerate(row.files):
                arrays[f"{i}-input-{k}{ending}"] = np.frombuffer(content, np.uint8)
            for k, output in enumerate(row.outputs):
                arrays[f"{i}-output-{k}"] = output
            if row.placement:
                place = row.placement
                numbers = [*place.image, *place.resized, place.top, place.left, *place.input]
                arrays[f"{i}-placement"] = np.array(numbers, np.int64)
        for name, value in (self.sqnr_db or {}).items():
            arrays[f"db {name}"] = np.array(value)
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Read the examples of a file; none if there is no such file. Raises FormatError if it is damaged."""
        if not path.is_file():
            return cls()
        faults = (ValueError, LookupError, TypeError, ArithmeticError, EOFError)
        with reading(path, FormatError, *faults, hint="run again"):
            return _read(read_npz(path))


def _read(arrays: Mapping[str, NDArray[np.generic]]) -> Examples:
    rows = []
    named = [match for match in map(_FILE.fullmatch, arrays) if match]
    found = {(int(match[1]), int(match[2])): (match[3], arrays[match[0]].tobytes()) for match in named}
    for i in sorted({number for number, _ in found}):
        files = [found[key] for key in sorted(key for key in found if key[0] == i)]
        outputs: list[Array] = []
        while (output := arrays.get(f"{i}-output-{len(outputs)}")) is not None:
            outputs.append(np.asarray(output, np.float32))
        place = arrays.get(f"{i}-placement")
        placement = None
        if place is not None:
            n = [int(number) for number in place.tolist()]
            placement = Placement((n[0], n[1]), (n[2], n[3]), n[4], n[5], (n[6], n[7]))
        rows.append(Example(tuple(files), tuple(outputs), placement))
    prefix = "db "
    measured = {name.removeprefix(prefix): float(value) for name, value in arrays.items() if name.startswith(prefix)}
    return Examples(tuple(rows), measured)


_FILE = re.compile(r"(\d+)-input-(\d+)(\.[0-9a-z]+)", re.ASCII)
"""The name of a file of an example: the numbers of the example and of the input, and the suffix."""


def array_file(values: Array) -> tuple[str, bytes]:
    """The suffix ``.npy`` and the bytes of an array as such a file."""
    stream = io.BytesIO()
    np.save(stream, values)
    return ".npy", stream.getvalue()


def checked(output: NDArray[np.generic]) -> NDArray[np.float64]:
    """The values of an output that are compared: at most :data:`CHECKED`, evenly spread."""
    flat = np.asarray(output, np.float64).reshape(-1)
    return flat[:: max(1, flat.size // CHECKED)][:CHECKED]


def near(db: float | None) -> float:
    """An SQNR as a number: infinite if there is no noise."""
    return math.inf if db is None else db
