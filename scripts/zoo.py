"""Make docs/zoo.md: which networks convert, by which route, and how exact they are at each precision.

Every network runs in a separate process, and its row is added to a file at once, so a run that was stopped continues
where it ended. Torch's networks have random weights, the same every time. A head of zeros gets noise, because an output
of zeros is not meaningful. The figure is the SQNR on noise as input. With random weights, int8 figures only show that
the model runs.

    python scripts/zoo.py --jobs 12                         # all missing networks, then docs/zoo.md
    python scripts/zoo.py --only torchvision:swin --again   # some, once more
    python scripts/zoo.py --packages FOLDER                 # ONNX files of unpacked packages, too
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ncnnkit.older import tomllib

ROOT = Path(__file__).parent.parent
GROUPS: dict[str, list[str]] = tomllib.loads((ROOT / "scripts" / "zoo.toml").read_text())
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ROUTES_OF_TORCH = ("classic", "dynamo", "torchscript")
EXACT_DB = 80.0
WITHIN = 6.0  # dB; two networks with similar rounding differ by less
LIMIT = 600  # largest number of seconds for a network


@dataclass
class Row:
    """One network by one route.

    Attributes:
        sqnr_db: the SQNR of the worst output, by precision; 999 if it is exact.
        original_db: the SQNR of the original against itself when the last bit of its inputs changes; None if it
            explains nothing.
        cause: why it did not convert, or "".
    """

    group: str
    network: str
    route: str
    sqnr_db: dict[str, float] = field(default_factory=dict)
    original_db: float | None = None
    layers: int = 0
    seconds: float = 0.0
    cause: str = ""


@dataclass(frozen=True)
class Task:
    """A row of the table to measure.

    Attributes:
        model: the model reference for ``ncnnkit convert``.
        shapes: the shapes of its inputs; empty to use those of the model.
    """

    group: str
    network: str
    route: str
    model: str
    shapes: tuple[tuple[int, ...], ...] = ()

    def row(self, **found: Any) -> Row:
        return Row(self.group, self.network, self.route, **found)


def convert(task: Task) -> Row:
    """Convert one network by one route, and run it at each precision."""
    import numpy as np

    from ncnnkit.errors import ConvertError
    from ncnnkit.passes import optimize
    from ncnnkit.quantization import quantize
    from ncnnkit.quantization.calibration import calibrate
    from ncnnkit.samples.stream import ArraySamples
    from ncnnkit.source import open_model
    from ncnnkit.source.conversion import convert_source
    from ncnnkit.source.model import example_arrays

    row, route = task.row(), task.route
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = "default" if Path(task.model).is_file() else "none"
        source = open_model(task.model, shapes=task.shapes, weights=weights, fix=FIXED.get(Path(task.model).name, {}))
        _fill_heads(source)
        if source.kind == "onnx" and route in ROUTES_OF_TORCH:  # exported when opened, because it must be cut
            if route != "classic":
                raise ConvertError("a network that must be cut goes through torch's classic export")
            route = "onnx"
        samples = ArraySamples(tuple(array[None] for array in example_arrays(source.inputs)))
        made = convert_source(source, samples, folder, route=route, force=True, threads=1)
        graph, row.original_db = made.graph, made.record().original_sqnr_db
        row.layers, row.seconds = len(graph.layers), round(time.perf_counter() - start, 1)
        better = optimize(graph)
        (sample,) = samples
        (exact,) = source.reference_outputs(samples)
        for precision in PRECISIONS:
            with contextlib.suppress(Exception):  # the row shows which precisions ran
                model = better
                if precision == "int8":
                    model = quantize(better, calibrate(better, samples))
                row.sqnr_db[precision] = _worst(model, precision, sample, [np.asarray(value) for value in exact])
    return row


def _worst(graph: Any, precision: str, sample: Any, exact: list[Any]) -> float:
    import numpy as np

    from ncnnkit.device.session import Session

    with Session(graph, precision=precision, threads=1) as net:
        made = net.blobs(*sample, names=net.outputs[: len(exact)])
    found = []
    for ours, theirs in zip(made, exact, strict=True):
        noise = float(((ours.reshape(-1).astype(np.float64) - theirs.reshape(-1)) ** 2).sum())
        signal = float((theirs.astype(np.float64) ** 2).sum())
        found.append(999.0 if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise)))
    return round(min(found), 1)


def _fill_heads(source: Any) -> None:
    """Give noise to weights that start as zeros."""
    module = getattr(source, "module", None)
    if module is None:
        return
    import torch

    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.02)
    module.train().eval()  # some networks keep values computed from the zeros until they are trained


def _child(queue: Any, cpu: int, task: Task) -> None:
    os.sched_setaffinity(0, {cpu})  # otherwise each network starts as many threads as there are CPUs
    silence = os.open(os.devnull, os.O_WRONLY)  # exporters print whole graphs
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        row = convert(task)
    except BaseException as error:
        said = " ".join(f"{type(error).__name__}: {error}".split()).replace(task.model, task.network)
        row = task.row(cause=said[:300])
    queue.put(json.dumps(asdict(row)))


def run_one(task: Task, cpu: int) -> Row:
    """Measure one row, in a separate process on one CPU."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue, cpu, task))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
        return task.row(cause=f"not finished after {LIMIT} s")
    if queue.empty():
        return task.row(cause=f"the process ended with status {process.exitcode}")
    return Row(**json.loads(queue.get()))


def tasks(packages: Path | None) -> Iterator[Task]:
    """All rows of the table."""
    for group, networks in GROUPS.items():
        for line in networks:
            network, *shapes = line.split()
            for route in ROUTES_OF_TORCH:
                sides = tuple(tuple(map(int, shape.split(","))) for shape in shapes)
                yield Task(group, network, route, network, sides)
    if packages is None:
        return
    for path in sorted(packages.rglob("*.onnx")):
        name = "/".join(dict.fromkeys(path.relative_to(packages).parts))
        yield Task("from packages", name, "onnx", str(path), PACKAGED.get(path.name, ()))


PACKAGED: dict[str, tuple[tuple[int, ...], ...]] = {
    "320n.onnx": ((3, 320, 320),),
    "ch_PP-OCRv4_det_infer.onnx": ((3, 640, 640),),
    "ch_PP-OCRv4_rec_infer.onnx": ((3, 48, 320),),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": ((3, 48, 192),),
    "pnet.onnx": ((40, 50, 3),),
    "rnet.onnx": ((24, 24, 3),),
    "onet.onnx": ((48, 48, 3),),
    "silero_vad.onnx": ((576,), (2, 1, 128)),
    "silero_vad_16k_op15.onnx": ((576,), (2, 1, 128)),
    "silero_vad_16k_sequence.onnx": ((576,), (1, 1, 128), (1, 1, 128)),
    "silero_vad_half.onnx": ((576,), (2, 1, 128)),
    "silero_vad_op18_ifless.onnx": ((576,), (2, 1, 128)),
    "Run_1663829550_Stage_0.onnx": ((3, 20, 160), (4, 1, 64)),
    "Run_1663915512_Stage_0.onnx": ((3, 20, 160), (4, 1, 64)),
    "Run_1668423760_Stage_0.onnx": ((3, 20, 160), (4, 1, 96)),
    "plcmos_v2.onnx": ((1, 40, 257), (64,)),
}
"""File name -> shapes of its inputs, for files that leave them open."""

FIXED = {name: {"sr": 16000} for name in ("silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx")}
"""Input that selects a branch -> its value."""


def page(rows: list[Row]) -> str:
    """The text of docs/zoo.md."""
    lines = [
        "# The zoo: what converts",
        "",
        "Made by `scripts/zoo.py` from `docs/zoo.jsonl`. SQNR in dB of the worst output, against the original, on "
        "noise as input. Torch's networks have random weights, so their int8 figures only show that the model runs, "
        "and *exact* may mean that the outputs hardly depend on the input. `nan` in bf16 comes from ncnn's grouped "
        "convolution on processors with AVX512-BF16.",
        "",
        f"A network is *right* if the best of its routes has at least {EXACT_DB:g} dB in fp32, or is as exact as "
        f"the original is to itself when the last bit of its inputs changes (within {WITHIN:g} dB). For a network that "
        "must be cut, the tensors at the cut are compared; in a two-stage detector, that is after the first stage.",
        "",
        "| networks | right | of | share |",
        "| --- | ---: | ---: | ---: |",
    ]
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.group, {}).setdefault(row.network, []).append(row)

    def right(network: list[Row]) -> bool:
        return any(
            row.sqnr_db.get("fp32", -1.0) >= min(EXACT_DB, (row.original_db or EXACT_DB) - WITHIN) for row in network
        )

    counts = {group: (sum(map(right, networks.values())), len(networks)) for group, networks in groups.items()}
    for group, (good, count) in [*counts.items(), ("all", tuple(map(sum, zip(*counts.values()))))]:
        lines.append(f"| {group} | {good} | {count} | {good / count:.0%} |")
    for group, networks in groups.items():
        lines += ["", f"## {group}", "", "| network | route | fp32 | fp16 | bf16 | int8 | layers | cause |"]
        lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for name, found in networks.items():
            for row in found:
                figures = " | ".join(_figure(row.sqnr_db.get(precision)) for precision in PRECISIONS)
                cause = re.sub(r"([*\[\]<`])", r"\\\1", row.cause.replace("|", "/"))  # the cause is text, not Markdown
                lines.append(f"| {name} | {row.route} | {figures} | {row.layers or ''} | {cause} |")
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else "exact" if value >= 900 else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--routes", default="", help="only these routes, separated by commas")
    parser.add_argument("--again", action="store_true", help="also networks with a row")
    parser.add_argument("--packages", type=Path, help="a folder with ONNX files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no network after so many seconds")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "zoo.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "zoo.md")
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results.is_file() else []
    rows = {(row.network, row.route): row for row in (Row(**json.loads(line)) for line in lines)}
    routes = given.routes.split(",") if given.routes else []
    todo = [
        task
        for task in tasks(given.packages)
        if given.only in task.network
        and (not routes or task.route in routes)
        and (given.again or (task.network, task.route) not in rows)
    ]
    end = time.monotonic() + given.seconds
    cpus = sorted(os.sched_getaffinity(0))
    free = [cpus[number % len(cpus)] for number in range(given.jobs)]

    def measured(task: Task) -> Row | None:
        if time.monotonic() > end:
            return None
        cpu = free.pop()
        try:
            return run_one(task, cpu)
        finally:
            free.append(cpu)

    with ThreadPoolExecutor(given.jobs) as pool:
        for number, row in enumerate(pool.map(measured, todo), 1):
            if row is None:
                continue
            rows[row.network, row.route] = row
            print(f"{number}/{len(todo)} {row.network} {row.route} {row.sqnr_db or row.cause[:90]}", file=sys.stderr)
            with given.results.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    given.page.write_text(page(list(rows.values())))


if __name__ == "__main__":
    main()
