"""An app's answers for the evaluation images have the same figures as run.json."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncnn_library import build
from networks import network
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.app import make_app
from ncnnkit.artifact import Artifact
from ncnnkit.onboard.picture import Fit
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe
from ncnnkit.record.run import Run
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.tasks import Decoder, Table
from ncnnkit.tasks.classification import Classification
from ncnnkit.tasks.decoder import Grid
from ncnnkit.tasks.detection import Detection
from ncnnkit.tasks.predictions import Boxes

COUNT = 24
SIDE = 64
QUICK: dict[str, Any] = {
    "backends": ("cpu",), "precisions": ("fp32", "int8"), "threads": 1, "seconds": 0.05, "rounds": 1, "effort": "fast",
}  # fmt: skip
STEM = f"""
    Input       in0 0 1 in0 0={SIDE} 1={SIDE} 2=3
    Convolution c1  1 1 in0 b1 0=8 1=8 3=8 5=1 6=1536 9=1
"""
DETECTOR = f"{STEM}Convolution c2 1 1 b1 b2 0=7 1=1 5=1 6=56\nReshape r 1 1 b2 out0 0=64 1=7"
CLASSIFIER = f"{STEM}Pooling p 1 1 b1 b2 0=1 4=1\nInnerProduct fc 1 1 b2 out0 0=10 1=1 2=80"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of many sizes. Half of them are as large as the input, or twice as large."""
    folder = tmp_path_factory.mktemp("images") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        side = (SIDE, 2 * SIDE, int(rng.integers(40, 200)), int(rng.integers(40, 200)))[number % 4]
        ramp = np.linspace(0, 255, side)[None, :, None] * rng.random((1, 1, 3)) + rng.normal(0, 60, (side, side, 3))
        Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


def measured(model: Artifact, images: Path, labels: Path, home: Path) -> Run:
    """Run a model and evaluate all images. Other images calibrate."""
    model.save(home / "m.param")
    np.save(home / "calibration.npy", np.random.default_rng(1).normal(0, 1, (8, 3, SIDE, SIDE)).astype(np.float32))
    recipe = Recipe(
        str(home / "m.param"), images=str(home / "calibration.npy"), eval_images=str(images), labels=str(labels),
        preset="", **QUICK,
    )  # fmt: skip
    return run(recipe, home / "out")


def figures_of(document: Run, name: str) -> dict[str, float]:
    (variant,) = [each for each in document.variants if each.name == name]
    assert variant.accuracy is not None
    return {each.name: each.value for each in variant.accuracy.task if each.value is not None}


def python_answers(out: Path, images: Path, precision: str, *words: str) -> dict[str, Any]:
    app = out.parent / f"python-{precision}"
    make_app(out, app, variant=precision, lang="python")
    return answers([sys.executable, app / "infer.py", *words], images, precision)


def cpp_answers(out: Path, images: Path, precision: str, *words: str) -> dict[str, Any]:
    app = out.parent / "cpp"
    make_app(out, app, variant=precision)
    program = build(app, out.parent / "build", "-DCMAKE_BUILD_TYPE=Debug") / "infer"
    return answers([program, *words], images, precision, app)


def answers(program: list[str | Path], images: Path, precision: str, app: Path | None = None) -> dict[str, Any]:
    """Name of an image -> the program's answer."""
    files = [app / f"models/m-{precision}{ending}" for ending in (".param", ".bin")] if app else []
    line = [*program, *files, images, "--json", "--threads=1"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=True)
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    return {Path(row["input"]).name: row for row in rows}


WAYS = [
    pytest.param(python_answers, "fp32", id="python-fp32"),
    pytest.param(python_answers, "int8", id="python-int8"),
    pytest.param(
        cpp_answers, "fp32", id="cpp-fp32", marks=[pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(600)]
    ),
]
"""In C++ the tests have another ncnn, which rounds int8 differently."""

# ---------------------------------------------------------------------------------------------------------- a detector


@pytest.fixture(scope="module")
def detector_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, dict[str, Boxes]]:
    """The run folder of a detector, its record, and the labels.

    The labels are some of its boxes, moved. All scores are above the working threshold, so that the app prints every
    box that counts. Boxes are clipped to the input, as the app clips them to the image, and no box is outside.
    """
    pytest.importorskip("pycocotools")
    home = tmp_path_factory.mktemp("detector")
    graph = network(DETECTOR)
    decoder = Decoder(
        "boxes", (Table(0, ("boxes", "scores"), "columns"),), 3, boxes="deltas", scores="sigmoid",
        score_threshold=1e-4, iou_threshold=0.3, most=20, size=(SIDE, SIDE), weights=(10.0, 10.0, 5.0, 5.0),
        anchors=(Grid(8, 8, (8.0, 8.0), (4.0, 4.0), ((16.0, 16.0),)),),
    )  # fmt: skip
    how = Preprocess(Fit("letterbox", size=(SIDE, SIDE)), "bilinear")
    model = replace(
        Artifact.made(graph, "fp32", decoder=decoder, task="detection", preprocess=how),
        labels=("cat", "dog", "red bus"),
    )  # fmt: skip
    (home / "first").mkdir()
    model.save(home / "first/m.param")
    make_app(model, home / "app", lang="python")
    said = answers([sys.executable, home / "app/infer.py"], images, "fp32")
    labels, rng = {}, np.random.default_rng(0)
    (home / "labels").mkdir()
    for name, row in said.items():
        with Image.open(images / name) as image:
            side = image.width
        found = boxes_of(row)
        kept = found.where(rng.choice(len(found), min(6, len(found)), replace=False))
        sizes = np.tile(kept.xyxy[:, 2:] - kept.xyxy[:, :2], 2)
        moved = np.clip(kept.xyxy + rng.normal(0, 0.1, kept.xyxy.shape) * sizes, 0, side)
        labels[name] = Boxes(moved.astype(np.float32), np.ones(len(kept), np.float32), kept.labels)
        places = np.concatenate([(moved[:, 2:] + moved[:, :2]) / 2, moved[:, 2:] - moved[:, :2]], 1) / side
        lines = [f"{label} {' '.join(map(str, row))}\n" for label, row in zip(kept.labels.tolist(), places.tolist())]
        (home / f"labels/{Path(name).stem}.txt").write_text("".join(lines))
    return home / "out", measured(model, images, home / "labels", home), labels


def boxes_of(row: Any) -> Boxes:
    corners = [[box[key] for key in ("x1", "y1", "x2", "y2")] for box in row["boxes"]]
    return Boxes(
        np.reshape(corners, (-1, 4)), np.array([box["score"] for box in row["boxes"]], np.float32),
        np.array([box["index"] for box in row["boxes"]], np.int64),
    )  # fmt: skip


@pytest.mark.parametrize(("answered", "precision"), WAYS)
def test_the_figures_of_a_detector(
    answered: Any, precision: str, detector_run: tuple[Path, Run, dict[str, Boxes]], images: Path
) -> None:
    out, document, labels = detector_run
    expected = figures_of(document, f"{precision}-cpu")
    task = Detection()
    found = {name: boxes_of(row) for name, row in answered(out, images, precision).items()}
    assert found.keys() == labels.keys()
    rows = [task.compare(boxes, boxes, labels[name]) for name, boxes in found.items()]
    ours = task.summarise(rows)
    for name in ("label_map50_95", "label_map50"):
        assert 0.05 < expected[name] < 0.99, "the labels tell nothing"
        assert ours[name] == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.app
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_finding_nothing_is_an_answer(detector_run: tuple[Path, Run, dict[str, Boxes]], tmp_path: Path) -> None:
    """The self-test of a C++ program compares such an example, and does not treat it as damaged."""
    make_app(detector_run[0], tmp_path / "app", variant="fp32")
    for text in (tmp_path / "app/examples").glob("*.txt"):
        lines = [line for line in text.read_text().splitlines() if not line.startswith("box")]
        text.write_text("\n".join([*lines, "nothing", ""]))
    program = build(tmp_path / "app", tmp_path / "build", "-DCMAKE_BUILD_TYPE=Debug") / "infer"
    files = [str(tmp_path / f"app/models/m-fp32{ending}") for ending in (".param", ".bin")]
    done = subprocess.run([str(program), *files, "--self-test"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("agreement of the answers")]
    assert row.split()[4] == "0"


# -------------------------------------------------------------------------------------------------------- a classifier


@pytest.fixture(scope="module")
def classifier_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, dict[str, int]]:
    """The run folder of a classifier, its record, and the labels. Half of the labels are its own answers."""
    home = tmp_path_factory.mktemp("classifier")
    model = Artifact.made(
        network(CLASSIFIER), "fp32", task="classification", preprocess=Preprocess(80, "bicubic", crop=(SIDE, SIDE))
    )
    make_app(model, home / "app", lang="python")
    said = answers([sys.executable, home / "app/infer.py", "--top=10"], images, "fp32")
    labels = {name: row["top"][number % 2]["index"] for number, (name, row) in enumerate(said.items())}
    (home / "labels.txt").write_text("".join(f"{name} {label}\n" for name, label in labels.items()))
    return home / "out", measured(model, images, home / "labels.txt", home), labels


def scores_of(row: Any) -> NDArray[np.float32]:
    scores = np.zeros(10, np.float32)
    for each in row["top"]:
        scores[each["index"]] = each["score"]
    return scores


@pytest.mark.parametrize(("answered", "precision"), WAYS)
def test_the_figures_of_a_classifier(
    answered: Any, precision: str, classifier_run: tuple[Path, Run, dict[str, int]], images: Path
) -> None:
    out, document, labels = classifier_run
    expected = figures_of(document, f"{precision}-cpu")
    task = Classification()
    found = {name: scores_of(row) for name, row in answered(out, images, precision, "--top=10").items()}
    ours = task.summarise([task.compare(scores, scores, labels[name]) for name, scores in found.items()])
    assert 0.1 < expected["top1"] < 0.9, "the labels tell nothing"
    for name in ("top1", "top5"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-6)
