"""The records of the quantisation to int8 in run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..formatting import counted


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Layers in which ncnn's int8 cannot be equal to that of a quantised original.

    Attributes:
        reason: what is lost, as a clause.
        layers: their names.
    """

    reason: str
    layers: list[str]

    @property
    def said(self) -> str:
        """A sentence, with the names of a few layers."""
        named = ", ".join(self.layers[:_MOST_NAMED]) + (", …" if len(self.layers) > _MOST_NAMED else "")
        return f"not kept in {counted(len(self.layers), 'layer')}: {self.reason} ({named})"


_MOST_NAMED = 6


def losses(lost: Mapping[str, Sequence[str]]) -> list[Loss]:
    """The records of (reason -> names of layers)."""
    return [Loss(reason=reason, layers=list(names)) for reason, names in lost.items()]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A quantisation method that was tried.

    Attributes:
        method: the method, added to the methods kept so far.
        relative_error: noise over signal of the outputs against fp32, on the held-back images: computed for each output
            relative to its own signal, then averaged over the outputs; null if it is infinite.
        sqnr_db: the same as SQNR in dB; null if ``relative_error`` is zero or null.
        kept: whether it lowered the error. The first trial is the baseline.
        seconds: duration of the trial.
    """

    method: str
    relative_error: float | None
    sqnr_db: float | None
    kept: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """An int8 layer that was fitted.

    Errors are the mean squared error of the layer's output over the mean square of that output, on samples that the
    fit did not see.

    Attributes:
        name: the layer's name in the ``.param`` file.
        before: the error before the layer was fitted; null if it is infinite.
        after: the error with the methods that were kept; null if it is infinite.
        kept: the methods that were kept, joined by ``+``: ``rounding``, ``bias`` and ``gain``; empty if none.
    """

    name: str
    before: float | None
    after: float | None
    kept: str


@dataclass(frozen=True)
class Count:
    """The error with fewer calibration images.

    The error with thresholds only, without fitting, on the held-back images, for several subsets of the calibration
    images.

    Attributes:
        images: size of the subsets.
        relative_error: noise over signal, mean over the subsets.
        low: the smallest over the subsets.
        high: the largest over the subsets.
    """

    images: int
    relative_error: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class StretchingImage:
    """A calibration image that determines the range of some tensors by itself.

    Attributes:
        image: the image's name.
        tensors: number of tensors that have their largest value in this image, more than 1.5 times that in any other
            image.
        factor: the largest ratio to the second largest value; null if it is infinite.
    """

    image: str
    tensors: int
    factor: float | None


@dataclass(frozen=True)
class Likeness:
    """Whether the evaluation images are like the calibration images.

    The distance of an image is the root mean square over the inputs of int8 layers. For each input it is the difference
    of the logarithm of the range, in standard deviations over the calibration images. The evaluation images are alike
    if ``evaluation`` is not above ``calibration``.

    Attributes:
        calibration: the 95th percentile of the distances of each calibration image from all others.
        evaluation: the median distance of the evaluation images.
    """

    calibration: float
    evaluation: float

    @property
    def alike(self) -> bool:
        """Whether the evaluation images are like the calibration images."""
        return self.evaluation <= self.calibration


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How int8 was made.

    The effort limits the number of calibration images. Every fourth of them was held back: no scale, weight or bias was
    fitted to it, and the methods were judged on it. If fewer than four were given, all images had both roles. If few
    images were used because the network is heavy, one was held back.

    Attributes:
        effort: the recipe's ``effort``.
        used: number of calibration images to which scales, weights and biases were fitted.
        held_back: number of calibration images on which the methods were judged.
        trials: the methods that were tried, in order.
        layers: the int8 layers that were fitted, in the network's order; empty if no fitting was kept.
        counts: the error against the number of calibration images, fewest first; empty if not examined.
        enough: the smallest ``images`` in ``counts`` with a highest error within 5 % of the error with all images; null
            if there is none, or if not examined.
        stretching: calibration images that alone determine ranges, the worst first, at most five.
        likeness: whether the evaluation images are like the calibration images; null if not examined.
        lost: layers with the scales of a quantised original in which int8 still differs from the original.
    """

    effort: str
    used: int
    held_back: int
    trials: list[Trial]
    layers: list[FittedLayer]
    counts: list[Count]
    enough: int | None
    stretching: list[StretchingImage]
    likeness: Likeness | None
    lost: list[Loss] = field(default_factory=list)

    @property
    def unlike(self) -> bool:
        """Whether the evaluation images are unlike the calibration images; False if not examined."""
        return self.likeness is not None and not self.likeness.alike
