"""Instances: boxes with the mask of each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .detection import Detection, Row, found_figures
from .figures import named


@dataclass(frozen=True)
class Instances(Detection):
    """A network that finds objects and the pixels of each.

    Its figures are those of :class:`~ncnnkit.tasks.detection.Detection`, and each intersection over union is that of
    two masks: COCO's protocol with ``iouType="segm"``. Masks are compared in the resolution of the network's
    prototypes, mostly a quarter of the input's.
    """

    name = "instances"
    figures = named(*(figure for figure in found_figures("objects").values() if not figure.labelled))
    labels = ""  # no labels hold masks of objects; of the boxes, --task detection has the figures
    reads = ("coefficients", "prototypes")

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """Those of a detector that need no labels."""
        found = super().summarise(rows)
        return {name: found[name] for name in self.figures}
