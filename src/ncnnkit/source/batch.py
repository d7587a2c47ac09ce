"""Rewrites a model with a fixed batch of several samples to take one sample, if its samples do not interact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConvertError, ModelError
from ..onboard.scratch import Scratch
from ..samples.items import InputSpec, times
from .files import onnx_run, onnx_session
from .model import Array, ModelSource, Original

_SAME = 1e-6  # noise over signal of outputs that are the same up to the rounding of fp32


def settle_batch(source: ModelSource) -> ModelSource:
    """Make a model with a fixed batch of N take one sample.

    The first axis of every input and output must have size N. This axis counts as the batch if the outputs for the
    first and for the last of N different samples are the same as when each sample runs alone. For that, an ONNX file is
    rewritten: its inputs, and the Reshape and Expand operators that contain N.

    Args:
        source: an opened original.

    Returns:
        ``source`` itself if no input has a fixed first axis other than 1. Otherwise ``changes`` says whether that axis
        counts as the batch or as a part of one sample.
    """
    odd = [spec for spec in source.inputs if spec.original and spec.original[0] != 1]
    if not odd:
        return source
    size = odd[0].original[0] if odd[0].original else 0
    if len(odd) == len(source.inputs) and all(spec.original_shape[0] == size for spec in odd):
        single = _single(source, size)
        if single is not None:
            return single
    said = (
        f"input {spec.name!r} is {times(spec.original_shape)} in the model's file; its first axis is not a batch of "
        f"independent samples, so the whole array is one sample"
        for spec in odd
    )
    return replace(source, changes=(*source.changes, *said))


def _single(source: ModelSource, size: int) -> ModelSource | None:
    """The original with a batch of 1; None if its outputs would change."""
    if source.run is None:
        return None
    samples = _samples(source.inputs, size)
    try:
        whole = source.run(samples)
    except Exception:  # torch and ONNX Runtime raise their own kinds; the routes report the fault later
        return None
    if any(np.ndim(output) == 0 or len(output) != size for output in whole):
        return None
    inputs = tuple(
        InputSpec(spec.name, spec.original_shape[1:] or (1,), spec.dtype, original=None if spec.shape[1:] else (1,))
        for spec in source.inputs
    )
    for changed in _changed(source, size):
        assert changed.run is not None
        if _agrees(changed.run, samples, whole, size):
            said = f"the model takes {size} samples at a time; it is rewritten to take one, and computes the same"
            return replace(changed, inputs=inputs, changes=(*source.changes, said))
    return None


def _samples(inputs: Sequence[InputSpec], size: int) -> list[Array]:
    """Different samples, in the original's shapes. Integers are 0 and 1, which are valid indices in most models."""
    noise = np.random.default_rng(0)
    return [
        noise.standard_normal(spec.original_shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else (np.arange(np.prod(spec.original_shape)).reshape(spec.original_shape) % 3 % 2).astype(spec.dtype)
        for spec in inputs
    ]


def _agrees(run: Original, samples: Sequence[Array], whole: Sequence[Any], size: int) -> bool:
    """Whether a model gives the same outputs as in ``whole`` for the first and for the last sample alone."""
    for row in (0, size - 1):
        try:
            alone = run([array[row : row + 1] for array in samples])
        except Exception:  # the shapes in the rewritten model contradict each other
            return False
        for one, many in zip(alone, whole, strict=True):
            one, many = np.asarray(one, np.float64), np.asarray(many, np.float64)[row : row + 1]
            if one.shape != many.shape or np.sum((one - many) ** 2) > _SAME * np.sum(many**2):
                return False
    return True


def _changed(source: ModelSource, size: int) -> Iterator[ModelSource]:
    """Candidates with a batch of 1. A module may take any batch as it is.

    An ONNX file gets other inputs first; the second candidate also has other Reshape and Expand operators.
    """
    if source.kind != "onnx":
        yield source
        return
    import onnx_ir as ir

    from .onnx.reading import load

    for reshapes in (False, True):
        scratch = Scratch()
        path = Path(scratch.name, source.file.name)
        try:
            model = load(source.file)
            _rewrite(model, size, reshapes)
            ir.save(model, path)
            run = onnx_run(onnx_session(path))
        except (ConvertError, ModelError):
            continue
        yield replace(source, path=path, run=run, scratch=scratch)


def _rewrite(model: Any, size: int, reshapes: bool) -> None:
    """Set the first axis of every input to 1, and clear the shapes of all other values."""
    import onnx_ir as ir

    from .onnx.reading import fed
    from .onnx.weights import hold

    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
        if not (reshapes and node.op_type in ("Reshape", "Expand") and len(node.inputs) > 1):
            continue
        shape = node.inputs[1]
        array = None if shape is None or shape.const_value is None else shape.const_value.numpy()
        if array is None or not array.size or array[0] <= 0 or array[0] % size:
            continue
        single = np.array([array[0] // size, *array[1:]], np.int64)
        node.replace_input_with(1, hold(model.graph, single, f"{shape.name}/one sample/{node.name}"))
    for value in fed(model.graph):
        value.shape = None if value.shape is None else ir.Shape((1, *value.shape[1:]))
