"""The plan: which precision each layer gets, so that the network is fastest on this device under an error limit.

sensitivity   the output's error caused by each layer alone
costs         each layer's time in each precision, on the device
solve         the fastest choice under the limit, by mixed-integer programming
verify        run what was found; where it is not what was predicted, correct the prediction and solve again
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison import accuracy
from ..device import LOCAL, Device
from ..errors import RecipeError, RuntimeFailure
from ..model import ncnnfile
from ..model.graph import Graph, Layer, Names
from ..model.ops import Mask
from ..onboard.child import LOAD_TIMEOUT, Child, WorkerError
from ..passes import store_fp16
from ..quantization.int8 import alone, finished, requantize
from ..quantization.rounding import nearest
from ..quantization.scales import STEPS, WINOGRAD_STEPS, is_grouped, runs_winograd, winograd_may_overflow
from ..record.run import FrontPoint, LayerOption, Plan, PlannedLayer
from .costs import (
    INT8,
    MASKS,
    Costs,
    blob_shapes,
    calibrated,
    measure_costs,
    predict,
    to_float,
    uniform,
)
from .solve import Edge, Option, front, solve

Array = NDArray[np.float32]
Tell = Callable[[str, int, int], None]

SENSITIVITY_IMAGES = 6
FRONT_POINTS = 10
REPAIRS = 5
MARGIN = 0.9  # of the noise allowed: what holds on a few held-back images must hold on others


# ---------------------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True)
class Limit:
    """What a plan must keep to.

    Attributes:
        figure: ``cosine``, ``sqnr``, ``mse`` or ``top1_drop``, of the outputs against fp32; or ``latency``.
        value: the least cosine, the least SQNR in dB, the largest mean squared error, the largest share of images whose
            best class changes; the longest latency in ms.
    """

    figure: str
    value: float

    def holds(self, outputs: Sequence[Array], reference: Sequence[Array]) -> bool:
        """Whether outputs, (N, …) each, keep to it. A latency is not for outputs to tell."""
        return self.figure == "latency" or _FIGURES[self.figure].excess(outputs, reference, self.value) <= 1.0

    def excess(self, outputs: Sequence[Array], reference: Sequence[Array]) -> float:
        """The noise power over the one allowed, estimated from outputs; at most 1 where the limit holds."""
        return _FIGURES[self.figure].excess(outputs, reference, self.value)

    def __str__(self) -> str:
        return _FIGURES[self.figure].text.format(self.value)


@dataclass(frozen=True)
class _Figure:
    text: str
    excess: Callable[[Sequence[Array], Sequence[Array], float], float]


def _worst(figure: Callable[[Array, Array], float]) -> Callable[[Sequence[Array], Sequence[Array]], float]:
    return lambda outputs, reference: max(figure(o, r) for o, r in zip(outputs, reference, strict=True))


def _noise_to_signal(output: Array, reference: Array) -> float:
    sqnr = accuracy.sqnr_db(output, reference)
    return 10 ** (-sqnr / 10) if sqnr is not None else 0.0 if np.array_equal(output, reference) else math.inf


def _ratio(found: float, allowed: float) -> float:
    return found / allowed if allowed > 0 else (0.0 if found <= 0 else math.inf)


_FIGURES: dict[str, _Figure] = {
    # 1 - cosine is half the noise over the signal, as long as both are small.
    "cosine": _Figure(
        "cosine ≥ {:g}", lambda o, r, v: _ratio(_worst(lambda a, b: 1 - accuracy.cosine(a, b))(o, r), 1 - v)
    ),
    "sqnr": _Figure("SQNR ≥ {:g} dB", lambda o, r, v: _worst(_noise_to_signal)(o, r) * 10 ** (v / 10)),
    "mse": _Figure("MSE ≤ {:g}", lambda o, r, v: _ratio(_worst(accuracy.mse)(o, r), v)),
    "top1_drop": _Figure(
        "top-1 changes in at most {:.2%}",
        # The share grows as the noise's size, not its power.
        lambda o, r, v: _ratio(_worst(lambda a, b: 1 - accuracy.top1_agreement(a, b))(o, r), v) ** 2,
    ),
    "latency": _Figure("latency ≤ {:g} ms", lambda o, r, v: 0.0),
}

_LIMIT = re.compile(r"\s*(cosine|sqnr|mse|top1_drop)\s*(>=|<=)\s*([0-9.eE+-]+)\s*(%?)\s*")
_LATENCY = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(ms)?\s*", re.ASCII)
_AT_LEAST = frozenset({"cosine", "sqnr"})


def parse_limit(max_error: str, max_latency: str = "") -> Limit:
    """A limit from what the user wrote.

    Args:
        max_error: ``cosine>=0.999``, ``sqnr>=30``, ``mse<=0.01`` or ``top1_drop<=0.5%``.
        max_latency: ``20ms``; goes before the other.

    Raises:
        RecipeError: it is none of these.
    """
    if max_latency:
        match = _LATENCY.fullmatch(max_latency)
        if not match or not float(match[1]) > 0:
            raise RecipeError(f"{max_latency!r} is no latency", hint="as 20ms")
        return Limit("latency", float(match[1]))
    match = _LIMIT.fullmatch(max_error)
    hint = "as 'cosine>=0.999', 'sqnr>=30', 'mse<=0.01' or 'top1_drop<=0.5%'"
    if not match or (match[2] == ">=") != (match[1] in _AT_LEAST) or (match[4] and match[1] != "top1_drop"):
        raise RecipeError(f"{max_error!r} is no limit of an error", hint=hint)
    try:
        value = float(match[3]) / (100 if match[4] else 1)
    except ValueError:
        raise RecipeError(f"{max_error!r} is no limit of an error", hint=hint) from None
    if not math.isfinite(value) or (match[1] == "cosine" and not value < 1) or (match[1] != "sqnr" and value < 0):
        raise RecipeError(f"{max_error!r} cannot be kept to", hint=hint)
    return Limit(match[1], value)


# -------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Point:
    """A model on the way from the fastest to the most exact, as predicted.

    Attributes:
        ms: predicted latency.
        error: predicted mean squared error of the outputs.
        int8: number of layers in int8.
    """

    ms: float
    error: float
    int8: int


@dataclass(eq=False)
class MixedPlan:
    """The plan and how it was found.

    Attributes:
        graph: the mixed model, ready to ship.
        choices: layer -> its choice.
        options: layer -> what it could have been, with the predicted ms and error of each.
        predicted_ms, predicted_error: of the whole; error as mean squared error of the outputs.
        measured_error: on the held-back images.
        holds: whether the limit was kept to on the held-back images.
        front: from the fastest to the most exact, predicted.
        repairs: how often the prediction had to be corrected.
        uniform_ms: precision -> latency of the model that has it everywhere, measured while planning. A machine's speed
            changes: what was predicted holds at the speed of these.
    """

    graph: Graph
    choices: Mapping[str, str]
    options: Mapping[str, Sequence[Option]]
    predicted_ms: float
    predicted_error: float
    measured_error: float
    holds: bool
    front: Sequence[Point] = field(default_factory=tuple)
    repairs: int = 0
    uniform_ms: Mapping[str, float] = field(default_factory=dict)

    def predicted_at(self, fp32_ms: float | None) -> float:
        """The predicted latency where the fp32 model takes ``fp32_ms``."""
        return self.predicted_ms * (fp32_ms / self.uniform_ms["fp32"] if fp32_ms else 1.0)

    def record(self, limit: Limit, *, mixed_ms: float | None, fp32_ms: float | None) -> Plan:
        """What run.json holds of it.

        Args:
            limit: that was asked for.
            mixed_ms, fp32_ms: the measured medians of the mixed and of the fp32 model; None where not measured.
        """
        return Plan(
            limit=str(limit),
            holds=self.holds,
            repairs=self.repairs,
            predicted_ms=self.predicted_at(fp32_ms),
            measured_ms=mixed_ms,
            predicted_mse=self.predicted_error,
            measured_mse=self.measured_error,
            front=[FrontPoint(ms=p.ms, mse=p.error, int8=p.int8) for p in self.front],
            layers=[
                PlannedLayer(
                    name=name,
                    type=self.graph.layer(name).type,
                    choice=choice,
                    options=[LayerOption(choice=o.choice, ms=o.ms, mse=o.error) for o in self.options[name]],
                    why=explain(name, self),
                )
                for name, choice in self.choices.items()
            ],
        )


def float_choices(machine: Mapping[str, Any]) -> tuple[str, ...]:
    """The floating-point precisions worth trying on a probed machine, the most exact first."""
    return ("fp32", "fp16", "bf16") if "fp16-arithmetic" in machine["cpu_features"] else ("fp32", "bf16")


def find_plan(
    exact: Graph,
    fitted: Graph,
    samples: Sequence[Array],
    limit: Limit,
    machine: Mapping[str, Any],
    *,
    threads: int,
    device: Device = LOCAL,
    tell: Tell = lambda step, done, total: None,
) -> MixedPlan:
    """The fastest mixed model under an error limit, or the most exact one under a latency limit.

    Args:
        exact: an fp32 network.
        fitted: the same with int8 layers, not finished (:class:`ncnnkit.quantization.Quantized`).
        samples: float32 (N, …) for each network input, held back from calibration: they judge.
        machine: what is known of the device, as :func:`ncnnkit.device.session.probe` tells.
        threads: that the model will run with.
        device: where it will run: there layers are timed. Errors are measured on this machine, whose kernels round
            otherwise here and there, but as much.

    Raises:
        RuntimeFailure: ncnn crashed.
    """
    choices = (*float_choices(machine), *INT8)
    reference = run_graphs([exact], samples)[0]
    errors = sensitivity(exact, fitted, samples, tell)
    tell("layer costs", 0, 0)
    costs = measure_costs(exact, fitted, blob_shapes(exact, [a[0] for a in samples]), choices, threads, device)
    models = {c: mixed_graph(exact, fitted, uniform(exact, costs, c), costs) for c in choices if c != "int8-winograd"}
    tell("uniform models", 0, 0)
    latencies = time_graphs(models, [a[0] for a in samples], threads, device)
    costs = calibrated(costs, exact, latencies)
    whole = {name: _mse(o, reference) for name, o in zip(models, run_graphs(models.values(), samples, "mixed"))}
    options = make_options(exact, costs, errors, whole)
    search = _Search(exact, fitted, costs, options, make_edges(exact, costs), samples, reference, latencies)
    tell("solve", 0, 0)
    return search.settle(limit, tell)


@dataclass(eq=False)
class _Search:
    """What a plan is looked for with."""

    exact: Graph
    fitted: Graph
    costs: Costs
    options: dict[str, list[Option]]
    edges: list[Edge]
    samples: Sequence[Array]
    reference: Sequence[Array]
    uniform_ms: Mapping[str, float]

    def settle(self, limit: Limit, tell: Tell) -> MixedPlan:
        """Solve, run what was found, and correct the prediction until it is what was asked for."""
        points = front(self.options, self.edges, points=FRONT_POINTS)
        by_time = limit.figure == "latency"
        budget, repairs = MARGIN * _budget(limit, self.reference), 0
        while True:
            tell("verify", repairs, REPAIRS)
            if by_time:
                found = solve(self.options, self.edges, max_ms=limit.value) or points[0]
            else:
                found = solve(self.options, self.edges, max_error=budget) or points[-1]
            graph = mixed_graph(self.exact, self.fitted, found.choices, self.costs)
            outputs = run_graphs([graph], self.samples, "mixed")[0]
            excess = limit.excess(outputs, self.reference)
            if by_time or excess <= MARGIN or repairs == REPAIRS:
                break
            # As much less noise as there was too much, and a little less each time.
            budget = min(budget, found.error) * MARGIN / excess * MARGIN
            repairs += 1
        ms = predict(self.exact, self.costs, found.choices)
        rows = tuple(Point(p.ms, p.error, sum(c in INT8 for c in p.choices.values())) for p in points)
        return MixedPlan(
            graph, found.choices, self.options, ms, found.error, _mse(outputs, self.reference),
            ms <= limit.value if by_time else excess <= 1.0, rows, repairs, self.uniform_ms,
        )  # fmt: skip


def _budget(limit: Limit, reference: Sequence[Array]) -> float:
    """The mean squared error that a limit on another figure comes to, to begin with."""
    signal = float(np.mean([np.mean(r.astype(np.float64) ** 2) for r in reference]))
    by_figure: dict[str, Callable[[float], float]] = {
        "cosine": lambda v: 2 * (1 - v) * signal,
        "sqnr": lambda v: signal * 10 ** (-v / 10),
        "mse": lambda v: v,
        "top1_drop": lambda v: signal * max(v, 1e-3),
        "latency": lambda v: math.inf,
    }
    return by_figure[limit.figure](limit.value)


def _mse(outputs: Sequence[Array], reference: Sequence[Array]) -> float:
    return float(np.mean([accuracy.mse(o, r) for o, r in zip(outputs, reference, strict=True)]))


# ------------------------------------------------------------------------------------------------------ the models


def _is_int8(layer: Layer) -> bool:
    return bool(layer.params.get("int8_scale_term"))


def mixed_graph(exact: Graph, fitted: Graph, choices: Mapping[str, str], costs: Costs) -> Graph:
    """One ``.param/.bin`` in which each layer has its choice.

    Int8 layers, feature masks for all, and a Cast where a layer cannot read what the one before it hands on
    (:mod:`ncnnkit.plan.costs`).
    """
    made, uses, names = Graph(), exact.uses(), Names(exact)
    kinds = {
        blob: costs.makes.get((layer.name, choices.get(layer.name, "")), "float")
        for layer in exact.layers if not layer.op.copies for blob in layer.outputs
    }  # fmt: skip
    for original, int8 in zip(exact.layers, fitted.layers, strict=True):
        choice = choices.get(original.name, "")
        layer = chosen_layer(original, int8, choice)
        if layer.op.copies:  # unmasked, ncnn would cast the copies
            layer.params["featmask"] = MASKS[
                {"float": "fp32"}.get(kinds[uses.root(layer.inputs[0])], kinds[uses.root(layer.inputs[0])])
            ]
        for index, blob in enumerate(layer.inputs if choice else []):
            if kinds[uses.root(blob)] != "float" and costs.reads.get((layer.name, choice), "float") == "float":
                ends = names.new(layer.name, "cast"), names.new(layer.name, "float")
                cast = to_float(ends[0], kinds[uses.root(blob)], blob, ends[1])
                layer.inputs[index] = cast.outputs[0]
                made.layers.append(cast)
        made.layers.append(layer)
    requantize(made)
    made = finished(made, fp16=False)
    store_fp16(Graph([layer for layer in made.layers if choices.get(layer.name) in ("fp16", "bf16")]))
    made.verify()
    return made


def chosen_layer(original: Layer, int8: Layer, choice: str) -> Layer:
    """A layer in the precision chosen for it."""
    if choice not in INT8:
        layer = original.copy()
    else:
        layer = alone(int8)
        if choice == "int8-winograd":
            layer = for_winograd(original, layer) or layer
    if choice in MASKS:
        mask = int(layer.get("featmask")) & ~int(Mask.NO_WINOGRAD) if choice in INT8 else int(layer.get("featmask"))
        layer.params["featmask"] = mask | MASKS[choice]
    return layer


def for_winograd(original: Layer, int8: Layer) -> Layer | None:
    """An int8 layer that Winograd kernels compute rightly: as it is, else with 6-bit weights; None where neither is."""
    if not runs_winograd(original):
        return None
    if not winograd_may_overflow(np.asarray(int8.weights["weight"])):
        return int8
    made = int8.copy()
    scales = int8.array("weight_scales") * np.float32(WINOGRAD_STEPS / STEPS)
    steps = nearest(original.array("weight").reshape(len(scales), -1) * scales[:, None], WINOGRAD_STEPS)
    made.weights["weight"] = steps.reshape(int8.weights["weight"].shape).astype(np.int8)
    made.weights["weight_scales"] = scales.astype(np.float32)
    return None if winograd_may_overflow(steps) else made


def explain(name: str, plan: MixedPlan) -> str:
    """Why a layer got its precision, one sentence."""
    options = {option.choice: option for option in plan.options[name]}
    chosen = options[plan.choices[name]]
    fastest = min(options.values(), key=lambda option: option.ms)
    share = chosen.error / plan.predicted_error if plan.predicted_error else 0.0
    if len(options) == 1:
        return f"{chosen.choice}: there is no other"
    if chosen is fastest:
        slower = min((o for o in options.values() if o is not chosen), key=lambda option: option.ms)
        return (
            f"{chosen.choice} is the fastest here ({chosen.ms:.3f} ms; {slower.choice} {slower.ms:.3f}) "
            f"and adds {share:.1%} of the error"
        )
    more = (fastest.error - chosen.error) / plan.predicted_error if plan.predicted_error else math.inf
    saved = chosen.ms - fastest.ms
    if more <= 0:
        return f"{chosen.choice}: {fastest.choice} is {saved:.3f} ms faster alone, but its neighbours would convert"
    return (
        f"{chosen.choice}: {fastest.choice} would save {saved:.3f} ms alone and add {more:.1%} to the plan's error, "
        "which buys more elsewhere"
    )


# ------------------------------------------------------------------------------------------------------- the errors


def sensitivity(exact: Graph, fitted: Graph, samples: Sequence[Array], tell: Tell) -> dict[tuple[str, str], float]:
    """Mean squared error of the outputs with one layer alone in int8, for each int8 layer and each int8 choice.

    Measured, by running the network so changed over a few samples.
    """
    few = [a[:SENSITIVITY_IMAGES] for a in samples]
    trials: dict[tuple[str, str], Graph] = {}
    for index, (original, int8) in enumerate(zip(exact.layers, fitted.layers, strict=True)):
        if not _is_int8(int8) or is_grouped(int8):  # in groups it hands on int8, which no layer in float can read
            continue
        for choice in INT8 if for_winograd(original, alone(int8)) else INT8[:1]:
            changed = Graph(list(exact.layers))
            changed.layers[index] = chosen_layer(original, int8, choice)
            trials[original.name, choice] = changed
    reference = run_graphs([exact], few)[0]
    outputs = run_graphs(trials.values(), few, progress=lambda d, n: tell("sensitivity", d, n))
    return {key: _mse(found, reference) for key, found in zip(trials, outputs)}


def make_options(
    exact: Graph, costs: Costs, errors: Mapping[tuple[str, str], float], whole: Mapping[str, float]
) -> dict[str, list[Option]]:
    """What each layer can be, with its time and its share of the output's error.

    A floating-point precision's rounding is the same, relative to the value, in every layer; what a layer hands on of
    it to the output goes as for int8. So the measured error of the uniform model is shared out in proportion to the
    int8 errors (a first-order Taylor estimate); likewise the sum of the int8 errors is brought to the uniform int8
    model's.

    Args:
        errors: (layer, int8 choice) -> error of the output with that layer alone in int8.
        whole: choice -> error of the uniform model.
    """
    total = sum(error for (_, choice), error in errors.items() if choice == "int8") or 1.0

    def error(name: str, choice: str) -> float:
        if choice in INT8:
            return errors[name, choice] * whole["int8"] / total
        return whole[choice] * errors.get((name, "int8"), 0.0) / total

    return {
        layer.name: [
            Option(choice, costs.ms(layer.name, choice), error(layer.name, choice))
            for choice in costs.choices(layer.name)
            if (layer.name, choice, False, False) in costs.layers
            and (choice not in INT8 or (layer.name, choice) in errors)
        ]
        for layer in exact.layers
        if costs.choices(layer.name)
    }


def make_edges(exact: Graph, costs: Costs) -> list[Edge]:
    """What it costs, between a layer and its reader, to go from one precision to another; handing on int8 saves."""
    uses = exact.uses()
    edges = []
    for root in uses.roots:
        maker, users = uses.producer(root), uses.readers(root)
        if not costs.choices(maker.name):
            continue
        ends = (maker, *users)
        chained = not uses.is_output(root) and all(
            la.op.chains_int8 and "int8" in costs.choices(la.name) for la in ends
        )
        for user in {user.name: user for user in users}.values():
            table = {}
            for a in costs.choices(maker.name):
                for b in costs.choices(user.name):
                    table[a, b] = costs.convert_ms(
                        root, costs.makes.get((maker.name, a), "float"), costs.reads[user.name, b]
                    )
                    if chained and a in INT8 and b in INT8:
                        table[a, b] = _saving(costs, user.name, b, (True, False)) + (
                            _saving(costs, maker.name, a, (False, True)) / len(users)
                        )
            edges.append(Edge(maker.name, user.name, table))
    return edges


def _saving(costs: Costs, name: str, choice: str, form: tuple[bool, bool]) -> float:
    """What a layer takes more, mostly less, with int8 at one end."""
    if (name, choice, *form) not in costs.layers or (name, choice, False, False) not in costs.layers:
        return 0.0
    return costs.ms(name, choice, *form) - costs.ms(name, choice)


# ------------------------------------------------------------------------------------------------------ running them


def run_graphs(
    graphs: Any, samples: Sequence[Array], precision: str = "fp32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Array]]:  # fmt: skip
    """The outputs of each graph on all samples, (N, …) each; in child processes of one thread, one a core.

    Raises:
        RuntimeFailure: ncnn crashed.
    """
    todo = list(graphs)
    done = 0
    with tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder, ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(max(1, min(os.cpu_count() or 1, len(todo))))]
        idle = list(children)

        def outputs(number: int) -> list[Array]:
            nonlocal done
            child, graph = idle.pop(), todo[number]
            param = Path(folder) / f"{number}.param"
            ncnnfile.save(graph, param)
            child.ask(
                "load", timeout=LOAD_TIMEOUT, param=str(param), bin=str(param.with_suffix(".bin")), backend="cpu",
                precision=precision, threads=1,
            )  # fmt: skip
            param.with_suffix(".bin").unlink()
            rows = [child.ask("run", list(sample), blobs=graph.outputs)[1] for sample in zip(*samples)]
            idle.append(child)
            done += 1
            progress(done, len(todo))
            return [np.stack(column) for column in zip(*rows)]

        try:
            with ThreadPoolExecutor(len(children)) as pool:
                try:
                    return list(pool.map(outputs, range(len(todo))))
                except BaseException:
                    for child in children:
                        child.kill()
                    raise
        except WorkerError as error:
            raise RuntimeFailure(f"plan: {error.sentence}") from None


def time_graphs(
    graphs: Mapping[str, Graph],
    sample: Sequence[Array],
    threads: int,
    device: Device = LOCAL,
    *,
    rounds: int = 6,
    seconds: float = 0.12,
) -> dict[str, float]:
    """Median latency of each graph, ms, loaded as a mixed model; in interleaved rounds.

    Raises:
        RuntimeFailure: ncnn crashed.
    """
    with tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder, ExitStack() as stack:
        samples: dict[str, list[float]] = {name: [] for name in graphs}
        try:
            children = {}
            for name, graph in graphs.items():
                param = Path(folder) / f"{name}.param"
                ncnnfile.save(graph, param)
                children[name] = child = stack.enter_context(device.child())
                there, weights = device.put([param, param.with_suffix(".bin")])
                child.ask("load", timeout=LOAD_TIMEOUT, param=there, bin=weights, backend="cpu", precision="mixed",
                          threads=threads)  # fmt: skip
                child.ask("run", list(sample))
            for _ in range(rounds):
                for name, child in children.items():
                    found = child.ask("time", seconds=seconds, min_samples=3, max_samples=100)[0]["samples"]
                    samples[name] += found[1:]
        except WorkerError as error:
            raise RuntimeFailure(f"plan: {error.sentence}") from None
    return {name: float(np.median(found)) for name, found in samples.items()}
