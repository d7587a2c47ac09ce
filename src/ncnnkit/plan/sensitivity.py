"""How much noise a layer's precision puts into the network's outputs, measured where the model will run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice

import numpy as np

from ..comparison.judge import Judge
from ..model.graph import Graph, Layer
from ..model.precision import FLOATS, INT8
from ..model.work import multiply_adds
from ..progress import Progress, silent
from ..quantization.scales import is_grouped
from .build import Forms, mixed_graph
from .costs import Costs, uniform

SENSITIVITY_SAMPLES = 6
LEAST_GROUPS = 8  # of layers that are measured together, however large the network
ROUNDING = 0.1
"""Noise over signal that the rounding of a floating-point precision does not reach: above, a kernel is wrong or a value
overflows."""


def int8_errors(
    forms: Forms, judge: Judge, progress: Progress = silent, *, gmac: float = math.inf
) -> dict[tuple[str, str], float]:
    """The noise in the outputs with one layer alone in int8, for each int8 layer and each int8 choice.

    Int8 kernels differ from machine to machine in rounding only, so this machine measures it. Where that would compute
    too much, fewer samples are used. Where one sample is too much, too, neighbours are in int8 together, and each is
    taken to cause an equal part of their noise.

    Args:
        gmac: at most so much is computed, in 10⁹ multiply-adds; at least :data:`LEAST_GROUPS` groups are measured.

    Returns:
        (layer, choice) -> noise over signal, the mean over the outputs (:attr:`Errors.relative`); infinite where an
        output contains NaN or infinity.
    """
    changes: dict[str, dict[int, Layer]] = {choice: {} for choice in INT8}
    for index, (original, int8) in enumerate(forms.pairs()):
        # In groups a layer hands on int8 only, which no layer in floating point can read: it is never alone.
        if not int8.params.get("int8_scale_term") or is_grouped(int8):
            continue
        for choice in INT8 if original.name in forms.winograd else INT8[:1]:
            changes[choice][index] = forms.layer(original, int8, choice)
    layers = sum(map(len, changes.values()))
    work = multiply_adds(forms.exact, [array.shape for array in judge.samples[0]]) / 1e9
    runs = gmac / max(work, 1e-9)
    size = max(1, math.ceil(layers / max(runs, LEAST_GROUPS)))
    groups = [
        (choice, dict(islice(each.items(), start, start + size)))
        for choice, each in changes.items()
        for start in range(0, len(each), size)
    ]
    trials = [Graph([group.get(index, layer) for index, layer in enumerate(forms.exact.layers)]) for _, group in groups]
    samples = int(min(SENSITIVITY_SAMPLES, max(1, runs / max(len(groups), 1))))
    errors = judge.here(trials, most=samples, progress=progress)
    return {
        (forms.exact.layers[index].name, choice): error.relative / len(group)
        for (choice, group), error in zip(groups, errors)
        for index in group
    }


def float_errors(
    forms: Forms, costs: Costs, judge: Judge, whole: Mapping[str, float], int8: Mapping[tuple[str, str], float],
    progress: Progress = silent,
) -> dict[tuple[str, str], float]:  # fmt: skip
    """The noise in the outputs that each layer causes at each floating-point precision.

    The rounding of a floating-point precision is the same, relative to the value, in every layer, and what a layer
    hands on of it to the outputs goes as for int8. So the measured noise of the uniform model is shared out in
    proportion to the noise of the layers in int8 (a first-order Taylor estimate). Where the uniform model shows more
    noise than rounding explains, some of its layers overflow or have a wrong kernel: then each layer is run alone at
    that precision, on the device.

    Args:
        whole: choice -> noise over signal of the uniform model.
        int8: as :func:`int8_errors` gives it.

    Returns:
        (layer, choice) -> noise over signal; see :func:`int8_errors`.
    """
    layers = [layer.name for layer in forms.exact.layers if costs.choices(layer.name)]
    weights = {name: int8.get((name, "int8"), 0.0) for name in layers}
    weights = {name: weight if np.isfinite(weight) else 0.0 for name, weight in weights.items()}
    total = sum(weights.values()) or 1.0
    errors: dict[tuple[str, str], float] = {}
    for choice in FLOATS:
        if choice not in whole:
            continue
        having = [name for name in layers if costs.has(name, choice)]
        if choice == "fp32" or whole[choice] <= ROUNDING:  # false for NaN, too
            errors |= {(name, choice): whole[choice] * weights[name] / total for name in having}
            continue
        fp32 = uniform(forms.exact, costs, "fp32")
        graphs = [mixed_graph(forms, fp32 | {name: choice}, costs) for name in having]
        found = judge.there(graphs, most=SENSITIVITY_SAMPLES, progress=progress)
        errors |= {(name, choice): each.relative for name, each in zip(having, found)}
    return errors
