"""Ways to fit an image into an input, as in OpenCV, Ultralytics and PaddleOCR; placements; arrays."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import ncnnkit as nk
from ncnnkit import Fit, Preprocess, Tiles
from ncnnkit.cli.values import preprocess_field
from ncnnkit.errors import ImageError, RecipeError
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ncnnfile import save
from ncnnkit.onboard.picture import Placement, places, resize_as_opencv
from ncnnkit.recipe import Recipe, make_recipe, save_recipe
from ncnnkit.samples.finding import find_images, open_images
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.presets import PRESETS
from ncnnkit.source import ModelSource, open_model
from ncnnkit.source.opening import ARRAYS, as_used, choose_preprocess

Pixels = NDArray[np.uint8]
SIZES = [(240, 320), (333, 241), (640, 640), (7, 500), (500, 7), (31, 33), (1, 1), (1000, 640)]
THICK = [size for size in SIZES if min(size) > 20]  # some packages leave no pixel of thinner images


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    shape = (height, width, channels)
    return np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> Pixels:
    """An image in which every position has another colour."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 7)], -1).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------- OpenCV


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([1, 3, 4]), st.sampled_from([None, 1, 2, 4]),
)  # fmt: skip
def test_opencvs_linear_resizing_is_equal_to_the_bit(
    before: tuple[int, int], after: tuple[int, int], channels: int, factor: int | None
) -> None:
    cv2 = pytest.importorskip("cv2")
    if factor:  # there, halving is a mean of four pixels
        before = (after[0] * factor, after[1] * factor)
    pixels = noise(*before, channels)
    expected = cv2.resize(pixels, after[::-1], interpolation=cv2.INTER_LINEAR).reshape(*after, channels)
    np.testing.assert_array_equal(resize_as_opencv(pixels, *after), expected)


def test_opencvs_linear_resizing_of_photographs(photographs: list[Path]) -> None:
    cv2 = pytest.importorskip("cv2")
    for path in photographs[:4]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        for height, width in ((640, 427), (100, 300), (pixels.shape[0] // 2, pixels.shape[1] // 2)):
            found = resize_as_opencv(pixels, height, width)
            np.testing.assert_array_equal(found, cv2.resize(pixels, (width, height)))


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    return sorted((Path(nk.__file__).parent / "data/images/evaluation").glob("*.jpg"))


def test_opencvs_resizing_of_a_step_by_hand() -> None:
    """Without OpenCV: two pixels become four, with centres at -0.25, 0.25, 0.75 and 1.25."""
    found = resize_as_opencv(np.array([[[0], [200]]], np.uint8), 1, 4)
    assert found[0, :, 0].tolist() == [0, 50, 150, 200]


# ------------------------------------------------------------------------------- as the packages themselves do it


@pytest.mark.torch
@pytest.mark.parametrize("size", THICK)
@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({}, {}), ({"align": "corner"}, {"center": False}), ({"grow": False}, {"scaleup": False}),
        ({"multiple": 32}, {"auto": True}), ({"fill": (0,)}, {"padding_value": 0}),
    ],
)  # fmt: skip
def test_letterbox_is_ultralytics(size: tuple[int, int], change: dict[str, Any], options: dict[str, Any]) -> None:
    augment = pytest.importorskip("ultralytics.data.augment")
    image = noise(*size)
    expected = augment.LetterBox((320, 416), stride=32, **options)(image=image)
    how = Preprocess(Fit("letterbox", (320, 416), **{"fill": (114,), **change}), "opencv", divisor=1)
    found = how.apply(Image.fromarray(image))
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("size", THICK)
def test_yolox_is_yolox(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = noise(*size)[:, :, ::-1]  # BGR, as its code reads images
    padded = np.full((416, 416, 3), 114, np.uint8)
    scale = min(416 / size[0], 416 / size[1])
    resized = cv2.resize(image, (int(size[1] * scale), int(size[0] * scale)))
    padded[: resized.shape[0], : resized.shape[1]] = resized
    found = PRESETS["yolox"].fitted(416, 416).apply(Image.fromarray(image[:, :, ::-1].copy()))
    np.testing.assert_array_equal(found, padded.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize("size", SIZES)
def test_paddles_recogniser_equals_rapidocr(size: tuple[int, int]) -> None:
    module = pytest.importorskip("rapidocr_onnxruntime.ch_ppocr_rec.text_recognize")
    theirs = object.__new__(module.TextRecognizer)
    theirs.rec_image_shape = [3, 48, 320]
    image = noise(*size)
    expected = theirs.resize_norm_img(image[:, :, ::-1], 320 / 48)
    np.testing.assert_array_equal(PRESETS["paddleocr-rec"].apply(Image.fromarray(image)), expected)


@pytest.mark.parametrize("size", THICK)
@pytest.mark.parametrize(
    ("limit", "fit"),
    [
        (("min", 736), Fit("multiple", multiple=32, shorter=736)),
        (("max", 960), Fit("multiple", multiple=32, longer=960)),
    ],
)
def test_paddles_detector_equals_rapidocr(size: tuple[int, int], limit: tuple[str, int], fit: Fit) -> None:
    module = pytest.importorskip("rapidocr_onnxruntime.ch_ppocr_det.utils")
    image = noise(*size)
    expected = module.DetPreProcess(limit[1], limit[0])(image[:, :, ::-1])[0]
    how = Preprocess(fit, "opencv", color="bgr", mean=(0.5,), std=(0.5,))
    np.testing.assert_allclose(how.apply(Image.fromarray(image)), expected, atol=2e-7)


def test_a_square_image_is_prepared_as_in_nudenet() -> None:
    """It pads before it resizes, which is the same for a square image, and it reverses the colours twice."""
    module = pytest.importorskip("nudenet.nudenet")
    image = noise(500, 500)
    expected = module._read_image(np.ascontiguousarray(image[:, :, ::-1]), 320)[0]
    found = replace(PRESETS["yolo"].fitted(320, 320), color="bgr").apply(Image.fromarray(image))
    np.testing.assert_allclose(found, expected[0], atol=1e-7)


def test_scrfd_is_insightfaces() -> None:
    cv2 = pytest.importorskip("cv2")
    for height, width in THICK:
        image = noise(height, width)
        if height / width > 1:
            new = (640, int(640 / (height / width)))
        else:
            new = (int(640 * (height / width)), 640)
        padded = np.zeros((640, 640, 3), np.uint8)
        padded[: new[0], : new[1]] = cv2.resize(image, new[::-1])
        expected = (padded.astype(np.float32) - np.float32(127.5)) / np.float32(128)
        np.testing.assert_array_equal(PRESETS["scrfd"].apply(Image.fromarray(image)), expected.transpose(2, 0, 1))


# --------------------------------------------------------------------------------------------------------- placement


@pytest.mark.parametrize(
    ("fit", "image", "expected"),
    [
        (Fit("letterbox", (64, 64)), (48, 64), Placement((48, 64), (48, 64), 8, 0, (64, 64))),
        (Fit("letterbox", (64, 64), align="corner"), (48, 64), Placement((48, 64), (48, 64), 0, 0, (64, 64))),
        (Fit("letterbox", (64, 64)), (13, 64), Placement((13, 64), (13, 64), 25, 0, (64, 64))),  # the odd row below
        (Fit("letterbox", (64, 64), grow=False), (20, 32), Placement((20, 32), (20, 32), 22, 16, (64, 64))),
        (Fit("letterbox", (64, 64), multiple=32), (48, 96), Placement((48, 96), (32, 64), 0, 0, (32, 64))),
        (Fit("right", (48, 320), rounding="up"), (32, 100), Placement((32, 100), (48, 150), 0, 0, (48, 320))),
        (Fit("right", (48, 320)), (32, 900), Placement((32, 900), (48, 320), 0, 0, (48, 320))),  # squeezed
        (Fit("multiple", multiple=32), (50, 100), Placement((50, 100), (64, 96), 0, 0, (64, 96))),
        (Fit("multiple", multiple=32), (5, 10), Placement((5, 10), (32, 32), 0, 0, (32, 32))),
        (Fit("multiple", multiple=32, longer=960), (1920, 480), Placement((1920, 480), (960, 256), 0, 0, (960, 256))),
        (Fit("multiple", multiple=32, shorter=736), (368, 368), Placement((368, 368), (736, 736), 0, 0, (736, 736))),
        ((64, 32), (10, 10), Placement((10, 10), (64, 32), 0, 0, (64, 32))),
        (None, (10, 20), Placement((10, 20), (10, 20), 0, 0, (10, 20))),
    ],
)
def test_placement_of_an_image(fit: Any, image: tuple[int, int], expected: Placement) -> None:
    assert Preprocess(fit).places(*image) == [expected]


def test_a_centre_crop_has_a_placement() -> None:
    (found,) = PRESETS["imagenet"].places(480, 640)
    assert found == Placement((480, 640), (256, 341), -16, -58, (224, 224))
    np.testing.assert_allclose(found.to_image([[0, 0], [224, 224]]), [[58 * 640 / 341, 30], [282 * 640 / 341, 450]])


@pytest.mark.parametrize(
    "how",
    [
        PRESETS["yolo"], PRESETS["yolox"], PRESETS["paddleocr-rec"], PRESETS["paddleocr-det"], PRESETS["imagenet"],
        Preprocess((300, 400)), Preprocess(crop=Tiles((200, 300))),
    ],
)  # fmt: skip
def test_a_point_of_the_input_is_that_point_of_the_image(how: Preprocess) -> None:
    """The colour at a position of the tensor is the colour at the position of the image that the placement gives."""
    pixels = smooth(480, 640)
    how = replace(how, color="rgb", divisor=1.0, mean=(0.0,), std=(1.0,))
    for tile, place in enumerate(how.places(480, 640)):
        tensor = how.apply(Image.fromarray(pixels), tile)
        for row, column in np.argwhere(np.ones(place.input))[:: place.input[0] * 7 + 11]:
            middle = [column + 0.5, row + 0.5]
            x, y = place.to_image(middle)
            np.testing.assert_allclose(place.to_input([x, y]), middle)
            if 0 <= x < 640 and 0 <= y < 480:
                np.testing.assert_allclose(tensor[:2, row, column], [x * 255 / 640, y * 255 / 480], atol=2.5)


def test_padding_is_the_fill_pixel_or_zero() -> None:
    image = Image.fromarray(np.full((10, 20, 3), 200, np.uint8))
    cases = [((114,), [0.28] * 3), (None, [0.0] * 3), ((1, 2, 3), [-1.98, -1.96, -1.94])]
    for fill, expected in cases:
        how = Preprocess(Fit("letterbox", (20, 20), fill=fill), divisor=1, mean=(100,), std=(50,))
        tensor = how.apply(image)
        np.testing.assert_allclose(tensor[:, 0, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(tensor[:, 10, 10], 2.0)
        np.testing.assert_allclose(tensor[:, 19, 19], expected, rtol=1e-6)


def test_the_padding_of_bgr_is_in_its_own_order() -> None:
    how = Preprocess(Fit("letterbox", (4, 4), fill=(1, 2, 3)), color="bgr", divisor=1)
    tensor = how.apply(Image.new("RGB", (4, 2), (30, 20, 10)))
    assert tensor[:, 0, 0].tolist() == [1, 2, 3]
    assert tensor[:, 2, 0].tolist() == [10, 20, 30]


@given(st.integers(1, 400), st.integers(1, 90), st.integers(0, 89))
def test_tiles_cover_a_side_and_overlap(length: int, tile: int, overlap: int) -> None:
    overlap = min(overlap, tile - 1)
    found = places(None, Tiles((tile, tile), overlap), length, 1)
    starts = [-place.top for place in found]
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    assert all(0 < b - a <= tile - overlap for a, b in pairwise(starts))
    assert len(starts) == max(1, math.ceil((length - overlap) / (tile - overlap)))


def test_tiles_hold_the_pixels_of_their_place() -> None:
    pixels = noise(50, 70)
    how = Preprocess(crop=Tiles((32, 32), overlap=4), divisor=1)
    for tile, place in enumerate(how.places(50, 70)):
        tensor = how.apply(Image.fromarray(pixels), tile)
        part = pixels[-place.top : 32 - place.top, -place.left : 32 - place.left]
        np.testing.assert_array_equal(tensor, part.transpose(2, 0, 1))


# --------------------------------------------------------------------------------------------- colours and layouts


@pytest.mark.parametrize(("color", "order"), [("rgba", [0, 1, 2, 3]), ("bgra", [2, 1, 0, 3])])
@pytest.mark.parametrize("interpolation", ["bilinear", "opencv"])
def test_four_channels_are_resized_each_alone(color: str, order: list[int], interpolation: str) -> None:
    pixels = noise(20, 30, 4)
    found = Preprocess((11, 13), interpolation, color=color, divisor=1).apply(Image.fromarray(pixels))
    for channel, of in enumerate(order):
        alone = Preprocess((11, 13), interpolation, color="gray", divisor=1).apply(Image.fromarray(pixels[:, :, of]))
        np.testing.assert_array_equal(found[channel], alone[0])


def test_an_image_without_alpha_is_opaque() -> None:
    assert Preprocess(color="rgba").apply(Image.new("RGB", (2, 2)))[3].tolist() == [[1, 1], [1, 1]]


def test_channels_last_is_the_same_tensor_turned() -> None:
    image = Image.fromarray(noise(20, 30))
    how = replace(PRESETS["yolo"].fitted(16, 24), mean=(0.1, 0.2, 0.3))
    turned = replace(how, layout="hwc").apply(image)
    assert turned.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(turned.transpose(2, 0, 1), how.apply(image))


# ----------------------------------------------------------------------------------------------------------- samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(6):
        Image.fromarray(noise(40 + i, 60)).save(root / f"{i}.png")
    return root


@pytest.mark.parametrize("shape", [(32, 48, 3), (32, 48, 1), (32, 48, 4), (4, 32, 48), (1, 32, 48)])
def test_an_input_gets_its_images_in_its_own_layout(folder: Path, shape: tuple[int, ...]) -> None:
    channels = shape[0] if shape[0] < 5 else shape[2]
    how = Preprocess((32, 48), color={1: "gray", 3: "rgb", 4: "rgba"}[channels])
    images = open_images(folder, how, [InputSpec("x", shape)])
    (sample,) = images[0]
    assert sample.shape == shape
    expected = how.apply(Image.open(folder / "0.png"))
    np.testing.assert_array_equal(sample, expected if shape[0] < 5 else expected.transpose(1, 2, 0))


def test_a_fit_without_a_size_takes_the_inputs(folder: Path) -> None:
    images = open_images(folder, Preprocess(Fit("letterbox")), [InputSpec("x", (3, 32, 32))])
    assert images[0][0].shape == (3, 32, 32)
    assert images.placement(0) == Placement((40, 60), (21, 32), 5, 0, (32, 32))
    with pytest.raises(RecipeError, match=r"lacks the size of the network's input \(fitted"):
        Preprocess(Fit("letterbox")).apply(Image.new("RGB", (2, 2)))


def test_a_preset_of_multiples_is_stretched_to_a_fixed_input(folder: Path) -> None:
    images = open_images(folder, "paddleocr-det", [InputSpec("x", (3, 32, 64))])
    assert images.placement(0) == Placement((40, 60), (32, 64), 0, 0, (32, 64))
    np.testing.assert_array_equal(
        images[0][0], PRESETS["paddleocr-det"].fitted(32, 64).apply(Image.open(folder / "0.png"))
    )


def test_tiles_are_samples(folder: Path) -> None:
    spec = [InputSpec("x", (3, 32, 32))]
    images = open_images(folder, "realesrgan", spec)
    how = PRESETS["realesrgan"].fitted(32, 32)
    counts = [len(how.places(40 + i, 60)) for i in range(6)]
    assert len(images) == sum(counts)
    assert images.names[:2] == ("0.png[0]", "0.png[1]")
    (second,) = images[1]
    np.testing.assert_array_equal(second, how.apply(Image.open(folder / "0.png"), 1))
    placement = images.placement(1)
    assert placement is not None
    assert placement.left < 0
    calibration, evaluation = images.split()
    assert {item.file for item in evaluation.items} == {"4.png"}
    assert not {item.file for item in calibration.items} & {"4.png"}, "no tile of an image is on both sides"
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    again = find_images(folder, how, spec).distinct()
    assert len(again) == len(images), "the tiles of a copy are copies, and those of one image are not"


@pytest.mark.parametrize(("shape", "layout"), [((6, 8, 9), "chw"), ((8, 9, 2), "hwc")])
def test_arrays_with_any_number_of_channels_are_normalised(tmp_path: Path, shape: tuple[int, ...], layout: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    count = min(shape)
    mean = tuple(i / 10 for i in range(count))
    how = Preprocess(color="array", mean=mean, std=(0.5,), layout=layout, arrays=True)
    (sample,) = open_images(tmp_path / "x.npy", how, [InputSpec("x", shape)])[1]
    axis = (count, 1, 1) if layout == "chw" else (count,)
    expected = (pixels[1].astype(np.float32) / np.float32(255) - np.array(mean, np.float32).reshape(axis)) / np.float32(
        0.5
    )
    np.testing.assert_array_equal(sample, expected)
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"an image has 1, 3 or 4 channels .*--mean, --std and --divisor apply to arr"):
        open_images(tmp_path / "a.png", how, [InputSpec("x", shape)])


def test_arrays_are_fed_as_they_are_unless_asked(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 3, 4, 4), 51, np.uint8))
    spec = [InputSpec("x", (3, 4, 4))]
    how = Preprocess((4, 4), mean=(0.2,), std=(2.0,))
    assert open_images(tmp_path / "x.npy", how, spec)[0][0].max() == 51
    assert open_images(tmp_path / "x.npy", replace(how, arrays=True), spec)[0][0].max() == 0


# ------------------------------------------------------------------------------------ options, recipes and mistakes


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("resize", "letterbox", Fit("letterbox")),
        (
            "resize",
            "letterbox:align=corner,fill=114,grow=no",
            Fit("letterbox", align="corner", fill=(114,), grow=False),
        ),
        (
            "resize",
            "letterbox:size=640x480,fill=1/2/3,multiple=32",
            Fit("letterbox", (640, 480), fill=(1, 2, 3), multiple=32),
        ),
        ("resize", "right:rounding=up,fill=none", Fit("right", rounding="up")),
        ("resize", "multiple:multiple=32,longer=960", Fit("multiple", multiple=32, longer=960)),
        ("resize", "256", 256),
        ("resize", "224,448", (224, 448)),
        ("resize", "none", None),
        ("crop", "tiles:overlap=16", Tiles(overlap=16)),
        ("crop", "tiles", Tiles()),
        ("crop", "224x224", (224, 224)),
    ],
)
def test_options_and_recipe_files_express_every_way(name: str, text: str, value: Any, tmp_path: Path) -> None:
    field = preprocess_field(name, text)
    assert getattr(Preprocess.from_dict({name: field}), name) == value
    recipe = Recipe("m.onnx", preprocess={name: field})
    save_recipe(recipe, tmp_path / "r.toml")
    read = make_recipe({}, tmp_path / "r.toml")
    assert read == recipe
    how = Preprocess.from_dict(read.preprocess)
    assert getattr(how, name) == value
    assert Preprocess.from_dict(json.loads(json.dumps(how.to_dict()))) == how


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": {"way": "squash"}}, "way must be one of letterbox, right, multiple, not 'squash'"),
        ({"resize": {"align": "corner"}}, 'has no way .*way = "letterbox"'),
        ({"resize": {"way": "letterbox", "colour": 1}}, "resize has no field 'colour' .*one of way, size, align"),
        ({"resize": {"way": "letterbox", "align": "top"}}, "align must be one of centre, corner"),
        ({"resize": {"way": "letterbox", "fill": [256]}}, "fill must be none, or pixels from 0 to 255"),
        ({"resize": {"way": "letterbox", "fill": [1, 2]}}, "fill must be 3 pixels"),
        ({"resize": {"way": "letterbox", "size": [600, 600], "multiple": 32}}, "size 600x600 is not a multiple of 32"),
        ({"resize": {"way": "letterbox", "multiple": 0}}, "multiple must be a whole number"),
        ({"resize": {"way": "letterbox", "grow": "maybe"}}, "grow must be true or false"),
        ({"resize": {"way": "right", "rounding": "off"}}, "rounding must be one of nearest, down, up"),
        (
            {"resize": {"way": "multiple", "size": [64, 64]}},
            "the way multiple uses the size of the image, so it takes no size",
        ),
        ({"resize": {"way": "letterbox"}, "crop": [8, 8]}, "resize letterbox cannot be combined with a crop"),
        ({"crop": {"size": [8, 8], "overlap": 8}}, "an overlap of 8 leaves nothing of a tile of 8x8"),
        ({"crop": {"overlap": -1}}, "overlap must be a whole number"),
        ({"layout": "nhwc"}, "unknown layout 'nhwc' .*chw, hwc"),
        ({"arrays": 1}, "arrays must be true or false"),
    ],
)
def test_invalid_ways(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Preprocess.from_dict(values)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("crop", "centre", "unknown --crop 'centre' .*height,width, tiles or none"),
        ("resize", "letterbox:corner", "'corner' is not NAME=VALUE"),
        ("resize", "big,small", "is not a list of numbers"),
    ],
)
def test_invalid_options_for_ways(name: str, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        preprocess_field(name, text)


def test_every_preset_describes_its_steps(folder: Path) -> None:
    assert PRESETS["yolo"].in_words()["resize"] == (
        "letterboxed to 640 x 640 (height x width), padded about the centre with pixel 114, opencv, not antialiased"
    )
    assert PRESETS["realesrgan"].in_words()["crop"] == "tiles of the input's size, overlapping by 20 or more"
    assert all(how.in_words()["values"].startswith("(value / ") for how in PRESETS.values())


# ------------------------------------------------------------------------------------- what a model's inputs allow


def source_of(tmp_path: Path, *shapes: tuple[int, ...]) -> ModelSource:
    names = [f"in{i}" for i in range(len(shapes))]
    layers = [Layer("Input", name, [], [name]) for name in names]
    layers += [Layer("ReLU", f"relu{name}", [name], [f"out{name}"]) for name in names]
    save(Graph(layers), tmp_path / "m.param")
    return open_model(str(tmp_path / "m.param"), shapes=shapes)


@pytest.mark.parametrize(
    ("shape", "color", "layout"),
    [
        ((3, 8, 9), "rgb", "chw"), ((8, 9, 3), "rgb", "hwc"), ((8, 9, 4), "rgba", "hwc"), ((4, 8, 9), "rgba", "chw"),
        ((2, 8, 9), "array", "chw"), ((8, 9, 6), "array", "hwc"),
    ],
)  # fmt: skip
def test_a_given_mean_is_kept_whatever_the_input_takes(
    shape: tuple[int, ...], color: str, layout: str, tmp_path: Path
) -> None:
    found, origin = choose_preprocess(source_of(tmp_path, shape), "", {"mean": (7.0,), "std": (2.0,), "divisor": 1.0})
    assert found is not None
    assert (found.color, found.layout, set(found.mean), found.arrays) == (color, layout, {7.0}, True)
    assert origin == "divisor, mean, std as given"
    np.save(tmp_path / "x.npy", np.full((1, *shape), 11, np.uint8))
    images = open_images(tmp_path / "x.npy", found, [InputSpec("in0", shape)])
    assert np.unique(images[0][0]).tolist() == [2.0]
    assert as_used(found, origin, images) == (found, origin)


@pytest.mark.parametrize("crop", [Tiles(overlap=2), {"overlap": 2}])
def test_tiles_are_of_the_image_at_its_own_size(tmp_path: Path, crop: Any) -> None:
    """Tiles are cut without resizing, unless the user asks for it: a guessed resizing would leave one tile."""
    found, _ = choose_preprocess(source_of(tmp_path, (3, 8, 9)), "", {"crop": crop})
    assert found is not None
    assert (found.resize, found.crop) == (None, Tiles((8, 9), 2))
    assert len(found.places(30, 40)) > 1
    found, _ = choose_preprocess(source_of(tmp_path, (3, 8, 9)), "", {"crop": crop, "resize": 16})
    assert found is not None
    assert found.resize == 16
    found, _ = choose_preprocess(source_of(tmp_path, (3, 8, 9)), "yolo", {"crop": crop})
    assert found is not None
    assert found.resize is None


def test_of_several_inputs_the_one_that_takes_images_has_the_preprocessing(tmp_path: Path) -> None:
    found, _ = choose_preprocess(source_of(tmp_path, (5,), (3, 8, 9)), "", {"mean": (0.5,)})
    assert found is not None
    assert (found.resize, set(found.mean)) == ((8, 9), {0.5})


def test_options_that_no_input_could_use_are_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, (7,), (5,))
    assert choose_preprocess(source, "", {}) == (None, ARRAYS)
    with pytest.raises(RecipeError, match="mean cannot be given to a network with 2 inputs that take arrays"):
        choose_preprocess(source, "", {"mean": (0.5,)})
