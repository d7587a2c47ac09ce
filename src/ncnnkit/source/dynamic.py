"""Merges conversions of one model for different input shapes into one network that works at each of them.

A conversion knows the shape of every blob, and writes sizes into layers such as Reshape, Crop and Interp. Two
conversions of one model have the same layers; only these sizes differ. Here each such size is replaced by something
that ncnn computes at run time: -1 for the remaining size, 0 for the size of the input, a scale, the end of an axis, or
one of ncnn's expressions. An expression may also use the sizes of the network's inputs. The layer then gets a copy of
that input as a further input blob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from ..errors import ConvertError
from ..model.graph import Graph, Layer, Names
from ..model.ops import Value
from ..model.shapes import written

Sides = tuple[int, ...]
"""The size of one axis of a blob at each of the input shapes."""
Params = dict[str, Value]

_AXES = ("", "w", "hw", "chw", "cdhw")  # by number of axes, outermost first
HINT = "convert the model once for each shape"


class NotDynamic(Exception):
    """A layer cannot be made to work at each shape. The text says why, as a clause that follows the layer's name."""


@dataclass
class _At:
    """One layer, in all conversions.

    Attributes:
        layers: the layer in each conversion.
        sides: the sizes of its first input, outermost axis first.
        inputs: the sizes of each of the network's inputs.
        asked: indices of the network's inputs whose sizes an expression uses; filled by :meth:`expression`.
    """

    layers: Sequence[Layer]
    sides: Sequence[Sides]
    inputs: Sequence[Sequence[Sides]]
    asked: list[int] = field(default_factory=list)

    @property
    def own(self) -> dict[str, Sides]:
        """Name of an axis -> sizes of that axis of the first input."""
        return dict(zip(_AXES[len(self.sides)], self.sides))

    def values(self, name: str) -> tuple[Value, ...]:
        """The values of a param in the conversions."""
        return tuple(layer.get(name) for layer in self.layers)

    def numbers(self, name: str) -> Sides:
        """The values of an integer param in the conversions."""
        return tuple(int(layer.get(name)) for layer in self.layers)

    def expression(self, wanted: Sides, axis: str = "") -> str:
        """An ncnn expression for the sizes of an axis, preferably from the axis of the same name of the first input.

        Raises:
            NotDynamic: no simple expression gives the size at each shape.
        """
        if len(set(wanted)) == 1:
            return str(wanted[0])
        if found := next(_expressions(wanted, _references(0, self.sides, axis)), None):
            return found
        for index, sides in enumerate(self.inputs):
            asked = self.asked if index in self.asked else [*self.asked, index]
            blob = 1 + asked.index(index)
            if found := next(_expressions(wanted, _references(blob, sides, axis)), None):
                self.asked = asked
                return found
        raise NotDynamic(f"has an axis of size {' and '.join(map(str, wanted))}, which no expression gives")


def _references(blob: int, sides: Sequence[Sides], axis: str) -> list[tuple[str, Sides]]:
    """(name in expressions, sizes) of each axis of a layer's input. The axis called ``axis`` comes first."""
    named = sorted(zip(_AXES[len(sides)], sides), key=lambda each: each[0] != axis)
    return [(f"{blob}{name}", side) for name, side in named]


def _expressions(wanted: Sides, references: Sequence[tuple[str, Sides]]) -> Iterator[str]:
    """Expressions that give the wanted size at each shape, the simplest first."""
    varying = [(name, sides) for name, sides in references if len(set(sides)) > 1]
    products = [
        (f"*({a},{b})", tuple(x * y for x, y in zip(one, other)))
        for i, (a, one) in enumerate(varying)
        for b, other in varying[i + 1 :]
    ]
    terms = [*varying, *products]
    for name, sides in terms:
        if sides == wanted:
            yield name
    for name, sides in terms:
        factor, divisor = wanted[0] // max(sides[0], 1), sides[0] // max(wanted[0], 1)
        if tuple(side * factor for side in sides) == wanted:
            yield f"*({name},{factor})"
        for by in (divisor, divisor + 1):
            if by > 1 and tuple(side // by for side in sides) == wanted:
                yield f"//({name},{by})"
            if by > 1 and tuple(-(-side // by) for side in sides) == wanted:
                yield f"//(+({name},{by - 1}),{by})"
        ratio = Fraction(wanted[0], max(sides[0], 1))
        if ratio.numerator > 1 and tuple(side * ratio for side in sides) == wanted:
            yield f"//(*({name},{ratio.numerator}),{ratio.denominator})"
        more = wanted[0] - sides[0]
        if tuple(side + more for side in sides) == wanted:
            yield f"+({name},{more})" if more > 0 else f"-({name},{-more})"
    for name, sides in terms:  # the size is padded to whole blocks: number of blocks times elements of a block
        for by in range(2, 65):
            blocks = tuple(-(-side // by) for side in sides)
            times = wanted[0] // max(blocks[0], 1)
            if times > 1 and min(blocks) > 1 and tuple(block * times for block in blocks) == wanted:
                yield f"*(//(+({name},{by - 1}),{by}),{times})"
    for a, one in varying:  # the number of pixels of a map that is smaller by a factor
        for b, other in varying:
            for by in range(2, 65):
                if a != b and tuple((x // by) * (y // by) for x, y in zip(one, other)) == wanted:
                    yield f"*(//({a},{by}),//({b},{by}))"


# -------------------------------------------------------------------------------------------------- rules of the types


def _reshape(at: _At) -> Params:
    if any(at.values("shape_expr")):
        raise NotDynamic("contains an expression")
    first = at.layers[0].p
    names = _AXES[sum(getattr(first, axis) != -233 for axis in "whdc")]
    wanted = {name: at.numbers(name) for name in names}
    own = at.own
    fixed = {name: sides[0] for name, sides in wanted.items() if len(set(sides)) == 1}
    varying = [name for name in wanted if name not in fixed]
    kept = [name for name in varying if own.get(name) == wanted[name]] if len(varying) > 1 else []
    left = [name for name in varying if name not in kept]
    if len(left) <= 1:
        return {name: fixed.get(name, 0 if name in kept else -1) for name in wanted}
    terms = {name: at.expression(sides, name) for name, sides in wanted.items()}
    return {"shape_expr": ",".join(terms[name] for name in reversed(names))}


def _interp(at: _At) -> Params:
    wanted = {"w": at.numbers("output_width"), "h": at.numbers("output_height")}
    params: Params = {name: value for name, value in at.layers[0].params.items() if not name.startswith("output_")}
    own = at.own
    if len(at.sides) > 1:
        factors = {axis: sides[0] // own[axis][0] for axis, sides in wanted.items()}
        if all(tuple(side * factors[axis] for side in own[axis]) == sides for axis, sides in wanted.items()):
            return {**params, "height_scale": float(factors["h"]), "width_scale": float(factors["w"])}
    return {**params, "size_expr": ",".join(at.expression(sides, axis) for axis, sides in wanted.items())}


def _crop(at: _At) -> Params:
    first = at.layers[0].p
    if not (first.starts and first.ends and first.axes) or first.starts_expr:
        raise NotDynamic("crops by other params than starts and ends")
    if len(set(at.values("axes"))) > 1:
        raise NotDynamic("crops different axes")
    starts = [tuple(layer.p.starts[place] for layer in at.layers) for place in range(len(first.axes))]
    ends = [tuple(layer.p.ends[place] for layer in at.layers) for place in range(len(first.axes))]
    sides = [at.sides[axis] for axis in first.axes]
    from_start = [_place(start, side) for start, side in zip(starts, sides)]
    to_end = [-233 if end == side else _place(end, side) for end, side in zip(ends, sides)]
    if None not in from_start and None not in to_end:
        return {"starts": tuple(from_start), "ends": tuple(to_end), "axes": first.axes}
    names = [_AXES[len(at.sides)][axis] for axis in first.axes]
    return {
        "starts_expr": ",".join(map(at.expression, starts, names)),
        "ends_expr": ",".join(map(at.expression, ends, names)),
        "axes_expr": ",".join(map(str, first.axes)),
    }


def _place(places: Sides, side: Sides) -> int | None:
    """An index on an axis that is right at each shape. A negative index counts from the end. None if there is none."""
    if len(set(places)) == 1:
        return places[0]
    from_end = {place - whole for place, whole in zip(places, side)}
    return from_end.pop() if len(from_end) == 1 and max(from_end) < 0 else None


def _slice(at: _At) -> Params:
    axis, count = at.layers[0].p.axis % len(at.sides), len(at.layers[0].outputs)
    parts = [tuple(layer.p.slices[i] for layer in at.layers) for i in range(count)]
    left, made = list(at.sides[axis]), []
    for i, sides in enumerate(parts):
        even = tuple(whole // (count - i) for whole in left)
        if len(set(sides)) > 1 and sides != even:
            raise NotDynamic(f"has a part of size {' and '.join(map(str, sides))}")
        made.append(-233 if len(set(sides)) > 1 else sides[0])
        left = [whole - side for whole, side in zip(left, sides)]
    return {**at.layers[0].params, "slices": tuple(made)}


def _pooling(at: _At) -> Params:
    own = at.own
    params: Params = {"pooling_type": at.layers[0].p.pooling_type, "adaptive_pooling": 1}
    for axis in "hw":
        window = at.values(f"kernel_{axis}")
        if window not in (own.get(axis), (1,) * len(at.layers)) or any(
            any(at.values(f"pad_{pad}")) for pad in ("left", "top", "right", "bottom")
        ):
            raise NotDynamic(f"has a window of {' and '.join(map(str, window))}")
        params[f"out_{axis}"] = 1 if window == own.get(axis) else -233
    return params


_RULES: Mapping[str, Callable[[_At], Params]] = {
    "Crop": _crop,
    "Interp": _interp,
    "Pooling": _pooling,
    "Reshape": _reshape,
    "Slice": _slice,
}
"""Layer type -> function that gives params with which a layer works at each shape."""


# ------------------------------------------------------------------------------------------------------------- merging


def probe_shapes(shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[tuple[int, ...]]:
    """Further input shapes, in which axes differ that are equal at all given shapes, such as those of square images.

    The sizes of the varying axes of an input are taken from the given shapes in turn. Empty if the result is one of the
    given shapes.
    """
    made = []
    for each in zip(*shapes):
        varying = [axis for axis, sides in enumerate(zip(*each)) if len(set(sides)) > 1]
        turn = {axis: each[place % len(each)][axis] for place, axis in enumerate(varying)}
        made.append(tuple(turn.get(axis, side) for axis, side in enumerate(each[0])))
    return [] if made in [list(each) for each in shapes] else made


def merge(graphs: Sequence[Graph], shapes: Sequence[Sequence[tuple[int, ...]]]) -> Graph:
    """Merge conversions of one model into one network, which computes the same as each of them at its input shapes.

    Args:
        graphs: the conversions.
        shapes: the shapes of the inputs, for each conversion.

    Returns:
        A new network. Its Input layers have the shapes of the first conversion.

    Raises:
        ConvertError: a layer cannot be made to work at each shape, or the conversions have different layers.
    """
    first = graphs[0]
    said = " and ".join(", ".join(map(written, each)) for each in shapes)
    if any(len(graph.layers) != len(first.layers) for graph in graphs):
        counts = " and ".join(str(len(graph.layers)) for graph in graphs)
        raise ConvertError(f"its networks for inputs of {said} have {counts} layers", hint=HINT)
    known = [graph.infer_shapes(each) for graph, each in zip(graphs, shapes)]

    def sides(blob: str) -> list[Sides]:
        seen = [shape[blob] for shape in known]
        if any(shape is None or len(shape) != len(seen[0] or ()) for shape in seen):
            raise NotDynamic("reads a blob whose shape is not known")
        columns = zip(*(shape for shape in seen if shape is not None))
        return [tuple(side if isinstance(side, int) else -1 for side in column) for column in columns]

    inputs = [sides(blob) for blob in first.inputs]
    made = Graph([], dict(first.scales))
    readers: list[tuple[Layer, list[int]]] = []
    for layers in zip(*(graph.layers for graph in graphs)):
        layer = layers[0].copy()
        made.layers.append(layer)
        if layer.type == "Input" or all(_equal(layer, other) for other in layers[1:]):
            continue
        try:
            heads = {(each.type, tuple(each.inputs), tuple(each.outputs)) for each in layers}
            if len(heads) > 1:
                raise NotDynamic("is a different layer at each shape")
            if not all(layer.has_weights_of(other) for other in layers[1:]):
                raise NotDynamic(
                    "contains numbers that depend on the size of the input, such as positions of anchors, a table of "
                    "positions or a mask"
                )
            if layer.type not in _RULES:
                raise NotDynamic("depends on the size of the input, and ncnn has no way to compute its params")
            at = _At(layers, sides(layer.inputs[0]), inputs)
            hints = {name: value for name, value in layer.params.items() if name == "featmask"}
            layer.params = {**_RULES[layer.type](at), **hints}
            if at.asked:
                readers.append((layer, at.asked))
        except NotDynamic as fault:
            where = f"layer {layer.type} {layer.name}"
            raise ConvertError(f"its network does not work for inputs of {said}: {where} {fault}", hint=HINT) from None
    _hand_out_inputs(made, readers)
    return made


def _equal(one: Layer, other: Layer) -> bool:
    head = (one.type, one.inputs, one.outputs, one.params)
    return head == (other.type, other.inputs, other.outputs, other.params) and one.has_weights_of(other)


def _hand_out_inputs(graph: Graph, readers: Sequence[tuple[Layer, list[int]]]) -> None:
    """Connect copies of the network's inputs to the layers whose expressions use their sizes."""
    names, handed = Names(graph), dict[tuple[str, int], str]()
    for index, blob in enumerate(graph.inputs):
        asking = [layer for layer, asked in readers if index in asked]
        if not asking:
            continue
        value, *copies = (names.new(blob, role) for role in ("value", *["size"] * len(asking)))
        reader = next(layer for layer in graph.layers if blob in layer.inputs)
        reader.inputs[reader.inputs.index(blob)] = value
        place = next(i for i, layer in enumerate(graph.layers) if blob in layer.outputs)
        graph.layers.insert(place + 1, Layer("Split", names.new(blob, "sizes"), [blob], [value, *copies]))
        handed |= {(layer.name, index): copy for layer, copy in zip(asking, copies)}
    for layer, asked in readers:
        layer.inputs += [handed[layer.name, index] for index in asked]
