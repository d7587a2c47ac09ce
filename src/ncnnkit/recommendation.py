"""Which variant is recommended, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .formatting import cosine, decibel, plain
from .model.precision import PRECISIONS
from .onboard.protocol import NCNN
from .plan.requirement import Requirements
from .record.variant import EMULATED, Latency, Variant
from .tasks import OUTPUTS

_ORDER = list(PRECISIONS)

REPEATABLE = 1.3
"""Medians of different processes whose ratio is less than this are a tie. The same program, measured again in another
process, has another place in memory and other neighbours on the machine; docs/benchmarks.md has the figures."""


def recommend(variants: Sequence[Variant], requirements: Requirements, blind: str = "") -> tuple[str | None, str]:
    """The fastest variant that ran as requested and satisfies the requirements.

    Differences in latency within the spread are ties (:func:`tied`). Ties are decided by, in this order: the SQNR of
    the worst output in whole dB, the size of the files, the order of :data:`PRECISIONS`, the CPU before a GPU. So a
    median that is lower by chance decides nothing.

    Args:
        variants: the variants of one run, or of one of its devices.
        requirements: the requirements of the recipe.
        blind: why the outputs cannot be judged, as a clause; empty if they can.

    Returns:
        (name of the variant or None, the reason).
    """
    timed = [v for v in variants if v.status == "ok" and v.latency_ms]
    if timed and all(EMULATED in v.notes for v in timed):
        return None, f"{EMULATED}, so nothing can be recommended; the errors are real"
    timed = [v for v in timed if EMULATED not in v.notes]
    if timed and blind:
        return None, f"{blind}, so no variant can be judged and none is recommended; the latencies are real"
    usable = [v for v in timed if v.accuracy]
    if not usable:
        return None, "no variant ran as requested; each row has its reason"
    holding = [v for v in usable if requirements.hold(_figures(v), _median(v))]
    if not holding:
        nearest = min(usable, key=lambda v: _excess(v, requirements))
        unmet = " and ".join(requirements.unmet(_figures(nearest), _median(nearest)))
        return (
            None,
            f"no variant satisfies {requirements}, so none is recommended; {nearest.name} comes nearest: {unmet}",
        )
    ties = tied(holding)
    best = min(ties, key=_preference)
    return best.name, _why(best, ties, holding, usable, requirements)


def compare_engines(variants: Sequence[Variant], recommended: str | None, requirements: Requirements) -> str:
    """How other engines compare with ncnn on one device, as sentences; empty where none of them was measured.

    Only variants that satisfy the requirements are compared. The last sentence has the order of the engines. Engines
    tie if :func:`tied` says so, or if the ratio of their medians is less than :data:`REPEATABLE`.

    Args:
        variants: of one device, those of all engines.
        recommended: the name of ncnn's recommended variant.
        requirements: of the recipe.
    """
    timed = [v for v in variants if v.status == "ok" and v.latency_ms and v.accuracy and EMULATED not in v.notes]
    others = [v for v in timed if v.engine != NCNN]
    if not others:
        return ""
    ours = next((v for v in timed if v.name == recommended), None)
    holding = [v for v in others if requirements.hold(_figures(v), _median(v))]
    if ours is None and not holding:
        return f"No variant of any engine satisfies {requirements}."
    if not holding:
        nearest = min(others, key=lambda v: _excess(v, requirements))
        unmet = " and ".join(requirements.unmet(_figures(nearest), _median(nearest)))
        return f"No other engine satisfies {requirements}; {nearest.name} comes nearest: {unmet}."
    best = min(holding, key=_median)
    if ours is None:
        said = f"ncnn is not the best choice here: no variant of it satisfies {requirements}, {_row(best)} does"
        return f"{said}. {_order_of_engines(holding)}"
    fastest = min([ours, best], key=_median)
    ties = [v for v in [ours, *holding] if _close(fastest, v)]
    if ours not in ties:
        said = f"ncnn is not the fastest choice here: {_ahead(best, ours)}; both satisfy {requirements}"
    elif len(ties) > 1:
        rows = ", ".join(map(_row, sorted(ties, key=_median)))
        said = f"ncnn and other engines tie here: {rows} differ in latency by less than it changes from run to run"
    else:
        said = f"ncnn is the fastest choice here: {_ahead(ours, best)}"
    quick = [v for v in others if v not in holding and _median(v) < min(_median(ours), _median(best))]
    if quick:
        first = min(quick, key=_median)
        unmet = " and its ".join(requirements.unmet(_figures(first), _median(first)))
        said += f". {first.name} is faster ({plain(_median(first))} ms), but its {unmet}"
    return f"{said}. {_order_of_engines([ours, *holding])}"


def _ahead(fast: Variant, slow: Variant) -> str:
    """How much faster a variant is than another. There is no factor if a latency is disturbed."""
    if noisy := [v.name for v in (fast, slow) if _latency(v).disturbed]:
        return f"{_row(fast)} is faster than {_row(slow)}; {' and '.join(noisy)} is too noisy to say by how much"
    return f"{_row(fast)} is {_median(slow) / _median(fast):.2f} times as fast as {_row(slow)}"


def _close(a: Variant, b: Variant) -> bool:
    """Whether two variants tie, although other processes measured them."""
    fast, slow = sorted((a, b), key=_median)
    start = _latency(slow).min if _latency(slow).disturbed else _latency(slow).p25
    return start <= _latency(fast).p75 or _median(slow) < REPEATABLE * _median(fast)


def _order_of_engines(variants: Sequence[Variant]) -> str:
    """A sentence: the engines by the fastest variant of each, with their ties."""
    fastest: dict[str, Variant] = {}
    for variant in sorted(variants, key=_median):
        fastest.setdefault(variant.engine, variant)
    groups: list[list[Variant]] = []
    for variant in fastest.values():
        if groups and _close(groups[-1][-1], variant):
            groups[-1].append(variant)
        else:
            groups.append([variant])
    said = []
    for group in groups:
        *rows, last = (f"{v.engine} ({v.precision} {v.backend}, {plain(_median(v))} ms)" for v in group)
        said.append(f"{', '.join(rows)} and {last} tie" if rows else last)
    return f"The engines by the fastest variant of each that satisfies the requirements: {'; '.join(said)}."


def _row(variant: Variant) -> str:
    """A variant with its latency and its error."""
    sqnr = _figures(variant).get("sqnr")
    error = "exact" if sqnr is None or math.isinf(sqnr) else f"SQNR {decibel(sqnr)} dB"
    return f"{variant.name} ({plain(_median(variant))} ms, {error})"


def tied(variants: Sequence[Variant]) -> list[Variant]:
    """The variants that may be the fastest, judged by their samples.

    The middle half of a variant's samples lies between its quartiles ``p25`` and ``p75``. A variant is excluded if its
    ``p25`` is above the ``p75`` of another variant; all others are tied. The rule does not depend on the order of the
    variants, and does not get stricter with more samples: if the middle halves of two variants overlap, a user who runs
    one inference cannot tell them apart.
    """
    end = min(v.latency_ms.p75 for v in variants if v.latency_ms)
    return [v for v in variants if v.latency_ms and v.latency_ms.p25 <= end]


def compared(variants: Sequence[Variant]) -> list[str]:
    """For each device, a sentence: which variant is the fastest, or which ones may be.

    The sentence says "too noisy" if the samples of a variant that may be the fastest were disturbed
    (:attr:`Latency.disturbed`). It names the latencies with outliers (:attr:`Latency.outlying`).
    """
    timed = [v for v in variants if v.status == "ok" and v.latency_ms and EMULATED not in v.notes]
    said = [
        f"{v.name}: one of ten samples took at least {plain(_latency(v).p90 / _median(v))} times the median "
        f"({plain(_latency(v).p90)} ms in place of {plain(_median(v))} ms): another program ran, or the clock changed"
        for v in timed
        if _latency(v).outlying
    ]
    for device in dict.fromkeys(v.device for v in timed):
        here = [v for v in timed if v.device == device]
        said += [_compared(here)] if len(here) > 1 else []
    return said


def _compared(variants: Sequence[Variant]) -> str:
    ties = sorted(tied(variants), key=_median)
    end = max(_latency(v).p75 for v in ties)
    noisy = [v for v in variants if _latency(v).disturbed and _latency(v).min <= end]
    if noisy:
        least = ", ".join(f"{plain(_latency(v).min)} ms" for v in noisy)
        return (
            f"too noisy to say which is the fastest (the middle half of the samples: {_ranges(noisy)}; the fastest "
            f"sample: {least}): stop other programs, hold the clocks, or time for longer with --seconds"
        )
    if len(ties) > 1:
        return f"{' and '.join(v.name for v in ties)} are equally fast: {_tie(ties)}"
    best, second = sorted(variants, key=_median)[:2]
    if _latency(second).disturbed:
        return f"{best.name} is the fastest; {second.name} is too noisy to say by how much ({_ranges([second])})"
    return (
        f"{best.name} is the fastest, {_median(second) / _median(best):.2f} times as fast as {second.name} (the middle "
        f"half of the samples: {_ranges([best, second])})"
    )


def _figures(variant: Variant) -> dict[str, float | None]:
    return variant.accuracy.figures() if variant.accuracy else {}


def _median(variant: Variant) -> float:
    return _latency(variant).median


def _latency(variant: Variant) -> Latency:
    assert variant.latency_ms is not None
    return variant.latency_ms


def _sqnr(variant: Variant) -> float:
    found = _figures(variant).get("sqnr")
    return -math.inf if found is None else found


def _preference(variant: Variant) -> tuple[float, float, int, bool, str]:
    """A sort key: of tied variants, the one with the least key is recommended."""
    sqnr = _sqnr(variant)
    exact = -(round(sqnr) if math.isfinite(sqnr) else sqnr)
    return exact, variant.size_bytes or 0, _ORDER.index(variant.precision), variant.backend != "cpu", variant.name


def _excess(variant: Variant, requirements: Requirements) -> float:
    """How far a variant misses the requirements: the largest ratio of noise powers, or of squared times."""
    late = _median(variant) / requirements.max_latency_ms if requirements.max_latency_ms else 0.0
    return max(requirements.excess(_figures(variant)), late**2)


def _why(
    best: Variant, ties: Sequence[Variant], holding: Sequence[Variant], usable: Sequence[Variant],
    requirements: Requirements,
) -> str:  # fmt: skip
    found = ", ".join([*_required(best, requirements), f"{plain(_median(best))} ms"])
    if len(holding) == 1:
        why = f"{best.name} is the only variant that satisfies {requirements} ({found})"
    elif len(ties) == 1:
        why = f"{best.name} is the fastest of the {len(holding)} that satisfy {requirements} ({found})"
    else:
        why = f"{best.name} is {_better(best, ties)} of the fastest that satisfy {requirements} ({found}); {_tie(ties)}"
    base = next((v for v in usable if (v.precision, v.backend, v.device) == ("fp32", "cpu", best.device)), None)
    if base is not None and base not in ties and not _latency(base).disturbed:
        why += f", {_median(base) / _median(best):.2f} times as fast as {base.name}"
    faster = [v for v in usable if v not in holding and _median(v) < _median(best)]
    if faster:
        quick = min(faster, key=_median)
        unmet = " and its ".join(requirements.unmet(_figures(quick), _median(quick)))
        why += f"; {quick.name} is faster ({plain(_median(quick))} ms), but its {unmet}"
    return why


def _required(variant: Variant, requirements: Requirements) -> list[str]:
    """The required figures of a variant; its cosine if none is required."""
    values = _figures(variant)
    found = [(r.figure, values.get(r.figure.name)) for r in requirements.figures]
    found = [(figure, value) for figure, value in found if value is not None] or [(OUTPUTS["cosine"], values["cosine"])]
    return [
        f"{figure.title} {cosine(value, 5) if figure.name == 'cosine' else figure.text(value or 0.0)}"
        for figure, value in found
    ]


def _better(best: Variant, ties: Sequence[Variant]) -> str:
    """What decided between tied variants, as a superlative."""
    exact, size, *_ = _preference(best)
    others = [_preference(v) for v in ties if v is not best]
    if all(other[0] > exact for other in others):
        return "the most accurate"
    return "the smallest" if all(other[1] > size for other in others) else "one of the most accurate"


def _tie(ties: Sequence[Variant]) -> str:
    return f"their latencies differ by less than their spread (the middle half of the samples: {_ranges(ties)})"


def _ranges(variants: Sequence[Variant]) -> str:
    return ", ".join(f"{v.name} {plain(_latency(v).p25)} to {plain(_latency(v).p75)} ms" for v in variants)
