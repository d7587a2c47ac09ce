"""The judgement of calibration images: errors by their number, outliers, and unlike evaluation images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import samples, small, stream
from numpy.typing import NDArray

from ncnnkit.device.session import Session
from ncnnkit.model.graph import Graph
from ncnnkit.quantization.advice import enough, error_by_count, likeness, stretching
from ncnnkit.quantization.calibration import ActivationStats, BlobStats, calibrate, observe
from ncnnkit.record.quantisation import Count

Array = NDArray[Any]


def batch(images: int, largest: float) -> ActivationStats:
    histogram = np.zeros(8, np.int64)
    histogram[-1] = images
    return ActivationStats({"b": BlobStats(histogram, largest / 8, largest, images)}, images)


# ------------------------------------------------------------------------------------------------------------ counts


def test_the_error_is_that_of_one_batch_then_half_then_all() -> None:
    seen: list[int] = []

    def error(stats: ActivationStats) -> float:
        seen.append(stats.images)
        return 1 / stats.images

    counts = error_by_count([batch(10, 1.0) for _ in range(4)], error, 1 / 40)
    assert seen == [10] * 4 + [20] * 2, "that of all is known"
    assert [c.images for c in counts] == [10, 20, 40]
    for count in counts:
        assert count.low == count.high == pytest.approx(1 / count.images)
        assert count.relative_error == pytest.approx(1 / count.images)


def test_every_batch_is_used_and_the_spread_is_reported() -> None:
    counts = error_by_count([batch(1, 2.0**-i) for i in range(4)], lambda stats: stats.blobs["b"].absmax, 1.0)
    assert [c.images for c in counts] == [1, 2, 4]
    assert (counts[0].low, counts[0].high) == (0.125, 1.0)
    assert counts[0].relative_error == pytest.approx((1 + 0.5 + 0.25 + 0.125) / 4)
    assert (counts[1].low, counts[1].high) == (0.25, 1.0)  # 0+1, 2+3
    assert counts[2] == Count(4, 1.0, 1.0, 1.0)


def test_one_batch_is_one_count() -> None:
    assert error_by_count([batch(3, 1.0)], lambda stats: 1.0, 2.0) == [Count(3, 2.0, 2.0, 2.0)]


def test_batches_of_unequal_size_count_as_they_are() -> None:
    counts = error_by_count([batch(3, 1.0), batch(2, 1.0)], lambda stats: 1.0, 1.0)
    assert [c.images for c in counts] == [2, 5]  # 2.5, rounded to even


def test_how_many_images_are_enough() -> None:
    last = Count(50, 1.0, 1.0, 1.0)
    assert enough([Count(10, 1.0, 0.9, 1.04), Count(30, 1.0, 1.0, 1.0), last]) == 10
    assert enough([Count(10, 1.0, 0.9, 1.2), Count(30, 1.0, 1.0, 1.01), last]) == 30
    assert enough([Count(10, 1.2, 1.0, 1.2), Count(30, 1.1, 1.0, 1.2), last]) is None
    assert enough([last]) is None


def test_real_statistics_can_be_counted() -> None:
    graph, inputs = small(), samples(6)
    batches = observe(graph, stream(inputs), batches=4, threads=1).batches
    seen: list[ActivationStats] = []
    error_by_count(batches, lambda stats: seen.append(stats) or 1.0, 1.0)  # type: ignore[func-returns-value]
    assert [stats.images for stats in seen] == [2, 2, 1, 1, 4, 2]
    whole = calibrate(graph, [inputs[[0, 1, 4, 5]]], threads=1)
    seen = seen[:5]
    assert all(np.array_equal(seen[-1].blobs[b].histogram, whole.blobs[b].histogram) for b in whole.blobs)


# ------------------------------------------------------------------------------------------------------------ ranges


def image_ranges(graph: Graph, inputs: Array, threads: int = 1) -> Array:
    return observe(graph, stream(inputs), histograms=False, ranges=True, threads=threads).ranges


def test_ranges_are_the_largest_values_of_each_image_in_order() -> None:
    graph, inputs = small(), samples(5)
    ranges = image_ranges(graph, inputs, threads=2)
    names = ["in0", "b1", "b2", "b3", "b6"]
    with Session(graph, keep_blobs=True, threads=1) as net:
        expected = [[np.abs(blob).max() for blob in net.blobs(x, names=names)] for x in inputs]
    assert ranges == pytest.approx(np.array(expected), rel=1e-5)


def test_a_planted_outlier_is_found() -> None:
    inputs = samples(12)
    inputs[7] *= 3
    found = stretching(image_ranges(small(), inputs))
    assert found[0].image == 7
    assert found[0].tensors >= 2
    assert 1.5 < found[0].factor < 4


def test_similar_images_stretch_nothing() -> None:
    ranges = np.random.default_rng(0).uniform(1, 1.4, (20, 9))
    assert stretching(ranges) == []
    assert stretching(ranges[:2] * [[1], [9]]) == [], "too few to tell"
    assert stretching(np.zeros((5, 3))) == []


def test_the_worst_images_come_first_up_to_a_limit() -> None:
    ranges = np.ones((10, 8))
    ranges[3, :4], ranges[5, 4], ranges[6, 5:7] = 2.0, 9.0, 1.6
    found = stretching(ranges)
    assert [(s.image, s.tensors, s.factor) for s in found] == [(3, 4, 2.0), (6, 2, 1.6), (5, 1, 9.0)]
    assert stretching(ranges, most=1) == found[:1]


# ---------------------------------------------------------------------------------------------------------- likeness


def test_scaled_images_are_distinguished_from_similar_ones() -> None:
    graph, inputs = small(), samples(30)
    ranges, others, darker = (
        image_ranges(graph, given) for given in (inputs, samples(10, seed=1), samples(10, seed=1) * np.float32(0.25))
    )
    alike, dark = likeness(ranges, others), likeness(ranges, darker)
    assert alike is not None
    assert dark is not None
    assert alike.alike
    assert not dark.alike
    assert dark.evaluation > 2 * alike.evaluation
    assert alike.calibration == dark.calibration


def test_few_or_dead_images_give_no_wrong_result() -> None:
    ranges = np.ones((4, 3))
    assert likeness(ranges, ranges) is None
    ranges = np.random.default_rng(0).uniform(1, 2, (6, 3))
    assert likeness(ranges, np.empty((0, 3))) is None
    ranges[:, 1] = 0
    found = likeness(ranges, ranges)
    assert found is not None
    assert np.isfinite([found.calibration, found.evaluation]).all()
    assert found.alike
