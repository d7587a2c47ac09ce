#!/usr/bin/env python3
"""Measure an app: precision × backend, streams against one stream, memory, starts.

    scripts/bench_app.py model.onnx APP --images DIR [--infer APP/build/native/infer] [--every 10] [--rounds 5]

MODEL is the original of the run that APP was made from; the error is against its outputs, on every N-th image of DIR.
All programs are started in turns, so that drift hits all alike; a latency is the median over the rounds of each start's
median, with the least and the largest. A figure of another process at work is worth nothing: leave the machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import ncnnkit as nk
from ncnnkit.comparison.noise import Noise
from ncnnkit.source import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("app", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--infer", type=Path, help="default: APP/build/native/infer")
    parser.add_argument("--every", type=int, default=10, help="which images are evaluated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu", action="store_true", help="the Vulkan variants, too")
    args = parser.parse_args()
    args.infer = args.infer or args.app / "build/native/infer"
    rows = [line.split() for line in (args.app / "models/variants.txt").read_text().splitlines()]
    variants = [row for row in rows if args.gpu or row[2] == "cpu"]
    images = sorted(path for path in args.images.rglob("*") if path.is_file())[:: args.every]
    report_variants(args, variants, images)
    report_memory(args, variants, images[0])
    report_starts(args, variants, images[0])
    report_streams(args, variants)


def infer(args: argparse.Namespace, variant: list[str], *words: str | Path, cache: str = "") -> dict[str, Any]:
    """What the program's last line of JSON says."""
    _, precision, backend, model = variant
    files = [args.app / f"models/{model}{ending}" for ending in (".param", ".bin")]
    own = [f"--precision={precision}", "--gpu" if backend == "vulkan" else "--cpu", "--json"]
    line = [args.infer, *files, *words, *own]
    # A driver's cache of its own would make a cold start warm.
    cold = (
        {"XDG_CACHE_HOME": cache, "__GL_SHADER_DISK_CACHE_PATH": cache, "MESA_SHADER_CACHE_DIR": cache} if cache else {}
    )
    env = {**os.environ, **cold}
    done = subprocess.run(list(map(str, line)), check=True, capture_output=True, text=True, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report_variants(args: argparse.Namespace, variants: list[list[str]], images: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        errors = mean_squared_errors(args, variants, images, Path(folder))
    times: dict[str, list[dict[str, Any]]] = {variant[0]: [] for variant in variants}
    for _ in range(args.rounds + 1):
        for variant in variants:
            times[variant[0]].append(infer(args, variant, images[0], "--loop=100"))
    print(f"{len(images)} images, {args.rounds} rounds of 100 inferences")
    print(f"{'variant':14}{'median ms':>11}{'min':>8}{'max':>8}{'load ms':>9}{'MSE':>12}")
    for name, (_, *runs) in times.items():  # the first round warms up
        medians = [run["latency_ms"]["median"] for run in runs]
        load = statistics.median(run["load_ms"] for run in runs)
        figures = (statistics.median(medians), min(medians), max(medians))
        print(f"{name:14}{figures[0]:11.2f}{figures[1]:8.2f}{figures[2]:8.2f}{load:9.1f}{errors[name]:12.3g}")


def mean_squared_errors(
    args: argparse.Namespace, variants: list[list[str]], images: list[Path], folder: Path
) -> dict[str, float]:
    """Of each variant's outputs against the original's, over all images."""
    source = open_model(args.model)
    preprocess = nk.Artifact.load(args.app / f"models/{variants[0][3]}.param").preprocess
    (folder / "list.txt").write_text("".join(f"{path.resolve()}\n" for path in images))
    inputs = nk.open_images(folder / "list.txt", preprocess, source.inputs)
    errors = {variant[0]: Noise() for variant in variants}
    for path, expected in zip(images, source.reference_outputs(inputs), strict=True):
        for variant in variants:
            infer(args, variant, path, folder / "y.npy", "--loop=1")
            errors[variant[0]].add([np.load(folder / "y.npy")], expected[:1])
    return {name: noise.mse for name, noise in errors.items()}


def report_memory(args: argparse.Namespace, variants: list[list[str]], image: Path) -> None:
    print(f"\n{'peak MB':14}{'median':>10}")
    for variant in variants:
        peaks = [infer(args, variant, image, "--loop=20")["peak_memory_mb"] for _ in range(args.rounds)]
        print(f"{variant[0]:14}{statistics.median(peaks):10.1f}")


def report_starts(args: argparse.Namespace, variants: list[list[str]], image: Path) -> None:
    """The first start, which compiles a GPU's pipelines, and the next one: all of the process, and what loads."""
    print(f"\n{'start':14}{'cold ms':>10}{'load':>10}{'first':>10}{'warm ms':>10}{'load':>10}{'first':>10}")
    for variant in variants:
        rows: list[list[tuple[float, float, float]]] = [[], []]
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as cache:  # drivers have caches of their own, some in it
                for row in rows:
                    start = time.perf_counter()
                    said = infer(args, variant, image, "--loop=1", cache=cache)
                    whole = (time.perf_counter() - start) * 1000
                    row.append((whole, said["load_ms"], said["latency_ms"]["first"]))
        figures = [statistics.median(column) for row in rows for column in zip(*row)]
        print(f"{variant[0]:14}" + "".join(f"{figure:10.1f}" for figure in figures))


def report_streams(args: argparse.Namespace, variants: list[list[str]]) -> None:
    """Every split's images per second, over those of one stream in the same start."""
    print(f"\n{'images/s':14}{'split':24}{'median':>9}{'of one stream, median (least to largest)':>44}")
    for variant in variants:
        runs = [infer(args, variant, args.images, "--streams", "--top=0")["measured"] for _ in range(args.rounds)]
        for index, row in enumerate(runs[0]):
            rates = [run[index]["images_per_s"] for run in runs]
            ratios = [run[index]["images_per_s"] / run[0]["images_per_s"] for run in runs]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{variant[0]:14}{row['split']:24}{statistics.median(rates):9.1f}{spread:>44}")


if __name__ == "__main__":
    main()
