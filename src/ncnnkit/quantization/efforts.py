"""How much time a run may take: :data:`EFFORTS`, and which of them quantises for which target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..device.sites import Site
from ..model.graph import Graph
from ..model.targets import TARGETS
from ..model.work import Budget
from ..recipe import Recipe
from ..samples.stream import Sample
from ..source.opening import STATISTICS_IMAGES


@dataclass(frozen=True)
class Effort:
    """How much time quantising may take, and what each stage of a run may compute.

    Attributes:
        images: at most so many samples are read.
        gmac: what each stage of a run may compute, in 10⁹ multiply-adds of the network in floating point. A stage
            that would compute more takes fewer samples, or measures less often; see :class:`Budget`. Two cores compute
            20 to 50 in a second.
        strengths: of channel migration, those tried.
        unclipped: thresholds that clip less, those tried; see :func:`ncnnkit.quantization.int8.make_table`.
        zero_points: whether one-sided activations are moved to the middle of int8's range.
        by_output: whether thresholds are moved to where the layers that read them err least.
        biases: whether biases are corrected against each layer's own fp32 input, all in one pass.
        fits: what is fitted layer by layer (:func:`ncnnkit.quantization.layerwise.fit_layers`), those tried.
        first_fit: whether the first of ``fits`` that helps is enough. Each takes as long as all else together.
        rows: places each layer is fitted on.
        advice: whether to look at what the calibration images were worth.
        guards: whether a method that does not lower the error is left out. Off only to see what each does.
    """

    images: int
    gmac: float = math.inf
    unclipped: tuple[float, ...] = (0.5, 1.0)
    strengths: tuple[float, ...] = ()
    zero_points: bool = True
    by_output: bool = False
    biases: bool = True
    fits: tuple[frozenset[str], ...] = ()
    first_fit: bool = False
    rows: int = 0
    advice: bool = True
    guards: bool = True

    def budget(self, graph: Graph, sample: Sample) -> Budget:
        """What each stage may do with a network, for samples like this one."""
        return Budget.of(self.gmac, graph, [array.shape for array in sample])

    def inferences(self, used: int, held: int) -> int:
        """How often quantising runs the network.

        Args:
            used: samples that are observed, and that biases and weights are fitted to.
            held: samples that judge each method that is tried, and fewer samples where there is advice.
        """
        observed = 1 + len(self.strengths) + 2 * self.biases + 2 * self.by_output + 3 * len(self.fits)
        scales = 1 + len(self.unclipped) + len(self.strengths) + self.zero_points + self.by_output
        tried = scales + self.biases + len(self.fits)
        return used * observed + held * (1 + tried + 6 * self.advice)


_ROUND, _ALL = frozenset({"rounding", "bias"}), frozenset({"rounding", "bias", "gain"})

EFFORTS: MappingProxyType[str, Effort] = MappingProxyType(
    {
        "fast": Effort(32, 1_000, advice=False),
        "default": Effort(100, 20_000, strengths=(0.5,), fits=(_ROUND, _ALL), first_fit=True, rows=4096),
        "best": Effort(400, strengths=(0.25, 0.5), by_output=True, fits=(_ROUND, _ALL), rows=16384),
    }
)
"""Seconds, a minute, minutes; minutes at `fast`, too, where one inference takes seconds."""


def efforts_by_target(recipe: Recipe, sites: Sequence[Site], *, software: bool = True) -> dict[str, str]:
    """The targets to quantise for -> with which effort. Empty where neither int8 nor mixed models are asked for.

    Vulkan is a target of its own: ncnn's Vulkan cannot run what is made for a CPU. On a software device, no figure of
    which is one of a GPU, it is not worth much time.

    Args:
        software: whether models run on software devices at all.
    """
    if not {"int8", "mixed"} & set(recipe.precisions):
        return {}
    efforts = {site.target: recipe.effort for site in sites}
    pads = any(TARGETS[target].int8_pads for target in efforts)
    asked = pads and "int8" in recipe.precisions and "vulkan" in recipe.backends
    gpu = any(site.has_gpu for site in sites)
    if asked and (gpu or (software and any(site.machine.vulkan for site in sites))):
        efforts["vulkan"] = recipe.effort if gpu else "fast"
    return efforts


def images_needed(efforts: Mapping[str, str]) -> int:
    """How many images are calibrated with, at the largest of these efforts; a few even where nothing is quantised."""
    return max([EFFORTS[effort].images for effort in efforts.values()], default=STATISTICS_IMAGES)
