"""The figures of accuracy, each against a value worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncnnkit.codec import as_read
from ncnnkit.comparison.accuracy import (
    classifies,
    compare,
    cosine,
    label_accuracy,
    max_error,
    mse,
    output_error,
    sqnr_db,
    stack_outputs,
    top1_agreement,
    top5_agreement,
    top_k,
)
from ncnnkit.errors import ModelError
from ncnnkit.record.run import OutputError


def rows(*values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


REFERENCE = rows([3, 4], [0, 1])
OUTPUTS = rows([3, 3], [0, 3])  # errors 0, -1 and 0, 2


def test_mse_is_the_mean_over_all_values() -> None:
    assert mse(OUTPUTS, REFERENCE) == 5 / 4
    assert mse(REFERENCE, REFERENCE) == 0.0


def test_max_error_is_absolute() -> None:
    assert max_error(OUTPUTS, REFERENCE) == 2.0
    assert max_error(REFERENCE, OUTPUTS) == 2.0


def test_sqnr_is_a_ratio_of_sums() -> None:
    assert sqnr_db(OUTPUTS, REFERENCE) == pytest.approx(10 * math.log10(26 / 5))
    assert sqnr_db(rows([1.1]), rows([1.0])) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(rows([0, 0]), rows([3, 4])) == pytest.approx(0.0)
    # Ten times the signal and ten times the error leave the ratio as it is; ten times the error costs 20 dB.
    assert sqnr_db(10 * OUTPUTS, 10 * REFERENCE) == pytest.approx(sqnr_db(OUTPUTS, REFERENCE))


@pytest.mark.parametrize(
    ("outputs", "reference"), [(REFERENCE, REFERENCE), (OUTPUTS, 0 * REFERENCE), (0 * OUTPUTS, 0 * REFERENCE)]
)
def test_an_sqnr_that_would_be_infinite_is_none(outputs: Any, reference: Any) -> None:
    assert sqnr_db(outputs, reference) is None


def test_cosine_is_the_mean_over_samples() -> None:
    first = (3 * 3 + 4 * 3) / (5 * math.sqrt(18))
    assert cosine(OUTPUTS, REFERENCE) == pytest.approx((first + 1) / 2)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1, 0], [0, 1], 0),
        ([1, 2], [-1, -2], -1),
        ([1, 2], [10, 20], 1),
        ([0, 0], [0, 0], 1),
        ([0, 0], [1, 2], 0),
        ([1, 2], [0, 0], 0),
        ([1e-30, 2e-30], [1e-30, 2e-30], 1),
        ([3e38, 3e38], [3e38, 3e38], 1),
    ],
)
def test_cosine_of(a: list[float], b: list[float], value: float) -> None:
    assert cosine(rows(a), rows(b)) == pytest.approx(value, abs=1e-12)


def test_cosine_never_leaves_its_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 7)).astype(np.float32)
    for row in values:
        assert cosine(row[None], row[None]) <= 1.0
        assert cosine(row[None], -row[None]) >= -1.0


def test_figures_do_not_overflow_in_float32() -> None:
    huge = rows([3e38, -3e38])
    assert mse(-huge, huge) == pytest.approx(3.6e77, rel=1e-6)
    assert sqnr_db(-huge, huge) == pytest.approx(10 * math.log10(1 / 4))
    assert max_error(-huge, huge) == pytest.approx(6e38, rel=1e-6)


def test_shapes_beyond_two_axes_are_flattened() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    assert output_error("o", a, b) == output_error("o", a.reshape(3, -1), b.reshape(3, -1))
    assert output_error("o", a, b).mse == pytest.approx(float(np.mean((a.astype(np.float64) - b) ** 2)))


# ------------------------------------------------------------------------------------------------------ classifiers


@pytest.mark.parametrize(
    ("shapes", "whether"),
    [
        ([(4, 10)], True),
        ([(4, 10, 1, 1)], True),
        ([(4, 1, 10)], True),
        ([(4, 2)], True),
        ([(4, 1)], False),  # a regression
        ([(4,)], False),
        ([(4, 10, 7)], False),  # a sequence, or boxes
        ([(4, 3, 8, 8)], False),
        ([(4, 10), (4, 10)], False),
        ([(0, 10)], True),
    ],
)
def test_what_looks_like_a_classifier(shapes: list[tuple[int, ...]], whether: bool) -> None:
    assert classifies({f"out{i}": np.zeros(shape) for i, shape in enumerate(shapes)}) is whether


def test_top_k_is_best_first_and_takes_the_first_of_equals() -> None:
    scores = rows([0.1, 0.5, 0.4, 0.5], [2, 2, 2, 2], [-1, -3, -2, -4])
    np.testing.assert_array_equal(top_k(scores, 3), [[1, 3, 2], [0, 1, 2], [0, 2, 1]])
    assert top_k(scores, 9).shape == (3, 4)
    np.testing.assert_array_equal(top_k(scores[:, :, None, None], 1), [[1], [0], [0]])


def test_agreement_with_the_reference() -> None:
    reference = np.eye(8, dtype=np.float32)[[0, 1, 2, 3]]
    outputs = reference.copy()
    outputs[1] = [9, 8, 7, 6, 5, 4, 3, 2]  # the reference's best is second here
    outputs[2] = [9, 8, 0, 6, 5, 4, 3, 2]  # and last but for nothing here
    assert top1_agreement(outputs, reference) == 2 / 4
    assert top5_agreement(outputs, reference) == 3 / 4
    assert top1_agreement(reference, reference) == top5_agreement(reference, reference) == 1.0


def test_ties_agree_with_themselves() -> None:
    flat = np.zeros((3, 6), np.float32)
    assert top1_agreement(flat, flat) == 1.0


def test_accuracy_with_labels() -> None:
    scores = rows([9, 1, 2, 0, 0, 0], [1, 9, 2, 0, 0, 0], [6, 5, 4, 3, 2, 1])
    labels = np.array([0, 2, 5])
    assert label_accuracy(scores, labels, 1) == pytest.approx(1 / 3)
    assert label_accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert label_accuracy(scores, labels, 5) == pytest.approx(2 / 3)
    assert label_accuracy(scores, labels, 6) == 1.0


# ---------------------------------------------------------------------------------------------------------- compare


def test_compare_takes_all_outputs_together_and_each() -> None:
    figures = compare({"a": OUTPUTS, "b": rows([1], [1])}, {"x": REFERENCE, "y": rows([1], [2])})
    assert figures.mse == pytest.approx(6 / 6)
    assert figures.sqnr_db == pytest.approx(10 * math.log10(31 / 6))
    assert figures.max_error == 2.0
    first = (9 + 12 + 1) / math.sqrt((9 + 9 + 1) * (9 + 16 + 1))
    second = (0 + 3 + 2) / math.sqrt((9 + 1) * (1 + 4))
    assert figures.cosine == pytest.approx((first + second) / 2)
    assert figures.images == 2
    assert figures.outputs == [
        output_error("a", OUTPUTS, REFERENCE),
        OutputError(name="b", mse=0.5, sqnr_db=10 * math.log10(5), cosine=1.0, max_error=1.0),
    ]
    assert (figures.top1_agreement, figures.top5_agreement, figures.top1, figures.top5) == (None,) * 4


def test_compare_knows_a_classifier() -> None:
    scores = rows([9, 1, 2], [1, 9, 2], [2, 1, 9])
    outputs = scores[:, [0, 2, 1]]
    figures = compare({"prob": outputs}, {"prob": scores}, np.array([0, 1, 1]))
    assert figures.top1_agreement == pytest.approx(1 / 3)
    assert figures.top5_agreement == 1.0
    assert figures.top1 == pytest.approx(2 / 3)
    assert figures.top5 == 1.0
    without = compare({"prob": outputs}, {"prob": scores})
    assert (without.top1, without.top5, without.top1_agreement) == (None, None, figures.top1_agreement)


def test_compare_uses_as_many_samples_as_there_are_outputs() -> None:
    scores = rows([9, 1, 2], [1, 9, 2], [2, 1, 9])
    figures = compare({"prob": scores[:2]}, {"prob": scores}, np.array([0, 0, 0]))
    assert figures.images == 2
    assert (figures.mse, figures.top1_agreement, figures.top1) == (0.0, 1.0, 0.5)


def test_compare_refuses_another_number_of_outputs() -> None:
    with pytest.raises(ValueError, match=r"is (shorter|longer) than argument"):
        compare({"a": OUTPUTS}, {"a": REFERENCE, "b": REFERENCE})


@pytest.mark.parametrize("reference", [OUTPUTS, 0 * OUTPUTS], ids=["exact", "all zero"])
def test_figures_are_json(reference: NDArray[np.float32]) -> None:
    figures = compare({"out": OUTPUTS}, {"out": reference})
    assert figures.sqnr_db is None
    assert as_read(figures) == figures


def test_outputs_are_stacked_unless_their_shape_changes() -> None:
    fixed, free = np.ones(3), np.ones((2, 4))
    stacked = stack_outputs(["a", "b"], [(fixed, free), (fixed * 2, free)])
    assert {name: array.shape for name, array in stacked.items()} == {"a": (2, 3), "b": (2, 2, 4)}
    assert stacked["a"][1].tolist() == [2, 2, 2]
    with pytest.raises(ModelError, match=r"^m: output 'b' changes its shape from sample to sample"):
        stack_outputs(["a", "b"], [(fixed, free), (fixed, free[:1])], "m")
