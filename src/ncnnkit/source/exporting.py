"""Export of torch modules to files that a route can read: ONNX by torch's two exporters, and TorchScript by tracing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConvertError
from ..samples.items import InputSpec
from .forked import run_forked
from .model import say
from .torchrun import example_inputs, flat_module, import_torch

OPSET = 17  # of the classic exporter: the first with LayerNormalization, and the newest that it supports well
TIMEOUT = 900.0
"""Seconds until an export is stopped; the largest networks take some minutes."""


def export_dynamo(module: Any, inputs: Sequence[InputSpec], folder: Path) -> Path:
    """Write a module as ONNX by ``torch.export`` and onnxscript.

    Args:
        module: a ``torch.nn.Module``.
        inputs: of one sample, without the batch axis.
        folder: the file is written here.

    Returns:
        The path of the file.

    Raises:
        ConvertError: torch cannot export it, or onnxscript is not installed.
    """
    return _to_onnx(module, inputs, folder / "dynamo.onnx", dynamo=True, verbose=False)


def export_classic(module: Any, inputs: Sequence[InputSpec], folder: Path, *, detects: bool = False) -> Path:
    """Write a module as ONNX by torch's older exporter, which traces it. TorchScript modules are accepted, too.

    The other arguments, the result and the errors are those of :func:`export_dynamo`.

    Args:
        detects: whether the module may drop boxes with low scores. On noise all scores are low, so all boxes would be
            dropped, and the operators after that would be missing in the trace. Therefore the score thresholds are
            nearly 0 during the trace, and the module's own values are written into the file afterwards.
    """
    path = folder / "classic.onnx"
    kept = _score_thresholds(module) if detects else {}
    marks = dict(zip(kept, _marks(len(kept))))

    def prepare() -> None:  # runs in the exporter's process, so the caller's module is not changed
        for (part, name), mark in marks.items():
            setattr(part, name, mark)

    def finish() -> None:
        if not _replace_numbers(path, {mark: kept[place] for place, mark in marks.items()}):
            raise ConvertError("the thresholds of its scores are not in the file")

    try:
        return _to_onnx(module, inputs, path, prepare, finish, dynamo=False, opset_version=OPSET)
    except ConvertError:
        if not kept:
            raise
        return export_classic(module, inputs, folder)  # the module does not run with other thresholds


def trace(module: Any, inputs: Sequence[InputSpec], folder: Path) -> Path:
    """Write a module as TorchScript. Arguments, result and errors are those of :func:`export_dynamo`."""
    path = folder / "traced.pt"

    def write(torch: Any) -> None:
        # torch's check is not needed: the network is compared with the original later.
        torch.jit.trace(flat_module(module), tuple(example_inputs(inputs)), check_trace=False).save(str(path))

    _export(write, folder)
    return path


_SCORE_THRESHOLD = re.compile(r"(score|conf|prob)\w*thr|thr\w*(score|conf|prob)|min_(score|conf)", re.IGNORECASE)
"""Names of module attributes that are score thresholds."""


def _score_thresholds(module: Any) -> dict[tuple[Any, str], float]:
    """The score thresholds of a module: (submodule, name of the attribute) -> value."""
    return {
        (part, name): value
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, float) and _SCORE_THRESHOLD.search(name)
    }


def _marks(count: int) -> list[float]:
    """Numbers that are exact in fp32, are below every score, and occur in no module."""
    return [2.0**-100 * (1 + number / 1024) for number in range(1, count + 1)]


def _replace_numbers(path: Path, numbers: Mapping[float, float]) -> bool:
    """Replace scalar constants in an ONNX file. Returns whether all of them were found."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    tensors = [*model.graph.initializer, *(a.t for node in nodes for a in node.attribute if a.name == "value")]
    found = set()
    for tensor in tensors:
        if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) or math.prod(tensor.dims) != 1:
            continue
        array = numpy_helper.to_array(tensor)
        if (number := float(array.reshape(-1)[0])) in numbers:
            found.add(number)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, numbers[number]), tensor.name))
    onnx.save(model, str(path))
    return found == set(numbers)


def _to_onnx(
    module: Any,
    inputs: Sequence[InputSpec],
    path: Path,
    prepare: Callable[[], None] = lambda: None,
    finish: Callable[[], None] = lambda: None,
    **options: Any,
) -> Path:
    """Write the file; ``prepare`` and ``finish`` run before and after that, in the exporter's process."""

    def write(torch: Any) -> None:
        prepare()
        scripted = isinstance(module, torch.jit.ScriptModule)
        torch.onnx.export(
            module if scripted else flat_module(module),
            tuple(example_inputs(inputs)),
            str(path),
            input_names=[f"in{index}" for index in range(len(inputs))],
            **options,
        )
        finish()

    _export(write, path.parent)
    return path


def _first_cause(error: BaseException) -> BaseException:
    """The original exception. torch's newer exporter wraps it in others with long texts."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _export(write: Callable[[Any], None], folder: Path) -> None:
    """Call ``write`` with torch in a child process, because an exporter may crash, hang or use up the memory.

    torch's fused kernel for a transformer encoder layer is switched off: neither ONNX nor ncnn has such an operator.
    Exceptions of torch become a ConvertError.
    """
    torch = import_torch("")

    def work() -> None:
        torch.set_num_threads(1)  # a fork does not inherit the threads of its parent's pool, and would wait for them
        torch.cuda.is_available = lambda: False  # CUDA does not work in a fork if the parent has initialised it
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                write(torch)
        except ImportError as error:
            missing = (error.name or str(error)).partition(".")[0]
            raise ConvertError(f"torch's exporter needs {missing}", hint=f"pip install {missing}") from None
        except Exception as error:  # torch has many exceptions of its own, and the module may raise any other
            raise ConvertError(f"torch cannot export it: {say(_first_cause(error))}") from None

    run_forked(work, folder, limit=TIMEOUT, what="torch's exporter")
