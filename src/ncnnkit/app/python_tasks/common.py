"""Code that the tasks share."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ncnnkit.onboard.picture import Array, Placement


class Failure(Exception):
    """An error that a user can fix. It ends the program with one line on stderr and exit status 1."""


@dataclass
class Tile:
    """The outputs for an image or one of its tiles, and where it lies in the input."""

    outputs: List[Array]
    place: Placement


def class_name(labels: Sequence[str], index: int) -> str:
    """The name of a class, or ``class N`` if it has none."""
    return labels[index] if 0 <= index < len(labels) else "class %d" % index


def colour_of(index: int) -> Tuple[int, int, int]:
    """A colour for a class; classes with adjacent indices have different colours."""
    red, green, blue = colorsys.hsv_to_rgb(abs(index) * 0.618034 % 1, 1, 1)
    return int(255 * red), int(255 * green), int(255 * blue)


def label_at(image: Any, x: float, y: float, text: str, index: int) -> None:
    """Write a text onto a Pillow image, on the colour of a class."""
    from PIL import ImageDraw

    pen, colour = ImageDraw.Draw(image), colour_of(index)
    pen.rectangle(pen.textbbox((x, y), text), fill=colour)
    pen.text((x, y), text, fill="black" if np.dot(colour, (3, 6, 1)) > 1275 else "white")


def shaped(output: Array, task: Dict[str, Any]) -> Array:
    """An output in the original's shape, if the sizes match. ncnn drops axes of length 1."""
    shape = tuple(task["shape"])
    return output.reshape(shape) if shape and output.size == np.prod(shape) else output


def immutable(value: Any) -> Any:
    """Convert lists, and lists in them, to tuples."""
    return tuple(map(immutable, value)) if isinstance(value, list) else value


def rounded(value: float) -> str:
    """A number with four significant digits; from 1000 on, as an integer."""
    return ("%.0f" if abs(value) >= 1000 else "%.4g") % value


def times(shape: Sequence[int]) -> str:
    """A shape as text, such as 3x224x224."""
    return "x".join(map(str, shape)) or "a scalar"
