"""Arrays on disk that are written and read one row at a time: ``.npy`` files of float32.

If all rows have one shape, the file is an array (N, …). If their shapes differ, as those of detections do, it is a flat
array of the values of all rows, followed in the same file by a second array, int64 (N, axes): the shape of each row. A
row with fewer axes than another has -1 in the remaining columns.

The file is read and written, not memory-mapped: the pages of a mapped file count as memory of the process, and a board
without swap has no memory to spare.
"""

from __future__ import annotations

import io
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Iterator, List, Tuple, Union

import numpy as np

from .userfiles import npy_header

Row = Any  # NDArray[np.float32]: numpy.typing is missing in numpy 1.19
HEADER = 192  # bytes; the length of the header is fixed, because the number of rows is not known when it is written
NONE = -1  # in the table of shapes: the row has no such axis
DIFFERS = -1  # in a shape of all rows: the rows differ in this side
LARGEST_EMPTY = 1 << 20  # the largest product of the non-zero sides of an empty row, or of an empty array


class RowWriter:
    """Writes a ``.npy`` file row by row: of shape (N, …), or of rows with different shapes.

    Use it in a ``with`` block. The file is valid when the block ends.

    Args:
        path: the file to write.

    Example:
        >>> with RowWriter("x.npy") as rows:
        ...     for index in range(3):
        ...         rows.append(np.full((2, 2), index))
        >>> np.load("x.npy").shape
        (3, 2, 2)
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = str(path)
        self._shapes: List[Tuple[int, ...]] = []
        self._file = open(self.path, "wb")  # noqa: SIM115 -- closed by close()
        self._file.write(b"\0" * HEADER)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Write one row, converted to float32."""
        shape = np.shape(row)
        self._file.write(np.ascontiguousarray(row, np.float32).tobytes())
        same = bool(self._shapes) and self._shapes[-1] == shape
        self._shapes.append(self._shapes[-1] if same else shape)  # equal shapes share one object

    def close(self) -> None:
        """Write the header and close the file. Safe to call twice."""
        if self._file.closed:
            return
        shapes = self._shapes
        if len(set(shapes)) > 1:
            shape: Tuple[int, ...] = (sum(map(math.prod, shapes)),)
            axes = max(map(len, shapes))
            np.save(self._file, np.array([[*row, *[NONE] * (axes - len(row))] for row in shapes], np.int64))
        else:
            shape = (len(shapes), *(shapes[0] if shapes else ()))
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': %r, }" % (shape,)
        room = HEADER - 10
        self._file.seek(0)
        # NumPy's format 1.0: magic, version, length of the text, the text padded with spaces up to a newline.
        self._file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.ljust(room - 1).encode() + b"\n")
        self._file.close()


class Rows:
    """The rows of a ``.npy`` file of numbers. Each row is read when it is needed.

    Args:
        path: a file that :class:`RowWriter` wrote, or that :func:`numpy.save` wrote, of shape (N, …) in C order.

    Attributes:
        path: that file.
        shape: (N, …). A side in which the rows differ is -1. If the rows differ in their number of axes: (N, -1).
        dtype: the type of the file and of the rows.
        bytes: the size of the file.

    Raises:
        ValueError: the file is not such an array.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = str(path)
        self._table = None
        with open(self.path, "rb") as file:
            self.shape, self.dtype = self._header(file)
            self._start = file.tell()
            values = math.prod(self.shape)
            self.bytes = self._start + values * self.dtype.itemsize
            size = os.fstat(file.fileno()).st_size
            if size < self.bytes:
                whole = (size - self._start) // (math.prod(self.shape[1:]) * self.dtype.itemsize)
                raise ValueError("%s ends within row %d" % (self.path, whole))
            if len(self.shape) == 1 and size > self.bytes:
                file.seek(self.bytes)
                self._table = self._shapes(file, values)
        if self._table is not None:
            low, high = self._table.min(axis=0), self._table.max(axis=0)
            sides = np.where(low == high, high, DIFFERS).tolist() if NONE not in low else [DIFFERS]
            self.shape = (len(self._table), *sides)
            self._ends = np.cumsum(np.where(self._table == NONE, 1, self._table).prod(axis=1))

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

    def _header(self, file: BinaryIO) -> Tuple[Tuple[int, ...], Any]:
        """The shape and the type of the array that begins here."""
        shape, fortran, dtype = npy_header(file)
        if fortran or not shape or dtype.hasobject or min(shape) < 0 or not dtype.itemsize:
            raise ValueError("%s is not an array of rows" % self.path)
        if 0 in shape and math.prod(side or 1 for side in shape) > LARGEST_EMPTY:
            raise ValueError("%s says that it has very many empty rows" % self.path)
        return shape, dtype

    def _shapes(self, file: BinaryIO, values: int) -> Any:
        """The shapes of the rows, int64 (N, axes). They are checked, because a board may have written anything."""
        shape, dtype = self._header(file)
        size = math.prod(shape) * dtype.itemsize
        data = file.read(size) if size <= os.fstat(file.fileno()).st_size else b""
        self.bytes = file.tell()
        if len(shape) == 2 and shape[0] and dtype == np.int64 and len(data) == size:
            table = np.frombuffer(data, np.int64).reshape(shape)
            rows = [[side for side in row if side != NONE] for row in table.tolist()]
            whole = all(row == kept + [NONE] * (shape[1] - len(kept)) for row, kept in zip(table.tolist(), rows))
            # The other sides of an empty row are bounded, too, because NumPy refuses very large ones.
            bounded = all(math.prod(side or 1 for side in row) <= max(values, LARGEST_EMPTY) for row in rows)
            if whole and bounded and table.min(initial=0) >= NONE and sum(map(math.prod, rows)) == values:
                return table
        raise ValueError("%s has no valid shapes of its rows" % self.path)

    def _place(self, index: int) -> Tuple[int, Tuple[int, ...]]:
        """(where a row begins, counted in values; its shape)."""
        if self._table is None:
            return index * math.prod(self.shape[1:]), self.shape[1:]
        shape = tuple(side for side in self._table[index].tolist() if side != NONE)
        return int(self._ends[index]) - math.prod(shape), shape

    def _read(self, file: io.FileIO, index: int) -> Row:
        first, shape = self._place(index)
        row = np.empty(shape, self.dtype)
        file.seek(self._start + first * self.dtype.itemsize)
        view, done = row.reshape(-1).view(np.uint8).data, 0
        while done < row.nbytes:  # a read may return fewer bytes than requested
            got = file.readinto(view[done:])
            if not got:
                raise ValueError("%s ends within row %d" % (self.path, index))
            done += got
        return row
