"""ONNX -> ncnn, without pnnx: reading, patterns, and one function an operator.

=============  ==========================================================================
module         what is in it
=============  ==========================================================================
reading        the file as a model of fixed shapes in float32, with all constants known
lowering       views, layers, Splits: what the operators' functions are written with
elementwise    activations, arithmetic with broadcasting, comparisons
windows        convolution, pooling, padding, resizing
axes           what moves, cuts and joins axes
matrix         products of matrices
reduce         sums and the like, softmax, normalisation
=============  ==========================================================================

A new operator is one function with ``@operator("Name")`` in the module it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import ConvertError
from ...model.graph import Graph
from ...samples.items import InputSpec
from . import axes, elementwise, matrix, reduce, windows
from .lowering import OPERATORS, Blob, Lowering, Node, Unsupported
from .reading import read

__all__ = ["OPERATORS", "axes", "elementwise", "lower", "matrix", "reduce", "windows"]


def lower(path: Path, inputs: Sequence[InputSpec]) -> Graph:
    """An ONNX file as ncnn's graph, fp32, not yet optimised.

    Args:
        path: the model.
        inputs: in the model's order, with their shapes without the batch axis.

    Returns:
        Its inputs are called in0, in1 and so on, its outputs out0, out1, in the model's order.

    Raises:
        ConvertError: the file cannot be read, or ncnn has no layer for one of its operators.
    """
    reading = read(path, inputs)
    lowering = Lowering(reading)
    graph = reading.model.graph
    fed = [value for value in graph.inputs if value.name not in graph.initializers]
    for index, (value, spec) in enumerate(zip(fed, inputs, strict=True)):
        sides = dict(zip(("w", "hw", "chw", "cdhw")[len(spec.shape) - 1], spec.shape))
        (blob,) = lowering.emit("Input", f"in{index}", [], [spec.shape], **sides)
        lowering.layers[-1].outputs = [f"in{index}"]
        lowering.blobs[str(value.name)] = Blob(f"in{index}", blob.shape)
    for node in graph:
        if all(value.name in reading.constants for value in node.outputs):
            continue
        at = Node(lowering, node)
        function = OPERATORS.get((node.domain, node.op_type))
        try:
            if function is None:
                raise Unsupported("is not in ncnnkit's table of operators")
            function(at)
        except Unsupported as fault:
            raise ConvertError(f"{node.op_type} {at.name!r} {fault}", where=str(path)) from None
    return lowering.graph([str(value.name) for value in graph.outputs])
