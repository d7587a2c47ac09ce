"""Rewrites that make a network smaller and faster and leave what it computes as it is.

A pass is a function ``(graph) -> int``: it changes the graph where that is certainly right, and says how many times it
did. :data:`PASSES` names them all, in order. They do what ncnn's ncnnoptimize does, and look closer: where a rewrite is
only right for some shapes, types or numbers, these are checked. Layers that compute in int8 are not touched.

=====================  =========================================================================
module                 what is in it
=====================  =========================================================================
constants              constants of one number; sums of scaled blobs
eliminate              layers that change nothing
replace                layers that have a cheaper or more fusable equal
affine                 batch norm, scale, bias, … into the layer before
activation             activations into the layer before
penalties              the masks of attention, in numbers that 16 bits hold
storage                fp16 weights
shapes, wires          what is known of the blobs' shapes; who makes and who reads a blob
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
"""In order: first what stands between layers that could merge, then the merging, then what only then is superfluous."""


M = TypeVar("M", Graph, Artifact)


def optimize(model: M, *, fp16: bool = False) -> M:
    """Fuse, replace and remove layers. The result computes the same as ``model``, up to fp32 rounding.

    Args:
        model: a Graph or an Artifact; not changed.
        fp16: store the weights of the result as fp16 (see :func:`store_fp16`); they are rounded by it.

    Returns:
        The same kind of model. Its inputs and outputs keep their names, and unchanged weights are shared.
        An Artifact keeps the preprocessing and the class names.

    Raises:
        FormatError: the network is not well formed.

    Example:
        >>> model = nk.convert("model.onnx")
        >>> len(nk.optimize(model).graph.layers) < len(model.graph.layers)
        True
    """
    if isinstance(model, Artifact):
        return model.having(optimize_with_report(model.graph, fp16=fp16)[0])
    return optimize_with_report(model, fp16=fp16)[0]


def optimize_with_report(graph: Graph, *, fp16: bool = False, any_size: bool = False) -> tuple[Graph, dict[str, int]]:
    """Like :func:`optimize`, and says how many rewrites each pass made, by the pass's name; none is left out.

    Args:
        any_size: make only rewrites that are right for inputs of any size, and not for those of the Input layers alone.
    """
    graph.verify()
    better = graph.copy()
    if any_size:
        better.set_input_shapes([()] * len(graph.inputs))
    report = dict.fromkeys((rewrite.__name__ for rewrite in PASSES), 0)
    while True:  # ends: no pass adds a layer, and each that replaces one gives it a type it does not look for
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
