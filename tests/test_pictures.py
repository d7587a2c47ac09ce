"""Drawing the worst samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ncnnkit.comparison.outputs import Outputs, keep_outputs
from ncnnkit.report.pictures import MODELS, as_picture, draw, draw_worst, panels
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.tasks import Boxes, Decoder, Table, Task, presets
from ncnnkit.tasks.classification import Classification
from ncnnkit.tasks.detection import Detection
from ncnnkit.tasks.images import Images
from ncnnkit.tasks.instances import Instances
from ncnnkit.tasks.landmarks import Landmarks
from ncnnkit.tasks.segmentation import Segmentation
from ncnnkit.tasks.tensor import Tensors
from ncnnkit.tasks.text import Texts

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
    found = draw_worst(task, {"int8-cpu": both[0]}, both[1], samples, NAMES, HOW, ["cat", "dög \u4e2d"], folder)
    for picture in found:
        assert Image.open(folder / picture.file).format == "JPEG"
        assert picture.variant == "int8-cpu"
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


def sizes(folder: Path) -> list[tuple[int, int]]:
    return [Image.open(file).size for file in sorted(folder.glob("picture-*.jpg"))]


def test_images_are_shown_with_their_difference(tmp_path: Path) -> None:
    exact = np.full((3, 40, 60), 0.5)
    shown = panels(Images(), exact + 0.02, exact, Image.new("RGB", (60, 40)), [])
    assert [np.asarray(each)[0, 0, 0] for each in shown] == [128, 133, 51]
    assert [each.size for each in shown] == [(60, 40)] * 3, "a small image is not enlarged"
    assert panels(Images(), np.zeros((3, 900, 1800)), np.zeros((3, 900, 1800)), shown[0], [])[0].size == (360, 180)


def test_texts_are_shown_with_what_is_read(tmp_path: Path) -> None:
    task = Texts(alphabet=("", "c", "a", "t", "r"))
    exact = np.eye(5, dtype=np.float32)[[1, 0, 2, 3]]
    other = np.eye(5, dtype=np.float32)[[1, 0, 2, 4]]
    ((name, severity), *_) = drawn(task, [exact, other, exact], [exact] * 3, tmp_path / "t")
    assert (name, severity) == ("b.jpg", 1 / 3)
    samples = ArraySamples((np.zeros((1, 3, 40, 60), np.float32),))
    kept = [keep_outputs(["y"], [[row]], tmp_path / f"k{i}") for i, row in enumerate((other, exact))]
    (found,) = draw_worst(task, {"x": kept[0]}, kept[1], samples, NAMES, HOW, [], tmp_path)
    assert (found.original_text, found.text) == ("cat", "car")
    assert sizes(tmp_path) == [(360, 240)]


def test_classes_are_shown_with_their_scores(tmp_path: Path) -> None:
    exact = np.array([0.5, 0.3, 0.1, 0.06, 0.03, 0.01], np.float32)
    close, far = exact[[1, 0, 2, 3, 4, 5]], exact[::-1]
    assert drawn(Classification(), [exact, close, far], [exact] * 3, tmp_path / "t") == [
        ("c.jpg", 1.0), ("b.jpg", 0.5), ("a.jpg", 0.0)
    ]  # fmt: skip
    noisy = [exact + noise for noise in (0.01, 0.02, 0.0)]
    assert [name for name, _ in drawn(Classification(), noisy, [exact] * 3, tmp_path / "u")] == [
        "b.jpg",
        "a.jpg",
        "c.jpg",
    ]
    samples = ArraySamples((np.zeros((1, 3, 40, 60), np.float32),))
    kept = [keep_outputs(["y"], [[row]], tmp_path / f"k{i}") for i, row in enumerate((far, exact))]
    (found,) = draw_worst(Classification(), {"x": kept[0]}, kept[1], samples, NAMES, HOW, ["cat", "dog"], tmp_path)
    assert found.original_text == "cat (0.5), dog (0.3), class 2 (0.1)"
    assert found.text == "class 5 (0.5), class 4 (0.3), class 3 (0.1)"
    assert sizes(tmp_path) == [(360, 240)], "the picture is only the input"


def test_masks_and_points(tmp_path: Path) -> None:
    plain = Image.new("RGB", (60, 40), "white")
    masks = np.zeros((1, 10, 15), bool)
    masks[0, :5] = True
    box = Boxes(np.array([[0, 0, 60, 40]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), None, masks)
    decoder = presets.with_masks(presets.ultralytics(1), 8)
    shown = np.asarray(draw(Instances(decoder=decoder), box, plain, ["cat"]))
    assert shown[100, 180].tolist() != [255, 255, 255]
    assert shown[200, 180].tolist() == [255, 255, 255]
    for points in (np.array([[0.5, 0.5]]), np.array([[30.0, 20.0]])):  # fractions of the image, and pixels
        assert np.asarray(draw(Landmarks(), points, plain, []))[120, 180].tolist() == [230, 25, 75]


def test_of_several_inputs_the_image_is_shown(tmp_path: Path) -> None:
    maps = np.zeros((1, 1, 20, 30), np.float32)
    kept = keep_outputs(["y"], ([row] for row in maps), tmp_path / "kept")
    state, image = np.zeros((1, 5), np.float32), np.zeros((1, 3, 40, 60), np.float32)
    task = Segmentation(axis=-1)
    for arrays, count in (((state, image), 1), ((image, state), 1), ((state, state), 0)):
        found = draw_worst(task, {"x": kept}, kept, ArraySamples(arrays), NAMES, HOW, [], tmp_path)
        assert len(found) == count


def test_a_limited_number_of_models_is_drawn(tmp_path: Path) -> None:
    maps = np.zeros((3, 1, 20, 30), np.float32)
    kept = keep_outputs(["y"], ([row] for row in maps), tmp_path / "kept")
    samples = ArraySamples((np.zeros((3, 3, 40, 60), np.float32),))
    found = draw_worst(
        Segmentation(axis=-1), {f"m{i}": kept for i in range(MODELS + 3)}, kept, samples, NAMES, HOW, [], tmp_path
    )
    assert list(dict.fromkeys(picture.variant for picture in found)) == [f"m{i}" for i in range(MODELS)]
    assert len(sizes(tmp_path)) == 3 * MODELS
