"""Finding the first layer that differs from the original, and its reproducer."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from lowered import model
from numpy.typing import NDArray
from onnx import helper
from typer.testing import CliRunner

from ncnnkit.cli import app
from ncnnkit.errors import StorageError, VerificationError
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import ModelSource, explaining, open_model
from ncnnkit.source.bisection import Bisection, bisect
from ncnnkit.source.conversion import convert, convert_source
from ncnnkit.source.model import example_arrays
from ncnnkit.source.onnx import lower
from ncnnkit.source.reproducer import write_reproducer
from ncnnkit.source.routes import ROUTES

node = helper.make_node
Array = NDArray[Any]


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """Two convolutions, a reshape and a transpose."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu"),
        node("Conv", ["r1", "w2"], ["c2"], name="second"),
        node("Reshape", ["c2", "shape"], ["flat"], name="flatten"),
        node("Transpose", ["flat"], ["y"], name="turn", perm=[0, 2, 1]),
    ]
    constants: dict[str, Array] = {"w1": noise(8, 3, 3, 3), "w2": noise(9, 8, 1, 1), "shape": np.array([1, 9, -1])}
    path = tmp_path / "model.onnx"
    onnx.save(model(nodes, {"x": noise(1, 3, 16, 12)}, ["y"], constants), str(path))
    return open_model(path)


def named(graph: Graph, prefix: str) -> Graph:
    """The graph with other names of blobs and layers, as from another converter."""
    graph = graph.copy()
    keep = {*graph.inputs, *graph.outputs}
    for layer in graph.layers:
        layer.name = prefix + layer.name
        layer.inputs = [blob if blob in keep else prefix + blob for blob in layer.inputs]
        layer.outputs = [blob if blob in keep else prefix + blob for blob in layer.outputs]
    return graph


def spoiled(source: ModelSource, kind: str, which: int, weight: str, factor: float) -> Graph:
    graph = lower(source.file, source.inputs)
    layer = [layer for layer in graph.layers if layer.type == kind][which]
    layer.weights[weight] = layer.array(weight) * np.float32(factor)
    return graph


def compared(source: ModelSource, graph: Graph) -> Bisection:
    return bisect(source, graph, example_arrays(source.inputs))


@pytest.mark.parametrize("prefix", ["", "other_"])
def test_right_network_has_no_wrong_layer(source: ModelSource, prefix: str) -> None:
    graph = lower(source.file, source.inputs)
    found = compared(source, named(graph, prefix) if prefix else graph)
    assert found.exact == (not prefix)
    assert found.first_wrong is None
    assert {check.tensor.name for check in found.layers} >= {"c1", "r1", "c2", "y"}
    assert all(check.noise < 1e-9 for check in found.layers)


@pytest.mark.parametrize("prefix", ["", "other_"])
def test_first_wrong_layer_and_no_later_one(source: ModelSource, prefix: str) -> None:
    graph = spoiled(source, "Convolution", 1, "weight", 1.01)  # a hundredth of the signal: 40 dB
    found = compared(source, named(graph, prefix) if prefix else graph)
    (wrong,) = [check for check in found.layers if check.wrong]
    assert wrong == found.first_wrong
    assert wrong.sqnr_db == pytest.approx(40, abs=0.01)
    assert wrong.said == (
        f"Convolution '{prefix}second', which must be 'c2' of Conv 'second' ([9, 16, 12] for [1, 9, 16, 12])"
    )


def test_a_very_different_layer_is_matched_by_its_position(source: ModelSource) -> None:
    """No tensor of the original is similar to its output, so it is compared with the next tensor of its size."""
    found = compared(source, named(spoiled(source, "Convolution", 0, "weight", -3.0), "other_"))
    assert found.first_wrong is not None
    assert (found.first_wrong.layer, found.first_wrong.tensor.name) == ("other_first", "c1")


def test_nan_is_wrong(source: ModelSource) -> None:
    found = compared(source, spoiled(source, "Convolution", 0, "weight", math.nan))
    assert found.first_wrong is not None
    assert found.first_wrong.layer == "first"
    assert found.first_wrong.sqnr_db == -math.inf


def test_the_reproducer_contains_only_the_layer(source: ModelSource, tmp_path: Path) -> None:
    found = compared(source, spoiled(source, "Convolution", 1, "weight", 1.1))
    assert found.first_wrong is not None
    folder = tmp_path / "made" / "here"
    files = write_reproducer(folder, source, found, found.first_wrong, example_arrays(source.inputs))
    assert sorted(files) == sorted(path.name for path in folder.iterdir())

    said = subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=True)
    figure = re.search(r"SQNR: +([\d.]+) dB", said.stdout)
    assert figure is not None, said.stdout
    assert float(figure[1]) == pytest.approx(20, abs=0.01)

    part = onnx.load(str(folder / "layer.onnx"))
    assert [n.name for n in part.graph.node] == ["second"]
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    (output,) = session.run(None, {given.name: np.load(folder / "input-0.npy").reshape(given.shape)})
    np.testing.assert_allclose(output[0], np.load(folder / "output.npy"), rtol=1e-5, atol=1e-5)


def test_reproducer_holds_all_layers_of_one_operator(source: ModelSource, tmp_path: Path) -> None:
    """A Transpose is a Reshape and a Permute. The blob between them is not a tensor of the original."""
    graph = lower(source.file, source.inputs)
    (permute,) = [layer for layer in graph.layers if layer.type == "Permute"]
    permute.params.pop("order_type")
    found = compared(source, graph)
    assert found.first_wrong is not None
    assert found.first_wrong.tensor.name == "y"
    write_reproducer(tmp_path, source, found, found.first_wrong, example_arrays(source.inputs))
    alone = ncnnfile.load(tmp_path / "layer.param")
    assert [layer.type for layer in alone.layers] == ["Input", "Reshape", "Permute"]
    assert alone.input_shapes() == [(9, 16, 12)]


def test_command_shows_every_layer_and_writes_the_first_wrong_one(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = spoiled(source, "Convolution", 1, "weight", 1.1)
    monkeypatch.setattr(explaining, "convert_source", lambda *_, **__: SimpleNamespace(graph=graph))
    path = str(source.path)
    command = ["convert", path, "-o", str(tmp_path / "m.param"), "--explain", "--reproducer", str(tmp_path / "made")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "20.0" in result.stdout  # the line breaks in the cells depend on the terminal
    assert "the first wrong layer" in " ".join(result.stdout.split())
    assert (tmp_path / "made" / "reproduce.py").is_file()


def test_the_folder_of_a_reproducer_is_checked_before_the_work(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was opened before the folder was checked")

    monkeypatch.setattr(explaining, "open_model", forbidden)
    (tmp_path / "file").touch()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").touch()
    for folder, says in (("file", "is a file"), ("full", "is not empty")):
        with pytest.raises(StorageError, match=says):
            explaining.explain(source.path, reproducer=tmp_path / folder)


def test_refused_conversion_names_the_first_wrong_layer(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = spoiled(source, "Convolution", 1, "weight", 1.1)
    monkeypatch.setitem(ROUTES["onnx"], "onnx", lambda *_: graph)
    with pytest.raises(VerificationError, match=r"20\.0 dB.* first wrong layer is Convolution 'second', which must be"):
        convert(source.path, route="onnx")


@pytest.mark.torch
def test_modules_of_torch_are_compared_by_hooks(tmp_path: Path) -> None:
    """The sum is not the output of a module, so no tensor is known for it, and it does not count as wrong."""
    import torch

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.third = torch.nn.Conv2d(8, 4, 1)

        def forward(self, x: Any) -> Any:
            y = self.first(x)
            return self.third(y + torch.tanh(self.second(y)))

    torch.manual_seed(0)
    original = open_model(Net(), shapes=[(3, 16, 12)])
    samples = ArraySamples(tuple(array[None] for array in example_arrays(original.inputs)))
    graph = convert_source(original, samples, tmp_path).graph
    right = compared(original, graph)
    assert right.first_wrong is None
    assert {check.tensor.name for check in right.layers} >= {"first", "second", "third"}
    layer = [layer for layer in graph.layers if layer.type == "Convolution"][1]
    layer.weights["weight"] = layer.array("weight") * np.float32(1.03)
    found = compared(original, graph).first_wrong
    assert found is not None
    assert (found.layer, found.tensor.name, found.tensor.maker) == (layer.name, "second", "Conv2d")
