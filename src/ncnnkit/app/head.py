"""Facts for the C++ code of a detector: where the numbers of a box are, and which formulas are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..tasks.decoder import Decoder, Layout, Part

_APART: tuple[Part, ...] = ("prototypes", "priors")
"""Parts that are not in rows. The program reads their outputs directly."""
_GRIDDED: tuple[Layout, ...] = ("maps", "planes", "stacks")


@dataclass(frozen=True)
class Source:
    """An output that fills some columns of the rows.

    Attributes:
        output: index of the output.
        begin: the first of these columns.
        wide: the number of these columns.
        layout: the order of the numbers in the output.
        each: the number of boxes per cell of its grid; 1 without a grid.
    """

    output: int
    begin: int
    wide: int
    layout: Layout
    each: int


@dataclass(frozen=True)
class BoxHead:
    """How a detector's outputs become rows, each with all numbers of a box, and what the formulas need.

    Attributes:
        decoder: the decoder.
        sources: the outputs that fill the rows, in the decoder's order. Outputs with the same first column are levels
            of a pyramid, and their rows are concatenated.
        wide: the length of a row.
        begins: part -> its first column.
        apart: ``prototypes`` or ``priors`` -> index of the output.
    """

    decoder: Decoder
    sources: tuple[Source, ...]
    wide: int
    begins: Mapping[Part, int]
    apart: Mapping[Part, int]

    @property
    def layouts(self) -> list[Layout]:
        """The distinct layouts of the sources."""
        return list(dict.fromkeys(source.layout for source in self.sources))

    @property
    def groups(self) -> int:
        """The number of distinct first columns."""
        return len({source.begin for source in self.sources})

    @property
    def on_cells(self) -> bool:
        """Whether a cell of a grid has several boxes."""
        return any(source.each > 1 for source in self.sources)

    @property
    def points_on_anchors(self) -> bool:
        """Whether keypoints are relative to an anchor."""
        return "keypoints" in self.begins and self.decoder.origin != "image" and (self.priors or self.gridded)

    @property
    def anchored(self) -> bool:
        """Whether a formula reads anchors."""
        return self.decoder.boxes not in ("xyxy", "cxcywh") or self.points_on_anchors

    @property
    def priors(self) -> bool:
        """Whether anchors are an output."""
        return "priors" in self.apart

    @property
    def gridded(self) -> bool:
        """Whether anchors are on grids."""
        return bool(self.decoder.anchors) and not self.priors

    @property
    def weighted(self) -> bool:
        """Whether a formula divides by the weights of an anchor."""
        return self.decoder.boxes == "deltas" or self.points_on_anchors

    @property
    def stepped(self) -> bool:
        """Whether a formula reads the size of an anchor's cell."""
        return self.decoder.boxes in ("yolov3", "yolov5")


def box_head(decoder: Decoder) -> BoxHead:
    """The facts for the C++ code of a detector.

    Args:
        decoder: of the kind ``boxes``.

    Example:
        >>> from ncnnkit.tasks import presets
        >>> dict(box_head(presets.ultralytics(80)).begins)
        {'boxes': 0, 'scores': 4}
    """
    sources: list[Source] = []
    begins: dict[Part, int] = {}
    groups: dict[tuple[Part, ...], tuple[int, int]] = {}  # parts of a table -> the first column, and the level
    wide = 0
    for table in decoder.tables:
        if table.parts[0] in _APART:
            continue
        begin, level = groups.get(table.parts, (wide, 0))
        groups[table.parts] = begin, level + 1
        each = 1
        if table.layout in _GRIDDED and level < len(decoder.anchors):
            each = len(decoder.anchors[level].sizes)
        sources.append(Source(table.output, begin, sum(map(decoder.width, table.parts)), table.layout, each))
        if level == 0:
            for part in table.parts:
                begins.setdefault(part, wide)
                wide += decoder.width(part)
    apart = {table.parts[0]: table.output for table in decoder.tables if table.parts[0] in _APART}
    begins.pop("other", None)
    return BoxHead(decoder, tuple(sources), wide, begins, apart)
