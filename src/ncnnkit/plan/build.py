"""Builds the mixed model as a graph: each layer in the form chosen for it, with masks, and Casts between layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..device.session import Session
from ..model.graph import Graph, Layer, Names
from ..model.ops import Mask
from ..model.precision import FLOATS, INT8, MASKS, WINOGRAD
from ..model.work import UNBOUNDED, Budget
from ..passes import store_fp16
from ..quantization.int8 import alone, finished, requantize
from ..quantization.rounding import nearest
from ..quantization.scales import STEPS, WINOGRAD_STEPS, runs_winograd, winograd_may_overflow
from ..quantization.stepper import padding
from ..samples.stream import Samples
from .costs import Costs, to_float

MEAN_SAMPLES = 16  # enough for one mean per channel


@dataclass(frozen=True, eq=False)
class Forms:
    """The forms that each layer of a network can have.

    Attributes:
        exact: the fp32 network.
        fitted: the same network, layer for layer, with int8 layers that are not finished
            (:class:`ncnnkit.quantization.Quantized`).
        winograd: layer -> its int8 form for Winograd kernels, which cannot overflow; absent if there is none.
    """

    exact: Graph
    fitted: Graph
    winograd: Mapping[str, Layer]

    def pairs(self) -> zip[tuple[Layer, Layer]]:
        """Pairs of each layer in fp32 and the same layer in ``fitted``."""
        return zip(self.exact.layers, self.fitted.layers, strict=True)

    def layer(self, original: Layer, int8: Layer, choice: str) -> Layer:
        """A layer in the form chosen for it; a copy."""
        if choice == WINOGRAD:
            layer = alone(self.winograd.get(original.name, int8))
        else:
            layer = alone(int8) if choice in INT8 else original.copy()
        if choice in MASKS:
            mask = int(layer.get("featmask")) & ~int(Mask.NO_WINOGRAD) if choice in INT8 else int(layer.get("featmask"))
            layer.params["featmask"] = mask | MASKS[choice]
        return layer


def make_forms(exact: Graph, fitted: Graph, samples: Samples, budget: Budget = UNBOUNDED) -> Forms:
    """The forms of a network's layers.

    Args:
        exact: the fp32 network.
        fitted: the same with int8 layers.
        samples: the samples for the mean inputs of layers with 6-bit weights. These means correct the biases. Only the
            first few samples are read.
        budget: limits how many samples are read.

    Raises:
        RuntimeFailure: ncnn crashed.
    """
    pairs = {
        original.name: (original, alone(int8))
        for original, int8 in zip(exact.layers, fitted.layers, strict=True)
        if int8.params.get("int8_scale_term") and runs_winograd(original)
    }
    # Layers for which 8 bits are safe are skipped. These are most layers, so few means are needed.
    coarse = [name for name, (_, int8) in pairs.items() if winograd_may_overflow(np.asarray(int8.weights["weight"]))]
    made = {name: int8 for name, (_, int8) in pairs.items() if name not in coarse}
    means: dict[str, NDArray[np.float64]] = {}
    if coarse:
        few = budget.take("samples for the biases of int8 Winograd", min(len(samples), MEAN_SAMPLES))
        means = mean_windows(exact, coarse, samples.subset(range(few)))
    for name in coarse:
        six_bits = with_six_bits(*pairs[name], means[name])
        if not winograd_may_overflow(np.asarray(six_bits.weights["weight"])):
            made[name] = six_bits
    return Forms(exact, fitted, made)


def with_six_bits(original: Layer, int8: Layer, mean: NDArray[np.float64]) -> Layer:
    """An int8 convolution with 6-bit weights, rounded from the original's.

    The bias of ``int8`` was fitted to the 8-bit weights: it compensates the change of the mean of each output channel
    by their rounding. 6-bit weights change the mean differently, most of all if zero points moved the mean of the input
    far from zero. So the bias is corrected by the difference.

    Args:
        original: the layer in fp32.
        int8: the layer with 8-bit weights.
        mean: float64 (channels, kernel_h, kernel_w), the mean of the layer's input (:func:`mean_windows`).
    """
    made = int8.copy()
    fine = int8.array("weight_scales").astype(np.float64)
    rows = len(fine)
    coarse = (int8.array("weight_scales") * np.float32(WINOGRAD_STEPS / STEPS)).astype(np.float32)
    steps = nearest(original.array("weight").reshape(rows, -1) * coarse[:, None], WINOGRAD_STEPS)
    before = int8.array("weight").reshape(rows, -1).astype(np.float64) / fine[:, None]
    lost = (before - steps / coarse[:, None].astype(np.float64)) @ mean.reshape(-1)
    bias = int8.array("bias") if int8.get("bias_term") else np.zeros(rows, np.float32)
    made.weights["weight"] = steps.reshape(int8.weights["weight"].shape).astype(np.int8)
    made.weights["weight_scales"] = coarse
    made.weights["bias"] = (bias + lost).astype(np.float32)
    made.params["bias_term"] = 1
    return made


def mean_windows(graph: Graph, names: list[str], samples: Samples) -> dict[str, NDArray[np.float64]]:
    """The mean input window of 3×3 convolutions of stride 1, over all output positions and with the padding.

    Args:
        graph: an fp32 network.
        names: the names of these convolutions.
        samples: the samples to run the network on.

    Returns:
        Layer -> float64 (channels, 3, 3).

    Raises:
        RuntimeFailure: ncnn crashed.
    """
    layers = [graph.layer(name) for name in names]
    sums: dict[str, NDArray[np.float64]] = {}
    with Session(graph, precision="fp32", keep_blobs=True) as session:
        for sample in samples:
            blobs = session.blobs(*sample, names=[layer.inputs[0] for layer in layers])
            for layer, blob in zip(layers, blobs):
                sums[layer.name] = sums.get(layer.name, 0.0) + _mean_window(layer, blob)
    return {name: total / len(samples) for name, total in sums.items()}


def _mean_window(layer: Layer, blob: NDArray[np.float32]) -> NDArray[np.float64]:
    vertical = padding(layer.get("pad_top"), layer.get("pad_bottom"), blob.shape[1], 3, 1)
    horizontal = padding(layer.get("pad_left"), layer.get("pad_right"), blob.shape[2], 3, 1)
    padded = np.pad(blob, ((0, 0), vertical, horizontal), constant_values=layer.get("pad_value"))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    mean: NDArray[np.float64] = windows.mean(axis=(1, 2), dtype=np.float64)
    return mean


def mixed_graph(forms: Forms, choices: Mapping[str, str], costs: Costs) -> Graph:
    """One network in which each layer has its choice.

    It has int8 layers, feature masks for all layers, and a Cast where a layer cannot read the output of the layer
    before it (:mod:`ncnnkit.plan.costs`). If a device also has fp16, bf16 outputs get a Cast, because ncnn's extractor
    reads 16-bit outputs as fp16 there (``Extractor::extract`` in its ``net.cpp``).
    """
    exact = forms.exact
    made, uses, names = Graph(), exact.uses(), Names(exact)
    kinds = {
        blob: costs.makes.get((layer.name, choices.get(layer.name, "")), "float")
        for layer in exact.layers if not layer.op.copies for blob in layer.outputs
    }  # fmt: skip
    outputs, ambiguous = set(exact.outputs), "fp16" in costs.makes.values()
    for original, int8 in forms.pairs():
        choice = choices.get(original.name, "")
        layer = forms.layer(original, int8, choice)
        if layer.op.copies:  # without a mask, ncnn would cast the copies
            kind = kinds[uses.root(layer.inputs[0])]
            layer.params["featmask"] = MASKS["fp32" if kind == "float" else kind]
        for index, blob in enumerate(layer.inputs if choice else []):
            kind = kinds[uses.root(blob)]
            if kind not in ("float", costs.reads.get((layer.name, choice), "float")):  # ncnn only converts from float
                cast = to_float(names.new(layer.name, "cast"), kind, blob, names.new(layer.name, "float"))
                layer.inputs[index] = cast.outputs[0]
                made.layers.append(cast)
        made.layers.append(layer)
        for index, blob in enumerate(layer.outputs):
            if ambiguous and blob in outputs and kinds.get(uses.root(blob)) == "bf16":
                layer.outputs[index] = names.new(layer.name, "bf16")
                made.layers.append(to_float(names.new(layer.name, "cast"), "bf16", layer.outputs[index], blob))
    requantize(made)
    made = finished(made, fp16=False)
    store_fp16(Graph([layer for layer in made.layers if choices.get(layer.name) in FLOATS[1:]]))
    made.verify()
    return made
