"""Labels of every kind: their files, the positions of pictures, and the figures against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

from ncnnkit import pipeline
from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.comparison.truths import truths
from ncnnkit.errors import ImageError
from ncnnkit.onboard.picture import Fit, Placement
from ncnnkit.plan.requirement import Requirements
from ncnnkit.recipe import Recipe
from ncnnkit.samples.finding import open_images
from ncnnkit.samples.images import ImageSet
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.labels import Labels, read_labels
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.targets import LabelPicture
from ncnnkit.samples.texts import read_texts
from ncnnkit.tasks import Task
from ncnnkit.tasks.embedding import Embedding
from ncnnkit.tasks.images import Images
from ncnnkit.tasks.segmentation import Segmentation
from ncnnkit.tasks.text import Texts

Array = NDArray[Any]
BOX = Preprocess(Fit("letterbox", (8, 8)), "nearest")


def photographs(folder: Path, count: int, size: tuple[int, int] = (8, 4)) -> Path:
    """Images of this (width, height)."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def opened(folder: Path, how: Preprocess = BOX, shape: tuple[int, ...] = (3, 8, 8)) -> ImageSet:
    return open_images(folder, how, [InputSpec("x", shape)])


def picture(path: Path, values: Any, mode: str | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        image = Image.fromarray(np.asarray(values, np.uint8), "L").convert("P")
        image.putdata(np.asarray(values, np.uint8).reshape(-1).tolist())
    image.save(path)
    return path


def lying(path: Path, image: tuple[int, int], **where: Any) -> LabelPicture:
    """A picture of an image that is the whole input, or at the position ``where``."""
    place = {"image": image, "resized": image, "top": 0, "left": 0, "input": image, **where}
    return LabelPicture(str(path), Placement(**place), "nearest")


# ---------------------------------------------------------------------------------------------------------- kinds


def test_the_kind_follows_from_the_files(tmp_path: Path) -> None:
    images = opened(photographs(tmp_path / "images", 2))
    (tmp_path / "classes.txt").write_text("0.png 3\n1.png 1\n")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/0.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    for index in range(2):
        picture(tmp_path / f"masks/{index}.png", np.full((4, 8), index))
    classes = read_labels(tmp_path / "classes.txt", images)
    assert (classes.kind, list(classes.values)) == ("classes", [3, 1])
    assert classes.subset([1]).in_words() == f"classes of one sample, from {tmp_path / 'classes.txt'}"
    boxes = read_labels(tmp_path / "yolo", images)
    assert boxes.kind == "boxes"
    assert boxes.values[0].xyxy.tolist() == [[2, 3, 6, 5]]  # type: ignore[union-attr]
    masks = read_labels(tmp_path / "masks", images)
    assert masks.kind == "pictures"
    assert masks.values[1].path.endswith("masks/1.png")  # type: ignore[union-attr]
    (tmp_path / "texts.txt").write_text("0.png\ta b\n1.png\tc\n")
    (tmp_path / "texts").mkdir()
    for index, text in enumerate(("a b", "c")):
        (tmp_path / f"texts/{index}.txt").write_text(f"{text}\n")
    for path in ("texts.txt", "texts"):
        assert list(read_labels(tmp_path / path, images, kind="texts").values) == ["a b", "c"]


def test_files_of_another_kind_than_the_task_compares_with(tmp_path: Path) -> None:
    images = opened(photographs(tmp_path / "images", 2))
    (tmp_path / "classes.txt").write_text("0.png 3\n1.png 1\n")
    (tmp_path / "empty").mkdir()
    wrongs = {
        (
            "classes.txt",
            "pictures",
        ): r"is a text file, which contains no pictures \(give a folder with a picture for each",
        ("images", "boxes"): r"is a folder with files \.png, which contains no boxes \(give a \.json file as COCO",
        ("empty", ""): r"is an empty folder, which contains no labels \(give classes: a file with lines",
        ("nothing", ""): "no such file or folder",
    }
    for (path, kind), says in wrongs.items():
        with pytest.raises(ImageError, match=says):
            read_labels(tmp_path / path, images, kind=kind)
    labels = read_labels(tmp_path / "classes.txt", images)
    for task, says in (
        (
            Segmentation(((2, 8, 8),)),
            r"classes\.txt: contains classes, but the task segmentation needs pictures",
        ),
        (Embedding(((8,),)), "the task embedding has no figures against labels"),
    ):
        with pytest.raises(ImageError, match=says):
            truths(labels, task)


# ---------------------------------------------------------------------------------------------------------- masks


def test_a_mask_has_the_position_of_its_image(tmp_path: Path) -> None:
    mask = np.arange(32).reshape(4, 8) % 5
    mask[0, 0] = 255
    picture(tmp_path / "masks/0.png", mask, mode="P")
    images = opened(photographs(tmp_path / "images", 1))
    (label,) = read_labels(tmp_path / "masks", images, preprocess=BOX).values
    assert isinstance(label, LabelPicture)
    expected = np.full((8, 8), -1)
    expected[2:6] = np.where(mask == 255, -1, mask)
    assert np.array_equal(label.mask(5), expected), "a letterbox: two rows above and below are no image"
    half = lying(tmp_path / "masks/0.png", (4, 8), resized=(2, 4), left=-1, input=(2, 2))
    assert half.mask(5).tolist() == mask[1::2, 3:7:2].tolist(), "reduced, and one column is cut off at each side"


def test_masks_of_one_map(tmp_path: Path) -> None:
    cases = {(0, 255, 255): [0, 1, 1], (0, 1, 255): [0, 1, -1], (0, 1, 1): [0, 1, 1]}
    for values, expected in cases.items():
        path = picture(tmp_path / "m.png", [values])
        assert lying(path, (1, 3)).mask(1).tolist() == [expected]


def test_invalid_masks(tmp_path: Path) -> None:
    image = np.zeros((4, 8, 3))
    cases = {
        "colours": (image, "has pixels of RGB, not classes"),
        "size": (image[:3, :, 0], "has 8x3 pixels, but its image has 8x4"),
        "class": (image[..., 0] + 7, "has class 7, but the network has 0 to 4"),
    }
    for name, (values, says) in cases.items():
        path = picture(tmp_path / f"{name}.png", values)
        with pytest.raises(ImageError, match=rf"{name}\.png: {says}"):
            lying(path, (4, 8)).mask(5)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"torn\.png: cannot be read"):
        lying(tmp_path / "torn.png", (4, 8)).mask(5)
    images = opened(photographs(tmp_path / "images", 2))
    picture(tmp_path / "masks/0.png", image[..., 0])
    with pytest.raises(ImageError, match=r"masks: has no picture for 1\.png \(1 of 2 images\)"):
        read_labels(tmp_path / "masks", images)


def test_a_map_is_judged_by_its_mask(tmp_path: Path) -> None:
    """Half of the right half is wrong; unknown pixels do not count. The map is half as large as the input."""
    mask = np.zeros((8, 8), int)
    mask[:, 4:] = 1
    mask[:4] = 255
    path = picture(tmp_path / "m.png", mask)
    output = np.zeros((2, 4, 4), np.float32)
    output[1, :, 2] = output[0, :, 3] = output[0, :, :2] = 1
    task = Segmentation(((2, 4, 4),))
    truth = truths(Labels("pictures", [lying(path, (8, 8))], "masks"), task)
    found = errors_of([[output]], [[output]], task, truth).figures()
    assert (found["miou"], found["label_pixels"]) == (1, 0.75)
    assert found["label_miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert errors_of([[output]], [[output]], task).figures()["label_miou"] is None
    one = Segmentation(((1, 4, 4),), axis=-1)
    picture(path, np.where(mask == 1, 255, 0))
    truth = truths(Labels("pictures", [lying(path, (8, 8))], "masks"), one)
    assert errors_of([[output[1:]]], [[output[1:]]], one, truth).figures()["label_miou"] == pytest.approx(1 / 3)


# --------------------------------------------------------------------------------------------------------- images


def test_the_image_to_make_is_cut_as_the_input_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
    path = picture(tmp_path / "t.png", pixels)
    cut = lying(path, (4, 8), top=-1, left=-2, input=(2, 4))
    found, top, left = cut.target(3, 2)
    assert np.array_equal(found, pixels[2:6, 4:12].transpose(2, 0, 1))
    assert (top, left) == (0, 0)
    assert np.array_equal(cut.target(3, 2, bgr=True)[0], found[::-1])
    boxed = lying(path, (4, 8), top=2, input=(8, 8))
    found, top, left = boxed.target(3, 2)
    assert (found.shape, top, left) == ((3, 8, 16), 4, 0)
    reduced = lying(path, (4, 8), resized=(2, 4), input=(2, 4)).target(3, 2)[0]
    assert reduced.shape == (3, 4, 8)
    with pytest.raises(ImageError, match="has 16x8 pixels; its image has 8x4, but the network enlarges 3 times: 24x12"):
        cut.target(3, 3)


def test_an_image_is_judged_by_the_one_to_make(tmp_path: Path) -> None:
    pixels = np.full((16, 32, 3), 102, np.uint8)
    path = picture(tmp_path / "t.png", pixels)
    task = Images(((3, 32, 32),), low=-1, high=1)
    label = lying(path, (8, 16), top=4, input=(16, 16))  # enlarged by 2, with 4 rows outside the image
    truth = truths(Labels("pictures", [label], "hr"), task, size=(16, 16))
    exact = np.zeros((3, 32, 32), np.float32)
    exact[:, 8:24] = 0.8 - 1  # 102 of 255
    found = errors_of([[exact + 0.02]], [[exact]], task, truth).figures()
    assert found["psnr"] == pytest.approx(40)
    assert found["label_psnr"] == pytest.approx(40, rel=1e-5)
    assert 0.9 < (found["label_ssim"] or 0) < 1
    with pytest.raises(ImageError, match="3x30x32, is not an image of the input's size"):
        truths(Labels("pictures", [label], "hr"), Images(((3, 30, 32),)), size=(16, 16))


# ---------------------------------------------------------------------------------------------------------- texts


def test_texts_of_files(tmp_path: Path) -> None:
    names = ["a/one.png", "a/two.png"]
    tables = {
        "t.txt": "other.png\tx\n./a/two.png\tb, c\n\none.png\t a\tb \n",
        "t.csv": 'file,text\na/two.png,"b, c"\none.png,"a\tb"\n',
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
        assert read_texts(tmp_path / name, names) == ["a\tb", "b, c"], name
    wrongs = {
        "one.png a\n": r"w\.txt:1: is not 'file name<tab>text'",
        "one.png\ta\n\none.png\tb\n": r"w\.txt:3: a/one\.png has another text on an earlier line",
        "one.png\ta\n": r"w\.txt: has no text for a/two\.png \(1 of 2 samples\)",
    }
    for text, says in wrongs.items():
        (tmp_path / "w.txt").write_text(text)
        with pytest.raises(ImageError, match=says):
            read_texts(tmp_path / "w.txt", names)


def test_a_text_is_judged_by_its_label() -> None:
    task = Texts(((5, 4),))
    read = np.eye(4, dtype=np.float32)[[1, 0, 2, 2, 3]]  # abc
    labels = Labels("texts", ["abc", "abd"], "t.txt")
    for alphabet in (("", "a", "b", "c"), ("a", "b", "c")):
        truth = truths(labels, task, names=alphabet)
        found = errors_of([[read]] * 2, [[read]] * 2, task, truth).figures()
        assert (found["texts"], found["label_texts"]) == (1, 0.5)
        assert found["label_cer"] == pytest.approx(1 / 6)
    with pytest.raises(ImageError, match="the characters of the network are not known"):
        truths(labels, task)


def test_an_error_rate_may_be_a_percent_worse_than_the_original() -> None:
    asked = Requirements.parse(["label_cer<=+1%", "label_psnr>=-0.1"]).against({"label_cer": 0.05, "label_psnr": 31.5})
    assert [str(r) for r in asked.figures] == ["character error rate by labels ≤ 6 %", "PSNR by labels ≥ 31.4 dB"]
    (absolute,) = Requirements.parse(["label_cer<=1%"]).against({"label_cer": 0.05}).figures
    assert absolute.bound == 0.01


# ------------------------------------------------------------------------------------------------------ whole runs


def network(path: Path, *nodes: Any, **weights: Array) -> str:
    """An ONNX file that computes ``y`` from an image ``x`` of 16 x 16 pixels."""
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3, 16, 16)), ("y", None))
    ]
    values = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(made), path)
    return str(path)


QUICK: dict[str, Any] = {
    "seconds": 0.05, "rounds": 1, "backends": ("cpu",), "precisions": ("fp32", "int8"), "effort": "fast",
    "preprocess": {"mean": 0.0, "std": 1.0},
}  # fmt: skip


def figures_of(recipe: Recipe, out: Path) -> tuple[Any, dict[str, float | None]]:
    document = pipeline.run(recipe, out)
    accuracy = document.variants[0].accuracy
    assert accuracy is not None
    return document, accuracy.figures()


def test_a_segmentation_is_judged_by_masks(tmp_path: Path) -> None:
    """The brightest colour of a pixel is its class. The masks agree, except in one of eight rows."""
    weight = np.eye(3)[:, :, None, None]
    model = network(tmp_path / "s.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), w=weight)
    images = photographs(tmp_path / "images", 10, (16, 16))
    for path in images.iterdir():
        mask = np.asarray(Image.open(path)).argmax(-1)
        mask[::8] = (mask[::8] + 1) % 3
        picture(tmp_path / "masks" / path.name, mask)
    recipe = Recipe(
        model, images=str(images), labels=str(tmp_path / "masks"), task="segmentation",
        require=("label_pixels>=-5%",), **QUICK,
    )  # fmt: skip
    document, found = figures_of(recipe, tmp_path / "out")
    assert found["label_pixels"] == pytest.approx(7 / 8)
    assert document.task.original["label_pixels"] == pytest.approx(7 / 8)
    assert document.task.labels == f"pictures of 2 samples, from {tmp_path / 'masks'}"
    assert [r.text for r in document.task.requires] == ["equal pixels by labels ≥ 82.5 %"]
    assert "label_miou" in found


def test_a_network_that_enlarges_is_judged_by_the_large_images(tmp_path: Path) -> None:
    """It repeats each pixel. So do the labelled images, but they are 10 of 255 brighter."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["y"], mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
    ]  # fmt: skip
    weight = np.eye(3)[:, :, None, None]
    model = network(tmp_path / "up.onnx", *nodes, w=weight, scales=np.array([1, 1, 2, 2]))
    images = photographs(tmp_path / "images", 10, (16, 16))
    for path in images.iterdir():
        pixels = np.asarray(Image.open(path)) // 2
        Image.fromarray(pixels).save(path)
        picture(tmp_path / "large" / path.name, pixels.repeat(2, 0).repeat(2, 1) + 10)
    recipe = Recipe(model, images=str(images), labels=str(tmp_path / "large"), task="image", **QUICK)
    _, found = figures_of(recipe, tmp_path / "out")
    assert found["label_psnr"] == pytest.approx(20 * np.log10(255 / 10), rel=1e-4)


def test_a_users_task_gets_the_labels_that_it_requests(tmp_path: Path) -> None:
    class Counts(Task):
        name, requires, labels, figures = "counts", (), "texts", {}

        def predict(self, outputs: Any) -> Any: ...
        def compare(self, ours: Any, theirs: Any, truth: Any = None) -> Any: ...
        def summarise(self, rows: Any) -> Any: ...

    truth = truths(Labels("texts", ["3", "4"], "t.txt"), Counts())
    assert truth is not None
    assert list(truth) == ["3", "4"]
