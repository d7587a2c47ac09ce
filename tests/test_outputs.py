"""Outputs on disk, and the evidence in them for a network's task."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.comparison.guessing import find_task
from ncnnkit.comparison.outputs import Outputs, equal, keep_outputs
from ncnnkit.comparison.wrong import why_blind
from ncnnkit.errors import RecipeError
from ncnnkit.tasks.known import Known
from ncnnkit.tasks.segmentation import Segmentation


def test_outputs_are_kept_and_read_one_sample_at_a_time(tmp_path: Path) -> None:
    a, b = np.random.default_rng(0).random((2, 5, 3, 4), np.float32)
    outputs = keep_outputs(["a", "b/c"], zip(a, b), tmp_path / "out")
    assert outputs.shapes == {"a": (3, 4), "b/c": (3, 4)}
    assert len(outputs) == 5
    assert all(np.array_equal(ours, theirs) for row, *both in zip(outputs, a, b) for ours, theirs in zip(row, both))
    assert np.array_equal(outputs[4][1], b[4])
    assert outputs.first(1).shapes == {"a": (3, 4)}


def known_as(*, image: tuple[int, ...] = (0, 0, 0), names: list[str] | None = None, **further: Any) -> Known:
    """The evidence besides outputs. ``image`` is the shape of the input."""
    return Known((), (image[1], image[2]), labels=names or (), channels=image[0], **further)


def detected(*counts: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """A fixed output and a number of detections, for each sample."""
    return [(np.ones(3), np.full((count, 6), number + 1.0)) for number, count in enumerate(counts)]


def test_an_output_that_changes_its_shape_is_kept_and_read(tmp_path: Path) -> None:
    outputs = keep_outputs(["a", "b"], detected(2, 0, 3), tmp_path)
    assert outputs.shapes == {"a": (3,), "b": (-1, 6)}
    assert [b.shape for _, b in outputs] == [(2, 6), (0, 6), (3, 6)]
    assert [float(b.sum()) for _, b in outputs] == [12, 0, 54]
    alone = Outputs({"b": outputs.rows["b"]})
    assert why_blind(alone) == ""
    assert find_task(alone, known_as(labelled=True)).task.name == "tensor"


def test_a_sample_of_another_shape_is_wrong_as_a_whole() -> None:
    """2, 0, 0, 1 detections not 2, 0, 3, 0: the noise of the third is its signal, that of the last its output."""
    exact, ours = detected(2, 0, 3, 0), detected(2, 0, 0, 1)
    errors = errors_of(ours, exact)
    assert errors.other_shape == [0, 2]
    assert errors.signal[1] == 2 * 6 * 1 + 3 * 6 * 9
    assert errors.noise[1] == 3 * 6 * 9 + 6 * 16
    assert errors.values[1] == 6 * (2 + 3 + 1)
    assert errors.max_error(1) == 4
    assert errors.cosine(1) == pytest.approx(12 / np.sqrt((12 + 96) * (12 + 162)))
    found = errors.result(["a", "b"])
    assert found.other_shapes() == ["output 'b' has another shape than the reference on 2 of 4 samples"]
    empty = errors_of(detected(0, 0), detected(0, 0))
    assert (empty.mse, empty.relative, empty.other_shape) == (0, 0, [0, 0])
    nan = [(np.ones(3), np.full((1, 6), np.nan))]
    assert errors_of(nan, detected(2)).broken() == 1
    assert errors_of(nan, detected(0)).broken() == 1


def test_outputs_without_values_are_not_copies(tmp_path: Path) -> None:
    nothing = [row[1:] for row in detected(0, 0)]
    assert not equal(keep_outputs(["a"], nothing, tmp_path / "1"), keep_outputs(["a"], nothing, tmp_path / "2"))
    assert "the same for every sample" not in why_blind(keep_outputs(["a"], nothing, tmp_path / "3"))


def test_equal_is_to_the_bit_over_what_both_have(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, 3), np.float32)
    one = keep_outputs(["a"], zip(values), tmp_path / "1")
    assert equal(one, keep_outputs(["x"], zip(values[:2]), tmp_path / "2"))
    values[3, 2] = np.nextafter(values[3, 2], 1)
    assert not equal(one, keep_outputs(["a"], zip(values), tmp_path / "3"))


def test_dense_outputs_pass_through_one_sample_at_a_time(tmp_path: Path) -> None:
    """48 outputs of 2 MiB of two networks are kept, judged and compared with the memory of a few."""
    exact = np.random.default_rng(0).random((1 << 19,), np.float32)
    tracemalloc.start()
    try:
        reference = keep_outputs(["map"], ([exact + np.float32(i)] for i in range(48)), tmp_path / "exact")
        outputs = keep_outputs(["map"], ([exact + np.float32(i + 0.5)] for i in range(48)), tmp_path / "int8")
        blind, same = why_blind(reference), equal(reference, outputs)
        purpose = find_task(reference, known_as())
        errors = errors_of(outputs, reference, purpose.task)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (blind, same) == ("", False)
    assert errors.mse == pytest.approx(0.25, rel=1e-4)
    assert errors.samples == 48
    assert peak < 14 * exact.nbytes  # in float64 an output is twice as large


# ---------------------------------------------------------------------------------------------- what classifies


def kept(tmp_path: Path, *columns: NDArray[np.float64]) -> Outputs:
    return keep_outputs([f"out{i}" for i in range(len(columns))], zip(*columns), tmp_path)


LOGITS = np.random.default_rng(0).standard_normal((6, 1000))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
EMBEDDING = np.abs(LOGITS[:, :512]) / np.linalg.norm(LOGITS[:, :512], axis=1, keepdims=True)
LANDMARKS = np.random.default_rng(1).random((6, 10))


def task_of(outputs: Outputs, **known: Any) -> str:
    return find_task(outputs, known_as(**known)).task.name


def test_logits_without_names_are_not_known_to_be_classes(tmp_path: Path) -> None:
    found = find_task(kept(tmp_path, LOGITS), known_as())
    assert found.task.name == "tensor"
    assert found.doubt == (
        "the output is a vector of 1000 values, but nothing says that these are scores of classes; top-1 is not "
        "counted. If the network is a classifier, give --task classification"
    )


def test_the_evidence_for_a_classifier(tmp_path: Path) -> None:
    logits = kept(tmp_path / "logits", LOGITS)
    for known in ({"names": ["a"] * 1000}, {"classes": 1000}, {"labelled": True}):
        assert task_of(logits, **known) == "classification"
    assert find_task(logits, known_as(labelled=True)).classes == 1000
    assert task_of(kept(tmp_path / "softmax", PROBABILITIES)) == "classification"
    assert task_of(kept(tmp_path / "1x1", PROBABILITIES[:, :, None, None])) == "classification"


def test_an_embedding_and_landmarks_are_not_classes(tmp_path: Path) -> None:
    embedding, landmarks = kept(tmp_path / "e", EMBEDDING), kept(tmp_path / "l", LANDMARKS)
    assert task_of(embedding, names=["person"] * 80, classes=80) == "embedding"
    found = find_task(landmarks, known_as(names=["person"] * 80, classes=80))
    assert found.task.name == "tensor"
    assert ": there are 80 class names; " in found.doubt


@pytest.mark.parametrize("shape", [(6, 1), (6, 10, 7), (6, 3, 8, 8), (6,)], ids=["one value", "boxes", "map", "scalar"])
def test_outputs_that_are_not_vectors_have_no_classes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = find_task(kept(tmp_path, np.zeros(shape)), known_as(classes=10, labelled=True))
    assert (found.task.name, found.classes, found.doubt) == ("tensor", 0, "")


def test_two_outputs_are_not_a_classifier(tmp_path: Path) -> None:
    assert task_of(kept(tmp_path, PROBABILITIES, PROBABILITIES), classes=1000) == "tensor"


def test_outputs_of_images_maps_and_texts_are_recognised(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    image, map_ = noise.random((2, 3, 32, 48)), noise.random((2, 1, 16, 24))
    steps = np.exp(noise.standard_normal((2, 12, 30)))
    steps /= steps.sum(-1, keepdims=True)
    photo = {"image": (3, 16, 24)}
    assert task_of(kept(tmp_path / "i", image), **photo) == "image"
    assert task_of(kept(tmp_path / "i", 300 * image), **photo) == "tensor"
    assert task_of(kept(tmp_path / "i", 250 * image), **photo) == "image"
    assert task_of(kept(tmp_path / "m", map_), **photo) == "segmentation"
    assert task_of(kept(tmp_path / "m", map_ - 1), **photo) == "tensor"
    assert task_of(kept(tmp_path / "m", map_[..., :2, :2]), **photo) == "tensor"
    assert task_of(kept(tmp_path / "c", image - 1), **photo, names=["sky", "sea", "road"]) == "segmentation"
    assert task_of(kept(tmp_path / "c", 9 * image - 30), **photo, names=["sky", "sea", "road"]) == "segmentation"
    assert task_of(kept(tmp_path / "s", 9 * image - 4), **photo) == "tensor", "scores of three classes, too"
    assert task_of(kept(tmp_path / "s", 9 * image - 4), **photo, names=["sky", "sea", "road"]) == "segmentation"
    assert task_of(kept(tmp_path / "t", steps), image=(3, 48, 320)) == "text"
    assert task_of(kept(tmp_path / "t", steps)) == "tensor"


def test_the_user_overrules_a_guess(tmp_path: Path) -> None:
    outputs = kept(tmp_path, LOGITS)
    assert find_task(outputs, known_as(), task="embedding").task.name == "embedding"
    found = find_task(kept(tmp_path, LOGITS[:, None]), known_as(), task="segmentation:threshold=0.3,axis=-1").task
    assert found == Segmentation(shapes=((1, 1000),), axis=-1, threshold=0.3)
    with pytest.raises(RecipeError, match="unknown task 'detecting'"):
        find_task(outputs, known_as(), task="detecting")
    with pytest.raises(RecipeError, match="'level=1' is not an attribute of segmentation"):
        find_task(outputs, known_as(), task="segmentation:level=1")
    for beyond in ("segmentation:axis=9", "text:output=4"):
        with pytest.raises(RecipeError, match=r"task .*: it cannot read the outputs of this network"):
            find_task(outputs, known_as(), task=beyond)
    with pytest.raises(RecipeError, match="no decoder is known"):
        find_task(outputs, known_as(), task="detection")
