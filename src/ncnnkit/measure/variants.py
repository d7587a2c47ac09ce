"""The variants of a run: models at each precision, measured on each backend, and described as run.json holds them."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..comparison import accuracy
from ..device.session import has_int8, noise, save_arrays
from ..device.sites import Site, open_sites, run_jobs
from ..errors import DeviceError, ModelError
from ..model import ncnnfile
from ..model.graph import Graph
from ..model.ops import Mask
from ..passes import store_fp16
from ..plan.mixed import MixedPlan
from ..quantization import Quantized
from ..recipe import Recipe
from ..record.run import EMULATED, Backend, Files, Latency, LayerError, Load, PrecisionName, Sustained, Variant
from ..source.model import file_safe

Array = NDArray[Any]

SOFTWARE_SECONDS = 1.0  # what evaluating on a software Vulkan device, and timing it, are worth
_EMULATED_TIMING = {"seconds": 0.0, "rounds": 1, "sustained": 0.0}  # as little as can be: no figure comes of it


@dataclass(frozen=True)
class Precision:
    """A model file at one precision. bf16 is chosen when loading: its file is fp32's."""

    name: str
    graph: Graph
    param: Path
    size: int


Models = Mapping[tuple[str, str], Precision]
"""(precision, whom it is for) -> model. For whom: a target for int8, a site's label for mixed, "" for all others."""


def write_models(
    recipe: Recipe, graph: Graph, quantized: Mapping[str, Quantized], mixed: Mapping[Site, MixedPlan], name: str,
    folder: Path,
) -> Models:  # fmt: skip
    """Make and write the models asked for; a precision that cannot be made is absent.

    Args:
        quantized: target -> int8; the first is what ``NAME-int8`` is.
        mixed: site -> its plan.
    """

    def as_fp16() -> Graph:
        half = graph.copy()
        store_fp16(half)
        return half

    makers: dict[tuple[str, str], Callable[[], Graph]] = {("fp32", ""): lambda: graph, ("fp16", ""): as_fp16}
    makers |= {("int8", target): partial(getattr, made, "graph") for target, made in quantized.items()}
    makers |= {("mixed", site.label): partial(getattr, plan, "graph") for site, plan in mixed.items()}
    wanted = {FILES.get(precision, precision) for precision in recipe.precisions}
    plain = {("int8", target) for target in list(quantized)[:1]}
    written: dict[tuple[str, str], Precision] = {}
    for (precision, whom), make in makers.items():
        if precision not in wanted:
            continue
        suffix = "" if not whom or (precision, whom) in plain else f"-{file_safe(whom)}"
        made, param = make(), free_path(folder, f"{name}-{precision}{suffix}", ".param")
        ncnnfile.save(made, param)
        size = param.stat().st_size + param.with_suffix(".bin").stat().st_size
        written[precision, whom] = Precision(precision, made, param, size)
    return written


def free_path(folder: Path, name: str, suffix: str) -> Path:
    """A path in a folder where no file is yet: the names of two devices can become the same file name."""
    paths = (
        folder / f"{name}{number}{suffix}" for number in itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    )
    return next(path for path in paths if not path.exists())


FILES = {"bf16": "fp32"}
"""Precision -> the precision whose file it runs."""


@dataclass(frozen=True)
class Plan:
    """A variant to measure, or why it is not."""

    name: str
    precision: str
    backend: str
    threads: int
    site: Site
    model: Precision | None
    skipped: str = ""
    cpus: tuple[int, ...] = ()


def plan_variants(recipe: Recipe, models: Models, sites: Sequence[Site]) -> list[Plan]:
    """Every precision on every backend of every device."""

    def plan(site: Site, precision: str, backend: str) -> Plan:
        file = FILES.get(precision, precision)
        keys = ((file, whom) for whom in (backend, site.target, site.label, ""))
        model, skipped = next((models[key] for key in keys if key in models), None), ""
        if (precision, backend) == ("mixed", "vulkan"):
            model, skipped = None, "the mixed model is made for the CPU's kernels"
        elif precision == "mixed" and model is None and site.emulated:
            skipped = "a plan needs timings, and those of an emulated device are not real"
        elif model is None:
            skipped = "the network has no layer that ncnn could run in int8"
        cpus = site.cluster(recipe.cluster)
        threads = recipe.threads or len(cpus) or site.machine["cores"]
        return Plan(site.variant(precision, backend), precision, backend, threads, site, model, skipped, cpus)

    return [plan(site, p, backend) for site in sites for backend in recipe.backends for p in recipe.precisions]


def measure(
    plans: Sequence[Plan],
    inputs: Sequence[Array],
    folder: Path,
    *,
    seconds: float,
    rounds: int,
    sustained: float = 0.0,
    fix_clocks: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure plans, on all their devices at once; those of one device in one interleaved run of the worker.

    Args:
        plans: what to run; those without a model are skipped.
        inputs: float32 (N, …) for each network input; all are evaluated, the last is timed.
        folder: gets a folder ``scratch`` with inputs and outputs.
        seconds: of timing, for each plan, spread over ``rounds``.
        sustained: seconds that each plan then runs alone without a rest.
        fix_clocks: hold the clocks at their highest, where that is permitted.

    Returns:
        A result of :func:`ncnnkit.onboard.measuring.measure` for each plan, in order. Where a device was lost, the
        results of its plans are ``crashed`` and say so.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    files = save_arrays(inputs, scratch)
    todo: dict[Site, list[dict[str, Any]]] = {}
    for p in plans:
        if p.model is not None:
            todo.setdefault(p.site, []).append(
                {
                    "name": p.name, "precision": p.precision, "backend": p.backend, "threads": p.threads,
                    "param": str(p.model.param), "bin": str(p.model.param.with_suffix(".bin")), "cpus": list(p.cpus),
                }
            )  # fmt: skip
    common = {
        "inputs": files, "folder": str(scratch), "rounds": rounds, "slow_seconds": SOFTWARE_SECONDS,
        "sustained": sustained, "fix_clocks": fix_clocks,
    }  # fmt: skip
    jobs = {
        site: {**common, "variants": variants, "seconds": seconds, **(_EMULATED_TIMING if site.emulated else {})}
        for site, variants in todo.items()
    }
    steps = sum(len(variants) + rounds for variants in todo.values())
    done = 0

    def step(_: Any) -> None:
        nonlocal done
        done += 1
        progress(min(done, steps), steps)

    results: dict[str, dict[str, Any]] = {}
    for site, found in run_jobs(jobs, step).items():
        if isinstance(found, DeviceError):
            lost = {"status": "crashed", "reason": str(found)}
            results |= {variant["name"]: {"name": variant["name"], **lost} for variant in todo[site]}
        else:
            results |= {result["name"]: result for result in found["variants"]}
    return [results.get(p.name, {"name": p.name, "status": "skipped", "reason": p.skipped}) for p in plans]


def describe(
    plan: Plan,
    result: Mapping[str, Any],
    reference: Mapping[str, Array] | None,
    labels: NDArray[np.int64] | None,
    layers: list[LayerError],
) -> Variant:
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
    files = [plan.model.param.with_suffix(end).name for end in (".param", ".bin")] if plan.model else None
    load, sustained = result.get("load_ms"), result.get("sustained")
    return Variant(
        name=plan.name,
        precision=cast(PrecisionName, plan.precision),
        backend=cast(Backend, plan.backend),
        device=plan.site.device.name,
        device_name=device["name"] if device else plan.site.machine["cpu"],
        threads=plan.threads,
        status=status,
        reason=reason,
        files=Files(param=files[0], bin=files[1]) if files else None,
        size_bytes=plan.model.size if plan.model else None,
        latency_ms=latency(samples) if samples else None,
        load_ms=Load(**load) if load else None,
        first_ms=result.get("first_ms"),
        cpus=list(plan.cpus),
        conditions=result.get("conditions"),
        sustained=Sustained(**sustained) if sustained else None,
        peak_memory_mb=result.get("peak_memory_mb"),
        accuracy=figures,
        layers=layers if plan.precision == "int8" and plan.model and plan.backend == "cpu" else [],
        notes=notes(plan, result),
    )


def latency(samples: Sequence[float]) -> Latency:
    """Figures of the samples, ms."""
    p25, median, p75, p90 = (float(v) for v in np.percentile(samples, [25, 50, 75, 90]))
    return Latency(min=float(min(samples)), p25=p25, median=median, p75=p75, p90=p90, samples=len(samples))


def notes(plan: Plan, result: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read this variant's figures right."""
    features = set(plan.site.machine["cpu_features"])
    on_cpu = plan.backend == "cpu"
    said = [EMULATED] if plan.site.emulated and "samples" in result else []
    if on_cpu and plan.precision == "fp16" and "fp16-arithmetic" not in features:
        said.append(
            "ncnn has no fp16 arithmetic for this CPU: the weights are stored as fp16 and computed with in fp32"
        )
    if on_cpu and plan.precision == "bf16" and not features & {"avx512-bf16", "bf16"}:
        said.append("this CPU has no bf16 instructions: ncnn converts to fp32 and back")
    throttled = [when for when in (result, result.get("sustained") or {}) if _throttled(when)]
    said += ["throttled: " + "; ".join(when["conditions"]["throttled_by"]) for when in throttled]
    if result.get("without_vulkan"):
        said.append("no Vulkan kernel, run on the CPU: " + ", ".join(result["without_vulkan"]))
    return said


def _throttled(result: Mapping[str, Any]) -> bool:
    return bool((result.get("conditions") or {}).get("throttled"))


def refuse_copies_of_the_cpu(variants: Sequence[Variant], results: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """A Vulkan variant whose outputs are the CPU's to the bit did not run on the GPU, whatever the driver says."""
    on_cpu = {(v.device, v.precision): r for v, r in zip(variants, results) if v.backend == "cpu"}

    def is_copy(variant: Variant, result: Mapping[str, Any]) -> bool:
        twin = on_cpu.get((variant.device, variant.precision))
        if variant.backend != "vulkan" or variant.status != "ok" or twin is None or "outputs" not in twin:
            return False
        pairs = zip(result["outputs"].values(), twin["outputs"].values())
        return all(np.array_equal(np.load(a), np.load(b)) for a, b in pairs)

    reason = "the outputs are the CPU's to the bit: this ran on the CPU"
    return [
        replace(variant, status="fallback", reason=reason) if is_copy(variant, result) else variant
        for variant, result in zip(variants, results)
    ]


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
    on: Sequence[str] = (),
    shapes: Sequence[tuple[int, ...]] = (),
    seconds: float = 3.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Variant]:
    """Time one ncnn model on noise, without looking at its outputs.

    Args:
        param: its ``.bin`` lies beside it.
        backends: by default the CPU, and Vulkan where there is a GPU.
        precisions: int8 for a model with int8 layers; else fp32, fp16 and bf16 by default.
        on: the devices; this machine by default.
        shapes: of the inputs, where the file does not say.

    Returns:
        Variants, without accuracy.

    Raises:
        ModelError: the shape of an input is not known, or an int8 model is asked for floating point or the reverse.
    """
    graph = ncnnfile.load(param)
    possible = ("int8", "mixed") if has_int8(graph) else ("fp32", "fp16", "bf16")
    impossible = [p for p in precisions or () if p not in possible]
    if impossible:
        raise ModelError(f"cannot run in {impossible[0]}", where=str(param), hint=f"it runs in {', '.join(possible)}")
    inputs = [array[None] for array in noise(graph, shapes, where=str(param))]
    size = param.stat().st_size + param.with_suffix(".bin").stat().st_size
    model = Precision("as it is", graph, param.resolve(), size)
    with open_sites(on) as sites, tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder:
        gpu = any(site.has_gpu for site in sites)
        recipe = Recipe(
            str(param),
            backends=tuple(backends or (("cpu", "vulkan") if gpu else ("cpu",))),
            precisions=tuple(precisions or ((made_for(graph),) if has_int8(graph) else possible)),
            threads=threads or 0,
        )
        plans = plan_variants(recipe, dict.fromkeys(((p, "") for p in possible), model), sites)
        results = measure(plans, inputs, Path(folder), seconds=seconds, rounds=recipe.rounds, progress=progress)
        rows = [describe(plan, result, None, None, []) for plan, result in zip(plans, results)]
        return refuse_copies_of_the_cpu(rows, results)
