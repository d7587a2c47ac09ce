"""The ONNX project's own tests of its operators. Each is lowered, run in ncnn, and compared with the expected output.

A test is a model of one node, with its inputs and outputs. If an operator is a function of others, a second, "expanded"
test has those instead. ncnn needs weights and sizes at conversion, so whole numbers and weights are constants here.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import lowered
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ncnnkit.errors import ConvertError
from ncnnkit.source.onnx import OPERATORS

Array = NDArray[Any]

WEIGHTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "DeformConv": (1, 3), "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "GroupNormalization": (1, 2),
    "RMSNormalization": (1,), "PRelu": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2),
    "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3), "RNN": (1, 2, 3), "Pad": (2,), "RotaryEmbedding": (1, 2),
    "Where": (0,), "Pow": (1,), "CastLike": (1,), "OneHot": (1, 2),
}  # fmt: skip
"""Operator -> the inputs that are constants in every real model, besides whole numbers."""

NUMBERS = frozenset(
    [f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)] + ["bfloat16", "bool"]
)
"""The types of the arrays in tests that are run. ncnn has no floats of 8 and 4 bits, and no texts."""

SECONDS = 120
"""Seconds. A test that takes longer counts as hanging."""


@dataclass(frozen=True)
class Case:
    """A test: a model, its inputs, and the expected outputs.

    Attributes:
        name: the name in the ONNX project.
        operator: the tested operator. An expanded test has other nodes.
        model: the model, with constants as initializers.
        fed: its other inputs, by name.
        expected: the expected outputs.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    fed: dict[str, Array]
    expected: Sequence[Array]


@dataclass(frozen=True)
class Outcome:
    """The result of a test.

    Attributes:
        kind: how it ended.
        why: the reason, if the test is not right.
        layers: the types of layers in ncnn's network, without inputs and copies, if the test is right.
    """

    kind: Literal["right", "refused", "wrong"]
    why: str = ""
    layers: tuple[str, ...] = ()


def cases() -> list[Case]:
    """The tests with operators that ncnnkit has, and with at least one input for ncnn."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    tested = {case.name: case.model.graph.node[0].op_type for case in collected if len(case.model.graph.node) == 1}
    made = []
    for case in collected:
        nodes = {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in case.model.graph.node}
        operator = tested.get(case.name.partition("_expanded")[0])
        inputs, outputs = ([_array(given) for given in side] for side in case.data_sets[0])
        if operator is None or not nodes <= OPERATORS.keys():
            continue
        if any(array is None or array.dtype.name not in NUMBERS for array in (*inputs, *outputs)):
            continue
        model, fed = _with_constants(case.model, operator, inputs)
        if fed:
            made.append(Case(case.name, operator, model, fed, outputs))
    return made


def _array(given: Any) -> Any:
    """An input or an expected output of a test as an array; None for lists and optional values."""
    if isinstance(given, onnx.TensorProto):
        return numpy_helper.to_array(given)
    return np.asarray(given) if isinstance(given, np.ndarray | np.generic) else None


def _with_constants(
    model: onnx.ModelProto, operator: str, inputs: Sequence[Array]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with whole numbers and weights as constants, and its remaining inputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.input[:]
    places = [i for i, name in enumerate(_inputs(model, operator)) if name]
    fed: dict[str, Array] = {}
    for index, (info, array) in enumerate(zip(model.graph.input, inputs, strict=True)):
        place = places[index] if index < len(places) else index
        whole = array.dtype.kind in "iub" and index > 0
        if whole or place in WEIGHTS.get(operator, ()):
            made.graph.initializer.append(numpy_helper.from_array(array, info.name))
        else:
            made.graph.input.append(info)
            fed[info.name] = array
    return made, fed


def _inputs(model: onnx.ModelProto, operator: str) -> Sequence[str]:
    """The names of the inputs of the tested node; for an expanded test, of the model."""
    (node, *others) = model.graph.node
    return list(node.input) if not others and node.op_type == operator else [v.name for v in model.graph.input]


TOLERANCE = {"float32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}
"""The type of an expected output -> the tolerance, because the output is rounded to that type."""


def outcome(case: Case) -> Outcome:
    """Run a test in this process."""
    try:
        graph = lowered.lowered(case.model, case.fed)
    except ConvertError as error:
        return Outcome("refused", str(error).removeprefix("model.onnx: "))
    made = lowered.run_ncnn(graph, list(case.fed.values()))
    for found, exact in zip(made, case.expected, strict=True):
        if found.size != exact.size:
            return Outcome("wrong", f"{found.shape} for {exact.shape}")
        tolerance = TOLERANCE.get(exact.dtype.name, 1e-3)
        one, other = found.reshape(-1), exact.reshape(-1).astype(np.float32)
        if not np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            return Outcome("wrong", f"{one[:4].tolist()} for {other[:4].tolist()}")
    return Outcome("right", layers=tuple(sorted({layer.type for layer in graph.layers} - {"Input", "Split"})))


def outcomes(all_cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Run tests in a separate process. If ncnn crashes or hangs, the test is wrong, and the next test runs."""
    context = multiprocessing.get_context("fork")
    waiting = list(all_cases)
    while waiting:
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(theirs, waiting))
        worker.start()
        theirs.close()
        try:
            while waiting:
                case = waiting.pop(0)
                try:
                    found = ours.recv() if ours.poll(SECONDS) else Outcome("wrong", f"took more than {SECONDS} s")
                except EOFError:
                    worker.join()
                    found = Outcome("wrong", f"the process ended with {worker.exitcode}")
                yield case, found
                if found.kind == "wrong" and found.why.startswith(("took", "the process")):
                    break
        finally:
            worker.kill()
            worker.join()


def _work(pipe: Connection, all_cases: Sequence[Case]) -> None:
    for case in all_cases:
        try:
            found = outcome(case)
        except Exception as error:
            found = Outcome("wrong", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        pipe.send(found)
