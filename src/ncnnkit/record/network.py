"""The records of the layers of a network in run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..model.graph import Graph
from ..model.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How values are distributed, in bins of one width.

    Attributes:
        low: lower end of the first bin.
        high: upper end of the last bin.
        counts: number of values in each bin.
    """

    low: float
    high: float
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Int8Layer:
    """How a layer computes in int8 on the first device.

    Attributes:
        low: the smallest input value that int8 can hold, in the unit of the input in fp32.
        high: the largest one. Values beyond ``low`` and ``high`` are clipped.
        zero_point: the input value of code 0. ncnn has no zero points; ncnnkit includes them in the biases.
        inputs: histogram of the absolute values of the input over the calibration images, without zeros; null if it is
            not known.
        weights: histogram of the weights in fp32.
        steps: the smallest and the largest step of the weights over the output channels: the difference of the weights
            of two neighbouring codes.
    """

    low: float
    high: float
    zero_point: float
    inputs: Histogram | None
    weights: Histogram
    steps: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class NetworkLayer:
    """A layer of the optimised network. Layers that only copy (``Split``) are left out.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: the layer's type, as ncnn names it.
        reads: names of the layers that compute its inputs.
        outputs: names of its output blobs.
        shape: the shape of its first output, without the batch axis; null if it is not known.
        parameters: number of its weight values.
        int8: how it computes in int8; null if it does not.
    """

    name: str
    type: str
    reads: list[str]
    outputs: list[str]
    shape: tuple[int, ...] | None
    parameters: int
    int8: Int8Layer | None


def network_record(
    graph: Graph, inputs: Sequence[tuple[int, ...]], int8: Mapping[str, Int8Layer]
) -> list[NetworkLayer]:
    """The layers of a network in fp32, in order.

    Args:
        graph: the network.
        inputs: the shapes of its inputs, without the batch axis.
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
    """The shape if all its sides are numbers, else None."""
    sides = tuple(side for side in shape or () if isinstance(side, int))
    return sides if shape and len(sides) == len(shape) else None
