"""Rewrites that make a network smaller and faster without changing what it computes.

A pass is a function ``(graph) -> int``. It changes the graph only if the change is certainly correct, and returns the
number of changes. :data:`PASSES` lists all passes, in order. They do what ncnn's ncnnoptimize does, with more checks:
if a rewrite is only correct for some shapes, types or numbers, these are checked. Layers that compute in int8 are not
changed.

=====================  =========================================================================
module                 what is in it
=====================  =========================================================================
constants              folds constants of one number; fuses sums of scaled blobs
eliminate              removes layers that change nothing
replace                replaces layers by cheaper ones, or by ones that can be fused
affine                 fuses batch norm, scale, bias, … into the layer before
activation             fuses activations into the layer before
penalties              limits the masks of attention to numbers that 16 bits can hold
storage                stores weights as fp16
shapes, wires          the known shapes of blobs; the producer and the readers of each blob
=====================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..artifact import Artifact
from ..errors import FormatError
from ..model.graph import Graph
from .activation import fuse_activation
from .affine import fuse_affine
from .constants import drop_unread_constants, fold_scalar, fuse_scaled_add
from .eliminate import eliminate_flatten, eliminate_identity, eliminate_reshape_before_binaryop
from .penalties import bound_penalties
from .replace import replace_convolution_on_vector, replace_prelu, replace_reduction
from .storage import store_fp16

__all__ = ["PASSES", "Pass", "optimize", "optimize_with_report", "store_fp16"]

Pass = Callable[[Graph], int]

PASSES: tuple[Pass, ...] = (
    fold_scalar,
    bound_penalties,
    eliminate_identity,
    replace_prelu,
    replace_reduction,
    fuse_affine,
    fuse_activation,
    fuse_scaled_add,
    eliminate_flatten,
    eliminate_reshape_before_binaryop,
    replace_convolution_on_vector,
    drop_unread_constants,
)
"""All passes in order: first passes that remove layers between layers that could be fused, then passes that fuse, then
passes that remove what is left."""


M = TypeVar("M", Graph, Artifact)


def optimize(model: M, *, fp16: bool = False) -> M:
    """Fuse, replace and remove layers. The result computes the same as ``model``, up to fp32 rounding.

    Args:
        model: a Graph or an Artifact; not changed.
        fp16: store the weights of the result as fp16, which rounds them; see :func:`store_fp16`.

    Returns:
        The same kind of model. Its inputs and outputs keep their names, and unchanged weights are shared.
        An Artifact keeps the preprocessing and the class names.

    Raises:
        FormatError: the network is not valid.

    Example:
        >>> model = nk.convert("model.onnx")
        >>> len(nk.optimize(model).graph.layers) < len(model.graph.layers)
        True
    """
    if isinstance(model, Artifact):
        return model.having(optimize_with_report(model.graph, fp16=fp16)[0])
    return optimize_with_report(model, fp16=fp16)[0]


def optimize_with_report(graph: Graph, *, fp16: bool = False, any_size: bool = False) -> tuple[Graph, dict[str, int]]:
    """Like :func:`optimize`, but also returns: name of each pass -> the number of its rewrites.

    Args:
        any_size: only make rewrites that are correct for inputs of any size, not just for the sizes of the Input
            layers.
    """
    graph.verify()
    better = graph.copy()
    if any_size:
        better.set_input_shapes([()] * len(graph.inputs))
    report = dict.fromkeys((rewrite.__name__ for rewrite in PASSES), 0)
    while True:  # the loop ends: no pass adds a layer, and no pass makes a layer of a type that it replaces
        rewrites = sum(_run(rewrite, better, report) for rewrite in PASSES)
        if not rewrites:
            break
    if any_size:
        better.set_input_shapes(graph.input_shapes())
    if fp16:
        _run(store_fp16, better, report)
    return better, report


def _run(rewrite: Pass, graph: Graph, report: dict[str, int]) -> int:
    count = rewrite(graph)
    report[rewrite.__name__] = report.get(rewrite.__name__, 0) + count
    if count:
        try:
            graph.verify()
        except FormatError as error:
            raise AssertionError(f"{rewrite.__name__} left a malformed graph: {error.line()}") from error
    return count
