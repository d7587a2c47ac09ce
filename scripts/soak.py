#!/usr/bin/env python3
"""Long use of ncnnkit: memory, descriptors, files and processes must not grow.

    python scripts/soak.py variants [--inferences 1000] [--engines all]
    python scripts/soak.py runs [--on ssh://ncnnkit-board] [--hours 2]

``variants`` is one run of a small network with every precision on every backend and every installed engine, each timed
at least ``--inferences`` times; a software Vulkan device is timed for a second only. It watches the run and all its
descendants, and compares the first with the last quarter of the time after the first round of timings. ``runs`` makes
runs from one Python process until the time is over, and looks at this process, at its temporary folder and at the
device after each. The first runs fill caches; the comparison is between the third run and the last.

Memory is the proportional set size (PSS) in MB, 2^20 bytes, without the pages of files: a process has a larger share of
these when other programs that read the same files end. The status is 1 if anything grew.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from bench_memory import NETWORKS, begun, family, pss_mb, write_network

EVERY = 0.2  # seconds between two looks
SLACK = {"memory": 1.1, "descriptors": 1.0, "files": 1.0, "processes": 1.0}
"""How much a figure may be of its earlier value. Memory allocators keep some of what is freed."""
PER_ROUND = 199  # timed inferences of a variant in a round, at most
ROUNDS_BEFORE = 3  # runs that fill caches

Look = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    variants = kinds.add_parser("variants")
    variants.add_argument("--inferences", type=int, default=1000)
    variants.add_argument("--engines", default="all")
    runs = kinds.add_parser("runs")
    runs.add_argument("--on", default="")
    runs.add_argument("--hours", type=float, default=2.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ncnnkit-soak-") as name:
        folder = Path(name)
        model = write_onnx(folder) if args.kind == "variants" else write_network(folder, NETWORKS["classifier"])
        samples = folder / "samples.npy"
        np.save(samples, np.random.default_rng(0).normal(0, 1, (40, 3, 32, 32)).astype(np.float32))
        if args.kind == "variants":
            grown = soak_variants(folder, model, samples, args.inferences, args.engines)
        else:
            grown = soak_runs(folder, model, samples, args.on, 3600 * args.hours)
    sys.exit("these grew: " + ", ".join(grown) if grown else 0)


def write_onnx(folder: Path) -> Path:
    """A small classifier with random weights, as an ONNX file: other engines read no ncnn models."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 32, 3, 3), "w4": (10, 32), "b4": (10,)}
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal(shape) * np.sqrt(2 / max(1, math.prod(shape[1:])))).astype("f"), name
        )
        for name, shape in shapes.items()
    ]
    nodes = []
    for number, stride in enumerate((2, 2, 1), 1):
        made = [f"x{number - 1}", f"w{number}"], [f"c{number}"]
        nodes.append(helper.make_node("Conv", *made, pads=[1] * 4, strides=[stride] * 2))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"x{number}"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["x3"], ["gap"]))
    nodes.append(helper.make_node("Flatten", ["gap"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "w4", "b4"], ["fc"], transB=1))
    nodes.append(helper.make_node("Softmax", ["fc"], ["out"], axis=1))
    given = helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, (1, 3, 32, 32))
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, (1, 10))
    graph = helper.make_graph(nodes, "small", [given], [out], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "small.onnx"
    )
    return folder / "small.onnx"


def soak_variants(folder: Path, model: Path, samples: Path, inferences: int, engines: str) -> list[str]:
    """One long run; returns what grew."""
    out, rounds = folder / "out", -(-inferences // PER_ROUND)
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [
        sys.executable, "-m", "ncnnkit", "run", str(model), "--images", str(samples), "--out", str(out), "--effort",
        "fast", "--threads", "1", "--rounds", str(rounds),
        "--seconds", str(inferences), *(["--engines", engines] if engines else []),
    ]  # fmt: skip
    looks = list(watched(command, temporary))
    variants = json.loads((out / "run.json").read_text())["variants"]
    timed = {v["name"]: v["latency_ms"]["samples"] for v in variants if v["latency_ms"]}
    few = {name: count for name, count in timed.items() if count < inferences}
    print(f"{len(variants)} variants, {len(timed)} timed, {sum(timed.values())} inferences; below {inferences}: {few}")
    most = max(look["processes"] for look in looks)  # at the end of the timings, processes end one by one
    timing = [look for look in looks if look.pop("timed") and look["processes"] == most]
    quarter = max(1, len(timing) // 4)
    print(f"{len(looks)} looks, {len(timing)} of them while the variants were timed")
    return compared(middle(timing[:quarter]), middle(timing[-quarter:]), "first quarter", "last quarter") + [
        f"{len(left)} files in the temporary folder" for left in [list(temporary.iterdir())] if left
    ]


def watched(command: Sequence[str], temporary: Path) -> Iterator[Look]:
    """Run a command to its end, and look at its processes and its temporary folder."""
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env) as process:
        while process.poll() is None:
            with suppress(OSError):  # a process ended while it was looked at
                yield {**look_at(process.pid, temporary), "timed": timed(temporary)}
            time.sleep(EVERY)
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{said}")


def timed(temporary: Path) -> bool:
    """Whether the first round of timings is over. Before, models are loaded, and shaders are compiled."""
    records = [json.loads(path.read_text()) for path in temporary.rglob("record.json")]
    return any(variant["samples"] for record in records for variant in record["variants"])


def look_at(pid: int, temporary: Path) -> Look:
    """The present figures of a process with its descendants."""
    pids = [one for one in family(pid) if one == pid or begun(one, pid)]
    return {
        "memory": sum(pss_mb(one, "Pss_Anon") for one in pids),
        "descriptors": sum(len(os.listdir(f"/proc/{one}/fd")) for one in pids),
        "files": sum(len(files) for _, _, files in os.walk(temporary)),
        "processes": len(pids),
    }


def soak_runs(folder: Path, model: Path, samples: Path, on: str, seconds: float) -> list[str]:
    """Runs from one process until the time is over; returns what grew."""
    import ncnnkit as nk

    temporary = folder / "tmp"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    end = time.monotonic() + seconds
    looks: list[Look] = []
    while time.monotonic() < end or len(looks) <= ROUNDS_BEFORE:
        nk.run(
            str(model), images=str(samples), out=str(folder / "out"), backends=("cpu",), effort="fast", threads=1,
            seconds=1.0, rounds=2, on=(on,) if on else (),
        )  # fmt: skip
        gc.collect()
        looks.append({**look_at(os.getpid(), temporary), **(board(on) if on else {})})
        print(f"run {len(looks)}: {', '.join(f'{key} {value:.0f}' for key, value in looks[-1].items())}", flush=True)
    return compared(looks[ROUNDS_BEFORE - 1], looks[-1], f"run {ROUNDS_BEFORE}", f"run {len(looks)}")


def board(address: str) -> Look:
    """The figures of a board between two runs: all processes of the user, and ncnnkit's files there."""
    # The names in given-up are at most 100 (KEEP_GIVEN_UP in onboard/agent.py), so they grow for 100 jobs.
    line = (
        "ls /proc | grep -c '^[0-9]'; find ~/.cache/ncnnkit -not -path '*/given-up/*' | wc -l; "
        "find /tmp 2>/dev/null | wc -l; "
        "ls -d /proc/[0-9]*/fd/* 2>/dev/null | wc -l"
    )
    done = subprocess.run(
        ["ssh", address.removeprefix("ssh://"), line], capture_output=True, text=True, check=True, timeout=600
    )
    processes, files, temporary, descriptors = map(float, done.stdout.split())
    return {
        "processes there": processes, "files there": files + temporary, "descriptors there": descriptors,
    }  # fmt: skip


def middle(looks: Sequence[Look]) -> Look:
    return {key: statistics.median(look[key] for look in looks) for key in looks[0]}


def compared(before: Mapping[str, float], after: Mapping[str, float], first: str, last: str) -> list[str]:
    """Print figures beside earlier ones; returns the names of those that grew."""
    print(f"{'':20}{first:>16}{last:>16}")
    for key, value in before.items():
        print(f"{key:20}{value:16.1f}{after[key]:16.1f}")
    return [key for key, value in before.items() if after[key] > SLACK[key.split()[0]] * value]


if __name__ == "__main__":
    main()
