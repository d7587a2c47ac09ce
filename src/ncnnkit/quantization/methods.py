"""Finds the best int8 version of an fp32 network: methods are tried in order, and kept if they help."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..batches import Workers, given_or_here
from ..comparison.judge import Judge
from ..errors import RecipeError, VerificationError
from ..model.graph import Graph
from ..model.targets import TARGETS
from ..model.work import UNBOUNDED, Budget
from ..progress import StepProgress, of_step, silent_steps
from ..recipe import OWN
from ..record.network import Int8Layer
from ..record.quantisation import FittedLayer, Likeness, Quantisation, StretchingImage, Trial, losses
from ..samples.given import as_samples
from ..samples.stream import Samples, evenly
from ..tasks import Task
from .advice import BATCHES, Advice, enough, error_by_count, likeness, stretching
from .bias import correct_bias
from .calibration import ActivationStats, BlobStats, Observed, observe
from .efforts import EFFORTS, Effort
from .equalize import SAMPLES, migrate
from .int8 import NATIVE_METHODS, apply_table, finished, make_table, rounded_weights
from .layerwise import Kept, fit_layers
from .own import apply_own, settled_method
from .ranges import int8_layers
from .scales import STEPS, mse_threshold, widened
from .table import Table
from .thresholds import by_output_error
from .trials import Trials
from .zeropoint import Group, Lowering

LIKENESS_IMAGES = 24  # number of evaluation images; enough for a median
HELD = 4  # every fourth sample is not used for choosing, but for judging
FEWEST = 3  # samples for a heavy network: two to choose with, and one to judge


@dataclass(eq=False)
class Quantized:
    """The result of quantising.

    Attributes:
        source: the fp32 network that was quantised.
        graph: the int8 network, ready to ship.
        exact: the fp32 network from which ``graph`` was made, layer for layer. It computes the same as ``source``.
        fitted: ``graph`` before :func:`ncnnkit.quantization.int8.finished`.
        used: the samples to which scales, weights and biases were fitted. If ``own`` is true, only a plan uses them.
        held: the held-back samples, on which methods are judged.
        judging: ``held``, followed by ``used``.
        trials: the methods that were tried, in order.
        layers: the methods that were kept in each layer; empty if nothing was fitted layer by layer.
        advice: the judgement of the calibration images.
        own: whether it has the scales and the weights of a quantised original.
        task: what the network is for; None if unknown.
        lost: reason -> names of the layers in which int8 differs from the int8 of a quantised original.
        stats: statistics of the inputs of int8 layers, before zero points moved them; None if they were not counted.
        offsets: blob -> the constant that zero points subtracted from it.
    """

    source: Graph
    graph: Graph
    exact: Graph
    fitted: Graph
    used: Samples
    held: Samples
    judging: Samples
    trials: list[Trial] = field(default_factory=list)
    layers: list[Kept] = field(default_factory=list)
    advice: Advice = field(default_factory=Advice)
    own: bool = False
    task: Task | None = None
    lost: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stats: ActivationStats | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)

    def int8_layers(self) -> dict[str, Int8Layer]:
        """How each int8 layer computes, by its name."""
        return int8_layers(self.exact, self.graph, self.stats, self.offsets)

    @property
    def fitted_samples(self) -> int:
        """The number of samples to which something was fitted."""
        return 0 if self.own else len(self.used)

    def record(self, effort: str, names: Sequence[str], alike: Likeness | None) -> Quantisation:
        """The record of quantising in run.json.

        Args:
            effort: the effort of the recipe.
            names: the names of the calibration images.
            alike: the likeness of the evaluation images to them; None if that was not examined.
        """
        advice = self.advice
        return Quantisation(
            effort=effort,
            used=self.fitted_samples,
            held_back=len(self.held),
            trials=self.trials,
            layers=[
                FittedLayer(name=kept.name, before=kept.error[""], after=kept.error[kept.kept], kept=kept.kept)
                for kept in self.layers
            ],
            counts=[count for count in advice.counts if np.isfinite(count.high)],
            enough=enough(advice.counts) if advice.counts else None,
            stretching=[
                StretchingImage(image=names[each.image], tensors=each.tensors, factor=each.factor)
                for each in advice.stretching
            ],
            likeness=alike,
            lost=losses(self.lost),
        )

    def likeness_of(
        self, samples: Samples, threads: int | None, budget: Budget = UNBOUNDED, workers: Workers | None = None
    ) -> Likeness | None:
        """How much the evaluation images differ from the calibration images; None if that was not examined."""
        if not self.advice.ranges.size:
            return None
        wanted = min(LIKENESS_IMAGES, len(samples))
        few = samples.subset(range(budget.take("samples compared with the calibration samples", wanted)))
        try:
            seen = observe(self.source, few, histograms=False, ranges=True, workers=workers, threads=threads)
        except VerificationError:  # infinite activations cannot be compared, but must not end the run
            return None
        return likeness(self.advice.ranges, seen.ranges)


def quantize_images(
    graph: Graph,
    samples: Any,
    *,
    target: str = "arm",
    method: str | None = None,
    effort: str | Effort = "default",
    skip: Collection[str] = (),
    task: Task | None = None,
    workers: Workers | None = None,
    threads: int | None = None,
    budget: Budget | None = None,
    progress: StepProgress = silent_steps,
) -> Quantized:
    """Quantise a network to int8 with samples. Each method is kept only if it helps on samples that are held back.

    Args:
        graph: the optimised fp32 network; not changed.
        samples: calibration samples in any form that :func:`ncnnkit.samples.given.as_samples` takes. An effort uses a
            limited number of them, spread evenly. Other images of an ImageSet are not read.
        target: the kernels that will run it.
        method: how scales are chosen; see :func:`ncnnkit.quantization.own.settled_method`. With ``own``, the scales of
            a quantised original, nothing is fitted, and samples only judge. With ncnn2table's ``kl`` and ``aciq``, only
            biases are corrected.
        effort: ``fast``, ``default``, ``best``, or an :class:`Effort`.
        skip: layers that stay in floating point.
        task: what the network is for. Methods are judged by the parts of the outputs that the task distinguishes; by
            default by the outputs as a whole.
        workers: run the batches of samples; by default processes on this machine. The layer-by-layer fit always runs
            on this machine.
        threads: the number of processes on this machine; by default one per core.
        budget: limits how often the network runs; by default the budget of the effort.
        progress: called with (step, done, total).

    Raises:
        RecipeError: the effort is unknown, or the method is ``own`` and the network has no scales of a quantised
            original.
        ModelError, ImageError, VerificationError, RuntimeFailure: as for :func:`ncnnkit.calibrate`.
    """
    if isinstance(effort, str):
        if effort not in EFFORTS:
            raise RecipeError(f"unknown effort {effort!r}", hint=", ".join(EFFORTS))
        effort = EFFORTS[effort]
    method = settled_method(graph, method)
    given = as_samples(samples, graph)
    if budget is None:
        budget = effort.budget(graph, given[0]) if len(given) else UNBOUNDED
    return _Quantizer(graph, given, target, method, effort, set(skip), task, workers, threads, budget, progress).run()


@dataclass(eq=False)
class _Version:
    """An intermediate version: ``int8``, and the networks it is made from: ``exact``, and ``whole``, which is ``exact``
    with the weights of int8."""

    exact: Graph
    table: Table
    whole: Graph
    int8: Graph


class _Quantizer:
    def __init__(
        self, graph: Graph, samples: Samples, target: str, method: str, effort: Effort, skip: set[str],
        task: Task | None, workers: Workers | None, threads: int | None, budget: Budget, progress: StepProgress,
    ) -> None:  # fmt: skip
        self.graph, self.target, self.method, self.effort = graph, target, method, effort
        self.skip, self.task, self.progress = skip, task, progress
        self.given_workers, self.threads = workers, threads
        self.native = method in NATIVE_METHODS
        self.chosen, _ = choose(len(samples), effort, budget)
        self.used, self.held, self.judging = divided(samples, effort, budget)
        self.unclipped = 0.0
        self.offsets: dict[str, float] = {}

    def run(self) -> Quantized:
        self.progress("exact outputs", 0, 0)
        with (
            given_or_here(self.given_workers, self.threads) as self.workers,  # one set of processes for all steps
            Judge(self.graph, self.held, self.task, workers=self.workers, threads=self.threads) as judge,
        ):
            self.trials = Trials(judge, guards=self.effort.guards)
            if self.method == OWN:
                return self._own()
            best, advice = self._thresholds()
            if not self.native:
                best = self._less_clipping(best)
                best = self._migration(best)
                best = self._zero_points(best)
                best = self._output_thresholds(best)
            best, layers = self._fitted(best)
        return Quantized(
            self.graph, finished(best.int8), best.exact, best.int8, self.used, self.held, self.judging,
            self.trials.rows, layers, advice, task=self.task, stats=self.stats, offsets=self.offsets,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ the methods

    def _own(self) -> Quantized:
        """The scales of the original. Nothing is fitted, because its weights may have been trained for these scales."""
        with self._trial("the original's own scales") as keeps:
            own = apply_own(self.graph, target=self.target, skip=self.skip)
            keeps(own.int8)
        return Quantized(
            self.graph, finished(own.int8), own.exact, own.int8, self.used, self.held, self.judging, self.trials.rows,
            own=True, lost=own.lost, task=self.task,
        )  # fmt: skip

    def _thresholds(self) -> tuple[_Version, Advice]:
        """Scales from histograms, and the judgement of the images."""
        with self._trial("thresholds") as keeps:
            # This pass collects everything that later steps need from this network. It counts in batches, so that
            # figures for fewer images need no further pass.
            advice, migrates = self.effort.advice and not self.native, self.effort.strengths and not self.native
            seen = self._observe(
                self.graph, batches=BATCHES if advice else 1, ranges=advice,
                channels=evenly(len(self.used), SAMPLES) if migrates else (),
            )  # fmt: skip
            self.stats, self.channels = seen.whole, seen.channels
            best = self._scaled(self.graph, self.stats)
            keeps(best.int8)
        return best, self._advice(seen)

    def _advice(self, seen: Observed) -> Advice:
        """The judgement of the images. It uses the error of thresholds only, because these need the images."""
        if len(seen.batches) == 1:
            return Advice()
        self.progress("calibration advice", 0, 0)
        whole = self.trials.least
        counts = error_by_count(
            seen.batches, lambda stats: self.trials.error(self._scaled(self.graph, stats).int8), whole
        )
        worst = [replace(each, image=self.chosen[each.image]) for each in stretching(seen.ranges)]
        return Advice(counts, worst, seen.ranges)

    def _less_clipping(self, best: _Version) -> _Version:
        """Thresholds closer to the largest values.

        The threshold with the least error clips rare values. In a detector, rare values belong to objects, so clipping
        reduces their scores.
        """
        for unclipped in self.effort.unclipped if self.method != "minmax" else ():
            with self._trial(f"thresholds, {unclipped:.0%} of the way to the largest values") as keeps:
                version = self._scaled(self.graph, self.stats, unclipped)
                if keeps(version.int8):
                    best, self.unclipped = version, unclipped
        return best

    def _migration(self, best: _Version) -> _Version:
        """Make the ranges of a tensor's channels more equal."""
        for strength in self.effort.strengths:
            with self._trial(f"channel migration {strength:g}") as keeps:
                graph = migrate(self.graph, self.channels, strength)
                stats = self._observe(graph).whole
                version = self._scaled(graph, stats, self.unclipped)
                if keeps(version.int8):
                    best, self.stats = version, stats
        return best

    def _zero_points(self, best: _Version) -> _Version:
        """Shift one-sided activations to the middle of int8's range."""
        if not self.effort.zero_points:
            return best
        with self._trial("zero points") as keeps:
            lowering = Lowering(best.exact, pads=TARGETS[self.target].int8_pads)
            offsets = {group: offset for group in lowering.groups if (offset := self._offset(group)) > 0}
            if not offsets:
                return best
            of = {blob: offset for group, offset in offsets.items() for blob in group.blobs}
            inputs = {
                name: STEPS / of[blob] if (blob := best.exact.layer(name).inputs[0]) in of else scale
                for name, scale in best.table.inputs.items()
            }
            table = Table(best.table.weights, inputs)
            whole = lowering.apply(offsets, rounded_weights(best.exact, table))
            version = self._version(lowering.apply(offsets), table, whole)
            if keeps(version.int8):
                best, self.offsets = version, of
            return best

    def _offset(self, group: Group) -> float:
        """Half of the useful range of the blobs of a group that int8 layers read."""
        read = [self.stats.blobs[blob] for blob in group.blobs if blob in self.stats.blobs]
        return max(map(self._range, read), default=0.0) / 2

    def _range(self, blob: BlobStats) -> float:
        return widened(mse_threshold(blob, 2 * STEPS), blob, self.unclipped)

    def _output_thresholds(self, best: _Version) -> _Version:
        """Thresholds with the least error in the outputs of the layers that follow."""
        if not self.effort.by_output:
            return best
        with self._trial("thresholds by output error") as keeps:
            progress = of_step(self.progress, "thresholds by output error")
            table = by_output_error(
                best.exact, best.whole, best.table, self.used, threads=self.threads, progress=progress
            )
            version = self._version(best.exact, table, best.whole)
            return version if keeps(version.int8) else best

    def _fitted(self, start: _Version) -> tuple[_Version, list[Kept]]:
        """Correct the biases in one pass, or fit weights and biases layer by layer, whichever has the smaller error.

        Neither is always better: on networks with swish, one pass may be better than layer by layer.
        """
        best, layers = start, list[Kept]()
        if self.effort.biases:
            with self._trial("bias correction") as keeps:
                progress = of_step(self.progress, "bias correction")
                int8 = correct_bias(
                    start.exact, start.int8, self.used, workers=self.workers, threads=self.threads, progress=progress
                )
                if keeps(int8):
                    best = replace(start, int8=int8)
        for methods in self.effort.fits if not self.native else ():
            with self._trial("layer by layer: " + ", ".join(sorted(methods))) as keeps:
                int8, kept = fit_layers(
                    start.exact, start.int8, self.used, methods, threads=self.threads, rows=self.effort.rows,
                    progress=of_step(self.progress, "layer by layer"),
                )  # fmt: skip
                helps = keeps(int8)
                if helps:
                    best, layers = replace(start, int8=int8), kept
            if helps and self.effort.first_fit:
                break
        return best, layers

    # ---------------------------------------------------------------------------------------------- common steps

    @contextmanager
    def _trial(self, method: str) -> Iterator[Callable[[Graph], bool]]:
        """A context to try a method. It gives a function that takes the new network and returns whether to keep it."""
        self.progress(method, 0, 0)
        with self.trials.trial(method) as keeps:
            yield keeps

    def _observe(self, graph: Graph, **wanted: Any) -> Observed:
        progress = of_step(self.progress, "calibrate")
        return observe(
            graph, self.used, method=self.method, workers=self.workers, threads=self.threads, progress=progress,
            **wanted,
        )  # fmt: skip

    def _scaled(self, graph: Graph, stats: ActivationStats, unclipped: float = 0.0) -> _Version:
        table = make_table(graph, stats, unclipped=unclipped)
        return self._version(graph, table.without(self.skip), graph)

    def _version(self, exact: Graph, table: Table, whole: Graph) -> _Version:
        return _Version(exact, table, whole, apply_table(whole, table, target=self.target, finish=False))


def divided(samples: Samples, effort: Effort, budget: Budget) -> tuple[Samples, Samples, Samples]:
    """(samples to use, samples to hold back, samples that judge a plan: those held back come first)."""
    chosen, held = choose(len(samples), effort, budget)
    judging = samples.subset([*held, *sorted(set(chosen) - set(held))])
    return samples.subset(chosen), samples.subset(held), judging


def choose(count: int, effort: Effort, budget: Budget) -> tuple[list[int], list[int]]:
    """(samples to use, samples to hold back), spread evenly over ``count``, as many as the effort and budget allow."""
    wanted = min(count, effort.images)
    splits = (_split(count, most) for most in range(wanted, min(wanted - 1, FEWEST), -1))
    fitting = (split for split in splits if effort.inferences(*map(len, split)) <= budget.inferences)
    fewest = evenly(count, min(wanted, FEWEST))
    used, held = next(fitting, (fewest[: FEWEST - 1], fewest[-1:]))
    budget.note("calibration samples", len({*used, *held}), wanted)
    return used, held


def _split(count: int, most: int) -> tuple[list[int], list[int]]:
    """Hold back every fourth sample, or one if only a few were chosen. If there are very few, all have both roles."""
    chosen = evenly(count, most)
    if len(chosen) < HELD:
        return (chosen[:-1], chosen[-1:]) if count > most else (chosen, chosen)
    held = chosen[HELD - 1 :: HELD]
    return sorted(set(chosen) - set(held)), held
