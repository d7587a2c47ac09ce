"""How much a network computes, and the limits of an effort."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from networks import job_variant, network, samples, small

from ncnnkit import pipeline
from ncnnkit.artifact import Artifact
from ncnnkit.comparison.judge import Judge
from ncnnkit.device import LOCAL
from ncnnkit.device.looking import look_at
from ncnnkit.device.serving import CheckedChild
from ncnnkit.device.session import Session
from ncnnkit.device.sites import Site
from ncnnkit.measure import variants
from ncnnkit.measure.variants import VariantSpec
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.model.work import UNBOUNDED, Budget, work
from ncnnkit.onboard.child import Child
from ncnnkit.onboard.measuring import measure
from ncnnkit.onboard.network import Network
from ncnnkit.onboard.protocol import MeasureJob
from ncnnkit.plan import sensitivity
from ncnnkit.plan.build import make_forms
from ncnnkit.plan.requirement import Requirements
from ncnnkit.plan.search import find_plan
from ncnnkit.plan.sensitivity import float_errors, int8_errors
from ncnnkit.plan.timing import blob_shapes, measure_costs, time_graphs
from ncnnkit.progress import Position
from ncnnkit.quantization import Quantized, quantize_images
from ncnnkit.quantization.efforts import EFFORTS, Effort
from ncnnkit.quantization.methods import choose
from ncnnkit.recipe import Recipe
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import open_model
from ncnnkit.source.conversion import CHECKED_SAMPLES, convert_source
from ncnnkit.source.opening import statistics_count
from ncnnkit.verdict import reduced_said

LAYERS = {
    "convolution": ("Convolution c 1 1 in0 out0 0=8 1=3 4=1 5=1 6=216", (3, 6, 5), 216 * 30),
    "depthwise": ("ConvolutionDepthWise c 1 1 in0 out0 0=4 1=3 4=1 6=36 7=4", (4, 6, 6), 36 * 36),
    "strided": ("Convolution c 1 1 in0 out0 0=8 1=2 3=2 6=96", (3, 6, 6), 96 * 9),
    "deconvolution": ("Deconvolution c 1 1 in0 out0 0=2 1=2 3=2 6=24", (3, 5, 5), 24 * 25),
    "inner product": ("InnerProduct c 1 1 in0 out0 0=7 2=70", (10,), 70),
    "inner product of rows": ("InnerProduct c 1 1 in0 out0 0=7 2=70", (4, 10), 280),
    "in ncnn's plain loops": ("Convolution3D c 1 1 in0 out0 0=2 1=3 4=1 5=1 6=162", (3, 4, 5, 6), 162 * 120 * 10),
    "one per value": ("ReLU c 1 1 in0 out0", (3, 4, 5), 60),
}


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds(name: str) -> None:
    line, shape, wanted = LAYERS[name]
    assert work(network(line), [shape]) == wanted


def test_multiply_adds_of_a_product_of_two_blobs() -> None:
    graph = network("Input in0 0 1 in0\nInput in1 0 1 in1\nMatMul m 2 1 in0 in1 out0")
    assert work(graph, [(4, 5), (5, 6)]) == 4 * 5 * 6


def test_a_stage_takes_what_its_budget_allows() -> None:
    budget = Budget(allowed=1000, inference=100)
    assert budget.take("samples", 10) == 10
    assert budget.reduced == {}
    assert budget.take("samples", 20) == 10
    assert budget.take("pairs", 20, runs=2) == 5
    assert budget.take("dear ones", 20, runs=50, least=2) == 2, "fewer show nothing"
    assert budget.take("few", 1, runs=50, least=2) == 1, "there are no more"
    assert budget.reduced == {"samples": (10, 20), "pairs": (5, 20), "dear ones": (2, 20)}


def test_an_effort_bounds_a_network_by_its_multiply_adds() -> None:
    graph = network(LAYERS["convolution"][0])
    sample = (np.zeros((3, 6, 5), np.float32),)
    assert Effort(20, gmac=216 * 30 * 9 / 1e9).budget(graph, sample).inferences == pytest.approx(9)
    assert EFFORTS["best"].budget(graph, sample).take("samples", 10**9) == 10**9


def test_the_frames_of_a_video_count_for_statistics() -> None:
    assert statistics_count((3, 224, 224)) == 16
    assert statistics_count((3, 112, 112)) == 16
    assert statistics_count((3, 16, 112, 112)) == 4
    assert statistics_count((3, 1080, 1920)) == 2


def test_reductions_are_reported() -> None:
    budget = Budget(allowed=1000e9, inference=150e9)
    assert reduced_said("fast", budget) == []
    budget.take("evaluation samples", 20, runs=5, least=2)
    (said,) = reduced_said("fast", budget)
    assert "150 billion multiply-adds" in said
    assert "evaluation samples: 2 in place of 20" in said
    assert said.endswith("--effort default or best computes more")


# ------------------------------------------------------------------------------- the passes that each stage makes

SAMPLES = 12


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that ran a network, one for each inference."""
    honest, made = Child.ask, list[str]()

    def ask(self: Child, op: str, *rest: Any, **fields: Any) -> Any:
        answer, arrays = honest(self, op, *rest, **fields)
        made.extend([op] * {"run": 1, "tally": 1, "means": 2, "time": len(getattr(answer, "samples", ()))}.get(op, 0))
        return answer, arrays

    monkeypatch.setattr(Child, "ask", ask)
    return made


def given(count: int = SAMPLES) -> ArraySamples:
    return ArraySamples((samples(count),))


@pytest.mark.parametrize("allowed", [0, 13, 30])
def test_quantising_obeys_the_budget(passes: list[str], allowed: int) -> None:
    budget = Budget(allowed)
    made = quantize_images(small(), given(), target="x86", effort="fast", threads=1, budget=budget)
    least = EFFORTS["fast"].inferences(2, 1)
    assert len(passes) <= max(allowed, least)
    assert len(made.used) >= 2
    assert len(made.held) >= 1
    assert budget.reduced["calibration samples"] == (len(made.used) + len(made.held), SAMPLES)


def test_quantising_counts_its_inferences_right(passes: list[str]) -> None:
    effort = EFFORTS["fast"]
    made = quantize_images(small(), given(), target="x86", effort=effort, threads=1)
    assert (len(made.used), len(made.held)) == (9, 3)
    assert len(passes) == effort.inferences(9, 3)


def test_a_few_samples_of_a_light_network_fit_and_judge() -> None:
    effort = EFFORTS["fast"]
    assert choose(3, effort, Budget()) == ([0, 1, 2], [0, 1, 2])
    assert choose(4, effort, Budget()) == ([0, 1, 2], [3])
    assert choose(1, effort, Budget(0)) == ([0], [0])
    assert choose(2, effort, Budget(0)) == ([0, 1], [1])
    assert choose(9, effort, Budget(0)) == ([0, 4], [8])


@pytest.fixture(scope="module")
def quantized() -> Quantized:
    return quantize_images(small(), given(), target="x86", effort="fast", threads=1)


@pytest.mark.parametrize(("allowed", "groups"), [(0, 2), (4, 4), (100, 7)])
def test_the_sensitivity_obeys_the_budget(
    passes: list[str], quantized: Quantized, monkeypatch: pytest.MonkeyPatch, allowed: int, groups: int
) -> None:
    monkeypatch.setattr(sensitivity, "LEAST_GROUPS", 2)
    forms = make_forms(quantized.exact, quantized.fitted, quantized.used)
    with Judge(quantized.exact, quantized.held, threads=1) as judge:
        passes.clear()
        errors = int8_errors(forms, judge, budget=Budget(allowed))
    assert len(errors) == 7
    assert len(passes) <= max(allowed, groups)


@pytest.mark.parametrize("allowed", [0, 4])
def test_overflowing_layers_are_searched_within_the_budget(
    passes: list[str], quantized: Quantized, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    monkeypatch.setattr(sensitivity, "LEAST_GROUPS", 2)
    forms = make_forms(quantized.exact, quantized.fitted, quantized.used)
    costs = measure_costs(quantized.exact, quantized.fitted, blob_shapes(quantized.exact), rounds=1, seconds=0.0)
    with Judge(quantized.exact, quantized.held, threads=1) as judge:
        passes.clear()
        found = float_errors(forms, costs, judge, {"fp32": 0.0, "bf16": math.inf}, {}, budget=Budget(allowed))
    assert len({name for name, choice in found if choice == "bf16"}) == 7
    assert 0 < len(passes) <= max(allowed, 2)


@pytest.mark.parametrize(("allowed", "timed"), [(0, 1), (20, 5), (1000, 18)])
def test_uniform_models_are_timed_within_the_budget(passes: list[str], allowed: int, timed: int) -> None:
    graphs = {"fp32": small(), "bf16": small()}
    found = time_graphs(graphs, given()[0], 1, seconds=0.0, budget=Budget(allowed))
    assert found.keys() == graphs.keys()
    assert passes.count("time") <= 2 * timed
    assert passes.count("time") >= 2 * timed - 4


def test_a_layer_that_takes_long_is_timed_in_few_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    honest = Child.ask

    def ask(self: Child, op: str, *rest: Any, **fields: Any) -> Any:
        asked.extend([fields["least"]] if op == "time_nets" else [])
        return honest(self, op, *rest, **fields)

    monkeypatch.setattr(Child, "ask", ask)
    graph = small()
    for budget in (UNBOUNDED, Budget(0)):
        measure_costs(graph, graph, blob_shapes(graph), ("fp32",), seconds=0.0, budget=budget)
    assert asked == [6, 2]

    runs: list[dict[str, Any]] = []
    network = Network()
    extractor = network._raw_extractor

    def counted(net: Any, inputs: dict[str, Any]) -> Any:
        runs.append(inputs)
        return extractor(net, inputs)

    monkeypatch.setattr(network, "_raw_extractor", counted)
    param = tmp_path / "net.param"
    ncnnfile.save(graph, param)
    row = {"param": str(param), "bin": str(param.with_suffix(".bin")), "inputs": [("in0", (3, 16, 16))],
           "ready": [], "outputs": ["out0"]}  # fmt: skip
    options = PRECISIONS["fp32"].options
    asked_for = {"nets": [row], "threads": 1, "options": options, "rounds": 6, "least": 2, "seconds": 0.0}
    network.time_nets(asked_for, [])
    assert len(runs) == 2
    network.time_nets({**asked_for, "nets": [row] * 3}, [])
    assert len({id(inputs["in0"]) for inputs in runs[2:]}) == 1, "inputs of one shape are held once"


def test_many_large_nets_are_timed_in_little_memory(tmp_path: Path) -> None:
    """Otherwise the workspace of each net would stay allocated.

    At this size, noise that was freed too early crashed ncnn.
    """
    graph = network("Input in0 0 1 in0\nConvolution c 1 1 in0 out0 0=16 1=3 4=1 5=1 6=2304")
    param = tmp_path / "net.param"
    ncnnfile.save(graph, param)
    row = {"param": str(param), "bin": str(param.with_suffix(".bin")), "inputs": [("in0", (16, 700, 700))],
           "ready": [], "outputs": ["out0"]}  # fmt: skip
    limits: dict[str, Any] = {
        "threads": 1,
        "options": PRECISIONS["fp32"].options,
        "rounds": 1,
        "least": 1,
        "seconds": 0.0,
    }
    peaks = []
    for count in (1, 12):
        with CheckedChild() as child:
            child.ask("time_nets", nets=[row] * count, **limits)
            peaks.append(child.ask("memory")[0].peak_mb)
    one, twelve = peaks
    assert twelve < 1.3 * one


def test_a_plan_is_verified_as_often_as_the_budget_allows(
    passes: list[str], quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    budget = Budget(0)
    plan = find_plan(
        quantized, Requirements.parse(["sqnr>=300"]), look_at(), threads=1, budget=budget,
        progress=lambda step, done, total: shown.append(step),
    )  # fmt: skip
    assert shown.count("verify") <= 2
    assert plan.repairs <= 1
    assert budget.reduced["plans verified"] == (2, 6)


def test_variants_are_timed_as_often_as_the_budget_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[MeasureJob] = []

    def run_jobs(asked: dict[Site, MeasureJob], _: Any) -> dict[Site, Any]:
        jobs.extend(asked.values())
        return {}

    monkeypatch.setattr(variants, "run_jobs", run_jobs)
    param = tmp_path / "net.param"
    ncnnfile.save(small(), param)
    site, model = Site(LOCAL, boards.machine(), "arm"), Artifact.of(param)
    specs = [VariantSpec(name, "fp32", "cpu", 1, site, model) for name in ("a", "b")]
    for number, allowed in enumerate((0, 8, 1000)):
        home = tmp_path / str(number)
        home.mkdir()
        variants.measure(specs, [], home, seconds=0.0, rounds=5, budget=Budget(allowed))
    assert [(job.rounds, job.least) for job in jobs] == [(2, 1), (4, 1), (5, 3)]


def test_measuring_runs_no_sample_twice(passes: list[str], tmp_path: Path) -> None:
    """Two samples, and the timed inferences. Each inference of a heavy network takes seconds."""
    param = tmp_path / "net.param"
    ncnnfile.save(small(), param)
    np.save(tmp_path / "input.npy", samples(2))
    job = MeasureJob(
        [job_variant(param)], [str(tmp_path / "input.npy")], str(tmp_path), rounds=2, seconds=0.0, slow_seconds=0.0,
        least=1,
    )  # fmt: skip
    (result,) = measure(job, lambda step: None).variants
    assert (passes.count("run"), passes.count("time")) == (2, 2)
    assert len(result.samples) == 2
    outputs = np.load(result.outputs["out0"])
    with Session(small(), precision="fp32", threads=1) as session:
        assert np.array_equal(outputs, [session.blobs(sample, names=["out0"])[0] for sample in samples(2)])


def test_a_heavy_network_is_not_run_in_software() -> None:
    site = Site(LOCAL, boards.machine(vulkan=[boards.vulkan("cpu")]), "x86")
    assert not site.has_gpu
    model = Artifact.made(small(), "fp32")
    recipe = Recipe("net.onnx", effort="fast", precisions=("fp32",), backends=("cpu", "vulkan"))
    for allowed, skipped in ((10**6, False), (100, True)):
        on_cpu, in_software = variants.list_variants(recipe, {("fp32", ""): model}, [site], budget=Budget(allowed))
        assert on_cpu.model is model
        assert (in_software.model is None) == skipped
        assert ("software Vulkan would take minutes at --effort fast" in in_software.skipped) == skipped


def test_the_check_of_a_heavy_conversion_takes_one_sample(passes: list[str], tmp_path: Path) -> None:
    source = replace(
        open_model(str(saved(tmp_path))), run=lambda arrays: [np.ones((1, 10), np.float32)], outputs=("a",)
    )
    for gmac, count in ((0.0, 1), (math.inf, CHECKED_SAMPLES)):
        passes.clear()
        convert_source(source, given(), tmp_path, gmac=gmac, force=True, threads=1)
        assert len(passes) == count


def saved(folder: Path) -> Path:
    param = folder / "net.param"
    ncnnfile.save(small(), param)
    return param


def test_a_whole_run_keeps_every_stage_within_the_budget(
    passes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except timing, which is also limited by seconds. The job that measures is a separate process."""
    monkeypatch.setattr(sensitivity, "LEAST_GROUPS", 2)
    efforts = {"fast": replace(EFFORTS["fast"], gmac=10 * work(small(), [(3, 16, 16)]) / 1e9)}
    monkeypatch.setattr(pipeline, "EFFORTS", efforts)
    np.save(tmp_path / "samples.npy", samples(40))
    recipe = Recipe(
        str(saved(tmp_path)), images=str(tmp_path / "samples.npy"), backends=("cpu",), threads=1, seconds=0.0,
        effort="fast",
    )  # fmt: skip
    stages: dict[str, int] = {}
    shown = [""]

    def progress(position: Position, _: int, __: int) -> None:
        stages[shown[0]] = stages.get(shown[0], 0) + len(passes) - passes.count("time")
        passes.clear()
        shown[0] = str(position)

    document = pipeline.run(recipe, tmp_path / "out", progress)
    assert max(stages.values()) <= 10, stages
    assert sum(stages.values()) >= 20
    assert [v.latency_ms.samples for v in document.variants if v.latency_ms] == [2] * 5
    assert {v.accuracy.images for v in document.variants if v.accuracy} == {2}
    (said,) = [sentence for sentence in document.warnings if "reduced what was computed" in sentence]
    assert "evaluation samples: 2 in place of 8" in said
    assert "calibration samples: 3 in place of 32" in said
