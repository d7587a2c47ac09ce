"""How a layer of the original was quantised: what an int8 version of it needs to be the original."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LayerScales:
    """The scales that a quantised original gives a layer.

    The original stores 8-bit codes: ``value = (code - zero_point) / scale``.

    Attributes:
        weights: steps a unit, one for each output channel, or one for all.
        input: steps a unit of the layer's input.
        zero_point: the code of 0 in the input, from -127 to 127; 0 where the input is symmetric.
    """

    weights: tuple[float, ...]
    input: float
    zero_point: int = 0

    @property
    def usable(self) -> bool:
        """Whether the numbers can be scales: what a file says may not be."""
        steps = np.array([*self.weights, self.input])
        return bool(self.weights and np.isfinite(steps).all() and (steps > 0).all()) and abs(self.zero_point) <= 127

    @property
    def offset(self) -> float:
        """The value whose code is 0, in the input's unit."""
        return -self.zero_point / self.input

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value of the input that have a code."""
        return (-127 - self.zero_point) / self.input, (127 - self.zero_point) / self.input

    def rows(self, layer_rows: int, channels: int) -> NDArray[np.float32] | None:
        """One scale for each of ncnn's weight rows; None where ncnn has fewer rows than there are different scales.

        Args:
            layer_rows: of the layer: its output channels, or the groups of a depthwise convolution.
            channels: its output channels.
        """
        given = np.array(self.weights, np.float32)
        if len(given) == 1:
            return np.repeat(given, layer_rows)
        if len(given) != channels or channels % layer_rows:
            return None
        grouped = given.reshape(layer_rows, -1)
        return grouped[:, 0].copy() if (grouped == grouped[:, :1]).all() else None
