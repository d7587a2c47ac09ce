"""Fuses an activation into the layer before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..model.graph import Graph
from .wires import LINEAR, Wires, is_float

ACTIVATIONS: dict[str, Callable[[Any], tuple[int, tuple[float, ...]]]] = {
    "ReLU": lambda p: (2, (p.slope,)) if p.slope else (1, ()),
    "Clip": lambda p: (3, (p.min, p.max)),
    "Sigmoid": lambda p: (4, ()),
    "Mish": lambda p: (5, ()),
    "HardSwish": lambda p: (6, (p.alpha, p.beta)),
}
"""Layer type -> its ``activation_type`` and ``activation_params``. Source: ncnn's fused_activation.h."""


def fuse_activation(graph: Graph) -> int:
    """Fold ReLU, leaky ReLU, Clip, Sigmoid, Mish and HardSwish into the convolution or InnerProduct before them."""
    rewrites = 0
    with Wires(graph) as wires:
        for layer in wires:
            if layer.type not in LINEAR or not is_float(layer) or layer.params.get("activation_type"):
                continue
            follower = wires.follower(layer)
            if follower is None or follower.type not in ACTIVATIONS:
                continue
            number, values = ACTIVATIONS[follower.type](follower.p)
            layer.params["activation_type"] = number
            layer.params.pop("activation_params", None)
            if values:
                layer.params["activation_params"] = tuple(float(v) for v in values)
            wires.absorb(layer, follower)
            rewrites += 1
    return rewrites
