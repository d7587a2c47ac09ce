"""The tasks there are, and how the user names one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from ..errors import RecipeError
from .classification import Classification
from .decoder import Decoder
from .detection import Detection
from .embedding import Embedding
from .figures import OUTPUTS, Figure
from .images import Images
from .instances import Instances
from .landmarks import Landmarks
from .own import own_metric, own_task
from .pose import Pose
from .segmentation import Segmentation
from .task import Task
from .tensor import Tensors
from .text import Texts

_ALL: tuple[type[Task], ...] = (
    Classification, Detection, Pose, Segmentation, Instances, Landmarks, Images, Texts, Embedding, Tensors,
)  # fmt: skip
TASKS: Mapping[str, type[Task]] = MappingProxyType({task.name: task for task in _ALL})
"""Name -> task, as ``--task`` takes it."""


def named_task(text: str, decoder: Decoder | None) -> Task:
    """The task that a user names, such as ``segmentation``, ``segmentation:threshold=0.3`` or ``my.tasks:Defects``.

    Args:
        text: a name of :data:`TASKS`, with values for its attributes behind a colon; or a class, as
            ``package.module:Name``.
        decoder: of the network, where one is known.

    Raises:
        RecipeError: there is no such task or attribute, a value is not of its type, or a detector has no decoder.

    Example:
        >>> named_task("segmentation:threshold=0.3,axis=-1", None).threshold
        0.3
    """
    kind, values = chosen_task(text)
    if issubclass(kind, Detection):
        if decoder is None or decoder.kind != "boxes":
            hint = "give --task with a class of your own that decodes them"
            raise RecipeError("no decoder is known for the outputs of this network", where="task", hint=hint)
        if missing := next((part for part in kind.reads if part not in decoder.parts), ""):
            raise RecipeError(f"the decoder of this network reads no {missing}", where="task", hint="--task detection")
        return kind(decoder=decoder)
    return kind(**cast(Any, values))


def chosen_task(text: str) -> tuple[type[Task], dict[str, float]]:
    """The class of the task that a user names, and its attributes; see :func:`named_task`.

    Raises:
        RecipeError: there is no such task or attribute, or a value is not of its type.
    """
    name, _, rest = text.partition(":")
    if name not in TASKS:
        if rest:
            return own_task(text), {}
        raise RecipeError(f"unknown task {text!r}", where="task", hint=f"{', '.join(TASKS)}, or package.module:Name")
    kind = TASKS[name]
    fields = {field.name: field.default for field in dataclasses.fields(kind) if isinstance(field.default, int | float)}
    values: dict[str, float] = {}
    for item in filter(None, rest.split(",")):
        key, equals, number = item.partition("=")
        if key not in fields or not equals:
            known = ", ".join(fields) or "none"
            raise RecipeError(f"{item!r} is not an attribute of {name}", where="task", hint=f"attributes: {known}")
        try:
            values[key] = type(fields[key])(number)
        except ValueError:
            raise RecipeError(f"{item!r}: {number!r} is not a number of its kind", where="task") from None
    return kind, values


def asked_task(task: str, metric: str) -> Task | type[Task] | None:
    """What the user says of the task, before anything is known of the network; None where that is nothing.

    Args:
        task, metric: as in a recipe.

    Raises:
        RecipeError: there is no such task or function, or both are given.
    """
    if task and metric:
        raise RecipeError("--task and --metric exclude each other", hint="a task of your own has any figures")
    if metric:
        return own_metric(metric)
    return chosen_task(task)[0] if task else None


def decoded_task(decoder: Decoder, shapes: Sequence[tuple[int, ...]]) -> Task | None:
    """The task of a network with a decoder; None where the decoder does not tell it.

    Args:
        decoder: of the network.
        shapes: of its outputs, without the batch axis.
    """
    (table, *_), axis = decoder.tables, decoder.axis
    if decoder.kind == "boxes":
        return (Pose if decoder.keypoints[0] else Instances if decoder.prototypes else Detection)(decoder=decoder)
    if decoder.kind == "ctc":
        return Texts(output=table.output, axis=axis, blank=decoder.blank)
    if decoder.kind == "points":
        return Landmarks(output=table.output, dims=decoder.keypoints[1], apart=int(table.layout == "columns"))
    return Segmentation(output=table.output, axis=axis) if len(shapes[table.output]) >= 3 else None


def spelled(task: Task) -> str:
    """A task as :func:`named_task` takes it, without its decoder; empty for a class that a user wrote.

    Example:
        >>> spelled(Segmentation(threshold=0.3))
        'segmentation:threshold=0.3'
    """
    if type(task) not in TASKS.values():
        return ""
    fields = [field for field in dataclasses.fields(task) if isinstance(field.default, int | float)]
    changed = {f.name: value for f in fields if (value := getattr(task, f.name)) != f.default}
    return ":".join(filter(None, [task.name, ",".join(f"{key}={value:g}" for key, value in changed.items())]))


def all_figures(*others: Task | type[Task]) -> Mapping[str, Figure]:
    """Every figure that a requirement may name, by its name.

    Args:
        others: tasks that are not in :data:`TASKS`.
    """
    found = dict(OUTPUTS)
    for task in (*TASKS.values(), *others):
        found |= task.figures
    return found
