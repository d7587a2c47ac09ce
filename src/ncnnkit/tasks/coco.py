"""Average precision by COCO's protocol, as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .predictions import Boxes

PACKAGE = "pycocotools"
MOST = 100
"""Boxes of one image that count, the best first (``maxDets``)."""
_ANY_AREA = (0.0, 1e10)


def matches(ours: Boxes, truth: Boxes) -> dict[int, Any] | None:
    """How the boxes of one image match its true boxes, at each of COCO's IoU thresholds.

    Returns:
        class -> what ``COCOeval.evaluateImg`` returns; None where pycocotools is not installed.
    """
    evaluation = _evaluation()
    if evaluation is None:
        return None
    evaluation.params.maxDets = [MOST]
    classes = sorted({*ours.labels.tolist(), *truth.labels.tolist()})
    for label in classes:
        evaluation._gts[0, label] = [
            {"id": n + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "ignore": 0}
            for n, box in enumerate(_sized(truth, label))
        ]
        scores = ours.scores[ours.labels == label]
        evaluation._dts[0, label] = [
            {"id": n + 1, "bbox": box, "area": box[2] * box[3], "score": float(score)}
            for n, (box, score) in enumerate(zip(_sized(ours, label), scores))
        ]
        evaluation.ious[0, label] = evaluation.computeIoU(0, label)
    return {label: evaluation.evaluateImg(0, label, list(_ANY_AREA), MOST) for label in classes}


def _evaluation() -> Any:
    """An empty evaluation of boxes; None where pycocotools is not installed."""
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it warns that it has no truth
        return COCOeval(iouType="bbox")


def _sized(boxes: Boxes, label: int) -> list[list[float]]:
    """The boxes of one class: left, top, width, height."""
    corners = np.asarray(boxes.xyxy[boxes.labels == label], np.float64)
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners.tolist()]


def average_precision(images: Sequence[dict[int, Any] | None]) -> dict[str, float | None]:
    """mAP50-95 and mAP50: the mean of the classes that occur in the truth.

    Args:
        images: what :func:`matches` returned, one for each image; one may occur several times.

    Returns:
        ``map50_95`` and ``map50``, 0 to 1; None without a true box, and without pycocotools.
    """
    known = [image for image in images if image is not None]
    classes = sorted({label for image in known for label in image})
    if not classes or len(known) < len(images):
        return {"map50_95": None, "map50": None}
    evaluation = _evaluation()
    assert evaluation is not None
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.params.imgIds, evaluation.params.catIds = list(range(len(known))), classes
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(_ANY_AREA)], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evalImgs = [image.get(label) for label in classes for image in known]
        evaluation._paramsEval = evaluation.params
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (IoU thresholds, recalls, classes, areas, maxDets); -1: no true box

    def mean(values: Any) -> float | None:
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    return {"map50_95": mean(precision), "map50": mean(precision[:1])}
