"""Samples as streams, which are read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..older import Self
from ..onboard.rows import Rows, RowWriter
from ..progress import Progress, silent

T = TypeVar("T")

Sample = tuple[NDArray[np.float32], ...]
"""The inputs of one inference: a float32 array for each network input, without a batch axis."""


class Samples(Protocol):
    """Samples of a network's inputs. Each is read when it is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]:
        """All samples in order; only a few are held at a time."""
        ...

    def subset(self, indices: Sequence[int]) -> Self:
        """The samples at these positions, in this order; nothing is read yet."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Samples that are rows of arrays, in memory or in files.

    Attributes:
        arrays: (N, …) for each network input.
        chosen: the indices of the rows that are samples, in order; None for all.

    Example:
        >>> samples = ArraySamples((np.zeros((8, 3, 32, 32), np.float32),))
        >>> len(samples), samples[0][0].shape
        (8, (3, 32, 32))
    """

    arrays: tuple[NDArray[Any] | Rows | Sequence[NDArray[Any]], ...]
    chosen: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.arrays[0]) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        row = range(len(self))[index] if self.chosen is None else self.chosen[index]
        return tuple(np.ascontiguousarray(array[row], np.float32) for array in self.arrays)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> Self:
        """The rows at these positions, in this order; nothing is copied."""
        rows = range(len(self)) if self.chosen is None else self.chosen
        return replace(self, chosen=tuple(rows[int(index)] for index in indices))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, they are their own rows only, so that a batch takes no more than it needs to another machine."""
        return ArraySamples, (columns(self),)


def columns(samples: Samples) -> tuple[Sequence[NDArray[Any]], ...]:
    """A few samples as a sequence of arrays for each network input."""
    return tuple(zip(*samples))


def one_by_one(samples: Samples) -> Iterator[Sample]:
    """All samples in order, each read when it is asked for."""
    return (samples[index] for index in range(len(samples)))


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items. A thread makes the next one while the caller uses one."""
    coming, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(next, coming, end)
        while (item := made.result()) is not end:
            made = pool.submit(next, coming, end)
            yield cast(T, item)


def evenly(total: int, most: int) -> list[int]:
    """At most ``most`` of the positions 0 to ``total`` - 1, evenly spread, including the first and the last."""
    return [int(i) for i in np.linspace(0, total - 1, min(most, total)).round()]


def spread(samples: Samples, most: int) -> Samples:
    """At most ``most`` of the samples, evenly spread."""
    return samples.subset(evenly(len(samples), most))


@dataclass(frozen=True, eq=False)
class KeptSamples(ArraySamples):
    """Samples that are all the rows of files.

    Attributes:
        files: ``.npy`` files of float32, (N, …), one for each network input.
    """

    files: tuple[str, ...] = ()


def keep(samples: Samples, folder: Path, progress: Progress = silent) -> KeptSamples:
    """Read samples once and store them on disk, so that they can be read several times.

    Args:
        samples: one or more.
        folder: the folder to write ``input-0.npy``, … to: (N, …) float32, a file for each network input.
        progress: called with (samples read, N).

    Returns:
        The same samples as rows of these files.
    """
    folder.mkdir(exist_ok=True)
    files = [folder / f"input-{number}.npy" for number in range(len(samples[0]))]
    with ExitStack() as stack:
        writers = [stack.enter_context(RowWriter(file)) for file in files]
        for done, sample in enumerate(samples, 1):
            for writer, array in zip(writers, sample, strict=True):
                writer.append(array)
            progress(done, len(samples))
    return KeptSamples(tuple(map(Rows, files)), files=tuple(map(str, files)))


def in_memory(samples: Samples) -> tuple[NDArray[np.float32], ...]:
    """A few samples as arrays (N, …), one for each network input."""
    return tuple(np.stack(column) for column in zip(*samples))
