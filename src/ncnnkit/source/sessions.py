"""ONNX models in ONNX Runtime, each in a child process with limits of time, memory and files.

A stranger's model may crash ONNX Runtime, never end, or ask for any memory. No other process of ncnnkit computes with
it, or infers its types.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..onboard.answers import Arrays
from ..onboard.messages import LARGEST, TYPES, Message
from ..onboard.process import limit_self
from ..onboard.sysfs import system_memory_mb
from .forked import Server, ServerError
from .model import Array

LOAD_SECONDS, LOAD_SECONDS_PER_MB = 60.0, 1.0
"""ONNX and ONNX Runtime may take so long to read a model, and so much longer for each MB."""

RUN_SECONDS = 120.0
"""Seconds that one sample may take. A Loop may run forever."""


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        name: of the input.
        type: ONNX Runtime's name for it, such as ``tensor(float)``.
        shape: including the batch axis; None for a dynamic dimension. Also empty if the rank is unknown.
    """

    name: str
    type: str
    shape: list[int | None]


class OnnxSession:
    """A model that ONNX Runtime has loaded in a child process. A context manager; leaving it ends the process.

    The process also ends when this object is deleted, and when this process ends or is killed. It may take the memory
    that is free when it starts, writes no files, and opens few. Threads may share a session; their runs wait for each
    other.

    Args:
        model: the path of an ONNX file, or the bytes of one.
        optimised: whether ONNX Runtime may fuse operators.
        threads: how many compute one operator; None: as many as ONNX Runtime chooses.

    Attributes:
        inputs: of the model, in order.
        outputs: their names, in order.
        metadata: the texts in the model.

    Raises:
        ServerError: ONNX Runtime refuses the model, crashes, hangs, or takes more memory than there is.
    """

    def __init__(self, model: Path | bytes, *, optimised: bool = True, threads: int | None = None) -> None:
        import onnxruntime  # noqa: F401  # before the fork: once for all processes

        size = len(model) if isinstance(model, bytes) else model.stat().st_size
        load = partial(_load, model, optimised, threads)
        self._server = Server(partial(_Network, load), what="ONNX Runtime", limits=_LIMITS)
        self._turn = threading.Lock()
        try:
            found, _ = self._server.ask("load", _Loaded, limit=_seconds(size))
        except BaseException:
            self._server.close()
            raise
        self.inputs, self.outputs, self.metadata = found.inputs, found.outputs, found.metadata

    def __enter__(self) -> OnnxSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._server.close()

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> Arrays:
        """Run the model once, for at most :data:`RUN_SECONDS`.

        Args:
            feeds: name of an input -> its array.
            names: of the outputs; None for all.

        Returns:
            An array for each output.

        Raises:
            ServerError: ONNX Runtime fails, crashes, hangs or takes more memory than there is, or an output is not an
                array of numbers.
        """
        wanted = self.outputs if names is None else list(names)
        arrays = [np.asarray(array) for array in feeds.values()]
        for name, array in zip(feeds, arrays):
            if array.dtype.name not in TYPES:
                raise ServerError(self._server.what, f"input {name!r} is {array.dtype}, not numbers")
        with self._turn:
            made, found = self._server.ask(
                "run", _Made, arrays, limit=RUN_SECONDS, inputs=list(feeds), outputs=list(wanted)
            )
            self._check_room(made.kinds, wanted)
            while len(found) < len(made.kinds):
                _, more = self._server.ask("rest", _Rest, limit=RUN_SECONDS)
                found += more
                if not more:
                    break
        if [(array.dtype.name, array.shape) for array in found] != made.kinds or len(found) != len(wanted):
            raise self._server.broken("its outputs are not those it announced")
        return found

    def _check_room(self, kinds: Sequence[tuple[str, tuple[int, ...]]], names: Sequence[str]) -> None:
        """Refuse outputs that are too large before memory is taken for them. The process has them by now."""
        if any(dtype not in TYPES or min(shape, default=0) < 0 for dtype, shape in kinds):
            raise self._server.broken("its outputs have no valid type or shape")
        sizes = [TYPES[dtype].itemsize * math.prod(shape) for dtype, shape in kinds]
        free = system_memory_mb("MemAvailable")
        if sum(sizes) <= _PIECE:
            return
        if free is not None and sum(sizes) > free * 1e6:
            what = f"its outputs have {sum(sizes) / 1e9:.1f} GB, and {free / 1e3:.1f} GB of memory are free"
            raise ServerError(self._server.what, what)
        for name, size in zip(names, sizes):
            if size > LARGEST:
                raise ServerError(self._server.what, f"its output {name!r} has {size / 1e9:.1f} GB")


# --------------------------------------------------------------------------------------------------- in the process

_PIECE = 1 << 25
"""Bytes of outputs in one message. The process frees what it has sent, so few outputs are in memory twice."""


@dataclass(frozen=True)
class _Loaded:
    inputs: list[Input]
    outputs: list[str]
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Made:
    """The type and the shape of each output. The outputs come with it if they are small."""

    kinds: list[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class _Rest:
    """Some more of the outputs."""


class _Network:
    """What the process does. Each public method answers one request."""

    def __init__(self, load: Any) -> None:
        self._load = load
        self._session: Any = None
        self._left: Arrays = []

    def load(self, _: Message, __: Arrays) -> tuple[_Loaded, Arrays]:
        self._session, self._load = self._load(), None
        inputs = [
            Input(found.name, found.type, [side if isinstance(side, int) else None for side in found.shape])
            for found in self._session.get_inputs()
        ]
        outputs = [found.name for found in self._session.get_outputs()]
        return _Loaded(inputs, outputs, dict(self._session.get_modelmeta().custom_metadata_map)), []

    def run(self, request: Message, arrays: Arrays) -> tuple[_Made, Arrays]:
        self._left = []
        found = self._session.run(request["outputs"], dict(zip(request["inputs"], arrays)))
        for name, array in zip(request["outputs"], found):
            if not (isinstance(array, np.ndarray) and array.dtype.name in TYPES):
                raise ValueError(f"output {name!r} is not an array of numbers")
        self._left = found[::-1]
        made = _Made([(array.dtype.name, array.shape) for array in found])
        return made, self._piece() if sum(array.nbytes for array in found) <= _PIECE else []

    def rest(self, _: Message, __: Arrays) -> tuple[_Rest, Arrays]:
        return _Rest(), self._piece()

    def _piece(self) -> Arrays:
        piece: Arrays = []
        while self._left and (not piece or sum(a.nbytes for a in piece) + self._left[-1].nbytes <= _PIECE):
            piece.append(self._left.pop())
        return piece


def _load(model: Path | bytes, optimised: bool, threads: int | None) -> Any:
    """An ``onnxruntime.InferenceSession``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Many values of the network may be fetched. The arena would keep the memory of those that were sent.
        options.enable_cpu_mem_arena = False
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 4  # with 3, every error is also printed to stderr
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


# ------------------------------------------------------------------------------------------------- ONNX's inference


def inferred_types(model: bytes) -> dict[str, int | None]:
    """The types of the values of a model, inferred by ONNX in a child process.

    Returns:
        Name of a value -> the number of its type in ``onnx.TensorProto``; None if it is no tensor. Values whose types
        ONNX cannot infer are left out.

    Raises:
        ServerError: the model contradicts itself, or ONNX crashes, hangs or takes more memory than there is.
    """
    import onnx  # noqa: F401  # before the fork

    with Server(partial(_Inference, model), what="ONNX", limits=_LIMITS) as server:
        return server.ask("infer", _Types, limit=_seconds(len(model)))[0].types


@dataclass(frozen=True)
class _Types:
    types: dict[str, int | None]


class _Inference:
    def __init__(self, model: bytes) -> None:
        self._model = model

    def infer(self, _: Message, __: Arrays) -> tuple[_Types, Arrays]:
        import onnx

        graph = onnx.shape_inference.infer_shapes(self._model).graph
        types: dict[str, int | None] = {}
        for value in (*graph.value_info, *graph.output):
            if value.type.WhichOneof("value") not in (None, "tensor_type"):
                types[value.name] = None
            elif value.type.tensor_type.elem_type:
                types[value.name] = value.type.tensor_type.elem_type
        return _Types(types), []


def _seconds(size: int) -> float:
    """The limit for reading a model of so many bytes."""
    return LOAD_SECONDS + LOAD_SECONDS_PER_MB * size / 1e6


_LIMITS = partial(limit_self, file_bytes=0)
