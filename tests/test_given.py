"""Samples in every form that a caller may give."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import network, samples, small

from ncnnkit.errors import ImageError
from ncnnkit.model.graph import Graph
from ncnnkit.samples.finding import open_images
from ncnnkit.samples.given import as_samples
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.stream import ArraySamples


def two() -> Graph:
    return network("""
        Input a 0 1 a 0=6 1=5 2=4
        Input b 0 1 b 0=3
        ReLU r 1 1 a x
        ReLU s 1 1 b y
    """)


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for sample, row in zip(found, expected):
        assert len(sample) == 1
        assert sample[0].dtype == np.float32
        np.testing.assert_array_equal(sample[0], row)


def test_arrays_of_one_input() -> None:
    rows = samples(5)
    for given in (rows, [rows], {"in0": rows}, rows.astype(np.float64)):
        same(as_samples(given, small()), rows)
    same(as_samples(rows[0], small()), rows[:1])


def test_arrays_of_two_inputs() -> None:
    a, b = samples(4, (4, 5, 6)), samples(4, (3,))
    for given in ([a, b], (a, b), {"b": b, "a": a}):
        found = as_samples(given, two())
        np.testing.assert_array_equal(found[3][0], a[3])
        np.testing.assert_array_equal(found[3][1], b[3])


def test_batches_are_written_to_disk_one_by_one() -> None:
    rows, alive = samples(6), []

    def batches() -> Iterator[Any]:
        """The second batch is made after the first was released."""
        for start in (0, 2, 4):
            alive.append(start)
            yield rows[start : start + 2], np.arange(2)

    found = as_samples(batches(), small())
    same(found, rows)
    same(found, rows)  # a generator can be read only once, but these as often as needed
    same(found.subset([4, 1]), rows[[4, 1]])
    assert alive == [0, 2, 4]


def test_the_files_of_batches_are_removed_with_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = as_samples(iter([samples(2)]), small()).subset([1])
    gc.collect()
    assert list(tmp_path.glob("*/input-0.npy")), "a subset needs them, too"
    same(found, samples(2)[1:])
    del found
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_batches_of_every_form() -> None:
    rows = samples(2)
    for batch in (rows, [rows], (rows, "label"), {"in0": rows, "label": 1}):
        same(as_samples(iter([batch, batch]), small()), np.concatenate([rows, rows]))
    same(as_samples(iter(rows), small()), rows)  # single samples


@pytest.mark.torch
def test_a_data_loader() -> None:
    import torch

    rows = samples(5)
    data = torch.utils.data.TensorDataset(torch.from_numpy(rows), torch.arange(5))
    same(as_samples(torch.utils.data.DataLoader(data, batch_size=2), small()), rows)
    same(as_samples(data, small()), rows)  # its items are single samples
    same(as_samples(torch.from_numpy(rows).requires_grad_(), small()), rows)


def test_samples_are_returned_unchanged(tmp_path: Path) -> None:
    given = ArraySamples((samples(3),))
    assert as_samples(given, small()) is given
    np.save(tmp_path / "x.npy", samples(3))
    images = open_images(tmp_path / "x.npy", None, [InputSpec("in0", (3, 16, 16))])
    assert as_samples(images, small()) is images
    same(as_samples(tmp_path / "x.npy", small()), samples(3))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (samples(0), "no samples"),
        ([], "no samples"),
        (samples(2, (1, 16, 16)), "shape 2x1x16x16, but input 'in0' takes N x 3x16x16"),
        (np.array(["a"]), "not numbers"),
        (5, "int contains no samples"),
        (None, "None contains no samples"),
        ([1.0, 2.0], "batch 0: a float cannot feed"),
        ({"other": samples(2)}, "no array for input 'in0'"),
        (iter([samples(2), samples(2, (1, 8, 8))]), "batch 1: an array has shape 2x1x8x8"),
    ],
)
def test_invalid_samples_are_refused(given: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        as_samples(given, small())


def test_several_inputs_must_fit_each_other() -> None:
    a, b = samples(4, (4, 5, 6)), samples(3, (3,))
    with pytest.raises(ImageError, match=r"different lengths: \[3, 4\]"):
        as_samples([a, b], two())
    with pytest.raises(ImageError, match="1 arrays cannot feed the network's 2 inputs"):
        as_samples(a, two())
    with pytest.raises(ImageError, match="a sample has 1 arrays, but the network has 2 inputs"):
        as_samples(ArraySamples((a,)), two())
