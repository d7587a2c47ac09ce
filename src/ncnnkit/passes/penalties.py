"""Limits the numbers that masked attention adds to the scores of masked positions."""

from __future__ import annotations

from ..model.graph import Graph, Layer, Uses
from .wires import is_float

_ADD, _MULTIPLY = 0, 2
FP16_MOST = 65504.0
PENALTY = 2.0**15
"""A number that fp16 and bf16 can hold. e^-number is zero in fp32."""

_CARRIERS = frozenset({"Reshape", "Permute", "ExpandDims", "Squeeze", "Flatten", "Crop", "Tile", "Concat"})
"""Types of layers that pass values on unchanged, in another order or shape."""

_MASK = 3
"""The input of SDPA that is added to the scores."""


def bound_penalties(graph: Graph) -> int:
    """Replace the penalty of a mask by a number that 16 bits can hold.

    Exported transformers multiply ``1 - mask`` by the lowest number of fp32. In fp16 and bf16 this is infinity, and
    infinity times zero is NaN, so all outputs are lost. Before a Softmax, -32768 has the same effect, because e^-32768
    is zero. The result differs only if all positions are masked.

    A factor that fp16 cannot hold is a penalty if the product is only used in sums with the scores of a Softmax or an
    SDPA.
    """
    rewrites = 0
    uses = Uses(graph)
    for layer in graph.layers:
        p = layer.p
        if (
            layer.type == "BinaryOp"
            and (p.op_type, p.with_scalar) == (_MULTIPLY, 1)
            and p.b < -FP16_MOST
            and is_float(layer)
            and _only_penalises(layer.outputs[0], uses)
        ):
            layer.params["b"] = -PENALTY
            rewrites += 1
    return rewrites


def _only_penalises(blob: str, uses: Uses) -> bool:
    """Whether a value is only added to the scores of attention."""
    readers = uses.readers(blob)
    return bool(readers) and not uses.is_output(blob) and all(_penalises(each, blob, uses) for each in readers)


def _penalises(layer: Layer, blob: str, uses: Uses) -> bool:
    if layer.type == "Softmax":
        return True
    if layer.type == "SDPA":
        places = [index for index, source in enumerate(layer.inputs) if uses.root(source) == uses.root(blob)]
        return bool(layer.p.attn_mask) and places == [_MASK]
    adds = layer.type == "BinaryOp" and layer.p.op_type == _ADD
    return (adds or layer.type in _CARRIERS) and _only_penalises(layer.outputs[0], uses)
