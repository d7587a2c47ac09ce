"""Open a model reference: find the original network, its inputs and outputs, and a way to run it.

================================  ========================================================
``model.onnx``                    ONNX; the reference outputs come from ONNX Runtime
``model.pt`` .pth .jit …          TorchScript; the reference outputs come from torch, if it is installed
``model.param``                   ncnn; there is no other original
``yolo11n_ncnn_model``            the folder of Ultralytics' export to ncnn
``torchvision:resnet50``          a model of torchvision; the reference outputs come from torch, as in the next rows
``timm:NAME``                     a model of timm
``package.module:function``       the ``torch.nn.Module`` that the function returns
a ``torch.nn.Module``             the module itself, in Python only
================================  ========================================================
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, reading
from ..formatting import with_article
from ..onboard.scratch import Scratch
from ..samples.items import times
from .batch import settle_batch
from .decoders import with_decoder
from .files import READERS, model_in
from .fixing import fix_inputs
from .model import ModelSource, require_file
from .torch_models import (
    BUILDERS,
    Built,
    build_from_module,
    builder_in,
    open_module,
    require_defined,
    set_batchnorm_statistics,
)
from .torchrun import import_torch, quiet
from .trimming import trim

__all__ = ["ModelSource", "open_model", "set_batchnorm_statistics"]


def open_model(
    reference: str | Path | Any,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    shape_too: Sequence[tuple[int, ...]] = (),
    weights: str = "default",
    outputs: Sequence[str] = (),
    fix: Mapping[str, float] | None = None,
    statistics: NDArray[np.float32] | None = None,
    task: str = "",
) -> ModelSource:
    """Open the original that a reference names.

    Args:
        reference: see the table at the top of this module.
        shapes: one for each input, in order: (3, 224, 224), or (1, 3, 224, 224) with the batch axis. Needed if the
            model does not fix them. The default of torchvision's and timm's models is the size they were trained for.
        shape_too: further input shapes that the network must accept: one for each input, in order, then the next set.
        weights: for torch models: ``default`` (the library's best weights, downloaded if needed), ``none`` (random,
            with a fixed seed), or a file with a state_dict (.pth, .safetensors).
        outputs: names of tensors of an ONNX file that become the outputs. By default the model's own outputs, or the
            last tensors that ncnn can compute; see :func:`ncnnkit.source.trimming.trim`.
        fix: name of an input of an ONNX file -> its constant value. The network then has no such input.
        statistics: float32 (N, 3, H, W), preprocessed images; with ``weights="none"`` the batch-norm statistics of the
            random network are set from them. See :func:`set_batchnorm_statistics`.
        task: as in the recipe: it may name the head of a detector, or the alphabet of a text reader.

    Raises:
        RecipeError: there is no such task, or the head that it names does not fit the outputs.
        ModelError: the reference, its weights or the shapes cannot be used.
        FormatError: a ``.param`` file is corrupt.
    """

    def opened(at: Sequence[tuple[int, ...]], batch: NDArray[np.float32] | None = None) -> ModelSource:
        with reading(str(reference) if isinstance(reference, str | Path) else type(reference).__name__, ModelError):
            return with_decoder(_open(reference, at, weights, outputs, fix, batch), task)

    source = opened(shapes, statistics)
    count = max(len(source.inputs), 1)
    if len(shape_too) % count:
        raise ModelError(
            f"{len(shape_too)} further shapes are given for {count} inputs", where=source.reference,
            hint="give one for each input, in the order of the inputs, then the next set",
        )  # fmt: skip
    sets = [tuple(map(tuple, shape_too[start : start + count])) for start in range(0, len(shape_too), count)]
    return replace(source, others=tuple(_other(source, each, opened) for each in sets))


def _other(
    source: ModelSource, shapes: Sequence[tuple[int, ...]], opened: Callable[[Sequence[tuple[int, ...]]], ModelSource]
) -> ModelSource:
    """An original for inputs of other shapes. A file is opened again, because its cut depends on the shapes."""
    other = source.at(shapes) if source.kind == "torch" else opened(shapes)
    if other.outputs != source.outputs:
        raise ModelError(
            f"ends at other tensors for inputs of {' and '.join(map(times, shapes))}: {', '.join(other.outputs)}",
            where=source.reference,
            hint="name the tensors with --outputs, or convert it once for each shape",
        )
    return other


def _open(
    reference: str | Path | Any,
    shapes: Sequence[tuple[int, ...]],
    weights: str,
    outputs: Sequence[str],
    fix: Mapping[str, float] | None,
    statistics: NDArray[np.float32] | None,
) -> ModelSource:
    if not isinstance(reference, (str, Path)):
        if fix:
            raise _cannot_fix(type(reference).__name__)
        return trim(_open_module(reference, shapes, weights), outputs)
    path, reference = Path(reference), str(reference)
    path = model_in(path) if path.is_dir() else path
    opener = READERS.get(path.suffix.lower())
    shapes = [tuple(shape) for shape in shapes]
    if opener is not None:
        require_file(path)
        if weights != "default":
            raise ModelError("--weights is only for torch models; this file contains its own weights", where=reference)
        source = _open_fixed(reference, path, shapes, fix) if fix else opener(reference, path, shapes)
        return trim(settle_batch(source), outputs)
    if fix:
        raise _cannot_fix(reference)
    code = Path(reference.partition(":")[0])
    if code.suffix == ".py" and code.is_file():
        hint = f"give the function that builds the network by its import name, such as {builder_in(code)}"
        raise ModelError("is Python code, not a model", where=reference, hint=hint)
    if path.exists():
        raise ModelError("is not a model that ncnnkit can read", where=reference, hint=f"one of {', '.join(READERS)}")
    library, colon, name = reference.partition(":")
    if not (colon and library and name):
        code = Path(f"{reference}.py")
        hint = "a path, torchvision:NAME, timm:NAME or package.module:function"
        hint = f"did you mean {builder_in(code)}?" if code.is_file() else hint
        raise ModelError("no such file or model", where=reference, hint=hint)
    try:
        torch = import_torch(reference)
    except ModelError:
        require_defined(reference)  # installing torch would not help
        raise
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        found = BUILDERS.get(library, build_from_module)(reference, weights)
        made = open_module(reference, found, shapes, statistics if weights == "none" else None)
        return trim(made, outputs)


def _open_fixed(reference: str, path: Path, shapes: Sequence[tuple[int, ...]], fix: Mapping[str, float]) -> ModelSource:
    """Open an ONNX file and make some of its inputs constant."""
    if path.suffix.lower() != ".onnx":
        raise _cannot_fix(reference)
    scratch = Scratch()
    source = READERS[".onnx"](reference, fix_inputs(path, fix, scratch), shapes)
    changes = tuple(f"input {name!r} is always {number:g}" for name, number in fix.items())
    return replace(source, changes=changes, scratch=scratch)


def _cannot_fix(reference: str) -> ModelError:
    return ModelError("--fix needs a model whose inputs have names", where=reference, hint="export it to ONNX")


def _open_module(module: Any, shapes: Sequence[tuple[int, ...]], weights: str) -> ModelSource:
    name = type(module).__name__
    torch = import_torch(name)
    if not isinstance(module, torch.nn.Module):
        hint = "give a path, a reference as torchvision:NAME, or a torch.nn.Module"
        raise ModelError(f"{with_article(module)} is not a model", hint=hint)
    if weights != "default":
        raise ModelError(
            "a module contains its own weights", where=name, hint="load them into the module, and give no weights"
        )
    module = copy.deepcopy(module)  # the copy is put into evaluation mode; the caller may go on training the module
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        return open_module(name, Built(module, name), [tuple(shape) for shape in shapes], None)
