"""Labels of classes: which line belongs to which image, and errors with the line number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ncnnkit.errors import ImageError
from ncnnkit.samples.classes import read_classes

NAMES = ["cats/a.jpg", "cats/my cat, asleep.jpg", "dogs/a.jpg", "dogs/b.png"]
CLASSES = ["tabby cat", "Dog, large", "goose", "Goose"]


def labels_of(folder: Path, text: str, classes: list[str] | None = None, names: list[str] = NAMES) -> list[int]:
    (folder / "labels.txt").write_text(text, encoding="utf-8")
    found = read_classes(folder / "labels.txt", names, classes)
    assert found.dtype == np.int64
    return [int(label) for label in found]


@pytest.mark.parametrize(
    "text",
    [
        "3\n0\n1\n2\n",
        "\ufeff3\r\n0\r\n\r\n1\r\n2",
        "dogs/b.png 2\ncats/a.jpg 3\ndogs/a.jpg\t1\ncats/my cat, asleep.jpg,0\n",
        "file name, class\n./cats/a.jpg , 3\nb.png,2\ndogs/a.jpg, 1\nmy cat, asleep.jpg 0\nother.jpg 99\n",
        '"cats/a.jpg","3"\n"cats/my cat, asleep.jpg","0"\n\'dogs/a.jpg\',1\nb.png,2\nb.png,2\n',
    ],
    ids=["indices", "windows", "names", "header and others", "quoted"],
)
def test_lines_are_indices_in_order_or_about_files(tmp_path: Path, text: str) -> None:
    assert labels_of(tmp_path, text) == [3, 0, 1, 2]


def test_classes_by_name(tmp_path: Path) -> None:
    text = 'a.jpg tabby cat\nb.jpg, "Dog, large"\nc.jpg\tTABBY CAT\nd.jpg 2\n'
    assert labels_of(tmp_path, text, CLASSES, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]) == [0, 1, 0, 2]


def test_names_of_array_rows(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "x.npy[1] 7\nx.npy[0] 5\n", names=["x.npy[0]", "x.npy[1]"]) == [5, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no labels"),
        (" \n\n", "contains no labels"),
        ("1\n2\n3\n", r"labels\.txt:3: 3 labels for 4 images"),
        ("0\n\n1\n2\n3\n0\n", r"labels\.txt:6: 5 labels for 4 images"),
        ("0\n1\n4\n0\n", r"labels\.txt:3: class 4 is out of range \(0 to 3\)"),
        ("0\n-1\n0\n0\n", r"labels\.txt:2: class -1 is out of range"),
        ("cats/a.jpg 0\ndogs/a.jpg 9\n", r"labels\.txt:2: class 9 is out of range"),
        ("cats/a.jpg 0\ndogs/a.jpg lynx\n", r"labels\.txt:2: no class is called 'lynx'"),
        ("cats/a.jpg goose\n", r"labels\.txt:1: several classes have the name 'goose' \(give the index\)"),
        ("b.png 1\nb.png 0\n", r"labels\.txt:2: dogs/b\.png has another class on an earlier line"),
        ("cats/a.jpg 0\nb.png 1\n", r"has no label for cats/my cat, asleep\.jpg \(2 of 4 images\)"),
        ("a.jpg 0\n", r"names no image of the set \(the first is cats/a\.jpg\)"),  # two images have this name
        ("cats/a.jpg 0\nnonsense\n", r"labels\.txt:2: is neither 'file name, class' nor a class index"),
    ],
)
def test_unusable_labels_are_reported_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        labels_of(tmp_path, text, CLASSES)


def test_without_class_names_a_class_is_an_index(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "900\n0\n0\n0\n")[0] == 900
    with pytest.raises(ImageError, match=r"out of range \(0 to 2147483647\)"):
        labels_of(tmp_path, "-900\n0\n0\n0\n")
    with pytest.raises(ImageError, match=r"no class is called 'goose' \(give a class index\)"):
        labels_of(tmp_path, "cats/a.jpg goose\n")


def test_files_that_are_not_text(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.txt: cannot be read: No such file"):
        read_classes(tmp_path / "none.txt", NAMES)
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_classes(tmp_path, NAMES)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(ImageError, match="is not a text file"):
        read_classes(tmp_path / "x.txt", NAMES)


DIGITS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "0"]


@pytest.mark.parametrize("text", ["1\n2\n3\n4\n", "cats/a.jpg 1\nmy cat, asleep.jpg 2\ndogs/a.jpg 3\nb.png 4\n"])
def test_a_number_that_is_one_class_as_an_index_and_another_as_a_name_is_refused(tmp_path: Path, text: str) -> None:
    message = r"labels\.txt:1: class 1 means two classes: class 0 by its name, and class 1 by its index, .*called '2'"
    with pytest.raises(ImageError, match=message):
        labels_of(tmp_path, text, DIGITS)


def test_a_number_in_quotes_is_a_name(tmp_path: Path) -> None:
    assert labels_of(tmp_path, '"1"\n"0"\n"9"\n"5"\n', DIGITS) == [0, 9, 8, 4]
    text = 'cats/a.jpg "1"\nmy cat, asleep.jpg "0"\ndogs/a.jpg "9"\nb.png,"5"\n'
    assert labels_of(tmp_path, text, DIGITS) == [0, 9, 8, 4]


def test_numbers_that_can_mean_one_class_only(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "0\n2\n1\n0\n", ["0", "1", "2"]) == [0, 2, 1, 0]  # name and index agree
    assert labels_of(tmp_path, "10\n20\n30\n10\n", ["10", "20", "30"]) == [0, 1, 2, 0]  # no such index
    assert labels_of(tmp_path, "0\n2\n1\n0\n", ["a", "b", "7"]) == [0, 2, 1, 0]  # no such name
