"""The layers of a network, as run.json holds them."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.graph import Graph
from .run import Int8Layer, NetworkLayer


def network_record(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], int8: Mapping[str, Int8Layer]
) -> list[NetworkLayer]:
    """The layers of a network in fp32, in order.

    Args:
        graph: the network.
        shapes: blob -> its shape; those that are not known are absent.
        int8: layer -> how it computes in int8.
    """
    uses = graph.uses()
    return [
        NetworkLayer(
            name=layer.name,
            type=layer.type,
            reads=list(dict.fromkeys(uses.producer(blob).name for blob in layer.inputs)),
            outputs=list(layer.outputs),
            shape=shapes.get(layer.outputs[0]) if layer.outputs else None,
            parameters=Graph([layer]).parameters,
            int8=int8.get(layer.name),
        )
        for layer in graph.layers
        if not layer.op.copies and layer.type != "Noop"
    ]
