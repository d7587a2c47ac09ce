"""The comparison of two runs: what changed, and which conditions for a failure are met.

A condition is ``VARIANT.FIGURE RELATION BOUND``, such as ``int8.latency > 1.1x``. A comparison fails if a condition is
true.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..errors import RecipeError
from ..formatting import cosine, exact, plain
from ..tasks import OUTPUTS
from ..tasks.table import all_figures
from .run import Run
from .variant import EMULATED, Variant

RECOMMENDED = "recommended"
"""The name, in a condition, of the variant that each run recommends."""

Kind = Literal["value", "times", "change"]


@dataclass(frozen=True)
class Measure:
    """A number by which runs are compared.

    Attributes:
        name: its name in a condition.
        title: its name for people.
        unit: ``ms``, ``MB``, ``dB``, ``share`` (0 to 1) or empty.
        at_least: whether more is better; None if that is not known.
        timed: whether it depends on the speed of the machine.
    """

    name: str
    title: str
    unit: str
    at_least: bool | None
    timed: bool = False

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None:
            return "–"
        if math.isinf(value):
            return "exact" if (value > 0) == bool(self.at_least) else "broken"
        if self.unit == "share":
            return f"{100 * value:.1f} %"
        written = {"ms": plain, "MB": plain, "dB": "{:.1f}".format}.get(self.unit)
        if written is None:
            written = cosine if self.name == "cosine" else exact
        return f"{written(value)} {self.unit}".rstrip()

    def change(self, before: float | None, after: float | None) -> str:
        """The change of a value, in percent for times and sizes, else in its unit; empty if it is not known."""
        if before is None or after is None or not math.isfinite(before) or not math.isfinite(after):
            return ""
        if self.unit in ("ms", "MB"):
            return f"{100 * (after / before - 1):+.1f} %" if before > 0 else ""
        difference = after - before
        if self.unit == "share":
            return f"{100 * difference:+.1f} %"
        return f"{difference:+.1f} dB" if self.unit == "dB" else f"{difference:+.3g}"


_VALUES: Mapping[str, tuple[Measure, Callable[[Variant], float | None]]] = MappingProxyType(
    {
        measure.name: (measure, value)
        for measure, value in (
            (Measure("latency", "latency", "ms", False, True), lambda v: v.latency_ms and v.latency_ms.median),
            (Measure("p90", "90th percentile", "ms", False, True), lambda v: v.latency_ms and v.latency_ms.p90),
            (Measure("load", "cold load", "ms", False, True), lambda v: v.load_ms and v.load_ms.cold),
            (Measure("memory", "memory", "MB", False), lambda v: v.peak_memory_mb),
            (Measure("size", "size", "MB", False), lambda v: None if v.size_bytes is None else v.size_bytes / 1e6),
        )
    }
)


def measures(variants: Iterable[Variant]) -> dict[str, Measure]:
    """The measures of some variants by name: times and sizes, the errors of outputs, and the figures of the task."""
    found = {name: measure for name, (measure, _) in _VALUES.items()}
    known = all_figures()
    found |= {name: Measure(name, each.title, each.unit, each.at_least) for name, each in OUTPUTS.items()}
    for variant in variants:
        for figure in variant.accuracy.task if variant.accuracy else ():
            better = known[figure.name].at_least if figure.name in known else None
            found.setdefault(figure.name, Measure(figure.name, figure.title, figure.unit, better))
    return found


def value_of(variant: Variant | None, name: str) -> float | None:
    """A number of a variant; None if it was not measured. An exact output has infinite SQNR."""
    if variant is None:
        return None
    if name in _VALUES:
        return _VALUES[name][1](variant)
    return variant.accuracy.figures().get(name) if variant.accuracy else None


def find_variant(run: Run, name: str) -> Variant | None:
    """A variant by its name, or by its precision on the CPU of the first device, or the recommended one."""
    if name == RECOMMENDED:
        return run.variant(run.recommended)
    of_precision = (v for v in run.variants if (v.precision, v.backend) == (name, "cpu"))
    return run.variant(name) or next(of_precision, None)


# ------------------------------------------------------------------------------------------------------ conditions

_CONDITION = re.compile(
    r"\s*(?P<variant>[\w@.:/-]+?)\.(?P<figure>[A-Za-z0-9_]+)\s*(?P<relation>>=|<=|>|<)\s*"
    r"(?P<sign>[+-]?)(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>x|ms|MB|dB|%|)\s*",
    re.ASCII,
)
_RELATIONS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
)
EXAMPLES = "such as 'int8.latency > 1.1x', 'recommended.size > 5MB' or 'mixed.sqnr < -0.5dB'"


@dataclass(frozen=True)
class Condition:
    """A condition that makes the comparison of two runs fail.

    Attributes:
        text: as the user wrote it.
        variant: a name, a precision, or ``recommended``.
        figure: the name of a measure.
        relation: ``>``, ``>=``, ``<`` or ``<=``.
        bound: a value in the measure's unit, a factor, or a difference.
        kind: ``times``: the bound is multiplied by the first run's value. ``change``: it is added to it. ``value``: it
            is used as it is.
    """

    text: str
    variant: str
    figure: str
    relation: str
    bound: float
    kind: Kind

    @classmethod
    def parse(cls, text: str, known: Mapping[str, Measure]) -> Condition:
        """A condition as the user writes it.

        Args:
            text: ``VARIANT.FIGURE RELATION BOUND``. A bound with ``x`` is a factor of the first run's value. A bound
                with a sign is a difference from that value. Any other bound is a value. A unit may follow.
            known: the existing measures by name.

        Raises:
            RecipeError: the text is not a condition, its figure is unknown, or its bound has the unit of another
                figure.

        Example:
            >>> Condition.parse("int8.latency > 1.1x", measures([])).kind
            'times'
        """
        where = f"--fail-if {text!r}"
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise RecipeError(f"is not a condition: {_what_is_wrong(text)}", where=where, hint=EXAMPLES)
        figure, sign, unit = match["figure"], match["sign"], match["unit"]
        if figure not in known:
            raise RecipeError(f"unknown figure {figure!r}", where=where, hint="one of " + ", ".join(known))
        if unit == "x" and sign:
            raise RecipeError("a factor has no sign", where=where, hint=f"write {match['number']}x")
        wanted = {"share": "%"}.get(known[figure].unit, known[figure].unit)
        if unit not in ("", "x", wanted):
            hint = f"it is in {wanted}" if wanted else "it has no unit"
            raise RecipeError(f"{figure} is not in {unit}", where=where, hint=hint)
        bound = float(match["number"]) * (-1 if sign == "-" else 1) / (100 if unit == "%" else 1)
        kind: Kind = "times" if unit == "x" else "change" if sign else "value"
        return cls(text.strip(), match["variant"], figure, match["relation"], bound, kind)

    def judge(self, before: Run, after: Run, measure: Measure) -> Verdict:
        """Whether the condition is true. If a value is unknown, it counts as true: a model that fails has no latency.

        Raises:
            RecipeError: neither run has such a variant.
        """
        old, new = find_variant(before, self.variant), find_variant(after, self.variant)
        if old is None and new is None and self.variant != RECOMMENDED:
            names = dict.fromkeys(v.name for run in (before, after) for v in run.variants)
            where, hint = f"--fail-if {self.text!r}", f"one of {RECOMMENDED}, {', '.join(names)}, or a precision"
            raise RecipeError(f"no variant is called {self.variant!r}", where=where, hint=hint)
        was, now = value_of(old, self.figure), value_of(new, self.figure)
        for run, variant, value in (("second", new, now), ("first", old, was)):
            if run == "first" and self.kind == "value":
                continue
            if variant is None:
                return Verdict(self, True, f"the {run} run has no such variant")
            if value is None:
                reason = f": {variant.reason}" if variant.reason else ""
                return Verdict(self, True, f"{measure.title} is not known in the {run} run{reason}")
            if measure.timed and EMULATED in variant.notes:
                return Verdict(self, True, f"the device of the {run} run is emulated: its timings are not real")
        assert now is not None
        limit = self.bound if self.kind == "value" else self._limit(was)
        fails = math.isnan(now) or _RELATIONS[self.relation](now, limit)
        compared = f"{measure.text(now)}, the limit is {measure.text(limit)}"
        return Verdict(self, fails, compared if self.kind == "value" else f"{compared}, before: {measure.text(was)}")

    def _limit(self, was: float | None) -> float:
        assert was is not None
        return self.bound * was if self.kind == "times" else self.bound + was


def _what_is_wrong(text: str) -> str:
    """Which part of a condition is missing or wrong, as a clause."""
    left, relation, right = re.fullmatch(r"([^<>=!]*)([<>=!]*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if not relation:
        return "it has no > >= < or <="
    if relation not in _RELATIONS:
        return f"{relation} is not one of > >= < <="
    if "." not in left.strip().strip("."):
        return f"{left.strip()!r} is not VARIANT.FIGURE"
    return f"{right.strip()!r} is not a number with one of the units x, ms, MB, dB, %"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a condition.

    Attributes:
        condition: the condition.
        fails: whether the condition is true, or cannot be judged.
        why: the numbers, as a clause.
    """

    condition: Condition
    fails: bool
    why: str

    def __str__(self) -> str:
        return f"{self.condition.text}: {self.why}"


# --------------------------------------------------------------------------------------------------------- changes


@dataclass(frozen=True)
class Change:
    """A number of a variant in both runs.

    Attributes:
        measure: which number.
        before, after: the values in the two runs; None if not measured.
        tie: whether the middle halves of two latencies overlap, so that the change may be noise.
        better: whether it became better; None if it did not change, if the change may be noise, or if it is unknown
            which direction is better.
    """

    measure: Measure
    before: float | None
    after: float | None
    tie: bool = False

    @property
    def better(self) -> bool | None:
        """Whether the value became better; None if it did not change, may be noise, or has no known direction."""
        if self.tie or self.before is None or self.after is None:
            return None
        # A change that the shown digits hide is none: "21.5 dB → 21.5 dB" is neither better nor worse.
        if self.measure.text(self.before) == self.measure.text(self.after):
            return None
        return None if self.measure.at_least is None else (self.after > self.before) == self.measure.at_least

    def __str__(self) -> str:
        """Such as ``5.23 → 6.10 ms (+16.6 %)``."""
        moved = self.measure.change(self.before, self.after)
        notes = ", ".join(filter(None, [moved, "within noise" if self.tie and self.before != self.after else ""]))
        before, after = self.measure.text(self.before), self.measure.text(self.after)
        return f"{before} → {after}" + (f" ({notes})" if notes else "")


@dataclass(frozen=True)
class Row:
    """A variant in both runs.

    Attributes:
        name: the name of the variant.
        status: the status in both runs, such as ``ok`` or ``ok → crashed``; ``–`` for a run without this variant.
        changes: its numbers, by the names of the measures.
    """

    name: str
    status: str
    changes: dict[str, Change]


@dataclass(frozen=True)
class Diff:
    """The comparison of two runs.

    Attributes:
        notes: differences that make the runs hard to compare, and a changed recommendation; a sentence each.
        measures: the measures that any variant has, by name.
        rows: each variant of either run, the variants of the second run first.
        verdicts: the outcome of each condition.
    """

    notes: list[str]
    measures: dict[str, Measure]
    rows: list[Row]
    verdicts: list[Verdict]

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts that fail."""
        return [verdict for verdict in self.verdicts if verdict.fails]


def compare_runs(before: Run, after: Run, conditions: Sequence[str] = ()) -> Diff:
    """Compare two runs, and judge the second by the conditions.

    Args:
        before, after: the runs.
        conditions: the conditions for a failure, as :meth:`Condition.parse` reads them.

    Raises:
        RecipeError: a condition cannot be read, or names a variant that neither run has.
    """
    variants = [*after.variants, *before.variants]
    known = measures(variants)
    parsed = [Condition.parse(text, known) for text in conditions]
    rows = []
    for name in dict.fromkeys(variant.name for variant in variants):
        old, new = before.variant(name), after.variant(name)
        changes = {
            measure.name: Change(
                measure, value_of(old, measure.name), value_of(new, measure.name), measure.timed and overlap(old, new)
            )
            for measure in known.values()
        }
        had = {key: each for key, each in changes.items() if (each.before, each.after) != (None, None)}
        statuses = dict.fromkeys(each.status if each else "–" for each in (old, new))
        rows.append(Row(name, " → ".join(statuses), had))
    verdicts = [condition.judge(before, after, known[condition.figure]) for condition in parsed]
    used = {name: measure for name, measure in known.items() if any(name in row.changes for row in rows)}
    return Diff(_notes(before, after), used, rows, verdicts)


def overlap(old: Variant | None, new: Variant | None) -> bool:
    """Whether the middle halves (25th to 75th percentile) of two latencies overlap."""
    if old is None or new is None or old.latency_ms is None or new.latency_ms is None:
        return False
    return old.latency_ms.p25 <= new.latency_ms.p75 and new.latency_ms.p25 <= old.latency_ms.p75


def _notes(before: Run, after: Run) -> list[str]:
    """Differences that a reader must know first, a sentence each."""
    found = []
    if before.model.name != after.model.name:
        found.append(f"the models are different: {before.model.name} and {after.model.name}")
    machines = [{d.name: (d.machine.cpu, d.machine.ncnn) for d in run.devices} for run in (before, after)]
    for name in machines[0].keys() & machines[1].keys():
        (cpu, ncnn), (new_cpu, new_ncnn) = machines[0][name], machines[1][name]
        if cpu != new_cpu:
            found.append(f"{name} has another processor: {cpu}, then {new_cpu}; the times cannot be compared")
        if ncnn != new_ncnn:
            found.append(f"{name} has another ncnn: {ncnn}, then {new_ncnn}")
    if machines[0].keys() != machines[1].keys():
        names = [", ".join(each) for each in machines]
        found.append(f"the devices are different: {names[0]}, then {names[1]}; the times cannot be compared")
    if before.images.evaluation != after.images.evaluation:
        was, now = before.images.evaluation, after.images.evaluation
        found.append(f"the errors were measured on {was} images, then on {now} images")
    if before.recommended != after.recommended:
        old, new = (run.recommended or "nothing" for run in (before, after))
        found.append(f"the recommendation was {old} and is {new}")
    return found
