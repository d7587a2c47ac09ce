"""Labelled boxes: file formats, and positions in a network's input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.comparison.truths import truths
from ncnnkit.errors import ImageError, RecipeError
from ncnnkit.onboard.picture import Placement
from ncnnkit.plan.requirement import Requirements
from ncnnkit.samples.boxes import LabelledBoxes, read_boxes
from ncnnkit.samples.labels import Labels
from ncnnkit.tasks import Decoder, Table
from ncnnkit.tasks.classification import Classification
from ncnnkit.tasks.detection import Detection

NAMES = ["a/one.jpg", "two.jpg"]
HALF = Placement(image=(200, 400), resized=(100, 200), top=50, left=0, input=(200, 200))  # a letterbox
SAME = Placement(image=(200, 200), resized=(200, 200), top=0, left=0, input=(200, 200))
CLASSES = ["cat", "dog"]


def coco(path: Path, **changes: Any) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "one.jpg"}, {"id": 9, "file_name": "two.jpg"}],
        "categories": [{"id": 3, "name": "Dog"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [40, 20, 100, 60]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        ],
        **changes,
    }
    path.write_text(json.dumps(content))
    return path


def voc(*objects: tuple[str, int, int, int, int]) -> str:
    rows = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for name, a, b, c, d in objects
    )
    return f"<annotation>{rows}</annotation>"


def test_three_formats_are_the_same_boxes(tmp_path: Path) -> None:
    (tmp_path / "yolo/a").mkdir(parents=True)
    (tmp_path / "yolo/a/one.txt").write_text("1 0.225 0.25 0.25 0.3\n\n")
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc/one.xml").write_text(voc(("dog", 41, 21, 140, 80)))
    for path in (coco(tmp_path / "l.json"), tmp_path / "yolo", tmp_path / "voc"):
        first, second = read_boxes(path, NAMES, [HALF, SAME], CLASSES)
        assert first.xyxy == pytest.approx(np.array([[20, 60, 70, 90]])), path
        assert (first.labels.tolist(), len(second.labels)) == ([1], 0)
    assert read_boxes(coco(tmp_path / "l.json"), NAMES, [HALF, SAME])[0].labels.tolist() == [1], "in order of numbers"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not in COCO's format"),
        ('{"images": []}', "is not in COCO's format: it has no 'categories'"),
        (json.dumps([]), "is not in COCO's format"),
        (json.dumps({"images": [], "categories": [], "annotations": []}), "has no box for any of these images"),
    ],
)
def test_files_that_are_not_in_cocos_format(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(ImageError, match=says):
        read_boxes(tmp_path / "l.json", NAMES, [HALF, SAME], CLASSES)


def test_labels_that_do_not_fit_the_network(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the network has no class 'Dog'"):
        read_boxes(coco(tmp_path / "l.json"), NAMES, [HALF, SAME], ["cat", "horse"])
    with pytest.raises(ImageError, match="some samples are arrays"):
        read_boxes(coco(tmp_path / "l.json"), NAMES, [HALF, None], CLASSES)
    (tmp_path / "d").mkdir()
    wrong = {"5 0.5 0.5 0.1 0.1": "class 5 is out of range", "0 0.5 nan 1 1": r"one.txt:1: is neither a box nor a seg"}
    for text, says in wrong.items():
        (tmp_path / "d/one.txt").write_text(text)
        with pytest.raises(ImageError, match=says):
            read_boxes(tmp_path / "d", NAMES, [HALF, SAME], CLASSES)
    (tmp_path / "d/one.txt").unlink()
    for text, says in ((voc(("bird", 1, 1, 2, 2)), "no class 'bird'"), ("<a>", "is not in Pascal VOC's format")):
        (tmp_path / "d/one.xml").write_text(text)
        with pytest.raises(ImageError, match=says):
            read_boxes(tmp_path / "d", NAMES, [HALF, SAME], CLASSES)
    boxes = Labels("boxes", read_boxes(coco(tmp_path / "l.json"), NAMES, [HALF, SAME], CLASSES), "l.json")
    with pytest.raises(ImageError, match=r"l\.json: contains boxes, but the task classification needs classes"):
        truths(boxes, Classification(((2,),)))


def test_a_model_may_lose_a_percent_of_the_originals_right_answers() -> None:
    pytest.importorskip("pycocotools")
    decoder = Decoder("boxes", (Table(0, ("boxes", "scores")),), 1, boxes="xyxy", score_threshold=0.25)
    task = Detection(decoder=decoder)
    exact = np.array([[0, 0, 40, 40, 0.9], [60, 60, 99, 99, 0.8]], np.float32)
    moved = exact + np.array([4, 0, 4, 0, 0], np.float32)
    truth = truths(
        Labels("boxes", [LabelledBoxes(exact[:, :4], np.zeros(2, np.int64), (None, None), SAME)], "l.json"), task
    )
    original = errors_of([[exact]], [[exact]], task, truth).figures()
    assert (original["label_map50_95"], original["map50_95"]) == (1.0, 1.0)
    found = errors_of([[moved]], [[exact]], task, truth).figures()
    assert 0.5 < (found["label_map50_95"] or 0) < 0.9
    relative = Requirements.parse(["label_map50_95>=-1%"]).of(task).against(original)
    assert [str(r) for r in relative.figures] == ["mAP50-95 by labels ≥ 99 %"]
    assert not relative.hold(found, None)
    assert relative.hold(original, None)
    assert Requirements.parse(["label_map50_95>=-60%"]).against(original).hold(found, None)
    with pytest.raises(RecipeError, match="no model that rounds values can have kept"):
        Requirements.parse(["kept>=-1%"])
    assert errors_of([[exact]], [[exact]], task).figures()["label_map50_95"] is None
