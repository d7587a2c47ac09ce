"""How long a run takes, the same run again, and runs with one changed option.

python scripts/bench_rerun.py [--model FILE --images DIR] [--effort default] [--seconds 0.5]

Every row follows the first run, in its cache and in a run folder of its own. A row says what it took from the first
run, and where the time went.
"""

from __future__ import annotations

import argparse
import json
import os
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
    "`--require 'cosine>=0.99'`": ["--require", "cosine>=0.99"],
    "`--rounds 3`": ["--rounds", "3"],
    "`--method kl`": ["--method", "kl"],
    "`--mean 0.5,0.5,0.5`": ["--mean", "0.5,0.5,0.5"],
    "`--no-cache`": ["--no-cache"],
}
"""Row -> the options that it adds to those of the first run."""

MEASURED = ("plan", "measure")


def run(arguments: list[str], cache: Path, out: Path) -> tuple[float, dict[str, Any]]:
    """A run: (seconds, the content of run.json)."""
    start = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "ncnnkit", "run", *arguments, "--out", str(out), "--quiet"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start, json.loads((out / "run.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DATA / "efficientnet-lite0.onnx"))
    parser.add_argument("--images", default=str(DATA / "images" / "calibration"))
    parser.add_argument("--effort", default="default")
    parser.add_argument("--seconds", default="0.5")
    asked = parser.parse_args()
    base = [asked.model, "--images", asked.images, "--effort", asked.effort, "--seconds", asked.seconds]
    print("| run | s | of the first | taken from the first run | plan and measure, s | the other stages, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    first = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-rerun-") as name:
        for number, (row, options) in enumerate(CHANGES.items()):
            seconds, document = run([*base, *options], Path(name) / "cache", Path(name) / f"out-{number}")
            first = first or seconds
            reused = [f"{', '.join(stage['reused'])}" for stage in document["stages"] if stage.get("reused")]
            timed = sum(stage["seconds"] for stage in document["stages"] if stage["name"].startswith(MEASURED))
            rest = sum(stage["seconds"] for stage in document["stages"]) - timed
            shown = ", ".join(dict.fromkeys(reused)) or "nothing"
            print(f"| {row} | {seconds:.0f} | {seconds / first:.0%} | {shown} | {timed:.0f} | {rest:.0f} |", flush=True)


if __name__ == "__main__":
    main()
