"""A torch module as a file that a route can read: ONNX by torch's two exporters, and TorchScript by tracing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..samples.items import InputSpec
from .model import say
from .torchrun import example_inputs, flat_module, import_torch, quiet

OPSET = 17  # of the classic exporter: the first with LayerNormalization; the newest one it knows well


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
    with _exporting() as torch:
        # The network is compared with the original later: no check of torch's own here.
        torch.jit.trace(flat_module(module), tuple(example_inputs(inputs)), check_trace=False).save(str(path))
    return path


def _to_onnx(module: Any, inputs: Sequence[InputSpec], path: Path, **options: Any) -> Path:
    with _exporting() as torch:
        scripted = isinstance(module, torch.jit.ScriptModule)
        torch.onnx.export(
            module if scripted else flat_module(module),
            tuple(example_inputs(inputs)),
            str(path),
            input_names=[f"in{index}" for index in range(len(inputs))],
            **options,
        )
    return path


@contextmanager
def _exporting() -> Iterator[Any]:
    """Export in silence, with attention layer by layer; yields torch. What torch raises becomes a ConvertError.

    torch's fused kernel for a whole encoder layer would be one operator that neither ONNX nor ncnn has.
    """
    torch = import_torch("")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quiet(), _silence(), torch.no_grad():
            yield torch
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        raise ConvertError(f"torch's exporter needs {missing}", hint=f"pip install {missing}") from None
    except Exception as error:  # torch has many kinds of its own, and the module may raise others
        raise ConvertError(f"torch cannot export it: {say(error)}") from None
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is logged, and nothing is printed to stdout: torch prints a whole graph there when it fails.

    That graph is printed by C++, so the file descriptor itself leads nowhere meanwhile. stderr is left alone: the
    progress is shown there.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with contextlib.ExitStack() as restore:
        restore.callback(logging.disable, disabled)
        restore.enter_context(contextlib.redirect_stdout(io.StringIO()))
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a process may have no stdout
            sys.__stdout__.flush()  # type: ignore[union-attr]
            kept = os.dup(1)
            restore.callback(os.close, kept)
            restore.callback(os.dup2, kept, 1)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)
        yield
