"""How much computation a run may take: :data:`EFFORTS`, and the effort for each target."""

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
    """How much computation quantising, and each other stage of a run, may take.

    Attributes:
        images: the largest number of samples that are read.
        gmac: how much each stage of a run may compute, in 10⁹ multiply-adds of the network in floating point. A stage
            that would compute more takes fewer samples or measures less often; see :class:`Budget`. Two cores compute
            20 to 50·10⁹ multiply-adds per second.
        strengths: the strengths of channel migration to try.
        unclipped: the thresholds with less clipping to try; see :func:`ncnnkit.quantization.int8.make_table`.
        zero_points: whether to shift one-sided activations to the middle of int8's range.
        by_output: whether to move thresholds to the least error of the layers that read them.
        biases: whether to correct biases against each layer's own fp32 input, all in one pass.
        fits: the layer-by-layer fits to try (:func:`ncnnkit.quantization.layerwise.fit_layers`).
        first_fit: whether to stop at the first of ``fits`` that helps. Each fit takes as long as everything else
            together.
        rows: the number of positions on which each layer is fitted.
        advice: whether to judge the calibration images.
        guards: whether a method that does not lower the error is rejected. It is off only to study single methods.
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
        """The budget of each stage for a network and samples like this one."""
        return Budget.of(self.gmac, graph, [array.shape for array in sample])

    def inferences(self, used: int, held: int) -> int:
        """How often quantising runs the network.

        Args:
            used: the number of samples that are observed, and to which biases and weights are fitted.
            held: the number of samples that judge each method. Advice uses fewer of them.
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
"""Effort -> its limits. The efforts take about seconds, a minute, and minutes. If one inference takes seconds, `fast`
takes minutes, too."""


def efforts_by_target(recipe: Recipe, sites: Sequence[Site], *, software: bool = True) -> dict[str, str]:
    """Target to quantise for -> effort. Empty if the recipe asks for neither int8 nor mixed models.

    Vulkan is a separate target, because ncnn's Vulkan cannot run models that are made for a CPU. A software device gets
    a low effort, because its figures are not those of a GPU.

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
    """The number of calibration images that the largest of these efforts needs; a few even if nothing is quantised."""
    return max([EFFORTS[effort].images for effort in efforts.values()], default=STATISTICS_IMAGES)
