"""Other engines: their models, their outputs, and their records in a run."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from networks import small
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession
from test_recommendation import latency, variant

import ncnnkit as nk
from ncnnkit.app.models import choose
from ncnnkit.comparison import accuracy
from ncnnkit.device.sites import local_site
from ncnnkit.errors import ModelError, RecipeError
from ncnnkit.measure import engines as measuring
from ncnnkit.measure.engines import Original, chosen_engines, kernels_of, make_engine_models, original_for_engines
from ncnnkit.model import ncnnfile
from ncnnkit.model.npus import about_npu
from ncnnkit.onboard.child import PROGRAM, Child
from ncnnkit.onboard.engines import ENGINES
from ncnnkit.onboard.engines.base import Engine
from ncnnkit.onboard.protocol import JobVariant
from ncnnkit.onboard.variants import loading
from ncnnkit.pipeline import run
from ncnnkit.plan.requirement import Requirements
from ncnnkit.recipe import Recipe
from ncnnkit.recommendation import compare_engines
from ncnnkit.record.variant import Latency
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.stream import ArraySamples, keep
from ncnnkit.source import open_model
from ncnnkit.source.interchange import as_onnx
from ncnnkit.verdict import about_engines

Array = NDArray[Any]

INSTALLED = [name for name, engine in ENGINES.items() if not engine.missing_tools()]
SIDES = (12, 20)
USUAL = Requirements.parse(["cosine>=0.999"])


def write_network(path: Path, *, batch: int | str = 1, opset: int = 17) -> Path:
    """A network with an image and a vector as outputs. Their names are difficult for file systems."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)) / 5, "b1": rng.standard_normal(8) / 10,
        "w2": rng.standard_normal((6, 8, 3, 3)) / 8, "w3": rng.standard_normal((6, 5)) / 2,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["in/0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["an image"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["an image"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["out:1"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("in/0", kind, [batch, 3, *SIDES])],
        [
            helper.make_tensor_value_info("an image", kind, [batch, 6, *SIDES]),
            helper.make_tensor_value_info("out:1", kind, [batch, 5]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def inputs_of(count: int) -> Array:
    return np.random.default_rng(1).standard_normal((count, 3, *SIDES)).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_network(folder / "m.onnx", batch="n")
    return folder


def served(name: str, precision: str, folder: Path) -> tuple[list[Array], tuple[Array, ...]]:
    """Check the answers of a serving process with this engine against the outputs of the original."""
    source = open_model(str(folder / "m.onnx"))
    home = folder / f"{name}-{precision}"
    home.mkdir()
    original = original_for_engines(source, {"an image": (6, *SIDES), "out:1": (5,)}, home)
    given = keep(ArraySamples((inputs_of(16),)), home / "calibration")
    recipe = Recipe(str(folder / "m.onnx"), precisions=(precision,))
    (model,) = make_engine_models([ENGINES[name]], recipe, original, given, [local_site()], "m", home)
    assert not model.reason
    assert all(path.parent == home for path in model.files)
    job = measuring.job_model(model, precision, original)
    sample = inputs_of(20)[17]
    with Child(engine=name) as child:
        child.ask("load", **loading(JobVariant("v", job, threads=1)))
        _, outputs = child.ask("run", [sample])
        timed = child.ask("time", seconds=0.01, min_samples=3, max_samples=5)[0]
        assert 3 <= len(timed.samples) <= 5
        assert child.ask("memory")[0].peak_mb >= 0
    return outputs, next(source.reference_outputs(ArraySamples((sample[None],))))


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 90.0), ("int8", 15.0)])
def test_an_engine_computes_the_network(name: str, precision: str, least: float, prepared: Path) -> None:
    """Outputs have the shapes and the order of the original, without a batch axis, for any layout of the engine."""
    outputs, reference = served(name, precision, prepared)
    assert [output.shape for output in outputs] == [(6, *SIDES), (5,)]
    for ours, theirs in zip(outputs, reference, strict=True):
        found = accuracy.sqnr_db(ours[None], theirs[None])
        assert found is None or found >= least


@pytest.mark.parametrize("name", INSTALLED)
def test_int8_of_a_model_with_old_operators(name: str, tmp_path: Path) -> None:
    """ONNX has scales per channel since opset 13; many published models are older."""
    write_network(tmp_path / "m.onnx", opset=11)
    outputs, reference = served(name, "int8", tmp_path)
    for ours, theirs in zip(outputs, reference, strict=True):
        found = accuracy.sqnr_db(ours[None], theirs[None])
        assert found is None or found >= 15


def test_the_engines_of_ci_are_installed() -> None:
    """Otherwise this file would test nothing."""
    assert {"onnxruntime", "openvino", "mnn"} <= set(INSTALLED)


def test_an_engine_that_is_not_installed_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ENGINES["mnn"]), "version", lambda self: "")
    with pytest.raises(RecipeError, match=r"MNN is not installed \(pip install MNN\)"):
        chosen_engines(["onnxruntime", "mnn"])
    assert ENGINES["mnn"] not in chosen_engines(["all"])
    assert ENGINES["onnxruntime"] in chosen_engines(["all"])


def test_a_model_that_an_engine_cannot_make_is_a_row_with_the_reason(prepared: Path, tmp_path: Path) -> None:
    """A missing converter, a tool that fails, and a tool that crashes. The other models are still made."""

    class Broken(Engine):
        name, title, package, module = "onnxruntime", "Broken", "onnxruntime", "onnxruntime"
        suffixes = (".onnx",)
        backends: ClassVar[Mapping[str, tuple[str, ...]]] = {"cpu": ("fp32", "int8")}
        settings: ClassVar[Mapping[str, str]] = {"fp32": "", "int8": ""}

        def missing_tools(self) -> list[str]:
            return ["a tool"]

        def convert(self, onnx: Path, made: Path) -> None: ...
        def quantise(self, onnx: Path, made: Path, calibration: Any) -> None: ...
        def open(self, files: Sequence[str], how: Any) -> Any: ...

    given = keep(ArraySamples((inputs_of(2),)), tmp_path / "calibration")
    recipe = Recipe("m.onnx", precisions=("fp32",))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no network")
    spec = (InputSpec("in/0", (3, *SIDES)),)
    original = Original(damaged, spec, ("an image",), ((6, *SIDES),))
    steps: list[tuple[str, int, int]] = []
    models = make_engine_models(
        [Broken(), ENGINES["openvino"], ENGINES["mnn"]], recipe, original, given, [local_site()], "m", tmp_path,
        lambda step, done, total: steps.append((step, done, total)),
    )  # fmt: skip
    assert ("openvino fp32", 1, 3) in steps, "the engine that takes long is named"
    assert models[0].reason == "making its models needs a tool"
    assert all("its tools" in model.reason for model in models[1:])
    assert not [path for model in models for path in model.files]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration", "damaged.onnx"]


def test_an_ncnn_original_has_no_other_engines(tmp_path: Path) -> None:
    ncnnfile.save(small(), tmp_path / "m.param")
    found = original_for_engines(open_model(str(tmp_path / "m.param")), {}, tmp_path)
    assert found.onnx is None
    assert "no other engine reads" in found.reason


def test_a_file_for_engines_has_the_shapes_of_the_run(prepared: Path, tmp_path: Path) -> None:
    found = original_for_engines(open_model(str(prepared / "m.onnx")), {"an image": (6, 12, 20)}, tmp_path)
    assert found.onnx is not None
    (entry,) = onnx.load(str(found.onnx)).graph.input
    assert [dim.dim_value for dim in entry.type.tensor_type.shape.dim] == [1, 3, *SIDES]
    assert found.shapes == {"input0": [1, 3, *SIDES], "output0": [1, 6, *SIDES]}


@pytest.mark.parametrize(("x", "inner", "weight"), [
    ("x", "input0", "w"), ("x", "output0", "w"), ("x", "c", "input0"), ("output1", "input0", "output0"),
])  # fmt: skip
def test_values_of_the_original_may_have_the_names_for_engines(x: str, inner: str, weight: str, tmp_path: Path) -> None:
    """A weight is also listed as an input, as in models of IR version 3; and an output is the input."""
    kind, shape = onnx.TensorProto.FLOAT, [1, 3, *SIDES]
    values = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", [x, weight], [inner]), helper.make_node("Relu", [inner], ["y"])], "g",
        [helper.make_tensor_value_info(weight, kind, values.shape), helper.make_tensor_value_info(x, kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape), helper.make_tensor_value_info(x, kind, shape)],
        [numpy_helper.from_array(values, weight)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    made = as_onnx(open_model(str(tmp_path / "m.onnx")), tmp_path)
    onnx.checker.check_model(str(made), full_check=True)
    sample = inputs_of(1)
    y, same = InferenceSession(str(made)).run(["output0", "output1"], {"input0": sample})
    assert np.allclose(y[0], np.maximum(np.tensordot(values[:, :, 0, 0], sample[0], 1), 0), atol=1e-5)
    assert np.array_equal(same, sample)


def test_an_original_may_return_a_tensor_twice(tmp_path: Path) -> None:
    """torch's exporter then lists one name twice."""
    write_network(tmp_path / "m.onnx")
    source = open_model(str(tmp_path / "m.onnx"))
    twice = onnx.load(str(source.file))
    twice.graph.output.append(twice.graph.output[0])
    onnx.save(twice, str(source.file))
    made = onnx.load(str(as_onnx(source, tmp_path)))
    onnx.checker.check_model(made, full_check=True)
    assert [entry.name for entry in made.graph.output] == ["output0", "output1", "output2"]


def test_mnns_tools_are_never_imported() -> None:
    """That module installs a package with pip, and sends statistics about conversions to a server."""
    for path in Path(PROGRAM, "engines").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        imports = [ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not [line for line in imports if "MNN" in line and "tools" in line]


# ------------------------------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def finished(prepared: Path) -> nk.Result:
    np.save(prepared / "x.npy", inputs_of(12))
    chosen = tuple(name for name in INSTALLED if name != "litert")
    recipe = Recipe(
        str(prepared / "m.onnx"), images=str(prepared / "x.npy"), backends=("cpu", "vulkan"), threads=1, seconds=0.05,
        rounds=2, effort="fast", precisions=("fp32", "bf16", "int8"), engines=chosen,
    )  # fmt: skip
    run(recipe, prepared / "out")
    return nk.open_run(prepared / "out")


def test_engines_are_rows_like_ncnn(finished: nk.Result) -> None:
    rows = {v.name: v for v in finished.variants}
    assert {"fp32-cpu", "int8-cpu", "onnxruntime-fp32-cpu", "openvino-int8-cpu", "mnn-int8-cpu"} <= rows.keys()
    for name in ("onnxruntime-fp32-cpu", "openvino-fp32-cpu", "mnn-fp32-cpu"):
        row = rows[name]
        assert row.accuracy is not None
        assert [output.name for output in row.accuracy.outputs] == ["an image", "out:1"]
        assert (row.status, row.engine) == ("ok", name.split("-")[0])
        assert row.accuracy is not None
        assert row.accuracy.sqnr_db is None or row.accuracy.sqnr_db > 90
        assert row.latency_ms
        assert row.load_ms
        assert row.size_bytes
    assert rows["fp32-cpu"].engine == "ncnn"
    assert list(finished.to_pandas()["engine"]) == [v.engine for v in finished.variants]
    recommended = finished.best
    assert recommended is None or recommended.engine == "ncnn"


def test_an_engine_that_computes_something_else_is_a_fallback(finished: nk.Result) -> None:
    """MNN uses bf16 as a hint. On a CPU without bf16, its outputs equal those of fp32."""
    row = {v.name: v for v in finished.variants}["mnn-bf16-cpu"]
    if row.status == "fallback":
        assert row.reason.startswith("the outputs are bitwise equal to those of fp32")
    else:
        assert row.accuracy is not None
        assert (row.accuracy.sqnr_db or 0) < 70, "bf16 has eight bits"


def test_a_missing_gpu_is_skipped(finished: nk.Result) -> None:
    if not local_site().has_gpu:
        rows = [v for v in finished.variants if v.engine == "mnn" and v.backend != "cpu"]
        assert {v.backend for v in rows} == {"vulkan", "opencl"}
        assert {(v.status, v.reason) for v in rows} == {("skipped", "there is no GPU")}


def test_the_record_describes_how_each_model_was_made(finished: nk.Result) -> None:
    document = finished.run
    assert document.engines_compared
    files = set(document.files)
    for engine in document.engines:
        assert engine.version
        for model in engine.models:
            assert model.settings
            assert model.files.keys() <= files
            assert all(Path(finished.folder, name).is_file() for name in model.files)
    page = Path(finished.folder, "report.html").read_text(encoding="utf-8")
    assert "Is ncnn the right engine?" in page
    assert "static QDQ" in page


def test_notes_say_why_an_engine_has_no_figures(finished: nk.Result) -> None:
    """A row that crashed, and an engine that no variant of the run can use."""
    broken = replace(finished.variants[-1], name="mnn-fp32-cpu", engine="mnn", status="crashed", reason="it is wrong")
    assert about_engines([ENGINES["mnn"], ENGINES["litert"]], [broken]) == [
        "LiteRT was not measured: it has none of the precisions of this run on its backends",
        "mnn-fp32-cpu: it is wrong",
    ]
    fallbacks = [v for v in finished.variants if v.engine != "ncnn" and v.status == "fallback"]
    for row in fallbacks:
        assert any(row.reason in note for note in finished.run.warnings)


def test_programs_are_only_made_for_ncnn(finished: nk.Result) -> None:
    with pytest.raises(ModelError, match="another engine"):
        choose(finished.run, "mnn-fp32-cpu", Path(finished.folder))


# ------------------------------------------------------------------------------------------------------- the verdict


def row(name: str, ms: float, cosine: float = 1.0, engine: str = "ncnn", spread: float = 0.01) -> Any:
    made = variant(name, latency(ms, spread), cosine)
    return replace(made, engine=engine, name=name if engine == "ncnn" else f"{engine}-{name}")


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([row("int8-cpu", 2.0, 0.9995, "openvino")], "ncnn is not the fastest choice here: openvino-int8-cpu (2.00 ms"),
        ([row("int8-cpu", 4.0, 0.9995, "openvino", 2.0)], "ncnn and other engines tie here"),
        ([row("int8-cpu", 5.0, 0.9995, "openvino")], "ncnn and other engines tie here: openvino-int8-cpu (5.00 ms"),
        ([row("fp32-cpu", 9.0, 1.0, "mnn")], "ncnn is the fastest choice here: mixed-cpu (6.00 ms"),
        ([row("int8-cpu", 2.0, 0.9, "mnn")], "No other engine satisfies cosine ≥ 0.999; mnn-int8-cpu comes nearest"),
        (
            [row("int8-cpu", 2.0, 0.9, "mnn"), row("fp32-cpu", 9.0, 1.0, "mnn")],
            "mnn-int8-cpu is faster (2.00 ms), but its cosine",
        ),
    ],
)
def test_engines_are_compared(others: list[Any], says: str) -> None:
    ours = [row("fp32-cpu", 10.0), row("mixed-cpu", 6.0, 0.9993)]
    assert says in compare_engines([*ours, *others], "mixed-cpu", USUAL)


def test_the_order_of_engines_names_its_ties() -> None:
    """Medians of other processes differ from run to run: an order that may change in the next run is a tie."""
    others = [
        row("int8-cpu", 2.2, 0.9995, "openvino"),
        row("int8-cpu", 2.0, 0.9995, "litert"),
        row("fp32-cpu", 9.0, 1.0, "mnn"),
        row("int8-cpu", 1.0, 0.5, "onnxruntime"),
    ]
    said = compare_engines([row("mixed-cpu", 6.0, 0.9993), *others], "mixed-cpu", USUAL)
    order = said.partition("requirements: ")[2]
    assert order == (
        "litert (int8 cpu, 2.00 ms) and openvino (int8 cpu, 2.20 ms) tie; ncnn (mixed cpu, 6.00 ms); "
        "mnn (fp32 cpu, 9.00 ms)."
    )


def test_a_disturbed_latency_gives_no_factor() -> None:
    """A busy machine may delay most samples. If its fastest sample is slow, too, the order is still certain."""
    disturbed = Latency(min=3.0, p25=4.0, median=5.0, p75=60.0, p90=70.0, samples=100)
    ours = replace(row("fp32-cpu", 5.0), latency_ms=disturbed)
    said = compare_engines([ours, row("fp32-cpu", 1.0, 1.0, "mnn")], "fp32-cpu", USUAL)
    assert "mnn-fp32-cpu (1.00 ms, exact) is faster than fp32-cpu (5.00 ms, exact); fp32-cpu is too noisy" in said
    assert "times as fast" not in said
    said = compare_engines([ours, row("fp32-cpu", 3.1, 1.0, "mnn")], "fp32-cpu", USUAL)
    assert said.startswith("ncnn and other engines tie here")


def test_without_a_recommendation_another_engine_may_be_the_choice() -> None:
    said = compare_engines([row("int8-cpu", 5.0, 0.9), row("int8-cpu", 5.0, 0.9999, "openvino")], None, USUAL)
    assert said.startswith("ncnn is not the best choice here")


def test_without_engines_there_is_no_comparison() -> None:
    assert compare_engines([row("fp32-cpu", 10.0)], "fp32-cpu", USUAL) == ""


def test_an_npu_is_a_paragraph_with_its_source() -> None:
    said = about_npu("rk3588")
    assert "9.1 ms" in said
    assert "rknn_model_zoo" in said
    assert "not measured here" in said
    assert about_npu("bcm2712") == about_npu(None) == ""


def test_kernels_follow_from_the_cpu() -> None:
    site = local_site()
    arm, dot = kernels_of(replace_machine(site, machine="aarch64", cpu_features=["int8-dot-product"]))
    assert (arm, dot) == (True, True)
    assert kernels_of(replace_machine(site, machine="x86_64", cpu_features=["avx2"])) == (False, False)
    assert kernels_of(replace_machine(site, machine="x86_64", cpu_features=["avx512-vnni"])) == (False, True)


def replace_machine(site: Any, **fields: Any) -> Any:
    return replace(site, machine=replace(site.machine, **fields))
