"""Recognises detectors by the shapes, the metadata and the values of their outputs, and gives their decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from . import presets
from .decoder import Array, Decoder, Grid, Layout, Part, Table
from .known import (
    COCO,
    Known,
    are_classes,
    are_fractions,
    are_scores,
    flat,
    in_order,
    listed,
    near_cells,
    only_table,
    strides_of,
    sum_to_one,
    told,
    told_keypoints,
)  # fmt: skip

Guess = tuple[Decoder, str]
Find = Callable[[Known], Guess | None]


def ultralytics(known: Known) -> Guess | None:
    """The task in the metadata, and a first output (4 + classes + keypoints, N)."""
    task, classes = known.metadata.get("task"), len(known.labels)
    shape = told_keypoints(known.metadata)
    if task not in ("detect", "pose") or not classes or shape is None or len(known.outputs) != 1:
        return None
    values, wide = flat(known.outputs[0]), 4 + classes + shape[0] * shape[1]
    if values.ndim != 2 or len(values) != wide:
        return None
    said = f"Ultralytics' metadata says {task}, and its output has 4 + {classes} rows"
    points = f" and {shape[0]} x {shape[1]} of keypoints" if shape[0] else ""
    return presets.ultralytics(classes, shape), said + points


def instances(known: Known) -> Guess | None:
    """A table of boxes with the weights of prototypes as its last columns, and the prototypes as maps."""
    flats = [flat(output) for output in known.outputs]
    shapes = [np.shape(output) for output in known.outputs]
    maps = [i for i, shape in enumerate(shapes) if shape[-2:] == _quarter(known.size) and flats[i].ndim == 3]
    if len(known.outputs) != 2 or len(maps) != 1 or flats[1 - maps[0]].ndim != 2:
        return None
    count, values = len(flats[maps[0]]), flats[1 - maps[0]]
    told = {**known.metadata, **({"task": "detect"} if known.metadata.get("task") == "segment" else {})}
    for find, axis in _WITH_MASKS:
        if values.shape[axis] <= count or not values.size:
            continue
        boxes, _ = np.split(values, [values.shape[axis] - count], axis)
        found = find(replace(known, samples=[[boxes]], metadata=told))
        if found:
            (table,) = found[0].tables
            there = replace(found[0], tables=(replace(table, output=1 - maps[0]),))
            said = found[1].replace("says detect", "says segment")
            made = presets.with_masks(there, count, maps[0])
            return made, f"{said}, and {count} weights of prototypes of masks"
    return None


def raw_instances(known: Known) -> Guess | None:
    """Ultralytics' boxes before decoding, the weights of prototypes (N, prototypes), and the prototypes."""
    flats = [flat(output) for output in known.outputs]
    maps = [i for i, array in enumerate(flats) if array.ndim == 3 and array.shape[1:] == _quarter(known.size)]
    tables = [i for i, array in enumerate(flats) if array.ndim == 2]
    if len(flats) != 3 or len(maps) != 1 or len(tables) != 2 or len(flats[tables[0]]) != len(flats[tables[1]]):
        return None
    count = len(flats[maps[0]])
    for boxes, weights in (tables, tables[::-1]):
        found = ultralytics_logits(replace(known, samples=[[flats[boxes]]]))
        if found and flats[weights].shape[1] == count:
            read = (
                Table(boxes, found[0].tables[0].parts), Table(weights, ("coefficients",)),
                Table(maps[0], ("prototypes",), "maps"),
            )  # fmt: skip
            said = f"{found[1]}, and {count} weights of prototypes of masks"
            return replace(found[0], tables=read, prototypes=count), said
    return None


def _quarter(size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of prototypes."""
    step = int(Decoder.prototype_step)
    return size[0] // step, size[1] // step


def found_rows(known: Known) -> Guess | None:
    """Rows of corners, score and label (and keypoints), known from the metadata or from their values."""
    values, task = only_table(known), known.metadata.get("task")
    shape = told_keypoints(known.metadata)
    if values is None or shape is None or values.shape[1] != 6 + shape[0] * shape[1]:
        return None
    corners, scores, labels = values[:, :4], values[:, 4], values[:, 5]
    empty = not values.any()
    valued = (
        len(values) > _FEW
        and are_scores(scores)
        and bool((np.diff(scores) <= 0).all() and (labels >= 0).all() and (labels == np.round(labels)).all())
        and not empty
    )
    arguments = told(known.metadata, "args")
    suppresses = isinstance(arguments, dict) and bool(arguments.get("nms"))
    chosen = task in ("detect", "pose") and (told(known.metadata, "end2end") is True or suppresses)
    if known.doubts(valued or (chosen and empty)):
        return None
    if in_order(corners) and (empty or not are_fractions(corners)):
        said = "Ultralytics' metadata says that it chooses its boxes itself" if chosen else "its scores are in order"
        return presets.found_rows(shape), f"{said}, and its output has rows of corners, score and label"
    if are_fractions(corners) and (corners >= 0).all() and not in_order(corners):
        centred = replace(presets.found_rows(shape), boxes="cxcywh", scale=(known.size[1], known.size[0]))
        return centred, "its scores are in order, and its output has rows of centre, size, score and label"
    return (presets.found_rows(shape), "its output has rows of corners, score and label") if known.sure else None


_FEW = 20  # rows; fewer may have scores in order by chance


def decoded_columns(known: Known) -> Guess | None:
    """(4 + classes, N) without metadata: one decoded box for each cell."""
    values = only_table(known)
    if values is None or (known.metadata.get("task") and not known.sure) or len(values) < 5:
        return None
    strides = strides_of(known, values.shape[1])
    classes = len(values) - 4
    if not strides or (known.labels and not are_classes(known, classes)) or known.doubts(are_scores(values[4:])):
        return None
    # Nearly all boxes have scores near zero. A column without such values is an angle or another number, not a score.
    rare = np.median(values[4:], axis=1).max() < _RARE
    if known.doubts(rare and near_cells(values[:2].T, presets.pyramid(known.size, strides))):
        return None
    cells = f"{values.shape[1]} boxes, one near each cell of strides {listed(strides)}"
    return presets.ultralytics(classes), f"its output has {cells}, and {classes} scores for each"


_RARE = 0.5


def three_boxes(known: Known) -> Guess | None:
    """(N, 5 + classes): three decoded boxes for each cell."""
    values = _with_objectness(known)
    strides = () if values is None else strides_of(known, len(values), each=3)
    if values is None or not strides:
        return None
    classes = values.shape[1] - 5
    grids = presets.pyramid(known.size, strides, each=3)
    if known.labels and not are_classes(known, classes):
        return None
    if known.doubts(near_cells(values[:, :2], grids, stacked=True)):
        return None
    cells = f"three boxes near each cell of strides {listed(strides)}"
    return presets.yolov5(classes), f"its output has {cells}, an objectness and {classes} scores for each"


def one_box(known: Known) -> Guess | None:
    """(N, 5 + classes): one decoded box for each cell."""
    values = _with_objectness(known)
    strides = () if values is None else strides_of(known, len(values))
    if values is None or not strides or not are_classes(known, values.shape[1] - 5):
        return None
    if known.doubts(near_cells(values[:, :2], presets.pyramid(known.size, strides))):
        return None
    said = _one_each(strides, values.shape[1] - 5)
    return presets.yolov5(values.shape[1] - 5), f"{said}; the boxes are near their cells"


def one_relative_box(known: Known) -> Guess | None:
    """(N, 5 + classes): one box for each cell, relative to it."""
    values = _with_objectness(known)
    strides = () if values is None else strides_of(known, len(values))
    if values is None or not strides or not are_classes(known, values.shape[1] - 5):
        return None
    if known.doubts(np.abs(values[:, :4]).max() <= _LARGEST_DELTA):
        return None
    said = _one_each(strides, values.shape[1] - 5)
    made = presets.yolox(known.size, values.shape[1] - 5, strides)
    return made, f"{said}; the boxes are relative to their cells, as YOLOX's"


def _with_objectness(known: Known) -> Array | None:
    """The only table, if it may have an objectness and scores."""
    values = only_table(known)
    if values is None or values.shape[1] < 6 or known.doubts(are_scores(values[:, 4:])):
        return None
    return values


def _one_each(strides: Sequence[int], classes: int) -> str:
    return f"its output has one box for each cell of strides {listed(strides)}, an objectness and {classes} scores"


_LARGEST_DELTA = 20.0  # cells, or the logarithm of a growth


def ultralytics_logits(known: Known) -> Guess | None:
    """4 x 16 logits of distances and the logits of the classes: rows for all cells, or maps of three strides."""
    classes = len(known.labels) or COCO
    wide = 4 * _ULTRALYTICS_BINS + classes
    parts: tuple[Part, ...] = ("boxes", "scores")
    values = only_table(known)
    if values is not None:
        strides = strides_of(known, len(values)) if values.shape[1] == wide else ()
        tables: tuple[Table, ...] = (Table(0, parts),)
    else:
        tables = tuple(replace(table, parts=parts) for table in _levels(known, {"boxes": wide}, 1, ("maps",)))
        strides = presets.STRIDES if tables else ()
    if not strides or known.doubts(not all(map(are_scores, known.outputs))):
        return None
    said = f"4 x {_ULTRALYTICS_BINS} logits and {classes} scores for each cell of strides {listed(strides)}"
    made = presets.ultralytics_logits(known.size, classes, tables, strides)
    return made, f"its outputs have {said}, as Ultralytics' before decoding"


_ULTRALYTICS_BINS = 16


def three_maps(names: Sequence[str], anchors: Sequence[presets.Sizes]) -> Find:
    """Three maps of logits for three anchors. Only the name of the model shows which anchors."""

    def find(known: Known) -> Guess | None:
        classes = len(known.labels) or COCO
        if known.sure and not known.labels and known.outputs:
            classes = _columns(known.outputs[0], 3) - 5
        tables = _levels(known, {"boxes": 5 + classes}, 3, ("maps", "stacks"))
        named = any(name in known.name.lower() for name in names)
        if not tables or known.doubts(named and not all(map(are_scores, known.outputs))):
            return None
        made = presets.yolov5_maps(known.size, classes, anchors, tables[0].layout)
        ordered = tuple(replace(table, parts=made.tables[0].parts) for table in tables)
        said = f"its outputs are maps of three boxes with {classes} classes for each cell"
        return replace(made, tables=ordered), f"{said}, and its name says which anchors"

    return find


def _columns(values: Array, each: int) -> int:
    """The number of columns of a map with ``each`` boxes per cell: (each x columns, h, w) or (each, h, w, columns)."""
    shape = np.shape(values)
    stacked = len(shape) >= 4 and shape[-4] == each
    return int(shape[-1] if stacked else shape[-3] // each) if len(shape) >= 3 else 0


def nanodet_plus(known: Known) -> Guess | None:
    """(N, classes + 4 x 8): scores, then logits of distributions."""
    values = only_table(known)
    wide = 4 * _BINS
    if values is None or not are_classes(known, values.shape[1] - wide):
        return None
    strides = strides_of(known, len(values), strides=[(8, 16, 32, 64)])
    classes = values.shape[1] - wide
    if not strides or known.doubts(are_scores(values[:, :classes]) and not are_scores(values[:, classes:])):
        return None
    tables = (Table(0, ("scores", "boxes")),)
    said = f"its output has {classes} scores and 4 x {_BINS} logits for each cell of strides {listed(strides)}"
    return presets.nanodet(known.size, classes, tables, strides, plus=True), f"{said}, as NanoDet-Plus"


def nanodet(known: Known) -> Guess | None:
    """Scores (cells, classes) and logits (cells, 4 x 8) for each of three strides."""
    classes = len(known.labels) or COCO
    columns: dict[Part, int] = {"scores": classes, "boxes": 4 * _BINS}
    tables = _levels(known, columns, 1, ("rows",))
    if not tables or classes == 4 * _BINS:
        return None
    if known.doubts(all(are_scores(known.outputs[t.output]) for t in tables if t.parts == ("scores",))):
        return None
    said = f"its outputs have {classes} scores and 4 x {_BINS} logits for each cell of strides 8, 16 and 32"
    return presets.nanodet(known.size, classes, tables, presets.STRIDES, plus=False), f"{said}, as NanoDet"


_BINS = 8


def scrfd(known: Known) -> Guess | None:
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
    return (made if all(map(are_scores, scores)) else replace(made, scores="sigmoid")), said


def _levels(known: Known, columns: Mapping[Part, int], each: int, layouts: Sequence[Layout]) -> tuple[Table, ...]:
    """A table for each part and stride, found by their shapes; empty if the outputs are not these."""
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


def retinaface(known: Known) -> Guess | None:
    """Deltas (N, 4), scores of two classes (N, 2) and landmarks (N, 10) of two priors for each cell."""
    values = [flat(output) for output in known.outputs]
    if len(values) != 3 or not all(known.size) or any(array.ndim != 2 for array in values):
        return None
    count = sum(grid.count for grid in presets.pyramid(known.size, each=2))
    parts: dict[tuple[int, ...], Part] = {(count, 4): "boxes", (count, 2): "scores", (count, 10): "keypoints"}
    if {array.shape for array in values} != parts.keys():
        return None
    tables = tuple(Table(index, (parts[array.shape],)) for index, array in enumerate(values))
    scores = next(array for array in values if array.shape[1] == 2)
    boxes = next(array for array in values if array.shape[1] == 4)
    if known.doubts(not in_order(boxes)):  # the boxes are already decoded
        return None
    made = presets.retinaface(known.size, tables)
    said = "its outputs have four numbers, two scores and five landmarks for two priors of each cell, as RetinaFace"
    return (made if sum_to_one(scores) else replace(made, scores="softmax")), said


def corners_and_scores(known: Known) -> Guess | None:
    """Decoded boxes (N, 4), and (N, classes) after a softmax with a background."""
    values = [flat(output) for output in known.outputs]
    if len(values) != 2 or any(array.ndim != 2 or len(array) < _MANY for array in values):
        return None
    for boxes, scores in ((0, 1), (1, 0)):
        corners, shares = values[boxes], values[scores]
        if corners.shape[1] != 4 or len(corners) != len(shares) or shares.shape[1] < 2:
            continue
        if known.doubts(sum_to_one(shares) and in_order(corners) and bool(corners.any())):
            continue
        scale = (float(known.size[1]), float(known.size[0])) if are_fractions(corners) and all(known.size) else (1, 1)
        made = Decoder(
            "boxes", (Table(scores), Table(boxes, ("boxes",))), shares.shape[1], scale=scale,
            background=int(shares.mean(0).argmax()), score_threshold=0.5, iou_threshold=0.45, multi_label=True,
            group="class", most=200,
        )  # fmt: skip
        return made, f"its outputs have corners in order and {shares.shape[1]} scores that add up to 1 for each box"
    return None


_MANY = 100  # boxes; fewer may have corners in order by chance


def proposals(known: Known) -> Guess | None:
    """MTCNN's first stage: four numbers and two scores for every second pixel, as maps or with the columns last."""
    flats = [flat(output) for output in known.outputs]
    if len(flats) != 2 or any(array.ndim != 3 for array in flats):
        return None
    parts: dict[int, Part] = {4: "boxes", 2: "scores"}
    layouts: tuple[tuple[int, Layout], ...] = ((0, "maps"), (-1, "rows"))
    for axis, layout in layouts:
        cells = {array.shape[1:] if axis == 0 else array.shape[:2] for array in flats}
        columns = [array.shape[axis] for array in flats]
        if len(cells) != 1 or sorted(columns) != [2, 4]:
            continue
        (rows, wide) = cells.pop()
        # The pooling in it rounds up: the cells cover 2 (cells - 1) + 12 pixels, or one row and one column less.
        if not all(2 * count + 8 < side <= 2 * count + 12 for count, side in zip((rows, wide), known.size)):
            continue
        shares = np.moveaxis(flats[columns.index(2)], axis, -1).reshape(-1, 2)
        if known.doubts(sum_to_one(shares)):
            continue
        tables = tuple(Table(index, (parts[count],), layout) for index, count in enumerate(columns))
        said = "its outputs are four numbers and two scores for every second pixel, as those of MTCNN's first stage"
        return presets.mtcnn_proposals((rows, wide), tables), said
    return None


def crop(known: Known) -> Guess | None:
    """MTCNN's second and third stage: two scores and four shifts of one crop. Its landmarks are not read."""
    parts: dict[int, Part] = {2: "scores", 4: "boxes"}
    sizes = [np.size(output) for output in known.outputs]
    if known.size not in ((24, 24), (48, 48)) or sorted(sizes) not in ([2, 4], [2, 4, 10]):
        return None
    if known.doubts(sum_to_one(np.reshape(known.outputs[sizes.index(2)], (1, 2)))):
        return None
    tables = tuple(Table(index, (parts[size],)) for index, size in enumerate(sizes) if size in parts)
    said = "its outputs are two scores and four shifts of a crop, as those of MTCNN's later stages"
    return presets.mtcnn_crop(known.size, tables), said


_WITH_MASKS: tuple[tuple[Find, int], ...] = (
    (ultralytics, 0),
    (found_rows, 1),
    (decoded_columns, 0),
    (three_boxes, 1),
    (one_box, 1),
    (one_relative_box, 1),
)
"""Heads that may have masks, and the axis of their columns."""
