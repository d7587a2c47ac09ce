"""Recognises other networks by their outputs: classes, texts, maps, points, images, embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from . import presets
from .boxes import in_rows
from .classification import Classification
from .decoder import Array, Decoder, Layout, Table
from .embedding import Embedding
from .images import Images
from .known import Guess, Known, are_fractions, are_scores, sum_to_one
from .segmentation import Segmentation
from .text import Texts


def text_of_metadata(known: Known) -> Guess | None:
    """The characters in the metadata, as PaddleOCR's recognisers in ONNX have them, and (steps, classes)."""
    characters = known.metadata.get("character")
    values = _steps(known)
    alphabet = with_blank(characters.splitlines(), values.shape[1]) if characters and values is not None else ()
    if not alphabet or not characters or values is None:
        return None
    said = f"its metadata has {len(characters.splitlines())} characters, and its output {values.shape[1]} classes"
    return presets.ctc(values.shape[1], alphabet), said


def with_blank(characters: Sequence[str], classes: int) -> tuple[str, ...]:
    """The alphabet of a text recogniser: class 0 is the blank, and the last one may be the space.

    Args:
        characters: as they are listed in a file or in metadata.
        classes: number of classes of the network.

    Returns:
        ``classes`` characters. Empty if there are neither one nor two fewer characters, and they do not begin with a
        blank.

    Example:
        >>> with_blank(["a", "b"], 4)
        ('', 'a', 'b', ' ')
    """
    if classes == len(characters) + 2:
        return ("", *characters, " ")
    if classes == len(characters) + 1:
        return ("", *characters)
    if characters and classes == len(characters) and characters[0].strip("<>[]").lower() in ("", "blank"):
        return ("", *characters[1:])
    return ()


def _steps(known: Known) -> Array | None:
    """The only output as (steps, classes). There may be an axis of length 1 between them."""
    values = np.squeeze(known.outputs[0]) if len(known.outputs) == 1 else np.zeros(0)
    return values if values.ndim == 2 else None


def told_text(known: Known) -> Guess | None:
    """(steps, classes): a text reader, if the user names the task."""
    values = _steps(known)
    if values is None:
        return None
    alphabet = with_blank(known.labels, values.shape[1]) if known.labels else ()
    said = "with the characters of the labels" if alphabet else "with unknown characters"
    made = presets.ctc(values.shape[1], alphabet)
    return (made if sum_to_one(values) else replace(made, scores="softmax")), f"its output has classes {said}"


def told_landmarks(known: Known) -> Guess | None:
    """x and y of each point: (N, 2), (N, 3) or (2, N), or all in one axis."""
    if len(known.outputs) != 1:
        return None
    values = np.squeeze(np.asarray(known.outputs[0]))
    layout: Layout = "rows"
    if values.ndim == 1 and values.size and values.size % 2 == 0:
        shape = (values.size // 2, 2)
    elif values.ndim == 2 and values.shape[1] in (2, 3):
        shape = (values.shape[0], values.shape[1])
    elif values.ndim == 2 and values.shape[0] in (2, 3):
        shape, layout = (values.shape[1], values.shape[0]), "columns"
    else:
        return None
    rows = in_rows(values, shape[1], layout)[:, :2]
    fractions = all(known.size) and np.isfinite(rows).all() and are_fractions(rows)
    scale = (float(known.size[1]), float(known.size[0])) if fractions else (1.0, 1.0)
    said = f"its output has {shape[0]} points, in {'fractions of the image' if fractions else 'pixels'}"
    return Decoder("points", (Table(0, ("keypoints",), layout),), keypoints=shape, scale=scale), said


def told_segmentation(known: Known) -> Guess | None:
    """(classes, height, width). If there is one class, it is where the score is above 0.5."""
    if len(known.outputs) != 1:
        return None
    values = np.asarray(known.outputs[0])
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3:
        return None
    made = Decoder("argmax", (Table(0),), len(values), axis=-3, score_threshold=0.5)
    if len(values) == 1 and not are_scores(values):
        made = replace(made, scores="sigmoid")
    return made, f"its output is a map of {len(values)} {'class' if len(values) == 1 else 'classes'}"


def named_segmentation(known: Known) -> Guess | None:
    """A map with a channel for each name."""
    values = np.asarray(known.outputs[0]) if len(known.outputs) == 1 else np.zeros(0)
    if values.ndim != 3 or len(values) < 2 or len(values) != len(known.labels) or min(values.shape[1:]) < 2:
        return None
    return Decoder("argmax", (Table(0),), len(values), axis=-3), f"its output is a map of its {len(values)} classes"


# -------------------------------------------------------------------------------------------- evidence from values

UNIT = 1e-3  # largest difference from 1 of a sum of probabilities, or of the length of a vector
OVER = 0.05  # largest excess of an image's values over their range, because networks overshoot at edges
USED = 0.125  # least share of the range that an image's values use; scores of classes may be from -10 to 10, of 255
LEAST_CHARACTERS = 10  # least number of characters of a text reader
MAP_SHARE = 8  # a map has at least an eighth of the input's width and height


def vector(known: Known) -> int:
    """The number of values of the only output, if that is a vector; else 0."""
    shape = known.only_shape
    values = math.prod(shape)
    return values if shape and values == max(shape) and values > 1 else 0


def classifier(known: Known) -> Guess | None:
    """A vector with evidence for classes: labels of images, as many names or library classes, or probabilities."""
    values = vector(known)
    if not values:
        return None
    if known.labelled:
        return Classification(), "there are labels of the images"
    if len(known.labels) == values:
        return Classification(), "the model has a name for each value"
    if known.classes == values:
        return Classification(), "the model's library states the number of its classes"
    if all(row.min() >= 0 and abs(row.sum() - 1) < UNIT for row in known.only):
        return Classification(), "its outputs are probabilities: they add up to one"
    return None


def unit_vector(known: Known) -> Guess | None:
    """A vector that has length 1 for every sample."""
    if not vector(known) or not all(abs(np.linalg.norm(row) - 1) < UNIT for row in known.only):
        return None
    return Embedding(), "its output is a vector of length 1"


def doubt(known: Known) -> str:
    """A sentence for the user about a vector without evidence for its meaning."""
    if not (values := vector(known)):
        return ""
    said = f"the output is a vector of {values} values, but nothing says that these are scores of classes"
    if known.labels:
        said += f": there are {len(known.labels)} class names"
    return f"{said}; top-1 is not counted. If the network is a classifier, give --task classification"


def rows_of_probabilities(known: Known) -> Guess | None:
    """A row of probabilities for each step, ten or more columns: a text reader."""
    shape = known.only_shape
    steps = math.prod(shape[:-1])
    if not 2 <= len(shape) <= 3 or steps != max(shape[:-1]) or steps < 2:
        return None
    if not known.channels or shape[-1] < LEAST_CHARACTERS:
        return None
    if not all(row.min() >= 0 and (abs(row.sum(-1) - 1) < UNIT).all() for row in known.only):
        return None
    return Texts(), f"its output has the probabilities of {shape[-1]} characters for each of {steps} steps"


def image(known: Known) -> Guess | None:
    """An image in colour like the input, as large or a multiple of it, with the values of an image."""
    shape = known.only_shape
    if len(shape) != 3 or shape[0] != known.channels or shape[0] not in (1, 3):
        return None
    times = {out / side for out, side in zip(shape[1:], known.size)}
    if len(times) != 1 or not (factor := times.pop()).is_integer():
        return None
    if shape[0] == 1 and factor == 1:  # it may also be a map
        return None
    low, high = min(row.min() for row in known.only), max(row.max() for row in known.only)
    for bottom, top in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        span = top - bottom
        if low >= bottom - OVER * span and high <= top + OVER * span and high - low >= USED * span:
            size = "as large as" if factor == 1 else f"{factor:g} times as large as"
            why = f"its output is an image {size} the input, with values of {bottom:g} to {top:g}"
            return Images(low=bottom, high=top), why
    return None


def one_map(known: Known) -> Guess | None:
    """One map of values from 0 to 1, at least an eighth as large as the input."""
    shape = known.only_shape
    if not _is_map(shape, known) or math.prod(shape) != math.prod(shape[-2:]):
        return None
    if not all(are_scores(row) for row in known.only):
        return None
    return Segmentation(axis=-1), "its output is one map of values from 0 to 1"


def _is_map(shape: tuple[int, ...], known: Known) -> bool:
    sides = shape[-2:]
    return len(shape) >= 2 and known.channels > 0 and all(s * MAP_SHARE >= side for s, side in zip(sides, known.size))
