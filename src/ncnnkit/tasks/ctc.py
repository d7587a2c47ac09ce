"""Text from the scores of the characters at each step: connectionist temporal classification (CTC).

This is best-path decoding: the best class of each step, without repeats, then without blanks. Source: Graves et al.,
"Connectionist Temporal Classification", section 3.2; ``CTCLabelDecode`` of PaddleOCR.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ModelError
from .boxes import activated
from .decoder import Array, Decoder
from .predictions import Text


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Text:
    """Decode one sample.

    Args:
        decoder: uses ``classes``, ``axis``, ``scores``, ``alphabet`` and ``blank``.
        outputs: all outputs of the network. The output that it reads has the classes along ``axis``, and the steps
            along the only other axis longer than 1. A step with NaN is blank.

    Raises:
        ModelError: the output has another number of classes.
    """
    output = np.asarray(outputs[decoder.tables[0].output])
    if output.shape[decoder.axis] != decoder.classes:
        raise ModelError(
            f"the output has {output.shape[decoder.axis]} classes, but its decoder has {decoder.classes}",
            hint="give the alphabet of this network",
        )
    return best_path(decoder, output)


def best_path(decoder: Decoder, output: Array) -> Text:
    """The text of an output with any number of classes along ``decoder.axis``."""
    values = np.moveaxis(output, decoder.axis, -1)
    scores = activated(decoder.scores, values.reshape(-1, values.shape[-1]))
    best = np.where(np.isnan(scores).any(1), decoder.blank, scores.argmax(1))
    chosen = best != decoder.blank
    chosen[1:] &= best[1:] != best[:-1]
    sure = scores[chosen].max(1)
    codes = best[chosen].astype(np.int64)
    text = "".join(decoder.alphabet[code] if code < len(decoder.alphabet) else "\ufffd" for code in codes.tolist())
    return Text(codes, text, float(sure.mean()) if len(sure) else 0.0)
