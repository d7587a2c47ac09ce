"""The examples of an app's self-test: inputs, the outputs of the original, and the bounds of the figures."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Artifact
from ..comparison.outputs import keep_outputs
from ..device.session import Session
from ..errors import ImageError
from ..measure.examples import choose_examples
from ..model.precision import PRECISIONS
from ..onboard.picture import Placement, Tiles
from ..onboard.scratch import Scratch
from ..record.examples import MOST, Example, Examples, checked
from ..samples.finding import open_images
from ..samples.items import InputSpec
from .facts import Facts
from .models import Shipped
from .python_tasks.common import Tile

FOLDER = "examples"
"""The folder of the examples in an app: files N.txt, and the input files that they name."""
MARGIN_DB = 3.0
"""The bound is so many dB below the measured SQNR, because other kernels for the same precision round differently."""
ENOUGH_DB = 60.0
"""The highest bound. Above it, the differences between processors in fp32 would count."""


def examples_of_images(model: Artifact, images: str | Path) -> Examples:
    """Make examples of images. Their outputs are those of the model itself on this machine.

    Args:
        model: the model.
        images: a folder or a file.

    Raises:
        ImageError: there is no usable image.
        RuntimeFailure: ncnn cannot run the model here.
    """
    names = model.fed or tuple(tensor.name for tensor in model.inputs)
    specs = [InputSpec(name, tensor.shape) for name, tensor in zip(names, model.inputs)]
    found = open_images(images, model.preprocess, specs)
    chosen = found.subset(range(0, len(found), max(1, len(found) // MOST)))
    if not len(chosen):
        raise ImageError("contains no usable image", where=str(images))
    blobs = model.graph.outputs[: len(model.outputs)]
    with Scratch() as work, Session(model) as net:
        outputs = keep_outputs(blobs, (net.blobs(*sample, names=blobs) for sample in chosen), Path(work))
        return choose_examples(chosen, outputs, {})


def bounds(row: Shipped, examples: Examples) -> tuple[float, float]:
    """The least SQNR of a variant's outputs in dB, and the least agreement of its answers, from 0 to 1.

    The least SQNR is :data:`MARGIN_DB` below the SQNR that was measured on these examples. If nothing was measured, it
    is the least SQNR of the precision. The least agreement only shows that the decoder works: there are too few
    examples to test more.
    """
    precision = PRECISIONS[row.model.precision]
    measured = (examples.sqnr_db or {}).get(row.variant or row.name)
    if measured is None and row.model.precision == "fp32":
        measured = math.inf  # the examples are its own outputs, or the original's
    least = precision.least_sqnr_db if measured is None else min(measured - MARGIN_DB, ENOUGH_DB)
    return least, 0.5 if precision.int8 else 0.9


def write_examples(examples: Examples, facts: Facts, folder: Path) -> None:
    """Write the examples of an app: a text file for each, and its input files.

    Each line of a text file begins with a word. ``file`` is followed by the name of an input file, ``output`` by the
    compared values of an output (:func:`~ncnnkit.record.examples.checked`). The other lines are the prediction of the
    original: ``score``, ``box``, ``points`` and ``embedding`` with numbers, ``picture`` with the name of an image file,
    or ``nothing``. ``src/selftest.cpp`` reads them.
    """
    if not examples.rows:
        return
    folder.mkdir()
    for number, example in enumerate(examples.rows, 1):
        lines = []
        for index, (ending, content) in enumerate(example.files):
            file = f"{number}{f'-{index}' if index else ''}{ending}"
            (folder / file).write_bytes(content)
            lines.append(f"file {file}")
        lines += [f"output {words(checked(output))}" for output in example.outputs]
        if is_whole(example, facts):
            lines += answer(example, facts, folder / f"{number}-answer.png")
        (folder / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def is_whole(example: Example, facts: Facts) -> bool:
    """Whether the outputs belong to the whole image. If not, they belong to its first tile, and there is no answer."""
    how, place = facts.inputs[facts.main].preprocess, example.placement
    if how is None or place is None or not isinstance(how.crop, Tiles):
        return True
    return all(side <= size for side, size in zip(place.resized, place.input))


def words(values: object) -> str:
    """Numbers as text, with all digits of a float32."""
    return " ".join(f"{value:.9g}" for value in np.asarray(values, np.float64).reshape(-1).tolist())


def answer(example: Example, facts: Facts, picture: Path) -> Iterator[str]:
    """Lines with the prediction of the original, decoded by the code of the Python app. An image is written as file."""
    module = importlib.import_module(f".python_tasks.{facts.task.kind}", __package__)
    found = module.answer([Tile(list(example.outputs), example.placement or whole(facts))], as_read(facts))
    said = module.describe(found, (), 1)
    for row in said.get("top", ()):
        yield f"score {row['index']} {words(row['score'])}"
    for row in said.get("boxes", ()):
        numbers = [row["score"], row["x1"], row["y1"], row["x2"], row["y2"], *sum(row.get("keypoints", []), ())]
        yield f"box {row['index']} {words(numbers)}"
    for code in said.get("codes", ()):
        yield f"score {code} 1"
    if not said.get("boxes", True) or not said.get("codes", True):
        yield "nothing"
    if points := said.get("points"):
        yield f"points {words(points)}"
    if vector := said.get("embedding"):
        yield f"embedding {words(vector)}"
    pixels = module.picture(found)
    if pixels is not None:
        from PIL import Image

        Image.fromarray(pixels).save(picture)
        yield f"picture {picture.name}"


def as_read(facts: Facts) -> dict[str, Any]:
    """The facts as the Python app reads them."""
    return dict(json.loads(json.dumps(asdict(facts))))


def whole(facts: Facts) -> Placement:
    """The placement of an array, which fills the whole input."""
    main = facts.inputs[facts.main]
    shape = main.shape
    last = main.preprocess is not None and main.preprocess.layout == "hwc"
    height, width = (shape[:2] if last else shape[-2:]) if len(shape) > 1 else (1, *shape)
    return Placement((height, width), (height, width), 0, 0, (height, width))
