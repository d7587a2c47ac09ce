"""Variants that did not do what they were asked to: their outputs are bitwise equal to those of another variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..comparison.outputs import Outputs, equal
from ..onboard.protocol import NCNN, VariantResult
from ..record.variant import Variant


def refuse_copies(variants: Sequence[Variant], results: Sequence[VariantResult]) -> list[Variant]:
    """Call variants ``fallback`` whose outputs are bitwise equal to those of the variant that they must differ from.

    That is, for a GPU, the same precision on the CPU: it did not run on the GPU, despite the driver. For fp16 and bf16
    of another engine it is fp32: such engines take a precision as a hint, and do not say whether they follow it. A
    model of ncnn stores its weights in the precision, so its outputs differ.

    Args:
        variants: of a run.
        results: of the job that measured them, in the same order.
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
    """The variants from which this one must differ, each with what it means if it does not."""
    engine, device, backend, precision = _key(variant)
    found = []
    if backend != "cpu":
        same = "the outputs are bitwise equal to the CPU's, so this ran on the CPU"
        found.append(((engine, device, "cpu", precision), same))
    if engine != NCNN and precision in ("fp16", "bf16"):
        same = f"the outputs are bitwise equal to those of fp32: this engine has no {precision} arithmetic here"
        found.append(((engine, device, backend, "fp32"), same))
    return found
