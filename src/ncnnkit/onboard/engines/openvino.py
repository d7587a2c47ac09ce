"""OpenVINO on the CPU. NNCF makes its int8 models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, List, Mapping, Sequence, Tuple

from .base import Calibration, Engine, Opened, Running

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""Precision -> OpenVINO's type for the layers that are not in int8."""

CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}
"""Precision -> the capability that a CPU needs for it."""


class OpenVino(Engine):
    """See https://docs.openvino.ai, "Precision Control" and "Basic Quantization Flow"."""

    name = "openvino"
    title = "OpenVINO"
    package = "openvino"
    module = "openvino"
    tools = ("nncf",)
    suffixes = (".xml", ".bin")
    backends: ClassVar[Mapping[str, Tuple[str, ...]]] = {"cpu": ("fp32", "fp16", "bf16", "int8")}
    settings: ClassVar[Mapping[str, str]] = {
        "fp32": "INFERENCE_PRECISION_HINT f32, PERFORMANCE_HINT LATENCY",
        "fp16": "INFERENCE_PRECISION_HINT f16, PERFORMANCE_HINT LATENCY",
        "bf16": "INFERENCE_PRECISION_HINT bf16, PERFORMANCE_HINT LATENCY",
        "int8": "nncf.quantize with the preset MIXED: weights per channel, min-max statistics, fast bias correction; "
        "weights of 7 bits on an x86 CPU without an int8 dot product",
    }

    def convert(self, onnx: Path, made: Path) -> None:
        import openvino

        openvino.save_model(openvino.Core().read_model(str(onnx)), str(made), compress_to_fp16=False)

    def quantise(self, onnx: Path, made: Path, calibration: Calibration) -> None:
        import nncf
        import openvino

        samples = list(calibration)
        fix = nncf.OverflowFix.ENABLE if calibration.saturates else nncf.OverflowFix.DISABLE
        quantised = nncf.quantize(
            openvino.Core().read_model(str(onnx)),
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
        openvino.save_model(quantised, str(made), compress_to_fp16=False)

    def open(self, files: Sequence[str], how: Running) -> Opened:
        return _Opened(files, how)


class _Opened(Opened):
    def __init__(self, files: Sequence[str], how: Running) -> None:
        import openvino

        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        model = core.read_model(files[0], files[1])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[how.precision],
            "INFERENCE_NUM_THREADS": how.threads,
            "NUM_STREAMS": 1,
        }
        self._compiled = core.compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self.inputs: List[Tuple[Tuple[int, ...], str]] = [
            (tuple(entry.shape), entry.element_type.to_dtype().name) for entry in self._compiled.inputs
        ]
        needed = CAPABILITIES.get(how.precision)
        if needed and needed not in able:
            self.instead = "this CPU has no %s arithmetic, so OpenVINO computed in fp32" % how.precision

    def run(self, arrays: Sequence[Any]) -> List[Any]:
        self._request.infer(dict(enumerate(arrays)), share_inputs=True)
        return [self._request.get_output_tensor(index).data for index in range(len(self._compiled.outputs))]
