"""Every operator of the ONNX front end, compared with ONNX Runtime for random shapes and attributes.

Cases that ncnn cannot compute must be refused. A strategy mostly makes cases that it can compute, and Hypothesis fails
a test in which most cases are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from lowered import assert_same, model, one_node, run_onnx
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from ncnnkit.errors import ConvertError
from ncnnkit.source.onnx import OPERATORS
from ncnnkit.source.onnx.control import MOST_STEPS

Array = NDArray[Any]
Draw = Callable[..., Any]
TESTED: set[tuple[str, str]] = set()
"""The operators with a test in this file."""


class Case:
    """Draws sizes, choices, and noise with a seed of its own for a strategy."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def maybe(self) -> bool:
        return bool(self.draw(st.booleans()))

    def shape(self, low: int = 1, high: int = 5, most: int = 5) -> tuple[int, ...]:
        """A shape of ``low`` to ``high`` axes. In half of the cases the first one is 1, like a batch axis."""
        sides = [self.number(1, most) for _ in range(self.number(low, high))]
        if self.maybe():
            sides[0] = 1
        return tuple(sides)

    def f(self, *shape: int, low: float = -3.0, high: float = 3.0) -> Array:
        """Noise in a range."""
        return self.noise.uniform(low, high, size=shape).astype(np.float32)

    def whole(self, *shape: int, low: int = -9, high: int = 9) -> Array:
        return self.noise.integers(low, high + 1, size=shape)


def compare(*operators: str, domain: str = "", examples: int = 12) -> Callable[[Callable[[Case, str], Any]], Any]:
    """Make a test of these operators. The function makes the model of one example for a given operator."""
    TESTED.update((domain, operator) for operator in operators)

    def decorate(make: Callable[[Case, str], Any]) -> Any:
        @pytest.mark.parametrize("operator", operators)
        @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
                  suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
        @given(data=st.data())
        def test(operator: str, data: st.DataObject) -> None:
            made = make(Case(data.draw), operator)
            if made is None:
                reject()
            (model, fed), tolerance = made if isinstance(made[1], float) else (made, 2e-4)
            try:
                assert_same(model, fed, tolerance)
            except ConvertError as error:
                if "ONNX Runtime" in str(error):  # the strategy made an invalid model
                    raise
                reject()

        return test

    return decorate


# ------------------------------------------------------------------------------------------------------ control flow


_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _body(nodes: Sequence[Any], inputs: Sequence[tuple[str, int]], outputs: Sequence[str]) -> Any:
    """The body of a Loop or a Scan: its inputs by name and type."""
    return helper.make_graph(
        list(nodes), "body",
        [helper.make_tensor_value_info(name, kind, None if kind == _FLOAT else []) for name, kind in inputs],
        [ValueInfoProto(name=name) for name in outputs],
    )  # fmt: skip


@compare("Loop", "If")
def test_loop(case: Case, operator: str) -> Any:
    """A state goes through the steps, together with values from outside. Each step may have outputs."""
    steps, shape = case.number(1, 5), (1, *case.shape(1, 3))
    fed = {"x": case.f(*shape), "z": case.f(*shape)}
    constants = {"times": np.array(steps), "always": np.array(True), "last": np.array(case.number(0, 4))}
    nodes = [
        helper.make_node("Identity", ["go"], ["again"]),
        helper.make_node("Cast", ["i"], ["number"], to=_FLOAT),
        helper.make_node("Mul", ["state", "number"], ["product"]),
        helper.make_node("Sub", ["product", "z"], ["next"]),
        helper.make_node("Add", ["next", "x"], ["shown"]),
    ]
    if operator == "If":  # the condition differs at every step
        plus, minus = (_body([helper.make_node(kind, ["shown"], [kind])], [], [kind]) for kind in ("Abs", "Neg"))
        nodes += [
            helper.make_node("Less", ["i", "last"], ["early"]),
            helper.make_node("If", ["early"], ["chosen"], then_branch=plus, else_branch=minus),
        ]
    outputs = ["again", "next", "chosen" if operator == "If" else "shown"]
    body = _body(nodes, [("i", _INT64), ("go", _BOOL), ("state", _FLOAT)], outputs)
    condition = case.one_of("", "always")
    loop = helper.make_node("Loop", ["times", condition, "x"], ["y", "all"], body=body)
    return model([loop], fed, ["y", "all"], constants), fed


@compare("Scan")
def test_scan(case: Case, operator: str) -> Any:
    shape = (case.number(1, 4), case.number(1, 4), case.number(1, 4))
    axis, backwards, out_backwards = case.number(0, 2), case.number(0, 1), case.number(0, 1)
    inner = tuple(side for i, side in enumerate(shape) if i != axis)
    fed = {"x": case.f(*inner), "sequence": case.f(*shape)}
    nodes = [
        helper.make_node("Mul", ["state", "part"], ["next"]),
        helper.make_node("Tanh", ["next"], ["shown"]),
    ]
    body = _body(nodes, [("state", _FLOAT), ("part", _FLOAT)], ["next", "shown"])
    scan = helper.make_node(
        "Scan", ["x", "sequence"], ["y", "all"], body=body, num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[backwards], scan_output_axes=[case.number(0, 2)],
        scan_output_directions=[out_backwards],
    )  # fmt: skip
    return model([scan], fed, ["y", "all"]), fed


@pytest.mark.parametrize(
    ("times", "start", "steps"),
    [("", 1.0, 5), ("three", 1.0, 3), ("many", 1.0, 5), ("", 40.0, 1), ("many", 0.0, 0)],
    ids=["until the condition", "until the number", "whichever comes first", "at once", "too long"],
)
def test_a_while_loop_whose_condition_is_known_is_unrolled(times: str, start: float, steps: int) -> None:
    """``while power < limit: power *= 2; state = state * x + power``; the condition reads no input of the network."""
    fed = {"x": np.linspace(0.1, 0.9, 3, dtype=np.float32)[None]}
    nodes = [
        helper.make_node("Mul", ["power", "two"], ["doubled"]),
        helper.make_node("Less", ["doubled", "limit"], ["again"]),
        helper.make_node("Mul", ["state", "x"], ["product"]),
        helper.make_node("Add", ["product", "doubled"], ["next"]),
    ]
    inputs = [("i", _INT64), ("go", _BOOL), ("state", _FLOAT), ("power", _FLOAT)]
    body = _body(nodes, inputs, ["again", "next", "doubled", "next"])
    constants = {
        "three": np.array(3), "many": np.array(MOST_STEPS + 1), "go on": np.array(True),
        "start": np.array(start, np.float32), "two": np.array(2, np.float32), "limit": np.array(32, np.float32),
    }  # fmt: skip
    loop = helper.make_node("Loop", [times, "go on", "x", "start"], ["y", "power after", "all"], body=body)
    made = model([loop], fed, ["y", "all"], constants)
    if not steps:
        with pytest.raises(ConvertError, match="steps"):
            assert_same(made, fed)
        return
    assert run_onnx(made, fed)[1].shape[0] == steps
    assert_same(made, fed)


@pytest.mark.parametrize("kind", ["while", "long", "branch"])
def test_control_flow_that_depends_on_the_inputs_is_refused(kind: str) -> None:
    fed = {"x": np.ones((1, 3), np.float32)}
    nodes = [
        helper.make_node("ReduceSum", ["state"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "limit"], ["again"]),
        helper.make_node("Add", ["state", "x"], ["next"]),
    ]
    if kind == "long":
        nodes[0:2] = [helper.make_node("Identity", ["go"], ["again"])]
    body = _body(nodes, [("i", _INT64), ("go", _BOOL), ("state", _FLOAT)], ["again", "next"])
    constants = {
        "times": np.array(MOST_STEPS + 1 if kind == "long" else 9), "go on": np.array(True),
        "limit": np.array(20, np.float32),
    }  # fmt: skip
    made = [helper.make_node("Loop", ["times", "go on", "x"], ["y"], body=body)]
    if kind == "branch":
        one = _body([helper.make_node("Neg", ["x"], ["a"])], [], ["a"])
        made = [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "limit"], ["low"]),
            helper.make_node("If", ["low"], ["y"], then_branch=one, else_branch=one),
        ]
    with pytest.raises(ConvertError, match="at run time" if kind == "branch" else "steps"):
        assert_same(model(made, fed, ["y"], constants), fed)


# ------------------------------------------------------------------------------------------------------- elementwise

RANGES = {
    "Sqrt": (0, 9), "Log": (0.01, 9), "Asin": (-1, 1), "Acos": (-1, 1), "Atanh": (-0.95, 0.95), "Acosh": (1.01, 9),
    "Tan": (-1.3, 1.3), "Reciprocal": (0.2, 4), "Exp": (-9, 5), "Round": (-9, 9), "Floor": (-9, 9), "Ceil": (-9, 9),
}  # fmt: skip


@compare(
    "Abs", "Relu", "Sigmoid", "Tanh", "Softplus", "Mish", "Erf", "Neg", "Floor", "Ceil", "Sqrt", "Exp", "Log", "Sin",
    "Cos", "Tan", "Asin", "Acos", "Atan", "Reciprocal", "Round", "Sign", "Sinh", "Asinh", "Cosh", "Acosh", "Atanh",
    "Softsign", "Identity", "Dropout", "HardSwish", examples=6,
)  # fmt: skip
def test_one_input(case: Case, operator: str) -> Any:
    low, high = RANGES.get(operator, (-4, 4))
    return one_node(operator, [case.f(*case.shape(), low=low, high=high)])


@compare("LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "ThresholdedRelu", "Shrink", "Gelu", "Swish")
def test_one_input_with_attributes(case: Case, operator: str) -> Any:
    names = {
        "HardSigmoid": ("alpha", "beta"), "Shrink": ("bias", "lambd"), "Selu": ("alpha", "gamma"), "Gelu": (),
    }.get(operator, ("alpha",))  # fmt: skip
    low, high = (0.1, 0.4) if operator == "HardSigmoid" else (0.2, 2)
    given_: dict[str, Any] = {name: case.noise.uniform(low, high) for name in names if case.maybe()}
    if operator == "Gelu":
        given_["approximate"] = case.one_of("none", "tanh")
    if operator == "Shrink" and "lambd" not in given_:
        given_["lambd"] = 0.5
    opset = {"Gelu": 20, "Swish": 24}.get(operator, 18)
    return one_node(operator, [case.f(*case.shape())], opset=opset, **given_), 1e-3


@compare("PRelu")
def test_prelu(case: Case, operator: str) -> Any:
    shape = case.shape()
    slope = [side if case.maybe() else 1 for side in shape][case.number(0, len(shape) - 1) :]
    if case.maybe() and len(shape) > 1:
        slope = [shape[1], *[1] * (len(shape) - 2)]
    return one_node(operator, [case.f(*shape)], {1: case.f(*slope)})


@compare("Clip")
def test_clip(case: Case, operator: str) -> Any:
    bounds: dict[int, Array] = {}
    if case.maybe():
        bounds[1] = case.f(low=-2, high=0)[()]
    if case.maybe():
        bounds[2] = case.f(low=0, high=2)[()]
    bounds = {place: np.asarray(value, np.float32) for place, value in bounds.items()}
    fed: list[Array | None] = [case.f(*case.shape())]
    if case.maybe():  # computed
        fed = [fed[0], *[bounds.get(place) for place in (1, 2)]]
        while fed[-1] is None:
            fed.pop()
        bounds = {}
    return one_node(operator, fed, bounds)


def broadcast(case: Case, count: int = 2) -> list[tuple[int, ...]]:
    """Shapes that can be broadcast to one shape."""
    whole = case.shape(1, 5, 4)
    made = []
    for _ in range(count):
        shape = [side if case.number(0, 2) else 1 for side in whole]
        made.append(tuple(shape[case.number(0, len(shape) - 1) if case.number(0, 2) == 0 else 0 :]))
    return made


def two(case: Case, operator: str, one: Array, other: Array, **attributes: Any) -> Any:
    """A node with two inputs. In two of three cases one of them is constant."""
    constant = case.number(0, 2)
    constants = {constant: (one, other)[constant]} if constant < 2 else {}
    return one_node(operator, [None if constant == 0 else one, other], constants, **attributes)


@compare("Add", "Sub", "Mul", "Div", "Max", "Min", examples=15)
def test_broadcasting(case: Case, operator: str) -> Any:
    a, b = broadcast(case)
    other = case.f(*b)
    if operator == "Div":
        other = np.sign(other) * (np.abs(other) + 0.3)
    one = np.where(np.abs(case.f(*a)) < 0.2, np.float32(0.5), case.f(*a))
    if operator == "Div":
        one = np.sign(one) * (np.abs(one) + 0.1)
    return two(case, operator, one, other)


@compare("Sum", "Mean", "Max", "Min")
def test_many_inputs(case: Case, operator: str) -> Any:
    shapes = broadcast(case, case.number(1, 4))
    arrays = [case.f(*shape) for shape in shapes]
    constants = {i: array for i, array in enumerate(arrays) if i and case.maybe()}
    return one_node(operator, arrays, constants)


@compare("Pow", examples=30)
def test_power(case: Case, operator: str) -> Any:
    a, b = broadcast(case)
    if case.maybe():  # any base: a whole exponent
        exponent = np.float32(case.one_of(1, 2, 3, 4, 5, 7, -1, -2, -3, 0))
        base = np.where(case.noise.random(a) < 0.2, 0 if exponent > 0 else 1, case.f(*a, low=-2, high=2))
        base = base if exponent > 0 else np.sign(base) * (np.abs(base) + 0.3)
        return one_node(operator, [base.astype(np.float32)], {1: np.full(b if case.maybe() else (), exponent)}), 1e-3
    if case.maybe():  # a base of 0 and above: any exponent
        exponent = np.float32(case.one_of(0.5, 1.5, 2.5, 0.25, 1 / 2.4, 2.4, 0.1))
        base = np.where(case.noise.random(a) < 0.2, 0, case.f(*a, low=0, high=2)).astype(np.float32)
        return one_node(operator, [base], {1: np.asarray(exponent)}), 1e-3
    if case.maybe():
        exponent = np.float32(case.one_of(-0.5, -1.5, -0.3))
        return one_node(operator, [case.f(*a, low=0.1, high=2)], {1: np.asarray(exponent)}), 1e-3
    return one_node(operator, [None, case.f(*b)], {0: case.f(*a, low=0.1, high=3)}), 1e-3


@compare("Not", "And", "Or", "Xor")
def test_logic(case: Case, operator: str) -> Any:
    a, b = broadcast(case)
    one, other = case.whole(*a, low=0, high=1).astype(bool), case.whole(*b, low=0, high=1).astype(bool)
    return one_node(operator, [one]) if operator == "Not" else two(case, operator, one, other)


@compare("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def test_comparison(case: Case, operator: str) -> Any:
    a, b = broadcast(case)
    one, other = case.whole(*a, low=-2, high=2), case.whole(*b, low=-2, high=2)
    if case.maybe():
        one, other = one.astype(np.float32) / 2, other.astype(np.float32) / 2
    return two(case, operator, one, other)


@compare("Where")
def test_where(case: Case, operator: str) -> Any:
    m, a, b = broadcast(case, 3)
    mask = case.whole(*m, low=0, high=1).astype(bool)
    one, other = case.f(*a), case.f(*b)
    constants: dict[int, Array] = {0: mask} if case.maybe() else {}
    if case.maybe():
        constants[case.number(1, 2)] = (one, other)[case.number(0, 1)]
    if 1 in constants and 2 not in constants:
        constants[1] = one
    elif 2 in constants:
        constants[2] = other
    if constants.keys() == {0, 1, 2}:
        del constants[1]
    return one_node(operator, [mask, one, other], constants)


@compare("Mod", "Div")
def test_division_of_whole_numbers(case: Case, operator: str) -> Any:
    a, b = broadcast(case)
    divisor = case.whole(*b)
    divisor[divisor == 0] = 4
    attributes = {"fmod": int(case.maybe())} if operator == "Mod" else {}
    return one_node(operator, [case.whole(*a, low=-99, high=99)], {1: divisor}, **attributes)


@compare("Cast")
def test_cast(case: Case, operator: str) -> Any:
    kinds: dict[Any, int] = {np.float32: 1, np.int32: 6, np.int64: 7, bool: 9}
    source = case.one_of(*kinds)
    x = case.f(*case.shape(), low=-4, high=4)
    x[np.abs(x) < 1] = 0
    return one_node(operator, [x.astype(source)], to=kinds[case.one_of(*kinds)])


@compare("CastLike")
def test_cast_like(case: Case, operator: str) -> Any:
    like = np.zeros(1, case.one_of(np.float32, np.int64, bool))
    return one_node(operator, [case.f(*case.shape())], {1: like})


# ------------------------------------------------------------------------------------------------------------ windows


def window(case: Case, n: int, sides: Sequence[int]) -> dict[str, Any]:
    """Kernel, strides, dilations and pads that fit the sides."""
    kernel = [case.number(1, min(3, side)) for side in sides]
    dilations = [case.number(1, 2) if (k - 1) * 2 + 1 <= side else 1 for k, side in zip(kernel, sides)]
    made: dict[str, Any] = {"kernel_shape": kernel, "strides": [case.number(1, 3) for _ in range(n)]}
    how = case.number(0, 3)
    if how == 0:
        made["auto_pad"] = case.one_of("SAME_UPPER", "SAME_LOWER", "VALID")
        if made["auto_pad"] != "VALID":
            dilations = [1] * n
    elif how > 1:
        made["pads"] = [case.number(0, k - 1) for k in (*kernel, *kernel)]
    if max(dilations) > 1:
        made["dilations"] = dilations
    return made


@compare("Conv", examples=25)
def test_convolution(case: Case, operator: str) -> Any:
    n, group = case.number(1, 3), case.one_of(1, 1, 2, 4)
    channels, outputs = group * case.number(1, 3), group * case.number(1, 3)
    sides = [case.number(3, 7) for _ in range(n)]
    how = window(case, n, sides)
    weights = {1: case.f(outputs, channels // group, *how["kernel_shape"])}
    if case.maybe():
        weights[2] = case.f(outputs)
    return one_node(operator, [case.f(case.one_of(1, 1, 2), channels, *sides)], weights, group=group, **how), 1e-3


@compare("ConvTranspose", examples=25)
def test_deconvolution(case: Case, operator: str) -> Any:
    n, group = case.number(1, 3), case.one_of(1, 1, 2)
    channels, outputs = group * case.number(1, 3), case.number(1, 3)
    sides = [case.number(2, 5) for _ in range(n)]
    how = window(case, n, [max(s, 3) for s in sides])
    if case.maybe() and "auto_pad" not in how:
        how["output_padding"] = [case.number(0, s - 1) for s in how["strides"]]
    if case.number(0, 4) == 0:
        how.pop("pads", None)
        how["auto_pad"] = "SAME_UPPER"
        how["output_shape"] = [s * t for s, t in zip(sides, how["strides"])]
    weights = {1: case.f(channels, outputs, *how["kernel_shape"])}
    if case.maybe():
        weights[2] = case.f(outputs * group)
    return one_node(operator, [case.f(case.one_of(1, 1, 2), channels, *sides)], weights, group=group, **how), 1e-3


@compare("MaxPool", "AveragePool", examples=30)
def test_pooling(case: Case, operator: str) -> Any:
    n = case.number(1, 3)
    sides = [case.number(3, 8) for _ in range(n)]
    how = window(case, n, sides)
    if "auto_pad" not in how and case.maybe():
        how["ceil_mode"] = 1
    if operator == "AveragePool" and case.maybe():
        how["count_include_pad"] = 1
    opset = case.one_of(19, 22) if "dilations" in how else case.one_of(11, 18, 19)
    return one_node(operator, [case.f(case.one_of(1, 1, 2), case.number(1, 5), *sides)], opset=opset, **how)


@compare("LpPool", examples=20)
def test_norm_pooling(case: Case, operator: str) -> Any:
    n = case.number(1, 3)
    sides = [case.number(3, 8) for _ in range(n)]
    how = window(case, n, sides)
    if "auto_pad" not in how and case.maybe():
        how["ceil_mode"] = 1
    x = case.f(case.one_of(1, 2), case.number(1, 3), *sides)
    return one_node(operator, [x], p=case.number(1, 3), **how), 1e-3


@compare("GlobalLpPool")
def test_global_norm_pooling(case: Case, operator: str) -> Any:
    return one_node(operator, [case.f(*case.shape(3, 5))], p=case.number(1, 3)), 1e-3


@compare("GlobalAveragePool", "GlobalMaxPool")
def test_global_pooling(case: Case, operator: str) -> Any:
    return one_node(operator, [case.f(*case.shape(3, 5))])


@compare("Pad", examples=30)
def test_padding(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5)
    mode = case.one_of("constant", "constant", "edge", "reflect", "wrap")
    ends = [
        case.number(0, 3) if case.maybe() and (mode == "edge" or side > 3 or mode == "constant") else 0
        for side in (*shape, *shape)
    ]
    if mode == "constant" and case.maybe():
        place = case.number(0, len(ends) - 1)
        ends[place] = -min(1, shape[place % len(shape)] - 1)
    constants = {1: np.array(ends, np.int64)}
    if mode == "constant" and case.maybe():
        constants[2] = np.asarray(case.f(1)[0])
    return one_node(operator, [case.f(*shape)], constants, mode=mode, opset=19)


@compare("Resize", examples=40)
def test_resize(case: Case, operator: str) -> Any:
    n = case.one_of(1, 2, 2, 2)
    mode = case.one_of("nearest", "linear", "cubic") if n == 2 else case.one_of("nearest", "linear")
    sides = [case.number(1 if mode != "cubic" else 4, 7) for _ in range(n)]
    how = {
        "mode": mode,
        "coordinate_transformation_mode": case.one_of(
            "half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"),
    }  # fmt: skip
    if mode == "nearest":
        how["nearest_mode"] = case.one_of("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic" and case.maybe():
        how["cubic_coeff_a"] = -0.5
    if mode != "nearest" and n == 2 and case.number(0, 3) == 0:
        how["antialias"] = 1
    x = case.f(case.one_of(1, 1, 2), case.number(1, 3), *sides)
    if case.maybe():
        scales = np.array([1, 1, *(case.one_of(0.5, 0.6, 1, 1.5, 2, 2.3, 3) for _ in sides)], np.float32)
        if (np.floor(scales * x.shape) < 1).any():
            return None
        return one_node(operator, [x], {2: scales}, opset=19, **how), 1e-3
    sizes = np.array([*x.shape[:2], *(case.number(1, 9) for _ in sides)], np.int64)
    if how["coordinate_transformation_mode"] == "align_corners" and how.get("antialias"):
        return None
    return one_node(operator, [x], {3: sizes}, opset=19, **how), 1e-3


@compare("Upsample")
def test_upsample(case: Case, operator: str) -> Any:
    x = case.f(1, case.number(1, 3), case.number(2, 5), case.number(2, 5))
    scales = np.array([1, 1, case.one_of(1, 1.5, 2, 3), case.one_of(1, 2, 2.5)], np.float32)
    return one_node(operator, [x], {1: scales}, opset=9, mode=case.one_of("nearest", "linear"))


@compare("GridSample", examples=30)
def test_grid_sample(case: Case, operator: str) -> Any:
    n = case.one_of(2, 2, 3)
    sides, places = [case.number(3, 6) for _ in range(n)], [case.number(1, 5) for _ in range(n)]
    how = {
        "mode": case.one_of("linear", "nearest", "cubic") if n == 2 else case.one_of("linear", "nearest"),
        "padding_mode": case.one_of("zeros", "border", "reflection"),
        "align_corners": case.number(0, 1),
    }
    reach = case.one_of(1.0, 1.5, 4.0)
    grid = case.f(1, *places, n, low=-reach, high=reach)
    constants = {1: grid} if case.maybe() else {}
    return one_node(operator, [case.f(1, case.number(1, 3), *sides), grid], constants, opset=20, **how), 2e-3


@compare("DeformConv", examples=25)
def test_deformable_convolution(case: Case, operator: str) -> Any:
    groups, sets = case.one_of(1, 1, 2), case.one_of(1, 2, 3)
    width, outputs, kernel = math.lcm(groups, sets) // groups * case.number(1, 2), case.number(1, 3), case.number(1, 3)
    pad, stride, side = case.number(0, 1), case.number(1, 2), case.number(4, 6)
    out = (side + 2 * pad - kernel) // stride + 1
    offsets = case.f(1, sets * 2 * kernel**2, out, out, low=-0.9, high=0.9)
    fed: list[Array | None] = [case.f(1, groups * width, side, side), None, offsets]
    constants = {1: case.f(groups * outputs, width, kernel, kernel)}
    if case.maybe():
        constants[3] = case.f(groups * outputs)
        if case.maybe():
            fed += [None, case.f(1, sets * kernel**2, out, out, low=0, high=1)]
    how = {"pads": [pad] * 4, "strides": [stride] * 2, "group": groups, "offset_group": sets}
    return one_node(operator, fed, constants, opset=19, **how), 1e-3


@compare("Col2Im")
def test_fold(case: Case, operator: str) -> Any:
    block, image = [case.number(1, 2), case.number(1, 3)], [case.number(3, 5), case.number(3, 5)]
    places = math.prod(side - b + 1 for side, b in zip(image, block))
    x = case.f(case.one_of(1, 2), case.number(1, 3) * math.prod(block), places)
    return one_node(operator, [x], {1: np.array(image), 2: np.array(block)})


# --------------------------------------------------------------------------------------------------------------- axes


@compare("Transpose", examples=30)
def test_transpose(case: Case, operator: str) -> Any:
    shape = case.shape(1, 6, 4)
    return one_node(operator, [case.f(*shape)], perm=case.draw(st.permutations(range(len(shape)))))


@compare("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def test_reshape(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5)
    x = case.f(*shape)
    if operator == "Flatten":
        return one_node(operator, [x], axis=case.number(-len(shape), len(shape)))
    if operator == "Squeeze":
        axes = [i for i, side in enumerate(shape) if side == 1 and case.maybe()]
        return one_node(operator, [x], {1: np.array(axes, np.int64)} if axes else {})
    if operator == "Unsqueeze":
        return one_node(operator, [x], {1: np.array([case.number(-len(shape) - 1, len(shape))], np.int64)})
    order = case.draw(st.permutations(shape))
    split = case.number(0, len(order))
    wanted = [*order[:split], *([-1] if split < len(order) else [])]
    return one_node(operator, [x], {1: np.array(wanted, np.int64)})


@compare("Transpose", examples=20)
def test_transpose_of_blocks(case: Case, operator: str) -> Any:
    b = case.number(1, 3)
    shape = (1, case.number(1, 3), case.number(1, 3), b, case.number(1, 3), b)
    return one_node(operator, [case.f(*shape)], perm=case.one_of((0, 1, 3, 5, 2, 4), (0, 3, 5, 1, 2, 4)))


@compare("DepthToSpace", "SpaceToDepth")
def test_depth_and_space(case: Case, operator: str) -> Any:
    b, n = case.number(1, 3), case.one_of(1, 1, 2)
    c, h, w = case.number(1, 3), case.number(1, 3), case.number(1, 3)
    if operator == "SpaceToDepth":
        return one_node(operator, [case.f(n, c, h * b, w * b)], blocksize=b, opset=13)
    return one_node(operator, [case.f(n, c * b * b, h, w)], blocksize=b, mode=case.one_of("DCR", "CRD"))


@compare("Concat", examples=20)
def test_concat(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5, 4)
    axis = case.number(0, len(shape) - 1)
    arrays = [case.f(*shape[:axis], case.number(1, 3), *shape[axis + 1 :]) for _ in range(case.number(1, 3))]
    constants = {i: array for i, array in enumerate(arrays) if i and case.maybe()}
    return one_node(operator, arrays, constants, axis=axis - len(shape) if case.maybe() else axis)


@compare("Split", examples=20)
def test_split(case: Case, operator: str) -> Any:
    shape, sizes = case.shape(1, 5, 4), [case.number(1, 3) for _ in range(case.number(1, 3))]
    axis = case.number(0, len(shape) - 1)
    x = case.f(*shape[:axis], sum(sizes), *shape[axis + 1 :])
    model, fed = one_node(operator, [x], {1: np.array(sizes)}, outputs=len(sizes), axis=axis)
    if len(sizes) > 1 and case.maybe():  # a part that no layer reads
        del model.graph.output[case.number(0, len(sizes) - 1)]
    return model, fed


@compare("Slice", examples=30)
def test_slice(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5, 7)
    axes = [i for i in range(len(shape)) if case.maybe()] or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        side, step = shape[axis], case.one_of(1, 1, 2, 3, -1, -2)
        start = case.number(0, side - 1)
        end = case.number(start + 1, side + 2) if step > 0 else case.one_of(-(2**63), *range(-side, start - side))
        starts.append(start if case.maybe() else start - side)
        ends.append(end)
        steps.append(step)
    whole = [np.array(values, np.int64) for values in (starts, ends, axes, steps)]
    return one_node(operator, [case.f(*shape)], dict(enumerate(whole, 1)))


@compare("Gather", examples=20)
def test_gather(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5, 6)
    axis = case.number(0, len(shape) - 1)
    index = case.whole(*case.one_of((), (1,), (3,), (2, 2), (5,)), low=-shape[axis], high=shape[axis] - 1)
    return one_node(operator, [case.f(*shape)], {1: np.asarray(index)}, axis=axis)


@compare("Gather")
def test_embedding(case: Case, operator: str) -> Any:
    table = case.f(case.number(2, 9), case.number(1, 6))
    return one_node(operator, [None, case.whole(1, case.number(1, 6), low=0, high=len(table) - 1)], {0: table})


@compare("Expand", "Tile", examples=20)
def test_repetition(case: Case, operator: str) -> Any:
    if operator == "Tile":
        shape = case.shape(1, 4, 4)
        return one_node(operator, [case.f(*shape)], {1: np.array([case.number(1, 3) for _ in shape])})
    a, b = broadcast(case)
    return one_node(operator, [case.f(*a)], {1: np.array(b, np.int64)})


@compare("CumSum")
def test_cumulative_sum(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5)
    axis = np.asarray(case.number(-len(shape), len(shape) - 1))
    return one_node(operator, [case.f(*shape)], {1: axis}, reverse=case.number(0, 1), exclusive=case.number(0, 1))


# ------------------------------------------------------------------------------------------------------------ indices


@compare("GatherElements", examples=20)
def test_gather_elements(case: Case, operator: str) -> Any:
    shape = case.shape(1, 4, 4)
    axis = case.number(-len(shape), len(shape) - 1)
    picked = case.number(1, 3)
    if case.maybe():  # the same places in every row
        index = case.whole(picked, low=0, high=shape[axis] - 1)
        index = np.moveaxis(np.broadcast_to(index, (*np.delete(shape, axis), picked)), -1, axis)
    else:
        index = case.whole(*shape, low=-shape[axis], high=shape[axis] - 1)
    return one_node(operator, [case.f(*shape)], {1: np.ascontiguousarray(index)}, axis=axis)


@compare("GatherND", examples=20)
def test_gather_nd(case: Case, operator: str) -> Any:
    shape = case.shape(1, 4, 4)
    depth = case.number(1, len(shape))
    index = np.stack([case.whole(case.number(2, 2), 3, low=-s, high=s - 1) for s in shape[:depth]], -1)
    return one_node(operator, [case.f(*shape)], {1: index})


@compare("ScatterND", examples=25)
def test_scatter_nd(case: Case, operator: str) -> Any:
    shape = case.shape(1, 4, 4)
    depth = case.number(1, len(shape))
    if case.maybe():  # a box
        ranges = []
        for side in shape[:depth]:
            start = case.number(0, side - 1)
            ranges.append(range(start, case.number(start + 1, side)))
        index = np.stack(np.meshgrid(*ranges, indexing="ij"), -1)
    else:
        rows = case.noise.permutation(math.prod(shape[:depth]))[:3]
        index = np.stack(np.unravel_index(rows, shape[:depth]), -1)
    how = {"reduction": case.one_of("add", "mul", "max", "min")} if case.maybe() else {}
    if how and case.maybe():
        index = np.concatenate([index.reshape(-1, depth)] * 2)[: case.number(1, 9)]
    updates = case.f(*index.shape[:-1], *shape[depth:])
    return one_node(operator, [case.f(*shape), None, updates], {1: index.astype(np.int64)}, **how)


@compare("ScatterElements", "Scatter")
def test_scatter_elements(case: Case, operator: str) -> Any:
    shape = case.shape(1, 4, 4)
    axis = case.number(0, len(shape) - 1)
    places = case.noise.permutation(shape[axis])[: case.number(1, 3)]
    index = np.moveaxis(np.broadcast_to(places, (*np.delete(shape, axis), len(places))), -1, axis)
    opset, how = 10 if operator == "Scatter" else 18, {}
    if operator == "ScatterElements" and case.maybe():
        how = {"reduction": case.one_of("add", "mul", "max", "min")}
        index = case.whole(*(case.number(1, side) for side in shape), low=0, high=shape[axis] - 1)  # some twice
    elif case.maybe():  # other places in every row
        index = np.argsort(case.f(*shape), axis)
    fed = [case.f(*shape), None, case.f(*index.shape)]
    return one_node(operator, fed, {1: np.ascontiguousarray(index)}, opset=opset, axis=axis, **how)


@compare("ArgMax", "ArgMin", examples=20)
def test_arg_max(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5)
    how = {"axis": case.number(-len(shape), len(shape) - 1), "select_last_index": case.number(0, 1)}
    nodes = [
        helper.make_node(operator, ["x"], ["place"], keepdims=case.number(0, 1), **how),
        helper.make_node("Add", ["place", "one"], ["y"]),
    ]
    fed = {"x": case.whole(*shape, low=0, high=3).astype(np.float32)}
    return model(nodes, fed, ["y"], {"one": np.array([1])}), fed


@compare("OneHot")
def test_one_hot(case: Case, operator: str) -> Any:
    shape, count = case.shape(1, 3), case.number(1, 5)
    ids = case.whole(*shape, low=-count, high=count - 1)
    values = np.array([0, 1] if case.maybe() else [-1, 2.5], np.float32)
    return one_node(operator, [ids], {1: np.array(count), 2: values}, axis=case.number(-1, len(shape)))


@compare("Gather", examples=20)
def test_gather_at_computed_places(case: Case, operator: str) -> Any:
    shape = case.shape(1, 4)
    axis = case.number(0, len(shape) - 1)
    negated = case.whole(*case.shape(1, 2), low=1 - shape[axis], high=shape[axis])
    nodes = [helper.make_node("Neg", ["i"], ["j"]), helper.make_node("Gather", ["x", "j"], ["y"], axis=axis)]
    table = {"x": case.f(*shape)}
    fed, constants = ({"i": negated}, table) if case.maybe() else ({"i": negated} | table, {})
    return model(nodes, fed, ["y"], constants), fed


@compare("Trilu")
def test_triangle(case: Case, operator: str) -> Any:
    shape = case.shape(2, 4, 4)
    constants = {1: np.asarray(case.number(-2, 2))} if case.maybe() else {}
    return one_node(operator, [case.f(*shape)], constants, upper=case.number(0, 1))


@compare("SequenceEmpty", "SequenceInsert", examples=6)
def test_list_grows(case: Case, operator: str) -> Any:
    shape = case.shape()
    fed = {"x": case.f(*shape), "z": case.f(*shape)}
    nodes = [
        helper.make_node("SequenceEmpty", [], ["none"]),
        helper.make_node("SequenceInsert", ["none", "x"], ["one"]),
        helper.make_node("SequenceInsert", ["one", "z", *(["place"] if case.maybe() else [])], ["both"]),
        helper.make_node("ConcatFromSequence", ["both"], ["y"], axis=case.number(0, len(shape) - 1)),
    ]
    return model(nodes, fed, ["y"], {"place": np.array(case.one_of(0, 1, -1))}), fed


@compare("SplitToSequence", "SequenceConstruct", "SequenceAt", "ConcatFromSequence", examples=6)
def test_sequences(case: Case, operator: str) -> Any:
    a, b = case.number(1, 3), case.number(1, 4)
    x, sizes = case.f(1, 4, b), np.array([a, 4 - a])
    fed = {"x": x}
    split = helper.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1)
    if case.maybe():
        split = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1, keepdims=case.number(0, 1))
    if operator == "SequenceConstruct":
        split = helper.make_node("SequenceConstruct", ["x", "x"], ["parts"])
    at = helper.make_node("SequenceAt", ["parts", "place"], ["y"])
    if operator == "ConcatFromSequence":
        new = 1 if operator == "SequenceConstruct" or not split.input[1:] else 0
        at = helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0 if new else 1, new_axis=new)
    return model([split, at], fed, ["y"], {"sizes": sizes, "place": np.asarray(case.number(0, 1))}), fed


# ------------------------------------------------------------------------------------------------------------- matrix


@compare("MatMul", examples=30)
def test_matmul(case: Case, operator: str) -> Any:
    rows, inner, columns = (case.number(1, 5) for _ in range(3))
    whole = [case.number(1, 3) for _ in range(case.number(0, 3))]

    def batch() -> list[int]:
        return [side if case.number(0, 2) else 1 for side in whole][case.number(0, len(whole)) :]

    one = [*batch(), rows, inner] if case.number(0, 4) else [inner]
    other = [*batch(), inner, columns] if case.number(0, 4) else [inner]
    return two(case, operator, case.f(*one), case.f(*other))


@compare("Gemm", examples=20)
def test_gemm(case: Case, operator: str) -> Any:
    m, k, n = (case.number(1, 5) for _ in range(3))
    how = {"transA": case.number(0, 1), "transB": case.number(0, 1)}
    if case.maybe():
        how |= {"alpha": case.one_of(0.5, 2.0), "beta": case.one_of(0.5, 2.0)}
    a = case.f(*((k, m) if how["transA"] else (m, k)))
    b = case.f(*((n, k) if how["transB"] else (k, n)))
    c = case.f(*case.one_of((n,), (1, n), (m, 1), (m, n), (1,), ()))
    arrays = [a, b, c][: case.number(2, 3)]
    return one_node(operator, arrays, {i: x for i, x in enumerate(arrays) if i and case.maybe()}, **how)


EQUATIONS = (
    "ij,jk->ik", "bij,bjk->bik", "bhid,bhjd->bhij", "bhij,bhjd->bhid", "bid,bjd->bij", "i,j->ij", "ij->ji", "bij->bji",
    "bcihj,bcih->bcihj", "bij,ij->bij", "abc,cd->abd", "ij,ij->", "ij->i", "bij->j", "bnhd,bmhd->bhnm",
    "nchw,nc->nhw", "...ij,...jk->...ik", "ij,jk", "bi...->b...i", "ijk,k->i",
)  # fmt: skip


@compare("Einsum", examples=30)
def test_einsum(case: Case, operator: str) -> Any:
    equation = case.one_of(*EQUATIONS)
    sides = {letter: case.number(1, 4) for letter in sorted(set(equation) - set(",->."))} | {"X": 2, "Y": 3}
    terms = equation.partition("->")[0].replace("...", "XY").split(",")
    arrays = [case.f(*(sides[x] for x in term)) for term in terms]
    constants = {1: arrays[1]} if len(arrays) > 1 and case.maybe() else {}
    return one_node(operator, arrays, constants, equation=equation)


# ------------------------------------------------------------------------------------------------------------- reduce


@compare(
    "ReduceSum", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", examples=15,
)  # fmt: skip
def test_reduction(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5)
    low, high = (0.2, 2) if operator == "ReduceLogSum" else (-2, 2) if operator != "ReduceLogSumExp" else (-200, 200)
    axes = [axis - len(shape) if case.maybe() else axis for axis in range(len(shape)) if case.maybe()]
    how: dict[str, Any] = {"keepdims": case.number(0, 1)}
    if not axes and case.maybe():
        how["noop_with_empty_axes"] = 1
    constants = {1: np.array(axes, np.int64)} if axes or case.maybe() else {}
    return one_node(operator, [case.f(*shape, low=low, high=high)], constants, **how), 1e-3


@compare("Softmax", "LogSoftmax", "LpNormalization")
def test_along_an_axis(case: Case, operator: str) -> Any:
    shape = case.shape(1, 5)
    how: dict[str, Any] = {"axis": case.number(-len(shape), len(shape) - 1)}
    if operator == "LpNormalization":
        how["p"] = case.number(1, 2)
    return one_node(operator, [case.f(*shape)], opset=case.one_of(11, 18), **how), 1e-3


@compare("BatchNormalization", "InstanceNormalization", "GroupNormalization")
def test_normalisation_by_channels(case: Case, operator: str) -> Any:
    groups = case.number(1, 3)
    channels = groups * case.number(1, 3)
    shape = (case.one_of(1, 1, 2), channels, *(case.number(2, 4) for _ in range(case.number(1, 3))))
    weights = {1: case.f(channels), 2: case.f(channels)}
    how: dict[str, Any] = {"epsilon": case.one_of(1e-5, 1e-3)}
    opset = 18
    if operator == "BatchNormalization":
        weights |= {3: case.f(channels), 4: case.f(channels, low=0.1, high=2)}
        shape = shape if case.maybe() else shape[:2]
    if operator == "GroupNormalization":
        how["num_groups"], opset = groups, 21
    return one_node(operator, [case.f(*shape)], weights, opset=opset, **how), 2e-3


@compare("LayerNormalization", "RMSNormalization")
def test_normalisation_of_the_last_axes(case: Case, operator: str) -> Any:
    shape = (*case.shape(1, 3), case.number(2, 6))
    axis = case.number(-len(shape), -1)
    weights = {1: case.f(*shape[axis:])}
    if operator == "LayerNormalization" and case.maybe():
        weights[2] = case.f(*shape[axis:])
    return one_node(operator, [case.f(*shape)], weights, opset=23, axis=axis, epsilon=case.one_of(1e-5, 1e-3)), 2e-3


@compare("SimplifiedLayerNormalization")
def test_simplified_norm(case: Case, operator: str) -> Any:
    shape = (*case.shape(1, 3), case.number(2, 6))
    return one_node(operator, [case.f(*shape)], {1: case.f(shape[-1])}, epsilon=1e-5), 2e-3


@compare("MeanVarianceNormalization")
def test_mean_variance(case: Case, operator: str) -> Any:
    shape = (case.one_of(1, 2), case.number(1, 3), case.number(2, 4), case.number(2, 4))
    how = {"axes": case.one_of([0, 2, 3], [1, 2, 3], [2, 3])} if case.maybe() else {}
    return one_node(operator, [case.f(*shape)], **how), 2e-3


@compare("LRN")
def test_lrn(case: Case, operator: str) -> Any:
    shape = (case.one_of(1, 2), case.number(1, 7), case.number(1, 4), case.number(1, 4))
    return one_node(operator, [case.f(*shape)], size=case.one_of(1, 3, 5), alpha=0.1, beta=0.6, bias=1.5), 1e-3


# ---------------------------------------------------------------------------------------------------------- attention


@compare("Attention", examples=40)
def test_attention(case: Case, operator: str) -> Any:
    batch, groups, per_group = case.one_of(1, 1, 2), case.number(1, 2), case.number(1, 2)
    heads, places, keys, size = groups * per_group, case.number(1, 4), case.number(1, 4), case.number(1, 4)
    how: dict[str, Any] = {}
    deep = case.number(1, 4)
    shapes = ((batch, heads, places, size), (batch, groups, keys, size), (batch, groups, keys, deep))
    parts = [case.f(*shape) for shape in shapes]
    if case.maybe():
        parts = [x.transpose(0, 2, 1, 3).reshape(batch, x.shape[2], -1) for x in parts]
        how |= {"q_num_heads": heads, "kv_num_heads": groups}
    fed: list[Array | None] = [*parts]
    if case.maybe():
        how["scale"] = 0.3
    if case.maybe():
        how["softcap"] = 2.0
    constants: dict[int, Array] = {}
    if case.maybe():
        past = case.number(1, 3)
        fed += [None, case.f(batch, groups, past, size), case.f(batch, groups, past, deep)]
        how |= {"is_causal": int(case.maybe()), "outputs": 3}
    elif case.maybe():
        mask = case.f(*case.one_of((places, keys), (1, heads, places, keys), (batch, heads, places, keys)))
        fed.append(mask)
        if case.maybe():
            constants[3] = mask
        elif case.maybe():
            fed[3] = mask = mask > -2
            mask[..., 0] = True
            constants = {3: mask} if case.maybe() else {}
    elif case.maybe():
        how["is_causal"] = 1
    return one_node(operator, fed, constants, opset=23, **how), 1e-3


@compare("RotaryEmbedding", examples=20)
def test_rotary_embedding(case: Case, operator: str) -> Any:
    batch, heads, places, size = case.one_of(1, 2), case.number(1, 3), case.number(1, 4), 2 * case.number(1, 3)
    how: dict[str, Any] = {"interleaved": case.number(0, 1)}
    shape: tuple[int, ...] = (batch, heads, places, size)
    if case.maybe():
        shape, how["num_heads"] = (batch, places, heads * size), heads
    rotated = size
    if size > 2 and case.maybe():
        rotated = how["rotary_embedding_dim"] = size - 2
    angles = case.f(9, rotated // 2)
    chosen = case.whole(batch, places, low=0, high=8)
    constants = {1: np.cos(angles), 2: np.sin(angles), 3: chosen}
    if case.maybe():
        constants = {1: np.cos(angles)[chosen], 2: np.sin(angles)[chosen]}
    return one_node(operator, [case.f(*shape)], constants, opset=23, **how)


# ---------------------------------------------------------------------------------------------------------- recurrent


@compare("RNN", "GRU", "LSTM", examples=25)
def test_recurrent(case: Case, operator: str) -> Any:
    steps, batch, width, hidden = case.number(1, 4), case.one_of(1, 1, 2), case.number(1, 4), case.number(1, 4)
    direction = case.one_of("forward", "reverse", "bidirectional")
    both = 2 if direction == "bidirectional" else 1
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
    states = 2 if operator == "LSTM" else 1
    rows = gates * hidden
    weights = {1: case.f(both, rows, width, low=-1, high=1), 2: case.f(both, rows, hidden, low=-1, high=1)}
    if case.maybe():
        weights[3] = case.f(both, 2 * rows)
    fed: list[Array | None] = [case.f(steps, batch, width)]
    if case.maybe():
        fed += [None] * 4 + [case.f(both, batch, hidden) for _ in range(case.number(1, states))]
    how = {"linear_before_reset": 1} if operator == "GRU" else {}
    model, given_ = one_node(
        operator, fed, weights, outputs=1 + states, hidden_size=hidden, direction=direction, **how)  # fmt: skip
    for place in range(states, -1, -1):  # any part of the outputs
        if case.maybe() and len(model.graph.output) > 1:
            del model.graph.output[place]
            model.graph.node[0].output[place] = ""
    return (model, given_), 1e-3


@compare("RNN", "GRU", "LSTM", examples=25)
def test_recurrent_variants_that_ncnn_lacks(case: Case, operator: str) -> Any:
    """Other activations, or gates that are clipped, coupled or read the cell: each step becomes layers."""
    steps, batch, width, hidden = case.number(1, 4), case.number(1, 3), case.number(1, 4), case.number(1, 4)
    direction = case.one_of("forward", "reverse", "bidirectional")
    both = 2 if direction == "bidirectional" else 1
    rows, states = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator] * hidden, 2 if operator == "LSTM" else 1
    weights = {1: case.f(both, rows, width, low=-1, high=1), 2: case.f(both, rows, hidden, low=-1, high=1)}
    if case.maybe():
        weights[3] = case.f(both, 2 * rows)
    fed: list[Array | None] = [case.f(steps, batch, width)]
    if case.maybe():
        fed += [None] * 4 + [case.f(both, batch, hidden) for _ in range(states)]
    how: dict[str, Any] = {}
    if operator == "RNN" or case.maybe():
        gates = {"RNN": 0, "GRU": 1, "LSTM": 1}[operator]
        one = [case.one_of("HardSigmoid", "Sigmoid")] * gates
        one += [case.one_of("Relu", "LeakyRelu", "Tanh") for _ in range(states)]
        how["activations"] = one * both
        taking = [name for name in how["activations"] if name in ("HardSigmoid", "LeakyRelu")]
        if case.maybe() and taking:
            how["activation_alpha"] = [case.noise.uniform(0.1, 0.3) for _ in taking]
            if "HardSigmoid" in taking:
                how["activation_beta"] = [0.4] * taking.count("HardSigmoid")
    if operator == "GRU":
        how["linear_before_reset"] = case.number(0, 1)
    if operator == "LSTM" and case.maybe():
        weights[7] = case.f(both, 3 * hidden)
    if case.maybe():
        how["clip"] = 0.7
    return one_node(operator, fed, weights, outputs=1 + states, hidden_size=hidden, direction=direction, **how), 1e-3


def test_only_short_sequences_are_written_step_by_step() -> None:
    x, w = np.ones((MOST_STEPS + 1, 1, 2), np.float32), np.ones((1, 9, 2), np.float32)
    with pytest.raises(ConvertError, match=f"and has more than {MOST_STEPS} steps"):
        assert_same(*one_node("GRU", [x], {1: w, 2: np.ones((1, 9, 3), np.float32)}, hidden_size=3))


# -------------------------------------------------------------------------------------------------------- com.microsoft


def microsoft(operator: str, *args: Any, **attributes: Any) -> Any:
    return one_node(operator, *args, domain="com.microsoft", **attributes)


@compare("Gelu", "FastGelu", "QuickGelu", "BiasGelu", domain="com.microsoft", examples=6)
def test_gelu_of_microsoft(case: Case, operator: str) -> Any:
    x = case.f(*case.shape(2, 4))
    bias = {1: case.f(x.shape[-1])} if operator == "BiasGelu" or (operator == "FastGelu" and case.maybe()) else {}
    return microsoft(operator, [x], bias), 1e-3


@compare("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def test_skip_layer_norm(case: Case, operator: str) -> Any:
    shape = (case.one_of(1, 2), case.number(1, 4), case.number(2, 6))
    weights = {2: case.f(shape[2])}
    plain = operator == "SkipLayerNormalization"
    if plain and case.maybe():
        weights[3] = case.f(shape[2])
    if case.maybe():
        weights[4 if plain else 3] = case.f(shape[2])
    proto, fed = microsoft(operator, [case.f(*shape), case.f(*shape)], weights, outputs=4, epsilon=1e-5)
    proto.graph.node[0].output[1] = proto.graph.node[0].output[2] = ""
    del proto.graph.output[1:3]
    return (proto, fed), 2e-3


@compare("FusedConv", domain="com.microsoft")
def test_fused_convolution(case: Case, operator: str) -> Any:
    channels, outputs = case.number(1, 3), case.number(1, 3)
    how: dict[str, Any] = {"activation": case.one_of("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid")}
    params = {"LeakyRelu": [0.2], "Clip": [-0.5, 0.5], "HardSigmoid": [0.2, 0.4]}.get(how["activation"])
    if params:
        how["activation_params"] = params
    weights = {1: case.f(outputs, channels, 3, 3), 2: case.f(outputs)}
    fed: list[Array | None] = [case.f(1, channels, 5, 5)]
    if case.maybe():
        fed += [None, None, case.f(1, outputs, 3, 3)]
    return microsoft(operator, fed, weights, **how), 1e-3


@compare("FusedMatMul", domain="com.microsoft")
def test_fused_matmul(case: Case, operator: str) -> Any:
    lead, (m, k, n) = case.one_of((), (2,), (1, 3), (2, 2)), (case.number(1, 4) for _ in range(3))
    how = {"transA": case.number(0, 1), "transB": case.number(0, 1), "alpha": case.one_of(1.0, 0.5)}
    a = case.f(*lead, *((k, m) if how["transA"] else (m, k)))
    b = case.f(*lead, *((n, k) if how["transB"] else (k, n)))
    return microsoft(operator, [a, b], **how), 1e-3


@compare("MultiHeadAttention", domain="com.microsoft")
def test_multi_head_attention(case: Case, operator: str) -> Any:
    batch, places, keys, heads, size = case.one_of(1, 2), case.number(1, 4), case.number(1, 4), case.number(1, 3), 4
    fed = [case.f(batch, places, heads * size), case.f(batch, keys, heads * size), case.f(batch, keys, heads * size)]
    bias = {3: case.f(3 * heads * size)} if case.maybe() else {}
    return microsoft(operator, fed, bias, num_heads=heads), 1e-3


@compare("Attention", domain="com.microsoft")
def test_packed_attention(case: Case, operator: str) -> Any:
    batch, places, heads, size, width = case.one_of(1, 2), case.number(1, 4), case.number(1, 3), 4, case.number(1, 5)
    weights = {1: case.f(width, 3 * heads * size), 2: case.f(3 * heads * size)}
    return microsoft(operator, [case.f(batch, places, width)], weights, num_heads=heads), 1e-3


@compare("RotaryEmbedding", domain="com.microsoft")
def test_rotary_embedding_of_microsoft(case: Case, operator: str) -> Any:
    heads, places, size = case.number(1, 3), case.number(1, 4), 4
    angles = case.f(9, size // 2)
    where = np.array([case.number(0, 4)]) if case.maybe() else case.whole(1, places, low=0, high=8)
    constants = {1: where, 2: np.cos(angles), 3: np.sin(angles)}
    return microsoft(operator, [case.f(1, heads, places, size)], constants, interleaved=case.number(0, 1))


@compare("STFT")
def test_spectra_of_frames(case: Case, operator: str) -> Any:
    length, step = case.number(2, 12), case.number(1, 5)
    batch, size = case.one_of(1, 1, 2), length + case.number(0, 20)
    constants: dict[int, Array] = {1: np.array(step), 3: np.array(length)}
    if case.maybe():
        constants[2] = case.f(length)
    return one_node(operator, [case.f(batch, size, 1)], constants, onesided=case.number(0, 1)), 1e-3


@compare("DFT")
def test_spectra(case: Case, operator: str) -> Any:
    shape = (*case.one_of((1,), (2,), (1, 3)), case.number(2, 12), 1)
    constants = {1: np.array(case.number(2, 14))} if case.maybe() else {}
    onesided = case.number(0, 1)
    if case.maybe():
        return one_node(operator, [case.f(*shape)], constants, 17, axis=len(shape) - 2, onesided=onesided), 1e-3
    return one_node(operator, [case.f(*shape)], constants | {2: np.array(-2)}, 20, onesided=onesided), 1e-3


@compare("AveragePool", "MaxPool", "GlobalAveragePool")
def test_pooling_of_a_large_batch(case: Case, operator: str) -> Any:
    how: dict[str, Any] = {} if operator.startswith("Global") else {"kernel_shape": [2, 2], "strides": [2, 2]}
    return one_node(operator, [case.f(320, 1, 4, case.number(4, 6))], **how)


def test_every_operator_is_tested() -> None:
    assert set(OPERATORS) <= TESTED
