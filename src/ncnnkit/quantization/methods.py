"""From an fp32 network and images to its best int8 version: what is tried, in order, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..device.session import Session
from ..errors import RecipeError
from ..model.graph import Graph
from ..model.targets import TARGETS
from ..record.run import Count, FittedLayer, Likeness, Quantisation, StretchingImage
from ..record.run import Trial as TrialRecord
from .advice import BATCHES, Stretch, enough, error_by_count, image_ranges, stretching
from .bias import correct_bias
from .calibration import ActivationStats, calibrate_batches, merge_all
from .equalize import channel_ranges, migrate
from .int8 import NATIVE_METHODS, apply_table, finished, make_table, rounded_weights
from .layerwise import Kept, fit_layers
from .scales import STEPS, mse_threshold
from .table import Table
from .thresholds import by_output_error
from .zeropoint import Group, Lowering

Array = NDArray[np.float32]
Tell = Callable[[str, int, int], None]
"""Progress: (step, done, total); total 0 where it cannot be known."""

HELD = 5  # every fifth image takes no part in choosing, and judges


@dataclass(frozen=True)
class Effort:
    """How much time quantising may take.

    Attributes:
        images: at most so many are used.
        strengths: of channel migration, those tried.
        zero_points: whether one-sided activations are moved to the middle of int8's range.
        by_output: whether thresholds are moved to where the layers that read them err least.
        biases: whether biases are corrected where nothing is fitted.
        fits: what is fitted layer by layer (:func:`ncnnkit.quantization.layerwise.fit_layers`), those tried. Without
            any, biases are corrected against each layer's own fp32 input, all in one pass.
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


@dataclass
class Trial:
    """One method: the error with it on held-back images, beside the best so far; and what it cost.

    Attributes:
        method: its name.
        mse: mean squared error of the outputs against fp32, on the held-back images; squared unit of the output.
        kept: whether it lowered the error. The first row is what the others are compared with.
        seconds: the time it took, trying and judging.
    """

    method: str
    mse: float
    kept: bool
    seconds: float


@dataclass(eq=False)
class Quantized:
    """What came of quantising.

    Attributes:
        source: the fp32 network that was quantised.
        graph: int8, ready to ship.
        exact: an fp32 network that computes what the original did, layer for layer the one ``graph`` was made from.
        fitted: ``graph`` before :func:`ncnnkit.quantization.int8.finished`.
        held: the samples that were held back, (N, …) for each network input.
        trials: what was tried, in order.
        layers: what was kept in each layer; empty where nothing was fitted layer by layer.
        advice: on the calibration images.
    """

    source: Graph
    graph: Graph
    exact: Graph
    fitted: Graph
    held: list[Array]
    trials: list[Trial] = field(default_factory=list)
    layers: list[Kept] = field(default_factory=list)
    advice: Advice = field(default_factory=lambda: Advice())

    def record(self, effort: str, names: Sequence[str], likeness: Likeness | None) -> Quantisation:
        """What run.json holds of it.

        Args:
            effort: the recipe's.
            names: of the calibration images.
            likeness: of the evaluation images to them; None where that was not looked at.
        """
        advice = self.advice
        return Quantisation(
            effort=effort,
            held_back=len(self.held[0]),
            trials=[
                TrialRecord(
                    method=trial.method,
                    mse=trial.mse if np.isfinite(trial.mse) else None,
                    kept=trial.kept,
                    seconds=round(trial.seconds, 3),
                )
                for trial in self.trials
            ],
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
            likeness=likeness,
        )


@dataclass(frozen=True, eq=False)
class Advice:
    """What the calibration images were worth.

    Attributes:
        counts: the error against the number of images; empty where it was not looked at.
        stretching: images that alone stretch ranges, by their index among the samples.
        ranges: float64 (images, tensors), the largest absolute values.
    """

    counts: list[Count] = field(default_factory=list)
    stretching: list[Stretch] = field(default_factory=list)
    ranges: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def quantize_images(
    graph: Graph,
    samples: Sequence[Array],
    *,
    target: str = "arm",
    method: str = "mse",
    effort: str | Effort = "default",
    skip: Collection[str] = (),
    threads: int | None = None,
    tell: Tell = lambda step, done, total: None,
) -> Quantized:
    """Quantise a network to int8 with calibration images; every method is kept only where it helps on some held back.

    Args:
        graph: the fp32 network, optimised; not changed.
        samples: float32 (N, …) for each network input.
        target: the kernels that will run it.
        method: how thresholds are chosen. ``kl`` and ``aciq`` are ncnn2table's: of the rest only biases are corrected.
        effort: ``fast``, ``default`` or ``best``, or one of your own.
        skip: layers that stay in floating point.
        threads: processes; by default one a core.
        tell: called with progress.

    Raises:
        RecipeError: an unknown effort.
        ModelError, VerificationError, RuntimeFailure: as :func:`ncnnkit.calibrate`.
    """
    if isinstance(effort, str):
        if effort not in EFFORTS:
            raise RecipeError(f"unknown effort {effort!r}", hint=", ".join(EFFORTS))
        effort = EFFORTS[effort]
    return _Quantizer(graph, samples, target, method, effort, set(skip), threads, tell).run()


@dataclass(eq=False)
class _Version:
    """A network on its way, ``int8``, and what it is made from: ``whole``, which computes what ``exact`` does with the
    weights that int8 has."""

    exact: Graph
    table: Table
    whole: Graph
    int8: Graph


class _Quantizer:
    def __init__(
        self, graph: Graph, samples: Sequence[Array], target: str, method: str, effort: Effort, skip: set[str],
        threads: int | None, tell: Tell,
    ) -> None:  # fmt: skip
        self.graph, self.target, self.method, self.effort = graph, target, method, effort
        self.skip, self.threads, self.tell = skip, threads, tell
        chosen = np.linspace(0, len(samples[0]) - 1, min(effort.images, len(samples[0]))).round().astype(int)
        held = chosen[HELD - 1 :: HELD] if len(chosen) >= HELD else chosen
        used = np.setdiff1d(chosen, held) if len(chosen) >= HELD else chosen
        self.chosen = used
        self.used, self.held = [a[used] for a in samples], [a[held] for a in samples]
        self.trials: list[Trial] = []

    def run(self) -> Quantized:
        native = self.method in NATIVE_METHODS
        with self._trial("thresholds") as judge:
            self.reference = self._outputs(self.graph)
            # Counted in batches: what fewer images would have given costs no counting of its own then.
            batches = self._calibrate(self.graph, BATCHES if self.effort.advice and not native else 1)
            best = self._thresholds(self.graph, merge_all(batches))
            judge(best.int8)
        advice = self._advice(batches)
        if not native:
            best = self._migration(best)
            best = self._zero_points(best)
            best = self._output_thresholds(best)
        layers: list[Kept] = []
        if self.effort.fits and not native:
            best, layers = self._layer_by_layer(best)
        else:
            best = self._biases(best)
        return Quantized(self.graph, finished(best.int8), best.exact, best.int8, self.held, self.trials, layers, advice)

    # ------------------------------------------------------------------------------------------------ the methods

    def _thresholds(self, graph: Graph, stats: ActivationStats | None = None) -> _Version:
        """Scales from histograms."""
        self.stats = stats or self._calibrate(graph)[0]
        table = make_table(graph, self.stats).without(self.skip)
        return self._version(graph, table, graph)

    def _version(self, exact: Graph, table: Table, whole: Graph) -> _Version:
        return _Version(exact, table, whole, apply_table(whole, table, target=self.target, finish=False))

    def _advice(self, batches: Sequence[ActivationStats]) -> Advice:
        """What the images were worth. The error is that of thresholds alone: what they are chosen for."""
        if len(batches) == 1:
            return Advice()
        self.tell("calibration advice", 0, 0)
        kept = self.stats
        counts = error_by_count(
            batches, lambda stats: self._error(self._thresholds(self.graph, stats).int8), self.trials[0].mse
        )
        self.stats = kept
        ranges = image_ranges(self.graph, self.used, self.threads)
        worst = [replace(each, image=int(self.chosen[each.image])) for each in stretching(ranges)]
        return Advice(counts, worst, ranges)

    def _migration(self, best: _Version) -> _Version:
        """Channels of one tensor to more equal ranges."""
        if not self.effort.strengths:
            return best
        self.tell("channel ranges", 0, 0)
        ranges = channel_ranges(self.graph, self.used, threads=self.threads)
        for strength in self.effort.strengths:
            with self._trial(f"channel migration {strength:g}") as judge:
                before, version = self.stats, self._thresholds(migrate(self.graph, ranges, strength))
                if judge(version.int8):
                    best = version
                else:
                    self.stats = before
        return best

    def _zero_points(self, best: _Version) -> _Version:
        """One-sided activations to the middle of int8's range."""
        if not self.effort.zero_points:
            return best
        with self._trial("zero points") as judge:
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
            return version if judge(version.int8) else best

    def _output_thresholds(self, best: _Version) -> _Version:
        """Thresholds by the error they cause at the output of the layers behind."""
        if not self.effort.by_output:
            return best
        with self._trial("thresholds by output error") as judge:
            tell = self._progress("thresholds by output error")
            table = by_output_error(best.exact, best.whole, best.table, self.used, threads=self.threads, progress=tell)
            version = self._version(best.exact, table, best.whole)
            return version if judge(version.int8) else best

    def _offset(self, group: Group) -> float:
        """Half of the range that is worth covering, over what int8 layers read of a group."""
        read = [self.stats.blobs[blob] for blob in group.blobs if blob in self.stats.blobs]
        return max((mse_threshold(blob, 2 * STEPS) for blob in read), default=0.0) / 2

    def _biases(self, best: _Version) -> _Version:
        if not self.effort.biases:
            return best
        with self._trial("bias correction") as judge:
            tell = self._progress("bias correction")
            fixed = correct_bias(best.exact, best.int8, self.used, threads=self.threads, progress=tell)
            return replace(best, int8=fixed) if judge(fixed) else best

    def _layer_by_layer(self, start: _Version) -> tuple[_Version, list[Kept]]:
        best, kept = start, list[Kept]()
        for methods in self.effort.fits:
            with self._trial("layer by layer: " + ", ".join(sorted(methods))) as judge:
                fitted, layers = fit_layers(
                    start.exact, start.int8, self.used, methods, threads=self.threads, rows=self.effort.rows,
                    progress=self._progress("layer by layer"),
                )  # fmt: skip
                if judge(fitted):
                    best, kept = replace(start, int8=fitted), layers
        return (best, kept) if kept else (self._biases(start), [])

    # ------------------------------------------------------------------------------------------------- the judging

    @contextmanager
    def _trial(self, method: str) -> Iterator[Callable[[Graph], bool]]:
        """A row of the record; inside, call what is given with the network to judge."""
        start = time.perf_counter()

        def judge(int8: Graph) -> bool:
            error = self._error(int8)
            kept = not self.trials or error < min(trial.mse for trial in self.trials if trial.kept)
            kept |= not self.effort.guards
            self.trials.append(Trial(method, error, kept, time.perf_counter() - start))
            return kept

        self.tell(method, 0, 0)
        yield judge

    def _error(self, int8: Graph) -> float:
        outputs = self._outputs(int8)
        differences = [np.mean((o.astype(np.float64) - r) ** 2) for o, r in zip(outputs, self.reference, strict=True)]
        error = float(np.mean(differences))
        return error if np.isfinite(error) else float("inf")

    def _outputs(self, graph: Graph) -> list[Array]:
        with Session(graph, threads=self.threads) as net:
            rows = [net.blobs(*sample, names=graph.outputs) for sample in zip(*self.held)]
        return [np.stack(column) for column in zip(*rows)]

    def _calibrate(self, graph: Graph, batches: int = 1) -> list[ActivationStats]:
        progress = self._progress("calibrate")
        return calibrate_batches(
            graph, self.used, None, batches, method=self.method, threads=self.threads, progress=progress
        )

    def _progress(self, step: str) -> Callable[[int, int], None]:
        return lambda done, total: self.tell(step, done, total)
