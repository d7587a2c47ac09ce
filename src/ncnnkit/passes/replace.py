"""Replaces layers by cheaper equivalent ones."""

from __future__ import annotations

from dataclasses import replace

from ..model.graph import EncodedWeight, Graph, Layer, Weight
from .shapes import infer
from .wires import Wires, become, is_float

_POOLING = {3: 1, 4: 0}  # Reduction's operation -> Pooling's pooling_type: mean, max


def replace_prelu(graph: Graph) -> int:
    """Replace a PReLU with one slope by a leaky ReLU, which can be fused."""
    rewrites = 0
    for layer in graph.layers:
        if layer.type == "PReLU" and layer.p.num_slope == 1 and "slope" in layer.weights:
            become(layer, "ReLU", {"slope": float(layer.array("slope").flat[0])})
            rewrites += 1
    return rewrites


def replace_reduction(graph: Graph) -> int:
    """Replace one or two Reductions to the mean or the maximum over a blob's pixels by a global Pooling."""
    rewrites = 0
    shapes = infer(graph)
    with Wires(graph) as wires:
        for layer in wires:
            shape = shapes[layer.inputs[0]] if layer.inputs else None
            if layer.type != "Reduction" or shape is None or len(shape) != 3:
                continue
            chain = _reductions(layer, wires)
            if chain is None:
                continue
            become(layer, "Pooling", {"pooling_type": _POOLING[layer.p.operation], "global_pooling": 1})
            for follower in chain[1:]:
                wires.absorb(layer, follower)
                layer.params.pop("shape_hints", None)
            rewrites += 1
    return rewrites


def _reductions(layer: Layer, wires: Wires) -> list[Layer] | None:
    """The Reductions, beginning with ``layer``, that together reduce pixels to a vector of channels."""
    left, chain = ["c", "h", "w"], [layer]
    first = layer.p
    while True:
        p = chain[-1].p
        if p.operation not in _POOLING or p.operation != first.operation or p.reduce_all or p.coeff != 1 or p.keepdims:
            return None
        gone = {axis % len(left) for axis in p.axes}
        left = [axis for i, axis in enumerate(left) if i not in gone]
        if left == ["c"]:
            return chain
        follower = wires.follower(chain[-1])
        if "c" not in left or follower is None or follower.type != "Reduction":
            return None
        chain.append(follower)


def replace_convolution_on_vector(graph: Graph) -> int:
    """Replace a 1x1 Convolution on a vector (the output of a global Pooling or an InnerProduct) by an InnerProduct.

    ncnn does this, too, and recommends the replacement, because it intends to remove its own support.
    """
    rewrites = 0
    shapes = infer(graph)
    for layer in graph.layers:
        if layer.type != "Convolution" or not is_float(layer):
            continue
        p = layer.p
        inputs = p.weight_data_size // max(p.num_output, 1)
        if (p.kernel_w, p.kernel_h) != (1, 1) or shapes[layer.inputs[0]] != (inputs,):
            continue
        weights = layer.weights
        kept = ("num_output", "bias_term", "weight_data_size", "activation_type", "activation_params")
        become(layer, "InnerProduct", {key: layer.params[key] for key in kept if key in layer.params})
        layer.weights = weights
        if "weight" in weights:
            weights["weight"] = _reshaped(weights["weight"], (p.num_output, inputs))
        rewrites += 1
    return rewrites


def _reshaped(weight: Weight, shape: tuple[int, ...]) -> Weight:
    return replace(weight, shape=shape) if isinstance(weight, EncodedWeight) else weight.reshape(shape)
