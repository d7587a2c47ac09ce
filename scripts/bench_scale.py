"""How calibration and evaluation scale: with workers, with the number of images, and what takes the time.

The network is EfficientNet-Lite0, which comes with ncnnkit. The images are synthetic JPEG files of 500x375, drawn once
and read again and again, so that any number of images needs no disk. Only the memory is measured with a small network
and inputs that are drawn when they are read. Every mode prints a table for docs/benchmarks.md.

    python scripts/bench_scale.py workers --workers 1,2 --images 256      # images per second; results must be bit-equal
    python scripts/bench_scale.py workers --scheduler local               # the same with Dask's workers
    python scripts/bench_scale.py memory --counts 1000,100000             # peak memory of the parent and of a child
    python scripts/bench_scale.py profile                                 # what the processors and the processes do
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from bench_memory import NETWORKS, watch, write_network

import ncnnkit as nk
from ncnnkit.artifact import Artifact
from ncnnkit.batches import Workers, open_workers
from ncnnkit.comparison.accuracy import Errors
from ncnnkit.comparison.evaluation import differences_over
from ncnnkit.device.serving import CheckedChild
from ncnnkit.onboard.process import available_cores
from ncnnkit.quantization.calibration import ActivationStats, observe
from ncnnkit.samples.images import ImageSet
from ncnnkit.samples.stream import Sample, Samples

FILES = 32  # different images
SIDE = 32  # of the small inputs
MODEL = Path(nk.__file__).parent / "data" / "efficientnet-lite0.onnx"


@dataclass(frozen=True)
class Repeated:
    """Any number of samples: those of a set, again and again."""

    once: ImageSet
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        return self.once[self.chosen[index] % len(self.once)]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> Repeated:
        return replace(self, chosen=[self.chosen[index] for index in indices])


@dataclass(frozen=True)
class Drawn:
    """Samples of noise, each drawn when it is read."""

    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(self.chosen[index])
        return (rng.standard_normal((3, SIDE, SIDE), np.float32),)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> Drawn:
        return Drawn([self.chosen[index] for index in indices])


def write_jpegs(folder: Path) -> None:
    """Smooth noise, which is as large and as slow to decode as a photograph."""
    rng = np.random.default_rng(0)
    for number in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(fine + rng.normal(0, 8, fine.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=90)


@dataclass(frozen=True)
class Setting:
    """What is run: a network, the same in int8, and images."""

    exact: Artifact
    int8: Artifact
    images: ImageSet

    @classmethod
    def made(cls, folder: Path) -> Setting:
        write_jpegs(folder)
        exact = nk.optimize(nk.convert(MODEL))
        specs = [nk.InputSpec(exact.inputs[0].name, exact.inputs[0].shape)]
        preprocess = nk.Preprocess(resize=(224, 224), mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502))
        images = nk.open_images(folder, preprocess, specs)
        int8 = nk.quantize(exact, nk.calibrate(exact, images), target="x86")
        return cls(exact, int8, images)

    def samples(self, count: int) -> Samples:
        return Repeated(self.images, range(count))


def calibrate(setting: Setting, samples: Samples, workers: Workers) -> str:
    return digest_of_stats(observe(setting.exact.graph, samples, workers=workers).whole)


def evaluate(setting: Setting, samples: Samples, workers: Workers) -> str:
    errors, _ = differences_over(setting.exact, setting.int8, samples, workers)
    return digest_of_errors(errors)


WORK: dict[str, Callable[[Setting, Samples, Workers], str]] = {"calibrate": calibrate, "evaluate": evaluate}


def digest_of_stats(stats: ActivationStats) -> str:
    found = hashlib.sha256()
    for name, blob in stats.blobs.items():
        found.update(repr((name, blob.width, blob.absmax, blob.count)).encode() + blob.histogram.tobytes())
    return found.hexdigest()


def digest_of_errors(errors: Errors) -> str:
    rows = errors.samples, errors.relative, errors.mse, errors.figures(), errors.noise, errors.signal
    return hashlib.sha256(repr(rows).encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------- the modes


def workers_table(counts: list[int], images: int, rounds: int, scheduler: str) -> None:
    """Images per second with each number of workers, in interleaved rounds; the best round counts."""
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name, ExitStack() as stack:
        setting = Setting.made(Path(name))
        samples = setting.samples(images)
        opened = {count: stack.enter_context(open_workers(scheduler, count)) for count in counts}
        best: dict[tuple[str, int], float] = {}
        results: dict[str, set[str]] = {}
        for number in range(rounds + 1):  # the first one starts the processes
            for work, function in WORK.items():
                for count, workers in opened.items():
                    start = time.perf_counter()
                    results.setdefault(work, set()).add(function(setting, samples, workers))
                    seconds = time.perf_counter() - start
                    if number:
                        best[work, count] = min(best.get((work, count), seconds), seconds)
        print(f"| work | workers | images/s | speed-up | efficiency |\n{'| --- ' * 5}|")
        for (work, count), seconds in best.items():
            ratio = best[work, counts[0]] / seconds * counts[0]
            print(f"| {work} | {count} | {images / seconds:.1f} | {ratio:.2f} | {100 * ratio / count:.0f} % |")
        different = [work for work, found in results.items() if len(found) > 1]
        sys.exit(f"results differ: {different}" if different else 0)


def memory_table(counts: list[int]) -> None:
    """Peak memory with each number of samples."""
    print(f"| work | samples | seconds | all processes | the main process | the largest child |\n{'| --- ' * 6}|")
    for work in WORK:
        for count in counts:
            start = time.perf_counter()
            peak = watch([sys.executable, __file__, "inside", "--work", work, "--images", str(count)])
            seconds = time.perf_counter() - start
            shown = f"{peak.together:.1f} | {peak.parent:.1f} | {peak.largest_child:.1f}"
            print(f"| {work} | {count:,} | {seconds:.0f} | {shown} |", flush=True)


def inside(work: str, images: int) -> None:
    """The process whose memory is measured."""
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name, open_workers() as workers:
        exact = Artifact.load(write_network(Path(name), NETWORKS["classifier"]))
        setting = Setting(exact, exact, ImageSet((), ()))
        WORK[work](setting, Drawn(range(images)), workers)


def profile_table(images: int, count: int) -> None:
    """What an image costs: the network, and the main process, which reads, sends and compares.

    The times of the processor hold on a busy machine. The time in the network does not: it is that of a clock.
    """
    asked: dict[str, list[float]] = {}
    honest = CheckedChild.ask

    def timed(self: CheckedChild, op: str, *rest: Any, **fields: Any) -> Any:
        start = time.perf_counter()
        answer = honest(self, op, *rest, **fields)
        asked.setdefault(op, []).append(time.perf_counter() - start)
        if op == "run":
            asked.setdefault("network", []).append(answer[0].ms / 1000)
        return answer

    CheckedChild.ask = timed  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        setting = Setting.made(Path(name))
        samples = setting.samples(images)
        start = time.process_time()
        for _ in samples:
            pass
        reading = (time.process_time() - start) / images * 1000
        print("| work | processes busy | network, ms | reading, ms | other work of the main process, ms |")
        print("| --- " * 5 + "|")
        for work, function in WORK.items():
            asked.clear()
            own, start = time.process_time(), time.perf_counter()
            with open_workers(count=count) as workers:
                function(setting, samples, workers)
                seconds = time.perf_counter() - start
            own = (time.process_time() - own) / images * 1000
            busy = sum(sum(times) for op, times in asked.items() if op != "network")
            network = sum(asked.get("network", asked.get("tally", []))) / images * 1000
            print(f"| {work} | {100 * busy / (seconds * count):.0f} % | {network:.1f} | {reading:.1f} "
                  f"| {own - reading:.1f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("workers", "memory", "profile", "inside"))
    parser.add_argument("--workers", default=",".join(map(str, range(1, available_cores() + 1))))
    parser.add_argument("--scheduler", default="")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", default="1000,100000")
    parser.add_argument("--work", choices=WORK, default="calibrate")
    args = parser.parse_args()
    counts = [int(count) for count in args.workers.split(",")]
    if args.mode == "workers":
        workers_table(counts, args.images, args.rounds, args.scheduler)
    elif args.mode == "memory":
        memory_table([int(count) for count in args.counts.split(",")])
    elif args.mode == "profile":
        profile_table(args.images, counts[-1])
    else:
        inside(args.work, args.images)


if __name__ == "__main__":
    main()
