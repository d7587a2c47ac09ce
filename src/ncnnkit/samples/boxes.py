"""Labelled boxes of images: COCO's JSON, YOLO's text files, Pascal VOC's XML files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..onboard.picture import Placement
from .finding import files_of, text_lines

Found = list[tuple[float, float, float, float, int]]
"""Boxes of one image: left, top, right, bottom in pixels of the image, and the class."""


@dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """The boxes that a person drew on one image.

    Attributes:
        xyxy: float32 (N, 4): left, top, right, bottom in pixels of the network's input.
        labels: int64 (N,).
    """

    xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]


def read_boxes(
    path: str | Path, names: Sequence[str], placements: Sequence[Placement | None], classes: Sequence[str] | None = None
) -> list[LabelledBoxes]:
    """The labelled boxes of each image.

    Args:
        path: a JSON file as COCO writes it (crowds are left out), or a folder with a file for each image, which has the
            image's name with another ending: ``.txt`` as YOLO writes it, ``.xml`` as Pascal VOC does. An image without
            a file has no boxes, as in YOLO's data sets.
        names: the images, as ``ImageSet.names``.
        placements: where each image lies in the network's input.
        classes: class names; COCO's categories and VOC's names are looked up in them. Without them, COCO's categories
            count in the order of their numbers, and VOC's files cannot be read.

    Raises:
        ImageError: a file is not of its format, a class is not one of the network's, or a sample is no image.
    """
    path = Path(path)
    placed = [each for each in placements if each is not None]
    if len(placed) < len(names):
        raise ImageError("labelled boxes need images, and some samples are arrays", where=str(path))
    known = {name.casefold(): index for index, name in enumerate(classes or ())}
    found = _coco(path, names, known) if path.suffix.lower() == ".json" else _folder(path, names, placed, known)
    if not any(found):
        raise ImageError("labels no box of these images", where=str(path), hint=f"the first image is {names[0]}")
    most = max(label for rows in found for *_, label in rows)
    if classes and most >= len(classes):
        raise ImageError(f"class {most} is out of range (0 to {len(classes) - 1})", where=str(path))
    return [_in_input(rows, placement) for rows, placement in zip(found, placed)]


def _in_input(rows: Found, placement: Placement) -> LabelledBoxes:
    corners = np.array([row[:4] for row in rows], np.float64).reshape(-1, 2, 2)
    moved = placement.to_input(corners).reshape(-1, 4)
    return LabelledBoxes(moved.astype(np.float32), np.array([row[4] for row in rows], np.int64))


def _coco(path: Path, names: Sequence[str], known: Mapping[str, int]) -> list[Found]:
    """https://cocodataset.org/#format-data"""
    try:
        content = json.loads("\n".join(text_lines(path)))
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        numbers = sorted(content["categories"], key=lambda category: category["id"])
        labels = {c["id"]: known.get(str(c["name"]).casefold(), -1) if known else i for i, c in enumerate(numbers)}
        boxes: dict[str, Found] = defaultdict(list)
        for each in content["annotations"]:
            if not each.get("iscrowd"):
                left, top, width, height = map(float, each["bbox"])
                boxes[files[each["image_id"]]].append(
                    (left, top, left + width, top + height, labels[each["category_id"]])
                )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(f"is no file of COCO's format: {type(error).__name__}: {error}", where=str(path)) from None
    unknown = {c["id"]: c["name"] for c in numbers if labels[c["id"]] < 0}
    if unknown and any(label < 0 for rows in boxes.values() for *_, label in rows):
        raise ImageError(f"the network has no class {next(iter(unknown.values()))!r}", where=str(path))
    exact = dict(boxes)
    last = {name.rsplit("/", 1)[-1]: rows for name, rows in boxes.items()}
    return [exact.get(name, last.get(name.rsplit("/", 1)[-1], [])) for name in names]


def _folder(
    folder: Path, names: Sequence[str], placements: Sequence[Placement], known: Mapping[str, int]
) -> list[Found]:
    files = files_of(folder, names, READERS)
    return [READERS[file.suffix](file, at.image, known) if file else [] for file, at in zip(files, placements)]


def _yolo(file: Path, size: tuple[int, int], known: Mapping[str, int]) -> Found:
    """Lines ``class x y width height``, the box's centre and size in parts of the image; Ultralytics' documentation."""
    height, width = size
    rows: Found = []
    for number, line in enumerate(text_lines(file), 1):
        if not line.strip():
            continue
        try:
            label, x, y, w, h = int(line.split()[0]), *map(float, line.split()[1:5])
            if label < 0 or not np.isfinite([x, y, w, h]).all():
                raise ValueError
        except ValueError:
            raise ImageError("is not 'class x y width height'", where=f"{file}:{number}") from None
        rows.append(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height, label))
    return rows


def _voc(file: Path, size: tuple[int, int], known: Mapping[str, int]) -> Found:
    """``object`` elements with a ``name`` and a ``bndbox``, whose first pixel is 1."""
    rows: Found = []
    try:
        for each in ElementTree.fromstring("\n".join(text_lines(file))).iter("object"):
            name = each.findtext("name") or ""
            left, top, right, bottom = (float(each.findtext(f"bndbox/{e}") or "") for e in _SIDES)
            if name.casefold() not in known:
                raise ImageError(f"the network has no class {name!r}", where=str(file))
            rows.append((left - 1, top - 1, right, bottom, known[name.casefold()]))
    except (ElementTree.ParseError, ValueError) as error:
        raise ImageError(f"is no file of Pascal VOC's format: {error}", where=str(file)) from None
    return rows


_SIDES = ("xmin", "ymin", "xmax", "ymax")

READERS: dict[str, Callable[[Path, tuple[int, int], Mapping[str, int]], Any]] = {".txt": _yolo, ".xml": _voc}
"""Ending of a file of one image's labels -> what reads it: (file, size of the image, classes by name) -> boxes."""
