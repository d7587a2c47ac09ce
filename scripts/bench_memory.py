"""Peak memory of ``ncnnkit run`` against the number of images. It must not grow with their number.

Makes folders of random 32x32 PNG files and a small network, runs the main job on each, and watches the process and all
its descendants. Memory is the proportional set size (PSS), in which memory that two processes share counts once. A
process that was just started shares the memory of its parent until it runs its own program, and is not counted. Timings
do not matter here, so the figures hold on a busy machine, too.

    python scripts/bench_memory.py --counts 200,20000
    python scripts/bench_memory.py --counts 30,300 --network dense
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ncnnkit.model import ncnnfile

NETWORKS = {
    "classifier": """7767517
7 7
Input         in0 0 1 in0 0=32 1=32 2=3
Convolution   c1  1 1 in0 b1 0=16 1=3 3=2 4=1 5=1 6=432 9=1
Convolution   c2  1 1 b1 b2 0=32 1=3 3=2 4=1 5=1 6=4608 9=1
Convolution   c3  1 1 b2 b3 0=32 1=3 4=1 5=1 6=9216 9=1
Pooling       gap 1 1 b3 b4 0=1 4=1
InnerProduct  fc  1 1 b4 b5 0=10 1=1 2=320
Softmax       out 1 1 b5 out0
""",
    # Its output is 32x256x256: 8 MiB.
    "dense": """7767517
3 3
Input         in0 0 1 in0 0=32 1=32 2=3
Convolution   c1  1 1 in0 b1 0=32 1=3 4=1 5=1 6=864 9=1
Interp        up  1 1 b1 out0 0=1 1=8.0 2=8.0
""",
}
EVERY = 0.05  # seconds between two measurements


@dataclass
class Peak:
    """The peak memory of a run, MB."""

    together: float = 0.0
    parent: float = 0.0
    largest_child: float = 0.0


def write_network(folder: Path, network: str) -> Path:
    """A small network with random weights."""
    graph = ncnnfile.parse_param(network)
    rng = np.random.default_rng(0)
    for layer in graph.layers:
        for slot, shape in layer.slots():
            scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
            layer.weights[slot.name] = (rng.standard_normal(shape) * scale).astype(np.float32)
    ncnnfile.save(graph, folder / "small.param")
    return folder / "small.param"


def write_images(folder: Path, count: int) -> Path:
    """``count`` different PNG files."""
    folder.mkdir()

    def write(number: int) -> None:
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.png", compress_level=0)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    return folder


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def begun(pid: int, parent: int) -> bool:
    """Whether a child runs its own program. Between ``vfork`` and ``exec`` it shows its parent's memory."""
    return Path(f"/proc/{pid}/cmdline").read_bytes() != Path(f"/proc/{parent}/cmdline").read_bytes()


def pss_mb(pid: int, pages: str = "Pss") -> float:
    """The proportional set size of a process, MB. ``Pss_Anon`` leaves out the pages of files."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{pages}:")) / 1024


def watch(command: list[str]) -> Peak:
    """Run a command to its end. If it fails, this program ends, too."""
    peak = Peak()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            found: dict[int, float] = {}
            try:
                for pid in family(process.pid):
                    if pid == process.pid or begun(pid, process.pid):
                        found[pid] = pss_mb(pid)
            except OSError:  # a process has ended meanwhile
                pass
            peak.together = max(peak.together, sum(found.values()))
            peak.parent = max(peak.parent, found.pop(process.pid, 0.0))
            peak.largest_child = max(peak.largest_child, *found.values(), 0.0)
            time.sleep(EVERY)
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{said}")
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="200,20000")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--network", choices=NETWORKS, default="classifier")
    args = parser.parse_args()
    print(f"{'images':>8}{'fitted':>8}{'held':>6}{'judged':>8}{'together':>10}{'parent':>9}{'child':>8}  MB")
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        folder = Path(name)
        param = write_network(folder, NETWORKS[args.network])
        for count in map(int, args.counts.split(",")):
            images = write_images(folder / str(count), count)
            out = folder / f"out-{count}"
            peak = watch(
                [
                    sys.executable, "-m", "ncnnkit", "run", str(param), "--images", str(images), "--out", str(out),
                    "--backend", "cpu", "--precision", "fp32,int8", "--effort", args.effort, "--threads", "1",
                    "--mean", "0.5", "--std", "0.25", "--resize", "32,32",
                ]
            )  # fmt: skip
            used = json.loads((out / "run.json").read_text())["images"]
            print(
                f"{count:8}{used['fitted']:8}{used['held_back']:6}{used['evaluation']:8}"
                f"{peak.together:10.1f}{peak.parent:9.1f}{peak.largest_child:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
