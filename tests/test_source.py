"""Model references: what each opens, its shapes and metadata, and errors with hints."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import reference_of, small
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import ncnnkit
from ncnnkit.errors import FormatError, ModelError
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ncnnfile import save
from ncnnkit.onboard.picture import Fit
from ncnnkit.recipe import KEYS
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS
from ncnnkit.source import ModelSource, open_model, set_batchnorm_statistics
from ncnnkit.source.files import READERS
from ncnnkit.source.model import read_metadata
from ncnnkit.source.onnx_data import inline_external_data

DEMO = Path(ncnnkit.__file__).parent / "data" / "efficientnet-lite0.onnx"


def opened(reference: object, *shapes: tuple[int, ...], **options: Any) -> ModelSource:
    return open_model(str(reference), shapes=shapes, **options)


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def test_class_names_that_are_not_utf8_are_shown_with_replacement_characters() -> None:
    """JSON can contain half a character, which a text file cannot."""
    _, _, labels = read_metadata("m", {"ncnnkit.labels": '["cat", "caf\\udce9"]'}, ())
    assert labels == ("cat", "caf\ufffd")


def test_importing_ncnnkit_stays_light() -> None:
    heavy = {"PIL", "torch", "torchvision", "timm", "onnx", "onnxruntime", "ncnn", "pnnx"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ncnnkit; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not heavy & set(done.stdout.split())


# ------------------------------------------------------------------------------------------------------------ ONNX


def write_onnx(
    path: Path, *inputs: tuple[str, int, Any], metadata: dict[str, str] | None = None, cast: bool = True
) -> Path:
    """A model that adds its first two inputs, or squares the only one, in float32."""
    names = [f"{name}_f" if cast else name for name, _, _ in inputs]
    nodes = [helper.make_node("Cast", [n], [f"{n}_f"], to=TensorProto.FLOAT) for n, _, _ in inputs] if cast else []
    nodes.append(helper.make_node("Mul", [names[0], names[-1]], ["product"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*given) for given in inputs],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def test_the_demo_model(tmp_path: Path) -> None:
    source = opened(DEMO)
    assert (source.kind, source.engine, source.name) == ("onnx", "onnxruntime", "efficientnet-lite0")
    assert [(spec.name, spec.shape, spec.dtype) for spec in source.inputs] == [("input", (3, 224, 224), "float32")]
    assert source.outputs == ("logits",)
    assert source.preprocess == PRESETS["efficientnet-lite0"]
    assert source.preprocess_origin == "the model's own metadata (ncnnkit.preprocess)"
    assert source.labels is not None
    assert len(source.labels) == 1000
    samples = np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    outputs = reference_of(source, [samples])
    session = onnxruntime.InferenceSession(DEMO, providers=["CPUExecutionProvider"])
    assert list(outputs) == ["logits"]
    assert np.array_equal(outputs["logits"][1], session.run(None, {"input": samples[1:]})[0][0])


@pytest.mark.parametrize(
    ("given", "expected"), [((3, 6, 4), (3, 6, 4)), ((1, 3, 6, 4), (3, 6, 4))], ids=["without batch", "with batch"]
)
@pytest.mark.parametrize("dims", [["N", 3, "H", "W"], [1, 3, None, 4], [None, None, 6, 4], None])
def test_dynamic_dimensions_take_the_shape_given(
    tmp_path: Path, dims: Any, given: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = write_onnx(tmp_path / "m.onnx", ("x", TensorProto.FLOAT, dims))
    source = opened(path, given)
    assert source.inputs[0].shape == expected
    samples = np.random.default_rng(0).random((3, *expected), np.float32)
    assert np.array_equal(reference_of(source, [samples])["product"], samples**2)


@pytest.mark.parametrize(
    ("dims", "shapes", "message"),
    [
        (
            ["N", 3, "H", 4],
            [],
            r"input 'x': has dynamic dimensions \(\?,3,\?,4\) \(give them, such as --shape 3,224,4, in Python shapes=",
        ),
        (
            None,
            [],
            r"input 'x': the file does not contain its shape \(give it, such as --shape 3,224,224, in Python shapes=",
        ),
        ([1, 3, 6, 4], [(3, 6, 5)], "the shape 3,6,5 contradicts the model, which takes 3,6,4"),
        (["N", 3, "H", 4], [(3, 4)], r"the shape 3,4 contradicts the model, which takes 3,\?,4"),
        ([1, 3, 6, 4], [(3, 0, 4)], "shape 3,0,4 is not usable"),
        (["N", 3, "H", "W"], [()], "shape  ?is not usable"),
        ([1, 3], [(3,), (3,)], r"2 shapes are given, but the model has 1 inputs \(x\)"),
    ],
)
def test_shapes_that_cannot_be_used(tmp_path: Path, dims: Any, shapes: list[tuple[int, ...]], message: str) -> None:
    path = write_onnx(tmp_path / "m.onnx", ("x", TensorProto.FLOAT, dims))
    with pytest.raises(ModelError, match=message):
        opened(path, *shapes)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.INT64, "int64"),
        (TensorProto.UINT8, "uint8"), (TensorProto.BOOL, "bool"),
    ],
)  # fmt: skip
def test_samples_are_cast_to_the_inputs_own_type(tmp_path: Path, kind: int, dtype: str) -> None:
    source = opened(write_onnx(tmp_path / "m.onnx", ("x", kind, [1, 2])))
    assert source.inputs[0].dtype == dtype
    assert reference_of(source, [floats([0, 1])])["product"].tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.UINT64])
def test_types_that_ncnn_lacks(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ModelError, match="input 'x' takes tensor"):
        opened(write_onnx(tmp_path / "m.onnx", ("x", kind, [1, 2])))


def test_several_inputs_in_the_models_order(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", ("z", TensorProto.FLOAT, [1, 2]), ("a", TensorProto.INT64, ["N", 2]))
    source = opened(path)
    assert [(spec.name, spec.shape, spec.dtype) for spec in source.inputs] == [
        ("z", (2,), "float32"), ("a", (2,), "int64"),
    ]  # fmt: skip
    outputs = reference_of(source, [floats([0.5, 2]), floats([3, 4])])
    assert outputs["product"].tolist() == [[1.5, 8]]
    with pytest.raises(ModelError, match=r"1 shapes are given, but the model has 2 inputs \(z, a\)"):
        opened(path, (2,))


def test_an_original_that_fails_names_the_sample(tmp_path: Path) -> None:
    source = opened(write_onnx(tmp_path / "m.onnx", ("x", TensorProto.FLOAT, [1, 2])))
    with pytest.raises(ModelError, match=r"the original fails on sample 0: .*dimension"):
        reference_of(source, [np.zeros((1, 3), np.float32)])


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "cut"])
def test_corrupt_onnx(tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(DEMO.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(ModelError, match=r"broken\.onnx: ONNX Runtime cannot load it: "):
        opened(path)
    assert "broken.onnx" not in capfd.readouterr().err  # the error is shown once


@pytest.mark.parametrize("size_threshold", [0, 100])  # at 100 some tensors stay in the model
def test_weights_of_other_files_come_into_the_model(tmp_path: Path, size_threshold: int) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(40, dtype=np.float32),
        "b": np.arange(3, dtype=np.int64),
        "c": np.zeros((0, 3), np.float32),
    }
    nodes = [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(arrays["a"] + 1, "k"))]
    nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name in (*arrays, "k")]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in (*arrays, "k")]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [], outputs, weights), producer_name="p" * 200)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=size_threshold,
        convert_attribute=True,
    )  # fmt: skip
    whole = inline_external_data(tmp_path / "m.onnx")
    assert whole is not None
    (tmp_path / "w").unlink()
    loaded = onnx.load_from_string(whole)
    for tensor in loaded.graph.initializer:
        assert np.array_equal(numpy_helper.to_array(tensor), arrays[tensor.name])
    assert np.array_equal(numpy_helper.to_array(loaded.graph.node[0].attribute[0].t), arrays["a"] + 1)
    assert loaded.producer_name == model.producer_name
    assert inline_external_data(DEMO) is None


# -------------------------------------------------------------------------------------------------------- metadata

IMAGE = ("x", TensorProto.FLOAT, [1, 3, "H", "W"])
NAMES = json.dumps(["cat", "dog"])


def test_metadata_gives_preprocessing_and_labels_for_the_inputs_size(tmp_path: Path) -> None:
    given = Preprocess(resize=256, crop=(224, 224), mean=(0.5,))
    metadata = {"ncnnkit.preprocess": json.dumps(given.to_dict()), "ncnnkit.labels": NAMES}
    path = write_onnx(tmp_path / "m.onnx", IMAGE, metadata=metadata)
    source = opened(path, (3, 112, 112))
    assert source.preprocess == Preprocess(resize=128, crop=(112, 112), mean=(0.5,))
    assert source.labels == ("cat", "dog")


LETTERBOX = Preprocess(Fit("letterbox", (64, 64), fill=(114,)), "opencv")


@pytest.mark.parametrize(
    ("task", "expected"),
    [("classify", Preprocess(resize=64, crop=(64, 64))), ("detect", LETTERBOX), ("pose", LETTERBOX)],
)
def test_ultralytics_metadata(tmp_path: Path, task: str, expected: Preprocess) -> None:
    metadata = {"names": "{0: 'cat', 10: 'ox', 2: 'dog'}", "task": task}
    source = opened(write_onnx(tmp_path / "m.onnx", IMAGE, metadata=metadata), (3, 64, 64))
    assert source.preprocess == expected
    assert source.preprocess_origin.startswith("Ultralytics")
    assert source.labels == ("cat", "dog", "ox")


def test_ultralytics_metadata_of_a_network_for_grey_images(tmp_path: Path) -> None:
    metadata = {"names": "{0: 'cat'}", "task": "detect", "channels": "1"}
    source = opened(write_onnx(tmp_path / "m.onnx", ("x", TensorProto.FLOAT, [1, 1, 64, 64]), metadata=metadata))
    assert source.preprocess == dataclasses.replace(LETTERBOX, color="gray", mean=(0.0,), std=(1.0,))


def test_metadata_of_other_programs_is_ignored(tmp_path: Path) -> None:
    metadata = {"names": "Alice and Bob", "author": "x"}
    source = opened(write_onnx(tmp_path / "m.onnx", IMAGE, metadata=metadata), (3, 64, 64))
    assert (source.preprocess, source.preprocess_origin, source.labels) == (None, "", None)


@pytest.mark.parametrize(
    "metadata",
    [
        {"ncnnkit.preprocess": "{"},
        {"ncnnkit.preprocess": "[1, 2]"},
        {"ncnnkit.preprocess": "null"},
        {"ncnnkit.preprocess": '{"resize": -1}'},
        {"ncnnkit.labels": "3"},
        {"names": "{0: ", "task": "classify"},
        {"names": "{'a': 1}", "task": "classify"},
    ],
)
def test_metadata_that_cannot_be_read(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = write_onnx(tmp_path / "m.onnx", IMAGE, metadata=metadata)
    with pytest.raises(ModelError, match=r"m\.onnx: its metadata cannot be read"):
        opened(path, (3, 64, 64))


# -------------------------------------------------------------------------------------------- references in general


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("nowhere.onnx", {}, r"nowhere\.onnx: no such file$"),
        ("nowhere.pt", {}, r"nowhere\.pt: no such file$"),
        ("folder.onnx", {}, r"folder\.onnx: is a folder, not a model \(give a file, or a folder of Ultralytics"),
        (
            "notes.txt",
            {},
            r"is not a model that ncnnkit can read \(one of \.onnx, \.pt, \.pth, \.torchscript, \.jit, \.param\)",
        ),
        ("resnet50", {}, r"no such file or model \(a path, torchvision:NAME"),
        (":x", {}, "no such file or model"),
        ("torchvision:", {}, "no such file or model"),
        ("m.onnx", {"weights": "none"}, "--weights is only for torch models"),
    ],
)
def test_invalid_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match=message):
        opened(reference, **options)


@pytest.mark.parametrize("reference", ["torchvision:resnet50", "timm:resnet50", "package:function"])
def test_torch_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"torch is not installed \(pip install torch torchvision timm\)"):
        opened(reference)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mynet:built", r"mynet:built: mynet has no 'built' \(did you mean build\?\)"),
        ("mynet:build", "torch is not installed"),
        ("mynet:made", "torch is not installed"),
        ("mynet:Net.small", "torch is not installed"),
        ("open_ended:built", "torch is not installed"),
        ("broken:built", "torch is not installed"),
    ],
)
def test_an_undefined_name_is_reported_even_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    """The hint was to install torch, and the next error would have been this one."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text("import torch\nclass Net: ...\ndef build(): ...\nmade = build()\n")
    (tmp_path / "open_ended.py").write_text("from mynet import *\n")
    (tmp_path / "broken.py").write_text("def (\n")
    with pytest.raises(ModelError, match=message):
        opened(reference)


@pytest.mark.parametrize(
    ("stem", "name"), [("cls-fp32", "cls"), ("cls-mixed", "cls"), ("cls-fp8", "cls-fp8"), ("int8", "int8")]
)
def test_a_precision_at_the_end_of_an_ncnn_models_name_is_left_out(stem: str, name: str, tmp_path: Path) -> None:
    """Models made from it get their own precision in that place."""
    ncnnkit.save(small(), tmp_path / f"{stem}.param")
    assert opened(tmp_path / f"{stem}.param").name == name


def test_every_supported_extension_is_listed() -> None:
    assert all(ending in KEYS["model"].help for ending in READERS)


def test_names_become_safe_in_files(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "my net [v1], (copy).onnx", ("x", TensorProto.FLOAT, [1, 2]))
    assert opened(path).name == "my-net-v1-copy"


# ------------------------------------------------------------------------------------------------------------ ncnn


def write_param(path: Path, **shape: int) -> Path:
    layers = [Layer("Input", "in", [], ["data"], dict(shape)), Layer("Exp", "exp", ["data"], ["result"])]
    save(Graph(layers), path)
    return path


def test_an_ncnn_model_has_no_other_original(tmp_path: Path) -> None:
    source = opened(write_param(tmp_path / "m.param", c=3, h=4, w=5))
    assert (source.kind, source.engine, source.outputs) == ("ncnn", "ncnn", ("result",))
    assert [(spec.name, spec.shape) for spec in source.inputs] == [("data", (3, 4, 5))]
    with pytest.raises(ModelError, match="the original is an ncnn model itself"):
        reference_of(source, [np.zeros((1, 3, 4, 5), np.float32)])


def test_an_ncnn_model_without_shapes_needs_them(tmp_path: Path) -> None:
    path = write_param(tmp_path / "m.param")
    with pytest.raises(ModelError, match="input 'data': the file does not contain its shape"):
        opened(path)
    assert opened(path, (3, 4, 5)).inputs[0].shape == (3, 4, 5)
    assert opened(path, (1, 3, 4, 5)).inputs[0].shape == (3, 4, 5)
    assert opened(path, (1, 7)).inputs[0].shape == (1, 7)  # two dimensions are not a batch and one dimension


METADATA = """description: Ultralytics YOLO11n model trained on /data/coco.yaml
author: Ultralytics
date: '2026-01-02T03:04:05+00:00'
stride: 32
task: detect
batch: 1
imgsz:
- 64
- 96
names:
  0: person
  1: 'traffic light: red'
args:
  batch: 1
  half: false
channels: 3
end2end: false
"""


def ultralytics_folder(tmp_path: Path, text: str = METADATA) -> Path:
    """The files of Ultralytics' export to ncnn: pnnx's network, which has no input size, and the metadata."""
    folder = tmp_path / "yolo11n_ncnn_model"
    folder.mkdir()
    layers = [Layer("Input", "in0", [], ["in0"]), Layer("ReLU", "relu", ["in0"], ["out0"])]
    save(Graph(layers), folder / "model.ncnn.param")
    (folder / "metadata.yaml").write_text(text)
    return folder


def test_an_ultralytics_folder_is_a_model(tmp_path: Path) -> None:
    folder = ultralytics_folder(tmp_path)
    source = opened(folder)
    assert (source.name, source.kind, source.path) == ("yolo11n", "ncnn", folder / "model.ncnn.param")
    assert source.inputs[0].shape == (3, 64, 96)
    assert source.labels == ("person", "traffic light: red")
    assert source.preprocess == LETTERBOX.fitted(64, 96)
    assert source.preprocess_origin == "Ultralytics' metadata in the model"
    assert opened(folder / "model.ncnn.param").labels == source.labels
    assert opened(folder, (3, 32, 32)).preprocess == LETTERBOX.fitted(32, 32)


def test_the_card_of_a_model_overrides_ultralytics_metadata(tmp_path: Path) -> None:
    folder = ultralytics_folder(tmp_path)
    preprocess = Preprocess(resize=(64, 96), color="bgr")
    model = ncnnkit.Artifact.load(folder / "model.ncnn.param")
    model.having(model.graph, preprocess=preprocess).save(folder / "model.ncnn.param")
    source = opened(folder)
    assert source.preprocess == preprocess
    assert source.preprocess_origin.startswith("its card")
    assert source.labels == ("person", "traffic light: red")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (METADATA.replace("batch: 1\nimgsz", "batch: 4\nimgsz"), "was exported for 4 images at a time"),
        (METADATA.replace("- 64\n- 96", "- 64\n- large"), "imgsz .64, 'large'. is not a size"),
        ("names: [", "metadata.yaml: cannot be read: while parsing"),
    ],
)
def test_ultralytics_metadata_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        opened(ultralytics_folder(tmp_path, text))


def test_a_corrupt_param(tmp_path: Path) -> None:
    (tmp_path / "m.param").write_text("7767517\nnonsense\n")
    with pytest.raises(FormatError, match=r"m\.param"):
        opened(tmp_path / "m.param")


# ----------------------------------------------------------------------------------------- TorchScript without torch


def write_archive(path: Path, *inputs: tuple[tuple[int, ...], str], extra: dict[str, str] | None = None) -> Path:
    """The part of ``torch.jit.trace(...).save(...)``'s file that is read without torch."""
    code = bytearray(b"\x80\x02}(X\x07\x00\x00\x00forward(")
    for shape, storage in inputs:
        code += b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n" + storage.encode() + b"\n"
        code += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00("
        code += b"".join(b"J" + size.to_bytes(4, "little") for size in shape) + b"t(t\x89}tR"
    code += b"tu."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/traced_inputs.pkl", bytes(code))
        for name, text in (extra or {}).items():
            archive.writestr(f"m/extra/{name}", text)
    return path


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("no_torch")
def test_traced_shapes_types_and_metadata_are_read_without_torch(tmp_path: Path) -> None:
    extra = {"ncnnkit.labels": NAMES, "ncnnkit.preprocess": json.dumps(Preprocess(resize=9).to_dict())}
    path = write_archive(tmp_path / "m.pt", ((1, 3, 8, 6), "FloatStorage"), ((1, 4), "LongStorage"), extra=extra)
    source = opened(path)
    assert [(s.name, s.shape, s.dtype) for s in source.inputs] == [
        ("in0", (3, 8, 6), "float32"),
        ("in1", (4,), "int64"),
    ]
    assert (source.kind, source.engine, source.outputs) == ("torchscript", "ncnn", ())
    assert source.labels == ("cat", "dog")
    assert source.preprocess == Preprocess(resize=9)


@pytest.mark.usefixtures("no_torch")
def test_ultralytics_torchscript_has_its_metadata_in_json(tmp_path: Path) -> None:
    config = json.dumps({"names": {0: "cat", 1: "dog"}, "task": "classify", "stride": 1})
    path = write_archive(tmp_path / "m.torchscript", ((1, 3, 64, 64), "FloatStorage"), extra={"config.txt": config})
    source = opened(path)
    assert source.labels == ("cat", "dog")
    assert source.preprocess == Preprocess(resize=64, crop=(64, 64))
    path = write_archive(tmp_path / "o.pt", ((1, 3, 64, 64), "FloatStorage"), extra={"config.txt": "[other program]"})
    assert opened(path).labels is None


@pytest.mark.usefixtures("no_torch")
def test_an_archive_that_was_not_traced_needs_shapes(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    # A pickle that would run a command: nothing in it is called, and the shapes count as absent.
    evil = b"\x80\x02}X\x07\x00\x00\x00forwardcos\nsystem\n(X\x04\x00\x00\x00exitt R".replace(b" ", b"") + b"s."
    for traced in (None, evil, b"", b"garbage", pickle.dumps({"other": 1}), pickle.dumps({"forward": ((1, 2), 3)})):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/constants.pkl", b"")
            if traced is not None:
                archive.writestr("m/traced_inputs.pkl", traced)
        with pytest.raises(ModelError, match="input 'in0': the file does not contain its shape"):
            opened(path)
        assert [s.shape for s in opened(path, (3, 8, 8), (4,)).inputs] == [(3, 8, 8), (4,)]


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("m/data.pkl", r"is not TorchScript but a saved state_dict or module \(give torchvision:NAME, .* --weights"),
        ("m/serialized_exported_program.json", r"is not TorchScript \(a torch\.export program\?\)"),
        (None, "is not a TorchScript file, or is damaged"),
    ],
)
def test_torch_files_that_are_not_torchscript(tmp_path: Path, member: str | None, message: str) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x80\x02garbage")  # the format of torch.save before it wrote archives
    if member:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"")
    with pytest.raises(ModelError, match=message):
        opened(path)


# ------------------------------------------------------------------------------------------- TorchScript with torch


# torch deprecates tracing, but pnnx needs it.
ignore_warnings = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.torch
@ignore_warnings
def test_a_trace_has_its_shapes_and_runs_in_torch(tmp_path: Path, torch: Any) -> None:
    module = torch.nn.Conv2d(3, 4, 3).eval()
    torch.jit.trace(module, torch.rand(1, 3, 8, 6)).save(tmp_path / "m.pt", _extra_files={"ncnnkit.labels": NAMES})
    source = opened(tmp_path / "m.pt")
    assert (source.kind, source.engine, source.outputs) == ("torchscript", "torch", ("out0",))
    assert [(s.name, s.shape, s.dtype) for s in source.inputs] == [("in0", (3, 8, 6), "float32")]
    assert source.labels == ("cat", "dog")
    samples = torch.rand(2, 3, 8, 6)
    expected = module(samples[1:]).detach().numpy()[0]
    assert np.array_equal(reference_of(source, [samples.numpy()])["out0"][1], expected)


@pytest.mark.torch
@ignore_warnings
def test_reading_without_torch_gives_what_torch_wrote(
    tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sum(torch.nn.Module):  # type: ignore[misc]
        def forward(self, a: Any, b: Any, c: Any) -> Any:
            return a.sum() + b.sum() + c.sum()

    example = (torch.rand(1, 3, 300, 5), torch.zeros(1, 70_000, dtype=torch.int64), torch.rand(1).half())
    torch.jit.trace(Sum(), example).save(tmp_path / "m.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    inputs = opened(tmp_path / "m.pt").inputs
    assert [(s.shape, s.dtype) for s in inputs] == [((3, 300, 5), "float32"), ((70_000,), "int64"), ((1,), "float16")]


@pytest.mark.torch
@ignore_warnings
def test_a_script_needs_as_many_shapes_as_it_has_inputs(tmp_path: Path, torch: Any) -> None:
    torch.jit.script(torch.nn.Bilinear(3, 4, 2)).save(tmp_path / "m.pt")
    with pytest.raises(ModelError, match="input 'in0': the file does not contain its shape"):
        opened(tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"1 shapes are given, but the model has 2 inputs \(in0, in1\)"):
        opened(tmp_path / "m.pt", (3,))
    with pytest.raises(ModelError, match=r"does not run with input 3 and 5: .*\(give its shapes, as in --shape"):
        opened(tmp_path / "m.pt", (3,), (5,))
    assert [s.shape for s in opened(tmp_path / "m.pt", (3,), (4,)).inputs] == [(3,), (4,)]


@pytest.mark.torch
def test_a_state_dict_is_refused_with_a_hint(tmp_path: Path, torch: Any) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(
        ModelError, match=r"not TorchScript but a saved state_dict .*--weights FILE, or save torch\.jit"
    ):
        opened(tmp_path / "weights.pth")


@pytest.mark.torch
def test_an_archive_torch_cannot_load(tmp_path: Path, torch: Any) -> None:
    path = write_archive(tmp_path / "m.pt", ((1, 3, 8, 6), "FloatStorage"))
    with pytest.raises(ModelError, match=r"m\.pt: torch cannot load it: "):
        opened(path)


# ------------------------------------------------------------------------------------------------- models from code


CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.classifier = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.drop = nn.Dropout()

    def forward(self, image):
        return self.classifier(self.drop(self.norm(self.conv(image)).relu()).mean((2, 3)))

class Nested(nn.Module):
    def forward(self, image, factor):
        product = image * factor
        return {"product": product, "aux": None, "parts": (product.sum(dim=(2, 3)), [image + 1])}

class Maker:
    net = Net

def make():
    return Net()

def returns_string():
    return "net"

def raises():
    raise RuntimeError("no luck today")

class Stringly(nn.Module):
    def forward(self, image):
        return {"text": "a"}

ready = Net()
number = 3
"""


@pytest.fixture
def code(tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a module of models."""
    (tmp_path / "networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    return tmp_path


@pytest.fixture
def networks(code: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(code)
    return importlib.import_module("networks")


@pytest.mark.torch
@pytest.mark.parametrize("name", ["make", "Net", "Maker.net", "ready"])
def test_functions_classes_and_modules_of_the_users(code: Path, name: str) -> None:
    source = opened(f"networks:{name}", (3, 16, 16))
    assert (source.kind, source.engine, source.path) == ("torch", "torch", None)
    assert source.module is not None
    assert [(s.name, s.shape) for s in source.inputs] == [("image", (3, 16, 16))]
    assert source.preprocess is None
    samples = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    (output,) = reference_of(source, [samples]).values()
    assert output.shape == (2, 5)
    assert sorted(path.name for path in code.iterdir() if path.is_file()) == ["networks.py"], "nothing is exported yet"


@pytest.mark.torch
def test_nested_outputs_are_named_and_others_left_out(code: Path) -> None:
    source = opened("networks:Nested", (3, 4, 4), (1, 3, 1, 1))
    assert [(s.name, s.shape) for s in source.inputs] == [("image", (3, 4, 4)), ("factor", (3, 1, 1))]
    assert source.outputs == ("product", "parts.out0", "parts.out1.out0")
    image, factor = np.ones((2, 3, 4, 4), np.float32), np.full((2, 3, 1, 1), 2, np.float32)
    outputs = reference_of(source, [image, factor])
    assert {name: (value.shape, float(value.max())) for name, value in outputs.items()} == {
        "product": ((2, 3, 4, 4), 2), "parts.out0": ((2, 3), 32), "parts.out1.out0": ((2, 3, 4, 4), 2),
    }  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(
    ("reference", "shapes", "message"),
    [
        (
            "networks:make",
            [],
            r"the shape of its input is unknown \(give it, such as --shape 3,224,224, in Python shapes=",
        ),
        ("networks:make", [(4, 16, 16)], "torch cannot run it with input 4,16,16: .*expected input"),
        ("networks:Nested", [(3, 4, 4)], "torch cannot run it with input 3,4,4: .*factor"),
        ("networks:Stringly", [(3, 4, 4)], "torch cannot run it .*returns str where a tensor is expected"),
        ("networks:none", [], "networks has no 'none'"),
        ("networks:rises", [], r"networks has no 'rises' \(did you mean raises.*\?\)"),
        ("networks:returns_string", [], r"gives str, not a torch\.nn\.Module"),
        ("networks:number", [], "TypeError: 'int' object is not callable"),
        ("networks:raises", [], "RuntimeError: no luck today"),
        ("networkz:make", [], "ModuleNotFoundError: No module named 'networkz'"),
    ],
)
def test_code_that_gives_no_model(code: Path, reference: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelError, match=f"^{reference}: {message}"):
        opened(reference, *shapes)


@pytest.mark.torch
def test_torchs_random_state_is_left_alone(code: Path, torch: Any) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    opened("networks:make", (3, 8, 8))
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------------------------------------------- weights


Wrap = Callable[[dict[str, Any]], Any]


@pytest.mark.torch
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model": {f"_orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {"model_state_dict": state},
    ],
    ids=["plain", "data parallel", "compiled", "checkpoint"],
)
def test_weights_of_a_file(code: Path, networks: Any, torch: Any, wrap: Wrap) -> None:
    torch.manual_seed(5)
    other = networks.Net().eval()
    torch.save(wrap(other.state_dict()), code / "w.pth")
    source = opened("networks:make", (3, 8, 8), weights=str(code / "w.pth"))
    samples = torch.rand(1, 3, 8, 8)
    (output,) = reference_of(source, [samples.numpy()]).values()
    assert np.array_equal(output, other(samples).detach().numpy())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.weight": None}, r"do not fit the model: 1 missing \(conv\.weight …\)"),
        ({"extra": (1,)}, r"1 not of this model \(extra …\)"),
        ({"conv.bias": (7,), "norm.bias": (7,)}, r"2 of another shape \(conv\.bias …\)"),
        ({"classifier.weight": (9, 8), "classifier.bias": (9,)}, "2 of another shape"),  # ncnnkit does not rebuild this
    ],
)
def test_weights_that_do_not_fit(code: Path, networks: Any, torch: Any, change: dict[str, Any], message: str) -> None:
    state = networks.Net().state_dict()
    for key, shape in change.items():
        state.pop(key, None)
        if shape:
            state[key] = torch.zeros(shape)
    torch.save(state, code / "w.pth")
    with pytest.raises(ModelError, match=message):
        opened("networks:make", (3, 8, 8), weights=str(code / "w.pth"))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"w\.pth: no such file \(--weights default, none or a file\)"),
        (b"garbage", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
        ("module", r"cannot be read as weights: it holds more than tensors \(save model\.state_dict\(\) only\)"),
        ("numbers", "does not contain a state_dict"),
    ],
)
def test_weights_that_cannot_be_read(code: Path, networks: Any, torch: Any, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (code / "w.pth").write_bytes(content)
    elif content:
        torch.save(networks.Net() if content == "module" else [1, 2, 3], code / "w.pth")
    with pytest.raises(ModelError, match=message):
        opened("networks:make", (3, 8, 8), weights=str(code / "w.pth"))


# ------------------------------------------------------------------------------------------- torchvision and timm


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No internet, and empty caches of torch and the hub. Gives the folder of torch's checkpoints."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("reference", "size", "preset"), [("torchvision:mobilenet_v2", 224, 232), ("timm:mobilenetv3_small_050", 224, 256)]
)
def test_random_weights_are_the_same_every_time(
    tmp_path: Path, torch: Any, offline: Path, reference: str, size: int, preset: int
) -> None:
    pytest.importorskip(reference.partition(":")[0])
    samples = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        source = opened(reference, weights="none")
        outputs.append(next(iter(reference_of(source, [samples]).values())))
    assert np.array_equal(outputs[0], outputs[1])
    assert source.inputs[0].shape == (3, size, size)
    assert source.preprocess is not None
    assert (source.preprocess.resize, source.preprocess.crop) == (preset, (size, size))
    assert source.labels is not None
    assert (len(source.labels), source.labels[0].startswith("tench")) == (1000, True)


@pytest.mark.torch
def test_a_library_reports_whether_its_network_classifies(tmp_path: Path) -> None:
    for reference in ("torchvision:squeezenet1_1", "timm:mobilenetv3_small_050"):
        assert opened(reference, (3, 64, 64), weights="none").classes == 1000
    path = write_onnx(tmp_path / "m.onnx", ("x", TensorProto.FLOAT, [1, 10]))
    assert opened(path).classes is None, "a vector alone says nothing"


@pytest.mark.torch
def test_another_input_size_scales_the_preprocessing(tmp_path: Path, offline: Path) -> None:
    pytest.importorskip("torchvision")
    source = opened("torchvision:squeezenet1_1", (3, 112, 112), weights="none")
    assert source.preprocess is not None
    assert (source.preprocess.resize, source.preprocess.crop) == (128, (112, 112))
    assert source.preprocess_origin.endswith(".IMAGENET1K_V1, scaled to 112x112")


@pytest.mark.torch
def test_batch_norm_statistics_make_images_distinguishable(tmp_path: Path, offline: Path) -> None:
    pytest.importorskip("torchvision")
    photos = sorted((DEMO.parent / "images").rglob("*.jpg"))[:20]
    images = np.stack([PRESETS["imagenet"].fitted(64, 64).apply(Image.open(photo)) for photo in photos])

    def predictions(statistics: NDArray[np.float32] | None) -> list[int]:
        source = opened("torchvision:mobilenet_v2", (3, 64, 64), weights="none", statistics=statistics)
        (output,) = reference_of(source, [images[:8]]).values()
        return [int(label) for label in output.argmax(axis=1)]

    assert len(set(predictions(None))) == 1  # an untrained network gives similar outputs for all images
    assert len(set(predictions(images))) >= 6
    assert predictions(images) == predictions(images)
    with pytest.raises(ModelError, match="need two images or more"):
        predictions(images[:1])


@pytest.mark.torch
def test_statistics_are_the_mean_over_the_batches(torch: Any) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=0.3), torch.nn.Dropout(0.5))
    module.train()
    batches = [np.random.default_rng(seed).random((4, 3, 5, 5), np.float32) + seed for seed in (0, 1)]
    set_batchnorm_statistics(module, batches)
    norm = module[0]
    means = np.mean([batch.mean(axis=(0, 2, 3)) for batch in batches], axis=0)
    variances = np.mean([batch.var(axis=(0, 2, 3), ddof=1) for batch in batches], axis=0)
    assert np.allclose(norm.running_mean.numpy(), means, rtol=1e-5)
    assert np.allclose(norm.running_var.numpy(), variances, rtol=1e-5)
    assert norm.momentum == 0.3
    assert not any(part.training for part in module.modules())
    set_batchnorm_statistics(torch.nn.Flatten(), iter([]))  # a network without them is left as it is


@pytest.mark.torch
@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("torchvision:resnet5", r" \(did you mean .*resnet50.*\?\)"),
        ("timm:mobilenetv3_small_05", r" \(did you mean .*mobilenetv3_small_050.*\?\)"),
        ("torchvision:zzzzzz", ""),
    ],
)
def test_unknown_names(tmp_path: Path, torch: Any, reference: str, hint: str) -> None:
    pytest.importorskip(reference.partition(":")[0])
    with pytest.raises(ModelError, match=rf"^{reference}: \w+ has no such model{hint}$"):
        opened(reference)


@pytest.mark.torch
def test_a_tag_timm_does_not_know(tmp_path: Path, offline: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"timm cannot build it: .*nonsense"):
        opened("timm:mobilenetv3_small_050.nonsense")


@pytest.mark.torch
def test_torchvisions_weights_where_they_cannot_be_downloaded(tmp_path: Path, torch: Any, offline: Path) -> None:
    models = pytest.importorskip("torchvision").models
    reference, file = "torchvision:mobilenet_v2", "mobilenet_v2-7ebf99e0.pth"
    with pytest.raises(ModelError, match=rf"weights {file} cannot be downloaded .*unreachable.*put .* {offline}, or"):
        opened(reference)
    offline.mkdir(parents=True)
    (offline / file).write_bytes(b"half a download")
    with pytest.raises(ModelError, match=rf"{file} cannot be loaded: .*\(delete {offline / file} and try again\)"):
        opened(reference)
    torch.manual_seed(3)
    trained = models.mobilenet_v2().eval()
    torch.save(trained.state_dict(), offline / file)
    source = opened(reference)
    samples = torch.rand(1, 3, 224, 224)
    assert np.array_equal(reference_of(source, [samples.numpy()])["out0"], trained(samples).detach().numpy())
    assert source.preprocess_origin == "torchvision's preset for MobileNet_V2_Weights.IMAGENET1K_V2"
    # The first version of the weights, given as a file, was trained with another preprocessing.
    first = tmp_path / "mobilenet_v2-b0353104.pth"
    (offline / file).rename(first)
    source = opened(reference, weights=str(first))
    assert source.preprocess_origin == "torchvision's preset for MobileNet_V2_Weights.IMAGENET1K_V1"
    assert source.preprocess is not None
    assert source.preprocess.resize == 256


@pytest.mark.torch
@pytest.mark.parametrize("reference", ["torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_a_fine_tuned_file_brings_its_number_of_classes(
    tmp_path: Path, torch: Any, offline: Path, reference: str
) -> None:
    library, _, name = reference.partition(":")
    if library == "timm":
        tuned = pytest.importorskip("timm").create_model(name, num_classes=7)
    else:
        tuned = pytest.importorskip("torchvision").models.get_model(name, num_classes=7)
    torch.save(tuned.state_dict(), tmp_path / "tuned.pth")
    source = opened(reference, (3, 64, 64), weights=str(tmp_path / "tuned.pth"))
    samples = torch.rand(1, 3, 64, 64)
    (output,) = reference_of(source, [samples.numpy()]).values()
    assert np.array_equal(output, tuned.eval()(samples).detach().numpy())
    assert source.labels is None  # ImageNet's class names do not apply to the classifier


@pytest.mark.torch
def test_inception_normalises_its_input_again(tmp_path: Path, torch: Any, offline: Path) -> None:
    models = pytest.importorskip("torchvision").models
    trained = models.inception_v3(init_weights=False, transform_input=True).eval()  # as its own weights switch on
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    source = opened("torchvision:inception_v3", (3, 96, 96), weights=str(tmp_path / "w.pth"))
    samples = torch.rand(1, 3, 96, 96)
    (output,) = reference_of(source, [samples.numpy()]).values()
    assert np.array_equal(output, trained(samples).detach().numpy())


@pytest.mark.torch
def test_timms_weights_from_the_hubs_cache(tmp_path: Path, torch: Any, offline: Path) -> None:
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    name = "mobilenetv3_small_050"
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    with pytest.raises(ModelError, match=rf"model\.safetensors of {repository} cannot be downloaded .*--weights FILE"):
        opened(f"timm:{name}")
    torch.manual_seed(3)
    trained = timm.create_model(name).eval()
    cache = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    safetensors.save_file(trained.state_dict(), snapshot / "model.safetensors")
    samples = torch.rand(1, 3, 224, 224)
    expected = trained(samples).detach().numpy()
    for weights in ("default", str(snapshot / "model.safetensors")):
        source = opened(f"timm:{name}", weights=weights)
        (output,) = reference_of(source, [samples.numpy()]).values()
        assert np.array_equal(output, expected)


@pytest.mark.torch
def test_timms_weights_from_torchs_cache(tmp_path: Path, torch: Any, offline: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "gcvit_xxtiny"  # one of those that are not on the hub
    file = Path(timm.get_pretrained_cfg(name).url).name
    with pytest.raises(ModelError, match=rf"the weights {file} cannot be downloaded .*put the file into {offline}, or"):
        opened(f"timm:{name}")
    offline.mkdir(parents=True)
    torch.manual_seed(3)
    trained = timm.create_model(name).eval()
    torch.save(trained.state_dict(), offline / file)
    samples = torch.rand(1, 3, 224, 224)
    (output,) = reference_of(opened(f"timm:{name}"), [samples.numpy()]).values()
    assert np.array_equal(output, trained(samples).detach().numpy())


@pytest.mark.torch
def test_models_without_published_weights(tmp_path: Path, torch: Any, offline: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"timm has no weights for it \(--weights none or --weights FILE\)"):
        opened("timm:resnet50t")


@pytest.mark.torch
def test_a_detector_that_finds_nothing_is_named(tmp_path: Path, torch: Any) -> None:
    class Detector(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return {"boxes": x.reshape(-1, 4)[:0], "scores": x.reshape(-1)[:0]}

    with pytest.raises(ModelError, match=r"Detector: returns an empty 'boxes' for a sample of noise \(wrap it"):
        open_model(Detector(), shapes=[(3, 8, 8)])


@pytest.mark.torch
def test_a_module_is_a_model(tmp_path: Path, torch: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout())
    source = open_model(module, shapes=[(3, 8, 8)])
    assert (source.name, source.inputs[0].shape, source.engine) == ("Sequential", (3, 8, 8), "torch")
    assert module.training
    assert module[1].training
    with pytest.raises(ModelError, match="Sequential: the shape of its input is unknown"):
        open_model(module)
    with pytest.raises(ModelError, match="an int is not a model"):
        open_model(5)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def build():\n    pass\n", "nets.mynet:build"),
        ("import os\ndef _own(): ...\ndef load(path): ...\ndef small(width=1): ...\n", "nets.mynet:small"),
        ("def need(*, width): ...\nclass Net: ...\n", "nets.mynet:Net"),
        ("def broken(:\n", "nets.mynet:build"),
    ],
)
def test_a_model_of_a_python_file_is_named_after_its_function(
    code: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/mynet.py").write_text(code)
    for reference in ("nets/mynet.py", "nets/mynet.py:anything"):
        with pytest.raises(ModelError, match=re.escape(f"such as {named}")):
            open_model(reference)


def test_a_name_that_is_almost_right_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").touch()
    Path("mynet.py").write_text("def make():\n    pass\n")
    for reference, hint in (("modle.onnx", "did you mean model.onnx?"), ("mynet", "did you mean mynet:make?")):
        with pytest.raises(ModelError) as caught:
            opened(reference)
        assert caught.value.hint == hint
