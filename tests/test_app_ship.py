"""The shipped program is the measured one: the version of ncnn, the files of the model, and the program's start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncnn_library import build, installed, native, run
from networks import network, samples, small
from numpy.typing import NDArray
from PIL import Image
from program_faults import check_fault

from ncnnkit.app import make_app
from ncnnkit.app.facts import RELEASE, facts_of
from ncnnkit.app.models import shipment
from ncnnkit.artifact import Artifact
from ncnnkit.device.session import Session
from ncnnkit.onboard.picture import Fit
from ncnnkit.samples.preprocess import Preprocess

pytestmark = [pytest.mark.app, pytest.mark.slow]

OLD, NEW = "1.0.20230719", "1.0.20261020"
FAKE = Path(__file__).parent / "app/camera.c"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app of a small network that was measured with a newer ncnn than the one with which it is built."""
    folder = tmp_path_factory.mktemp("ship") / "app"
    model = replace(Artifact.of(small()), ncnn=NEW, preprocess=Preprocess(resize=(16, 16)), task="classification")
    make_app(model, folder, extras=("camera", "arrays", "gpu"))
    build(folder, folder / "build/native", "-DCMAKE_BUILD_TYPE=Debug")
    np.save(folder.parent / "x.npy", samples(1)[0])
    return folder


def infer(app: Path, *words: str | Path) -> Done:
    line = [app / "build/native/infer", *words]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)


def answer(app: Path, *words: str | Path) -> dict[str, Any]:
    done = infer(app, app.parent / "x.npy", "--json", *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def configure(app: Path, folder: Path, *options: str) -> Done:
    line = ["cmake", "-S", str(app), "-B", str(folder), "-G", "Ninja", *options]
    return subprocess.run(line, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------------ the same ncnn


def test_an_older_ncnn_is_refused_with_both_versions(app: Path, tmp_path: Path) -> None:
    done = configure(app, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={native()}")
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert f"ncnn {OLD} in" in said
    assert f"is older than {NEW}, with which the model was measured" in said
    assert f"this version with -DINFER_NCNN={OLD}" in said


def test_the_downloaded_release_is_not_older_than_the_measured_one(app: Path, tmp_path: Path) -> None:
    no_ncnn = "-DCMAKE_DISABLE_FIND_PACKAGE_ncnn=ON"
    done = configure(app, tmp_path / "build", no_ncnn, "-DINFER_NCNN=1.0.20991231")
    assert done.returncode != 0
    assert f"the release that would be downloaded, {RELEASE.version}, is older than 1.0.20991231" in " ".join(
        done.stderr.split()
    )


def test_the_downloaded_release_is_not_older_than_the_measuring_package() -> None:
    import ncnn

    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert parts(RELEASE.version) >= parts(ncnn.__version__)


def test_an_older_ncnn_is_named_by_the_program(app: Path) -> None:
    said = answer(app)
    assert (said["ncnn"], said["measured_ncnn"]) == (OLD, NEW)
    note = f"this ncnn, {OLD}, is older than {NEW}, with which the model was measured: answers and times may differ"
    assert said["notes"] == [note]
    assert f"note: {note}\n" in infer(app, app.parent / "x.npy").stdout


# -------------------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("name", ["model.bin", "model.param"])
def test_an_altered_file_is_refused(name: str, app: Path, tmp_path: Path) -> None:
    models = Path(shutil.copytree(app / "models", tmp_path / "models"))
    altered = bytearray((models / name).read_bytes())
    if name == "model.bin":
        altered[100:2100] = np.random.default_rng(0).bytes(2000)
    else:
        altered.extend(b"\n")  # ncnn reads the same network from it
    (models / name).write_bytes(altered)
    line: list[str | Path] = [models / "model.param", models / "model.bin", app.parent / "x.npy", "--loop=1"]
    done = infer(app, *line)
    assert done.returncode == 1
    assert f"{name}: was damaged or changed: its CRC-32 is " in done.stderr
    assert "copy it again, or give --no-check" in done.stderr
    assert done.stderr.count("\n") == 1
    if name == "model.param":
        assert infer(app, *line, "--no-check").returncode == 0


def test_the_model_need_not_be_named(app: Path) -> None:
    named = answer(app, "--top=1")
    files = [app / f"models/model{ending}" for ending in (".param", ".bin")]
    done = infer(app, *files, app.parent / "x.npy", "--json", "--top", "1")
    assert json.loads(done.stdout)["top"] == named["top"]


def test_an_option_and_its_value_may_be_separate_words(app: Path) -> None:
    assert answer(app, "--loop", "2")["latency_ms"]["runs"] == 2
    done = infer(app, app.parent / "x.npy", "--loop")
    assert done.returncode == 2
    assert "--loop needs a value: --loop=VALUE" in done.stderr


# --------------------------------------------------------------------------------------------------------- fast starts


@pytest.mark.vulkan
def test_a_gpus_pipelines_are_compiled_once(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an ncnn that can store them."""
    if installed("current") is None:
        pytest.skip("needs scripts/ncnn-library current")
    program = build(app, tmp_path / "build", "-DCMAKE_BUILD_TYPE=Debug", library="current") / "infer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def start() -> dict[str, Any]:
        line = [program, *(app / f"models/model{e}" for e in (".param", ".bin")), app.parent / "x.npy", "--gpu=any"]
        done = subprocess.run([*map(str, line), "--json", "--loop=1"], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    first, second = start(), start()
    assert (first["warm"], second["warm"]) == (False, True)
    assert first["top"] == second["top"]
    (stored,) = (tmp_path / "cache/ncnn-infer").iterdir()
    stored.write_bytes(stored.read_bytes()[:-100])
    assert start()["warm"] is False, "a damaged file is not used"
    assert start()["warm"] is True, "and replaced"


# -------------------------------------------------------------------------------------------------------- many inputs

WIDTH, HEIGHT = 64, 48


def yuyv(number: int) -> NDArray[np.uint8]:
    """A frame as tests/app/camera.c makes it, (height, width, 2)."""
    values = (number * 40 + np.arange(HEIGHT * WIDTH * 2) % 199) % 256
    return values.astype(np.uint8).reshape(HEIGHT, WIDTH, 2)


def rgb(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BT.601 for video, in integer arithmetic."""
    y = 298 * (frame[..., 0].astype(int) - 16)
    u, v = (np.repeat(frame[:, start::2, 1].astype(int) - 128, 2, axis=1) for start in (0, 1))
    planes = (y + 409 * v, y - 100 * u - 208 * v, y + 516 * u)
    return np.asarray(np.clip(np.stack(planes, axis=-1) + 128 >> 8, 0, 255), np.uint8)


@pytest.fixture(scope="module")
def expected(app: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The answers to the same frames as images in a folder, one after the other."""
    folder = tmp_path_factory.mktemp("frames")
    for number in range(3):
        Image.fromarray(rgb(yuyv(number))).save(folder / f"{number}.ppm")
    done = infer(app, folder, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["input"]).name for row in rows] == ["0.ppm", "1.ppm", "2.ppm"]
    return [row["top"] for row in rows]


def answers(done: Done) -> list[Any]:
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == ["frame 1", "frame 2", "frame 3"]
    return [row["top"] for row in rows]


def test_a_file_of_raw_frames(app: Path, expected: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a.yuyv").write_bytes(b"".join(yuyv(number).tobytes() for number in range(3)))
    done = infer(app, tmp_path / "a.yuyv", "--camera=64x48", "--json")
    assert done.returncode == 0
    assert answers(done) == expected
    done = infer(app, tmp_path / "a.yuyv", "--camera=64x50")
    assert "a.yuyv: is not a file of YUYV frames of this size" in done.stderr
    for value in ("64", "64x", "x48", "1x1", "64x48x3"):
        assert infer(app, tmp_path / "a.yuyv", f"--camera={value}").returncode == 2


def test_a_v4l2_camera(app: Path, expected: list[Any], tmp_path: Path) -> None:
    """A fake camera with rows longer than the width of a frame. It ends after three frames."""
    run("gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "camera.so", FAKE, "-ldl")
    os.mkfifo(tmp_path / "video0")
    line = [app / "build/native/infer", tmp_path / "video0", "--camera=640x480", "--json"]
    done = subprocess.run(
        list(map(str, line)), capture_output=True, text=True, check=False,
        env={**os.environ, "LD_PRELOAD": str(tmp_path / "camera.so")},
    )  # fmt: skip
    assert answers(done) == expected
    assert done.returncode == 1
    assert "video0: gave no frame for 10 s" in done.stderr


def test_files_that_are_not_cameras(app: Path) -> None:
    assert "/dev/null: is not a camera: " in infer(app, "/dev/null", "--camera=64x48").stderr
    assert "nowhere: cannot be opened: No such file" in infer(app, "nowhere", "--camera=64x48").stderr


# ----------------------------------------------------------------------------------------------------- several inputs


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app of a network with three inputs (an image, a smaller one with channels last, numbers), and samples."""
    folder = tmp_path_factory.mktemp("several")
    graph = network(
        """
        Input       left  0 1 in0 0=20 1=16 2=3
        Input       right 0 1 in1 0=3 1=10 2=8
        Input       shift 0 1 in2 0=4
        Convolution c0    1 1 in0 a 0=4 1=3 5=1 6=108 9=1
        Pooling     p0    1 1 a   b 0=1 4=1
        Convolution c1    1 1 in1 c 0=4 1=1 5=1 6=32
        Pooling     p1    1 1 c   d 0=1 4=1
        BinaryOp    add   2 1 b d e 0=0
        BinaryOp    sum   2 1 e in2 out0 0=0
        """
    )
    how = Preprocess(Fit("letterbox", (16, 20), fill=(114,)), "opencv", mean=(0.5,), std=(0.25,))
    made = replace(Artifact.made(graph, "fp32", preprocess=how, task="classification"), fed=("left", "right", "shift"))
    rng = np.random.default_rng(0)
    rows = ["left,right,shift"]
    for i in range(3):
        for name, size in (("left", (50, 40 + i)), ("right", (30, 20 + i))):
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}-{i}.png")
        np.save(folder / f"shift-{i}.npy", rng.normal(size=4).astype(np.float32))
        rows.append(f"left-{i}.png,right-{i}.png,shift-{i}.npy")
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    make_app(made, folder / "app", images=folder / "samples.csv")
    build(folder / "app", folder / "app/build/native", "-DCMAKE_BUILD_TYPE=Debug")
    inputs = facts_of(shipment(made)).inputs
    with Session(made) as net:
        for i in range(3):
            tensors = [np.load(folder / f"shift-{i}.npy")]
            for each in inputs[1::-1]:
                assert each.preprocess is not None
                with Image.open(folder / f"{each.name}-{i}.png") as image:
                    tensors.insert(0, each.preprocess.apply(image))
            np.save(folder / f"expected-{i}.npy", net.run(*tensors))
            np.save(folder / f"left-{i}.npy", tensors[0])
    return folder


def test_a_file_for_each_input(several: Path, tmp_path: Path) -> None:
    for i in range(3):
        words = [f"shift={several}/shift-{i}.npy", f"left={several}/left-{i}.png", f"right={several}/right-{i}.png"]
        done = infer(several / "app", *words, tmp_path / "y.npy", "--json", f"--draw={tmp_path}/drawn.png")
        assert done.returncode == 0, done.stderr
        expected = np.load(several / f"expected-{i}.npy")
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
        assert json.loads(done.stdout)["top"][0]["index"] == expected.argmax()
        with Image.open(tmp_path / "drawn.png") as drawn, Image.open(several / f"left-{i}.png") as left:
            assert drawn.size == left.size, "it is drawn onto the first image"
        words[1] = f"left={several}/left-{i}.npy"
        assert infer(several / "app", *words, tmp_path / "z.npy").returncode == 0
        np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), np.load(tmp_path / "y.npy"))


def test_the_examples_of_several_inputs(several: Path) -> None:
    done = infer(several / "app", "--self-test", "--json", "--loop=1")
    said = json.loads(done.stdout)
    assert done.returncode == 0
    assert said["examples"] == 3
    assert [figure["passed"] for figure in said["figures"]] == [True] * 3


def test_the_table_of_several_inputs(several: Path) -> None:
    words = [f"{name}={several}/{name}-0.{ending}" for name, ending in WORDS]
    rows = run(several / "app/run.sh", *words, "--loop=1").splitlines()
    assert [row.split()[0] for row in rows] == ["variant", "fp32-cpu", "fp16-cpu", "bf16-cpu"]


WORDS = (("left", "png"), ("right", "png"), ("shift", "npy"))
WRONG = {
    "one is missing": (["left=left-0.png", "right=right-0.png"], 2, "there is no shift=FILE"),
    "one is unknown": (
        ["left=left-0.png", "right=right-0.png", "shift=shift-0.npy", "y.npy", "up=left-0.png"],
        2,
        "is neither an input nor OUTPUT",
    ),
    "one is no file": (["left=no.png", "right=right-0.png", "shift=shift-0.npy"], 1, "no.png: cannot be read"),
    "an image for an array": (
        ["left=left-0.png", "right=right-0.png", "shift=left-0.png"],
        1,
        "shift=left-0.png: this input takes arrays (.npy or text), not images",
    ),
    "a wrong shape": (
        ["left=left-0.png", "right=left-0.npy", "shift=shift-0.npy"],
        1,
        "right=left-0.npy: has shape 3x16x20, but the network takes 8x10x3",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_files_for_inputs(fault: str, several: Path) -> None:
    words, status, match = WRONG[fault]
    line = [several / "app/build/native/infer", *words]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False, cwd=several)
    check_fault(done, match, status)


def test_a_bad_image_in_a_folder(app: Path, tmp_path: Path) -> None:
    Image.fromarray(rgb(yuyv(0))).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("no image")
    Image.fromarray(rgb(yuyv(1))).save(tmp_path / "c.png")
    done = infer(app, tmp_path)
    assert done.returncode == 1
    assert [Path(line.split("\t")[0]).name for line in done.stdout.splitlines()] == ["a.png", "c.png"]
    assert "b.jpg: is not a JPEG" in done.stderr
