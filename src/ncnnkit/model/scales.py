"""The quantisation of a layer of the original. An int8 model can use the same codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = 127  # int8, symmetric; -128 is not used
_LEAST = -128  # the smallest code of 8 bits


@dataclass(frozen=True)
class LayerScales:
    """The codes and scales that a quantised original gives a layer.

    The original stores 8-bit codes: an input value is ``(code - zero_point) / scale``. Its weights have no zero point
    here. For each output channel the largest code is stored, not the scale. The scale is the largest code divided by
    the largest weight of the channel, so it follows the weights if a pass multiplies a channel, such as when a batch
    norm is fused into a convolution.

    Attributes:
        weights: the largest absolute code of each output channel.
        input: the scale of the layer's input: steps per unit.
        zero_point: the code of 0 in the input, from -127 to 127; 0 if the input is symmetric.
    """

    weights: tuple[int, ...]
    input: float
    zero_point: int = 0

    @property
    def usable(self) -> bool:
        """Whether the numbers can belong to a quantised layer. The numbers in a file may be invalid."""
        codes = all(0 <= code <= -_LEAST for code in self.weights)
        return codes and bool(np.isfinite(self.input)) and self.input > 0 and abs(self.zero_point) <= STEPS

    @property
    def offset(self) -> float:
        """The input value with the code 0, in the input's unit."""
        return -self.zero_point / self.input

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest input value that have a code."""
        return (-STEPS - self.zero_point) / self.input, (STEPS - self.zero_point) / self.input

    def weight_scales(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
        """The scale of each of ncnn's weight rows.

        Args:
            rows: float32 (rows, n): a row for each output channel, or for each group of a depthwise convolution.

        Returns:
            (scales, float32 (rows,); whether all weights are integers in steps of these scales). A row without such a
            scale gets the scale for which its largest weight is 127 steps.
        """
        largest = np.abs(rows).max(axis=1, initial=0).astype(np.float64)
        codes = np.full(len(rows), STEPS, np.float64)
        if len(rows) and len(self.weights) % len(rows) == 0:
            codes = np.array(self.weights, np.float64).reshape(len(rows), -1).max(axis=1)
        dead = (largest == 0) | (codes == 0)
        scales = np.where(dead, 1, codes / np.where(dead, 1, largest))
        steps = rows * scales[:, None]
        near = (np.abs(steps - np.rint(steps)) < NEAR).all(axis=1)
        scales = np.where(near | dead, scales, STEPS / np.where(dead, 1, largest))
        return scales.astype(np.float32), bool(near.all())


NEAR = 0.01  # steps; weights that are this close to integers are the original's codes
