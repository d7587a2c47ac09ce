"""Tails: the operators after a cut. A tail can be run, and recognised as a decoder.

A tail is recognised by its results. Its operators, shapes and constants suggest candidate decoders. A candidate is
accepted if it gives the same predictions as the tail on synthetic values of the tensors at the cut. So it does not
matter how an exporter writes a decoder, and an accepted decoder is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...errors import ConvertError, ModelError
from ...model.shapes import without_batch
from ...tasks import Agreement, Boxes, ClassMap, Decoder, Grid, Prediction, Table, agreement, decode
from ...tasks.boxes import TORCHVISION_GROWTH, activated
from ...tasks.decoder import Activation, Group, Layout, Part
from ..forked import ServerError
from .cutting import VIEWS, Cut, needed_for, reads
from .reading import Reading, compute, example, fed, session

Array = NDArray[Any]

_LEAST_SHARE = 0.98
"""The least share of equal predictions of a right decoder. It is below 1: scores may be equal up to rounding."""
_LEAST_IOU = 0.999
_MOST_SCORE_ERROR = 1e-3
_ACTIVE = (300, 3000)
"""The approximate number of boxes with high scores in each synthetic sample: few, and more than most tails keep."""


class Tail:
    """The part of a model that comes after a cut.

    Attributes:
        nodes: its nodes, in order.
        shapes: of the tensors at the cut, without the batch axis.
        keypoints: (number of keypoints, 2 or 3 values for each), after the score and the label of a box.
        scale: (horizontal, vertical) factor that converts the coordinates of the model's own boxes to pixels.
    """

    def __init__(self, reading: Reading, cut: Cut, keypoints: tuple[int, int] = (0, 2)) -> None:
        """Copy the tail from a model. The model is not changed.

        Raises:
            ConvertError: it reads other tensors than those at the cut, or ONNX Runtime cannot load it.
        """
        self._reading, self._cut = reading, cut
        graph = reading.model.graph
        self._outputs = [str(value.name) for value in graph.outputs]
        self.nodes = _dependent(graph, cut.outputs, self._outputs)
        made = {str(value.name) for node in self.nodes for value in node.outputs}
        outside = dict.fromkeys(name for node in self.nodes for name in reads(node) if name not in made)
        weights = [name for name in outside if name not in cut.outputs]
        for name in weights:
            if name not in reading.constants:
                raise ConvertError(f"the operators after the cut also read {name!r}")
        self.shapes = [without_batch(reading.shapes[name]) for name in cut.outputs]
        self._fed = [name for name in cut.outputs if name in outside]
        self._made = [name for name in self._outputs if name in made]
        proto = helper.make_model(
            helper.make_graph(
                [ir.serde.serialize_node(node) for node in self.nodes],
                "tail",
                [helper.make_tensor_value_info(n, TensorProto.FLOAT, reading.shapes[n]) for n in self._fed],
                [onnx.ValueInfoProto(name=name) for name in self._made],
                [numpy_helper.from_array(np.asarray(reading.constants[name]), name) for name in weights],
            ),
            opset_imports=[helper.make_opsetid(d, v) for d, v in reading.model.graph.opset_imports.items()],
            ir_version=reading.model.ir_version,
        )
        self._session = session(proto)
        self.keypoints = keypoints
        self.scale = (1.0, 1.0)

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Compute the model's own outputs.

        Args:
            values: of the tensors at the cut, with or without the batch axis.

        Returns:
            An array for each output, in the model's order.

        Raises:
            ConvertError: ONNX Runtime fails.
        """
        known = {
            name: np.asarray(value, np.float32).reshape(self._reading.shapes[name])
            for name, value in zip(self._cut.outputs, values, strict=True)
        }
        try:
            found = self._session.run({name: known[name] for name in self._fed}, self._made)
        except ServerError as error:
            raise ConvertError(error.said("run the operators after the cut"), hint=error.hint) from None
        known |= dict(zip(self._made, found))
        return [known[name] for name in self._outputs]

    def predict(self, values: Sequence[Array]) -> Prediction:
        """Compute the model's own prediction from the tensors at the cut. Arguments are those of :meth:`run`.

        Raises:
            ConvertError: ONNX Runtime fails, or the outputs are neither boxes nor a map of classes.
        """
        found = read_outputs(self.run(values), self.keypoints)
        if found is None:
            raise ConvertError("the model's outputs are neither boxes nor a map of classes")
        if isinstance(found, Boxes):
            points = found.keypoints
            if points is not None:
                points = points * np.array([*self.scale, 1], np.float32)[: points.shape[2]]
            return replace(found, xyxy=found.xyxy * np.array(self.scale * 2, np.float32), keypoints=points)
        return found

    def recognise(self, size: tuple[int, int]) -> Decoder | None:
        """The decoder that computes the same as the tail; None if there is none.

        Args:
            size: (height, width) of the model's input, pixels. ``scale`` is set if boxes are fractions of it.

        Raises:
            ConvertError: ONNX Runtime cannot run the model.
        """
        for guess in (*_argmax(self), *_joint(self, size), *_apart(self)):
            fitted = _fitted(self, guess)
            found = fitted and _with_units(self, fitted, size)
            if found:
                return found
        return None

    # --------------------------------------------------------------------------------------------- what it contains

    def example(self) -> list[Array]:
        """The tensors at the cut for one sample of noise."""
        feeds = {
            str(v.name): example(self._reading.shapes[str(v.name)], v.dtype) for v in fed(self._reading.model.graph)
        }
        found = dict(compute(self._reading.model, self._cut.outputs, feeds))
        return [found[name].reshape(shape) for name, shape in zip(self._cut.outputs, self.shapes)]

    @property
    def operators(self) -> set[str]:
        """The types of its operators."""
        return {node.op_type for node in self._all_nodes()}

    def _all_nodes(self) -> Iterator[ir.Node]:
        """Its nodes, and those in subgraphs: torchvision runs NonMaxSuppression inside an If."""
        return (inner for node in self.nodes for inner in _with_bodies(node))

    def constant(self, node: ir.Node, index: int) -> Array | None:
        """The array of an input that does not depend on the values at the cut; None if it does, or is left out."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        held = ir.convenience.get_const_tensor(value)  # constants inside a branch were not folded
        return self._reading.constants.get(str(value.name), None if held is None else held.numpy())

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """The shape of a value, including the batch axis; () if unknown."""
        return self._reading.shapes.get(str(value.name), ()) if value is not None else ()

    def numbers(self, kind: str, indices: Iterable[int] = (0, 1)) -> list[float]:
        """The distinct floating-point scalars in these inputs of the nodes of a type, in order."""
        found = (self.constant(node, i) for node in self._all_nodes() if node.op_type == kind for i in indices)
        scalars = (a.reshape(-1)[0] for a in found if a is not None and a.size == 1 and a.dtype.kind == "f")
        return list(dict.fromkeys(float(str(np.float32(scalar))) for scalar in scalars))  # 0.7, not 0.699999988

    def counts(self) -> list[int]:
        """Possible numbers of candidates: the integers from which the sizes of the TopK nodes are computed."""
        seen: set[str] = set()
        wanted = [node.inputs[1] for node in self._all_nodes() if node.op_type == "TopK"]
        found: dict[int, None] = {}
        while wanted:
            value = wanted.pop()
            if value is None or value.name in seen:
                continue
            seen.add(str(value.name))
            maker = value.producer()
            if value.const_value is not None and value.const_value.size == 1:
                found[int(value.const_value.numpy().reshape(-1)[0])] = None
            elif maker is not None and maker.op_type != "Shape":
                wanted.extend(maker.inputs)
        return sorted((count for count in found if count > 1), reverse=True)

    def kept(self) -> int:
        """The number of boxes that are kept after a NonMaxSuppression; 0 if all are kept."""
        after: set[str] = set()
        for node in self.nodes:
            if "NonMaxSuppression" in (n.op_type for n in _with_bodies(node)) or not after.isdisjoint(reads(node)):
                ends = self.constant(node, 2) if node.op_type == "Slice" else None
                if ends is not None and ends.size == 1 and 0 < int(ends.reshape(-1)[0]) < 1 << 31:
                    return int(ends.reshape(-1)[0])
                after.update(str(value.name) for value in node.outputs)
        return 0

    def kept_per_class(self) -> int:
        """The number of boxes per class that a NonMaxSuppression keeps; 0 if it keeps all, or if there is none."""
        found = [self.constant(node, 2) for node in self._all_nodes() if node.op_type == "NonMaxSuppression"]
        counts = [int(count.reshape(-1)[0]) for count in found if count is not None and count.size == 1]
        return min((count for count in counts if 0 < count < 1 << 31), default=0)

    def anchors(self, count: int) -> tuple[Grid, ...]:
        """The constant boxes in it as grids; empty if they are not ``count`` boxes on grids."""
        names = dict.fromkeys(name for node in self.nodes for name in reads(node) if name in self._reading.constants)
        tables = [a for a in map(self._reading.constants.__getitem__, names) if a.ndim == 2 and a.shape[1] == 4]
        grids = [find_grid(table) for table in tables if table.dtype.kind == "f"]
        found = tuple(grid for grid in grids if grid is not None)
        return found if sum(grid.count for grid in found) == count else ()


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    """A node, and the nodes in its subgraphs."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from (inner for each in attribute.value for inner in _with_bodies(each))


def _dependent(graph: ir.Graph, begins: Iterable[str], ends: Iterable[str]) -> list[ir.Node]:
    """The nodes on paths from ``begins`` to ``ends``, in order."""
    known, forward = set(begins), []
    for node in graph:
        if not known.isdisjoint(reads(node)) and known.isdisjoint(str(value.name) for value in node.outputs):
            forward.append(node)
            known.update(str(value.name) for value in node.outputs)
    needed = needed_for(forward, ends)
    return [node for node in forward if node in needed]


def find_grid(boxes: Array) -> Grid | None:
    """Describe anchors as a grid.

    Args:
        boxes: (N, 4): x1, y1, x2, y2, pixels.

    Returns:
        None if the boxes are not the same set of sizes at each point of a regular grid.
    """
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    moved = np.flatnonzero(np.abs(centres - centres[:1]).max(1) > _SAME_PLACE)
    each = int(moved[0]) if len(moved) else len(boxes)
    cells = centres[::each]
    lower = np.flatnonzero(np.abs(cells[:, 1] - cells[0, 1]) > _SAME_PLACE)
    columns = int(lower[0]) if len(lower) else len(cells)
    rows = len(cells) // columns
    across = float(cells[columns - 1, 0] - cells[0, 0]) / (columns - 1) if columns > 1 else 0.0
    down = float(cells[(rows - 1) * columns, 1] - cells[0, 1]) / (rows - 1) if rows > 1 else 0.0
    first = (float(cells[0, 1]), float(cells[0, 0]))
    grid = Grid(rows, columns, (down, across), first, tuple((float(w), float(h)) for w, h in sizes[:each]))
    fits = grid.count == len(boxes) and np.allclose(grid.boxes(), boxes, atol=_SAME_PLACE)
    return grid if fits else None


_SAME_PLACE = 1e-2  # pixels


# ------------------------------------------------------------------------------------------------------- predictions


def read_outputs(outputs: Sequence[Array], keypoints: tuple[int, int] = (0, 2)) -> Prediction | None:
    """Read a model's own outputs as a prediction.

    They may be boxes, scores and labels in any order, one table of all three, or a map of classes.

    Args:
        outputs: in the model's order.
        keypoints: (number of keypoints, 2 or 3 values for each) at the end of a table's rows.

    Returns:
        None if the outputs are something else.
    """
    parts = [array[0] if array.ndim > 1 and len(array) == 1 else array for array in map(np.asarray, outputs)]
    if len(parts) == 1 and parts[0].ndim == 2 and parts[0].shape[1] == 6 + keypoints[0] * keypoints[1]:
        table = parts[0][parts[0][:, 4] > 0]  # Ultralytics pads the table with zeros
        return _sorted(table[:, :4], table[:, 4], table[:, 5], table[:, 6:].reshape(len(table), *keypoints))
    if len(parts) == 1 and parts[0].dtype.kind in "iu":
        return ClassMap(parts[0].astype(np.int64))
    boxes = [part for part in parts if part.ndim == 2 and part.shape[1] == 4]
    scores = [part for part in parts if part.ndim == 1 and part.dtype.kind == "f"]
    labels = [part for part in parts if part.ndim == 1 and part.dtype.kind in "iu"]
    if len(parts) == 3 and len(boxes) == len(scores) == len(labels) == 1:
        return _sorted(boxes[0], scores[0], labels[0]) if len(boxes[0]) == len(scores[0]) == len(labels[0]) else None
    return None


def _sorted(boxes: Array, scores: Array, labels: Array, keypoints: Array | None = None) -> Boxes:
    found = Boxes(
        boxes.astype(np.float32),
        scores.astype(np.float32),
        labels.astype(np.int64),
        keypoints.astype(np.float32) if keypoints is not None and keypoints.size else None,
    )
    return found.where(np.argsort(-scores, kind="stable"))


# ------------------------------------------------------------------------------------------------------- recognising


def _with_units(tail: Tail, found: Decoder, size: tuple[int, int]) -> Decoder | None:
    """The decoder with boxes in pixels; None if its boxes for a sample of noise have swapped corners."""
    everything = decode(replace(found, score_threshold=-1.0, iou_threshold=1.0, size=(0, 0)), tail.example())
    if not isinstance(everything, Boxes):
        return found
    corners = everything.xyxy
    if found.boxes == "xyxy" and (corners[:, 2:] < corners[:, :2]).any(1).mean() > _MOST_REVERSED:
        return None
    if not any(size) or np.abs(corners).max() > _LARGEST_FRACTION:
        return found
    tail.scale = (float(size[1]), float(size[0]))
    return replace(found, scale=tail.scale)


_MOST_REVERSED = 0.01
_LARGEST_FRACTION = 2.0
"""If no coordinate is larger, coordinates are fractions of the image."""


def _fitted(tail: Tail, guess: Decoder) -> Decoder | None:
    """The guess with coordinates in pixels of the model's input; None if its predictions differ from the tail's."""
    samples = [made_up(tail, guess, seed, active) for seed, active in enumerate(_ACTIVE)]
    try:
        expected = [tail.predict(values) for values in samples]
        found = [decode(guess, values) for values in samples]
        if isinstance(expected[0], Boxes) and isinstance(found[0], Boxes):
            guess = replace(guess, scale=_scale(found[0], expected[0]))
            found = [decode(guess, values) for values in samples]
        alike = [agreement(ours, theirs) for ours, theirs in zip(found, expected)]
    except (ConvertError, ModelError, ValueError, IndexError):  # a guess may not even fit the shapes
        return None
    right = all(map(_is_right, alike)) and all(map(_same_keypoints, found, expected))
    return guess if right else None


def _same_keypoints(ours: Prediction, theirs: Prediction) -> bool:
    """Whether two predictions have equal keypoints, or neither has any."""
    a, b = (each.keypoints if isinstance(each, Boxes) else None for each in (ours, theirs))
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool(np.isclose(a, b, atol=1e-3).mean() >= _LEAST_SHARE)


def _is_right(found: Agreement) -> bool:
    exact = found.iou is None or found.iou >= _LEAST_IOU
    scores = found.score_error is None or found.score_error <= _MOST_SCORE_ERROR
    return bool(found.theirs and found.share >= _LEAST_SHARE and exact and scores)


def _scale(ours: Boxes, theirs: Boxes) -> tuple[float, float]:
    """(horizontal, vertical) factor from coordinates of a resized image to those of the input; 1 if not resized."""
    if not len(ours) or not len(theirs):
        return (1.0, 1.0)
    a, b = ours.xyxy[0], theirs.xyxy[0]
    across, down = (float(b[i + 2] / a[i + 2]) if a[i + 2] > 0 else 1.0 for i in (0, 1))
    return tuple(1.0 if abs(s - 1) < 1e-3 else s for s in (across, down))  # type: ignore[return-value]


def made_up(tail: Tail, guess: Decoder, seed: int, boxes_with_scores: int) -> list[Array]:
    """Synthetic values at the cut for a decoder. About so many boxes have high scores, all others have low scores."""
    noise = np.random.default_rng(seed)
    if guess.kind == "argmax":
        return [noise.normal(size=shape).astype(np.float32) for shape in tail.shapes]
    values = [np.zeros(shape, np.float32) for shape in tail.shapes]
    count = next(
        int(np.prod(tail.shapes[table.output])) // sum(map(guess.width, table.parts)) for table in guess.tables
    )
    active = noise.random(count) < boxes_with_scores / count
    logits = noise.normal(-8, 1, (count, guess.classes))
    logits[active] = noise.normal(-1, 2, (active.sum(), guess.classes))
    logits[active, noise.integers(0, guess.classes, active.sum())] += _lift(guess)
    if guess.background >= 0:
        logits[~active, guess.background] = 8
    parts: dict[Part, Array] = {
        "boxes": _made_up_boxes(noise, guess, count),
        "scores": _inverse(guess, logits),
        "objectness": noise.normal(2, 1, (count, 1)),
        "keypoints": noise.uniform(0, 1, (count, guess.width("keypoints"))),
    }
    for table in guess.tables:
        rows = np.concatenate([parts[part] for part in table.parts], 1)
        made = np.asarray(rows if table.layout == "rows" else rows.T, np.float32)
        values[table.output] = made.reshape(tail.shapes[table.output])
    return values


def _lift(guess: Decoder) -> float:
    """A number that, added to a logit, brings a score to about the threshold."""
    threshold = min(guess.score_threshold, 1 - 1e-6)
    if threshold <= 0:
        return 0.0
    rivals = math.log(guess.classes) if guess.background >= 0 else 0.0  # in a softmax, all classes share a sum of 1
    return max(0.0, math.log(threshold / (1 - threshold)) + rivals)


def _made_up_boxes(noise: np.random.Generator, guess: Decoder, count: int) -> Array:
    if guess.boxes == "deltas":
        return noise.normal(0, 0.3, (count, 4))
    if guess.boxes == "distances":
        return noise.uniform(0.2, 2, (count, 4))
    height, width = guess.size if any(guess.size) else (1, 1)
    side = np.array([width, height], float)
    centre, half = noise.uniform(0.2, 0.8, (count, 2)) * side, noise.uniform(0.02, 0.15, (count, 2)) * side
    return np.concatenate([centre, 2 * half] if guess.boxes == "cxcywh" else [centre - half, centre + half], 1)


def _inverse(guess: Decoder, logits: Array) -> Array:
    """Logits, or scores if the tail applies no activation to what it reads."""
    if guess.scores != "none":
        return logits
    return activated("softmax" if guess.background >= 0 else "sigmoid", logits)


# ------------------------------------------------------------------------------------------------------------ guesses


def _argmax(tail: Tail) -> Iterator[Decoder]:
    """Candidates for a tail that is the ArgMax of one tensor."""
    found = [node for node in tail.nodes if node.op_type == "ArgMax"]
    if len(tail.shapes) == len(found) == 1 and tail.operators <= VIEWS | {"ArgMax", "Gather", "Slice"}:
        shape = tail.shape(found[0].inputs[0])
        rank = len(shape)
        axis = found[0].attributes["axis"].value if "axis" in found[0].attributes else 0
        yield Decoder("argmax", (Table(0),), shape[axis], axis=axis % rank - rank)


def _joint(tail: Tail, size: tuple[int, int]) -> Iterator[Decoder]:
    """Candidates for one tensor with boxes and scores."""
    if len(tail.shapes) != 1 or len(tail.shapes[0]) != 2 or not tail.operators & {"NonMaxSuppression", "TopK"}:
        return
    base = Decoder(
        "boxes",
        (),
        score_threshold=_score_threshold(tail),
        iou_threshold=_iou_threshold(tail),
        keypoints=tail.keypoints,
        multi_label="NonMaxSuppression" not in tail.operators,
        most=tail.kept() if "NonMaxSuppression" in tail.operators else min(tail.counts(), default=0),
        most_per_class=tail.kept_per_class(),
    )
    rows, columns = tail.shapes[0]
    layouts: list[tuple[Layout, int]] = [("rows", columns), ("columns", rows)]
    parts: tuple[Part, ...] = ("boxes", "scores", "keypoints") if tail.keypoints[0] else ("boxes", "scores")
    for layout, wide in layouts:
        classes = wide - 4 - base.width("keypoints")
        for boxes in ("xyxy", "cxcywh"):
            if classes > 0:
                made = replace(base, tables=(Table(0, parts, layout),), classes=classes, boxes=boxes)
                yield made
                yield replace(made, size=size)
                yield replace(made, multi_label=True)


def _apart(tail: Tail) -> Iterator[Decoder]:
    """Candidates for separate tensors of scores, boxes and perhaps centredness."""
    if len(tail.shapes) not in (2, 3):
        return
    places = range(len(tail.shapes))
    for boxes, scores in ((b, s) for b in places for s in places if b != s):
        count, *sides = tail.shapes[boxes]
        others = [place for place in places if place not in (boxes, scores)]
        if sides != [4] or any(tail.shapes[place] != (count, 1) for place in others):
            continue
        rows, columns = _as_table(tail.shapes[scores], count)
        layouts: list[tuple[Layout, int, int]] = [("rows", rows, columns), ("columns", columns, rows)]
        for layout, many, classes in layouts:
            if many == count:
                centred = [Table(place, ("objectness",)) for place in others]
                tables = (Table(scores, ("scores",), layout), Table(boxes, ("boxes",)), *centred)
                base = Decoder("boxes", tables, classes, combination="root")
                yield from _detr(tail, base)
                yield from _anchored(tail, base)


def _as_table(shape: Sequence[int], count: int) -> tuple[int, int]:
    """(rows, columns) of a tensor of scores. A vector is a table in row-major order. (0, 0) if it is not a table."""
    if len(shape) == 1 and shape[0] % count == 0:
        return count, shape[0] // count
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


def _score_threshold(tail: Tail) -> float:
    return max([0.0, *tail.numbers("Greater"), *tail.numbers("NonMaxSuppression", (4,))])


def _iou_threshold(tail: Tail) -> float:
    return max(tail.numbers("NonMaxSuppression", (3,)), default=1.0)


def _scores(tail: Tail) -> Activation:
    return "softmax" if "Softmax" in tail.operators else "sigmoid" if "Sigmoid" in tail.operators else "none"


def _anchored(tail: Tail, given: Decoder) -> Iterator[Decoder]:
    if "NonMaxSuppression" not in tail.operators:
        return
    bounds = [bound for bound in (*tail.numbers("Min"), *tail.numbers("Clip", (2,))) if bound >= _LEAST_SIDE]
    width, height = (bounds[0], bounds[-1]) if bounds else (0, 0)
    base = replace(
        given,
        size=(round(height), round(width)),
        scores=_scores(tail),
        score_threshold=_score_threshold(tail),
        iou_threshold=_iou_threshold(tail),
        candidates=max(tail.counts(), default=0),
        most=tail.kept(),
        most_per_class=tail.kept_per_class(),
        group="class",
        multi_label=True,
    )
    anchors = tail.anchors(tail.shapes[given.tables[1].output][0])
    backgrounds = (-1,) if base.scores == "sigmoid" else (0, given.classes - 1, -1)
    for background in backgrounds:
        plain = replace(base, background=background)
        if anchors and "Exp" in tail.operators:
            weights = [number for number in tail.numbers("Div", (1,)) if 0 < number < _LEAST_SIDE]
            scaled = (weights[0], weights[0], weights[-1], weights[-1]) if weights else (1.0, 1.0, 1.0, 1.0)
            groups: list[Group] = ["level", "class"]
            for group in groups:
                yield replace(
                    plain,
                    boxes="deltas",
                    anchors=anchors,
                    weights=scaled,
                    largest_growth=TORCHVISION_GROWTH,
                    group=group,
                )
        elif anchors:
            yield replace(plain, boxes="distances", anchors=anchors, group="level")
        else:
            yield plain


_LEAST_SIDE = 16  # pixels; a smaller constant is not the size of an image


def _detr(tail: Tail, given: Decoder) -> Iterator[Decoder]:
    if "NonMaxSuppression" in tail.operators or len(given.tables) != 2:
        return
    base = replace(
        given,
        most=min(tail.counts(), default=0),
        scores=_scores(tail),
        score_threshold=_score_threshold(tail),
        multi_label="TopK" in tail.operators,
    )
    for boxes in ("cxcywh", "xyxy"):
        for background in (given.classes - 1, 0, -1) if base.scores != "sigmoid" else (-1,):
            yield replace(base, boxes=boxes, background=background)
