"""The examples that an app is tested with: inputs, what the original makes of them, and how near a model must come."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..artifact import Artifact
from ..comparison.outputs import keep_outputs
from ..device.session import Session
from ..errors import ImageError
from ..measure.examples import choose_examples
from ..model.precision import PRECISIONS
from ..onboard.scratch import Scratch
from ..record.examples import MOST, Example, Examples, checked
from ..samples.finding import open_images
from ..samples.items import InputSpec
from ..tasks.classification import Classification
from ..tasks.embedding import Embedding
from ..tasks.predictions import Boxes, Landmarks, Text
from .models import Shipped
from .purpose import Purpose

FOLDER = "examples"
"""Where they are in an app: N.txt, and the file that it names."""
MARGIN_DB = 3.0
"""How much noisier than measured a model may be: other kernels for the same precision round otherwise."""
ENOUGH_DB = 60.0
"""More is asked of no model: fp32 differs more from one processor to another."""


def examples_of_images(model: Artifact, images: str | Path) -> Examples:
    """Examples of images, with what the model itself makes of them on this machine.

    Raises:
        ImageError: there is no usable image.
        RuntimeFailure: ncnn cannot run the model here.
    """
    specs = [InputSpec(tensor.name, tensor.shape) for tensor in model.inputs]
    found = open_images(images, model.preprocess, specs)
    chosen = found.subset(range(0, len(found), max(1, len(found) // MOST)))
    if not len(chosen):
        raise ImageError("contains no usable image", where=str(images))
    names = model.graph.outputs[: len(model.outputs)]
    with Scratch() as work, Session(model) as net:
        outputs = keep_outputs(names, (net.blobs(*sample, names=names) for sample in chosen), Path(work))
        return choose_examples(chosen, outputs, {})


def bounds(row: Shipped, examples: Examples) -> tuple[float, float]:
    """The least SQNR of a variant's outputs in dB, and the least agreement of its answers, from 0 to 1.

    The SQNR is what was measured on these examples, less :data:`MARGIN_DB`; what its precision must have where nothing
    was measured. Few examples say little of agreement, so it only has to be that of a working decoder.
    """
    precision = PRECISIONS[row.model.precision]
    measured = (examples.sqnr_db or {}).get(row.variant or row.name)
    if measured is None and row.model.precision == "fp32":
        measured = math.inf  # the examples are its own outputs, or the original's
    least = precision.least_sqnr_db if measured is None else min(measured - MARGIN_DB, ENOUGH_DB)
    return least, 0.5 if precision.int8 else 0.9


def write_examples(examples: Examples, model: Artifact, purpose: Purpose, folder: Path) -> None:
    """Write the examples of an app: a text for each, and its input beside it.

    A line of a text is a word and what it is about: ``file`` the input's, ``output`` the compared values of an output
    (:func:`~ncnnkit.record.examples.checked`), and what the original found: ``score``, ``box``, ``points`` or
    ``embedding``, as ``src/selftest.cpp`` reads it.
    """
    if not examples.rows:
        return
    folder.mkdir()
    for number, example in enumerate(examples.rows, 1):
        file = f"{number}{example.ending}"
        (folder / file).write_bytes(example.content)
        lines = [f"file {file}"]
        lines += [f"output {words(checked(output))}" for output in example.outputs]
        lines += answer(example, model, purpose)
        (folder / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def words(values: object) -> str:
    """Numbers with the digits of a float32."""
    return " ".join(f"{value:.9g}" for value in np.asarray(values, np.float64).reshape(-1).tolist())


def answer(example: Example, model: Artifact, purpose: Purpose) -> Iterator[str]:
    """What the original found, a line each. Nothing for a task whose answer is an image: its outputs count alone."""
    task = model.purpose or (Classification() if purpose.kind == "classification" else None)
    if task is None:
        return
    found = task.predict(task.shaped(list(example.outputs)))
    if isinstance(task, Classification):
        best = int(np.argmax(found))
        yield f"score {best} {words(found[best])}"
    elif isinstance(task, Embedding):
        yield f"embedding {words(found / (np.linalg.norm(found) or 1.0))}"
    elif isinstance(found, Boxes):
        for i in range(len(found)):
            corners = _in_image(found.xyxy[i].reshape(2, 2), example)
            points = "" if found.keypoints is None else " " + _points(found.keypoints[i], example)
            yield f"box {int(found.labels[i])} {words(found.scores[i])} {words(corners)}{points}"
    elif isinstance(found, Text):
        for code in found.codes.tolist():
            yield f"score {code} 1"
    elif isinstance(found, Landmarks):
        yield f"points {_points(found.points, example)}"


def _in_image(points: object, example: Example) -> object:
    return example.placement.to_image(points) if example.placement else points


def _points(points: np.ndarray[tuple[int, ...], np.dtype[np.float32]], example: Example) -> str:
    places = np.asarray(_in_image(points[:, :2], example))
    seen = points[:, 2] if points.shape[1] > 2 else np.ones(len(points))
    return words(np.column_stack([places, seen]))
