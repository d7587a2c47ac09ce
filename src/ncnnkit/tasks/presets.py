"""Decoders of heads that are widely used, with the thresholds of their authors' own programs.

All of them read coordinates in pixels of the network's input. ``replace`` from ``dataclasses`` changes a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from .decoder import Decoder, Grid, Layout, Part, Table

Size = tuple[int, int]
"""(height, width) of the network's input, pixels."""
Sizes = tuple[tuple[float, float], ...]
"""(width, height) of the anchors of a cell, pixels."""

STRIDES = (8, 16, 32)
YOLOV5_ANCHORS: tuple[Sizes, ...] = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
YOLOV7_ANCHORS: tuple[Sizes, ...] = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
FIVE = (5, 2)
"""Landmarks of a face: eyes, nose, corners of the mouth."""


def pyramid(
    size: Size, strides: Sequence[int] = STRIDES, *, offset: float = 0.5, sizes: Sequence[Sizes] = (), each: int = 1
) -> tuple[Grid, ...]:
    """A grid for each stride.

    Args:
        size: (height, width) of the network's input, pixels.
        strides: side of a cell of each level, pixels. The last cell may cross the border.
        offset: where the centre of an anchor is in its cell: 0 at its upper left corner, 0.5 in its middle.
        sizes: the sizes of the anchors of each level; by default each anchor is as large as its cell.
        each: number of anchors of a cell if ``sizes`` is not given.

    Example:
        >>> [grid.count for grid in pyramid((320, 320))]
        [1600, 400, 100]
    """
    cells: list[Sizes] = [((float(stride), float(stride)),) * each for stride in strides]
    return tuple(
        Grid(
            math.ceil(size[0] / stride),
            math.ceil(size[1] / stride),
            (float(stride), float(stride)),
            (offset * stride, offset * stride),
            tuple((float(width), float(height)) for width, height in boxes),
        )
        for stride, boxes in zip(strides, sizes or cells, strict=True)
    )


def ultralytics(classes: int, keypoints: tuple[int, int] = (0, 2), layout: Layout = "columns") -> Decoder:
    """Ultralytics' YOLOv8, 11 and 12, and v10 and 26 without their end-to-end head: boxes (4 + classes, N), or poses.

    Source: ``predict`` of Ultralytics, with its default thresholds.
    """
    parts: tuple[Part, ...] = ("boxes", "scores", "keypoints") if keypoints[0] else ("boxes", "scores")
    return Decoder(
        "boxes", (Table(0, parts, layout),), classes, boxes="cxcywh", keypoints=keypoints, score_threshold=0.25,
        iou_threshold=0.7, most=300,
    )  # fmt: skip


def ultralytics_logits(
    size: Size, classes: int, tables: tuple[Table, ...], strides: Sequence[int] = STRIDES
) -> Decoder:
    """Ultralytics' YOLOv8 and 11 before decoding: logits of distributions of four distances in strides, and of scores.

    Source: ``generate_proposals`` of ncnn's example yolov8.cpp, with its thresholds.
    """
    return Decoder(
        "boxes", tables, classes, boxes="distances", bins=16, scores="sigmoid", anchors=pyramid(size, strides),
        score_threshold=0.25, iou_threshold=0.45,
    )  # fmt: skip


def with_masks(decoder: Decoder, prototypes: int, output: int = 1) -> Decoder:
    """A decoder of boxes, with the weights of prototypes as the last columns of its table.

    Source: ``process_mask`` of Ultralytics; YOLOv5's segmentation models are alike.

    Args:
        decoder: a decoder with one table.
        prototypes: the number of prototypes.
        output: index of the output with the prototypes.

    Example:
        >>> with_masks(ultralytics(80), 32).prototypes
        32
    """
    (table,) = decoder.tables
    tables = (replace(table, parts=(*table.parts, "coefficients")), Table(output, ("prototypes",), "maps"))
    return replace(decoder, tables=tables, prototypes=prototypes)


def found_rows(keypoints: tuple[int, int] = (0, 2)) -> Decoder:
    """Rows of x1, y1, x2, y2, score, label: Ultralytics' v10 and 26 end to end, and its exports with ``nms=True``."""
    parts: tuple[Part, ...] = ("boxes", "scores", "label", *(("keypoints",) if keypoints[0] else ()))
    return Decoder("boxes", (Table(0, parts),), 1, keypoints=keypoints, score_threshold=0.25, most=300)


def yolov5(classes: int) -> Decoder:
    """YOLOv5, v6 and v7, decoded: (N, 5 + classes). Source: ``detect.py`` of YOLOv5, with its default thresholds."""
    return Decoder(
        "boxes", (Table(0, ("boxes", "objectness", "scores")),), classes, boxes="cxcywh", score_threshold=0.25,
        iou_threshold=0.45, most=1000,
    )  # fmt: skip


def yolov5_maps(
    size: Size, classes: int, anchors: Sequence[Sizes] = YOLOV5_ANCHORS, layout: Layout = "maps"
) -> Decoder:
    """YOLOv5 and v7 (``YOLOV7_ANCHORS``) before decoding: an output of logits for each of three strides."""
    parts: tuple[Part, ...] = ("boxes", "objectness", "scores")
    return Decoder(
        "boxes", tuple(Table(index, parts, layout) for index in range(len(anchors))), classes, boxes="yolov5",
        scores="sigmoid", anchors=pyramid(size, sizes=anchors), score_threshold=0.25, iou_threshold=0.45, most=1000,
    )  # fmt: skip


def yolox(size: Size, classes: int, strides: Sequence[int] = STRIDES) -> Decoder:
    """YOLOX as it is exported: (N, 5 + classes), boxes not decoded, scores after their sigmoid.

    Source: ``decode_outputs`` and ``postprocess`` of YOLOX; the thresholds of ``tools/demo.py``.
    """
    return Decoder(
        "boxes", (Table(0, ("boxes", "objectness", "scores")),), classes, boxes="deltas",
        anchors=pyramid(size, strides, offset=0.0), score_threshold=0.3, iou_threshold=0.3,
    )  # fmt: skip


def nanodet(
    size: Size, classes: int, tables: tuple[Table, ...], strides: Sequence[int], *, plus: bool, bins: int = 8
) -> Decoder:
    """NanoDet and NanoDet-Plus: scores after their sigmoid, and distributions of distances in strides (GFL).

    Source: ``get_bboxes`` of NanoDet's ``NanoDetPlusHead`` and ``GFLHead``; the threshold of ``demo.py``. Plus measures
    from the corners of cells, NanoDet from their centres.
    """
    return Decoder(
        "boxes", tables, classes, size=size, boxes="distances", bins=bins, scores="none",
        anchors=pyramid(size, strides, offset=0.0 if plus else 0.5), score_threshold=0.35, iou_threshold=0.6,
        multi_label=True, most=100,
    )  # fmt: skip


def scrfd(size: Size, tables: tuple[Table, ...]) -> Decoder:
    """SCRFD: distances in strides from two anchors in the corner of each cell, and possibly five landmarks.

    Source: ``SCRFD.forward`` and ``detect`` of InsightFace, with their thresholds.
    """
    points = any("keypoints" in table.parts for table in tables)
    return Decoder(
        "boxes", tables, 1, boxes="distances", anchors=pyramid(size, offset=0.0, each=2), origin="centre",
        keypoints=FIVE if points else (0, 2), score_threshold=0.5, iou_threshold=0.4,
    )  # fmt: skip


def retinaface(size: Size, tables: tuple[Table, ...]) -> Decoder:
    """RetinaFace in PyTorch (biubug6): deltas of square priors, scores of background and face, five landmarks.

    Source: ``PriorBox``, ``decode`` and ``decode_landm`` of Pytorch_Retinaface; the thresholds of ``detect.py``.
    """
    sides = ((16, 32), (64, 128), (256, 512))
    sizes = [tuple((float(side), float(side)) for side in pair) for pair in sides]
    return Decoder(
        "boxes", tables, 2, boxes="deltas", weights=(10, 10, 5, 5), background=0, anchors=pyramid(size, sizes=sizes),
        origin="centre", keypoints=FIVE, score_threshold=0.6, iou_threshold=0.4,
    )  # fmt: skip


def ctc(classes: int, alphabet: tuple[str, ...] = ()) -> Decoder:
    """A text recogniser: (steps, classes); class 0 is the blank. Source: ``CTCLabelDecode`` of PaddleOCR."""
    return Decoder("ctc", (Table(0),), classes, axis=-1, alphabet=alphabet)


def mtcnn_proposals(cells: tuple[int, int], tables: tuple[Table, ...]) -> Decoder:
    """MTCNN's first stage at one scale: a box of 11 pixels for every second pixel, with shifts of its edges.

    Source: ``__generate_bounding_box`` of the package mtcnn, with its thresholds.

    Args:
        cells: (rows, columns) of the output.
        tables: the tables of the boxes and of the scores of background and face.
    """
    grid = Grid(*cells, (2.0, 2.0), (6.5, 6.5), ((11.0, 11.0),))
    return Decoder(
        "boxes", tables, 2, boxes="edges", anchors=(grid,), background=0, score_threshold=0.6, iou_threshold=0.5
    )


def mtcnn_crop(size: Size, tables: tuple[Table, ...]) -> Decoder:
    """MTCNN's second and third stage: shifts of the edges of a crop, and perhaps landmarks in it.

    Source: ``__stage2`` and ``__stage3`` of the package mtcnn, with their threshold.
    """
    height, width = map(float, size)
    grid = Grid(1, 1, (height, width), (height / 2, width / 2), ((width, height),))
    points = any("keypoints" in table.parts for table in tables)
    return Decoder(
        "boxes", tables, 2, boxes="edges", anchors=(grid,), background=0, keypoints=FIVE if points else (0, 2),
        origin="corner", score_threshold=0.7,
    )  # fmt: skip
