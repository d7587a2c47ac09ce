"""The computation of a layer, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .shapes import Shape


def multiply_adds(kind: str, reads: Sequence[Shape | None], writes: Sequence[Shape | None], weights: int) -> int:
    """The multiply-adds of a layer, as far as its shapes are known.

    A layer with weights uses each weight once for every position of its output (a deconvolution: of its input). A
    product of two blobs uses a row of one blob for every value of its output. All other layers count as one
    multiply-add for each value of their outputs.

    Args:
        kind: the layer's type, as ncnn names it.
        reads, writes: the shapes of its inputs and outputs, without the batch axis.
        weights: the number of values of its largest weight; 0 if it has none.
    """
    made = sum(math.prod(_sides(shape)) for shape in writes if shape)
    if "MatMul" in kind or kind in ("Gemm", "SDPA", "MultiHeadAttention"):
        return made * max(_sides(reads[0] if reads else None)[-1:], default=1)
    if not weights or not reads or not writes:
        return made
    # Channels are the first axis of a convolution's output, and the last of a matrix product's or a recurrent layer's.
    sides = _sides(reads[0] if kind.startswith("Deconvolution") else writes[0])
    places = sides[1:] if len(sides) > 2 else sides[:-1]
    return max(made, math.prod(places) * weights)


def _sides(shape: Shape | None) -> list[int]:
    return [side for side in shape or () if isinstance(side, int)]
