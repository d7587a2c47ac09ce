"""Text from the scores of the characters at each step: connectionist temporal classification (CTC).

Best-path decoding: the best class of each step, without repeats, then without the blank. Source: Graves et al.,
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
        decoder: ``classes``, ``axis``, ``scores``, ``alphabet`` and ``blank`` count.
        outputs: all outputs of the network; the one that it reads has the classes along ``axis``, and one further axis
            that is longer than 1, the steps. A step with NaN is blank.

    Raises:
        ModelError: the output has another number of classes.
    """
    output = np.asarray(outputs[decoder.tables[0].output])
    if output.shape[decoder.axis] != decoder.classes:
        raise ModelError(
            f"the text has {output.shape[decoder.axis]} classes, and its decoder {decoder.classes}",
            hint="give it its alphabet",
        )
    return best_path(decoder, output)


def best_path(decoder: Decoder, output: Array) -> Text:
    """The text of the output that has the classes along ``decoder.axis``, however many there are."""
    values = np.moveaxis(output, decoder.axis, -1)
    scores = activated(decoder.scores, values.reshape(-1, values.shape[-1]))
    best = np.where(np.isnan(scores).any(1), decoder.blank, scores.argmax(1))
    chosen = best != decoder.blank
    chosen[1:] &= best[1:] != best[:-1]
    sure = scores[chosen].max(1)
    codes = best[chosen].astype(np.int64)
    text = "".join(decoder.alphabet[code] if code < len(decoder.alphabet) else "\ufffd" for code in codes.tolist())
    return Text(codes, text, float(sure.mean()) if len(sure) else 0.0)
