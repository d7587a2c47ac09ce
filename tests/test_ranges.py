"""The record of int8 layers in run.json: ranges, zero points and histograms."""

from __future__ import annotations

import numpy as np
import pytest
from networks import samples, small

import ncnnkit as nk
from ncnnkit.quantization.calibration import BlobStats
from ncnnkit.quantization.efforts import Effort
from ncnnkit.quantization.methods import quantize_images
from ncnnkit.quantization.ranges import BINS, _coarse


@pytest.mark.parametrize("zero_points", [True, False])
def test_zero_points_are_those_of_the_network(zero_points: bool) -> None:
    """If zero points subtract a constant from a blob, this constant is the value of code 0.

    The blob of the network from which int8 was made is the original's blob minus the constant, or the constant minus
    the blob.
    """
    effort = Effort(12, unclipped=(), zero_points=zero_points, biases=False, advice=False, guards=False)
    found = quantize_images(small(), list(samples(16)), target="x86", effort=effort, threads=1)
    layers = found.int8_layers()
    moved = {name for name, layer in layers.items() if layer.zero_point}
    assert bool(moved) == zero_points
    image = samples(1)[0]
    read = {layer.name: layer.inputs[0] for layer in small().layers if layer.name in layers}
    with nk.Session(small(), keep_blobs=True) as before, nk.Session(found.exact, keep_blobs=True) as after:
        for name, layer in layers.items():
            was, now = (net.blobs(image, names=[read[name]])[0] for net in (before, after))
            np.testing.assert_allclose(np.abs(now), np.abs(was - layer.zero_point), atol=1e-4)
            assert layer.low < layer.zero_point < layer.high or not layer.zero_point


def test_histograms_count_what_was_seen() -> None:
    images = samples(8)
    effort = Effort(8, unclipped=(), zero_points=False, biases=False, advice=False)
    found = quantize_images(small(), list(images), target="x86", effort=effort, threads=1)
    first = found.int8_layers()["c1"]
    assert first.inputs
    used = np.abs(np.stack([sample[0] for sample in found.used]))
    assert sum(first.inputs.counts) == np.count_nonzero(used)
    assert used.max() <= first.inputs.high < used.max() * (1 + 2 / BINS)
    edges = np.linspace(first.inputs.low, first.inputs.high, len(first.inputs.counts) + 1)
    expected, _ = np.histogram(used[used > 0], edges)
    assert np.abs(np.array(first.inputs.counts) - expected).sum() <= 4, "values on an edge may fall on either side"
    weights = small().layer("c1").array("weight")
    assert sum(first.weights.counts) == weights.size
    assert [first.weights.low, first.weights.high] == pytest.approx([weights.min(), weights.max()])


@pytest.mark.parametrize(("used", "bins"), [(1, 1), (31, 31), (33, 17), (4096, 32), (8192, 32)])
def test_bins_are_joined_until_there_are_few(used: int, bins: int) -> None:
    histogram = np.zeros(8192, np.int64)
    histogram[:used] = 1
    found = _coarse(BlobStats(histogram, 0.5, used * 0.5, used))
    assert found
    assert (len(found.counts), sum(found.counts)) == (bins, used)
    assert found.high == 0.5 * bins * -(-used // BINS)


def test_a_blob_of_zeros_has_no_histogram() -> None:
    assert _coarse(BlobStats(np.zeros(8192, np.int64), 0.0, 0.0, 100)) is None
