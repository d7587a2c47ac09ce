"""The commands and the Python code in README.md and docs/ work."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import lowered
import numpy as np
import onnx
import pytest
import typer
from conftest import BOARD
from ncnn_library import installed, library_options, run
from onnx.helper import make_node as node
from pages import DATA, ROOT, printing, run_block, yolo_and_photographs
from PIL import Image
from small_heads import detector

from ncnnkit.app.verify import Receipt
from ncnnkit.cli import app
from ncnnkit.codec import decode
from ncnnkit.onboard.picture import Fit
from ncnnkit.recipe import make_recipe
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS
from ncnnkit.tasks import OUTPUTS, TASKS
from ncnnkit.tasks.guess import DETECTORS


@pytest.mark.app
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_newcomers_whole_tutorial(tmp_path: Path) -> None:
    shutil.copy(DATA / "efficientnet-lite0.onnx", tmp_path)
    shutil.copytree(DATA / "images/calibration", tmp_path / "calibration")
    shutil.copy(DATA / "images/evaluation/chelsea-1.jpg", tmp_path / "cat.jpg")
    said = run_block(0, tmp_path)
    *_, first, second, third, _, _ = said.splitlines()
    assert {line.split(None, 1)[1] for line in (first, second, third)} == {"tiger cat", "Egyptian cat", "tabby"}
    shutil.rmtree(tmp_path / "myapp/models")
    moved = shutil.move(tmp_path / "myapp/build/infer", tmp_path / "infer")
    alone = subprocess.run([moved, tmp_path / "cat.jpg"], capture_output=True, text=True)
    assert "tiger cat" in alone.stdout, "the model is part of the program"


# ------------------------------------------------------------------------------------------------- the page on the app


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, and two test images."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "photos").mkdir()
    for number, path in enumerate(sorted((DATA / "images/evaluation").iterdir())[:12]):
        with Image.open(path) as image:
            image.resize((100, 80)).save(folder / f"photos/{number}.png")
    shutil.copy(folder / "photos/0.png", folder / "other.png")
    with Image.open(DATA / "images/evaluation/coffee-5.jpg") as image:
        image.resize((200, 150)).save(folder / "large.png")
    return folder


def save_onnx(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], *weights: int) -> None:
    """A small network: its nodes, the shapes of its inputs, and the shape of the weights ``w`` of a convolution."""
    given = {"w": np.random.default_rng(0).normal(0, 0.2, weights).astype(np.float32)}
    made = lowered.model(nodes, {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}, ["y"], given)
    onnx.save(made, str(path))


@pytest.mark.slow  # a whole run, like the next two
def test_large_images_on_the_page_of_the_app(photos: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("DepthToSpace", ["a"], ["b"], blocksize=2),
        node("Sigmoid", ["b"], ["y"]),
    ]  # fmt: skip
    save_onnx(photos / "double.onnx", nodes, {"x": (1, 3, 32, 32)}, 12, 3, 3, 3)
    said = run_block(0, photos, page="app").splitlines()
    assert "an image of 400x300 pixels: give a .png as OUTPUT to keep it" in said
    assert said[-1] == "passed: 2 examples"
    with Image.open(photos / "larger.png") as image:
        assert image.size == (400, 300)
        seams = np.abs(np.diff(np.asarray(image).astype(float), axis=1)).mean((0, 2))
    assert seams.max() < 3 * np.median(seams) + 10, "no column stands out"


@pytest.mark.slow
def test_a_detector_on_large_images_on_the_page_of_the_app(photos: Path) -> None:
    detector(photos / "detector.onnx")
    boxes = json.loads(run_block(1, photos, page="app").splitlines()[-1])["boxes"]
    with Image.open(photos / "found.png") as image:
        assert image.size == (200, 150)
    assert max(box["x2"] for box in boxes) > 130 > 70 > min(box["x1"] for box in boxes), "boxes of several tiles"


@pytest.mark.slow
def test_several_inputs_on_the_page_of_the_app(photos: Path) -> None:
    nodes = [
        node("Sub", ["before", "after"], ["a"]), node("Conv", ["a", "w"], ["b"]),
        node("GlobalAveragePool", ["b"], ["y"]),
    ]  # fmt: skip
    save_onnx(photos / "pair.onnx", nodes, {"before": (1, 3, 24, 24), "after": (1, 3, 24, 24)}, 4, 3, 3, 3)
    assert run_block(2, photos, page="app").splitlines()[-1] == "passed: 2 examples"
    assert np.load(photos / "y.npy").size == 4
    assert np.abs(np.load(photos / "y.npy")).max() > 1e-3


# -------------------------------------------------------------------------------------------------------- the tutorial


@pytest.fixture(scope="module")
def detector_app(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the block on a detector ran, and its output.

    The images are PPM, because the board has no library for others.
    """
    folder = tmp_path_factory.mktemp("detector")
    yolo_and_photographs(folder, "ppm")
    return folder, run_block(1, folder)


@pytest.mark.app
@pytest.mark.slow  # it compiles the app
@pytest.mark.timeout(900)
def test_a_detector_from_onnx_to_boxes(detector_app: tuple[Path, str]) -> None:
    folder, said = detector_app
    boxes = json.loads(said.splitlines()[-1])["boxes"]
    with Image.open(folder / "found.png") as drawn, Image.open(folder / "street.jpg") as image:
        assert drawn.size == image.size
        changed = np.abs(np.asarray(drawn).astype(int) - np.asarray(image)).max(2) > 0
        width, height = image.size
    assert boxes
    assert {row["label"] for row in boxes} <= {"class 0", "class 1"}
    for row in boxes:
        assert 0 <= row["x1"] < row["x2"] <= width
        assert 0 <= row["y1"] < row["y2"] <= height
        assert changed[int(row["y1"]) : int(row["y2"]) + 1, int(row["x1"]) : int(row["x2"]) + 1].any()


@pytest.mark.app
@pytest.mark.board
@pytest.mark.slow  # it compiles the app again
@pytest.mark.timeout(900)
def test_its_receipt_from_the_board(detector_app: tuple[Path, str]) -> None:
    """The block after it. The emulated board has no compiler and no libgomp1."""
    if installed("current-aarch64") is None:
        pytest.skip("needs scripts/ncnn-library current-aarch64")
    folder, _ = detector_app
    openmp = run("aarch64-linux-gnu-gcc", "-print-file-name=libgomp.a").strip()
    static = ["-DCMAKE_EXE_LINKER_FLAGS=-static", f"-DOpenMP_gomp_LIBRARY={openmp}"]
    said = run_block(2, folder, [*library_options("current-aarch64"), *static], f"ssh://board@{BOARD}")
    assert [line.split()[-1] for line in said.splitlines() if ", at least " in line] == ["pass"] * 3
    receipt = decode((folder / "detect/receipt.json").read_bytes(), Receipt)
    assert (receipt.passed, receipt.why, receipt.on, receipt.built_there) == (True, "", "rock5b", False)
    assert "aarch64" in receipt.system
    assert receipt.test is not None
    assert receipt.test.ncnn == receipt.test.measured_ncnn


def command_lines() -> list[tuple[str, str]]:
    """(page, command line) of every ncnnkit command in inline code or in a block, in README.md and docs/."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        lines = [line for block in blocks for line in block.splitlines()] + [" ".join(span.split()) for span in spans]
        found += [(page.name, line.split(" #")[0].strip()) for line in lines if re.match(r"ncnnkit [a-zA-Z]", line)]
    return found


@pytest.mark.parametrize(("page", "line"), command_lines(), ids=lambda text: text[:60])
def test_every_command_and_option_of_the_pages_exists(page: str, line: str) -> None:
    words = line.split()[1:]
    if words[0] == "COMMAND":
        return
    known: Any = typer.main.get_command(app)
    while words and words[0] in getattr(known, "commands", {}):
        known = known.resolve_command(None, [words.pop(0)])[1]  # its module is imported now
    alone = getattr(known, "invoke_without_command", False)
    assert alone or not hasattr(known, "commands"), f"{page}: no such command"
    options = {name for parameter in known.params for name in parameter.opts} | {"--help"}
    for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line.partition(" -- ")[0]):  # the rest is another program's
        assert word in options, f"{page}: {known.name} has no {word}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    shutil.copy(DATA / "efficientnet-lite0.onnx", tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for image in sorted((DATA / "images/calibration").iterdir())[:5]:
        shutil.copy(image, tmp_path / "calib")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    quick = 'images="calib/", precisions=("fp32", "int8"), backends="cpu", effort="fast", seconds=0.1, rounds=1'
    exec(block[1].replace('images="calib/"', quick), names)
    assert names["y"].shape == (1000,)
    assert (tmp_path / "out/report.html").exists()
    assert (tmp_path / "myapp/CMakeLists.txt").exists()


def test_the_python_of_the_page_on_preprocessing_prints_the_shown_output(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/preprocessing.md").read_text(encoding="utf-8")
    ((code, printed),) = printing(page)
    exec(code, {})
    assert capsys.readouterr().out == printed


def test_the_recipe_of_the_page_on_preprocessing_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs/preprocessing.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / "r.toml").write_text(block[1])
    how = Preprocess.from_dict(make_recipe({}, tmp_path / "r.toml").preprocess)
    assert how.resize == Fit("letterbox", align="corner", fill=(114,))


def test_the_page_on_preprocessing_lists_every_preset_and_setting() -> None:
    page = (ROOT / "docs/preprocessing.md").read_text(encoding="utf-8")
    for name in PRESETS:
        assert f"| `{name}` |" in page
    for field in dataclasses.fields(Fit)[1:]:
        assert re.search(rf"^\| .*`{field.name}=", page, re.MULTILINE), field.name


# ----------------------------------------------------------------------------------------------- the page on tasks


def test_the_python_of_the_page_on_tasks_prints_the_shown_output(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    blocks = printing(page)
    assert len(blocks) == 2
    for code, printed in blocks:
        exec(code, {"__name__": "page"})
        assert capsys.readouterr().out == printed


def test_the_page_on_tasks_lists_every_task_figure_and_attribute() -> None:
    page = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    for name, task in TASKS.items():
        row = re.search(rf"^\| \[`{name}`\]\(tasks/{name}.md\) \|.*\|.*\| (.*) \|$", page, re.MULTILINE)
        assert row is not None, name
        assert set(re.findall(r"`([^`]+)`", row[1])) <= {*task.requires, "detection"}
        assert set(task.figures) <= set(re.findall(r"`(\w+)`", page)), name


@pytest.mark.parametrize("name", TASKS)
def test_the_page_of_a_task_lists_its_figures_attributes_and_requirements(name: str) -> None:
    page, task = (ROOT / f"docs/tasks/{name}.md").read_text(encoding="utf-8"), TASKS[name]
    assert set(task.figures or OUTPUTS) <= set(re.findall(r"`(\w+)`", page))
    attributes = {f.name for f in dataclasses.fields(task) if isinstance(f.default, int | float)}
    assert attributes <= set(re.findall(r"`(\w+)`", page))
    (required,) = re.findall(r"Required by default: (.*?)[.,] ", page.replace("\n", " "))
    assert task.requires[0] in re.findall(r"`([^`]+)`", required)
    assert all(f"`{each}`" in page for each in task.requires)
    for heading in ("How it is recognised", "Figures", "Labels", "Where int8 loses too much", "Example"):
        assert f"## {heading}\n" in page


def test_the_page_on_detection_lists_every_head() -> None:
    page = (ROOT / "docs/tasks/detection.md").read_text(encoding="utf-8")
    listed = [re.findall(r"`([^`]+)`", row) for row in re.findall(r"^\| (`.*?) \| .* \|$", page, re.MULTILINE)]
    assert set(DETECTORS) <= {name for row in listed for name in row}


@pytest.mark.torch
@pytest.mark.parametrize("name", TASKS)
def test_the_example_on_the_page_of_a_task_prints_the_shown_output(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    page = (ROOT / f"docs/tasks/{name}.md").read_text(encoding="utf-8")
    ((code, printed),) = printing(page)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's exporter
        exec(code, {"__name__": "page"})
    assert capsys.readouterr().out == printed
