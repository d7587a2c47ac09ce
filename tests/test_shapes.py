"""Inferred shapes equal ncnn's, and impossible shapes are refused before ncnn gets them."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import network, samples, small, with_weights

from ncnnkit.device.session import Session, noise
from ncnnkit.errors import ModelError
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.model.ops import OPS

SOURCE = os.environ.get("NCNNKIT_NCNN_SOURCE")


def computed(graph: Graph, blobs: list[str]) -> dict[str, tuple[int, ...]]:
    """ncnn's blobs for noise, in this process, because a process for each network would take minutes."""
    net = ncnn.Net()
    net.opt.lightmode = net.opt.use_fp16_storage = net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        ncnnfile.save(graph, Path(folder, "m.param"))
        assert net.load_param(f"{folder}/m.param") == 0
        assert net.load_model(f"{folder}/m.bin") == 0
    with net.create_extractor() as extractor:
        arrays = noise(graph)
        for name, array in zip(graph.inputs, arrays, strict=True):
            extractor.input(name, ncnn.Mat(array))
        return {blob: np.asarray(extractor.extract(blob)[1]).shape for blob in blobs}


def differences(graph: Graph) -> tuple[list[str], int]:
    """The blobs with another inferred shape than ncnn's, and the number of blobs with unknown sides."""
    known = graph.infer_shapes()
    blobs = [blob for layer in graph.layers if layer.type != "Noop" for blob in layer.outputs]
    real = computed(graph, blobs)
    certain = {
        blob: shape
        for blob in blobs
        if (shape := known[blob]) is not None and all(isinstance(side, int) for side in shape)
    }
    return [f"{b}: {s}, not {real[b]}" for b, s in certain.items() if s != real[b]], len(blobs) - len(certain)


# Templates of layers: {a} to {d} are small numbers; the input is 6x5x8 unless given.
LAYERS = {
    "Convolution": "Convolution l 1 1 in0 out 0=4 1={a} 11={b} 2={c} 3={b} 13={a} 4={d} 15=1 5=1",
    "Convolution, same": "Convolution l 1 1 in0 out 0=4 1={a} 3={b} 4=-233 5=1",
    "ConvolutionDepthWise": "ConvolutionDepthWise l 1 1 in0 out 0=6 1={a} 3={b} 4={c} 5=1 7=3",
    "Deconvolution": "Deconvolution l 1 1 in0 out 0=4 1={a} 11={b} 2={c} 3={b} 4={d} 18=1 5=1",
    "Deconvolution, sized": "Deconvolution l 1 1 in0 out 0=4 1=3 3=2 4=-233 20=15 21=9 5=1",
    "DeconvolutionDepthWise": "DeconvolutionDepthWise l 1 1 in0 out 0=6 1={a} 3={b} 5=1 7=6",
    "Pooling": "Pooling l 1 1 in0 out 0=0 1={a} 11={b} 2={c} 3={d} 5={m}",
    "Pooling, global": "Pooling l 1 1 in0 out 0=1 4=1",
    "Pooling, adaptive": "Pooling l 1 1 in0 out 0=1 7=1 8={a} 18={b}",
    "Permute": "Permute l 1 1 in0 out 0={p}",
    "Flatten": "Flatten l 1 1 in0 out",
    "Reshape": "Reshape l 1 1 in0 out 0=-1 1={a}",
    "Reshape, kept": "Reshape l 1 1 in0 out 0=-1 1=0",
    "Reshape, expression": 'Reshape l 1 1 in0 out 6="0w,-1"',
    "Crop": "Crop l 1 1 in0 out -23309=1,{a} -23310=1,-233 -23311=1,{t}",
    "Padding": "Padding l 1 1 in0 out 0={a} 1={b} 2={c} 3={d} 5=1.0",
    "Padding, channels": "Padding l 1 1 in0 out 0={a} 7={b} 8={c}",
    "Slice": "Slice l 1 2 in0 out rest -23300=2,{a},-233 1={t}",
    "Slice, indices": "Slice l 1 2 in0 out rest -23302=1,{a} 1={t}",
    "Reduction": "Reduction l 1 1 in0 out 0=0 1=0 -23303=1,{t} 4={k} 5=1",
    "Reduction, all": "Reduction l 1 1 in0 out 0=0 1=1 4={k} 5=1",
    "Squeeze": "Reduction r 1 1 in0 s 1=0 -23303=1,{t} 4=1 5=1\nSqueeze l 1 1 s out -23303=1,{t}",
    "ExpandDims": "ExpandDims l 1 1 in0 out -23303=1,{t}",
    "Interp": "Interp l 1 1 in0 out 0=1 1={f} 2={f}",
    "Interp, sized": "Interp l 1 1 in0 out 0=2 3={a} 4={b}",
    "PixelShuffle": "Convolution c 1 1 in0 s 0=8 1=1 5=1\nPixelShuffle l 1 1 s out 0=2",
    "Reorg": "Convolution c 1 1 in0 s 0=8 1=2 4=0 5=1 3=1\nReorg l 1 1 s out 0={a}",
    "Tile": "Tile l 1 1 in0 out 0={t} 1={a}",
    "GLU": "GLU l 1 1 in0 out 0=0",
    "StatisticsPooling": "StatisticsPooling l 1 1 in0 out 0={k}",
    "Unfold": "Unfold l 1 1 in0 out 1={a} 3={b} 4={c}",
    "InnerProduct": "InnerProduct l 1 1 in0 out 0=5 1=1 2=1200",
    "InnerProduct, rows": "Input in1 0 1 in1 0=6 1={a}\nInnerProduct l 1 1 in1 out 0=5 1=1 2=30",
    "BinaryOp": "Pooling p 1 1 in0b s 0=1 4=1\nBinaryOp l 2 1 in0a s out 0=2",
    "Concat": "Concat l 2 1 in0a in0b out 0={t}",
    "LSTM": "Input in1 0 1 in1 0=6 1={a}\nLSTM l 1 3 in1 out h c 0=5 1=240 2=2",
    "LSTM, one way": "Input in1 0 1 in1 0=6 1={a}\nLSTM l 1 1 in1 out 0=5 1=120 2={k}",
    "GRU": "Input in1 0 1 in1 0=6 1={a}\nGRU l 1 2 in1 out h 0=5 1=180 2=2",
    "RNN": "Input in1 0 1 in1 0=6 1={a}\nRNN l 1 2 in1 out h 0=5 1=60 2=2",
    "Gemm": "Input in1 0 1 in1 0=6 1={a}\nGemm l 1 1 in1 out 2=0 3=1 4=0 5=1 6=1 8=7 9=6 10=4 11={k} 14={k}",
    "MatMul": "Input in1 0 1 in1 0={a} 1=6\nInput in2 0 1 in2 0=6 1={b}\nMatMul l 2 1 in2 in1 out",
    "MatMul, stacked": "Input in1 0 1 in1 0={a} 1=8 2={k1}\nMatMul l 2 1 in0 in1 out",
    "MultiHeadAttention": "Input in1 0 1 in1 0=8 1={a}\nMultiHeadAttention l 1 1 in1 out 0=8 1=2 2=64",
}
AREAS = {"Convolution": 6, "ConvolutionDepthWise": 2, "Deconvolution": 6, "DeconvolutionDepthWise": 1}


def built(text: str, numbers: dict[str, Any]) -> Graph:
    """A network of a template's layers. The sizes of convolution weights follow from the channels."""
    lines = [line.format(**numbers) for line in text.split("\n")]
    if any("in0a" in line for line in lines):
        lines.insert(0, "Split s0 1 2 in0 in0a in0b")
    if not any(" in0" in line for line in lines):
        lines.append("Noop unused 1 0 in0")
    lines.insert(0, "Input in0 0 1 in0 0=8 1=5 2=6")
    for i, line in enumerate(lines):
        kind = line.split()[0]
        if kind in AREAS:
            params = dict(part.split("=") for part in line.split()[6:])
            area = int(params["1"]) * int(params.get("11", params["1"]))
            lines[i] = f"{line} 6={int(params['0']) * AREAS[kind] * area}"
    return network("\n".join(lines))


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_an_inferred_shape_equals_ncnns(name: str, data: st.DataObject) -> None:
    one_to_three = st.integers(1, 3)
    numbers = {key: data.draw(one_to_three, key) for key in "abcd"}
    numbers.update(m=data.draw(st.integers(0, 3)), p=data.draw(st.integers(0, 5)), t=data.draw(st.integers(0, 2)))
    numbers.update(k=data.draw(st.integers(0, 1)), k1=data.draw(st.sampled_from([1, 6])))
    graph = built(LAYERS[name], {**numbers, "f": data.draw(st.sampled_from(["0.5", "1.5", "2.0"]))})
    try:
        wrong, unknown = differences(graph)
    except ModelError:  # it does not fit; a refused network must not be run
        assume(False)
    assert not wrong
    assert not unknown


def test_every_rule_is_tested_here_or_keeps_the_shape() -> None:
    tried = {line.split()[0] for text in LAYERS.values() for line in text.split("\n")}
    kept = {name for name, op in OPS.items() if op.shape in (OPS["ReLU"].shape, OPS["Diag"].shape)}
    named = {"Eltwise", "Noop", "Scale", "BatchNorm", "PReLU", "InstanceNorm", "GroupNorm", "LayerNorm", "RMSNorm",
             "MemoryData", "SDPA", "Embed", "DeformableConv2D"}  # fmt: skip
    alike = {name for name in OPS if name.endswith(("1D", "3D"))}
    assert OPS.keys() - tried - kept - named - alike == set()


@pytest.mark.parametrize("graph", [small()], ids=["small"])
def test_a_whole_network(graph: Graph) -> None:
    assert differences(graph) == ([], 0)


@pytest.mark.slow
@pytest.mark.skipif(SOURCE is None, reason="NCNNKIT_NCNN_SOURCE does not name a checkout of ncnn")
@pytest.mark.parametrize("name", ["mobilenet_v3", "nanodet_m", "shufflenet_v2", "yolo-fastestv2", "efficientnet_b0"])
def test_the_networks_of_ncnns_benchmark(name: str) -> None:
    (file,) = Path(SOURCE or "", "benchmark").rglob(f"{name}.param")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert differences(with_weights(ncnnfile.load_param(file)))[0] == []


# ------------------------------------------------------------------------------------------------- what cannot be

FULLY_CONVOLUTIONAL = """
    Input       data 0 1 data 0=12 1=12 2=3
    Convolution c1   1 1 data a 0=10 1=3 5=1 6=270
    PReLU       p1   1 1 a b 0=10
    Convolution c2   1 1 b c 0=4 1=8 5=1 6=2560
"""


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 12, 12), "layer Convolution c1 expects 3 channels, but gets 1x12x12"),
        ((6, 12, 12), "layer Convolution c1 expects 3 channels, but gets 6x12x12"),
        ((12, 12, 3), r"gets 12x12x3 \(is that height x width x channels\? ncnn takes the channels first: 3x12x12"),
        ((3, 12, 9), r"layer Convolution c2 has a window of 8, but gets a side of 7"),
    ],
)
def test_impossible_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    graph = network(FULLY_CONVOLUTIONAL)
    with pytest.raises(ModelError, match=message):
        graph.check_input_shapes([shape])
    with pytest.raises(ModelError, match=message), Session(graph, threads=1) as net:
        net.run(samples(1, shape)[0])


def test_a_network_takes_other_sizes_than_its_file_if_they_fit() -> None:
    graph = network(FULLY_CONVOLUTIONAL)
    wrong = graph.copy()
    wrong.layers[0].params.update(w=3, h=12, c=12)
    with Session(graph, threads=1) as right, Session(wrong, threads=1) as hinted:
        for shape in ((3, 12, 12), (3, 20, 16)):
            x = samples(1, shape)[0]
            np.testing.assert_array_equal(right.run(x), hinted.run(x))


def test_a_network_of_one_size_does_not() -> None:
    with pytest.raises(ModelError, match="layer InnerProduct fc expects 10 values"):
        network("Convolution c 1 1 in0 a 0=1 1=1 5=1 6=4\nInnerProduct fc 1 1 a out 0=2 2=20").check_input_shapes(
            [(4, 5, 6)]
        )


def test_old_files_mark_a_missing_side_with_a_number() -> None:
    graph = network("Input in0 0 1 in0 0=3 1=-233 2=-233\nReLU r 1 1 in0 out")
    assert graph.input_shapes() == [(3,)]
    assert graph.infer_shapes() == {"in0": (3,), "out": (3,)}
