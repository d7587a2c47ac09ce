"""The known tasks, and how the user names one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from ..errors import RecipeError
from .classification import Classification
from .decoder import Decoder
from .detection import Detection
from .embedding import Embedding
from .figures import OUTPUTS, Figure
from .guess import DETECTORS
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


@dataclass(frozen=True)
class Asked:
    """The parsed value of ``--task``.

    Attributes:
        name: the name of the task; empty if none was given.
        values: attribute -> its value.
        head: the name of the head of a detector.
        alphabet: a file with the characters of a text reader, one per line.
    """

    name: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    head: str = ""
    alphabet: str = ""

    @classmethod
    def of(cls, text: str) -> Asked:
        """Parse the value. For a user's own class, ``package.module:Name``, only the name is known.

        Raises:
            RecipeError: there is no such task, attribute or head, or a value is not of its type.

        Example:
            >>> Asked.of("detection:head=yolox").head
            'yolox'
        """
        name, _, rest = text.partition(":")
        if name not in TASKS:
            if not text or rest:
                return cls(text)
            hint = f"{', '.join(TASKS)}, or package.module:Name"
            raise RecipeError(f"unknown task {text!r}", where="task", hint=hint)
        kind = TASKS[name]
        numbers = _numbers(kind)
        words = ["head"] if issubclass(kind, Detection) else ["alphabet"] if kind is Texts else []
        values: dict[str, float] = {}
        said: dict[str, str] = {}
        for item in filter(None, rest.split(",")):
            key, equals, value = item.partition("=")
            if key not in (*numbers, *words) or not equals:
                hint = f"attributes: {', '.join((*numbers, *words)) or 'none'}"
                raise RecipeError(f"{item!r} is not an attribute of {name}", where="task", hint=hint)
            try:
                if key in words:
                    said[key] = value
                else:
                    values[key] = type(numbers[key])(value)
                    if not abs(values[key]) <= _LARGEST:  # also not a number
                        raise ValueError
            except ValueError:
                what = f"{item[:80]!r}: {value[:80]!r} is not a valid number"
                raise RecipeError(what, where="task") from None
        if said.get("head", DETECTORS[0]) not in DETECTORS:
            raise RecipeError(f"unknown head {said['head']!r}", where="task", hint=", ".join(DETECTORS))
        return cls(name, values, **said)

    def applied(self, task: Task) -> Task:
        """A task with the attributes that the user gave."""
        return dataclasses.replace(task, **cast(Any, self.values))


_LARGEST = (1 << 31) - 1  # of an attribute: an app stores it in 32 bits


def _numbers(kind: type[Task]) -> dict[str, float]:
    """The attributes of a task that are numbers, with their defaults."""
    return {each.name: each.default for each in dataclasses.fields(kind) if isinstance(each.default, int | float)}


def named_task(text: str, decoder: Decoder | None) -> Task:
    """The task that a user names, such as ``segmentation``, ``segmentation:threshold=0.3`` or ``my.tasks:Defects``.

    Args:
        text: a name in :data:`TASKS`, with values for its attributes after a colon; or a class, such as
            ``package.module:Name``.
        decoder: the decoder of the network, if known. It completes what the user does not give, such as the axis of the
            classes, or the alphabet. A head or an alphabet in ``text`` was used to find it.

    Raises:
        RecipeError: there is no such task or attribute, a value is not of its type, or a detector has no decoder.

    Example:
        >>> named_task("segmentation:threshold=0.3,axis=-1", None).threshold
        0.3
    """
    asked = Asked.of(text)
    if asked.name not in TASKS:
        return own_task(text)()
    kind = TASKS[asked.name]
    if issubclass(kind, Detection):
        if decoder is None or decoder.kind != "boxes":
            hint = f"--task {asked.name}:head=NAME ({', '.join(DETECTORS)}), or a class of your own that decodes them"
            raise RecipeError("no decoder is known for the outputs of this network", where="task", hint=hint)
        if missing := next((part for part in kind.reads if part not in decoder.parts), ""):
            raise RecipeError(f"the decoder of this network has no {missing}", where="task", hint="--task detection")
        return kind(decoder=decoder)
    known = decoded_task(decoder) if decoder else None
    return asked.applied(known if isinstance(known, kind) else kind())


def asked_task(task: str | type[Task], metric: str | Callable[..., Any]) -> Task | type[Task] | None:
    """The task that the user named, before anything is known about the network; None if there is none.

    Args:
        task, metric: as in a recipe, or a class and a function.

    Raises:
        RecipeError: there is no such task, attribute or function, or both are given.
    """
    if task and metric:
        raise RecipeError("--task and --metric exclude each other", hint="your own task class can have any figures")
    if metric:
        return own_metric(metric)
    if not isinstance(task, str):
        return own_task(task)
    name = Asked.of(task).name
    return TASKS.get(name) or own_task(task) if name else None


def decoded_task(decoder: Decoder, shapes: Sequence[tuple[int, ...]] = ()) -> Task | None:
    """The task of a network with a decoder; None if the decoder does not determine it.

    Args:
        decoder: the decoder of the network.
        shapes: the shapes of its outputs, without the batch axis, if known. The best classes of a vector or of a
            sequence are not a map.
    """
    (table, *_), axis = decoder.tables, decoder.axis
    if decoder.kind == "boxes":
        return (Pose if decoder.keypoints[0] else Instances if decoder.prototypes else Detection)(decoder=decoder)
    if decoder.kind == "ctc":
        return Texts(output=table.output, axis=axis, blank=decoder.blank, alphabet=decoder.alphabet)
    if decoder.kind == "points":
        return Landmarks(output=table.output, dims=decoder.keypoints[1], apart=int(table.layout == "columns"))
    if shapes and len(shapes[table.output]) < 3:
        return None
    if decoder.classes == 1:
        least = decoder.score_threshold
        values = math.log(least / (1 - least)) if decoder.scores == "sigmoid" and 0 < least < 1 else least
        return Segmentation(output=table.output, axis=-1, threshold=values)
    sides = len(shapes[table.output]) if shapes else 3  # counted from the front, because -1 means that there is one map
    return Segmentation(output=table.output, axis=axis % sides)


def spelled(task: Task) -> str:
    """A task in the form that :func:`named_task` takes, without its decoder; empty for a class that a user wrote.

    Example:
        >>> spelled(Segmentation(threshold=0.3))
        'segmentation:threshold=0.3'
    """
    if type(task) not in TASKS.values():
        return ""
    numbers = _numbers(type(task))
    changed = {key: value for key, default in numbers.items() if (value := getattr(task, key)) != default}
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
