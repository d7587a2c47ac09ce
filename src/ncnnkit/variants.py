"""The variants of a run: models at each precision, measured on each backend, and described as run.json holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import accuracy, ncnnfile, worker
from .errors import ModelError
from .graph import Graph
from .ops import Mask
from .passes import store_fp16
from .quantize import Quantized
from .recipe import Recipe
from .search import MixedPlan
from .session import has_int8, noise, probe, save_arrays

Array = NDArray[Any]

SOFTWARE_SECONDS = 2.0  # what evaluating on a software Vulkan device, and timing it, are worth


@dataclass(frozen=True)
class Precision:
    """A model file at one precision. bf16 is chosen when loading: its file is fp32's."""

    name: str
    graph: Graph
    param: Path
    size: int


def make_precisions(
    recipe: Recipe, graph: Graph, quantized: Quantized | None, for_vulkan: Quantized | None, plan: MixedPlan | None,
    name: str, folder: Path,
) -> dict[str, Precision]:  # fmt: skip
    """Make and write the models asked for; a precision that cannot be made is absent.

    Returns:
        Precision -> its model; ``int8-vulkan`` where Vulkan has one of its own.
    """

    def as_fp16() -> Graph:
        half = graph.copy()
        store_fp16(half)
        return half

    makers: dict[str, Callable[[], Graph]] = {"fp32": lambda: graph, "fp16": as_fp16}
    if quantized is not None:
        makers["int8"] = lambda: quantized.graph
    if for_vulkan is not None:
        makers["int8-vulkan"] = lambda: for_vulkan.graph
    if plan is not None:
        makers["mixed"] = lambda: plan.graph
    files = {"bf16": "fp32"}
    written: dict[str, Precision] = {}
    wanted = (*recipe.precisions, "int8-vulkan")
    for precision in sorted({files.get(p, p) for p in wanted} & makers.keys()):
        made, param = makers[precision](), folder / f"{name}-{precision}.param"
        ncnnfile.save(made, param)
        size = param.stat().st_size + param.with_suffix(".bin").stat().st_size
        written[precision] = Precision(precision, made, param, size)
    return {p: written[files.get(p, p)] for p in wanted if files.get(p, p) in written}


@dataclass(frozen=True)
class Plan:
    """A variant to measure, or why it is not."""

    name: str
    precision: str
    backend: str
    threads: int
    model: Precision | None
    skipped: str = ""


def plan_variants(recipe: Recipe, graphs: Mapping[str, Precision], machine: Mapping[str, Any]) -> list[Plan]:
    """Every precision on every backend."""
    threads = recipe.threads or machine["cores"]

    def plan(precision: str, backend: str) -> Plan:
        model, skipped = graphs.get(f"{precision}-{backend}", graphs.get(precision)), ""
        if model is None:
            skipped = "the network has no layer that ncnn could run in int8"
        elif (precision, backend) == ("mixed", "vulkan"):
            model, skipped = None, "the mixed model is made for the CPU's kernels"
        return Plan(f"{precision}-{backend}", precision, backend, threads, model, skipped)

    return [plan(precision, backend) for backend in recipe.backends for precision in recipe.precisions]


def measure(
    plans: Sequence[Plan],
    inputs: Sequence[Array],
    folder: Path,
    *,
    seconds: float,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure plans in one interleaved run of the worker.

    Args:
        plans: what to run; those without a model are skipped.
        inputs: float32 (N, …) for each network input; all are evaluated, the last is timed.
        folder: gets a folder ``scratch`` with inputs and outputs.
        seconds: of timing, for each plan, spread over ``rounds``.

    Returns:
        A result of :func:`ncnnkit.worker.measure` for each plan, in order.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    files = save_arrays(inputs, scratch)
    todo = [p for p in plans if p.model is not None]
    variants = [
        {
            "name": p.name, "precision": p.precision, "backend": p.backend, "threads": p.threads,
            "param": str(p.model.param), "bin": str(p.model.param.with_suffix(".bin")),
        }
        for p in todo
        if p.model is not None
    ]  # fmt: skip
    job = {
        "variants": variants, "inputs": files, "folder": str(scratch),
        "rounds": rounds, "seconds": seconds, "slow_seconds": SOFTWARE_SECONDS,
    }  # fmt: skip
    steps = len(variants) + rounds
    done = 0

    def step(_: Any) -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    results = {r["name"]: r for r in worker.measure(job, step)["variants"]}
    return [results.get(p.name, {"name": p.name, "status": "skipped", "reason": p.skipped}) for p in plans]


def describe(
    plan: Plan,
    result: Mapping[str, Any],
    machine: Mapping[str, Any],
    reference: Mapping[str, Array] | None,
    labels: NDArray[np.int64] | None,
    layers: list[dict[str, Any]],
) -> dict[str, Any]:
    """A variant as run.json holds it."""
    status, reason = result["status"], result["reason"]
    figures = None
    if "outputs" in result:
        own = None if reference is None else len(reference)  # unread blobs come after the model's own outputs
        outputs = {name: np.load(path) for name, path in list(result["outputs"].items())[:own]}
        bad = next((name for name, values in outputs.items() if not np.isfinite(values).all()), None)
        if bad is None:
            figures = accuracy.compare(outputs, reference, labels) if reference is not None else None
        else:
            status, reason = "crashed", f"output {bad!r} holds NaN or infinity"
    device = result.get("device")
    samples = result.get("samples") or []
    return {
        "name": plan.name,
        "precision": plan.precision,
        "backend": plan.backend,
        "device": "local",
        "device_name": device["name"] if device else machine["cpu"],
        "threads": plan.threads,
        "status": status,
        "reason": reason,
        "files": {k: plan.model.param.with_suffix(f".{k}").name for k in ("param", "bin")} if plan.model else None,
        "size_bytes": plan.model.size if plan.model else None,
        "latency_ms": latency(samples) if samples else None,
        "load_ms": result.get("load_ms"),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "accuracy": figures,
        "layers": layers if plan.precision == "int8" and plan.model and plan.backend == "cpu" else [],
        "notes": notes(plan, result, machine),
    }


def latency(samples: Sequence[float]) -> dict[str, float]:
    """Figures of the samples, ms; the spread is the interquartile range over the median."""
    low, middle, high, tail = (float(v) for v in np.percentile(samples, [25, 50, 75, 90]))
    return {
        "min": float(min(samples)),
        "median": middle,
        "p90": tail,
        "spread": (high - low) / middle,
        "samples": len(samples),
    }


def notes(plan: Plan, result: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read this variant's figures right."""
    features = set(machine["cpu_features"])
    on_cpu = plan.backend == "cpu"
    said = []
    if on_cpu and plan.precision == "fp16" and "fp16-arithmetic" not in features:
        said.append(
            "ncnn has no fp16 arithmetic for this CPU: the weights are stored as fp16 and computed with in fp32"
        )
    if on_cpu and plan.precision == "bf16" and not features & {"avx512-bf16", "bf16"}:
        said.append("this CPU has no bf16 instructions: ncnn converts to fp32 and back")
    if result.get("without_vulkan"):
        said.append("no Vulkan kernel, run on the CPU: " + ", ".join(result["without_vulkan"]))
    return said


def refuse_copies_of_the_cpu(variants: Sequence[dict[str, Any]], results: Sequence[Mapping[str, Any]]) -> None:
    """A Vulkan variant whose outputs are the CPU's to the bit did not run on the GPU, whatever the driver says."""
    on_cpu = {v["precision"]: r for v, r in zip(variants, results) if v["backend"] == "cpu"}
    for variant, result in zip(variants, results):
        twin = on_cpu.get(variant["precision"])
        if variant["backend"] != "vulkan" or variant["status"] != "ok" or twin is None or "outputs" not in twin:
            continue
        if all(
            np.array_equal(np.load(a), np.load(b)) for a, b in zip(result["outputs"].values(), twin["outputs"].values())
        ):
            variant.update(status="fallback", reason="the outputs are the CPU's to the bit: this ran on the CPU")


def made_for(graph: Graph) -> str:
    """Whether a model with int8 layers is a plan's: that one names what its other layers must not use."""
    masks = [int(layer.get("featmask")) for layer in graph.layers if not layer.params.get("int8_scale_term")]
    return "mixed" if any(mask & (Mask.NO_BF16 | Mask.NO_FP16_STORAGE) for mask in masks) else "int8"


def bench(
    param: Path,
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: int | None = None,
    shapes: Sequence[tuple[int, ...]] = (),
    seconds: float = 3.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Time one ncnn model on noise, without looking at its outputs.

    Args:
        param: its ``.bin`` lies beside it.
        backends: by default the CPU, and Vulkan where there is a GPU.
        precisions: int8 for a model with int8 layers; else fp32, fp16 and bf16 by default.
        shapes: of the inputs, where the file does not say.

    Returns:
        Rows as ``variants`` in run.json, without accuracy.

    Raises:
        ModelError: the shape of an input is not known, or an int8 model is asked for floating point or the reverse.
    """
    graph, machine = ncnnfile.load(param), probe()
    possible = ("int8", "mixed") if has_int8(graph) else ("fp32", "fp16", "bf16")
    impossible = [p for p in precisions or () if p not in possible]
    if impossible:
        raise ModelError(f"cannot run in {impossible[0]}", where=str(param), hint=f"it runs in {', '.join(possible)}")
    gpu = any(device["type"] != "cpu" for device in machine["vulkan"])
    recipe = Recipe(
        str(param),
        backends=tuple(backends or (("cpu", "vulkan") if gpu else ("cpu",))),
        precisions=tuple(precisions or ((made_for(graph),) if has_int8(graph) else possible)),
        threads=threads or 0,
    )
    inputs = [array[None] for array in noise(graph, shapes, where=str(param))]
    size = param.stat().st_size + param.with_suffix(".bin").stat().st_size
    model = Precision("as it is", graph, param.resolve(), size)
    plans = plan_variants(recipe, dict.fromkeys(recipe.precisions, model), machine)
    with tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder:
        results = measure(plans, inputs, Path(folder), seconds=seconds, rounds=recipe.rounds, progress=progress)
        rows = [describe(plan, result, machine, None, None, []) for plan, result in zip(plans, results)]
        refuse_copies_of_the_cpu(rows, results)
        return rows
