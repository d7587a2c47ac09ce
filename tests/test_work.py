"""How much a network computes, and what an effort allows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import network

from ncnnkit.model.work import multiply_adds
from ncnnkit.pipeline import evaluated, fewer_said
from ncnnkit.quantization.efforts import EFFORTS, Effort
from ncnnkit.recipe import Recipe
from ncnnkit.samples.images import find_images
from ncnnkit.samples.items import InputSpec

LAYERS = {
    "convolution": ("Convolution c 1 1 in0 out0 0=8 1=3 4=1 5=1 6=216", (3, 6, 5), 216 * 30),
    "depthwise": ("ConvolutionDepthWise c 1 1 in0 out0 0=4 1=3 4=1 6=36 7=4", (4, 6, 6), 36 * 36),
    "strided": ("Convolution c 1 1 in0 out0 0=8 1=2 3=2 6=96", (3, 6, 6), 96 * 9),
    "deconvolution": ("Deconvolution c 1 1 in0 out0 0=2 1=2 3=2 6=24", (3, 5, 5), 24 * 25),
    "inner product": ("InnerProduct c 1 1 in0 out0 0=7 2=70", (10,), 70),
    "inner product of rows": ("InnerProduct c 1 1 in0 out0 0=7 2=70", (4, 10), 280),
    "one per value": ("ReLU c 1 1 in0 out0", (3, 4, 5), 60),
}


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds(name: str) -> None:
    line, shape, wanted = LAYERS[name]
    assert multiply_adds(network(line), [shape]) == wanted


def test_multiply_adds_of_a_product_of_two_blobs() -> None:
    graph = network("Input in0 0 1 in0\nInput in1 0 1 in1\nMatMul m 2 1 in0 in1 out0")
    assert multiply_adds(graph, [(4, 5), (5, 6)]) == 4 * 5 * 6


def test_a_heavy_network_takes_fewer_samples() -> None:
    graph = network(LAYERS["convolution"][0])
    sample = (np.zeros((3, 6, 5), np.float32),)
    macs = 216 * 30
    assert Effort(20, gmac=macs * 9 / 1e9).samples(graph, sample) == 9
    assert Effort(20, gmac=macs * 9 / 1e9).samples(graph, sample, runs=3) == 3
    assert Effort(20, gmac=0).samples(graph, sample) == 2, "fewer show nothing"
    assert EFFORTS["best"].samples(graph, sample) > 10**9


def test_evaluation_samples_that_are_left_out_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(LAYERS["convolution"][0])
    np.save(tmp_path / "ten.npy", np.zeros((10, 3, 6, 5), np.float32))
    images = find_images(tmp_path / "ten.npy", None, [InputSpec("in0", (3, 6, 5))])
    recipe = Recipe("net.onnx", effort="fast")
    assert evaluated(recipe, graph, images) == list(range(10))
    assert fewer_said(recipe, 10, 10) == []
    monkeypatch.setattr(Effort, "samples", lambda *_: 4)
    kept = evaluated(recipe, graph, images)
    assert kept == [0, 3, 6, 9]
    (said,) = fewer_said(recipe, len(kept), 10)
    assert "4 of 10 evaluation samples" in said
    assert "--effort fast allows no more" in said
