"""Constants in MemoryData layers, and arithmetic with one number."""

from __future__ import annotations

import math
import re

from ..model.graph import Graph, Layer
from .shapes import infer
from .wires import Wires, become, may_merge

# op_type -> the op_type of the same operation with exchanged operands (ncnn's binaryop.h)
_EXCHANGED = {
    0: 0, 1: 7, 2: 2, 3: 8, 4: 4, 5: 5, 6: 9, 7: 1, 8: 3, 9: 6, 10: 11, 11: 10, 12: 13, 13: 12, 14: 14, 15: 16, 16: 15,
    17: 18, 18: 17,
}  # fmt: skip

_ADD, _MULTIPLY = 0, 2


def fold_scalar(graph: Graph) -> int:
    """Move a constant of one number into the BinaryOp that reads it."""
    rewrites = 0
    shapes = infer(graph)
    with Wires(graph) as wires:
        for layer in wires:
            if layer.type != "BinaryOp" or len(layer.inputs) != 2:
                continue
            for index in (1, 0):
                constant, other = wires.constant(layer.inputs[index]), shapes[layer.inputs[1 - index]]
                if constant is None:
                    continue
                data = constant.array("data")
                # A scalar never changes the shape, but a constant with more axes than the other operand adds axes.
                keeps_shape = data.ndim == 1 or (other is not None and len(other) >= data.ndim)
                if data.size != 1 or not keeps_shape or not math.isfinite(data.flat[0]):
                    continue
                op = layer.p.op_type if index == 1 else _EXCHANGED.get(layer.p.op_type)
                if op is None:
                    continue
                wires.unread(layer.inputs.pop(index))
                layer.params |= {"op_type": op, "with_scalar": 1, "b": float(data.flat[0])}
                rewrites += 1
                break
    return rewrites


def fuse_scaled_add(graph: Graph) -> int:
    """Turn ``x * s + y * t`` of equal shapes into one Eltwise with coefficients."""
    rewrites = 0
    shapes = infer(graph)
    with Wires(graph) as wires:
        for layer in wires:
            if layer.type != "BinaryOp" or len(layer.inputs) != 2 or layer.p.op_type != _ADD:
                continue
            one, other = (shapes[blob] for blob in layer.inputs)
            if one is None or one != other:
                continue  # Eltwise does not broadcast
            factors = [_factor(wires.maker[blob], layer) for blob in layer.inputs]
            if not any(factors):
                continue
            coeffs = []
            for i, factor in enumerate(factors):
                coeffs.append(float(factor.p.b) if factor else 1.0)
                if factor:
                    layer.inputs[i] = factor.inputs[0]
                    wires.reader[factor.inputs[0]] = layer
                    wires.drop(factor)
            become(layer, "Eltwise", {"op_type": 1, "coeffs": tuple(coeffs)})
            rewrites += 1
    return rewrites


def _factor(maker: Layer, reader: Layer) -> Layer | None:
    """The layer that made a blob, if it only multiplies by one number."""
    p = maker.p
    if maker.type == "BinaryOp" and p.with_scalar and p.op_type == _MULTIPLY and may_merge(reader, maker):
        return maker
    return None


def drop_unread_constants(graph: Graph) -> int:
    """Drop constants that no layer reads.

    A constant with a name that pnnx gives to outputs (out0, out1, …) is an intended output of the network, and stays.
    """
    with Wires(graph) as wires:
        unread = [
            layer
            for layer in wires
            if layer.type == "MemoryData"
            and layer.outputs[0] not in wires.reader
            and not re.fullmatch(r"out\d+", layer.outputs[0])
        ]
        for layer in unread:
            wires.drop(layer)
    return len(unread)
