"""Formulas in many spellings: each becomes the single ncnn layer that computes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import assert_same, model
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]


@dataclass
class Written:
    """The nodes and constants of a model that is being written."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)


@dataclass
class Value:
    """A value of that model. Arithmetic with it adds nodes."""

    name: str
    to: Written

    def op(self, kind: str, *others: Any, first: bool = True, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node with this value as its first or last input. None leaves an input out."""
        names = [self._named(other) for other in others]
        names = [self.name, *names] if first else [*names, self.name]
        made = [f"v{len(self.to.nodes)}_{i}" for i in range(outputs)]
        self.to.nodes.append(helper.make_node(kind, names, made, **attributes))
        values = [Value(name, self.to) for name in made]
        return values[0] if outputs == 1 else values

    def _named(self, other: Any) -> str:
        if isinstance(other, Value):
            return other.name
        if other is None:
            return ""
        name = f"c{len(self.to.constants)}"
        array = np.asarray(other)
        self.to.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def __add__(self, other: Any) -> Any:
        return self.op("Add", other)

    def __sub__(self, other: Any) -> Any:
        return self.op("Sub", other)

    def __mul__(self, other: Any) -> Any:
        return self.op("Mul", other)

    def __truediv__(self, other: Any) -> Any:
        return self.op("Div", other)

    def __pow__(self, other: float) -> Any:
        return self.op("Pow", other)

    def __neg__(self) -> Any:
        return self.op("Neg")

    def __matmul__(self, other: Any) -> Any:
        return self.op("MatMul", other)

    def mean(self, *axes: int) -> Any:
        return self.op("ReduceMean", np.array(axes), keepdims=1)

    def sqrt(self) -> Any:
        return self.op("Sqrt")

    def exp(self) -> Any:
        return self.op("Exp")

    def reshape(self, *shape: int) -> Any:
        return self.op("Reshape", np.array(shape))

    def transpose(self, *order: int) -> Any:
        return self.op("Transpose", perm=order)

    def part(self, start: int, end: int, step: int = 1, axis: int = -1) -> Any:
        return self.op("Slice", np.array([start]), np.array([end]), np.array([axis]), np.array([step]))

    def softmax(self) -> Any:
        return self.op("Softmax", axis=-1)


END = 2**31
noise = np.random.default_rng(0)
ROW, CHANNELS = noise.uniform(0.5, 1.5, 8), noise.uniform(0.5, 1.5, (4, 1, 1))
ANGLES = np.arange(6)[:, None] / 10 ** (np.arange(4) / 4)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)
BOTH_COS, BOTH_SIN = np.tile(COS, 2), np.tile(SIN, 2)
EACH_COS, EACH_SIN = np.repeat(COS, 2, -1), np.repeat(SIN, 2, -1)


def centred(x: Any, *axes: int) -> Any:
    return x - x.mean(*axes)


def squares(x: Any, *axes: int) -> Any:
    return (x * x).mean(*axes)


def variance_first(x: Any) -> Any:
    """As in torch's export of var_mean: each has its own mean, and the variance is of a sum."""
    deviation = ((centred(x, -1) ** 2.0).op("ReduceSum", np.array([-1])) / 8.0 + 1e-5).sqrt()
    return centred(x, -1) * deviation.op("Reciprocal") * ROW + ROW


def unbiased(x: Any) -> Any:
    c = centred(x, -1)
    return c / ((c * c).op("ReduceSum", np.array([-1])) / 7.0 + 1e-5).sqrt() * ROW


def over_channels(x: Any) -> Any:
    c = centred(x, 1)
    return c / (squares(c, 1) + 1e-6).sqrt() * CHANNELS + CHANNELS


def norm(x: Any, axis: int = -1) -> Any:
    return x.op("ReduceL2", np.array([axis]), keepdims=1)


def floored(x: Any, axis: int, shape: tuple[int, ...], eps: float = 1e-12) -> Any:
    return x / norm(x, axis).op("Clip", eps).op("Expand", np.array(shape))


def by_groups(x: Any) -> Any:
    c = centred(x.reshape(1, 2, -1), -1)
    return (c / (squares(c, -1) + 1e-5).sqrt()).reshape(1, 4, 6, 8) * CHANNELS + CHANNELS


def instance(x: Any) -> Any:
    c = centred(x, 2, 3)
    return c * (squares(c, 2, 3) + 1e-5).sqrt().op("Reciprocal") * CHANNELS + CHANNELS


def mish_of_powers(x: Any) -> Any:
    e = (x.exp() + 1.0) ** 2.0
    return x * (e - 1.0) / (e + 1.0)


def clamp(x: Any, low: float, high: float) -> Any:
    return x.op("Max", low).op("Min", high)


def halves(x: Any) -> Any:
    a, b = x.part(0, 4), x.part(4, END)
    return (a * COS - b * SIN).op("Concat", b * COS + a * SIN, axis=-1)


def half_turned(x: Any) -> Any:
    a, b = x.op("Split", np.array([4, 4]), outputs=2, axis=-1)
    return x * BOTH_COS + (-b).op("Concat", a, axis=-1) * BOTH_SIN


def stacked(a: Any, b: Any) -> Any:
    last = np.array([4])
    return a.op("Unsqueeze", last).op("Concat", b.op("Unsqueeze", last), axis=-1).reshape(1, 4, 6, 8)


def pairs(x: Any) -> Any:
    a, b = x.part(0, END, 2), x.part(1, END, 2)
    return stacked(a * COS - b * SIN, a * SIN + b * COS)


def pairs_turned(x: Any) -> Any:
    return x * EACH_COS + stacked(-x.part(1, END, 2), x.part(0, END, 2)) * EACH_SIN


def pairs_of_view(x: Any) -> Any:
    y = x.reshape(1, 4, 6, 4, 2)
    a, b = (y.op("Gather", np.array(i), axis=4) for i in (0, 1))
    return stacked(a * COS - b * SIN, b * COS + a * SIN)


def swapped(x: Any) -> Any:
    """Halves, before the heads are moved forward: positions are the second axis."""
    x = x.reshape(1, 6, 4, 8)
    a, b = x.part(0, 4), x.part(4, END)
    c, s = COS[:, None], SIN[:, None]
    return (a * c - b * s).op("Concat", b * c + a * s, axis=-1)


TOKENS, IMAGE = (1, 6, 8), (1, 4, 6, 8)
SPELLINGS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str]] = {
    "hard swish, numbers with axes": (
        lambda x: x * clamp(x + np.full((1, 1, 1, 1), 3.0), 0.0, 6.0) / np.full((1, 1, 1, 1), 6.0), IMAGE, "HardSwish"
    ),
    "layer norm, variance first": (variance_first, TOKENS, "LayerNorm"),
    "layer norm, unbiased": (unbiased, TOKENS, "LayerNorm"),
    "layer norm over channels": (over_channels, IMAGE, "Permute LayerNorm Permute"),
    "rms norm": (lambda x: x / (squares(x, -1) + 1e-6).sqrt() * ROW, TOKENS, "RMSNorm"),
    "rms norm, power": (lambda x: x * (squares(x, -1) + 1e-6) ** -0.5 * ROW, TOKENS, "RMSNorm"),
    "rms norm, norm": (lambda x: x / norm(x) * math.sqrt(8) * ROW, TOKENS, "RMSNorm"),
    "rms norm, normalised": (lambda x: floored(x, -1, TOKENS) * math.sqrt(8) * ROW, TOKENS, "RMSNorm"),
    "rms norm over channels": (lambda x: x / (squares(x, 1) + 1e-6).sqrt() * CHANNELS, IMAGE, "Normalize"),
    "norm over channels": (lambda x: floored(x, 1, IMAGE), IMAGE, "Normalize"),
    "norm over channels, large eps": (lambda x: floored(x, 1, IMAGE, 2.0), IMAGE, "Normalize"),
    "group norm": (by_groups, IMAGE, "GroupNorm"),
    "instance norm": (instance, IMAGE, "GroupNorm"),
    "gelu, halved last": (lambda x: x * ((x / math.sqrt(2)).op("Erf") + 1.0) / 2.0, IMAGE, "GELU"),
    "gelu, tanh": (lambda x: ((x + x**3.0 * 0.044715) * 0.79788456).op("Tanh").op("Add", 1.0) * (x * 0.5),
                   IMAGE, "GELU"),
    "gelu, tanh, factored": (lambda x: x * 0.5 * ((x * 0.79788456 * (x * x * 0.044715 + 1.0)).op("Tanh") + 1.0),
                             IMAGE, "GELU"),
    "silu": (lambda x: x / ((-x).exp() + 1.0), IMAGE, "Swish"),
    "silu, reciprocal": (lambda x: ((-x).exp() + 1.0).op("Reciprocal") * x, IMAGE, "Swish"),
    "sigmoid": (lambda x: ((-x).exp() + 1.0).op("Reciprocal"), IMAGE, "Sigmoid"),
    "mish": (lambda x: x * (x.exp() + 1.0).op("Log").op("Tanh"), IMAGE, "Mish"),
    "mish, powers": (mish_of_powers, IMAGE, "Mish"),
    "softplus": (lambda x: (x.exp() + 1.0).op("Log"), IMAGE, "Softplus"),
    "hard sigmoid": (lambda x: (x * 0.2 + 0.5).op("Clip", 0.0, 1.0), IMAGE, "HardSigmoid"),
    "hard sigmoid, shifted": (lambda x: clamp((x + 1.0) / 2.0, 0.0, 1.0), IMAGE, "HardSigmoid"),
    "hard sigmoid, relu6": (lambda x: (x + 3.0).op("Clip", 0.0, 6.0) / 6.0, IMAGE, "HardSigmoid"),
    "hard swish": (lambda x: x * clamp(x / 6.0 + 0.5, 0.0, 1.0), IMAGE, "HardSwish"),
    "hard swish, relu6": (lambda x: x * (x + 3.0).op("Clip", 0.0, 6.0) * (1 / 6), IMAGE, "HardSwish"),
    "rotary, halves": (halves, IMAGE, "MemoryData MemoryData RotaryEmbed"),
    "rotary, halves turned": (half_turned, IMAGE, "MemoryData MemoryData RotaryEmbed"),
    "rotary, pairs": (pairs, IMAGE, "MemoryData MemoryData RotaryEmbed"),
    "rotary, pairs turned": (pairs_turned, IMAGE, "MemoryData MemoryData RotaryEmbed"),
    "rotary, pairs of a view": (pairs_of_view, IMAGE, "MemoryData MemoryData RotaryEmbed"),
    "rotary, places before heads": (swapped, (1, 6, 32), "Reshape MemoryData MemoryData RotaryEmbed Reshape"),
    "every second pixel": (lambda x: x.part(0, END, 2, 2).part(0, END, 2, 3), IMAGE, "Pooling"),
    "every second pixel, channels last": (lambda x: x.part(0, END, 2, 1).part(0, END, 2, 2), IMAGE,
                                          "Reshape Pooling3D Reshape"),
    "every second pixel, from the second": (lambda x: x.part(1, END, 2, 2).part(1, END, 2, 3), IMAGE, "Crop Pooling"),
    "corner": (lambda x: x.part(1, 3, 1, 2).part(2, 5, 1, 3), IMAGE, "Crop"),
}  # fmt: skip
"""Name -> (formula, shape of x, ncnn's layers after the Input)."""


def written(formula: Callable[..., Any], *shapes: tuple[int, ...]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A formula as a model, and its inputs."""
    fed = {f"x{i}": noise.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    to = Written()
    made = formula(*(Value(name, to) for name in fed))
    outputs = [value.name for value in (made if isinstance(made, tuple) else (made,))]
    return model(to.nodes, fed, outputs, to.constants), fed


def layers(formula: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """The types of ncnn's layers for a formula, without Inputs. It checks that the outputs equal ONNX Runtime's."""
    graph = assert_same(*written(formula, *shapes), tolerance=1e-5)
    return [layer.type for layer in graph.layers if layer.type != "Input"]


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_spelling_becomes_the_layer(what: str) -> None:
    formula, shape, wanted = SPELLINGS[what]
    assert layers(formula, shape) == wanted.split()


OTHERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str]] = {
    "eps outside the root": (lambda x: centred(x, -1) / (squares(centred(x, -1), -1).sqrt() + 0.1), TOKENS,
                             "LayerNorm RMSNorm"),
    "gamma of each row": (lambda x: x / (squares(x, -1) + 1e-6).sqrt() * noise.normal(size=(6, 8)), TOKENS, "none"),
    "swish with a factor": (lambda x: x * (x * 1.702).op("Sigmoid"), IMAGE, "Swish GELU"),
    "two different factors": (lambda x: x * 0.5 * ((x * 0.8).op("Erf") + 1.0), IMAGE, "GELU"),
    "rotated by unlike angles": (lambda x: (x.part(0, 4) * COS - x.part(4, END) * SIN).op(
        "Concat", x.part(4, END) * SIN + x.part(0, 4) * SIN, axis=-1), IMAGE, "RotaryEmbed"),
}  # fmt: skip
"""Name of a similar formula -> (the formula, shape of x, the layers that it must not become)."""


@pytest.mark.parametrize("what", OTHERS)
def test_similar_formulas_stay_exact(what: str) -> None:
    formula, shape, wrong = OTHERS[what]
    assert not set(layers(formula, shape)) & set(wrong.split())


def with_mean(x: Any) -> Any:
    mean = x.mean(-1)
    c = x - mean
    return c / (squares(c, -1) + 1e-5).sqrt(), mean


def with_gate(x: Any) -> Any:
    gate = (-x).exp() + 1.0
    return x / gate, gate.op("Sqrt")


def with_half(x: Any) -> Any:
    turned = (-x.part(4, END)).op("Concat", x.part(0, 4), axis=-1)
    return x * BOTH_COS + turned * BOTH_SIN, turned


@pytest.mark.parametrize(
    ("formula", "shape", "wrong"),
    [(with_mean, TOKENS, "LayerNorm"), (with_gate, IMAGE, "Swish"), (with_half, IMAGE, "RotaryEmbed")],
)
def test_a_value_inside_that_others_read_keeps_the_nodes_apart(
    formula: Callable[..., Any], shape: tuple[int, ...], wrong: str
) -> None:
    assert wrong not in layers(formula, shape)


# ---------------------------------------------------------------------------------------------------------- attention

HEADS = (1, 2, 6, 4)
CAUSAL = np.where(np.tri(6), 0.0, -np.inf)
ATTENTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], str]] = {
    "plain": (lambda q, k, v: (q @ k.transpose(0, 1, 3, 2)).softmax() @ v, [], "SDPA"),
    "scores scaled": (lambda q, k, v: (q @ k.transpose(0, 1, 3, 2) / 3.0).softmax() @ v, [], "SDPA"),
    "q scaled": (lambda q, k, v: ((q * 0.3) @ k.transpose(0, 1, 3, 2)).softmax() @ v, [], "SDPA"),
    "k scaled": (lambda q, k, v: (q @ (k * 0.3).transpose(0, 1, 3, 2)).softmax() @ v, [], "SDPA"),
    "k' scaled": (lambda q, k, v: (q @ (k.transpose(0, 1, 3, 2) * 0.3)).softmax() @ v, [], "SDPA"),
    "both scaled": (lambda q, k, v: ((q * 0.6) @ (k.transpose(0, 1, 3, 2) / 2.0)).softmax() @ v, [], "SDPA"),
    "each head scaled": (lambda q, k, v: (
        q @ k.transpose(0, 1, 3, 2) * np.array([0.3, 0.6]).reshape(2, 1, 1) + CAUSAL).softmax() @ v, [],
        "MemoryData BinaryOp MemoryData SDPA"),
    "constant mask": (lambda q, k, v: (q @ k.transpose(0, 1, 3, 2) + CAUSAL).softmax() @ v, [], "MemoryData SDPA"),
    "mask fed": (lambda q, k, v, m: (q @ k.transpose(0, 1, 3, 2) * 0.5 + m).softmax() @ v, [(6, 6)], "SDPA"),
    "mask of each head fed": (lambda q, k, v, m: (m + q @ k.transpose(0, 1, 3, 2)).softmax() @ v, [(1, 2, 6, 6)],
                              "SDPA"),
    "mask of keys fed": (lambda q, k, v, m: (q @ k.transpose(0, 1, 3, 2) + m).softmax() @ v, [(1, 1, 1, 6)],
                         "MemoryData BinaryOp SDPA"),
    "einsum": (lambda q, k, v: q.op("Einsum", k, equation="bhid,bhjd->bhij").softmax().op(
        "Einsum", v, equation="bhij,bhjd->bhid"), [], "SDPA"),
    "einsum, factors swapped": (lambda q, k, v: v.op("Einsum", k.op(
        "Einsum", q, equation="bhjd,bhid->bhij").softmax(), equation="bhjd,bhij->bhid"), [], "SDPA"),
}  # fmt: skip
"""Name -> (formula of q, k, v and more inputs, their shapes, ncnn's layers after the Inputs)."""


@pytest.mark.parametrize("what", ATTENTIONS)
def test_a_spelling_of_attention_becomes_the_layer(what: str) -> None:
    formula, more, wanted = ATTENTIONS[what]
    found = layers(formula, HEADS, HEADS, HEADS, *more)
    assert [kind for kind in found if kind != "Reshape"] == wanted.split()


def test_attention_whose_weights_are_read_stays_apart() -> None:
    def both(q: Any, k: Any, v: Any) -> Any:
        weights = (q @ k.transpose(0, 1, 3, 2)).softmax()
        return weights @ v, weights

    assert "SDPA" not in layers(both, HEADS, HEADS, HEADS)
