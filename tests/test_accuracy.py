"""The figures of accuracy, compared with values computed by hand."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncnnkit.comparison.accuracy import (
    Errors,
    array_errors,
    cosine,
    errors_of,
    mse,
    sqnr_db,
    top1_agreement,
)
from ncnnkit.record.variant import Accuracy
from ncnnkit.tasks import Task
from ncnnkit.tasks.classification import Classification, top_k


def rows(*values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


REFERENCE = rows([3, 4], [0, 1])
OUTPUTS = rows([3, 3], [0, 3])  # errors 0, -1 and 0, 2


def test_mse_is_the_mean_over_all_values() -> None:
    assert mse(OUTPUTS, REFERENCE) == 5 / 4
    assert mse(REFERENCE, REFERENCE) == 0.0


def test_max_error_is_absolute() -> None:
    assert array_errors(OUTPUTS, REFERENCE).max_error(0) == 2.0
    assert array_errors(REFERENCE, OUTPUTS).max_error(0) == 2.0


def test_sqnr_is_a_ratio_of_sums() -> None:
    assert sqnr_db(OUTPUTS, REFERENCE) == pytest.approx(10 * math.log10(26 / 5))
    assert sqnr_db(rows([1.1]), rows([1.0])) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(rows([0, 0]), rows([3, 4])) == pytest.approx(0.0)
    # Ten times the signal and ten times the error keep the ratio; ten times the error is 20 dB less.
    assert sqnr_db(10 * OUTPUTS, 10 * REFERENCE) == pytest.approx(sqnr_db(OUTPUTS, REFERENCE))


@pytest.mark.parametrize(
    ("outputs", "reference"), [(REFERENCE, REFERENCE), (OUTPUTS, 0 * REFERENCE), (0 * OUTPUTS, 0 * REFERENCE)]
)
def test_an_sqnr_that_would_be_infinite_is_none(outputs: Any, reference: Any) -> None:
    assert sqnr_db(outputs, reference) is None


def test_cosine_is_computed_over_the_whole_set() -> None:
    products, ours, theirs = 3 * 3 + 4 * 3 + 1 * 3, 9 + 9 + 9, 9 + 16 + 1
    assert cosine(OUTPUTS, REFERENCE) == pytest.approx(products / math.sqrt(ours * theirs))


def test_a_sample_with_an_almost_empty_output_has_little_weight() -> None:
    """A text detector's map is right to 60 dB, but on images without text it only contains noise."""
    rng = np.random.default_rng(0)
    reference = rng.random((8, 500)).astype(np.float32)
    reference[4:] *= 1e-6
    outputs = reference + 0.0005 * rng.standard_normal(reference.shape).astype(np.float32)
    each = [cosine(outputs[i : i + 1], reference[i : i + 1]) or 0.0 for i in range(8)]
    assert np.mean(each) < 0.6, "a mean over samples would call it wrong"
    assert (cosine(outputs, reference) or 0) > 0.99999
    assert (sqnr_db(outputs, reference) or 0) > 57


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1, 0], [0, 1], 0),
        ([1, 2], [-1, -2], -1),
        ([1, 2], [10, 20], 1),
        ([0, 0], [1, 2], 0),
        ([1e-30, 2e-30], [1e-30, 2e-30], 1),
        ([3e38, 3e38], [3e38, 3e38], 1),
        ([math.nan, 1], [1, 1], -1),
        ([math.inf, 1], [1, 1], -1),
    ],
)
def test_cosine_of(a: list[float], b: list[float], value: float) -> None:
    assert cosine(rows(a), rows(b)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("outputs", [[0, 0], [1, 2]])
def test_a_reference_of_zeros_gives_no_figures(outputs: list[float]) -> None:
    errors = array_errors(rows(outputs), rows([0, 0]))
    assert (errors.cosine(0), errors.sqnr_db(0), errors.figures()["top1_agreement"]) == (None, None, None)
    assert errors.mse == np.mean(np.square(outputs))
    result = errors.result(["out"])
    assert (result.cosine, result.outputs[0].cosine) == (None, None)


def test_an_output_of_zeros_beside_another_does_not_hide_it() -> None:
    result = errors_of([(rows([0, 0]), rows([1, 1]))], [(rows([0, 0]), rows([1, 0]))]).result(["a", "b"])
    assert result.outputs[0].cosine is None
    assert result.cosine == result.outputs[1].cosine == pytest.approx(math.sqrt(0.5))


def test_cosine_never_leaves_its_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 7)).astype(np.float32)
    for row in values:
        assert cosine(row[None], row[None]) == 1.0
        assert cosine(row[None], -row[None]) == -1.0


def test_cosine_keeps_the_digits_of_a_small_difference() -> None:
    reference = np.random.default_rng(0).random((1, 10_000))
    outputs = reference * (1 + 1e-7 * np.random.default_rng(1).standard_normal(reference.shape))
    assert 1 - (cosine(outputs, reference) or 0) == pytest.approx(5e-15, rel=0.3)


def test_figures_do_not_overflow_in_float32() -> None:
    huge = rows([3e38, -3e38])
    assert mse(-huge, huge) == pytest.approx(3.6e77, rel=1e-6)
    assert sqnr_db(-huge, huge) == pytest.approx(10 * math.log10(1 / 4))
    assert array_errors(-huge, huge).max_error(0) == pytest.approx(6e38, rel=1e-6)


def test_shapes_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    flat = array_errors(a.reshape(3, -1), b.reshape(3, -1)).result(["out"])
    assert array_errors(a, b).result(["out"]) == flat
    assert flat.mse == pytest.approx(float(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_have_the_worst_figures(value: float) -> None:
    errors = errors_of([(rows([1]), rows([1, value])), (rows([1]), rows([1, 1]))], [(rows([1]), rows([1, 1]))] * 2)
    assert errors.broken() == 1
    assert (errors.cosine(1), errors.sqnr_db(1), errors.max_error(1)) == (-1.0, -math.inf, math.inf)
    assert errors.mse == math.inf
    assert array_errors(OUTPUTS, REFERENCE).broken() is None


def test_no_output_is_kept() -> None:
    """64 outputs of 2 MiB are added. Keeping a tenth of them would fail the test."""
    rng = np.random.default_rng(0)
    reference = rng.random((1 << 19,), np.float32)
    errors = Errors()
    errors.add([reference], [reference])
    tracemalloc.start()
    for number in range(64):
        errors.add([reference + np.float32(number)], [reference])
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 1 << 16
    assert peak < 12 * reference.nbytes  # float64 copies of one sample


# ------------------------------------------------------------------------------------------------------ classifiers


def test_top_k_is_best_first_and_takes_the_first_of_equals() -> None:
    scores = rows([0.1, 0.5, 0.4, 0.5], [2, 2, 2, 2], [-1, -3, -2, -4])
    assert [top_k(row, 3) for row in scores] == [[1, 3, 2], [0, 1, 2], [0, 2, 1]]
    assert len(top_k(scores[0], 9)) == 4
    assert top_k(scores[0][:, None, None], 1) == [1]


def test_agreement_with_the_reference() -> None:
    reference = np.eye(8, dtype=np.float32)[[0, 1, 2, 3]]
    outputs = reference.copy()
    outputs[1] = [9, 8, 7, 6, 5, 4, 3, 2]  # the reference's best class is second here
    outputs[2] = [9, 8, 0, 6, 5, 4, 3, 2]  # and it is last here
    errors = array_errors(outputs, reference)
    figures = errors.figures()
    assert (figures["top1_agreement"], figures["top5_agreement"]) == (2 / 4, 3 / 4)
    assert top1_agreement(reference, reference) == 1.0


def test_without_a_best_class_in_the_reference_nothing_agrees() -> None:
    reference = np.zeros((3, 6), np.float32)
    assert top1_agreement(reference, reference) is None
    reference[1, 2] = 1
    assert top1_agreement(reference, reference) == 1.0
    assert top1_agreement(0 * reference, reference) == 0.0


def test_accuracy_with_labels() -> None:
    scores = rows([9, 1, 2, 0, 0, 0], [1, 9, 2, 0, 0, 0], [6, 5, 4, 3, 2, 1])
    labels = np.array([0, 2, 5])
    figures = errors_of(zip(scores), zip(scores), Classification(), labels).figures()
    assert [figures["top1"], figures["top5"]] == pytest.approx([1 / 3, 2 / 3])


# ---------------------------------------------------------------------------------------------------------- results


def result(outputs: Any, reference: Any, task: Task | None = None, labels: Any = None) -> Accuracy:
    """The figures of outputs as columns (N, …)."""
    names = [chr(ord("a") + number) for number in range(len(outputs))]
    return errors_of(zip(*outputs), zip(*reference), task, labels).result(names)


def test_a_result_has_each_output_and_the_worst_of_each_figure() -> None:
    figures = result([OUTPUTS, rows([1], [1])], [REFERENCE, rows([1], [2])])
    first = (9 + 12 + 3) / math.sqrt((9 + 9 + 9) * (9 + 16 + 1))
    second = (1 + 2) / math.sqrt(2 * 5)
    a, b = figures.outputs
    assert (a.name, a.mse, a.max_error) == ("a", 5 / 4, 2.0)
    assert a.sqnr_db == pytest.approx(10 * math.log10(26 / 5))
    assert a.cosine == pytest.approx(first)
    assert (b.name, b.mse, b.max_error) == ("b", 0.5, 1.0)
    assert b.sqnr_db == pytest.approx(10 * math.log10(5))
    assert b.cosine == pytest.approx(second)
    assert (figures.mse, figures.max_error, figures.sqnr_db) == (a.mse, a.max_error, b.sqnr_db)
    assert figures.cosine == min(a.cosine or 0, b.cosine or 0)
    assert figures.images == 2
    assert figures.task == []


def test_an_output_of_large_values_does_not_hide_a_ruined_one() -> None:
    rng = np.random.default_rng(0)
    boxes, scores = 320 * rng.random((4, 100)), rng.random((4, 100))
    figures = result([boxes + 0.01, 0 * scores], [boxes, scores])
    assert (figures.sqnr_db, figures.cosine) == (0.0, 0.0)


def test_a_result_of_a_classifier() -> None:
    scores = rows([9, 1, 2], [1, 9, 2], [2, 1, 9])
    outputs = scores[:, [0, 2, 1]]
    figures = result([outputs], [scores], Classification(), np.array([0, 1, 1]))
    assert {figure.name: figure.value for figure in figures.task} == pytest.approx(
        {"top1_agreement": 1 / 3, "top5_agreement": 1.0, "top1": 2 / 3, "top5": 1.0}
    )
    (agreement, *_) = figures.task
    assert (agreement.low, agreement.high) == (0.0, 1.0), "three samples say nearly nothing"
    without = result([outputs], [scores], Classification())
    assert [figure.name for figure in without.task] == ["top1_agreement", "top5_agreement"]
    assert result([outputs], [scores]).task == []


def test_only_samples_with_outputs_count() -> None:
    scores = rows([9, 1, 2], [1, 9, 2], [2, 1, 9])
    figures = result([scores[:2]], [scores], Classification(), np.array([0, 0, 0]))
    assert figures.images == 2
    assert (figures.mse, figures.figures()["top1_agreement"], figures.figures()["top1"]) == (0.0, 1.0, 0.5)


def test_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is (shorter|longer) than argument"):
        result([OUTPUTS], [REFERENCE, REFERENCE])


@pytest.mark.parametrize("reference", [OUTPUTS, 0 * OUTPUTS], ids=["exact", "all zero"])
def test_figures_are_json(reference: NDArray[np.float32]) -> None:
    figures = asdict(result([OUTPUTS], [reference]))
    assert figures["sqnr_db"] is None
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_the_cosine_of_outputs_that_are_far_too_large() -> None:
    """In float64, noise and power are the same number then, and their difference is meaningless."""
    errors = Errors()
    errors.add([np.array([1e20, 0.0])], [np.array([1.0, 1.0])])
    assert errors.cosine(0) == pytest.approx(math.sqrt(0.5))
    opposite = Errors()
    opposite.add([np.array([-1e20, -1e20])], [np.array([1.0, 1.0])])
    assert opposite.cosine(0) == pytest.approx(-1.0)


def test_cautious_figures_are_one_standard_error_worse() -> None:
    """10 of 100 samples have another class: the standard error of the share is 0.03."""
    errors = Errors(Classification())
    for number in range(100):
        errors.add([np.eye(3)[int(number < 10)]], [np.eye(3)[0]])
    plain, cautious = errors.figures(), errors.cautious()
    assert plain["top1_agreement"] == pytest.approx(0.9)
    assert cautious["top1_agreement"] == pytest.approx(0.87, abs=0.011)
    assert cautious["mse"] == plain["mse"], "a figure of outputs has no interval"
