"""The samples on which the recommended variant differs most: both predictions drawn on what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..tasks.detection import Detection
from ..tasks.images import Images

if TYPE_CHECKING:
    from PIL import Image

MOST = 6
"""Samples that are drawn."""
SIDE = 360
"""The longest side of one picture, pixels."""
_GAP = 6
_QUALITY = 80
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#f032e6")


def draw_worst(
    task: Task,
    outputs: Outputs,
    reference: Outputs,
    samples: Samples,
    names: Sequence[str],
    preprocess: Preprocess | None,
    labels: Sequence[str],
    folder: Path,
) -> list[Picture]:
    """Write a picture for each of the worst samples: the original's prediction on the left, the model's on the right.

    Args:
        task: of the network; only boxes, maps of classes and images are drawn.
        outputs: of the model.
        reference: of the original.
        samples: the inputs.
        names: of the samples.
        preprocess: that made the inputs from images; None: they are no images, and nothing is drawn.
        labels: class names; empty where there are none.
        folder: gets the files.
    """
    if preprocess is None or preprocess.channels not in (1, 3):
        return []
    if not any(_is_image(each, preprocess) for each in samples[0]):
        return []
    found: list[tuple[float, int]] = []
    for number, (ours, theirs) in enumerate(zip(outputs, reference)):
        row = task.compare(*(task.predict(task.shaped(list(each))) for each in (ours, theirs)))
        severity = task.severity(row)
        if severity is None:
            return []
        found.append((severity, number))
    drawn: list[Picture] = []
    for severity, number in sorted(found, key=lambda pair: -pair[0])[:MOST]:
        # Of several inputs, the first that is an image is shown.
        seen = next(as_picture(each, preprocess) for each in samples[number] if _is_image(each, preprocess))
        sides = [
            draw(task, task.predict(task.shaped(list(each[number]))), seen, labels) for each in (reference, outputs)
        ]
        file = f"picture-{len(drawn) + 1}.jpg"
        beside(sides).save(folder / file, quality=_QUALITY)
        drawn.append(Picture(image=names[number], file=file, severity=severity))
    return drawn


def _is_image(sample: NDArray[np.float32], preprocess: Preprocess) -> bool:
    axes = image_axes(sample.shape)
    return axes is not None and axes.channels == preprocess.channels


def as_picture(sample: NDArray[np.float32], preprocess: Preprocess) -> Image.Image:
    """What a network sees: the inverse of the arithmetic of its preprocessing.

    Args:
        sample: an input, (channels, height, width) or (height, width, channels).
        preprocess: that made it.
    """
    from PIL import Image as Pillow

    pixels = np.moveaxis(sample, 0, -1) if sample.shape[0] == preprocess.channels else sample
    pixels = (pixels * np.array(preprocess.std) + np.array(preprocess.mean)) * preprocess.divisor
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if preprocess.channels == 1:
        return Pillow.fromarray(pixels[..., 0]).convert("RGB")
    return Pillow.fromarray(np.ascontiguousarray(pixels[..., ::-1] if preprocess.color == "bgr" else pixels))


def draw(task: Task, prediction: Any, seen: Image.Image, labels: Sequence[str]) -> Image.Image:
    """A prediction on what the network saw, at most :data:`SIDE` pixels high and wide."""
    from PIL import Image as Pillow

    if isinstance(task, Images):
        pixels = np.clip(np.nan_to_num((prediction - task.low) / (task.high - task.low)), 0, 1)
        pixels = np.rint(255 * np.atleast_3d(np.moveaxis(pixels, 0, -1))).astype(np.uint8)
        picture = Pillow.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).convert("RGB")
    elif isinstance(prediction, ClassMap) and prediction.classes.squeeze().ndim == 2:
        picture = _with_map(prediction.classes.squeeze(), seen)
    else:
        picture = seen.copy()
    scale = min(1.0, SIDE / max(picture.size)) if isinstance(task, Images) else SIDE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    if isinstance(prediction, Boxes) and isinstance(task, Detection):
        boxes = prediction.above(task.threshold)
        picture = _with_masks(picture, boxes)
        _add_boxes(picture, boxes, scale, labels)
    return picture


def _with_map(classes: NDArray[np.int64], seen: Image.Image) -> Image.Image:
    from PIL import Image as Pillow
    from PIL import ImageColor

    colours = np.array([(0, 0, 0), *map(ImageColor.getrgb, _COLOURS)], np.uint8)
    over = Pillow.fromarray(colours[np.where(classes > 0, (classes - 1) % len(_COLOURS) + 1, 0)])
    return Pillow.blend(seen, over.resize(seen.size, Pillow.Resampling.NEAREST), 0.5)


def _with_masks(picture: Image.Image, boxes: Boxes) -> Image.Image:
    """Each mask in the colour of its class; the best one on top."""
    from PIL import Image as Pillow
    from PIL import ImageColor

    for mask, label in zip([] if boxes.masks is None else boxes.masks[::-1], boxes.labels[::-1].tolist()):
        shade = Pillow.fromarray(mask.astype(np.uint8) * _SHADE).resize(picture.size)
        picture.paste(ImageColor.getrgb(_COLOURS[label % len(_COLOURS)]), mask=shade)
    return picture


_SHADE = 110  # of 255: how much a mask covers


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
        for x, y, *_ in boxes.keypoints[number].tolist() if boxes.keypoints is not None else []:
            canvas.ellipse((x * scale - 2, y * scale - 2, x * scale + 2, y * scale + 2), fill=colour)


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
