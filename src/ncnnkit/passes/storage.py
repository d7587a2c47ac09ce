"""How weights are stored."""

from __future__ import annotations

import numpy as np

from ..model.graph import EncodedWeight, Graph
from .wires import is_float


def store_fp16(graph: Graph) -> int:
    """Store weights as fp16, as ``ncnnoptimize … 65536`` and ncnn2int8 do.

    That is every block a file can tag with its storage; biases and other plain blocks stay fp32, as do the weights of
    int8 layers and blocks with a value fp16 cannot hold, which ncnnoptimize would turn into infinity.

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
