"""The outline of a labelled object: COCO's polygons and run lengths, YOLO's segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..onboard.picture import Placement

PACKAGE = "pycocotools"


@dataclass(frozen=True, eq=False)
class Outline:
    """The pixels of one object in its image. One of the two fields is given.

    Attributes:
        polygons: float64 (N, 2) each: x, y in pixels of the image.
        runs: COCO's run-length encoding: ``size``, (height, width) of the image, and ``counts``, a list.
    """

    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: Mapping[str, Any] | None = None

    @classmethod
    def of_coco(cls, found: Any) -> Outline | None:
        """``segmentation`` of COCO's format; None if there is none.

        Raises:
            ValueError: it is neither polygons nor run lengths.
        """
        if not found:
            return None
        if isinstance(found, Mapping):
            height, width = map(int, found["size"])
            counts = found["counts"]
            counts = unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
            # pycocotools refuses such run lengths only when it decodes them, with an error that names no file.
            if min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError("run lengths that do not cover the image")
            return cls(runs={"size": [height, width], "counts": counts})
        return cls(tuple(map(polygon, found)))

    def mask(self, placement: Placement, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels on a grid that covers the network's input, bool ``shape``.

        Polygons are filled as pycocotools does (``frPyObjects``). For run lengths, the pixel of the image at the centre
        of each cell counts.

        Args:
            placement: the position of the image in the input.
            shape: (height, width) of the grid.

        Raises:
            ImageError: pycocotools is not installed, or the run lengths belong to an image of another size.
        """
        if find_spec(PACKAGE) is None:
            raise ImageError("labels with outlines need pycocotools", hint="pip install pycocotools")
        from pycocotools import mask as coco

        height, width = shape
        cell = np.divide(placement.input[::-1], (width, height))
        if self.runs is None:
            # Parts outside are cut off, because pycocotools takes memory for each pixel along a polygon.
            rows = [np.clip(placement.to_input(each) / cell, 0, (width, height)) for each in self.polygons]
            flat = [row.reshape(-1).tolist() for row in rows]
            return np.asarray(coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))) > 0
        if tuple(self.runs["size"]) != tuple(placement.image):
            had, wanted = ("x".join(map(str, reversed(each))) for each in (self.runs["size"], placement.image))
            raise ImageError(f"run lengths are for an image of {had} pixels, but the image has {wanted}")
        given: Any = dict(self.runs)
        whole = np.asarray(coco.decode(coco.frPyObjects(given, *given["size"]))) > 0
        x, y = ((np.arange(count) + 0.5) * step for count, step in zip((width, height), cell))
        found = placement.to_image(np.stack(np.broadcast_arrays(x, y[:, None]), -1))
        columns, rows_ = np.floor(found).astype(np.int64).transpose(2, 0, 1)
        inside = (columns >= 0) & (columns < whole.shape[1]) & (rows_ >= 0) & (rows_ < whole.shape[0])
        picked = whole[rows_.clip(0, whole.shape[0] - 1), columns.clip(0, whole.shape[1] - 1)]
        return np.asarray(inside & picked)


def polygon(numbers: Sequence[float]) -> NDArray[np.float64]:
    """``x1, y1, x2, y2, …`` as (N, 2).

    Raises:
        ValueError: there are fewer than three points, or an odd number of values.
    """
    points = np.asarray(numbers, np.float64)
    if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
        raise ValueError("an outline that is not a polygon")
    return points.reshape(-1, 2)


def unpacked(text: str) -> list[int]:
    """The run lengths in COCO's compact form. They are not checked.

    Each number is written in digits of 5 bits, the lowest first: the characters from ``0`` on, with a sixth bit where
    more digits follow. From the fourth number on, it is the difference to the number before the last.

    Source: ``rleFrString`` in ``common/maskApi.c`` of pycocotools.

    Raises:
        ValueError: the text is not in this form.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - ord("0")
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError("run lengths that cannot be read")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        value -= (digit & 16) << (shift - 4)  # the highest bit is the sign
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that cannot be read")
    return counts
