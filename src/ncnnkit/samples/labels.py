"""The truth about samples, as ``--labels`` gives it: classes, boxes, texts or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..formatting import counted
from .boxes import READERS, LabelledBoxes, read_boxes
from .classes import read_classes
from .images import ImageSet
from .preprocess import Preprocess
from .targets import ENDINGS, LabelPicture, read_pictures
from .texts import ENDING, read_texts

Label = int | LabelledBoxes | str | LabelPicture
"""The truth about one sample: a class, boxes, a text, or a picture: a mask, or the image to make."""


@dataclass(frozen=True)
class Kind:
    """A kind of labels.

    Attributes:
        expects: the files that hold them.
        forms: of the files, as :func:`_forms` names them.
    """

    expects: str
    forms: frozenset[str]


LINES, JSON = "a text file", "a .json file"

KINDS = {
    "classes": Kind("a file with lines 'file class'", frozenset({LINES})),
    "boxes": Kind(
        "a .json file as COCO writes it, or a folder with a .txt (YOLO) or .xml (Pascal VOC) file for each image",
        frozenset({JSON, *READERS}),
    ),
    "pictures": Kind("a folder with a picture for each image, which has the image's name", frozenset(ENDINGS)),
    "texts": Kind(
        "a file with lines 'file<tab>text', or a folder with a .txt file for each sample", frozenset({LINES, ENDING})
    ),
}
"""The kinds of labels by their names. Where nothing is known of the task, the first kind that fits the files counts."""


@dataclass(frozen=True)
class Labels:
    """The truth about some samples.

    Attributes:
        kind: a key of :data:`KINDS`.
        values: of each sample.
        path: where they are from.
    """

    kind: str
    values: Sequence[Label]
    path: str

    def subset(self, indices: Sequence[int]) -> Labels:
        """Those of the samples at these positions, in this order."""
        return replace(self, values=[self.values[index] for index in indices])

    def in_words(self) -> str:
        """What was read: ``boxes of 12 samples, from val/instances.json``."""
        return f"{self.kind} of {counted(len(self.values), 'sample')}, from {self.path}"


def read_labels(
    path: str | Path, samples: ImageSet, *, kind: str = "", names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None, posed: bool = False,
) -> Labels:  # fmt: skip
    """The truth about each sample. Pictures are only looked for, and read when they are needed.

    Args:
        path: a file or folder.
        samples: the samples.
        kind: which labels the network can be compared with, a key of :data:`KINDS`; empty: it follows from the files.
        names: of the network's classes, where they are known.
        preprocess: how the images are prepared.
        posed: whether the network finds keypoints; see :func:`~ncnnkit.samples.boxes.read_boxes`.

    Raises:
        ImageError: the files are none of this kind, a line or file is wrong, or a sample has no label.
    """
    path = Path(path)
    forms = _forms(path)
    fitting = [each for each, row in KINDS.items() if row.forms & forms]
    if (kind and kind not in fitting) or not fitting:
        expected = KINDS[kind].expects if kind else "; ".join(f"{each}: {row.expects}" for each, row in KINDS.items())
        found = "a folder with files " + ", ".join(sorted(forms)) if path.is_dir() else next(iter(forms))
        found = found if forms else "an empty folder"
        raise ImageError(f"is {found}, which holds no {kind or 'labels'}", where=str(path), hint=f"give {expected}")
    kind = kind or fitting[0]
    placements = [samples.placement(index) for index in range(len(samples))] if kind in ("boxes", "pictures") else []
    values: Sequence[Any]
    if kind == "classes":
        values = [int(label) for label in read_classes(path, samples.names, names)]
    elif kind == "boxes":
        values = read_boxes(path, samples.names, placements, names, posed=posed)
    elif kind == "texts":
        values = read_texts(path, samples.names)
    else:
        values = read_pictures(path, samples.names, placements, preprocess.interpolation if preprocess else "bilinear")
    return Labels(kind, values, str(path))


def _forms(path: Path) -> frozenset[str]:
    """What a path holds: one of :data:`LINES` and :data:`JSON`, or the endings of the files in a folder."""
    if path.is_dir():
        return frozenset(file.suffix.lower() for file in path.rglob("*") if file.suffix and file.is_file())
    if not path.exists():
        raise ImageError("no such file or folder", where=str(path))
    return frozenset({JSON if path.suffix.lower() == ".json" else LINES})
