"""Which head a network has, guessed from what is known of it.

A guess rests on shapes, on the metadata in the model's file, and on the values of the outputs for one sample: decoded
boxes are near the cells that they belong to, scores are from 0 to 1, corners are in order. A layout that two heads
have in common is not guessed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import presets
from .boxes import Anchors, in_rows
from .decoder import Array, Decoder, Grid, Layout, Part, Table

COCO = 80
"""Number of classes of COCO's detectors, which are published without names of the classes."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a network.

    Attributes:
        outputs: for one sample, such as noise, without the batch axis.
        size: (height, width) of its image, pixels; (0, 0): it takes none.
        metadata: in the model's file.
        labels: the names of the classes; empty where they are not known.
        name: of the model, such as its file's.
    """

    outputs: Sequence[Array]
    size: tuple[int, int] = (0, 0)
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    name: str = ""


def told(metadata: Mapping[str, str], key: str) -> Any:
    """A value of the metadata that is a Python literal, such as a list; None where it is none."""
    try:
        return ast.literal_eval(metadata[key])
    except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def told_keypoints(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """The keypoints that Ultralytics' metadata tells, (number, 2 or 3); (0, 2) where the task is no pose.

    Returns:
        None where the task is a pose, and its keypoints are not told.
    """
    if metadata.get("task") != "pose":
        return 0, 2
    shape = told(metadata, "kpt_shape")
    fits = isinstance(shape, list | tuple) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)
    return (shape[0], shape[1]) if fits and shape[1] in (2, 3) else None


Guess = tuple[Decoder, str]
"""A decoder, and what the guess rests on: a clause."""


def guess(known: Known, task: str = "") -> Guess | None:
    """The decoder of a network.

    Args:
        known: what is known of it.
        task: what the user says that it is for: ``landmarks``, ``text`` or ``segmentation``. Some layouts are guessed
            only then, because other networks have the same.

    Returns:
        None where no head is certain.

    Example:
        >>> rows = np.zeros((1, 6))
        >>> guess(Known([rows], (320, 320))) is None
        True
    """
    for head in HEADS:
        if not head.task or head.task == task:
            found = head.find(known)
            if found and not found[0].fault(len(known.outputs)):
                return found
    return None


# ------------------------------------------------------------------------------------------------------ what is asked


def _shape(values: Array) -> str:
    return "x".join(map(str, np.shape(values)))


def _table(known: Known) -> Array | None:
    """The only output, if it has two axes."""
    if len(known.outputs) != 1:
        return None
    values = _flat(known.outputs[0])
    return values if values.ndim == 2 and values.size else None


def _flat(values: Array) -> Array:
    """Without leading axes of length 1, down to two axes."""
    values = np.asarray(values)
    while values.ndim > 2 and len(values) == 1:
        values = values[0]
    return values


def _are_scores(values: Array) -> bool:
    """Whether they are from 0 to 1."""
    return bool(values.size and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1)


def _sum_to_one(rows: Array) -> bool:
    return _are_scores(rows) and bool(np.abs(rows.sum(1) - 1).max() < _SUM_ERROR)


def _in_order(corners: Array) -> bool:
    """Whether each row is the corners of a box: x1 <= x2 and y1 <= y2."""
    return bool(np.isfinite(corners).all() and (corners[:, 2:4] >= corners[:, :2]).all())


def _are_fractions(corners: Array) -> bool:
    return bool(np.abs(corners).max() <= _LARGEST_FRACTION)


def _near(centres: Array, grids: tuple[Grid, ...], stacked: bool = False) -> bool:
    """Whether most points are near the cells that they belong to.

    Args:
        centres: (N, 2), pixels, as many as the anchors.
        grids: the cells.
        stacked: all cells with their first anchor come before those with their second.
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


def _pyramid(known: Known, count: int, each: int = 1, strides: Sequence[Sequence[int]] = _PYRAMIDS) -> tuple[Any, ...]:
    """The strides with so many boxes in all; empty where there are none."""
    for levels in strides if all(known.size) else ():
        if sum(grid.count for grid in presets.pyramid(known.size, levels, each=each)) == count:
            return tuple(levels)
    return ()


def _classes(known: Known, columns: int) -> bool:
    """Whether so many columns may be the classes: there are as many names, or, without names, COCO's 80."""
    return columns == (len(known.labels) or COCO)


# -------------------------------------------------------------------------------------------------------------- heads


def _ultralytics(known: Known) -> Guess | None:
    """Its task, and its first output (4 + classes + keypoints, N)."""
    task, classes = known.metadata.get("task"), len(known.labels)
    shape = told_keypoints(known.metadata)
    if task not in ("detect", "pose") or not classes or shape is None or len(known.outputs) != 1:
        return None
    values, wide = _flat(known.outputs[0]), 4 + classes + shape[0] * shape[1]
    if values.ndim != 2 or len(values) != wide:
        return None
    said = f"Ultralytics' metadata says {task}, and its output has 4 + {classes} rows"
    points = f" and {shape[0]} x {shape[1]} of keypoints" if shape[0] else ""
    return presets.ultralytics(classes, shape), said + points


def _instances(known: Known) -> Guess | None:
    """One of the tables of boxes, the weights of prototypes as its last columns, and the prototypes as maps."""
    flat = [_flat(output) for output in known.outputs]
    shapes = [np.shape(output) for output in known.outputs]
    maps = [i for i, shape in enumerate(shapes) if shape[-2:] == _quarter(known.size) and flat[i].ndim == 3]
    if len(known.outputs) != 2 or len(maps) != 1 or flat[1 - maps[0]].ndim != 2:
        return None
    count, values = len(flat[maps[0]]), flat[1 - maps[0]]
    told = {**known.metadata, **({"task": "detect"} if known.metadata.get("task") == "segment" else {})}
    for find, axis in ((_ultralytics, 0), (_found_rows, 1), (_decoded_columns, 0), (_objectness_rows, 1)):
        if values.shape[axis] <= count:
            continue
        boxes, _ = np.split(values, [values.shape[axis] - count], axis)
        found = find(replace(known, outputs=[boxes], metadata=told))
        if found:
            (table,) = found[0].tables
            there = replace(found[0], tables=(replace(table, output=1 - maps[0]),))
            said = found[1].replace("says detect", "says segment")
            made = presets.with_masks(there, count, maps[0])
            return made, f"{said}, beside {count} weights of as many prototypes of masks"
    return None


def _quarter(size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of prototypes."""
    step = int(Decoder.prototype_step)
    return size[0] // step, size[1] // step


def _found_rows(known: Known) -> Guess | None:
    """Rows of corners, score and label (and keypoints): told by the metadata, or by their values."""
    values, task = _table(known), known.metadata.get("task")
    shape = told_keypoints(known.metadata)
    if values is None or shape is None or values.shape[1] != 6 + shape[0] * shape[1]:
        return None
    corners, scores, labels = values[:, :4], values[:, 4], values[:, 5]
    empty = not values.any()
    valued = (
        len(values) > _FEW
        and _are_scores(scores)
        and bool((np.diff(scores) <= 0).all() and (labels >= 0).all() and (labels == np.round(labels)).all())
        and not empty
    )
    arguments = told(known.metadata, "args")
    suppresses = isinstance(arguments, dict) and bool(arguments.get("nms"))
    chosen = task in ("detect", "pose") and (told(known.metadata, "end2end") is True or suppresses)
    if not valued and not (chosen and empty):
        return None
    if _in_order(corners) and (empty or not _are_fractions(corners)):
        said = "Ultralytics' metadata says that it chooses its boxes itself" if chosen else "its scores are in order"
        return presets.found_rows(shape), f"{said}, and its output has rows of corners, score and label"
    if _are_fractions(corners) and (corners >= 0).all() and not _in_order(corners):
        centred = replace(presets.found_rows(shape), boxes="cxcywh", scale=(known.size[1], known.size[0]))
        return centred, "its scores are in order, and its output has rows of centre, size, score and label"
    return None


_FEW = 20  # rows may have scores in order by chance


def _decoded_columns(known: Known) -> Guess | None:
    """(4 + classes, N) without metadata: one decoded box for each cell."""
    values = _table(known)
    if values is None or known.metadata.get("task") or len(values) < 5:
        return None
    strides = _pyramid(known, values.shape[1])
    classes = len(values) - 4
    if not strides or (known.labels and not _classes(known, classes)) or not _are_scores(values[4:]):
        return None
    # An angle or another number of each box is no score: nearly all boxes have scores near zero.
    rare = np.median(values[4:], axis=1).max() < _RARE
    if not rare or not _near(values[:2].T, presets.pyramid(known.size, strides)):
        return None
    cells = f"{values.shape[1]} boxes, one near each cell of strides {_listed(strides)}"
    return presets.ultralytics(classes), f"its output has {cells}, and {classes} scores for each"


_RARE = 0.5


def _objectness_rows(known: Known) -> Guess | None:
    """(N, 5 + classes): three decoded boxes for each cell (YOLOv5, v7), or one, decoded (v6) or not (YOLOX)."""
    values = _table(known)
    if values is None or values.shape[1] < 6 or not _are_scores(values[:, 4:]):
        return None
    classes = values.shape[1] - 5
    strides = _pyramid(known, len(values), each=3)
    if strides and (not known.labels or _classes(known, classes)):
        grids = presets.pyramid(known.size, strides, each=3)
        if _near(values[:, :2], grids, stacked=True):
            cells = f"three boxes near each cell of strides {_listed(strides)}"
            return presets.yolov5(classes), f"its output has {cells}, an objectness and {classes} scores for each"
    strides = _pyramid(known, len(values))
    if not strides or not _classes(known, classes):
        return None
    said = f"its output has one box for each cell of strides {_listed(strides)}, an objectness and {classes} scores"
    if _near(values[:, :2], presets.pyramid(known.size, strides)):
        return presets.yolov5(classes), f"{said}; the boxes are near their cells"
    if np.abs(values[:, :4]).max() <= _LARGEST_DELTA:
        return presets.yolox(known.size, classes, strides), f"{said}; the boxes are relative to their cells, as YOLOX's"
    return None


_LARGEST_DELTA = 20.0  # cells, or the logarithm of a growth


def _ultralytics_logits(known: Known) -> Guess | None:
    """4 x 16 logits of distances and the logits of the classes: rows for all cells, or maps of three strides."""
    classes = len(known.labels) or COCO
    wide = 4 * _ULTRALYTICS_BINS + classes
    parts: tuple[Part, ...] = ("boxes", "scores")
    values = _table(known)
    if values is not None:
        strides = _pyramid(known, len(values)) if values.shape[1] == wide else ()
        tables: tuple[Table, ...] = (Table(0, parts),)
    else:
        tables = tuple(replace(table, parts=parts) for table in _levels(known, {"boxes": wide}, 1, ("maps",)))
        strides = presets.STRIDES if tables else ()
    if not strides or all(map(_are_scores, known.outputs)):
        return None
    said = f"4 x {_ULTRALYTICS_BINS} logits and {classes} scores for each cell of strides {_listed(strides)}"
    made = presets.ultralytics_logits(known.size, classes, tables, strides)
    return made, f"its outputs have {said}, as Ultralytics' before decoding"


_ULTRALYTICS_BINS = 16


def _yolov5_maps(known: Known) -> Guess | None:
    """Three maps of logits for three anchors; which anchors, only the name of the model tells."""
    anchors = next((sizes for name, sizes in _ANCHORS if name in known.name.lower()), None)
    classes = len(known.labels) or COCO
    tables = _levels(known, {"boxes": 5 + classes}, 3, ("maps", "stacks"))
    if anchors is None or not tables or all(map(_are_scores, known.outputs)):
        return None
    made = presets.yolov5_maps(known.size, classes, anchors, tables[0].layout)
    ordered = tuple(replace(table, parts=made.tables[0].parts) for table in tables)
    said = f"its outputs are maps of three boxes with {classes} classes for each cell, and its name tells the anchors"
    return replace(made, tables=ordered), said


_ANCHORS = (
    ("yolov7-tiny", presets.YOLOV5_ANCHORS),
    ("yolov7_tiny", presets.YOLOV5_ANCHORS),
    ("yolov7", presets.YOLOV7_ANCHORS),
    ("yolov5", presets.YOLOV5_ANCHORS),
)
"""Part of a model's name -> the anchors of its configuration."""


def _nanodet_plus(known: Known) -> Guess | None:
    """(N, classes + 4 x 8): scores, then logits of distributions."""
    values = _table(known)
    wide = 4 * _BINS
    if values is None or not _classes(known, values.shape[1] - wide):
        return None
    strides = _pyramid(known, len(values), strides=[(8, 16, 32, 64)])
    classes = values.shape[1] - wide
    if not strides or not _are_scores(values[:, :classes]) or _are_scores(values[:, classes:]):
        return None
    tables = (Table(0, ("scores", "boxes")),)
    said = f"its output has {classes} scores and 4 x {_BINS} logits for each cell of strides {_listed(strides)}"
    return presets.nanodet(known.size, classes, tables, strides, plus=True), f"{said}, as NanoDet-Plus"


def _nanodet(known: Known) -> Guess | None:
    """Scores (cells, classes) and logits (cells, 4 x 8) for each of three strides."""
    classes = len(known.labels) or COCO
    columns: dict[Part, int] = {"scores": classes, "boxes": 4 * _BINS}
    tables = _levels(known, columns, 1, ("rows",))
    if not tables or classes == 4 * _BINS:
        return None
    if not all(_are_scores(known.outputs[t.output]) for t in tables if t.parts == ("scores",)):
        return None
    said = f"its outputs have {classes} scores and 4 x {_BINS} logits for each cell of strides 8, 16 and 32"
    return presets.nanodet(known.size, classes, tables, presets.STRIDES, plus=False), f"{said}, as NanoDet"


_BINS = 8


def _scrfd(known: Known) -> Guess | None:
    """A score, four distances and perhaps five landmarks for two anchors of each cell of three strides."""
    columns: dict[Part, int] = {"scores": 1, "boxes": 4}
    if len(known.outputs) == 9:
        columns["keypoints"] = 10
    tables = _levels(known, columns, 2, ("rows", "maps"))
    if not tables:
        return None
    scores = [known.outputs[table.output] for table in tables if table.parts == ("scores",)]
    made = presets.scrfd(known.size, tables)
    points = ", four distances and five landmarks" if made.keypoints[0] else " and four distances"
    said = f"its outputs have a score{points} for two boxes of each cell of strides 8, 16 and 32, as SCRFD"
    return (made if all(map(_are_scores, scores)) else replace(made, scores="sigmoid")), said


def _levels(known: Known, columns: Mapping[Part, int], each: int, layouts: Sequence[Layout]) -> tuple[Table, ...]:
    """A table for each part and stride, found by their shapes; empty where the outputs are not these."""
    if not all(known.size) or len(known.outputs) != len(columns) * len(presets.STRIDES):
        return ()
    grids = presets.pyramid(known.size)
    for layout in layouts:
        found = [
            (level, Table(index, (part,), layout))
            for level, grid in enumerate(grids)
            for part, wide in columns.items()
            for index, values in enumerate(known.outputs)
            if _fits(np.shape(values), grid, wide, each, layout)
        ]
        if len(found) == len(known.outputs) == len({table.output for _, table in found}):
            return tuple(table for _, table in found)
    return ()


def _fits(shape: tuple[int, ...], grid: Grid, wide: int, each: int, layout: Layout) -> bool:
    shapes: dict[Layout, tuple[int, ...]] = {
        "rows": (grid.rows * grid.columns * each, wide),
        "maps": (each * wide, grid.rows, grid.columns),
        "stacks": (each, grid.rows, grid.columns, wide),
    }
    whole = shapes[layout]
    while len(shape) > len(whole) and shape[0] == 1:
        shape = shape[1:]
    return shape == whole


def _retinaface(known: Known) -> Guess | None:
    """Deltas (N, 4), scores of two classes (N, 2) and landmarks (N, 10) of two priors for each cell."""
    values = [_flat(output) for output in known.outputs]
    if len(values) != 3 or not all(known.size) or any(array.ndim != 2 for array in values):
        return None
    count = sum(grid.count for grid in presets.pyramid(known.size, each=2))
    parts: dict[tuple[int, ...], Part] = {(count, 4): "boxes", (count, 2): "scores", (count, 10): "keypoints"}
    if {array.shape for array in values} != parts.keys():
        return None
    tables = tuple(Table(index, (parts[array.shape],)) for index, array in enumerate(values))
    scores = next(array for array in values if array.shape[1] == 2)
    boxes = next(array for array in values if array.shape[1] == 4)
    if _in_order(boxes):  # they are decoded already
        return None
    made = presets.retinaface(known.size, tables)
    said = "its outputs have four numbers, two scores and five landmarks for two priors of each cell, as RetinaFace"
    return (made if _sum_to_one(scores) else replace(made, scores="softmax")), said


def _corners_and_scores(known: Known) -> Guess | None:
    """Decoded boxes (N, 4), and (N, classes) after a softmax with a background."""
    values = [_flat(output) for output in known.outputs]
    if len(values) != 2 or any(array.ndim != 2 or len(array) < _MANY for array in values):
        return None
    for boxes, scores in ((0, 1), (1, 0)):
        corners, shares = values[boxes], values[scores]
        if corners.shape[1] != 4 or len(corners) != len(shares) or shares.shape[1] < 2:
            continue
        if not (_sum_to_one(shares) and _in_order(corners) and corners.any()):
            continue
        scale = (float(known.size[1]), float(known.size[0])) if _are_fractions(corners) and all(known.size) else (1, 1)
        made = Decoder(
            "boxes", (Table(scores), Table(boxes, ("boxes",))), shares.shape[1], scale=scale,
            background=int(shares.mean(0).argmax()), score_threshold=0.5, iou_threshold=0.45, multi_label=True,
            group="class", most=200,
        )  # fmt: skip
        return made, f"its outputs have corners in order and {shares.shape[1]} scores that add up to 1 for each box"
    return None


_MANY = 100  # boxes: fewer may have corners in order by chance


def _text(known: Known) -> Guess | None:
    """The characters in the metadata, as PaddleOCR's recognisers in ONNX have them, and (steps, classes)."""
    characters = known.metadata.get("character")
    values = _steps(known)
    alphabet = with_blank(characters.splitlines(), values.shape[1]) if characters and values is not None else ()
    if not alphabet or not characters or values is None:
        return None
    said = f"its metadata has {len(characters.splitlines())} characters, and its output {values.shape[1]} classes"
    return presets.ctc(values.shape[1], alphabet), said


def with_blank(characters: Sequence[str], classes: int) -> tuple[str, ...]:
    """The alphabet of a text recogniser: class 0 is the blank, and the last one may be the space.

    Args:
        characters: as they are listed in a file or in metadata.
        classes: number of classes of the network.

    Returns:
        ``classes`` characters; empty where they are neither one nor two fewer, and do not begin with a blank.

    Example:
        >>> with_blank(["a", "b"], 4)
        ('', 'a', 'b', ' ')
    """
    if classes == len(characters) + 2:
        return ("", *characters, " ")
    if classes == len(characters) + 1:
        return ("", *characters)
    if characters and classes == len(characters) and characters[0].strip("<>[]").lower() in ("", "blank"):
        return ("", *characters[1:])
    return ()


def _steps(known: Known) -> Array | None:
    """The only output as (steps, classes); an axis of length 1 may be between them."""
    values = np.squeeze(known.outputs[0]) if len(known.outputs) == 1 else np.zeros(0)
    return values if values.ndim == 2 else None


def _told_text(known: Known) -> Guess | None:
    values = _steps(known)
    if values is None:
        return None
    alphabet = with_blank(known.labels, values.shape[1]) if known.labels else ()
    said = "with the characters of the labels" if alphabet else "whose characters are not known"
    made = presets.ctc(values.shape[1], alphabet)
    return (made if _sum_to_one(values) else replace(made, scores="softmax")), f"its output has classes {said}"


def _told_landmarks(known: Known) -> Guess | None:
    """x and y of each point: (N, 2), (N, 3) or (2, N), or all in one axis."""
    if len(known.outputs) != 1:
        return None
    values = np.squeeze(np.asarray(known.outputs[0]))
    layout: Layout = "rows"
    if values.ndim == 1 and values.size and values.size % 2 == 0:
        shape = (values.size // 2, 2)
    elif values.ndim == 2 and values.shape[1] in (2, 3):
        shape = (values.shape[0], values.shape[1])
    elif values.ndim == 2 and values.shape[0] in (2, 3):
        shape, layout = (values.shape[1], values.shape[0]), "columns"
    else:
        return None
    rows = in_rows(values, shape[1], layout)[:, :2]
    fractions = all(known.size) and np.isfinite(rows).all() and _are_fractions(rows)
    scale = (float(known.size[1]), float(known.size[0])) if fractions else (1.0, 1.0)
    said = f"its output has {shape[0]} points, in {'fractions of the image' if fractions else 'pixels'}"
    return Decoder("points", (Table(0, ("keypoints",), layout),), keypoints=shape, scale=scale), said


def _told_segmentation(known: Known) -> Guess | None:
    """(classes, height, width); one class: the places where its score is above 0.5."""
    if len(known.outputs) != 1:
        return None
    values = np.asarray(known.outputs[0])
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3:
        return None
    made = Decoder("argmax", (Table(0),), len(values), axis=-3, score_threshold=0.5)
    if len(values) == 1 and not _are_scores(values):
        made = replace(made, scores="sigmoid")
    return made, f"its output is a map of {len(values)} {'class' if len(values) == 1 else 'classes'}"


def _named_segmentation(known: Known) -> Guess | None:
    """A map with a channel for each name."""
    values = np.asarray(known.outputs[0]) if len(known.outputs) == 1 else np.zeros(0)
    if values.ndim != 3 or len(values) < 2 or len(values) != len(known.labels) or min(values.shape[1:]) < 2:
        return None
    return Decoder("argmax", (Table(0),), len(values), axis=-3), f"its output is a map of its {len(values)} classes"


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides[:-1])) + f" and {strides[-1]}"


@dataclass(frozen=True)
class Head:
    """A layout that is known.

    Attributes:
        name: whose it is.
        find: the decoder, where the network has this layout.
        task: the layout is recognised only where the user says that the network is for this; "": it says enough.
    """

    name: str
    find: Callable[[Known], Guess | None]
    task: str = ""


HEADS = (
    Head("Ultralytics v8, 11, 12, with poses", _ultralytics),
    Head("instances of Ultralytics and YOLOv5", _instances),
    Head("Ultralytics v10, 26 end to end", _found_rows),
    Head("Ultralytics without metadata", _decoded_columns),
    Head("YOLOv5, v6, v7, YOLOX", _objectness_rows),
    Head("Ultralytics before decoding", _ultralytics_logits),
    Head("YOLOv5, v7 before decoding", _yolov5_maps),
    Head("NanoDet-Plus", _nanodet_plus),
    Head("NanoDet", _nanodet),
    Head("SCRFD", _scrfd),
    Head("RetinaFace", _retinaface),
    Head("SSD, decoded", _corners_and_scores),
    Head("PaddleOCR's recognisers", _text),
    Head("segmentation with names", _named_segmentation),
    Head("CTC", _told_text, "text"),
    Head("landmarks", _told_landmarks, "landmarks"),
    Head("segmentation", _told_segmentation, "segmentation"),
)
"""The layouts that are known, in the order in which they are tried."""
