"""Implausible preprocessing is reported, with its cause and the fix."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.samples.doubts import preprocessing_doubts
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS
from ncnnkit.samples.stream import ArraySamples

X = InputSpec("x", (3, 8, 8))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def doubts(preprocess: Preprocess) -> list[str]:
    tensors = np.stack([preprocess.apply(Image.fromarray(pixels)) for pixels in PIXELS])
    return preprocessing_doubts(ArraySamples((tensors,)), [X], preprocess)


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [
        (Preprocess(mean=(127.0,), std=(128.0,)), r"the mean 127.* belongs to pixels .*--divisor 1"),
        (Preprocess(mean=(0.5,), std=(58.0,)), r"the std 58.* belongs to pixels .*--divisor 1"),
        (
            Preprocess(mean=(0.485, 0.456, 0.406), std=(0.01712475, 0.017507, 0.01742919)),
            r"looks like a norm value of ncnn, .*give --std 58\.\d.* and --divisor 1",
        ),
        (
            Preprocess(mean=(123.7, 116.3, 103.5), std=(0.01712475, 0.017507, 0.01742919), divisor=1),
            "a norm value of ncnn",
        ),
        (Preprocess(divisor=10000.0), r"nearly a constant: check --divisor"),
        (Preprocess(divisor=1.0), r"range above 100: check --divisor, --mean and --std"),
    ],
)
def test_implausible_preprocessing_is_reported_with_the_fix(preprocess: Preprocess, said: str) -> None:
    (sentence,) = doubts(preprocess)
    assert sentence.startswith("input 'x': ")
    assert re.search(said, sentence)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(mean=(0.5,), std=(0.5,)),
        Preprocess(mean=(127.5,), std=(127.5,), divisor=1),
        Preprocess(mean=PRESETS["imagenet"].mean, std=PRESETS["imagenet"].std),
    ],
)
def test_usual_preprocessing_raises_no_doubt(preprocess: Preprocess) -> None:
    assert doubts(preprocess) == []


def arrays(*values: NDArray[Any], spec: InputSpec = X) -> list[str]:
    return preprocessing_doubts(ArraySamples(values), [spec] * len(values), None)


def test_arrays_of_raw_pixels() -> None:
    (said,) = arrays(PIXELS.transpose(0, 3, 1, 2))
    assert "the arrays hold raw pixels" in said
    assert "(pixel / 255 - mean) / std" in said


def test_samples_that_are_all_alike() -> None:
    one = np.random.default_rng(1).random((1, 3, 8, 8))
    (said,) = arrays(np.repeat(one, 5, axis=0))
    assert said == "input 'x': the first 5 samples are all alike; errors measured on them are not meaningful"
    assert arrays(one) == []


def test_token_ids_are_not_pixels() -> None:
    ids = np.random.default_rng(1).integers(0, 30000, (4, 3, 8, 8))
    assert arrays(ids, spec=InputSpec("ids", (3, 8, 8), "int64")) == []
    assert len(arrays(ids)) == 1
