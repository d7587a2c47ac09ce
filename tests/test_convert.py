"""Conversion: the networks of the routes, the choice between routes, and routes that fail."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import reference_of
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from test_onnx_session import endless
from typer.testing import CliRunner

import ncnnkit
from ncnnkit import convert as convert_function
from ncnnkit import recipe
from ncnnkit.cli import app
from ncnnkit.comparison import accuracy
from ncnnkit.device.session import Session
from ncnnkit.errors import ConvertError, ModelError, VerificationError
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ncnnfile import save
from ncnnkit.onboard.scratch import PREFIX, Scratch
from ncnnkit.passes import optimize
from ncnnkit.record.folder import LOG
from ncnnkit.report import console
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import ModelSource, exporting, open_model, pnnx, sessions
from ncnnkit.source.conversion import Conversion, convert_source
from ncnnkit.source.exporting import export_classic, trace
from ncnnkit.source.model import example_arrays
from ncnnkit.source.onnx.reading import evaluate, load
from ncnnkit.source.pnnx import find_pnnx
from ncnnkit.source.routes import ROUTES, Route

DATA = Path(ncnnkit.__file__).parent / "data"
DEMO = DATA / "efficientnet-lite0.onnx"
FLOAT = TensorProto.FLOAT
Array = NDArray[Any]


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Any],
    outputs: Sequence[str],
    weights: dict[str, Array] | None = None,
    kind: int = FLOAT,
    **options: Any,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **options)
    return path


def converted(
    reference: object, folder: Path, *shapes: tuple[int, ...], weights: str = "default", **options: Any
) -> tuple[ModelSource, Conversion]:
    source = open_model(reference, shapes=shapes, weights=weights)
    return source, convert_source(source, noise(source), folder, **options)


def noise(source: ModelSource) -> ArraySamples:
    return ArraySamples(tuple(array[None] for array in example_arrays(source.inputs)))


both = pytest.mark.parametrize("route", ["onnx", "pnnx"])
"""Of an ONNX file."""


def outputs_of(graph: Graph, inputs: Sequence[Array]) -> dict[str, Array]:
    """Output -> array (N, …), computed by ncnn in fp32."""
    with Session(graph, precision="fp32") as net:
        rows = [net.blobs(*sample, names=net.outputs) for sample in zip(*inputs)]
    return {name: np.stack(column) for name, column in zip(net.outputs, zip(*rows))}


def assert_same(source: ModelSource, graph: Graph, *inputs: Array, sqnr_db: float = 110) -> None:
    """Check that ncnn's outputs equal the original's, in the original's order."""
    ours, theirs = outputs_of(graph, inputs), reference_of(source, inputs)
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    for (name, value), expected in zip(ours.items(), theirs.values()):
        sqnr = accuracy.sqnr_db(value, expected)
        assert sqnr is None or sqnr >= sqnr_db, name


# ------------------------------------------------------------------------------------------------------ whole models


@both
def test_the_demo_model_equals_onnx_runtime_in_fp32(tmp_path: Path, route: str) -> None:
    source, conversion = converted(DEMO, tmp_path, route=route)
    assert source.preprocess is not None
    photos = sorted((DATA / "images").rglob("*.jpg"))[:3]
    images = np.stack([source.preprocess.apply(Image.open(photo)) for photo in photos])
    assert_same(source, conversion.graph, images, sqnr_db=100)
    assert conversion.graph.inputs == ["in0"]
    assert conversion.graph.outputs == ["out0"]
    assert conversion.graph.input_shapes() == [(3, 224, 224)]
    check = conversion.record()
    assert (check.route, check.verified, check.log) == (route, True, {"onnx": None, "pnnx": LOG}[route])
    assert (check.sqnr_db or 0) > 100
    (attempt,) = check.attempts
    assert (attempt.outcome, attempt.reason, attempt.sqnr_db) == ("taken", "", check.sqnr_db)
    assert attempt.layers == len(optimize(conversion.graph).layers)
    assert check.seconds == attempt.seconds > 0
    # Only pnnx's log is left, and the weights can still be read.
    assert [path.name for path in tmp_path.iterdir()] == ([LOG] if route == "pnnx" else [])
    if route == "pnnx":
        assert (tmp_path / LOG).read_text().startswith("$ pnnx model.onnx inputshape=[1,3,224,224]f32 fp16=0\n")
    weights = {weight.dtype for layer in conversion.graph.layers for weight in layer.weights.values()}  # type: ignore[union-attr]
    assert weights == {np.dtype(np.float32)}


def test_convert_takes_a_reference(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": ["N", 3, "H", "W"]}, ["y"])
    assert convert_function(str(path), shapes=[(3, 4, 5)]).graph.input_shapes() == [(3, 4, 5)]
    with pytest.raises(ModelError, match="dynamic dimensions"):
        convert_function(str(path))


@both
@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]], ids=["a first", "b first"])
def test_inputs_keep_the_models_order_whichever_is_used_first(tmp_path: Path, order: list[str], route: str) -> None:
    weights = {"w": random(3, 2, 1, 1), "v": -random(3, 2, 1, 1)}
    nodes = [
        helper.make_node("Conv", [order[0], "w"], ["t"]),
        helper.make_node("Conv", [order[1], "v"], ["u"]),
        helper.make_node("Sub", ["t", "u"], ["y"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, ["y"], weights)
    source, conversion = converted(path, tmp_path, route=route)
    assert_same(source, conversion.graph, random(2, 2, 3, 4), 3 * random(2, 2, 3, 4))


TAIL, SIDE = helper.make_node("Exp", ["p"], ["tail"]), helper.make_node("Conv", ["x", "v"], ["side"])


@both
@pytest.mark.parametrize(
    "outputs",
    [["tail", "p"], ["p", "tail"], ["tail", "side", "p"], ["p", "side", "tail"], ["side", "tail"], ["tail", "side"]],
    ids="-".join,
)
def test_outputs_keep_the_models_order_even_if_one_is_computed_from_another(
    tmp_path: Path, outputs: list[str], route: str
) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["p"]), TAIL, SIDE]
    weights = {"w": random(4, 3, 3, 3) - 0.5, "v": random(2, 3, 1, 1)}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 3, 5, 6]}, outputs, weights)
    source, conversion = converted(path, tmp_path, route=route)
    conversion.graph.verify()
    assert conversion.graph.outputs == [f"out{i}" for i in range(len(outputs))]
    assert source.outputs == tuple(outputs)
    assert_same(source, conversion.graph, random(2, 3, 5, 6))
    assert_same(source, optimize(conversion.graph), random(2, 3, 5, 6))


@both
def test_unread_blobs_come_after_the_outputs(tmp_path: Path, route: str) -> None:
    weights = {"w": random(4, 3, 3, 3), "sizes": np.array([2, 2])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Split", ["c", "sizes"], ["unused", "half"], axis=1),
        helper.make_node("Exp", ["half"], ["y"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 3, 5, 6]}, ["y"], weights)
    source, conversion = converted(path, tmp_path, route=route)
    graph = conversion.graph
    assert graph.outputs[0] == "out0"
    expected = reference_of(source, [random(1, 3, 5, 6)])["y"]
    assert np.allclose(outputs_of(graph, [random(1, 3, 5, 6)])["out0"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["a b/my net.v1.onnx", "[x]/m,[1,2].onnx", "ü/-m'$(x).onnx", "m.onnx.onnx"])
def test_paths_pnnx_could_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / name, [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3, 4, 5]}, ["y"])
    monkeypatch.chdir(path.parent)
    before = sorted(tmp_path.rglob("*"))
    assert convert_function(path.name, route="pnnx").graph.input_shapes() == [(3, 4, 5)]
    assert sorted(tmp_path.rglob("*")) == before  # pnnx leaves nothing beside the model


@both
@pytest.mark.parametrize("place", ["model.onnx.data", "weights of it.bin", "deep/er/w"])
def test_onnx_with_its_weights_in_another_file(tmp_path: Path, place: str, route: str) -> None:
    constant = helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(random(4), "b"))
    nodes = [constant, helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Mul", ["c", "s"], ["y"])]
    weights = {"w": random(4, 3, 3, 3) - 0.5, "s": random(4, 1, 1)}
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    path = write_onnx(
        tmp_path / "model.onnx", nodes, {"x": [1, 3, 5, 6]}, ["y"], weights, save_as_external_data=True,
        location=place, size_threshold=0, convert_attribute=True,
    )  # fmt: skip
    assert b"location" in path.read_bytes()
    source, conversion = converted(path, tmp_path, route=route)
    assert_same(source, conversion.graph, random(2, 3, 5, 6))
    shutil.rmtree(tmp_path / place.split("/")[0], ignore_errors=True)
    (tmp_path / place).unlink(missing_ok=True)
    with pytest.raises(ConvertError, match=r"weights '.*' cannot be read: No such file"):
        convert_source(source, noise(source), tmp_path, route=route)


# ------------------------------------------------------------------------------------- models that cannot be converted


def test_operators_that_ncnn_lacks_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
        helper.make_node("Det", ["x"], ["d"]),
        helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
        helper.make_node("Add", ["s", "d"], ["y"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 3, 4, 4]}, ["y"])
    with pytest.raises(ConvertError, match=r"ncnn has no layer for: Det, NonZero.* \(replace these operators"):
        convert_function(str(path), route="pnnx")
    with pytest.raises(ConvertError, match=r"m\.onnx: route onnx: .*; route pnnx: ncnn has no layer for: Det"):
        convert_function(str(path))


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.UINT8, TensorProto.FLOAT16])
def test_inputs_of_another_type_are_named_by_pnnx(tmp_path: Path, kind: int) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("Exp", ["f"], ["y"])]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 3]}, ["y"], kind=kind)
    with pytest.raises(ConvertError, match=r"ncnn has no layer for: Tensor\.to \(export the model with float32 inputs"):
        convert_function(str(path), route="pnnx")


@both
def test_an_input_without_use(tmp_path: Path, route: str) -> None:
    nodes = [helper.make_node("Exp", ["b"], ["y"])]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"a": [1, 3], "b": [1, 4]}, ["y"])
    with pytest.raises(ConvertError, match=r"the model does not use its input 'a' \(export it without that input\)"):
        convert_function(str(path), route=route)


def test_an_input_that_torchs_exporter_leaves_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["b"], ["y"])]
    model = load(write_onnx(tmp_path / "m.onnx", nodes, {"b": [1, 4]}, ["y"]))
    with pytest.raises(ConvertError, match=r"has 1 of the model's 2 inputs.*export it without those inputs"):
        evaluate(model, [(1, 3), (1, 4)])


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No route leaves a file in the system's temporary folder, even if it fails."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    # Importing torchvision, or torch.export, makes an empty cache folder of torch's own.
    assert [path for path in folder.rglob("*") if path.is_file() or path.name.startswith(PREFIX)] == []


# ------------------------------------------------------------------------------------------------------------- routes


CRASHING = [helper.make_node("Exp", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]


def test_pnnx_crashing_is_a_line_of_the_record(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", CRASHING, {"x": [1, 3]}, ["z", "y"])
    with pytest.raises(ConvertError, match=r"route pnnx: pnnx failed \(crashed with signal 11\)") as caught:
        convert_function(str(path), route="pnnx")
    assert "\x1b" not in str(caught.value)
    assert "`pnnx model.onnx inputshape=[1,3]f32 fp16=0` shows all" in str(caught.value), "it can be tried by hand"
    source, conversion = converted(path, tmp_path, thorough=True)
    assert_same(source, conversion.graph, random(2, 3))
    own, other = conversion.record().attempts
    assert (own.route, own.outcome) == ("onnx", "taken")
    assert (other.route, other.outcome, other.layers, other.sqnr_db) == ("pnnx", "failed", None, None)
    assert other.reason.startswith("pnnx failed (crashed with signal 11)")
    assert (tmp_path / LOG).read_text().startswith("$ pnnx model.onnx inputshape=[1,3]f32 fp16=0\n")


def scaled(factor: float, extra: int = 0) -> Route:
    """A route to an Exp with outputs that are wrong by a factor, and with layers that do nothing."""

    def route(source: ModelSource, folder: Path) -> Graph:
        names = [f"abs{number}" for number in range(extra)] + ["out0"]
        layers = [
            Layer("Input", "in", [], ["in0"]),
            Layer("Exp", "exp", ["in0"], names[:1], {"shift": math.log(factor)}),
        ]
        # The absolute value of positive numbers, which no pass removes.
        layers += [Layer("AbsVal", name, [name], [after]) for name, after in pairwise(names)]
        return Graph(layers)

    return route


def failing(source: ModelSource, folder: Path) -> Graph:
    raise ConvertError("it does not like it", hint="try harder")


def broken(source: ModelSource, folder: Path) -> Graph:
    raise KeyError("blob")


def with_routes(monkeypatch: pytest.MonkeyPatch, **routes: Route) -> None:
    monkeypatch.setitem(ROUTES, "onnx", routes)


@pytest.fixture
def exponential(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3, 4, 5]}, ["y"])


@pytest.mark.parametrize(
    ("routes", "thorough", "outcomes"),
    [
        ({"a": scaled(1), "b": scaled(1)}, False, "a taken"),
        ({"a": scaled(1, 2), "b": scaled(1)}, False, "a taken"),
        ({"a": scaled(1, 2), "b": scaled(1)}, True, "a passed, b taken"),
        ({"a": scaled(1), "b": scaled(1)}, True, "a taken, b passed"),
        ({"a": scaled(1 + 1e-5), "b": scaled(1)}, True, "a taken, b passed"),  # more than 100 dB is not better
        ({"a": failing, "b": scaled(1), "c": scaled(1)}, False, "a failed, b taken"),
        ({"a": broken, "b": scaled(2), "c": scaled(1)}, False, "a failed, b wrong, c taken"),
        ({"a": scaled(1.0005), "b": scaled(1.0003), "c": scaled(2)}, False, "a passed, b taken, c wrong"),
        ({"a": scaled(1.0005), "b": scaled(1.0003, 2)}, False, "a passed, b taken"),
    ],
)
def test_the_first_exact_route_is_taken_or_the_most_exact_one(
    exponential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    routes: dict[str, Route], thorough: bool, outcomes: str,
) -> None:  # fmt: skip
    with_routes(monkeypatch, **routes)
    _, conversion = converted(exponential, tmp_path, thorough=thorough)
    attempts = conversion.record().attempts
    assert ", ".join(f"{attempt.route} {attempt.outcome}" for attempt in attempts) == outcomes
    assert conversion.taken.route == conversion.record().route
    for attempt in attempts:
        assert bool(attempt.reason) == (attempt.outcome in ("failed", "wrong"))
        assert (attempt.layers is None) == (attempt.outcome == "failed")
    wrong = [attempt for attempt in attempts if attempt.outcome == "wrong"]
    assert all(-1 < (attempt.sqnr_db or 0) < 1 for attempt in wrong), "twice the outputs are 0 dB"


def wave(factor: float) -> Route:
    """A route to a network with the distance of 100000 x to the middle of two whole numbers, times a factor."""

    def route(source: ModelSource, folder: Path) -> Graph:
        scalar = {"with_scalar": 1}
        return Graph(
            [
                Layer("Input", "in", [], ["in0"]),
                Layer("BinaryOp", "steep", ["in0"], ["a"], {"op_type": 2, **scalar, "b": 1e5}),
                Layer("Split", "split", ["a"], ["a0", "a1"]),
                Layer("UnaryOp", "floor", ["a0"], ["b"], {"op_type": 2}),
                Layer("BinaryOp", "rest", ["a1", "b"], ["c"], {"op_type": 1}),
                Layer("BinaryOp", "middle", ["c"], ["d"], {"op_type": 1, **scalar, "b": 0.5}),
                Layer("AbsVal", "far", ["d"], ["e"]),
                Layer("BinaryOp", "times", ["e"], ["out0"], {"op_type": 2, **scalar, "b": factor}),
            ]
        )

    return route


@pytest.mark.parametrize(("factor", "outcome"), [(1, "taken"), (1.005, "taken"), (2, "wrong")])
def test_outputs_need_not_be_more_exact_than_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, outcome: str
) -> None:
    """The last bit of x changes the result, which is computed from 100000 x, by a hundredth."""
    nodes = [
        helper.make_node("Mul", ["x", "steep"], ["a"]),
        helper.make_node("Floor", ["a"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["c"]),
        helper.make_node("Sub", ["c", "half"], ["d"]),
        helper.make_node("Abs", ["d"], ["y"]),
    ]
    constants = {"steep": np.array(1e5, np.float32), "half": np.array(0.5, np.float32)}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 64]}, ["y"], constants)
    with_routes(monkeypatch, a=wave(factor), b=wave(2))
    if outcome == "wrong":
        with pytest.raises(VerificationError, match="SQNR"):
            converted(path, tmp_path)
        return
    _, conversion = converted(path, tmp_path)
    check = conversion.record()
    assert [attempt.outcome for attempt in check.attempts] == [outcome]
    if factor == 1:
        assert check.original_sqnr_db is None, "exact without it"
    else:
        assert check.sqnr_db == pytest.approx(46, abs=0.5)
        assert 30 < (check.original_sqnr_db or 0) < 52


def test_if_all_routes_fail_each_reason_is_reported(exponential: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_routes(monkeypatch, a=failing, b=broken)
    with pytest.raises(ConvertError) as failed:
        convert_function(exponential)
    assert str(failed.value) == (
        f"{exponential}: route a: it does not like it; route b: KeyError: it has no 'blob' "
        "(try harder; this is a bug in ncnnkit: please report it with the model)"
    )
    with_routes(monkeypatch, a=failing, b=scaled(3), c=scaled(1.5))
    with pytest.raises(VerificationError, match=r"route b: .* SQNR -6\.0 dB, .*route c: .* 6\.0 dB.*--force"):
        convert_function(exponential)
    forced = convert_function(exponential, force=True).graph
    assert forced.layers[1].params["shift"] == pytest.approx(math.log(1.5)), "the more exact of the two"


def test_the_command_prints_the_route_and_its_accuracy(
    exponential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_routes(monkeypatch, a=failing, b=scaled(1))
    command = ["convert", str(exponential), "-o", str(tmp_path / "m.param")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "conversion by route b: " in done.stdout
    assert "against the original" in done.stdout
    assert "  route a failed: it does not like it (" in done.stdout
    with_routes(monkeypatch, a=failing, b=scaled(2))
    done = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "wrong.param")])
    assert done.exit_code == 5, done.output
    assert not (tmp_path / "wrong.param").exists()
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    done = CliRunner().invoke(app, [*command, "--route", "onnx"])
    assert done.exit_code == 3, "there is no such route"
    assert "has no route 'onnx' (one of auto, a, b)" in done.stderr


def test_a_recipe_accepts_only_existing_routes() -> None:
    assert {name for routes in ROUTES.values() for name in routes} == set(recipe.ROUTES)


def test_onnx_needs_neither_torch_nor_pnnx(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules["torch"] = sys.modules["pnnx"] = None
import ncnnkit
from ncnnkit.source import pnnx
from ncnnkit.source import open_model
from ncnnkit.source.conversion import convert_opened
pnnx.find_pnnx = None
model, check = convert_opened(open_model({str(DEMO)!r}))
model.save({str(tmp_path / "m.param")!r})
print(check.route, check.sqnr_db)
result = ncnnkit.run({str(DEMO)!r}, images={str(DATA / "images" / "evaluation")!r}, backends="cpu", precisions="fp32",
                     seconds=0.05, rounds=1, out={str(tmp_path / "out")!r}, progress=False)
document = result.run
print(document.conversion.route, document.conversion.sqnr_db)
"""
    env = {**os.environ, "PATH": "/nonexistent", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        route, sqnr = line.split()
        assert route == "onnx"
        assert float(sqnr) > 100
    assert len(done.stdout.splitlines()) == 2
    assert not (tmp_path / "out" / LOG).exists()


# ---------------------------------------------------------------------------------------------------- ncnn's own files


def test_an_ncnn_model_is_loaded_and_takes_the_shapes_given(tmp_path: Path) -> None:
    graph = Graph([Layer("Input", "in", [], ["data"]), Layer("Exp", "exp", ["data"], ["y"])])
    save(graph, tmp_path / "m.param")
    source, conversion = converted(tmp_path / "m.param", tmp_path, (3, 4, 5))
    assert conversion.graph.input_shapes() == [(3, 4, 5)]
    check = conversion.record()
    assert (check.route, check.verified, check.sqnr_db, check.log) == ("ncnn", False, None, None)
    assert source.engine == "ncnn"


def test_an_embedding_may_only_read_an_input(tmp_path: Path) -> None:
    embed = Layer("Embed", "embed", ["data"], ["y"], {"num_output": 2, "input_dim": 3, "weight_data_size": 6})
    embed.weights["weight"] = random(3, 2)
    save(Graph([Layer("Input", "in", [], ["data"], {"w": 4}), embed]), tmp_path / "m.param")
    graph = convert_function(str(tmp_path / "m.param")).graph
    (rows,) = outputs_of(graph, [np.array([[2, 0, 1, 2]])]).values()
    assert np.array_equal(rows[0], random(3, 2)[[2, 0, 1, 2]])
    computed = [Layer("Input", "in", [], ["x"], {"w": 4}), Layer("AbsVal", "abs", ["x"], ["data"]), embed]
    save(Graph(computed), tmp_path / "computed.param")
    with pytest.raises(ConvertError, match="layer Embed embed reads a computed blob"):
        convert_function(str(tmp_path / "computed.param"))


# -------------------------------------------------------------------------------------------------------- pnnx itself


def test_pnnx_is_found_in_its_package_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pnnx", raising=False)
    found = find_pnnx()
    assert found.parent.name == "pnnx"
    assert os.access(found, os.X_OK)
    assert "pnnx" not in sys.modules  # it would import torch


def without_package(monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None = None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_pnnx_on_the_path_and_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder called pnnx on Python's path is not a package with a binary.
    folder = ModuleSpec("pnnx", None, is_package=True)
    folder.submodule_search_locations = [str(tmp_path)]
    for spec in (None, folder):
        without_package(monkeypatch, spec)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(ConvertError, match=r"not installed \(pip install --no-deps pnnx\)"):
            find_pnnx()
    binary = tmp_path / "bin" / "pnnx"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    assert find_pnnx() == binary


GOOD = "printf '7767517\\n2 2\\nInput in0 0 1 in0\\nExp e 1 1 in0 out0\\n' > model.ncnn.param; : > model.ncnn.bin\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "pnnx wrote no model.ncnn.param: it printed nothing"),
        ("echo all fine; : > model.ncnn.param", "pnnx wrote no model.ncnn.bin: all fine"),
        ("echo; exit 3", r"pnnx failed \(exit status 3\): it printed nothing"),
        ("echo 'ort failed: bad'; echo '####'; echo more >&2; exit 1", r"\(exit status 1\): ort failed: bad"),
        ("echo starting; echo 'fp16 = 0'; echo '────'; kill -SEGV $$", r"\(crashed with signal 11\): starting"),
        (GOOD + "echo 'FATAL ERROR no external data'", "pnnx failed: FATAL ERROR no external data"),
        ("printf '\\377\\n' > model.ncnn.param; : > model.ncnn.bin", "a model that cannot be read"),
        (GOOD + "sed -i 's/Exp /aten::foo /' model.ncnn.param", "ncnn has no layer for: aten::foo"),
        (GOOD + "sed -i 's/in0/x0/g' model.ncnn.param", r"its network has the inputs \['x0'\], but the model has 1"),
        ("sleep 30", "did not finish within"),
    ],
)
def test_pnnx_going_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    fake = tmp_path / "pnnx"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(pnnx, "find_pnnx", lambda: fake)
    monkeypatch.setattr(pnnx, "LEAST_SECONDS", 0.5 if script.startswith("sleep") else 20.0)
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3]}, ["y"])
    with pytest.raises(ConvertError, match=message):
        convert_function(str(path), route="pnnx")
    _, conversion = converted(path, tmp_path, thorough=True)
    own, other = conversion.record().attempts
    assert (own.outcome, other.outcome) == ("taken", "failed")


CONVERTING = """
    import sys
    from pathlib import Path
    from ncnnkit.source import conversion, pnnx
    pnnx.find_pnnx = lambda: Path(sys.argv[1])
    conversion.convert(sys.argv[2], route="pnnx")
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_pnnx_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    fake, told = tmp_path / "pnnx", tmp_path / "told"
    os.mkfifo(told)
    fake.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 60\n")
    fake.chmod(0o755)
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3]}, ["y"])
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(CONVERTING), fake, path]) as parent:
        end = os.pidfd_open(int(told.read_text()))
        parent.kill()
        assert select.select([end], [], [], 20)[0], "it would take 60 s"
        os.close(end)


def test_a_pnnx_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "pnnx"
    fake.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    fake.chmod(0o755)
    monkeypatch.setattr(pnnx, "find_pnnx", lambda: fake)
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3]}, ["y"])
    with pytest.raises(ConvertError, match=r"pnnx cannot be started: Exec format error \(pip install"):
        convert_function(str(path), route="pnnx")


# -------------------------------------------------------------------------------------------------------------- torch


@pytest.mark.torch
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_network_from_code_equals_torch_in_fp32(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    name = {"torchvision": "mobilenet_v2", "timm": "mobilenetv3_small_050"}[library]
    images = np.random.default_rng(0).normal(size=(2, 3, 96, 96)).astype(np.float32)
    # No batch-norm statistics. With them, rounding errors grow so much that torch itself only has 100 dB to float64.
    source, conversion = converted(f"{library}:{name}", tmp_path, (3, 96, 96), weights="none")
    assert conversion.taken.route == "classic"
    assert_same(source, conversion.graph, images)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_several_nested_outputs_of_several_inputs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "nested_outputs.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(2, 4, 1)\n"
        "    def forward(self, x, y):\n"
        "        early = self.b(y)\n"
        "        return {'late': early.sigmoid() + self.a(x), 'early': early, 'mean': (x.mean((2, 3)),)}\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        source, conversion = converted("nested_outputs:Net", tmp_path, (3, 8, 8), (2, 8, 8))
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("nested_outputs", None)
    assert source.outputs == ("late", "early", "mean.out0")
    assert_same(source, conversion.graph, random(2, 3, 8, 8), random(2, 2, 8, 8) - 0.5)
    embedding = torch.jit.trace(torch.nn.Embedding(9, 4), torch.zeros(1, 5, dtype=torch.int64))
    embedding.save(str(tmp_path / "embedding.pt"))
    source, conversion = converted(tmp_path / "embedding.pt", tmp_path)
    assert_same(source, conversion.graph, np.array([[8, 0, 3, 3, 1]]))


@pytest.mark.torch
def test_a_network_that_is_not_the_original_is_refused() -> None:
    """pnnx loses the batch axis of a softmax over a sequence. ncnnkit's own front end does not."""
    torch = pytest.importorskip("torch")

    class Pooled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.head = torch.nn.Linear(12, 1), torch.nn.Linear(12, 4)

        def forward(self, x: Any) -> Any:
            return self.head((self.weight(x).softmax(1) * x).sum(1))

    with pytest.raises(ConvertError, match="Pooled: route torchscript: its network cannot run: layer BinaryOp"):
        convert_function(Pooled(), shapes=[(20, 12)], route="torchscript")
    assert convert_function(Pooled(), shapes=[(20, 12)]).graph.input_shapes() == [(20, 12)]


@pytest.mark.torch
def test_every_route_from_torch_leads_to_the_same_outputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8)
            self.head = torch.nn.Linear(8, 5)

        def forward(self, x: Any, scale: Any) -> Any:
            features = torch.nn.functional.gelu(self.norm(self.conv(x))) * scale
            return {"features": features, "scores": self.head(features.mean((2, 3))).softmax(-1)}

    module = Net().eval()
    source, conversion = converted(module, tmp_path, (3, 15, 17), (8, 1, 1), thorough=True)
    assert {a.route: a.outcome in ("taken", "passed") for a in conversion.record().attempts} == dict.fromkeys(
        ("classic", "dynamo", "torchscript"), True
    )
    for result in conversion.results:
        assert result.graph is not None
        assert_same(source, result.graph, random(2, 3, 15, 17), random(2, 8, 1, 1))
    assert capfd.readouterr().out == ""

    # Its trace and its ONNX file contain the same network.
    traced = trace(module, source.inputs, tmp_path)
    exported = export_classic(module, source.inputs, tmp_path)
    for path, routes in ((traced, ("pnnx", "classic")), (exported, ("onnx", "pnnx"))):
        again, conversion = converted(path, tmp_path, thorough=True)
        assert [result.route for result in conversion.results] == list(routes)
        for result in conversion.results:
            assert result.graph is not None, result.reason
            assert_same(again, result.graph, random(2, 3, 15, 17), random(2, 8, 1, 1))
            assert_same(source, result.graph, random(2, 3, 15, 17), random(2, 8, 1, 1))


@pytest.mark.torch
def test_an_export_leaves_the_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child cannot use CUDA after its parent has used it, and torch.export asks CUDA for its seed."""
    torch = pytest.importorskip("torch")

    def refused(*_: Any) -> Any:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", refused)
    module = torch.nn.Conv2d(3, 4, 1).eval()
    assert exporting.export_dynamo(module, [InputSpec("x", (3, 8, 8))], tmp_path).is_file()


@pytest.mark.torch
def test_failures_of_torchs_export_are_reported_without_other_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")

    class Bessel(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.special.bessel_j0(x)

    with pytest.raises(
        ConvertError, match=r"Bessel: route classic: .*bessel_j0.*; route dynamo: .*; route torchscript: "
    ):
        convert_function(Bessel(), shapes=[(3, 8, 8)])
    assert capfd.readouterr().out == "", "torch prints the whole graph"
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"torch's exporter crashed \(SIGSEGV\); it used \d+\.\d GB"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"crashed \(SIGKILL\); .* of memory at most$"),
        (lambda: time.sleep(60), r"torch's exporter did not finish within 1 s; it used \d+\.\d GB of memory at most"),
        (lambda: os._exit(3), r"torch's exporter ended with status 3"),
        (lambda: Path(tempfile.gettempdir(), "left").touch(), None),
    ],
    ids=["crash", "killed", "hang", "exit", "leaves a file"],
)
def test_an_exporter_that_crashes_or_hangs_is_one_line_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, says: str | None
) -> None:
    """The next route is tried.

    A file in the temporary folder is removed at the end of the run (``nothing_is_left``).
    """
    torch = pytest.importorskip("torch")
    export = torch.onnx.export

    def broken(*args: Any, dynamo: bool, **options: Any) -> None:
        fault()
        export(*args, dynamo=dynamo, **options)

    monkeypatch.setattr(torch.onnx, "export", broken)
    monkeypatch.setattr(exporting, "TIMEOUT", 1.0 if says and "finish" in says else 60.0)
    source = open_model(torch.nn.Conv2d(3, 4, 3), shapes=[(3, 8, 8)])
    routes = {name: ROUTES["torch"][name] for name in ("classic", "torchscript")}
    monkeypatch.setitem(ROUTES, "torch", routes)
    with Scratch() as folder:
        made = convert_source(source, noise(source), Path(folder))
    first = made.results[0]
    assert (made.taken.route, first.route) == ("torchscript" if says else "classic", "classic")
    if says:
        assert re.search(says, first.reason)


@pytest.mark.torch
def test_an_exporter_that_is_not_installed_is_a_line_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxscript"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConvertError, match=r"torch's exporter needs onnxscript \(pip install onnxscript\)"):
        convert_function(torch.nn.ReLU(), shapes=[(3, 8, 8)], route="dynamo")


@pytest.mark.torch
def test_an_encoder_layer_of_torchs_own_is_traced_layer_by_layer() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    for route in ("classic", "torchscript"):
        graph = convert_function(layer, shapes=[(12, 32)], route=route).graph
        assert {"MultiHeadAttention", "SDPA"} & {layer.type for layer in graph.layers}, route
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.torch
def test_reflecting_convolutions_are_converted() -> None:
    """pnnx writes params for them that ncnn's Convolution does not use."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
    for route in ("classic", "torchscript"):
        graph = convert_function(module, shapes=[(3, 16, 16)], route=route).graph
        assert [layer.type for layer in graph.layers] == ["Input", "Padding", "Convolution"]


# -------------------------------------------------------------------------------------------------------- cards


def test_a_card_has_the_facts_of_the_model_and_the_caller(tmp_path: Path) -> None:
    lite0 = str(DATA / "efficientnet-lite0.onnx")
    ncnnkit.save(convert_function(lite0), tmp_path / "own.param")
    own = ncnnkit.Artifact.load(tmp_path / "own.param")
    assert own.preprocess == ncnnkit.preset("efficientnet-lite0")
    assert len(own.labels) == 1000
    assert own.ncnn
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3, 112, 112]}, ["y"])
    assert convert_function(path).preprocess is None, "a guess is not knowledge"
    given = convert_function(path, preset="imagenet", preprocess={"std": (0.5,)}).preprocess
    assert given is not None
    assert (given.crop, given.resize, given.std) == ((112, 112), 128, (0.5,) * 3)


@pytest.mark.torch
def test_models_made_from_a_converted_model_keep_its_card(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
    model = convert_function(module, shapes=[(3, 16, 16)], preset="imagenet")
    better = ncnnkit.optimize(model)
    int8 = ncnnkit.quantize(better, random(8, 3, 16, 16), target="x86", effort="fast")
    ncnnkit.save(int8, tmp_path / "m-int8.param")
    kept = ncnnkit.Artifact.load(tmp_path / "m-int8.param")
    assert (kept.precision, kept.target, kept.derived) == ("int8", "x86", False)
    assert kept.preprocess == ncnnkit.preset("imagenet").fitted(16, 16)


def test_the_command_writes_the_preprocessing_that_is_given(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": [1, 3, 64, 64]}, ["y"])
    param = tmp_path / "m.param"
    done = CliRunner().invoke(app, ["convert", str(path), "-o", str(param), "--preset", "imagenet", "--mean", "0.5"])
    assert done.exit_code == 0, done.output
    found = ncnnkit.Artifact.load(param).preprocess
    assert found is not None
    assert (found.crop, found.mean, found.std) == ((64, 64), (0.5,) * 3, ncnnkit.preset("imagenet").std)
    done = CliRunner().invoke(app, ["optimize", str(param), "-o", str(tmp_path / "o.param")])
    assert done.exit_code == 0, done.output
    assert ncnnkit.Artifact.load(tmp_path / "o.param").preprocess == found


def test_an_original_without_finite_outputs_is_not_compared(tmp_path: Path) -> None:
    """NaN compared with NaN does not count as exact."""
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Neg", ["e"], ["n"]),
        helper.make_node("Sqrt", ["n"], ["y"]),
    ]
    path = write_onnx(tmp_path / "nan.onnx", nodes, {"x": [1, 3, 8, 8]}, ["y"])
    _, done = converted(path, tmp_path)
    check = done.record()
    assert (check.verified, check.sqnr_db, check.cosine) == (False, None, None)
    assert "not verified" in console.converted(check, "the original")[0]


def test_an_original_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RUN_SECONDS", 0.5)
    path = tmp_path / "loop.onnx"
    onnx.save(endless(), str(path))
    with pytest.raises(ModelError, match=r"fails on sample 0: ONNX Runtime did not finish within 0\.5 s"):
        converted(path, tmp_path)
