"""Finds variants that did not run as requested: their outputs are bitwise equal to those of another variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..comparison.outputs import Outputs, equal
from ..onboard.protocol import NCNN, VariantResult
from ..record.variant import Variant


def refuse_copies(variants: Sequence[Variant], results: Sequence[VariantResult]) -> list[Variant]:
    """Set the status of variants to ``fallback`` if their outputs are bitwise equal to those of another variant.

    A variant on a GPU is compared with the same precision on the CPU. If they are equal, the CPU computed, although the
    driver reports a GPU. fp16 and bf16 of another engine are compared with fp32: such engines use a precision as a
    hint, and do not report whether they follow it. This is not necessary for ncnn on the CPU, because its models store
    the weights in the precision.

    Args:
        variants: the variants of a run.
        results: the results of the job that measured them, in the same order.
    """
    outputs = {_key(v): r.outputs for v, r in zip(variants, results)}
    found = []
    for variant, result in zip(variants, results):
        for key, reason in _twins(variant):
            theirs = outputs.get(key)
            if variant.status == "ok" and theirs and equal(*map(Outputs.opened, (result.outputs, theirs))):
                variant = replace(variant, status="fallback", reason=reason)
        found.append(variant)
    return found


def _key(variant: Variant) -> tuple[str, str, str, str]:
    return variant.engine, variant.device, variant.backend, variant.precision


def _twins(variant: Variant) -> list[tuple[tuple[str, str, str, str], str]]:
    """The keys of the variants from which this one must differ, each with the reason if the outputs are equal."""
    engine, device, backend, precision = _key(variant)
    found = []
    if backend != "cpu":
        same = "the outputs are bitwise equal to those of the CPU, so it ran on the CPU"
        found.append(((engine, device, "cpu", precision), same))
    if engine != NCNN and precision in ("fp16", "bf16"):
        same = f"the outputs are bitwise equal to those of fp32: this engine has no {precision} arithmetic here"
        found.append(((engine, device, backend, "fp32"), same))
    return found
