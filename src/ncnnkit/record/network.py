"""The layers of a network, as run.json holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model.graph import Graph
from ..model.shapes import Shape
from .run import Int8Layer, NetworkLayer


def network_record(
    graph: Graph, inputs: Sequence[tuple[int, ...]], int8: Mapping[str, Int8Layer]
) -> list[NetworkLayer]:
    """The layers of a network in fp32, in order.

    Args:
        graph: the network.
        inputs: the shapes of its inputs, without a batch axis.
        int8: layer -> how it computes in int8.
    """
    shapes = graph.infer_shapes(inputs)
    uses = graph.uses()
    return [
        NetworkLayer(
            name=layer.name,
            type=layer.type,
            reads=list(dict.fromkeys(uses.producer(blob).name for blob in layer.inputs)),
            outputs=list(layer.outputs),
            shape=_known(shapes[layer.outputs[0]]) if layer.outputs else None,
            parameters=Graph([layer]).parameters,
            int8=int8.get(layer.name),
        )
        for layer in graph.layers
        if not layer.op.copies and layer.type != "Noop"
    ]


def _known(shape: Shape | None) -> tuple[int, ...] | None:
    """A shape all of whose sides are numbers."""
    sides = tuple(side for side in shape or () if isinstance(side, int))
    return sides if shape and len(sides) == len(shape) else None
