"""Inputs of whole numbers: an Embed gets the bits of int32 in every precision."""

from __future__ import annotations

import numpy as np
import pytest

from ncnnkit.device.session import Session
from ncnnkit.errors import ModelError
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.precision import derive
from ncnnkit.model.whole import guard_whole_inputs

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS = np.array([0, 3, 1, 1, 2])


def embed(name: str, ids: str, out: str) -> Layer:
    params = {"num_output": 3, "input_dim": 4, "weight_data_size": 12}
    return Layer("Embed", name, [ids], [out], dict(params), {"weight": TABLE})


def looked_up_twice() -> Graph:
    return Graph(
        [
            Layer("Input", "in0", [], ["in0"], {"w": 5}),
            Layer("Split", "s", ["in0"], ["a", "b"]),
            embed("one", "a", "out0"),
            embed("other", "b", "out1"),
        ]
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_rows_are_looked_up_in_every_precision(precision: str) -> None:
    graph = looked_up_twice()
    guard_whole_inputs(graph)
    with Session(graph, precision=precision) as net:
        for rows in net.run(IDS):
            assert np.array_equal(rows, TABLE[IDS])


def test_a_guarded_copy_makes_no_mixed_model() -> None:
    graph = looked_up_twice()
    guard_whole_inputs(graph)
    assert derive(graph)[0] == "fp32"


def test_an_embed_input_with_another_reader_is_refused() -> None:
    graph = looked_up_twice()
    graph.layers[3] = Layer("ReLU", "relu", ["b"], ["out1"])
    with pytest.raises(ModelError, match="layer ReLU relu computes with it"):
        guard_whole_inputs(graph)


def test_an_embed_of_a_computed_blob_is_refused() -> None:
    graph = Graph(
        [Layer("Input", "in0", [], ["in0"], {"w": 5}), Layer("ReLU", "r", ["in0"], ["a"]), embed("one", "a", "out0")]
    )
    with pytest.raises(ModelError, match="reads a computed blob"):
        guard_whole_inputs(graph)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_reshape_is_a_copy_too(precision: str) -> None:
    graph = Graph(
        [
            Layer("Input", "in0", [], ["in0"], {"w": 5, "h": 1}),
            Layer("Reshape", "flat", ["in0"], ["ids"], {"w": 5}),
            embed("one", "ids", "out0"),
        ]
    )
    guard_whole_inputs(graph)
    assert derive(graph)[0] == "fp32"
    with Session(graph, precision=precision) as net:
        assert np.array_equal(net.run(IDS.reshape(1, 5)), TABLE[IDS])
