"""Adds constants to an ONNX graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def hold(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.Value:
    """Add an initializer to a graph.

    Args:
        graph: it is changed.
        array: the values of the initializer.
        name: of the initializer. If the name is taken, ``_`` is appended.

    Returns:
        The new value.
    """
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
