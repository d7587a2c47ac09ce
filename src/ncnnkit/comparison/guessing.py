"""What a network is for: :func:`guess_task` goes by evidence, not by the shape of the output alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError
from ..tasks import Decoder, Task
from ..tasks.classification import Classification
from ..tasks.embedding import Embedding
from ..tasks.images import Images
from ..tasks.own import own_metric
from ..tasks.segmentation import Segmentation
from ..tasks.table import decoded_task, named_task
from ..tasks.tensor import Tensors
from ..tasks.text import Texts
from .outputs import Outputs

LOOKED_AT = 64  # samples: that values add up to one by chance is out of the question after a few
LOOKED_AT_VALUES = 1 << 20  # of all these samples
SUM = 1e-3  # how far probabilities may be from adding up to one
LENGTH = 1e-3  # how far the length of a vector may be from one
OVER = 0.05  # how far an image's values may be out of range: networks overshoot at edges
USED = 0.125  # of its range, a share that an image's values use: scores of some classes are from -10 to 10, not to 255
LEAST_CHARACTERS = 10  # of a text reader
MAP_SHARE = 8  # a map has at least an eighth of the input's width and height


@dataclass(frozen=True)
class Purpose:
    """What a network is for, and how that is known.

    Attributes:
        task: the task.
        why: the evidence, a clause.
        doubt: what could be meant, but is not sure: a sentence for the user; empty where there is none.
    """

    task: Task
    why: str
    doubt: str = ""

    @property
    def classes(self) -> int:
        """The number of classes of a classifier; 0 for other networks."""
        return math.prod(self.task.shapes[0]) if isinstance(self.task, Classification) else 0


@dataclass(frozen=True)
class Evidence:
    """What is known of an original beside its outputs.

    Attributes:
        decoder: of the outputs.
        decoder_origin: how that is known, where it was guessed.
        names: class names that the model brings.
        classes: the number of classes that its library states.
        image: (channels, height, width) of the only input, where that is an image; () otherwise.
        labelled: whether there is a class for each image.
    """

    decoder: Decoder | None = None
    decoder_origin: str = ""
    names: Sequence[str] | None = None
    classes: int | None = None
    image: tuple[int, ...] = ()
    labelled: bool = False


def find_task(reference: Outputs, known: Evidence, *, task: str = "", metric: str = "") -> Purpose:
    """The task that the user names; without one, what the evidence says.

    Args:
        reference: the original's outputs.
        known: what else is known of the original.
        task, metric: as in the recipe; empty where not given.

    Raises:
        RecipeError: they name no task, or one that cannot read these outputs.
    """
    if metric:
        found = Purpose(own_metric(metric), f"--metric {metric} was given")
    elif task:
        found = Purpose(named_task(task, known.decoder), f"--task {task} was given")
    else:
        found = guess_task(reference, known)
    made = replace(found.task, shapes=tuple(reference.shapes.values()))
    if task or metric:
        _try(made, reference)
    return replace(found, task=made)


def _try(task: Task, reference: Outputs) -> None:
    """Raises RecipeError where a task that the user chose fails on the original's own outputs."""
    try:
        prediction = task.predict(task.shaped(reference[0]))
        task.summarise([task.compare(prediction, prediction)])
    except Exception as error:  # a task that a user wrote may raise anything
        said = f"{type(error).__name__}: {error}"
        raise RecipeError(f"it cannot read the outputs of this network: {said}", where=f"task {task.name}") from None


def guess_task(reference: Outputs, known: Evidence) -> Purpose:
    """What a network is for, by evidence; the first of these that holds:

    1. A decoder is known, because its metadata, its outputs or the operators that were cut off say so.
    2. The only output is a vector, and there are labels of the images, or as many class names as values, or the library
       that built the model states that number of classes, or the original's outputs are probabilities.
    3. The only output is a vector that always has length 1: an embedding.
    4. The only output has a row of probabilities for each step, and ten or more columns: a text reader.
    5. The only output is an image in colour like the input, as large or a multiple of it: an image.
    6. The only output is one map of values from 0 to 1, at least an eighth as large as the input: a segmentation.
    7. The only output has as many maps as there are class names: a segmentation.

    A vector alone is no evidence: embeddings, landmarks and regressions are vectors, too.

    Args:
        reference: the original's outputs.
        known: what else is known of the original.
    """
    shapes = list(reference.shapes.values())
    if known.decoder is not None and (task := decoded_task(known.decoder, shapes)):
        return Purpose(task, known.decoder_origin or "the operators at its end, or its card, say how to decode it")
    if len(shapes) != 1 or min(shapes[0], default=0) < 1:
        return Purpose(Tensors(), f"it has {len(shapes)} outputs, and nothing says what they are")
    shape = shapes[0]
    values = math.prod(shape)
    count = min(LOOKED_AT, max(1, LOOKED_AT_VALUES // max(values, 1)))
    few = [np.asarray(row, np.float64) for (row,) in islice(reference, count)]
    if values == max(shape) and values > 1:
        return _vector(values, few, known)
    for guess in (_text, _image, _map):
        if found := guess(shape, few, known):
            return found
    return Purpose(Tensors(), "nothing says what its output is")


def _vector(values: int, few: Sequence[NDArray[np.float64]], known: Evidence) -> Purpose:
    if known.labelled:
        return Purpose(Classification(), "there are labels of the images")
    if known.names is not None and len(known.names) == values:
        return Purpose(Classification(), "the model brings a name for each value")
    if known.classes == values:
        return Purpose(Classification(), "the model's library states the number of its classes")
    if few and all(row.min() >= 0 and abs(row.sum() - 1) < SUM for row in few):
        return Purpose(Classification(), "its outputs are probabilities: they add up to one")
    if few and all(abs(np.linalg.norm(row) - 1) < LENGTH for row in few):
        return Purpose(Embedding(), "its output is a vector of length 1")
    missing = f"the output is a vector of {values} values, but nothing says that these are scores of classes"
    if known.names:
        missing += f": there are {len(known.names)} class names"
    doubt = f"{missing}; top-1 is not counted. If the network is a classifier, give --task classification"
    return Purpose(Tensors(), "nothing says what its vector is", doubt)


def _text(shape: tuple[int, ...], few: Sequence[NDArray[np.float64]], known: Evidence) -> Purpose | None:
    steps = math.prod(shape[:-1])
    if not 2 <= len(shape) <= 3 or steps != max(shape[:-1]) or steps < 2:
        return None
    if not known.image or shape[-1] < LEAST_CHARACTERS:
        return None
    if not few or not all(row.min() >= 0 and (abs(row.sum(-1) - 1) < SUM).all() for row in few):
        return None
    return Purpose(Texts(), f"its output has the probabilities of {shape[-1]} characters for each of {steps} steps")


def _image(shape: tuple[int, ...], few: Sequence[NDArray[np.float64]], known: Evidence) -> Purpose | None:
    if len(shape) != 3 or len(known.image) != 3 or shape[0] != known.image[0] or shape[0] not in (1, 3):
        return None
    times = {out / side for out, side in zip(shape[1:], known.image[1:])}
    if len(times) != 1 or not (factor := times.pop()).is_integer() or not few:
        return None
    if shape[0] == 1 and factor == 1:  # a map of something, as well
        return None
    low, high = min(row.min() for row in few), max(row.max() for row in few)
    for bottom, top in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        span = top - bottom
        if low >= bottom - OVER * span and high <= top + OVER * span and high - low >= USED * span:
            size = "as large as" if factor == 1 else f"{factor:g} times as large as"
            why = f"its output is an image {size} the input, with values of {bottom:g} to {top:g}"
            return Purpose(Images(low=bottom, high=top), why)
    return None


def _map(shape: tuple[int, ...], few: Sequence[NDArray[np.float64]], known: Evidence) -> Purpose | None:
    sides = shape[-2:]
    if len(shape) < 2 or not known.image or any(s * MAP_SHARE < side for s, side in zip(sides, known.image[1:])):
        return None
    if math.prod(shape) == math.prod(sides):
        if few and all(row.min() >= 0 and row.max() <= 1 for row in few):
            return Purpose(Segmentation(axis=-1), "its output is one map of values from 0 to 1")
        return None
    if len(shape) == 3 and known.names is not None and len(known.names) == shape[0] > 1:
        return Purpose(Segmentation(axis=0), "its output has one map for each class name")
    return None
