"""MNN on the CPU, Vulkan and OpenCL. Its offline quantiser makes the int8 models.

Do not import ``MNN.tools``: it installs a package with pip, and sends statistics about conversions to a server. The
extension module ``_tools`` has the same tools.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from .base import Calibration, CannotMakeError, Engine, Opened, Running

PRECISIONS = {"fp32": "high", "int8": "high", "fp16": "low", "bf16": "lowBF"}
"""Precision -> precision mode of MNN (``MNNForwardType.h``)."""

FORWARD = {"opencl": 3, "vulkan": 7}
"""Backend -> forward type of MNN (``MNNForwardType.h``)."""

SESSION_BACKENDS = 2
"""The argument of ``getSessionInfo`` that asks for the forward type of a session."""

BACKEND_NAMES = {"cpu": "CPU", "vulkan": "VULKAN", "opencl": "OPENCL"}


class Mnn(Engine):
    """See https://mnn-docs.readthedocs.io, "compress" for the quantiser."""

    name = "mnn"
    title = "MNN"
    package = "MNN"
    module = "MNN"
    suffixes = (".mnn",)
    backends: ClassVar[Mapping[str, Tuple[str, ...]]] = {
        "cpu": ("fp32", "fp16", "bf16", "int8"),
        "vulkan": ("fp32", "fp16"),
        "opencl": ("fp32", "fp16"),
    }
    settings: ClassVar[Mapping[str, str]] = {
        "fp32": "precision high",
        "fp16": "precision low",
        "bf16": "precision low_bf16",
        "int8": "offline quantiser: KL for activations, MAX_ABS per channel for weights",
    }

    def convert(self, onnx: Path, made: Path) -> None:
        import _tools

        words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(onnx), "--MNNModel", str(made), "--bizCode", "MNN"]
        _tools.mnnconvert(words)
        if not made.exists():
            raise CannotMakeError("its converter wrote no model")

    def quantise(self, onnx: Path, made: Path, calibration: Calibration) -> None:
        import _tools

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plain = folder / "plain.mnn"
            self.convert(onnx, plain)
            for index, sample in enumerate(calibration):
                _write_sample(folder / "samples" / ("%06d" % index), sample)
            config = {
                "path": str(folder / "samples"),
                "input_type": "sequence",
                "feature_quantize_method": "KL",
                "weight_quantize_method": "MAX_ABS",
            }
            (folder / "config.json").write_text(json.dumps(config))
            # One list, like the words of a command. MNN's own script passes three arguments, and version 3.6.1 crashes.
            _tools.mnnquant(["mnnquant", str(plain), str(made), str(folder / "config.json")])
        if not made.exists():
            raise CannotMakeError("its quantiser wrote no model")

    def open(self, files: Sequence[str], how: Running) -> Opened:
        return _Opened(files[0], how)


def _write_sample(folder: Path, sample: Dict[str, Any]) -> None:
    """Write a sample in the quantiser's format: a text file of numbers for each input, and the shapes."""
    folder.mkdir(parents=True)
    shapes = [{"name": name, "shape": list(array.shape)} for name, array in sample.items()]
    (folder / "input.json").write_text(json.dumps({"inputs": shapes}))
    for name, array in sample.items():
        path = folder / (name + ".txt")
        if folder.resolve() not in path.resolve().parents:
            raise CannotMakeError("its quantiser cannot read an input called %r" % name)
        path.parent.mkdir(parents=True, exist_ok=True)  # a name may have slashes
        np.savetxt(path, array.reshape(1, -1), fmt="%.9g")


class _Opened(Opened):
    def __init__(self, file: str, how: Running) -> None:
        import MNN

        self._net = MNN.Interpreter(file)
        settings = {"backend": BACKEND_NAMES[how.backend], "numThread": how.threads}
        settings["precision"] = PRECISIONS[how.precision]
        self._session = self._net.createSession(settings)
        self._ins = _named(self._net.getSessionInputAll(self._session), how.inputs)
        self._outs = _named(self._net.getSessionOutputAll(self._session), how.outputs)
        self._types = {"float32": MNN.Halide_Type_Float, "int32": MNN.Halide_Type_Int}
        self._layout = MNN.Tensor_DimensionType_Caffe
        self.inputs: List[Tuple[Tuple[int, ...], str]] = [
            (tuple(tensor.getShape()), self._type(tensor)) for tensor in self._ins
        ]
        wanted = FORWARD.get(how.backend)
        if wanted is not None and self._net.getSessionInfo(self._session, SESSION_BACKENDS) != wanted:
            self.instead = "this MNN has no %s, so it computed on the CPU" % BACKEND_NAMES[how.backend]

    def _type(self, tensor: Any) -> str:
        return "int32" if str(tensor.getDataType()) == str(self._types["int32"]) else "float32"

    def run(self, arrays: Sequence[Any]) -> List[Any]:
        for tensor, array, (shape, kind) in zip(self._ins, arrays, self.inputs):
            tensor.copyFrom(self._host(array, shape, kind))
        self._net.runSession(self._session)
        found = []
        for tensor in self._outs:
            shape, kind = tuple(tensor.getShape()), self._type(tensor)
            host = self._host(np.empty(shape, kind), shape, kind)
            tensor.copyToHostTensor(host)
            found.append(np.array(host.getNumpyData(), np.float32).reshape(shape))
        return found

    def _host(self, array: Any, shape: Tuple[int, ...], kind: str) -> Any:
        import MNN

        return MNN.Tensor(shape, self._types[kind], array, self._layout)


def _named(tensors: Dict[str, Any], names: Sequence[str]) -> List[Any]:
    """The tensors of these names. Raises RuntimeError if the model lacks one."""
    for name in names:
        if name not in tensors:
            raise RuntimeError("MNN's model has no %r, only %s" % (name, ", ".join(tensors)))
    return [tensors[name] for name in names]
