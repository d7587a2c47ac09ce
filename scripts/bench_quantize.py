#!/usr/bin/env python3
"""int8 by ncnnkit and by ncnn's own ncnn2table and ncnn2int8: error, latency, and the time calibrating takes.

    scripts/bench_quantize.py MODEL --images DIR [--native DIR] [--weights none] [--preset NAME] [--rounds 5]

DIR holds photographs NNNN.jpg. Those whose number ends in 0 calibrate, those ending in 5 evaluate. Every way reads the
same tensors, written once as .npy files. Errors are of the outputs against the fp32 network. All int8 models are timed
in one run with interleaved rounds; calibrating is timed as whole processes, taken in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ncnnkit as nk
from ncnnkit.convert import convert_source
from ncnnkit.graph import Graph
from ncnnkit.images import InputSpec
from ncnnkit.pipeline import choose_preprocess, settle_random_weights
from ncnnkit.quantize import correct_bias
from ncnnkit.session import probe
from ncnnkit.source import open_model
from ncnnkit.variants import Plan, Precision, describe, measure

Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model reference, as for ncnnkit run")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--native", type=Path, help="folder with ncnn2table and ncnn2int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        folder = Path(name)
        graph, spec, calibration, evaluation = _prepare(args, folder)
        graphs = _quantised(graph, calibration, args, folder)
        _report_models(graph, graphs, evaluation, args, folder)
        _report_calibrating(args, folder, spec)


def _prepare(args: argparse.Namespace, folder: Path) -> tuple[Graph, InputSpec, Array, Array]:
    recipe = nk.Recipe(args.model, preset=args.preset, weights=args.weights)
    source = open_model(args.model, weights=args.weights, workdir=folder)
    preprocess, _ = choose_preprocess(recipe, source)
    sets = []
    for digit in "05":
        files = folder / f"images{digit}.txt"
        files.write_text("".join(f"{path.resolve()}\n" for path in sorted(args.images.glob(f"*{digit}.jpg"))))
        sets.append(nk.open_images(files, preprocess, source.inputs))
    source = settle_random_weights(recipe, source, sets[0], folder)
    calibration, evaluation = (images.stack()[0] for images in sets)
    graph = nk.optimize(convert_source(source, folder).graph)
    nk.save(graph, folder / "fp32.param")
    for index, sample in enumerate(calibration):
        np.save(folder / f"{index:04}.npy", sample)
    (folder / "samples.txt").write_text("".join(f"{folder}/{i:04}.npy\n" for i in range(len(calibration))))
    return graph, source.inputs[0], calibration, evaluation


def _quantised(graph: Graph, samples: Array, args: argparse.Namespace, folder: Path) -> dict[str, Graph]:
    stats = {method: nk.calibrate(graph, samples, method=method, threads=args.threads) for method in ("kl", "mse")}
    plain = {method: nk.quantize(graph, found, target="x86") for method, found in stats.items()}
    graphs = {
        "ncnnkit KL": plain["kl"],
        "ncnnkit MSE": plain["mse"],
        "ncnnkit MSE, biases corrected": correct_bias(graph, plain["mse"], [samples], threads=args.threads),
    }
    if args.native is None:
        return graphs
    spec_shape = ",".join(map(str, samples.shape[:0:-1]))
    native = {}
    for method in ("kl", "aciq"):
        _native_table(args, folder, spec_shape, method)
        fp32, made = (folder / "fp32.param", folder / "fp32.bin"), folder / f"native-{method}.param"
        _native(args, "ncnn2int8", *fp32, made, made.with_suffix(".bin"), folder / "n.table")
        native[f"ncnn2table {method.upper()}"] = nk.load(folder / f"native-{method}.param")
    return {**native, **graphs}


def _native_table(args: argparse.Namespace, folder: Path, shape: str, method: str) -> None:
    options = (f"shape=[{shape}]", f"thread={args.threads}", f"method={method}", "type=1")
    files = (folder / name for name in ("fp32.param", "fp32.bin", "samples.txt", "n.table"))
    _native(args, "ncnn2table", *files, *options)


def _native(args: argparse.Namespace, tool: str, *arguments: str | Path) -> None:
    subprocess.run([str(args.native / tool), *map(str, arguments)], check=True, capture_output=True)


def _report_models(
    graph: Graph, graphs: dict[str, Graph], evaluation: Array, args: argparse.Namespace, folder: Path
) -> None:
    with nk.Session(graph, precision="fp32") as net:
        reference = {"out": np.stack([net.run(sample) for sample in evaluation])}
    machine = probe()
    plans = []
    for index, (name, made) in enumerate({"fp32": graph, **graphs}.items()):
        param = folder / f"model{index}.param"
        nk.save(made, param)
        precision = "fp32" if name == "fp32" else "int8"
        size = param.with_suffix(".bin").stat().st_size
        plans.append(Plan(name, precision, "cpu", args.threads, Precision(precision, made, param, size)))
    results = measure(plans, [evaluation], folder, seconds=4.0 * args.rounds, rounds=4 * args.rounds)
    rows = [describe(plan, result, machine, reference, None, []) for plan, result in zip(plans, results)]
    base = next((r for r in rows if r["name"] == "ncnn2table KL"), rows[0])
    print(f"{machine['cpu']}, {args.threads} threads, ncnn {machine['ncnn']}, {len(evaluation)} images to evaluate")
    columns = f"{'model':32}{'MSE':>10}{'SQNR dB':>9}{'cosine':>9}{'median ms':>11}{'spread':>8}"
    print(f"{columns}{'latency / ' + base['name']:>25}")
    for row in rows:
        error, latency = row["accuracy"], row["latency_ms"]
        ratio = latency["median"] / base["latency_ms"]["median"]
        sqnr = "" if error["sqnr_db"] is None else f"{error['sqnr_db']:.1f}"
        print(
            f"{row['name']:32}{error['mse']:10.5f}{sqnr:>9}{error['cosine']:9.5f}"
            f"{latency['median']:11.2f}{latency['spread']:8.2f}{ratio:25.2f}"
        )


def _report_calibrating(args: argparse.Namespace, folder: Path, spec: InputSpec) -> None:
    """Whole processes, in turns; the first round warms up."""
    shape = ",".join(map(str, spec.shape[::-1]))
    ways: dict[str, Any] = {}
    if args.native is not None:
        ways["ncnn2table KL"] = lambda: _native_table(args, folder, shape, "kl")
    for method in ("kl", "mse"):
        ways[f"ncnnkit calibrate, {method.upper()}"] = lambda method=method: _calibrate(args, folder, method)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    print(f"\n{'calibrating':32}{'median s':>10}{'min':>8}{'max':>8}{'ratio':>8}")
    base = statistics.median(next(iter(times.values()))[1:])
    for name, (_, *samples) in times.items():
        median = statistics.median(samples)
        print(f"{name:32}{median:10.2f}{min(samples):8.2f}{max(samples):8.2f}{median / base:8.2f}")


def _calibrate(args: argparse.Namespace, folder: Path, method: str) -> None:
    command: Sequence[str | Path] = (
        sys.executable, "-m", "ncnnkit.cli", "calibrate", folder / "fp32.param", "--images", folder / "samples.txt",
        "-o", folder / "ours.table", "--method", method, "--threads", str(args.threads),
    )  # fmt: skip
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


if __name__ == "__main__":
    main()
