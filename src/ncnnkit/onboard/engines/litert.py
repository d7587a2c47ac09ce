"""LiteRT (TensorFlow Lite) with XNNPACK. onnx2tf makes its models, and LiteRT's quantiser makes the int8 models.

onnx2tf requires versions of NumPy and ONNX with which ncnnkit does not work. So ncnnkit runs it as a command, and it
can be installed into its own environment, for example with pipx.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar, List, Mapping, Sequence, Tuple

import numpy as np

from ..process import die_with_parent
from .base import Calibration, CannotMakeError, Engine, Opened, Running

COMMAND = "onnx2tf"
SIGNATURE = "serving_default"


class LiteRT(Engine):
    """See https://ai.google.dev/edge/litert and https://github.com/PINTO0309/onnx2tf."""

    name = "litert"
    title = "LiteRT"
    package = "ai-edge-litert"
    module = "ai_edge_litert.interpreter"
    tools = ("litert-quantizer",)
    suffixes = (".tflite",)
    backends: ClassVar[Mapping[str, Tuple[str, ...]]] = {"cpu": ("fp32", "int8")}
    settings: ClassVar[Mapping[str, str]] = {
        "fp32": "XNNPACK",
        "int8": "LiteRT's quantiser, recipe static_wi8_ai8: weights per channel, activations per tensor; XNNPACK",
    }

    def missing_tools(self) -> List[str]:
        return [*super().missing_tools(), *([] if shutil.which(COMMAND) else [COMMAND])]

    def convert(self, onnx: Path, made: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._onnx2tf(onnx, folder)
            _take(folder, "*_float32.tflite", made)

    def quantise(self, onnx: Path, made: Path, calibration: Calibration) -> None:
        from litert_quantizer import qtyping, quantizer, recipe
        from litert_quantizer.algorithm_manager import AlgorithmName

        plain = made.with_suffix(".plain.tflite")
        self.convert(onnx, plain)
        runs = quantizer.Quantizer(str(plain))
        runs.load_quantization_recipe(recipe.static_wi8_ai8())
        for ends in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            runs.update_quantization_recipe(
                regex=".*", operation_name=ends, algorithm_key=AlgorithmName.NO_QUANTIZE
            )  # the inputs and outputs stay in fp32, as with the other engines
        shapes = {name: tuple(entry["shape"]) for name, entry in _signature(str(plain)).get_input_details().items()}
        samples = [
            {name: _in_shape(array, shapes[name], 1, -1) for name, array in sample.items()} for sample in calibration
        ]
        runs.quantize(runs.calibrate({SIGNATURE: samples})).export_model(str(made))
        plain.unlink()

    def _onnx2tf(self, onnx: Path, folder: str) -> None:
        given = Path(folder, "given.onnx")
        shutil.copy(onnx, given)  # onnx2tf writes the names of operators into its input file
        command = [COMMAND, "-i", str(given), "-o", folder, "-coion", "-n"]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=die_with_parent)
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise CannotMakeError("onnx2tf: %s" % (said[-1] if said else "it failed"))

    def open(self, files: Sequence[str], how: Running) -> Opened:
        return _Opened(files[0], how)


def _take(folder: str, pattern: str, made: Path) -> None:
    found = sorted(Path(folder).glob(pattern))
    if not found:
        raise CannotMakeError("onnx2tf wrote no %s" % pattern)
    shutil.move(str(found[0]), str(made))


class _Opened(Opened):
    def __init__(self, file: str, how: Running) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._net = Interpreter(model_path=file, num_threads=how.threads)
        self._net.allocate_tensors()
        signature = self._net.get_signature_runner(SIGNATURE)
        self._ins = _tensors(signature.get_input_details(), how.inputs)
        self._outs = _tensors(signature.get_output_details(), how.outputs)
        self._shapes = [tuple(how.shapes[name]) for name in how.outputs]
        self.inputs: List[Tuple[Tuple[int, ...], str]] = [
            (tuple(how.shapes[name]), np.dtype(entry["dtype"]).name) for name, entry in zip(how.inputs, self._ins)
        ]

    def run(self, arrays: Sequence[Any]) -> List[Any]:
        for entry, array in zip(self._ins, arrays):
            self._net.set_tensor(entry["index"], _in_shape(array, tuple(entry["shape"]), 1, -1))
        self._net.invoke()
        found = (self._net.get_tensor(entry["index"]) for entry in self._outs)
        return [_in_shape(array, shape, -1, 1) for array, shape in zip(found, self._shapes)]


def _signature(file: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=file).get_signature_runner(SIGNATURE)


def _tensors(there: Mapping[str, Any], names: Sequence[str]) -> List[Any]:
    """The tensors of these names. Raises RuntimeError if the model lacks one."""
    for name in names:
        if name not in there:
            raise RuntimeError("LiteRT's model has no %r, only %s" % (name, ", ".join(there)))
    return [there[name] for name in names]


def _in_shape(array: Any, shape: Tuple[int, ...], channels: int, to: int) -> Any:
    """An array in this shape. Its channels are moved if necessary, because onnx2tf puts them last.

    If height, width and channels are equal, the channels are assumed to be last.
    """
    if array.ndim < 3 or (array.ndim == 3 and array.shape == shape):
        return array
    moved = np.moveaxis(array, channels, to)
    return np.ascontiguousarray(moved) if moved.shape == shape else array
