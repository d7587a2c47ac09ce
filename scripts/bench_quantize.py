#!/usr/bin/env python3
"""Compare int8 of ncnnkit with ncnn's ncnn2table and ncnn2int8: the error, the latency, and the time of calibrating.

    scripts/bench_quantize.py MODEL --images DIR [--native DIR] [--weights none] [--preset NAME] [--rounds 5]

DIR contains photographs NNNN.jpg. The photographs with a number that ends in 0 calibrate, and those that end in 5
evaluate. Every way reads the same tensors from .npy files. Errors are of the outputs against the fp32 network. All int8
models are timed in one run with interleaved rounds. Calibrating is timed as whole processes, which take turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ncnnkit as nk
from ncnnkit.comparison.outputs import Outputs, keep_outputs
from ncnnkit.device.sites import local_site
from ncnnkit.measure.variants import VariantSpec, measure, variant_record
from ncnnkit.model.graph import Graph
from ncnnkit.quantization import quantize_images
from ncnnkit.recipe import Recipe
from ncnnkit.samples.images import ImageSet
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.stream import KeptSamples, Samples, keep
from ncnnkit.source import open_model
from ncnnkit.source.conversion import convert_source
from ncnnkit.source.opening import choose_preprocess, settle_random_weights

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
    parser.add_argument("--efforts", default="fast,default", help="of fast, default, best")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        folder = Path(name)
        found = prepare(args, folder, "5")
        graphs = _quantised(found, args)
        _report_models(found.graph, graphs, found.evaluation, args, folder)
        _report_calibrating(args, found)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network, and the tensors that all ways read.

    Attributes:
        graph: the optimised network in fp32. It is also ``fp32.param`` in ``folder``.
        calibration, evaluation: the samples, in files and read one by one. The calibration samples are also
            ``NNNN.npy`` in ``folder``.
        labels: the classes of the evaluation samples.
    """

    graph: Graph
    spec: InputSpec
    calibration: KeptSamples
    evaluation: KeptSamples
    labels: Array
    folder: Path


def prepare(args: argparse.Namespace, folder: Path, digits: str) -> Prepared:
    """Prepare a network.

    Images with a number that ends in 0 calibrate; those that end in one of ``digits`` evaluate.
    """
    recipe = Recipe(args.model, preset=args.preset, weights=args.weights)
    source = open_model(args.model, weights=args.weights)
    preprocess, _ = choose_preprocess(source, recipe.preset, recipe.preprocess)
    sets: list[ImageSet] = []
    labels: list[Array] = []
    for chosen in ("0", digits):
        paths = [path for path in sorted(args.images.glob("*.jpg")) if path.stem[-1] in chosen]
        files = folder / f"images{len(sets)}.txt"
        files.write_text("".join(f"{path.resolve()}\n" for path in paths))
        sets.append(nk.open_images(files, preprocess, source.inputs))
        labels.append(np.array([int(path.stem) for path in paths]))
    source = settle_random_weights(recipe, source, sets[0])
    calibration, evaluation = (keep(images, folder / f"kept{i}") for i, images in enumerate(sets))
    graph = nk.optimize(convert_source(source, calibration, folder).graph)
    graph.set_input_shapes([spec.shape for spec in source.inputs])
    nk.save(graph, folder / "fp32.param")
    for index, (sample,) in enumerate(calibration):
        np.save(folder / f"{index:04}.npy", sample)
    return Prepared(graph, source.inputs[0], calibration, evaluation, labels[1], folder)


def outputs_of(graph: Graph, samples: Samples, precision: str, folder: Path) -> Outputs:
    """The first output for every sample, in a file in ``folder``."""
    with nk.Session(graph, precision=precision) as session:
        names = session.outputs[:1]
        return keep_outputs(names, (session.blobs(*sample, names=names) for sample in samples), folder)


def native_model(tools: Path, found: Prepared, chosen: Sequence[int] | Array, method: str) -> Graph:
    """The int8 model of ncnn2table and ncnn2int8, from the calibration samples with these numbers."""
    folder = found.folder
    native_table(tools, found, chosen, method)
    fp32, made = (folder / "fp32.param", folder / "fp32.bin"), folder / f"native-{method}.param"
    _native(tools, "ncnn2int8", *fp32, made, made.with_suffix(".bin"), folder / "n.table")
    return nk.load(made)


def native_table(tools: Path, found: Prepared, chosen: Sequence[int] | Array, method: str, threads: int = 2) -> None:
    folder, shape = found.folder, ",".join(map(str, found.spec.shape[::-1]))
    (folder / "samples.txt").write_text("".join(f"{folder}/{i:04}.npy\n" for i in chosen))
    options = (f"shape=[{shape}]", f"thread={threads}", f"method={method}", "type=1")
    files = (folder / name for name in ("fp32.param", "fp32.bin", "samples.txt", "n.table"))
    _native(tools, "ncnn2table", *files, *options)


def _native(tools: Path, tool: str, *arguments: str | Path) -> None:
    subprocess.run([str(tools / tool), *map(str, arguments)], check=True, capture_output=True)


def _quantised(found: Prepared, args: argparse.Namespace) -> dict[str, Graph]:
    graphs = {}
    if args.native is not None:
        every = range(len(found.calibration))
        graphs = {f"ncnn2table {m.upper()}": native_model(args.native, found, every, m) for m in ("kl", "aciq")}
    stats = nk.calibrate(found.graph, found.calibration, method="kl", threads=args.threads)
    graphs["ncnnkit KL"] = nk.quantize(found.graph, stats, target="x86")
    for effort in args.efforts.split(","):
        start = time.perf_counter()
        made = quantize_images(found.graph, found.calibration, target="x86", effort=effort, threads=args.threads)
        print(f"quantising, effort {effort}: {time.perf_counter() - start:.1f} s")
        for trial in made.trials:
            error, kept = f"{trial.relative_error:.4g}", "kept" if trial.kept else ""
            print(f"    {trial.method:45} held-back noise / signal {error} {kept:5} {trial.seconds:.1f} s")
        graphs[f"ncnnkit {effort}"] = made.graph
    return graphs


def _report_models(
    graph: Graph, graphs: dict[str, Graph], evaluation: KeptSamples, args: argparse.Namespace, folder: Path
) -> None:
    with nk.Session(graph, precision="fp32") as net:
        rows = (net.blobs(*sample, names=net.outputs) for sample in evaluation)
        reference = keep_outputs(net.outputs, rows, folder / "reference")
    site = local_site()
    specs = []
    for index, (name, made) in enumerate({"fp32": graph, **graphs}.items()):
        param = folder / f"model{index}.param"
        precision = "fp32" if name == "fp32" else "int8"
        model = nk.Artifact.made(made, precision).save(param)
        specs.append(VariantSpec(name, precision, "cpu", args.threads, site, model))
    results = measure(specs, evaluation.files, folder, seconds=4.0 * args.rounds, rounds=4 * args.rounds)
    found = [variant_record(spec, result, reference, None, None, []) for spec, result in zip(specs, results)]
    measured = {row.name: (row.latency_ms, row.accuracy) for row in found}
    base = "ncnn2table KL" if "ncnn2table KL" in measured else found[0].name
    print(f"{site.machine.cpu}, {args.threads} threads, ncnn {site.machine.ncnn}, {len(evaluation)} images")
    columns = f"{'model':32}{'MSE':>10}{'SQNR dB':>9}{'cosine':>9}{'median ms':>11}{'spread':>8}"
    print(f"{columns}{'latency / ' + base:>25}")
    for name, (latency, error) in measured.items():
        base_latency = measured[base][0]
        assert latency is not None
        assert base_latency is not None
        assert error is not None
        ratio = latency.median / base_latency.median
        sqnr = "" if error.sqnr_db is None else f"{error.sqnr_db:.1f}"
        print(
            f"{name:32}{error.mse:10.5f}{sqnr:>9}{error.cosine or 0:9.5f}"
            f"{latency.median:11.2f}{latency.spread:8.2f}{ratio:25.2f}"
        )


def _report_calibrating(args: argparse.Namespace, found: Prepared) -> None:
    """Time whole processes, which take turns.

    The first round warms up. Quantising with effort fast writes the model, too.
    """
    folder, every = found.folder, range(len(found.calibration))
    (folder / "samples.txt").write_text("".join(f"{folder}/{i:04}.npy\n" for i in every))
    ways: dict[str, Any] = {}
    if args.native is not None:
        ways["ncnn2table KL"] = lambda: native_table(args.native, found, every, "kl", args.threads)
    for method in ("kl", "mse"):
        ways[f"ncnnkit calibrate, {method.upper()}"] = lambda m=method: _command(
            args, "calibrate", folder, "-o", folder / "ours.table", "--method", m
        )
    ways["ncnnkit quantize, fast"] = lambda: _command(
        args, "quantize", folder, "-o", folder / "ours.param", "--effort", "fast"
    )
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


def _command(args: argparse.Namespace, command: str, folder: Path, *options: str | Path) -> None:
    words: Sequence[str | Path] = (
        sys.executable, "-m", "ncnnkit", command, folder / "fp32.param", "--images", folder / "samples.txt",
        *options, "--threads", str(args.threads),
    )  # fmt: skip
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


if __name__ == "__main__":
    main()
