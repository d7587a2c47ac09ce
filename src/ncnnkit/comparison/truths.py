"""Converts labels to the form that a task compares predictions with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, overload

import numpy as np

from ..errors import ImageError
from ..samples.boxes import LabelledBoxes
from ..samples.labels import KINDS, Labels
from ..samples.preprocess import Preprocess
from ..samples.targets import LabelPicture
from ..tasks import Boxes, ClassMap, Task
from ..tasks.classification import Classification
from ..tasks.guess_others import with_blank
from ..tasks.images import Images, Target
from ..tasks.instances import Instances
from ..tasks.segmentation import Segmentation
from ..tasks.text import Texts


@dataclass(frozen=True)
class Read(Sequence[Any]):
    """Labels of samples. Each is read when it is needed, because pictures are large."""

    values: Sequence[Any]
    make: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Read: ...
    def __getitem__(self, index: int | slice) -> Any:
        return Read(self.values[index], self.make) if isinstance(index, slice) else self.make(self.values[index])


def truths(
    labels: Labels | None, task: Task, *, size: tuple[int, int] = (0, 0), names: Sequence[str] = (),
    preprocess: Preprocess | None = None,
) -> Sequence[Any] | None:  # fmt: skip
    """Labels in the form that :meth:`Task.compare` takes.

    Args:
        labels: the labels that were read; None if there are none.
        task: the task of the network, with the shapes of its outputs.
        size: (height, width) of the image that the network takes.
        names: the names of the classes. For texts these are the characters, if the task has no alphabet.
        preprocess: how the images were prepared.

    Raises:
        ImageError: the task takes other labels or none, or the labels have a class or character that the network lacks.
    """
    if labels is None:
        return None
    if not task.labels:
        hint = "leave --labels out, or name the task with --task"
        raise ImageError(f"labels are given, but the task {task.name} has no figures against labels", hint=hint)
    if labels.kind != task.labels:
        raise ImageError(
            f"contains {labels.kind}, but the task {task.name} needs {task.labels}",
            where=labels.path,
            hint=f"give {KINDS[task.labels].expects}; or name the task with --task",
        )
    return Read(labels.values, _maker(labels, task, size, names, preprocess))


def _maker(
    labels: Labels, task: Task, size: tuple[int, int], names: Sequence[str], preprocess: Preprocess | None
) -> Callable[[Any], Any]:
    if isinstance(task, Classification):
        count, most = math.prod(task.shapes[0]), max(cast(Sequence[int], labels.values))
        if most >= count:
            had = f"the network has {count} classes (0 to {count - 1})"
            raise ImageError(f"class {most} is given, but {had}", where=labels.path)
        return int
    if isinstance(task, Texts):
        classes = task.shapes[task.output][task.axis]
        characters = task.alphabet or names
        codes = characters if len(characters) == classes else with_blank(characters, classes)
        known = {character: code for code, character in enumerate(codes) if character and code != task.blank}
        if not known:
            hint = "--task text:alphabet=FILE, a file with one character per line"
            raise ImageError("the characters of the network are not known, so texts cannot be compared", hint=hint)
        return lambda text: tuple(known.get(character, -1) for character in text)
    if isinstance(task, Segmentation):
        classes = 1 if task.axis < 0 else task.shapes[task.output][task.axis]
        return lambda picture: ClassMap(picture.mask(classes))
    if isinstance(task, Images):
        shape = task.shapes[task.output]
        channels, (height, width) = shape[0] if len(shape) == 3 else 1, shape[-2:]
        scale = height // size[0] if size[0] else 0
        if not scale or (height, width) != (size[0] * scale, size[1] * scale) or channels not in (1, 3):
            had = "x".join(map(str, shape))
            raise ImageError(
                f"the output, {had}, is not an image of the input's size or a whole multiple of it", where=labels.path
            )
        bgr = preprocess is not None and preprocess.color in ("bgr", "bgra")

        def target(picture: LabelPicture) -> Target:
            pixels, top, left = picture.target(channels, scale, bgr=bgr)
            return Target(task.low + (task.high - task.low) * (pixels / 255.0), top, left)

        return target
    if isinstance(task, Instances):

        def objects(label: LabelledBoxes) -> Boxes:
            try:
                return replace(_boxes(label), masks=label.masks(task.mask_shape))
            except ImageError as error:
                raise ImageError(error.what, where=labels.path, hint=error.hint) from None

        return objects
    return _plain


def _plain(label: Any) -> Any:
    """A label for a detector, or for a task that a user wrote."""
    return _boxes(label) if isinstance(label, LabelledBoxes) else label


def _boxes(label: LabelledBoxes) -> Boxes:
    return Boxes(label.xyxy, np.ones(len(label.labels), np.float32), label.labels)
