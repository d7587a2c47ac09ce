"""The app in Python: its answers equal the package's, and its preprocessing is bit-exact."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ncnn
import numpy as np
import PIL
import pytest
from app_parts import app_part
from networks import SMALL, network, samples, small
from PIL import Image
from program_faults import check_fault
from small_run import PREPROCESS, edit

from ncnnkit.app import make_app
from ncnnkit.app.bundling import standalone
from ncnnkit.artifact import Artifact
from ncnnkit.device.session import Session
from ncnnkit.model import ncnnfile
from ncnnkit.onboard.picture import Fit, Tiles
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS


@pytest.fixture(scope="module")
def python_app(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python") / "app"
    make_app(run_folder, folder, variant="fp32", lang="python")
    return folder


def infer(folder: Path, *words: str | Path, model: str = "m-fp32") -> subprocess.CompletedProcess[str]:
    files = (folder / f"models/{model}.param", folder / f"models/{model}.bin")
    line = [sys.executable, folder / "infer.py", *files, *words]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True)


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def test_python_gives_the_same_answers(python_app: Path, run_folder: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    for precision in ("fp32", "int8"):
        done = infer(
            python_app, image, tmp_path / "y.npy", "--json", f"--precision={precision}", "--threads=1",
            model=f"m-{precision}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        with Session(run_folder / f"m-{precision}.param", precision=precision, threads=1) as net:
            expected = net.run(PREPROCESS.apply(Image.open(image)))
        assert isinstance(expected, np.ndarray)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
        best = [int(i) for i in np.argsort(-expected)[:5]]
        assert [row["label"] for row in said["top"]] == [f"name {i}" for i in best]
        assert said["backend"] == "cpu"
        assert 0 < said["latency_ms"]["min"] <= said["latency_ms"]["median"] <= said["latency_ms"]["p90"]


def test_python_runs_a_model_at_its_own_precision(python_app: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    for precision in ("fp32", "fp16", "int8"):
        assert infer(python_app, image, model=f"m-{precision}").stdout.startswith(f"m, {precision}, cpu")
    line = [sys.executable, python_app / "infer.py", python_app / "models/m-int8.param"]
    line += [python_app / "models/m-fp32.bin", image]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True)
    assert "m-fp32.bin: does not belong to " in done.stderr


def test_python_refuses_a_cast_from_another_type(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="fp32", lang="python")
    path = tmp_path / "app/models/m-fp32.param"
    magic, counts, *layers = path.read_text().replace(" out0", " last").splitlines()
    layers.append("Cast cast 1 1 last out0 0=4 1=1 31=7")
    path.write_text("\n".join([magic, " ".join(str(int(n) + 1) for n in counts.split()), *layers]) + "\n")
    done = infer(tmp_path / "app", picture(tmp_path / "a.png"), "--no-check")
    assert done.returncode == 1
    for text in (
        "layer fc outputs float, but Cast cast reads bf16", f"here: ncnn {ncnn.__version__}, --precision=fp32",
        f"it needs: ncnn {ncnn.__version__} or newer, --precision=fp32",
    ):  # fmt: skip
        assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_refuses_an_altered_file(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="fp32", lang="python")
    path = tmp_path / "app/models/m-fp32.bin"
    altered = bytearray(path.read_bytes())
    altered[100] ^= 1
    path.write_bytes(altered)
    done = infer(tmp_path / "app", picture(tmp_path / "a.png"))
    assert done.returncode == 1
    assert "m-fp32.bin: was damaged or changed: its CRC-32 is " in done.stderr
    assert infer(tmp_path / "app", picture(tmp_path / "a.png"), "--no-check").returncode == 0


def test_python_names_an_older_ncnn(own_run: Path, tmp_path: Path) -> None:
    document = json.loads((own_run / "run.json").read_text())
    document["devices"][0]["machine"]["ncnn"] = "1.0.20991231"
    edit(own_run, devices=document["devices"])
    make_app(own_run, tmp_path / "app", variant="fp32", lang="python")
    said = infer(tmp_path / "app", picture(tmp_path / "a.png")).stdout
    assert f"note: this ncnn, {ncnn.__version__}, is older than 1.0.20991231, with which the model was measured" in said


def test_python_for_people(python_app: Path, tmp_path: Path) -> None:
    done = infer(python_app, picture(tmp_path / "a.jpg"), tmp_path / "y.txt", "--top=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m, fp32, cpu")
    assert done.stdout.count("name ") == 3
    assert len((tmp_path / "y.txt").read_text().split()) == 10


@pytest.fixture(scope="module")
def script(python_app: Path) -> ModuleType:
    """The part of the app that reads inputs."""
    return app_part(python_app, "inputs")


SWAPS = int(PIL.__version__.partition(".")[0]) >= 13
SIZES = [(1, 1), (7, 5), (16, 16), (64, 48), (47, 103), (300, 20), (224, 224)]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "I;16", "I", "F"])
def test_python_prepares_images_to_the_bit(mode: str, interpolation: str, script: ModuleType, tmp_path: Path) -> None:
    for number, size in enumerate(SIZES):
        how = Preprocess(
            resize=(None, 24, (31, 17))[number % 3], crop=((20, 22), None)[number % 2], interpolation=interpolation,
            color=("rgb", "bgr", "gray")[number % 3], mean=(0.4,), std=(0.3,),
        )  # fmt: skip
        path = tmp_path / ("a.tif" if mode in ("I", "F") else "a.png")
        if mode in ("I", "F"):
            white = (255, 65535, 1 if mode == "F" else 0x7FFFFFFF)[number % 3]
            deep = np.random.default_rng(number).random(size[::-1]) * white
            Image.fromarray(deep.astype(np.int32 if mode == "I" else np.float32)).save(path)
        elif mode == "I;16":
            noise = np.random.default_rng(number).integers(0, 65536, size[::-1], np.uint16)
            Image.fromarray(noise).save(path)
        else:
            picture(path, mode, size)
        with Image.open(path) as image:
            expected = how.apply(image)
        (found,), _ = script.prepare(script.read_image(path), {**how.to_dict(), "may_swap": SWAPS})
        np.testing.assert_array_equal(found, expected, err_msg=f"{size} {how}")


MODES = ["1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "keyed", "GIF"]


def image_of_mode(mode: str, path: Path) -> None:
    """A file that Pillow opens as an image of this mode. ``keyed`` and ``GIF`` have one transparent colour."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    if mode == "I;16B":
        path.write_bytes(big_endian_tiff(rng.integers(0, 65536, (9, 7), np.uint16)))
    elif mode in ("I", "I;16", "F"):
        kind, low, high = {"I": (np.int32, -5, 2**31), "I;16": (np.uint16, 0, 65536), "F": (np.float32, -20, 300)}[mode]
        Image.fromarray(rng.uniform(low, high, (9, 7)).astype(kind)).save(path, "TIFF")
    elif mode == "LAB":
        Image.frombytes("LAB", (7, 9), rng.bytes(7 * 9 * 3)).save(path, "TIFF")
    elif mode in ("keyed", "GIF"):
        image = colours.convert("P" if mode == "GIF" else "RGB")
        image.save(path, "GIF" if mode == "GIF" else "PNG", transparency=3 if mode == "GIF" else (1, 2, 3))
    elif mode in ("LA", "PA"):
        colours.putalpha(Image.fromarray(rng.integers(0, 256, (9, 7), np.uint8)))
        colours.convert("LA").convert(mode).save(path, "TIFF")
    else:
        colours.convert(mode).save(path, "TIFF")


def big_endian_tiff(values: np.ndarray[Any, Any]) -> bytes:
    height, width = values.shape
    data = values.astype(">u2").tobytes() + bytes(-values.size * 2 % 4)
    tags = ((256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height))
    rows = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in (*tags, (279, values.size * 2))]
    directory = struct.pack(">H", len(rows)) + b"".join(rows) + bytes(4)
    return b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + directory


@pytest.mark.parametrize("mode", MODES)
def test_python_reads_every_mode_as_the_host(mode: str, script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "image"
    image_of_mode(mode, path)
    with Image.open(path) as image:
        assert image.mode == {"keyed": "RGB", "GIF": "P"}.get(mode, mode)
    for color in ("rgb", "gray", "rgba"):
        how = Preprocess(color=color)
        with Image.open(path) as image:
            expected = how.apply(image)
        (found,), _ = script.prepare(script.read_image(path), {**how.to_dict(), "may_swap": SWAPS})
        np.testing.assert_array_equal(found, expected, err_msg=color)
        assert np.unique(found).size > 1


WAYS = [
    PRESETS["yolo"].fitted(48, 64), PRESETS["yolox"].fitted(48, 64), PRESETS["paddleocr-rec"], PRESETS["mtcnn"],
    PRESETS["paddleocr-det"], PRESETS["retinaface"].fitted(40, 40), Preprocess((20, 30), "opencv", color="rgba"),
    Preprocess((20, 30), "bicubic", color="bgra", layout="hwc"), Preprocess((20, 30), "opencv", color="gray"),
    Preprocess(Fit("letterbox", (40, 30), fill=(9, 8, 7), grow=False), layout="hwc"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P"])
def test_python_fits_images_to_the_bit(mode: str, script: ModuleType, tmp_path: Path) -> None:
    for size in SIZES:
        path = picture(tmp_path / "a.png", mode, size)
        if mode in ("RGBA", "LA"):
            with Image.open(path) as image:
                image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, size[::-1], np.uint8)))
                image.save(path)
        for how in WAYS:
            with Image.open(path) as image:
                expected = how.apply(image)
            card = json.loads(json.dumps(how.to_dict()))
            (found,), _ = script.prepare(script.read_image(path), {**card, "may_swap": SWAPS})
            np.testing.assert_array_equal(found, expected, err_msg=f"{size} {how}")


def test_python_cuts_tiles(script: ModuleType, tmp_path: Path) -> None:
    how = Preprocess(crop=Tiles((16, 16), overlap=2))
    path = picture(tmp_path / "a.png", "RGB", (40, 30))
    card = {**json.loads(json.dumps(how.to_dict())), "may_swap": SWAPS}
    with Image.open(path) as image:
        for tile in range(len(how.places(30, 40))):
            (found,), _ = script.prepare(script.read_image(path), card, tile)
            np.testing.assert_array_equal(found, how.apply(image, tile))
    for wrong in (None, 99):
        with pytest.raises(script.Failure, match="is cut into tiles: choose one with --tile=0 to --tile=5"):
            script.prepare(script.read_image(path), card, wrong)


def test_an_app_for_arrays_that_it_normalises(tmp_path: Path) -> None:
    how = Preprocess(color="array", mean=(1.0, 2.0, 3.0), std=(0.5,), arrays=True)
    made = Artifact.made(small(), "fp32", preprocess=how)
    values = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    np.save(tmp_path / "x.npy", values)
    make_app(made, tmp_path / "app", lang="python")
    done = infer(tmp_path / "app", tmp_path / "x.npy", tmp_path / "y.npy", model="model")
    assert done.returncode == 0, done.stderr
    with Session(made) as net:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net.run(how.apply_to_array(values)))
    picture(tmp_path / "a.png")
    assert "takes arrays" in infer(tmp_path / "app", tmp_path / "a.png", model="model").stderr
    make_app(made, tmp_path / "cpp")
    assert "mean[] = {1.0f, 2.0f, 3.0f}" in (tmp_path / "cpp/src/arrays.cpp").read_text()
    assert "Its values are prepared as above." in (tmp_path / "cpp/README.md").read_text()


FAULTS = {
    "no such image": (["nowhere.png"], "nowhere.png"),
    "no image": (["text.png"], "is not an image"),
    "a broken PPM": (["broken.ppm"], "ends too early"),
    "a wrong shape": (["wrong.npy"], "has shape 3x8x8, but the network takes 3x16x16"),
    "NaN": (["nan.txt"], "contains NaN or infinity"),
    "words": (["words.txt"], "does not contain numbers"),
    "no GPU": (["good.npy", "--gpu"], "--gpu: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_python_faults_are_one_line(
    fault: str, python_app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path)
    words, match = FAULTS[fault]
    check_fault(infer(python_app, *words), match)


def make_inputs(folder: Path) -> None:
    (folder / "text.png").write_text("no image")
    (folder / "broken.ppm").write_bytes(b"P6 40 30 255\n" + b"x" * 100)
    np.save(folder / "wrong.npy", samples(1, (3, 8, 8))[0])
    np.save(folder / "good.npy", samples(1)[0])
    (folder / "nan.txt").write_text("nan " * 768)
    (folder / "words.txt").write_text("one two")


def test_int8_made_for_cpus_is_not_run_on_a_gpu(python_app: Path, tmp_path: Path) -> None:
    network_part = app_part(python_app, "network")
    facts = json.loads((python_app / "infer.json").read_text())
    for text, refused in (
        ("Convolution c 1 1 a b 0=8 1=3 4=1 8=2 18=1.270000e+02", True),
        ("Convolution c 1 1 a b 0=8 1=3 4=1 8=2 18=0.000000e+00", False),
        ("Gemm c 1 1 a b 18=2", False),
    ):
        (tmp_path / "m.param").write_text(f"7767517\n1 1\n{text}\n")
        assert network_part.only_for_cpus(tmp_path / "m.param", facts) is refused, text
    ncnnfile.save(network(SMALL), tmp_path / "m.param")
    assert not network_part.only_for_cpus(tmp_path / "m.param", facts)


def test_the_python_app_does_not_need_ncnnkit(python_app: Path) -> None:
    files = {path.relative_to(python_app).as_posix(): path.read_text() for path in python_app.rglob("*.py")}
    assert not any(re.search(r"^\s*(from|import) ncnnkit", text, re.MULTILINE) for text in files.values())
    assert "def check_storages(" in files["parts/storages.py"]
    assert "def picture(" in files["parts/task.py"]
    assert not {"parts/boxes.py", "parts/ctc.py"} & files.keys(), "of other tasks"


def test_python_files_contain_only_used_code() -> None:
    text = '''"""Main."""

from __future__ import annotations

from ncnnkit.onboard.picture import OPENCV, Placement

print(OPENCV, Placement((1, 1), (1, 1), 0, 0, (1, 1)).scale)
'''
    files = standalone(text, "tensor")
    assert files.keys() == {"", "parts/picture.py"}
    assert "from parts.picture import OPENCV, Placement\n" in files[""]
    part = files["parts/picture.py"]
    assert "def scale(" in part
    assert not re.search(r"def to_image|class Fit|import math|CHANNELS", part)
    assert files[""].startswith('"""Main."""\n\nfrom __future__ import annotations\n\nfrom parts')
