"""The two sets of a run: calibration images and evaluation images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ImageError, meant_path
from ..progress import Progress
from .finding import in_words, paths
from .given import find_samples, is_named
from .images import ImageSet, apart
from .items import InputSpec
from .preprocess import Preprocess


def check_given(images: Any, eval_images: Any) -> None:
    """Check that there are images, before a model is opened.

    Raises:
        ImageError: no images are given, or a path does not exist.
    """
    if is_named(images) and not images:
        raise ImageError(
            "no images are given",
            hint="--images FOLDER with a few dozen photographs like those that the model will see",
        )
    for name in (name for each in (images, eval_images) if is_named(each) and each for name in paths(each)):
        path = Path(name)
        if not path.exists():
            raise ImageError("no such file or folder", where=name, hint=meant_path(path) or "give a folder of images")


def open_image_sets(
    images: Any,
    eval_images: Any,
    preprocess: Preprocess | None,
    specs: Sequence[InputSpec],
    most: int,
    progress: Progress,
) -> tuple[ImageSet, ImageSet]:
    """(calibration images, evaluation images); no image is in both.

    Args:
        images: a folder or file, or one for each input; or samples, see :func:`ncnnkit.samples.given.find_samples`.
        eval_images: evaluation images. If it is an empty text, a part of ``images`` is held out for evaluation.
        most: the largest number of calibration images. They are chosen before any image is decoded.
        progress: called with (images examined, images to examine).
    """
    found = find_samples(images, preprocess, specs, progress).distinct()
    if is_named(eval_images) and not eval_images:
        found, evaluation = found.split()
    else:
        _refuse_same(images, eval_images)
        evaluation = find_samples(eval_images, preprocess, specs, progress, "eval_images").distinct()
        found, evaluation = apart(found, evaluation)
    return found.checked(most, progress), evaluation.checked(progress=progress)


def _refuse_same(images: Any, eval_images: Any) -> None:
    """Raise ImageError if the sources of both sets are the same."""
    hint = "omit --eval-images"
    if is_named(images) and is_named(eval_images):
        ours, theirs = ([Path(path).resolve() for path in paths(each)] for each in (images, eval_images))
        if ours == theirs:
            raise ImageError("are also the calibration images", where=in_words(eval_images), hint=hint)
    elif images is eval_images:
        raise ImageError("are also the calibration images", where="eval_images", hint=hint)
