#!/usr/bin/env python3
"""Print how many lines of C++ an app has, by task and by purpose.

    scripts/app_lines.py [--files detection]

Each app takes images and has examples, like the app of a run, and has no optional parts. With --files: the lines of
each file of one task's app.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ncnnkit.app import values_of
from ncnnkit.app.facts import facts_of
from ncnnkit.app.models import Shipment, shipment
from ncnnkit.app.parts import parts_of
from ncnnkit.app.writing import write_project
from ncnnkit.artifact import Artifact, Tensor
from ncnnkit.model import ncnnfile
from ncnnkit.onboard.picture import Fit
from ncnnkit.record.examples import Example, Examples
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.tasks import Decoder, Table, presets

APP = Path(__file__).parents[1] / "src/ncnnkit/app"
SQUARE, LETTERBOX = Preprocess(resize=(224, 224)), Preprocess(Fit("letterbox", (640, 640), fill=(114,)))
YOLO = presets.ultralytics(80)
TASKS: dict[str, tuple[str, Decoder | None, tuple[int, ...], Preprocess]] = {
    "detection": ("detection", YOLO, (84, 8400), LETTERBOX),
    "pose": ("pose", presets.ultralytics(1, (17, 3)), (56, 8400), LETTERBOX),
    "instances": ("instances", presets.with_masks(YOLO, 32), (116, 8400), LETTERBOX),
    "segmentation": ("segmentation", None, (21, 224, 224), SQUARE),
    "classification": ("classification", None, (1000,), Preprocess(256, crop=(224, 224))),
    "landmarks": ("landmarks", None, (136,), SQUARE),
    "image": ("image", None, (3, 448, 448), Preprocess()),
    "text": ("text", Decoder("ctc", (Table(0),), 97), (40, 97), Preprocess(Fit("right", (48, 320)))),
    "embedding": ("embedding", None, (512,), SQUARE),
    "tensor": ("", None, (3, 4, 5), SQUARE),
}
"""Name -> task, decoder, shape of the output, preprocessing."""
PURPOSES = {
    "decoding and drawing": ("task", "decoder", "draw"),
    "preparing images": ("preprocess", "resize", "placing"),
    "image files": ("image", "formats", "jpeg", "png", "pnm"),
    "loading and running with ncnn": ("engine", "captured", "model", "predictor", "tensor"),
    "checking files": ("model_files", "layers", "files"),
    "self-test": ("selftest",),
    "command line, many inputs, printing": ("main", "options", "frames", "report", "json", "failure"),
}
"""Purpose of lines -> names of files."""


def app_of(name: str) -> Shipment:
    """The shipment of a network of a task. The network is a stand-in, because an app only depends on its card."""
    task, decoder, shape, how = TASKS[name]
    count = 2 if decoder and decoder.prototypes else 1
    outputs = "".join(f"ReLU r{i} 1 1 s{i} out{i}\n" for i in range(count))
    split = f"Split s 1 {count} in0 {' '.join(f's{i}' for i in range(count))}\n"
    text = f"7767517\n{count + 2} {2 * count + 1}\nInput in0 0 1 in0 0=224 1=224 2=3\n{split}{outputs}"
    made = Artifact.made(ncnnfile.parse_param(text), "fp32", preprocess=how, decoder=decoder, task=task)
    shapes = [shape, (32, 160, 160)][:count]
    shipped = shipment(replace(made, outputs=tuple(Tensor(f"out{i}", each) for i, each in enumerate(shapes))))
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "png")
    values = tuple(np.zeros(each, np.float32) for each in shapes)
    return replace(shipped, examples=Examples((Example(((".png", png.getvalue()),), values, None),), None))


def files_of(name: str) -> dict[str, list[str]]:
    """File of src/ of a task's app -> its lines."""
    shipped = app_of(name)
    facts = facts_of(shipped)
    values = values_of(facts, parts_of(shipped, facts, False, ()))
    with tempfile.TemporaryDirectory() as folder:
        for source in (APP / "cpp", APP / "cpp_tasks" / facts.task.kind):
            write_project(source, Path(folder), values)
        return {path.name: path.read_text().splitlines() for path in sorted(Path(folder, "src").iterdir())}


def is_code(line: str) -> bool:
    """Whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("//")


def table() -> str:
    """The lines of all tasks' apps, as a table in Markdown."""
    head = ["task", *PURPOSES, "all", "without blank lines and comments"]
    rows = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for name in TASKS:
        files = files_of(name)
        own = [sum(len(files[file]) for file in files if Path(file).stem in names) for names in PURPOSES.values()]
        every = [line for lines in files.values() for line in lines]
        assert sum(own) == len(every), "each file is for something"
        rows.append(f"| `{name}` | {' | '.join(map(str, own))} | {len(every)} | {sum(map(is_code, every))} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", metavar="TASK", choices=TASKS)
    only = parser.parse_args().files
    if only is None:
        print(table())
        return
    for name, lines in sorted(files_of(only).items(), key=lambda row: -len(row[1])):
        print(f"{len(lines):5} {sum(map(is_code, lines)):5}  {name}")


if __name__ == "__main__":
    main()
