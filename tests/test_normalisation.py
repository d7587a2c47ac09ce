"""A normalisation at the beginning of a network becomes part of the preprocessing, and the outputs stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import model, run_ncnn
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

import ncnnkit
from ncnnkit import pipeline
from ncnnkit.model.graph import Graph
from ncnnkit.onboard.picture import Fit
from ncnnkit.recipe import Recipe
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import IMAGENET_MEAN, IMAGENET_STD
from ncnnkit.source import open_model
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.normalisation import fold_normalisation
from ncnnkit.source.opening import GUESS

Array = NDArray[Any]
node = helper.make_node

SIDE = 12
SHARES = Preprocess(resize=(SIDE, SIDE))
PIXELS = Preprocess(resize=(SIDE, SIDE), divisor=1.0)
NOISE = np.random.default_rng(3)
IMAGE = Image.fromarray(NOISE.integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def column(*values: float) -> Array:
    made: Array = np.array(values, np.float32).reshape(-1, 1, 1)
    return made


CONSTANTS: dict[str, Array] = {
    "mean": column(*IMAGENET_MEAN), "std": column(*IMAGENET_STD), "mean255": column(*IMAGENET_MEAN) * 255,
    "inverse": 1 / (column(*IMAGENET_STD) * 255), "last_mean": np.array(IMAGENET_MEAN, np.float32),
    "last_std": np.array(IMAGENET_STD, np.float32), "minus": -column(*IMAGENET_MEAN) / column(*IMAGENET_STD),
    "ratio": 1 / column(*IMAGENET_STD), "half": np.array(127.5, np.float32), "one": np.array(1, np.float32),
    "zeros": np.zeros(3, np.float32), "var": np.array(IMAGENET_STD, np.float32) ** 2,
    "reverse": np.array([2, 1, 0]), "w": NOISE.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "b": NOISE.normal(size=4).astype(np.float32), "low": np.array(0.2, np.float32), "high": np.array(0.8, np.float32),
}  # fmt: skip


def network(
    path: Path, *head: onnx.NodeProto, shape: tuple[int, ...] = (1, 3, SIDE, SIDE), kind: Any = np.float32
) -> str:
    """A file with first nodes that compute ``y`` from ``x``, followed by a padded convolution."""
    read = {name for each in head for name in each.input}
    nodes = [*head, node("Conv", ["y", "w", "b"], ["z"], pads=[1, 1, 1, 1]), node("Relu", ["z"], ["out"])]
    constants = {name: array for name, array in CONSTANTS.items() if name in read | {"w", "b"}}
    proto = model(nodes, {"x": np.zeros(shape, kind)}, ["out"], constants)
    file = path / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), str(file))
    return str(file)


def converted(path: str, preprocess: Preprocess) -> tuple[ncnnkit.Artifact, list[str]]:
    said: list[str] = []
    made, check = convert_opened(open_model(path), preprocess=preprocess.to_dict(), tell=said.append)
    assert check.sqnr_db is None or check.sqnr_db > 100
    return made, said


def sqnr(ours: Array, exact: Array) -> float:
    noise = np.square(ours - exact).mean()
    return float(10 * np.log10(np.square(exact).mean() / max(noise, 1e-30)))


def original_outputs(path: str, fed: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": fed})
    return np.asarray(made[0])


SPELLINGS = {
    "sub-div": ([node("Sub", ["x", "mean"], ["a"]), node("Div", ["a", "std"], ["y"])], SHARES),
    "mul-add": ([node("Mul", ["x", "ratio"], ["a"]), node("Add", ["a", "minus"], ["y"])], SHARES),
    "of-pixels": ([node("Sub", ["x", "mean255"], ["a"]), node("Mul", ["a", "inverse"], ["y"])], PIXELS),
    "scalars": ([node("Div", ["x", "half"], ["a"]), node("Sub", ["a", "one"], ["y"])], PIXELS),
    "one-channel-alike": ([node("Sub", ["x", "half"], ["y"])], PIXELS),
    "batch-norm": (
        [node("BatchNormalization", ["x", "last_std", "zeros", "last_mean", "var"], ["y"], epsilon=0.0)], SHARES,
    ),
    "reversed-channels": (
        [node("Gather", ["x", "reverse"], ["a"], axis=1), node("Sub", ["a", "mean"], ["b0"]),
         node("Div", ["b0", "std"], ["y"])], SHARES,
    ),
    "after-another": ([node("Sub", ["x", "mean"], ["a"]), node("Div", ["a", "std"], ["y"])],
                      Preprocess(resize=(SIDE, SIDE), mean=(0.1, 0.2, 0.3), std=(0.5, 2.0, 1.0), color="bgr")),
}  # fmt: skip
"""Name -> (the nodes of a normalisation, the preprocessing of the network that begins with it)."""


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_normalisation_becomes_part_of_the_preprocessing(name: str, tmp_path: Path) -> None:
    head, preprocess = SPELLINGS[name]
    path = network(tmp_path, *head)
    made, said = converted(path, preprocess)
    assert made.preprocess is not None
    assert made.preprocess != preprocess
    assert not {layer.type for layer in made.graph.layers} & {"BinaryOp", "BatchNorm", "Scale", "MemoryData", "Slice"}
    (sentence,) = said
    assert "normalisation" in sentence
    exact = original_outputs(path, preprocess.apply(IMAGE)[None])
    (ours,) = run_ncnn(made.graph, [made.preprocess.apply(IMAGE)])
    assert sqnr(ours, exact) > 110


def test_numbers_are_recovered_as_the_author_wrote_them(tmp_path: Path) -> None:
    made, _ = converted(network(tmp_path, *SPELLINGS["sub-div"][0]), SHARES)
    assert made.preprocess == Preprocess(resize=(SIDE, SIDE), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_a_reversal_of_channels_is_an_order_of_colours(tmp_path: Path) -> None:
    made, _ = converted(network(tmp_path, *SPELLINGS["reversed-channels"][0]), SHARES)
    assert made.preprocess is not None
    assert made.preprocess.color == "bgr"
    assert made.preprocess.mean == IMAGENET_MEAN


def test_padding_that_is_zero_in_the_tensor_keeps_the_normalisation_in_the_network(tmp_path: Path) -> None:
    """The network also normalises that zero."""
    wide = Image.fromarray(NOISE.integers(0, 256, (SIDE // 2, SIDE, 3), np.uint8))
    path = network(tmp_path, *SPELLINGS["reversed-channels"][0])
    for fill, folded in ((None, False), ((10, 20, 30), True)):
        given = Preprocess(Fit("letterbox", (SIDE, SIDE), fill=fill))
        made, said = converted(path, given)
        assert bool(said) is folded
        assert made.preprocess is not None
        exact = original_outputs(path, given.apply(wide)[None])
        (ours,) = run_ncnn(made.graph, [made.preprocess.apply(wide)])
        assert sqnr(ours, exact) > 110


def test_pixels_in_the_order_of_tensorflow_are_normalised_by_the_preprocessing(tmp_path: Path) -> None:
    head = [
        node("Cast", ["x"], ["a"], to=1), node("Div", ["a", "half"], ["c"]), node("Sub", ["c", "one"], ["d"]),
        node("Transpose", ["d"], ["y"], perm=[0, 3, 1, 2]),
    ]  # fmt: skip
    path = network(tmp_path, *head, shape=(1, SIDE, SIDE, 3), kind=np.uint8)
    source = open_model(path)
    made, _ = convert_opened(source)
    assert made.preprocess == Preprocess(resize=(SIDE, SIDE), divisor=1.0, mean=(127.5,), std=(127.5,))
    exact = original_outputs(path, np.asarray(IMAGE)[None])
    (ours,) = run_ncnn(made.graph, [made.preprocess.apply(IMAGE)])
    assert sqnr(ours, exact) > 110


KEPT = {
    "clipped": [node("Clip", ["x", "low", "high"], ["a"]), node("Sub", ["a", "mean"], ["y"])],
    "by-a-map": [node("Mul", ["x", "map"], ["y"])],
    "resized": [node("Resize", ["x", "", "", "sizes"], ["a"], mode="linear"), node("Sub", ["a", "mean"], ["y"])],
    "squared": [node("Mul", ["x", "x"], ["y"])],
}


@pytest.mark.parametrize("name", KEPT)
def test_other_nodes_stay_in_the_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONSTANTS, "map", NOISE.random((1, 3, SIDE, SIDE)).astype(np.float32))
    monkeypatch.setitem(CONSTANTS, "sizes", np.array([1, 3, 8, 8]))
    path = network(tmp_path, *KEPT[name])
    made, said = converted(path, SHARES)
    assert made.preprocess == SHARES
    assert not said
    (ours,) = run_ncnn(made.graph, [SHARES.apply(IMAGE)])
    assert sqnr(ours, original_outputs(path, SHARES.apply(IMAGE)[None])) > 100


def graph_of(path: str) -> Graph:
    return ncnnkit.convert(path).graph


def test_arrays_are_fed_as_they_are(tmp_path: Path) -> None:
    graph = graph_of(network(tmp_path, *SPELLINGS["sub-div"][0]))
    assert fold_normalisation(graph, SHARES, "given", images=False).graph is graph
    assert fold_normalisation(graph, None, "none").graph is graph


@pytest.mark.parametrize(("name", "divisor"), [("sub-div", 255.0), ("of-pixels", 1.0), ("scalars", 1.0)])
def test_a_guess_follows_the_normalisation(name: str, divisor: float, tmp_path: Path) -> None:
    graph = graph_of(network(tmp_path, *SPELLINGS[name][0]))
    guess = Preprocess(resize=(SIDE, SIDE), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    fed = fold_normalisation(graph, guess, GUESS)
    assert fed.original == Preprocess(resize=(SIDE, SIDE), divisor=divisor)
    assert "normalises its input itself" in fed.origin
    assert fed.origin.startswith("a guess: ")


def test_a_network_that_ends_with_its_normalisation_is_left(tmp_path: Path) -> None:
    proto = model([node("Sub", ["x", "mean"], ["out"])], {"x": np.zeros((1, 3, 4, 4), np.float32)}, ["out"],
                  {"mean": CONSTANTS["mean"]})  # fmt: skip
    onnx.save(proto, str(tmp_path / "net.onnx"))
    graph = graph_of(str(tmp_path / "net.onnx"))
    assert fold_normalisation(graph, SHARES, "given").graph is graph


def test_a_run_compares_the_folded_network_with_the_original_on_its_own_input(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        Image.fromarray(NOISE.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")
    path = network(tmp_path, *SPELLINGS["sub-div"][0])
    recipe = Recipe(path, images=str(folder), precisions=("fp32",), backends=("cpu",), seconds=0.05, effort="fast")
    document = pipeline.run(recipe, tmp_path / "out")
    assert document.preprocess is not None
    assert document.preprocess.mean == IMAGENET_MEAN
    assert document.preprocess.std == IMAGENET_STD
    (row,) = [variant for variant in document.variants if variant.name == "fp32-cpu"]
    assert row.accuracy is not None
    assert (row.accuracy.sqnr_db or 200) > 110
    assert any("begins with a normalisation" in warning for warning in document.warnings)
    assert any("normalises its input itself" in warning for warning in document.warnings)
