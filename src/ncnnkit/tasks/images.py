"""Images as outputs: super-resolution, denoising, restoration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .decoder import Array
from .figures import by_labels, decibels, named, share
from .task import Task

_WINDOW = 11  # pixels; the standard deviation of its Gaussian is 1.5
_SIGMA = 1.5


class Fidelity(NamedTuple):
    """The comparison of an image with the correct one: the squared error divided by the squared range, the number of
    values, and the SSIM (None if the image is too small)."""

    error: float
    values: int
    ssim: float | None


class Row(NamedTuple):
    """One sample: the comparison with the original's image, and with the labelled one (None without a label)."""

    exact: Fidelity
    right: Fidelity | None


@dataclass(frozen=True, eq=False)
class Target:
    """The correct image, or the part of it that the output shows.

    Attributes:
        values: (channels, height, width), in the range of the output.
        top, left: its position in the output, in pixels.
    """

    values: NDArray[np.float64]
    top: int = 0
    left: int = 0

    def of(self, image: Array) -> Array:
        """The part of an output that corresponds to it, (channels, height, width)."""
        height, width = self.values.shape[-2:]
        part = image[..., self.top : self.top + height, self.left : self.left + width]
        return part.reshape(-1, *part.shape[-2:])


_FIGURES = (decibels("psnr", "PSNR"), share("ssim", "SSIM"))


@dataclass(frozen=True)
class Images(Task):
    """A network that outputs an image.

    Attributes:
        output: index of the output, (channels, height, width) or (height, width).
        low, high: the values of black and of white. Values outside are clipped, as when an image is saved.

    Example:
        >>> task = Images()
        >>> row = task.compare(np.full((3, 16, 16), 0.51), np.full((3, 16, 16), 0.5))
        >>> round(task.summarise([row])["psnr"], 1)
        40.0
    """

    name = "image"
    figures = named(*_FIGURES, *by_labels(*_FIGURES))
    requires = ("psnr>=40",)
    labels = "pictures"

    output: int = 0
    low: float = 0.0
    high: float = 1.0

    def predict(self, outputs: Sequence[Array]) -> Array:
        """The image, clipped."""
        return np.clip(np.asarray(outputs[self.output], np.float64), self.low, self.high)

    def compare(self, ours: Array, theirs: Array, truth: Target | None = None) -> Row:
        """The error of an image. An image of another size, or with NaN, has the largest possible error."""
        right = None if truth is None else self._beside(truth.of(ours), truth.values)
        return Row(self._beside(ours, theirs), right)

    def _beside(self, ours: Array, right: Array) -> Fidelity:
        if ours.shape != right.shape or not np.isfinite(ours).all():
            return Fidelity(float(right.size), right.size, -1.0)
        difference = (ours - right) / (self.high - self.low)
        return Fidelity(float((difference**2).sum()), right.size, ssim(ours, right, self.high - self.low))

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """PSNR of all values together, and the mean SSIM of the images."""
        exact = _summary([row.exact for row in rows])
        right = _summary([row.right for row in rows if row.right is not None])
        return {**exact, **{f"label_{name}": value for name, value in right.items()}}

    def severity(self, row: Row) -> float:
        """The mean squared error divided by the squared range."""
        return row.exact.error / max(row.exact.values, 1)


def _summary(images: Sequence[Fidelity]) -> dict[str, float | None]:
    error, values = sum(each.error for each in images), sum(each.values for each in images)
    known = [each.ssim for each in images if each.ssim is not None]
    return {
        "psnr": (math.inf if not error else 10 * math.log10(values / error)) if values else None,
        "ssim": sum(known) / len(known) if known else None,
    }


def ssim(ours: Array, theirs: Array, span: float) -> float | None:
    """The structural similarity of two images, the mean over channels and pixels.

    The window is a Gaussian of 11 × 11 pixels with a standard deviation of 1.5; K1 is 0.01, K2 0.03 (Wang et al.,
    "Image Quality Assessment: From Error Visibility to Structural Similarity"). Pixels with a distance of less than 5
    to a border do not count. The result is None if an image is smaller than the window.

    Args:
        ours, theirs: float64 (…, height, width).
        span: the value of white minus that of black.
    """
    if min(ours.shape[-2:]) < _WINDOW:
        return None
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    taps /= taps.sum()

    def smooth(image: Array) -> Array:
        for axis in (-1, -2):
            image = np.lib.stride_tricks.sliding_window_view(image, _WINDOW, axis) @ taps
        return image

    a, b = smooth(ours), smooth(theirs)
    aa, bb, ab = smooth(ours * ours) - a * a, smooth(theirs * theirs) - b * b, smooth(ours * theirs) - a * b
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    return float((((2 * a * b + c1) * (2 * ab + c2)) / ((a * a + b * b + c1) * (aa + bb + c2))).mean())
