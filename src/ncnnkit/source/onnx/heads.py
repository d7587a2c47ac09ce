"""Makes the image inputs of a network what ncnnkit feeds: float32, channels first.

TensorFlow's exports take (height, width, channels) and begin with a Transpose. Some networks take uint8 and begin with
a Cast. The tensors of ncnnkit and of the shipped program are float32 of (channels, height, width), so both operators
are removed. Arithmetic between them stays in the network.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ...samples.items import InputSpec
from .weights import hold

_TO_FIRST = [0, 3, 1, 2]
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def fold_head(model: ir.Model, value: ir.Value, spec: InputSpec) -> InputSpec:
    """Remove the Transpose and the Cast after an input from the model.

    Args:
        model: it is changed.
        value: the input.
        spec: its name, shape and type.

    Returns:
        The new input; ``spec`` itself if neither operator follows it.
    """
    steps = _steps(value)
    turns = [node for node in steps if node.op_type == "Transpose"]
    pixels = value.dtype == ir.DataType.UINT8 and bool(steps) and _casts_to_float(steps[0])
    if (
        spec.original is not None
        or len(spec.shape) != 3
        or not (pixels or (turns and value.dtype == ir.DataType.FLOAT))
    ):
        return spec
    for node in steps if turns else steps[:1]:
        if node.op_type in _ARITHMETIC:
            _turn_constant(model, node, spec.shape[-1])
            node.outputs[0].shape = None
        else:
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])  # type: ignore[arg-type]
            model.graph.remove(node, safe=True)
    height, width, channels = spec.shape
    shape = (channels, height, width) if turns else spec.shape
    value.shape, value.dtype = ir.Shape((1, *shape)), ir.DataType.FLOAT
    return replace(spec, shape=shape, dtype="float32", channels_last=bool(turns))


def _steps(value: ir.Value) -> list[ir.Node]:
    """The nodes from an input to the Transpose that puts channels first; without a Transpose, only a leading Cast."""
    steps: list[ir.Node] = []
    while len(value.uses()) == 1 and not value.is_graph_output():
        node = next(iter(value.uses())).node
        if node.op_type == "Transpose" and list(node.attributes["perm"].value) == _TO_FIRST:
            return [] if node.outputs[0].is_graph_output() else [*steps, node]
        constants = [other for other in node.inputs if other is not value]
        if node.op_type in _ARITHMETIC and not all(map(_one_a_channel, constants)):
            break
        if node.op_type not in _ARITHMETIC and not _casts_to_float(node):
            break
        steps.append(node)
        value = node.outputs[0]
    return steps[:1] if steps and _casts_to_float(steps[0]) else []


def _casts_to_float(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].value == ir.DataType.FLOAT


def _one_a_channel(value: ir.Value | None) -> bool:
    """Whether a value is a constant scalar, or a constant with one number per channel along the last axis."""
    tensor = value.const_value if value is not None else None
    return tensor is not None and tensor.size in (1, tensor.shape[-1] if len(tensor.shape) else 1)


def _turn_constant(model: ir.Model, node: ir.Node, channels: int) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and value.const_value is not None and value.const_value.size == channels != 1:
            array = np.asarray(value.const_value.numpy()).reshape(channels, 1, 1)
            node.replace_input_with(index, hold(model.graph, array, f"{value.name}/channels-first/{node.name}"))
