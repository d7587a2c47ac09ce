"""The evidence for the task of a network: what is known about it, and properties of its outputs."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import presets
from .boxes import Anchors
from .decoder import Array, Decoder, Grid
from .task import Task

COCO = 80
"""The number of classes of COCO. Its detectors are published without names of the classes."""

Guess = tuple[Decoder | Task, str]
"""A decoder, or a task without a decoder, and the evidence as a clause."""


@dataclass(frozen=True, eq=False)
class Known:
    """The evidence about a network.

    Attributes:
        samples: the outputs for one sample or several, such as noise or images, without the batch axis.
        size: (height, width) of its image, pixels; (0, 0) if it takes no image.
        metadata: the metadata in the model's file.
        labels: the names of the classes; empty if unknown.
        name: the name of the model, such as the name of its file.
        channels: the number of channels of its image; 0 if it takes no image.
        classes: the number of classes that the model's library states.
        labelled: whether the user gave a class for each image.
        decoder: the decoder that came with the model, or that was guessed before.
        decoder_origin: the evidence for the guessed decoder; empty if it came with the model.
        sure: whether the user named the head. Then only shapes must fit, not values.
    """

    samples: Sequence[Sequence[Array]]
    size: tuple[int, int] = (0, 0)
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    name: str = ""
    channels: int = 0
    classes: int | None = None
    labelled: bool = False
    decoder: Decoder | None = None
    decoder_origin: str = ""
    sure: bool = False

    @property
    def outputs(self) -> Sequence[Array]:
        """The outputs for the first sample."""
        return self.samples[0] if self.samples else ()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the outputs for the first sample."""
        return [np.shape(output) for output in self.outputs]

    @property
    def only(self) -> list[Array]:
        """The only output, for each sample.

        An empty list if there are several outputs, or if it is empty for a sample.
        """
        if len(self.outputs) != 1 or not all(np.size(row[0]) for row in self.samples):
            return []
        return [np.asarray(row[0], np.float64) for row in self.samples]

    @property
    def only_shape(self) -> tuple[int, ...]:
        """The shape of :attr:`only`; () if there is none, or if it differs from sample to sample."""
        shapes = {values.shape for values in self.only}
        return shapes.pop() if len(shapes) == 1 else ()

    def doubts(self, fits: bool) -> bool:
        """Whether values that do not fit are evidence against a guess."""
        return not fits and not self.sure


def told(metadata: Mapping[str, str], key: str) -> Any:
    """A value of the metadata that is a Python literal, such as a list; None if it is not a literal."""
    try:
        return ast.literal_eval(metadata[key])
    except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def told_keypoints(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """The keypoints in Ultralytics' metadata, (number, 2 or 3); (0, 2) if the task is not pose.

    Returns:
        None if the task is pose, but the metadata has no keypoints.
    """
    if metadata.get("task") != "pose":
        return 0, 2
    shape = told(metadata, "kpt_shape")
    fits = isinstance(shape, list | tuple) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)
    return (shape[0], shape[1]) if fits and shape[1] in (2, 3) else None


def only_table(known: Known) -> Array | None:
    """The only output, if it has two axes."""
    if len(known.outputs) != 1:
        return None
    values = flat(known.outputs[0])
    return values if values.ndim == 2 and values.size else None


def flat(values: Array) -> Array:
    """An array without leading axes of length 1, but with at least two axes."""
    values = np.asarray(values)
    while values.ndim > 2 and len(values) == 1:
        values = values[0]
    return values


def are_scores(values: Array) -> bool:
    """Whether all values are from 0 to 1."""
    return bool(values.size and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1)


def sum_to_one(rows: Array) -> bool:
    """Whether the values of each row add up to one, as probabilities do."""
    return are_scores(rows) and bool(np.abs(rows.sum(1) - 1).max() < _SUM_ERROR)


def in_order(corners: Array) -> bool:
    """Whether each row is the corners of a box: x1 <= x2 and y1 <= y2."""
    return bool(np.isfinite(corners).all() and (corners[:, 2:4] >= corners[:, :2]).all())


def are_fractions(corners: Array) -> bool:
    """Whether corners are fractions of the image, not pixels."""
    return bool(np.abs(corners).max() <= _LARGEST_FRACTION)


def near_cells(centres: Array, grids: tuple[Grid, ...], stacked: bool = False) -> bool:
    """Whether most points are near their cells.

    Args:
        centres: (N, 2), pixels, one for each anchor.
        grids: the cells.
        stacked: whether the first anchors of all cells come before the second anchors.
    """
    if not np.isfinite(centres).all():
        return False
    if stacked:
        grids = tuple(replace(grid, sizes=grid.sizes[:1]) for grid in grids for _ in grid.sizes)
    anchors = Anchors.of(grids)
    away = np.abs(centres - anchors.centre) / anchors.step
    return bool(np.quantile(away.max(1), _MOST_BOXES) <= _NEAR)


_SUM_ERROR = 1e-3
_LARGEST_FRACTION = 2.0
_MOST_BOXES = 0.9
_NEAR = 4.0  # cells
_PYRAMIDS = (presets.STRIDES, (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))


def strides_of(
    known: Known, count: int, each: int = 1, strides: Sequence[Sequence[int]] = _PYRAMIDS
) -> tuple[int, ...]:
    """The strides with this total number of boxes; empty if no strides fit."""
    for levels in strides if all(known.size) else ():
        if sum(grid.count for grid in presets.pyramid(known.size, levels, each=each)) == count:
            return tuple(levels)
    return ()


def are_classes(known: Known, columns: int) -> bool:
    """Whether the columns may be classes: there are as many as names, or, without names, 80 as in COCO."""
    return known.sure or columns == (len(known.labels) or COCO)


def listed(strides: Sequence[int]) -> str:
    """Strides as text: 8, 16 and 32."""
    return ", ".join(map(str, strides[:-1])) + f" and {strides[-1]}"
