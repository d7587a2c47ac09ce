"""The records of the images of a run in run.json."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..samples.images import ImageSet, dropped_copies


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file that could not be used.

    Attributes:
        name: the file.
        reason: why it was skipped.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CopiedFile:
    """A sample that was dropped as a duplicate.

    Attributes:
        name: the sample.
        of: the sample that was kept.
    """

    name: str
    of: str


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images for calibration and evaluation.

    No sample is in both sets. A sample in both was removed from the larger set.

    Attributes:
        source: the recipe's ``images``.
        available: number of images given for calibration.
        calibration: number of images chosen from these: as many as the effort uses, evenly spread. Only the chosen
            images were decoded.
        fitted: number of chosen images to which thresholds, weights and biases were fitted; 0 if nothing was quantised.
        held_back: number of chosen images on which methods were judged and the accuracy of plans was measured. If fewer
            than five were given, they are the same as the fitted images.
        evaluation: number of images on which the errors of the variants were measured. They were used for nothing else.
        skipped: files that could not be used.
        copies: samples that were dropped as duplicates.
    """

    source: str
    calibration: int
    evaluation: int
    skipped: list[SkippedFile]
    available: int = 0
    fitted: int = 0
    held_back: int = 0
    copies: list[CopiedFile] = field(default_factory=list)


def images_record(source: str, images: ImageSet, evaluation: ImageSet, *, fitted: int, held_back: int) -> Images:
    """The record of the images. If both sets come from one folder, they list the same skipped files and copies."""
    return Images(
        source=source,
        available=len(images) + images.left_out,
        calibration=len(images),
        fitted=fitted,
        held_back=held_back,
        evaluation=len(evaluation),
        skipped=[
            SkippedFile(name=name, reason=reason) for name, reason in dict.fromkeys(images.skipped + evaluation.skipped)
        ],
        copies=[CopiedFile(name=name, of=of) for name, of in dropped_copies(images, evaluation)],
    )
