"""Inputs of an ONNX file that the user makes constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ncnnkit
from ncnnkit.cli.values import to_numbers
from ncnnkit.errors import ConvertError, ModelError, RecipeError
from ncnnkit.source import open_model


@pytest.fixture
def two_rates(tmp_path: Path) -> Path:
    """A network whose input ``rate`` selects one of two convolutions, as voice detectors do."""

    def branch(name: str, weight: str) -> onnx.GraphProto:
        conv = helper.make_node("Conv", ["sound", weight], [name])
        return helper.make_graph([conv], name, [], [onnx.ValueInfoProto(name=name)])

    nodes = [
        helper.make_node("Equal", ["rate", "high"], ["is high"]),
        helper.make_node("If", ["is high"], ["y"], then_branch=branch("a", "w"), else_branch=branch("b", "v")),
    ]
    noise = np.random.default_rng(0)
    weights = {name: noise.normal(size=(2, 1, size)).astype(np.float32) for name, size in (("w", 5), ("v", 3))}
    graph = helper.make_graph(
        nodes, "two rates",
        [
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, [1, 1, 20]),
            helper.make_tensor_value_info("rate", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, None])],
        [numpy_helper.from_array(array, name) for name, array in (weights | {"high": np.array(16000)}).items()],
    )  # fmt: skip
    path = tmp_path / "two rates.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize(("rate", "kernel"), [(16000, 5), (8000, 3)])
def test_an_input_that_is_a_constant_selects_the_branch(two_rates: Path, rate: int, kernel: int) -> None:
    said: list[str] = []
    made = ncnnkit.convert(two_rates, fix={"rate": rate}, tell=said.append)
    (conv,) = (layer for layer in made.graph.layers if layer.type == "Convolution1D")
    assert conv.p.kernel_w == kernel
    assert made.graph.inputs == ["in0"]
    assert said == [f"input 'rate' is always {rate}"]


def test_a_branch_selected_by_an_input_is_refused_with_a_hint(two_rates: Path) -> None:
    with pytest.raises((ConvertError, ModelError)) as raised:
        ncnnkit.convert(two_rates)
    assert "rate" in str(raised.value)
    assert "--fix" in str(raised.value)


def test_only_inputs_can_be_fixed(two_rates: Path) -> None:
    with pytest.raises(ModelError, match="its inputs are sound, rate"):
        open_model(two_rates, fix={"y": 1})
    with pytest.raises(ModelError, match="export it to ONNX"):
        open_model("torchvision:resnet18", fix={"rate": 1})


def test_texts_of_the_option() -> None:
    assert to_numbers(["sr=16000", "a=b=0.5"]) == {"sr": 16000, "a=b": 0.5}
    assert to_numbers([]) is None
    with pytest.raises(RecipeError, match="NAME=NUMBER"):
        to_numbers(["sr"])
    for text in ("sr=nan", "sr=inf", "sr="):
        with pytest.raises(RecipeError, match="NAME=NUMBER"):
            to_numbers([text])
    with pytest.raises(RecipeError, match="two numbers"):
        to_numbers(["sr=8000", "sr=16000"])


@pytest.mark.parametrize("number", [16000.5, 1e30])
def test_an_invalid_number_for_an_input_is_refused(two_rates: Path, number: float) -> None:
    with pytest.raises(ModelError, match="'rate' is int64: it cannot be"):
        open_model(two_rates, fix={"rate": number})


def test_at_least_one_input_must_remain(two_rates: Path) -> None:
    with pytest.raises(ModelError, match="every input is fixed"):
        open_model(two_rates, fix={"rate": 8000, "sound": 1})
