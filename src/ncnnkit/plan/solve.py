"""Finds the choice of each layer: the fastest plan within an error, or the most exact plan within a time.

This is a multiple-choice knapsack problem: every layer takes one of its options, and errors (noise powers) and times
add up. A pair of neighbours adds another time: the time to convert between their formats, or a negative time that a
common format saves. HiGHS solves it as a mixed-integer linear program. Nothing here depends on ncnn.

An option with a time or an error that is infinite or not a number cannot be taken.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RuntimeFailure

Vector = NDArray[np.float64]

GAP = 1e-3  # the largest relative distance from the optimum
SECONDS = 2.0  # for one plan; then the best plan so far is taken
PATIENCE = 20  # if no plan was found in that time, it is extended by this factor
_FINE = 1e-3


@dataclass(frozen=True)
class Option:
    """An option of a layer: a choice, its time, and the noise power that it adds to the output."""

    choice: str
    ms: float
    error: float


@dataclass(frozen=True)
class Edge:
    """The costs of pairs of choices of two layers: (the producer's, the consumer's) -> ms.

    An absent pair costs nothing. A pair whose cost is infinite or not a number is impossible.
    """

    producer: str
    consumer: str
    ms: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Assignment:
    """A plan: the choice of each layer, with the total time and error."""

    choices: Mapping[str, str]
    ms: float
    error: float


Layers = Mapping[str, Sequence[Option]]


def solve(
    layers: Layers,
    edges: Sequence[Edge] = (),
    max_error: float | None = None,
    max_ms: float | None = None,
    *,
    gap: float = GAP,
    seconds: float = SECONDS,
) -> Assignment | None:
    """The best plan, within ``gap`` of the optimum.

    Args:
        layers: the options of each layer.
        edges: pairs of layers with additional costs.
        max_error: the largest error; the time is minimised.
        max_ms: the longest time, ms; the error is minimised. With ``max_error``, too, the time is minimised within
            both.
        gap: the relative distance from the optimum at which to stop.
        seconds: the time after which the best plan so far is taken.

    Returns:
        The plan; None if no plan satisfies the bounds.

    Raises:
        RuntimeFailure: no option of a layer can be taken, or no plan was found in time although there may be one.

    Example:
        >>> layers = {"a": [Option("fp32", 2.0, 0.0), Option("int8", 1.0, 0.1)]}
        >>> solve(layers, max_error=0.2).choices, solve(layers, max_error=0.01).choices
        ({'a': 'int8'}, {'a': 'fp32'})
    """
    return _Program(layers, edges).solve(max_error, max_ms, gap=gap, seconds=seconds)


def front(
    layers: Layers, edges: Sequence[Edge] = (), points: int = 12, *, gap: float = GAP, seconds: float = SECONDS
) -> list[Assignment]:
    """The Pareto front: at most ``points`` plans, from the fastest to the most exact.

    Their errors are spaced evenly in decibels, because a noise power is judged by its ratio to the signal power. Empty
    if the edges allow no plan at all.

    Raises:
        RuntimeFailure: see :func:`solve`.
    """
    program = _Program(layers, edges)

    def find(max_error: float | None = None, max_ms: float | None = None) -> Assignment | None:
        return program.solve(max_error, max_ms, gap=gap, seconds=seconds)

    fastest = find()
    exact = find(max_ms=math.inf)
    if fastest is None or exact is None:
        return []
    exact = find(max_error=exact.error) or exact  # the fastest of the most exact plans
    found = [fastest, exact]
    if points > 2 and fastest.error > exact.error:
        lowest = max(exact.error, program.least_error())
        for max_error in np.geomspace(fastest.error, lowest, points)[1:-1]:
            found.append(find(max_error=float(max_error)) or exact)
    return undominated(found)[:points]


def undominated(plans: Sequence[Assignment]) -> list[Assignment]:
    """The plans that no other plan beats in both time and error, from the fastest to the most exact."""
    kept: list[Assignment] = []
    for plan in sorted(plans, key=lambda p: (p.ms, p.error)):
        if not kept or plan.error < kept[-1].error:
            kept.append(plan)
    return kept


def total(layers: Layers, edges: Sequence[Edge], choices: Mapping[str, str]) -> Assignment:
    """The total time and error of a plan."""
    options = {name: {o.choice: o for o in options} for name, options in layers.items()}
    taken = [options[name][choice] for name, choice in choices.items()]
    pairs = sum(edge.ms.get((choices[edge.producer], choices[edge.consumer]), 0.0) for edge in edges)
    return Assignment(dict(choices), sum(o.ms for o in taken) + pairs, sum(o.error for o in taken))


@dataclass
class _Rows:
    """The rows of a sparse matrix, with bounds."""

    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)

    def equal(self, terms: Sequence[tuple[int, float]], bound: float) -> None:
        """Add a row: the sum of value * variable equals ``bound``."""
        for column, value in terms:
            self.row.append(len(self.bound))
            self.column.append(column)
            self.value.append(value)
        self.bound.append(bound)


class _Program:
    """The linear program: a binary variable for each option of each layer, then a flow for each pair of an edge.

    The flows of an edge out of a producer's option add up to the variable of that option. The flows into a consumer's
    option add up to its variable. If the options are binary, exactly one flow is 1, so the flows need not be integer
    variables. The relaxation is tighter than with one constraint for each pair.
    """

    def __init__(self, given: Layers, edges: Sequence[Edge]) -> None:
        layers = {name: [o for o in options if math.isfinite(o.ms + o.error)] for name, options in given.items()}
        empty = next((name for name, options in layers.items() if not options), None)
        if empty is not None:
            tried = "; ".join(f"{o.choice}: {o.ms:g} ms, error {o.error:g}" for o in given[empty]) or "there is none"
            raise RuntimeFailure("no precision of this layer can be used", where=f"layer {empty}", hint=tried)
        self.layers, self.edges = layers, edges
        self._options = [(name, option) for name, options in layers.items() for option in options]
        ms = [option.ms for _, option in self._options]
        errors = [option.error for _, option in self._options]
        upper = [1.0] * len(ms)
        index = {(name, option.choice): i for i, (name, option) in enumerate(self._options)}
        rows = _Rows()
        for name, options in layers.items():
            rows.equal([(index[name, o.choice], 1.0) for o in options], 1.0)
        for edge in edges:
            both = itertools.product(layers[edge.producer], layers[edge.consumer])
            pairs = {(p.choice, c.choice): flow for flow, (p, c) in enumerate(both, len(ms))}
            costs = [edge.ms.get(pair, 0.0) for pair in pairs]
            ms += [cost if math.isfinite(cost) else 0.0 for cost in costs]
            upper += [1.0 if math.isfinite(cost) else 0.0 for cost in costs]
            for side, name in enumerate((edge.producer, edge.consumer)):
                for option in layers[name]:
                    flows = [(flow, 1.0) for pair, flow in pairs.items() if pair[side] == option.choice]
                    rows.equal([*flows, (index[name, option.choice], -1.0)], 0.0)
        self._rows = rows
        self._ms, self._upper = np.array(ms), np.array(upper)
        self._errors = np.zeros(len(ms))
        self._errors[: len(errors)] = errors

    def least_error(self) -> float:
        """The smallest non-zero error of an option."""
        return float(min(self._errors[self._errors > 0], default=0.0))

    def solve(self, max_error: float | None, max_ms: float | None, *, gap: float, seconds: float) -> Assignment | None:
        """See the function :func:`solve`."""
        if not self._options:
            return Assignment({}, 0.0, 0.0)
        if max_error is not None or max_ms is None:
            return self._run(False, math.inf if max_error is None else max_error, max_ms, gap, seconds)
        # The solver's tolerance is 1e-6. If that is large compared with the errors, it solves again at their scale.
        found, bound = None, math.inf
        while (better := self._run(True, bound, max_ms, gap, seconds)) is not None:
            if found is None or better.error < found.error:
                found = better
            if not 0 < better.error < self._scale(bound) * _FINE:
                break
            bound = better.error
        return found

    def _scale(self, max_error: float) -> float:
        """The divisor of errors, which may be of any size: the bound, or the largest error."""
        scale = max_error if math.isfinite(max_error) else float(self._errors.max(initial=0.0))
        return scale or 1.0

    def _run(
        self, by_error: bool, max_error: float, max_ms: float | None, gap: float, seconds: float
    ) -> Assignment | None:
        from highspy import HighsModelStatus as Status

        too_large = self._errors > max_error  # excluded; in the sum, they would hide small errors
        errors = np.where(too_large, 0.0, self._errors / self._scale(max_error))
        bounded = []
        if math.isfinite(max_error):
            bounded.append((errors, max_error / self._scale(max_error)))
        if max_ms is not None and math.isfinite(max_ms):
            bounded.append((self._ms, max_ms))
        upper = np.where(too_large, 0.0, self._upper)
        program = _as_highs(errors if by_error else self._ms, upper, len(self._options), self._rows, bounded)
        for limit in (seconds, PATIENCE * seconds):
            status, values = _highs(program, gap, limit)
            if values is not None:
                pairs = zip(self._options, values)
                return total(self.layers, self.edges, {name: o.choice for (name, o), taken in pairs if taken > 0.5})
            if status == Status.kInfeasible:
                return None
            if status != Status.kTimeLimit:
                break
        raise RuntimeFailure(
            f"no plan was found: the solver ended with {status.name}",
            hint="fewer precisions make an easier problem",
        )


def _as_highs(costs: Vector, upper: Vector, binaries: int, rows: _Rows, bounded: Sequence[tuple[Vector, float]]) -> Any:
    """The program as a ``highspy.HighsLp``.

    Args:
        costs: the cost of each variable; their sum is minimised.
        upper: the largest value of each variable; the smallest is 0.
        binaries: how many of the first variables are integers.
        rows: the equality constraints.
        bounded: the coefficients of an inequality constraint, and its upper bound.
    """
    import highspy

    places = [np.flatnonzero(values) for values, _ in bounded]
    order = np.argsort(np.array(rows.row, int), kind="stable")
    lengths = [*np.bincount(np.array(rows.row, int), minlength=len(rows.bound)), *map(len, places)]
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(costs), len(lengths)
    program.col_cost_, program.col_lower_, program.col_upper_ = costs, np.zeros(len(costs)), upper
    program.row_lower_ = np.array([*rows.bound, *[-np.inf] * len(bounded)])
    program.row_upper_ = np.array([*rows.bound, *[bound for _, bound in bounded]])
    kinds = highspy.HighsVarType
    program.integrality_ = [kinds.kInteger] * binaries + [kinds.kContinuous] * (len(costs) - binaries)
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    matrix.index_ = np.concatenate([np.array(rows.column, int)[order], *places]).astype(np.int32)
    given = [values[place] for place, (values, _) in zip(places, bounded)]
    matrix.value_ = np.concatenate([np.array(rows.value)[order], *given])
    return program


def _highs(program: Any, gap: float, seconds: float) -> tuple[Any, list[float] | None]:
    """(how HiGHS ended, the best values of the variables or None)."""
    import highspy

    with _quiet():
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("mip_rel_gap", gap)
        solver.setOptionValue("time_limit", seconds)
        if solver.passModel(program) == highspy.HighsStatus.kError:
            return highspy.HighsModelStatus.kModelError, None
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        return status, list(solver.getSolution().col_value) if feasible else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Redirect stdout while HiGHS runs: it prints lines now and then, and a command's JSON goes to stdout."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C buffers output to a pipe, and would print it later
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
