"""A mixed-precision plan: the precision of each layer, the reasons, and the predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..comparison.accuracy import Errors
from ..device.sites import Site
from ..formatting import plain
from ..model.graph import Graph
from ..record.plan import FrontPoint, LayerOption, Plan, PlannedLayer
from ..record.variant import Variant
from .requirement import Requirements
from .solve import Option


@dataclass(eq=False)
class MixedPlan:
    """The plan and how it was found.

    Attributes:
        graph: the mixed model, ready to ship.
        choices: layer -> its choice.
        options: layer -> its options, each with the predicted time, ms, and the predicted noise over signal.
        predicted_ms: the predicted latency of the model.
        predicted_noise: the predicted noise over signal, the mean over the outputs.
        errors: the errors on the held-back samples, measured on the device.
        unmet: the requirements that it does not satisfy on the held-back samples, as clauses. The latency is predicted.
        few: the requirements for which there are too few samples; see :meth:`Requirements.too_few`.
        refused: see :attr:`ncnnkit.comparison.judge.Judge.refused`.
        front: the Pareto front of predicted plans, from the fastest to the most exact.
        repairs: how often the allowed noise was changed because a measured error was larger than allowed.
        uniform_ms: precision -> latency, ms, of the model with this precision in all layers, measured while planning.
            The speed of a machine changes; the predictions are for the speed at these measurements.
    """

    graph: Graph
    choices: Mapping[str, str]
    options: Mapping[str, Sequence[Option]]
    predicted_ms: float
    predicted_noise: float
    errors: Errors
    unmet: Sequence[str] = ()
    few: Sequence[str] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    front: list[FrontPoint] = field(default_factory=list)
    repairs: int = 0
    uniform_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it satisfies all requirements that the held-back samples can judge."""
        return not self.unmet

    def speed_at(self, fp32_ms: float | None) -> float:
        """The factor for predicted times on a machine where the fp32 model takes ``fp32_ms``."""
        return fp32_ms / self.uniform_ms["fp32"] if fp32_ms else 1.0

    def record(self, requirements: Requirements, site: Site, variants: Sequence[Variant]) -> Plan:
        """The record of the plan in run.json.

        Args:
            requirements: the requirements of the run.
            site: the device on which the mixed model runs.
            variants: the variants of the run, with the times of the mixed and of the fp32 model.
        """
        medians = {variant.name: variant.latency_ms.median for variant in variants if variant.latency_ms}
        mixed_ms, fp32_ms = (medians.get(site.variant(precision, "cpu")) for precision in ("mixed", "fp32"))
        speed = self.speed_at(fp32_ms)
        return Plan(
            requirements=str(requirements),
            holds=self.holds,
            unmet=list(self.unmet),
            few=list(self.few),
            refused=dict(self.refused),
            repairs=self.repairs,
            predicted_ms=speed * self.predicted_ms,
            measured_ms=mixed_ms,
            predicted_noise=self.predicted_noise,
            measured_noise=self.errors.relative,
            front=[replace(point, ms=speed * point.ms) for point in self.front],
            layers=[
                PlannedLayer(
                    name=name,
                    type=self.graph.layer(name).type,
                    choice=choice,
                    options=[LayerOption(choice=o.choice, ms=speed * o.ms, noise=o.error) for o in self.options[name]],
                    why=self.why(name, speed),
                )
                for name, choice in self.choices.items()
            ],
        )

    def why(self, name: str, speed: float = 1.0) -> str:
        """Why a layer has its precision, in one sentence.

        Args:
            name: the name of the layer.
            speed: see :meth:`speed_at`.
        """
        options = {option.choice: replace(option, ms=speed * option.ms) for option in self.options[name]}
        chosen = options[self.choices[name]]
        fastest = min(options.values(), key=lambda option: option.ms)
        share = chosen.error / self.predicted_noise if self.predicted_noise else 0.0
        if len(options) == 1:
            return f"{chosen.choice} is the only option"
        if chosen is fastest:
            slower = min((o for o in options.values() if o is not chosen), key=lambda option: option.ms)
            return (
                f"{chosen.choice} is the fastest option ({plain(chosen.ms)} ms; {slower.choice} {plain(slower.ms)}) "
                f"and adds {share:.1%} of the noise"
            )
        if not math.isfinite(fastest.error):
            return f"{chosen.choice}: with {fastest.choice}, outputs are not finite"
        more, saved = fastest.error - chosen.error, chosen.ms - fastest.ms
        if more <= 0:
            cheaper = f"{chosen.choice}: {fastest.choice} is {plain(saved)} ms faster alone"
            return f"{cheaper}, but conversions at its neighbours cost more"
        would = f"{chosen.choice}: {fastest.choice} would save {plain(saved)} ms alone"
        if not self.predicted_noise:
            return f"{would}, but the model would no longer be as exact as fp32"
        return f"{would} and {_added(more / self.predicted_noise)}; other layers save more time for that noise"


def _added(share: float) -> str:
    """How much noise an option would add, from its share of the noise of the plan."""
    return f"add {share:.1%} to the noise" if share < 1 else f"make {1 + share:.3g} times the noise"
