"""Replace layers by ones that do the same for less."""

from __future__ import annotations

from dataclasses import replace

from ..model.graph import EncodedWeight, Graph, Layer, Weight
from .shapes import infer
from .wires import Wires, become, is_float

_POOLING = {3: 1, 4: 0}  # Reduction's operation -> Pooling's pooling_type: mean, max


def replace_prelu(graph: Graph) -> int:
    """PReLU with one slope is a leaky ReLU, which others can fuse."""
    rewrites = 0
    for layer in graph.layers:
        if layer.type == "PReLU" and layer.p.num_slope == 1 and "slope" in layer.weights:
            become(layer, "ReLU", {"slope": float(layer.array("slope").flat[0])})
            rewrites += 1
    return rewrites


def replace_reduction(graph: Graph) -> int:
    """The mean or the maximum over a blob's pixels is a global Pooling, whether one Reduction takes it or two."""
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
    """The Reductions from ``layer`` on that together leave a vector of channels, each over pixels alike."""
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
    """A 1x1 Convolution on a vector, as global Pooling and InnerProduct give it, is an InnerProduct.

    ncnn has it so, too, and asks for the replacement: it means to drop its own.
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
