"""Many image files of one folder in little memory: :class:`Pictures`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .items import Item, Picture
from .preprocess import Preprocess


@dataclass(frozen=True, eq=False)
class Pictures(Sequence[Picture]):
    """Whole images in the files of a folder. An item is made when it is asked for.

    An item of its own takes 170 bytes with its name, which is 17 MB for 100,000 images. Here an image takes the bytes
    of its name and a few more.

    Attributes:
        folder: that folder.
        preprocess: how an image becomes a tensor.
        names: the names of the files, one after the other, as bytes.
        ends: int64 (files,), where each name ends.
        chosen: int64 (items,), the files that are items, in order.
    """

    folder: str
    preprocess: Preprocess
    names: bytes
    ends: NDArray[np.int64]
    chosen: NDArray[np.int64]

    @classmethod
    def of(cls, folder: str, preprocess: Preprocess, names: Iterable[str]) -> Pictures:
        """The images with these names."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(folder, preprocess, b"".join(encoded), ends, np.arange(len(ends)))

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> Pictures: ...

    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        if isinstance(index, slice):
            return replace(self, chosen=self.chosen[index])
        file = int(self.chosen[index])
        name = self.names[int(self.ends[file - 1]) if file else 0 : int(self.ends[file])]
        return Picture(os.fsdecode(name), self.folder, self.preprocess)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, they have an absolute path, and hold only their own names."""
        return Pictures.of, (os.path.abspath(self.folder), self.preprocess, [item.file for item in self])


def compact(items: Sequence[Item]) -> Sequence[Item]:
    """The same items in less memory, if they are whole images of one folder."""
    first = items[0] if items else None
    if isinstance(first, Picture) and all(
        isinstance(item, Picture)
        and item.tile is None
        and item.folder == first.folder
        and item.preprocess is first.preprocess
        for item in items
    ):
        return Pictures.of(first.folder, first.preprocess, (item.file for item in items if isinstance(item, Picture)))
    return tuple(items)


def picked(items: Sequence[Item], indices: Sequence[int]) -> Sequence[Item]:
    """The items at these positions, in this order."""
    if isinstance(items, Pictures):
        return replace(items, chosen=items.chosen[np.asarray(indices, np.int64)])
    return tuple(items[i] for i in indices)


def prepared(items: Sequence[Item], preprocess: Preprocess) -> Sequence[Item]:
    """The same items with their images prepared in another way."""
    if isinstance(items, Pictures):
        return replace(items, preprocess=preprocess)
    return tuple(item.prepared(preprocess) for item in items)
