"""The storage of weights."""

from __future__ import annotations

import numpy as np

from ..model.graph import EncodedWeight, Graph
from .wires import is_float


def store_fp16(graph: Graph) -> int:
    """Store weights as fp16, as ``ncnnoptimize … 65536`` and ncnn2int8 do.

    This concerns all blocks for which the file can record a storage. Biases and other plain blocks stay fp32. So do the
    weights of int8 layers, and blocks with a value that fp16 cannot hold (ncnnoptimize would make it infinite).

    Returns:
        The number of blocks changed.
    """
    changed = 0
    for layer in graph.layers:
        if not layer.weights or not is_float(layer):
            continue
        for slot, _ in layer.slots():
            weight = layer.weights[slot.name]
            if not slot.tagged or isinstance(weight, EncodedWeight) or weight.dtype != np.float32:
                continue
            try:
                with np.errstate(over="raise"):
                    layer.weights[slot.name] = weight.astype(np.float16)
            except FloatingPointError:
                continue
            changed += 1
    return changed
