"""Opens a recipe's model with its images: chooses the preprocessing, reads labels, sets up random weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifact import Artifact
from ..errors import ImageError, ModelError, RecipeError
from ..onboard.picture import Tiles
from ..recipe import Recipe
from ..record.environment import installed
from ..samples.axes import image_axes, likely_layout
from ..samples.doubts import copies_said, preprocessing_doubts
from ..samples.finding import find_images
from ..samples.images import ImageSet
from ..samples.items import InputSpec, completed, fit, image_input
from ..samples.labels import Labels, read_labels
from ..samples.preprocess import NO_IMAGE, Preprocess
from ..samples.presets import default_preprocess, preset
from ..samples.stream import in_memory
from ..tasks import Task
from ..tasks.pose import Pose
from . import ModelSource, open_model
from .torch_models import BUILDERS

GUESSED = "a guess: "
"""The origin of a guessed preprocessing begins with this."""

GUESS = f"{GUESSED}resized to the input's size, RGB, ImageNet's mean and std"

ARRAYS = "none: the inputs are arrays"
"""The origin if samples are not images."""

WAVEFORMS = "none: the inputs are recordings with {} samples a second, from -1 to 1"
"""The origin if samples are recordings."""

STATISTICS_IMAGES = 16  # at most, for the batch-norm statistics of a network with random weights
STATISTICS_PIXELS = STATISTICS_IMAGES * 224 * 224  # so many are enough


def choose_preprocess(source: ModelSource, name: str, fields: Mapping[str, Any]) -> tuple[Preprocess | None, str]:
    """The preprocessing, and a text that names its origin: the user, the model itself, or a guess.

    If there are several inputs, the first one for images decides. Images of the others are resized to their own sizes.

    Args:
        source: the opened model.
        name: of a preset; empty if none is asked for.
        fields: fields of Preprocess that the user gave. They take precedence over all others.

    Returns:
        (preprocessing, origin). The preprocessing is None if the network takes arrays and no fields are given.

    Raises:
        RecipeError: there is no such preset, a field has a wrong value, or fields are given but several inputs take
            arrays.
    """
    several = len(source.inputs) > 1
    inputs = tuple(spec for spec in source.inputs if image_axes(spec.shape))[:1] if several else source.inputs
    if fields and not inputs:
        raise _for_arrays(fields, source.inputs)
    axes = image_input(inputs)
    if name:
        named = preset(name)
        found, origin = fit(named, inputs) or named, f"the preset {name}"
        if axes and found != named:
            origin += f", scaled to {axes.height}x{axes.width}"
    elif source.preprocess is not None:
        found, origin = source.preprocess, source.preprocess_origin
    elif axes:
        found, origin = default_preprocess(axes), GUESS
    elif fields:  # for arrays
        found, origin = Preprocess(color=NO_IMAGE, layout=likely_layout(inputs[0].shape)), GUESS
    else:
        return None, ARRAYS
    if fields:
        # A user who gives these means them for arrays, too.
        implied: dict[str, Any] = {"arrays": True} if {"divisor", "mean", "std"} & fields.keys() else {}
        if isinstance(fields.get("crop"), Tiles | Mapping):
            implied["resize"] = None  # tiles are cut from the image at its own size
        found = Preprocess.from_dict({**found.to_dict(), **implied, **fields})
        given = ", ".join(sorted(fields))
        origin = f"{given} as given" + ("" if origin == GUESS else f", the rest from {origin}")
    return completed(found, inputs) or found, origin


def _for_arrays(fields: Iterable[str], inputs: Sequence[InputSpec]) -> RecipeError:
    return RecipeError(
        f"{', '.join(sorted(fields))} cannot be given to a network with {len(inputs)} inputs that take arrays",
        hint="prepare the arrays before saving them, and leave these options out",
    )


def as_used(preprocess: Preprocess | None, origin: str, *sets: ImageSet) -> tuple[Preprocess | None, str]:
    """The preprocessing that the samples of these sets need, and its origin.

    Args:
        preprocess: as chosen for the model.
        origin: of that.
        sets: one or more sets of samples.

    Returns:
        (preprocessing, origin). The preprocessing is None if the samples are recordings, or arrays that need none.

    Raises:
        ImageError: recordings of the sets have different sample rates.
        RecipeError: several inputs take arrays, or the samples are recordings, but options ask for a normalisation.
    """
    inputs = sets[0].inputs
    rates = sorted(set().union(*(images.rates for images in sets)))
    if len(rates) > 1:
        said = " and ".join(map(str, rates))
        raise ImageError(f"the recordings have {said} samples a second", hint="resample them to one rate")
    if any(images.pictures for images in sets):
        return preprocess, origin
    if preprocess is not None and preprocess.arrays:
        if len(inputs) > 1:
            raise _for_arrays(("divisor", "mean", "std"), inputs)
        if not rates:
            return preprocess, origin
        raise RecipeError("the recordings are fed as they are", hint="leave --divisor, --mean and --std out")
    return None, WAVEFORMS.format(*rates) if rates else ARRAYS


KINDS_BY_DECODER = {"boxes": "boxes", "ctc": "texts"}
"""Kind of a decoder -> kind of the labels for its predictions. Used while the task is not known yet."""


def open_labels(
    path: str,
    samples: ImageSet,
    source: ModelSource,
    task: Task | type[Task] | None,
    preprocess: Preprocess | None,
) -> Labels | None:
    """The labels of a recipe; None if it has none.

    Args:
        path: of the labels, as in the recipe; empty if there are none.
        samples: the samples that the labels describe.
        source: the network.
        task: the task that the user named, if any.
        preprocess: of the images.

    Raises:
        ImageError: the labels cannot be read, or are not of the kind that the task needs.
    """
    if not path:
        return None
    if task is not None and not task.labels:
        raise ImageError(f"labels are given, but the task {task.name} uses none", hint="leave --labels out")
    kind = task.labels if task else KINDS_BY_DECODER.get(source.decoder.kind, "") if source.decoder else ""
    posed = task.name == Pose.name if task else source.decoder is not None and source.decoder.keypoints[0] > 0
    return read_labels(path, samples, kind=kind, names=source.labels, preprocess=preprocess, posed=posed)


def open_with_images(recipe: Recipe, most: int | None = None) -> tuple[Artifact, ImageSet, list[str]]:
    """Open an ncnn model and its images, for commands that do a single step of a run.

    Args:
        recipe: names the model, the images and the preprocessing.
        most: check only so many images; by default all.

    Returns:
        (model, images, sentences about the preprocessing to show to the user).

    Raises:
        ModelError: the model is not an ncnn model, or cannot be used.
        ImageError: the images cannot be used.
        RecipeError: the preprocessing cannot be used.
    """
    param = Path(recipe.model)
    if param.suffix != ".param":
        raise ModelError("is not an ncnn model", where=recipe.model, hint="ncnnkit convert makes one")
    source = open_model(recipe.model, shapes=recipe.shapes)
    model = Artifact.load(param)
    model.graph.set_input_shapes([spec.shape for spec in source.inputs])
    preprocess, origin = choose_preprocess(source, recipe.preset, recipe.preprocess)
    images = find_images(recipe.images, preprocess, source.inputs).distinct().checked(most)
    preprocess, origin = as_used(preprocess, origin, images)
    if preprocess is not None:  # models made from this one get the same preprocessing
        model = replace(model, preprocess=preprocess, pillow=installed("Pillow"), given=model.graph)
    doubts = preprocessing_doubts(images, source.inputs, preprocess)
    return model, images, [f"preprocessing: {origin}", *copies_said(images.copies), *doubts]


def statistics_count(shape: tuple[int, ...]) -> int:
    """The number of samples of a shape (channels first) that batch-norm statistics need. A video counts its frames."""
    return max(2, min(STATISTICS_IMAGES, STATISTICS_PIXELS // math.prod(shape[1:])))


def settle_random_weights(recipe: Recipe, source: ModelSource, images: ImageSet) -> ModelSource:
    """Set the batch-norm statistics of a network with random weights from images.

    Without them, the network gives nearly the same outputs for every image.
    """
    library, _, _ = recipe.model.partition(":")
    if recipe.weights != "none" or library not in BUILDERS or len(source.inputs) != 1:
        return source
    (sample,) = in_memory(images.subset(range(min(len(images), statistics_count(images[0][0].shape)))))
    return open_model(
        recipe.model,
        shapes=recipe.shapes,
        shape_too=recipe.shape_too,
        weights="none",
        statistics=sample,
        task=recipe.task,
    )
