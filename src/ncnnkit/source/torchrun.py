"""Running a torch module on numpy arrays, whatever structure its outputs come in."""

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
    """torch itself. Raises ModelError where it is not installed."""
    try:
        import torch
    except ImportError:
        raise ModelError("torch is not installed", where=reference, hint=TORCH_HINT) from None
    return torch


@contextmanager
def quiet() -> Iterator[None]:
    """Deprecations inside torch are no news to someone converting a model; errors are raised all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def example_inputs(inputs: Sequence[InputSpec]) -> list[Any]:
    """A tensor for each input, as the original takes it: see :func:`~ncnnkit.source.model.example_arrays`."""
    import torch

    return [torch.from_numpy(spec.as_original(array)) for spec, array in zip(inputs, example_arrays(inputs))]


def flatten(outputs: Any, name: str = "") -> dict[str, Any]:
    """Nested tuples, lists and dicts of tensors -> name -> tensor, in order; a lone tensor is ``out0``.

    Raises:
        TypeError: something in it is not a tensor.
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
        if value is not None:  # what a network leaves out: auxiliary outputs when evaluating
            found.update(flatten(value, f"{name}.{key}" if name else key))
    return found


def named_outputs(module: Any, example: Sequence[Any]) -> dict[str, Any]:
    """The module's outputs on example tensors, by name. Raises what the module raises, or TypeError."""
    return watched_outputs(module, example)[0]


def watched_outputs(module: Any, example: Sequence[Any]) -> tuple[dict[str, Any], bool]:
    """The module's outputs on example tensors, by name, and whether it sorts or searches, which ncnn cannot.

    Raises what the module raises, or TypeError.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found = False

    class Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not there where the types are checked
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal found
            found |= str(function) in SEARCHES or (str(function) == "aten.index.Tensor" and _by_mask(args[1]))
            return function(*args, **(kwargs or {}))

    with quiet(), torch.no_grad(), Watch():
        outputs = flatten(module(*example))
    return outputs, found


def _by_mask(indices: Sequence[Any]) -> bool:
    """Whether values are picked where a condition holds."""
    import torch

    return any(index is not None and index.dtype == torch.bool for index in indices)


SEARCHES = frozenset(
    ("aten.argmax.default", "aten.argmin.default", "aten.argsort.default", "aten.masked_select.default",
     "aten.max.dim", "aten.min.dim", "aten.nonzero.default", "aten.sort.default", "aten.sort.stable",
     "aten.topk.default", "torchvision.nms.default")
)  # fmt: skip
"""torch's operators that return positions of values, or a number of values that depends on a condition."""


def flat_module(module: Any) -> Any:
    """A module that returns the same outputs as a plain tuple (one tensor alone as itself), as tracing wants them."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is not there where the types are checked
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:
            outputs = tuple(flatten(self.inner(*inputs)).values())
            return outputs if len(outputs) > 1 else outputs[0]

    return Flat().eval()


def torch_run(module: Any) -> Original:
    """A function that runs one sample through a module: arrays as it takes them in, its outputs out."""
    import torch

    def run(sample: list[Array]) -> list[Any]:
        with quiet(), torch.no_grad():
            outputs = flatten(module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in sample)))
        return [tensor.float().numpy() for tensor in outputs.values()]

    return run


def forward_names(module: Any, count: int) -> list[str]:
    """Names for a module's first inputs: its forward's parameters, ``in0`` and so on where those say nothing."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in inspect.signature(module.forward).parameters.items() if p.kind in kinds]
    return names[:count] if len(names) >= count else [f"in{i}" for i in range(count)]
