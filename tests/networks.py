"""Small networks that several tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard.protocol import JobModel, JobVariant
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import ModelSource


def network(text: str, seed: int = 0, **values: float) -> Graph:
    """A graph with random weights from layer lines. Without an Input line it has an input of 4x5x6."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines[0].startswith("Input"):
        lines.insert(0, "Input in0 0 1 in0 0=6 1=5 2=4")
    blobs = sum(int(line.split()[3]) for line in lines)
    graph = ncnnfile.parse_param("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]))
    return with_weights(graph, seed, values)


def with_weights(graph: Graph, seed: int = 0, values: dict[str, float] | None = None) -> Graph:
    """Fill in weights so that blobs are near one. A value in ``values`` fills the weight "layer.weight"."""
    rng = np.random.default_rng(seed)
    for layer in graph.layers:
        for slot, shape in layer.slots():
            fan_in = math.prod(shape[1:])
            if slot.name == "weight" and layer.params.get("int8_scale_term"):
                weight = rng.integers(-127, 128, shape).astype(np.int8)
            elif slot.name in ("var", "slope", "scale", "data"):
                weight = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            else:
                weight = (rng.standard_normal(shape) / math.sqrt(fan_in)).astype(np.float32)
            value = (values or {}).get(f"{layer.name}.{slot.name}")
            layer.weights[slot.name] = weight if value is None else np.full_like(weight, value)
    graph.verify()
    return graph


# All kinds of int8 chains: into a depthwise, into a convolution, through a Split, a residual and a classifier.
SMALL = """
    Input            in0   0 1 in0 0=16 1=16 2=3
    Convolution      c1    1 1 in0 b1 0=8 1=3 4=1 5=1 6=216 9=1
    ConvolutionDepthWise d1 1 1 b1 b2 0=8 1=3 4=1 5=1 6=72 7=8 9=1
    Convolution      c2    1 1 b2 b3 0=8 1=1 6=64
    Split            s1    1 2 b3 b3a b3b
    Convolution      c3    1 1 b3a b4 0=8 1=3 4=1 5=1 6=576
    BinaryOp         add   2 1 b4 b3b b5
    Pooling          gap   1 1 b5 b6 0=1 4=1
    InnerProduct     fc    1 1 b6 out0 0=10 1=1 2=80
"""


def job_variant(param: Path, precision: str = "fp32", name: str = "", **how: Any) -> JobVariant:
    """A variant of a job: a model in a file, run in one thread at a precision. Its default name is the precision."""
    files = str(param), str(param.with_suffix(".bin"))
    return JobVariant(
        name or precision, JobModel(list(files), precision, PRECISIONS[precision].options), threads=1, **how
    )


def small(seed: int = 0) -> Graph:
    """The network above with random weights."""
    return network(SMALL, seed)


def stream(*arrays: NDArray[np.float32]) -> ArraySamples:
    """Samples from one array (N, …) for each network input."""
    return ArraySamples(arrays)


def samples(
    count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Random inputs (count, *shape), float32."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def quantised(graph: Graph, finish: bool = True) -> Graph:
    """An int8 network from rough scales, for any kernels."""
    from ncnnkit.quantization import Table, apply_table
    from ncnnkit.quantization.calibration import quantizable
    from ncnnkit.quantization.scales import weight_scales

    layers = quantizable(graph)
    table = Table({f"{la.name}_param_0": weight_scales(la) for la in layers}, {la.name: 20.0 for la in layers})
    return apply_table(graph, table, target="arm", finish=finish)


MIXED = """
    Input       in0 0 1 in0 0=16 1=16 2=16
    Convolution a   1 1 in0 x 0=16 1=1 5=1 6=256
    Convolution b   1 1 x y 0=16 1=1 5=1 6=256
    Convolution c   1 1 y out0 0=16 1=1 5=1 6=256
"""


def mixed(storage: str = "bf16", fp16: bool = False) -> tuple[Graph, Graph]:
    """A network in fp32, and the mixed network that a plan makes: the middle layer in int8, the others in ``storage``.

    ``storage`` is ``bf16``, ``fp16``, or ``fp32``; the latter needs no Casts and runs on every CPU and ncnn.

    ``fp16`` is whether the plan is for a CPU that computes in fp16.
    """
    from ncnnkit.plan.build import Forms, mixed_graph
    from ncnnkit.plan.costs import Costs

    exact = network(MIXED, seed=3)
    kinds = {(layer, "int8"): "fp16" if fp16 else "float" for layer in "abc"}
    kinds |= {(layer, storage): "float" if storage == "fp32" else storage for layer in "abc"}
    choices = {"a": storage, "b": "int8", "c": storage}
    return exact, mixed_graph(Forms(exact, quantised(exact, finish=False), {}), choices, Costs({}, {}, kinds, kinds))


def reference_of(source: ModelSource, arrays: Sequence[Any]) -> dict[str, np.ndarray[tuple[int, ...], Any]]:
    """The original's outputs for samples in memory: name -> (N, …)."""
    rows = list(source.reference_outputs(ArraySamples(tuple(arrays))))
    return {name: np.stack(column) for name, column in zip(source.outputs, zip(*rows))}
