"""Models: ncnn's own files, cards, and originals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mutations import mutate_bytes, mutate_json, mutate_protobuf, mutate_text, zipped
from networks import network, small
from numpy.typing import NDArray

from fuzzing.format import BYTES, INPUTS, JSON, MB, PREPROCESS, TEXT, ZIP, Format, scratch, values
from ncnnkit.artifact import Artifact, Tensor, card_of
from ncnnkit.errors import NcnnkitError
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.passes import optimize
from ncnnkit.quantization.table import load_table, save_table
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.source.files import read_export
from ncnnkit.source.model import read_metadata
from ncnnkit.tasks import presets
from ncnnkit.tasks.guess import guess
from ncnnkit.tasks.known import Known

LAYERS = (
    "Input in0 0 1 in0 0=16 1=16 2=3",
    "Convolution c1 1 1 in0 b1 0=8 1=3 4=1 5=1 6=216 9=2 -23310=1,1.0e-01",
    "Split s1 1 2 b1 b1a b1b",
    "Pooling p1 1 1 b1a b2 0=1 1=3 2=2 3=1 5=1",
    "Interp i1 1 1 b2 b3 0=2 1=2.0 2=2.0",
    "BatchNorm bn 1 1 b1b b1c 0=8",
    "Slice sl 1 2 b1c x1 x2 -23300=2,4,-233",
    "Concat cc 2 1 x2 x1 y1",
    "BinaryOp add 2 1 b3 y1 b4 0=0",
    "Scale sc 1 1 b4 b4s 0=8 1=1",
    "ReLU r1 1 1 b4s b5",
    "Pooling gap 1 1 b5 b6 0=1 4=1",
    "Reshape rs 1 1 b6 b7 0=-1",
    "InnerProduct fc 1 1 b7 b8 0=10 1=1 2=80",
    "Softmax sm 1 1 b8 out0 0=0 1=1",
)


def _net() -> Graph:
    return network("\n".join(LAYERS))


def _param_seeds() -> list[bytes]:
    cases = sorted((Path(__file__).parent.parent / "cases").glob("*.param"))
    return [ncnnfile.format_param(_net()).encode(), *(path.read_bytes() for path in cases)]


def _read_param(folder: Path, data: bytes) -> None:
    path = folder / "m.param"
    path.write_bytes(data)
    graph = ncnnfile.load_param(path)
    text = ncnnfile.format_param(graph)
    assert ncnnfile.format_param(ncnnfile.parse_param(text)) == text
    graph.input_shapes()
    repr(graph)


def _read_network(folder: Path, data: bytes) -> None:
    """A network whose weights are zeros: passes change it, and it is written."""
    path = folder / "m.param"
    path.write_bytes(data)
    structure, _ = ncnnfile._parse(data.decode(errors="strict"), "m.param")
    size = 0
    for layer in structure.layers:
        for slot, shape in layer.slots():
            count = int(np.prod(shape, dtype=object))
            size += (count + 3) // 4 * 4 if slot.packed(layer.p) else 4 * count + (4 if slot.tagged else 0)
    if size > 4 * MB:
        return
    with path.with_suffix(".bin").open("wb") as file:
        file.truncate(size)
    graph = ncnnfile.load(path)
    graph.infer_shapes()
    better = optimize(graph)
    ncnnfile.save(better, folder / "better.param")
    assert ncnnfile.load(folder / "better.param").layers == better.layers


def _bin_net() -> Graph:
    """A weight in each storage."""
    lines = (
        "InnerProduct a 1 1 in0 x 0=2 1=1 2=6", "InnerProduct b 1 1 x y 0=3 1=0 2=6", "PReLU c 1 1 y z 0=3",
        "InnerProduct d 1 1 z out0 0=2 1=1 2=6",
    )  # fmt: skip
    graph = network("\n".join(("Input in0 0 1 in0 0=3", *lines)))
    graph.layer("a").weights["weight"] = graph.layer("a").array("weight").astype(np.float16)
    return graph


@cache
def _written_net(make: Callable[[], Graph]) -> tuple[bytes, bytes]:
    """The bytes of the two files."""
    with scratch() as folder:
        ncnnfile.save(make(), folder / "m.param")
        return (folder / "m.param").read_bytes(), (folder / "m.bin").read_bytes()


def _bin_seeds() -> list[bytes]:
    plain = _written_net(_bin_net)[1]
    coded = (5).to_bytes(4, "little") + np.arange(256, dtype=np.float32).tobytes() + bytes(range(6)) + bytes(2)
    return [plain, coded + plain[16:]]


def _read_bin(folder: Path, data: bytes) -> None:
    path = folder / "m.param"
    path.write_bytes(_written_net(_bin_net)[0])
    path.with_suffix(".bin").write_bytes(data)
    graph = ncnnfile.load(path)
    ncnnfile.save(graph, folder / "again.param")
    assert ncnnfile.load(folder / "again.param").layers == graph.layers


def _table_seeds() -> list[bytes]:
    return [
        b"c1_param_0 110.5 27.25 1 3.5 0.000123456789 \nc2_param_0 60 inf \nc1 21.5 \nc2 0.5 \n",
        b"conv_param_0 1.0\nconv 127.0\n",
    ]


def _read_table(folder: Path, data: bytes) -> None:
    path = folder / "m.table"
    path.write_bytes(data)
    table = load_table(path)
    save_table(table, path)
    again = load_table(path)
    assert again.weights.keys() == table.weights.keys()
    assert again.inputs.keys() == table.inputs.keys()
    for key, scales in table.weights.items():
        assert np.allclose(again.weights[key], scales, rtol=1e-5, atol=0), key
    table.without({"c1"})


@cache
def _card() -> bytes:
    graph = small()
    decoder = presets.yolox((64, 64), 3)
    artifact = Artifact.made(
        graph, "fp32", preprocess=Preprocess(resize=20, crop=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)),
        labels=("a", "b", "c"), ncnn="1.0.20260101", pillow="11.0", target="arm", task="detection:head=yolox",
        decoder=decoder, fed=("image",), outputs=(Tensor("out0", (84, 8)),),
    )  # fmt: skip
    with scratch() as folder:
        artifact.save(folder / "m.param")
        return card_of(folder / "m.param").read_bytes()


def _read_card(folder: Path, data: bytes) -> None:
    path = folder / "m.param"
    if not path.exists():
        ncnnfile.save(small(), path)
    card_of(path).write_bytes(data)
    model = Artifact.load(path)
    repr(model)
    _ = model.purpose, model.graph, model.options
    for precision in model.precisions:
        model.at(precision)
    if not model.derived:
        saved = model.save(folder / "saved.param")
        for field in fields(model):
            if field.name not in ("param", "how"):
                assert getattr(saved, field.name) == getattr(model, field.name), f"{field.name} comes back"


# ------------------------------------------------------------------------------------------------------------ originals


@cache
def _onnx_seeds() -> list[bytes]:
    import onnx
    from onnx import helper, numpy_helper

    def model(
        nodes: list[Any], weights: dict[str, NDArray[Any]], shape: list[Any], made: list[Any], **metadata: str
    ) -> bytes:
        values = [helper.make_tensor_value_info(name, 1, dims) for name, dims in (("x", shape), ("y", made))]
        tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
        found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(found, metadata)
        onnx.checker.check_model(found)
        return bytes(found.SerializeToString())

    node = helper.make_node
    net = [
        node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Shape", ["r"], ["s"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], ["g"]),
        node("Reshape", ["g", "to"], ["f"]),
        node("Gemm", ["f", "m"], ["h"], transB=1),
        node("Softmax", ["h"], ["y"], axis=1),
    ]
    weights = {"w": values(4, 3, 3, 3), "b": values(4), "to": np.array([0, -1]), "m": values(5, 4)}
    names = "{0: 'cat', 1: 'dog', 2: 'cow', 3: 'hen', 4: 'pig'}"
    how, labels = json.dumps(PREPROCESS.to_dict()), json.dumps(list("abcde"))
    codes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=0),
        node("Conv", ["d", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    scales: dict[str, NDArray[Any]] = {
        "s": np.array(0.02, np.float32), "z": np.array(3, np.int8),
        "wq": np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1, 1),
        "ws": np.full(4, 0.1, np.float32), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    return [
        model(net, weights, [1, 3, 8, 8], [1, 5], names=names, task="classify", stride="32"),
        model(net, weights, ["n", 3, 8, 8], ["n", 5], **{"ncnnkit.preprocess": how, "ncnnkit.labels": labels}),
        model(codes, scales, [1, 3, 8, 8], [1, 4, 8, 8]),
    ]


def _read_onnx(folder: Path, data: bytes) -> None:
    from ncnnkit.source import open_model
    from ncnnkit.source.onnx import lower

    path = folder / "m.onnx"
    path.write_bytes(data)
    source = open_model(path)
    graph = lower(source.file, source.inputs)
    graph.verify()


def _metadata_seeds() -> list[bytes]:
    how = json.dumps(PREPROCESS.to_dict())
    return [
        json.dumps(each).encode()
        for each in (
            {"ncnnkit.preprocess": how, "ncnnkit.labels": json.dumps(["a", "b"])},
            {
                "names": "{0: 'a', 1: 'b'}",
                "task": "classify",
                "stride": "32",
                "imgsz": "[8, 8]",
                "kpt_shape": "[17, 3]",
            },
            {"names": "['a', 'b']", "stride": "32", "task": "detect", "end2end": "True"},
        )
    ]


def _read_metadata(folder: Path, data: bytes) -> None:
    """The texts in a model file, without the file."""
    try:
        found = json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        found = {}
    found = found if isinstance(found, dict) else {}
    texts = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}
    preprocess, _, labels = read_metadata("m.onnx", texts, INPUTS)
    if preprocess is not None:
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert labels is None or all(isinstance(label, str) for label in labels)
    outputs = [[values(8, 20)], [values(8, 20) * 2]]
    guess(Known(outputs, (8, 8), texts, labels or (), "m", 3, None, False, None, ""))


def _export_seeds() -> list[bytes]:
    return [
        b"description: Ultralytics YOLO11n\nauthor: x\ndate: '2026-01-01T00:00:00'\nversion: 8.3.0\nstride: 32\n"
        b"task: detect\nbatch: 1\nimgsz:\n- 640\n- 640\nnames:\n  0: person\n  1: bicycle\nchannels: 3\n",
        b"task: pose\nimgsz: 64\nbatch: 1\nnames: [a]\nkpt_shape: [17, 3]\nargs: {half: false, int8: false}\n",
    ]


def _read_export(folder: Path, data: bytes) -> None:
    (folder / "metadata.yaml").write_bytes(data)
    found = read_export(folder / "metadata.yaml")
    if found is not None:
        read_metadata("m.param", found.metadata, (InputSpec("in0", found.shape),))


def _torchscript_seeds() -> list[bytes]:
    import pickle

    shapes = pickle.dumps({"forward": []}, 2)
    config = json.dumps({"names": {"0": "a"}, "task": "detect", "stride": 32}).encode()
    files = [("m/constants.pkl", b"\x80\x02)."), ("m/traced_inputs.pkl", shapes), ("m/extra/config.txt", config),
             ("m/version", b"3\n"), ("m/code/__torch__.py", b"x")]  # fmt: skip
    return [zipped(files)]


def _read_torchscript(folder: Path, data: bytes) -> None:
    """What ncnnkit itself reads of an archive; torch reads the rest."""
    from ncnnkit.source.files import _read_archive

    (folder / "m.pt").write_bytes(data)
    _read_archive("m.pt", folder / "m.pt")


FORMATS: dict[str, Format] = {
    "param": Format(_param_seeds, _read_param, TEXT),
    "network": Format(_param_seeds, _read_network, (mutate_text,), (NcnnkitError, UnicodeDecodeError)),
    "bin": Format(_bin_seeds, _read_bin, BYTES),
    "table": Format(_table_seeds, _read_table, TEXT),
    "card": Format(lambda: [_card()], _read_card, JSON),
    "onnx": Format(_onnx_seeds, _read_onnx, (mutate_protobuf,) * 4 + (mutate_bytes,), room=256 * MB),
    "metadata": Format(_metadata_seeds, _read_metadata, (mutate_json, mutate_text)),
    "export": Format(_export_seeds, _read_export, TEXT),
    "torchscript": Format(_torchscript_seeds, _read_torchscript, ZIP),
}
