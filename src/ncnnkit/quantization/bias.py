"""Bias correction: removes the mean error of rounding, at no cost at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batches import Workers
from ..model.graph import Graph, Layer, Names
from ..progress import Progress, silent
from ..samples.given import as_samples
from ..samples.stream import spread
from .calibration import over_samples
from .int8 import alone

SAMPLES = 64  # more samples change the mean of a channel less than rounding does


def correct_bias(
    graph: Graph,
    quantized: Graph,
    samples: Any,
    *,
    workers: Workers | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Graph:
    """Correct the biases of int8 layers so that every output channel has the same mean as in fp32.

    Rounding weights and clipping activations shifts the mean of a channel, and all later layers inherit the shift. Each
    int8 layer is compared with its original on the same fp32 input, after the activation function. So the corrections
    of the layers do not depend on each other, and one pass over the samples gives all of them.

    Source: after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019. That
    paper corrects before the activation, which is wrong for clipped units.

    Args:
        graph: the fp32 network that was quantised.
        quantized: the result of :func:`quantize`; not changed.
        samples: calibration samples in any form that :func:`ncnnkit.samples.given.as_samples` takes; at most 64 are
            read.
        workers: run the batches; by default processes on this machine.
        threads: the number of these processes, each with one thread; by default one per core.
        progress: called with (samples done, samples in all).

    Returns:
        The quantised network with new biases. Layers without a bias get one.

    Raises:
        ImageError: there are no samples, or they do not fit the network's inputs.
        VerificationError: a layer's output is NaN or infinite.
        RuntimeFailure: ncnn crashed.

    Example:
        >>> graph = nk.load("model.param")
        >>> samples = np.random.default_rng(0).normal(size=(20, 3, 224, 224)).astype(np.float32)
        >>> int8 = nk.quantize(graph, nk.calibrate(graph, samples))
        >>> before, after = (net.layers[1].array("bias") for net in (int8, nk.correct_bias(graph, int8, samples)))
        >>> bool((before != after).any())
        True
    """
    corrected = quantized.copy()
    layers = [layer for layer in corrected.layers if layer.params.get("int8_scale_term")]
    few = spread(as_samples(samples, graph), SAMPLES)
    both, twins = _side_by_side(graph, layers)
    pairs = {name: (graph.layer(name).outputs[0], twin.outputs[0]) for name, twin in twins.items()}
    blobs = [blob for pair in pairs.values() for blob in pair]
    rows: dict[str, list[NDArray[np.float64]]] = {blob: [] for blob in blobs}
    for answer, found in over_samples(
        both, few, "means", workers=workers, threads=threads, progress=progress, blobs=blobs
    ):
        for blob, each in zip(answer.blobs, found):
            rows[blob].append(each)
    means = {blob: np.concatenate(each).mean(axis=0) for blob, each in rows.items()}
    for layer in layers:
        exact, rounded = pairs[layer.name]
        _add_to_bias(layer, means[exact] - means[rounded] / _output_scale(twins[layer.name]))
    corrected.verify()
    return corrected


def _side_by_side(graph: Graph, quantized: Sequence[Layer]) -> tuple[Graph, dict[str, Layer]]:
    """(the fp32 network, in which each original layer and its int8 version read the same input; name of the original ->
    its int8 layer)."""
    # With float outputs if possible. If the means include the rounding for the next layer, the correction is worse
    # (a quarter more error on EfficientNet-Lite0).
    twins = {layer.name: alone(layer) for layer in quantized}
    both, names = Graph(), Names(graph)
    for original in graph.layers:
        layer = original.copy()
        if layer.name not in twins:
            both.layers.append(layer)
            continue
        twin, source, stem = twins[layer.name], layer.inputs, layer.name
        twin.name, twin.outputs = names.new(stem, "int8"), [names.new(stem, "int8-out")]
        layer.inputs, twin.inputs = [names.new(stem, "in")], [names.new(stem, "int8-in")]
        split = Layer("Split", names.new(stem, "split"), source, [*layer.inputs, *twin.inputs])
        both.layers += [split, layer, twin]
    both.verify()
    return both, twins


def _output_scale(layer: Layer) -> float:
    """The divisor of a layer's output. A requantised layer outputs int8 steps of the next layer."""
    return float(layer.array("output_scale")[0]) if "output_scale" in layer.weights else 1.0


def _add_to_bias(layer: Layer, shift: NDArray[np.float64]) -> None:
    bias = layer.array("bias") if layer.get("bias_term") else np.zeros(len(shift), np.float32)
    layer.params["bias_term"] = 1
    layer.weights["bias"] = (bias + shift).astype(np.float32)
