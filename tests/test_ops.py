"""The operator table: ncnn's types, their params and defaults, and the bytes that each reads from a .bin."""

from __future__ import annotations

import ctypes
import math
import os
import re
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pytest

from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ops import FLOAT_MAX, OPS, Value

SOURCE = os.environ.get("NCNNKIT_NCNN_SOURCE")


def layer(type: str, **params: Value) -> Layer:
    return Layer(type, "l", [], [], params)


def test_the_table_holds_every_type_of_ncnn_and_no_other() -> None:
    # ncnn numbers its types from 0, and only knows its own names.
    assert sorted(ncnn.layer_to_index(name) for name in OPS) == list(range(len(OPS)))
    assert len(OPS) == 110
    assert not [i for i in range(len(OPS), 2 * len(OPS)) if ncnn.create_layer(i)]
    assert ncnn.layer_to_index("Convolution4D") == -1


@pytest.mark.parametrize("name", OPS)
def test_a_row_is_consistent(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert len(op.by_id) == len(op.by_name) == len(op.params)
    assert all(0 <= param.id < 32 for param in op.params)
    assert all(param.same_as in op.by_name for param in op.params if param.same_as)
    # Every param has a default value: no chain of same_as is circular.
    assert all(op.fault(param.name, layer(name).get(param.name)) == "" for param in op.params)


@pytest.mark.skipif(SOURCE is None, reason="NCNNKIT_NCNN_SOURCE does not name a checkout of ncnn")
@pytest.mark.parametrize("name", OPS)
def test_params_are_those_of_the_sources(name: str) -> None:
    text = (Path(SOURCE or "") / "src" / "layer" / f"{name.lower()}.cpp").read_text()
    body = re.search(r"::load_param\(const ParamDict& \w+\)\s*\{(.*?)\n\}", text, re.DOTALL)
    given: dict[int, str] = {}
    for number, default in re.findall(r"pd\.get\((\d+), (.*?)\)+;", body[1] if body else ""):
        given.setdefault(int(number), default)
    # Defaults that are not plain numbers in ncnn: computed when the layer runs, or written differently here.
    spelled = {
        "-FLT_MAX": "-3.402823466e38",
        "FLT_MAX": "3.402823466e38",
        "false": "0",
        "1.f / sqrtf(embed_dim / num_heads": "0.0",
        "n_fft / 4": "0",
    }
    for param in OPS[name].params:
        if param.id in (30, 31):
            continue
        text = given.pop(param.id)
        text = spelled.get(text, text)
        if param.same_as:
            assert text == param.same_as
        elif isinstance(param.default, (tuple, str)):
            assert text in (("Mat(",) if param.default == () else ('""', "std::string("))
        else:
            assert float(text.removesuffix("f")) == pytest.approx(float(param.default))
            assert isinstance(param.default, float) == ("." in text or "e" in text)
    assert not given


@pytest.mark.parametrize(
    ("type", "params", "name", "value"),
    [
        ("Convolution", {}, "stride_w", 1),
        ("Convolution", {"kernel_w": 3}, "kernel_h", 3),
        ("Convolution", {"kernel_w": 3, "kernel_h": 5}, "kernel_h", 5),
        ("Convolution", {"pad_left": 2}, "pad_bottom", 2),  # through pad_top
        ("Convolution", {"pad_left": 2, "pad_top": 1}, "pad_bottom", 1),
        ("Convolution", {"pad_left": 2, "pad_top": 1}, "pad_right", 2),
        ("Convolution", {}, "activation_params", ()),
        ("Deconvolution", {"output_w": 7}, "output_h", 7),
        ("Pooling3D", {"kernel_w": 2}, "kernel_d", 2),
        ("LSTM", {"num_output": 8}, "hidden_size", 8),
        ("MultiHeadAttention", {"embed_dim": 64}, "vdim", 64),
        ("Clip", {}, "min", -FLOAT_MAX),
        ("Reshape", {}, "w", -233),
        ("Reshape", {}, "shape_expr", ""),
        ("LayerNorm", {}, "affine", 1),
        ("ReLU", {}, "featmask", 0),
    ],
)
def test_defaults(type: str, params: dict[str, Value], name: str, value: Value) -> None:
    found = layer(type, **params).get(name)
    assert (found, found.__class__) == (value, value.__class__)


def test_a_param_that_the_type_lacks() -> None:
    with pytest.raises(AttributeError, match="ReLU has no param 'kernel_w'"):
        layer("ReLU").get("kernel_w")
    with pytest.raises(AttributeError, match="ReLU has no param 'kernel_w'"):
        OPS["ReLU"].param("kernel_w")


@pytest.mark.parametrize(
    ("type", "name", "value", "fault"),
    [
        ("Convolution", "num_output", 8, ""),
        ("Convolution", "num_output", np.int64(8), ""),
        ("Convolution", "num_output", 8.0, "needs a whole number for num_output, not 8.0"),
        ("Convolution", "kernel_h", (3,), "needs a whole number for kernel_h, not (3,)"),
        ("Convolution", "kernel_h", "relu", "needs a whole number for kernel_h, not 'relu'"),
        ("ReLU", "slope", 0, ""),  # ncnn's own tools write 0 for 0.0
        ("ReLU", "slope", "inf", "needs a number for slope, not 'inf'"),
        ("Squeeze", "axes", 1, "needs an array for axes, not 1"),
        ("Reshape", "shape_expr", 1, "needs a text for shape_expr, not 1"),
        ("ReLU", "kernel_w", 1, "has no param 'kernel_w'"),
    ],
)
def test_faults(type: str, name: str, value: Any, fault: str) -> None:
    assert OPS[type].fault(name, value) == fault


def test_what_int8_needs_to_know() -> None:
    assert {op.name for op in OPS.values() if op.int8} == {"Convolution", "ConvolutionDepthWise", "InnerProduct"}
    assert all("int8_scale_term" in op.by_name for op in OPS.values() if op.int8)


# ---------------------------------------------------------------------------------------------------------- weights

CONV = "0=4 1=3 11=2 5=1 6=72"  # 4 outputs, 3 inputs, kernel 2x3
DEPTHWISE = "0=4 1=3 11=2 5=1 6=24 7=4"

SLOTS = [  # type, its params, its weights; * marks weights that begin with a tag
    ("Convolution", CONV, "*weight:4,3,2,3 bias:4"),
    ("Convolution", "0=4 1=3 11=2 6=72", "*weight:4,3,2,3"),
    ("Convolution", "0=4 1=3 5=1 19=1", ""),
    ("Convolution", f"{CONV} 8=2", "*weight:4,3,2,3 bias:4 weight_scales:4 input_scale:1"),
    ("Convolution", f"{CONV} 8=102", "*weight:4,3,2,3 bias:4 weight_scales:4 input_scale:1 output_scale:1"),
    ("ConvolutionDepthWise", DEPTHWISE, "*weight:4,1,2,3 bias:4"),
    ("ConvolutionDepthWise", f"{DEPTHWISE} 8=1", "*weight:4,1,2,3 bias:4 weight_scales:4 input_scale:1"),
    ("ConvolutionDepthWise", f"{DEPTHWISE} 8=2", "*weight:4,1,2,3 bias:4 weight_scales:1 input_scale:1"),
    (
        "ConvolutionDepthWise",
        f"{DEPTHWISE} 8=101",
        "*weight:4,1,2,3 bias:4 weight_scales:4 input_scale:1 output_scale:1",
    ),
    ("InnerProduct", "0=4 1=1 2=20", "*weight:4,5 bias:4"),
    ("InnerProduct", "0=4 2=20 8=2", "*weight:4,5 weight_scales:4 input_scale:1"),
    ("Deconvolution", CONV, "*weight:4,3,2,3 bias:4"),
    ("DeconvolutionDepthWise", DEPTHWISE, "*weight:4,1,2,3 bias:4"),
    ("DeformableConv2D", CONV, "*weight:4,3,2,3 bias:4"),
    ("Convolution1D", "0=4 1=3 5=1 6=36", "*weight:4,3,3 bias:4"),
    ("ConvolutionDepthWise1D", "0=4 1=3 5=1 6=12 7=4", "*weight:4,1,3 bias:4"),
    ("Deconvolution1D", "0=4 1=3 5=1 6=36", "*weight:4,3,3 bias:4"),
    ("DeconvolutionDepthWise1D", "0=4 1=3 5=1 6=12 7=4", "*weight:4,1,3 bias:4"),
    ("Convolution3D", "0=4 1=3 11=2 21=1 5=1 6=72", "*weight:4,3,1,2,3 bias:4"),
    ("ConvolutionDepthWise3D", "0=4 1=3 11=2 21=1 5=1 6=24 7=4", "*weight:4,1,1,2,3 bias:4"),
    ("Deconvolution3D", "0=4 1=3 11=2 21=1 5=1 6=72", "*weight:4,3,1,2,3 bias:4"),
    ("DeconvolutionDepthWise3D", "0=4 1=3 11=2 21=1 5=1 6=24 7=4", "*weight:4,1,1,2,3 bias:4"),
    ("BatchNorm", "0=5", "slope:5 mean:5 var:5 bias:5"),
    ("Bias", "0=5", "bias:5"),
    ("Scale", "0=5 1=1", "scale:5 bias:5"),
    ("Scale", "0=-233 1=1", ""),  # scaled with its second input
    ("PReLU", "0=5", "slope:5"),
    ("Normalize", "3=5", "scale:5"),
    ("InstanceNorm", "0=5", "gamma:5 beta:5"),
    ("InstanceNorm", "0=5 2=0", ""),
    ("GroupNorm", "0=2 1=6", "gamma:6 beta:6"),
    ("LayerNorm", "0=5", "gamma:5 beta:5"),
    ("RMSNorm", "0=5", "gamma:5"),
    ("Padding", "6=5", "per_channel_pad_data:5"),
    ("Quantize", "0=5", "scale:5"),
    ("Dequantize", "0=5 1=5", "scale:5 bias:5"),
    ("Requantize", "0=5 1=1 2=5", "scale_in:5 scale_out:1 bias:5"),
    ("MemoryData", "0=2 1=3 2=4", "data:4,3,2"),
    ("MemoryData", "0=2 1=3 11=5 2=4", "data:4,5,3,2"),
    ("MemoryData", "0=7 21=0", "*data:7"),
    ("Embed", "0=4 1=6 2=1 3=24", "*weight:6,4 bias:4"),
    ("Embed", "0=4 1=6 3=24 18=2", "*weight:6,4 weight_scales:1"),
    ("RNN", "0=4 1=20", "*weight_xc:1,4,5 *bias_c:1,1,4 *weight_hc:1,4,4"),
    ("GRU", "0=4 1=120 2=2", "*weight_xc:2,12,5 *bias_c:2,4,4 *weight_hc:2,12,4"),
    ("LSTM", "0=4 1=80", "*weight_xc:1,16,5 *bias_c:1,4,4 *weight_hc:1,16,4"),
    ("LSTM", "0=4 1=120 3=6", "*weight_xc:1,24,5 *bias_c:1,4,6 *weight_hc:1,24,4 *weight_hr:1,4,6"),
    (
        "LSTM",
        "0=4 1=80 8=2",
        "*weight_xc:1,16,5 *bias_c:1,4,4 *weight_hc:1,16,4 weight_xc_scales:1,16 weight_hc_scales:1,16",
    ),
    (
        "GRU",
        "0=4 1=60 8=2",
        "*weight_xc:1,12,5 *bias_c:1,4,4 *weight_hc:1,12,4 weight_xc_scales:1,12 weight_hc_scales:1,12",
    ),
    (
        "RNN",
        "0=4 1=20 8=2",
        "*weight_xc:1,4,5 *bias_c:1,1,4 *weight_hc:1,4,4 weight_xc_scales:1,4 weight_hc_scales:1,4",
    ),
    ("Gemm", "7=2 8=3 9=5", ""),
    ("Gemm", "4=1 7=2 8=3 9=5", "*A:2,5"),
    ("Gemm", "4=1 2=1 7=2 8=3 9=5", "*A:5,2"),
    ("Gemm", "5=1 3=1 7=2 8=3 9=5", "*B:3,5"),
    ("Gemm", "5=1 7=2 8=3 9=5", "*B:5,3"),
    ("Gemm", "4=1 5=1 6=1 7=2 8=3 9=5 10=0", "*A:2,5 *B:5,3 *C:1"),
    ("Gemm", "6=1 7=2 8=3 9=5 10=1", "*C:2"),
    ("Gemm", "6=1 7=2 8=3 9=5 10=2", "*C:2,1"),
    ("Gemm", "6=1 7=2 8=3 9=5 10=3", "*C:2,3"),
    ("Gemm", "6=1 7=2 8=3 9=5 10=4", "*C:1,3"),
    ("Gemm", "6=1 7=2 8=3 9=5 10=-1", ""),
    ("Gemm", "4=1 5=1 3=1 7=2 8=3 9=5 18=2", "*A:2,5 *B:3,5 A_scales:2 B_scale:1"),
    ("Gemm", "5=1 3=1 7=2 8=3 9=5 18=400", "*B:3,3 B_block_scales:3,1"),  # nine bytes and their padding
    ("Gemm", "5=1 3=1 7=2 8=3 9=72 18=400", "*B:3,36 B_block_scales:3,3"),
    ("Gemm", "5=1 3=1 7=2 8=3 9=72 18=601", "*B:3,54 B_block_scales:3,2"),
    ("Gemm", "5=1 3=1 7=2 8=3 9=72 18=812", "*B:3,72 B_block_scales:3,1 B_input_scales:72"),
    (
        "MultiHeadAttention",
        "0=4 1=2 2=24 3=5 4=7",
        "*q_weight:4,6 q_bias:4 *k_weight:4,5 k_bias:4 *v_weight:4,7 v_bias:4 *out_weight:6,4 out_bias:6",
    ),
    (
        "MultiHeadAttention",
        "0=4 1=2 2=16 18=2",
        "*q_weight:4,4 q_bias:4 *k_weight:4,4 k_bias:4 *v_weight:4,4 v_bias:4 *out_weight:4,4 out_bias:4 "
        "q_weight_int8_scales:4 k_weight_int8_scales:4 v_weight_int8_scales:4 out_weight_int8_scales:1",
    ),
    (
        "MultiHeadAttention",
        "0=4 1=2 2=256 18=410",
        "*q_weight:4,32 q_bias:4 *k_weight:4,2 k_bias:4 *v_weight:4,2 v_bias:4 *out_weight:64,2 out_bias:64 "
        "q_weight_scales:4,2 k_weight_scales:4,1 v_weight_scales:4,1 out_weight_scales:64,1 "
        "q_input_scales:64 k_input_scales:4 v_input_scales:4 out_input_scales:4",
    ),
]


def parse(type: str, params: str) -> Graph:
    reads = "0 1 out" if type == "MemoryData" else "1 1 in out"
    text = f"7767517\n2 2\nInput in 0 1 in\n{type} l {reads} {params}\n"
    return ncnnfile.parse_param(text)


@pytest.mark.parametrize(("type", "params", "weights"), SLOTS)
def test_weights(type: str, params: str, weights: str) -> None:
    slots = parse(type, params).layers[1].slots()
    assert weights.split() == ["*" * s.tagged + s.name + ":" + ",".join(map(str, shape)) for s, shape in slots]


def test_every_type_with_weights_is_among_them() -> None:
    assert {type for type, _, weights in SLOTS if weights} == {op.name for op in OPS.values() if op.weights}


class Zeros(ncnn.DataReader):  # type: ignore[misc]
    """Gives ncnn as many zeros as it reads, and records their number. As a tag, zeros mean fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []

    def read(self, buffer: Any, size: int) -> int:
        address = ctypes.pythonapi.PyCapsule_GetPointer
        address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        ctypes.memset(address(buffer, None), 0, size)
        self.reads.append(size)
        return size


@pytest.mark.parametrize(("type", "params"), [case[:2] for case in SLOTS])
def test_ncnn_reads_these_blocks(type: str, params: str) -> None:
    one = parse(type, params).layers[1]
    given = ncnn.ParamDict()
    for name, value in one.params.items():
        given.set(one.op.param(name).id, value)
    native, reader = ncnn.create_layer(type), Zeros()
    assert native.load_param(given) == 0
    assert native.load_model(ncnn.ModelBinFromDataReader(reader)) == 0
    expected: list[int] = []
    for slot, shape in one.slots():
        count = math.prod(shape)
        if slot.packed(one.p):
            expected += [(count + 3) // 4 * 4]
        else:
            expected += [4] * slot.tagged + [4 * count]
    assert reader.reads == expected
