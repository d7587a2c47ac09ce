"""Draws the samples on which a model differs most from the original, with both predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.outputs import Outputs
from ..record.run import Picture
from ..samples.axes import image_axes
from ..samples.preprocess import Preprocess
from ..samples.stream import Samples
from ..tasks import Boxes, ClassMap, Task
from ..tasks.classification import Classification, top_k
from ..tasks.detection import Detection
from ..tasks.images import Images
from ..tasks.landmarks import Landmarks
from ..tasks.text import Texts

if TYPE_CHECKING:
    from PIL import Image

MOST = 6
"""The number of samples that are drawn for a model."""
MODELS = 8
"""The number of models for which samples are drawn. It keeps the report small."""
SIDE = 360
"""The longest side of one picture, pixels."""
ENLARGED = 10
"""The factor that makes the difference of two images visible."""
_GAP = 6
_QUALITY = 80
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#f032e6")


def draw_worst(
    task: Task,
    measured: Mapping[str, Outputs],
    reference: Outputs,
    samples: Samples,
    names: Sequence[str],
    preprocess: Preprocess | None,
    labels: Sequence[str],
    folder: Path,
) -> list[Picture]:
    """Write a picture for each of the worst samples of some models; see :func:`panels`.

    Args:
        task: the task of the network. Classes, boxes, maps of classes, images, texts and points are shown.
        measured: the outputs of each model by name, the most interesting first. The first :data:`MODELS` are drawn.
        reference: the outputs of the original.
        samples: the samples.
        names: the names of the samples.
        preprocess: the preprocessing that made the inputs from images. None if the inputs are not images; nothing is
            drawn then.
        labels: class names; empty if there are none.
        folder: the folder for the files.
    """
    if preprocess is None or preprocess.channels not in (1, 3):
        return []
    drawn: list[Picture] = []
    for variant, outputs in list(measured.items())[:MODELS]:
        for severity, number in _worst(task, outputs, reference):
            ours, theirs = (task.predict(task.shaped(list(each[number]))) for each in (outputs, reference))
            # If there are several inputs, the first image is shown.
            seen = next((as_picture(each, preprocess) for each in samples[number] if _is_image(each, preprocess)), None)
            if seen is None:
                return []
            file = f"picture-{len(drawn) + 1}.jpg"
            made = panels(task, ours, theirs, seen, labels)
            beside(made).save(folder / file, quality=_QUALITY)
            texts = [_in_words(task, each, labels) for each in (theirs, ours)]
            drawn.append(
                Picture(
                    variant=variant, image=names[number], file=file, severity=severity,
                    original_text=texts[0], text=texts[1],
                )
            )  # fmt: skip
    return drawn


def _worst(task: Task, outputs: Outputs, reference: Outputs) -> list[tuple[float, int]]:
    """(severity, index of the sample) for the worst samples, the worst first; empty if they have no order.

    Of equally severe ones, those with more noise come first.
    """
    found: list[tuple[float, float, int]] = []
    for number, both in enumerate(zip(outputs, reference)):
        ours, theirs = (task.shaped(list(each)) for each in both)
        severity = task.severity(task.compare(task.predict(ours), task.predict(theirs)))
        if severity is None:
            return []
        found.append((severity, _noise(ours, theirs), number))
    found.sort(key=lambda row: (-row[0], -row[1]))
    return [(severity, number) for severity, _, number in found[:MOST]]


def _noise(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
    """The mean squared difference of the outputs; infinite if it is not a number."""
    found = float(
        np.mean(
            [
                np.mean(np.square(np.subtract(a, b, dtype=np.float64)))
                for a, b in zip(ours, theirs)
                if a.shape == b.shape
            ]
            or [0.0]
        )
    )
    return found if math.isfinite(found) else math.inf


def _in_words(task: Task, prediction: Any, labels: Sequence[str]) -> str:
    """The text that was read, or the three best classes with their scores; empty if the prediction is drawn."""
    if isinstance(task, Texts):
        return task.written(prediction)
    if isinstance(task, Classification):
        best = [
            (labels[index] if index < len(labels) else f"class {index}", prediction[index])
            for index in top_k(prediction, 3)
        ]
        return ", ".join(f"{name} ({score:.3g})" for name, score in best)
    return ""


def panels(task: Task, ours: Any, theirs: Any, seen: Image.Image, labels: Sequence[str]) -> list[Image.Image]:
    """Pictures of the original's and the model's prediction. Images: also their difference; if they are words, which
    stand below the picture: only the input.

    Args:
        task: the task of the network.
        ours, theirs: the predictions of the model and of the original.
        seen: the input of the network as an image.
        labels: class names; empty if there are none.
    """
    if isinstance(task, (Classification, Texts)):
        return [_sized(seen)[0]]
    both = [draw(task, each, seen, labels) for each in (theirs, ours)]
    if isinstance(task, Images) and np.shape(ours) == np.shape(theirs):
        difference = ENLARGED * np.abs(np.asarray(ours) - np.asarray(theirs))
        both.append(draw(task, task.low + np.minimum(difference, task.high - task.low), seen, labels))
    return both


def _is_image(sample: NDArray[np.float32], preprocess: Preprocess) -> bool:
    axes = image_axes(sample.shape)
    return axes is not None and axes.channels == preprocess.channels


def as_picture(sample: NDArray[np.float32], preprocess: Preprocess) -> Image.Image:
    """The input of a network as an image: the inverse of its normalisation.

    Args:
        sample: an input, (channels, height, width) or (height, width, channels).
        preprocess: the preprocessing that made it.
    """
    from PIL import Image as Pillow

    pixels = np.moveaxis(sample, 0, -1) if sample.shape[0] == preprocess.channels else sample
    pixels = (pixels * np.array(preprocess.std) + np.array(preprocess.mean)) * preprocess.divisor
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if preprocess.channels == 1:
        return Pillow.fromarray(pixels[..., 0]).convert("RGB")
    return Pillow.fromarray(np.ascontiguousarray(pixels[..., ::-1] if preprocess.color == "bgr" else pixels))


def draw(task: Task, prediction: Any, seen: Image.Image, labels: Sequence[str]) -> Image.Image:
    """A prediction drawn on the network's input, at most :data:`SIDE` pixels high and wide."""
    from PIL import Image as Pillow

    if isinstance(task, Images):
        pixels = np.clip(np.nan_to_num((prediction - task.low) / (task.high - task.low)), 0, 1)
        pixels = np.rint(255 * np.atleast_3d(np.moveaxis(pixels, 0, -1))).astype(np.uint8)
        picture = Pillow.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).convert("RGB")
        return _sized(picture, enlarge=False)[0]
    if isinstance(prediction, ClassMap) and prediction.classes.squeeze().ndim == 2:
        return _sized(_with_map(prediction.classes.squeeze(), seen))[0]
    picture, scale = _sized(seen)
    if isinstance(prediction, Boxes) and isinstance(task, Detection):
        boxes = prediction.above(task.threshold)
        picture = _with_masks(picture, boxes)
        _add_boxes(picture, boxes, scale, labels)
    if isinstance(task, Landmarks):
        parts = np.abs(prediction).max(initial=0) <= _LARGEST_PART
        _add_points(picture, prediction * (picture.size if parts else scale), _COLOURS[0])
    return picture


_LARGEST_PART = 2.0  # points with coordinates up to this are fractions of the image, not pixels


def _sized(picture: Image.Image, *, enlarge: bool = True) -> tuple[Image.Image, float]:
    """A picture at most :data:`SIDE` pixels high and wide, and the factor by which it was enlarged."""
    scale = SIDE / max(picture.size)
    scale = scale if enlarge else min(1.0, scale)
    return picture.resize([max(1, round(side * scale)) for side in picture.size]), scale


def _with_map(classes: NDArray[np.int64], seen: Image.Image) -> Image.Image:
    from PIL import Image as Pillow
    from PIL import ImageColor

    colours = np.array([(0, 0, 0), *map(ImageColor.getrgb, _COLOURS)], np.uint8)
    over = Pillow.fromarray(colours[np.where(classes > 0, (classes - 1) % len(_COLOURS) + 1, 0)])
    return Pillow.blend(seen, over.resize(seen.size, Pillow.Resampling.NEAREST), 0.5)


def _with_masks(picture: Image.Image, boxes: Boxes) -> Image.Image:
    """Draw each mask in the colour of its class, the one with the best score on top."""
    from PIL import Image as Pillow
    from PIL import ImageColor

    for mask, label in zip([] if boxes.masks is None else boxes.masks[::-1], boxes.labels[::-1].tolist()):
        shade = Pillow.fromarray(mask.astype(np.uint8) * _SHADE).resize(picture.size)
        picture.paste(ImageColor.getrgb(_COLOURS[label % len(_COLOURS)]), mask=shade)
    return picture


_SHADE = 110  # opacity of a mask, of 255


def _add_boxes(picture: Image.Image, boxes: Boxes, scale: float, labels: Sequence[str]) -> None:
    from PIL import ImageDraw

    canvas = ImageDraw.Draw(picture)
    for number, (box, score, label) in enumerate(zip(boxes.xyxy, boxes.scores, boxes.labels.tolist())):
        colour = _COLOURS[label % len(_COLOURS)]
        corners = [float(value) * scale for value in box]
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            canvas.rectangle(corners, outline=colour, width=2)
        name = labels[label] if 0 <= label < len(labels) else str(label)
        text = f"{name} {score:.2f}".encode("latin-1", "replace").decode("latin-1")
        left, top, right, bottom = canvas.textbbox((max(corners[0], 0) + 2, max(corners[1], 0) + 1), text)
        canvas.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
        canvas.text((left, top), text, fill="white", anchor="lt")
        if boxes.keypoints is not None:
            _add_points(picture, boxes.keypoints[number][:, :2] * scale, colour)


def _add_points(picture: Image.Image, points: NDArray[Any], colour: str) -> None:
    from PIL import ImageDraw

    canvas = ImageDraw.Draw(picture)
    for x, y in points[np.isfinite(points).all(1)].tolist():
        canvas.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, with a white gap."""
    from PIL import Image as Pillow

    width = sum(each.width for each in pictures) + _GAP * (len(pictures) - 1)
    whole = Pillow.new("RGB", (width, max(each.height for each in pictures)), "white")
    left = 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width + _GAP
    return whole
