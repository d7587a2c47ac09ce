"""Labels of samples, as ``--labels`` gives them: classes, boxes, texts or pictures."""

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
"""The label of one sample: a class, boxes, a text, or a picture (a mask, or the image that the network should make)."""


@dataclass(frozen=True)
class Kind:
    """A kind of labels.

    Attributes:
        expects: the files that contain them, in words.
        forms: the forms of the files, as :func:`_forms` names them.
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
"""Name -> kind of labels. If the task is unknown, the first kind that fits the files is taken."""


@dataclass(frozen=True)
class Labels:
    """The labels of some samples.

    Attributes:
        kind: a key of :data:`KINDS`.
        values: the label of each sample.
        path: the file or folder from which they are read.
    """

    kind: str
    values: Sequence[Label]
    path: str

    def subset(self, indices: Sequence[int]) -> Labels:
        """The labels of the samples at these positions, in this order."""
        return replace(self, values=[self.values[index] for index in indices])

    def in_words(self) -> str:
        """A description such as ``boxes of 12 samples, from val/instances.json``."""
        return f"{self.kind} of {counted(len(self.values), 'sample')}, from {self.path}"


def read_labels(
    path: str | Path, samples: ImageSet, *, kind: str = "", names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None, posed: bool = False,
) -> Labels:  # fmt: skip
    """Read the label of each sample. Pictures are only found; they are read when they are needed.

    Args:
        path: a file or folder.
        samples: the samples.
        kind: the kind of labels for the network's task, a key of :data:`KINDS`; empty to choose it by the files.
        names: the names of the network's classes, if known.
        preprocess: how the images are prepared.
        posed: whether the network finds keypoints; see :func:`~ncnnkit.samples.boxes.read_boxes`.

    Raises:
        ImageError: the files are not of this kind, a line or file is wrong, or a sample has no label.
    """
    path = Path(path)
    forms = _forms(path)
    fitting = [each for each, row in KINDS.items() if row.forms & forms]
    if (kind and kind not in fitting) or not fitting:
        expected = KINDS[kind].expects if kind else "; ".join(f"{each}: {row.expects}" for each, row in KINDS.items())
        found = "a folder with files " + ", ".join(sorted(forms)) if path.is_dir() else next(iter(forms))
        found = found if forms else "an empty folder"
        raise ImageError(f"is {found}, which contains no {kind or 'labels'}", where=str(path), hint=f"give {expected}")
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
    """The form of a path: :data:`LINES` or :data:`JSON`, or the extensions of the files in a folder."""
    if path.is_dir():
        return frozenset(file.suffix.lower() for file in path.rglob("*") if file.suffix and file.is_file())
    if not path.exists():
        raise ImageError("no such file or folder", where=str(path))
    return frozenset({JSON if path.suffix.lower() == ".json" else LINES})
