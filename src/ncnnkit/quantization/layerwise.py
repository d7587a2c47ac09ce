"""Fits int8 layers one by one, each to the real outputs of the quantised layers before it.

For each layer in the order of execution: sample its inputs in the quantised network and its outputs in the fp32
network; round the weights and change the bias so that the output of the int8 layer is closest; keep each change only if
it helps on samples that were not used for fitting; run the int8 layer, and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..model.graph import Graph, Layer
from ..progress import Progress, silent
from ..samples.stream import Samples
from .activations import activation
from .int8 import alone
from .rounding import gptq
from .scales import STEPS, WINOGRAD_STEPS, group_count, runs_winograd, weight_rows
from .stepper import EXACT, ROUNDED, Rows, Stepper, inputs_of_a_row, until_last

Array = NDArray[np.float32]

ROWS = 4096  # positions on which a layer is fitted; half as many if each channel has its own weights (depthwise)
HELD = 5  # every fifth sample is not used for fitting, but for judging
ROUNDED_INPUTS = 8192  # inputs of a group; then the covariance takes 256 MiB, and its inverse as much
NEWTON_STEPS = 4


@dataclass(frozen=True)
class Kept:
    """The result for one layer.

    Attributes:
        name: the name of the layer.
        error: methods -> the mean squared error of its output on held-back samples divided by the mean square of the
            output: ``""`` for no method, then each method by itself and together with the methods before it.
        kept: the methods with the least error; ``""`` if none helped and the layer was not changed.
    """

    name: str
    error: Mapping[str, float]
    kept: str


@dataclass
class Fit:
    """The numbers of an int8 layer: weights in steps (groups, rows, inputs), bias and gain per channel, both
    float64."""

    steps: Array
    bias: NDArray[np.float64]
    gain: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))


def fit_layers(
    exact: Graph,
    rounded: Graph,
    samples: Samples,
    methods: frozenset[str],
    *,
    threads: int | None = None,
    rows: int = ROWS,
    progress: Progress = silent,
) -> tuple[Graph, list[Kept]]:
    """Fit the int8 layers of ``rounded`` one after another.

    Args:
        exact: the fp32 network.
        rounded: the same network with int8 layers that have their scales; not changed.
        samples: calibration samples. Every process keeps the blobs of its samples at the current layer. Fewer samples
            are used if these blobs would take more than :data:`ncnnkit.quantization.stepper.KEPT_BYTES`.
        methods: some of ``bias``, ``gain``, ``rounding``. ``rounding`` is not tried on layers with more than
            :data:`ROUNDED_INPUTS` inputs per output.

    Returns:
        The fitted network, and the result for each layer.
    """
    fitted = rounded.copy()
    kept: list[Kept] = []
    every = list(zip(exact.layers, fitted.layers, strict=True))
    pairs = until_last(every, lambda pair: bool(pair[1].params.get("int8_scale_term")))
    with Stepper(exact, samples, threads) as stepper:
        for index, (original, layer) in enumerate(pairs):
            progress(index, len(pairs))
            if original.type == "Input" or original.op.copies:
                continue
            if not layer.params.get("int8_scale_term"):
                stepper.step(original)
                continue
            stepper.step(original, [EXACT], last=False)
            found = stepper.gather(original, rows // 2 if original.type == "ConvolutionDepthWise" else rows, seed=index)
            kept.append(_fit(original, layer, found, methods))
            stepper.step(alone(layer), [ROUNDED])
    progress(1, 1)
    fitted.verify()
    return fitted, kept


def _fit(original: Layer, layer: Layer, found: Rows, methods: frozenset[str]) -> Kept:
    """Change an int8 layer's weights, bias and scales to the best fit. If no method helps, the layer stays
    unchanged."""
    problem = _Problem(original, layer, found)
    fits: dict[str, Fit] = {"": problem.start}
    best = ""

    def attempt(method: str, change: Callable[[Fit], Fit]) -> None:
        nonlocal best
        if method not in methods:
            return
        name = f"{best}+{method}" if best else method
        fits[name] = change(fits[best])
        errors[name] = problem.error(fits[name])
        if errors[name] < errors[best]:
            best = name

    errors = {"": problem.error(fits[""])}
    plain = fits[""]
    if inputs_of_a_row(original) <= ROUNDED_INPUTS * group_count(original):
        attempt("rounding", problem.round)
    attempt("bias", problem.correct)
    if "rounding" in best and "bias" in methods:  # nearest rounding may be a better start for the correction
        fits["bias"] = problem.correct(plain)
        errors["bias"] = problem.error(fits["bias"])
        best = min(errors, key=errors.__getitem__)
    if problem.scale_a_channel:
        attempt("gain", lambda fit: problem.correct(fit, gain=True))
    if best:
        problem.write(fits[best])
    return Kept(layer.name, {name: error / problem.signal for name, error in errors.items()}, best)


class _Problem:
    """The samples of one layer, and the operations on a fit to them.

    Inputs are in int8 steps, (groups, rows, values); everything else is (rows, channels).
    """

    def __init__(self, original: Layer, layer: Layer, found: Rows) -> None:
        self.layer = layer
        self._last: tuple[Array, Array] | None = None
        self.act = activation(original)
        parts = group_count(original)
        self.input_scale = float(layer.array("input_scale")[0])
        held = found.sample % HELD == HELD - 1
        self.use = ~held if held.any() and not held.all() else np.ones_like(held)
        self.judge = held if held.any() and not held.all() else self.use
        steps = found.inputs
        np.multiply(steps, np.float32(self.input_scale), out=steps)
        np.clip(np.rint(steps, out=steps), -STEPS, STEPS, out=steps)
        self.inputs = np.ascontiguousarray(steps.reshape(len(steps), parts, -1).transpose(1, 0, 2))
        self.mean = self.inputs[:, self.use].mean(axis=1, keepdims=True)
        self.target = found.outputs
        self.signal = float(np.mean(np.square(self.target[self.judge], dtype=np.float64))) or 1.0
        rows = weight_rows(original)
        self.scales = np.broadcast_to(layer.array("weight_scales"), (len(rows),)).astype(np.float32)
        self.channels = original.get("num_output")
        self.scaled = (rows * self.scales[:, None]).reshape(parts, self.channels // parts, -1)
        largest = int(np.abs(np.asarray(layer.weights["weight"], np.int32)).max())
        self.limit = WINOGRAD_STEPS if largest <= WINOGRAD_STEPS and runs_winograd(original) else STEPS
        self.scale_a_channel = layer.weights["weight_scales"].shape == (self.channels,)  # a gain needs one per channel
        self.per_channel = np.repeat(self.scales, self.channels // len(self.scales)).astype(np.float64)
        has_bias = original.get("bias_term")
        self.bias = original.array("bias").astype(np.float64) if has_bias else np.zeros(self.channels)
        self.start = Fit(  # the unchanged layer
            np.asarray(layer.weights["weight"], np.float32).reshape(self.scaled.shape),
            layer.array("bias").astype(np.float64) if layer.get("bias_term") else np.zeros(self.channels),
        )

    def _level(self, steps: Array) -> NDArray[np.float64]:
        """The bias that keeps the mean of each channel before the activation, on the inputs of this layer."""
        lost = np.einsum("grv,gv->gr", self.scaled - steps, self.mean[:, 0], dtype=np.float64).reshape(-1)
        return np.asarray(self.bias + lost / (self.input_scale * self.per_channel))

    def sums(self, steps: Array) -> Array:
        """Products in real units, without gain and bias."""
        if self._last is not None and self._last[0] is steps:
            return self._last[1]
        products = np.matmul(self.inputs, steps.transpose(0, 2, 1))  # (groups, rows, channels a group)
        flat = products.transpose(1, 0, 2).reshape(products.shape[1], -1)
        flat = np.asarray(flat / (self.input_scale * self.per_channel).astype(np.float32))
        self._last = (steps, flat)
        return flat

    def error(self, fit: Fit) -> float:
        """Mean squared error on the held-back samples, after the activation."""
        z = self.sums(fit.steps)[self.judge] * np.float32(fit.gain) + np.float32(fit.bias)
        return float(np.mean((self.act.f(z) - self.target[self.judge]) ** 2))

    def round(self, fit: Fit) -> Fit:
        centred = self.inputs[:, self.use]  # a copy
        centred -= self.mean
        covariance = centred.transpose(0, 2, 1) @ centred / np.float32(centred.shape[1])
        steps = gptq(self.scaled, covariance, self.limit)
        return Fit(steps, self._level(steps), fit.gain)

    def correct(self, fit: Fit, gain: bool = False) -> Fit:
        """Gauss-Newton steps on bias (and gain) that minimise the squared error after the activation.

        They start at the bias that keeps the mean of each channel.
        """
        sums = self.sums(fit.steps)[self.use]
        target = self.target[self.use]
        bias = self._level(fit.steps) if fit is self.start else fit.bias
        a, b = np.broadcast_to(fit.gain, sums.shape[1:]).astype(np.float32), bias.astype(np.float32)
        n = len(sums)
        for _ in range(NEWTON_STEPS):
            z = sums * a + b
            y, slope = self.act.f(z), self.act.slope(z)
            residual = (target - y) * slope
            weight = slope * slope
            w0, r0 = weight.sum(axis=0), residual.sum(axis=0)
            if not gain:
                b += np.where(w0 > 0, r0 / np.maximum(w0 + 0.01 * n, 1e-12), 0)
                continue
            w1, w2 = (weight * sums).sum(axis=0), (weight * sums * sums).sum(axis=0)
            r1 = (residual * sums).sum(axis=0)
            w0, w2 = w0 + 0.01 * n, w2 + 0.01 * (sums * sums).sum(axis=0) + 1e-12
            det = w0 * w2 - w1 * w1
            b += (w2 * r0 - w1 * r1) / det
            a += (w0 * r1 - w1 * r0) / det
        return Fit(fit.steps, b.astype(np.float64), a.astype(np.float64))

    def write(self, fit: Fit) -> None:
        layer = self.layer
        layer.weights["weight"] = fit.steps.reshape(layer.weights["weight"].shape).astype(np.int8)
        layer.weights["bias"] = fit.bias.astype(np.float32)
        layer.params["bias_term"] = 1
        if self.scale_a_channel:
            layer.weights["weight_scales"] = (self.per_channel / fit.gain).astype(np.float32)
