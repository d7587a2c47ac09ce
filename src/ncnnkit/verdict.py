"""What a run's figures mean: the warnings, and the classes that the recommended variant gives for one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .comparison.guessing import Purpose
from .comparison.outputs import Outputs
from .formatting import counted, decibel, plain
from .model.work import Budget
from .onboard.engines.base import Engine
from .onboard.protocol import VariantResult
from .plan.requirement import Requirements
from .record.conversion import ConversionCheck
from .record.plan import Plan
from .record.quantisation import Quantisation
from .record.run import Guess, Score
from .record.variant import EMULATED, Variant, reasons
from .samples.doubts import copies_said
from .samples.images import ImageSet, dropped_copies
from .source import ModelSource
from .source.opening import GUESSED
from .source.reference import EXACT_SQNR_DB, LEAST_SQNR_DB
from .tasks.classification import top_k

Array = NDArray[Any]

_NOTHING = Requirements()
LEAST_MATCHED = 0.99  # share of the original's predictions; a score close to the threshold may fall on either side
RESTLESS = 0.25  # interquartile range divided by the median
WRONG_LATENCY = 0.15  # relative to the prediction; with a larger error, other choices might have been better


def warn(
    engine: str,
    origin: str,
    images: ImageSet,
    evaluation: ImageSet,
    check: ConversionCheck,
    variants: Sequence[Variant],
    *,
    purpose: Purpose,
    doubts: Sequence[str] = (),
    requirements: Requirements = _NOTHING,
    quantisation: Quantisation | None = None,
    plan: Plan | None = None,
    emulated: Sequence[str] = (),
    blind: str = "",
    random_weights: bool = False,
) -> list[str]:
    """The warnings of a run, one sentence each.

    Args:
        purpose: the task of the network.
        doubts: what looks wrong about its input tensors.
        requirements: what its models must satisfy.
        emulated: the names of emulated devices.
        blind: why the outputs cannot be judged; empty if they can.
        random_weights: whether the network was not trained.
    """
    said = [f"{name} is {EMULATED}" for name in emulated]
    if blind:
        said.append(f"{blind}: no variant can be judged by its outputs")
    if random_weights:
        said.append(
            "the weights are random: latencies and sizes are those of a trained network, "
            "but the errors of int8 and mixed models mean nothing"
        )
    if origin.startswith(GUESSED):
        said.append(
            f"the model does not contain its preprocessing; ncnnkit used {origin}; "
            "give --preset, or --mean and --std, if the model was trained differently"
        )
    if engine == "ncnn":
        said.append(
            "the original is unknown: the errors are relative to ncnn's own fp32, and the conversion was not verified"
        )
    said += doubts
    if check.sqnr_db is not None and check.original_sqnr_db is not None:
        said.append(
            f"the conversion's SQNR is {check.sqnr_db:.0f} dB, but the original itself is only exact to "
            f"{check.original_sqnr_db:.0f} dB on these samples; samples with larger outputs would show more"
        )
    elif check.sqnr_db is not None and check.sqnr_db < LEAST_SQNR_DB:
        said.append(f"the converted model differs from the original (SQNR {check.sqnr_db:.1f} dB); --force continued")
    elif check.sqnr_db is not None and check.sqnr_db < EXACT_SQNR_DB:
        said.append(f"the conversion's SQNR is {check.sqnr_db:.0f} dB; fp32 normally reaches 100 dB")
    if check.decoded and check.decoded.matched < LEAST_MATCHED * check.decoded.original:
        said.append(
            f"only {check.decoded.matched} of the original's {check.decoded.original} predictions are among those of "
            "the converted model in fp32"
        )
    said += check.own.said if check.own else []
    said += _about_the_quantised(variants)
    if quantisation is not None:
        said += [loss.said for loss in quantisation.lost]
    if quantisation is not None and quantisation.used and quantisation.used + quantisation.held_back < 20:
        calibrated = counted(quantisation.used + quantisation.held_back, "sample")
        said.append(f"int8 was calibrated with {calibrated}; 50 to 200 are usual")
    if len(evaluation) < 20:
        said.append(f"the errors were measured on {counted(len(evaluation), 'sample')} only")
    said += _about_the_reference(variants)
    counts = next(({f.name: f.count for f in v.accuracy.task if f.count} for v in variants if v.accuracy), {})
    said += [
        f"a model is judged on the evaluation samples, which hold {clause}" for clause in requirements.too_few(counts)
    ]
    if purpose.doubt:
        said.append(purpose.doubt)
    said += [*_about_images(quantisation), *_about_plan(plan, variants)]
    skipped = dict(images.skipped + evaluation.skipped)
    said += copies_said(dropped_copies(images, evaluation))
    if skipped:
        many = f"{len(skipped)} files are not usable images and were skipped, {min(skipped)} among them"
        said.append(many if len(skipped) > 1 else f"{min(skipped)} is not a usable image and was skipped")
    timed = [(v.name, v.latency_ms) for v in variants if v.status == "ok" and v.latency_ms]
    if restless := [name for name, ms in timed if ms.spread > RESTLESS and not ms.disturbed]:
        said.append("the latency spreads by more than a quarter (other work on this machine?): " + ", ".join(restless))
    if disturbed := [name for name, ms in timed if ms.disturbed]:
        said.append(
            "the latency is too noisy to be compared, because something else took the time of most samples: "
            + ", ".join(disturbed)
        )
    if outlying := [name for name, ms in timed if ms.outlying]:
        said.append("one of ten samples took more than five times the median: " + ", ".join(outlying))
    return said + reasons(variants, "fallback", "crashed")


def about_engines(engines: Sequence[Engine], variants: Sequence[Variant]) -> list[str]:
    """Notes about other engines: those without a variant, and those that did not run as requested.

    Args:
        engines: the engines of the recipe.
        variants: their variants.
    """
    measured = {v.engine for v in variants}
    said = [
        f"{engine.title} was not measured: it has none of the precisions of this run on its backends"
        for engine in engines
        if engine.name not in measured
    ]
    return said + reasons(variants, "fallback", "crashed")


def _about_the_quantised(variants: Sequence[Variant]) -> Iterator[str]:
    """How much the int8 variants differ from the quantised original."""
    for row in variants:
        if row.precision == "int8" and row.accuracy and row.quantised_sqnr_db is not None:
            yield (
                f"{row.name} is {decibel(row.quantised_sqnr_db)} dB from the quantised original, and "
                f"{decibel(row.accuracy.sqnr_db)} dB from the same in floating point"
            )


def _about_the_reference(variants: Sequence[Variant]) -> Iterator[str]:
    outputs = next((v.accuracy.outputs for v in variants if v.accuracy), [])
    empty = [output.name for output in outputs if output.cosine is None]
    if 0 < len(empty) < len(outputs):  # if all are empty, ``blind`` says so
        yield (
            f"the original's output {', '.join(empty)} is zero on every evaluation image: no variant can be judged by "
            "it; other images, or other weights, are needed"
        )


def _about_images(quantisation: Quantisation | None) -> Iterator[str]:
    if quantisation is None:
        return
    if quantisation.likeness is not None and quantisation.unlike:
        yield (
            "the evaluation images look unlike the calibration images: their distance is "
            f"{plain(quantisation.likeness.evaluation)} standard deviations, the calibration images are within "
            f"{plain(quantisation.likeness.calibration)} of each other; calibrate with images like those that the "
            "model will see"
        )
    if quantisation.stretching:
        worst, *others = quantisation.stretching
        tensors = "one tensor" if worst.tensors == 1 else f"{worst.tensors} tensors"
        more = f", and {len(others)} more do the same" if others else ""
        yield (
            f"the calibration image {worst.image} alone determines the range of {tensors}, "
            f"up to {plain(worst.factor)} times that of any other image{more}: is it a typical image?"
        )


def _about_plan(plan: Plan | None, variants: Sequence[Variant]) -> Iterator[str]:
    if plan is None:
        return
    if not plan.holds:
        yield (f"the mixed model does not satisfy {plan.requirements} on the held-back images: {'; '.join(plan.unmet)}")
    yield from (f"the plan was judged on calibration samples, which hold {clause}" for clause in plan.few)
    for why, count in plan.refused.items():
        yield f"{counted(count, 'model')} tried for the plan did not run, so their choices were left out: {why}"
    if not _explained(plan, variants):
        yield (
            f"the mixed model takes {plain(plan.measured_ms)} ms, but {plain(plan.predicted_ms)} ms were "
            "predicted: another choice of precisions may be better"
        )


def _explained(plan: Plan, variants: Sequence[Variant]) -> bool:
    """Whether noise explains the difference between the measured and the predicted latency of a plan.

    The prediction is scaled to the median of the fp32 samples, so it has their spread, plus an error of
    :data:`WRONG_LATENCY`. The measured latency has the spread of its own samples. Noise explains the difference if the
    middle halves overlap.
    """
    times = {v.precision: v.latency_ms for v in variants if v.backend == "cpu" and v.device == variants[0].device}
    mixed, base = times.get("mixed"), times.get("fp32")
    if plan.measured_ms is None or mixed is None:
        return True
    fastest, slowest = (base.p25 / base.median, base.p75 / base.median) if base else (1.0, 1.0)
    low = plan.predicted_ms * (1 - WRONG_LATENCY) * fastest
    high = plan.predicted_ms * (1 + WRONG_LATENCY) * slowest
    return mixed.p25 <= high and mixed.p75 >= low


def reduced_said(effort: str, budget: Budget) -> list[str]:
    """A sentence about what the stages left out to stay within their budget."""
    if not budget.reduced:
        return []
    taken = "; ".join(f"{what}: {some} in place of {wanted}" for what, (some, wanted) in budget.reduced.items())
    stronger = "default or best" if effort == "fast" else "best"
    return [
        f"an inference of this network takes {plain(budget.inference / 1e9)} billion multiply-adds, so "
        f"--effort {effort} reduced what was computed ({taken}); --effort {stronger} computes more"
    ]


def top5(
    source: ModelSource,
    evaluation: ImageSet,
    reference: Outputs,
    purpose: Purpose,
    recommended: str | None,
    results: Sequence[VariantResult],
) -> list[Guess]:
    """The five best classes of one image, from the original and from the recommended variant.

    It is the evaluation image for which the two best scores of the original differ most: a person can judge that one.
    """
    names = source.labels
    if not names or purpose.classes != len(names) or recommended is None:
        return []
    result = next(r for r in results if r.name == recommended)
    ours = Outputs.opened(result.outputs).first(1)

    def clearness(index: int) -> float:
        second, first = np.sort(reference[index][0], axis=None)[-2:]
        return float(first - second)

    shown = max(range(len(ours)), key=clearness)

    def rows(values: Array) -> list[Score]:
        flat = values.reshape(-1)
        return [Score(label=names[i], score=float(flat[i])) for i in top_k(flat, 5)]

    theirs, found = reference[shown][0], ours[shown][0]
    return [Guess(image=evaluation.names[shown], reference=rows(theirs), recommended=rows(found))]
