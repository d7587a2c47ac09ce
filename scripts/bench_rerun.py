"""How long a run takes, the same run again, and runs with one changed option.

python scripts/bench_rerun.py [--model FILE --images DIR] [--effort default] [--precision fp32,int8] [--seconds 0.5]

Every row has the cache of the first run, and a run folder of its own. A row says how long it took, how much of the CPU
all its processes took together (which depends less on what else the machine does), and what it took from the first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "src" / "ncnnkit" / "data"

CHANGES = {
    "the first run": [],
    "the same again": [],
    "`--rounds 2`": ["--rounds", "2"],
    "`--method kl`": ["--method", "kl"],
    "`--mean 0.4,0.4,0.4`": ["--mean", "0.4,0.4,0.4"],
}
"""Row -> the options that it adds to those of the first run."""


def run(arguments: list[str], cache: Path, out: Path) -> tuple[float, float, dict[str, Any]]:
    """A run: (seconds, seconds of the CPU in all its processes, the content of run.json)."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "ncnnkit", "run", *arguments, "--out", str(out), "--quiet"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, json.loads((out / "run.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DATA / "efficientnet-lite0.onnx"))
    parser.add_argument("--images", default=str(DATA / "images" / "calibration"))
    parser.add_argument("--effort", default="default")
    parser.add_argument("--precision", default="fp32,fp16,bf16,int8,mixed")
    parser.add_argument("--seconds", default="0.5")
    asked = parser.parse_args()
    base = [
        asked.model, "--images", asked.images, "--effort", asked.effort, "--seconds", asked.seconds, "--backend", "cpu",
        "--precision", asked.precision,
    ]  # fmt: skip
    print("| run | s | CPU, s | taken from the first run |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="bench-rerun-") as name:
        for number, (row, options) in enumerate(CHANGES.items()):
            seconds, cpu, document = run([*base, *options], Path(name) / "cache", Path(name) / f"out-{number}")
            reused = [what for stage in document["stages"] for what in stage["reused"]]
            print(f"| {row} | {seconds:.0f} | {cpu:.0f} | {', '.join(reused) or 'nothing'} |", flush=True)


if __name__ == "__main__":
    main()
