#!/usr/bin/env python3
"""Measure apps: cold and warm starts, memory, images per second, and the self-test.

    scripts/bench_app.py APP [APP ...] --images DIR [DIR ...] [--variants fp32,int8] [--gpu] [--rounds 5]

APP is the folder of an app: in C++ with its program in build/native, or in Python. DIR has the images of each app, or
of all apps. A row of the table is a variant of an app. A figure is the median over the rounds, with the least and the
largest value.

- cold, warm: duration of a process that answers one image. Before a cold start, the app's files are removed from the
  page cache, and the caches of a GPU's pipelines are empty. The warm start follows it.
- load, first, median: the times of the warm start in --json: loading, the first inference, the following inferences.
- MB: peak resident memory.
- images/s: the rate for a folder with one stream, from the first answer to the last, including decoding and
  preprocessing; if the app has --streams, also the rate of the fastest split.
- SQNR: of the self-test's examples against the original, dB, as in run.json.

All programs take turns, so that drift affects all equally. Figures from a busy machine are not valid; the script warns
if the load is high.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSY = 0.5
"""The load average above which other processes disturb the measurement."""
COLUMNS = {
    "cold": "cold ms", "warm": "warm ms", "load": "load ms", "first": "first ms", "median": "median ms", "memory": "MB",
    "rate": "images/s", "streams": "with --streams", "sqnr": "SQNR dB",
}  # fmt: skip
"""Figure -> the title of its column."""


@dataclass
class Row:
    """A variant of an app.

    Attributes:
        app: the folder of the app.
        words: the program and its model.
        options: the options of the variant.
        images: the images to answer.
        samples: figure -> its value in each round.
        note: a remark for the table.
    """

    app: Path
    words: list[str]
    options: list[str]
    images: list[Path]
    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def add(self, figure: str, value: float) -> None:
        self.samples.setdefault(figure, []).append(value)

    def rounds(self) -> int:
        """The number of measured rounds."""
        return len(self.samples.get("cold", ()))

    def cell(self, figure: str) -> str:
        values = self.samples.get(figure)
        if not values:
            return ""
        return f"{statistics.median(values):.4g} ({min(values):.4g}–{max(values):.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("apps", type=Path, nargs="+", metavar="APP")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="a folder for each app, or one for all")
    parser.add_argument("--variants", default="", help="their names or precisions; default: those on the CPU")
    parser.add_argument("--gpu", action="store_true", help="the Vulkan variants, too")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folders = args.images if len(args.images) == len(args.apps) else args.images * len(args.apps)
    if len(folders) != len(args.apps):
        parser.error("--images must name a folder for each app, or one for all")
    wanted = set(filter(None, args.variants.split(",")))
    rows = [row for app, images in zip(args.apps, folders) for row in rows_of(app, images, wanted, args.gpu)]
    if not rows:
        parser.error("no app has such a variant")
    load = os.getloadavg()[0]
    with contextlib.suppress(KeyboardInterrupt):  # the finished rounds are shown
        for number in range(args.rounds + 1):
            for index, row in enumerate(rows):
                progress = f"\rround {number} of {args.rounds}, {index + 1} of {len(rows)}"
                print(progress, end="", file=sys.stderr, flush=True)
                measure(row)
                if not number:
                    row.samples.clear()  # the first round warms up
    print(file=sys.stderr)
    print(f"{max(map(Row.rounds, rows))} rounds, {os.cpu_count()} CPUs, load {load:.2f} before")
    if load > BUSY:
        print("note: other processes were running; do not trust these figures")
    shown = [figure for figure in COLUMNS if any(figure in row.samples for row in rows)]
    print("\n| app | " + " | ".join(COLUMNS[figure] for figure in shown) + " |")
    print("| --- |" + " --- |" * len(shown))
    for row in rows:
        print(f"| {row.name} | " + " | ".join(row.cell(figure) for figure in shown) + " |")
    for note in filter(None, dict.fromkeys(row.note for row in rows)):
        print(f"\n{note}")


def rows_of(app: Path, images: Path, wanted: set[str], gpu: bool) -> Iterator[Row]:
    """The variants of an app to measure."""
    in_python = (app / "infer.py").is_file()
    program = [sys.executable, str(app / "infer.py")] if in_python else [str(app / "build/native/infer")]
    files = sorted(path for path in images.rglob("*") if path.is_file())
    for line in (app / "models/variants.txt").read_text(encoding="utf-8").splitlines():
        name, precision, backend, model, *_ = line.split()
        if (wanted and not wanted & {name, precision}) or (backend == "vulkan" and not gpu):
            continue
        words = [*program, *(str(app / f"models/{model}{ending}") for ending in (".param", ".bin"))]
        options = [f"--precision={precision}", *(["--gpu"] if backend == "vulkan" else []), "--json"]
        yield Row(app, words, options, files, f"{app.name}, {'Python' if in_python else 'C++'}, {name}")


def measure(row: Row) -> None:
    """Measure one round."""
    with tempfile.TemporaryDirectory() as cache:
        forget(row.app)
        seconds, _ = started(row, cache, str(row.images[0]), "--loop=1")
        row.add("cold", seconds * 1000)
        seconds, _ = started(row, cache, str(row.images[0]), "--loop=1")
        row.add("warm", seconds * 1000)
        _, said = started(row, cache, str(row.images[0]), "--loop=50")
        row.add("load", said["load_ms"])
        row.add("first", said["latency_ms"]["first"])
        row.add("median", said["latency_ms"]["median"])
        row.add("memory", said["peak_memory_mb"])
        row.add("rate", rate(row, cache))
        if (row.app / "src/streams.cpp").is_file():
            _, said = started(row, cache, str(row.images[0].parent), "--streams")
            best = max(said["measured"], key=lambda each: float(each["images_per_s"]))
            row.add("streams", best["images_per_s"])
            row.note = f"With --streams, {row.name} was fastest as {best['split']}."
        if (row.app / "examples").is_dir():
            _, said = started(row, cache, "--self-test")
            value = next(each["value"] for each in said["figures"] if each["unit"] == "dB")
            row.add("sqnr", -1.0 if value is None else value)


def forget(app: Path) -> None:
    """Drop an app's files from the page cache."""
    for path in app.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # only pages that are on the disk can be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def started(row: Row, cache: str, *words: str) -> tuple[float, dict[str, Any]]:
    """The seconds of a process, and its last line of JSON. A self-test may fail."""
    start = time.perf_counter()
    done = subprocess.run(
        [*row.words, *words, *row.options], capture_output=True, text=True, env=environment(cache), check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 3):
        raise SystemExit(f"\n{row.name}: {done.stderr.strip()}")
    return seconds, dict(json.loads(done.stdout.splitlines()[-1]))


def rate(row: Row, cache: str) -> float:
    """Images per second of one stream over a folder, between the first answer and the last."""
    with tempfile.TemporaryDirectory() as folder:
        copies = -(-50 // len(row.images))  # 50 images or more, so that a second is long enough
        for number in range(copies):
            for index, path in enumerate(row.images):
                (Path(folder) / f"{number}-{index}{path.suffix}").symlink_to(path.resolve())
        line = [*row.words, folder, *row.options]
        times = []
        with subprocess.Popen(line, stdout=subprocess.PIPE, env=environment(cache)) as process:
            assert process.stdout is not None
            for _ in process.stdout:
                times.append(time.perf_counter())
        if process.returncode:
            raise SystemExit(f"\n{row.name}: cannot answer all of {row.images[0].parent}")
    return (len(times) - 1) / (times[-1] - times[0])


def environment(cache: str) -> dict[str, str]:
    """The environment with a separate folder for the caches of a GPU's pipelines, ncnnkit's and the drivers'."""
    names = ("XDG_CACHE_HOME", "__GL_SHADER_DISK_CACHE_PATH", "MESA_SHADER_CACHE_DIR")
    return {**os.environ, **dict.fromkeys(names, cache)}


if __name__ == "__main__":
    main()
