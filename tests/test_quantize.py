"""Quantising: thresholds and scales, the int8 graph, requantised chains, bias correction, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, samples, small
from numpy.typing import NDArray

from ncnnkit.comparison import accuracy
from ncnnkit.device.session import Session
from ncnnkit.errors import FormatError, ModelError, RecipeError
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.model.ops import Mask
from ncnnkit.onboard.tally import Tally
from ncnnkit.quantization import (
    EFFORTS,
    METHODS,
    Table,
    apply_table,
    correct_bias,
    load_table,
    make_table,
    quantize,
    save_table,
)
from ncnnkit.quantization.calibration import KL_BINS, BlobStats, calibrate
from ncnnkit.quantization.scales import (
    aciq_threshold,
    activation_scale,
    kl_threshold,
    mse_threshold,
    runs_winograd,
    to_int8,
    weight_rows,
    weight_scales,
)
from ncnnkit.recipe import AUTO, KEYS, OWN

Array = NDArray[Any]


def stats_of(values: Array, bins: int = 8192, fixed: bool = False) -> BlobStats:
    tally = Tally(bins, float(np.abs(values).max()) / bins if fixed else 0.0)
    tally.add(values.astype(np.float32))
    return BlobStats(tally.histogram, tally.width, tally.absmax, tally.count)


def stored(graph: Graph, layer: str) -> Array:
    """The weight of a layer as stored in the file."""
    weight = graph.layer(layer).weights["weight"]
    assert isinstance(weight, np.ndarray)
    return weight


def outputs(graph: Graph, inputs: Array) -> Array:
    with Session(graph) as net:
        return np.stack([net.run(x) for x in inputs])


# ------------------------------------------------------------------------------------------------------ thresholds


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "outlier"])
def test_mse_threshold_is_the_best_of_all(kind: str) -> None:
    """Compared with the error of quantising the values themselves, over a fine grid of thresholds."""
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.standard_normal(20000),
        "laplace": rng.laplace(size=20000),
        "relu": np.maximum(rng.standard_normal(20000), 0),
        "outlier": np.append(rng.standard_normal(20000), 60.0),
    }[kind]

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(np.mean((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2))

    found = mse_threshold(stats_of(values))
    best = min(error(t) for t in np.abs(values).max() * np.linspace(0.02, 1, 2000))
    assert error(found) <= best * 1.02


def kl_by_the_book(histogram: Array, levels: int = 128) -> int:
    """``quantize_KL`` of ncnn2table.cpp, with the same loops."""
    share = histogram / histogram.sum()
    bins, eps = len(share), 1e-4
    best, least = 0, np.inf
    for threshold in range(levels, bins):
        clipped = share[:threshold] + eps
        clipped[-1] += share[threshold:].sum()
        per_level = threshold / levels
        expanded = np.full(threshold, eps)
        for level in range(levels):
            start, end = level * per_level, (level + 1) * per_level
            left, right = int(np.ceil(start)), int(np.floor(end))
            parts = [(left - 1, left - start)] if left > start else []
            parts += [(right, end - right)] if right < end else []
            parts += [(i, 1.0) for i in range(left, right)]
            mass = sum(share[i] * part for i, part in parts)
            for i, part in parts:
                expanded[i] += mass / per_level * part
        divergence = float(np.sum(clipped * np.log(clipped / expanded)))
        if divergence < least:
            best, least = threshold, divergence
    return best


@pytest.mark.parametrize("seed", range(3))
def test_kl_threshold_equals_ncnn2tables(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=3000) if seed else np.maximum(rng.standard_normal(3000), 0)
    found = stats_of(values, 300, fixed=True)
    expected = (kl_by_the_book(found.histogram) + 0.5) * found.absmax / 300
    assert kl_threshold(found) == pytest.approx(expected, rel=1e-9)


def test_aciq_clips_a_gaussian_near_its_optimum() -> None:
    """Banner et al. give 3.92 σ for 8 bits; σ is estimated from the largest of n values."""
    values = np.random.default_rng(0).standard_normal(100_000)
    assert aciq_threshold(stats_of(values)) == pytest.approx(3.92, rel=0.25)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1e-38, 3.0])
def test_scales_are_finite_for_dead_and_constant_blobs(method: str, value: float) -> None:
    found = stats_of(np.full(100, value, np.float32), KL_BINS, fixed=method == "kl" and value > 0)
    scale = activation_scale(found, method, 1)
    assert np.isfinite(np.float32(scale))
    assert scale > 0


def test_a_blob_without_counted_values_is_not_clipped() -> None:
    assert mse_threshold(BlobStats(np.zeros(64, np.int64), 0.5, 3.0, 1000)) == 3.0


# --------------------------------------------------------------------------------------------------------- weights


@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20))
@settings(deadline=None)
def test_rounding_equals_ncnns(values: list[float]) -> None:
    """Half away from zero, like C's round(), and clipped to ±127."""
    rows = np.array([values], np.float32)
    expected = [max(-127, min(127, int(np.copysign(np.floor(abs(v) + 0.5), v)))) for v in rows[0].astype(float)]
    assert to_int8(rows, np.ones(1, np.float32))[0].tolist() == expected


def test_a_dead_channel_has_a_finite_scale() -> None:
    graph = small()
    weight = graph.layer("c1").array("weight").copy()
    weight[3] = 0
    graph.layer("c1").weights["weight"] = weight
    scales = weight_scales(graph.layer("c1"))
    assert scales[3] == 1
    assert np.isfinite(scales).all()
    assert np.isfinite(outputs(quantize(graph, calibrate(graph, samples(3))), samples(2, seed=1))).all()


# ------------------------------------------------------------------------------------------------------- the graph


def test_all_possible_layers_are_int8_and_near_the_original() -> None:
    graph = small()
    made = quantize(graph, calibrate(graph, samples(8)), target="x86")
    terms = {la.name: la.params["int8_scale_term"] for la in made.layers if la.params.get("int8_scale_term")}
    # c1 and d1 output int8. c2 cannot, because the residual reads it, too. c3 feeds the sum.
    assert terms == {"c1": 102, "d1": 101, "c2": 2, "c3": 2, "fc": 2}
    assert made.layer("c1").array("output_scale") == made.layer("d1").array("input_scale")
    assert stored(made, "c1").dtype == np.int8
    inputs = samples(8, seed=1)
    error = accuracy.sqnr_db(outputs(made, inputs), outputs(graph, inputs))
    assert error is not None
    assert 20 < error < 60
    assert graph == small(), "the original is not changed"


def test_3x3_layers_have_8_bits_and_no_winograd() -> None:
    """The int8 Winograd kernels overflow with more than 6 bits; the other kernels do not."""
    graph = small()
    stats = calibrate(graph, samples(4))
    made = quantize(graph, stats, target="x86")
    for layer in made.layers:
        if layer.params.get("int8_scale_term"):
            largest = int(np.abs(layer.array("weight")).max())
            assert largest == 127
            assert bool(int(layer.get("featmask")) & Mask.NO_WINOGRAD) == runs_winograd(layer), layer
    native = quantize(graph, calibrate(graph, samples(4), method="kl"), target="x86")
    assert int(np.abs(native.layer("c1").array("weight")).max()) == 31
    assert native.layer("c1").get("featmask") == 0


def test_readers_behind_a_split_share_one_requantised_blob_only_if_they_agree() -> None:
    text = """
        Convolution c1 1 1 in0 b1 0=8 1=3 4=1 6=288
        Split       s  1 2 b1 x y
        Convolution c2 1 1 x out0 0=4 1=1 6=32
        Convolution c3 1 1 y out1 0=4 1=1 6=32
    """
    graph = network(text)
    table = make_table(graph, calibrate(graph, samples(3, (4, 5, 6))))
    assert quantize(graph, table).layer("c1").params["int8_scale_term"] == 102
    apart = Table(table.weights, {**table.inputs, "c3": table.inputs["c3"] * 2})
    assert quantize(graph, apart).layer("c1").params["int8_scale_term"] == 2


GROUPED = """
    Convolution          c0 1 1 in0 b0 0=16 1=1 5=1 6=64 9=1
    ConvolutionDepthWise g  1 1 b0 b1 0=16 1=3 4=1 5=1 6=1152 7=2 9=1
    {reader}
"""


@pytest.mark.parametrize(
    ("reader", "terms"),
    [
        # A convolution reads it in int8, which is right everywhere.
        ("Convolution c1 1 1 b1 out0 0=8 1=1 6=128", {"c0": 102, "g": 101, "c1": 2}),
        # With float outputs it is wrong on x86, so it stays in floating point, and the layer before it outputs floats.
        ("Sigmoid s 1 1 b1 out0", {"c0": 2}),
    ],
)
def test_grouped_convolutions_are_int8_only_if_ncnn_computes_them_correctly(reader: str, terms: dict[str, int]) -> None:
    graph, inputs = network(GROUPED.format(reader=reader)), samples(8, (4, 5, 6))
    made = quantize(graph, calibrate(graph, inputs), target="x86")
    assert {la.name: t for la in made.layers if (t := la.params.get("int8_scale_term"))} == terms
    for model in (made, correct_bias(graph, made, [inputs])):
        error = accuracy.sqnr_db(outputs(model, inputs), outputs(graph, inputs))
        assert error is not None
        assert error > 20


def test_a_blob_that_is_also_an_output_stays_a_real_number() -> None:
    graph = network("""
        Convolution c1 1 1 in0 b1 0=8 1=3 4=1 6=288
        Split       s  1 2 b1 x out0
        Convolution c2 1 1 x out1 0=4 1=1 6=32
    """)
    made = quantize(graph, calibrate(graph, samples(3, (4, 5, 6))))
    assert made.layer("c1").params["int8_scale_term"] == 2
    x = samples(1, (4, 5, 6), seed=1)[0]
    with Session(graph) as exact, Session(made) as int8:
        for ours, theirs in zip(int8.run(x), exact.run(x), strict=True):
            assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


def test_floating_point_layers_are_stored_as_fp16() -> None:
    graph = small()
    made = quantize(graph, calibrate(graph, samples(2)), skip=["c2", "fc"])
    assert not made.layer("c2").params.get("int8_scale_term")
    assert stored(made, "c2").dtype == np.float16
    with pytest.raises(RecipeError, match="no layer is called 'nothing'"):
        quantize(graph, calibrate(graph, samples(2)), skip=["nothing"])


def test_what_cannot_be_quantised() -> None:
    graph, stats = small(), calibrate(small(), samples(2))
    with pytest.raises(RecipeError, match="unknown target"):
        quantize(graph, stats, target="z80")
    with pytest.raises(RecipeError, match="unknown method"):
        quantize(graph, stats, method="guess")
    with pytest.raises(RecipeError, match="no bins for KL"):
        quantize(graph, stats, method="kl")
    with pytest.raises(RecipeError, match="no histograms"):
        quantize(small(), calibrate(small(), samples(1), method="aciq"), method="mse")
    with pytest.raises(ModelError, match="was not calibrated"):
        quantize(network("Convolution c 1 1 in0 out0 0=4 1=1 6=16"), calibrate(small(), samples(1)).__class__({}, 1))


# -------------------------------------------------------------------------------------------------- bias correction


def test_bias_correction_restores_the_mean_of_every_channel() -> None:
    graph = small()
    inputs = samples(24)
    plain = quantize(graph, calibrate(graph, inputs))
    corrected = correct_bias(graph, plain, [inputs], threads=2)
    exact = outputs(graph, inputs)
    before, after = (np.abs((outputs(made, inputs) - exact).mean(axis=0)).mean() for made in (plain, corrected))
    assert after < 0.5 * before


def test_bias_correction_adds_missing_biases(tmp_path: Path) -> None:
    graph = small()
    assert not graph.layer("c2").get("bias_term")
    corrected = correct_bias(graph, quantize(graph, calibrate(graph, samples(4))), [samples(4)])
    assert corrected.layer("c2").get("bias_term") == 1
    assert np.any(corrected.layer("c2").array("bias"))
    ncnnfile.save(corrected, tmp_path / "m.param")
    assert ncnnfile.load(tmp_path / "m.param") == corrected


# ---------------------------------------------------------------------------------------------------------- tables


def test_names_of_any_length_survive_added_layers() -> None:
    graph, deep = small(), "/StatefulPartitionedCall/model" * 8  # 240 bytes, of the 255 that ncnn reads
    for layer in graph.layers:
        layer.name = f"{layer.name}{deep}"
        layer.inputs = [f"{blob}{deep}" for blob in layer.inputs]
        layer.outputs = [f"{blob}{deep}" for blob in layer.outputs]
    inputs = samples(4)
    int8 = apply_table(graph, make_table(graph, calibrate(graph, inputs, None)), finish=False)
    corrected, plain = correct_bias(graph, int8, [inputs]), correct_bias(small(), _plainly_named(int8), [inputs])
    for ours, theirs in zip(corrected.layers, plain.layers, strict=True):
        if "bias" in ours.weights:
            np.testing.assert_array_equal(ours.weights["bias"], theirs.weights["bias"])


def _plainly_named(graph: Graph) -> Graph:
    made = graph.copy()
    for layer, named in zip(made.layers, small().layers, strict=True):
        layer.name, layer.inputs, layer.outputs = named.name, named.inputs, named.outputs
    return made


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    graph = small()
    table = make_table(graph, calibrate(graph, samples(3)))
    save_table(table, tmp_path / "m.table")
    again = load_table(tmp_path / "m.table")
    assert again.weights.keys() == table.weights.keys()
    for key, scales in table.weights.items():
        np.testing.assert_allclose(again.weights[key], scales, rtol=1e-5)
    assert again.inputs == pytest.approx(table.inputs, rel=1e-5)
    one, other = (quantize(graph, t) for t in (table, again))
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        assert ours.params == theirs.params
        if ours.params.get("int8_scale_term"):
            difference = ours.array("weight") - theirs.array("weight")
            assert np.abs(difference).max() <= 1, "six decimals move a weight by one step at most"


def test_a_table_as_ncnn2table_writes_it(tmp_path: Path) -> None:
    """Layers without lines stay in floating point."""
    graph = small()
    rows = {"c1": 8, "c2": 8}
    lines = [f"{name}_param_0 " + "20.500000 " * count for name, count in rows.items()]
    lines += [f"{name} 31.250000 " for name in rows]
    (tmp_path / "n.table").write_text("\n".join(lines) + "\n")
    made = quantize(graph, load_table(tmp_path / "n.table"))
    assert [la.name for la in made.layers if la.params.get("int8_scale_term")] == ["c1", "c2"]
    assert made.layer("c1").array("input_scale") == np.float32(31.25)
    expected = to_int8(weight_rows(graph.layer("c1")), np.full(8, 20.5, np.float32))
    assert np.array_equal(stored(made, "c1"), expected.reshape(8, 3, 3, 3))


def test_an_infinite_scale_of_a_dead_channel_is_read_as_1(tmp_path: Path) -> None:
    """ncnn2table of 2023 divides by zero, and writes the result."""
    (tmp_path / "n.table").write_text("c1_param_0 20.5 inf 20.5\nc1 31.25\n")
    assert load_table(tmp_path / "n.table").weights["c1_param_0"].tolist() == [20.5, 1.0, 20.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("c1_param_0 1.0 two", r"n.table:1: .*two"),
        ("\nc1", r"n.table:2: c1 has no scale"),
        ("c1 inf", r"n.table:1: c1 has the scale inf"),
        ("c1 -3", r"n.table:1: c1 has the scale -3"),
        ("c1 0.0", r"n.table:1: c1 has the scale 0"),
        ("zz 1.0\nzz_param_0 1.0", r"n.table: .*names layer 'zz'"),
        ("c1 1.0", r"n.table: layer Convolution c1: .*has no c1_param_0"),
        ("c1 1.0\nc1_param_0 1.0 1.0", r"n.table: .*has 2 weight scales, but the layer needs 8"),
        ("", r"n.table: has no scale"),
        ("\n \n", r"n.table: has no scale"),
        ("c1_param_0 1.0", r"n.table: has no scale"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "n.table").write_text(text)
    with pytest.raises(FormatError, match=said):
        quantize(small(), load_table(tmp_path / "n.table"))


def test_a_file_that_is_not_a_table(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        load_table(tmp_path / "absent.table")
    (tmp_path / "bytes.table").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="is not a calibration table"):
        load_table(tmp_path / "bytes.table")


def test_a_layer_whose_name_is_a_key_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a table cannot hold the layer 'a_param_0'"):
        save_table(Table({}, {"a_param_0": 1.0}), tmp_path / "n.table")
    assert not (tmp_path / "n.table").exists()


def test_a_recipe_takes_each_existing_method_and_effort() -> None:
    assert KEYS["method"].allowed == (AUTO, OWN, *METHODS)
    assert KEYS["effort"].allowed == tuple(EFFORTS)
