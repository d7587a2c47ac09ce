"""The examples of a run: the chosen samples, and the SQNR of each variant."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from networks import samples, small
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.comparison.outputs import Outputs, keep_outputs
from ncnnkit.errors import FormatError
from ncnnkit.measure.examples import choose_examples
from ncnnkit.model import ncnnfile
from ncnnkit.onboard.picture import Tiles
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe
from ncnnkit.record.examples import CHECKED, EXAMPLES, MOST, Examples, checked
from ncnnkit.samples.finding import open_images
from ncnnkit.samples.images import ImageSet
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess

HOW = Preprocess(resize=(16, 16))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (7, 40, 30, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    return open_images(tmp_path / "images", HOW, [InputSpec("in0", (3, 16, 16))])


def outputs(arrays: Sequence[NDArray[np.float32]], folder: Path) -> Outputs:
    return keep_outputs(["out0"], ([array] for array in arrays), folder)


def test_a_slow_variant_is_compared_on_the_samples_that_it_ran(images: ImageSet, tmp_path: Path) -> None:
    exact = [np.arange(10, dtype=np.float32) + i for i in range(7)]
    reference = outputs(exact, tmp_path / "a")
    two = [array + np.float32(0.01) for array in exact[:2]]
    found = choose_examples(images, reference, {"int8-vulkan": outputs(two, tmp_path / "b")})
    assert len(found.rows) == MOST
    assert found.sqnr_db is not None
    signal = float(np.sum(exact[0].astype(float) ** 2))
    assert found.sqnr_db["int8-vulkan"] == pytest.approx(10 * math.log10(signal / (10 * 0.01**2)), abs=1e-3)


def test_examples_are_files_with_the_originals_outputs(images: ImageSet, tmp_path: Path) -> None:
    exact = [np.arange(10, dtype=np.float32) + i for i in range(7)]
    near = [array + np.float32(0.01) for array in exact]
    reference = outputs(exact, tmp_path / "a")
    measured = {"fp32-cpu": reference, "int8-cpu": outputs(near, tmp_path / "b")}
    choose_examples(images, reference, measured).save(tmp_path / EXAMPLES)
    found = Examples.load(tmp_path / EXAMPLES)
    assert len(found.rows) == MOST
    for row, index in zip(found.rows, (0, 2, 4)):
        assert row.files == ((".png", (tmp_path / f"images/{index}.png").read_bytes()),)
        np.testing.assert_array_equal(row.outputs[0], exact[index])
        assert row.placement == images.placement(index)
    assert found.sqnr_db is not None
    assert found.sqnr_db["fp32-cpu"] == math.inf
    signal = sum(float(np.sum(exact[i].astype(float) ** 2)) for i in (0, 2, 4))
    assert found.sqnr_db["int8-cpu"] == pytest.approx(10 * math.log10(signal / (30 * 0.01**2)), abs=1e-3)


def test_an_array_is_kept_as_a_program_takes_it(tmp_path: Path) -> None:
    """A program normalises arrays itself if the card says so."""
    given = np.full((2, 3, 4, 4), 3.0, np.float32)
    np.save(tmp_path / "x.npy", given)
    how = Preprocess(mean=(1.0,), std=(2.0,), divisor=1.0, color="array", arrays=True)
    images = open_images(tmp_path / "x.npy", how, [InputSpec("in0", (3, 4, 4))])
    assert images[0][0].max() == 1.0
    reference = outputs([np.zeros(10, np.float32)] * len(images), tmp_path / "a")
    found = choose_examples(images, reference, {}).rows[0]
    np.testing.assert_array_equal(np.load(io.BytesIO(found.files[0][1])), given[0])


def test_each_of_several_inputs_has_a_file(images: ImageSet, tmp_path: Path) -> None:
    """An image and the row of an array."""
    np.save(tmp_path / "n.npy", np.arange(7, dtype=np.float32)[:, None])
    specs = [InputSpec("image", (3, 16, 16)), InputSpec("number", (1,))]
    given = {"image": str(tmp_path / "images"), "number": str(tmp_path / "n.npy")}
    reference = outputs([np.zeros(10, np.float32)] * 7, tmp_path / "a")
    choose_examples(open_images(given, HOW, specs), reference, {}).save(tmp_path / EXAMPLES)
    found = Examples.load(tmp_path / EXAMPLES).rows
    for row, index in zip(found, (0, 2, 4), strict=True):
        (ending, picture), (_, number) = row.files
        assert (ending, picture) == (".png", (tmp_path / f"images/{index}.png").read_bytes())
        assert np.load(io.BytesIO(number)).tolist() == [index]
        assert row.placement == images.placement(index)


def test_the_first_tile_of_an_image_is_an_example(images: ImageSet, tmp_path: Path) -> None:
    """Images of 40x30 are six tiles of 16x16."""
    found = open_images(tmp_path / "images", Preprocess(crop=Tiles((16, 16))), [InputSpec("in0", (3, 16, 16))])
    assert len(found) == 7 * 6
    reference = outputs([np.full(10, i, np.float32) for i in range(len(found))], tmp_path / "a")
    rows = choose_examples(found, reference, {}).rows
    assert [int(row.outputs[0][0]) for row in rows] == [0, 12, 24]
    assert [row.files[0][1] for row in rows] == [(tmp_path / f"images/{i}.png").read_bytes() for i in (0, 2, 4)]


def test_an_image_without_an_ending_is_an_example(images: ImageSet, tmp_path: Path) -> None:
    names = ("a", "b.x y", "c.PNG")
    for i, name in enumerate(names):
        (tmp_path / f"images/{i}.png").rename(tmp_path / "images" / name)
    found = open_images(tmp_path / "images", HOW, [InputSpec("in0", (3, 16, 16))])
    chosen = found.subset([found.names.index(name) for name in names])
    reference = outputs([np.zeros(10, np.float32)] * 3, tmp_path / "a")
    choose_examples(chosen, reference, {}).save(tmp_path / EXAMPLES)
    assert [row.files[0][0] for row in Examples.load(tmp_path / EXAMPLES).rows] == [".img", ".img", ".png"]


def test_a_large_sample_is_not_an_example(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = outputs([np.zeros(10, np.float32)] * 7, tmp_path / "a")
    monkeypatch.setattr("ncnnkit.measure.examples.OUTPUT_BYTES", 39)
    assert choose_examples(images, reference, {}).rows == ()


def test_values_are_compared_evenly_over_an_output() -> None:
    assert checked(np.arange(5, dtype=np.float32)).tolist() == [0, 1, 2, 3, 4]
    found = checked(np.arange(10 * CHECKED + 7, dtype=np.float32))
    assert (len(found), found[0], found[-1]) == (CHECKED, 0, 10 * (CHECKED - 1))


def test_a_run_keeps_examples(tmp_path: Path) -> None:
    ncnnfile.save(small(), tmp_path / "m.param")
    np.save(tmp_path / "x.npy", samples(6))
    recipe = Recipe(
        str(tmp_path / "m.param"), images=str(tmp_path / "x.npy"), backends=("cpu",), precisions=("fp32", "int8"),
        threads=1, seconds=0.05, rounds=1, effort="fast",
    )  # fmt: skip
    document = run(recipe, tmp_path / "out")
    assert EXAMPLES in document.files
    found = Examples.load(tmp_path / "out" / EXAMPLES)
    assert [row.files[0][0] for row in found.rows] == [".npy"] * len(found.rows)
    assert found.rows
    assert found.sqnr_db is not None
    assert found.sqnr_db["fp32-cpu"] > 80 > found.sqnr_db["int8-cpu"] > 10


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / EXAMPLES).write_bytes(b"nothing")
    with pytest.raises(FormatError, match="cannot be read: is damaged"):
        Examples.load(tmp_path / EXAMPLES)
    assert Examples.load(tmp_path / "nowhere.npz").rows == ()
