"""Samples from folders, lists and arrays: which are found, skipped or refused."""

from __future__ import annotations

import os
import pathlib
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

import ncnnkit as nk
from ncnnkit.errors import ImageError, RecipeError
from ncnnkit.samples.finding import find_images, open_images
from ncnnkit.samples.images import ImageSet, apart, dropped_copies
from ncnnkit.samples.items import InputSpec, Picture
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import evenly, in_memory

X = InputSpec("x", (3, 8, 6))
Y = InputSpec("y", (5,))
RESIZE = Preprocess(resize=(8, 6))


def noise(seed: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo(path: Path, seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, two of them in subfolders."""
    root = tmp_path / "images"
    for seed, name in enumerate(["b.png", "a/deep/c.jpg", "c/a.PNG"]):
        photo(root / name, seed)
    return root


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


# ---------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_searched_to_its_bottom_and_sorted(folder: Path) -> None:
    for hidden in (".thumbs/x.png", ".x.png", "a/.y.png"):
        photo(folder / hidden)
    images = open_images(folder, RESIZE, [X])
    assert images.names == ("a/deep/c.jpg", "b.png", "c/a.PNG")
    assert images.skipped == ()
    for name, (sample,) in zip(images.names, images):
        assert np.array_equal(sample, RESIZE.apply(Image.open(folder / name)))


def test_a_preset_given_by_name_is_scaled_to_the_input(folder: Path) -> None:
    spec = InputSpec("x", (3, 96, 64))
    by_name, as_it_is = nk.open_images(folder, "imagenet", [spec]), nk.preset("imagenet")
    assert {item.preprocess for item in by_name.items if isinstance(item, Picture)} == {as_it_is.fitted(96, 64)}
    assert by_name[0][0].shape == (3, 96, 64)
    with pytest.raises(ImageError, match=r"preprocessing gives 3x224x224.*a preset by its name"):
        nk.open_images(folder, as_it_is, [spec])
    with pytest.raises(RecipeError, match="unknown preset 'imagenot'"):
        nk.open_images(folder, "imagenot", [spec])


def test_files_that_are_not_images_are_skipped_with_a_reason(folder: Path) -> None:
    (folder / "labels.txt").write_text("b.png 3\n")
    (folder / "empty.jpg").touch()
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")  # opening a pipe would wait for a writer
    images = open_images(folder, RESIZE, [X])
    assert len(images) == 3
    assert dict(images.skipped) == {
        "dangling.jpg": "cannot be read: No such file or directory",
        "empty.jpg": "is not an image",
        "labels.txt": "is not an image",
        "pipe.jpg": "cannot be read: it is a pipe, not a file",
    }


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif", "x.bmp"])
@pytest.mark.parametrize("kept", [0.95, 0.5])
def test_a_truncated_image_is_skipped(folder: Path, name: str, kept: float) -> None:
    path = photo(folder / name, 9)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    images = open_images(folder, RESIZE, [X])
    ((skipped, reason),) = images.skipped
    assert skipped == name
    assert reason
    assert len(images) == 3


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
@pytest.mark.parametrize("missing", [60, 400])
def test_truncation_is_found_although_jpegs_are_checked_at_an_eighth(
    folder: Path, options: dict[str, Any], missing: int
) -> None:
    path = folder / "large.jpg"
    Image.fromarray(noise(1, 300, 400)).save(path, **options)
    whole = path.read_bytes()
    assert len(open_images(folder, RESIZE, [X])) == 4
    path.write_bytes(whole[:-missing])
    assert [name for name, _ in open_images(folder, RESIZE, [X]).skipped] == ["large.jpg"]


@pytest.mark.parametrize(
    ("limit", "reason"), [(400, "is suspiciously large (30x20 pixels)"), (200, "decompression bomb")]
)
def test_decompression_bombs_are_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, limit: int, reason: str
) -> None:
    Image.fromarray(noise(5, 10, 10)).save(folder / "small.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow itself refuses twice as many
    images = open_images(folder, RESIZE, [X])
    assert images.names == ("small.png",)
    assert len(images.skipped) == 3
    assert all(reason in why for _, why in images.skipped)
    assert not list(recwarn)


def test_a_strip_too_thin_to_resize_is_skipped(folder: Path) -> None:
    Image.new("L", (6000, 1)).save(folder / "strip.png")
    crop = Preprocess(resize=256, crop=(8, 6))
    ((name, reason),) = open_images(folder, crop, [X]).skipped
    assert (name, "too long and thin (6000x1)" in reason) == ("strip.png", True)


@pytest.mark.parametrize("link", ["a/circle", "zz"])
def test_links_that_form_a_circle_are_followed_once(folder: Path, link: str) -> None:
    (folder / link).symlink_to(folder, target_is_directory=True)
    (folder / "a" / "self").symlink_to(".", target_is_directory=True)
    assert open_images(folder, RESIZE, [X]).names == ("a/deep/c.jpg", "b.png", "c/a.PNG")


def test_the_first_of_two_names_of_a_folder_counts(folder: Path) -> None:
    (folder / "0").symlink_to("c", target_is_directory=True)
    assert open_images(folder, RESIZE, [X]).names == ("0/a.PNG", "a/deep/c.jpg", "b.png")


def test_a_link_to_a_folder_and_a_single_image_are_sources_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert len(open_images(tmp_path / "link", RESIZE, [X])) == 3
    assert open_images(str(folder / "b.png"), RESIZE, [X]).names == ("b.png",)


def test_progress_counts_examined_and_checked_files(folder: Path) -> None:
    (folder / "x.txt").touch()
    calls: list[tuple[int, int]] = []
    images = open_images(folder, RESIZE, [X], lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    calls.clear()
    find_images(folder, RESIZE, [X], lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    calls.clear()
    images.checked(2, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_a_set_of_many_files_needs_little_memory_for_each(folder: Path, tmp_path: Path) -> None:
    """Finding them also takes little memory: no object is made for every file in advance."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2000):
        (many / f"{number:06}.png").hardlink_to(folder / "b.png")
    sizes: list[int] = []

    def look() -> int:
        # Without the interpreter's table of interned strings, which pathlib makes grow in large steps.
        others = [tracemalloc.Filter(False, pathlib.__file__), tracemalloc.Filter(False, "<frozen *")]
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(others).traces)

    tracemalloc.start()
    try:
        images = find_images(many, RESIZE, [X], lambda done, _: sizes.append(look()) if done % 500 == 0 else None)
        kept = look()
        digests = images.distinct()
        again = look()
    finally:
        tracemalloc.stop()
    assert (len(images), len(digests)) == (2000, 1)
    assert kept < 300 * 2000
    assert max(sizes) < 500 * 2000
    assert again < 700 * 2000


def test_an_image_that_is_removed_later_is_a_named_error(folder: Path) -> None:
    images = open_images(folder, RESIZE, [X])
    (folder / "b.png").unlink()
    with pytest.raises(ImageError, match=r"b\.png: can no longer be read: cannot be read: No such file"):
        in_memory(images)


# ------------------------------------------------------------------------------------------------------------ lists


def test_a_list_keeps_its_order_and_is_relative_to_itself(folder: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_text(f"images/b.png\n\n  {folder / 'a/deep/c.jpg'}  \r\nimages/c/a.PNG\n", encoding="utf-8-sig")
    images = open_images(listed, RESIZE, [X])
    assert images.names == ("images/b.png", str(folder / "a/deep/c.jpg"), "images/c/a.PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"images/b.png\n\nimages/none.png\n", r"list\.txt:3: no such file: images/none\.png"),
        (b"images\n", r"list\.txt:1: no such file: images"),
        (b"\n \n", "contains no files"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"x" * 5000, r"list\.txt:1: no such file: x{200}$"),
    ],
)
def test_lists_that_cannot_be_used(folder: Path, content: bytes, message: str) -> None:
    listed = folder.parent / "list.txt"
    listed.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        open_images(listed, RESIZE, [X])


# ----------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int64", "bool"])
def test_rows_of_a_npy_become_float32_without_scaling(tmp_path: Path, dtype: str) -> None:
    rows = (random(4, *X.shape) * 3).astype(dtype)
    np.save(tmp_path / "x.npy", rows)
    images = open_images(tmp_path / "x.npy", None, [X])
    assert images.names == ("x.npy[0]", "x.npy[1]", "x.npy[2]", "x.npy[3]")
    (stacked,) = in_memory(images)
    assert stacked.dtype == np.float32
    assert np.array_equal(stacked, rows.astype(np.float32))
    assert all(sample.flags["C_CONTIGUOUS"] and sample.flags["WRITEABLE"] for (sample,) in images)


def test_a_fortran_ordered_array_is_read_right(tmp_path: Path) -> None:
    rows = np.asfortranarray(random(4, *X.shape))
    np.save(tmp_path / "x.npy", rows)
    assert np.array_equal(in_memory(open_images(tmp_path / "x.npy", None, [X]))[0], rows)


def test_an_array_of_one_sample_is_one_row(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", random(*X.shape))
    assert in_memory(open_images(tmp_path / "x.npy", None, [X]))[0].shape == (1, *X.shape)


def test_a_npz_feeds_inputs_by_name(tmp_path: Path) -> None:
    x, y = random(3, *X.shape), random(3, *Y.shape)
    np.savez(tmp_path / "xy.npz", y=y, x=x, unused=y)
    images = open_images(tmp_path / "xy.npz", None, [X, Y])
    assert [array.shape for array in images[1]] == [X.shape, Y.shape]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(in_memory(images), (x, y)))


def test_the_only_array_of_a_npz_may_have_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", random(3, *X.shape))  # numpy calls it arr_0
    assert len(open_images(tmp_path / "x.npz", None, [X])) == 3


def test_folders_of_samples_with_and_without_batch_axis(tmp_path: Path) -> None:
    x, y = random(*X.shape), random(*Y.shape)
    np.savez(tmp_path / "0.npz", x=x, y=y)
    np.savez(tmp_path / "1.npz", x=x[None], y=y[None])
    images = open_images(tmp_path, None, [X, Y])
    assert images.names == ("0.npz", "1.npz")
    for sample in images:
        assert np.array_equal(sample[0], x)
        assert np.array_equal(sample[1], y)


def test_a_folder_may_mix_images_and_arrays(folder: Path) -> None:
    np.save(folder / "z.npy", random(*X.shape))
    images = open_images(folder, RESIZE, [X])
    assert images.names[-1] == "z.npy"
    assert in_memory(images)[0].shape == (4, *X.shape)


def test_a_sample_is_read_when_it_is_needed(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", random(*X.shape))
    images = open_images(tmp_path, None, [X])
    np.save(tmp_path / "0.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(ImageError, match="has shape 2x2, but input 'x' takes 3x8x6"):
        images[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_named_with_their_sample(tmp_path: Path, value: float) -> None:
    rows = random(4, *X.shape)
    rows[2, 1, 3, 3] = value
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(ImageError, match=r"x\.npy\[2\]: contains NaN or infinity for input 'x'"):
        in_memory(open_images(tmp_path / "x.npy", None, [X]))


def test_a_double_that_overflows_float32_counts_as_infinity(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, *Y.shape), 1e300))
    with pytest.raises(ImageError, match="NaN or infinity"):
        in_memory(open_images(tmp_path / "x.npy", None, [Y]))


def save_npy(array: Any) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        np.save(folder / "x.npy", array)
        return folder / "x.npy"

    return save


def save_npz(**arrays: Any) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        np.savez(folder / "x.npz", **arrays)
        return folder / "x.npz"

    return save


def damaged(content: bytes, name: str = "x.npy") -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return save


@pytest.mark.parametrize(
    ("save", "inputs", "message"),
    [
        (save_npy(random(4, 3, 6, 8)), [X], "has shape 4x3x6x8, but input 'x' takes N x 3x8x6"),
        (save_npy(random(3, 6, 8)), [X], "has shape 3x6x8, but input 'x' takes N x 3x8x6"),
        (save_npy(np.float32(1)), [X], "has shape a scalar, but input 'x' takes N x 3x8x6"),
        (save_npy(random(0, *X.shape)), [X], "contains no samples"),
        (save_npy(np.zeros(X.shape, np.complex64)), [X], "contains complex64, not numbers"),
        (save_npy(np.array(["a"])), [X], "not numbers"),
        (save_npy(np.array([None])), [X], "cannot be read as arrays"),  # a pickle: it could run anything
        (save_npy(random(4, *X.shape)), [X, Y], "no array 'y' .*save a .npz file with the arrays x, y"),
        (save_npz(x=random(4, *X.shape)), [X, Y], "no array 'y'"),
        (save_npz(x=random(4, *X.shape), y=random(3, *Y.shape)), [X, Y], r"different lengths: \[3, 4\]"),
        (save_npz(a=random(4, *X.shape), b=random(4, *X.shape)), [X], "no array 'x'"),
        (save_npz(x=np.array([None])), [X], "cannot be read as arrays"),
        (damaged(b""), [X], "cannot be read as arrays"),
        (damaged(b"\x93NUMPY\x01\x00garbage"), [X], "cannot be read as arrays"),
        (damaged(b"PK\x03\x04garbage", "x.npz"), [X], "cannot be read as arrays"),
    ],
)
def test_arrays_that_cannot_be_used(
    tmp_path: Path, save: Callable[[Path], Path], inputs: list[InputSpec], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        open_images(save(tmp_path), None, inputs)


def test_a_stray_array_in_a_folder_is_skipped_as_a_stray_text_is(folder: Path) -> None:
    np.save(folder / "features.npy", random(2, *X.shape))
    (folder / "broken.npz").write_bytes(b"PK nothing")
    (folder / "notes.txt").touch()
    images = open_images(folder, RESIZE, [X])
    assert len(images) == 3
    assert dict(images.skipped)["features.npy"] == "has shape 2x3x8x6, but input 'x' takes 3x8x6"
    assert {name for name, _ in images.skipped} == {"features.npy", "broken.npz", "notes.txt"}


def test_a_folder_of_arrays_of_another_shape_only_is_refused_with_both_shapes(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", random(2, *X.shape))
    with pytest.raises(
        ImageError, match=r"no usable image in one file; .*1\.npy has shape 2x3x8x6, but input 'x' takes 3x8x6"
    ):
        open_images(tmp_path, None, [X])


def test_a_stray_text_among_the_samples_of_a_network_that_takes_no_image_is_skipped(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=random(*X.shape), y=random(*Y.shape))
    (tmp_path / "notes.txt").touch()
    images = open_images(tmp_path, None, [X, Y])
    assert (images.names, images.skipped) == (("0.npz",), (("notes.txt", "is not an image"),))
    photo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="images cannot feed a network with 2 inputs"):
        open_images(tmp_path, None, [X, Y])


# -------------------------------------------------------------------------------------- sources that do not fit


@pytest.mark.parametrize(
    ("preprocess", "inputs", "message"),
    [
        (None, [X], "images need preprocessing"),
        (Preprocess(resize=(6, 8)), [X], "preprocessing gives 3x6x8, but input 'x' takes 3x8x6"),
        (Preprocess(resize=20, crop=(8, 8)), [X], "preprocessing gives 3x8x8, but input 'x' takes 3x8x6"),
        (Preprocess(resize=(8, 6), color="gray"), [X], "preprocessing gives 1x8x6, but input 'x' takes 3x8x6"),
        (Preprocess(resize=8), [X], r"b\.png: becomes 8x12, but the network takes 8x6 .*--resize 8,6|c\.jpg: becomes"),
        (Preprocess(), [X], r"becomes 20x30, but the network takes 8x6"),
        (RESIZE, [X, Y], r"cannot feed a network with 2 inputs \(x, y\)"),
        (RESIZE, [Y], "images cannot feed input 'y', which takes 5"),
    ],
)
def test_images_that_do_not_fit_the_network(
    folder: Path, preprocess: Preprocess | None, inputs: list[InputSpec], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        open_images(folder, preprocess, inputs)


def test_sources_without_a_usable_image(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file or folder"):
        open_images(tmp_path / "none", RESIZE, [X])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="contains no files"):
        open_images(tmp_path / "empty", RESIZE, [X])
    shutil.copy(__file__, tmp_path / "empty" / "a.jpg")
    with pytest.raises(ImageError, match=r"no usable image in one file; a\.jpg is not an image"):
        open_images(tmp_path / "empty", RESIZE, [X])
    with pytest.raises(ImageError, match="no usable image in one file"):
        open_images(tmp_path / "empty" / "a.jpg", RESIZE, [X])


# --------------------------------------------------------------------------------------- splitting and stacking


def rows(tmp_path: Path, count: int) -> ImageSet:
    np.save(tmp_path / "x.npy", np.arange(count * 5, dtype=np.float32).reshape(count, 5))
    return open_images(tmp_path / "x.npy", None, [Y])


@pytest.mark.parametrize("count", [5, 6, 9, 10, 103])  # 103 samples are several chunks that are read ahead
def test_split_holds_out_every_fifth(tmp_path: Path, count: int) -> None:
    images = rows(tmp_path, count)
    calibration, evaluation = images.split()
    assert len(evaluation) == count // 5
    assert sorted(calibration.names + evaluation.names) == sorted(images.names)
    assert evaluation.names == images.names[4::5]
    assert images.split() == (calibration, evaluation)
    (whole,), (held,) = in_memory(images), in_memory(evaluation)
    assert np.array_equal(held, whole[4::5])
    assert np.array_equal(whole, np.stack([sample for (sample,) in images]))


def test_too_few_to_split(tmp_path: Path) -> None:
    images = rows(tmp_path, 3)
    with pytest.raises(ImageError, match=r"too few images to hold out every 5th one: 3 .*--eval-images"):
        images.split()
    calibration, evaluation = images.split(every=2)
    assert (calibration.names, evaluation.names) == (("x.npy[0]", "x.npy[2]"), ("x.npy[1]",))


def test_split_and_subset_keep_what_was_skipped(folder: Path) -> None:
    (folder / "notes.md").touch()
    images = open_images(folder, RESIZE, [X])
    assert images.subset([2, 0]).names == (images.names[2], images.names[0])
    assert images.subset([0]).skipped == images.split(every=2)[1].skipped == images.skipped != ()


# ----------------------------------------------------------------------------------- chosen first, decoded then


def test_only_chosen_images_are_decoded_and_damaged_ones_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    for seed in range(40):
        photo(folder / f"{seed:02}.png", seed)
    for name in ("00.png", "39.png"):  # the first and the last are always chosen
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    decoded: list[str] = []
    load = ImageFile.ImageFile.load

    def noted(image: ImageFile.ImageFile) -> Any:
        decoded.append(image.fp.name if image.fp else "")
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    found = find_images(folder, RESIZE, [X])
    assert (len(found), decoded) == (40, [])
    chosen = found.checked(at_most=8)
    assert len(chosen) == 8
    assert len(set(decoded)) == len(decoded) == 10
    assert [name for name, _ in chosen.skipped] == ["00.png", "39.png"]
    assert chosen.names == tuple(sorted(chosen.names))


def test_chosen_positions_are_spread_evenly() -> None:
    assert evenly(9, 3) == [0, 4, 8]
    assert evenly(3, 3) == [0, 1, 2]
    assert evenly(5, 1) == [0]
    assert evenly(4, 0) == []
    assert evenly(3, 9) == [0, 1, 2]


def test_nothing_can_be_decoded(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"no usable image in 3 files; a/deep/c\.jpg .*truncated"):
        open_images(folder, RESIZE, [X])


# ------------------------------------------------------------------------------------------------------- copies


def test_copies_of_a_file_are_dropped_for_any_name(folder: Path) -> None:
    shutil.copy(folder / "b.png", folder / "z.png")
    listed = folder.parent / "list.txt"
    listed.write_text("images/b.png\n" * 3 + "images/c/a.PNG\nimages/z.png\n")
    images = open_images(listed, RESIZE, [X])
    assert len(images) == 5
    only = images.distinct()
    assert only.names == ("images/b.png", "images/c/a.PNG")
    assert only.copies == (
        ("images/b.png", "images/b.png"), ("images/b.png", "images/b.png"), ("images/z.png", "images/b.png")
    )  # fmt: skip
    assert only.distinct() == only
    assert dropped_copies(only, only) == list(only.copies)


def test_files_with_equal_beginnings_are_not_copies(tmp_path: Path) -> None:
    values = np.zeros((3, 100_000), np.float32)
    values[1, -1] = 1
    large = InputSpec("x", (100_000,))
    for number, row in enumerate(values):
        np.save(tmp_path / f"{number}.npy", row)
    assert open_images(tmp_path, None, [large]).distinct().copies == (("2.npy", "0.npy"),)
    np.save(tmp_path / "rows.npy", values)
    rows = open_images(tmp_path / "rows.npy", None, [large]).distinct()
    assert (rows.names, rows.copies) == (("rows.npy[0]", "rows.npy[1]"), (("rows.npy[2]", "rows.npy[0]"),))


@pytest.mark.parametrize(
    ("calibration", "evaluation", "left"),
    [
        ("abc", "abcde", ("abc", "de")),  # --images d/calibration --eval-images d
        ("abcde", "de", ("abc", "de")),  # --images d --eval-images d/evaluation
        ("abc", "cde", ("abc", "de")),
        ("abc", "xyz", ("abc", "xyz")),
    ],
)
def test_common_samples_are_removed_from_the_larger_set(
    tmp_path: Path, calibration: str, evaluation: str, left: tuple[str, str]
) -> None:
    def opened(letters: str, folder: str) -> ImageSet:
        for letter in letters:
            photo(tmp_path / folder / f"{letter}.png", ord(letter))
        return open_images(tmp_path / folder, RESIZE, [X])

    ours, theirs = apart(opened(calibration, "one"), opened(evaluation, "two"))
    assert tuple("".join(name[0] for name in each.names) for each in (ours, theirs)) == left
    gone = (set(calibration) - set(left[0])) | (set(evaluation) - set(left[1]))
    assert {name[0] for name, _ in ours.copies + theirs.copies} == gone


def test_two_sets_of_the_same_images_are_refused(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "same")
    one, two = (open_images(path, RESIZE, [X]) for path in (folder, folder.parent / "same"))
    with pytest.raises(ImageError, match=r"all 3 evaluation images are also calibration images.*--eval-images"):
        apart(one, two)


@pytest.mark.parametrize("shape", [(2, 8, 6), (8, 6, 6), (3, 2, 8, 6), (8, 6)])
@pytest.mark.parametrize("preprocess", [None, RESIZE])
def test_inputs_that_no_image_can_feed(folder: Path, preprocess: Preprocess | None, shape: tuple[int, ...]) -> None:
    taken = "x".join(map(str, shape))
    with pytest.raises(ImageError, match=rf"which takes {taken}: an image has 1, 3 or 4 channels \(give a \.npy"):
        open_images(folder, preprocess, [InputSpec("x", shape)])
