"""The guides in docs/: their commands run, and the messages and terms that they explain exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tomllib
from pages import DATA, ROOT, blocks, printing, run_block, yolo_and_photographs

import ncnnkit as nk
from ncnnkit.app.facts import RELEASE
from ncnnkit.device.board import OLDEST_PYTHON
from ncnnkit.device.wheels import OLDEST_GLIBC
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe

HOW_TO = sorted(path.stem for path in (ROOT / "docs/how-to").glob("*.md"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the how-tos: model.onnx, calib/, eval/, samples.npy, x.npy and a run in out/."""
    folder = tmp_path_factory.mktemp("guides")
    shutil.copy(DATA / "efficientnet-lite0.onnx", folder / "model.onnx")
    for name, source, every in (("calib", "calibration", 5), ("eval", "evaluation", 8)):
        (folder / name).mkdir()
        for path in sorted((DATA / "images" / source).iterdir())[::every]:
            shutil.copy(path, folder / name)
    samples = np.random.default_rng(0).normal(0, 1, (8, 3, 224, 224)).astype(np.float32)
    np.save(folder / "samples.npy", samples)
    np.save(folder / "x.npy", samples[0])
    recipe = Recipe(
        str(folder / "model.onnx"), images=str(folder / "calib"), eval_images=str(folder / "eval"), backends=("cpu",),
        precisions=("fp32", "int8", "mixed"), effort="fast", seconds=0.05, rounds=1,
    )  # fmt: skip
    run(recipe, folder / "out")
    return folder


QUICK = {"int8-is-slower": ("--backend cpu --seconds 3", "--backend cpu --seconds 0.3 --precision int8")}
"""Of a page: options of a command, and those for the tests. `tune` starts processes for each candidate."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", HOW_TO)
def test_the_commands_of_a_how_to_run(page: str, made: Path) -> None:
    commands, swap = blocks(f"how-to/{page}"), QUICK.get(page, ("", ""))
    assert swap[0] in "".join(commands)
    for number in range(len(commands)):
        run_block(number, made, page=f"how-to/{page}", swap=swap)


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO)
def test_the_python_of_a_how_to_prints_the_shown_output(
    page: str, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8")
    assert len(printing(text)) == text.count("```python"), "each has what it prints below it"
    monkeypatch.chdir(made)
    for code, printed in printing(text):
        exec(code, {"__name__": "page"})
        assert capsys.readouterr().out == printed


def test_every_how_to_has_commands_that_run() -> None:
    assert HOW_TO
    for page in HOW_TO:
        assert blocks(f"how-to/{page}") or printing((ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8")), page


# ------------------------------------------------------------------------------------------------- ResNet50, and YOLO


RANDOM = ("torchvision:resnet50", "torchvision:resnet50 --weights none --shape 3,64,64")
"""The replacement of a command's model in the tests, because weights must not be downloaded."""


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the earlier blocks of the page ran, and their output."""
    folder = tmp_path_factory.mktemp("resnet50")
    for name, source in (("calib", "calibration"), ("eval", "evaluation")):
        (folder / name).mkdir()
        for path in sorted((DATA / "images" / source).glob("*-[12].jpg"))[:8]:
            shutil.copy(path, folder / name)
    shutil.copy(DATA / "images/evaluation/chelsea-1.jpg", folder / "cat.jpg")
    last = next(i for i, block in enumerate(blocks("resnet50")) if "ncnnkit app" in block)
    return folder, "".join(run_block(i, folder, page="resnet50", swap=RANDOM) for i in range(last))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_steps_of_resnet50(resnet50: tuple[Path, str]) -> None:
    folder, said = resnet50
    page = (ROOT / "docs/resnet50.md").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^`(138 layers became \d+)`", page, re.MULTILINE)
    assert layers in said
    for name in ("resnet50", "resnet50-opt", "resnet50-from-table", "resnet50-int8"):
        assert nk.load(folder / f"{name}.param").outputs == ["out0"]
    assert (folder / "out/report.html").exists()


@pytest.mark.torch
@pytest.mark.app
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_program_of_resnet50(resnet50: tuple[Path, str]) -> None:
    folder, _ = resnet50
    app, verified = [i for i, block in enumerate(blocks("resnet50")) if "myapp" in block]
    assert len(run_block(app, folder, page="resnet50").splitlines()) >= 8
    run_block(verified, folder, page="resnet50")
    assert (folder / "myapp/run.sh").exists()


@pytest.mark.app
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_detector_on_the_page_of_yolo(tmp_path: Path) -> None:
    yolo_and_photographs(tmp_path, "png")
    for number in range(len(blocks("yolo-on-a-board"))):
        run_block(number, tmp_path, page="yolo-on-a-board")
    assert (tmp_path / "found.png").exists()
    assert (tmp_path / "detect/receipt.json").exists()


# ----------------------------------------------------------------------------------- messages, words and versions


def sources() -> str:
    """All texts that ncnnkit may print, with the parts of split strings joined."""
    files = [path for path in (ROOT / "src/ncnnkit").rglob("*") if path.suffix in (".py", ".jinja", ".cpp", ".h")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_every_message_of_the_page_on_troubleshooting_is_printed_somewhere() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 30
    code = sources()
    for message in messages:
        for part in filter(None, map(str.strip, message.split("…"))):
            assert part in code, message


def test_every_message_that_a_how_to_quotes_is_printed_somewhere() -> None:
    code = sources()
    page = (ROOT / "docs/how-to/accuracy-collapsed.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^\| .* \| "([^"]+)" \|$', page, re.MULTILINE)
    assert quoted
    for message in quoted:
        for part in filter(None, map(str.strip, message.split("…"))):
            assert part in code, message


def test_the_glossary_is_sorted_and_unique() -> None:
    page = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    words = [word.lower() for word in re.findall(r"^\*\*(.+?)\*\*:", page, re.MULTILINE)]
    assert words == sorted(set(words))


def test_the_page_on_versions_lists_the_requirements() -> None:
    page = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w-]+)[^|]* \| ([\d.]+) \|", page, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = dict(re.findall(r"^(\S+)>=([\d.]+)", "\n".join(project["dependencies"]), re.MULTILINE))
    for name in ("ncnn", "numpy", "Pillow", "onnxruntime", "onnx-ir"):
        if name in wanted:
            assert rows[name] == wanted[name], name
    assert f"| Python, where you type | {project['requires-python'].removeprefix('>=')} |" in page
    assert f"| Python, on the board | {'.'.join(map(str, OLDEST_PYTHON))} |" in page
    assert f"| glibc, on the board | 2.{OLDEST_GLIBC} |" in page
    assert RELEASE.version in page
