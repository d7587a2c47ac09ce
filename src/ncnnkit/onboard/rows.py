"""Arrays (N, …) on disk that are written and read one row at a time: ``.npy`` files of float32.

Rows are read and written, not mapped: the pages of a mapped file count as memory of the process that touched them, and
a board without swap has none to spare.
"""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple, Union

import numpy as np

Row = Any  # NDArray[np.float32]: numpy.typing is missing in numpy 1.19
HEADER = 192  # bytes: the length of a header whose number of rows is not known yet


class RowWriter:
    """Writes a ``.npy`` file of shape (N, …) row by row; the first row settles the shape of all.

    Use it in a ``with`` block. The file is valid when the block ends.

    Args:
        path: the file to write.

    Raises:
        ValueError: from :meth:`append`, where a row has another shape than the first.

    Example:
        >>> with RowWriter("x.npy") as rows:
        ...     for index in range(3):
        ...         rows.append(np.full((2, 2), index))
        >>> np.load("x.npy").shape
        (3, 2, 2)
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = str(path)
        self.count = 0
        self.shape: Optional[Tuple[int, ...]] = None
        self._file = open(self.path, "wb")  # noqa: SIM115 -- closed by close()
        self._file.write(b"\0" * HEADER)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Write one row, converted to float32."""
        row = np.ascontiguousarray(row, np.float32).reshape(np.shape(row))  # of a scalar, the former makes a vector
        if self.shape is None:
            self.shape = row.shape
        if row.shape != self.shape:
            raise ValueError("a row has shape %s, but the first has %s" % (row.shape, self.shape))
        self._file.write(row.tobytes())
        self.count += 1

    def close(self) -> None:
        """Write the header and close the file. Safe to call twice."""
        if self._file.closed:
            return
        shape = (self.count, *(self.shape or ()))
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': %r, }" % (shape,)
        room = HEADER - 10
        self._file.seek(0)
        # NumPy's format 1.0: magic, version, length of the text, the text padded with spaces up to a newline.
        self._file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.ljust(room - 1).encode() + b"\n")
        self._file.close()


class Rows:
    """The rows of a ``.npy`` file of numbers. Each is read when it is needed.

    Args:
        path: a file of shape (N, …) in C order, as :class:`RowWriter` and :func:`numpy.save` write it.

    Attributes:
        path: that file.
        shape: (N, …).
        dtype: of the file; rows have it.
        bytes: of the file.

    Raises:
        ValueError: the file is no such array.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = str(path)
        with open(self.path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = read(file)
            self._start = file.tell()
        if fortran or not self.shape or self.dtype.hasobject:
            raise ValueError("%s is not an array of rows" % self.path)
        self._values = math.prod(self.shape[1:])
        self.bytes = self._start + len(self) * self._values * self.dtype.itemsize

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError("row %d of %d" % (index, len(self)))
        with open(self.path, "rb", buffering=0) as file:
            return self._read(file, index)

    def __iter__(self) -> Iterator[Row]:
        with open(self.path, "rb", buffering=0) as file:
            for index in range(len(self)):
                yield self._read(file, index)

    def _read(self, file: io.FileIO, index: int) -> Row:
        size = self._values * self.dtype.itemsize
        file.seek(self._start + index * size)
        row = np.empty(self.shape[1:], self.dtype)
        view, done = row.reshape(-1).view(np.uint8).data, 0
        while done < size:  # a read may give less than was asked for
            got = file.readinto(view[done:])
            if not got:
                raise ValueError("%s ends within row %d" % (self.path, index))
            done += got
        return row
