"""The purpose of a network: given by the user, or guessed from evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ..errors import NcnnkitError, RecipeError
from ..formatting import object_name
from ..tasks import Decoder, Task
from ..tasks.classification import Classification
from ..tasks.guess import doubt, guess
from ..tasks.known import Known
from ..tasks.own import own_metric, own_task
from ..tasks.table import TASKS, Asked, decoded_task, named_task
from ..tasks.tensor import Tensors
from .outputs import Outputs

LOOKED_AT = 64  # samples; values do not add up to one by chance for so many samples
LOOKED_AT_VALUES = 1 << 20  # values of all these samples together


@dataclass(frozen=True)
class Purpose:
    """What a network is for, with the evidence.

    Attributes:
        task: the task.
        why: the evidence, as a clause.
        doubt: another possible purpose, as a sentence for the user; empty if there is none.
        decoder: how the outputs become a prediction; None if unknown.
    """

    task: Task
    why: str
    doubt: str = ""
    decoder: Decoder | None = None

    @property
    def classes(self) -> int:
        """The number of classes of a classifier; 0 for other networks."""
        return math.prod(self.task.shapes[0]) if isinstance(self.task, Classification) else 0


def find_task(
    reference: Outputs,
    known: Known,
    decoder: tuple[Decoder | None, str] = (None, ""),
    *,
    task: str | type[Task] = "",
    metric: str | Callable[..., Any] = "",
) -> Purpose:
    """The task that the user names; otherwise the task that the evidence suggests.

    Args:
        reference: the original's outputs.
        known: other evidence about the original. Its ``samples`` are taken from ``reference``.
        task, metric: as in the recipe, or a class and a function; empty if not given.

    Raises:
        RecipeError: there is no such task, or it cannot read these outputs.
    """
    known = replace(known, samples=_few(reference))
    if metric:
        own = own_metric(metric)
        found = Purpose(own, f"--metric {own.function_name} was given", decoder=known.decoder)
    elif task:
        found = _asked(task, known)
    else:
        found = guess_task(known, list(reference.shapes.values()))
    made = replace(found.task, shapes=tuple(reference.shapes.values()))
    if task or metric:
        _try(made, reference)
    return replace(found, task=made)


def _few(reference: Outputs) -> list[Sequence[Any]]:
    """The outputs for some samples: so many that they do not share a property by chance."""
    values = sum(abs(math.prod(shape)) for shape in reference.shapes.values())
    return list(islice(reference, min(LOOKED_AT, max(1, LOOKED_AT_VALUES // max(values, 1)))))


def _asked(text: str | type[Task], known: Known) -> Purpose:
    """The task that the user names. Its decoder or attributes are guessed if the user does not give them."""
    if not isinstance(text, str):
        return Purpose(own_task(text)(), f"--task {object_name(text)} was given", decoder=known.decoder)
    asked, decoder = Asked.of(text), known.decoder
    if decoder is None and asked.name in TASKS:
        found = guess(known, asked.name)
        if found and isinstance(found[0], Decoder):
            decoder = found[0]
        elif found and isinstance(found[0], TASKS[asked.name]):
            return Purpose(asked.applied(found[0]), f"--task {text} was given")
    return Purpose(named_task(text, decoder), f"--task {text} was given", decoder=decoder)


def _try(task: Task, reference: Outputs) -> None:
    """Raise RecipeError if a task that the user chose fails on the original's own outputs."""
    try:
        prediction = task.predict(task.shaped(reference[0]))
        task.summarise([task.compare(prediction, prediction)])
    except NcnnkitError:
        raise
    except Exception as error:  # a task that a user wrote may raise anything
        said = f"{type(error).__name__}: {error}"
        raise RecipeError(f"it cannot read the outputs of this network: {said}", where=f"task {task.name}") from None


def guess_task(known: Known, shapes: Sequence[tuple[int, ...]]) -> Purpose:
    """Guess what a network is for: from its decoder, otherwise from the first match in
    :data:`ncnnkit.tasks.guess.HEADS`.

    A vector output alone is not enough evidence: embeddings, landmarks and regressions are vectors, too.

    Args:
        known: what is known about the network, with its outputs for a few samples.
        shapes: the shapes of its outputs; -1 for a side that differs from sample to sample.
    """
    told = known.decoder and (known.decoder, known.decoder_origin)
    for found in (told, guess(known)):
        if not found:
            continue
        made, why = found
        if isinstance(made, Task):
            return Purpose(made, why, decoder=known.decoder)
        if task := decoded_task(made, shapes):
            return Purpose(task, why or "its last operators, or its card, define how to decode it", decoder=made)
    if len(shapes) != 1:
        said = f"it has {len(shapes)} outputs of unknown meaning"
        return Purpose(Tensors(), said, decoder=known.decoder)
    return Purpose(Tensors(), "the meaning of its output is unknown", doubt(known), known.decoder)
