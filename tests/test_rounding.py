"""Rounding weights together: a smaller error than rounding each weight alone, and the properties that make it safe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncnnkit.quantization.rounding import gptq, nearest

Array = NDArray[Any]


def inputs_alike(groups: int, places: int, inputs: int, seed: int = 0, latent: int = 4) -> Array:
    """Correlated inputs with a mean, (groups, positions, inputs), like the inputs of convolutions."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((groups, places, latent))
    mixed = hidden @ rng.standard_normal((groups, latent, inputs))
    return (mixed + 0.2 * rng.standard_normal((groups, places, inputs)) + 3).astype(np.float32)


def covariances(x: Array) -> Array:
    centred = x - x.mean(axis=1, keepdims=True)
    return np.asarray(centred.transpose(0, 2, 1) @ centred / x.shape[1], np.float32)


def weights(groups: int, rows: int, inputs: int, seed: int = 1, size: float = 20) -> Array:
    return (np.random.default_rng(seed).standard_normal((groups, rows, inputs)) * size).astype(np.float32)


def error(scaled: Array, rounded: Array, x: Array) -> float:
    centred = (x - x.mean(axis=1, keepdims=True)).astype(np.float64)
    return float(np.mean(((scaled - rounded) @ centred.transpose(0, 2, 1)) ** 2))


@pytest.mark.parametrize("inputs", [9, 60, 150, 300])  # below and above the size of one solver and one block
def test_correlated_inputs_compensate_each_others_errors(inputs: int) -> None:
    x, scaled = inputs_alike(2, 500, inputs), weights(2, 16, inputs)
    rounded = gptq(scaled, covariances(x))
    assert error(scaled, rounded, x) < 0.5 * error(scaled, nearest(scaled), x)
    other = inputs_alike(2, 500, inputs)[:, ::-1] + 1  # the bias corrects a mean
    assert error(scaled, rounded, other) < 0.5 * error(scaled, nearest(scaled), other)


@given(st.integers(0, 1000), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_independent_inputs_are_rounded_to_nearest(seed: int, inputs: int) -> None:
    diagonal = np.random.default_rng(seed).uniform(0, 5, (3, inputs)).astype(np.float32)
    scaled = weights(3, 4, inputs, seed)
    assert np.array_equal(gptq(scaled, diagonal[:, :, None] * np.eye(inputs, dtype=np.float32)), nearest(scaled))


@given(st.integers(0, 1000), st.sampled_from([1, 31, 127]), st.floats(0.1, 500))
@settings(deadline=None, max_examples=30)
def test_results_are_integers_within_the_limit(seed: int, steps: int, size: float) -> None:
    x = inputs_alike(2, 30, 12, seed)  # fewer positions than inputs
    rounded = gptq(weights(2, 3, 12, seed, size), covariances(x), steps)
    assert rounded.dtype == np.float32
    assert np.array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= steps


def test_nearest_is_half_away_from_zero_and_clipped() -> None:
    values = np.array([0.5, -0.5, 1.5, 2.4999, -2.5, 126.6, 1000, -1000, 0], np.float32)
    assert nearest(values).tolist() == [1, -1, 2, 2, -3, 127, 127, -127, 0]
    assert nearest(values, 31)[-3:].tolist() == [31, -31, 0]


@pytest.mark.parametrize("inputs", [9, 70])
def test_groups_are_independent(inputs: int) -> None:
    x, scaled = inputs_alike(4, 200, inputs), weights(4, 5, inputs)
    covariance = covariances(x)
    together = gptq(scaled, covariance)
    alone = [gptq(scaled[i : i + 1], covariance[i : i + 1])[0] for i in range(4)]
    assert np.array_equal(together, np.stack(alone))


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_order_of_inputs_does_not_matter(seed: int, random: Any) -> None:
    order = list(range(15))
    random.shuffle(order)
    scaled, covariance = weights(1, 6, 15, seed), covariances(inputs_alike(1, 100, 15, seed))
    permuted = gptq(scaled[:, :, order], covariance[:, order][:, :, order])
    assert np.array_equal(permuted, gptq(scaled, covariance)[:, :, order])


def test_rows_are_independent() -> None:
    scaled, covariance = weights(1, 8, 20), covariances(inputs_alike(1, 100, 20))
    each = [gptq(scaled[:, i : i + 1], covariance) for i in range(8)]
    assert np.array_equal(gptq(scaled, covariance), np.concatenate(each, axis=1))


@pytest.mark.parametrize("inputs", [12, 140])
def test_dead_inputs_are_rounded_to_nearest(inputs: int) -> None:
    x, scaled = inputs_alike(1, 200, inputs), weights(1, 6, inputs)
    dead = np.arange(inputs) % 3 == 0
    x[:, :, dead] = 2.0
    covariance = covariances(x)
    covariance[:, dead] = covariance[:, :, dead] = 0
    rounded = gptq(scaled, covariance)
    assert np.array_equal(rounded[:, :, dead], nearest(scaled)[:, :, dead])
    assert error(scaled, rounded, x) < 0.5 * error(scaled, nearest(scaled), x)
    assert np.array_equal(gptq(scaled, np.zeros_like(covariance)), nearest(scaled))


def test_arguments_are_not_changed() -> None:
    scaled, covariance = weights(1, 3, 9), covariances(inputs_alike(1, 50, 9))
    before = scaled.copy(), covariance.copy()
    gptq(scaled, covariance)
    assert np.array_equal(scaled, before[0])
    assert np.array_equal(covariance, before[1])
