"""How much noise a layer's precision puts into the network's outputs, measured where the model will run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..comparison.judge import Judge
from ..model.graph import Graph
from ..model.precision import FLOATS, INT8
from ..progress import Progress, silent
from ..quantization.scales import is_grouped
from .build import Forms, mixed_graph
from .costs import Costs, uniform

SENSITIVITY_SAMPLES = 6
ROUNDING = 0.1
"""Noise over signal that the rounding of a floating-point precision does not reach: above, a kernel is wrong or a value
overflows."""


def int8_errors(forms: Forms, judge: Judge, progress: Progress = silent) -> dict[tuple[str, str], float]:
    """The noise in the outputs with one layer alone in int8, for each int8 layer and each int8 choice.

    Int8 kernels differ from machine to machine in rounding only, so this machine measures it.

    Returns:
        (layer, choice) -> noise over signal, the mean over the outputs (:attr:`Errors.relative`); infinite where an
        output contains NaN or infinity.
    """
    trials: dict[tuple[str, str], Graph] = {}
    for index, (original, int8) in enumerate(forms.pairs()):
        # In groups a layer hands on int8 only, which no layer in floating point can read: it is never alone.
        if not int8.params.get("int8_scale_term") or is_grouped(int8):
            continue
        for choice in INT8 if original.name in forms.winograd else INT8[:1]:
            changed = Graph(list(forms.exact.layers))
            changed.layers[index] = forms.layer(original, int8, choice)
            trials[original.name, choice] = changed
    found = judge.here(list(trials.values()), most=SENSITIVITY_SAMPLES, progress=progress)
    return {key: errors.relative for key, errors in zip(trials, found)}


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
