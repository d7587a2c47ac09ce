"""Labelled outlines of objects: COCO's polygons and run lengths, YOLO's segments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.comparison.truths import truths
from ncnnkit.errors import ImageError
from ncnnkit.onboard.picture import Fit, Placement
from ncnnkit.plan.requirement import Requirements
from ncnnkit.samples.boxes import LabelledBoxes
from ncnnkit.samples.finding import open_images
from ncnnkit.samples.images import ImageSet
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.labels import read_labels
from ncnnkit.samples.outlines import Outline, unpacked
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.tasks import Boxes, presets
from ncnnkit.tasks.instances import Instances

coco = pytest.importorskip("pycocotools.mask")
Array = NDArray[Any]
INPUT, GRID = (64, 96), (16, 24)
WHOLE = Placement(image=INPUT, resized=INPUT, top=0, left=0, input=INPUT)
TRIANGLE = [10.0, 8.0, 80.0, 20.0, 30.0, 60.0]


def task() -> Instances:
    """Masks with a quarter of the input's size."""
    head = presets.with_masks(presets.ultralytics(2), 8)
    return Instances(decoder=head, shapes=((14, 126), (8, *GRID)))


def photographs(folder: Path, size: tuple[int, int] = (192, 64)) -> ImageSet:
    """(width, height) of the only image. A letterbox makes it 96x32 pixels in the middle of the input."""
    folder.mkdir()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / "a.png")
    return open_images(folder, Preprocess(Fit("letterbox", INPUT)), [InputSpec("x", (3, *INPUT))])


def annotated(path: Path, outlines: list[Any], size: tuple[int, int] = (192, 64)) -> Path:
    """A file in COCO's format with objects of the first class. An outline is polygons, run lengths or nothing."""
    rows = [
        {
            "id": number, "image_id": 7, "category_id": 3, "bbox": [0, 0, 192, 64], "iscrowd": 0,
            **({"segmentation": outline} if outline else {}),
        }
        for number, outline in enumerate(outlines)
    ]  # fmt: skip
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": rows,
    }
    path.write_text(json.dumps(content))
    return path


def truth(path: Path, samples: ImageSet) -> Boxes:
    """The labels of the image in the form that is compared with masks."""
    read = truths(read_labels(path, samples), task(), size=INPUT)
    assert read is not None
    found = read[0]
    assert isinstance(found, Boxes)
    return found


def test_polygons_are_filled_as_coco_does() -> None:
    scaled = (np.array(TRIANGLE) / 4).tolist()
    exact = coco.decode(coco.merge(coco.frPyObjects([scaled], *GRID)))
    outline = Outline.of_coco([TRIANGLE])
    assert outline is not None
    found = outline.mask(WHOLE, GRID)
    np.testing.assert_array_equal(found, exact)
    assert 60 < found.sum() < 120
    both = Outline.of_coco([TRIANGLE, [0, 0, 8, 0, 8, 8, 0, 8]])
    assert both is not None
    assert (both.mask(WHOLE, GRID) & ~found).sum() == 4, "an object may have several parts"


def test_run_lengths_are_read_whole_and_packed() -> None:
    pixels = np.zeros(INPUT, np.uint8)
    pixels[16:40, 20:60] = 1
    packed = coco.encode(np.asfortranarray(pixels))
    packed["counts"] = packed["counts"].decode()
    flat = pixels.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    whole = {"size": list(INPUT), "counts": np.diff([0, *edges, flat.size]).tolist()}
    wanted = pixels[2::4, 2::4].astype(bool)
    for runs in (packed, whole):
        outline = Outline.of_coco(runs)
        assert outline is not None
        np.testing.assert_array_equal(outline.mask(WHOLE, GRID), wanted)


def test_labels_lie_where_the_letterbox_puts_the_image(tmp_path: Path) -> None:
    samples = photographs(tmp_path / "images")
    left = [[0, 0, 96, 0, 96, 64, 0, 64]]
    found = truth(annotated(tmp_path / "coco.json", [left]), samples)
    wanted = np.zeros((1, *GRID), bool)
    wanted[0, 4:12, :12] = True
    np.testing.assert_array_equal(found.masks, wanted)
    pixels = np.zeros((64, 192), np.uint8)
    pixels[:, :96] = 1
    runs = coco.encode(np.asfortranarray(pixels))
    runs["counts"] = runs["counts"].decode()
    np.testing.assert_array_equal(truth(annotated(tmp_path / "runs.json", [runs]), samples).masks, wanted)
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/a.txt").write_text("0 0 0 0.5 0 0.5 1 0 1\n")
    yolo = truth(tmp_path / "yolo", samples)
    np.testing.assert_array_equal(yolo.masks, wanted)
    np.testing.assert_allclose(yolo.xyxy, [[0, 16, 48, 48]], err_msg="the box of a segment is its bounds")


def test_figures_by_labels_are_those_of_the_masks(tmp_path: Path) -> None:
    """Predictions that equal the labelled masks are right. Equal boxes alone are not enough."""
    labels = truth(
        annotated(tmp_path / "coco.json", [[[0, 0, 96, 0, 96, 64, 0, 64]]]), photographs(tmp_path / "images")
    )
    judge = task()
    assert labels.masks is not None
    other = replace(labels, masks=np.roll(labels.masks, 9, 2))
    right, wrong = (judge.summarise([judge.compare(each, each, labels)]) for each in (labels, other))
    assert right["label_map50_95"] == pytest.approx(1)
    assert wrong["label_map50_95"] == 0
    assert wrong["map50_95"] == pytest.approx(1), "it agrees with the original"


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, r"coco\.json: a labelled object has a box but no outline .*--task detection"),
        ({"size": [5, 5], "counts": [25]}, "run lengths are for an image of 5x5 pixels, but the image has 192x64"),
        ({"size": [64, 192], "counts": [3]}, "run lengths that do not cover the image"),
        ([[0, 0, 1, 1]], "an outline that is not a polygon"),
        ([[0, 0, 1, 1, 2, float("nan")]], "an outline that is not a polygon"),
        ([7], "an outline that is not a polygon"),
        ({"counts": [1]}, "is not in COCO's format: it has no 'size'"),
    ],
)
def test_wrong_outlines_are_refused(tmp_path: Path, outline: Any, message: str) -> None:
    samples = photographs(tmp_path / "images")
    with pytest.raises(ImageError, match=message):
        truth(annotated(tmp_path / "coco.json", [outline]), samples)


def test_a_point_far_away_takes_no_memory(tmp_path: Path) -> None:
    found = truth(
        annotated(tmp_path / "coco.json", [[[0, 0, 1e12, 0, 1e12, 64, 0, 64]]]), photographs(tmp_path / "images")
    )
    assert found.masks is not None
    assert found.masks.sum() == 8 * 24


@pytest.mark.parametrize("line", ["0 0.1 0.1 0.5", "0 0 0 0.5 0 0.5 1 0", "0 0 0 0.5 0 nan 1", "-1 0 0 1 0 1 1"])
def test_wrong_lines_of_yolo_are_refused(tmp_path: Path, line: str) -> None:
    samples = photographs(tmp_path / "images")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/a.txt").write_text(line + "\n")
    with pytest.raises(ImageError, match=r"a\.txt:1: is neither a box nor a segment"):
        read_labels(tmp_path / "yolo", samples)


def test_keypoints_after_a_box_are_not_a_segment(tmp_path: Path) -> None:
    samples = photographs(tmp_path / "images")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/a.txt").write_text("0 0.5 0.5 0.5 0.5 0.4 0.4 0.6 0.6\n")
    (label,) = read_labels(tmp_path / "yolo", samples, posed=True).values
    assert isinstance(label, LabelledBoxes)
    assert (label.xyxy.tolist(), label.outlines) == ([[24, 24, 72, 40]], (None,))
    (other,) = read_labels(tmp_path / "yolo", samples).values
    assert isinstance(other, LabelledBoxes)
    assert other.xyxy.tolist() != label.xyxy.tolist()


def test_a_requirement_may_name_labelled_masks() -> None:
    requirement = Requirements.parse(["label_map50_95>=-1%"], task=Instances)
    assert requirement.texts == ["mAP50-95 by labels ≥ -1 %"]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=60)
def test_compact_run_lengths_are_read_as_pycocotools_reads_them(height: int, width: int, seed: int, size: int) -> None:
    pixels = np.random.default_rng(seed).random((height, width)).repeat(size, 0).repeat(size, 1)[:height, :width] > 0.5
    packed = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    counts = unpacked(packed["counts"].decode())
    assert sum(counts) == height * width
    runs = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    assert np.array_equal(coco.decode(runs), pixels)


@pytest.mark.parametrize("counts", ["", "0", "\\9le0hab0" * 2, "P", "a" * 30 + "0", "\x00", "é", "kkkkkkkkkk"])
def test_run_lengths_that_do_not_cover_the_image_are_refused(counts: str, tmp_path: Path) -> None:
    """They are refused when they are read, with the name of the file."""
    samples = photographs(tmp_path / "images")
    path = annotated(tmp_path / "x.json", [{"size": [64, 192], "counts": counts}])
    with pytest.raises(ImageError, match="run lengths"):
        read_labels(path, samples, kind="boxes", names=("cat", "dog"))
