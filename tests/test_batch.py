"""Inputs without a batch axis of 1: a fixed batch, a state, a sequence, and more axes than ncnn has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ncnnkit.record.conversion import ConversionCheck
from ncnnkit.samples.items import InputSpec, array_sample
from ncnnkit.source import ModelSource, open_model
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.model import settle_inputs

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, Array],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def opened_and_converted(path: Path) -> tuple[ModelSource, ConversionCheck]:
    source = open_model(path)
    return source, convert_opened(source, route="onnx")[1]


CLASSIFIER = [
    helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
    helper.make_node("Reshape", ["c", "shape"], ["flat"]),
    helper.make_node("MatMul", ["flat", "matrix"], ["y"]),
]
WEIGHTS = {"kernel": noise(4, 3, 3, 3), "shape": np.array([4, 256]), "matrix": noise(256, 5)}


@pytest.mark.parametrize("shape", [[4, 256], [4, -1], [-1, 256]])
def test_a_fixed_batch_is_rewritten_to_one_sample(tmp_path: Path, shape: list[int]) -> None:
    weights = {**WEIGHTS, "shape": np.array(shape)}
    path = write(tmp_path / "m.onnx", CLASSIFIER, {"x": [4, 3, 8, 8]}, {"y": [4, 5]}, weights)
    source, check = opened_and_converted(path)
    assert source.inputs == (InputSpec("x", (3, 8, 8)),)
    assert source.changes == (
        "the model takes 4 samples at a time; it is rewritten to take one, and computes the same",
    )
    assert check.sqnr_db is not None
    assert check.sqnr_db > 80


def test_samples_that_mix_are_one_sample(tmp_path: Path) -> None:
    """With a softmax over the first axis, no row of the output can be computed alone.

    The network takes all rows at once.
    """
    nodes = [*CLASSIFIER[:2], helper.make_node("MatMul", ["flat", "matrix"], ["m"])]
    nodes.append(helper.make_node("Softmax", ["m"], ["y"], axis=0))
    path = write(tmp_path / "m.onnx", nodes, {"x": [4, 3, 8, 8]}, {"y": [4, 5]}, WEIGHTS)
    source, check = opened_and_converted(path)
    assert source.inputs == (InputSpec("x", (4, 3, 8, 8), original=(4, 3, 8, 8)),)
    assert source.changes == (
        "input 'x' is 4x3x8x8 in the model's file; its first axis is not a batch of independent samples, so the "
        "whole array is one sample",
    )
    assert check.sqnr_db is not None
    assert check.sqnr_db > 80


def test_a_sequence_axis_is_not_a_batch(tmp_path: Path) -> None:
    """The first step of an LSTM is the same for a sequence of one, but the last step is not."""
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y", "", ""], hidden_size=6)]
    weights = {"w": noise(1, 24, 5), "r": noise(1, 24, 6)}
    path = write(tmp_path / "m.onnx", nodes, {"x": [3, 1, 5]}, {"y": [3, 1, 1, 6]}, weights)
    source, check = opened_and_converted(path)
    assert source.inputs[0].original_shape == (3, 1, 5)
    assert check.sqnr_db is not None
    assert check.sqnr_db > 80


def test_a_state_with_a_batch_of_one_is_not_a_batch(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["state", "first"], ["h"], axis=0),
        helper.make_node("Add", ["x", "h"], ["y"]),
        helper.make_node("Mul", ["state", "two"], ["next"]),
    ]
    weights = {"first": np.array(1), "two": np.array(2, np.float32)}
    inputs = {"x": [1, 8], "state": [2, 1, 8]}
    path = write(tmp_path / "m.onnx", nodes, inputs, {"y": [1, 8], "next": [2, 1, 8]}, weights)
    source, check = opened_and_converted(path)
    assert [spec.shape for spec in source.inputs] == [(8,), (2, 1, 8)]
    assert check.sqnr_db is None or check.sqnr_db > 80
    assert check.verified


@pytest.mark.parametrize(
    ("shape", "blob"),
    [([1, 3, 4, 6, 6], (3, 4, 6, 6)), ([1, 2, 3, 4, 6, 6], (6, 4, 6, 6)), ([1, 2, 1, 3, 1, 5, 4], (2, 3, 5, 4))],
)
def test_inputs_of_more_axes_than_ncnn_has_are_merged(tmp_path: Path, shape: list[int], blob: tuple[int, ...]) -> None:
    """Axes are merged with their neighbours: first a batch of 1, then sides of 1, then the outermost axes."""
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("ReduceMean", ["s"], ["y"], axes=[1, 2])]
    out = [1, 1, 1, *shape[3:]]
    path = write(tmp_path / "m.onnx", nodes, {"x": shape}, {"y": out}, {})
    source, check = opened_and_converted(path)
    assert source.inputs[0].shape == blob
    assert source.inputs[0].original_shape == tuple(shape)
    assert check.sqnr_db is not None
    assert check.sqnr_db > 80
    np.save(tmp_path / "x.npy", noise(*shape))
    (array,) = array_sample(tmp_path / "x.npy", source.inputs)
    np.testing.assert_array_equal(array, noise(*shape).reshape(blob))


def test_a_scalar_is_a_blob_of_one_value() -> None:
    (spec,) = settle_inputs("m.pt", ["x"], [()], ["int64"], [])
    assert (spec.shape, spec.original_shape) == ((1,), ())
    assert spec.as_original(np.array([3.0])).shape == ()
