"""Measure how long `ncnnkit run` takes for heavy networks, stage by stage, and how often each stage runs the network.

Every network runs in a separate process, and its result is added to a file at once, so a run that was stopped continues
with the next network. The inputs are noise, and all weights are random. Prints tables for docs/benchmarks.md. Needs
torch and torchvision.

    python scripts/heavy.py                               # all missing networks
    python scripts/heavy.py --only fcn --again            # one of them, once more
    python scripts/heavy.py --effort default --results default.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncnnkit.progress import Position

SAMPLES = 25  # number of samples of noise; every fifth evaluates
SHOWN = 0.5  # seconds; a shorter step has no row


@dataclass(frozen=True)
class Heavy:
    """A network.

    Attributes:
        model: the model reference for ``ncnnkit run``.
        shape: the shape of its input.
    """

    model: str
    shape: tuple[int, ...]

    @property
    def weights(self) -> str:
        return "none" if self.model.startswith("torchvision:") else "default"


NETWORKS = {
    "ConvNeXt-T": Heavy("torchvision:convnext_tiny", (3, 224, 224)),
    "r3d_18": Heavy("torchvision:r3d_18", (3, 16, 112, 112)),
    "U-Net": Heavy("heavy:unet", (3, 1080, 1920)),
    "FCN-ResNet50": Heavy("torchvision:fcn_resnet50", (3, 520, 520)),
}


@dataclass
class Step:
    """A step of a run.

    Attributes:
        inferences: the number of inferences of the network in that step that this process requested. The job that
            measures is a separate process, and its inferences are read from run.json.
    """

    name: str
    seconds: float = 0.0
    inferences: int = 0


@dataclass
class Result:
    """The result of a run.

    Attributes:
        seconds: the duration of the whole run.
        reduced: the warning that says what the effort reduced.
        error: why the run ended early, or "".
    """

    network: str
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)
    reduced: str = ""
    error: str = ""


def unet(widths: tuple[int, ...] = (16, 32, 64, 128)) -> Any:
    """A U-Net for images with sides that are multiples of eight."""
    import torch
    from torch import nn

    def block(read: int, made: int) -> nn.Sequential:
        convolutions = [(nn.Conv2d(i, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)) for i in (read, made)]
        return nn.Sequential(*(layer for pair in convolutions for layer in (*pair, nn.ReLU())))

    class UNet(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(block(read, made) for read, made in zip((3, *widths), widths))
            self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
            self.up = nn.ModuleList(block(2 * width, width) for width in widths[:-1])
            self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(widths[0], 2, 1)

        def forward(self, x: torch.Tensor) -> Any:
            kept = []
            for number, down in enumerate(self.down):
                x = down(self.pool(x) if number else x)
                kept.append(x)
            for grow, up, beside in reversed(list(zip(self.grow, self.up, kept))):
                x = up(torch.cat([beside, grow(x)], 1))
            return self.head(x)

    torch.manual_seed(0)
    return UNet().eval()


class Watch:
    """Times the steps of a run by its progress, and counts the inferences that they request from serving processes."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._start = time.perf_counter()

    def progress(self, position: Position, done: int, total: int) -> None:
        step = str(position)
        if self.steps and self.steps[-1].name == step:
            return
        self.end()
        print(f"  {step}", file=sys.stderr)
        self.steps.append(Step(step))

    def end(self) -> None:
        now = time.perf_counter()
        if self.steps:
            self.steps[-1].seconds = round(now - self._start, 1)
        self._start = now

    def counting(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def counted(child: Any, op: str, *rest: Any, **fields: Any) -> Any:
            answer, arrays = ask(child, op, *rest, **fields)
            made = {"run": 1, "tally": 1, "means": 2, "time": len(getattr(answer, "samples", ()))}.get(op, 0)
            self.steps[-1].inferences += made
            return answer, arrays

        return counted


def run_one(name: str, effort: str, path: str) -> None:
    """Run one network, and write its result to a file."""
    import numpy as np

    from ncnnkit.errors import NcnnkitError
    from ncnnkit.onboard.child import Child
    from ncnnkit.pipeline import run
    from ncnnkit.recipe import Recipe

    network, result, watch = NETWORKS[name], Result(name), Watch()
    Child.ask = watch.counting(Child.ask)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "noise.npy")
        np.save(samples, np.random.default_rng(0).standard_normal((SAMPLES, *network.shape), np.float32))
        recipe = Recipe(
            network.model, images=str(samples), shapes=(network.shape,), weights=network.weights, effort=effort
        )
        start = time.perf_counter()
        try:
            document = run(recipe, Path(folder, "out"), watch.progress)
        except NcnnkitError as error:
            result.error = error.line()
        else:
            result.reduced = next((said for said in document.warnings if "multiply-adds" in said), "")
            measured = [step for step in watch.steps if step.name == "measure"]
            for step in measured[-1:]:
                step.inferences = sum(
                    (variant.accuracy.images if variant.accuracy else 0) + variant.latency_ms.samples
                    for variant in document.variants
                    if variant.latency_ms
                )
        watch.end()
        result.seconds, result.steps = round(time.perf_counter() - start, 1), watch.steps
    Path(path).write_text(json.dumps(asdict(result)))


def page(results: list[Result]) -> str:
    """A table of the stages of all networks, followed by the steps of each network."""
    stages: dict[str, defaultdict[str, float]] = {}
    for result in results:
        for step in result.steps:
            stages.setdefault(step.name.partition(":")[0], defaultdict(float))[result.network] += step.seconds
    names = [result.network for result in results]
    lines = [f"| stage, seconds | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for stage, seconds in stages.items():
        if max(seconds.values()) >= SHOWN:
            lines.append(f"| {stage} | {' | '.join(f'{seconds[name]:.1f}' for name in names)} |")
    lines.append(f"| **all** | {' | '.join(f'**{result.seconds:.0f}**' for result in results)} |")
    for result in results:
        lines += ["", f"{result.network}: {result.error or result.reduced or 'nothing was reduced'}", ""]
        lines += ["| step | seconds | inferences |", "| --- | --- | --- |"]
        shown = [step for step in result.steps if step.seconds >= SHOWN]
        lines += [f"| {step.name} | {step.seconds:.1f} | {step.inferences or ''} |" for step in shown]
    return "\n".join(lines)


def _read(line: str) -> Result:
    values = json.loads(line)
    return Result(**{**values, "steps": [Step(**step) for step in values["steps"]]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--again", action="store_true", help="also networks with a result")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--results", type=Path, default=Path("heavy.jsonl"))
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results.is_file() else []
    results = {result.network: result for result in map(_read, lines)}
    for name in NETWORKS:
        if given.only.lower() not in name.lower() or (name in results and not given.again):
            continue
        print(name, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "result.json")
            process = multiprocessing.get_context("spawn").Process(target=run_one, args=(name, given.effort, str(path)))
            process.start()
            process.join()
            if not path.is_file():
                print(f"{name}: the process ended with status {process.exitcode}", file=sys.stderr)
                continue
            text = path.read_text()
        results[name] = _read(text)
        with given.results.open("a") as file:
            file.write(text + "\n")
    print(page([results[name] for name in NETWORKS if name in results]))


if __name__ == "__main__":
    main()
