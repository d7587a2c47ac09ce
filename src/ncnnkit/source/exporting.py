"""A torch module as a file that a route can read: ONNX by torch's two exporters, and TorchScript by tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..samples.items import InputSpec
from .forked import run_forked
from .model import say
from .torchrun import example_inputs, flat_module, import_torch

OPSET = 17  # of the classic exporter: the first with LayerNormalization; the newest one it knows well
TIMEOUT = 900.0
"""Seconds until an export is given up; the largest networks take some minutes."""


def export_dynamo(module: Any, inputs: Sequence[InputSpec], folder: Path) -> Path:
    """Write a module as ONNX by ``torch.export`` and onnxscript.

    Args:
        module: a ``torch.nn.Module``.
        inputs: of one sample, without the batch axis.
        folder: gets the file.

    Raises:
        ConvertError: torch cannot export it, or onnxscript is not installed.
    """
    return _to_onnx(module, inputs, folder / "dynamo.onnx", dynamo=True, verbose=False)


def export_classic(module: Any, inputs: Sequence[InputSpec], folder: Path) -> Path:
    """Write a module as ONNX by torch's older exporter, which traces it. Takes TorchScript, too.

    Arguments and errors are those of :func:`export_dynamo`.
    """
    return _to_onnx(module, inputs, folder / "classic.onnx", dynamo=False, opset_version=OPSET)


def trace(module: Any, inputs: Sequence[InputSpec], folder: Path) -> Path:
    """Write a module as TorchScript. Arguments and errors are those of :func:`export_dynamo`."""
    path = folder / "traced.pt"

    def write(torch: Any) -> None:
        # The network is compared with the original later: no check of torch's own here.
        torch.jit.trace(flat_module(module), tuple(example_inputs(inputs)), check_trace=False).save(str(path))

    _export(write, folder)
    return path


def _to_onnx(module: Any, inputs: Sequence[InputSpec], path: Path, **options: Any) -> Path:
    def write(torch: Any) -> None:
        scripted = isinstance(module, torch.jit.ScriptModule)
        torch.onnx.export(
            module if scripted else flat_module(module),
            tuple(example_inputs(inputs)),
            str(path),
            input_names=[f"in{index}" for index in range(len(inputs))],
            **options,
        )

    _export(write, path.parent)
    return path


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong: torch's newer exporter wraps it in a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _export(write: Callable[[Any], None], folder: Path) -> None:
    """Call ``write`` with torch, in a process of its own: an exporter may crash, hang or use up the memory.

    Attention is exported layer by layer: torch's fused kernel for a whole encoder layer would be one operator that
    neither ONNX nor ncnn has. What torch raises becomes a ConvertError.
    """
    torch = import_torch("")

    def work() -> None:
        torch.set_num_threads(1)  # a fork has no threads of its parent's pool, and would wait for them
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                write(torch)
        except ImportError as error:
            missing = (error.name or str(error)).partition(".")[0]
            raise ConvertError(f"torch's exporter needs {missing}", hint=f"pip install {missing}") from None
        except Exception as error:  # torch has many kinds of its own, and the module may raise others
            raise ConvertError(f"torch cannot export it: {say(_first_cause(error))}") from None

    run_forked(work, folder, limit=TIMEOUT, what="torch's exporter")
