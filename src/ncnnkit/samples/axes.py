"""The axes of an input that takes images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IMAGE_CHANNELS = (1, 3, 4)
"""The possible numbers of channels of an image: grey, red-green-blue, and red-green-blue with alpha."""


@dataclass(frozen=True)
class ImageAxes:
    """The shape of an input that takes images, by meaning.

    Attributes:
        channels, height, width: sizes.
        layout: the order of the axes: ``chw`` or ``hwc``.
    """

    channels: int
    height: int
    width: int
    layout: str


def image_axes(shape: Sequence[int]) -> ImageAxes | None:
    """The meaning of the axes of an input; None if it does not take images. Channels first is tried first.

    Example:
        >>> image_axes((224, 320, 3))
        ImageAxes(channels=3, height=224, width=320, layout='hwc')
    """
    if len(shape) != 3:
        return None
    if shape[0] in IMAGE_CHANNELS:
        return ImageAxes(shape[0], shape[1], shape[2], "chw")
    return ImageAxes(shape[2], shape[0], shape[1], "hwc") if shape[2] in IMAGE_CHANNELS else None


def likely_layout(shape: Sequence[int]) -> str:
    """The probable order of the axes of an input that does not take images: the smallest side is the channels."""
    return "hwc" if len(shape) == 3 and shape[2] < shape[0] else "chw"
