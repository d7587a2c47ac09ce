"""The worst samples, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ncnnkit.comparison.outputs import Outputs, keep_outputs
from ncnnkit.report.pictures import as_picture, draw_worst
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.tasks import Decoder, Table, Task
from ncnnkit.tasks.detection import Detection
from ncnnkit.tasks.images import Images
from ncnnkit.tasks.segmentation import Segmentation
from ncnnkit.tasks.tensor import Tensors

Image = pytest.importorskip("PIL.Image")

HOW = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def test_the_inverse_of_the_preprocessing_is_the_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    for color in ("rgb", "bgr"):
        how = Preprocess(mean=HOW.mean, std=HOW.std, color=color)
        assert np.array_equal(np.asarray(as_picture(how.apply(Image.fromarray(pixels)), how)), pixels)
    gray = Preprocess(mean=(0.5,), std=(0.5,), color="gray")
    assert as_picture(np.zeros((1, 4, 5), np.float32), gray).size == (5, 4)


def drawn(task: Task, ours: list[np.ndarray], theirs: list[np.ndarray], folder: Path) -> list[tuple[str, float]]:
    folder.mkdir()
    samples = ArraySamples((np.zeros((len(ours), 3, 40, 60), np.float32),))
    both: list[Outputs] = [
        keep_outputs(["y"], ([row] for row in rows), folder / f"kept{i}") for i, rows in enumerate((ours, theirs))
    ]
    found = draw_worst(task, both[0], both[1], samples, NAMES, HOW, ["cat", "dög \u4e2d"], folder)
    for picture in found:
        assert Image.open(folder / picture.file).format == "JPEG"
    return [(picture.image, picture.severity) for picture in found]


def test_boxes_the_worst_image_first(tmp_path: Path) -> None:
    decoder = Decoder("boxes", (Table(0, ("boxes", "scores")),), 2, boxes="xyxy", score_threshold=0.3)
    exact = np.array([[5, 5, 30, 30, 0.9, 0.1], [-4, 10, 70, 35, 0.1, 0.8]], np.float32)
    lost, gone = exact.copy(), exact.copy()
    lost[1, 5], gone[:, 4:] = 0.1, 0
    found = drawn(Detection(decoder=decoder), [exact, gone, lost], [exact] * 3, tmp_path / "out")
    assert found == [("b.jpg", 2.0), ("c.jpg", 1.0), ("a.jpg", 0.0)]


def test_maps_and_images(tmp_path: Path) -> None:
    maps = np.zeros((3, 1, 20, 30), np.float32)
    maps[:, :, :10] = 1
    ours = maps.copy()
    ours[1] = 0
    assert drawn(Segmentation(axis=-1), list(ours), list(maps), tmp_path / "maps")[0] == ("b.jpg", 0.5)
    images = np.full((3, 3, 80, 120), 0.5, np.float32)
    ours = images.copy()
    ours[2] += 0.1
    (name, severity), *_ = drawn(Images(), list(ours), list(images), tmp_path / "images")
    assert name == "c.jpg"
    assert severity == pytest.approx(0.01)


def test_what_has_no_pictures(tmp_path: Path) -> None:
    assert drawn(Tensors(), [np.ones(3)] * 3, [np.ones(3)] * 3, tmp_path / "out") == []
