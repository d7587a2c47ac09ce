"""Advice about operators that ncnn has no layer for."""

from __future__ import annotations

from ..model import listed
from .lowering import Node

_SORTS = "ncnn cannot sort or search: end the network before it, and do the rest in the program"
_COUNTS = "the size of its output depends on the values of the input: end the network before it"
_INDEXES = "ncnn gathers at constant indices only: export with fixed indices, or end the network before it"
_BRANCHES = "ncnn has no control flow: export with example inputs (torch.jit.trace, dynamo=True), which unrolls it"
_CHOICES = "ncnn has no control flow: give the value of the input that it depends on (--fix NAME=VALUE)"
_WHOLE = "ncnn computes in floating point: export without it, or compute it outside the network"
_RANDOM = "ncnn draws no random numbers: export the model in evaluation mode, or feed the noise as an input"
_SCALES = "ncnnkit supports it only with constant scales: give the network before quantisation"
_TEXT = "ncnn has no strings: tokenise outside the network"

_SPECTRA = "ncnnkit computes spectra of real signals with a constant window: compute others outside the network"

HINTS: dict[str, str] = {
    "ArgMax": _SORTS, "ArgMin": _SORTS, "Hardmax": _SORTS, "TopK": _SORTS, "Unique": _SORTS,
    "NonMaxSuppression": _COUNTS, "NonZero": _COUNTS, "Compress": _COUNTS,
    "Gather": _INDEXES, "GatherElements": _INDEXES, "GatherND": _INDEXES, "Scatter": _INDEXES,
    "ScatterElements": _INDEXES, "ScatterND": _INDEXES, "TensorScatter": _INDEXES,
    "If": _CHOICES, "Loop": _BRANCHES, "Scan": _BRANCHES,
    "SequenceConstruct": _BRANCHES, "SequenceInsert": _BRANCHES, "SequenceAt": _BRANCHES, "SequenceEmpty": _BRANCHES,
    "ConcatFromSequence": _BRANCHES, "SplitToSequence": _BRANCHES,
    "BitShift": _WHOLE, "BitwiseAnd": _WHOLE, "BitwiseOr": _WHOLE, "BitwiseXor": _WHOLE, "BitwiseNot": _WHOLE,
    "Bernoulli": _RANDOM, "Multinomial": _RANDOM, "RandomNormal": _RANDOM, "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM, "RandomUniformLike": _RANDOM,
    "StringNormalizer": _TEXT, "StringConcat": _TEXT, "StringSplit": _TEXT, "TfIdfVectorizer": _TEXT,
    "RoiAlign": "ncnn's nearest layer is ROIAlign, which takes one box: end the network before it",
    "MaxRoiPool": "ncnn's nearest layer is ROIPooling, which takes one box: end the network before it",
    "STFT": _SPECTRA, "DFT": _SPECTRA,
    "MaxUnpool": "ncnn's nearest layer is Interp: replace it by an interpolation",
    "Det": "compute it outside the network",
    "QuantizeLinear": _SCALES, "DequantizeLinear": _SCALES, "QLinearConv": _SCALES, "QLinearMatMul": _SCALES,
}  # fmt: skip
"""Operator -> the most similar layer of ncnn, or how to export a model without the operator.

Some of these operators can be converted in some cases, such as Gather with constant indices.
"""


def hint_for(node: Node) -> str:
    """The hint for a node that cannot be lowered."""
    if numbers := _numbers_for(node):
        given = " ".join(f"--fix {name}=NUMBER" for name in numbers)
        return f"it depends on an input that is a number: give that number, {given}"
    return HINTS.get(node.op, "end the network before it (--outputs), or replace it in the model")


def _numbers_for(node: Node) -> list[str]:
    """The network's scalar integer inputs from which the integer inputs of a node are computed."""
    reading = node.lowering.reading
    wanted, seen = [node.source], dict[str, None]()
    for each in wanted:  # the list grows during the loop
        for value in each.inputs:
            name = str(value.name) if value is not None else ""
            if value is None or name in seen or name in reading.constants or reading.kinds.get(name) not in _WHOLES:
                continue
            seen[name] = None
            if (maker := value.producer()) is not None:
                wanted.append(maker)
    return [name for name in reading.numbers if name in seen]


_WHOLES = ("i", "u", "b")


def place(node: Node) -> str:
    """A description of a node of the original: its operator, its name, and the shapes of its inputs."""
    shapes = ", ".join(f"[{listed(node.shape(i))}]" for i in range(node.inputs) if node.knows_shape(i))
    return f"{node.op} {node.name!r} ({'input' if node.inputs == 1 else 'inputs'} {shapes or 'without shapes'})"
