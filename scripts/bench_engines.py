#!/usr/bin/env python3
"""ncnn beside other engines: ResNet50, EfficientNet-Lite0, YOLOv8n and PP-OCR's text recogniser, each in whole runs.

    scripts/bench_engines.py --packages DIR --images DIR [--only NAME,...] [--engines all] [--times 3] [--backends cpu]

``--packages`` and ``--images`` are those of scripts/bench_tasks.py. Every fifth of the photographs whose number ends in
0 calibrates, and of those ending in 2 evaluates. ResNet50 has seeded random weights: its errors compare engines, and
say nothing of a trained network. Each network is run ``--times`` times; a run measures every variant of every engine
in interleaved rounds. The table has the median of the runs' median latencies, and their range; its other figures are
of the first run. What each run says of the engines is printed before it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_tasks import NETWORKS, written
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import ncnnkit as nk
from ncnnkit.formatting import cosine, decibel, exact, plain
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe
from ncnnkit.record.variant import Variant
from ncnnkit.report.figures import figure_text, task_figures, with_unit

LITE0 = Path(nk.__file__).parent / "data/efficientnet-lite0.onnx"


@dataclass(frozen=True)
class Case:
    """A network, as a recipe has it, and its photographs or texts."""

    name: str
    model: Path
    shapes: tuple[tuple[int, ...], ...] = ()
    preset: str = ""
    texts: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--engines", default="all")
    parser.add_argument("--backends", default="cpu")
    parser.add_argument("--precisions", default="fp32,fp16,bf16,int8,mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--effort", default="fast")
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        folder = Path(name)
        for case in cases(args.packages, folder):
            if not only or case.name in only:
                report(case, args, folder / case.name.replace(" ", "-"))


def cases(packages: Path, folder: Path) -> list[Case]:
    """The networks; ResNet50 is written."""
    known = {network.name: network for network in NETWORKS}
    tasks = [known["YOLOv8n"], known["PP-OCRv4 rec"]]
    return [
        Case("ResNet50", write_resnet50(folder / "resnet50.onnx"), preset="imagenet"),
        Case("EfficientNet-Lite0", LITE0),
        *(Case(n.name, packages / n.file, (n.shape,), n.preset, n.texts) for n in tasks),
    ]


def report(case: Case, args: argparse.Namespace, folder: Path) -> None:
    """Run a network and print its table."""
    folder.mkdir()
    given: dict[str, Any] = {}
    for key, digit in (("images", "0"), ("eval_images", "2")):
        paths = [path for path in sorted(args.images.glob("*.jpg")) if path.stem[-1] == digit][::2]
        if case.texts:
            paths = list(written(paths, folder / key, lines=True))
        given[key] = str(folder / f"{key}.txt")
        Path(given[key]).write_text("".join(f"{path.resolve()}\n" for path in paths))
    recipe = Recipe(
        str(case.model), shapes=case.shapes, preset=case.preset, engines=tuple(args.engines.split(",")),
        backends=tuple(args.backends.split(",")), precisions=tuple(args.precisions.split(",")), threads=args.threads,
        effort=args.effort, **given,
    )  # fmt: skip
    documents = []
    for number in range(args.times):
        documents.append(run(recipe, folder / f"out-{number}"))
        print(f"{case.name}, run {number + 1}: {documents[-1].why}", flush=True)
        print(*(f"    {said}" for said in documents[-1].engines_compared), sep="\n", flush=True)
    print(f"\n{case.name}, on {documents[0].devices[0].machine.cpu}, {args.threads} threads:\n")
    print("\n".join(table([document.variants for document in documents])), flush=True)


def table(runs: Sequence[Sequence[Variant]]) -> list[str]:
    """Markdown: a row for each variant, with the figures of the first run and the latencies of all."""
    figures = task_figures(runs[0])
    heads = ["engine", "precision", "backend", "ms", "range", "load, ms", "RAM, MB", "MB", "MSE", "dB", "cosine"]
    heads += [with_unit(f.title, f) for f in figures]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for variant in runs[0]:
        same = [v for each in runs for v in each if v.name == variant.name and v.latency_ms]
        medians = [v.latency_ms.median for v in same if v.latency_ms]
        cells: list[str] = [variant.engine, variant.precision, variant.backend]
        if variant.status == "skipped" or not medians or not variant.accuracy:
            lines.append(f"| {' | '.join(cells)} | {variant.status}: {variant.reason} |" + " |" * (len(heads) - 4))
            continue
        fell = "" if variant.status == "ok" else f" ({variant.status})"
        cells += [plain(statistics.median(medians)) + fell, f"{plain(min(medians))}–{plain(max(medians))}"]
        cells += [plain(variant.load_ms.cold) if variant.load_ms else "", plain(variant.peak_memory_mb)]
        cells += [plain((variant.size_bytes or 0) / 1e6), exact(variant.accuracy.mse)]
        cells += [decibel(variant.accuracy.sqnr_db), cosine(variant.accuracy.cosine)]
        cells += [figure_text(variant.accuracy.figure(f.name)) for f in figures]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# ---------------------------------------------------------------------------------------------------------- ResNet50

Array = NDArray[Any]
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Channels within a block, blocks, and the stride of the first: ResNet50 of He et al., 2015, with the stride in the
3x3 convolution as torchvision has it."""


def write_resnet50(path: Path) -> Path:
    """ResNet50 with its batch normalisations folded into the convolutions, and seeded weights (He et al., 2015)."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int, gain: float = 1.0) -> str:
        made, w, b = f"conv{len(nodes)}", f"w{len(nodes)}", f"b{len(nodes)}"
        deviation = gain * np.sqrt(2 / (inputs * size * size))
        for name, array in (
            (w, rng.normal(0, deviation, (outputs, inputs, size, size))),
            (b, rng.normal(0, 0.1, outputs)),
        ):
            weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", [x, w, b], [made], pads=pads, strides=[stride] * 2))
        return made

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        made = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [made], **attributes))
        return made

    x = op("Relu", conv("input", 3, 64, 7, 2))
    x = op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, first in STAGES:
        for block in range(blocks):
            stride = first if block == 0 else 1
            y = op("Relu", conv(x, channels, width, 1, 1))
            y = op("Relu", conv(y, width, width, 3, stride))
            y = conv(y, width, 4 * width, 1, 1, gain=0.3)  # the sums must not grow from block to block
            shortcut = conv(x, channels, 4 * width, 1, stride, gain=0.7) if block == 0 else x
            x, channels = op("Relu", op("Add", y, shortcut)), 4 * width
    x = op("Flatten", op("GlobalAveragePool", x))
    for name, array in (("fc.w", rng.normal(0, 0.05, (channels, 1000))), ("fc.b", rng.normal(0, 0.1, 1000))):
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
    nodes.append(helper.make_node("Gemm", [x, "fc.w", "fc.b"], ["output"]))
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "resnet50", [helper.make_tensor_value_info("input", kind, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("output", kind, [1, 1000])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


if __name__ == "__main__":
    main()
