"""Fourier transforms of real signals, as products with constant sines and cosines.

ncnn's Spectrogram supports only three windows and always pads. Here, the window times the sines and cosines are the
weights of a convolution, which works for any window.
"""

from __future__ import annotations

import numpy as np

from .axes import permuted
from .lowering import Array, Blob, Node, Unsupported, each_of_batch, operator
from .matrix import linear

_LONGEST = 4096  # samples of a frame; the table of its sines and cosines has about the square of that


def _waves(points: int, length: int, onesided: bool) -> Array:
    """The matrix of the transform, (2 * frequencies, points). Rows alternate between real and imaginary parts."""
    if length > _LONGEST:
        raise Unsupported(f"transforms {length} values at a time")
    count = length // 2 + 1 if onesided else length
    turns = np.outer(np.arange(count), np.arange(points)) % length  # in integers: sines of large angles are inexact
    angles = 2 * np.pi / length * turns
    rows: Array = np.stack([np.cos(angles), -np.sin(angles)], 1).reshape(2 * count, points)
    return rows


@operator("STFT")
def stft(node: Node) -> None:
    """Transform (batch, length) or (batch, length, 1) to (batch, frames, frequencies, 2)."""
    if node.shape(0)[2:] not in ((), (1,)):
        raise Unsupported("transforms a complex signal")
    step = int(node.needed_constant(1, "step").reshape(-1)[0])
    window = node.needed_constant(2, "window").reshape(-1) if node.has(2) else None
    given = node.needed_constant(3, "frame length") if node.has(3) else None
    length = int(given.reshape(-1)[0]) if given is not None else len(window) if window is not None else 0
    waves = _waves(length, length, bool(node.attr("onesided", 1)))
    weight = np.ascontiguousarray(waves if window is None else waves * window, np.float32)[:, None]
    frames = node.out_shape()[1]

    def transformed(x: Blob) -> Blob:
        made = node.emit(
            "Convolution1D",
            [node.lowering.view(x, (1, x.size))],
            (len(weight), frames),
            {"weight": weight},
            num_output=len(weight),
            kernel_w=length,
            stride_w=step,
            weight_data_size=weight.size,
        )
        return permuted(node, made, made.shape, (1, 0))

    node.gives(each_of_batch(node, transformed))


@operator("DFT")
def dft(node: Node) -> None:
    """Transform (…, length, 1) to (…, frequencies, 2), along the second-last axis."""
    shape = node.shape(0)
    axis = node.ints("axis", 2) or ((1,) if node.lowering.opset < 20 else (-2,))
    if shape[-1] != 1 or node.attr("inverse", 0) or axis[0] % len(shape) != len(shape) - 2:
        raise Unsupported(f"does not transform real numbers along the second-last axis of {list(shape)}")
    given = node.needed_constant(1, "length") if node.has(1) else None
    length = shape[-2] if given is None else int(given.reshape(-1)[0])
    points = min(shape[-2], length)  # the signal is cut, or padded with zeros
    waves = np.zeros((2 * node.out_shape()[-2], shape[-2]), np.float32)
    waves[:, :points] = _waves(points, length, bool(node.attr("onesided", 0)))
    node.gives(linear(node, shape[:-1], waves, None))
