"""The passes: golden files, equal outputs of ncnn before and after, and layers that must not change.

A file ``cases/<pass>-<what>.param`` contains a network and, after a line ``# output``, the result of the pass. Without
that line the pass must not change it. ``# set layer.weight value`` fills a weight; the others are random.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import network, with_weights
from numpy.typing import NDArray

from ncnnkit import passes
from ncnnkit.device.session import Session
from ncnnkit.errors import FormatError
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import EncodedWeight, Graph, Layer
from ncnnkit.model.ops import Mask
from ncnnkit.passes import PASSES, optimize, optimize_with_report, store_fp16
from ncnnkit.passes.activation import fuse_activation
from ncnnkit.passes.affine import fuse_affine
from ncnnkit.passes.shapes import infer
from ncnnkit.passes.wires import LINEAR

Array = NDArray[Any]
BY_NAME = {rewrite.__name__: rewrite for rewrite in PASSES}
CASES = [path for name in BY_NAME for path in sorted((Path(__file__).parent / "cases").glob(f"{name}-*.param"))]


def run(graph: Graph, folder: Path, blobs: list[str] | None = None) -> dict[str, Array]:
    """The blobs of the graph in ncnn, in fp32 without Winograd's rounding. Inputs without a shape have 4x5x6."""
    param = folder / "model.param"
    ncnnfile.save(graph, param)
    net = ncnn.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "winograd_convolution"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(param.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal(shape or (4, 5, 6)).astype(np.float32) for shape in graph.input_shapes()]
    for name, array in zip(graph.inputs, inputs, strict=True):
        extractor.input(name, ncnn.Mat(array))
    outputs = {}
    for blob in graph.outputs if blobs is None else blobs:
        status, mat = extractor.extract(blob)
        assert status == 0, f"ncnn cannot compute {blob}"
        outputs[blob] = np.array(mat)
    return outputs


def assert_equivalent(before: Graph, after: Graph, folder: Path, tolerance: float = 1e-5) -> None:
    """Check that all outputs have the same names, shapes and, up to rounding, values. Unread constants do not count."""
    outputs = [b for b in before.outputs if b in after.outputs or before.uses().producer(b).type != "MemoryData"]
    assert (after.inputs, after.outputs) == (before.inputs, outputs)
    expected, actual = run(before, folder, outputs), run(after, folder)
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        scale = np.abs(array[np.isfinite(array)]).max(initial=1e-6)
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=tolerance * scale, err_msg=name)


def apply(rewrite: Callable[[Graph], int], graph: Graph) -> tuple[Graph, int]:
    after = graph.copy()
    count = rewrite(after)
    after.verify()
    return after, count


# ---------------------------------------------------------------------------------------------------- golden files


def read_case(path: Path) -> tuple[Graph, str | None]:
    before, _, after = path.read_text().partition("# output\n")
    lines = before.splitlines()
    settings = dict(line.split()[2:] for line in lines if line.startswith("# set "))
    graph = ncnnfile.parse_param("\n".join(line for line in lines if not line.startswith("#")))
    return with_weights(graph, values={key: float(value) for key, value in settings.items()}), after or None


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path, tmp_path: Path) -> None:
    before, expected = read_case(path)
    after, count = apply(BY_NAME[path.stem.partition("-")[0]], before)
    if expected is None:
        assert count == 0
        assert after == before
    else:
        assert count > 0
        assert ncnnfile.format_param(after) == expected
        assert_equivalent(before, after, tmp_path)


def test_every_pass_has_cases_of_both_kinds() -> None:
    kinds = {(path.stem.partition("-")[0], "# output" in path.read_text()) for path in CASES}
    assert kinds == {(name, fires) for name in BY_NAME for fires in (True, False)}


# --------------------------------------------------------------------------------- every producer, every follower

PRODUCERS = {
    "Convolution": "Convolution p 1 1 in0 a 0=6 1=3 4=1 5=1 6=216",
    "Convolution without bias": "Convolution p 1 1 in0 a 0=6 1=3 11=2 3=2 6=144",
    "ConvolutionDepthWise": "ConvolutionDepthWise p 1 1 in0 a 0=4 1=3 4=1 5=1 6=36 7=4",
    "ConvolutionDepthWise in groups": "ConvolutionDepthWise p 1 1 in0 a 0=6 1=3 4=1 5=1 6=108 7=2",
    "Deconvolution": "Deconvolution p 1 1 in0 a 0=6 1=3 3=2 5=1 6=216",
    "DeconvolutionDepthWise": "DeconvolutionDepthWise p 1 1 in0 a 0=4 1=3 3=2 5=1 6=36 7=4",
    "DeconvolutionDepthWise in groups": "DeconvolutionDepthWise p 1 1 in0 a 0=6 1=3 3=2 5=1 6=108 7=2",
    "InnerProduct": "InnerProduct p 1 1 in0 a 0=6 1=1 2=720",
    "Convolution1D": "Input in0 0 1 in0 0=8 1=4\nConvolution1D p 1 1 in0 a 0=6 1=3 4=1 5=1 6=72",
    "ConvolutionDepthWise1D": "Input in0 0 1 in0 0=8 1=4\nConvolutionDepthWise1D p 1 1 in0 a 0=4 1=3 5=1 6=12 7=4",
    "Deconvolution1D": "Input in0 0 1 in0 0=8 1=4\nDeconvolution1D p 1 1 in0 a 0=6 1=3 5=1 6=72",
    "DeconvolutionDepthWise1D": "Input in0 0 1 in0 0=8 1=4\nDeconvolutionDepthWise1D p 1 1 in0 a 0=4 1=3 5=1 6=12 7=4",
    "Convolution3D": "Input in0 0 1 in0 0=6 1=5 11=4 2=3\nConvolution3D p 1 1 in0 a 0=6 1=2 5=1 6=144",
    "ConvolutionDepthWise3D":
        "Input in0 0 1 in0 0=6 1=5 11=4 2=4\nConvolutionDepthWise3D p 1 1 in0 a 0=4 1=2 5=1 6=32 7=4",
    "Deconvolution3D": "Input in0 0 1 in0 0=6 1=5 11=4 2=3\nDeconvolution3D p 1 1 in0 a 0=6 1=2 5=1 6=144",
    "DeconvolutionDepthWise3D":
        "Input in0 0 1 in0 0=6 1=5 11=4 2=4\nDeconvolutionDepthWise3D p 1 1 in0 a 0=4 1=2 5=1 6=32 7=4",
    "DeformableConv2D":
        "Input in0 0 1 in0 0=6 1=5 2=4\nInput in1 0 1 in1 0=6 1=5 2=18\n"
        "DeformableConv2D p 2 1 in0 in1 a 0=6 1=3 4=1 5=1 6=216",
    "BatchNorm": "BatchNorm p 1 1 in0 a 0=4 1=0.001",
    "Scale": "Scale p 1 1 in0 a 0=4",
}  # fmt: skip

FOLLOWERS = {
    "BatchNorm": "BatchNorm f 1 1 a out0 0={c} 1=0.001",
    "Scale": "Scale f 1 1 a out0 0={c} 1=1",
    "add": "MemoryData m 0 1 m 0={c}\nBinaryOp f 2 1 a m out0",
    "subtract from": "MemoryData m 0 1 m 0={c}\nBinaryOp f 2 1 a m out0 0=7",
    "multiplied by": "MemoryData m 0 1 m 0={c}\nBinaryOp f 2 1 m a out0 0=2",
    "divided by": "MemoryData m 0 1 m 0={c}\nBinaryOp f 2 1 m a out0 0=8",
    "add number": "BinaryOp f 1 1 a out0 1=1 2=0.5",
    "dropout": "Dropout f 1 1 a out0 0=0.5",
}

ACTIVATIONS = (
    "ReLU f 1 1 a out0", "ReLU f 1 1 a out0 0=0.1", "Clip f 1 1 a out0 0=-0.2 1=0.5", "Sigmoid f 1 1 a out0",
    "Mish f 1 1 a out0", "HardSwish f 1 1 a out0 0=0.166667 1=0.5",
)  # fmt: skip


def test_all_producers_are_covered() -> None:
    named = {graph.layers[-1].type for graph in map(network, PRODUCERS.values())}
    assert named == LINEAR | {"BatchNorm", "Scale"}


@pytest.mark.parametrize("producer", PRODUCERS)
def test_affine_followers_fold_into_every_producer(producer: str, tmp_path: Path) -> None:
    channels = network(PRODUCERS[producer]).layers[-1]
    c = next(channels.params[key] for key in ("num_output", "channels", "scale_data_size") if key in channels.params)
    for follower in FOLLOWERS.values():
        before = network(f"{PRODUCERS[producer]}\n{follower.format(c=c)}")
        after, count = apply(fuse_affine, before)
        assert count == 1
        assert [layer.name for layer in after.layers if layer.type != "Input"] == ["p"]
        assert_equivalent(before, after, tmp_path)


@pytest.mark.parametrize("producer", [name for name in PRODUCERS if name not in ("BatchNorm", "Scale")])
def test_activations_fold_into_every_producer(producer: str, tmp_path: Path) -> None:
    for follower in ACTIVATIONS:
        before = network(f"{PRODUCERS[producer]}\n{follower}")
        after, count = apply(fuse_activation, before)
        assert count == 1
        assert [layer.name for layer in after.layers if layer.type != "Input"] == ["p"]
        assert_equivalent(before, after, tmp_path)


def test_affine_keeps_untouched_weights() -> None:
    before = network("Convolution p 1 1 in0 a 0=6 1=1 5=1 6=24\nBinaryOp f 1 1 a out0 1=1 2=0.5")
    after, _ = apply(fuse_affine, before)
    assert after.layers[1].weights["weight"] is before.layers[1].weights["weight"]
    assert after.layers[1].weights["bias"] is not before.layers[1].weights["bias"]


def test_affine_reads_fp16_and_tables() -> None:
    before = network("Convolution p 1 1 in0 a 0=6 1=1 6=24\nBinaryOp f 1 1 a out0 0=2 1=1 2=2.0")
    layer = before.layers[1]
    table, index = np.linspace(-1, 1, 256, dtype=np.float32), np.arange(24, dtype=np.uint8)
    encodings = (
        layer.array("weight").astype(np.float16),
        EncodedWeight(1, np.concatenate([table.view(np.uint8), index]), (6, 4, 1, 1)),
    )
    for encoded in encodings:
        layer.weights["weight"] = encoded
        after, count = apply(fuse_affine, before)
        assert count == 1
        assert np.array_equal(after.layers[1].array("weight"), 2 * layer.array("weight"))


def test_a_feature_mask_of_the_producer_covers_the_follower(tmp_path: Path) -> None:
    mask = Mask.NO_BF16 | Mask.NO_FP16_STORAGE
    text = f"Convolution p 1 1 in0 a 0=6 1=1 5=1 6=24 31={mask}\nReLU f 1 1 a out0 31={Mask.NO_BF16}"
    before = network(text)
    after, count = apply(fuse_activation, before)
    assert count == 1
    assert after.layers[1].params["featmask"] == mask


# ------------------------------------------------------------------------------------------------------ the whole


def test_optimize_leaves_its_argument_alone_and_shares_weights(tmp_path: Path) -> None:
    before = network(
        """
        Convolution c 1 1 in0 a 0=6 1=3 4=1 6=216
        BatchNorm bn 1 1 a b 0=6
        Dropout d 1 1 b c
        ReLU r 1 1 c d
        Convolution e 1 1 d e 0=8 1=1 5=1 6=48
        Pooling p 1 1 e f 0=1 4=1
        Flatten f 1 1 f g
        Convolution h 1 1 g h 0=5 1=1 6=40
        Softmax s 1 1 h out0
        """
    )
    kept = before.copy()
    after, report = optimize_with_report(before)
    assert before == kept
    types = " ".join(layer.type for layer in after.layers)
    assert types == "Input Convolution Convolution Pooling InnerProduct Softmax"
    assert after.layer("e").weights["weight"] is before.layer("e").weights["weight"]
    assert {name: count for name, count in report.items() if count} == {
        "eliminate_identity": 1, "fuse_affine": 1, "fuse_activation": 1, "eliminate_flatten": 1,
        "replace_convolution_on_vector": 1,
    }  # fmt: skip
    assert set(report) == {rewrite.__name__ for rewrite in PASSES}
    assert_equivalent(before, after, tmp_path)
    assert optimize(after) == after


def test_passes_enable_each_other(tmp_path: Path) -> None:
    before = network(
        """
        Convolution c 1 1 in0 a 0=4 1=3 4=1 5=1 6=144
        MemoryData half 0 1 half 0=1
        Split s 1 2 half h0 h1
        BinaryOp m 2 1 a h0 b 0=2
        PReLU r 1 1 b c 0=1
        BinaryOp n 2 1 h1 c out0 0=1
        """
    )
    after, _ = optimize_with_report(before)
    assert [layer.type for layer in after.layers] == ["Input", "Convolution", "BinaryOp"]
    assert_equivalent(before, after, tmp_path)


def test_a_structure_without_weights_is_optimised_as_far_as_its_weights_stay_right() -> None:
    graph = network(
        """
        Convolution c 1 1 in0 a 0=6 1=3 6=216
        Dropout d 1 1 a b
        BatchNorm bn 1 1 b c 0=6
        ReLU r 1 1 c out0
        """
    )
    for layer in graph.layers:
        layer.weights = {}
    assert [layer.type for layer in optimize(graph).layers] == ["Input", "Convolution", "BatchNorm", "ReLU"]


def test_a_malformed_graph_is_the_callers_error() -> None:
    graph = network("ReLU r 1 1 in0 out0")
    graph.layers.append(Layer("ReLU", "r", ["out0"], ["out1"]))
    with pytest.raises(FormatError, match="two layers have this name"):
        optimize(graph)


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_wire(graph: Graph) -> int:
        graph.layers[-1].inputs = ["nowhere"]
        return 1

    monkeypatch.setattr(passes, "PASSES", (cut_wire,))
    with pytest.raises(AssertionError, match=r"cut_wire left a malformed graph: layer ReLU r: reads blob 'nowhere'"):
        optimize(network("ReLU r 1 1 in0 out0"))


# ---------------------------------------------------------------------------------------------------- fp16 storage


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masked_attention_is_a_number_in_16_bits(precision: str) -> None:
    graph, _ = read_case(Path(__file__).parent / "cases/bound_penalties-softmax.param")
    scores, mask = np.zeros((5, 6), np.float32), np.array([1, 1, 0, 0, 1, -1], np.float32)
    with Session(optimize(graph), precision=precision) as net:
        attention, _ = net.run(scores, mask)
    assert attention[0] == pytest.approx(np.array([1, 1, 0, 0, 1, 0]) / 3, abs=2e-3)


def test_fp16_storage(tmp_path: Path) -> None:
    before = network(
        """
        Convolution c 1 1 in0 a 0=6 1=3 4=1 5=1 6=216
        Convolution q 1 1 a b 0=6 1=1 5=1 6=36 8=2
        BatchNorm bn 1 1 b c 0=6
        Reshape r 1 1 c d 0=30 1=6
        LSTM l 1 1 d e 0=7 1=840
        InnerProduct ip 1 1 e out0 0=5 1=1 2=35
        """
    )
    after = optimize(before, fp16=True)
    stored = {f"{la.name}.{name}": str(w.dtype) for la in after.layers for name, w in la.weights.items()}  # type: ignore[union-attr]
    assert {name for name, dtype in stored.items() if dtype == "float16"} == {
        "c.weight", "l.weight_xc", "l.bias_c", "l.weight_hc", "ip.weight",
    }  # fmt: skip
    assert stored["q.weight"] == "int8"
    for layer in before.layers:
        assert all(weight.dtype != np.float16 for weight in layer.weights.values())  # type: ignore[union-attr]
    ncnnfile.save(after, tmp_path / "half.param")
    assert ncnnfile.load(tmp_path / "half.param") == after
    np.testing.assert_allclose(run(after, tmp_path)["out0"], run(before, tmp_path)["out0"], atol=2e-3)


def test_fp16_storage_keeps_values_too_large_for_fp16() -> None:
    graph = network("Convolution c 1 1 in0 a 0=6 1=1 5=1 6=24\nConvolution d 1 1 a out0 0=6 1=1 6=36")
    weight = graph.layer("c").array("weight").copy()
    weight.flat[3] = 65536.0
    graph.layer("c").weights["weight"] = weight
    assert store_fp16(graph) == 1
    assert graph.layer("c").weights["weight"] is weight
    assert graph.layer("d").array("weight").dtype == np.float32
    assert store_fp16(graph) == 0


# ---------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("path", [path for path in CASES if "int8" not in path.stem], ids=lambda path: path.stem)
def test_inferred_shapes_equal_ncnns(path: Path, tmp_path: Path) -> None:
    assert_shapes(read_case(path)[0], tmp_path)


def assert_shapes(graph: Graph, folder: Path) -> None:
    """Known sides are right, and sides of one origin are equal."""
    shapes = {blob: shape for blob, shape in infer(graph).items() if shape is not None}
    sides: dict[Any, int] = {}
    for blob, array in run(graph, folder, list(shapes)).items():
        assert len(shapes[blob]) == array.ndim, blob
        for side, actual in zip(shapes[blob], array.shape, strict=True):
            assert (side if isinstance(side, int) else sides.setdefault(side, actual)) == actual, blob


def test_shapes_without_input_sizes(tmp_path: Path) -> None:
    graph = network(
        """
        Input in0 0 1 in0
        Convolution c 1 1 in0 a 0=8 1=3 4=1 6=288
        Split s 1 3 a a0 a1 a2
        ConvolutionDepthWise d 1 1 a0 b 0=8 1=3 4=-233 6=72 7=8
        BinaryOp add 2 1 b a1 c
        Pooling p 1 1 c d 1=2 2=2
        Pooling q 1 1 d e 0=1 4=1
        InnerProduct ip 1 1 e f 0=8 2=64
        Reshape r 1 1 f g 0=1 1=1 2=-1
        BinaryOp mul 2 1 a2 g out0 0=2
        """
    )
    shapes = infer(graph)
    assert shapes["in0"] is None
    assert shapes["a"] == shapes["c"] == shapes["out0"]
    assert shapes["d"] is not None
    assert shapes["d"][0] == 8
    assert shapes["d"][1:] != shapes["c"][1:]  # type: ignore[index]
    assert (shapes["e"], shapes["f"], shapes["g"]) == ((8,), (8,), (8, 1, 1))
    assert_shapes(graph, tmp_path)


# -------------------------------------------------------------------------------------------------- random networks

_STEPS = {
    "Convolution": "Convolution {n} 1 1 {i} {o} 0=4 1=3 4=1 5={bit} 6=144",
    "pointwise": "Convolution {n} 1 1 {i} {o} 0=4 1=1 5={bit} 6=16 9={bit}",
    "depthwise": "ConvolutionDepthWise {n} 1 1 {i} {o} 0=4 1=3 4=1 5={bit} 6=36 7=4",
    "Deconvolution": "Deconvolution {n} 1 1 {i} {o} 0=4 1=1 5={bit} 6=16",
    "BatchNorm": "BatchNorm {n} 1 1 {i} {o} 0=4 1=0.001",
    "Scale": "Scale {n} 1 1 {i} {o} 0=4 1={bit}",
    "Bias": "Bias {n} 1 1 {i} {o} 0=4",
    "Dropout": "Dropout {n} 1 1 {i} {o} 0={half}",
    "number": "BinaryOp {n} 1 1 {i} {o} 0={op} 1=1 2=0.75",
    "vector": "MemoryData {n}m 0 1 {n}m 0=4; BinaryOp {n} 2 1 {i} {n}m {o} 0={op}",
    "pixels": "MemoryData {n}m 0 1 {n}m 0=1 1=1 2=4; BinaryOp {n} 2 1 {n}m {i} {o} 0={op}",
    "rows": "MemoryData {n}m 0 1 {n}m 0=6; BinaryOp {n} 2 1 {n}m {i} {o} 0={op}",
    "scalar": "MemoryData {n}m 0 1 {n}m 0=1; BinaryOp {n} 2 1 {n}m {i} {o} 0={op}",
    "ReLU": "ReLU {n} 1 1 {i} {o} 0={half}",
    "PReLU": "PReLU {n} 1 1 {i} {o} 0={one_or_four}",
    "HardSwish": "HardSwish {n} 1 1 {i} {o} 0=0.166667",
    "Split": "Split {n} 1 1 {i} {o}",
    "output": "Split {n} 1 2 {i} {o} {n}out",
    "residual": """Split {n} 1 2 {i} {n}a {n}b; BinaryOp {n}h 1 1 {n}a {n}c 0=2 1=1 2=0.5;
        BinaryOp {n}s 2 1 {n}c {n}b {o}""",
    "Pooling": "Pooling {n} 1 1 {i} {o} 1=1",
    "excite": """Split {n} 1 2 {i} {n}a {n}b; Pooling {n}p 1 1 {n}a {n}c 0=1 4=1;
        Convolution {n}e 1 1 {n}c {n}d 0=4 1=1 6=16; Reshape {n}r 1 1 {n}d {n}f 0=1 1=1 2=-1;
        BinaryOp {n}s 2 1 {n}b {n}f {o} 0={op}""",
}
_TAILS = {
    "nothing": "",
    "mean": """Reduction t 1 1 {i} u 0=3 1=0 -23303=2,1,2 5=1; Flatten v 1 1 u w;
        InnerProduct x 1 1 w y 0=3 1=1 2=12; ReLU z 1 1 y out0""",
    "vector": "Pooling t 1 1 {i} u 0=1 4=1; Convolution v 1 1 u w 0=4 1=1 6=16; BatchNorm x 1 1 w out0 0=4",
    "matrix": """Reshape t 1 1 {i} u 0=30 1=4; InnerProduct v 1 1 u w 0=4 2=120; MemoryData m 0 1 m 0=4;
        BinaryOp x 2 1 w m out0""",
}

_step = st.tuples(st.sampled_from(sorted(_STEPS)), st.integers(0, 1), st.sampled_from([0, 1, 2, 3, 7, 8]))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(_step, max_size=7), tail=st.sampled_from(sorted(_TAILS)), seed=st.integers(0, 99))
def test_random_networks_compute_the_same(
    steps: list[tuple[str, int, int]], tail: str, seed: int, tmp_path: Path
) -> None:
    lines = ["Convolution first 1 1 in0 b0 0=4 1=1 5=1 6=16"]
    for i, (kind, bit, op) in enumerate(steps):
        # No division by a blob, which may be near zero: rounding errors would become large.
        op = 2 if op == 8 or (op == 3 and kind not in ("number", "vector")) else op
        fields = {"bit": bit, "half": 1 - bit / 2, "op": op, "one_or_four": 1 + 3 * bit}
        lines.append(_STEPS[kind].format(n=f"l{i}", i=f"b{i}", o=f"b{i + 1}", **fields))
    lines.append(_TAILS[tail].format(i=f"b{len(steps)}"))
    before = network("\n".join(lines).replace(";", "\n"), seed)
    after = optimize(before)
    assert_equivalent(before, after, tmp_path, tolerance=3e-5)
    assert_shapes(before, tmp_path)
    assert optimize(after) == after


# ------------------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark_runs(tmp_path: Path) -> None:
    ncnnfile.save(network("Convolution c 1 1 in0 a 0=6 1=3 6=216\nReLU r 1 1 a out0"), tmp_path / "m.param")
    script = Path(__file__).parents[1] / "scripts" / "bench_optimize.py"
    command = [sys.executable, str(script), str(tmp_path / "m.param"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[2:]] == ["ncnnkit", "ncnnkit, as a process"]
