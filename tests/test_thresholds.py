"""Thresholds by output error: values that the next layers ignore may be clipped, other values may not."""

from __future__ import annotations

import numpy as np
from networks import network, stream

from ncnnkit.quantization import make_table
from ncnnkit.quantization.calibration import calibrate
from ncnnkit.quantization.thresholds import FACTORS, by_output_error

TEXT = """
    Input in0 0 1 in0 0=6 1=6 2=4
    Split s 1 2 in0 a b
    Convolution c0 1 1 a out0 0=5 1=1 5=1 6=20
    Convolution c1 1 1 b out1 0=5 1=1 5=1 6=20
"""


def test_an_ignored_channel_is_clipped() -> None:
    graph = network(TEXT)
    for name in ("c0", "c1"):
        weight = graph.layer(name).array("weight").reshape(5, 4).copy()
        weight[:, 0] *= 1e-4
        graph.layer(name).weights["weight"] = weight.reshape(-1)
    inputs = np.random.default_rng(0).standard_normal((12, 4, 6, 6)).astype(np.float32)
    inputs[:, 0] *= 3  # the widest, and ignored by both readers
    table = make_table(graph, calibrate(graph, [inputs], threads=1))
    moved = by_output_error(graph, graph, table, stream(inputs), threads=1)
    assert moved.inputs["c0"] == moved.inputs["c1"], "what a Split hands on has one scale"
    assert moved.inputs["c0"] / table.inputs["c0"] == np.float64(1 / min(FACTORS)), "the narrowest threshold there is"
    assert moved.weights.keys() == table.weights.keys()


def test_a_threshold_is_not_reduced_if_its_largest_values_matter() -> None:
    graph = network(TEXT)
    for name in ("c0", "c1"):
        weight = np.zeros((5, 4), np.float32)
        weight[:, 0] = 1
        graph.layer(name).weights["weight"] = weight.reshape(-1)
    inputs = np.random.default_rng(0).uniform(-1, 1, (12, 4, 6, 6)).astype(np.float32)
    inputs[:, 0] *= 3
    table = make_table(graph, calibrate(graph, [inputs], threads=1))
    moved = by_output_error(graph, graph, table, stream(inputs), threads=1)
    assert moved.inputs["c0"] <= table.inputs["c0"]
