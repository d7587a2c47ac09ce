"""Instances: boxes with the mask of each object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_heads import SIZE, detector, inputs

from ncnnkit.codec import as_read
from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.errors import RecipeError
from ncnnkit.plan.requirement import Requirements
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import open_model
from ncnnkit.tasks import Boxes, Decoder, Table, decode, named_task, presets
from ncnnkit.tasks.guess import guess
from ncnnkit.tasks.instances import Instances
from ncnnkit.tasks.known import Known
from ncnnkit.tasks.predictions import shared_areas

Array = NDArray[Any]
COUNT = 8
"""Prototypes."""


def outputs(seed: int = 0, boxes: int = 200) -> list[Array]:
    """A table (4 + 2 + COUNT, boxes) and prototypes."""
    rng = np.random.default_rng(seed)
    bounds = [(10, 60, 2), (15, 40, 2), (0, 0.5, 2), (-1, 1, COUNT)]
    table = np.concatenate([rng.uniform(low, high, (rows, boxes)) for low, high, rows in bounds])
    return [table.astype(np.float32), rng.standard_normal((COUNT, SIZE[0] // 4, SIZE[1] // 4)).astype(np.float32)]


def segmenter() -> Decoder:
    return presets.with_masks(presets.ultralytics(2), COUNT)


@pytest.mark.torch
def test_masks_are_those_of_ultralytics() -> None:
    torch = pytest.importorskip("torch")
    ops, nms = pytest.importorskip("ultralytics.utils.ops"), pytest.importorskip("ultralytics.utils.nms")
    table, maps = outputs()
    rows = nms.non_max_suppression(torch.from_numpy(table)[None], 0.25, 0.7, nc=2)[0]
    exact = ops.process_mask(torch.from_numpy(maps), rows[:, 6:], rows[:, :4], SIZE).numpy().astype(bool)
    found = decode(as_read(segmenter()), [table, maps])
    assert isinstance(found, Boxes)
    assert found.masks is not None
    np.testing.assert_allclose(found.xyxy, rows[:, :4], rtol=1e-5)
    np.testing.assert_array_equal(found.masks, exact)
    assert len(found) > 30
    assert 0.1 < found.masks.any(0).mean() < 0.95


def test_average_precision_is_that_of_coco_with_masks() -> None:
    """The same figure as pycocotools with ``iouType="segm"``."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools import mask as rle
    from pycocotools.cocoeval import COCOeval

    theirs = [outputs(seed, 60) for seed in range(3)]
    rng = np.random.default_rng(9)
    ours = [[table + rng.normal(0, 0.02, table.shape).astype("f4"), maps + 0.3] for table, maps in theirs]
    task = Instances(decoder=segmenter())
    truth, found = ([task.predict(row) for row in rows] for rows in (theirs, ours))
    truth = [each.above(0.25) for each in truth]

    def coded(boxes: Boxes, image: int, first: int) -> list[dict[str, Any]]:
        assert boxes.masks is not None
        masks = [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in boxes.masks]
        return [
            {
                "id": first + n, "image_id": image, "category_id": label, "segmentation": mask, "score": score,
                "area": float(rle.area(mask)), "bbox": rle.toBbox(mask).tolist(), "iscrowd": 0,
            }
            for n, (mask, label, score) in enumerate(zip(masks, boxes.labels.tolist(), boxes.scores.tolist()))
        ]  # fmt: skip

    # In COCO, every object has a pixel.
    truth = [each.where(np.any(each.masks, (1, 2))) for each in truth if each.masks is not None]
    known = coco.COCO()
    known.dataset = {
        "images": [{"id": i, "height": 16, "width": 24} for i in range(3)], "categories": [{"id": i} for i in range(2)],
        "annotations": [row for i, each in enumerate(truth) for row in coded(each, i, 1 + 1000 * i)],
    }  # fmt: skip
    known.createIndex()
    evaluation = COCOeval(
        known, known.loadRes([row for i, each in enumerate(found) for row in coded(each, i, 0)]), "segm"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    figures = task.summarise([task.compare(one, other) for one, other in zip(found, truth)])
    assert figures["map50_95"] == pytest.approx(evaluation.stats[0], abs=1e-6)
    assert figures["map50"] == pytest.approx(evaluation.stats[1], abs=1e-6)
    assert 0.2 < (figures["map50_95"] or 0) < 0.95


def test_masks_count_where_the_boxes_are_equal() -> None:
    """Prototypes with the opposite sign: the boxes are the same, but the masks have no common pixel."""
    rows = [outputs(seed) for seed in range(3)]
    swapped = [[table, -maps] for table, maps in rows]
    task = Instances(decoder=segmenter())
    errors = errors_of(swapped, rows, task)
    figures = errors.figures()
    assert (figures["kept"] or 0) < 0.1, "only by neighbours"
    assert (figures["new"] or 0) > 0.9
    assert Requirements().of(task).unmet(figures, None)[0].endswith("is below 95 %")
    assert errors_of(swapped, rows, named_task("detection", segmenter())).figures()["kept"] == 1.0
    same = errors_of(rows, rows, task).figures()
    assert (same["kept"], same["new"], same["iou"], same["map50_95"]) == (1.0, 0.0, 1.0, 1.0)


def test_a_mask_without_a_pixel_is_compared_by_its_box() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[1, :2] = True
    both = Boxes(
        np.array([[0, 0, 1, 1], [0, 0, 9, 9]], np.float32), np.ones(2, np.float32), np.zeros(2, np.int64), None, masks
    )
    np.testing.assert_allclose(shared_areas(both, both), [[1, 0], [0, 1]])
    other = shared_areas(both, replace(both, masks=masks[:, :2]))
    assert other.tolist() == shared_areas(both, replace(both, masks=None)).tolist()


# ----------------------------------------------------------------------------------------------------------- guesses


def known(*arrays: Array, **metadata: str) -> Known:
    names = tuple(f"class {i}" for i in range(2)) if metadata else ()
    return Known([arrays], SIZE, metadata, names)


def near_cells(columns: int, each: int = 1) -> Array:
    """(columns, boxes): boxes near their cells, and scores close to zero."""
    rng = np.random.default_rng(0)
    levels = [np.mgrid[: 64 // s, : 96 // s][::-1].reshape(2, -1) * s for s in presets.STRIDES]
    places = np.concatenate([np.tile(level, each) for level in levels], 1) + 4.0
    return np.concatenate([places, 0 * places + 20, rng.uniform(0, 0.1, (columns - 4, places.shape[1]))]).astype("f4")


def test_guessed_tasks() -> None:
    rng = np.random.default_rng(0)
    table = near_cells(6 + COUNT)
    table[6:] -= 0.05  # a weight may be negative, a score may not
    maps = outputs()[1]
    decoder, why = guess(known(table, maps, task="segment")) or (None, "")
    assert decoder == segmenter()
    assert why.startswith("Ultralytics' metadata says segment, and its output has 4 + 2 rows, and 8 weights of")
    plain = guess(known(table[None], maps[None]))
    assert plain is not None
    assert plain[0] == segmenter(), "without metadata"
    swapped = guess(known(maps, table))
    assert swapped is not None
    assert isinstance(swapped[0], Decoder)
    assert [t.output for t in swapped[0].tables] == [1, 0]
    assert guess(known(table, maps[:, :-1])) is None, "not a quarter of the input"
    assert guess(known(table[:6], maps, task="segment")) is None, "no weights"
    five = np.concatenate([near_cells(7, each=3), rng.normal(0, 1, (COUNT, 3 * table.shape[1]))]).T
    decoder, _ = guess(known(five, maps)) or (None, "")
    assert decoder == presets.with_masks(presets.yolov5(2), COUNT)
    low = rng.uniform(0, 40, (300, 2))
    best = np.sort(rng.uniform(0, 0.2, (300, 1)), 0)[::-1]
    chosen = np.concatenate([low, low + 9, best, rng.integers(0, 80, (300, 1)), rng.normal(0, 1, (300, COUNT))], 1)
    decoder, _ = guess(known(chosen.astype("f4"), maps)) or (None, "")
    assert decoder == presets.with_masks(presets.found_rows(), COUNT)


def test_masks_before_decoding() -> None:
    """In the form of ncnn's example yolov8_seg.cpp: logits, weights and prototypes are three outputs."""
    rng = np.random.default_rng(0)
    cells = sum(grid.count for grid in presets.pyramid(SIZE))
    logits, weights = rng.normal(0, 2, (cells, 64 + 2)), rng.normal(0, 1, (cells, COUNT))
    maps = outputs()[1]
    arrays = [array.astype("f4") for array in (weights, logits)]
    found = guess(Known([[*arrays, maps]], SIZE, labels=("a", "b")))
    assert found is not None
    decoder, why = found
    assert isinstance(decoder, Decoder)
    assert decoder.fault(3) == ""
    assert why.endswith("as Ultralytics' before decoding, and 8 weights of prototypes of masks")
    plain = presets.ultralytics_logits(SIZE, 2, (Table(0, ("boxes", "scores")),))
    boxes, exact = decode(decoder, [*arrays, maps]), decode(plain, [arrays[1]])
    assert isinstance(boxes, Boxes)
    assert isinstance(exact, Boxes)
    np.testing.assert_array_equal(boxes.xyxy, exact.xyxy)
    assert boxes.masks is not None
    assert len(boxes) > 20
    best = int(arrays[1][:, 64:].max(1).argmax())
    whole = np.tensordot(arrays[0][best], maps, 1) > 0
    x1, y1, x2, y2 = boxes.xyxy[0] / 4
    y, x = np.mgrid[:16, :24]
    np.testing.assert_array_equal(boxes.masks[0], whole & (x >= x1) & (x < x2) & (y >= y1) & (y < y2))
    assert guess(Known([[arrays[0][:, 1:], arrays[1], maps]], SIZE, labels=("a", "b"))) is None


def test_a_decoder_with_half_of_the_masks_is_refused() -> None:
    whole = segmenter()
    assert whole.fault(2) == ""
    assert "without prototypes" in replace(whole, tables=whole.tables[:1]).fault(2)
    assert "without coefficients" in replace(whole, tables=(Table(0, ("boxes", "scores")), whole.tables[1])).fault(2)
    assert "without a number or a step" in replace(whole, prototype_step=0.0).fault(2)
    with pytest.raises(RecipeError, match="has no coefficients"):
        named_task("instances", presets.ultralytics(2))


def test_an_onnx_file_is_opened_with_its_task(tmp_path: Path) -> None:
    source = open_model(str(detector(tmp_path / "net.onnx", prototypes=COUNT)))
    assert source.decoder == presets.with_masks(presets.ultralytics(2), COUNT)
    rows = [list(row) for row in source.reference_outputs(ArraySamples((inputs(4),)))]
    found = [Instances(decoder=source.decoder).predict(row).above(0.25) for row in rows]
    assert all(len(each) > 3 for each in found)
    assert all(each.masks is not None and each.masks.shape[1:] == (16, 24) for each in found)
