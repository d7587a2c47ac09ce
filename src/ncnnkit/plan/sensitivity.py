"""The noise that a layer's precision causes in the network's outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..comparison.judge import Judge
from ..model.graph import Graph, Layer
from ..model.precision import FLOATS, INT8
from ..model.work import UNBOUNDED, Budget
from ..progress import Progress, silent
from ..quantization.scales import is_grouped
from .build import Forms, mixed_graph
from .costs import Costs, uniform

T = TypeVar("T")

Noise = dict[tuple[str, str], float]
"""(layer, choice) -> noise over signal, the mean over the outputs; infinite if an output contains NaN or infinity."""

SENSITIVITY_SAMPLES = 6
LEAST_GROUPS = 8  # the least number of groups of layers that are measured, for any size of network
ROUNDING = 0.1
"""The rounding of a floating-point precision causes less noise over signal than this. If there is more, a
kernel is wrong or a value overflows."""


def int8_errors(forms: Forms, judge: Judge, progress: Progress = silent, *, budget: Budget = UNBOUNDED) -> Noise:
    """The noise in the outputs with only one layer in int8, for each int8 layer and each int8 choice.

    The int8 kernels of machines differ only in rounding, so it is measured on this machine. If that needs too much
    computation, fewer samples are used. If even one sample is too much, neighbouring layers are in int8 together, and
    each is assumed to cause an equal part of their noise.

    Args:
        budget: limits the computation; at least :data:`LEAST_GROUPS` groups are measured.

    """
    changes: dict[str, dict[int, Layer]] = {choice: {} for choice in INT8}
    for index, (original, int8) in enumerate(forms.pairs()):
        # A grouped convolution can only output int8, and no floating-point layer reads that, so it is never alone.
        if not int8.params.get("int8_scale_term") or is_grouped(int8):
            continue
        for choice in INT8 if original.name in forms.winograd else INT8[:1]:
            changes[choice][index] = forms.layer(original, int8, choice)
    alone = [(choice, index) for choice, each in changes.items() for index in each]
    groups, samples = _affordable(alone, judge, budget)
    made = [{index: changes[choice][index] for choice, index in group} for group in groups]
    trials = [Graph([each.get(index, layer) for index, layer in enumerate(forms.exact.layers)]) for each in made]
    errors = judge.here(trials, most=samples, progress=progress)
    return {
        (forms.exact.layers[index].name, choice): error.relative / len(group)
        for group, error in zip(groups, errors)
        for choice, index in group
    }


def _affordable(alone: Sequence[tuple[str, T]], judge: Judge, budget: Budget) -> tuple[list[list[tuple[str, T]]], int]:
    """Groups of neighbours with the same choice, as small as the budget allows, and the samples for each group.

    Args:
        alone: (choice, layer) in order: the measurements without groups.
    """
    most = budget.take("layers or groups of layers with a measured sensitivity", len(alone), least=LEAST_GROUPS)
    by_choice = [list(each) for _, each in itertools.groupby(alone, key=lambda pair: pair[0])]
    most = max(most, len(by_choice))
    size = next(n for n in itertools.count(1) if sum(math.ceil(len(each) / n) for each in by_choice) <= most)
    groups = [each[start : start + size] for each in by_choice for start in range(0, len(each), size)]
    wanted = min(SENSITIVITY_SAMPLES, len(judge.samples))
    return groups, budget.take("samples for the sensitivity", wanted, runs=max(len(groups), 1))


def float_errors(
    forms: Forms, costs: Costs, judge: Judge, whole: Mapping[str, float], int8: Noise,
    progress: Progress = silent, *, budget: Budget = UNBOUNDED,
) -> Noise:  # fmt: skip
    """The noise in the outputs that each layer causes at each floating-point precision.

    The relative rounding error of a floating-point precision is the same in every layer, and it reaches the outputs as
    that of int8 does. So the measured noise of the uniform model is distributed in proportion to the noise of the
    layers in int8 (a first-order Taylor estimate). If the uniform model has more noise than rounding explains, some
    layers overflow or have a wrong kernel. Then only one layer at a time runs at that precision, on the device. If that
    needs too much computation, neighbouring layers run at it together, as in :func:`int8_errors`; the neighbours of a
    layer that overflows then count as overflowing, too.

    Args:
        whole: choice -> noise over signal of the uniform model.
        int8: the result of :func:`int8_errors`.
        budget: limits the computation for each precision; at least :data:`LEAST_GROUPS` groups are run.

    Returns:
        (layer, choice) -> noise over signal; see :func:`int8_errors`.
    """
    layers = [layer.name for layer in forms.exact.layers if costs.choices(layer.name)]
    weights = {name: int8.get((name, "int8"), 0.0) for name in layers}
    weights = {name: weight if np.isfinite(weight) else 0.0 for name, weight in weights.items()}
    total = sum(weights.values()) or 1.0
    errors: Noise = {}
    for choice in FLOATS:
        if choice not in whole:
            continue
        having = [name for name in layers if costs.has(name, choice)]
        if choice == "fp32" or whole[choice] <= ROUNDING:  # false for NaN
            errors |= {(name, choice): whole[choice] * weights[name] / total for name in having}
            continue
        fp32 = uniform(forms.exact, costs, "fp32")
        groups, samples = _affordable([(choice, name) for name in having], judge, budget)
        graphs = [mixed_graph(forms, fp32 | {name: choice for _, name in group}, costs) for group in groups]
        found = judge.there(graphs, most=samples, progress=progress)
        errors |= {
            (name, choice): each.relative / len(group) for group, each in zip(groups, found) for _, name in group
        }
    return errors
