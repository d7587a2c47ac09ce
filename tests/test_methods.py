"""The methods of the quantiser: those that help on held-back images are kept, and others are not."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import network, samples, small
from numpy.typing import NDArray

import ncnnkit
from ncnnkit.device.session import Session
from ncnnkit.errors import RecipeError
from ncnnkit.model.graph import Graph
from ncnnkit.quantization import EFFORTS, Effort, Quantized, correct_bias, methods, quantize_images
from ncnnkit.quantization.layerwise import Kept
from ncnnkit.record.quantisation import Trial
from ncnnkit.samples.stream import Sample

Array = NDArray[Any]

BRIEF = Effort(40, strengths=(0.5,), fits=EFFORTS["default"].fits, first_fit=True, rows=256)

TWO = """
    Input in0 0 1 in0 0=6 1=5 2=4
    Input in1 0 1 in1 0=6 1=5 2=4
    Convolution c0 1 1 in0 a 0=8 1=3 4=1 5=1 6=288 9=1
    Convolution c1 1 1 in1 b 0=8 1=1 5=1 6=32
    BinaryOp add 2 1 a b c 0=0
    Split s 1 2 c d e
    Convolution c2 1 1 d out0 0=6 1=3 5=1 6=432
    Pooling gap 1 1 e f 0=1 4=1
    InnerProduct fc 1 1 f out1 0=5 1=1 2=40
"""


@pytest.fixture(autouse=True, scope="module")
def brief() -> Iterator[None]:
    """The default effort with fewer positions and fewer batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "EFFORTS", {**EFFORTS, "default": BRIEF})
        patch.setattr(methods, "BATCHES", 2)
        yield


def errors(graph: Graph, of: Quantized) -> float:
    """Noise over signal of the outputs on the held-back samples, as in the trials."""
    rows = []
    for made in (graph, of.source):
        with Session(made, threads=1) as net:
            rows.append([net.blobs(*sample, names=made.outputs) for sample in of.held])
    columns = [[np.stack(column).astype(np.float64) for column in zip(*found)] for found in rows]
    return float(np.mean([np.sum((a - b) ** 2) / np.sum(b**2) for a, b in zip(*columns)]))


def noise(trial: Trial) -> float:
    assert trial.relative_error is not None, "only what is read from run.json may lack it"
    return trial.relative_error


def int8_layers(graph: Graph) -> set[str]:
    return {layer.name for layer in graph.layers if layer.params.get("int8_scale_term")}


def assert_guarded(made: Quantized) -> None:
    """Check that the network is the best of the trials, and that each was kept exactly if it was better than before."""
    least = np.inf
    for trial in made.trials:
        assert trial.kept == (noise(trial) < least)
        assert trial.seconds > 0
        least = min(least, noise(trial))
    assert errors(made.fitted, made) == pytest.approx(least, rel=1e-3)
    assert errors(made.graph, made) == pytest.approx(least, rel=0.05, abs=1e-6), "but for fp16 weights"


def images() -> Array:
    """Thirty images. The ninth stretches the ranges."""
    inputs = samples(30)
    inputs[8] *= 2
    return inputs


@pytest.fixture(scope="module")
def whole() -> Quantized:
    return quantize_images(small(), [images()], target="x86", threads=1)


# ------------------------------------------------------------------------------------------------------- what is kept


def test_the_error_is_the_smallest_of_the_trials(whole: Quantized) -> None:
    assert_guarded(whole)
    assert [trial.method for trial in whole.trials][:5] == [
        "thresholds",
        "thresholds, 50% of the way to the largest values",
        "thresholds, 100% of the way to the largest values",
        "channel migration 0.5",
        "zero points",
    ]
    assert [trial.method for trial in whole.trials][5:] == ["bias correction", "layer by layer: bias, rounding"]
    assert noise(whole.trials[-1]) < 0.9 * noise(whole.trials[0])
    assert whole.source == small(), "the given graph is not changed"
    assert int8_layers(whole.graph) == {"c1", "d1", "c2", "c3", "fc"}


def test_important_rare_large_values_are_not_clipped() -> None:
    """One value in 250,000 is 60, and the others are near 1.

    The threshold with the least error of the tensor clips it, but only such values pass the bias and the ReLU.
    """
    inputs = np.random.default_rng(0).normal(0, 1, (8, 4, 250, 250)).astype(np.float32)
    inputs[:, 1, 100, 100] = 60
    graph = network("Input in0 0 1 in0 0=250 1=250 2=4\nConvolution c 1 1 in0 out0 0=4 1=1 5=1 6=16 9=1")
    graph.layer("c").weights["weight"] = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    graph.layer("c").weights["bias"] = np.full(4, -10, np.float32)
    effort = Effort(20, zero_points=False, biases=False, advice=False)
    clipped, half, whole = quantize_images(graph, inputs, target="x86", effort=effort, threads=1).trials
    assert noise(clipped) > 0.2
    assert noise(whole) < 0.001
    assert noise(whole) < noise(half) < noise(clipped)
    assert whole.kept


def test_each_fitted_layer_is_reported() -> None:
    made = quantize_images(small(), images(), target="x86", threads=1, effort=replace(BRIEF, biases=False))
    assert made.trials[-1].method == "layer by layer: bias, rounding"
    assert made.trials[-1].kept
    assert [each.name for each in made.layers] == ["c1", "d1", "c2", "c3", "fc"]


@pytest.mark.parametrize("worse", ["correct_bias", "fit_layers"])
def test_one_pass_is_compared_with_layer_by_layer(worse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of the two is spoilt, the other one is used."""
    right = getattr(methods, worse)

    def spoilt(*given: Any, **options: Any) -> Any:
        made = right(*given, **options)
        graph = made[0] if isinstance(made, tuple) else made
        graph.layer("fc").weights["bias"] = graph.layer("fc").array("bias") + 1
        return made

    monkeypatch.setattr(methods, worse, spoilt)
    made = quantize_images(small(), images(), target="x86", threads=1)
    kept = {trial.method: trial.kept for trial in made.trials[5:]}
    fits_lost = worse == "fit_layers"
    # Gains are tried where fitting without them lost.
    gains = {"layer by layer: bias, gain, rounding": False} if fits_lost else {}
    assert kept == {"bias correction": fits_lost, "layer by layer: bias, rounding": not fits_lost, **gains}
    assert bool(made.layers) == (worse == "correct_bias")
    assert_guarded(made)


def test_the_exact_network_computes_the_same_as_the_original(whole: Quantized) -> None:
    assert errors(whole.exact, whole) < 1e-9
    assert [la.name for la in whole.exact.layers] == [la.name for la in whole.fitted.layers]


def test_held_back_images_are_not_used_for_fitting(whole: Quantized) -> None:
    assert len(whole.used) == 23
    assert np.array_equal([sample[0] for sample in whole.held], images()[3::4])
    assert whole.advice.ranges.shape == (23, 5)
    assert whole.advice.counts[-1].images == 23
    assert whole.advice.counts[-1].relative_error == pytest.approx(noise(whole.trials[0]))


def test_a_method_that_increases_the_error_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(graph: Graph) -> Graph:
        made = graph.copy()
        for layer in made.layers:
            if "bias" in layer.weights:
                layer.weights["bias"] = layer.array("bias") + 100
        return made

    monkeypatch.setattr(methods, "migrate", lambda graph, *_: spoilt(graph))
    monkeypatch.setattr(methods, "rounded_weights", lambda graph, _: spoilt(graph))
    monkeypatch.setattr(methods, "fit_layers", lambda _, int8, *__, **___: (spoilt(int8), [Kept("c1", {"": 1.0}, "")]))
    monkeypatch.setattr(methods, "correct_bias", lambda _, int8, *__, **___: spoilt(int8))
    effort = replace(BRIEF, unclipped=())
    made = quantize_images(small(), [samples(10)], target="x86", effort=effort, threads=1)
    first, *others = made.trials
    assert [trial.method for trial in others] == [
        "channel migration 0.5", "zero points", "bias correction", "layer by layer: bias, rounding",
        "layer by layer: bias, gain, rounding",
    ]  # fmt: skip
    assert all(not trial.kept and noise(trial) > 10 * noise(first) for trial in others)
    assert made.layers == []
    assert_guarded(made)
    stats = ncnnkit.calibrate(small(), np.delete(samples(10), [3, 7], axis=0), threads=1)
    assert made.graph == ncnnkit.quantize(small(), stats, target="x86")


def test_outputs_that_are_not_finite_are_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Graph, int8: Graph, *_: Any, **__: Any) -> Graph:
        made = int8.copy()
        made.layer("fc").weights["bias"] = np.full(10, np.nan, np.float32)
        return made

    monkeypatch.setattr(methods, "correct_bias", broken)
    made = quantize_images(small(), [samples(6)], target="x86", effort="fast", threads=1)
    assert noise(made.trials[-1]) == np.inf
    assert not made.trials[-1].kept
    assert_guarded(made)


# ---------------------------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("method", ["kl", "aciq"])
def test_native_methods_only_correct_biases(method: str) -> None:
    graph, inputs = small(), samples(10)
    made = quantize_images(graph, [inputs], target="x86", method=method, threads=1)
    assert [trial.method for trial in made.trials] == ["thresholds", "bias correction"]
    assert made.layers == []
    assert made.exact == graph
    assert_guarded(made)
    used = np.delete(inputs, [3, 7], axis=0)
    stats = ncnnkit.calibrate(graph, used, method=method, threads=1)
    plain = ncnnkit.quantize(graph, stats, target="x86")
    expected = correct_bias(graph, plain, [used], threads=1) if made.trials[1].kept else plain
    for ours, theirs in zip(made.graph.layers, expected.layers, strict=True):
        if "weight_scales" in ours.weights:
            assert np.array_equal(ours.array("weight"), theirs.array("weight"))
            assert np.array_equal(ours.array("weight_scales"), theirs.array("weight_scales"))
            assert np.allclose(ours.array("bias"), theirs.array("bias"), atol=1e-3)  # kept in fp32
    assert int(np.abs(made.graph.layer("c1").array("weight")).max()) <= 31


def test_skipped_layers_stay_in_floating_point() -> None:
    graph = small()
    made = quantize_images(graph, [samples(6)], target="x86", skip=["c2", "fc"], threads=1)
    assert int8_layers(made.graph) == {"c1", "d1", "c3"}
    assert {each.name for each in made.layers} <= {"c1", "d1", "c3"}
    assert_guarded(made)


def test_a_network_with_all_layers_skipped_stays_the_same() -> None:
    graph = small()
    made = quantize_images(graph, [samples(5)], effort="fast", skip=["c1", "d1", "c2", "c3", "fc"], threads=1)
    assert not int8_layers(made.graph)
    assert errors(made.graph, made) < 1e-4


def test_fast_uses_at_most_32_images() -> None:
    told: list[tuple[str, int, int]] = []
    inputs = samples(60)
    made = quantize_images(
        small(), [inputs], target="x86", effort="fast", threads=1, progress=lambda *step: told.append(step)
    )
    assert len(made.held) == 8
    assert {total for step, _, total in told if step == "calibrate"} == {24}
    steps = {step for step, _, _ in told}
    assert {"thresholds", "zero points", "bias correction"} <= steps
    assert made.advice.counts == []
    known = {x.tobytes() for x in inputs}
    assert all(x.tobytes() in known for (x,) in made.held)


def test_efforts_grow() -> None:
    fast, default, best = (EFFORTS[name] for name in ("fast", "default", "best"))
    assert fast.images < default.images < best.images
    assert (fast.strengths, fast.fits) == ((), ())
    assert set(default.strengths) <= set(best.strengths)
    assert set(default.fits) <= set(best.fits)
    assert default.rows < best.rows


def test_an_unknown_effort_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown effort 'more'") as caught:
        quantize_images(small(), [samples(2)], effort="more")
    assert "fast" in str(caught.value)
    with pytest.raises(RecipeError, match="unknown effort"):
        ncnnkit.quantize(small(), [samples(2)], effort="more")


@pytest.mark.parametrize("count", [1, 4])
def test_few_images_are_enough_to_work(count: int) -> None:
    made = quantize_images(small(), [samples(count)], target="x86", threads=1)
    assert len(made.held) == (count if count < 4 else 1)
    assert_guarded(made)
    assert all(count.images > 0 and np.isfinite(count.relative_error) for count in made.advice.counts)


def test_several_inputs_and_outputs() -> None:
    inputs: Sequence[Array] = [samples(10, (4, 5, 6), seed) for seed in (0, 1)]
    made = quantize_images(network(TWO), inputs, target="x86", threads=1)
    assert int8_layers(made.graph) == {"c0", "c1", "c2", "fc"}
    assert len(made.held) == 2
    assert len(made.held[0]) == 2
    assert made.graph.outputs == made.source.outputs
    assert_guarded(made)


def test_an_image_that_stretches_is_reported_by_its_index(whole: Quantized) -> None:
    assert whole.advice.stretching[0].image == 8  # the 7th used image, because the fourth and the eighth are held back


def test_samples_or_statistics_may_be_given() -> None:
    graph, inputs = small(), samples(6)
    made = ncnnkit.quantize(graph, [inputs], target="x86", effort="fast")
    assert int8_layers(made) == {"c1", "d1", "c2", "c3", "fc"}
    plain = ncnnkit.quantize(graph, ncnnkit.calibrate(graph, inputs), target="x86")
    assert int8_layers(plain) == int8_layers(made)


# --------------------------------------------------------------------------------------------------- streams of samples


class Counted:
    """Samples that record which of them were read, and how many are still in memory."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        self.read: set[bytes] = set()
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = [0]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index].copy().view(Held)
        self.read.add(row.tobytes())
        self.alive.add(row)
        self.most[0] = max(self.most[0], len(self.alive))
        return (row,)

    def subset(self, indices: Sequence[int]) -> Counted:
        made = copy.copy(self)  # what is counted is counted together
        made.rows = self.rows[list(indices)]
        return made


class Held(np.ndarray[Any, Any]):
    """An array with a hash, which numpy's own arrays do not have."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_only_the_samples_of_the_effort_are_read_and_few_are_held(effort: str) -> None:
    given = Counted(samples(200))
    made = quantize_images(small(), given, target="x86", effort=effort, threads=2)
    most = methods.EFFORTS[effort].images  # type: ignore[attr-defined]
    assert len(made.used) + len(made.held) == most
    assert len(given.read) == most
    assert given.most[0] <= 6, "a sample or two of each process"
    both = {sample[0].tobytes() for part in (made.used, made.held) for sample in part}
    assert both == given.read


def test_calibrating_holds_few_samples_whatever_their_number() -> None:
    given = Counted(samples(300))
    stats = ncnnkit.calibrate(small(), given, threads=2)
    assert stats.images == len(given.read) == 300
    assert given.most[0] <= 6


def test_batches_give_the_same_as_their_samples() -> None:
    inputs = samples(23)
    whole = ncnnkit.quantize(small(), inputs, target="x86", effort="fast")
    batches = ((inputs[i : i + 4], np.arange(4)) for i in range(0, 23, 4))
    assert ncnnkit.quantize(small(), batches, target="x86", effort="fast") == whole


@pytest.mark.torch
def test_a_data_loader_gives_the_same_as_its_samples() -> None:
    import torch

    inputs = samples(23)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(inputs), torch.arange(23)), batch_size=4
    )
    assert ncnnkit.quantize(small(), loader, target="x86", effort="fast") == ncnnkit.quantize(
        small(), inputs, target="x86", effort="fast"
    )


UNEVEN = """
    Input in0 0 1 in0 0=6 1=5 2=4
    Convolution c1 1 1 in0 a 0=8 1=3 4=1 5=1 6=288 9=1
    Split s 1 2 a b c
    Convolution large 1 1 b out0 0=6 1=3 5=1 6=432
    Pooling gap 1 1 c d 0=1 4=1
    InnerProduct small 1 1 d e 0=5 1=1 2=40
    Sigmoid probability 1 1 e out1
"""


def test_an_output_of_small_values_counts_as_much_as_one_of_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """One output has values up to 320, the other has values from 0 to 1.

    A method that improves the first and ruins the second is not kept, although the mean squared error becomes smaller.
    """
    graph = network(UNEVEN)
    for name in graph.layer("large").weights:
        graph.layer("large").weights[name] = graph.layer("large").array(name) * np.float32(80)

    def ruins_the_small(exact: Graph, int8: Graph, *_: Any, **__: Any) -> Graph:
        made = int8.copy()
        made.layers = [exact.layer("large").copy() if layer.name == "large" else layer for layer in made.layers]
        made.layer("small").weights["bias"] = made.layer("small").array("bias") - 2
        return made

    monkeypatch.setattr(methods, "correct_bias", ruins_the_small)
    inputs = samples(20, (4, 5, 6))
    effort = Effort(20, unclipped=(), zero_points=False, advice=False)
    made = quantize_images(graph, inputs, target="x86", effort=effort, threads=1)
    first, spoilt = made.trials
    with Session(graph, threads=1) as net:
        exact = net.run(*made.held[0])
    assert np.abs(exact[0]).max() > 100 * np.abs(exact[1]).max()
    assert (exact[1] >= 0).all()
    assert (exact[1] <= 1).all()
    tried = ruins_the_small(graph, made.fitted)
    assert squared_errors(tried, made) < squared_errors(made.fitted, made), "what is judged by squares is fooled"
    assert not spoilt.kept
    assert noise(spoilt) > 3 * noise(first)
    assert first.sqnr_db == pytest.approx(-10 * np.log10(noise(first)))


def squared_errors(graph: Graph, of: Quantized) -> float:
    """The mean over the outputs of their mean squared errors, independent of their sizes."""
    with Session(graph, threads=1) as ours, Session(of.source, threads=1) as exact:
        rows = [(ours.run(*sample), exact.run(*sample)) for sample in of.held]
    return float(np.mean([[np.mean((a - b) ** 2) for a, b in zip(*row)] for row in rows]))
