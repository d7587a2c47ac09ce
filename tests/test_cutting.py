"""Networks that ncnn cannot compute completely: where they are cut, and the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import model, run_ncnn, run_onnx
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from ncnnkit.errors import ConvertError, ModelError
from ncnnkit.samples.finding import find_images
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import ModelSource, open_model
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.onnx import lower
from ncnnkit.source.onnx.cutting import _vertex_cut
from ncnnkit.tasks import Decoder, Table

Array = NDArray[Any]
node = helper.make_node


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    **inputs: Array,
) -> Path:
    path = folder / "model.onnx"
    onnx.save(model(nodes, inputs, outputs, constants), str(path))
    return path


def opened(path: Path, *outputs: str) -> ModelSource:
    return open_model(path, outputs=outputs)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


BACKBONE = [
    node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
    node("Relu", ["c1"], ["r1"]),
    node("Conv", ["r1", "w2"], ["c2"], name="head"),
]
WEIGHTS = {"w1": noise(8, 3, 3, 3), "w2": noise(9, 8, 1, 1)}
ROWS = [
    node("Reshape", ["c2", "flat_shape"], ["flat"]),
    node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
    node("Split", ["rows", "sizes"], ["boxes", "scores"], axis=2),
    node("Sigmoid", ["scores"], ["prob"]),
    node("ReduceMax", ["prob", "last"], ["best"], keepdims=0),
]
TOP = [
    node("TopK", ["best", "k"], ["top_scores", "index"], axis=1),
    node("Unsqueeze", ["index", "last"], ["column"]),
    node("Expand", ["column", "wide"], ["wide_index"]),
    node("GatherElements", ["boxes", "wide_index"], ["top_boxes"], axis=1),
]
CONSTANTS = {"flat_shape": ints(1, 9, -1), "sizes": ints(4, 5), "last": ints(2), "k": ints(5), "wide": ints(1, 5, 4)}


def detector(folder: Path, outputs: Sequence[str] = ("top_scores", "top_boxes")) -> Path:
    return saved(folder, [*BACKBONE, *ROWS, *TOP], outputs, WEIGHTS | CONSTANTS, x=noise(1, 3, 16, 16))


def assert_ncnn_computes(source: ModelSource, whole: Path, fed: Mapping[str, Array], *names: str) -> None:
    """Check that ncnn and the trimmed original compute these values of the whole model."""
    proto = onnx.load(str(whole))
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=n) for n in names if n not in {o.name for o in proto.graph.output}
    )
    values = dict(zip((output.name for output in proto.graph.output), run_onnx(proto, fed)))
    samples = [source.inputs[i].turned(array[0]).astype(np.float32) for i, array in enumerate(fed.values())]
    theirs = next(source.reference_outputs(ArraySamples(tuple(sample[None] for sample in samples))))
    ours = run_ncnn(lower(source.file, source.inputs), samples)
    for name, reference, output in zip(names, theirs, ours, strict=True):
        np.testing.assert_allclose(reference, values[name][0], rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(output.reshape(-1), values[name].reshape(-1), rtol=1e-4, atol=1e-4, err_msg=name)


# ---------------------------------------------------------------------------------------------------------- the tail


def test_tail_is_cut_at_one_tensor_that_all_of_it_follows_from(tmp_path: Path) -> None:
    path = detector(tmp_path)
    source = opened(path)
    assert source.outputs == ("rows",)  # boxes and best would be two
    assert source.tail == ("Split", "Sigmoid", "ReduceMax", "TopK", "Unsqueeze", "Expand", "GatherElements")
    (said,) = source.changes
    assert "cannot compute TopK" in said
    assert "'rows' (256x9)" in said
    assert "GatherElements" not in said.split("program")[0]
    assert_ncnn_computes(source, path, {"x": noise(1, 3, 16, 16)}, "rows")


def test_outputs_that_ncnn_computes_stay(tmp_path: Path) -> None:
    path = detector(tmp_path, ["boxes", "top_scores"])
    source = opened(path)
    assert source.outputs == ("boxes", "best")
    assert_ncnn_computes(source, path, {"x": noise(1, 3, 16, 16)}, "boxes", "best")


def test_tensors_computed_from_a_kept_output_are_not_outputs(tmp_path: Path) -> None:
    nodes = [*BACKBONE, node("ArgMax", ["c2"], ["map"], axis=1)]
    assert opened(saved(tmp_path, nodes, ["c2", "map"], WEIGHTS, x=noise(1, 3, 8, 8))).outputs == ("c2",)


def test_argmax_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, [*BACKBONE, node("ArgMax", ["c2"], ["map"], axis=1)], ["map"], WEIGHTS, x=noise(1, 3, 8, 8))
    source = opened(path)
    assert (source.outputs, source.tail) == (("c2",), ("ArgMax",))


def test_weights_that_ncnn_can_use_are_never_after_the_cut(tmp_path: Path) -> None:
    """A tensor that the tail and another convolution read is not a place to cut, because that convolution would be
    lost.
    """
    nodes = [
        *BACKBONE,
        node("ReduceMax", ["r1", "one"], ["peak"], keepdims=0),
        node("NonZero", ["peak"], ["where"]),
        node("NonZero", ["c2"], ["others"]),
    ]
    path = saved(tmp_path, nodes, ["where", "others"], WEIGHTS | {"one": ints(1)}, x=noise(1, 3, 8, 8))
    assert opened(path).outputs == ("c2", "peak")


def test_inputs_that_only_the_tail_reads_are_removed(tmp_path: Path) -> None:
    nodes = [*BACKBONE, *ROWS, *TOP, node("Mul", ["top_boxes", "size"], ["scaled"])]
    path = saved(tmp_path, nodes, ["scaled"], WEIGHTS | CONSTANTS, x=noise(1, 3, 16, 16), size=noise(1, 1, 4))
    source = opened(path)
    assert [spec.name for spec in source.inputs] == ["x"]
    assert source.outputs == ("rows",)
    assert any("'size' is not needed" in change for change in source.changes)


def test_shape_of_a_tensor_in_the_tail_may_be_read_before_the_cut(tmp_path: Path) -> None:
    """The number of the best values is known, but not the values."""
    nodes = [
        *BACKBONE,
        node("Flatten", ["c2"], ["all"]),
        node("TopK", ["all", "k"], ["v", "i"]),
        node("Shape", ["v"], ["count"]),
        node("Cast", ["count"], ["counts"], to=1),
        node("ReduceMax", ["counts"], ["most"], keepdims=0),
        node("Mul", ["c2", "most"], ["scaled"]),
        node("Conv", ["scaled", "w3"], ["y"]),
    ]
    constants = {"k": ints(7), "w3": noise(2, 9, 1, 1)}
    path = saved(tmp_path, nodes, ["y", "v"], WEIGHTS | constants, x=noise(1, 3, 8, 8))
    source = opened(path)
    assert source.outputs == ("y", "all")
    assert "TopK" not in [n.op_type for n in onnx.load(str(source.path)).graph.node]
    assert_ncnn_computes(source, path, {"x": noise(1, 3, 8, 8)}, "y", "all")


@pytest.mark.parametrize("outside", ["r1", "best"])
def test_loop_reads_what_its_body_takes_from_outside(tmp_path: Path, outside: str) -> None:
    body = helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Add", ["sum", outside], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        *BACKBONE[:2],
        node("Relu", ["r1"], ["start"]),
        node("TopK", ["r1", "one"], ["best", "index"]),
        node("Loop", ["times", "", "start"], ["y"], body=body),
    ]
    constants = {"w1": WEIGHTS["w1"], "times": np.array(1000), "one": ints(1)}
    path = saved(tmp_path, nodes, ["y"], constants, x=noise(1, 3, 8, 8))
    source = opened(path)
    assert source.outputs == ("r1",)
    assert source.tail[-1] == "Loop"
    assert [n.op_type for n in onnx.load(str(source.path)).graph.node] == ["Conv", "Relu"]


def test_a_network_that_ncnn_computes_is_not_cut(tmp_path: Path) -> None:
    nodes = [*BACKBONE, node("Gather", ["c2", "which"], ["y"], axis=1)]
    path = saved(tmp_path, nodes, ["y"], WEIGHTS | {"which": ints(3, 1)}, x=noise(1, 3, 8, 8))
    source = opened(path)
    assert source.path == path
    assert source.changes == ()
    assert source.outputs == ("y",)


def test_an_operator_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    """Most of the weights are after it, so nothing is cut."""
    nodes = [
        BACKBONE[0],
        node("TopK", ["c1", "k"], ["top", "index"], axis=2, name="pick"),
        node("Conv", ["top", "w2"], ["d"]),
        node("Conv", ["d", "w3"], ["y"]),
    ]
    path = saved(tmp_path, nodes, ["y"], WEIGHTS | {"w3": noise(4, 9, 1, 1), "k": ints(3)}, x=noise(1, 3, 8, 8))
    source = opened(path)
    assert source.outputs == ("y",)
    with pytest.raises(ConvertError, match=r"TopK 'pick' \(inputs \[1,8,8,8\], \[1\]\).*ncnn cannot sort") as caught:
        lower(source.file, source.inputs)
    assert str(path) in str(caught.value)


def test_half_precision_model_is_cut_in_float32(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        [*BACKBONE, node("ArgMax", ["c2"], ["map"], axis=1)],
        ["map"],
        {name: array.astype(np.float16) for name, array in WEIGHTS.items()},
        x=noise(1, 3, 8, 8).astype(np.float16),
    )
    source = opened(path)
    assert source.inputs[0].dtype == "float32"
    (output,) = next(source.reference_outputs(ArraySamples((noise(1, 3, 8, 8),))))
    assert output.shape == (9, 8, 8)


def test_outputs_that_the_user_names(tmp_path: Path) -> None:
    path = detector(tmp_path)
    source = opened(path, "prob", "boxes")
    assert source.outputs == ("prob", "boxes")
    assert "cannot" not in source.changes[0]
    assert_ncnn_computes(source, path, {"x": noise(1, 3, 16, 16)}, "prob", "boxes")
    with pytest.raises(ModelError, match=r"no tensor 'probs' \(prob"):
        opened(path, "probs")
    with pytest.raises(ModelError, match="names 'boxes' twice"):
        opened(path, "boxes", "prob", "boxes")


@pytest.mark.parametrize(
    ("end", "says"),
    [("count", r"'y' is empty for a sample of noise: its shape is \[1, 0, 6, 6\]"), ("last", "Slice .* its ends")],
)
def test_a_number_as_an_input_is_named(tmp_path: Path, end: str, says: str) -> None:
    nodes = [node("Conv", ["x", "w1"], ["c"]), node("Slice", ["c", "one", end, "axis"], ["y"])]
    if end == "last":
        nodes.insert(1, node("Sub", ["count", "one"], ["last"]))
    path = saved(tmp_path, nodes, ["y"], {"w1": WEIGHTS["w1"], "one": ints(1), "axis": ints(1)},
                 x=noise(1, 3, 8, 8), count=ints(4))  # fmt: skip
    source = opened(path)
    with pytest.raises(ConvertError, match=rf"{says}.*\(.*an input that is a number.*--fix count=NUMBER"):
        lower(source.file, source.inputs)


@pytest.mark.parametrize(
    ("made", "wanted", "found"),
    [
        ({"x": [], "b": ["x"], "s": ["x"]}, {"b", "s"}, {"x"}),
        ({"x": [], "b": ["x"], "c": ["b"]}, {"c"}, {"c"}),
        ({"x": [], "y": [], "b": ["x"], "s": ["y"], "t": ["x", "y"]}, {"b", "s", "t"}, {"x", "y"}),
        # The direct path to b and the path through d to e cross in a. Of two cuts of equal size, the later one is
        # taken.
        ({"a": [], "z": [], "b": ["a", "z"], "d": ["b"], "e": ["b", "d"]}, {"d", "e"}, {"b"}),
        # The first path goes from p to t. Only rerouting it shows that there are two paths.
        ({"p": [], "q": [], "u": ["p", "q"], "t": ["u", "p"], "v": ["u"]}, {"t", "v"}, {"t", "v"}),
    ],
)
def test_vertex_cut(made: dict[str, list[str]], wanted: set[str], found: set[str]) -> None:
    assert _vertex_cut(made, wanted) == found


# ------------------------------------------------------------------------------------------------------ the decoders


def assert_predicts_as_the_original(source: ModelSource, least: int = 1) -> None:
    """Check that the decoded predictions equal those of the user's file for noise."""
    made, check = convert_opened(source)
    assert made.decoder == source.decoder
    assert check.decoded is not None
    assert check.decoded.original == check.decoded.network == check.decoded.matched >= least
    assert check.decoded.iou is None or check.decoded.iou > 0.999
    assert check.decoded.score_error is None or check.decoded.score_error < 1e-4


@pytest.mark.parametrize(("axis", "shape"), [(1, (9, 8, 8)), (-3, (9, 8, 8))])
def test_argmax_becomes_a_decoder(tmp_path: Path, axis: int, shape: tuple[int, ...]) -> None:
    nodes = [*BACKBONE, node("ArgMax", ["c2"], ["map"], axis=axis)]
    source = opened(saved(tmp_path, nodes, ["map"], WEIGHTS, x=noise(1, 3, 8, 8)))
    assert source.decoder == Decoder("argmax", (Table(0),), 9, axis=-3)
    assert_predicts_as_the_original(source, least=64)


def test_best_characters_of_a_text_become_a_decoder(tmp_path: Path) -> None:
    nodes = [
        *BACKBONE,
        node("ReduceMean", ["c2", "height"], ["steps"], keepdims=0),
        node("Transpose", ["steps"], ["text"], perm=[0, 2, 1]),
        node("Softmax", ["text"], ["p"], axis=2),
        node("ArgMax", ["p"], ["y"], axis=2, keepdims=0),
    ]
    source = opened(saved(tmp_path, nodes, ["y"], WEIGHTS | {"height": ints(2)}, x=noise(1, 3, 8, 20)))
    assert source.decoder == Decoder("argmax", (Table(0),), 9, axis=-1)
    assert_predicts_as_the_original(source, least=20)


SUPPRESSION = [
    node("Split", ["rows", "parts"], ["low", "size", "scores"], axis=2),
    node("Mul", ["low", "forty"], ["low40"]),
    node("Exp", ["size"], ["grown"]),
    node("Mul", ["grown", "forty"], ["grown40"]),
    node("Add", ["low40", "grown40"], ["high"]),
    node("Concat", ["low40", "high"], ["corners"], axis=2),
    node("Sigmoid", ["scores"], ["prob"]),
    node("Transpose", ["prob"], ["by_class"], perm=[0, 2, 1]),
    node("NonMaxSuppression", ["corners", "by_class", "many", "iou", "least"], ["chosen"]),
    node("Gather", ["chosen", "which"], ["places"], axis=1),
    node("Gather", ["chosen", "one"], ["label_columns"], axis=1),
    node("Squeeze", ["places", "one"], ["place"]),
    node("Squeeze", ["label_columns", "one"], ["labels"]),
    node("Squeeze", ["corners", "none"], ["all_boxes"]),
    node("Gather", ["all_boxes", "place"], ["boxes"]),
    node("GatherND", ["by_class", "chosen"], ["found_scores"]),
]


def test_suppression_becomes_a_decoder(tmp_path: Path) -> None:
    """It reads two tensors, corners and scores, although both follow from one: that one is not decoded."""
    constants = WEIGHTS | CONSTANTS | {
        "parts": ints(2, 2, 5), "forty": np.array(40, np.float32), "many": ints(100), "which": ints(2), "one": ints(1),
        "iou": np.array([0.4], np.float32), "least": np.array([0.6], np.float32), "none": ints(0),
    }  # fmt: skip
    nodes = [*BACKBONE, *ROWS[:2], *SUPPRESSION]
    path = saved(tmp_path, nodes, ["boxes", "found_scores", "labels"], constants, x=noise(1, 3, 16, 16))
    source = opened(path)
    assert source.decoder is not None
    assert set(source.outputs) in ({"corners", "by_class"}, {"corners", "prob"}, {"all_boxes", "prob"})
    found = source.decoder
    assert (found.kind, found.classes, found.iou_threshold, found.score_threshold) == ("boxes", 5, 0.4, 0.6)
    assert any("can decode them: boxes" in change for change in source.changes)
    assert_predicts_as_the_original(source)


def test_a_tail_without_a_decoder_gives_plain_outputs(tmp_path: Path) -> None:
    source = opened(detector(tmp_path))
    assert (source.decoder, source.outputs) == (None, ("rows",))
    assert convert_opened(source)[1].decoded is None


END_TO_END = Decoder("boxes", (Table(0, ("boxes", "scores")),), 3, multi_label=True, most=20)


def end_to_end(folder: Path, reversed_corners: bool = False, keypoints: bool = False) -> Path:
    """The best 20 pairs of box and class of 256 boxes and 3 classes, as Ultralytics' v10 ends.

    With keypoints, there is one class, and a point for each box.
    """
    first, second = ("far", "near") if reversed_corners else ("near", "far")
    classes, sides = (1, ints(4, 1, 2)) if keypoints else (3, ints(4, 3))
    nodes = [
        *BACKBONE,
        *ROWS[:2],
        node("Split", ["rows", "halves"], ["low", "size", "raw", "unused"], axis=2),
        node("Mul", ["low", "forty"], ["near"]),
        node("Exp", ["size"], ["grown"]),
        node("Mul", ["grown", "forty"], ["grown40"]),
        node("Add", ["near", "grown40"], ["far"]),
        node("Sigmoid", ["raw"], ["p"]),
        node("Concat", [first, second, "p"], ["all"], axis=2),
        node("Split", ["all", "sides"], ["boxes", "prob", "point"][: 3 if keypoints else 2], axis=2),
        node("ReduceMax", ["prob", "last"], ["best"], keepdims=0),
        node("TopK", ["best", "k"], ["top", "index"], axis=1),
        node("Unsqueeze", ["index", "last"], ["column"]),
        node("Expand", ["column", "wide3"], ["index3"]),
        node("GatherElements", ["prob", "index3"], ["top_prob"], axis=1),
        node("Flatten", ["top_prob"], ["pairs"]),
        node("TopK", ["pairs", "k"], ["scores", "pair"], axis=1),
        node("Mod", ["pair", "three"], ["label"]),
        node("Div", ["pair", "three"], ["row"]),
        node("GatherElements", ["index", "row"], ["box"], axis=1),
        node("Unsqueeze", ["box", "last"], ["box1"]),
        node("Expand", ["box1", "wide"], ["box4"]),
        node("GatherElements", ["boxes", "box4"], ["xyxy"], axis=1),
        node("Cast", ["label"], ["labels"], to=1),
        node("Unsqueeze", ["labels", "last"], ["labels1"]),
        node("Unsqueeze", ["scores", "last"], ["scores1"]),
        node("Concat", ["xyxy", "scores1", "labels1", *(["points"] if keypoints else [])], ["y"], axis=2),
    ]
    points = [
        node("Expand", ["box1", "wide2"], ["box2"]),
        node("GatherElements", ["point", "box2"], ["points"], axis=1),
    ]
    nodes[-1:-1] = points if keypoints else []
    constants = WEIGHTS | CONSTANTS | {
        "halves": ints(2, 2, 3, 2), "sides": sides, "forty": np.array(40, np.float32), "k": ints(20),
        "wide3": ints(1, 20, classes), "wide": ints(1, 20, 4), "wide2": ints(1, 20, 2),
        "three": np.array(classes, np.int64),
    }  # fmt: skip
    return saved(folder, nodes, ["y"], constants, x=noise(1, 3, 16, 16))


def test_end_to_end_detector_becomes_a_decoder(tmp_path: Path) -> None:
    source = opened(end_to_end(tmp_path))
    assert source.decoder == END_TO_END
    assert source.outputs == ("all",)
    assert_predicts_as_the_original(source, least=20)


def test_keypoints_behind_the_boxes_are_decoded(tmp_path: Path) -> None:
    """The same network, but two of the three columns of scores are a point, as Ultralytics' metadata says."""
    path = end_to_end(tmp_path, keypoints=True)
    source = opened(path)
    assert source.decoder is None  # rows of 8 columns may be anything
    told = onnx.load(str(path))
    helper.set_model_props(told, {"task": "pose", "names": "{0: 'face'}", "kpt_shape": "[1, 2]"})
    onnx.save(told, str(path))
    source = opened(path)
    parts = Table(0, ("boxes", "scores", "keypoints"))
    assert source.decoder == Decoder("boxes", (parts,), 1, keypoints=(1, 2), multi_label=True, most=20)
    assert_predicts_as_the_original(source, least=20)


def test_four_numbers_that_are_not_corners_are_not_boxes(tmp_path: Path) -> None:
    """The tail only passes them on, so their values are the only evidence."""
    assert opened(end_to_end(tmp_path, reversed_corners=True)).decoder is None


def test_decoder_is_in_the_card(tmp_path: Path) -> None:
    made, _ = convert_opened(opened(end_to_end(tmp_path)))
    made.save(tmp_path / "m.param")
    assert opened(tmp_path / "m.param").decoder == Decoder(
        "boxes", (Table(0, ("boxes", "scores")),), 3, multi_label=True, most=20
    )


def test_network_that_finds_nothing_in_noise_is_cut(tmp_path: Path) -> None:
    """A tensor without elements for one sample may have some for another, so neither it nor its shape is a constant."""
    nodes = [
        *BACKBONE,
        node("Greater", ["c2", "high"], ["over"]),
        node("NonZero", ["over"], ["places"]),
        node("Shape", ["places"], ["count"]),
    ]
    path = saved(
        tmp_path, nodes, ["places", "count"], WEIGHTS | {"high": np.array(1e6, np.float32)}, x=noise(1, 3, 8, 8)
    )
    source = opened(path)
    assert (source.outputs, source.tail) == (("over",), ("NonZero", "Shape"))


def test_second_stage_is_named(tmp_path: Path) -> None:
    nodes = [
        *BACKBONE,
        *ROWS,
        *TOP,
        node("MatMul", ["top_boxes", "w4"], ["y"]),
    ]
    path = saved(tmp_path, nodes, ["y"], WEIGHTS | CONSTANTS | {"w4": noise(4, 2)}, x=noise(1, 3, 16, 16))
    (said,) = opened(path).changes
    assert "one operator among them has weights" in said
    assert "boxes" not in said.partition("second stage")[0].rpartition("among them")[2]
    assert "second stage" in said


# ---------------------------------------------------------------------------------------------------------- the head


def test_channels_last_pixels_become_channels_first(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["f"], to=1),
        node("Sub", ["f", "mean"], ["s"]),
        node("Mul", ["s", "scale"], ["m"]),
        node("Transpose", ["m"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w1"], ["y"]),
    ]
    constants: dict[str, Array] = {
        "w1": WEIGHTS["w1"],
        "mean": np.array([120, 110, 100], np.float32),
        "scale": np.array(1 / 58, np.float32),
    }
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 20, 3), np.uint8)
    path = saved(tmp_path, nodes, ["y"], constants, x=pixels)
    source = opened(path)
    (spec,) = source.inputs
    assert (spec.shape, spec.dtype) == ((3, 16, 20), "float32")
    assert source.preprocess == Preprocess(resize=(16, 20), divisor=1.0)
    assert any("16x20x3" in change for change in source.changes)
    assert not any(layer.type == "Permute" for layer in lower(source.file, source.inputs).layers)
    assert_ncnn_computes(source, path, {"x": pixels}, "y")

    np.save(tmp_path / "x.npy", pixels)
    Image.fromarray(pixels[0]).save(tmp_path / "x.png")
    (from_array,) = find_images(str(tmp_path / "x.npy"), source.preprocess, source.inputs)[0]
    (from_image,) = find_images(str(tmp_path / "x.png"), source.preprocess, source.inputs)[0]
    np.testing.assert_array_equal(from_array, pixels[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(from_image, from_array)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 16, 16, 3)])
def test_a_head_without_transpose_or_cast_is_unchanged(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path, [node("Relu", ["x"], ["y"])], ["y"], {}, x=noise(*shape))
    assert opened(path).path == path


# --------------------------------------------------------------------------------------------------------- with torch


@pytest.mark.torch
def test_torch_detector_with_suppression(tmp_path: Path) -> None:
    import torch
    import torchvision

    class Detector(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 9, 1))

        def forward(self, x: torch.Tensor) -> Any:
            rows = self.body(x).flatten(2).transpose(1, 2)[0]
            corner, size = rows[:, :2].sigmoid() * 32, rows[:, 2:4].exp()
            boxes = torch.cat([corner - size, corner + size], 1)
            best, label = rows[:, 4:].sigmoid().max(1)
            top, which = best.topk(20)
            kept = torchvision.ops.nms(boxes[which], top, 0.5)
            return boxes[which][kept], top[kept], label[which][kept]

    torch.manual_seed(0)
    path = tmp_path / "detector.onnx"
    with torch.no_grad():
        torch.onnx.export(Detector().eval(), (torch.rand(1, 3, 32, 32),), str(path), dynamo=False)
    source = opened(path)
    assert len(source.outputs) == 1
    assert {"TopK", "NonMaxSuppression"} <= set(source.tail)
    (exact,) = next(source.reference_outputs(ArraySamples((noise(1, 3, 32, 32),))))
    (ours,) = run_ncnn(lower(source.file, source.inputs), [noise(1, 3, 32, 32)])
    assert exact.size == 9 * 16 * 16
    np.testing.assert_allclose(ours.reshape(-1), exact.reshape(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.torch
def test_a_torch_module_with_a_search_is_cut() -> None:
    import torch

    class Segmentation(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 5, 1))

        def forward(self, x: torch.Tensor) -> Any:
            return {"classes": self.body(x).argmax(1)}

    torch.manual_seed(0)
    source = open_model(Segmentation(), shapes=[(3, 12, 16)])
    assert source.decoder == Decoder("argmax", (Table(0),), 5, axis=-3)
    assert source.name == "Segmentation"
    assert "torch exported it to ONNX" in source.changes[0]
    assert_predicts_as_the_original(source, least=12 * 16)


@pytest.mark.torch
def test_torch_module_that_finds_nothing_in_noise_is_cut() -> None:
    import torch
    import torchvision

    class Detector(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 7, 1))

        def forward(self, x: torch.Tensor) -> Any:
            rows = self.body(x).flatten(2).transpose(1, 2)[0]
            corner, size = rows[:, :2].sigmoid() * 32, rows[:, 2:4].exp()
            boxes = torch.cat([corner - size, corner + size], 1)
            scores, labels = rows[:, 4:].sigmoid().max(1)
            kept = torch.nonzero(scores > 0.9)[:, 0]
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
            kept = torchvision.ops.nms(boxes + 100.0 * labels[:, None], scores, 0.5)
            return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}

    torch.manual_seed(0)
    module = Detector()
    assert not len(module(torch.rand(1, 3, 32, 32))["boxes"])
    source = open_model(module, shapes=[(3, 32, 32)])
    assert source.kind == "onnx"
    assert "NonMaxSuppression" in source.tail
    check = convert_opened(source)[1]
    assert check.sqnr_db is not None
    assert check.sqnr_db > 80
