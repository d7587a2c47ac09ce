"""From ONNX's values to ncnn's blobs: the classes with which the function of every operator is written.

ONNX's values have any number of axes and a batch axis somewhere. ncnn's blobs have one to four axes and no batch axis.
Both store their elements in the same order, the last axis fastest. So a value of shape (1, 3, 4, 32, 50) may be a blob
of shape (12, 32, 50) or (3, 4, 1600), as its reader needs it: a *view*. An operator asks for its inputs as blobs of the
shapes that it can work on. A Reshape layer is written only if the blob has another shape. Reshape, Squeeze, Unsqueeze
and Flatten need no layer of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ConvertError
from ...model.graph import Graph, Layer, Weight
from ...model.ops import Value
from ...model.shapes import MOST_AXES, natural
from ...model.whole import guard_whole_inputs
from .reading import Reading

Array = NDArray[Any]
Shape = tuple[int, ...]

_MOST_BYTES = 200  # of a name; ncnn reads 255, and later stages append to names


class Unsupported(Exception):
    """ncnn has no layer for what a node computes. The text says why, as a clause that follows the operator's name."""


@dataclass(frozen=True)
class Blob:
    """A blob of ncnn's network: its name, and its shape with the outermost axis first."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def with_axes_kept(shape: Shape, kept: Iterable[int]) -> tuple[Shape, tuple[int, ...]]:
    """A blob's shape in which the axes ``kept`` are separate axes.

    It is the natural shape if that is possible. Otherwise all other axes are merged with their neighbours.

    Returns:
        The blob's shape, and the index in it of each kept axis, in order.

    Raises:
        Unsupported: there are more than four axes even after merging.
    """
    kept = [axis % max(len(shape), 1) for axis in kept]
    dropped = 1 if shape[:1] == (1,) and 0 not in kept else 0
    if len(shape) - dropped <= MOST_AXES:
        return shape[dropped:] or (1,), tuple(axis - dropped for axis in kept)
    groups: list[list[int]] = []
    for axis, side in enumerate(shape):
        if axis not in kept and side == 1:
            continue
        if groups and axis not in kept and groups[-1][-1] not in kept:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) > MOST_AXES:
        raise Unsupported(f"works on more than {MOST_AXES} axes of {list(shape)}")
    merged = tuple(math.prod(shape[axis] for axis in group) for group in groups) or (1,)
    return merged, tuple(next(i for i, group in enumerate(groups) if axis in group) for axis in kept)


class Lowering:
    """The network while it is written, and the blob of every ONNX value."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layers: list[Layer] = []
        self.blobs: dict[str, Blob] = {}
        self.sequences: dict[str, list[tuple[Shape, Blob]]] = {}  # ONNX's shape and the blob of each part
        self._views: dict[tuple[str, Shape], Blob] = {}
        self._names: set[str] = set()
        self._renamed: dict[str, str] = {}  # a blob that became an output -> the output's name
        self.fed: set[str] = set()
        self.opset = int(reading.model.graph.opset_imports.get("", 1))
        self._places = {node: place for place, node in enumerate(reading.model.graph)}

    # ------------------------------------------------------------------------------------------------ writing

    def new_name(self, stem: str) -> str:
        """A unique name made from ``stem``, without white space, and not longer than ncnn reads."""
        stem = "".join("_" if c.isspace() or not c.isprintable() else c for c in stem) or "value"
        stem = stem.encode("utf-8", "replace")[-_MOST_BYTES:].decode("utf-8", "ignore")
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def emit(
        self,
        kind: str,
        stem: str,
        inputs: Sequence[Blob],
        shapes: Sequence[Shape],
        weights: dict[str, Array] | None = None,
        /,
        **params: Any,
    ) -> list[Blob]:
        """Write a layer, and return its outputs, which have these shapes."""
        name = self.new_name(stem)
        outputs = [Blob(self.new_name(f"{name}:{i}" if i else f"{name}:"), tuple(s)) for i, s in enumerate(shapes)]
        held: dict[str, Weight] = {
            slot: np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
            for slot, array in (weights or {}).items()
        }
        self.layers.append(Layer(kind, name, [b.name for b in inputs], [b.name for b in outputs], params, held))
        return outputs

    def feed(self, value: str, name: str) -> None:
        """Write the Input layer of a value, called ``name``."""
        shape = natural(self.reading.shapes[value])
        if 0 in shape:
            raise ConvertError(f"its input {value!r} has no elements: {list(self.reading.shapes[value])}")
        self._names.add(name)
        self.fed.add(name)
        self.layers.append(Layer("Input", name, [], [name], dict(zip(_SIDES[len(shape)], shape))))
        self.blobs[value] = Blob(name, shape)

    def view(self, blob: Blob, shape: Shape) -> Blob:
        """A blob with the same elements in another shape. A Reshape is written if the blob has not that shape."""
        if blob.shape == shape:
            return blob
        if math.prod(shape) != blob.size or not 1 <= len(shape) <= MOST_AXES:
            raise Unsupported(f"needs the shape {list(shape)} of a blob that is {list(blob.shape)} in ncnn")
        key = (blob.name, shape)
        if key not in self._views:
            sides = dict(zip(_SIDES[len(shape)], shape))
            (self._views[key],) = self.emit("Reshape", f"{blob.name}/reshape", [blob], [shape], **sides)
        return self._views[key]

    def hold(self, array: Array, shape: Shape, stem: str) -> Blob:
        """A constant as a blob."""
        sides = dict(zip(_SIDES[len(shape)], shape))
        data = np.asarray(array, np.float32).reshape(shape)
        (blob,) = self.emit("MemoryData", stem, [], [shape], {"data": data}, **sides)
        return blob

    def place_of(self, node: ir.Node) -> int:
        """The index of a node in the order of the model."""
        return self._places[node]

    # ------------------------------------------------------------------------------------------------ finishing

    def graph(self, outputs: Sequence[str]) -> Graph:
        """The whole network. Outputs are called out0, out1 and so on. A blob with several readers gets a Split."""
        for index, name in enumerate(outputs):
            shape = self.reading.shapes[name]
            if 0 in shape:
                given = " ".join(f"--fix {number}=NUMBER" for number in self.reading.numbers)
                hint = f"does it depend on an input that is a number? Give it: {given}" if given else ""
                what = f"its output {name!r} is empty for a sample of noise: its shape is {list(shape)}"
                raise ConvertError(what, hint=hint)
            if name in self.reading.constants:
                hint = "export the model without this output"
                raise ConvertError(f"its output {name!r} does not depend on its inputs", hint=hint)
            if name not in self.blobs:
                raise ConvertError(f"its output {name!r} is not computed by ncnn's layer")
            blob = self.view(self.blobs[name], natural(shape))
            self._names.discard(f"out{index}")
            self.layers.append(Layer("Split", self.new_name(f"output{index}"), [blob.name], [f"out{index}"]))
            self._renamed[blob.name] = f"out{index}"
        used = _cut_what_is_read(_used(self.layers, len(outputs)))
        made = Graph(_split(_drop_single_splits(used), self.new_name))
        guard_whole_inputs(made)
        return made

    def places(self, graph: Graph) -> dict[str, Blob]:
        """Value of the original -> its blob in the finished network, if it has one, in the order of the original."""
        made = {name for layer in graph.layers for name in layer.outputs}
        found = {}
        for value, blob in self.blobs.items():
            name = blob.name if blob.name in made else self._renamed.get(blob.name, "")
            if name:
                found[value] = Blob(name, blob.shape)
        return found


_SIDES: dict[int, tuple[str, ...]] = {1: ("w",), 2: ("h", "w"), 3: ("c", "h", "w"), 4: ("c", "d", "h", "w")}


_OPTIONAL_STATES = ("RNN", "GRU", "LSTM")
"""Layers whose last outputs may be left out."""


def _used(layers: list[Layer], outputs: int) -> list[Layer]:
    """The layers that an output needs, and the Inputs. Final states that no layer reads are removed."""
    needed = {f"out{index}" for index in range(outputs)}
    kept: list[Layer] = []
    for layer in reversed(layers):
        if layer.type == "Input" or not needed.isdisjoint(layer.outputs):
            needed.update(layer.inputs)
            while layer.outputs[-1] not in needed and layer.type in _OPTIONAL_STATES:
                layer.outputs.pop()
            kept.append(layer)
    return kept[::-1]


def _cut_what_is_read(layers: list[Layer]) -> list[Layer]:
    """Replace a Slice by Crops if not all of its parts are read. An unread blob would be an output of the network."""
    read = {blob for layer in layers for blob in layer.inputs}
    made: list[Layer] = []
    for layer in layers:
        parts = [blob for blob in layer.outputs if blob in read]
        if layer.type != "Slice" or len(parts) == len(layer.outputs):
            made.append(layer)
            continue
        start = 0
        for blob, size in zip(layer.outputs, layer.p.slices, strict=True):
            if blob in parts:
                params: dict[str, Value] = {"starts": (start,), "ends": (start + size,), "axes": (layer.p.axis,)}
                name = layer.name if blob == parts[0] else f"{layer.name}/{blob}"
                made.append(Layer("Crop", name, list(layer.inputs), [blob], params))
            start += size
    return made


def _drop_single_splits(layers: list[Layer]) -> list[Layer]:
    """Remove the Split of an output if nothing else reads that blob. The layer before it then writes the output."""
    readers: dict[str, int] = {}
    for layer in layers:
        for blob in layer.inputs:
            readers[blob] = readers.get(blob, 0) + 1
    makers = {blob: layer for layer in layers for blob in layer.outputs}
    kept = []
    for layer in layers:
        if layer.type == "Split" and readers[layer.inputs[0]] == 1 and makers[layer.inputs[0]].type != "Input":
            maker = makers[layer.inputs[0]]
            maker.outputs = [layer.outputs[0] if blob == layer.inputs[0] else blob for blob in maker.outputs]
        else:
            kept.append(layer)
    return kept


def _split(layers: list[Layer], new_name: Callable[[str], str]) -> list[Layer]:
    """Give every reader of a blob a copy by a Split, because in ncnn a blob may have only one reader."""
    readers: dict[str, list[tuple[Layer, int]]] = {}
    for layer in layers:
        for index, blob in enumerate(layer.inputs):
            readers.setdefault(blob, []).append((layer, index))
    made: list[Layer] = []
    for layer in layers:
        made.append(layer)
        for blob in layer.outputs:
            if len(readers.get(blob, ())) > 1:
                copies = [new_name(f"{blob}_copy") for _ in readers[blob]]
                made.append(Layer("Split", new_name(f"{blob}/split"), [blob], copies))
                for (reader, index), copy in zip(readers[blob], copies, strict=True):
                    reader.inputs[index] = copy
    return made


class Node:
    """One ONNX node while it is lowered: its attributes, its inputs as blobs or constants, and its new layers."""

    def __init__(self, lowering: Lowering, node: ir.Node) -> None:
        self.lowering, self._node = lowering, node
        self.op, self.domain = node.op_type, node.domain
        self.name = node.name or node.op_type

    # ------------------------------------------------------------------------------------------------ reading

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value: int, float, str, or a tuple of them; an array for a tensor."""
        if name not in self._node.attributes:
            return default
        attribute = self._node.attributes[name]
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            return value.numpy()
        if attribute.type == ir.AttributeType.STRING and isinstance(value, bytes):
            return value.decode()
        return tuple(value) if isinstance(value, (list, tuple)) else value

    @property
    def attributes(self) -> set[str]:
        """The names of the attributes that are given."""
        return set(self._node.attributes)

    @property
    def inputs(self) -> int:
        """The number of inputs, without those left out at the end."""
        return len(self._node.inputs)

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self._node.inputs) and self._node.inputs[index] is not None

    def _input(self, index: int) -> str:
        if not self.has(index):
            raise Unsupported(f"has no input {index}")
        return str(self._node.inputs[index].name)  # type: ignore[union-attr]

    def knows_shape(self, index: int) -> bool:
        """Whether input ``index`` is given, and is a tensor."""
        return self.has(index) and self._input(index) in self.lowering.reading.shapes

    def shape(self, index: int) -> Shape:
        """The shape of an input, including the batch axis."""
        return self.lowering.reading.shapes[self._input(index)]

    def constant(self, index: int) -> Array | None:
        """The array of an input that does not depend on the network's inputs. None if it does, or is left out."""
        return self.lowering.reading.constants.get(self._input(index)) if self.has(index) else None

    def needed_constant(self, index: int, what: str) -> Array:
        """The array of an input that must be constant; ``what`` names it in the error if it is not."""
        value = self.constant(index)
        if value is None:
            raise Unsupported(f"computes its {what} at run time")
        return value

    def input_kind(self, index: int) -> str:
        """numpy's letter for the type of an input: f, i, u or b."""
        return self.lowering.reading.kinds[self._input(index)]

    def output_kind(self, index: int = 0) -> str:
        """numpy's letter for the type of an output: f, i, u or b."""
        return self.lowering.reading.kinds[str(self._node.outputs[index].name)]

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """Integers that are attribute ``name`` in older opsets and input ``index`` in newer ones."""
        if self.has(index):
            return tuple(int(v) for v in self.needed_constant(index, name).reshape(-1))
        value = self.attr(name)
        return None if value is None else tuple(value) if isinstance(value, tuple) else (int(value),)

    def blob(self, index: int, shape: Shape | None = None) -> Blob:
        """An input as a blob of this shape; by default in the shape that it has."""
        name = self._input(index)
        array = self.constant(index)
        if array is not None and not array.size:
            raise Unsupported(f"reads an empty constant, {list(array.shape)}")
        if array is not None:
            return self.lowering.hold(array, shape or natural(array.shape), name)
        try:
            blob = self.lowering.blobs[name]
        except KeyError:
            raise Unsupported(f"reads {name!r}, which is not a tensor of numbers") from None
        return blob if shape is None else self.lowering.view(blob, shape)

    def blob_of(self, name: str) -> Blob:
        """The blob of a value that is not constant, in the shape that it has."""
        return self.lowering.blobs[name]

    def value(self, index: int) -> str:
        """The name of an input's value, "" if it is left out."""
        return self._input(index) if self.has(index) else ""

    def maker(self, index: int) -> Node | None:
        """The node that computes an input; None for a constant and for an input of the network."""
        if not self.has(index) or self.value(index) in self.lowering.reading.constants:
            return None
        maker = self._node.inputs[index].producer()  # type: ignore[union-attr]
        return None if maker is None or maker.domain else Node(self.lowering, maker)

    @property
    def source(self) -> ir.Node:
        """The node of the model."""
        return self._node

    @property
    def alone(self) -> bool:
        """Whether exactly one node reads the output, and it is not an output of the network."""
        (value, *others) = self._node.outputs
        return not others and len(value.uses()) == 1 and not value.is_graph_output()

    def is_read_only_in(self, nodes: Container[ir.Node]) -> bool:
        """Whether only these nodes read the outputs. Nodes with constant results, such as Shape, do not count."""
        constants = self.lowering.reading.constants
        return not any(value.is_graph_output() for value in self._node.outputs) and all(
            use.node in nodes or all(made.name in constants for made in use.node.outputs)
            for value in self._node.outputs
            for use in value.uses()
        )

    @property
    def reads_and_makes_tensors(self) -> bool:
        """Whether all inputs and outputs are tensors."""
        shapes = self.lowering.reading.shapes
        values = (*self._node.inputs, *self._node.outputs)
        return all(value is None or not value.name or value.name in shapes for value in values)

    @property
    def is_final(self) -> bool:
        """Whether the results only become outputs of the network, perhaps in another shape or type."""
        found = list(self._node.outputs)
        for value in found:  # the list grows during the loop
            readers = [use.node for use in value.uses()]
            if any(reader.op_type not in _SAME_NUMBERS for reader in readers):
                return False
            found += [made for reader in readers for made in reader.outputs]
        return True

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return len(self._node.outputs)

    def output(self, index: int) -> str:
        """The name of an output's value."""
        return str(self._node.outputs[index].name)

    def is_read(self, index: int) -> bool:
        """Whether a node reads output ``index``, or it is an output of the network."""
        if index >= len(self._node.outputs) or not self._node.outputs[index].name:
            return False
        value = self._node.outputs[index]
        return bool(value.uses()) or value in self.lowering.reading.model.graph.outputs

    def out_shape(self, index: int = 0) -> Shape:
        """The shape of an output, including the batch axis."""
        return self.lowering.reading.shapes[str(self._node.outputs[index].name)]

    # ------------------------------------------------------------------------------------------------ writing

    def emit(
        self,
        kind: str,
        inputs: Sequence[Blob],
        shape: Shape,
        weights: dict[str, Array] | None = None,
        /,
        **params: Any,
    ) -> Blob:
        """Write a layer with one output of this shape."""
        return self.lowering.emit(kind, self.name, inputs, [shape], weights, **params)[0]

    def split(self, x: Blob, sizes: Sequence[int], axis: int) -> list[Blob]:
        """Cut a blob into parts of these sizes along an axis. If there is one size, return the blob itself."""
        if len(sizes) == 1:
            return [x]
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        return self.lowering.emit("Slice", self.name, [x], shapes, slices=tuple(sizes), axis=axis)

    def gives(self, *blobs: Blob | None) -> None:
        """Set the blobs of the node's outputs, in order; None for an output that no layer reads."""
        for value, blob in zip(self._node.outputs, blobs):
            if blob is None or not value.name or value.name not in self.lowering.reading.shapes:
                continue
            shape = self.lowering.reading.shapes[str(value.name)]
            if 0 in shape:
                raise Unsupported(f"makes an empty tensor, {list(shape)}")
            if math.prod(shape) != blob.size:
                raise AssertionError(f"{self.op} {self.name} makes {blob.shape} of {self.out_shape()}")
            self.lowering.blobs[str(value.name)] = blob


_SAME_NUMBERS = frozenset(("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"))


def each_of_batch(node: Node, write: Callable[[Blob], Blob]) -> Blob:
    """Apply ``write`` to each sample of the first input's batch, and join the results.

    Args:
        node: the first axis of its first input is the batch.
        write: writes the layers for one sample: a blob without the batch axis -> their result.

    Returns:
        The result, without a batch axis if the batch is 1.
    """
    batch, *rest = node.shape(0)
    if batch == 1:
        return write(node.blob(0, tuple(rest) or (1,)))
    if batch > LARGEST_BATCH:
        raise Unsupported(f"works on a batch of {batch}")
    lowering, size = node.lowering, math.prod(rest)
    parts = node.split(node.blob(0, (batch, size)), [1] * batch, 0)
    made = [write(lowering.view(part, tuple(rest) or (1,))) for part in parts]
    rows = [lowering.view(blob, (1, blob.size)) for blob in made]
    joined = node.emit("Concat", rows, (batch, made[0].size), axis=0)
    return lowering.view(joined, (batch, *made[0].shape)) if len(made[0].shape) < MOST_AXES else joined


LARGEST_BATCH = 64
"""A larger batch is not unrolled, because the network would have too many layers."""

Operand = Blob | Array
"""A computed value or a constant."""
Operator = Callable[[Node], None]
OPERATORS: dict[tuple[str, str], Operator] = {}
"""(domain, operator) -> the function that writes its layers. The modules of this package register them."""


def operator(*names: str, domain: str = "") -> Callable[[Operator], Operator]:
    """Register a function for these operators."""

    def register(function: Operator) -> Operator:
        for name in names:
            OPERATORS[domain, name] = function
        return function

    return register
