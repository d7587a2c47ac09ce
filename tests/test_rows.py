"""Arrays on disk that are written and read row by row."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncnnkit.onboard.rows import Rows, RowWriter
from ncnnkit.samples.stream import ArraySamples, keep


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (1, 1, 1, 1, 1, 7), (0,)])
@pytest.mark.parametrize("count", [1, 3])
def test_written_arrays_are_read_by_numpy_and_by_row(tmp_path: Path, shape: tuple[int, ...], count: int) -> None:
    values = np.random.default_rng(0).random((count, *shape), np.float32)
    with RowWriter(tmp_path / "x.npy") as writer:
        for row in values:
            writer.append(row)
    assert np.array_equal(np.load(tmp_path / "x.npy"), values)
    rows = Rows(tmp_path / "x.npy")
    assert (rows.shape, len(rows)) == (values.shape, count)
    assert all(np.array_equal(a, b) for a, b in zip(rows, values, strict=True))
    assert np.array_equal(rows[count - 1], values[-1])
    with pytest.raises(IndexError):
        rows[count]


SEQUENCES: dict[str, tuple[list[tuple[int, ...]], tuple[int, ...]]] = {
    "detections": ([(2, 6), (0, 6), (5, 6)], (-1, 6)),
    "other axes": ([(2, 3), (6,), (), (0,)], (-1,)),
    "sides that change": ([(1, 2, 3), (3, 2, 1)], (-1, 2, -1)),
    "empty ones": ([(0, 6), (0, 4)], (0, -1)),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_rows_of_different_shapes_are_read_again(tmp_path: Path, name: str) -> None:
    shapes, shared = SEQUENCES[name]
    rng = np.random.default_rng(0)
    values = [rng.random(shape, np.float32) for shape in shapes]
    with RowWriter(tmp_path / "x.npy") as writer:
        for row in values:
            writer.append(row)
    rows = Rows(tmp_path / "x.npy")
    assert rows.shape == (len(shapes), *shared)
    assert rows.bytes == (tmp_path / "x.npy").stat().st_size
    assert [row.shape for row in rows] == shapes
    assert all(map(np.array_equal, rows, values))
    assert all(np.array_equal(rows[index], values[index]) for index in reversed(range(len(rows))))
    # numpy reads the values, and then the shapes.
    with (tmp_path / "x.npy").open("rb") as file:
        assert np.load(file).size == sum(row.size for row in values)
        assert len(np.load(file)) == len(shapes)


@pytest.mark.parametrize(
    "table",
    [
        np.array([[2, 6], [1, 6]]),  # another number of values
        np.array([[2, 6], [-2, -6]]),
        np.array([[2, 6], [-1, 6]]),  # an axis behind one that is missing
        np.array([[2, 6], [1 << 62, 0]]),
        np.array([[2, 6], [0, 6]], np.int32),
        np.array([12, 0]),
    ],
    ids=str,
)
def test_an_invalid_table_of_shapes_is_refused(tmp_path: Path, table: NDArray[np.int64]) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.save(file, np.zeros(12, np.float32))
        np.save(file, table)
    with pytest.raises(ValueError, match="has no valid shapes of its rows"):
        Rows(tmp_path / "x.npy")


def test_numpys_own_files_are_read_and_other_files_refused(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    np.save(tmp_path / "x.npy", values)
    assert np.array_equal(Rows(tmp_path / "x.npy")[2], values[2])
    np.save(tmp_path / "fortran.npy", np.asfortranarray(values))
    np.save(tmp_path / "scalar.npy", np.float32(1))
    for name in ("fortran", "scalar"):
        with pytest.raises(ValueError, match="is not an array of rows"):
            Rows(tmp_path / f"{name}.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends within row 3"):
        list(Rows(tmp_path / "cut.npy"))


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1 << 40, 4), "ends within row 0"), ((-1, 4), "is not an array of rows"), ((1 << 40, 0), "very many empty rows")],
)
def test_a_header_that_says_more_than_there_is_takes_no_memory(tmp_path: Path, shape: Any, says: str) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with pytest.raises(ValueError, match=says):
        Rows(tmp_path / "x.npy")


def test_samples_kept_on_disk_are_the_same_and_take_no_memory(tmp_path: Path) -> None:
    """64 MiB of samples are copied, with less than a twentieth of that in memory at a time."""

    class Made:
        def __len__(self) -> int:
            return 256

        def __getitem__(self, index: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
            return (np.full((1 << 16,), index, np.float32), np.array([index], np.float32))

        def subset(self, indices: object) -> Made:
            raise NotImplementedError

        def __iter__(self):  # type: ignore[no-untyped-def]
            return (self[index] for index in range(len(self)))

    told: list[int] = []
    tracemalloc.start()
    kept = keep(Made(), tmp_path / "kept", lambda done, total: told.append(done))
    sums = [float(large.mean()) + float(small[0]) for large, small in kept]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sums == [2.0 * index for index in range(256)]
    assert told == list(range(1, 257))
    assert peak < 3 << 20


def test_a_subset_is_chosen_rows_in_order_and_copies_nothing(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32)[:, None]
    np.save(tmp_path / "x.npy", values)
    for array in (values, Rows(tmp_path / "x.npy")):
        samples = ArraySamples((array,)).subset([7, 1, 5]).subset([2, 0])
        assert [float(x[0]) for (x,) in samples] == [5, 7]
        assert samples.arrays[0] is array
