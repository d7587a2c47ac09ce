"""One network for inputs of several shapes: conversions that can be merged, and those that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import run_ncnn, run_onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import ncnnkit
from ncnnkit.artifact import Artifact
from ncnnkit.cli import app
from ncnnkit.errors import ConvertError, ModelError
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.shapes import expression
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe
from ncnnkit.samples.finding import open_images
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import ArraySamples, Samples
from ncnnkit.source import conversion, open_model
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.dynamic import _At, merge, probe_shapes
from ncnnkit.source.reference import Expected

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT
SQUARES = [(3, 16, 16), (3, 32, 32)]


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def write(
    path: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], outputs: Sequence[str] = ("y",)
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        kind, ["" if name == "-" else name for name in inputs.split()], outputs.split(), **attributes
    )


CONV = node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1])
WEIGHTS = {"kernel": noise(4, 3, 3, 3), "last": np.array([1, 4, -1]), "two": np.array([1, 1, 2, 2], np.float32)}

# Name -> nodes from c, which is (1, 4, h/2, w/2), to y.
TAILS: dict[str, list[onnx.NodeProto]] = {
    # One side is computed from the rest, and one is kept.
    "tokens": [node("Reshape", "c last", "r"), node("Transpose", "r", "y", perm=[0, 2, 1])],
    "resized": [node("Resize", "c - two", "y", mode="linear", coordinate_transformation_mode="half_pixel")],
    # From tokens back to a map with the sides of the input.
    "back": [
        node("Reshape", "c last", "r"), node("Transpose", "r", "t", perm=[0, 2, 1]), node("Softmax", "t", "s"),
        node("Transpose", "s", "u", perm=[0, 2, 1]), node("Shape", "c", "sides"), node("Reshape", "u sides", "m"),
        node("Conv", "m kernel4", "y", pads=[1, 1, 1, 1]),
    ],
    # To the size of the input, as in segmentation: Resize by sizes.
    "upsampled": [
        node("Shape", "x", "whole"), node("Slice", "whole from to", "hw"), node("Concat", "head hw", "sizes", axis=0),
        node("Resize", "c - - sizes", "y", mode="linear", coordinate_transformation_mode="half_pixel"),
    ],
    # Windows of 4: (1, 4, h/4, 4, w/4, 4) is six axes.
    "cropped": [node("Slice", "c one most axes", "y")],
    "pooled": [node("GlobalAveragePool", "c", "g"), node("Mul", "c g", "y")],
}  # fmt: skip
MORE = {
    "kernel4": noise(2, 4, 3, 3), "from": np.array([2]), "to": np.array([4]), "head": np.array([1, 4]),
    "one": np.array([1, 2]), "most": np.array([2**31 - 1, -1]), "axes": np.array([2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_one_network_for_several_shapes(tmp_path: Path, name: str) -> None:
    """The given shapes are squares, which do not distinguish the sides. Other shapes still follow from them."""
    path = write(tmp_path / "m.onnx", [CONV, *TAILS[name]], WEIGHTS | MORE)
    source = open_model(path, shapes=SQUARES[:1], shape_too=SQUARES[1:])
    made, check = convert_opened(source, route="onnx")
    assert [each.shapes for each in check.shapes] == [[SQUARES[1]]]
    assert check.shapes[0].sqnr_db is None or check.shapes[0].sqnr_db > 80
    for shape in (*SQUARES, (3, 24, 40)):
        x = noise(1, *shape)
        graph = made.graph.copy()
        graph.set_input_shapes([shape])
        graph.infer_shapes()
        (ours,), (theirs,) = run_ncnn(graph, [x]), run_onnx(onnx.load(path), {"x": x})
        np.testing.assert_allclose(ours.reshape(-1), theirs.reshape(-1), rtol=1e-3, atol=1e-4, err_msg=str(shape))


def test_a_table_of_positions_is_refused_with_its_layer(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", "c last", "r"), node("Shape", "r", "sides"), node("ConstantOfShape", "sides", "zeros"),
        node("CumSum", "zeros axis", "places"), node("Add", "r places", "y"),
    ]  # fmt: skip
    nodes[2].attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.ones(1, np.float32))))
    path = write(tmp_path / "m.onnx", [CONV, *nodes], WEIGHTS | {"axis": np.array(2)})
    source = open_model(path, shapes=SQUARES[:1], shape_too=SQUARES[1:])
    says = r"for inputs of 3x16x16 and 3x32x32: layer MemoryData .* contains numbers .* \(convert the model once"
    with pytest.raises(ConvertError, match=says):
        convert_opened(source, route="onnx")


def test_shapes_beyond_the_memory_are_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [CONV, *TAILS["back"]], WEIGHTS | MORE)
    with pytest.raises(ModelError, match=r"inputs of 1,3,2000000,2000000 need at least 192000\.0 GB of memory"):
        open_model(path, shapes=SQUARES[:1], shape_too=[(3, 2_000_000, 2_000_000)])


def test_a_model_of_fixed_shape_takes_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [CONV, *TAILS["tokens"]], WEIGHTS)
    model = onnx.load(path)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 16
    onnx.save(model, path)
    with pytest.raises(ModelError, match="the shape 3,32,32 contradicts the model, which takes 3,16,16"):
        open_model(path, shape_too=SQUARES[1:])


def test_sets_of_shapes_must_be_whole(tmp_path: Path) -> None:
    layers = [Layer("Input", "a", [], ["a"]), Layer("Input", "b", [], ["b"]), Layer("BinaryOp", "s", ["a", "b"], ["y"])]
    ncnnkit.save(Graph(layers), tmp_path / "m.param")
    with pytest.raises(ModelError, match=r"3 further shapes are given for 2 inputs"):
        open_model(tmp_path / "m.param", shapes=[(4,), (4,)], shape_too=[(5,), (5,), (6,)])


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (
            (Layer("ReLU", "r", ["x"], ["y"]), Layer("Sigmoid", "r", ["x"], ["y"])),
            "layer ReLU r is a different layer at each shape",
        ),
        (
            (Layer("Tile", "r", ["x"], ["y"], {"tiles": 2}), Layer("Tile", "r", ["x"], ["y"], {"tiles": 3})),
            "layer Tile r depends on the size of the input",
        ),
        (
            (
                Layer("Reshape", "r", ["x"], ["y"], {"w": 7, "h": 2}),
                Layer("Reshape", "r", ["x"], ["y"], {"w": 13, "h": 4}),
            ),
            "layer Reshape r has an axis of size 2 and 4, which no expression gives",
        ),
    ],
)
def test_what_cannot_be_merged_is_named(layers: tuple[Layer, Layer], says: str) -> None:
    graphs = [Graph([Layer("Input", "x", [], ["x"], {"w": side}), layer]) for side, layer in zip((14, 52), layers)]
    with pytest.raises(ConvertError, match=says):
        merge(graphs, [[(14,)], [(52,)]])


def test_expressions_are_computed_as_ncnn_does() -> None:
    assert expression("*(0w,2),//(+(1h,3),4),-1", [(5, 6), (3, 9, 7)]) == [12, 3, -1]
    assert expression("max(0c,1w),-(9,0h)", [(5, 6), (7,)]) == [7, 4]
    assert expression("0w,*(0h,2)", [(("in", 0, 0), 6)]) == [6, None]
    assert expression("sqrt(0w)", [(5, 6)]) is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((14, 52), "0w"), ((28, 104), "*(0w,2)"), ((7, 26), "//(0w,2)"), ((35, 130), "//(*(0w,5),2)"),
        ((15, 53), "+(0w,1)"), ((4, 13), "//(+(0w,3),4)"), ((9, 9), "9"), ((9, 33), "*(//(+(0w,4),5),3)"),
    ],
)  # fmt: skip
def test_a_side_that_follows_from_another_is_an_expression(wanted: tuple[int, int], found: str) -> None:
    """In a Reshape with two varying sides, and without a third side that could be computed."""
    rest = [Layer("Reshape", "r", ["x"], ["y"], {"w": w, "h": h, "c": 1}) for w, h in zip(wanted, (3, 4))]
    at = _At(rest, [(14, 52)], [[(14, 52)]])
    assert at.expression(wanted) == found
    assert [expression(found, [(side,)]) for side in (14, 52)] == [[side] for side in wanted]


def test_probes_distinguish_sides() -> None:
    assert probe_shapes([[(3, 16, 16)], [(3, 32, 32)]]) == [(3, 16, 32)]
    assert probe_shapes([[(3, 16, 32)], [(3, 16, 64)]]) == []


def test_the_commands_take_several_shapes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [CONV, *TAILS["back"]], WEIGHTS | MORE)
    arguments = ["convert", str(path), "-o", str(tmp_path / "m.param"), "--shape", "3,16,16", "--shape-too", "3,32,32"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "for inputs of 3x32x32: 1" in done.output
    np.save(tmp_path / "x.npy", noise(6, 3, 16, 16))
    recipe = Recipe(
        str(path), images=str(tmp_path / "x.npy"), shapes=((3, 16, 16),), shape_too=((3, 32, 32), (3, 24, 40)),
        backends=("cpu",), precisions=("fp32",), effort="fast", seconds=0.02, rounds=1,
    )  # fmt: skip
    document = run(recipe, tmp_path / "out")
    assert [each.shapes for each in document.conversion.shapes] == [[(3, 32, 32)], [(3, 24, 40)]]
    for variant in document.variants:
        assert [at.shapes for at in variant.latency_at] == [[(3, 32, 32)], [(3, 24, 40)]]
        assert all(at.latency_ms is not None and at.latency_ms.samples for at in variant.latency_at), variant
    assert "3 × 24 × 40" in (tmp_path / "out/report.html").read_text()
    graph = Artifact.load(tmp_path / "out/m-fp32.param").graph
    assert graph.input_shapes() == [(3, 16, 16)]
    assert graph.infer_shapes([(3, 24, 40)])["out0"] == (2, 12, 20)


def test_images_are_resized_to_further_shapes_and_arrays_replaced_by_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], int]] = []
    given = Expected.__init__

    def noting(self: Any, source: Any, samples: Samples) -> None:
        seen.append((samples[0][0].shape, len(samples)))
        given(self, source, samples)

    monkeypatch.setattr(Expected, "__init__", noting)
    path = write(tmp_path / "m.onnx", [CONV, *TAILS["back"]], WEIGHTS | MORE)
    source = open_model(path, shapes=((3, 16, 16),), shape_too=((3, 24, 40),))
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (30, 50, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"images/{number}.png")
    images = open_images(tmp_path / "images", Preprocess(resize=(16, 16)), source.inputs)
    resized = images.resized(source.others[0].inputs)
    assert resized is not None
    with Image.open(tmp_path / "images/1.png") as image:
        np.testing.assert_array_equal(resized[1][0], Preprocess(resize=(24, 40)).apply(image))
    done = conversion.convert_source(source, images, tmp_path, route="onnx")
    assert [each.shapes for each in done.record().shapes] == [[(3, 24, 40)]]
    conversion.convert_source(source, ArraySamples((noise(3, 3, 16, 16),)), tmp_path, route="onnx")
    assert seen == [((3, 16, 16), 3), ((3, 24, 40), 3), ((3, 16, 16), 3), ((3, 24, 40), 1)]


def test_images_of_their_own_size_are_not_resized(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "x.png")
    images = open_images(tmp_path / "x.png", Preprocess(), [InputSpec("x", (3, 16, 16))])
    assert images.resized([InputSpec("x", (3, 32, 32))]) is None
