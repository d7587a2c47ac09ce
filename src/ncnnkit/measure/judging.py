"""Checks whether the outputs of measured variants are correct."""

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
    """Set the status of variants with wrong outputs to ``crashed``, with the reason and the first wrong layer.

    Outputs are wrong if they contain NaN or infinity, or more noise than :func:`what_is_wrong` explains by the
    precision, by the conversion, and by the same precision on the CPU of the same device.

    If the number of values of an output depends on the sample, as with detections, only this number is compared:
    rounding may move a score across a threshold, and so add or remove a box. Such an output is wrong if its number of
    values differs from that of the original for more than half of the samples.

    Args:
        variants: the variants of a run.
        specs: their specifications, in the same order.
        results: the results of the job that measured them, in the same order.
        exact: the network in fp32.
        few: a few samples for the comparison layer by layer.
        conversion_db: the SQNR of the converted network in fp32 against the original, dB; None if they are equal.
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
        return variant.reason  # the outputs contain NaN or infinity
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
    """The first wrong layer, as the end of a sentence; empty if unknown."""
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
