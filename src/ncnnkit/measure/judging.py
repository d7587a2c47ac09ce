"""Whether the outputs of measured variants are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..comparison.layers import first_wrong_layer
from ..comparison.wrong import what_is_wrong, worst_sqnr_db
from ..errors import NcnnkitError
from ..model.graph import Graph
from ..onboard.protocol import VariantResult
from ..record.variant import Variant
from ..samples.stream import Samples
from .variants import VariantSpec


def refuse_wrong_outputs(
    variants: Sequence[Variant],
    specs: Sequence[VariantSpec],
    results: Sequence[VariantResult],
    exact: Graph,
    few: Samples,
    conversion_db: float | None,
) -> list[Variant]:
    """Call variants ``crashed`` whose outputs are wrong, on any backend, and say what was seen and in which layer.

    Outputs are wrong where they contain NaN or infinity, or more noise than :func:`what_is_wrong` explains by the
    precision, by the conversion, and by the same precision on the CPU of the same device.

    An output whose number of values depends on the sample, as detections do, is compared in that number: a score that
    rounding moves over a threshold adds or removes a box, and no bound for the noise explains it. Such an output is
    wrong where it has another number of values than the original on more than half of the samples.

    Args:
        variants: of a run.
        specs: what they were made from, in the same order.
        results: of the job that measured them, in the same order.
        exact: the network in fp32.
        few: samples to compare layer by layer.
        conversion_db: SQNR of the converted network in fp32 against the original; None where they are equal.
    """
    explained = [] if conversion_db is None else [conversion_db]
    right: dict[tuple[str, str, str], float] = {}  # (engine, device, precision) -> SQNR on the CPU
    judged: dict[str, Variant] = {}
    rows = sorted(zip(variants, specs, results), key=lambda row: row[0].backend != "cpu")
    for variant, spec, result in rows:
        key = (variant.engine, variant.device, variant.precision)
        others = [right[key]] if key in right else []
        why = _what_is_wrong(variant, result, explained + others)
        if why:
            variant = replace(variant, status="crashed", reason=why + _where(spec, exact, few))
        elif variant.status == "ok" and variant.backend == "cpu" and _sqnr(variant) is not None:
            right[key] = _sqnr(variant)  # type: ignore[assignment]
        judged[variant.name] = variant
    return [judged[variant.name] for variant in variants]


def _what_is_wrong(variant: Variant, result: VariantResult, others: Sequence[float]) -> str:
    if variant.status == "crashed" and result.outputs:
        return variant.reason  # it ran to its end: the outputs contain NaN or infinity
    if variant.status != "ok" or variant.accuracy is None:
        return ""
    images = variant.accuracy.images
    if any(output.other_shape > images / 2 for output in variant.accuracy.outputs):
        return f"wrong outputs: {'; '.join(variant.accuracy.other_shapes())}"
    found = _sqnr(variant)
    if found is None:
        return ""
    why = what_is_wrong(variant.precision, found, others)
    return why and f"wrong outputs: {why}"


def _sqnr(variant: Variant) -> float | None:
    if variant.accuracy is None:
        return None
    same = [output for output in variant.accuracy.outputs if not output.other_shape]
    return worst_sqnr_db([(output.mse, output.sqnr_db) for output in same])


def _where(spec: VariantSpec, exact: Graph, few: Samples) -> str:
    """The first wrong layer, as the end of a sentence; empty if it is not known."""
    if spec.model is None:
        return ""
    try:
        coarse = spec.model.at(spec.precision)
        layer = first_wrong_layer(
            exact, coarse, few, backend=spec.backend, threads=spec.threads, device=spec.site.device
        )
    except NcnnkitError:
        return ""
    return f"; the first wrong layer is {layer}" if layer else "; no single layer stands out"
