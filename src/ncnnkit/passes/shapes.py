"""What passes that are only right for some shapes know of the blobs' shapes."""

from __future__ import annotations

from ..errors import ModelError
from ..model.graph import Graph
from ..model.shapes import Shape


def infer(graph: Graph) -> dict[str, Shape | None]:
    """Shape of every blob; None where not even the number of axes is certain.

    The input shapes a file gives are a hint that ncnn never reads. Where they contradict the layers, they are ignored.
    """
    try:
        return graph.infer_shapes()
    except ModelError:
        pass
    try:
        return graph.infer_shapes([None] * len(graph.inputs))
    except ModelError:  # it cannot run, whatever it is given
        return dict.fromkeys((blob for layer in graph.layers for blob in layer.outputs), None)
