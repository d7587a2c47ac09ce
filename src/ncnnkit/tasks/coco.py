"""Average precision by COCO's protocol, as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .predictions import Boxes

PACKAGE = "pycocotools"
MOST = 100
"""The number of boxes per image that count (``maxDets``). The best boxes count."""
_ANY_AREA = (0.0, 1e10)


def matches(ours: Boxes, truth: Boxes, shared: NDArray[np.float64]) -> dict[int, Any] | None:
    """How the boxes of one image match its true boxes, at each of COCO's IoU thresholds.

    Args:
        ours, truth: the boxes. Only their scores and labels count.
        shared: the intersection over union of each of ``ours`` with each of ``truth``, (N, M). It is that of the boxes
            (``iouType="bbox"`` in pycocotools), or of their masks (``"segm"``).

    Returns:
        class -> the result of ``COCOeval.evaluateImg``; None if pycocotools is not installed.
    """
    evaluation = _evaluation()
    if evaluation is None:
        return None
    evaluation.params.maxDets = [MOST]
    classes = sorted({*ours.labels.tolist(), *truth.labels.tolist()})
    for label in classes:
        true = np.flatnonzero(truth.labels == label)
        mine = np.flatnonzero(ours.labels == label)
        mine = mine[np.argsort(-ours.scores[mine], kind="stable")][:MOST]
        evaluation._gts[0, label] = [{"id": n + 1, "area": 1.0, "iscrowd": 0, "ignore": 0} for n in range(len(true))]
        evaluation._dts[0, label] = [
            {"id": n + 1, "area": 1.0, "score": score} for n, score in enumerate(ours.scores[mine].tolist())
        ]
        evaluation.ious[0, label] = shared[np.ix_(mine, true)]
    return {label: evaluation.evaluateImg(0, label, list(_ANY_AREA), MOST) for label in classes}


def countable(boxes: Boxes) -> Boxes:
    """The best :data:`MOST` boxes of each class. If the truth had more, a prediction could not be equal to itself."""
    rank = np.zeros(len(boxes), np.int64)
    for label in np.unique(boxes.labels):
        rows = np.flatnonzero(boxes.labels == label)
        rank[rows[np.argsort(-boxes.scores[rows], kind="stable")]] = np.arange(len(rows))
    return boxes.where(rank < MOST)


def _evaluation() -> Any:
    """An empty evaluation; None if pycocotools is not installed."""
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a warning that it has no truth
        return COCOeval(iouType="bbox")


def average_precision(images: Sequence[dict[int, Any] | None]) -> dict[str, float | None]:
    """mAP50-95 and mAP50: the mean over the classes that occur in the truth.

    Args:
        images: the results of :func:`matches`, one for each image. An image may occur several times.

    Returns:
        ``map50_95`` and ``map50``, 0 to 1; None if there is no true box, or if pycocotools is not installed.
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
