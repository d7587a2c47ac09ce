"""Write docs/images/report-*.webp: reports of a classifier, a detector and a text reader, at three widths.

python scripts/screenshots.py [--out DIR]
python scripts/screenshots.py --large      # no pictures: the size of a report of 500 layers, and how fast it opens

This script makes the networks, with seeded weights, and their images. The text reader compares each position of a line
with the shape of each character, so it really reads text. It needs Chromium and ``.[test]``. The times in the pictures
are those of the machine on which this script runs.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from browser import Browser, Page
from numpy.typing import NDArray
from onnx.helper import make_node as node
from onnx.helper import set_model_props
from PIL import Image, ImageDraw, ImageFont

from ncnnkit import pipeline
from ncnnkit.recipe import Recipe
from ncnnkit.report import write_report

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import small_heads
from lowered import model
from test_report import large_run
from test_schema import as_run

Array = NDArray[Any]
DOCS = Path(__file__).parent.parent / "docs" / "images"
SIZES = {400: 1700, 800: 1400, 1400: 1200}
"""Width of a window -> its height, in pixels."""
LARGEST = 60_000  # bytes of a picture, if the lowest quality allows it
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "grey")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz"
CELL = (32, 20)  # (height, width) of a character, pixels
LINE = 8  # characters
_WORDS = (
    "harbour lantern magpie orchid quartz violin thunder bridge castle pigeon walnut copper feather garden helmet "
    "island jacket kitchen lemon monkey number orange pirate rocket silver turkey velvet window yogurt zebra candle "
    "dragon"
)
WORDS = _WORDS.split()


# ------------------------------------------------------------------------------------------------------- networks


def classifier(path: Path) -> None:
    """A classifier with 10 classes for images of 3x64x64: convolutions, depthwise convolutions and sums."""
    rng = np.random.default_rng(0)
    given: dict[str, Array] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(read: str, made: str, shape: tuple[int, int, int], **attributes: Any) -> str:
        given[f"{made}.w"] = small_heads.weights(rng, *shape, spread=1.3)
        given[f"{made}.b"] = (0.05 * rng.standard_normal(shape[0])).astype(np.float32)
        nodes.append(node("Conv", [read, f"{made}.w", f"{made}.b"], [made], name=made, **attributes))
        return made

    def relu(read: str) -> str:
        nodes.append(node("Relu", [read], [f"{read}.relu"], name=f"{read}.relu"))
        return f"{read}.relu"

    at = relu(conv("x", "stem", (16, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
    for stage, width in enumerate((16, 32, 64)):
        if stage:
            at = relu(conv(at, f"stage{stage}.down", (width, width // 2, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
        for block in range(3):
            name = f"stage{stage}.{block}"
            wide = relu(conv(at, f"{name}.expand", (2 * width, width, 1)))
            deep = relu(conv(wide, f"{name}.depthwise", (2 * width, 1, 3), group=2 * width, pads=[1, 1, 1, 1]))
            narrow = conv(deep, f"{name}.project", (width, 2 * width, 1))
            nodes.append(node("Add", [narrow, at], [f"{name}.add"], name=f"{name}.add"))
            at = f"{name}.add"
    given["fc"] = (rng.standard_normal((64, len(COLOURS))) / 4).astype(np.float32)
    nodes += [
        node("GlobalAveragePool", [at], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("MatMul", ["flat", "fc"], ["scores"], name="fc"),
        node("Softmax", ["scores"], ["y"]),
    ]
    proto = model(nodes, {"x": np.zeros((1, 3, 64, 64), np.float32)}, ["y"], given)
    set_model_props(proto, {"names": str(dict(enumerate(COLOURS)))})
    onnx.save(proto, str(path))


def glyph(character: str) -> Array:
    """The shape of a character, (height, width), 0 to 1."""
    image = Image.new("L", (CELL[1], CELL[0]))
    middle, font = (CELL[1] / 2, CELL[0] / 2), ImageFont.load_default(24)
    ImageDraw.Draw(image).text(middle, character, fill=255, font=font, anchor="mm")
    return np.asarray(image, np.float32) / 255


def reader(path: Path) -> None:
    """A text reader: the distance of each position of a line to each character.

    |x - g|² = |x|² - 2 x·g + |g|². Only x·g - |g|²/2 differs between characters; that is a convolution with a bias.
    Class 0, the blank, has a shape of zeros. Two layers with seeded weights before it add some noise.
    """
    rng = np.random.default_rng(0)
    shapes = np.stack([np.zeros(CELL, np.float32), *map(glyph, CHARACTERS)])
    given = {
        "grey": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "a": small_heads.weights(rng, 8, 1, 3),
        "b": small_heads.weights(rng, 1, 8, 3) * np.float32(0.05),
        "glyphs": shapes[:, None],
        "half": -0.5 * (shapes**2).sum((1, 2)) + np.where(np.arange(len(shapes)) == 0, 4, 0).astype(np.float32),
        "place": np.array([1, len(shapes), -1]),
    }
    nodes = [
        node("Conv", ["x", "grey"], ["line"], name="grey"),
        node("Conv", ["line", "a"], ["a0"], name="features", pads=[1, 1, 1, 1]),
        node("Relu", ["a0"], ["a1"]),
        node("Conv", ["a1", "b"], ["b0"], name="texture", pads=[1, 1, 1, 1]),
        node("Add", ["line", "b0"], ["seen"], name="add"),
        node("Conv", ["seen", "glyphs", "half"], ["scores"], name="characters", strides=[1, CELL[1]]),
        node("Reshape", ["scores", "place"], ["rows"]),
        node("Transpose", ["rows"], ["steps"], perm=[0, 2, 1]),
        node("Softmax", ["steps"], ["y"], axis=2),
    ]
    line = np.zeros((1, 3, CELL[0], CELL[1] * LINE), np.float32)
    proto = model(nodes, {"x": line}, ["y"], {name: np.asarray(value) for name, value in given.items()})
    set_model_props(proto, {"character": "\n".join(CHARACTERS)})
    onnx.save(proto, str(path))


# --------------------------------------------------------------------------------------------------------- images


def scenes(folder: Path, count: int, width: int, height: int) -> None:
    """Images of coloured discs and boxes on a colour gradient."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(count):
        wash = rng.integers(40, 215, (3, 4, 3), np.uint8)
        image = Image.fromarray(wash).resize((width, height), Image.Resampling.BICUBIC)
        canvas = ImageDraw.Draw(image)
        for _ in range(4):
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            side = int(rng.integers(width // 8, width // 3))
            fill = tuple(int(v) for v in rng.integers(0, 256, 3))
            shape = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
            shape((x - side // 2, y - side // 2, x + side // 2, y + side // 2), fill=fill)
        image.save(folder / f"scene-{index:02}.png")


def lines(folder: Path) -> None:
    """A word on each image, with a little noise."""
    folder.mkdir()
    rng = np.random.default_rng(2)
    for word in WORDS:
        cells = [glyph(character) for character in word] + [np.zeros(CELL, np.float32)] * (LINE - len(word))
        noisy = np.concatenate(cells, 1) + 0.25 * rng.standard_normal((CELL[0], CELL[1] * LINE))
        pixels = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{word}.png")


# ------------------------------------------------------------------------------------------------------- pictures


def runs() -> dict[str, Path]:
    """The report of each network. It is made in the working folder, so that it contains no path of this machine."""
    classifier(Path("classifier.onnx"))
    small_heads.detector(Path("detector.onnx"))
    reader(Path("reader.onnx"))
    scenes(Path("scenes"), 60, 96, 64)
    lines(Path("lines"))
    coloured = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    line = {"resize": (CELL[0], CELL[1] * LINE), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    asked: dict[str, dict[str, Any]] = {
        "classifier": {"images": "scenes", "preprocess": {"resize": (64, 64), **coloured}},
        "detector": {"images": "scenes", "preprocess": {"resize": small_heads.SIZE, **coloured}},
        "reader": {"images": "lines", "preprocess": line},
    }
    for name, options in asked.items():
        recipe = Recipe(f"{name}.onnx", backends=("cpu",), seconds=1.0, effort="fast", **options)
        pipeline.run(recipe, Path(name))
    return {name: Path(name) / "report.html" for name in asked}


def compressed(png: bytes) -> bytes:
    """A picture as WebP, at the best quality with at most :data:`LARGEST` bytes, or at the lowest quality."""
    with Image.open(io.BytesIO(png)) as picture:
        for quality in (85, 75, 65, 50, 35):
            made = io.BytesIO()
            picture.convert("RGB").save(made, "WEBP", quality=quality, method=6)
            if made.tell() <= LARGEST:
                break
    return made.getvalue()


def take(page: Page, report: Path, name: str, out: Path) -> None:
    """Take the top of a report at each width, with the pictures of int8 if it has any."""
    for width, height in SIZES.items():
        page.open(report, width, height)
        page.run("[...document.querySelectorAll('.picker label')].find(each => each.innerText == 'int8-cpu')?.click()")
        page.run("scrollTo(0, 0)")
        write(out / f"report-{name}-{width}.webp", page)


def take_layers(page: Page, report: Path, out: Path) -> None:
    """Take the drawing of the network, with a selected layer, and the table of layers."""
    page.open(report, 1400, 1250)
    page.run("document.querySelector('.zoom').scrollIntoView()")
    page.run("[...document.querySelectorAll('.layers tbody tr')].find(e => e.innerText.includes('project')).click()")
    write(out / "report-layers.webp", page)


def large(folder: Path) -> None:
    """Print the size of a report of 500 layers and 40 variants, and how long Chromium takes to open it."""
    report = folder / "report.html"
    write_report(as_run(large_run()), report)
    with Browser() as browser, browser.page() as page:
        seconds = [page.open(report) for _ in range(6)][1:]  # the first one includes the start of the browser
    print(f"500 layers, 40 variants: {report.stat().st_size} bytes, open after {min(seconds):.2f} s")


def write(path: Path, page: Page) -> None:
    path.write_bytes(compressed(page.picture()))
    print(f"{path.name}: {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder of the pictures")
    parser.add_argument("--large", action="store_true", help="measure a report of 500 layers instead")
    asked = parser.parse_args()
    out = asked.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        if asked.large:
            large(Path(folder))
            return
        out.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        made = runs()
        with Browser() as browser, browser.page() as page:
            for name, report in made.items():
                print(f"{name}: report.html {report.stat().st_size} bytes")
                take(page, report, name, out)
            take_layers(page, made["classifier"], out)
            if page.errors:
                raise SystemExit("\n".join(page.errors))
        os.chdir(out)


if __name__ == "__main__":
    main()
