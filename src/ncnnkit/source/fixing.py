"""Makes inputs of an ONNX file constant: a sample rate, a switch, or another input that selects a branch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..onboard.scratch import Scratch


def fix_inputs(path: Path, values: Mapping[str, float], scratch: Scratch) -> Path:
    """Write a copy of the model in which the inputs with these names are constants.

    Args:
        path: an ONNX file.
        values: name of an input -> the value of all its elements. Dynamic dimensions become 1.
        scratch: the new file is written here.

    Returns:
        The path of the new file.

    Raises:
        ModelError: the model has no input of such a name, its type cannot hold the number, or no input is left.
        ConvertError: the file cannot be read.
    """
    import onnx_ir as ir  # slow to import

    from .onnx.reading import fed, load

    model = load(path)
    for name, number in values.items():
        inputs = {str(value.name): value for value in fed(model.graph)}
        if name not in inputs:
            raise ModelError(f"has no input {name!r}", where=str(path), hint=f"its inputs are {', '.join(inputs)}")
        value = inputs[name]
        shape = [side if isinstance(side, int) and side > 0 else 1 for side in value.shape or ()]
        kind = np.dtype(np.float32 if value.dtype is None else value.dtype.numpy())
        if kind.kind in "iub" and not _fits(number, kind):
            raise ModelError(f"input {name!r} is {kind}: it cannot be {number:g}", where=str(path))
        value.const_value = ir.tensor(np.full(shape, number, kind), name=name)
        value.shape = ir.Shape(shape)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    if not fed(model.graph):
        raise ModelError("every input is fixed: there is nothing left to compute", where=str(path))
    made = Path(scratch.name, path.name)
    ir.save(model, made)
    return made


def _fits(number: float, kind: np.dtype[Any]) -> bool:
    """Whether an integer or boolean type can hold a number."""
    if kind.kind == "b":
        return number in (0, 1)
    return float(number).is_integer() and np.iinfo(kind).min <= number <= np.iinfo(kind).max
