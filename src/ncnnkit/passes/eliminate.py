"""Removes layers that change nothing."""

from __future__ import annotations

from collections.abc import Callable

from ..model.graph import Graph, Layer
from ..model.shapes import Shape
from .shapes import infer
from .wires import Wires

_Shape = Shape | None


def _is_neutral(layer: Layer, _: _Shape) -> bool:
    p = layer.p
    neutral = {0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0, 6: 1.0}  # add, subtract, multiply, divide, power
    return bool(p.with_scalar and neutral.get(p.op_type) == p.b)


def _is_single_pixel(layer: Layer, shape: _Shape) -> bool:
    p = layer.p
    window = (p.kernel_w, p.kernel_h, p.stride_w, p.stride_h) == (1, 1, 1, 1)
    pads = p.pad_left or p.pad_right or p.pad_top or p.pad_bottom
    keeps_shape = shape is not None and len(shape) == 3  # with fewer axes the output gets three
    return bool(window and keeps_shape and not pads and not p.global_pooling and not p.adaptive_pooling)


IDENTITIES: dict[str, Callable[[Layer, _Shape], bool]] = {
    "BinaryOp": _is_neutral,
    "Concat": lambda layer, _: True,
    "Dropout": lambda layer, _: layer.p.scale == 1,
    "Noop": lambda layer, _: True,
    "Permute": lambda layer, _: layer.p.order_type == 0,
    "Pooling": _is_single_pixel,
    "Split": lambda layer, _: True,
}
"""Layer type -> function that returns whether a layer with as many outputs as inputs passes them on unchanged. It gets
the layer and the shape of the first input."""


def eliminate_identity(graph: Graph) -> int:
    """Remove Dropout, Noop, Split or Concat of one blob, Pooling of single pixels, adding 0, and multiplying by 1."""
    return _eliminate(graph, lambda layer, shape: layer.type in IDENTITIES and IDENTITIES[layer.type](layer, shape))


def eliminate_flatten(graph: Graph) -> int:
    """Remove a Flatten, or a Reshape to one axis, of a vector."""

    def flattens(layer: Layer) -> bool:
        p = layer.p
        if layer.type != "Reshape":
            return layer.type == "Flatten"
        axes = [side for side in (p.w, p.h, p.d, p.c) if side != -233]
        return len(axes) == 1 and not p.shape_expr and (p.input_batch_axis, p.output_batch_axis) == (233, 233)

    return _eliminate(graph, lambda layer, shape: flattens(layer) and shape is not None and len(shape) == 1)


def _eliminate(graph: Graph, is_identity: Callable[[Layer, _Shape], bool]) -> int:
    rewrites = 0
    shapes = infer(graph)
    with Wires(graph) as wires:
        for layer in wires:
            if layer.inputs and len(layer.inputs) == len(layer.outputs) and is_identity(layer, shapes[layer.inputs[0]]):
                # Its output has the shape of its input, so the inferred shapes stay valid.
                rewrites += wires.skip(layer)
            elif layer.type == "Noop" and not layer.inputs and not any(b in wires.reader for b in layer.outputs):
                wires.drop(layer)
                rewrites += 1
    return rewrites


def eliminate_reshape_before_binaryop(graph: Graph) -> int:
    """Remove the Reshape of a vector to 1x1 pixels if BinaryOp broadcasts the vector along the channels anyway."""
    rewrites = 0
    shapes = infer(graph)
    with Wires(graph) as wires:
        for layer in wires:
            if layer.type != "Reshape" or len(layer.inputs) != 1:
                continue
            vector, pixels = shapes[layer.inputs[0]], shapes[layer.outputs[0]]
            reader = wires.follower(layer)
            if reader is None or reader.type != "BinaryOp" or len(reader.inputs) != 2:
                continue
            if vector is None or len(vector) != 1 or pixels is None or pixels[1:] != (1, 1):
                continue
            other = shapes[reader.inputs[1 - reader.inputs.index(layer.outputs[0])]]
            if other is None or len(other) < 3 or other[0] not in (vector[0], pixels[0]):
                continue
            rewrites += wires.skip(layer)
            # A second Reshape before the same BinaryOp must not see the first one's shape.
            shapes[layer.outputs[0]] = vector
    return rewrites
