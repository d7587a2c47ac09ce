"""Decoders: from the outputs of a network to boxes and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncnnkit.codec import as_read
from ncnnkit.source.onnx.tails import find_grid, read_outputs
from ncnnkit.tasks import Agreement, Boxes, ClassMap, Decoder, Grid, Table, agreement, decode
from ncnnkit.tasks.boxes import TORCHVISION_GROWTH

Array = NDArray[Any]


def boxes(*rows: tuple[float, ...]) -> Boxes:
    """Each row: x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


# ------------------------------------------------------------------------------------------------------------- kinds

JOINT = (Table(0, ("boxes", "scores")),)
APART = (Table(0), Table(1, ("boxes",)))

OVERLAPPING = [(0, 0, 10, 10), (1, 0, 11, 10), (30, 30, 40, 40)]
"""The second overlaps the first by 0.82."""


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_yolo_suppresses_boxes_of_one_class(layout: Any) -> None:
    scores = [(0.6, 0.1), (0.9, 0.2), (0.3, 0.8)]
    table = np.array([(*box, *row) for box, row in zip(OVERLAPPING, scores)], np.float32)
    decoder = Decoder(
        "boxes", (Table(0, ("boxes", "scores"), layout),), 2, score_threshold=0.25, iou_threshold=0.7, most=300
    )
    found = decode(decoder, [table if layout == "rows" else table.T])
    assert isinstance(found, Boxes)
    np.testing.assert_array_equal(found.xyxy, [OVERLAPPING[1], OVERLAPPING[2]])
    np.testing.assert_allclose(found.scores, [0.9, 0.8])
    assert found.labels.tolist() == [0, 1]


def test_yolo_keeps_overlapping_boxes_of_two_classes() -> None:
    table = np.array([(*OVERLAPPING[0], 0.6, 0.1), (*OVERLAPPING[1], 0.2, 0.9)], np.float32)
    assert len(decode(Decoder("boxes", JOINT, 2, iou_threshold=0.5), [table])) == 2


def test_yolo_without_suppression_gives_a_box_two_classes() -> None:
    table = np.array([(*OVERLAPPING[0], 0.6, 0.5), (*OVERLAPPING[1], 0.2, 0.1), (*OVERLAPPING[2], 0, 0.3)], np.float32)
    found = decode(Decoder("boxes", JOINT, 2, multi_label=True, most=2), [table])
    assert isinstance(found, Boxes)
    np.testing.assert_allclose(found.scores, [0.6, 0.5])
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(found.xyxy, [OVERLAPPING[0]] * 2)


def test_centre_and_size_become_corners_in_pixels() -> None:
    table = np.array([(0.5, 0.5, 0.2, 0.4, 0.9)], np.float32)
    found = decode(Decoder("boxes", JOINT, 1, boxes="cxcywh", scale=(100, 50)), [table])
    assert isinstance(found, Boxes)
    np.testing.assert_allclose(found.xyxy, [(40, 15, 60, 35)], rtol=1e-6)


def test_ssd_background_is_not_a_class() -> None:
    logits = np.array([(9.0, 1.0, 3.0), (0.0, 4.0, 1.0)], np.float32)
    tables = (Table(1), Table(0, ("boxes",)))
    decoder = Decoder("boxes", tables, 3, scores="softmax", background=0, score_threshold=0.5, size=(20, 35))
    found = decode(decoder, [np.array(OVERLAPPING[1:], np.float32), logits])
    assert isinstance(found, Boxes)
    assert found.labels.tolist() == [1]
    np.testing.assert_array_equal(found.xyxy, [(30, 20, 35, 20)])  # clipped


def test_detr_gives_each_query_one_class() -> None:
    logits = np.array([(2.0, 1.0, 0.0), (0.0, 1.0, 5.0), (1.0, 6.0, 0.0)], np.float32)
    corners = np.array([(0.5, 0.5, 0.2, 0.2)] * 3, np.float32)
    decoder = Decoder(
        "boxes", APART, 3, scores="softmax", background=2, boxes="cxcywh", scale=(10, 10), score_threshold=0.1
    )
    found = decode(decoder, [logits, corners])
    assert isinstance(found, Boxes)
    assert found.labels.tolist() == [1, 0]


def test_argmax_of_a_map_and_of_a_text() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 4, 6))
    found = decode(Decoder("argmax", (Table(0),), 5, axis=-3), [scores])
    assert isinstance(found, ClassMap)
    np.testing.assert_array_equal(found.classes, scores.argmax(0))
    steps = decode(Decoder("argmax", (Table(0),), 6, axis=-1), [scores[0]])
    assert isinstance(steps, ClassMap)
    assert steps.classes.shape == (4,)


def test_a_decoder_is_data() -> None:
    grid = Grid(2, 3, (8.0, 16.0), (4.0, 8.0), ((10.0, 20.0),))
    decoder = Decoder("boxes", APART, 91, boxes="deltas", anchors=(grid,), weights=(10, 10, 5, 5))
    assert as_read(decoder) == decoder
    assert decoder.fault(2) == ""
    assert "outputs [0, 1], but the network has 1" in decoder.fault(1)
    assert "no anchors" in Decoder("boxes", APART, 2, boxes="deltas").fault(2)


# ----------------------------------------------------------------------------------------------------------- anchors


@pytest.mark.parametrize(
    "grid",
    [
        Grid(3, 5, (8.0, 16.0), (0.0, 0.0), ((32.0, 32.0), (20.0, 44.0))),
        Grid(1, 4, (0.0, 10.0), (4.0, 8.0), ((5.0, 5.0),)),
        Grid(1, 1, (0.0, 0.0), (64.0, 64.0), ((5.0, 7.0), (9.0, 9.0), (1.0, 2.0))),
    ],
)
def test_anchors_are_stored_as_grids(grid: Grid) -> None:
    assert grid.boxes().shape == (grid.count, 4)
    assert find_grid(grid.boxes()) == grid


def test_boxes_that_are_not_a_grid() -> None:
    assert find_grid(np.random.default_rng(0).random((12, 4)).astype(np.float32) * 100) is None


def test_anchors_go_row_by_row() -> None:
    grid = Grid(2, 2, (10.0, 20.0), (5.0, 6.0), ((4.0, 2.0),))
    np.testing.assert_array_equal(grid.boxes()[:3], [(4, 4, 8, 6), (24, 4, 28, 6), (4, 14, 8, 16)])


# --------------------------------------------------------------------------------------------------------- agreement


def test_agreement_pairs_boxes_of_one_class() -> None:
    ours = boxes((0, 0, 10, 10, 0.9, 1), (20, 20, 30, 30, 0.8, 1), (50, 50, 60, 60, 0.7, 2))
    theirs = boxes((0, 0, 10, 8, 0.85, 1), (20, 20, 30, 30, 0.8, 2))
    found = agreement(ours, theirs)
    assert (found.ours, found.theirs, found.matched) == (3, 2, 1)
    assert found.iou == pytest.approx(0.8)
    assert found.score_error == pytest.approx(0.05, abs=1e-6)
    assert found.share == pytest.approx(1 / 3)


def test_no_boxes_agree_with_no_boxes() -> None:
    assert agreement(boxes(), boxes()) == Agreement(0, 0, 0)
    assert agreement(boxes(), boxes()).share == 1.0
    assert agreement(boxes((0, 0, 1, 1, 0.5, 0)), boxes()).share == 0.0


def test_boxes_without_area_agree_where_they_are_equal() -> None:
    flat = boxes((5, 0, 5, 9, 0.5, 0))
    assert agreement(flat, flat).matched == 1


def test_agreements_of_samples_add_up() -> None:
    total = Agreement(2, 2, 1, 0.8, 0.1) + Agreement(3, 4, 3, 1.0, 0.2) + Agreement(0, 0, 0)
    assert (total.ours, total.theirs, total.matched, total.score_error) == (5, 6, 4, 0.2)
    assert total.iou == pytest.approx(0.95)


def test_outputs_of_a_model_in_any_order() -> None:
    corners, scores, labels = np.ones((2, 4), np.float32), np.array([0.1, 0.9], np.float32), np.array([3, 4])
    found = read_outputs([labels, corners[None], scores])
    assert isinstance(found, Boxes)
    assert found.labels.tolist() == [4, 3]
    assert read_outputs([corners, scores]) is None


# -------------------------------------------------------------------------------------------------- against torchvision


@pytest.mark.torch
@pytest.mark.parametrize("network", ["ssd", "retinanet", "fcos"])
def test_the_decoder_gives_the_same_as_torchvision(network: str) -> None:
    """The same head outputs, with torchvision's own postprocessing and with the decoder."""
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchvision").models.detection
    classes, size = 4, 64
    noise = np.random.default_rng(0)
    if network == "ssd":
        grids = tuple(
            Grid(side, side, (size / side,) * 2, (size / side / 2,) * 2, ((16.0, 16.0), (30.0, 12.0)))
            for side in (8, 4)
        )
    else:
        each = ((16.0, 16.0), (30.0, 12.0)) if network == "retinanet" else ((8.0, 8.0),)
        grids = tuple(Grid(side, side, (size / side,) * 2, (0.0, 0.0), each) for side in (8, 4))
    anchors = torch.from_numpy(np.concatenate([grid.boxes() for grid in grids]))
    count = len(anchors)
    logits = noise.normal(-1, 2, (count, classes)).astype(np.float32)
    numbers = (noise.uniform(0.2, 2, (count, 4)) if network == "fcos" else noise.normal(0, 0.4, (count, 4))).astype(
        "f4"
    )
    centred = noise.normal(1, 1, (count, 1)).astype(np.float32)

    class Model:
        score_thresh, nms_thresh, topk_candidates, detections_per_img = 0.2, 0.5, 30, 25
        box_coder: Any = None

    owner = Model()
    coder = detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    levels = [grid.count for grid in grids]
    heads = {
        "cls_logits": torch.from_numpy(logits)[None],
        "bbox_regression": torch.from_numpy(numbers)[None],
        "bbox_ctrness": torch.from_numpy(centred)[None],
    }
    common: dict[str, Any] = {
        "classes": classes, "size": (size, size), "anchors": grids, "score_threshold": 0.2, "iou_threshold": 0.5,
        "candidates": 30, "most": 25, "multi_label": True,
    }  # fmt: skip
    if network == "ssd":
        owner.box_coder = coder
        (exact,) = detection.ssd.SSD.postprocess_detections(owner, heads, [anchors], [(size, size)])
        decoder = Decoder(
            "boxes", APART, boxes="deltas", weights=(10, 10, 5, 5), scores="softmax", background=0, group="class",
            largest_growth=TORCHVISION_GROWTH, **common
        )  # fmt: skip
    else:
        split = {name: list(value.split(levels, 1)) for name, value in heads.items()}
        parts = [list(anchors.split(levels))]
        if network == "retinanet":
            owner.box_coder = coder
            (exact,) = detection.retinanet.RetinaNet.postprocess_detections(owner, split, parts, [(size, size)])
            decoder = Decoder(
                "boxes", APART, boxes="deltas", weights=(10, 10, 5, 5), scores="sigmoid", group="level",
                largest_growth=TORCHVISION_GROWTH, **common
            )  # fmt: skip
        else:
            owner.box_coder = detection._utils.BoxLinearCoder(normalize_by_size=True)
            (exact,) = detection.fcos.FCOS.postprocess_detections(owner, split, parts, [(size, size)])
            tables = (*APART, Table(2, ("objectness",)))
            decoder = Decoder(
                "boxes", tables, boxes="distances", scores="sigmoid", combination="root", group="level", **common
            )
    found = decode(decoder, [logits, numbers, centred])
    assert isinstance(found, Boxes)
    assert len(found) == 25
    np.testing.assert_allclose(found.scores, exact["scores"].numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.xyxy, exact["boxes"].numpy(), atol=1e-3)
    np.testing.assert_array_equal(found.labels, exact["labels"].numpy())
