"""The predictions that decoders return for one sample, and the comparison of two predictions."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from .decoder import Array

SAME_BOX = 0.5
"""The least intersection over union of two boxes that count as the same."""
_EQUAL = 1e-3  # pixels
_SAME_POINT = 1.0  # pixels


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes that a detector found, the best first.

    Attributes:
        xyxy: float32 (N, 4): left, top, right, bottom in pixels of the network's input.
        scores: float32 (N,).
        labels: int64 (N,): indices of classes, numbered as in the original model.
        keypoints: float32 (N, keypoints, 2 or 3): x and y in pixels, and the visibility of a point, from 0 to 1; None
            if there are none.
        masks: bool (N, height, width): the pixels of each object, on a grid that covers the input; None if there are
            none.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    keypoints: NDArray[np.float32] | None = None
    masks: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, chosen: Array) -> Boxes:
        """Some of the boxes. ``chosen`` is a mask (N,), or indices."""
        points = None if self.keypoints is None else self.keypoints[chosen]
        masks = None if self.masks is None else self.masks[chosen]
        return Boxes(self.xyxy[chosen], self.scores[chosen], self.labels[chosen], points, masks)

    def above(self, threshold: float) -> Boxes:
        """The boxes with a score above a threshold."""
        return self.where(self.scores > threshold)


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The best class at each position, such as a pixel.

    Attributes:
        classes: int64, of any shape.
    """

    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return self.classes.size


@dataclass(frozen=True, eq=False)
class Text:
    """A line of text.

    Attributes:
        codes: int64 (characters,): the class of each character.
        text: the same as characters; U+FFFD for a class without a character.
        score: mean score of the characters, from 0 to 1; 0 if there are none.
    """

    codes: NDArray[np.int64]
    text: str
    score: float

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The points of the only object in the image.

    Attributes:
        points: float32 (N, 2 or 3): x and y in pixels of the network's input, and the visibility of a point.
    """

    points: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)


Prediction = Boxes | ClassMap | Text | Landmarks


def shared_areas(ours: Boxes, theirs: Boxes) -> NDArray[np.float64]:
    """Intersection over union of each object of one prediction with each of another, (N, M).

    If both have masks of one resolution, it is computed from the masks. An empty mask is compared by its box.
    """
    found = np.zeros((len(ours), len(theirs)))
    if not found.size:
        return found
    a, b = (np.asarray(each.xyxy, np.float64) for each in (ours, theirs))
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1) - shared
    np.divide(shared, union, out=found, where=union > 0)
    found[np.abs(a[:, None] - b).max(2) <= _EQUAL] = 1.0  # a box without area overlaps nothing, even itself
    if ours.masks is not None and theirs.masks is not None and ours.masks.shape[1:] == theirs.masks.shape[1:]:
        one, other = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (ours.masks, theirs.masks))
        both = (one @ other.T).astype(np.float64)
        either = one.sum(1)[:, None] + other.sum(1) - both
        np.divide(both, either, out=found, where=either > 0)
    return found


def overlaps(box: Array, others: Array) -> NDArray[np.float32]:
    """Intersection over union of one box, (4,), with others, (N, 4), all x1, y1, x2, y2; 0 if both are empty."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros(len(others), np.float32), where=union > 0), np.float32)


@dataclass(frozen=True)
class Agreement:
    """How much two predictions agree.

    Attributes:
        ours: number of boxes, positions, characters or points of the first prediction.
        theirs: number of those of the second prediction.
        matched: number of matches: pairs of boxes of the same class with an IoU of 0.5 or more, each box in at most one
            pair (the IoU of their masks, if there are any); positions of the same class; characters in the same order;
            or points that are at most a pixel apart.
        iou: mean intersection over union of the pairs of boxes; None if there are none.
        score_error: the largest difference of the scores of a pair of boxes; None if there are none.
    """

    ours: int
    theirs: int
    matched: int
    iou: float | None = None
    score_error: float | None = None

    @property
    def share(self) -> float:
        """The share of matches, from 0 to 1; 1 if both are empty."""
        return self.matched / max(self.ours, self.theirs) if self.ours or self.theirs else 1.0

    def __add__(self, other: Agreement) -> Agreement:
        """The agreement on the samples of both."""
        pairs = [part for part in (self, other) if part.iou is not None and part.score_error is not None]
        total = sum(part.matched for part in pairs)
        return Agreement(
            self.ours + other.ours,
            self.theirs + other.theirs,
            self.matched + other.matched,
            sum((part.iou or 0.0) * part.matched for part in pairs) / total if total else None,
            max((part.score_error or 0.0 for part in pairs), default=None),
        )


def agreement(ours: Prediction, theirs: Prediction) -> Agreement:
    """Compare two predictions of one sample.

    The boxes are taken in order, the best first. Each is paired with the free box of its class that it overlaps most.

    Raises:
        ValueError: they are of different kinds, or maps or sets of points of different sizes.
    """
    if isinstance(ours, Text) and isinstance(theirs, Text):
        blocks = SequenceMatcher(None, ours.codes.tolist(), theirs.codes.tolist(), autojunk=False)
        return Agreement(len(ours), len(theirs), sum(block.size for block in blocks.get_matching_blocks()))
    if isinstance(ours, Landmarks) and isinstance(theirs, Landmarks):
        if len(ours) != len(theirs):
            raise ValueError(f"{len(ours)} and {len(theirs)} points")
        near = np.hypot(*(ours.points - theirs.points)[:, :2].T) <= _SAME_POINT
        return Agreement(len(ours), len(theirs), int(near.sum()))
    if isinstance(ours, ClassMap) and isinstance(theirs, ClassMap):
        if ours.classes.size != theirs.classes.size:
            raise ValueError(f"maps of {ours.classes.size} and {theirs.classes.size} positions")
        same = int((ours.classes.reshape(-1) == theirs.classes.reshape(-1)).sum())
        return Agreement(len(ours), len(theirs), same)
    if not (isinstance(ours, Boxes) and isinstance(theirs, Boxes)):
        raise ValueError(f"{type(ours).__name__} and {type(theirs).__name__} cannot be compared")
    found = pairs(ours, theirs, shared_areas(ours, theirs))
    errors = [abs(float(ours.scores[one]) - float(theirs.scores[other])) for one, other, _ in found]
    mean = sum(iou for *_, iou in found) / len(found) if found else None
    return Agreement(len(ours), len(theirs), len(found), mean, max(errors, default=None))


def pairs(ours: Boxes, theirs: Boxes, shared: Array) -> list[tuple[int, int, float]]:
    """Boxes of one class with an IoU of 0.5 or more: (index in the first, index in the second, IoU).

    The boxes of the first are taken in order, the best first. Each gets the free box of the second that it overlaps
    most.

    Args:
        ours, theirs: the boxes.
        shared: the result of :func:`shared_areas` for them.
    """
    free = np.ones(len(theirs), bool)
    found = []
    for number, label in enumerate(ours.labels):
        areas = np.where(free & (theirs.labels == label), shared[number], -1.0)
        best = int(areas.argmax()) if len(areas) else -1
        if best >= 0 and areas[best] >= SAME_BOX:
            free[best] = False
            found.append((number, best, float(areas[best])))
    return found
