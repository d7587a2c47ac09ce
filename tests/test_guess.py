"""Guessing the head of a network: which heads are recognised, and which are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import model
from numpy.typing import NDArray
from onnx.helper import make_node as node

import ncnnkit as nk
from ncnnkit.errors import RecipeError
from ncnnkit.model import ncnnfile
from ncnnkit.source import open_model
from ncnnkit.tasks import Decoder, Table, named_task, presets
from ncnnkit.tasks.guess import HEADS, guess
from ncnnkit.tasks.guess_others import with_blank
from ncnnkit.tasks.known import Known
from ncnnkit.tasks.segmentation import Segmentation
from ncnnkit.tasks.text import Texts

Array = NDArray[Any]
SIZE = (64, 96)
RNG = np.random.default_rng(0)


def centres(size: tuple[int, int] = SIZE, each: int = 1, stacked: bool = False) -> Array:
    """The middle of the cell of each box, pixels."""
    made = []
    for stride in presets.STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride
        made.append(np.tile(cells, (each, 1)) if stacked else np.repeat(cells, each, 0))
    return np.concatenate(made).astype(np.float32)


def scores(count: int, classes: int) -> Array:
    return RNG.uniform(0, 0.1, (count, classes)).astype(np.float32)


def decoded(columns: int, each: int = 1) -> Array:
    """Rows of centre and size near the cells, then scores."""
    places = centres(each=each, stacked=True)
    return np.concatenate([places, np.full_like(places, 20), scores(len(places), columns - 4)], 1)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))


def found(
    *outputs: Array, size: tuple[int, int] = SIZE, labels: int = 0, task: str = "", name: str = "", **metadata: str
) -> Any:
    """(decoder, reason), or None."""
    made = guess(Known([outputs], size, metadata, names(labels), name), task)
    return made if made and isinstance(made[0], Decoder) else None


def saved(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, Array], metadata: dict[str, str]) -> Path:
    """A model with input x, an image of SIZE, and output y."""
    proto = model(nodes, {"x": RNG.random((1, 3, *SIZE)).astype("f4")}, ["y"], constants)
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, str(folder / "model.onnx"))
    return folder / "model.onnx"


CELLS = len(centres())


def test_ultralytics_by_its_metadata() -> None:
    decoder, why = guess(Known([[decoded(7).T]], SIZE, {"task": "detect"}, names(3))) or (None, "")
    assert decoder == presets.ultralytics(3)
    assert why == "Ultralytics' metadata says detect, and its output has 4 + 3 rows"
    assert guess(Known([[decoded(7).T]], SIZE, {"task": "detect"}, names(4))) is None
    assert guess(Known([[decoded(7).T]], SIZE, {"task": "obb"}, names(2))) is None


def test_ultralytics_poses() -> None:
    points = RNG.uniform(0, 90, (CELLS, 51)).astype(np.float32)
    table = np.concatenate([decoded(5), points], 1).T
    known = Known([[table]], SIZE, {"task": "pose", "kpt_shape": "[17, 3]"}, names(1))
    decoder, why = guess(known) or (None, "")
    assert decoder == presets.ultralytics(1, (17, 3))
    assert "17 x 3 of keypoints" in why
    assert guess(Known([[table]], SIZE, {"task": "pose"}, names(1))) is None
    assert guess(Known([[table]], SIZE, {"task": "pose", "kpt_shape": "__import__('os')"}, names(1))) is None


def rows_found(count: int = 300, columns: int = 6) -> Array:
    low = RNG.uniform(0, 40, (count, 2))
    best = np.sort(RNG.uniform(0, 0.2, (count, 1)), 0)[::-1]
    labels = RNG.integers(0, 80, (count, 1))
    rest = RNG.uniform(0, 60, (count, columns - 6))
    return np.concatenate([low, low + RNG.uniform(1, 20, (count, 2)), best, labels, rest], 1).astype(np.float32)


def test_rows_selected_by_the_network() -> None:
    decoder, why = found(rows_found())
    assert decoder == presets.found_rows()
    assert why == "its scores are in order, and its output has rows of corners, score and label"
    end_to_end = {"task": "detect", "end2end": "True"}
    decoder, why = guess(Known([[rows_found()]], SIZE, end_to_end, names(80))) or (None, "")
    assert decoder == presets.found_rows()
    assert why.startswith("Ultralytics' metadata says that it chooses its boxes itself")
    pose = {"task": "pose", "end2end": "True", "kpt_shape": "[17, 3]"}
    decoder, _ = guess(Known([[rows_found(columns=57)]], SIZE, pose, names(1))) or (None, "")
    assert decoder == presets.found_rows((17, 3))


def test_rows_that_are_empty_for_noise_are_told_by_the_metadata() -> None:
    silent = np.zeros((300, 6), np.float32)
    assert found(silent) is None
    suppressed = {"task": "detect", "args": "{'nms': True}"}
    decoder, _ = guess(Known([[silent]], SIZE, suppressed, names(80))) or (None, "")
    assert decoder == presets.found_rows()


def test_rows_of_centre_and_size_in_fractions() -> None:
    rows = rows_found()
    rows[:, :4] = RNG.uniform(0, 1, (300, 4))
    decoder, why = found(rows)
    assert (decoder.boxes, decoder.scale) == ("cxcywh", (96, 64))
    assert "centre, size" in why


@pytest.mark.parametrize("column", [4, 5])
def test_rows_with_other_columns_are_not_taken_for_boxes(column: int) -> None:
    rows = rows_found()
    rows[:, column] = rows[::-1, column] * 1.1 + 0.05
    assert found(rows) is None


def test_decoded_columns_without_metadata() -> None:
    decoder, why = found(decoded(9).T)
    assert decoder == presets.ultralytics(5)
    assert why == f"its output has {CELLS} boxes, one near each cell of strides 8, 16 and 32, and 5 scores for each"
    assert found(decoded(9).T, labels=4) is None
    assert found(decoded(9).T, size=(64, 64)) is None
    far = decoded(9).T
    far[:2] = far[:2, ::-1]
    assert found(far) is None
    angle = decoded(9).T
    angle[-1] = RNG.uniform(0.6, 0.9, CELLS)  # an oriented box has an angle behind its scores
    assert found(angle) is None


def test_yolov5_has_three_boxes_for_each_cell() -> None:
    decoder, why = found(decoded(9, each=3))
    assert decoder == presets.yolov5(4)
    assert "three boxes near each cell of strides 8, 16 and 32, an objectness and 4 scores" in why
    assert found(decoded(9, each=3), labels=5) is None
    # Neighbours in another order are another head.
    assert found(np.concatenate([centres(each=3), decoded(9, each=3)[:, 2:]], 1)) is None


def test_one_box_for_each_cell_with_objectness_is_decoded_or_yolox() -> None:
    decoder, why = found(decoded(9), labels=4)
    assert decoder == presets.yolov5(4)
    assert why.endswith("the boxes are near their cells")
    relative = decoded(9)
    relative[:, :4] = RNG.normal(0, 1, (CELLS, 4))
    decoder, why = found(relative, labels=4)
    assert decoder == presets.yolox(SIZE, 4)
    assert why.endswith("relative to their cells, as YOLOX's")
    assert found(relative) is None  # 4 classes with objectness, or 5 without? COCO's 80 tell:
    coco = np.concatenate([relative[:, :4], scores(CELLS, 81)], 1)
    assert found(coco)[0] == presets.yolox(SIZE, 80)
    assert found(coco, labels=81) is None


def test_ultralytics_before_decoding() -> None:
    rows = RNG.normal(0, 2, (CELLS, 144)).astype(np.float32)
    decoder, why = found(rows)
    assert decoder == presets.ultralytics_logits(SIZE, 80, (Table(0, ("boxes", "scores")),))
    assert "4 x 16 logits and 80 scores for each cell of strides 8, 16 and 32" in why
    assert found(rows, labels=79) is None
    assert found(rows[1:]) is None
    grids = presets.pyramid(SIZE)[::-1]
    maps = [RNG.normal(0, 2, (67, grid.rows, grid.columns)).astype(np.float32) for grid in grids]
    decoder, _ = found(*maps, labels=3)
    tables = tuple(Table(index, ("boxes", "scores"), "maps") for index in (2, 1, 0))  # the finest first
    assert decoder == presets.ultralytics_logits(SIZE, 3, tables)


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("yolov5s", presets.YOLOV5_ANCHORS),
        ("YOLOv7", presets.YOLOV7_ANCHORS),
        ("yolov7-tiny", presets.YOLOV5_ANCHORS),
    ],
)
@pytest.mark.parametrize("layout", ["maps", "stacks"])
def test_yolov5_before_decoding_by_its_name(name: str, anchors: Any, layout: Any) -> None:
    outputs = [RNG.normal(0, 2, (3, grid.rows, grid.columns, 85)).astype("f4") for grid in presets.pyramid(SIZE)]
    if layout == "maps":
        outputs = [array.transpose(0, 3, 1, 2).reshape(255, *array.shape[1:3]) for array in outputs]
    decoder, why = found(*outputs, name=name)
    assert decoder == presets.yolov5_maps(SIZE, 80, anchors, layout)
    assert why.endswith("its name says which anchors")
    assert found(*outputs, name="detector") is None


def test_nanodet_plus() -> None:
    count = sum(grid.count for grid in presets.pyramid(SIZE, (8, 16, 32, 64)))
    rows = np.concatenate([scores(count, 80), RNG.normal(0, 2, (count, 32)).astype("f4")], 1)
    decoder, why = found(rows)
    tables = (Table(0, ("scores", "boxes")),)
    assert decoder == presets.nanodet(SIZE, 80, tables, (8, 16, 32, 64), plus=True)
    assert "80 scores and 4 x 8 logits" in why
    assert found(rows, labels=79) is None
    assert found(scores(count, 112)) is None  # all of them scores


def test_nanodet() -> None:
    outputs = []
    for grid in presets.pyramid(SIZE):
        outputs += [scores(grid.count, 5), RNG.normal(0, 2, (grid.count, 32)).astype("f4")]
    decoder, _ = found(*outputs, labels=5)
    parts: tuple[Any, ...] = ("scores", "boxes")
    tables = tuple(Table(2 * level + j, (parts[j],)) for level in range(3) for j in range(2))
    assert decoder == presets.nanodet(SIZE, 5, tables, presets.STRIDES, plus=False)
    assert found(*outputs) is None


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("maps", [True, False])
def test_scrfd(points: bool, maps: bool) -> None:
    outputs, tables = [], []
    parts: tuple[Any, ...] = ("scores", "boxes", "keypoints")[: 3 if points else 2]
    for level, grid in enumerate(presets.pyramid(SIZE)):
        for part, wide in zip(parts, (1, 4, 10)):
            shape = (2 * wide, grid.rows, grid.columns) if maps else (2 * grid.rows * grid.columns, wide)
            outputs.append(RNG.uniform(0, 1, shape).astype(np.float32))
            tables.append(Table(level * len(parts) + parts.index(part), (part,), "maps" if maps else "rows"))
    decoder, why = found(*outputs)
    assert decoder == presets.scrfd(SIZE, tuple(tables))
    assert ("five landmarks" in why) == points
    logits = [10 * a - 5 if i % len(parts) == 0 else a for i, a in enumerate(outputs)]
    assert found(*logits)[0].scores == "sigmoid"
    assert found(*outputs[:-1]) is None


def test_retinaface() -> None:
    count = 2 * CELLS
    face = RNG.uniform(0, 1, (count, 1))
    boxes, points = (RNG.normal(0, 1, (count, wide)).astype("f4") for wide in (4, 10))
    outputs = [boxes, np.concatenate([1 - face, face], 1).astype("f4"), points]
    decoder, _ = found(*outputs)
    assert decoder == presets.retinaface(SIZE, (Table(0, ("boxes",)), Table(1), Table(2, ("keypoints",))))
    assert found(outputs[0], outputs[1] * 9, outputs[2])[0].scores == "softmax"
    ordered = np.concatenate([boxes[:, :2], boxes[:, :2] + 0.1], 1)
    assert found(ordered, *outputs[1:]) is None  # decoded already


def test_corners_and_scores_of_a_softmax() -> None:
    shares = RNG.dirichlet([1, 1, 20], 200).astype(np.float32)
    low = RNG.uniform(0, 0.6, (200, 2)).astype(np.float32)
    corners = np.concatenate([low, low + 0.2], 1)
    decoder, why = found(shares, corners)
    assert decoder.tables == (Table(0), Table(1, ("boxes",)))
    assert (decoder.background, decoder.scale, decoder.classes) == (2, (96, 64), 3)
    assert "corners in order and 3 scores that add up to 1" in why
    assert found(corners * 90, shares)[0].scale == (1, 1)
    assert found(shares, RNG.normal(0, 1, (200, 4)).astype("f4")) is None
    assert found(shares * 2, corners) is None


def test_text_with_its_characters() -> None:
    values = RNG.dirichlet(np.ones(6), 20).astype(np.float32)
    decoder, why = found(values, character="a\nb\nc\nd\n")
    assert decoder == presets.ctc(6, ("", "a", "b", "c", "d", " "))
    assert why == "its metadata has 4 characters, and its output 6 classes"
    assert found(values[:, None], character="a\nb\nc\nd\n")[0] == decoder
    assert found(values, character="a\nb") is None
    assert found(values) is None
    told, _ = found(values, task="text", labels=5)
    assert told.alphabet == ("", *names(5))


@pytest.mark.parametrize(
    ("listed", "alphabet"),
    [
        (["a", "b"], ("", "a", "b", " ")),
        (["a", "b", " "], ("", "a", "b", " ")),
        (["<blank>", "a", "b", "c"], ("", "a", "b", "c")),
        (["a", "b", "c", "d"], ()),
        ([], ()),
    ],
)
def test_position_of_the_blank(listed: list[str], alphabet: tuple[str, ...]) -> None:
    assert with_blank(listed, 4) == alphabet


@pytest.mark.parametrize(
    ("values", "shape", "layout", "scale"),
    [
        (np.linspace(0, 1, 10), (5, 2), "rows", (96, 64)),
        (np.linspace(0, 60, 15).reshape(5, 3), (5, 3), "rows", (1, 1)),
        (np.linspace(0, 60, 136).reshape(1, 2, 68), (68, 2), "columns", (1, 1)),
    ],
)
def test_landmarks_if_the_user_names_them(values: Array, shape: Any, layout: Any, scale: Any) -> None:
    assert found(values) is None
    decoder, _ = found(values, task="landmarks")
    assert decoder == Decoder("points", (Table(0, ("keypoints",), layout),), keypoints=shape, scale=scale)


def test_maps_of_classes() -> None:
    values = RNG.normal(0, 1, (4, 16, 24)).astype(np.float32)
    assert found(values) is None
    assert found(values, labels=4)[0] == Decoder("argmax", (Table(0),), 4, axis=-3)
    assert found(values, task="segmentation")[0].classes == 4
    one = found(values[:1], task="segmentation")[0]
    assert (one.classes, one.scores, one.score_threshold) == (1, "sigmoid", 0.5)


@pytest.mark.parametrize(
    "shape", [(1000,), (1, 1000), (512,), (197, 768), (64, 56, 56), (3, 64, 96), (1, 64, 96), (8400, 4), (5, 5)]
)
@pytest.mark.parametrize("values", ["noise", "shares", "zeros", "nan"])
def test_other_networks_are_not_detectors(shape: tuple[int, ...], values: str) -> None:
    noise = RNG.normal(0, 1, shape)
    powers = np.exp(noise)
    made = {"noise": noise, "shares": powers / powers.sum(-1, keepdims=True), "zeros": noise * 0, "nan": noise * np.nan}
    assert found(made[values].astype(np.float32)) is None
    assert found() is None


def test_rows_of_one_name_are_for_one_task() -> None:
    assert len({head.name for head in HEADS}) == len({(head.name, head.task) for head in HEADS})


# --------------------------------------------------------------------------------------------------- what the user says


def constant(folder: Path, values: Array, metadata: dict[str, str] | None = None) -> str:
    """A model with an output that is nearly constant."""
    nodes = [
        node("GlobalAveragePool", ["x"], ["means"]),
        node("Conv", ["means", "w"], ["mean"]),
        node("Reshape", ["mean", "flat"], ["m"]),
        node("Add", ["m", "table"], ["y"]),
    ]
    given = {
        "table": values[None], "w": np.full((1, 3, 1, 1), 1e-6, np.float32), "flat": np.ones(values.ndim + 1, np.int64)
    }  # fmt: skip
    return str(saved(folder, nodes, given, metadata or {}))


def test_the_user_names_the_head(tmp_path: Path) -> None:
    """Three heads have the same shape. Values and metadata do not matter if the user names the head."""
    relative = decoded(9)
    relative[:, :4] = RNG.normal(0, 1, (CELLS, 4))
    file = constant(tmp_path, relative)
    assert open_model(file).decoder is None, "its values do not tell: no names of 4 classes"
    named = {head: open_model(file, task=f"detection:head={head}") for head in ("yolox", "yolov6")}
    assert named["yolox"].decoder == presets.yolox(SIZE, 4)
    assert named["yolov6"].decoder == presets.yolov5(4)
    assert named["yolox"].decoder_origin == "--task detection:head=yolox was given"
    told = {"task": "detect", "names": str(dict(enumerate("abcde")))}
    wrong = constant(tmp_path, decoded(9).T.copy(), told)
    assert open_model(wrong).decoder == presets.ultralytics(5)
    with pytest.raises(RecipeError, match=f"not those of the head yolox: their shapes are 9x{CELLS}") as failed:
        open_model(wrong, task="detection:head=yolox")
    assert failed.value.hint == "heads of these shapes: ultralytics"
    with pytest.raises(RecipeError, match="unknown head 'yolo99'"):
        open_model(wrong, task="detection:head=yolo99")
    with pytest.raises(RecipeError, match="'head=yolox' is not an attribute of text"):
        open_model(wrong, task="text:head=yolox")


def test_the_user_gives_the_alphabet(tmp_path: Path) -> None:
    steps = np.log(RNG.dirichlet(np.ones(6), 20)).astype(np.float32)
    file = constant(tmp_path, steps)
    (tmp_path / "chars.txt").write_text("a\nb\n\u00e9\nd\n", encoding="utf-8")
    source = open_model(file, task=f"text:alphabet={tmp_path / 'chars.txt'}")
    assert source.decoder is not None
    assert source.decoder.alphabet == ("", "a", "b", "\u00e9", "d", " ")
    task = named_task(f"text:alphabet={tmp_path / 'chars.txt'}", source.decoder)
    assert isinstance(task, Texts)
    assert task.written((3, 1, 5, 2)) == "\u00e9a b"
    assert Texts().written((3, 1)) == "3 1"
    (tmp_path / "few.txt").write_text("a\n")
    with pytest.raises(RecipeError, match="has 1 characters, but the network has 6 classes"):
        open_model(file, task=f"text:alphabet={tmp_path / 'few.txt'}")


def test_a_named_task_takes_its_attributes_from_the_outputs(tmp_path: Path) -> None:
    """One map needs no axis of classes, and logits need a threshold of 0."""
    source = open_model(constant(tmp_path, RNG.normal(0, 1, (1, 16, 24)).astype("f4")), task="segmentation")
    assert named_task("segmentation", source.decoder) == Segmentation(axis=-1, threshold=0.0)
    assert named_task("segmentation:threshold=0.5", source.decoder) == Segmentation(axis=-1, threshold=0.5)


# ---------------------------------------------------------------------------------------------------------------- faces


def test_the_stages_of_mtcnn() -> None:
    """The first stage for 64 x 96 pixels has 27 x 43 cells, because its pooling rounds up."""
    boxes, logits = RNG.normal(0, 0.1, (4, 27, 43)).astype("f4"), RNG.normal(0, 2, (2, 27, 43))
    shares = (np.exp(logits) / np.exp(logits).sum(0)).astype("f4")
    decoder, _ = found(boxes, shares)
    assert decoder == presets.mtcnn_proposals((27, 43), (Table(0, ("boxes",), "maps"), Table(1, ("scores",), "maps")))
    last = [np.ascontiguousarray(array.transpose(1, 2, 0)) for array in (shares, boxes)]
    assert found(*last)[0] == presets.mtcnn_proposals((27, 43), (Table(0), Table(1, ("boxes",))))
    assert found(boxes, shares, size=(64, 64)) is None
    assert found(boxes, logits.astype("f4")) is None
    score, shift, points = (np.array(v, np.float32) for v in ([0.3, 0.7], [0.1, 0, 0, 0.1], [0.5] * 10))
    decoder, _ = found(shift, score, points, size=(48, 48))
    assert decoder == presets.mtcnn_crop((48, 48), (Table(0, ("boxes",)), Table(1)))
    assert found(shift, score, size=(24, 24))[0].size == (0, 0)
    assert found(shift, score, size=(32, 32)) is None


# -------------------------------------------------------------------------------------------------------------- opened


def test_opened_file_with_metadata_gets_its_decoder(tmp_path: Path) -> None:
    """The network adds the table of a detector to its input, so that its boxes are near their cells."""
    table = np.ascontiguousarray(decoded(7).T[None])
    nodes = [
        node("GlobalAveragePool", ["x"], ["means"]),
        node("Conv", ["means", "w"], ["mean"]),
        node("Squeeze", ["mean", "last"], ["m"]),
        node("Add", ["m", "table"], ["y"]),
    ]
    constants = {"table": table, "w": np.full((1, 3, 1, 1), 1e-3, np.float32), "last": np.array([3], np.int64)}
    plain = open_model(saved(tmp_path, nodes, constants, {}))
    assert plain.decoder == presets.ultralytics(3)
    assert "one near each cell" in plain.decoder_origin
    told = {"task": "detect", "names": "{0: 'a', 1: 'b', 2: 'c'}"}
    source = open_model(saved(tmp_path, nodes, constants, told))
    assert (source.decoder, source.labels) == (presets.ultralytics(3), ("a", "b", "c"))
    assert "metadata says detect" in source.decoder_origin


def test_network_of_ncnn_with_a_detection_layer(tmp_path: Path) -> None:
    from test_detections import detector

    ncnnfile.save(detector(), tmp_path / "net.param")
    source = open_model(tmp_path / "net.param")
    assert source.decoder is not None
    assert source.decoder.tables == (Table(0, ("label", "scores", "boxes")),)
    assert source.decoder.scale == (16, 16)
    assert source.decoder.score_threshold == pytest.approx(0.52)
    assert source.decoder_origin == "its layer Yolov3DetectionOutput d"


def test_yolov5_names_in_a_list(tmp_path: Path) -> None:
    told = {"stride": "32", "names": "['person', 'car']"}
    assert open_model(saved(tmp_path, [node("Relu", ["x"], ["y"])], {}, told)).labels == ("person", "car")


def test_nudenet_without_its_metadata(tmp_path: Path) -> None:
    package = pytest.importorskip("nudenet.nudenet")
    proto = onnx.load(str(Path(package.__file__).with_name("320n.onnx")))
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "n.onnx"))
    source = open_model(tmp_path / "n.onnx", shapes=[(3, 320, 320)])
    assert source.decoder == presets.ultralytics(18)


def test_the_card_of_a_converted_model_contains_its_task(tmp_path: Path) -> None:
    (tmp_path / "chars.txt").write_text("a\nb\nc\nd\n")
    file = constant(tmp_path, np.log(RNG.dirichlet(np.ones(6), 20)).astype(np.float32))
    made = nk.convert(file, task=f"text:alphabet={tmp_path / 'chars.txt'}")
    nk.save(made, tmp_path / "net.param")
    loaded = nk.Artifact.load(tmp_path / "net.param")
    assert loaded.task == "text"
    assert isinstance(loaded.purpose, Texts)
    assert loaded.purpose.alphabet == ("", "a", "b", "c", "d", " ")
