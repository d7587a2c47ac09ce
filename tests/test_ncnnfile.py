"""ncnn's files: reading returns what was written, ncnn reads the same, and broken files give a one-line error."""

from __future__ import annotations

import errno
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncnnkit.errors import FormatError, StorageError
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import EncodedWeight, Graph, Layer, Weight
from ncnnkit.model.ncnnfile import atomic_write, format_param, load, load_param, parse_param, read_weights, save
from ncnnkit.model.ops import OPS, Param, Value

SOURCE = os.environ.get("NCNNKIT_NCNN_SOURCE")

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MANY = settings(QUICK, max_examples=200)


# -------------------------------------------------------------------------------------------------------- any graph

INT32 = st.integers(-(2**31), 2**31 - 1)
FP32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
NAMES = st.text(st.characters(min_codepoint=33, exclude_categories=("Z", "C")), min_size=1, max_size=20)
# Texts that ncnn's scanner can read; see test_texts_ncnn_cannot_hold.
TEXTS = st.text(st.sampled_from("0123wh+-*(, ab"), max_size=40).filter(
    lambda text: not text.startswith((" ", ",")) and not re.fullmatch("[^ ,]{14,}", text)
)


def values(param: Param, default: Value) -> st.SearchStrategy[Any]:
    if isinstance(default, str):
        return TEXTS
    if isinstance(default, tuple):
        reals = st.lists(FP32, min_size=1, max_size=5).map(tuple)
        return reals if param.real else reals | st.lists(INT32, max_size=5).map(tuple)
    return INT32 if isinstance(default, int) else FP32


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer of any type without weights, with random params."""
    op = OPS[draw(st.sampled_from(WITHOUT_WEIGHTS))]
    layer = Layer(op.name, "", [], [])
    for param in draw(st.lists(st.sampled_from(op.params), unique=True, max_size=6)):
        layer.params[param.name] = draw(values(param, layer.get(param.name)))
    return layer


WITHOUT_WEIGHTS = [name for name, op in OPS.items() if not op.weights]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(st.lists(layers(), min_size=1, max_size=6)))
    names = iter(draw(st.lists(NAMES, min_size=30, max_size=30, unique=True)))
    free: list[str] = []
    for layer in graph.layers:
        layer.name = next(names)
        layer.inputs, free = free[:2], free[2:]
        layer.outputs = [next(names) for _ in range(draw(st.integers(0, 3)))]
        free += layer.outputs
    return graph


@given(graphs())
@QUICK
def test_params_survive_writing_and_reading(graph: Graph) -> None:
    text = format_param(graph)
    back = parse_param(text)
    assert back == graph
    # For Python 1 equals 1.0, but not for ncnn.
    assert [repr(layer.params) for layer in back.layers] == [repr(layer.params) for layer in graph.layers]
    assert format_param(back) == text
    assert text.count("\n") == len(graph.layers) + 2


@given(FP32)
@example(0.00012345679)
@example(1.2345679e-10)
@example(123456792.0)
@example(1234567900000000.0)
@example(-1.17549435e-38)
@example(1e-45)
@MANY
def test_floats_are_written_so_that_every_ncnn_reads_them(value: float) -> None:
    graph = Graph([Layer("Input", "a", [], ["a"]), Layer("ReLU", "b", ["a"], ["b"], {"slope": value})])
    text = format_param(graph).split("0=")[1].strip()
    assert np.float32(text) == np.float32(value)
    # Its scanner reads 15 characters, and the digits on each side of the point into 32 bits.
    assert len(text) <= 15
    parts = re.fullmatch(r"-?(\d+)(?:\.(\d+))?(?:e[+-]\d+)?", text)
    assert parts is not None
    assert "." in text or "e" in text
    assert int(parts[1]) < 2**32
    assert len(parts[2] or "") <= 9


def line(text: str) -> Layer:
    """A layer from its line. The input that it reads is added before it."""
    return parse_param(f"7767517\n2 9\nInput in 0 1 in\n{text}\n").layers[1]


@pytest.mark.parametrize(
    ("params", "name", "value"),
    [
        ("0=-233", "w", -233),
        ("0=+7", "w", 7),
        ("6=max(0w,1)", "shape_expr", "max(0w,1)"),
        ('6="0w, 4"', "shape_expr", "0w, 4"),
        ('6=""', "shape_expr", ""),
        ("-23330=3,1,2,3", "shape_hints", (1, 2, 3)),
        ("-23330=0", "shape_hints", ()),
        ("30=1,2,3", "shape_hints", (1, 2, 3)),
        ("30=5,", "shape_hints", (5,)),
        ("-23330=2,1.5,2", "shape_hints", (1.5, 2.0)),
        ("0=1 0=2", "w", 2),
    ],
)
def test_ways_to_write_a_param(params: str, name: str, value: Value) -> None:
    found = line(f"Reshape r 1 1 in out {params}").params[name]
    assert repr(found) == repr(value)


def test_floats_are_rounded_to_what_ncnn_computes_with() -> None:
    assert line("ReLU r 1 1 in out 0=0.1").params == {"slope": float(np.float32(0.1))}
    assert line("Clip c 1 1 in out 0=-3.402823466e38 1=6e+00").params == {"min": -float(np.finfo("f4").max), "max": 6.0}


def test_line_ends_blank_lines_and_spaces_do_not_matter(tmp_path: Path) -> None:
    text = "7767517\n2 2\nInput in 0 1 in\nReLU r 1 1 in out 0=0.5\n"
    path = tmp_path / "m.param"
    path.write_bytes(text.replace("\n", "\r\n\r\n").replace(" ", " \t ").encode())
    assert load_param(path) == parse_param(text)


def test_layers_beyond_the_count_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="net: line 2 counts 1 layers of 2; the rest is ignored"):
        graph = parse_param("7767517\n1 1\nInput in 0 1 in\nReLU r 1 1 in out\n", where="net")
    assert [layer.name for layer in graph.layers] == ["in"]


# ------------------------------------------------------------------------------------------------------ broken text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "m.param: is empty"),
        ("\n \n", "m.param: is empty"),
        ("hello", "m.param:1: does not begin with ncnn's magic number 7767517 (is it an ncnn .param file?)"),
        ("\ufeff7767517", "m.param:1: does not begin with ncnn's magic number 7767517 (is it an ncnn .param file?)"),
        ("7767517", "m.param:1: the layer and blob counts are missing"),
        ("7767517\nInput", "m.param:2: the layer and blob counts are missing"),
        ("7767517\n2 2 2", "m.param:2: the layer and blob counts are missing"),
        ("7767517\n-1 2", "m.param:2: the layer and blob counts are missing"),
        ("7767517\n² 2", "m.param:2: the layer and blob counts are missing"),
        ("7767517\n" + "9" * 5000 + " 1", "m.param:2: the layer and blob counts are missing"),
        ("7767517\n0 0", "m.param:2: the network has no layers"),
        ("7767517\n3 3\n{}\n{}", "m.param:4: 2 layers, but line 2 says 3 (truncated?)"),
        ("7767517\n2 1\n{}\n{}", "m.param:4: 2 blobs, but line 2 says 1"),
    ],
)
def test_wrong_headers_are_refused(text: str, says: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_param(text.format("Input in 0 1 in", "ReLU r 1 1 in out"), where="m.param")
    assert error.value.line() == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ReLU r", "m.param:4: not a layer line (type name inputs outputs …)"),
        ("ReLU r 1 -1 in out", "m.param:4: not a layer line (type name inputs outputs …)"),
        ("ReLU r 1 1e3 in out", "m.param:4: not a layer line (type name inputs outputs …)"),
        (
            "aten::relu r 1 1 in out",
            "m.param:4: unknown layer type 'aten::relu' (ncnn has no such layer; custom layers are not supported)",
        ),
        ("ReLU r 1 1 in", "m.param:4: 2 blob names expected, 1 found"),
        ("ReLU r 1 1 x out", "m.param:4, layer ReLU r: reads blob 'x' before a layer produces it"),
        ("ReLU r 1 1 in out 32=1", "m.param:4: ncnn has params 0 to 31, not 32"),
        ("ReLU r 1 1 in out -5=1", "m.param:4: ncnn has params 0 to 31, not -5"),
        ("ReLU r 1 1 in out 5=1x", "m.param:4: param 5 (5): '1x' is not a number"),
        ("ReLU r 1 1 in out 0", "m.param:4: cannot read '0' as id=value"),
        ("ReLU r 1 1 in out slope=0.5", "m.param:4: cannot read 'slope=0.5' as id=value"),
        ("ReLU r 1 1 in out 0=0.5 extra", "m.param:4: cannot read 'extra' as id=value"),
        ("ReLU r 1 1 in out 0=", "m.param:4: param 0 (slope): '' is not a number"),
        ("ReLU r 1 1 in out 0=-inf", "m.param:4: param 0 (slope): '-inf' is not a number"),
        ("ReLU r 1 1 in out 0=1_0", "m.param:4: param 0 (slope): '1_0' is not a number"),
        ("ReLU r 1 1 in out 0=nan", "m.param:4, layer ReLU r: needs a number for slope, not 'nan'"),
        ("ReLU r 1 1 in out 0=1e39", "m.param:4: param 0 (slope): 1e39 is too large for fp32"),
        ("ReLU r 1 1 in out 31=2147483648", "m.param:4: param 31 (featmask): 2147483648 does not fit into 32 bits"),
        ("ReLU r 1 1 in out 31=0.5", "m.param:4, layer ReLU r: needs a whole number for featmask, not 0.5"),
        ("ReLU r 1 1 in out -23330=3,1,2", "m.param:4: param 30 (shape_hints): the array announces 3 values and has 2"),
        ("ReLU r 1 1 in out -23330=", "m.param:4: param 30 (shape_hints): the array announces no values and has 0"),
        ("ReLU r 1 1 in out -23330=1,x", "m.param:4: param 30 (shape_hints): 'x' is not a number"),
        ("ReLU r 1 1 in out 30=1", "m.param:4, layer ReLU r: needs an array for shape_hints, not 1"),
        ('Reshape r 1 1 in out 6="0w', "m.param:4: param 6 (shape_expr): a text without its closing quote"),
        (
            "InnerProduct r 1 1 in out 0=3 2=10",
            "m.param:4, layer InnerProduct r: has weight_data_size=10, but its other params require 9",
        ),
        (
            "BatchNorm r 1 1 in out 0=2147483647 1=1e-5 30=1,2 0=abc",
            "m.param:4, layer BatchNorm r: needs a whole number for channels, not 'abc'",
        ),
    ],
)
def test_wrong_lines_are_refused(text: str, says: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_param(f"7767517\n2 2\nInput in 0 1 in\n{text}\n", where="m.param")
    assert error.value.line() == says


def test_duplicate_layer_names_are_changed() -> None:
    """pnnx calls several Splits splitncnn_0 in some networks.

    ncnn does not use names of layers, but tables and plans do.
    """
    text = "7767517\n4 6\nInput in 0 1 in\nSplit s 1 2 in a b\nSplit s 1 2 b d e\nReLU s/5 1 1 d f"
    with pytest.warns(UserWarning, match="names that were used twice are changed: layer s, layer s/5$"):
        graph = parse_param(text)
    assert [layer.name for layer in graph.layers] == ["in", "s", "s/5", "s/5/6"]


def test_of_two_blobs_with_one_name_the_first_is_read_as_in_ncnn(tmp_path: Path) -> None:
    """Layers in the style of Caffe have an output with the name of their input.

    ncnn never runs them, but reads their weights.
    """
    lines = [
        "Input in 0 1 in", "UnaryOp minus 1 1 in a 0=1", "PReLU inplace 1 1 a a 0=1",
        "Scale double 1 1 a out 0=3 1=0",
    ]  # fmt: skip
    param = tmp_path / "m.param"
    param.write_text("7767517\n4 4\n" + "\n".join(lines) + "\n")
    np.array([0.25, 2, 2, 2], "<f4").tofile(param.with_suffix(".bin"))
    x = np.array([1, -2, 3], np.float32)
    exact = run(param, x)
    np.testing.assert_array_equal(exact, -2 * x)
    with pytest.warns(UserWarning, match="layers are left out because ncnn never runs them.*: PReLU inplace"):
        graph = load(param)
    assert [layer.name for layer in graph.layers] == ["in", "minus", "double"]
    save(graph, tmp_path / "written.param")
    np.testing.assert_array_equal(run(tmp_path / "written.param", x), exact)


def test_a_second_output_of_a_known_name_gets_one_of_its_own() -> None:
    text = "7767517\n3 4\nInput in 0 1 in\nSplit s 1 2 in a in\nReLU r 1 1 a out\n"
    with pytest.warns(UserWarning, match="names that were used twice are changed: blob in"):
        graph = parse_param(text)
    assert graph.layers[1].outputs == ["a", "in/4"]


def test_old_vectors_and_unknown_ids_are_read_with_one_warning() -> None:
    text = "7767517\n3 3\nInput in 0 1 in 0=4 1=-233 2=-233\nCrop c 1 1 in x -23309=1,1 -23310=1,3 -23311=1,0\n"
    text += "Pooling p 1 1 x out 0=1 4=1 29=1 28=0.5\n"
    with pytest.warns(UserWarning, match="ncnn ignores") as told:
        graph = parse_param(text, where="old.param")
    assert [str(warning.message) for warning in told] == [
        "old.param: ncnn ignores params that a layer type does not use: 29 of Pooling p, 28 of Pooling p"
    ]
    assert graph.input_shapes() == [(4,)]
    assert graph.layers[1].params == {"starts": (1,), "ends": (3,), "axes": (0,)}
    assert "29=1 28=0.5" in format_param(graph)


@pytest.mark.filterwarnings("ignore:.*ncnn ignores params")
@pytest.mark.parametrize("params", ["7=1", "17=0 28=1.5", "-23303=2,1,2", "5=text"])
def test_params_that_ncnn_ignores_are_kept(params: str) -> None:
    """Old converters and pnnx write ids that a type does not use."""
    text = f"7767517\n2 2\nInput in 0 1 in\nReLU r 1 1 in out {params}\n"
    graph = parse_param(text)
    graph.verify()
    assert parse_param(format_param(graph)) == graph
    assert graph.layer("r").p.slope == 0.0


def test_very_long_numbers_are_refused() -> None:
    for text in ("9" * 5000, "9" * 5000 + ".5", "1e" + "9" * 5000):
        with pytest.raises(FormatError, match=r"^<param>:4: param 0 \(slope\): [19e]+ (does not fit|is too large)"):
            line(f"ReLU r 1 1 in out 0={text}")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (
            lambda path: path.mkdir(),
            "is a folder, not a .param file (name a .param file in it; ncnnkit.open_run() reads the folder of a run)",
        ),
        (lambda path: path.write_bytes(b"\x80\xff\x00"), "is not text (binary .param.bin files are not supported)"),
    ],
)
def test_files_that_are_not_text_are_refused(make: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    make(path)
    for read in (load, load_param):
        with pytest.raises(FormatError) as error:
            read(path)
        assert error.value.line() == f"{path}: {says}"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="every file may be read by root")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    path.write_text("7767517\n")
    path.chmod(0)
    with pytest.raises(FormatError, match="cannot be read: Permission denied"):
        load(path)


# ------------------------------------------------------------------------------------------------- any .bin, whole

TABLE = 0x01020304
STORAGES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Weight]] = {
    "fp32": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
    "fp16": lambda rng, shape: rng.standard_normal(shape).astype(np.float16),
    "int8": lambda rng, shape: rng.integers(-128, 128, shape).astype(np.int8),
    "table": lambda rng, shape: encoded(rng, TABLE, shape),
    "raw": lambda rng, shape: encoded(rng, EncodedWeight.RAW_FP32, shape),
}


def encoded(rng: np.random.Generator, tag: int, shape: tuple[int, ...]) -> EncodedWeight:
    length = EncodedWeight.length(tag, math.prod(shape))
    return EncodedWeight(tag, rng.integers(0, 256, length).astype(np.uint8), shape)


NETWORK = """7767517
9 9
Input                    in0                      0 1 in0 0={w} 1=5 2={c}
Convolution              conv                     1 1 in0 a 0={n} 1=1 5=1 6={conv}
PReLU                    prelu                    1 1 a b 0={n}
BatchNorm                bn                       1 1 b c 0={n}
ReLU                     relu                     1 1 c d 0=0.1
InnerProduct             fc                       1 1 d e 0={n} 1=1 2={fc} 8=2
MemoryData               data                     0 1 f 0={w}
Gemm                     gemm                     1 1 e g 5=1 3=1 7=1 8={n} 9={w} 18=400
BinaryOp                 add                      2 1 g f out0
"""


def any_network(w: int, n: int, c: int, storage: list[str], seed: int) -> Graph:
    graph = parse_param(NETWORK.format(w=w, n=n, c=c, conv=n * c, fc=n * w))
    rng = np.random.default_rng(seed)
    names = iter(storage)
    for layer in graph.layers:
        for slot, shape in layer.slots():
            if slot.packed(layer.p):
                layer.weights[slot.name] = rng.integers(0, 256, shape).astype(np.uint8)
            else:
                layer.weights[slot.name] = STORAGES[next(names) if slot.tagged else "fp32"](rng, shape)
    return graph


@given(
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.sampled_from(sorted(STORAGES)), min_size=3, max_size=3),
    st.integers(0, 99),
)
@QUICK
def test_weights_survive_byte_for_byte(tmp_path: Path, w: int, n: int, c: int, storage: list[str], seed: int) -> None:
    graph = any_network(w, n, c, storage, seed)
    param = tmp_path / "m.param"
    save(graph, param)
    data = param.with_suffix(".bin").read_bytes()
    assert len(data) % 4 == 0
    back = load(param)
    assert back == graph
    save(back, tmp_path / "again.param")
    assert (tmp_path / "again.bin").read_bytes() == data
    assert (tmp_path / "again.param").read_bytes() == param.read_bytes()


def simple(folder: Path) -> Path:
    param = folder / "m.param"
    save(any_network(3, 2, 2, ["fp16", "int8", "table"], 0), param)
    return param


def test_the_bytes_are_those_of_ncnn(tmp_path: Path) -> None:
    graph = parse_param("7767517\n2 2\nInput in 0 1 in\nInnerProduct fc 1 1 in out 0=1 1=1 2=3\n")
    weights = graph.layers[1].weights
    weights["bias"] = np.array([-1], np.float32)
    bias = bytes.fromhex("000080bf")
    for dtype, tag, block in (
        (np.float32, "00000000", "0000803f 00000040 00004040"),
        (np.float16, "476b3001", "003c 0040 0042 0000"),  # padded to four bytes, as is int8
        (np.int8, "384b0d00", "01 02 03 00"),
    ):
        weights["weight"] = np.array([1, 2, 3], dtype)
        save(graph, tmp_path / "m.param")
        assert (tmp_path / "m.bin").read_bytes() == bytes.fromhex(tag + block) + bias


def test_packed_weights_may_have_the_tag_older_versions_gave_them(tmp_path: Path) -> None:
    graph = parse_param("7767517\n2 2\nInput in 0 1 in\nGemm g 1 1 in out 5=1 3=1 7=1 8=2 9=4 18=400\n")
    for dtype, size in ((np.uint8, 4), (np.int8, 8)):
        graph.layers[1].weights = {"B": np.zeros((2, 2), dtype), "B_block_scales": np.ones((2, 1), np.float32)}
        save(graph, tmp_path / "m.param")
        assert (tmp_path / "m.bin").stat().st_size == size + 8
        assert load(tmp_path / "m.param") == graph


def test_weights_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    graph = load(simple(tmp_path))
    for layer in graph.layers:
        for weight in layer.weights.values():
            array: Any = weight.payload if isinstance(weight, EncodedWeight) else weight
            assert not array.flags.writeable
            while isinstance(array.base, np.ndarray):
                array = array.base
            assert isinstance(array, np.memmap)


def test_a_network_may_be_saved_over_itself(tmp_path: Path) -> None:
    param = simple(tmp_path)
    before = param.with_suffix(".bin").read_bytes()
    graph = load(param)
    save(graph, param)
    assert param.with_suffix(".bin").read_bytes() == before
    assert load(param) == graph  # the views still hold what was mapped


def test_the_bin_may_stand_elsewhere(tmp_path: Path) -> None:
    graph = any_network(2, 2, 2, ["fp32"] * 3, 0)
    (tmp_path / "w").mkdir()
    save(graph, tmp_path / "m.param", tmp_path / "w" / "weights.dat")
    assert load(tmp_path / "m.param", tmp_path / "w" / "weights.dat") == graph
    assert load_param(tmp_path / "m.param").layers[1].weights == {}
    with pytest.raises(FormatError, match=r"m\.bin: the weights are missing"):
        load(tmp_path / "m.param")


def test_a_network_without_weights_needs_no_bin(tmp_path: Path) -> None:
    graph = parse_param("7767517\n2 2\nInput in 0 1 in\nReLU r 1 1 in out\n")
    save(graph, tmp_path / "m.param")
    assert (tmp_path / "m.bin").read_bytes() == b""  # ncnn needs one
    (tmp_path / "m.bin").unlink()
    assert load(tmp_path / "m.param") == graph


# --------------------------------------------------------------------------------------------------- broken weights


def test_a_missing_bin_is_refused(tmp_path: Path) -> None:
    param = simple(tmp_path)
    weights = param.with_suffix(".bin")
    weights.unlink()
    with pytest.raises(FormatError) as error:
        load(param)
    assert error.value.line() == f"{weights}: the weights are missing (keep the .bin beside its .param)"
    weights.mkdir()
    with pytest.raises(FormatError, match="cannot be read: Is a directory"):
        load(param)


@pytest.mark.parametrize(
    ("kept", "missing", "at"),
    [
        (0, 4, "weight 'weight' of layer conv"),
        (3, 1, "weight 'weight' of layer conv"),  # in the tag
        (4, 8, "weight 'weight' of layer conv"),
        (13, 7, "weight 'bias' of layer conv"),
        (-1, 1, "weight 'B_block_scales' of layer gemm"),
    ],
)
def test_a_truncated_bin_is_refused(kept: int, missing: int, at: str, tmp_path: Path) -> None:
    param = simple(tmp_path)
    weights = param.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(FormatError) as error:
        load(param)
    assert error.value.line() == f"{weights}: ends {missing} bytes too early, in {at} (truncated?)"


def test_a_bin_that_is_too_long_is_refused(tmp_path: Path) -> None:
    param = simple(tmp_path)
    weights = param.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes() + b"\0\0\0\0")
    with pytest.raises(FormatError) as error:
        load(param)
    assert error.value.line() == (
        f"{weights}: 4 bytes are left over after the last layer (does the .bin belong to another .param?)"
    )


@pytest.mark.parametrize("params", ["0=3 1=3 6=2000000000", "0=1000000000 1=1 6=1000000000"])
def test_sizes_far_beyond_the_file_are_refused_at_once(params: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(FormatError, match=r"ends \d+ bytes too early|other params require"):
        read_weights(parse_param(f"7767517\n2 2\nInput in 0 1 in\nConvolution c 1 1 in out {params}\n"), path)


TEXT = format_param(any_network(3, 2, 2, ["fp32"] * 3, 0))


@pytest.mark.filterwarnings("ignore:.*the rest is ignored")
@given(st.data())
@MANY
def test_any_text_gives_at_worst_a_format_error(data: st.DataObject) -> None:
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 6)))
        bit = data.draw(st.text(st.sampled_from('0123456789=-+.,"eEx \n\x00\x85²'), max_size=6) | st.text(max_size=3))
        text = text[:start] + bit + text[end:]
    refuses_or_reads(lambda: parse_param(text))


@given(st.data())
@MANY
def test_any_bytes_give_at_worst_a_format_error(tmp_path: Path, data: st.DataObject) -> None:
    param = tmp_path / "m.param"
    if not param.exists():
        simple(tmp_path)
    whole = bytearray(any_bytes(tmp_path))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(whole)))
        whole[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    broken = tmp_path / "broken.bin"
    broken.write_bytes(whole)
    graph = refuses_or_reads(lambda: load(param, broken))
    if graph is not None:
        save(graph, tmp_path / "again.param")
        assert len((tmp_path / "again.bin").read_bytes()) == len(whole)


def any_bytes(folder: Path) -> bytes:
    return (folder / "m.bin").read_bytes()


@given(st.binary(max_size=200))
@MANY
def test_any_file_gives_at_worst_a_format_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.param"
    path.write_bytes(data)
    with pytest.raises(FormatError):
        load(path)
    path.write_bytes(b"7767517\n2 2\n" + data)
    refuses_or_reads(lambda: load(path))


def refuses_or_reads(read: Callable[[], Graph]) -> Graph | None:
    """The graph, or None for a FormatError of one line. Any other exception fails the test."""
    try:
        return read()
    except FormatError as error:
        refusal = error
    assert "\n" not in refusal.line()
    assert refusal.where
    return None


# ---------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"slope": 0.1}, "0=0.1"),
        ({"slope": 1.0}, "0=1.0"),
        ({"slope": 1e20}, "0=1e+20"),
        ({"slope": np.float32(0.5)}, "0=0.5"),
        ({"slope": 1}, "0=1.0"),  # some versions of ncnn do not read 1 as a real number
        ({"featmask": np.int64(3)}, "31=3"),
        ({"shape_hints": (1, 2)}, "-23330=2,1,2"),
        ({"shape_hints": ()}, "-23330=0"),
        ({"shape_hints": (1, 0.5)}, "-23330=2,1.0,0.5"),  # ncnn would read the bits of an int as a float
    ],
)
def test_how_params_are_written(params: dict[str, Any], text: str) -> None:
    graph = Graph([Layer("ReLU", "r", [], ["out"], params)])
    last = format_param(graph).splitlines()[2]
    assert last == f"{'ReLU':<24} {'r':<24} 0 1 out {text}"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e39, 2**31, -(2**31) - 1], ids=str)
def test_numbers_ncnn_cannot_hold(value: float) -> None:
    number, name = (0, "slope") if isinstance(value, float) else (31, "featmask")
    with pytest.raises(FormatError, match=f"layer r, param {number}: ncnn cannot hold"):
        format_param(Graph([Layer("ReLU", "r", [], ["out"], {name: value})]))


@pytest.mark.parametrize(
    "text",
    ['a"b', "a\nb", "a" * 300, " a", ",a", "(0w*0h)+(0c*4)", "é"],
    ids=["quote", "newline", "long", "space first", "comma first", "fourteen characters", "not ASCII"],
)
def test_texts_ncnn_cannot_hold(text: str) -> None:
    with pytest.raises(FormatError, match="layer r, param 6: ncnn cannot hold the text"):
        format_param(Graph([Layer("Reshape", "r", [], ["out"], {"shape_expr": text})]))


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\nb", "a" * 256], ids=repr)
def test_names_ncnn_cannot_hold(name: str) -> None:
    for layer in (
        Layer("ReLU", name, ["a"], ["b"]),
        Layer("ReLU", "r", [name], ["b"]),
        Layer("ReLU", "r", ["a"], [name]),
    ):
        with pytest.raises(FormatError, match="ncnn cannot hold the name"):
            format_param(Graph([layer]))


@pytest.mark.parametrize(
    ("name", "weight", "says"),
    [
        ("weight", np.ones((2, 3)), "weight 'weight' is float64, it must be float16 or float32 or int8"),
        ("weight", np.ones((2, 3), ">f4"), "weight 'weight' is >f4, it must be float16 or float32 or int8"),
        ("weight", np.ones((2, 3), np.uint8), "weight 'weight' is uint8, it must be float16 or float32 or int8"),
        ("bias", np.ones(2, np.float16), "weight 'bias' is float16, it must be float32"),
        ("bias", EncodedWeight(1, np.zeros(1028, np.uint8), (2,)), "weight 'bias' is encoded, it must be float32"),
    ],
)
def test_weights_ncnn_cannot_hold(name: str, weight: Weight, says: str, tmp_path: Path) -> None:
    graph = linear()
    graph.layers[1].weights[name] = weight
    with pytest.raises(FormatError, match=re.escape(f"layer InnerProduct fc: {says}")):
        save(graph, tmp_path / "m.param")
    assert list(tmp_path.iterdir()) == []


def test_weights_in_any_order_in_memory_are_written_in_theirs(tmp_path: Path) -> None:
    graph = linear()
    weight = graph.layers[1].array("weight")
    graph.layers[1].weights["weight"] = np.asfortranarray(weight)
    save(graph, tmp_path / "m.param")
    np.testing.assert_array_equal(load(tmp_path / "m.param").layers[1].array("weight"), weight)


# ----------------------------------------------------------------------------------------------- whole or not at all


def linear() -> Graph:
    graph = parse_param("7767517\n2 2\nInput in 0 1 in 0=3\nInnerProduct fc 1 1 in out 0=2 1=1 2=6\n")
    rng = np.random.default_rng(0)
    graph.layers[1].weights = {
        "weight": rng.standard_normal((2, 3)).astype(np.float32),
        "bias": rng.standard_normal(2).astype(np.float32),
    }
    return graph


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def missing_weight(graph: Graph) -> None:
    graph.layers[1].weights = {}


def wrong_param(graph: Graph) -> None:
    graph.layers[1].params["activation_params"] = (math.nan,)


def wrong_storage(graph: Graph) -> None:
    graph.layers[1].weights["bias"] = np.zeros(2, np.float16)


@pytest.mark.parametrize("spoil", [missing_weight, wrong_param, wrong_storage])
def test_a_graph_that_cannot_be_written_leaves_the_old_files(spoil: Callable[[Graph], None], tmp_path: Path) -> None:
    save(linear(), tmp_path / "m.param")
    before = content(tmp_path)
    graph = linear()
    spoil(graph)
    with pytest.raises(FormatError):
        save(graph, tmp_path / "m.param")
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free some space and run again"), (errno.EIO, "choose another folder")]
)
def test_a_failing_disk_leaves_the_old_files(
    number: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(linear(), tmp_path / "m.param")
    before = content(tmp_path)

    def fail(layer: Layer, file: Any) -> None:
        file.write(b"half")
        if layer.weights:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ncnnfile, "_write_weights", fail)
    with pytest.raises(StorageError) as error:
        save(linear(), tmp_path / "m.param")
    assert error.value.line() == f"{tmp_path / 'm.bin'}: cannot be written: {os.strerror(number)} ({hint})"
    assert content(tmp_path) == before


def test_an_interrupt_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(linear(), tmp_path / "m.param")
    before = content(tmp_path)

    def interrupt(layer: Layer, file: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ncnnfile, "_write_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(linear(), tmp_path / "m.param")
    assert content(tmp_path) == before


@pytest.mark.parametrize("taken", ["m.param", "m.bin"])
def test_a_folder_in_the_way_is_found_before_anything_is_written(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).mkdir()
    with pytest.raises(StorageError, match=rf"{re.escape(taken)}: cannot be written: Is a directory"):
        save(linear(), tmp_path / "m.param")
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    save(linear(), tmp_path / "missing/folder/m.param")
    assert load(tmp_path / "missing/folder/m.param") == linear()


@pytest.mark.parametrize("folder", ["file", "file/folder"])
def test_a_file_in_place_of_a_folder_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        save(linear(), tmp_path / folder / "m.param")
    assert content(tmp_path) == {"file": b""}


def test_one_name_for_both_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"the \.param and the \.bin would be the same file"):
        save(linear(), tmp_path / "m.bin")
    assert content(tmp_path) == {}


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert content(tmp_path) == {"f": b"new"}


# ------------------------------------------------------------------------------------------------- what ncnn reads


def run(param: Path, array: NDArray[np.float32]) -> NDArray[np.float32]:
    net = ncnn.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "winograd_convolution"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(param.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    extractor.input("in", ncnn.Mat(array).clone())
    status, mat = extractor.extract("out")
    assert status == 0
    return np.array(mat)


@pytest.mark.parametrize("storage", ["fp32", "fp16", "table", "raw"])
def test_ncnn_computes_an_inner_product_with_what_was_written(storage: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    graph = linear()
    layer = graph.layers[1]
    if storage == "table":
        table = rng.standard_normal(256).astype(np.float32)
        index = rng.integers(0, 256, 8).astype(np.uint8)  # the six, and two that pad them
        layer.weights["weight"] = EncodedWeight(TABLE, np.concatenate([table.view(np.uint8), index]), (2, 3))
    elif storage == "raw":
        values = rng.standard_normal(6).astype(np.float32)
        layer.weights["weight"] = EncodedWeight(EncodedWeight.RAW_FP32, values.view(np.uint8), (2, 3))
    else:
        layer.weights["weight"] = STORAGES[storage](rng, (2, 3))
    save(graph, tmp_path / "m.param")
    array = rng.standard_normal(3).astype(np.float32)
    expected = layer.array("weight") @ array + layer.array("bias")
    np.testing.assert_allclose(run(tmp_path / "m.param", array), expected, rtol=1e-5, atol=1e-5)


def test_ncnn_computes_a_convolution_with_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    graph = parse_param(
        "7767517\n2 2\nInput in 0 1 in\nConvolution c 1 1 in out 0=4 1=3 11=2 3=2 13=1 4=1 14=0 5=1 6=72\n"
    )
    weight = rng.standard_normal((4, 3, 2, 3)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    graph.layers[1].weights = {"weight": weight, "bias": bias}
    save(graph, tmp_path / "m.param")
    array = rng.standard_normal((3, 5, 7)).astype(np.float32)
    padded = np.pad(array, ((0, 0), (0, 0), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), (1, 2))[:, :, ::2]
    expected = np.einsum("cyxhw,ochw->oyx", windows, weight) + bias[:, None, None]
    np.testing.assert_allclose(run(tmp_path / "m.param", array), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.00012345679, 123456792.0, 1.5e-20, -3.4028235e38, 0.1, 1e-6])
def test_ncnn_reads_the_floats_that_were_written(value: float, tmp_path: Path) -> None:
    graph = parse_param("7767517\n2 2\nInput in 0 1 in 0=4\nBinaryOp b 1 1 in out 0=0 1=1\n")
    graph.layers[1].params["b"] = value
    save(graph, tmp_path / "m.param")
    assert run(tmp_path / "m.param", np.zeros(4, np.float32)).tolist() == [float(np.float32(value))] * 4


def test_ncnn_reads_the_texts_and_arrays_that_were_written(tmp_path: Path) -> None:
    graph = parse_param("7767517\n3 3\nInput in 0 1 in\nReshape r 1 1 in a\nCrop c 1 1 a out\n")
    graph.layers[1].params["shape_expr"] = "*(0h, 1),*(0w,1)"
    graph.layers[2].params.update(starts=(1,), ends=(3,), axes=(0,))
    save(graph, tmp_path / "m.param")
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(run(tmp_path / "m.param", array), array.reshape(4, 3)[1:3])


# --------------------------------------------------------------------------------------- ncnn's own benchmark folder


@pytest.mark.skipif(SOURCE is None, reason="NCNNKIT_NCNN_SOURCE does not name a checkout of ncnn")
def test_the_networks_of_ncnns_benchmark_survive() -> None:
    files = sorted((Path(SOURCE or "") / "benchmark").rglob("*.param"))
    assert files
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for path in files:
            graph = load_param(path)
            assert graph.layers
            assert parse_param(format_param(graph)) == graph
    # One of them has one layer more than its count; ncnn does not read it.
    assert [re.sub(r".*/", "", str(warning.message)) for warning in warned] == [
        "nanodet_m.param: line 2 counts 179 layers of 180; the rest is ignored"
    ]


@pytest.mark.parametrize(
    ("layer", "key", "read", "doubtful"),
    [
        ("BinaryOp x 1 1 a out0 0=0 1=1 2=1", "b", 1.0, True),
        ("BinaryOp x 1 1 a out0 0=0 1=1 2=0", "b", 0.0, False),  # the bits of 0.0
        ("Eltwise x 2 1 a b out0 0=1 -23301=2,1,2", "coeffs", (1.0, 2.0), True),
        ("Eltwise x 2 1 a b out0 0=1 -23301=2,1065353216,1073741824", "coeffs", (1.0, 2.0), False),  # bits
        ("Eltwise x 2 1 a b out0 0=1 -23301=2,0,-1082130432", "coeffs", (0.0, -1.0), False),
        ("Eltwise x 2 1 a b out0 0=1 -23301=2,0.5,2", "coeffs", (0.5, 2.0), True),
        ("Eltwise x 2 1 a b out0 0=1 1=0.5,3", "coeffs", (0.5, 3.0), False),  # ncnn reads all items as the first
        ("Eltwise x 2 1 a b out0 0=1 1=2,0.5", "coeffs", (2.0, 0.0), True),
    ],
)
def test_whole_numbers_instead_of_real_ones(layer: str, key: str, read: Value, doubtful: bool) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graph = parse_param(f"7767517\n3 3\nInput a 0 1 a\nInput b 0 1 b\n{layer}\n", where="net")
    expected = (
        f"net: some versions of ncnn misread a real number without a point.*: {key} of {layer[: layer.index(' ')]} x$"
    )
    assert [bool(re.search(expected, str(w.message))) for w in said] == [True] * doubtful
    assert graph.layers[-1].params[key] == read
    net = ncnn.Net()
    assert net.load_param_mem(format_param(graph)) == 0  # all versions of ncnn read the written file alike
    with net.create_extractor() as extractor:
        for blob, value in (("a", 1.0), ("b", 5.0)):
            extractor.input(blob, ncnn.Mat(np.full(3, value, np.float32)).clone())
        found = np.array(extractor.extract("out0")[1])
    wanted = np.dot(read, [1, 5]) if isinstance(read, tuple) else np.add(1, read)
    np.testing.assert_array_equal(found, np.full(3, wanted, np.float32))
