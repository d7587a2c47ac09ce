"""The shapes of blobs, for passes that are only correct for some shapes."""

from __future__ import annotations

from ..errors import ModelError
from ..model.graph import Graph
from ..model.shapes import Shape


def infer(graph: Graph) -> dict[str, Shape | None]:
    """The shape of every blob; None if not even the number of axes is certain.

    The input shapes in a file are a hint that ncnn never reads. If they contradict the layers, they are ignored.
    """
    try:
        return graph.infer_shapes()
    except ModelError:
        pass
    try:
        return graph.infer_shapes([None] * len(graph.inputs))
    except ModelError:  # the network cannot run with any input
        return dict.fromkeys((blob for layer in graph.layers for blob in layer.outputs), None)
