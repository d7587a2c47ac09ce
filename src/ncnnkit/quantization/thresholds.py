"""Chooses thresholds by the error in the outputs of the layers that read the clipped blob.

The threshold with the least error of the tensor itself (:func:`ncnnkit.quantization.scales.mse_threshold`) gives every
channel and value the same weight; the layers that read it do not. Source: after Nagel et al., "A White Paper on Neural
Network Quantization", 2021, section 3.1, which also uses the error of the layer's output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..model.graph import Graph, Layer
from ..progress import Progress, silent
from ..samples.stream import Samples
from .activations import activation
from .int8 import rounded_weights
from .scales import STEPS, group_count
from .stepper import EXACT, ROUNDED, Rows, Stepper, until_last
from .table import Table

FACTORS = (0.7, 0.8, 0.9, 1.0, 1.12, 1.25, 1.4)
"""The factors of a threshold that are tried."""


def by_output_error(
    exact: Graph,
    whole: Graph,
    table: Table,
    samples: Samples,
    *,
    rows: int = 1024,
    threads: int | None = None,
    progress: Progress = silent,
) -> Table:
    """The table with new input scales, each with the least error in the outputs of the layers that read the blob.

    Layers that read the same blob, through a Split, keep a common scale: the one with the least sum of their relative
    errors.

    Args:
        exact: the fp32 network.
        whole: the same network with the weights of int8.
        table: the scales to start with.
        samples: calibration samples; as many are used as :class:`ncnnkit.quantization.stepper.Stepper` can keep.
        rows: the number of positions at which each layer is judged.

    Raises:
        RuntimeFailure: ncnn crashed.
    """
    uses, errors = exact.uses(), dict[str, NDArray[np.float64]]()
    weights = rounded_weights(whole, table)
    layers = until_last(exact.layers, lambda layer: layer.name in table.inputs)
    with Stepper(exact, samples, threads) as stepper:
        for index, layer in enumerate(layers):
            progress(index, len(layers))
            if layer.type == "Input" or layer.op.copies:
                continue
            if layer.name not in table.inputs:
                stepper.step(layer)
                continue
            stepper.step(layer, [EXACT], last=False)
            found = stepper.gather(layer, rows, seed=index)
            stepper.step(layer, [ROUNDED])
            own = [_error(weights.layer(layer.name), found, table.inputs[layer.name] / f) for f in FACTORS]
            root = uses.root(layer.inputs[0])
            errors[root] = errors.get(root, np.zeros(len(FACTORS))) + own
    progress(1, 1)
    best = {root: FACTORS[int(np.argmin(tried))] for root, tried in errors.items()}
    return Table(
        table.weights, _divided(table.inputs, {n: best[uses.root(exact.layer(n).inputs[0])] for n in table.inputs})
    )


def _divided(scales: Mapping[str, float], factors: Mapping[str, float]) -> dict[str, float]:
    return {name: scale / factors[name] for name, scale in scales.items()}


def _error(layer: Layer, found: Rows, scale: float) -> float:
    """The mean squared error of a layer's output divided by its mean square, if its input has this scale."""
    count = group_count(layer)
    read = np.clip(np.rint(found.inputs * np.float32(scale)), -STEPS, STEPS) / np.float32(scale)
    weight = layer.array("weight").reshape(count, layer.get("num_output") // count, -1)
    parts = read.reshape(len(read), count, -1).transpose(1, 0, 2)
    sums = np.matmul(parts, weight.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(len(read), -1)
    made = activation(layer).f(sums + (layer.array("bias") if layer.get("bias_term") else np.float32(0)))
    signal = float(np.mean(np.square(found.outputs, dtype=np.float64))) or 1.0
    return float(np.mean(np.square(made - found.outputs, dtype=np.float64))) / signal
