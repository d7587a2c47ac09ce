"""Whether a network classifies: :func:`what_it_classifies` goes by evidence, not by the shape of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .outputs import Outputs

LOOKED_AT = 64  # samples: that values add up to one by chance is out of the question after a few
SUM = 1e-3  # how far probabilities may be from adding up to one


@dataclass(frozen=True)
class Classes:
    """The facts about a network's classes.

    Attributes:
        count: number of classes; 0: the network is not known to classify.
        why: the evidence for it; or, where a vector of scores could be one of classes, what is missing.
    """

    count: int
    why: str = ""

    def __bool__(self) -> bool:
        return self.count > 0


def what_it_classifies(
    reference: Outputs, *, names: Sequence[str] | None = None, known: int | None = None, labelled: bool = False
) -> Classes:
    """The classes of a network, by evidence.

    A network classifies if it has one output, which is a vector of two or more values, and one of these holds:

    1. there is a label for each evaluation image: who labels images knows that the network classifies;
    2. the model brings class names, as many as the vector has values;
    3. the library that built the model says that it has that many classes;
    4. the original's outputs are probabilities: none is negative, and those of each image add up to one.

    A vector alone is no evidence: embeddings, landmarks and regressions are vectors, too.

    Args:
        reference: the original's outputs.
        names: class names that the model brings.
        known: the number of classes that its library states.
        labelled: whether there are labels of the images.
    """
    shapes = list(reference.shapes.values())
    values = math.prod(shapes[0]) if len(shapes) == 1 else 0
    if values < 2 or values != max(shapes[0]):
        return Classes(0)
    if labelled:
        return Classes(values, "there are labels of the images")
    if names is not None and len(names) == values:
        return Classes(values, "the model brings a name for each value")
    if known == values:
        return Classes(values, "the model's library states the number of its classes")
    few = (np.asarray(row, np.float64) for (row,) in islice(reference, LOOKED_AT))
    if len(reference) and all(row.min() >= 0 and abs(row.sum() - 1) < SUM for row in few):
        return Classes(values, "its outputs are probabilities: they add up to one")
    missing = f"the output is a vector of {values} values, but nothing says that these are scores of classes"
    if names:
        missing += f": there are {len(names)} class names"
    return Classes(0, missing)


def check_labels(labels: NDArray[np.int64] | None, classes: Classes) -> None:
    """Raises ImageError where labels are given that the network's outputs cannot be compared with."""
    if labels is None:
        return
    if not classes:
        raise ImageError("labels are given, but the network is not a classifier", hint="leave --labels out")
    if labels.max() >= classes.count:
        raise ImageError(
            f"class {labels.max()} is given, but the network has {classes.count} classes (0 to {classes.count - 1})"
        )
