"""Presets: the preprocessing with which known networks were trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ModelError, RecipeError
from ..onboard.picture import OPENCV, Fit, Tiles
from .axes import ImageAxes
from .preprocess import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PRESETS = {
    # torchvision/transforms/_presets.py, ImageClassification, with the sizes of most networks.
    "imagenet": Preprocess(resize=256, crop=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # timm's config of tf_efficientnet_lite0.
    "efficientnet-lite0": Preprocess(resize=256, interpolation="bicubic", crop=(224, 224), mean=(0.5,), std=(0.5,)),
    # Ultralytics, ultralytics/data/augment.py, LetterBox; utils/augmentations.py of YOLOv5 and YOLOv7 do the same.
    "yolo": Preprocess(Fit("letterbox", (640, 640), fill=(114,)), OPENCV),
    # Megvii-BaseDetection/YOLOX, yolox/data/data_augment.py, preproc.
    "yolox": Preprocess(
        Fit("letterbox", (640, 640), align="corner", fill=(114,), rounding="down"), OPENCV, color="bgr", divisor=1.0
    ),
    # PaddlePaddle/PaddleOCR, ppocr/data/imaug/operators.py: DetResizeForTest with the limits of tools/infer/utility.py,
    # then NormalizeImage, which gives the mean of red to blue.
    "paddleocr-det": Preprocess(
        Fit("multiple", multiple=32, longer=960), OPENCV, color="bgr", mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    # PaddlePaddle/PaddleOCR, tools/infer/predict_rec.py, resize_norm_img.
    "paddleocr-rec": Preprocess(
        Fit("right", (48, 320), rounding="up"), OPENCV, color="bgr", mean=(0.5,), std=(0.5,)
    ),
    # Zhang and others, Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks (2016), and
    # facenet's code of it: (x - 127.5) / 128. It averages areas while reducing, as the box filter does.
    "mtcnn": Preprocess((48, 48), "box", divisor=1.0, mean=(127.5,), std=(128.0,)),
    # deepinsight/insightface, python-package/insightface/model_zoo/scrfd.py, detect.
    "scrfd": Preprocess(
        Fit("letterbox", (640, 640), align="corner", fill=(0,), rounding="down"),
        OPENCV, divisor=1.0, mean=(127.5,), std=(128.0,),
    ),
    # biubug6/Pytorch_Retinaface, detect.py, and data/data_augment.py, which pads with the mean.
    "retinaface": Preprocess(
        Fit("letterbox", (640, 640), align="corner"), OPENCV, color="bgr", divisor=1.0, mean=(104.0, 117.0, 123.0)
    ),
    # xinntao/Real-ESRGAN-ncnn-vulkan, src/realesrgan.cpp: tiles with 10 pixels around each.
    "realesrgan": Preprocess(crop=Tiles(overlap=20)),
}  # fmt: skip
"""Preprocessing by name. Each row names its source."""


def preset(name: str) -> Preprocess:
    """Preprocessing by name.

    Args:
        name: a key of ``PRESETS``, or ``torchvision:NAME`` or ``timm:NAME`` for the preprocessing of that library's
            model (the library must be installed; nothing is downloaded).

    Returns:
        The preprocessing. :meth:`Preprocess.fitted` scales it to the input of a network.

    Raises:
        RecipeError: there is no such preset, or a Preprocess cannot express it.
        ModelError: the library is not installed or has no such model.

    Example:
        >>> nk.preset("yolo").resize.way
        'letterbox'
    """
    library, _, model = name.partition(":")
    if model and library in _LIBRARIES:
        found = _LIBRARIES[library](model)
        if found is None:
            raise RecipeError(
                f"{name} has no image preprocessing that ncnnkit can use", hint="use --mean, --std, --resize"
            )
        return found
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}", hint=f"one of {', '.join(PRESETS)}, torchvision:NAME, timm:NAME")
    return PRESETS[name]


def stretched(axes: ImageAxes, **values: Any) -> Preprocess:
    """Stretch images to an input, with the usual order of colours for its number of channels."""
    return Preprocess((axes.height, axes.width), color=_COLORS[axes.channels], layout=axes.layout, **values)


def ultralytics(axes: ImageAxes) -> Preprocess:
    """The preprocessing of Ultralytics' networks, except for classifiers, for an input."""
    letterbox = PRESETS["yolo"].fitted(axes.height, axes.width)
    return replace(stretched(axes, interpolation=letterbox.interpolation), resize=letterbox.resize)


def default_preprocess(axes: ImageAxes) -> Preprocess:
    """The preprocessing that is assumed if nothing is known.

    Images are stretched to the input, with ImageNet's mean and std. Grey uses the means over the channels, and alpha is
    from 0 to 1.
    """
    gray = (float(np.mean(IMAGENET_MEAN)),), (float(np.mean(IMAGENET_STD)),)
    alpha = (*IMAGENET_MEAN, 0.0), (*IMAGENET_STD, 1.0)
    mean, std = {1: gray, 3: (IMAGENET_MEAN, IMAGENET_STD), 4: alpha}[axes.channels]
    return stretched(axes, mean=mean, std=std)


_COLORS = {1: "gray", 3: "rgb", 4: "rgba"}


def _torchvision_preset(name: str) -> Preprocess | None:
    try:
        from torchvision.models import get_model_weights
    except ImportError:
        raise _not_installed("torchvision", name) from None
    try:
        weights = get_model_weights(name)
    except ValueError:
        raise ModelError(f"torchvision has no model {name!r}", where=f"torchvision:{name}") from None
    return from_torchvision(getattr(weights, "DEFAULT", None))


def from_torchvision(weights: Any) -> Preprocess | None:
    """The preprocessing of a torchvision weights enum member; None if it has none for single images."""
    transform: Any = weights.transforms() if weights is not None else None
    kind = type(transform).__name__
    if kind not in ("ImageClassification", "SemanticSegmentation"):
        return None
    return Preprocess(
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        crop=(transform.crop_size[0],) * 2 if kind == "ImageClassification" else None,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _timm_preset(name: str) -> Preprocess | None:
    try:
        import timm
    except ImportError:
        raise _not_installed("timm", name) from None
    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        raise ModelError(f"timm has no model {name!r}", where=f"timm:{name}")
    return from_timm(timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))


def from_timm(config: Mapping[str, Any]) -> Preprocess | None:
    """The preprocessing of a timm data config, equal to ``timm.data.create_transform(**config)``.

    None if it cannot be expressed (letterboxing, non-square centre crops).
    """
    _, height, width = config["input_size"]
    scaled = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    squash = config["crop_mode"] == "squash"
    if config["crop_mode"] == "border" or (not squash and height != width):
        return None
    return Preprocess(
        resize=scaled if squash else scaled[0],
        interpolation=config["interpolation"],
        crop=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _not_installed(library: str, name: str) -> ModelError:
    return ModelError(
        f"{library} is not installed", where=f"{library}:{name}", hint="pip install torch torchvision timm"
    )


_LIBRARIES: dict[str, Callable[[str], Preprocess | None]] = {"torchvision": _torchvision_preset, "timm": _timm_preset}
