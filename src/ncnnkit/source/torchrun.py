"""Runs a torch module on numpy arrays, and flattens its outputs into a list."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import ModelError
from ..samples.items import InputSpec
from .model import Array, Original, example_arrays

TORCH_HINT = "pip install torch torchvision timm"


def import_torch(reference: str) -> Any:
    """Import torch. Raises ModelError if it is not installed; ``reference`` names the model in that error."""
    try:
        import torch
    except ImportError:
        raise ModelError("torch is not installed", where=reference, hint=TORCH_HINT) from None
    return torch


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings: a user who converts a model cannot act on deprecations inside torch. Errors are still raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def example_inputs(inputs: Sequence[InputSpec]) -> list[Any]:
    """A tensor for each input, in the original's shape. See :func:`~ncnnkit.source.model.example_arrays`."""
    import torch

    return [torch.from_numpy(spec.as_original(array)) for spec, array in zip(inputs, example_arrays(inputs))]


def flatten(outputs: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested tuples, lists and dicts of tensors into one dict, in order. A single tensor is named ``out0``.

    Returns:
        name -> tensor. The name of a nested tensor joins the keys by dots.

    Raises:
        TypeError: an element is not a tensor.
    """
    import torch

    if isinstance(outputs, torch.Tensor):
        return {name or "out0": outputs}
    if isinstance(outputs, Mapping):
        parts = [(str(key), value) for key, value in outputs.items()]
    elif isinstance(outputs, list | tuple):
        parts = [(f"out{i}", value) for i, value in enumerate(outputs)]
    else:
        raise TypeError(f"returns {type(outputs).__name__} where a tensor is expected")
    found: dict[str, Any] = {}
    for key, value in parts:
        if value is not None:  # networks return None for auxiliary outputs in evaluation mode
            found.update(flatten(value, f"{name}.{key}" if name else key))
    return found


def named_outputs(module: Any, example: Sequence[Any]) -> dict[str, Any]:
    """The module's outputs for example tensors, by name. Raises any exception of the module, or TypeError."""
    return watched_outputs(module, example)[0]


def watched_outputs(module: Any, example: Sequence[Any]) -> tuple[dict[str, Any], bool]:
    """The module's outputs for example tensors, by name, and whether it sorts or searches, which ncnn cannot do.

    Raises any exception of the module, or TypeError.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found = False

    class Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not installed where types are checked
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal found
            found |= str(function) in SEARCHES or (str(function) == "aten.index.Tensor" and _by_mask(args[1]))
            return function(*args, **(kwargs or {}))

    with quiet(), torch.no_grad(), Watch():
        outputs = flatten(module(*example))
    return outputs, found


def _by_mask(indices: Sequence[Any]) -> bool:
    """Whether an index is a boolean mask."""
    import torch

    return any(index is not None and index.dtype == torch.bool for index in indices)


SEARCHES = frozenset(
    ("aten.argmax.default", "aten.argmin.default", "aten.argsort.default", "aten.masked_select.default",
     "aten.max.dim", "aten.min.dim", "aten.nonzero.default", "aten.sort.default", "aten.sort.stable",
     "aten.topk.default", "torchvision.nms.default")
)  # fmt: skip
"""torch's operators that return positions of values, or a number of values that depends on a condition."""


def flat_module(module: Any) -> Any:
    """A module that returns the same outputs as a flat tuple, or as one tensor. Tracing needs this."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:
            outputs = tuple(flatten(self.inner(*inputs)).values())
            return outputs if len(outputs) > 1 else outputs[0]

    return Flat().eval()


def torch_run(module: Any) -> Original:
    """A function that runs a module on one sample: a list of arrays -> a list of float32 arrays."""
    import torch

    def run(sample: list[Array]) -> list[Any]:
        with quiet(), torch.no_grad():
            outputs = flatten(module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in sample)))
        return [tensor.float().numpy() for tensor in outputs.values()]

    return run


def forward_names(module: Any, count: int) -> list[str]:
    """Names of a module's first inputs: the parameters of ``forward``, or ``in0`` and so on if these are too few."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in inspect.signature(module.forward).parameters.items() if p.kind in kinds]
    return names[:count] if len(names) >= count else [f"in{i}" for i in range(count)]
