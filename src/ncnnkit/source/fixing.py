"""An ONNX file some of whose inputs are constants: a sample rate, a switch, whatever selects a branch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import ModelError
from ..onboard.scratch import Scratch


def fix_inputs(path: Path, values: Mapping[str, float], scratch: Scratch) -> Path:
    """Write a model whose inputs of these names are constants.

    Args:
        path: an ONNX file.
        values: name of an input -> the number that all its elements are. Dimensions that are not fixed become 1.
        scratch: gets the new file.

    Raises:
        ModelError: the model has no input of such a name.
        ConvertError: the file cannot be read.
    """
    import onnx_ir as ir  # takes a moment

    from .onnx.reading import fed, load

    model = load(path)
    for name, number in values.items():
        inputs = {str(value.name): value for value in fed(model.graph)}
        if name not in inputs:
            raise ModelError(f"has no input {name!r}", where=str(path), hint=f"its inputs are {', '.join(inputs)}")
        value = inputs[name]
        shape = [side if isinstance(side, int) and side > 0 else 1 for side in value.shape or ()]
        kind = np.float32 if value.dtype is None else value.dtype.numpy()
        value.const_value = ir.tensor(np.full(shape, number, kind), name=name)
        value.shape = ir.Shape(shape)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    made = Path(scratch.name, path.name)
    ir.save(model, made)
    return made
