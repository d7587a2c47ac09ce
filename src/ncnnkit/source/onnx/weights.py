"""New constants of an ONNX graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def hold(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.Value:
    """A new constant of a graph.

    Args:
        graph: gets it as an initializer.
        array: its values.
        name: of the value. ``_`` is added to a name that another constant of the graph has.
    """
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
