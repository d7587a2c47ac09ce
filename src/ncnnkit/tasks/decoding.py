"""The decoder of each kind: the outputs for one sample -> its prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from . import argmax, ctc, heads, points
from .decoder import Array, Decoder, Kind
from .predictions import Prediction

DECODERS: dict[Kind, Callable[[Decoder, Sequence[Array]], Prediction]] = {
    "boxes": heads.decode,
    "argmax": argmax.decode,
    "ctc": ctc.decode,
    "points": points.decode,
}
"""Kind -> the function that decodes one sample: it gets all outputs of the network."""

NOUNS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "boxes": ("box", "boxes"),
        "argmax": ("place", "places"),
        "ctc": ("character", "characters"),
        "points": ("point", "points"),
    }
)
"""Kind -> the noun for the parts of a prediction, singular and plural."""


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Prediction:
    """The prediction of one sample.

    Args:
        decoder: how to decode.
        outputs: all outputs of the network for this sample, in its order, without the batch axis.

    Raises:
        ModelError: an output does not have the shape that the decoder reads.

    Example:
        >>> import numpy as np
        >>> from ncnnkit.tasks import Decoder, Table
        >>> scores = np.array([[[0.1, 0.9]], [[0.8, 0.2]]])  # two classes, one row, two columns
        >>> decode(Decoder("argmax", (Table(0),), 2), [scores]).classes
        array([[1, 0]])
    """
    return DECODERS[decoder.kind](decoder, outputs)
