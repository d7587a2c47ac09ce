"""The app in Python: its command line, several inputs, many inputs, and its self-test."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pytest
from networks import network, samples, small
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.app import make_app
from ncnnkit.artifact import Artifact
from ncnnkit.device.session import Session
from ncnnkit.samples.preprocess import Preprocess

HOW = Preprocess(resize=(16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
Done = subprocess.CompletedProcess[str]


def infer(app: Path, *words: str | Path, **options: Any) -> Done:
    line = [sys.executable, app / "infer.py", *words]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False, **options)


def answer(app: Path, *words: str | Path) -> dict[str, Any]:
    done = infer(app, *words, "--json", "--loop=1")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def pixels(seed: int, height: int = 40, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app of a small classifier, with examples."""
    home = tmp_path_factory.mktemp("python")
    (home / "images").mkdir()
    for i in range(3):
        Image.fromarray(pixels(i)).save(home / f"images/{i}.png")
    labels = tuple(f"name {i}" for i in range(10))
    model = replace(Artifact.of(small()), ncnn=ncnn.__version__, preprocess=HOW, labels=labels, task="classification")
    make_app(model, home / "app", lang="python", images=home / "images")
    return home / "app"


@pytest.fixture
def app(written: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(written, tmp_path / "app"))


def image(folder: Path, seed: int = 0, name: str = "a.png") -> Path:
    Image.fromarray(pixels(seed)).save(folder / name)
    return folder / name


# ------------------------------------------------------------------------------------------------------- command line


def test_the_model_need_not_be_named(written: Path, tmp_path: Path) -> None:
    """From any folder, and with a link to the program."""
    path = image(tmp_path)
    (tmp_path / "link").symlink_to(written / "infer.py")
    files = [written / f"models/model{ending}" for ending in (".param", ".bin")]
    named = answer(written, *files, path)["top"]
    line = [sys.executable, "link", "a.png", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout)["top"] == answer(written, "in0=" + str(path))["top"] == named


WRONG = {
    "nothing": ([], "give INPUT, or --self-test without INPUT"),
    "a .param alone": (["models/m.param"], "give MODEL.bin after MODEL.param"),
    "a .param and an image": (["models/m.param", "a.png"], "give MODEL.bin after MODEL.param"),
    "three words": (["a", "b", "c"], "c: unexpected argument"),
    "a precision": (["a.png", "--precision=int4"], "--precision=int4: must be one of fp32"),
    "a loop": (["a.png", "--loop=0"], "argument --loop: must be an integer above zero"),
    "not a number": (["a.png", "--top=\u00b2"], "argument --top: must be an integer from 0 to 1000000"),
    "a file to draw to": (["a.png", "--draw=x.tiff"], "argument --draw: must end in .png"),
    "an option": (["a.png", "--streams"], "unrecognized arguments: --streams"),
    "half an option": (["a.png", "--self"], "unrecognized arguments: --self"),
    "a self-test of an input": (["a.png", "--self-test"], "give INPUT, or --self-test without INPUT"),
    "drawing onto an array": (["x.npy", "--draw=x.png"], "--draw needs an image, and INPUT is an array"),
    "an output of a folder": ([".", "y.npy"], "OUTPUT and --draw are for one input"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_command_line_is_one_line(what: str, written: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", samples(1)[0])
    words, text = WRONG[what]
    done = infer(written, *words, cwd=tmp_path)
    assert text in done.stderr
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_file_that_cannot_be_written_is_named(written: Path, tmp_path: Path) -> None:
    for word in (tmp_path / "no/y.npy", f"--draw={tmp_path}/no/y.png"):
        done = infer(written, image(tmp_path), word)
        name = str(word).removeprefix("--draw=")
        assert (done.returncode, done.stderr) == (1, f"infer: {name}: No such file or directory\n")


def test_what_is_reported(written: Path, tmp_path: Path) -> None:
    said = answer(written, image(tmp_path), "--threads=1")
    assert (said["threads"], said["backend"], said["latency_ms"]["runs"]) == (1, "cpu", 1)
    assert said["peak_memory_mb"] > 10
    assert said["ncnn"] == said["measured_ncnn"] == ncnn.__version__


ODD = {
    "complex.npy": "does not contain numbers, but complex64",
    "empty.npz": "does not contain numbers: ",
    "bomb.png": "is not an image: Image size (400000000 pixels) exceeds limit",
    "half.png": "is not an image: image file is truncated",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_one_line(name: str, written: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "complex.npy":
        np.save(path, np.zeros((3, 16, 16), np.complex64))
    elif name == "empty.npz":
        path.write_bytes(b"PK")
    elif name == "bomb.png":
        Image.new("1", (20000, 20000)).save(path)
    else:
        path.write_bytes(image(tmp_path).read_bytes()[:1000])
    done = infer(written, path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"infer: {path}: {ODD[name]}")


@pytest.mark.parametrize("name", ["infer.json", "models/labels.txt", "models/variants.txt", "models/model.bin"])
def test_a_missing_file_of_the_app_is_one_line(name: str, app: Path, tmp_path: Path) -> None:
    (app / name).unlink()
    done = infer(app, image(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"infer: {app / name}: ")
    assert "no such file" in done.stderr.lower()


@pytest.mark.parametrize("name", ["infer.json", "models/variants.txt"])
def test_a_damaged_file_of_the_app_is_one_line(name: str, app: Path, tmp_path: Path) -> None:
    (app / name).write_text((app / name).read_text()[:20] + "\n{")
    done = infer(app, image(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"infer: {app / name}: is damaged")


# ------------------------------------------------------------------------------------------------------ several inputs

PAIR = """
    Input        left  0 1 left 0=16 1=16 2=3
    Input        right 0 1 right 0=8 1=8 2=3
    Input        scale 0 1 scale 0=3
    Pooling      p0 1 1 left a 0=1 1=1 4=1
    Pooling      p1 1 1 right b 0=1 1=1 4=1
    BinaryOp     s0 2 1 a b c 0=1
    BinaryOp     s1 2 1 c scale out0 0=2
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app that takes two images of different sizes and an array. The inputs have other names in the original."""
    home = tmp_path_factory.mktemp("pair")
    for name, seed in (("one", 0), ("two", 10)):
        (home / name).mkdir()
        for i in range(3):
            image(home / name, seed + i, f"{i}.png")
    (home / "list.csv").write_text("one,two,n\n" + "".join(f"one/{i}.png,two/{i}.png,{i}.npy\n" for i in range(3)))
    for i in range(3):
        np.save(home / f"{i}.npy", np.arange(3, dtype=np.float32) + i)
    how = replace(HOW, mean=(0.0,), std=(1.0,))
    model = replace(Artifact.of(network(PAIR)), preprocess=how, fed=("one", "two", "n"))
    make_app(model, home / "app", lang="python", images=home / "list.csv")
    return home


def expected(home: Path, one: Path, two: Path, n: Path) -> NDArray[np.float32]:
    how = replace(HOW, mean=(0.0,), std=(1.0,))
    with Session(home / "app/models/model.param") as net, Image.open(one) as left, Image.open(two) as right:
        found = net.run(how.apply(left), replace(how, resize=(8, 8)).apply(right), np.load(n))
    assert isinstance(found, np.ndarray)
    return found


def test_each_input_has_a_file(pair: Path, tmp_path: Path) -> None:
    files = {"one": image(tmp_path, 1, "l.png"), "two": image(tmp_path, 2, "r.png"), "n": pair / "2.npy"}
    words = [f"{name}={path}" for name, path in files.items()]
    for order in (words, words[::-1]):
        answer(pair / "app", *order, tmp_path / "y.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected(pair, *files.values()))


def test_one_file_with_all_arrays(pair: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: rng.random(shape).astype(np.float32) for name, shape in
        (("n", (3,)), ("one", (1, 3, 16, 16)), ("two", (3, 8, 8)))
    }  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    answer(pair / "app", tmp_path / "x.npz", tmp_path / "y.npy")
    with Session(pair / "app/models/model.param") as net:
        found = net.run(arrays["one"][0], arrays["two"], arrays["n"])
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), found)
    np.savez(tmp_path / "z.npz", one=arrays["one"], two=arrays["two"])
    done = infer(pair / "app", tmp_path / "z.npz")
    assert "z.npz: contains no array n: it has one, two" in done.stderr


def test_missing_files_of_several_inputs(pair: Path, tmp_path: Path) -> None:
    one = image(tmp_path)
    done = infer(pair / "app", f"one={one}", f"n={pair}/0.npy")
    assert (done.returncode, done.stderr) == (
        1, "infer: the model needs one=FILE two=FILE n=FILE: two is missing\n")  # fmt: skip
    assert infer(pair / "app", one).stderr == "infer: the model needs one=FILE two=FILE n=FILE\n"
    every = [f"one={one}", f"two={one}"]
    assert f"{one}: the input n takes arrays (.npy or text), not images" in infer(
        pair / "app", *every, f"n={one}").stderr  # fmt: skip
    assert "nowhere.npy: no such file, or an empty one" in infer(pair / "app", *every, "n=nowhere.npy").stderr
    done = infer(pair / "app", tmp_path)
    assert (done.returncode, "a folder or stdin is for a model with one input" in done.stderr) == (2, True)


def test_the_self_test_of_several_inputs(pair: Path) -> None:
    done = infer(pair / "app", "--self-test", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["examples"] == 3
    assert said["figures"][0]["value"] > 100
    lines = (pair / "app/examples/2.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("file")] == ["2.png", "2-1.png", "2-2.npy"]


# --------------------------------------------------------------------------------------------------------- many inputs


def test_a_folder_is_answered_file_by_file(written: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [image(tmp_path, 0, "a.png"), image(tmp_path, 1, "b/c.png")]
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / ".hidden").write_text("")
    done = infer(written, tmp_path, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == [str(tmp_path / name) for name in ("a.png", "b/c.png", "bad.jpg")]
    assert [row["top"] for row in rows[:2]] == [answer(written, path)["top"] for path in paths]
    assert "bad.jpg: is not an image" in rows[2]["error"]
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    (tmp_path / "bad.jpg").unlink()
    done = infer(written, tmp_path, "--top=1")
    assert done.returncode == 0
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == list(map(str, paths))


def test_frames_from_stdin(written: Path, tmp_path: Path) -> None:
    colour, grey = pixels(0), pixels(1)[:, :, 0]
    stream = b"P6 30 40 255 " + colour.tobytes() + b"P5\n# of a camera\n30 40\n255\n" + grey.tobytes()
    expected = []
    for number, each in enumerate((colour, grey)):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
        expected.append(answer(written, tmp_path / f"{number}.png")["top"])
    line = [sys.executable, written / "infer.py", "-", "--json"]
    done = subprocess.run(list(map(str, line)), input=stream, capture_output=True, check=True)
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert [(row["input"], row["top"]) for row in rows] == [("frame 1", expected[0]), ("frame 2", expected[1])]
    for bad, text in (
        (stream[:3000], b"frame 1"), (b"P6 30", b"stdin: ends within an image"), (b"GIF89a" * 40, b"not a binary PPM"),
        (b"P6 0 4 255 ", b"not a binary PPM"), (b"P6 30 40 65535 " + bytes(3600), b"the last 255"),
    ):  # fmt: skip
        done = subprocess.run(list(map(str, line)), input=bad, capture_output=True, check=False)
        assert done.returncode == 1
        assert text in done.stdout + done.stderr, bad[:20]
        assert done.stderr.count(b"\n") == 1


# ------------------------------------------------------------------------------------------------------- the self-test


def failed(done: Done) -> list[str]:
    return [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAIL")]


def test_a_right_program_passes(written: Path) -> None:
    done = infer(written, "--self-test", "--json", "--loop=2")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["passed"], said["examples"], said["latency_ms"]["runs"]) == (True, 3, 6)
    figures = {row["name"]: row for row in said["figures"]}
    assert set(figures) == {"SQNR of the outputs", "agreement of the answers", "ncnn as new as measured"}
    assert figures["SQNR of the outputs"]["value"] > 100
    assert figures["SQNR of the outputs"]["bound"] == 60
    assert figures["agreement of the answers"]["value"] == 1
    text = infer(written, "--self-test").stdout
    assert text.splitlines()[-1] == "passed: 3 examples"
    assert text.count(" pass\n") == 3


def test_a_corrupted_model_fails(app: Path) -> None:
    """It is refused. Without that check, its outputs are wrong."""
    path = app / "models/model.bin"
    altered = bytearray(path.read_bytes())
    altered[100:300] = np.random.default_rng(0).normal(0, 1, 50).astype(np.float32).tobytes()
    path.write_bytes(altered)
    done = infer(app, "--self-test")
    assert (done.returncode, "model.bin: was damaged or changed" in done.stderr) == (1, True)
    done = infer(app, "--self-test", "--no-check")
    assert done.returncode == 3
    assert "SQNR" in failed(done)


def change(app: Path, edit: Any) -> None:
    facts = json.loads((app / "infer.json").read_text())
    edit(facts)
    (app / "infer.json").write_text(json.dumps(facts))


def test_a_wrong_preprocessing_fails(app: Path) -> None:
    change(app, lambda facts: facts["inputs"][0]["preprocess"].update(color="bgr"))
    done = infer(app, "--self-test")
    assert done.returncode == 3
    assert failed(done)[0] == "SQNR"
    assert done.stdout.splitlines()[-1] == "FAILED: 3 examples"


def test_an_older_library_fails(app: Path) -> None:
    change(app, lambda facts: facts.update(ncnn="1.0.20991231"))
    done = infer(app, "--self-test")
    assert (done.returncode, failed(done)) == (3, ["ncnn"])
    assert f"note: this ncnn, {ncnn.__version__}, is older than 1.0.20991231" in done.stdout


def test_other_answers_fail(app: Path) -> None:
    for path in (app / "examples").glob("*.txt"):
        path.write_text(path.read_text().replace("score ", "score 1"))
    done = infer(app, "--self-test")
    assert (done.returncode, failed(done)) == (3, ["agreement"])


def test_examples_that_cannot_be_used_are_one_line(app: Path) -> None:
    (app / "examples/1.txt").write_text("file 1.png\noutput one two\n")
    done = infer(app, "--self-test")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "1.txt: is damaged: 'output one two'" in done.stderr
    shutil.rmtree(app / "examples")
    done = infer(app, "--self-test")
    assert done.returncode == 1
    assert "contains no examples: write the app from a run, or with --images" in done.stderr
