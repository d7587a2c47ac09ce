"""Tasks: their figures agree with a person's judgement of predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.errors import RecipeError
from ncnnkit.plan.requirement import Requirements
from ncnnkit.tasks import TASKS, Boxes, Decoder, Table, Task, estimates, named_task, presets
from ncnnkit.tasks.classification import Classification
from ncnnkit.tasks.detection import Detection
from ncnnkit.tasks.embedding import Embedding
from ncnnkit.tasks.images import Images, ssim
from ncnnkit.tasks.landmarks import Landmarks
from ncnnkit.tasks.pose import Pose
from ncnnkit.tasks.segmentation import Segmentation
from ncnnkit.tasks.table import all_figures, asked_task, decoded_task, spelled
from ncnnkit.tasks.text import Texts, edits

Array = NDArray[np.float32]

YOLO = Decoder(
    "boxes", (Table(0, ("boxes", "scores"), "columns"),), 3, boxes="cxcywh", score_threshold=0.25, iou_threshold=0.7
)


def detector(seed: int, shift: float = 0.0, boxes: int = 40) -> list[Array]:
    """The output of a detector for one image: a few boxes of 40 to 80 pixels with high scores, many with low ones."""
    noise = np.random.default_rng(seed)
    centres, sizes = noise.uniform(40, 280, (2, boxes)), noise.uniform(40, 80, (2, boxes))
    scores = noise.uniform(0, 0.05, (3, boxes))
    scores[noise.integers(3, size=6), np.arange(6)] = noise.uniform(0.4, 0.9, 6)
    return [np.concatenate([centres + shift, sizes, scores]).astype(np.float32)]


def judged(task: Task, ours: Any, theirs: Any) -> tuple[dict[str, float | None], list[str]]:
    """The figures of a model's outputs, and the unsatisfied requirements of the task."""
    errors = errors_of(ours, theirs, task)
    return errors.figures(), Requirements().of(task).unmet(errors.figures(), None)


EXACT = [detector(seed) for seed in range(8)]
DETECTION = Detection(decoder=YOLO)
READS = {
    "pose": replace(YOLO, tables=(Table(0, ("boxes", "scores", "keypoints"), "columns"),), keypoints=(5, 2)),
    "instances": presets.with_masks(YOLO, 8),
}
"""Task -> a decoder that it can use."""


def test_the_same_detections_are_exact() -> None:
    figures, unmet = judged(DETECTION, EXACT, EXACT)
    assert unmet == []
    wanted = {"map50_95": 1.0, "map50": 1.0, "kept": 1.0, "new": 0.0, "iou": 1.0}
    assert {name: figures[name] for name in wanted} == wanted


def test_a_detector_whose_scores_are_all_zero_is_refused() -> None:
    """Its cosine is nearly 1, because the boxes did not change."""
    blank = [[np.concatenate([row[:4], 0 * row[4:]])] for (row,) in EXACT]
    figures, unmet = judged(DETECTION, blank, EXACT)
    assert (figures["cosine"] or 0) > 0.9999
    assert (figures["kept"], figures["map50_95"], figures["new"], figures["iou"]) == (0.0, 0.0, 0.0, None)
    assert unmet == ["boxes kept 0 % is below 95 %", "mean IoU is not known: it could not be computed on these samples"]
    assert errors_of(blank, EXACT, DETECTION).relative > 0.4 > 1e-3 > errors_of(blank, EXACT).relative


def test_swapped_classes_are_other_boxes() -> None:
    swapped = [[row[[0, 1, 2, 3, 5, 6, 4]]] for (row,) in EXACT]
    figures, unmet = judged(DETECTION, swapped, EXACT)
    assert (figures["kept"], figures["new"]) == (0.0, 1.0)
    assert len(unmet) == 3


def test_boxes_five_pixels_off_are_found_but_not_as_exact() -> None:
    figures, unmet = judged(DETECTION, [detector(seed, 5.0) for seed in range(8)], EXACT)
    assert figures["map50"] == 1.0
    assert (figures["map50_95"] or 0) < 0.8
    assert unmet == [f"mean IoU {100 * (figures['iou'] or 0):.4g} % is below 90 %"]


def test_nothing_to_detect_is_no_error_and_a_new_box_is_one() -> None:
    nothing = [[np.concatenate([row[:4], 0 * row[4:]])] for (row,) in EXACT]
    figures, _ = judged(DETECTION, nothing, nothing)
    assert (figures["kept"], figures["new"], figures["map50"]) == (None, 0.0, None)
    assert judged(DETECTION, EXACT, nothing)[0]["new"] is None
    half, _ = judged(DETECTION, EXACT, nothing[:4] + EXACT[4:])
    assert (half["kept"], half["new"]) == (1.0, 1.0)


def test_outputs_that_are_not_numbers_detect_nothing() -> None:
    broken = [[np.full_like(row, np.nan)] for (row,) in EXACT]
    assert judged(DETECTION, broken, EXACT)[0]["kept"] == 0.0
    assert errors_of(broken, EXACT, DETECTION).relative == math.inf


def test_average_precision_equals_cocos() -> None:
    """Two images with a wrong box between two right ones: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    pytest.importorskip("pycocotools")
    square = np.array([[0, 0, 10, 10]], np.float32)

    def found(*rows: tuple[float, float]) -> Boxes:
        boxes = np.concatenate([square + offset for offset, _ in rows])
        return Boxes(boxes, np.array([s for _, s in rows], np.float32), np.zeros(len(rows), np.int64))

    task = Detection(decoder=YOLO)
    rows = [task.compare(found((0, 0.9), (50, 0.8)), found((0, 1.0))), task.compare(found((0, 0.7)), found((0, 1.0)))]
    assert task.summarise(rows)["map50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert task.summarise(rows)["new"] == 0.5


def test_a_network_with_many_boxes_equals_itself() -> None:
    """COCO counts at most 100 boxes of a class per image. Here are 150."""
    pytest.importorskip("pycocotools")
    corners = np.repeat(np.arange(150, dtype=np.float32)[:, None] * 20, 4, 1) + np.array([0, 0, 9, 9], np.float32)
    scores = np.linspace(0.9, 0.3, 150, dtype=np.float32)
    boxes = Boxes(corners, scores, np.zeros(150, np.int64))
    assert DETECTION.summarise([DETECTION.compare(boxes, boxes)])["map50_95"] == 1.0


def test_the_interval_covers_the_figure_and_shrinks_with_samples() -> None:
    noise = np.random.default_rng(0)
    rows = [Classification().compare(np.eye(3)[noise.integers(2)], np.eye(3)[0]) for _ in range(400)]
    few, many = (estimates(Classification(), part)["top1_agreement"] for part in (rows[:25], rows))
    for found in (few, many):
        assert found.low is not None and found.value is not None and found.high is not None  # noqa: PT018
        assert found.low < found.value < found.high
    assert (many.high or 0) - (many.low or 0) < ((few.high or 0) - (few.low or 0)) / 2
    assert (few.samples, many.samples) == (25, 400)


# ------------------------------------------------------------------------------------------------------- other tasks


def test_a_map_that_is_empty_on_one_image_is_judged_over_all() -> None:
    task = Segmentation(axis=-1)
    maps = [np.zeros((1, 8, 8), np.float32) for _ in range(3)]
    maps[0][0, :4], maps[1][0, 2:6] = 1, 0.9
    figures, unmet = judged(task, [[m * 0.98 + 0.01] for m in maps], [[m] for m in maps])
    assert (figures["miou"], unmet) == (1.0, [])
    lost = [[maps[0]], [0 * maps[1]], [maps[2]]]
    assert judged(task, lost, [[m] for m in maps])[0]["miou"] == pytest.approx(0.5)
    assert judged(task, [[m] for m in maps[2:]], [[m] for m in maps[2:]])[0]["miou"] is None


def test_classes_of_pixels() -> None:
    scores = np.random.default_rng(0).random((4, 6, 6)).astype(np.float32)
    swapped = scores[[1, 0, 2, 3]]
    assert judged(Segmentation(), [[scores]], [[scores]])[0]["miou"] == 1.0
    figures, unmet = judged(Segmentation(), [[swapped]], [[scores]])
    assert figures["miou"] == pytest.approx(0.5)
    assert len(unmet) == 1


def test_texts() -> None:
    steps = np.eye(5, dtype=np.float32)[[0, 1, 1, 0, 1, 2, 0, 3]]
    task = Texts()
    assert task.predict([steps]) == (1, 1, 2, 3)
    assert Texts(axis=0).predict([steps.T]) == (1, 1, 2, 3)
    wrong = np.eye(5, dtype=np.float32)[[0, 1, 1, 0, 1, 4, 0, 0]]
    figures, unmet = judged(task, [[steps], [wrong]], [[steps], [steps]])
    assert (figures["texts"], figures["cer"]) == (0.5, 2 / 8)
    assert unmet == ["equal texts 50 % is below 98 %"]


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_edits_are_a_distance(one: list[int], other: list[int]) -> None:
    assert edits(one, other) == edits(other, one)
    assert abs(len(one) - len(other)) <= edits(one, other) <= max(len(one), len(other))
    assert (edits(one, other) == 0) == (one == other)


def test_images_are_compared_as_they_would_be_saved() -> None:
    image = np.random.default_rng(0).random((3, 20, 24))
    figures, unmet = judged(Images(), [[image + 0.02]], [[image]])
    assert 33 < (figures["psnr"] or 0) < 35
    assert unmet == [f"PSNR {figures['psnr']:.6g} dB is below 40 dB"]
    assert judged(Images(), [[image]], [[image]])[0]["psnr"] == math.inf
    exact = estimates(Images(), [Images().compare(image, image)] * 3)["psnr"]
    assert (exact.value, exact.low, exact.high) == (math.inf, math.inf, math.inf)
    over = judged(Images(), [[np.where(image > 0.5, 3.0, -2.0)]], [[np.where(image > 0.5, 1.0, 0.0)]])[0]
    assert over["psnr"] == math.inf
    assert judged(Images(), [[np.full_like(image, np.nan)]], [[image]])[0]["psnr"] == 0.0
    assert judged(Images(), [[image[:, :10]]], [[image]])[0]["psnr"] == 0.0


def test_ssim_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    noise = np.random.default_rng(0)
    one = noise.random((24, 30))
    other = np.clip(one + noise.normal(0, 0.1, one.shape), 0, 1)
    wanted = metrics.structural_similarity(
        one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(one, other, 1.0) == pytest.approx(wanted, abs=1e-6)
    assert ssim(one[:8], other[:8], 1.0) is None


def test_embeddings_are_judged_by_the_nearest_neighbour() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    theirs = [[v] for v in vectors]
    figures, unmet = judged(Embedding(), [[3 * v] for v in vectors], theirs)
    assert (figures["recall1"], unmet) == (1.0, [])
    assert figures["similarity"] == pytest.approx(1, abs=1e-6)
    assert judged(Embedding(), [[v] for v in vectors[::-1]], theirs)[0]["recall1"] == 0.0
    assert judged(Embedding(), [[0 * v] for v in vectors], theirs)[0]["recall1"] == 0.0


def test_landmarks() -> None:
    points = np.array([0, 0, 30, 40, 30, 0], np.float32)
    figures, unmet = judged(Landmarks(), [[points + np.array([0, 0, 3, 4, 0, 0])]], [[points]])
    assert figures["nme"] == pytest.approx(0.1 / 3)
    assert figures["near"] == pytest.approx(2 / 3)
    assert len(unmet) == 1
    apart = points.reshape(3, 2).T.reshape(-1)
    assert np.array_equal(Landmarks(apart=1).predict([apart]), Landmarks().predict([points]))
    assert judged(Landmarks(), [[points * np.nan]], [[points]])[0]["near"] == 0.0


def test_keypoints_of_boxes() -> None:
    decoder = replace(YOLO, tables=(Table(0, ("boxes", "scores", "keypoints"), "columns"),), keypoints=(2, 3))
    outputs = [np.concatenate([row, np.tile([[50.0], [60.0], [0.9]], (2, row.shape[1]))]) for (row,) in EXACT]
    moved = [row + np.array([0.0] * 7 + [3.0, 4.0, 0] * 2)[:, None] for row in outputs]
    figures, unmet = judged(Pose(decoder=decoder), [[row] for row in moved], [[row] for row in outputs])
    assert figures["kept"] == 1.0
    assert 0.05 < (figures["nme"] or 0) < 0.2
    assert len(unmet) == 1


def test_the_interval_of_embeddings_that_are_all_found_is_exact() -> None:
    """A bootstrap repeats samples, and their products with themselves are rounded differently."""
    vectors = np.random.default_rng(0).normal(size=(61, 384)).astype(np.float32)
    task = Embedding()
    rows = [task.compare(task.predict([v + 1e-5]), task.predict([v])) for v in vectors]
    found = estimates(task, rows)["recall1"]
    assert (found.low, found.value, found.high) == (1, 1, 1)
    one = [task.compare(row.theirs, row.theirs) for row in (rows[0], rows[0], rows[1])]
    assert task.summarise(one)["recall1"] == 1


@pytest.mark.parametrize("axis", [0, -3, 2, -1])
def test_a_map_of_classes_has_as_many_as_its_decoder(axis: int) -> None:
    """A negative axis does not mean a single map here."""
    decoder = Decoder("argmax", (Table(0),), 3, axis=axis)
    values = np.moveaxis(np.eye(3)[[[0, 1], [2, 2]]], -1, axis)
    for task in (decoded_task(decoder), decoded_task(decoder, [values.shape]), named_task("segmentation", decoder)):
        assert task is not None
        assert task.predict([values]).classes.tolist() == [[0, 1], [2, 2]]


# ---------------------------------------------------------------------------------------------- tasks of the user


@pytest.mark.parametrize("name", TASKS)
def test_each_task_requires_figures_that_it_has(name: str) -> None:
    task = named_task(name, READS.get(name, YOLO))
    asked = Requirements().of(task)
    assert all(r.figure.name in {**all_figures(), **task.figures} for r in asked.figures)
    assert named_task(spelled(task), getattr(task, "decoder", None)) == task
    assert asked.of(task) == asked


def test_a_figure_of_another_task_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"kept is not a figure of the task text \(its figures: cosine, .*texts, cer"):
        Requirements.parse(["kept>=0.9"]).of(Texts())


def test_a_figure_has_the_title_of_its_task() -> None:
    """Pose and landmarks both have nme."""
    asked = Requirements.parse(["nme<=0.1"])
    assert [str(r) for r in asked.of(Landmarks()).figures] == ["landmark error ≤ 10 %"]
    assert [str(r) for r in asked.of(Pose(decoder=YOLO)).figures] == ["keypoint error ≤ 10 %"]


def test_tasks_and_functions_of_a_user(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_figures.py").write_text(
        "from ncnnkit.tasks import Task, named, share\n"
        "class Signs(Task):\n"
        "    name, requires = 'signs', ('same>=0.9',)\n"
        "    figures = named(share('same', 'equal signs'))\n"
        "    def predict(self, outputs): return outputs[0] > 0\n"
        "    def compare(self, ours, theirs, truth=None): return float((ours == theirs).mean())\n"
        "    def summarise(self, rows): return {'same': sum(rows) / len(rows) if rows else None}\n"
        "def near(ours, theirs): return 1 - abs(ours[0] - theirs[0]).mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    task = named_task("own_figures:Signs", None)
    theirs = [np.array([1.0, -1, 1, -1], np.float32)]
    assert judged(task, [[theirs[0] * [1, 1, 1, -1]]], [theirs])[1] == ["equal signs 75 % is below 90 %"]
    assert Requirements.parse(["same>=70%"], task=asked_task("own_figures:Signs", "")).of(task)
    assert spelled(task) == "", "a card of a stranger must not import code"
    from ncnnkit.tasks.own import own_metric

    assert judged(own_metric("own_figures:near"), [[theirs[0] + 0.1]], [theirs])[0]["score"] == pytest.approx(0.9)
    wrongs = {"own_figures:near": "is not a subclass", "own_figures:Nope": "has no 'Nope'", "a:b": "be imported"}
    for wrong, says in wrongs.items():
        with pytest.raises(RecipeError, match=says):
            named_task(wrong, None)
    with pytest.raises(RecipeError, match="exclude each other"):
        asked_task("text", "own_figures:near")
