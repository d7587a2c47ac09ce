"""Turns quantised ONNX models into models in floating point that keep the scales of their layers.

:mod:`.dequantizing` has a function for each operator. If the input and the weights of a layer were quantised, its
scales are kept as :class:`~ncnnkit.model.scales.LayerScales` in the metadata of its node, so that they are saved with
the model. ncnn's int8 model is made from these scales.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from ...model.scales import STEPS, LayerScales
from . import dequantizing  # noqa: F401  # it fills the table
from .codes import REWRITES, Rewriter

SCALES = "ncnnkit.scales"
"""Key of the LayerScales in a node's metadata."""
_LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_INT8 = ("Conv", "Gemm", "MatMul")  # the ones that ncnn runs in int8 with a constant scale of the input

DYNAMIC = "the scales of their inputs are computed at run time; ncnn needs constant scales"
FLOAT_INPUT = "the original does not quantise their input"
BITS = "their codes do not have 8 bits"
COMPUTED = "their weights are computed"
ALONG_INPUTS = "their weights have scales per input channel or per block; ncnn has one per output channel"
CHANNELS = "their input has per-channel scales; ncnn has one scale per tensor"
NO_KERNEL = "ncnn does not run them in int8"
ROUNDED = "their weights have zero points; ncnn has none, so they are quantised again"


@dataclass(frozen=True)
class QuantisedModel:
    """What is kept of a model's own quantisation.

    Attributes:
        layers: names of the nodes that keep their scales.
        lost: reason why ncnn cannot represent a quantisation -> names of the nodes.
    """

    layers: tuple[str, ...]
    lost: dict[str, tuple[str, ...]]


def dequantize(model: ir.Model) -> QuantisedModel | None:
    """Turn a quantised model into one in floating point, in place.

    Args:
        model: with functions inlined, constants as initializers, and names for all nodes and values.

    Returns:
        What is kept of the quantisation; None if the model is not quantised.
    """
    graph = model.graph
    if not any((node.domain, node.op_type) in REWRITES for node in graph):
        return None
    rewriter = Rewriter(graph, int(graph.opset_imports.get("", 1)))
    rewriter.run()
    _drop_unread(graph)
    kept, lost = [], dict[str, list[str]]()
    for node in graph:
        if node.domain or (node.op_type not in _LAYERS and node not in rewriter.dynamic):
            continue
        found, reasons = _layer_scales(rewriter, node)
        if found is not None:
            node.metadata_props[SCALES] = json.dumps(asdict(found))
            kept.append(str(node.name))
        for reason in reasons:
            lost.setdefault(reason, []).append(str(node.name))
    return QuantisedModel(tuple(kept), {reason: tuple(names) for reason, names in lost.items()})


def _drop_unread(graph: ir.Graph) -> None:
    """Remove nodes and constants that nothing reads any more."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs and value not in graph.inputs:
            del graph.initializers[name]


def _layer_scales(rewriter: Rewriter, node: ir.Node) -> tuple[LayerScales | None, list[str]]:
    """The scales of a node, and the reasons why ncnn cannot represent its quantisation."""
    if node in rewriter.dynamic:
        return None, [DYNAMIC]
    x, w = rewriter.read.get((node, 0)), rewriter.read.get((node, 1))
    if x is None and w is None:
        return None, []
    if node.op_type not in _INT8:
        return None, [NO_KERNEL]
    weight = node.inputs[1]
    if weight is None or rewriter.constant(weight) is None:
        return None, [COMPUTED]
    codes = rewriter.codes.get(weight)
    if x is None or w is None or codes is None:
        return None, [FLOAT_INPUT]
    axis = 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) != 0 else 1
    if not x.whole:
        return None, [CHANNELS]
    if (x.low, x.high) not in ((-128, 127), (0, 255)) or w.high - w.low > 255:
        return None, [BITS]
    if w.blocked or codes.ndim < 2 or (not w.whole and w.axis % codes.ndim != axis) or (axis and codes.ndim != 2):
        return None, [ALONG_INPUTS]
    _, zeros = w.along(codes.shape)
    steps = np.abs(codes - zeros).max(axis=tuple(i for i in range(codes.ndim) if i != axis))
    fits = steps <= 128  # a code of -128 becomes -127: a smaller error than rounding the whole channel again
    point = int(x.zero.reshape(-1)[0]) - (128 if x.low == 0 else 0)
    largest = tuple(int(step) for step in np.where(fits, steps, STEPS))
    found = LayerScales(largest, 1.0 / float(x.scale.reshape(-1)[0]), max(point, -STEPS))
    return found, [] if fits.all() else [ROUNDED]


def scales_of(node: ir.Node) -> LayerScales | None:
    """The scales that :func:`dequantize` wrote into a node; None if there are none."""
    text = node.metadata_props.get(SCALES)
    if text is None:
        return None
    given = json.loads(text)
    return LayerScales(tuple(given["weights"]), given["input"], given["zero_point"])
