#!/usr/bin/env python3
"""Time reading, optimising and writing a model with ncnnkit and with ncnn's ncnnoptimize.

    scripts/bench_optimize.py model.param --native path/to/ncnnoptimize [--rounds 9] [--fp16] [--folder DIR]

Three ways take turns, so that drift affects all equally: ncnnoptimize as a process, ncnnkit within this process, and
ncnnkit as a separate process, including the start of Python. The files are in the page cache, and all ways write to the
same folder. Times are wall-clock milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ncnnkit.model import ncnnfile
from ncnnkit.passes import optimize

_PROCESS = """
import sys
from ncnnkit.model import ncnnfile
from ncnnkit.passes import optimize
ncnnfile.save(optimize(ncnnfile.load(sys.argv[1]), fp16=sys.argv[3] == "fp16"), sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("param", type=Path, help="a .param file with its .bin beside it")
    parser.add_argument("--native", type=Path, help="ncnn's ncnnoptimize")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fp16", action="store_true", help="store the weights as fp16")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        _report(_measure(_ways(args, Path(folder)), args.rounds), args.param)


def _ways(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[], None]]:
    param, weights = args.param, args.param.with_suffix(".bin")
    out = folder / "ours.param"

    def within() -> None:
        ncnnfile.save(optimize(ncnnfile.load(param), fp16=args.fp16), out)

    def process() -> None:
        _run(sys.executable, "-c", _PROCESS, param, out, "fp16" if args.fp16 else "fp32")

    def native() -> None:
        flag = "65536" if args.fp16 else "0"
        _run(args.native, param, weights, folder / "native.param", folder / "native.bin", flag)

    ways = {"ncnnoptimize": native} if args.native else {}
    return {**ways, "ncnnkit": within, "ncnnkit, as a process": process}


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def _measure(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """The milliseconds of each way in each round. The first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: samples[1:] for name, samples in times.items()}


def _report(times: dict[str, list[float]], param: Path) -> None:
    size = param.with_suffix(".bin").stat().st_size / 1e6
    first = next(iter(times))
    print(f"{param.name}: {size:.0f} MB of weights, {len(times[first])} rounds, milliseconds")
    print(f"{'':24} {'min':>8} {'median':>8} {'max':>8}   median / {first}'s")
    for name, samples in times.items():
        median = statistics.median(samples)
        ratio = median / statistics.median(times[first])
        print(f"{name:24} {min(samples):8.1f} {median:8.1f} {max(samples):8.1f}   {ratio:.2f}")


if __name__ == "__main__":
    main()
