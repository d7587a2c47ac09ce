"""How much a network computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .graph import Graph, Layer
from .shapes import Shape


def multiply_adds(graph: Graph, input_shapes: Sequence[tuple[int, ...]]) -> int:
    """The multiply-adds of one inference, as far as shapes follow from the inputs' shapes.

    A layer with weights uses each of them once for every place of its output (a deconvolution: of its input). A product
    of two blobs uses a row of one for every value of its output. Any other layer counts as one multiply-add for each
    value that it writes. ncnn's fast convolutions (Winograd) do fewer.

    Args:
        input_shapes: one for each input, without the batch axis.

    Raises:
        ModelError: a layer cannot take what it is given.

    Example:
        >>> multiply_adds(load("resnet50.param"), [(3, 224, 224)])  # doctest: +SKIP
        4133742760
    """
    shapes = graph.infer_shapes(input_shapes)
    return sum(_of_layer(layer, shapes) for layer in graph.layers if layer.type != "Input" and not layer.op.copies)


def _of_layer(layer: Layer, shapes: dict[str, Shape | None]) -> int:
    made = sum(_size(shapes[blob]) for blob in layer.outputs)
    weights = max((math.prod(weight.shape) for weight in layer.weights.values()), default=0)
    if "MatMul" in layer.type or layer.type in ("Gemm", "SDPA", "MultiHeadAttention"):
        read = shapes[layer.inputs[0]] if layer.inputs else None
        return made * max(_sides(read)[-1:], default=1)
    if not weights or not layer.inputs or len(layer.outputs) == 0:
        return made
    written = shapes[layer.inputs[0] if layer.type.startswith("Deconvolution") else layer.outputs[0]]
    # Channels come first in the output of a convolution, and last in that of a matrix product or a recurrent layer.
    sides = _sides(written)
    places = sides[1:] if len(sides) > 2 else sides[:-1]
    return max(made, math.prod(places) * weights)


def _sides(shape: Shape | None) -> list[int]:
    return [side for side in shape or () if isinstance(side, int)]


def _size(shape: Shape | None) -> int:
    return math.prod(_sides(shape)) if shape else 0
