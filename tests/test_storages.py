"""The storage of each blob is predicted correctly for every type of layer, so that nothing is misread or wrongly
refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ncnn
import pytest
from networks import mixed, network, quantised, small
from test_shapes import LAYERS, built

from ncnnkit.device.session import noise
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.model.ops import OPS
from ncnnkit.onboard import storages
from ncnnkit.onboard.storages import check_storages

NUMBERS = {**dict.fromkeys("abt", 2), "c": 1, "d": 1, "m": 0, "p": 2, "k": 0, "k1": 1, "f": "2.0"}
ALIKE = [
    "ReLU", "Sigmoid", "Swish", "GELU", "TanH", "Mish", "ELU", "SELU", "Exp", "Log", "AbsVal", "BNLL", "MVN", "Dropout",
    "CELU", "Softplus", "Shrink", "Power", "LRN", "Threshold",
]  # fmt: skip
QUERY = "".join(f"Input {name} 0 1 {name} 0=8 1=5 2=2\n" for name in "qkv")
LONG = "Input in1 0 1 in1 0=8 1=6\n"
DEEP = "Input in1 0 1 in1 0=6 1=5 11=4 2=3\n"
MORE = {
    **{kind: f"{kind} l 1 1 in0 out" for kind in ALIKE},
    "Clip": "Clip l 1 1 in0 out 0=0.0 1=6.0",
    "Softmax": "Softmax l 1 1 in0 out 0=0 1=1",
    "HardSwish": "HardSwish l 1 1 in0 out 0=0.2 1=0.5",
    "HardSigmoid": "HardSigmoid l 1 1 in0 out 0=0.2 1=0.5",
    "UnaryOp": "UnaryOp l 1 1 in0 out 0=0",
    "Scale": "Scale l 1 1 in0 out 0=6 1=1",
    "Bias": "Bias l 1 1 in0 out 0=6",
    "BatchNorm": "BatchNorm l 1 1 in0 out 0=6",
    "PReLU": "PReLU l 1 1 in0 out 0=6",
    "LayerNorm": "LayerNorm l 1 1 in0 out 0=8 1=1e-5 2=0",
    "RMSNorm": "RMSNorm l 1 1 in0 out 0=8 1=1e-5 2=0",
    "InstanceNorm": "InstanceNorm l 1 1 in0 out 0=6",
    "GroupNorm": "GroupNorm l 1 1 in0 out 0=2 1=6 2=1e-5 3=0",
    "Normalize": "Normalize l 1 1 in0 out 1=1 2=1e-5 3=1 4=0 9=0",
    "ShuffleChannel": "ShuffleChannel l 1 1 in0 out 0=2",
    "CumulativeSum": "CumulativeSum l 1 1 in0 out 0=0",
    "Eltwise": "Eltwise l 2 1 in0a in0b out 0=1",
    "MemoryData": "MemoryData m 0 1 mm 0=8 1=5 2=6\nBinaryOp l 2 1 in0 mm out 0=0",
    "Split": "Split l 1 2 in0 a b\nReLU r 1 1 a out\nReLU s 1 1 b other",
    "Erf": "Erf l 1 1 in0 out",
    "Flip": "Flip l 1 1 in0 out -23300=1,2",
    "Diag": "Input in1 0 1 in1 0=6\nDiag l 1 1 in1 out",
    "Einsum": "Einsum l 2 1 in0a in0b out -23300=11,105,106,107,44,105,106,107,45,62,105,106",
    "Embed": "Input in1 0 1 in1 0=6\nEmbed l 1 1 in1 out 0=5 1=8 3=40",
    "GridSample": "Input in1 0 1 in1 0=2 1=4 2=3\nGridSample l 2 1 in0 in1 out 0=1 1=1 2=0",
    "RotaryEmbed": "Input in1 0 1 in1 0=4 1=5\nInput in2 0 1 in2 0=4 1=5\nRotaryEmbed l 3 1 in0 in1 in2 out",
    "SDPA": QUERY + "SDPA l 3 1 q k v out",
    "SDPA, masked": QUERY + "Input mask 0 1 mask 0=5 1=5\nSDPA l 4 1 q k v mask out 5=1",
    "Convolution1D": LONG + "Convolution1D l 1 1 in1 out 0=4 1=3 5=1 6=72",
    "ConvolutionDepthWise1D": LONG + "ConvolutionDepthWise1D l 1 1 in1 out 0=6 1=3 5=1 6=18 7=6",
    "Deconvolution1D": LONG + "Deconvolution1D l 1 1 in1 out 0=4 1=3 5=1 6=72",
    "DeconvolutionDepthWise1D": LONG + "DeconvolutionDepthWise1D l 1 1 in1 out 0=6 1=3 5=1 6=18 7=6",
    "Pooling1D": LONG + "Pooling1D l 1 1 in1 out 0=1 1=2 2=2",
    "Convolution3D": DEEP + "Convolution3D l 1 1 in1 out 0=4 1=3 5=1 6=324",
    "ConvolutionDepthWise3D": DEEP + "ConvolutionDepthWise3D l 1 1 in1 out 0=3 1=3 5=1 6=81 7=3",
    "Deconvolution3D": DEEP + "Deconvolution3D l 1 1 in1 out 0=4 1=3 5=1 6=324",
    "DeconvolutionDepthWise3D": DEEP + "DeconvolutionDepthWise3D l 1 1 in1 out 0=3 1=3 5=1 6=81 7=3",
    "Pooling3D": DEEP + "Pooling3D l 1 1 in1 out 0=1 1=2 2=2",
    "DeformableConv2D": ("Input in1 0 1 in1 0=8 1=5 2=18\nDeformableConv2D l 2 1 in0 in1 out 0=4 1=3 4=1 5=1 6=216"),
    "Spectrogram": "Input in1 0 1 in1 0=64\nSpectrogram l 1 1 in1 out 0=16 1=1 2=4",
}
CONVOLUTION = "Convolution a 1 1 in0 x 0=4 1=1 6=16"
NETWORKS = {"int8": lambda: quantised(small()), "mixed": lambda: mixed()[1]}


def opened(graph: Graph, folder: Path, fp16: bool, bf16: bool) -> tuple[Any, str]:
    """The network, loaded, and its ``.param``."""
    param = folder / "m.param"
    ncnnfile.save(graph, param)
    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode = 1, False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = fp16
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = bf16
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(param.with_suffix(".bin"))) == 0
    return net, str(param)


def bits(net: Any, graph: Graph) -> dict[int, int]:
    """Blob -> the bits of a value in it."""
    found = {}
    with net.create_extractor() as extractor:
        mats = [ncnn.Mat(array).clone() for array in noise(graph)]
        for name, mat in zip(graph.inputs, mats, strict=True):
            extractor.input(name, mat)
        for blob in (blob for layer in net.layers() for blob in layer.tops):
            mat = ncnn.Mat()
            if extractor.extract(net.blobs()[blob].name, mat, 1) == 0 and not mat.empty():  # 1: as it is
                found[blob] = mat.elembits()
    return found


@pytest.mark.parametrize(("fp16", "bf16"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("name", [*LAYERS, *MORE, *NETWORKS])
def test_the_storage_of_each_blob_is_predicted(name: str, fp16: bool, bf16: bool, tmp_path: Path) -> None:
    if name == "mixed" and not bf16:
        pytest.skip("made for bf16")
    graph = NETWORKS[name]() if name in NETWORKS else built({**LAYERS, **MORE}[name], NUMBERS)
    net, param = opened(graph, tmp_path, fp16, bf16)
    foretold = {
        blob: {"float": 32, "int8": 8}.get(kind, 16) for blob, kind in check_storages(net, param, False).items()
    }
    real = bits(net, graph)
    assert real
    assert {blob: foretold[blob] for blob in real} == real


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{CONVOLUTION} 31=3\nReLU r 1 1 x out0 31=7", "layer a outputs bf16, but layer r reads float"),
        (f"{CONVOLUTION} 31=7\nCast r 1 1 x out0 0=4 1=1 31=7", "layer a outputs float, but Cast r reads bf16"),
        (f"{CONVOLUTION} 31=7\nSplit s 1 2 x y z\nReLU r 1 1 y o\nReLU t 1 1 z p 31=7", "layer s outputs bf16"),
    ],
)
def test_a_misread_blob_is_named(text: str, message: str, tmp_path: Path) -> None:
    """A Split without a mask outputs bf16 by itself."""
    net, param = opened(network(text), tmp_path, True, True)
    with pytest.raises(RuntimeError, match=f"this model does not run here: {message}"):
        check_storages(net, param, False)


@pytest.mark.parametrize(
    "text",
    [
        f"{CONVOLUTION} 31=3\nCast c 1 1 x y 0=4 1=1 31=7\nReLU r 1 1 y out0 31=7",
        f"{CONVOLUTION} 31=7\nReLU r 1 1 x out0 31=3",
    ],
)
def test_correct_networks_are_accepted(text: str, tmp_path: Path) -> None:
    check_storages(*opened(network(text), tmp_path, True, True), False)


def test_every_type_that_a_mask_may_change_is_tried() -> None:
    """The other types convert storages, select boxes, or are not built into ncnn's Python package."""
    tried = {line.split()[0] for text in {**LAYERS, **MORE}.values() for line in text.split("\n")}
    left = {"ArgMax", "Cast", "Quantize", "Dequantize", "Requantize", "Packing", "DeepCopy", "Noop", "CopyTo", "Fold",
            "SPP", "InverseSpectrogram", "PriorBox", "Proposal", "DetectionOutput", "YoloDetectionOutput",
            "Yolov3DetectionOutput", "ROIAlign", "ROIPooling", "PSROIPooling"}  # fmt: skip
    assert OPS.keys() - tried == left


def test_its_numbers_equal_the_table_of_layer_types() -> None:
    calibrated = {op.name for op in OPS.values() if op.int8 is not None}
    assert calibrated == set(storages.INT8_TYPES)
    assert {OPS[name].by_name["int8_scale_term"].id for name in calibrated} == {int(storages.INT8_SCALE_TERM)}
    cast = OPS["Cast"].by_name
    assert [str(cast[name].id) for name in ("type_from", "type_to", "featmask")] == [
        storages.TYPE_FROM, storages.TYPE_TO, storages.FEATMASK,
    ]  # fmt: skip
