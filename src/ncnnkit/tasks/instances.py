"""Instances: boxes with the mask of each object."""

from __future__ import annotations

from dataclasses import dataclass

from .detection import Detection, found_figures


@dataclass(frozen=True)
class Instances(Detection):
    """A network that finds objects and the pixels of each.

    It has the figures of :class:`~ncnnkit.tasks.detection.Detection`, but intersections over unions are those of masks:
    COCO's protocol with ``iouType="segm"``. Masks are compared in the resolution of the network's prototypes, usually a
    quarter of the input's.
    """

    name = "instances"
    figures = found_figures("objects")
    reads = ("coefficients", "prototypes")

    @property
    def mask_shape(self) -> tuple[int, int]:
        """(height, width) of the masks; (0, 0) if the shapes of the outputs are unknown."""
        output = next(table.output for table in self.decoder.tables if table.parts == ("prototypes",))
        height, width = self.shapes[output][-2:] if output < len(self.shapes) else (0, 0)
        return height, width
