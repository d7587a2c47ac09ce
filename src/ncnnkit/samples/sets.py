"""The two sets of a run: images to calibrate with, and images to evaluate with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError, meant_path
from ..progress import Progress
from .finding import Sources, find_images, in_words, paths
from .images import ImageSet, apart
from .items import InputSpec
from .preprocess import Preprocess


def check_given(images: Sources, eval_images: Sources) -> None:
    """Whether there are images at all, which shows before a model is opened.

    Raises:
        ImageError: none are given, or a path does not exist.
    """
    if not images:
        raise ImageError(
            "no images are given",
            hint="--images FOLDER with a few dozen photographs like those that the model will see",
        )
    for name in filter(None, (*paths(images), *paths(eval_images))):
        path = Path(name)
        if not path.exists():
            raise ImageError("no such file or folder", where=name, hint=meant_path(path) or "give a folder of images")


def open_image_sets(
    images: Sources,
    eval_images: Sources,
    preprocess: Preprocess | None,
    specs: Sequence[InputSpec],
    most: int,
    progress: Progress,
) -> tuple[ImageSet, ImageSet]:
    """(images to calibrate with, images to evaluate with); no image is in both.

    Args:
        images: a folder or file, or one for each input.
        eval_images: another to evaluate with; empty: a part of the images is kept for that.
        most: so many are enough to calibrate with. They are chosen before any image is decoded.
        progress: called with (images looked at, images to look at).
    """
    found = find_images(images, preprocess, specs, progress).distinct()
    if eval_images:
        ours, theirs = ([Path(path).resolve() for path in paths(each)] for each in (images, eval_images))
        if ours == theirs:
            hint = "leave --eval-images out"
            raise ImageError("are also the calibration images", where=in_words(eval_images), hint=hint)
        evaluation = find_images(eval_images, preprocess, specs, progress).distinct()
        found, evaluation = apart(found, evaluation)
    else:
        found, evaluation = found.split()
    return found.checked(most, progress), evaluation.checked(progress=progress)
