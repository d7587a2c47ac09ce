"""How much time quantising may take: :data:`EFFORTS`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Effort:
    """How much time quantising may take.

    Attributes:
        images: at most so many samples are read.
        strengths: of channel migration, those tried.
        zero_points: whether one-sided activations are moved to the middle of int8's range.
        by_output: whether thresholds are moved to where the layers that read them err least.
        biases: whether biases are corrected against each layer's own fp32 input, all in one pass.
        fits: what is fitted layer by layer (:func:`ncnnkit.quantization.layerwise.fit_layers`), those tried.
        rows: places each layer is fitted on.
        advice: whether to look at what the calibration images were worth.
        guards: whether a method that does not lower the error is left out. Off only to see what each does.
    """

    images: int
    strengths: tuple[float, ...] = ()
    zero_points: bool = True
    by_output: bool = False
    biases: bool = True
    fits: tuple[frozenset[str], ...] = ()
    rows: int = 0
    advice: bool = True
    guards: bool = True


_ROUND, _ALL = frozenset({"rounding", "bias"}), frozenset({"rounding", "bias", "gain"})

EFFORTS: MappingProxyType[str, Effort] = MappingProxyType(
    {
        "fast": Effort(20, advice=False),
        "default": Effort(80, strengths=(0.5,), fits=(_ROUND,), rows=4096),
        "best": Effort(400, strengths=(0.25, 0.5), by_output=True, fits=(_ROUND, _ALL), rows=16384),
    }
)
"""Seconds, a minute, minutes."""
