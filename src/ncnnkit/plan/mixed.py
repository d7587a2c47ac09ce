"""A mixed-precision plan: which precision each layer gets, what was predicted of it, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..comparison.accuracy import Errors
from ..device.sites import Site
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
        options: layer -> what it could have been, with the predicted ms and noise over signal of each.
        predicted_ms: latency of the whole.
        predicted_noise: noise over signal, the mean over the outputs.
        errors: on the held-back samples, measured where the model will run.
        unmet: the requirements that it does not satisfy on the held-back samples, in words; a latency is predicted.
        few: the requirements that the samples which judged it are too few for; see :meth:`Requirements.too_few`.
        refused: see :attr:`ncnnkit.comparison.judge.Judge.refused`.
        front: from the fastest to the most exact, predicted; none is better than the plan in time and noise both.
        repairs: how often the noise allowed was changed, because a run showed a larger error than allowed.
        uniform_ms: precision -> latency of the model that has it everywhere, measured while planning. A machine's speed
            changes: what was predicted holds at the speed of these.
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
        """Whether all requirements that the held-back samples can judge are kept to."""
        return not self.unmet

    def speed_at(self, fp32_ms: float | None) -> float:
        """What predicted times are multiplied by where the fp32 model takes ``fp32_ms``."""
        return fp32_ms / self.uniform_ms["fp32"] if fp32_ms else 1.0

    def record(self, requirements: Requirements, site: Site, variants: Sequence[Variant]) -> Plan:
        """What run.json holds of it.

        Args:
            requirements: that were asked for.
            site: where the mixed model runs.
            variants: of the run: what was measured of the mixed and of the fp32 model.
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
        """Why a layer got its precision, one sentence.

        Args:
            name: of the layer.
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
                f"{chosen.choice} is the fastest option ({chosen.ms:.3f} ms; {slower.choice} {slower.ms:.3f}) "
                f"and adds {share:.1%} of the noise"
            )
        if not math.isfinite(fastest.error):
            return f"{chosen.choice}: {fastest.choice} gives outputs that are not finite"
        more = (fastest.error - chosen.error) / self.predicted_noise if self.predicted_noise else math.inf
        saved = chosen.ms - fastest.ms
        if more <= 0:
            cheaper = f"{chosen.choice}: {fastest.choice} is {saved:.3f} ms faster alone"
            return f"{cheaper}, but conversions at its neighbours cost more"
        return (
            f"{chosen.choice}: {fastest.choice} would save {saved:.3f} ms alone and add {more:.1%} to the noise; "
            "other layers save more time for that noise"
        )
