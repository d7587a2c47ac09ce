"""Samples as streams: read one by one, never all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Sample = tuple[NDArray[np.float32], ...]
"""One inference: a float32 array for each network input, without a batch axis."""


class Samples(Protocol):
    """Inputs of a network, each read when it is asked for."""

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
    """Samples that are rows of arrays, in memory or mapped from a file.

    Attributes:
        arrays: (N, …) for each network input.

    Example:
        >>> samples = ArraySamples((np.zeros((8, 3, 32, 32), np.float32),))
        >>> len(samples), samples[0][0].shape
        (8, (3, 32, 32))
    """

    arrays: tuple[NDArray[Any], ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> Sample:
        return tuple(np.ascontiguousarray(array[index], np.float32) for array in self.arrays)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> ArraySamples:
        """The rows at these positions, in this order."""
        return ArraySamples(tuple(array[list(indices)] for array in self.arrays))
