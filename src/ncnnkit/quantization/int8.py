"""Makes int8 layers from scales, as ncnn2int8 does.

    ActivationStats ── make_table ──▶ Table (scales) ── apply_table ──▶ Graph with int8 layers

A table may also come from a file, for example one of ncnn2table. It is handled in the same way.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..errors import FormatError, ModelError, RecipeError
from ..model.graph import Graph, Layer
from ..model.ops import Mask
from ..model.targets import TARGETS, Target
from ..passes import store_fp16
from .calibration import RANGES_DO, ActivationStats, quantizable
from .scales import (
    STEPS,
    THRESHOLDS,
    WINOGRAD_STEPS,
    activation_scale,
    is_grouped,
    runs_winograd,
    to_int8,
    weight_rows,
    weight_scales,
)
from .table import Table
from .zeropoint import bounds

METHODS = tuple(THRESHOLDS)
SATURATED = 1e-3  # steps; a bound this close to int8's own bound counts as equal
NATIVE_METHODS = frozenset({"kl", "aciq"})  # ncnn2table's methods, reproduced with its weight scales


def check_request(graph: Graph, target: str, skip: Collection[str]) -> None:
    """Check that a network can be quantised as requested.

    Raises:
        RecipeError: the target is unknown, or the network does not have a layer to skip.
        ModelError: the network has int8 layers already.
    """
    if target not in TARGETS:
        raise RecipeError(f"unknown target {target!r}", hint=", ".join(TARGETS))
    if any(layer.params.get("int8_scale_term") for layer in graph.layers):
        raise ModelError("the network has int8 layers already", hint="give the fp32 model it was made from")
    unknown = set(skip) - {layer.name for layer in graph.layers}
    if unknown:
        raise RecipeError(f"no layer is called {min(unknown)!r}")


def make_table(graph: Graph, stats: ActivationStats, *, method: str | None = None, unclipped: float = 0.0) -> Table:
    """Choose the scales of every layer that ncnn can run in int8.

    Layers that read the same blob, through a Split, get the same scale, because a producer can only requantise to one.

    Weights have 8 bits. This includes 3x3 layers, and :func:`apply_table` disables Winograd for these if the target has
    it. The native methods ``kl`` and ``aciq`` give 3x3 layers 6 bits, as ncnn2table does.

    Args:
        unclipped: how far the thresholds of activations are moved from those of the method (0) to the largest values
            (1), on a logarithmic scale.
    """
    method = method or stats.method
    if method not in METHODS:
        raise RecipeError(f"unknown method {method!r}", hint=", ".join(METHODS))
    if method == "kl" and stats.method != "kl":
        raise RecipeError("these statistics have no bins for KL", hint='calibrate with method="kl"')
    if method == "mse" and stats.method in RANGES_DO:
        raise RecipeError("these statistics have no histograms", hint='calibrate with method="mse"')
    uses = graph.uses()
    layers = quantizable(graph)
    readers = {uses.root(layer.inputs[0]): layer.name for layer in layers}
    for root, name in readers.items():
        if root not in stats.blobs:
            hint = "calibrate this same graph"
            raise ModelError(f"layer {name} reads blob {root!r}, which was not calibrated", hint=hint)
    blob_scales = {root: activation_scale(stats.blobs[root], method, stats.images, unclipped) for root in readers}
    weights = {}
    for layer in layers:
        steps = WINOGRAD_STEPS if method in NATIVE_METHODS and runs_winograd(layer) else STEPS
        weights[f"{layer.name}_param_0"] = weight_scales(layer, steps=steps, method=method)
    return Table(weights, {layer.name: blob_scales[uses.root(layer.inputs[0])] for layer in layers})


def apply_table(graph: Graph, table: Table, *, target: str = "arm", finish: bool = True) -> Graph:
    """Quantise the layers that a table names.

    Args:
        graph: the fp32 network; not changed.
        finish: whether to call :func:`finished`. Otherwise the int8 layers can still be fitted.

    Raises:
        FormatError: the table names a layer that the graph does not have, or the number of a layer's weight scales is
            wrong.
    """
    kernels = TARGETS[target]
    made = graph.copy()
    layers = {layer.name: layer for layer in quantizable(made)}
    strangers = table.inputs.keys() - layers.keys()
    if strangers:
        raise FormatError(
            f"the table names layer {min(strangers)!r}, which the network does not have, or ncnn cannot run in int8",
            where=table.path,
        )
    for name, scale in table.inputs.items():
        _quantize_layer(layers[name], table, scale, kernels)
    requantize(made)
    wrong = {name for name, layer in layers.items() if not kernels.grouped_to_float and _is_grouped_to_float(layer)}
    if wrong:  # start again without them: the layers before them may then not output int8
        return apply_table(graph, table.without(wrong), target=target, finish=finish)
    if finish:
        return finished(made)
    made.verify()
    return made


def finished(graph: Graph, *, fp16: bool = True) -> Graph:
    """An int8 network ready to ship: saturation replaces some activations, and the other weights are in fp16."""
    made = graph.copy()
    for layer in made.layers:
        cut = bounds(layer) if "output_scale" in layer.weights else None
        if cut is not None:
            low, high = (side * float(layer.array("output_scale")[0]) for side in cut)
            if low <= SATURATED - STEPS and high >= STEPS - SATURATED:
                del layer.params["activation_type"]
                layer.params.pop("activation_params", None)
    if fp16:
        store_fp16(made)
    made.scales = {}  # its layers have them
    made.verify()
    return made


def rounded_weights(graph: Graph, table: Table) -> Graph:
    """The fp32 network with weights rounded as in int8."""
    made = graph.copy()
    for layer in quantizable(made):
        scales = table.weights.get(f"{layer.name}_param_0")
        if scales is not None:
            steps = to_int8(weight_rows(layer), scales)
            layer.weights["weight"] = (
                (steps / scales[:, None]).astype(np.float32).reshape(layer.weights["weight"].shape)
            )
    return made


def _is_grouped_to_float(layer: Layer) -> bool:
    """Whether this is a grouped int8 convolution with a floating-point output."""
    return bool(layer.params.get("int8_scale_term")) and "output_scale" not in layer.weights and is_grouped(layer)


def _quantize_layer(layer: Layer, table: Table, input_scale: float, target: Target) -> None:
    where = ": ".join(filter(None, [table.path, f"layer {layer.type} {layer.name}"]))
    scales = table.weights.get(f"{layer.name}_param_0")
    if scales is None:
        raise FormatError(f"the table has no {layer.name}_param_0", where=where)
    rows = weight_rows(layer)
    if len(scales) != len(rows):
        raise FormatError(f"the table has {len(scales)} weight scales, but the layer needs {len(rows)}", where=where)
    assert layer.op.int8 is not None
    quantized = to_int8(rows, scales)
    layer.params["int8_scale_term"] = layer.op.int8(layer.p)
    layer.weights["weight"] = quantized.reshape(layer.weights["weight"].shape)
    layer.weights["weight_scales"] = np.asarray(scales, np.float32)
    layer.weights["input_scale"] = np.array([input_scale], np.float32)
    if layer.params.get("pad_value"):  # ncnn pads after quantising
        layer.params["pad_value"] = float(np.clip(np.rint(layer.get("pad_value") * input_scale), -STEPS, STEPS))
    if target.int8_winograd and runs_winograd(layer) and int(np.abs(quantized).max()) > WINOGRAD_STEPS:
        layer.params["featmask"] = layer.get("featmask") | Mask.NO_WINOGRAD


def requantize(graph: Graph) -> None:
    """Make a convolution output int8 if only int8 convolutions read it, directly or through a Split.

    This is ncnn2int8's ``fuse_requantize``, except that readers behind a Split must have the same scale. The producer
    can only requantise to one scale, and ncnn2int8 takes the scale of the first reader even if the others differ.
    """
    uses = graph.uses()
    for layer in graph.layers:
        term = int(layer.get("int8_scale_term")) % 100 if layer.op.chains_int8 else 0
        if not term:
            continue
        layer.params["int8_scale_term"] = term
        layer.weights.pop("output_scale", None)
        made = layer.outputs[0]
        users = [] if uses.is_output(made) else uses.readers(made)
        if users and all(u.op.chains_int8 and u.params.get("int8_scale_term") for u in users):
            scales = {float(u.array("input_scale")[0]) for u in users}
            if len(scales) == 1:
                layer.params["int8_scale_term"] = term + 100
                layer.weights["output_scale"] = np.array([scales.pop()], np.float32)


def alone(layer: Layer) -> Layer:
    """A copy of an int8 layer with a floating-point output, if ncnn computes that correctly (see Target)."""
    made = layer.copy()
    if "output_scale" in made.weights and not is_grouped(made):
        del made.weights["output_scale"]
        made.params["int8_scale_term"] = int(made.params["int8_scale_term"]) - 100  # type: ignore[arg-type]
    return made
