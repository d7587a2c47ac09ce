"""The activation functions that ncnn fuses into a convolution or InnerProduct, and their derivatives.

Source: ``src/layer/fused_activation.h`` of ncnn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.graph import Layer


@dataclass(frozen=True)
class Activation:
    """A function of an array, and its derivative."""

    f: Callable[[Any], Any]
    slope: Callable[[Any], Any]


def activation(layer: Layer) -> Activation:
    """The activation function that is fused into ``layer``."""
    return _MAKERS[layer.get("activation_type")](*layer.get("activation_params"))


def _leaky(slope: float) -> Activation:
    return Activation(
        lambda z: np.where(z > 0, z, np.float32(slope) * z), lambda z: np.where(z > 0, np.float32(1), np.float32(slope))
    )


def _clip(low: float, high: float) -> Activation:
    return Activation(lambda z: np.clip(z, low, high), lambda z: ((z > low) & (z < high)).astype(np.float32))


def _sigmoid() -> Activation:
    return Activation(_logistic, lambda z: _logistic(z) * (1 - _logistic(z)))


def _logistic(z: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(z, -80, 80)))


def _mish() -> Activation:
    def f(z: Any) -> Any:
        return z * np.tanh(np.logaddexp(0, z))

    return Activation(f, lambda z: (f(z + 1e-3) - f(z - 1e-3)) / 2e-3)


def _hardswish(alpha: float, beta: float) -> Activation:
    low, high = -beta / alpha, (1 - beta) / alpha
    return Activation(
        lambda z: z * np.clip(alpha * z + beta, 0, 1),
        lambda z: np.where(z < low, 0.0, np.where(z > high, 1.0, 2 * alpha * z + beta)),
    )


_MAKERS: dict[int, Callable[..., Activation]] = {
    0: lambda: Activation(lambda z: z, lambda z: np.ones_like(z)),
    1: lambda: _leaky(0.0),
    2: _leaky,
    3: _clip,
    4: _sigmoid,
    5: _mish,
    6: _hardswish,
}
"""``activation_type`` -> the function, given ``activation_params``."""
