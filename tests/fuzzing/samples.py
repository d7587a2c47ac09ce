"""Samples and labels."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mutations import mutate_bytes, mutate_text

from fuzzing.format import BYTES, INPUTS, JSON, MB, PREPROCESS, TEXT, ZIP, Format, each_way, npy, scratch, values
from ncnnkit.onboard.picture import Placement
from ncnnkit.onboard.rows import Rows, RowWriter
from ncnnkit.record.examples import Example, Examples
from ncnnkit.samples.boxes import read_boxes
from ncnnkit.samples.classes import read_classes
from ncnnkit.samples.finding import find_images
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.targets import LabelPicture
from ncnnkit.samples.texts import read_texts

TWO = (InputSpec("in0", (3, 8, 8)), InputSpec("ids", (4,), "int64"))


def _npy_seeds() -> list[bytes]:
    one = values(3, 8, 8)
    return [
        npy(one), npy(values(4, 3, 8, 8)), npy(np.asfortranarray(one)), npy(one.astype(">f8")),
        npy((one * 255).astype(np.uint8), (2, 0)), npy(one, (3, 0)),
    ]  # fmt: skip


def _read_samples(source: Path, inputs: Sequence[InputSpec]) -> None:
    """All samples of a source, as a command reads them."""
    found = find_images(source, PREPROCESS, inputs).distinct().checked()
    for index in range(min(len(found), 4)):
        for array, spec in zip(found[index], inputs, strict=True):
            assert array.shape == spec.shape
            assert np.isfinite(array).all()


def _read_npy(folder: Path, data: bytes) -> None:
    for place in (folder / "x.npy", folder / "many" / "x.npy"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    for source in (folder / "x.npy", folder / "many"):
        _read_samples(source, INPUTS)


def _npz_seeds() -> list[bytes]:
    made = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, in0=values(2, 3, 8, 8), ids=np.arange(8).reshape(2, 4))
        made.append(stream.getvalue())
    return made


def _read_npz(folder: Path, data: bytes) -> None:
    (folder / "x.npz").write_bytes(data)
    _read_samples(folder / "x.npz", TWO)


def _rows_seeds() -> list[bytes]:
    made = []
    for shapes in ([(3, 4)] * 5, [(2, 6), (0, 6), (1, 6)], [(2, 3), (4,)]):
        with scratch() as folder, RowWriter(folder / "x.npy") as rows:
            for shape in shapes:
                rows.append(values(*shape))
            rows.close()
            made.append((folder / "x.npy").read_bytes())
    return made


def _read_rows(folder: Path, data: bytes) -> None:
    """What a board writes for the outputs of its samples."""
    (folder / "x.npy").write_bytes(data)
    rows = Rows(folder / "x.npy")
    found = [rows[index] for index in range(min(len(rows), 100))]
    with RowWriter(folder / "again.npy") as again:
        for row in found:
            again.append(row)
    with np.errstate(over="ignore"):
        for row, back in zip(found, Rows(folder / "again.npy"), strict=True):
            assert np.array_equal(np.asarray(row, np.float32), back, equal_nan=True)


def _examples_seeds() -> list[bytes]:
    place = Placement((20, 30), (8, 8), 0, 0, (8, 8))
    row = Example(((".png", b"\x89PNG"),), (values(10), values(2, 3)), place)
    with scratch() as folder:
        Examples((row, row), {"int8-cpu": 31.5}).save(folder / "x.npz")
        return [(folder / "x.npz").read_bytes()]


def _read_examples(folder: Path, data: bytes) -> None:
    (folder / "x.npz").write_bytes(data)
    found = Examples.load(folder / "x.npz")
    found.save(folder / "again.npz")
    again = Examples.load(folder / "again.npz")
    assert [row.files for row in again.rows] == [row.files for row in found.rows]


FORMATS_OF_IMAGES = ("png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm", "tga", "ico", "pcx", "jpeg2000", "sgi", "dds")


def _image_seeds() -> list[bytes]:
    from PIL import Image

    made = []
    base = Image.fromarray((values(9, 12, 3) * 255).astype(np.uint8))
    for mode in ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK"):
        picture = Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12)) if mode == "I;16" else base
        for kind in FORMATS_OF_IMAGES:
            stream = io.BytesIO()
            try:
                (picture if mode == "I;16" else picture.convert(mode)).save(stream, kind)
            except (OSError, KeyError, ValueError):  # not every format has every mode, nor every Pillow every format
                continue
            made.append(stream.getvalue())
    return made


def _read_image(folder: Path, data: bytes) -> None:
    (folder / "x.png").write_bytes(data)  # the ending says nothing: Pillow looks at the content
    mask = LabelPicture(str(folder / "x.png"), Placement((9, 12), (8, 8), 0, 0, (8, 8)), "bilinear")
    each_way((lambda: mask.mask(1000), lambda: mask.target(3, 1), lambda: _read_samples(folder / "x.png", INPUTS)))


def _sound_seeds() -> list[bytes]:
    made = []
    for width, channels in ((2, 1), (1, 1), (3, 2), (4, 1)):
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(16000)
            file.writeframes(bytes(range(240)))
        made.append(stream.getvalue())
    return made


def _read_sound(folder: Path, data: bytes) -> None:
    (folder / "x.wav").write_bytes(data)
    _read_samples(folder / "x.wav", [InputSpec("in0", (1, 16))])


def _list_seeds() -> list[bytes]:
    return [b"a.npy\nb.npy\n", b"b.npy\r\n\r\na.npy"]


def _arrays_in(folder: Path) -> None:
    for name in ("a.npy", "b.npy"):
        if not (folder / name).exists():
            np.save(folder / name, values(3, 8, 8) if name == "a.npy" else values(3, 8, 8) + 1)


def _read_list(folder: Path, data: bytes) -> None:
    _arrays_in(folder)
    (folder / "x.txt").write_bytes(data)
    _read_samples(folder / "x.txt", INPUTS)


def _csv_seeds() -> list[bytes]:
    return [b"left,right\na.npy,b.npy\nb.npy,a.npy\n", b'"right",left\n"a.npy","b.npy"\n']


def _read_csv(folder: Path, data: bytes) -> None:
    _arrays_in(folder)
    (folder / "x.csv").write_bytes(data)
    _read_samples(folder / "x.csv", [InputSpec("left", (3, 8, 8)), InputSpec("right", (3, 8, 8))])


# --------------------------------------------------------------------------------------------------------------- labels

NAMES = ("a.png", "sub/b.png", "c.png")
CLASSES = ("cat", "dog", "1", "guinea pig")
PLACES = [Placement((100, 200), (50, 100), 7, 0, (64, 100))] * 3


def _class_seeds() -> list[bytes]:
    return [b"a.png cat\nb.png,2\nc.png\t'guinea pig'\n", b"0\n1\n3\n", b'./a.png "1"\nsub/b.png 3\nc.png dog\nx 9\n']


def _read_class_file(folder: Path, data: bytes) -> None:
    (folder / "x.txt").write_bytes(data)
    each_way(partial(read_classes, folder / "x.txt", NAMES, known) for known in (CLASSES, None))


def _coco_seeds() -> list[bytes]:
    images = [{"id": i, "file_name": name} for i, name in enumerate(NAMES)]
    categories = [{"id": 3 * i, "name": name} for i, name in enumerate(CLASSES)]
    size = [100, 200]
    counts: list[Any] = [[300, 700, 19000], "\\9le0hab0"]
    outlines = [[[1.5, 2, 30, 2, 30.5, 40]], *({"size": size, "counts": each} for each in counts)]
    boxes = [
        {"id": i, "image_id": i % 3, "category_id": 3 * i, "bbox": [1, 2.5, 30, 40], "iscrowd": 0, "segmentation": each}
        for i, each in enumerate(outlines)
    ]
    return [json.dumps({"images": images, "categories": categories, "annotations": boxes}).encode()]


def _read_coco(folder: Path, data: bytes) -> None:
    (folder / "x.json").write_bytes(data)
    for each in read_boxes(folder / "x.json", NAMES, PLACES, CLASSES):
        assert len(each.labels) == len(each.xyxy)
        each.masks((16, 25))


def _yolo_seeds() -> list[bytes]:
    return [b"0 0.5 0.5 0.25 0.3\n2 0.1 0.2 0.3 0.4\n", b"1 0.1 0.1 0.5 0.1 0.5 0.9\n\n3 0.5 0.5 1 1\n"]


def _read_yolo(folder: Path, data: bytes) -> None:
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.txt").write_bytes(data)
    for posed in (False, True):
        for each in read_boxes(folder / "labels", NAMES, PLACES, CLASSES, posed=posed):
            assert len(each.labels) == len(each.xyxy)


def _voc_seeds() -> list[bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    objects = [f"<object><name>{name}</name>{box}</object>" for name in ("cat", "1", "&b;")]
    entity = "<?xml version='1.0' encoding='utf-8'?><!DOCTYPE a [<!ENTITY b 'cat'>]>"
    return [f"<annotation>{objects[0]}{objects[1]}</annotation>".encode(), f"{entity}<a>{objects[2]}</a>".encode()]


def _read_voc(folder: Path, data: bytes) -> None:
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.xml").write_bytes(data)
    read_boxes(folder / "labels", NAMES, PLACES, CLASSES)


def _text_seeds() -> list[bytes]:
    return [b"a.png\thello\nb.png\tw\xc3\xb6rld\nc.png\t\n", b'a.png,"hello, you"\nb.png,x\nc.png,y\n']


def _read_text(folder: Path, data: bytes) -> None:
    for name in ("x.txt", "x.csv"):
        (folder / name).write_bytes(data)
    each_way(partial(read_texts, folder / name, NAMES) for name in ("x.txt", "x.csv"))


FORMATS: dict[str, Format] = {
    "npy": Format(_npy_seeds, _read_npy, (mutate_bytes, mutate_text)),
    "npz": Format(_npz_seeds, _read_npz, ZIP),
    "rows": Format(_rows_seeds, _read_rows, (mutate_bytes, mutate_text), (ValueError,)),
    "examples": Format(_examples_seeds, _read_examples, ZIP),
    # Pillow's limit is 89 million pixels; a WebP takes 8 bytes for each while it is decoded.
    "image": Format(_image_seeds, _read_image, BYTES, room=768 * MB),
    "sound": Format(_sound_seeds, _read_sound, BYTES),
    "list": Format(_list_seeds, _read_list, TEXT),
    "csv": Format(_csv_seeds, _read_csv, TEXT),
    "classes": Format(_class_seeds, _read_class_file, TEXT),
    "coco": Format(_coco_seeds, _read_coco, JSON),
    "yolo": Format(_yolo_seeds, _read_yolo, TEXT),
    "voc": Format(_voc_seeds, _read_voc, TEXT),
    "texts": Format(_text_seeds, _read_text, TEXT),
}
