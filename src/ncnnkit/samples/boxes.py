"""Labelled objects of images: COCO's JSON, YOLO's text files, Pascal VOC's XML files."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, reading
from ..onboard.picture import Placement
from ..onboard.userfiles import COCO
from .classes import class_index
from .finding import files_of, text_lines
from .outlines import Outline, polygon


@dataclass(frozen=True)
class LabelledObject:
    """An object of an image.

    Attributes:
        box: left, top, right, bottom in pixels of the image.
        label: the index of its class.
        outline: its outline; None if only the box is labelled.
    """

    box: tuple[float, float, float, float]
    label: int
    outline: Outline | None = None


Found = list[LabelledObject]
"""The objects of one image."""


@dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """The labelled boxes of one image.

    Attributes:
        xyxy: float32 (N, 4): left, top, right, bottom in pixels of the network's input.
        labels: int64 (N,).
        outlines: the outline of each object, in pixels of the image; None if only the box is labelled.
        placement: the position of the image in the network's input.
    """

    xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    outlines: tuple[Outline | None, ...]
    placement: Placement

    def masks(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels of each object, (N, height, width).

        Args:
            shape: (height, width) of a grid that covers the network's input.

        Raises:
            ImageError: an object has no outline, or :meth:`Outline.mask` fails.
        """
        found = np.zeros((len(self.labels), *shape), bool)
        for mask, outline in zip(found, self.outlines):
            if outline is None:
                hint = "label the outlines of all objects, or use --task detection, which compares the boxes"
                raise ImageError("a labelled object has a box but no outline", hint=hint)
            mask[:] = outline.mask(self.placement, shape)
        return found


def read_boxes(
    path: str | Path, names: Sequence[str], placements: Sequence[Placement | None],
    classes: Sequence[str] | None = None, *, posed: bool = False,
) -> list[LabelledBoxes]:  # fmt: skip
    """The labelled boxes of each image.

    Args:
        path: a JSON file in COCO's format (crowds are ignored), or a folder with a file for each image, with the
            image's name and another extension: ``.txt`` (YOLO's format) or ``.xml`` (Pascal VOC's). An image without a
            file has no boxes, as in YOLO's data sets.
        names: the names of the images, as ``ImageSet.names``.
        placements: the position of each image in the network's input.
        classes: class names, in which COCO's categories and VOC's names are looked up. Without them, COCO's categories
            are numbered in the order of their ids, and VOC's files cannot be read.
        posed: whether keypoints follow the box in a line of YOLO's format. Otherwise further numbers are a segment.

    Raises:
        ImageError: a file is not valid, the network does not have a class, or a sample is not an image.
    """
    path = Path(path)
    placed = [each for each in placements if each is not None]
    if len(placed) < len(names):
        raise ImageError("labelled boxes need images, but some samples are arrays", where=str(path))
    known = {name.casefold(): index for index, name in enumerate(classes or ())}
    found = _coco(path, names, known) if path.suffix.lower() == ".json" else _folder(path, names, placed, known, posed)
    if not any(found):
        raise ImageError("has no box for any of these images", where=str(path), hint=f"the first image is {names[0]}")
    if not all(math.isfinite(side) for rows in found for each in rows for side in each.box):
        raise ImageError("a box has a corner that is not a number", where=str(path))
    most = max(each.label for rows in found for each in rows)
    if classes and most >= len(classes):
        raise ImageError(f"class {most} is out of range (0 to {len(classes) - 1})", where=str(path))
    return [_in_input(rows, placement) for rows, placement in zip(found, placed)]


def _in_input(rows: Found, placement: Placement) -> LabelledBoxes:
    corners = np.array([each.box for each in rows], np.float64).reshape(-1, 2, 2)
    moved = placement.to_input(corners).reshape(-1, 4).astype(np.float32)
    labels = np.array([each.label for each in rows], np.int64)
    return LabelledBoxes(moved, labels, tuple(each.outline for each in rows), placement)


def _coco(path: Path, names: Sequence[str], known: Mapping[str, int]) -> list[Found]:
    """Read COCO's format: https://cocodataset.org/#format-data."""
    faults = (ValueError, LookupError, TypeError, AttributeError)
    with reading(path, ImageError, *faults, what="is not in COCO's format"):
        content = json.loads("\n".join(text_lines(path, COCO)))
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        numbers = sorted(content["categories"], key=lambda category: category["id"])
        labels = {c["id"]: known.get(str(c["name"]).casefold(), -1) if known else i for i, c in enumerate(numbers)}
        boxes: dict[str, Found] = defaultdict(list)
        for each in content["annotations"]:
            if not each.get("iscrowd"):
                left, top, width, height = map(float, each["bbox"])
                box, label = (left, top, left + width, top + height), labels[each["category_id"]]
                outline = Outline.of_coco(each.get("segmentation"))
                boxes[files[each["image_id"]]].append(LabelledObject(box, label, outline))
    unknown = {c["id"]: c["name"] for c in numbers if labels[c["id"]] < 0}
    if unknown and any(one.label < 0 for rows in boxes.values() for one in rows):
        raise ImageError(f"the network has no class {next(iter(unknown.values()))!r}", where=str(path))
    exact = dict(boxes)
    last = {name.rsplit("/", 1)[-1]: rows for name, rows in boxes.items()}
    return [exact.get(name, last.get(name.rsplit("/", 1)[-1], [])) for name in names]


def _folder(
    folder: Path, names: Sequence[str], placements: Sequence[Placement], known: Mapping[str, int], posed: bool
) -> list[Found]:
    files = files_of(folder, names, READERS)
    return [READERS[file.suffix](file, at.image, known, posed) if file else [] for file, at in zip(files, placements)]


def _yolo(file: Path, size: tuple[int, int], known: Mapping[str, int], posed: bool) -> Found:
    """Read a file of YOLO's format.

    A line is ``class x y width height``, with the box's centre and size as fractions of the image, or ``class x1 y1 x2
    y2 …``, a segment of three or more points. With ``posed``, keypoints follow the box; they are not read.

    Source: Ultralytics' documentation of data sets.
    """
    height, width = size
    rows: Found = []
    for number, line in enumerate(text_lines(file), 1):
        if not line.strip():
            continue
        try:
            label, values = class_index(line.split()[0]), [float(word) for word in line.split()[1:]]
            outline = None
            if len(values) > 4 and not posed:
                points = polygon(values) * (width, height)
                (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
                outline = Outline((points,))
            else:
                x, y, w, h = values[:4]
                left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
                left, right, top, bottom = left * width, right * width, top * height, bottom * height
            if label < 0 or not np.isfinite([left, top, right, bottom]).all():
                raise ValueError
        except ValueError:
            hint = "a line is 'class x y width height', or 'class x1 y1 x2 y2 x3 y3 …'"
            raise ImageError("is neither a box nor a segment", where=f"{file}:{number}", hint=hint) from None
        rows.append(LabelledObject((left, top, right, bottom), label, outline))
    return rows


def _voc(file: Path, size: tuple[int, int], known: Mapping[str, int], posed: bool) -> Found:
    """Read a file of Pascal VOC's format: ``object`` elements with ``name`` and ``bndbox``, pixels counted from 1."""
    rows: Found = []
    with reading(file, ImageError, ElementTree.ParseError, ValueError, what="is not in Pascal VOC's format"):
        for each in ElementTree.fromstring("\n".join(text_lines(file))).iter("object"):
            name = each.findtext("name") or ""
            left, top, right, bottom = (float(each.findtext(f"bndbox/{e}") or "") for e in _SIDES)
            if name.casefold() not in known:
                raise ImageError(f"the network has no class {name!r}", where=str(file))
            rows.append(LabelledObject((left - 1, top - 1, right, bottom), known[name.casefold()]))
    return rows


_SIDES = ("xmin", "ymin", "xmax", "ymax")

READERS: dict[str, Callable[[Path, tuple[int, int], Mapping[str, int], bool], Found]] = {".txt": _yolo, ".xml": _voc}
"""Extension of a label file -> the function that reads it: (file, size of the image, classes by name, whether keypoints
follow the box) -> objects."""
