"""The app, compiled with ncnn's C++ library and run. Its answers equal Python's, and nothing makes it crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncnn_library import build, installed, library_options, run
from networks import small
from numpy.typing import NDArray
from PIL import Image
from program_faults import check_fault

import ncnnkit.app
from ncnnkit.app import make_app, values_of
from ncnnkit.app.facts import facts_of
from ncnnkit.app.models import shipment
from ncnnkit.app.steps import Steps
from ncnnkit.app.writing import templates
from ncnnkit.artifact import Artifact
from ncnnkit.device.session import Session
from ncnnkit.onboard.picture import Fit, Tiles
from ncnnkit.pipeline import run as run_pipeline
from ncnnkit.recipe import Recipe
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(900)]

DATA = Path(__file__).parents[1] / "src/ncnnkit/data"
PHOTOGRAPHS = sorted((DATA / "images").glob("*/*.jpg"))
CAT = DATA / "images/evaluation/chelsea-1.jpg"
NAME = "efficientnet-lite0"
HOW = PRESETS[NAME]

Done = subprocess.CompletedProcess[str]
Array = NDArray[Any]


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of EfficientNet-Lite0, quantised at a low effort."""
    out = tmp_path_factory.mktemp("lite0") / "out"
    recipe = Recipe(
        str(DATA / f"{NAME}.onnx"), images=str(DATA / "images/calibration"), eval_images=str(CAT.parent),
        backends=("cpu",), precisions=("fp32", "fp16", "int8"), seconds=0.1, rounds=1, effort="fast",
    )  # fmt: skip
    run_pipeline(recipe, out)
    return out


@pytest.fixture(scope="session")
def app(lite0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built app."""
    folder = tmp_path_factory.mktemp("app") / "lite0"
    make_app(lite0, folder, variant="int8", extras=("streams", "arrays", "gpu"))
    build(folder, folder / "build/native")
    return folder


@pytest.fixture(scope="session")
def sanitized(lite0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app with an embedded int8 model, built with AddressSanitizer and UBSan."""
    folder = tmp_path_factory.mktemp("sanitized") / "lite0"
    make_app(lite0, folder, variant="int8", embed=True, extras=("streams", "arrays"))
    flags = "-g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
    build(folder, folder / "build/native", "-DCMAKE_BUILD_TYPE=", f"-DCMAKE_CXX_FLAGS={flags}")
    return folder


def infer(app: Path, *words: str | Path, precision: str = "fp32", **options: Any) -> Done:
    """Run the program on the model of a precision."""
    model = app / f"models/{NAME}-{precision}"
    own = [f"--precision={precision}", "--loop=1"]
    line = [app / "build/native/infer", f"{model}.param", f"{model}.bin", *own, *words]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, **options)


def answer(app: Path, *words: str | Path, precision: str = "fp32") -> dict[str, Any]:
    done = infer(app, *words, "--json", precision=precision)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# ------------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.05)])
def test_the_answers_are_pythons(precision: str, near: float, app: Path, lite0: Path, tmp_path: Path) -> None:
    """fp16 and int8 agree within a tolerance, because two versions of ncnn round at different places."""
    labels = (lite0 / "labels.txt").read_text().splitlines()
    with Session(lite0 / f"{NAME}-{precision}.param", precision=precision, threads=2) as net:
        for path in PHOTOGRAPHS[::4]:
            with Image.open(path) as image:
                expected = net.run(HOW.apply(image))
            assert isinstance(expected, np.ndarray)
            said = answer(app, path, tmp_path / "y.npy", precision=precision)
            found = np.load(tmp_path / "y.npy")
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=near, err_msg=path.name)
            best = np.argsort(-expected)[:5]
            assert said["top"][0]["label"] == labels[best[0]], path.name
            scores = [row["score"] for row in said["top"]]
            np.testing.assert_allclose(scores, expected[best], atol=near)
            if np.diff(-expected[best]).min() > 2 * near:
                assert [row["label"] for row in said["top"]] == [labels[i] for i in best], path.name


def test_a_model_runs_at_its_own_precision(app: Path) -> None:
    """The program of int8 also runs the file of the fp32 variant."""
    for precision in ("fp32", "fp16", "int8"):
        files = [app / f"models/{NAME}-{precision}{ending}" for ending in (".param", ".bin")]
        said = json.loads(run(app / "build/native/infer", *files, CAT, "--json", "--loop=1"))
        assert said["precision"] == precision


def test_what_is_reported(app: Path, tmp_path: Path) -> None:
    said = answer(app, CAT, "--loop=4", "--threads=1")
    assert said["model"] == NAME
    assert (said["backend"], said["precision"], said["threads"]) == ("cpu", "fp32", 1)
    times = said["latency_ms"]
    assert 0 < times["min"] <= times["median"] <= times["p90"]
    assert times["runs"] == 4
    assert times["first"] > 0
    assert said["load_ms"] > 0
    assert 10 < said["peak_memory_mb"] < 200
    text = infer(app, CAT, "--top=2").stdout
    assert text.startswith(f"{NAME}, fp32, cpu, ")
    assert "latency: first" in text
    assert text.count("cat") == 2, text


@pytest.mark.parametrize("ending", ["npy", "txt"])
def test_arrays_in_and_out(ending: str, app: Path, tmp_path: Path) -> None:
    with Image.open(CAT) as image:
        tensor = HOW.apply(image)
    source = tmp_path / f"x.{ending}"
    np.save(source, tensor[None]) if ending == "npy" else np.savetxt(source, tensor.reshape(3, -1), "%.9g")
    answer(app, source, tmp_path / f"y.{ending}")
    answer(app, CAT, tmp_path / "expected.npy")
    found = np.load(tmp_path / "y.npy") if ending == "npy" else np.loadtxt(tmp_path / "y.txt", dtype=np.float32)
    np.testing.assert_array_equal(found, np.load(tmp_path / "expected.npy"))


@pytest.mark.parametrize("kind", ["<f8", "<f4", "<f2", "|i1", "|u1", "<i2", "<u2", "<i4", "<i8", "<u8"])
def test_npy_of_every_type(kind: str, app: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (3, 224, 224))
    for name, dtype in (("a", kind), ("b", "<f4")):
        np.save(tmp_path / f"{name}.npy", values.astype(dtype))
        answer(app, tmp_path / f"{name}.npy", tmp_path / f"{name}-out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a-out.npy"), np.load(tmp_path / "b-out.npy"))


# ---------------------------------------------------------------------------------------------------- preprocessing


Case = tuple[Path, Preprocess, int]
"""An image or an array, its preprocessing, and the index of the tile."""
Prepare = Callable[[list[Case]], list[Array]]

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
RESIZED = {
    interpolation: [
        Preprocess(resize=resize, crop=crop, interpolation=interpolation, mean=(0.4,), std=(0.3,))
        for resize in (None, 24, 256, (31, 17), (17, 31), (224, 224), (1, 1))
        for crop in (None, (20, 22), (225, 3))
    ]
    for interpolation in FILTERS
}
PNG = {
    color: Preprocess(resize=40, interpolation="bicubic", color=color, divisor=255.0, mean=(0.45,), std=(0.22,))
    for color in ("rgb", "bgr", "gray")
}
JPEG = {color: Preprocess(color=color) for color in ("rgb", "gray")}
FOR_PHOTOGRAPHS = [HOW, PRESETS["imagenet"], Preprocess((224, 224), "lanczos", color="bgr")]
OF_PRESETS = {
    preset: [PRESETS[preset]]
    if preset == "paddleocr-det"
    else [PRESETS[preset].fitted(*size) for size in ((96, 64), (33, 131))]
    for preset in ("yolo", "yolox", "paddleocr-det", "paddleocr-rec", "mtcnn", "scrfd", "retinaface")
}
FITTED = [
    Preprocess(fit, "opencv", mean=(0.4, 0.5, 0.6), std=(0.2,))
    for fit in (
        Fit("letterbox", (64, 96), fill=(1, 2, 3), grow=False), Fit("letterbox", (64, 96), rounding="up", multiple=32),
        Fit("letterbox", (64, 96), align="corner", rounding="down"), Fit("right", (32, 100), fill=(255,)),
        Fit("right", (32, 100), rounding="down"), Fit("multiple", multiple=32, shorter=100, longer=200),
        Fit("multiple", multiple=8, rounding="up"), Fit("multiple", shorter=40),
    )
]  # fmt: skip
COLOURED = {
    color: [
        Preprocess(resize, interpolation, color=color, layout=layout, mean=(0.4,), std=(0.3,))
        for resize in ((24, 24), (31, 17), (112, 113), 33)
        for interpolation, layout in (("opencv", "chw"), ("opencv", "hwc"), ("bicubic", "chw"))
    ]
    for color in ("rgb", "bgr", "gray", "rgba", "bgra")
}
TILED = Preprocess(crop=Tiles((16, 20), overlap=3), mean=(0.4,), std=(0.3,))
ARRAYS = {
    (6, 5, 7): Preprocess(color="array", mean=(1, 2, 3, 4, 5, 6), std=(0.5,), arrays=True),
    (5, 7, 2): Preprocess(color="array", mean=(1, 2), std=(3, 4), layout="hwc", arrays=True),
    (9,): Preprocess(color="array", mean=(0.5,), divisor=1, arrays=True),
    (3, 4, 4): Preprocess(mean=(0.5,)),
}
"""Shape of an array -> its preprocessing."""
PPM = Preprocess(resize=10)
LISTS = (*RESIZED.values(), *OF_PRESETS.values(), *COLOURED.values(), FOR_PHOTOGRAPHS, FITTED)
EVERY = list(dict.fromkeys([
    *(how for hows in LISTS for how in hows), *PNG.values(), *JPEG.values(), TILED, *ARRAYS.values(), PPM,
]))  # fmt: skip
"""All cases."""

OF_IMAGES = """
ncnn::Mat prepare(const Preprocess& how, const std::string&, const Bytes& file, int tile, const std::vector<int>&)
{
    const Image image = decode(file);
    return Preprocessor()(image, places(how, image.height, image.width).at(tile)).clone();
}
"""
OF_ARRAYS = """
ncnn::Mat prepare(const std::string& path, const Bytes& file, int, const std::vector<int>& shape)
{
    return read_array(path, file, shape);
}
"""
"""The C++ preprocessing of a case, for tests/app/prepare.cpp."""


@pytest.fixture(scope="session")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """The app's own preprocessing as a function. Cases that only differ in sizes share their code."""
    folder = tmp_path_factory.mktemp("prepare")
    home = Path(ncnnkit.app.__file__).parent / "cpp/src"
    environment = templates(home)
    spaces: dict[str, str] = {}  # code -> namespace
    rows = []
    for number, how in enumerate(EVERY):
        of_arrays = how in ARRAYS.values()
        facts = facts_of(shipment(replace(Artifact.of(small()), preprocess=how)))
        values = values_of(facts, frozenset({"images", "arrays", "pixels", "tiles"}))
        names = (
            ["arrays.h", "arrays.cpp"] if of_arrays else ["preprocess.h", "resize.h", "preprocess.cpp", "resize.cpp"]
        )
        found = [name for name in names if f"{name}.jinja" in environment.list_templates()]
        code = {name: environment.get_template(f"{name}.jinja").render(values) for name in found}
        space = spaces.setdefault("".join(code.values()), f"case_{len(spaces)}")
        if not (folder / space).is_dir():
            (folder / space).mkdir()
            (folder / space / "arrays.h").write_text(f"// {space}\n{(home / 'arrays.h').read_text()}")
            for name, text in code.items():
                (folder / space / name).write_text(f"// {space}\n{text}")  # equal headers would be included only once
            included = "".join(f'#include "{folder / space / name}"\n' for name in names)
            steps = values["steps"]
            sized = isinstance(steps, Steps) and steps.sizes(how)
            answer = (
                OF_ARRAYS
                if of_arrays
                else OF_IMAGES
                if sized
                else OF_IMAGES.replace("const Preprocess& how, ", "").replace("how, ", "")
            )
            with (folder / "cases.inc").open("a") as file:
                file.write(f"namespace {space} {{\n{included}{answer}}}\n")
        steps = values["steps"]
        sizes = list(steps.sizes(how).values()) if isinstance(steps, Steps) and not of_arrays else []
        given = f"{space}::Preprocess{{{', '.join(map(str, sizes))}}}, " if sizes else ""
        call = f"[](auto& path, auto& file, int tile, auto& shape) {{ return {space}::prepare({given}"
        call += "path, file, tile, shape); }"
        rows.append(f'{{"{number}", {call}}},\n')
    with (folder / "cases.inc").open("a") as file:
        file.write(f"const std::map<std::string, Prepare> kCases = {{\n{''.join(rows)}}};\n")
    every = replace(Artifact.of(small()), preprocess=COLOURED["rgba"][0])
    make_app(every, folder / "app")
    image = environment.get_template("image.cpp.jinja").render(
        parts={"images", "pixels"}, steps={"channels": {1, 3, 4}}
    )
    (folder / "app/src/image.cpp").write_text(image)
    options = ["-DPROGRAM=prepare", f"-DAPP={folder / 'app'}", f"-DCASES={folder / 'cases.inc'}", "-DCMAKE_BUILD_TYPE="]
    program = build(Path(__file__).parent / "app", folder / "build", *options) / "prepare"

    def apply(cases: list[Case]) -> list[Array]:
        run(program, input="\n".join(line(case, folder / f"{i}.npy") for i, case in enumerate(cases)))
        return [np.load(folder / f"{i}.npy") for i in range(len(cases))]

    return apply


def line(case: Case, out: Path) -> str:
    path, how, tile = case
    return " ".join(map(str, [path, out, tile, EVERY.index(how), *expected_of(case).shape]))


def expected_of(case: Case) -> Array:
    """The tensor of the host."""
    path, how, tile = case
    if path.suffix == ".npy":
        return how.apply_to_array(np.load(path))
    with Image.open(path) as image:
        return how.apply(image, tile)


def check(prepare: Prepare, cases: Sequence[tuple[Path, Preprocess] | Case]) -> None:
    whole: list[Case] = [(case[0], case[1], case[2] if len(case) == 3 else 0) for case in cases]
    for case, found in zip(whole, prepare(whole)):
        np.testing.assert_array_equal(found, expected_of(case), err_msg=str(case))


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Noise over a gradient, which shows errors of rounding and overshooting."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, size[0])[None, :, None] + rng.normal(0, 60, (size[1], size[0], 3))
    return Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8))


SIZES = [(1, 1), (2, 9), (7, 5), (16, 16), (64, 48), (47, 103), (300, 20), (20, 300), (223, 225), (640, 427)]


@pytest.mark.parametrize("interpolation", FILTERS)
def test_resizing_is_pillows_to_the_bit(interpolation: str, prepare: Prepare, tmp_path: Path) -> None:
    cases = []
    for number, size in enumerate(SIZES):
        noise(size, number).save(tmp_path / f"{number}.png")
        cases += [(tmp_path / f"{number}.png", how) for how in RESIZED[interpolation]]
    check(prepare, cases)


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_every_kind_of_png(color: str, prepare: Prepare, tmp_path: Path) -> None:
    image = noise((70, 50))
    alpha = image.convert("L").rotate(90, expand=False)
    kinds = {
        "rgb": image, "grey": image.convert("L"), "bit": image.convert("1"), "palette": image.convert("P"),
        "few": image.quantize(5), "rgba": image.copy(), "la": image.convert("LA"),
    }  # fmt: skip
    kinds["rgba"].putalpha(alpha)
    kinds["la"].putalpha(alpha)
    for name, kind in kinds.items():
        kind.save(tmp_path / f"{name}.png")
    kinds["few"].save(tmp_path / "transparent.png", transparency=2)
    kinds["rgb"].save(tmp_path / "key.png", transparency=(1, 2, 3))
    kinds["palette"].save(tmp_path / "bits.png", bits=8)
    wide = np.random.default_rng(1).integers(0, 65536, (50, 70), np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    check(prepare, [(path, PNG[color]) for path in sorted(tmp_path.glob("*.png"))])


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_every_kind_of_jpeg(color: str, prepare: Prepare, tmp_path: Path) -> None:
    for number, size in enumerate([(64, 48), (33, 17), (1, 7), (101, 99)]):
        image = noise(size, number)
        for quality in (30, 95):
            for sampling in (0, 1, 2):
                for progressive in (False, True):
                    name = f"{number}-{quality}-{sampling}-{progressive}.jpg"
                    image.save(tmp_path / name, quality=quality, subsampling=sampling, progressive=progressive)
        image.convert("L").save(tmp_path / f"{number}-grey.jpg")
        image.convert("CMYK").save(tmp_path / f"{number}-cmyk.jpg")
        exif = Image.Exif()
        exif[0x0112] = 6  # EXIF rotation by 90 degrees, which neither applies
        image.save(tmp_path / f"{number}-turned.jpg", exif=exif)
    check(prepare, [(path, JPEG[color]) for path in sorted(tmp_path.glob("*.jpg"))])


def test_photographs_become_the_same_tensors(prepare: Prepare) -> None:
    check(prepare, [(path, how) for path in PHOTOGRAPHS for how in FOR_PHOTOGRAPHS])


@pytest.mark.parametrize("preset", OF_PRESETS)
def test_presets_of_detectors_and_readers(preset: str, prepare: Prepare, tmp_path: Path) -> None:
    for number, size in enumerate(SIZES):
        noise(size, number).save(tmp_path / f"{number}.png")
    check(prepare, [(path, how) for path in tmp_path.glob("*.png") for how in OF_PRESETS[preset]])


def test_every_setting_of_a_fit(prepare: Prepare, tmp_path: Path) -> None:
    for number, size in enumerate(SIZES):
        noise(size, number).save(tmp_path / f"{number}.png")
    check(prepare, [(path, how) for path in tmp_path.glob("*.png") for how in FITTED])


@pytest.mark.parametrize("color", COLOURED)
def test_opencvs_resizing_colours_and_layouts(color: str, prepare: Prepare, tmp_path: Path) -> None:
    for number, size in enumerate(SIZES):
        image = noise(size, number)
        image.putalpha(noise(size, number + 100).convert("L"))
        image.save(tmp_path / f"{number}.png")
    check(prepare, [(path, how) for path in tmp_path.glob("*.png") for how in COLOURED[color]])


def test_tiles(prepare: Prepare, tmp_path: Path) -> None:
    how = TILED
    cases: list[Case] = []
    for number, size in enumerate([(64, 48), (7, 5), (47, 103)]):
        noise(size, number).save(tmp_path / f"{number}.png")
        cases += [(tmp_path / f"{number}.png", how, tile) for tile in range(len(how.places(*size[::-1])))]
    assert len(cases) > 30
    check(prepare, cases)


def test_arrays_are_normalised_if_the_card_says_so(prepare: Prepare, tmp_path: Path) -> None:
    cases: list[Case] = []
    for shape, how in ARRAYS.items():
        path = tmp_path / f"{len(cases)}.npy"
        np.save(path, np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32))
        cases.append((path, how, 0))
    check(prepare, cases)


def test_ppm(prepare: Prepare, tmp_path: Path) -> None:
    noise((30, 20)).save(tmp_path / "a.ppm")
    noise((30, 20)).convert("L").save(tmp_path / "a.pgm")
    check(prepare, [(path, PPM) for path in (tmp_path / "a.ppm", tmp_path / "a.pgm")])


# ------------------------------------------------------------------------------------------------------------ faults


def make_inputs(folder: Path, app: Path) -> None:
    """Invalid files."""
    jpeg = CAT.read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "header.jpg").write_bytes(jpeg[:30])
    noise((64, 64)).save(folder / "good.png")
    png = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "bad.png").write_bytes(png[:60] + bytes(100) + png[160:])
    (folder / "bomb.png").write_bytes(png[:16] + b"\x7f\xff\xff\xff" * 2 + png[24:])
    (folder / "bomb.ppm").write_bytes(b"P6 999999999 999999999 255\n")
    (folder / "cut.ppm").write_bytes(b"P6 40 30 255\n" + bytes(100))
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.jpg").touch()
    (folder / "folder").mkdir()
    for name, array in {
        "small": np.zeros((3, 8, 8), np.float32), "nan": np.full((3, 224, 224), np.nan, np.float32),
        "words": np.full((3, 224, 224), "x"), "fortran": np.asfortranarray(np.zeros((3, 224, 224), np.float32)),
    }.items():  # fmt: skip
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "x.npy", np.zeros((3, 224, 224), np.float32))
    npy = (folder / "x.npy").read_bytes()
    (folder / "cut.npy").write_bytes(npy[:5000])
    (folder / "huge.npy").write_bytes(npy.replace(b"(3, 224, 224)", b"(99999999,9,)"))
    (folder / "few.txt").write_text("1 2 3")
    (folder / "nan.txt").write_text("nan " * (3 * 224 * 224))
    (folder / "words.txt").write_text("one two three")
    model = app / f"models/{NAME}-fp32"
    param, weights = model.with_suffix(".param").read_text(), model.with_suffix(".bin").read_bytes()
    lines = param.splitlines()
    layers, blobs = lines[1].split()
    (folder / "cut.bin").write_bytes(weights[:1_000_000])
    (folder / "last.bin").write_bytes(weights[:-4])
    (folder / "long.bin").write_bytes(weights + bytes(8))
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(len(weights)))
    (folder / "empty.bin").touch()
    (folder / "cut.param").write_text("\n".join(lines[:20]) + "\n")
    (folder / "blobs.param").write_text(param.replace(f"{layers} {blobs}", f"{layers} 3", 1))
    (folder / "shape.param").write_text(param.replace("0=224", "0=192", 1))
    (folder / "unknown.param").write_text(param.replace("Pooling ", "Puddling ", 1))
    (folder / "value.param").write_text(param.replace("0=32", "0=many", 1))
    (folder / "blob.param").write_text(param.replace(" out0", " out7"))
    one_more = param.replace(f"{layers} {blobs}", f"{int(layers) + 1} {int(blobs) + 1}", 1).replace(" out0", " last")
    (folder / "cast.param").write_text(one_more.rstrip() + "\nCast cast 1 1 last out0 0=4 1=1 31=7\n")


FAULTS: dict[str, tuple[list[str], str]] = {
    "no such image": (["nowhere.jpg"], "nowhere.jpg: cannot be read: No such file"),
    "an empty image": (["empty.jpg"], "empty.jpg: cannot be read: the file is empty"),
    "an empty folder": (["folder"], "folder: contains no files"),
    "a device": (["/dev/zero"], "/dev/zero: cannot be read: not a file"),
    "no image": (["text.jpg"], "text.jpg: is not a JPEG, PNG, PPM or PGM image"),
    "a truncated JPEG": (["cut.jpg"], "cut.jpg: is a broken JPEG"),
    "a JPEG's header": (["header.jpg"], "header.jpg: is a broken JPEG"),
    "a truncated PNG": (["cut.png"], "cut.png: is a broken PNG"),
    "a damaged PNG": (["bad.png"], "bad.png: is a broken PNG"),
    "a bomb": (["bomb.png"], "bomb.png: is "),
    "a PPM bomb": (["bomb.ppm"], "bomb.ppm: is suspiciously large"),
    "a truncated PPM": (["cut.ppm"], "cut.ppm: is a broken PPM"),
    "a wrong shape": (["small.npy"], "small.npy: has shape 3x8x8, but the network takes 3x224x224"),
    "NaN": (["nan.npy"], "nan.npy: contains NaN or infinity"),
    "no numbers": (["words.npy"], "words.npy: does not contain numbers"),
    "Fortran's order": (["fortran.npy"], "fortran.npy: is in Fortran order"),
    "a truncated npy": (["cut.npy"], "cut.npy: is a broken .npy"),
    "a huge npy": (["huge.npy"], "huge.npy: is a broken .npy"),
    "few numbers": (["few.txt"], "few.txt: has 3 values, but the network takes 3x224x224"),
    "NaN as text": (["nan.txt"], "nan.txt: contains NaN or infinity"),
    "words": (["words.txt"], "words.txt: value 1 is not a number"),
    "no folder to write to": (["x.npy", "nowhere/y.npy"], "nowhere/y.npy: cannot be written: No such file"),
}
MODEL_FAULTS: dict[str, tuple[str, str, str]] = {
    "no param": ("no.param", "good.bin", "no.param: cannot be read"),
    "no bin": ("good.param", "no.bin", "no.bin: cannot be read"),
    "swapped": ("swapped.param", "good.bin", "swapped.param: is not a .param of ncnn"),
    "a truncated param": ("cut.param", "good.bin", "cut.param: the file ends too early"),
    "a wrong count": ("blobs.param", "good.bin", "line 2 says 3 blobs"),
    "another shape": ("shape.param", "good.bin", "takes 3x224x192, but this program is for 3x224x224"),
    "an unknown value": ("value.param", "good.bin", "value.param: ncnn cannot load it: "),
    "an unknown layer": ("unknown.param", "good.bin", "unknown.param: ncnn cannot load it: layer Puddling"),
    "another model": ("blob.param", "good.bin", "has no blob out0"),
    "a truncated bin": ("good.param", "cut.bin", "its .bin is truncated, or belongs to another model"),
    "a bin without its end": ("good.param", "last.bin", "its .bin is truncated, or belongs to another model"),
    "a long bin": ("good.param", "long.bin", "its .bin is too long by 8 bytes"),
    "an empty bin": ("good.param", "empty.bin", "the file is empty"),
    "noise": ("good.param", "noise.bin", ""),
    "a Cast of bf16 where there is fp32": (
        "cast.param",
        "good.bin",
        "is a Cast: this program is for models without them",
    ),
    "an int8 bin": ("good.param", "int8.bin", "its .bin is truncated, or belongs to another model"),
}
USAGE_FAULTS = {
    "an unknown option": ["x.npy", "--fast"],
    "no number": ["x.npy", "--threads=many"],
    "no threads": ["x.npy", "--threads=0"],
    "no loops": ["x.npy", "--loop=0"],
    "a cluster": ["x.npy", "--cluster=medium"],
    "a precision": ["x.npy", "--precision=int4"],
    "too many": ["x.npy", "y.npy", "z.npy"],
    "none": [],
    "a value where none is taken": ["x.npy", "--cpu=yes"],
    "a split": ["folder", "--streams=huge:4"],
    "streams with an output": ["folder", "y.npy", "--streams"],
}


@pytest.fixture(scope="session")
def inputs(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_inputs(folder, app)
    model = app / "models" / NAME
    shutil.copy(f"{model}-fp32.param", folder / "good.param")
    shutil.copy(f"{model}-fp32.bin", folder / "good.bin")
    shutil.copy(f"{model}-fp32.bin", folder / "swapped.param")
    shutil.copy(f"{model}-int8.bin", folder / "int8.bin")
    return folder


@pytest.mark.parametrize("program", ["app", "sanitized"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_input_is_one_line(fault: str, program: str, inputs: Path, request: pytest.FixtureRequest) -> None:
    words, match = FAULTS[fault]
    check_fault(infer(request.getfixturevalue(program), *words, cwd=inputs), match)


@pytest.mark.parametrize("program", ["app", "sanitized"])
@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_wrong_model_is_one_line(fault: str, program: str, inputs: Path, request: pytest.FixtureRequest) -> None:
    param, weights, match = MODEL_FAULTS[fault]
    infer = request.getfixturevalue(program) / "build/native/infer"
    line = [infer, param, weights, "x.npy", "--precision=fp32", "--loop=1"]
    check_fault(subprocess.run(line, capture_output=True, text=True, cwd=inputs), match)


@pytest.mark.parametrize("fault", USAGE_FAULTS)
def test_a_wrong_command_line_is_one_line(fault: str, app: Path, inputs: Path) -> None:
    check_fault(infer(app, *USAGE_FAULTS[fault], cwd=inputs), "", status=2)


def test_help(app: Path) -> None:
    done = infer(app, "--help")
    assert done.returncode == 0
    for option in ("--cpu", "--gpu", "--loop=N", "--threads=N", "--cluster=NAME", "--top=N", "--json", "--streams"):
        assert option in done.stdout


# --------------------------------------------------------------------------------------------------------------- GPU


def test_a_missing_gpu_is_an_error(app: Path) -> None:
    """Without a driver, and with a driver that computes on the CPU. The CPU never answers."""
    hidden = infer(app, CAT, "--gpu", env={**os.environ, "VK_ICD_FILENAMES": "/nonexistent", "VK_DRIVER_FILES": "/no"})
    check_fault(hidden, "--gpu: there is no Vulkan device here")


@pytest.mark.vulkan
def test_a_software_device_is_not_a_gpu(app: Path, tmp_path: Path) -> None:
    env = {**os.environ, "VK_ICD_FILENAMES": str(next(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json")))}
    check_fault(infer(app, CAT, "--gpu", env=env), "--gpu: the only Vulkan device is the CPU (llvmpipe")
    done = infer(app, CAT, tmp_path / "gpu.npy", "--gpu=any", "--json", env=env)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["backend"] == "vulkan"
    assert "llvmpipe" in said["device"]
    answer(app, CAT, tmp_path / "cpu.npy")
    found, expected = np.load(tmp_path / "gpu.npy"), np.load(tmp_path / "cpu.npy")
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not np.array_equal(found, expected), "these are the CPU's numbers"
    check_fault(infer(app, CAT, "--gpu=any", precision="int8", env=env), "this int8 model is made for CPUs")


# ----------------------------------------------------------------------------------------------------------- streams


def test_streams_answer_in_order(app: Path) -> None:
    done = infer(app, CAT.parent, "--streams=all:1,all:1,all:1", "--json", "--top=1")
    assert done.returncode == 0, done.stderr
    *rows, summary = [json.loads(line) for line in done.stdout.splitlines()]
    files = sorted(CAT.parent.glob("*.jpg"))
    assert [row["input"] for row in rows] == [str(path) for path in files]
    for path, row in list(zip(files, rows))[::5]:
        assert row["top"][0]["label"] == answer(app, path)["top"][0]["label"]
    assert summary["images"] == len(files)
    assert summary["failures"] == 0
    assert summary["split"] == "all:1,all:1,all:1"
    assert summary["images_per_s"] == pytest.approx(len(files) / summary["seconds"])


def test_streams_find_the_fastest_split(app: Path) -> None:
    done = infer(app, CAT.parent, "--streams", "--json", precision="int8")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    rates = {row["split"]: row["images_per_s"] for row in summary["measured"]}
    assert len(rates) > 1
    assert all(rate > 0 for rate in rates.values())
    assert summary["split"] == max(rates, key=lambda split: rates[split])
    assert done.stderr.count("images/s, ") == len(rates)


def test_a_bad_image_among_good_ones(app: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "c.jpg"):
        shutil.copy(CAT, tmp_path / name)
    (tmp_path / "b.jpg").write_text("no image")
    (tmp_path / ".hidden").write_text("not looked at")
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d/e.npy", np.zeros((3, 224, 224), np.float32))
    done = infer(app, tmp_path, "--streams=all:1,all:1")
    assert done.returncode == 1
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / name) for name in ("a.jpg", "c.jpg", "d/e.npy")
    ]
    assert "b.jpg: is not a JPEG" in done.stderr


def frames(count: int) -> Iterator[bytes]:
    for i in range(count):
        image = noise((40 + i, 30), i)
        yield f"P6\n# a comment\n{image.width} {image.height}\n255\n".encode() + image.tobytes()


def test_frames_from_a_pipe(app: Path) -> None:
    line = [str(app / "build/native/infer"), *(f"{app}/models/{NAME}-int8{e}" for e in (".param", ".bin")), "-"]
    done = subprocess.run([*line, "--streams=all:1,all:1", "--top=1"], input=b"".join(frames(9)), capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode().splitlines()
    assert [row.split("\t")[0] for row in said] == [f"frame {i}" for i in range(1, 10)]
    cut = subprocess.run([*line, "--streams=all:1"], input=b"".join(frames(3))[:-50], capture_output=True)
    assert cut.returncode == 1
    assert b"stdin: frame 3 ends too early" in cut.stderr
    assert cut.stdout.count(b"\n") == 2, "what came before is answered"


def test_an_interrupt_ends_streams_cleanly(app: Path) -> None:
    line = [str(app / "build/native/infer"), *(f"{app}/models/{NAME}-int8{e}" for e in (".param", ".bin")), "-"]
    process = subprocess.Popen([*line, "--streams=all:1,all:1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(frames(3)))
    process.stdin.flush()
    first = process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)  # while it waits for the camera
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert (first + rest).count(b"\n") == 3, "what was under way is answered"


@pytest.mark.vulkan
def test_streams_with_a_vulkan_worker(app: Path, tmp_path: Path) -> None:
    for i in range(4):
        shutil.copy(CAT, tmp_path / f"{i}.jpg")
    done = infer(app, tmp_path, "--streams=all:1,gpu", "--gpu=any", "--json")
    assert done.returncode == 0, done.stderr
    *rows, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({row["top"][0]["label"] for row in rows}) == 1
    assert summary["split"] == "all:1,gpu"


# ------------------------------------------------------------------------------------------------- sanitizers, boards


def test_sanitizers_find_nothing(sanitized: Path, app: Path, tmp_path: Path) -> None:
    """The embedded model, which needs no files, with images, arrays and streams."""
    program = sanitized / "build/native/infer"
    shutil.copytree(CAT.parent, tmp_path / "images")
    said = json.loads(run(program, CAT, tmp_path / "y.npy", "--json", "--loop=2"))
    assert said["precision"] == "int8"
    answer(app, CAT, tmp_path / "expected.npy", precision="int8")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.load(tmp_path / "expected.npy"))
    noise((33, 70)).convert("RGBA").save(tmp_path / "a.png")
    noise((33, 70)).convert("CMYK").save(tmp_path / "a.jpg")
    for name in ("a.png", "a.jpg"):
        run(program, tmp_path / name, tmp_path / "y.txt")
    run(program, tmp_path / "images", "--streams")
    run(program, tmp_path / "images", "--streams=all:2,all:1,all:1")
    assert infer(sanitized, CAT).returncode == 0, "models in files, too"


@pytest.fixture(scope="session")
def arm(lite0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for aarch64, without image decoders, because a board's own libraries are not here."""
    if installed("aarch64") is None or shutil.which("qemu-aarch64-static") is None:
        pytest.skip("needs scripts/ncnn-library aarch64")
    folder = tmp_path_factory.mktemp("arm") / "lite0"
    make_app(lite0, folder, variant="int8")
    line = ["cmake", "--preset", "aarch64-linux", "-G", "Ninja", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    run(*line, *library_options("aarch64"), cwd=folder)
    run("cmake", "--build", "--preset", "aarch64-linux", cwd=folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_on_an_arm_board(precision: str, arm: Path, app: Path, tmp_path: Path) -> None:
    with Image.open(CAT) as image:
        image.convert("RGB").save(tmp_path / "cat.ppm")
    model = [arm / f"models/{NAME}-{precision}{ending}" for ending in (".param", ".bin")]
    emulated: list[str | Path] = [
        "qemu-aarch64-static",
        "-L",
        "/usr/aarch64-linux-gnu",
        arm / "build/aarch64-linux/infer",
        *model,
    ]
    words: list[str | Path] = [
        tmp_path / "cat.ppm",
        tmp_path / "y.npy",
        f"--precision={precision}",
        "--loop=1",
        "--threads=1",
    ]
    run(*emulated, *words)
    answer(app, CAT, tmp_path / "expected.npy", precision=precision)
    found, expected = np.load(tmp_path / "y.npy"), np.load(tmp_path / "expected.npy")
    # int8 is made for x86 here. On Arm, other layers requantise, and biases are rounded differently.
    np.testing.assert_allclose(found, expected, atol={"fp32": 1e-4, "int8": 0.3}[precision])
    assert found.argmax() == expected.argmax()
    done = subprocess.run(list(map(str, [*emulated, CAT])), capture_output=True, text=True)
    assert done.returncode == 1
    assert "is a JPEG, and libjpeg-turbo was not found when this program was built" in done.stderr


def test_deploy_copies_and_runs(app: Path, tmp_path: Path) -> None:
    """With a stand-in for ssh that stays on this machine."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "board").mkdir()
    ssh = tmp_path / "bin/ssh"
    ssh.write_text(f'#!/bin/sh\n[ "$1" = pi@board ] || exit 9\nshift\ncd {tmp_path}/board && exec sh -c "$*"\n')
    ssh.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    program = app / "build/native/infer"
    said = run(app / "scripts/deploy.sh", "pi@board", program, CAT, "--top=1", "--loop=1", env=env)
    assert "cat" in said
    assert (tmp_path / f"board/infer/models/{NAME}-int8.bin").is_file()


def test_deploy_hands_no_word_to_a_shell(app: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    (tmp_path / "bin/ssh").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "DEPLOY_TO": "it's $(touch a)"}
    image = shutil.copy(CAT, tmp_path / "a cat.$(touch b)'")
    line = [app / "scripts/deploy.sh", "board", app / "build/native/infer", image, "--cluster=$(touch c)", "--loop=1"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, cwd=tmp_path, env=env)
    assert "infer: --cluster=$(touch c): must be big" in done.stderr
    assert (tmp_path / "it's $(touch a)/infer").is_file()
    assert not [name for name in "abc" if list(tmp_path.rglob(name))]


def test_the_table_of_every_variant(app: Path, tmp_path: Path) -> None:
    said = run(app / "run.sh", CAT, "--loop=2").splitlines()
    assert said[0].split() == [
        "variant", "load", "ms", "first", "ms", "median", "ms", "p90", "ms", "memory", "MB", "MSE",
    ]  # fmt: skip
    rows = {row.split()[0]: row.split()[1:] for row in said[1:]}
    assert list(rows) == ["fp32-cpu", "fp16-cpu", "int8-cpu"]
    assert all(len(row) == 6 for name, row in rows.items() if name != "fp32-cpu")
    assert 0 < float(rows["fp16-cpu"][-1]) < float(rows["int8-cpu"][-1]) < 0.1
    np.save(tmp_path / "reference.npy", np.full(1000, 0.5, np.float32))
    infer(app, CAT, tmp_path / "y.npy")
    expected = np.mean((np.load(tmp_path / "y.npy") - 0.5) ** 2)
    said = run(app / "run.sh", CAT, tmp_path / "reference.npy", "--loop=2").splitlines()
    assert float(said[1].split()[-1]) == pytest.approx(expected, rel=1e-4)


def test_without_an_installed_ncnn_a_release_is_fetched(app: Path, tmp_path: Path) -> None:
    """With a stand-in for its source. The test checks that the downloaded release is used, not its content."""
    (tmp_path / "ncnn").mkdir()
    lines = "cmake_minimum_required(VERSION 3.18)\nproject(stand_in)\nadd_library(ncnn INTERFACE)\n"
    check = 'if(NCNN_BUILD_TOOLS OR NOT NCNN_VULKAN)\nmessage(FATAL_ERROR "options")\nendif()\n'
    (tmp_path / "ncnn/CMakeLists.txt").write_text(lines + check)
    options = ("-DCMAKE_DISABLE_FIND_PACKAGE_ncnn=ON", f"-DFETCHCONTENT_SOURCE_DIR_NCNN={tmp_path}/ncnn")
    assert "is downloaded and built" in run("cmake", "-S", app, "-B", tmp_path / "build", "-G", "Ninja", *options)
