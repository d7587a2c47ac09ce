"""The solver of mixed-precision plans: as good as exhaustive search, with clear errors for impossible problems."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncnnkit.errors import RuntimeFailure
from ncnnkit.plan import solve as solving
from ncnnkit.plan.solve import Assignment, Edge, Option, front, solve, total, undominated

Instance = tuple[dict[str, list[Option]], list[Edge]]
EXACT = 1e-9  # a gap so small that the optimum must be found

amounts = st.integers(0, 20).map(float)


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Up to five layers of up to three options, and edges between any two in order."""
    layers = {
        f"l{i}": [Option(f"c{j}", draw(amounts), draw(amounts)) for j in range(draw(st.integers(1, 3)))]
        for i in range(draw(st.integers(1, 5)))
    }
    pairs = list(itertools.combinations(layers, 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=5)) if pairs else []
    costs = st.integers(-10, 10).map(float) | st.just(math.inf)
    edges = [
        Edge(a, b, {(p.choice, c.choice): draw(costs) for p in layers[a] for c in layers[b] if draw(st.booleans())})
        for a, b in chosen
    ]
    return layers, edges


def everything(instance: Instance) -> list[Assignment]:
    layers, edges = instance
    names = list(layers)
    plans = (dict(zip(names, [o.choice for o in options])) for options in itertools.product(*layers.values()))
    return [plan for plan in (total(layers, edges, choices) for choices in plans) if math.isfinite(plan.ms)]


def chain(length: int, options: int, seed: int = 0) -> Instance:
    """Consecutive layers as in a network. A change of the format between two layers has a cost."""
    rng = np.random.default_rng(seed)
    names = ["fp32", "bf16", "int8", "int8-winograd"][:options]
    layers = {}
    for i in range(length):
        size = rng.uniform(0.1, 2)
        layers[f"l{i}"] = [
            Option(name, size * rng.uniform(0.6, 1.0) / (k + 1), 0.0 if k == 0 else 10 ** rng.uniform(-8, -4) * 4**k)
            for k, name in enumerate(names)
        ]
    cost = {(a, b): 0.0 if a == b else 0.05 for a in names for b in names} | {("int8", "int8"): -0.05}
    return layers, [Edge(f"l{i}", f"l{i + 1}", cost) for i in range(length - 1)]


@given(instances(), amounts)
@settings(max_examples=60, deadline=None)
def test_the_fastest_within_an_error_equals_exhaustive_search(instance: Instance, bound: float) -> None:
    fitting = [plan.ms for plan in everything(instance) if plan.error <= bound]
    found = solve(*instance, max_error=bound, gap=EXACT)
    assert (found is None) == (not fitting)
    if found is not None:
        assert found.error <= bound
        assert found.ms == pytest.approx(min(fitting), abs=1e-6)


@given(instances(), st.integers(-10, 60).map(float))
@settings(max_examples=60, deadline=None)
def test_the_most_exact_within_a_time_equals_exhaustive_search(instance: Instance, bound: float) -> None:
    fitting = [plan.error for plan in everything(instance) if plan.ms <= bound]
    found = solve(*instance, max_ms=bound, gap=EXACT)
    assert (found is None) == (not fitting)
    if found is not None:
        assert found.ms <= bound + 1e-6
        assert found.error == pytest.approx(min(fitting), abs=1e-6)


@given(instances())
@settings(max_examples=30, deadline=None)
def test_a_front_goes_from_the_fastest_to_the_most_exact(instance: Instance) -> None:
    plans = everything(instance)
    found = front(*instance, points=5, gap=EXACT)
    assert bool(found) == bool(plans)
    if found:
        assert found[0].ms == pytest.approx(min(plan.ms for plan in plans), abs=1e-6)
        assert found[-1].error == pytest.approx(min(plan.error for plan in plans), abs=1e-6)
        assert len(found) <= 5
        for plan in found:
            assert not any(other.ms < plan.ms - 1e-6 and other.error < plan.error - 1e-6 for other in plans)


def test_edges_can_decide_between_options() -> None:
    layers = {name: [Option("fp32", 1.0, 0.0), Option("int8", 1.1, 0.0)] for name in "ab"}
    assert solve(layers).choices == {"a": "fp32", "b": "fp32"}  # type: ignore[union-attr]
    chained = solve(layers, [Edge("a", "b", {("int8", "int8"): -0.5})])
    assert chained is not None
    assert chained.choices == {"a": "int8", "b": "int8"}
    assert chained.ms == pytest.approx(1.7)


def test_an_impossible_pair_is_not_taken() -> None:
    layers = {name: [Option("fp32", 9.0, 0.0), Option("int8", 1.0, 0.0)] for name in "ab"}
    forbidden = dict.fromkeys([("int8", "int8"), ("fp32", "int8"), ("int8", "fp32")], math.inf)
    found = solve(layers, [Edge("a", "b", forbidden)])
    assert found is not None
    assert found.choices == {"a": "fp32", "b": "fp32"}


def test_impossible_bounds_give_no_plan() -> None:
    layers = {"a": [Option("fp32", 5.0, 1.0)]}
    assert solve(layers, max_error=0.5) is None
    assert solve(layers, max_ms=4.0) is None
    assert solve(layers, max_error=0.0) is None
    assert solve(layers, max_error=1.0, max_ms=5.0) is not None


def test_noise_powers_far_below_the_solvers_tolerance_count() -> None:
    layers = {name: [Option("fp32", 2.0, 0.0), Option("int8", 1.0, 1e-12)] for name in "abc"}
    found = solve(layers, max_error=1.5e-12)
    assert found is not None
    assert sorted(found.choices.values()) == ["fp32", "fp32", "int8"]


def test_small_errors_count_together_with_large_ones() -> None:
    coarse = Option("int8", 0.5, 1.0)
    layers = {name: [Option("fp32", 2.0, 1e-13), Option("bf16", 1.0, 1e-11), coarse] for name in "abc"}
    fine = solve(layers, max_ms=4.0)
    assert fine is not None
    assert sorted(fine.choices.values()) == ["bf16", "bf16", "fp32"]
    bounded = solve(layers, max_error=2.5e-11)
    assert bounded is not None
    assert bounded.choices == fine.choices or bounded.ms == fine.ms
    assert bounded.error <= 2.5e-11


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_options_that_are_not_numbers_cannot_be_taken(bad: float) -> None:
    layers = {
        "a": [Option("fp32", 1.0, 0.0), Option("bf16", 0.5, bad)],
        "b": [Option("fp32", 1.0, 0.0), Option("bf16", bad, 0.0)],
    }
    edges = [Edge("a", "b", {("fp32", "fp32"): 0.5, ("bf16", "fp32"): bad})]
    exact = {"a": "fp32", "b": "fp32"}
    for found in (solve(layers, edges, max_error=0.1), solve(layers, edges, max_ms=9.0), *front(layers, edges)):
        assert found is not None
        assert found.choices == exact
        assert (found.ms, found.error) == (2.5, 0.0)


def test_a_layer_without_a_usable_option_is_named() -> None:
    layers = {"a": [Option("fp32", 1.0, 0.0)], "conv_9": [Option("fp32", 1.0, math.nan), Option("int8", math.inf, 0.1)]}
    for call in (lambda: solve(layers), lambda: front(layers)):
        with pytest.raises(RuntimeFailure, match=r"layer conv_9: no precision .* \(fp32: 1 ms, error nan; int8: inf"):
            call()


def test_pairs_that_leave_no_plan_give_an_empty_front() -> None:
    layers = {name: [Option("fp32", 1.0, 0.0)] for name in "ab"}
    edges = [Edge("a", "b", {("fp32", "fp32"): math.nan})]
    assert front(layers, edges) == []
    assert solve(layers, edges) is None


def test_too_little_time_does_not_mean_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, edges = chain(60, 4)
    limits: list[float] = []
    highs = solving._highs

    def noted(program: Any, gap: float, seconds: float) -> Any:
        limits.append(seconds)
        return highs(program, gap, 0.0)

    monkeypatch.setattr(solving, "_highs", noted)
    with pytest.raises(RuntimeFailure, match="no plan was found: the solver ended with kTimeLimit"):
        solve(layers, edges, max_error=1e-4, seconds=0.5)
    assert limits == [0.5, 0.5 * solving.PATIENCE]


def test_dominated_plans_are_left_out() -> None:
    plans = [Assignment({}, ms, error) for ms, error in ((3, 1), (1, 3), (2, 3), (2, 2), (3, 2))]
    assert [(p.ms, p.error) for p in undominated(plans)] == [(1, 3), (2, 2), (3, 1)]


def test_a_network_of_150_layers_takes_no_more_than_its_seconds() -> None:
    layers, edges = chain(150, 4)
    exact = solve(layers, edges, max_ms=math.inf)
    assert exact is not None
    assert exact.error == 0.0
    start = time.perf_counter()
    found = solve(layers, edges, max_error=1e-3)
    assert time.perf_counter() - start < 4.0
    assert found is not None
    assert found.error <= 1e-3
    assert found.ms < exact.ms


def test_the_solvers_output_does_not_reach_stdout() -> None:
    """In a process, because C buffers its output to a pipe."""
    lines = ("import ctypes", "from ncnnkit.plan.solve import _quiet",
             "with _quiet(): ctypes.CDLL(None).puts(b'noise')",
             "print('json')")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "json\n"
