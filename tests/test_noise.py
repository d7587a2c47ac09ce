"""Noise over signal: each output relative to its own signal, summed over samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ncnnkit.comparison.noise import Noise, sqnr_db


def test_each_output_counts_relative_to_its_own_signal() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.uniform(0, 320, (4, 50)), rng.uniform(0, 1, (4, 8))
    noise = Noise()
    for a, b in zip(large, small):
        noise.add([a * 1.01, b * 1.1], [a, b])
    assert noise.relative == pytest.approx((0.01**2 + 0.1**2) / 2)
    assert noise.mse == pytest.approx(
        (np.sum((0.01 * large) ** 2) + np.sum((0.1 * small) ** 2)) / (large.size + small.size)
    )


def test_samples_add_up_over_the_whole_set() -> None:
    """A sample with little signal has little weight, because sums are computed before the ratio."""
    noise = Noise()
    noise.add([np.array([100.0])], [np.array([99.0])])
    noise.add([np.array([0.1])], [np.array([0.0])])
    assert noise.relative == pytest.approx((1 + 0.01) / 99**2)


def test_an_output_that_is_zero_throughout_is_compared_with_the_others() -> None:
    noise = Noise()
    noise.add([np.array([2.0, 2.0]), np.array([0.1])], [np.array([2.0, 2.0]), np.array([0.0])])
    assert noise.relative == pytest.approx((0 + 0.01 / (8 / 3)) / 2)


def test_noise_without_signal_and_nan_are_infinitely_wrong() -> None:
    exact, lost, broken = Noise(), Noise(), Noise()
    exact.add([np.zeros(3)], [np.zeros(3)])
    lost.add([np.ones(3)], [np.zeros(3)])
    broken.add([np.array([np.nan, 1.0]), np.ones(2)], [np.ones(2), np.ones(2)])
    assert (exact.relative, lost.relative, broken.relative, broken.mse) == (0.0, math.inf, math.inf, math.inf)


def test_other_numbers_of_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Noise().add([np.ones(3)], [])


def test_decibels() -> None:
    assert sqnr_db(0.001) == pytest.approx(30)
    assert sqnr_db(0.0) is None
    assert sqnr_db(math.inf) == -math.inf
