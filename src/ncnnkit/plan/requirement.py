"""The requirements for a model: figures of its outputs with bounds, and the longest latency."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from ..errors import RecipeError
from ..recipe import parse_latency
from ..record.run import RequirementRecord
from ..tasks import OUTPUTS, Figure, Task
from ..tasks.table import all_figures

_REQUIREMENT = re.compile(r"\s*([a-z0-9_]+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*(%?)\s*", re.ASCII)

RULE_OF_THREE = 3.0
"""The rule of three: if none of n things is wrong, the share of wrong things is at most 3/n, with 95 % confidence.
Source: Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249, 1983."""


@dataclass(frozen=True)
class Requirement:
    """A figure with a bound.

    Attributes:
        figure: the figure.
        bound: the least allowed value, or the largest if less is better, in the unit of the figure. A share is 0 to 1.
        relative: whether the bound is a difference from the original's own value: -0.01 allows a loss of one percent.

    Example:
        >>> requirement = Requirement.parse("cosine>=0.999")
        >>> requirement.holds(0.9995), requirement.holds(0.99), str(requirement)
        (True, False, 'cosine ≥ 0.999')
    """

    figure: Figure
    bound: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str, figures: Mapping[str, Figure] | None = None) -> Requirement:
        """A requirement as the user writes it: ``cosine>=0.999``, ``mse<=0.01``, ``top1_agreement>=99.5%``.

        For a figure against labels, a bound with a sign is relative to the original: ``top1>=-1%`` allows a loss of
        one percent, and ``label_cer<=+1%`` allows one percent more errors.

        Args:
            text: a figure, a relation and a bound.
            figures: the known figures; by default those of all tasks.

        Raises:
            RecipeError: the text is not a requirement, the figure is unknown, the bound is impossible, or a package
                that the figure needs is missing.
        """
        figures = all_figures() if figures is None else figures
        where, examples = f"require {text!r}", "such as 'cosine>=0.999', 'sqnr>=30' or 'mse<=0.01'"
        match = _REQUIREMENT.fullmatch(text)
        if not match:
            raise RecipeError("is not a requirement", where=where, hint=examples)
        name, relation, number, percent = match.groups()
        if name not in figures:
            raise RecipeError(f"unknown figure {name!r}", where=where, hint="one of " + ", ".join(figures))
        figure = figures[name]
        if relation != figure.relation:
            better = "more" if figure.at_least else "less"
            raise RecipeError(f"for {name}, {better} is better", where=where, hint=f"{name}{figure.relation}{number}")
        try:
            bound = float(number) / (100 if percent else 1)
        except ValueError:
            raise RecipeError(f"{number!r} is not a number", where=where, hint=examples) from None
        if percent and figure.unit != "share":
            raise RecipeError(f"{name} is not measured in percent", where=where, hint=examples)
        relative = figure.labelled and number.startswith("-" if figure.at_least else "+")
        if not math.isfinite(bound) or not figure.possible(abs(bound) if relative else bound):
            raise RecipeError(f"no model that rounds values can have {name} {figure.text(bound)}", where=where)
        if figure.needs and find_spec(figure.needs) is None:
            raise RecipeError(f"{name} needs {figure.needs}", where=where, hint=f"pip install {figure.needs}")
        return cls(figure, bound, relative)

    def against(self, original: Mapping[str, float | None]) -> Requirement:
        """The same requirement with an absolute bound.

        Args:
            original: the figures of the original itself, by their names.
        """
        value = original.get(self.figure.name)
        if not self.relative or value is None:
            return self
        return Requirement(self.figure, max(value + self.bound, 0.0))

    def holds(self, value: float | None) -> bool:
        """Whether a value of the figure satisfies the bound. An unknown value or NaN does not."""
        if value is None:
            return False
        return value >= self.bound if self.figure.at_least else value <= self.bound

    def unmet(self, value: float | None) -> str:
        """Why a value does not satisfy the bound, as a clause; empty if it does."""
        if value is None:
            why = "it could not be computed on these samples"
            if self.figure.labelled:
                why = "it needs --labels"
            elif self.figure.counts not in ("", "samples"):
                why = f"the original finds no {self.figure.counts} in these samples"
            return f"{self.figure.title} is not known: {why}"
        if self.holds(value):
            return ""
        side = "below" if self.figure.at_least else "above"
        if math.isnan(value):
            return f"{self.figure.title} is not a number"
        return f"{self.figure.title} {self.figure.text(value)} is {side} {self.figure.text(self.bound)}"

    @property
    def needed(self) -> int:
        """The number of things to judge to show that it holds, if none is wrong; 0 if the figure counts nothing."""
        allowed = 1 - self.bound if self.figure.at_least else self.bound
        if not self.figure.counts or self.figure.labelled or allowed <= 0:
            return 0
        return math.ceil(round(RULE_OF_THREE / allowed, 6))

    def record(self) -> RequirementRecord:
        """The record of the requirement in run.json."""
        return RequirementRecord(figure=self.figure.name, bound=self.bound, text=str(self))

    def excess(self, value: float) -> float:
        """The noise power of a value divided by the allowed noise power: at most 1 if the requirement holds.

        It is infinite if the value is not a number, or if there is noise but none is allowed.
        """
        power, allowed = self.figure.power(value), self.figure.power(self.bound)
        if math.isnan(power):
            return math.inf
        if allowed > 0:
            return max(power, 0.0) / allowed
        return math.inf if power > 0 else 0.0

    def __str__(self) -> str:
        return f"{self.figure.title} {'≥' if self.figure.at_least else '≤'} {self.figure.text(self.bound)}"


@dataclass(frozen=True)
class Requirements:
    """All requirements for a model.

    Attributes:
        figures: the requirements of its outputs. All must hold.
        max_latency_ms: the longest allowed median latency, ms; None for no limit.

    Example:
        >>> requirements = Requirements.parse(["cosine>=0.999", "sqnr>=30"], "20ms")
        >>> requirements.unmet({"cosine": 0.99, "sqnr": 35.0}, latency_ms=21.5)
        ['cosine 0.99 is below 0.999', 'latency 21.5 ms is above 20 ms']
    """

    figures: tuple[Requirement, ...] = ()
    max_latency_ms: float | None = None

    @classmethod
    def parse(
        cls,
        require: Sequence[str],
        max_latency: str = "",
        task: Task | type[Task] | None = None,
        *,
        labelled: bool = True,
    ) -> Requirements:
        """Parse requirements as the user writes them.

        Args:
            require: such as ``["cosine>=0.999"]``.
            max_latency: such as ``20ms``; empty for no limit.
            task: the task that the user named; None if it is guessed later. Figures of all tasks are then allowed.
            labelled: whether the evaluation samples have labels.

        Raises:
            RecipeError: a text is not a requirement, a figure belongs to another task, has two bounds, or needs missing
                labels.
        """
        known = all_figures() if task is None else all_figures(task)
        made = tuple(Requirement.parse(text, known) for text in require)
        if task is not None:
            cls(made).check(task)
        for requirement in made:
            if requirement.figure.labelled and not labelled:
                hint = "give the labels of the evaluation images with --labels"
                raise RecipeError(f"{requirement.figure.name} needs labels", where="require", hint=hint)
        names = [requirement.figure.name for requirement in made]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RecipeError(f"{twice} is required twice", where="require", hint="give the stricter bound")
        return cls(made, parse_latency(max_latency))

    def of(self, task: Task) -> Requirements:
        """The requirements for a network of a task. These are the task's defaults if the user named none.

        Raises:
            RecipeError: the task has no such figure.
        """
        known = {**OUTPUTS, **task.figures}
        if not self.figures:
            return Requirements(tuple(Requirement.parse(each, known) for each in task.requires), self.max_latency_ms)
        self.check(task)
        # Two tasks may have figures of the same name, so the figure is looked up in the task.
        own = (replace(requirement, figure=known[requirement.figure.name]) for requirement in self.figures)
        return Requirements(tuple(own), self.max_latency_ms)

    def check(self, task: Task | type[Task]) -> None:
        """Raise RecipeError if a task does not have a required figure."""
        known = {**OUTPUTS, **task.figures}
        for requirement in self.figures:
            if requirement.figure.name not in known:
                hint = f"its figures: {', '.join(known)}; --task names another task"
                raise RecipeError(
                    f"{requirement.figure.name} is not a figure of the task {task.name}", where="require", hint=hint
                )

    def against(self, original: Mapping[str, float | None]) -> Requirements:
        """The same with absolute bounds; see :meth:`Requirement.against`."""
        return Requirements(tuple(each.against(original) for each in self.figures), self.max_latency_ms)

    def unmet(self, figures: Mapping[str, float | None], latency_ms: float | None) -> list[str]:
        """The requirements that a model does not satisfy, one clause each; empty if it satisfies all.

        Args:
            figures: figure -> its value for the worst output, as :meth:`ncnnkit.comparison.accuracy.Errors.figures`
                gives them. The SQNR of exact outputs is infinity. Unknown figures are None or absent.
            latency_ms: the median latency, ms; None if it was not timed.
        """
        reasons = [requirement.unmet(figures.get(requirement.figure.name)) for requirement in self.figures]
        if self.max_latency_ms is not None:
            if latency_ms is None:
                reasons.append("latency is not known: it was not timed")
            elif not latency_ms <= self.max_latency_ms:
                reasons.append(f"latency {latency_ms:.4g} ms is above {self.max_latency_ms:g} ms")
        return [reason for reason in reasons if reason]

    def hold(self, figures: Mapping[str, float | None], latency_ms: float | None) -> bool:
        """Whether a model satisfies all requirements; see :meth:`unmet`."""
        return not self.unmet(figures, latency_ms)

    def excess(self, figures: Mapping[str, float | None]) -> float:
        """The largest :meth:`Requirement.excess` of the known figures; 0 if there is none."""
        known = ((requirement, figures.get(requirement.figure.name)) for requirement in self.figures)
        return max((requirement.excess(value) for requirement, value in known if value is not None), default=0.0)

    def too_few(self, counts: Mapping[str, int]) -> list[str]:
        """The requirements for which there are too few predictions by the rule of three, one clause each.

        If several requirements count the same things, only the one that needs most things is named.

        Args:
            counts: figure -> the number of things that it counts, as :meth:`ncnnkit.comparison.accuracy.Errors.counts`
                gives it.

        Example:
            >>> Requirements.parse(["texts>=0.95"]).too_few({"texts": 16})
            ['only 16 texts. Even if none of them is wrong, 19 % of others may be wrong: equal texts ≥ 95 % needs 60']
            >>> Requirements.parse(["texts>=0.95"]).too_few({"texts": 1})[0].partition(".")[0]
            'too few texts: 1'
        """
        clauses = []
        about = [each for each in self.figures if counts.get(each.figure.name) and each.needed]
        for noun in dict.fromkeys(each.figure.counts for each in about):
            strictest = max((each for each in about if each.figure.counts == noun), key=lambda each: each.needed)
            count = counts[strictest.figure.name]
            if count < strictest.needed:
                lost = 100 * min(RULE_OF_THREE / count, 1.0)
                few = f"only {count} {noun}" if count > 1 else f"too few {noun}: {count}"
                clauses.append(
                    f"{few}. Even if none of them is wrong, {lost:.0f} % of others may be wrong: "
                    f"{strictest} needs {strictest.needed}"
                )
        return clauses

    def without_labels(self) -> Requirements:
        """The requirements that samples without labels can judge, with the same latency."""
        return Requirements(tuple(r for r in self.figures if not r.figure.labelled), self.max_latency_ms)

    @property
    def texts(self) -> list[str]:
        """Each requirement as a text for the user."""
        latency = [] if self.max_latency_ms is None else [f"latency ≤ {self.max_latency_ms:g} ms"]
        return [*map(str, self.figures), *latency]

    def __str__(self) -> str:
        return ", ".join(self.texts)
