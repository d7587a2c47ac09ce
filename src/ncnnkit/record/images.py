"""The images of a run, as run.json holds them."""

from __future__ import annotations

from ..samples.images import ImageSet, dropped_copies
from .run import CopiedFile, Images, SkippedFile


def images_record(source: str, images: ImageSet, evaluation: ImageSet, *, fitted: int, held_back: int) -> Images:
    """What the images were used for. Both halves of one folder know the same skipped files and copies."""
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
