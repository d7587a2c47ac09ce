"""An ncnn network in memory: layers, blobs, weights.

A :class:`Graph` does not depend on files, images or devices. In a valid graph, every blob has one producer and at most
one consumer (a Split makes copies for more), and layers are in an order in which they can run; :meth:`Graph.verify`
checks this. Weights may be read-only views into a mapped file, so rewrites replace arrays and never write into them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, ModelError
from . import shapes
from .counting import multiply_adds
from .ops import MANY, OPS, Op, Params, Slot, Value
from .scales import LayerScales

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """Weights in an encoding that ncnnkit reads and keeps, but never produces: a table of 256 entries, or the legacy
    tag.

    Attributes:
        tag: the block's first four bytes, as a little-endian integer.
        payload: uint8 array, the bytes after the tag, including padding.
        shape: the shape of the decoded array.
    """

    tag: int
    payload: NDArray[np.uint8]
    shape: tuple[int, ...]

    RAW_FP32 = 0x0002C056

    @classmethod
    def length(cls, tag: int, values: int) -> int:
        """The number of bytes of the payload for this number of values."""
        return values * 4 if tag == cls.RAW_FP32 else 1024 + (values + 3) // 4 * 4

    def decode(self) -> NDArray[np.float32]:
        """The weights as a float32 array of ``shape``."""
        size = math.prod(self.shape)
        if self.tag == self.RAW_FP32:
            return self.payload.view(np.float32)[:size].reshape(self.shape)
        table, index = self.payload[:1024].view(np.float32), self.payload[1024 : 1024 + size]
        return table[index].reshape(self.shape)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, EncodedWeight)
            and (self.tag, self.shape) == (other.tag, other.shape)
            and np.array_equal(self.payload, other.payload)
        )


Weight = Array | EncodedWeight
"""A weight. The dtype of an array is its storage: float32, float16, int8, or uint8 for packed bytes without a tag."""

_MOST_VALUES = 1 << 48  # of one weight; with more, the file is corrupt, and numpy cannot count them


@dataclass(eq=False)
class Layer:
    """One layer of a network.

    Attributes:
        type: ncnn's name of the type, such as ``Convolution``.
        name: the name of the layer, unique in the network.
        inputs, outputs: the names of its blobs.
        params: name -> value of the parameters in the file; :meth:`get` adds the defaults.
        weights: name -> weight array: float32, float16, int8, or as the file encodes it.

    Example:
        >>> layer = nk.load("model.param").layers[1]
        >>> layer.type, layer.get("kernel_w"), layer.array("weight").shape
        ('Convolution', 3, (8, 3, 3, 3))
    """

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[str, Value] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)

    @property
    def op(self) -> Op:
        """The row of the layer's type in :mod:`ncnnkit.model.ops`. Raises FormatError if ncnn has no such type."""
        try:
            return OPS[self.type]
        except KeyError:
            raise FormatError(f"unknown layer type {self.type!r}", where=f"layer {self.name}") from None

    @property
    def p(self) -> Any:
        """The parameters as attributes, with defaults: ``layer.p.stride_w``."""
        return Params(self.op, self.params)

    def get(self, name: str) -> Any:
        """The value of a parameter, or its default."""
        return getattr(self.p, name)

    def array(self, name: str) -> NDArray[np.float32]:
        """A weight as float32, converted from its storage, in the shape that its type defines."""
        weight = self.weights[name]
        data = weight.decode() if isinstance(weight, EncodedWeight) else weight
        return data if data.dtype == np.float32 else data.astype(np.float32)

    def slots(self) -> Iterator[tuple[Slot, tuple[int, ...]]]:
        """The weight blocks that this layer must have, in file order, with their shapes."""
        p = self.p
        for slot in self.op.weights:
            if slot.when(p):
                yield slot, slot.shape(p)

    def check(self, where: str = "") -> None:
        """Check that the type exists, and that the parameters have valid types and sizes. Raises FormatError."""
        where = where or f"layer {self.type} {self.name}"
        for name, value in self.params.items():
            fault = self.op.fault(name, value)
            if fault:
                raise FormatError(fault, where=where)
        shapes = {slot.name: shape for slot, shape in self.slots()}
        for name, shape in shapes.items():
            # The second condition is needed because numpy also limits the sides of an empty array.
            if any(side < 0 for side in shape) or math.prod(side or 1 for side in shape) > _MOST_VALUES:
                raise FormatError(f"weight {name!r} cannot have the shape {shape}", where=where)
        if "weight" in shapes and "weight_data_size" in self.op.by_name:
            said, size = self.get("weight_data_size"), math.prod(shapes["weight"])
            if said != size:
                raise FormatError(f"has weight_data_size={said}, but its other params require {size}", where=where)

    def check_usable(self, where: str) -> None:
        """Check what the format of files leaves open: the numbers of inputs and outputs, and the items of arrays.

        ncnn checks none of these, and reads beyond a list that is too short. Raises FormatError.
        """
        for blobs, (least, most), noun in (
            (self.inputs, self.op.reads, "inputs"), (self.outputs, self.op.makes, "outputs"),
        ):  # fmt: skip
            if not least <= len(blobs) <= most:
                allowed = f"{least} or more" if most == MANY else f"{least} to {most}" if most > least else f"{least}"
                raise FormatError(f"has {len(blobs)} {noun}, but needs {allowed}", where=where)
        for name, value in self.params.items():
            items = value if isinstance(value, tuple) and name != "shape_hints" else ()
            real = self.op.ignores(name) or self.op.param(name).real
            if not real and not all(isinstance(item, Integral) for item in items):
                raise FormatError(f"needs an array of whole numbers for {name}, not {value!r}", where=where)

    def multiply_adds(self, known: Mapping[str, shapes.Shape | None]) -> int:
        """The multiply-adds of one inference; see :func:`ncnnkit.model.counting.multiply_adds`.

        Args:
            known: blob -> its shape, as :meth:`Graph.infer_shapes` gives it.
        """
        if self.type == "Input" or self.op.copies:
            return 0
        reads, writes = ([known[blob] for blob in blobs] for blobs in (self.inputs, self.outputs))
        return multiply_adds(self.type, reads, writes, max((math.prod(s) for _, s in self.slots()), default=0))

    def copy(self) -> Layer:
        """A copy of the layer. It shares the weight arrays, which are never written into."""
        return replace(
            self,
            inputs=list(self.inputs),
            outputs=list(self.outputs),
            params=dict(self.params),
            weights=dict(self.weights),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        head = (self.type, self.name, self.inputs, self.outputs, self.params)
        return head == (other.type, other.name, other.inputs, other.outputs, other.params) and self.has_weights_of(
            other
        )

    def has_weights_of(self, other: Layer) -> bool:
        """Whether the weights of two layers are equal: their types, shapes and values."""
        return self.weights.keys() == other.weights.keys() and all(
            _same(weight, other.weights[name]) for name, weight in self.weights.items()
        )

    def __repr__(self) -> str:
        return f"Layer({self.type} {self.name}: {', '.join(self.inputs)} -> {', '.join(self.outputs)})"


def _same(a: Weight, b: Weight) -> bool:
    if a is b:
        return True
    if isinstance(a, EncodedWeight) or isinstance(b, EncodedWeight):
        return isinstance(a, EncodedWeight) and a == b
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@dataclass(eq=True, repr=False)
class Graph:
    """An ncnn network: its layers, in the order in which they run. ``print`` shows a summary.

    Attributes:
        layers: the layers in the order of execution.
        scales: layer name -> how the original quantised that layer; empty for a floating-point original.

    Example:
        >>> print(nk.load("model.param"))
        Graph of 3 layers
          inputs: in0 3x224x224
          outputs: out0 10
               2 Convolution
               1 Pooling
          parameters: 314
          multiply-adds: 928,266
    """

    layers: list[Layer] = field(default_factory=list)
    scales: dict[str, LayerScales] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """The names of the input blobs, in file order."""
        return [blob for layer in self.layers if layer.type == "Input" for blob in layer.outputs]

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer reads, in file order.

        A Noop without readers only marks outputs; it does not count as a reader.
        """
        read = {blob for layer in self.layers for blob in layer.inputs}
        layers = [layer for layer in self.layers if layer.type != "Noop" or not read.isdisjoint(layer.outputs)]
        used = {blob for layer in layers for blob in layer.inputs}
        return [blob for layer in layers for blob in layer.outputs if blob not in used]

    @property
    def blob_count(self) -> int:
        return sum(len(layer.outputs) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """The number of weight values."""
        return sum(math.prod(shape) for layer in self.layers for _, shape in layer.slots())

    @property
    def varies(self) -> bool:
        """Whether the shape of some blob depends on the input values, as with detections."""
        return any(layer.op.varies for layer in self.layers)

    def uses(self) -> Uses:
        """The producer and the readers of each value in the present graph."""
        return Uses(self)

    def layer(self, name: str) -> Layer:
        """The layer called ``name``. Raises KeyError."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each network input without the batch axis; () if the file does not give it.

        Old files write -233 for a missing axis.
        """
        return [
            tuple(int(s) for s in (layer.p.c, layer.p.d, layer.p.h, layer.p.w) if s > 0)
            for layer in self.layers
            if layer.type == "Input"
        ]

    def infer_shapes(
        self, input_shapes: Sequence[tuple[int, ...] | None] | None = None
    ) -> dict[str, shapes.Shape | None]:
        """The shape of every blob, as far as it follows from the layers' params and the inputs' shapes.

        Args:
            input_shapes: the shape of each input, without the batch axis; None if unknown. By default, the shapes in
                the file.

        Returns:
            Blob -> its shape; None if not even the number of axes is certain. An unknown side is a tuple that names its
            origin: equal tuples are equal sides.

        Raises:
            ModelError: an input of a layer does not fit.
        """
        known: dict[str, shapes.Shape | None] = {}
        if input_shapes is not None:
            known.update(zip(self.inputs, input_shapes, strict=True))
        for layer in self.layers:
            if layer.type == "Input" and input_shapes is not None:
                continue
            inputs = [known[blob] for blob in layer.inputs]
            try:
                made = layer.op.shape(layer.p, inputs, len(layer.outputs))
                for shape in made:
                    shapes.check_size(shape)
            except shapes.Misfit as fault:
                raise ModelError(f"layer {layer.type} {layer.name} {fault}") from None
            for index, (blob, shape) in enumerate(zip(layer.outputs, made, strict=True)):
                known[blob] = (
                    None
                    if shape is None
                    else tuple((layer.name, index, axis) if side is None else side for axis, side in enumerate(shape))
                )
        return known

    def check_input_shapes(self, given: Sequence[tuple[int, ...]]) -> None:
        """Check that the network can take inputs of these shapes, without the batch axis.

        ncnn does not check this: it reads beyond a blob that is too small. The shapes in a file are a hint that ncnn
        does not read. Other shapes are accepted if all shapes in the network follow from them.

        Raises:
            ModelError: an input of a layer would not fit, or the file has other shapes and it is unknown whether these
                    fit.
        """
        if len(given) != len(self.inputs):
            raise ModelError(f"the network has {len(self.inputs)} inputs, but {len(given)} were given")
        try:
            known = self.infer_shapes(given)
        except ModelError as error:
            raise ModelError(error.what, hint=self._channels_last(given)) from None
        certain = all(shape is not None and all(isinstance(s, int) for s in shape) for shape in known.values())
        for name, shape, said in zip(self.inputs, given, self.input_shapes(), strict=True):
            if said and shape != said and not certain:
                raise ModelError(
                    f"input {name!r} has shape {shapes.written(shape)}, the file says {shapes.written(said)}",
                    hint=self._channels_last(given),
                )

    def _channels_last(self, given: Sequence[tuple[int, ...]]) -> str:
        turned = [(shape[2], *shape[:2]) if len(shape) == 3 else shape for shape in given]
        try:
            fits = turned != list(given) and self.infer_shapes(turned) is not None
        except ModelError:
            fits = False
        wanted = " and ".join(map(shapes.written, turned))
        return f"is that height x width x channels? ncnn takes the channels first: {wanted}" if fits else ""

    def set_input_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Write the shapes of the inputs, without the batch axis, into their layers. () removes a shape.

        Raises:
            FormatError: the number of shapes is wrong, or a shape has more than four axes.
        """
        axes = ("", "w", "hw", "chw", "cdhw")
        layers = [layer for layer in self.layers if layer.type == "Input"]
        if len(layers) != len(shapes):
            raise FormatError(f"{len(shapes)} input shapes are given, but the network has {len(layers)} inputs")
        for layer, shape in zip(layers, shapes):
            if len(shape) >= len(axes):
                raise FormatError(f"ncnn has no blobs of {len(shape)} axes", where=f"layer Input {layer.name}")
            for axis in "whdc":
                layer.params.pop(axis, None)
            layer.params.update(zip(axes[len(shape)], map(int, shape)))

    def multiply_adds(self) -> int | None:
        """The multiply-adds of one inference; None if the shapes are unknown, or do not fit a layer."""
        try:
            known = self.infer_shapes()
            certain = all(shape is not None and all(isinstance(s, int) for s in shape) for shape in known.values())
            return sum(layer.multiply_adds(known) for layer in self.layers) if certain else None
        except (FormatError, ModelError):
            return None

    def __repr__(self) -> str:
        """A summary: inputs, outputs, layers by type, weights, multiply-adds."""
        types = Counter(layer.type for layer in self.layers if layer.type != "Input")
        work = self.multiply_adds()
        known = self.infer_shapes() if work is not None else {}

        def said(blob: str) -> str:
            shape = known.get(blob)
            return f"{blob} {shapes.written(shape)}" if shape else blob

        lines = [
            f"Graph of {sum(types.values())} layers",
            f"inputs: {', '.join(map(said, self.inputs))}",
            f"outputs: {', '.join(map(said, self.outputs))}",
            *(f"{count:6} {kind}" for kind, count in types.most_common()),
            *([] if types.keys() - OPS.keys() else [f"parameters: {self.parameters:,}"]),
            *([] if work is None else [f"multiply-adds: {work:,}"]),
        ]
        return "\n  ".join(lines)

    def copy(self) -> Graph:
        """A copy of the graph and its layers. The weight arrays are shared."""
        return Graph([layer.copy() for layer in self.layers], dict(self.scales))

    def verify(self) -> None:
        """Check that the graph can run and be written.

        Raises:
            FormatError: the type of a layer is unknown, a parameter is unknown or contradictory, a name is used twice,
                a blob is read before it is produced, is produced twice or read twice, or a weight is missing or has the
                wrong size. The error names the layer.
        """
        checker = Checker()
        for layer in self.layers:
            checker.add(layer, f"layer {layer.type} {layer.name}")


class Uses:
    """The def-use information of a graph: the producer and the readers of each value, through Splits.

    A Split only copies, so all its outputs have the value of its input. The *root* of a blob is the blob in which its
    value was first produced. The object describes the graph at the time of its creation; after a rewrite, make a new
    one.

    Attributes:
        roots: the blobs that are not copies, in the order of execution.
    """

    def __init__(self, graph: Graph) -> None:
        self._root: dict[str, str] = {}
        self._producer: dict[str, Layer] = {}
        self._readers: dict[str, list[Layer]] = {}
        read = {blob for layer in graph.layers for blob in layer.inputs}
        for layer in graph.layers:
            sources = [self._root[blob] for blob in layer.inputs]
            if layer.op.copies:
                self._root.update(dict.fromkeys(layer.outputs, sources[0]))
                continue
            for blob in layer.outputs:
                self._root[blob], self._producer[blob], self._readers[blob] = blob, layer, []
            if layer.type != "Noop" or not read.isdisjoint(layer.outputs):  # an unread Noop only marks outputs
                for source in sources:
                    self._readers[source].append(layer)
        self._leaving = {self._root[blob] for blob in graph.outputs}
        self.roots = tuple(self._producer)

    def root(self, blob: str) -> str:
        """The root of ``blob``: the blob itself, or the blob that a chain of Splits copies to it."""
        return self._root[blob]

    def producer(self, blob: str) -> Layer:
        """The layer that computes the value of a blob; never a Split."""
        return self._producer[self._root[blob]]

    def readers(self, blob: str) -> list[Layer]:
        """The layers that compute with the value of a blob or of its copies, in the order of execution; never a Split.

        A layer that reads the value twice occurs twice.
        """
        return list(self._readers[self._root[blob]])

    def is_output(self, blob: str) -> bool:
        """Whether the value of a blob, or a copy of it, is an output of the network."""
        return self._root[blob] in self._leaving


class Names:
    """Names for layers and blobs that a rewrite adds to a graph.

    Each name is unique and short, because ncnn reads at most 255 bytes of a name.

    Args:
        graphs: the graphs that already have names. New names differ from all of them.
    """

    _STEM = 60  # how many bytes of the stem are kept: its end, in which long names differ most

    def __init__(self, *graphs: Graph) -> None:
        self._taken = {
            name for graph in graphs for layer in graph.layers for name in (layer.name, *layer.inputs, *layer.outputs)
        }

    def new(self, stem: str, role: str) -> str:
        """A free name, such as ``conv1/int8`` for the stem ``conv1`` and the role ``int8``."""
        base = f"{stem.encode()[-self._STEM :].decode('utf-8', 'ignore')}/{role}"
        name = next(n for n in chain([base], (f"{base}{i}" for i in count(2))) if n not in self._taken)
        self._taken.add(name)
        return name


class Checker:
    """Checks the layers of a graph in order, and refuses the first layer that is not valid where it stands."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._made: set[str] = set()
        self._read: set[str] = set()

    def add(self, layer: Layer, where: str) -> None:
        """Check the next layer. Raises FormatError at ``where``."""
        if layer.name in self._names:
            raise FormatError("two layers have this name", where=where)
        self._names.add(layer.name)
        for blob in layer.inputs:
            if blob not in self._made:
                raise FormatError(f"reads blob {blob!r} before a layer produces it", where=where)
            if blob in self._read:
                raise FormatError(
                    f"reads blob {blob!r}, which another layer also reads; a Split is missing", where=where
                )
            self._read.add(blob)
        for blob in layer.outputs:
            if blob in self._made:
                raise FormatError(f"produces blob {blob!r}, which another layer also produces", where=where)
            self._made.add(blob)
        layer.check(where)
        if layer.weights:  # a .param alone has the structure without weights
            _check_weights(layer, where)


def _check_weights(layer: Layer, where: str) -> None:
    expected = {slot.name: shape for slot, shape in layer.slots()}
    for name, shape in expected.items():
        if name not in layer.weights:
            raise FormatError(f"lacks its weight {name!r}", where=where)
        if math.prod(layer.weights[name].shape) != math.prod(shape):
            raise FormatError(
                f"weight {name!r} has shape {tuple(layer.weights[name].shape)}, but the params require {shape}",
                where=where,
            )
    extra = layer.weights.keys() - expected.keys()
    if extra:
        raise FormatError(f"has weight {min(extra)!r}, which its params do not require", where=where)
