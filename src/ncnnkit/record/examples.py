"""A few samples of a run with the original's outputs: what a program on a board is tested with."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..onboard.picture import Placement
from ..onboard.userfiles import read_npz

EXAMPLES = "examples.npz"
"""The file of a run folder that holds them."""
MOST = 3
"""Examples at most."""
FILE_BYTES = 1 << 20
"""The most that the files of an example may take."""
OUTPUT_BYTES = 4 << 20
"""The most that the outputs for one example may take; a network with larger ones has no examples."""
CHECKED = 1024
"""Values of an output that a program compares, evenly spread over it."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Example:
    """A sample and what the original makes of it.

    Attributes:
        files: of each input of the network, the ending of its file, as ``.jpg``, and the bytes; ``.npy`` for an array.
        outputs: the original's, without a batch axis.
        placement: where the first image lies in its input; None if there are only arrays.
    """

    files: tuple[tuple[str, bytes], ...]
    outputs: tuple[Array, ...]
    placement: Placement | None


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples, and how near the measured variants came.

    Attributes:
        rows: the examples; empty if none are small enough.
        sqnr_db: variant -> SQNR of its measured outputs over all examples, of the checked values, in dB; infinite where
            they are equal.
    """

    rows: tuple[Example, ...] = ()
    sqnr_db: Mapping[str, float] | None = None

    def save(self, path: Path) -> None:
        """Write them."""
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
        """Read them; none if there is no such file. Raises FormatError."""
        if not path.is_file():
            return cls()
        try:
            return _read(read_npz(path))
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise FormatError(f"does not hold examples: {error}", where=str(path), hint="run again") from None


def _read(arrays: Mapping[str, NDArray[np.generic]]) -> Examples:
    rows = []
    named = [match for match in map(_FILE.fullmatch, arrays) if match]
    found = {(int(match[1]), int(match[2])): (match[3], arrays[match[0]].tobytes()) for match in named}
    for i in range(len({number for number, _ in found})):
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
"""The name of a file of an example: numbers of the example and of the input, and the ending."""


def array_file(values: Array) -> tuple[str, bytes]:
    """The ending and the bytes of a ``.npy`` of an array."""
    stream = io.BytesIO()
    np.save(stream, values)
    return ".npy", stream.getvalue()


def checked(output: NDArray[np.generic]) -> NDArray[np.float64]:
    """The values of an output that are compared."""
    flat = np.asarray(output, np.float64).reshape(-1)
    return flat[:: max(1, flat.size // CHECKED)][:CHECKED]


def near(db: float | None) -> float:
    """An SQNR as a number: infinite if there is no noise."""
    return math.inf if db is None else db
