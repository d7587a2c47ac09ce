"""The outputs of a network for many samples, stored on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..onboard.rows import Rows, RowWriter

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a network for N samples, read from files when they are needed.

    Attributes:
        rows: output name -> a file of N float32 arrays, in the network's order. The shapes may differ from sample to
            sample, as with detections.

    Example:
        >>> outputs = Outputs.opened({"scores": "scores.npy"})  # doctest: +SKIP
        >>> [scores.argmax() for (scores,) in outputs]  # doctest: +SKIP
        [3, 0, 7]
    """

    rows: Mapping[str, Rows]

    @classmethod
    def opened(cls, files: Mapping[str, str | Path]) -> Outputs:
        """Outputs from files with the same number of rows.

        Raises ValueError for an invalid file, as :class:`Rows` does.
        """
        return cls({name: Rows(path) for name, path in files.items()})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Output name -> its shape, without the axis of samples; -1 where it differs from sample to sample."""
        return {name: tuple(rows.shape[1:]) for name, rows in self.rows.items()}

    def __len__(self) -> int:
        return min((len(rows) for rows in self.rows.values()), default=0)

    def __getitem__(self, index: int) -> tuple[Array, ...]:
        """The outputs for one sample."""
        return tuple(rows[index] for rows in self.rows.values())

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        return zip(*self.rows.values())

    def first(self, count: int) -> Outputs:
        """The first ``count`` outputs.

        In ncnn, unread blobs are outputs, too; they come after the outputs of the model.
        """
        return Outputs(dict(list(self.rows.items())[:count]))


def keep_outputs(names: Sequence[str], outputs: Iterable[Sequence[Array]], folder: Path) -> Outputs:
    """Write outputs to disk, one sample at a time.

    Args:
        names: the names of the outputs.
        outputs: for each sample, an array for each name.
        folder: the folder to write to, a file for each name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = _files(names, folder)
    with ExitStack() as stack:
        writers = [stack.enter_context(RowWriter(file)) for file in files.values()]
        for row in outputs:
            for writer, array in zip(writers, row, strict=True):
                writer.append(array)
    return Outputs.opened(files)


def opened_outputs(names: Sequence[str], folder: Path) -> Outputs:
    """The outputs of these names that :func:`keep_outputs` wrote to a folder."""
    return Outputs.opened(_files(names, folder))


def _files(names: Sequence[str], folder: Path) -> dict[str, Path]:
    return {name: folder / f"output-{number}.npy" for number, name in enumerate(names)}


def equal(ours: Outputs, theirs: Outputs) -> bool:
    """Whether the outputs of two networks are bitwise equal for the samples that both have.

    Outputs without values (of detectors that detect nothing) are not equal, because they prove nothing.
    """
    values = 0
    for a, b in zip(ours, theirs):
        if not all(map(np.array_equal, a, b)):
            return False
        values += sum(array.size for array in a)
    return values > 0
