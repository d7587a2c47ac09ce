"""Facts for the C++ code that prepares images: the steps of the preprocessing, and the numbers of each input."""

from __future__ import annotations

from dataclasses import dataclass

from ..onboard.picture import Fit, Tiles
from ..samples.preprocess import Preprocess
from .facts import Facts


@dataclass(frozen=True)
class Steps:
    """How images are prepared. The steps are the same for all inputs of a network; only numbers differ.

    Attributes:
        hows: index of an input that takes images -> its preprocessing.
        may_swap: whether resizing may do the vertical pass first, as Pillow does from version 13 on.
    """

    hows: dict[int, Preprocess]
    may_swap: bool

    @property
    def how(self) -> Preprocess:
        """The preprocessing of the first input that takes images."""
        return next(iter(self.hows.values()))

    @property
    def fit(self) -> Fit | None:
        """How the aspect ratio is kept; None if it is not."""
        return self.how.resize if isinstance(self.how.resize, Fit) else None

    @property
    def way(self) -> str:
        """How images are resized: ``none``, ``shorter``, ``exact``, or the way of the Fit."""
        if self.fit:
            return self.fit.way
        return "none" if self.how.resize is None else "shorter" if isinstance(self.how.resize, int) else "exact"

    @property
    def crop(self) -> bool:
        """Whether images are cropped about their centre."""
        return isinstance(self.how.crop, tuple)

    @property
    def tiles(self) -> bool:
        """Whether images are cut into tiles."""
        return isinstance(self.how.crop, Tiles)

    @property
    def grows(self) -> bool:
        """Whether an image of extreme shape may become larger than memory."""
        return self.way in ("shorter", "multiple")

    @property
    def rounding(self) -> str:
        """The C++ function that rounds sizes to integers."""
        assert self.fit
        return {"nearest": "std::nearbyint", "down": "std::floor", "up": "std::ceil"}[self.fit.rounding]

    @property
    def reversed(self) -> bool:
        """Whether blue comes first."""
        return self.how.color.startswith("bgr")

    @property
    def alpha(self) -> bool:
        """Whether there is a fourth channel, the alpha channel."""
        return self.how.channels == 4

    @property
    def layouts(self) -> set[str]:
        """The orders of the axes."""
        return {how.layout for how in self.hows.values()}

    @property
    def channels(self) -> set[int]:
        """The numbers of channels."""
        return {how.channels for how in self.hows.values()}

    def sizes(self, how: Preprocess) -> dict[str, int]:
        """Field of the C++ struct that may differ between inputs -> its value in pixels."""
        crop, found = how.crop, dict[str, int]()
        size = how.resize.size if isinstance(how.resize, Fit) else how.resize
        if isinstance(size, int):
            found["shorter_side"] = size
        elif size:
            found["height"], found["width"] = size
        if isinstance(crop, Tiles):
            found["crop_height"], found["crop_width"] = crop.size or (0, 0)
            found["overlap"] = crop.overlap
        elif crop:
            found["crop_height"], found["crop_width"] = crop
        return found


def steps_of(facts: Facts) -> Steps | None:
    """How the images of an app are prepared; None if no input takes images."""
    hows = {i: each.preprocess for i, each in enumerate(facts.inputs) if each.takes_images and each.preprocess}
    return Steps(hows, facts.may_swap) if hows else None
