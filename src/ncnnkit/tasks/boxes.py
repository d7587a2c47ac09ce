"""The arithmetic of boxes: formats, anchors, scores, suppression."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .decoder import Activation, Array, Decoder
from .predictions import Boxes, overlaps

Float = NDArray[np.float32]

_LARGEST_GROWTH = math.log(1000 / 16)
"""torchvision's bound of the logarithm by which an anchor grows, so that exp stays finite."""


def corners(decoder: Decoder, numbers: Array) -> Float:
    """The corners of boxes in pixels of the network's input.

    Args:
        decoder: its ``boxes``, ``anchors``, ``weights``, ``size`` and ``scale`` count.
        numbers: (N, 4), as ``decoder.boxes`` says.

    Returns:
        float32 (N, 4): x1, y1, x2, y2.

    Raises:
        ValueError: there are not as many anchors as boxes.
    """
    boxes = np.asarray(numbers, np.float32).reshape(-1, 4)
    if decoder.boxes == "cxcywh":
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], 1)
    elif decoder.boxes in ("deltas", "distances"):
        boxes = _on_anchors(decoder, boxes)
    height, width = decoder.size
    if height and width:
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return np.asarray(boxes * np.array(decoder.scale * 2, np.float32), np.float32)


def _on_anchors(decoder: Decoder, numbers: Float) -> Float:
    """Boxes from anchors, as torchvision's ``BoxCoder`` and ``BoxLinearCoder`` decode them."""
    anchors = np.concatenate([grid.boxes() for grid in decoder.anchors])
    if len(anchors) != len(numbers):
        raise ValueError(f"there are {len(numbers)} boxes, and {len(anchors)} anchors")
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2
    if decoder.boxes == "distances":
        away = numbers * np.concatenate([size, size], 1)
        return np.concatenate([centre - away[:, :2], centre + away[:, 2:]], 1)
    deltas = numbers / np.array(decoder.weights, np.float32)
    centre = centre + deltas[:, :2] * size
    half = size * np.exp(np.minimum(deltas[:, 2:], _LARGEST_GROWTH)) / 2
    return np.concatenate([centre - half, centre + half], 1)


def in_rows(decoder: Decoder, values: Array, wide: int) -> Array:
    """An output with one row for each box, (N, wide), whatever the decoder's layout is."""
    values = np.asarray(values)
    return values.reshape(-1, wide) if decoder.layout == "rows" else values.reshape(wide, -1).T


def activated(kind: Activation, numbers: Array) -> Float:
    """Scores from 0 to 1; a softmax goes over the last axis."""
    values = np.asarray(numbers, np.float32)
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -80, 80))), np.float32)
    if kind == "softmax":
        powers = np.exp(values - values.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)
    return values


def of_classes(decoder: Decoder, scores: Float) -> Float:
    """Scores (N, classes) with that of the background, which is no class, below all others."""
    if decoder.background < 0:
        return scores
    scores = scores.copy()
    scores[:, decoder.background] = -np.inf
    return scores


def best_first(scores: Array, most: int = 0) -> NDArray[np.intp]:
    """Indices of the highest scores, the highest first; equal ones in their order.

    Args:
        scores: (N,).
        most: so many at most; 0: all.
    """
    order = np.argsort(-scores, kind="stable")
    return order[:most] if most else order


def suppressed(decoder: Decoder, boxes: Float, scores: Float, labels: NDArray[np.int64]) -> Boxes:
    """The boxes that are left when those that overlap a better one of their class are dropped.

    Greedy non-maximum suppression, as torchvision's ``batched_nms``.

    Args:
        decoder: its ``iou_threshold``, ``most`` and ``most_per_class`` count.
        boxes: (N, 4): x1, y1, x2, y2.
        scores: (N,).
        labels: (N,).
    """
    kept: list[int] = []
    of_class: dict[int, list[int]] = {}
    for index in best_first(scores).tolist():
        rivals = of_class.setdefault(int(labels[index]), [])
        if 0 < decoder.most_per_class <= len(rivals):
            continue
        if rivals and (overlaps(boxes[index], boxes[rivals]) > decoder.iou_threshold).any():
            continue
        rivals.append(index)
        kept.append(index)
        if len(kept) == decoder.most:
            break
    return Boxes(boxes[kept], scores[kept], labels[kept])
