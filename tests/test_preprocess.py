"""Preprocessing: bit-exact to the transforms of torchvision and timm, and invalid values."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.errors import ModelError, RecipeError
from ncnnkit.samples.axes import image_axes
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRESETS,
    default_preprocess,
    from_timm,
    preset,
)

# Odd and even, larger and smaller than any crop, long and thin. Without resizing, (1, 1) is mostly padding.
SIZES = [(320, 240), (241, 333), (224, 224), (225, 223), (10, 7), (1, 1), (3, 200)]
MODES = ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise, in which any difference of positions or rounding is visible."""
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)  # RGBA
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def planes(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(np.float32)


# ------------------------------------------------------------------------------------------- torchvision and timm

TORCHVISION = ["resnet50", "mobilenet_v3_large", "efficientnet_b0", "swin_t", "vit_b_16", "vit_l_16", "inception_v3"]
TIMM = [  # centre crops at several percentages, bicubic and bilinear; sapiens squashes to a rectangle
    "resnet50", "tf_efficientnet_lite0", "inception_v3", "vit_base_patch16_224", "eva02_tiny_patch14_336",
    "regnety_004", "vit_base_patch16_siglip_256",
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_presets_are_equal_to_the_bit(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    transform, ours = models.get_model_weights(name).DEFAULT.transforms(), preset(f"torchvision:{name}")
    images = [noise(*size) for size in SIZES] + [noise(120, 97, mode) for mode in MODES]
    for image in images:
        # torchvision's transforms get images from its data sets, which convert to RGB.
        expected = transform(image.convert("RGB")).numpy()
        assert np.array_equal(ours.apply(image), expected), (image.size, image.mode)


@pytest.mark.torch
@pytest.mark.parametrize("name", TIMM)
def test_timm_presets_are_equal_to_the_bit(name: str) -> None:
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform, ours = timm.data.create_transform(**config, is_training=False), preset(f"timm:{name}")
    for size in SIZES:
        image = noise(*size)
        assert np.array_equal(ours.apply(image), transform(image).numpy()), size


@pytest.mark.torch
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("input_size", [(3, 64, 48), (3, 65, 65)])
def test_timm_squashing_is_equal_to_the_bit(interpolation: str, input_size: tuple[int, int, int]) -> None:
    timm = pytest.importorskip("timm")
    config = {
        "input_size": input_size, "crop_pct": 0.9, "crop_mode": "squash", "interpolation": interpolation,
        "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4),
    }  # fmt: skip
    transform, ours = timm.data.create_transform(**config, is_training=False), from_timm(config)
    assert ours is not None
    for size in SIZES:
        image = noise(*size)
        assert np.array_equal(ours.apply(image), transform(image).numpy()), size


@pytest.mark.torch
def test_every_classifier_of_torchvision_and_timm_has_a_preset() -> None:
    timm, models = pytest.importorskip("timm"), pytest.importorskip("torchvision").models
    for name in models.list_models(module=models):
        assert preset(f"torchvision:{name}").crop, name
    letterboxed = 0
    for name in timm.list_models():
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        found = from_timm(config)
        if found is None:
            letterboxed += 1
            assert config["crop_mode"] == "border", name
        else:
            assert found.crop == tuple(config["input_size"][1:]), name
    assert letterboxed < 10


@pytest.mark.torch
def test_segmentation_networks_are_not_cropped() -> None:
    pytest.importorskip("torchvision")
    found = preset("torchvision:deeplabv3_resnet50")
    assert (found.resize, found.crop, found.mean) == (520, None, IMAGENET_MEAN)
    assert found.fitted(512, 640).resize == (512, 640)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("torchvision:resnet5o", ModelError, "no model 'resnet5o'"),
        ("timm:resnet5o", ModelError, "no model 'resnet5o'"),
        ("torchvision:raft_large", RecipeError, "no image preprocessing"),
    ],
)
def test_libraries_without_such_a_preset(name: str, error: type[Exception], message: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    with pytest.raises(error, match=message):
        preset(name)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.models", None)
    with pytest.raises(ModelError, match=f"{library} is not installed"):
        preset(f"{library}:resnet18")


@pytest.mark.parametrize(
    "change", [{"crop_mode": "border"}, {"input_size": (3, 64, 48)}], ids=["letterbox", "rectangle"]
)
def test_timm_configs_that_cannot_be_expressed(change: dict[str, Any]) -> None:
    config = {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear",
              "mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # fmt: skip
    assert from_timm(config) == Preprocess(resize=64, crop=(64, 64), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert from_timm({**config, **change}) is None


@pytest.mark.parametrize("name", ["imagenot", "torchvision:", "keras:resnet50", ""])
def test_unknown_presets(name: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown preset .*imagenet"):
        preset(name)


def test_presets_by_name() -> None:
    assert preset("imagenet") is PRESETS["imagenet"]
    assert preset("imagenet").output_size(480, 640) == (224, 224)


# ------------------------------------------------------------------------------------------------------ arithmetic


def test_the_arithmetic_is_float32s_one_operation_after_the_other() -> None:
    image = noise(5, 4)
    given = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    result = given.apply(image)
    assert np.array_equal(result, (planes(image) / np.float32(255) - mean) / std)
    assert result.dtype == np.float32
    assert result.flags["C_CONTIGUOUS"]
    assert result.shape == (3, 4, 5)


def test_bgr_reverses_the_planes_and_mean_follows_them() -> None:
    image = noise(4, 4)
    result = Preprocess(color="bgr", divisor=1, mean=(1, 2, 3)).apply(image)
    assert np.array_equal(result, planes(image)[::-1] - np.array([1, 2, 3], np.float32)[:, None, None])
    assert result.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("mode", MODES)
def test_gray_has_one_plane_of_pillows_luminance(mode: str) -> None:
    image = noise(6, 5, mode)
    result = Preprocess(color="gray", divisor=1).apply(image)
    assert result.shape == (1, 5, 6)
    assert np.array_equal(result[0], np.asarray(image.convert("L")))


def test_images_smaller_than_the_crop_are_padded_with_black() -> None:
    image = Image.new("RGB", (2, 3), "white")
    result = Preprocess(crop=(6, 5), divisor=255).apply(image)[0]
    expected = np.zeros((6, 5), np.float32)
    expected[1:4, 1:3] = 1  # the odd row and column of black go below and to the right, as in torchvision
    assert np.array_equal(result, expected)


def test_transparency_is_dropped_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = noise(4, 4).convert("P")
    image.info["transparency"] = bytes(range(256))  # of a kind Pillow warns about
    plain = noise(4, 4).convert("P").convert("RGB")
    assert np.array_equal(Preprocess(divisor=1).apply(image), planes(plain))
    assert not list(recwarn)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
        (np.array([[0, 65535, 70000]], np.int32), [0, 255, 255]),
        (np.array([[0, 1, 128, 255]], np.int32), [0, 1, 128, 255]),  # 8 bits, stored in 32
        (np.array([[-7, 0, 0x40000000, 0x7FFFFFFF]], np.int32), [0, 0, 64, 127]),
        (np.array([[0.0, 257.0, 65535.0]], np.float32), [0, 1, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),  # from 0 to 1
        (np.array([[-5.0, 128.2, 300.0]], np.float32), [0, 128, 255]),  # from 0 to 255
        (np.array([[np.nan, 0.5, 1.0]], np.float32), [0, 128, 255]),
    ],
    ids=["uint16", "int32", "8 bits", "32 bits", "16 bits", "unit", "bytes", "nan"],
)
def test_deep_gray_is_scaled_and_not_clipped(array: NDArray[Any], expected: list[int]) -> None:
    image = Image.fromarray(array)
    assert Preprocess(divisor=1, color="gray").apply(image)[0, 0].tolist() == expected
    assert Preprocess(divisor=1).apply(image)[:, 0].tolist() == [expected] * 3


def test_a_strip_too_long_to_resize_is_refused_before_the_memory_is() -> None:
    strip = Image.new("L", (6000, 1))
    given = Preprocess(resize=256, crop=(224, 224))
    with pytest.raises(ValueError, match="too long and thin"):
        given.apply(strip)
    with pytest.raises(ValueError, match="too long and thin"):  # found without decoding the image
        given.output_size(1, 6000)


# ------------------------------------------------------------------------------------------------ values and dicts


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"color": "cmyk"}, "unknown color 'cmyk' .*rgb, bgr, gray"),
        ({"color": {}}, "unknown color"),
        ({"interpolation": "bicubik"}, "unknown interpolation .*bicubic"),
        ({"mean": [0.5, 0.5]}, "mean must be 3 numbers"),
        ({"mean": ["a", "b", "c"]}, "mean must be 3 numbers"),
        ({"mean": [float("nan")] * 3}, "mean must be 3 numbers"),
        ({"std": [1, float("inf"), 1]}, "std must be 3 numbers"),
        ({"std": [1, 0, 1]}, "std must not be zero"),
        ({"std": []}, "std must be 3 numbers"),
        ({"color": "gray", "std": [1, 1, 1]}, "std must be 1 numbers"),
        ({"divisor": 0}, "divisor must be a number above zero"),
        ({"divisor": float("nan")}, "divisor"),
        ({"divisor": "255"}, "divisor"),
        ({"resize": 0}, "resize must be pixels, height,width in pixels, or a Fit"),
        ({"resize": [224]}, "resize must be"),
        ({"resize": 224.0}, "resize must be"),
        ({"resize": True}, "resize must be"),
        ({"resize": [224, -1]}, "resize must be"),
        ({"crop": 224}, "crop must be height,width"),
        ({"crop": [1, 2, 3]}, "crop must be height,width"),
        ({"croop": [1, 2]}, "preprocessing has no field 'croop'"),
    ],
)
def test_bad_values_are_recipe_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Preprocess.from_dict(values)


sides = st.integers(1, 2000)
pairs = st.tuples(sides, sides)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    color = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    count = 1 if color == "gray" else 3
    return Preprocess(
        resize=draw(st.one_of(st.none(), sides, pairs)),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])),
        crop=draw(st.one_of(st.none(), pairs)),
        color=color,
        divisor=draw(st.floats(min_value=1e-3, max_value=1e6)),
        mean=tuple(draw(st.lists(numbers, min_size=count, max_size=count))),
        std=tuple(draw(st.lists(numbers.filter(bool), min_size=count, max_size=count))),
    )


@given(preprocesses())
def test_a_dict_survives_json(value: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(value.to_dict()))) == value


@given(preprocesses(), pairs)
def test_fitted_gives_tensors_of_the_size_asked_for(value: Preprocess, size: tuple[int, int]) -> None:
    fitted = value.fitted(*size)
    if value.crop or value.resize:
        assert (fitted.crop or fitted.resize) == size
    else:
        assert fitted == value  # images are taken as they are
    assert fitted.fitted(*size) == fitted
    assert replace(fitted, resize=value.resize, crop=value.crop) == value  # nothing else changes


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        (256, (224, 224), 256),
        (256, (288, 288), 329),  # as timm: floor(288 / 0.875)
        (256, (224, 448), 512),  # the larger scale: the crop stays inside the image
        ((256, 300), (112, 224), (128, 300)),
        (None, (64, 64), None),
    ],
)
def test_fitted_scales_resize_with_the_crop(resize: Any, size: tuple[int, int], expected: Any) -> None:
    fitted = Preprocess(resize=resize, crop=(224, 224)).fitted(*size)
    assert (fitted.resize, fitted.crop) == (expected, size)


@pytest.mark.parametrize(
    ("shape", "color"),
    [
        ((3, 20, 30), "rgb"), ((1, 20, 30), "gray"), ((4, 20, 30), "rgba"), ((20, 30, 3), "rgb"), ((20, 30, 1), "gray"),
        ((20, 30, 4), "rgba"), ((2, 20, 30), None), ((20, 30, 6), None), ((3,), None), ((), None),
    ],
)  # fmt: skip
def test_the_default_for_an_input_nothing_is_known_about(shape: tuple[int, ...], color: str | None) -> None:
    axes = image_axes(shape)
    if color is None:
        assert axes is None
    else:
        assert axes is not None
        found = default_preprocess(axes)
        assert (found.color, found.resize, found.crop) == (color, (20, 30), None)
        assert found.apply(noise(50, 40)).shape == shape
