"""Finds the plan: a precision for each layer, so that the network is fast on a device and satisfies the requirements.

sensitivity   the noise in the outputs caused by each layer alone
timing        the time of each layer in each precision, on the device
solve         the fastest choices within a noise limit, by mixed-integer programming
verify        runs the plan on the device; if the error is not as predicted, changes the allowed noise and solves again
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..batches import Workers
from ..comparison.accuracy import Errors
from ..comparison.judge import Judge
from ..device import LOCAL, Device
from ..errors import RuntimeFailure
from ..model.graph import Graph
from ..model.precision import FLOATS, INT8, PRECISIONS, WINOGRAD
from ..model.work import UNBOUNDED, Budget
from ..onboard.facts import Machine
from ..progress import StepProgress, of_step, silent_steps
from ..quantization import Quantized
from ..record.plan import FrontPoint
from ..samples.stream import Samples
from .build import Forms, make_forms, mixed_graph
from .costs import Costs, calibrated, predict, uniform
from .mixed import MixedPlan
from .options import make_edges, make_options
from .requirement import Requirements
from .sensitivity import Noise, float_errors, int8_errors
from .solve import Assignment, Edge, Option, front, solve, total, undominated
from .timing import DeviceTiming, Shape, Timing, blob_shapes

FRONT_POINTS = 10
REPAIRS = 5
MARGIN = 0.9  # share of the allowed noise that a plan may use, because other samples may have more noise
KEPT_BYTES = 2**30  # bytes on disk for the judging samples and the exact outputs
CLOSE = 1.5  # the search ends if the ratio of the ends of the bracket is below this
_LEAST_NOISE = 1e-12
BROKEN_SHRINK = 0.1  # factor for the allowed noise after a plan with outputs that are not finite


def float_choices(machine: Machine) -> tuple[str, ...]:
    """The floating-point precisions to try on a machine, the most exact first."""
    able = "fp16-arithmetic" in machine.cpu_features
    return tuple(name for name in FLOATS if able or not PRECISIONS[name].fp16)


def find_plan(
    quantized: Quantized,
    requirements: Requirements,
    machine: Machine,
    *,
    threads: int,
    device: Device = LOCAL,
    workers: Workers | None = None,
    timing: Timing | None = None,
    budget: Budget = UNBOUNDED,
    noise: Callable[..., Noise] = lambda measure: measure(),
    progress: StepProgress = silent_steps,
) -> MixedPlan:
    """Find the fastest mixed model that satisfies the requirements, or the most accurate within a latency limit.

    Args:
        quantized: the network in fp32 and in int8. All its samples judge the plan, the held-back ones first, because
            figures that count predictions need many samples. The error on samples to which int8 was fitted is too
            small, so it is corrected upwards.
        requirements: of the outputs compared with fp32, and of the latency. Requirements that need labels are checked
            in the evaluation instead.
        machine: the facts about the device.
        threads: the number of threads of the model.
        device: the device that will run the model. It times layers, and runs the uniform models and the plan. Only the
            errors of single int8 layers are measured on this machine.
        workers: run what needs no timing and no board: the sensitivity, and on this machine the other errors, too. By
            default processes on this machine.
        timing: the source of times; by default they are measured on the device.
        budget: limits the computation of each step.
        noise: called with ``measure``, the function that measures the noise of single int8 layers. Returns what that
            returns, or returned in an earlier run.
        progress: called with the progress.

    Raises:
        RuntimeFailure: the device does not answer, the network does not run in fp32, or a layer runs at no precision.
    """
    choices = (*float_choices(machine), *INT8)
    timing = timing or DeviceTiming(threads, device, budget)
    exact, fitted = quantized.exact, quantized.fitted
    progress("exact outputs", 0, 0)
    shapes = blob_shapes(exact, quantized.judging[0])
    judging = _judging(quantized, shapes, budget)
    with Judge(exact, judging, quantized.task, workers=workers, threads=threads, device=device) as judge:
        progress("forms of layers", 0, 0)
        forms = make_forms(exact, fitted, quantized.used, budget)
        int8 = noise(measure=lambda: int8_errors(forms, judge, of_step(progress, "sensitivity"), budget=budget))
        progress("layer costs", 0, 0)
        costs = timing.layers(exact, fitted, shapes, choices, of_step(progress, "layer costs"))
        uniforms = [choice for choice in choices if choice != WINOGRAD]
        models = {choice: mixed_graph(forms, uniform(exact, costs, choice), costs) for choice in uniforms}
        progress("uniform models", 0, 0)
        latencies = timing.networks(models, judge.samples[0])
        if "fp32" not in latencies:
            raise RuntimeFailure("the network does not run in fp32 with a mixed model's options", where=device.name)
        costs = calibrated(costs, exact, latencies)
        whole = dict(
            zip(models, judge.there(list(models.values()), figures=True, progress=of_step(progress, "uniform models")))
        )
        relative = {choice: errors.relative for choice, errors in whole.items()}
        shown = of_step(progress, "overflowing layers")
        errors = int8 | float_errors(forms, costs, judge, relative, int8, shown, budget=budget)
        options = make_options(exact, costs, errors, relative["int8"])
        (held,) = judge.there([models["int8"]], most=len(quantized.held))
        unseen = max(1.0, ratio) if math.isfinite(ratio := held.relative / (relative["int8"] or 1.0)) else 1.0
        problem = _Problem(forms, costs, options, make_edges(exact, costs), latencies, unseen)
        verified = budget.take("plans verified", REPAIRS + 1, runs=len(judge.samples), least=2)
        return problem.settle(requirements.without_labels(), judge, whole, verified - 1, progress)


def _judging(quantized: Quantized, shapes: Mapping[str, Shape], budget: Budget) -> Samples:
    """The samples that judge plans: the held-back ones, and as many others as the budget and the disk allow."""
    inputs = (layer.outputs[0] for layer in quantized.exact.layers if layer.type == "Input")
    kept = sum(4 * math.prod(shapes[name]) for name in (*inputs, *quantized.exact.outputs))
    wanted = max(len(quantized.held), min(len(quantized.judging), KEPT_BYTES // max(kept, 1)))
    runs = REPAIRS + 1 + len(FLOATS) + 1
    return quantized.judging.subset(
        range(budget.take("samples that judge plans", wanted, runs=runs, least=len(quantized.held)))
    )


def allowed_noise(requirements: Requirements, models: Mapping[str, Errors]) -> float:
    """The noise over signal that the requirements allow, estimated from models with known figures and noise.

    The excess of a figure is proportional to the noise, so the model nearest to the bound gives the best estimate. The
    result is infinite if all models have no excess at all, and 0 if no model is usable.
    """
    known = [(errors.relative, requirements.excess(errors.figures())) for errors in models.values()]
    known = [(noise, excess) for noise, excess in known if math.isfinite(noise + excess)]
    telling = [(noise, excess) for noise, excess in known if noise > 0 and excess > 0]
    if telling:
        noise, excess = min(telling, key=lambda pair: abs(math.log(pair[1])))
        return noise / excess
    return math.inf if known else 0.0


@dataclass(frozen=True, eq=False)
class _Tried:
    """A plan that was run on the device.

    Attributes:
        found: the plan.
        graph: its model.
        errors: the errors of the model.
        budget: the noise that was allowed.
        excess: see :meth:`Requirements.excess`.
    """

    found: Assignment
    graph: Graph
    errors: Errors
    budget: float
    excess: float


@dataclass(eq=False)
class _Bracket:
    """The interval of the allowed noise: from the largest that was small enough to the smallest that was not."""

    holds: list[_Tried] = field(default_factory=list)
    fails: list[_Tried] = field(default_factory=list)

    def add(self, tried: _Tried, *, holds: bool) -> None:
        (self.holds if holds else self.fails).append(tried)

    @property
    def best(self) -> _Tried:
        """The fastest plan that satisfied the requirements."""
        return min(self.holds, key=lambda tried: tried.found.ms)

    @property
    def settled(self) -> bool:
        """Whether the search is over: the first plan was good enough, or the ends of the interval are close."""
        return bool(self.holds) and (not self.fails or self._low * CLOSE >= self._high)

    def next(self) -> float:
        """The noise to try next: the geometric mean of the ends, or without a lower end, a reduced upper end."""
        if self.holds:
            return math.sqrt(self._low * self._high)
        last = self.fails[-1]
        shrink = MARGIN / last.excess * MARGIN if math.isfinite(last.excess) else BROKEN_SHRINK
        return min(last.budget, last.found.error) * shrink

    @property
    def _low(self) -> float:
        return max(max(tried.found.error for tried in self.holds), _LEAST_NOISE)

    @property
    def _high(self) -> float:
        return min(min(tried.budget, tried.found.error) for tried in self.fails)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The data for the search of a plan.

    Attributes:
        unseen: the noise of int8 on samples to which it was not fitted, divided by that on all judging samples; at
            least 1.
    """

    forms: Forms
    costs: Costs
    options: Mapping[str, list[Option]]
    edges: list[Edge]
    uniform_ms: Mapping[str, float]
    unseen: float

    def settle(
        self, requirements: Requirements, judge: Judge, models: Mapping[str, Errors], most: int, progress: StepProgress
    ) -> MixedPlan:
        """Solve, run the plan, and change the allowed noise until the plan just satisfies the requirements.

        The noise is reduced until a plan satisfies them. Then the search continues between the largest noise that did
        and the smallest that did not. If no plan did before the last correction, the most exact plan is taken.

        Args:
            models: uniform models, for :func:`allowed_noise`.
            most: the largest number of corrections.
        """
        progress("solve", 0, 0)
        points = undominated([self._timed(p) for p in front(self.options, self.edges, points=FRONT_POINTS)])
        if not points:
            hint = "remove mixed from --precision"
            raise RuntimeFailure("no combination of precisions works for all layers", hint=hint)
        budget, repairs = MARGIN * allowed_noise(requirements, models), 0
        bracket = _Bracket()
        while True:
            progress("verify", repairs, most)
            found = self._best(requirements.max_latency_ms, budget, points, last=repairs == most and not bracket.holds)
            graph = mixed_graph(self.forms, found.choices, self.costs)
            (errors,) = judge.there([graph], figures=True)
            finite = 0.0 if math.isfinite(errors.relative) else math.inf
            excess = max(self.unseen * requirements.excess(errors.cautious()), finite)
            enough = MARGIN if repairs < most - 1 else 1.0
            tried = _Tried(found, graph, errors, budget, excess)
            if requirements.max_latency_ms is not None or (repairs == most and not bracket.holds):
                best = tried
                break
            bracket.add(tried, holds=excess <= enough)
            if bracket.settled or repairs == most:
                best = bracket.best
                break
            budget = bracket.next()
            repairs += 1
        found, graph, errors = best.found, best.graph, best.errors
        unmet = requirements.unmet(errors.figures(), found.ms)
        if errors.refused:
            unmet.append(f"it does not run: {errors.refused}")
        elif not math.isfinite(errors.relative):
            unmet.append("the outputs contain NaN or infinity")
        rows = [
            FrontPoint(ms=p.ms, noise=p.error, int8=sum(c in INT8 for c in p.choices.values()))
            for p in undominated([*points, found])
        ]
        return MixedPlan(
            graph, found.choices, self.options, found.ms, found.error, errors, unmet,
            requirements.too_few(errors.counts()), judge.refused, rows, repairs, self.uniform_ms,
        )  # fmt: skip

    def _timed(self, found: Assignment) -> Assignment:
        """The plan with the correct time of chains of int8 layers. The solver only considers pairs of layers."""
        return replace(found, ms=predict(self.forms.exact, self.costs, found.choices))

    def _best(self, max_ms: float | None, budget: float, points: list[Assignment], *, last: bool) -> Assignment:
        """The most exact plan within a time limit, or the fastest within a noise limit, or the most exact of all.

        The last of these takes the most exact choice of each layer. It may be more exact than all points, because a
        layer without a measured noise is predicted to have no noise at any precision.
        """
        if max_ms is not None:
            solved = solve(self.options, self.edges, max_ms=max_ms)
            able = [p for p in [*points, *([self._timed(solved)] if solved else [])] if p.ms <= max_ms]
            return min(able, key=lambda p: (p.error, p.ms), default=points[0])
        if last:
            exact = {
                name: min(rows, key=lambda o: (o.error, o.choice != "fp32")) for name, rows in self.options.items()
            }
            return self._timed(total(self.options, self.edges, {name: o.choice for name, o in exact.items()}))
        solved = solve(self.options, self.edges, max_error=budget)
        able = [p for p in [*points, *([self._timed(solved)] if solved else [])] if p.error <= budget]
        return min(able, key=lambda p: (p.ms, p.error), default=points[-1])
