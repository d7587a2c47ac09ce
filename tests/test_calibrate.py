"""Calibration: what is counted, merging of separate counts, and networks that cannot be calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import network, samples, small, stream
from PIL import Image

from ncnnkit import Preprocess
from ncnnkit.device.session import Session
from ncnnkit.errors import FormatError, ImageError, ModelError, VerificationError
from ncnnkit.quantization import EFFORTS, quantize_images
from ncnnkit.quantization.calibration import (
    ActivationStats,
    BlobStats,
    Crew,
    calibrate,
    observe,
    over_samples,
    quantizable,
)
from ncnnkit.samples.stream import Samples


def equal(one: ActivationStats, other: ActivationStats) -> bool:
    return (one.images, one.method, one.blobs.keys()) == (other.images, other.method, other.blobs.keys()) and all(
        (a.width, a.absmax, a.count) == (b.width, b.absmax, b.count) and np.array_equal(a.histogram, b.histogram)
        for a, b in zip(one.blobs.values(), other.blobs.values(), strict=True)
    )


def test_only_the_roots_that_int8_layers_read_are_counted() -> None:
    stats = calibrate(small(), samples(3))
    assert list(stats.blobs) == ["in0", "b1", "b2", "b3", "b6"]
    with Session(small(), keep_blobs=True) as net:
        seen = [net.blobs(x, names=["b1", "b3"]) for x in samples(3)]
    for index, blob in enumerate(("b1", "b3")):
        values = np.concatenate([blobs[index].reshape(-1) for blobs in seen])
        assert stats.blobs[blob].count == values.size
        assert stats.blobs[blob].absmax == np.abs(values).max()
        assert stats.blobs[blob].histogram.sum() == np.count_nonzero(values)


@pytest.mark.parametrize("method", ["mse", "aciq", "minmax"])
def test_batches_counted_apart_merge_to_the_same(method: str) -> None:
    whole = calibrate(small(), samples(7), method=method)
    parts = [calibrate(small(), part, method=method) for part in np.split(samples(7), [1, 5])]
    assert equal(parts[0].merge(parts[1]).merge(parts[2]), whole)
    assert equal(parts[2].merge(parts[0].merge(parts[1])), whole)


@pytest.mark.parametrize("method", ["mse", "kl"])
def test_the_number_of_processes_does_not_matter(method: str) -> None:
    assert equal(calibrate(small(), samples(5), method=method, threads=1), calibrate(small(), samples(5), method=method, threads=3))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("method", ["mse", "kl"])
@pytest.mark.parametrize("threads", [1, 3])
def test_one_pass_collects_all_requested_statistics(method: str, threads: int) -> None:
    """Histograms do not depend on what else is recorded. Ranges and channels are those of the blobs."""
    graph, inputs = small(), samples(7)
    names, chosen = ["in0", "b1", "b2", "b3", "b6"], [0, 3, 6]
    seen = observe(graph, stream(inputs), method=method, batches=2, ranges=True, channels=chosen, threads=threads)
    plain = calibrate(graph, inputs, method=method, threads=1)
    assert [stats.images for stats in seen.batches] == [4, 3]
    for name in names:
        assert np.array_equal(seen.whole.blobs[name].histogram, plain.blobs[name].histogram)
        assert seen.whole.blobs[name].absmax == plain.blobs[name].absmax
    with Session(graph, keep_blobs=True, threads=1) as net:
        blobs = [net.blobs(x, names=names) for x in inputs]
    assert np.allclose(seen.ranges, [[np.abs(blob).max() for blob in row] for row in blobs], rtol=1e-5)
    for number, name in enumerate(names):
        largest = [np.abs(blobs[i][number].reshape(len(blobs[i][number]), -1)).max(axis=1) for i in chosen]
        assert np.allclose(seen.channels[name], np.mean(largest, axis=0), rtol=1e-5)


def test_quantising_runs_each_network_once_on_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the network itself, once with channels migrated, and once for the biases."""
    passes: list[tuple[str, int]] = []
    over = Crew.over

    def noted(crew: Crew, given: Samples, op: str, *rest: Any, **request: Any) -> Any:
        passes.append((op, len(given)))
        return over(crew, given, op, *rest, **request)

    monkeypatch.setattr(Crew, "over", noted)
    effort = replace(EFFORTS["default"], fits=())
    quantize_images(small(), stream(samples(10)), target="x86", effort=effort, threads=1)
    assert passes == [("tally", 8), ("tally", 8), ("means", 8)]


def test_statistics_of_different_networks_do_not_merge() -> None:
    stats = calibrate(small(), samples(2))
    other = ActivationStats({"x": BlobStats(np.zeros(8, np.int64), 0.0, 0.0, 0)}, 1)
    with pytest.raises(FormatError, match="of different networks"):
        stats.merge(other)


def test_images_may_be_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
    stats = calibrate(small(), tmp_path, Preprocess(resize=(16, 16)))
    assert stats.images == 3
    assert 0 < stats.blobs["in0"].absmax <= 1


def test_progress_counts_images_for_any_number_of_passes() -> None:
    told: list[tuple[int, int]] = []
    calibrate(small(), samples(4), method="kl", threads=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 4), (1, 4), (1, 4), (2, 4), (2, 4), (3, 4), (3, 4), (4, 4)]


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(ModelError, match="no convolution or inner product"):
        calibrate(network("ReLU r 1 1 in0 out0"), samples(1, (4, 5, 6)))
    with pytest.raises(ImageError, match="no samples"):
        calibrate(small(), samples(0))
    with pytest.raises(ImageError, match="takes N x 3x16x16"):
        calibrate(small(), samples(1, (4, 5, 6)))
    poisoned = samples(2)
    poisoned[1, 0, 0, 0] = np.nan
    with pytest.raises(VerificationError, match="blob in0 contains NaN or infinity"):
        calibrate(small(), poisoned)


def test_int8_layers_are_not_quantised_twice() -> None:
    graph = small()
    names = [layer.name for layer in quantizable(graph)]
    graph.layer("c1").params["int8_scale_term"] = 2
    assert [layer.name for layer in quantizable(graph)] == names[1:]


def test_channel_means_over_samples() -> None:
    """The means over the positions of images, and over the rows of matrices. Bias correction compares them."""
    parts = [rows for _, rows in over_samples(small(), stream(samples(4)), "means", threads=2, blobs=["b1", "out0"])]
    with Session(small(), keep_blobs=True) as net:
        blobs = [net.blobs(x, names=["b1", "out0"]) for x in samples(4)]
    images, vectors = (np.concatenate([rows[i] for rows in parts]).mean(axis=0) for i in range(2))
    np.testing.assert_allclose(images, np.mean([b[0].mean(axis=(1, 2)) for b in blobs], axis=0), rtol=1e-5)
    np.testing.assert_allclose(vectors, np.mean([b[1] for b in blobs], axis=0), rtol=1e-5)


def test_a_network_with_only_weight_quantised_layer_types_gets_a_hint() -> None:
    graph = network("Input in0 0 1 in0 0=6 1=4\nLSTM l 1 1 in0 out 0=5 1=120")
    with pytest.raises(ModelError, match=r"no convolution or inner product.*ncnn itself can store the weights of LSTM"):
        calibrate(graph, samples(2, (4, 6)), None)
