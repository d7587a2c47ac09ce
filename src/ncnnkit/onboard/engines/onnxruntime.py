"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, List, Mapping, Sequence, Tuple

from .base import Calibration, Engine, Opened, Running

NUMPY_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
               "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool",
               "tensor(uint8)": "uint8", "tensor(int8)": "int8"}  # fmt: skip


PER_CHANNEL_OPSET = 13
"""QuantizeLinear and DequantizeLinear have scales per channel since this version of ONNX's operators."""


class OnnxRuntime(Engine):
    """See https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html for int8."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    package = "onnxruntime"
    module = "onnxruntime"
    tools = ("onnx",)
    suffixes = (".onnx",)
    backends: ClassVar[Mapping[str, Tuple[str, ...]]] = {"cpu": ("fp32", "int8")}
    settings: ClassVar[Mapping[str, str]] = {
        "fp32": "CPUExecutionProvider, all graph optimisations",
        "int8": "static QDQ, weights per channel, MinMax calibration; uint8 activations and int8 weights, of 7 bits on "
        "an x86 CPU without an int8 dot product; the operators are those of opset 13 or later",
    }

    def convert(self, onnx: Path, made: Path) -> None:
        made.write_bytes(onnx.read_bytes())

    def quantise(self, onnx: Path, made: Path, calibration: Calibration) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._samples = iter(calibration)

            def get_next(self) -> Any:
                return next(self._samples, None)

        prepared = made.with_suffix(".prepared.onnx")
        _upgrade(onnx, prepared)
        quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(made), Reader(),
            quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=calibration.saturates,
            activation_type=QuantType.QInt8 if calibration.arm else QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        prepared.unlink()

    def open(self, files: Sequence[str], how: Running) -> Opened:
        return _Opened(files[0], how)


def _upgrade(path: Path, made: Path) -> None:
    """Write a model with operators of at least :data:`PER_CHANNEL_OPSET`."""
    import onnx
    from onnx import version_converter

    model = onnx.load(str(path))
    version = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if version < PER_CHANNEL_OPSET:
        model = version_converter.convert_version(model, PER_CHANNEL_OPSET)
    onnx.save(model, str(made))


class _Opened(Opened):
    def __init__(self, file: str, how: Running) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = how.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._inputs, self._outputs = how.inputs, list(how.outputs)
        self.inputs: List[Tuple[Tuple[int, ...], str]] = [
            (tuple(entry.shape), NUMPY_TYPES[entry.type]) for entry in self._session.get_inputs()
        ]

    def run(self, arrays: Sequence[Any]) -> List[Any]:
        return list(self._session.run(self._outputs, dict(zip(self._inputs, arrays))))
