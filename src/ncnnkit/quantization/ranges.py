"""How int8 represents each layer: the range of its inputs, and the distributions of inputs and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..model.graph import Graph
from ..model.precision import is_int8
from ..record.network import Histogram, Int8Layer
from .calibration import ActivationStats, BlobStats
from .scales import STEPS

BINS = 32
"""The number of bins of a histogram for the report. The histograms of the calibration have thousands."""


def int8_layers(
    exact: Graph, int8: Graph, stats: ActivationStats | None = None, offsets: Mapping[str, float] | None = None
) -> dict[str, Int8Layer]:
    """How each int8 layer computes, by its name.

    Args:
        exact: the network in fp32.
        int8: the network in int8, with layers of the same names.
        stats: statistics of the inputs, before zero points moved them; None if unknown.
        offsets: blob -> the constant that zero points subtracted from it.
    """
    uses = exact.uses()
    originals = {layer.name: layer for layer in exact.layers}
    found: dict[str, Int8Layer] = {}
    for layer in int8.layers:
        original = originals.get(layer.name)
        if original is None or not is_int8(layer) or not {"input_scale", "weight_scales"} <= layer.weights.keys():
            continue
        root = uses.root(original.inputs[0])
        middle = (offsets or {}).get(root, 0.0)
        scale = float(layer.array("input_scale")[0])
        reach = STEPS / scale if scale > 0 else 0.0
        scales = layer.array("weight_scales")
        steps = 1 / scales[scales > 0]
        seen = stats.blobs.get(root) if stats else None
        found[layer.name] = Int8Layer(
            low=middle - reach,
            high=middle + reach,
            zero_point=middle,
            inputs=_coarse(seen) if seen else None,
            weights=_of_values(original.array("weight")),
            steps=(float(steps.min(initial=math.inf)), float(steps.max(initial=0.0))) if len(steps) else (0.0, 0.0),
        )
    return found


def _coarse(seen: BlobStats) -> Histogram | None:
    """Statistics with at most :data:`BINS` bins; None if nothing was counted."""
    used = math.ceil(seen.absmax / seen.width) if seen.width else 0
    used = min(max(used, 1), len(seen.histogram))
    if not used or not seen.histogram.any():
        return None
    together = math.ceil(used / BINS)
    counts = np.add.reduceat(seen.histogram[:used], np.arange(0, used, together))
    return Histogram(low=0.0, high=len(counts) * together * seen.width, counts=counts.tolist())


def _of_values(values: NDArray[np.float32]) -> Histogram:
    counts, edges = np.histogram(values, BINS)
    return Histogram(low=float(edges[0]), high=float(edges[-1]), counts=counts.tolist())
