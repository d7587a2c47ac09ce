"""A model defines how it must be run: cards, the precision without a card, and all ways of running a model."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from networks import job_variant, mixed, network, quantised, samples, small
from numpy.typing import NDArray
from typer.testing import CliRunner

import ncnnkit as nk
from ncnnkit import pipeline
from ncnnkit.app import make_app
from ncnnkit.artifact import Artifact, card_of
from ncnnkit.cli import app
from ncnnkit.comparison.layers import compare_models
from ncnnkit.device import LOCAL
from ncnnkit.device.looking import look_at
from ncnnkit.device.sites import Site, run_jobs
from ncnnkit.errors import ModelError, RecipeError, RuntimeFailure, StorageError, VerificationError
from ncnnkit.measure import variants
from ncnnkit.measure.profiles import profile
from ncnnkit.measure.tune import tune
from ncnnkit.measure.variants import bench, list_variants
from ncnnkit.model.precision import FLOATS, MASKS, PRECISIONS, STORAGES, served
from ncnnkit.onboard.jobs import run_job
from ncnnkit.onboard.protocol import JobVariant, MeasureJob, ProfileJob, ProfileResult, TuneJob, TuneResult
from ncnnkit.passes import store_fp16
from ncnnkit.quantization.efforts import efforts_by_target
from ncnnkit.recipe import Recipe
from ncnnkit.samples.stream import ArraySamples

Array = NDArray[Any]

X = samples(1, (16, 16, 16))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed model with its card (``card.param``) and without (``bare.param``), and its original ``fp32.param``."""
    home = tmp_path_factory.mktemp("mixed")
    exact, made = mixed()
    Artifact.made(exact, "fp32").save(home / "fp32.param")
    Artifact.made(made, "mixed", target="x86").save(home / "card.param")
    for end in (".param", ".bin"):
        (home / f"bare{end}").write_bytes((home / f"card{end}").read_bytes())
    return home


@pytest.fixture(scope="module")
def right(folder: Path) -> Array:
    """The outputs of the original in fp32."""
    return output(folder / "fp32.param", X)


def output(model: Any, x: Array, **options: Any) -> Array:
    with nk.Session(model, threads=1, **options) as net:
        found = net.run(x)
    assert isinstance(found, np.ndarray)
    return found


def cosine(a: Array, b: Array) -> float:
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


# ------------------------------------------------------------------------------------------ every way of running it


def by_session(model: Path, x: Array, home: Path) -> Array:
    return output(model, x)


def outputs_only(variants: list[JobVariant], x: Array, home: Path) -> MeasureJob:
    """A job that times nothing."""
    np.save(home / "x.npy", x[None])
    return MeasureJob(variants, [str(home / "x.npy")], str(home), rounds=0, seconds=0.0, slow_seconds=0.0)


def by_job(variant: JobVariant, x: Array, home: Path) -> Array:
    """The outputs of a variant of a job that the host made."""
    (row,) = run_job(outputs_only([variant], x, home)).variants
    assert row.status == "ok", row.reason
    (path,) = row.outputs.values()
    return np.asarray(np.load(path)[0])


def by_bench(model: Path, x: Array, home: Path) -> Array:
    seen: list[MeasureJob] = []
    honest = run_jobs

    def spy(jobs: Any, tell: Any) -> Any:
        seen.extend(jobs.values())
        return honest(jobs, tell)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "run_jobs", spy)
        (row,) = bench(model, backends=("cpu",), threads=1, seconds=0.02)
    assert (row.precision, row.status) == ("mixed", "ok")
    return by_job(seen[0].variants[0], x, home)


def by_tune(model: Path, x: Array, home: Path) -> Array:
    seen: list[TuneJob] = []

    def spy(job: TuneJob) -> TuneResult:
        seen.append(job)
        return run_job(replace(job, candidates=job.candidates[:2]))

    found = tune(model, spy, look_at(), backends=("cpu",), seconds=0.1, rounds=2)
    assert found.settings.precision == "mixed"
    assert found.cosine == pytest.approx(1.0)
    return by_job(seen[0].candidates[0], x, home)


def by_profile(model: Path, x: Array, home: Path) -> Array:
    outputs: list[Array] = []

    def spy(job: ProfileJob) -> ProfileResult:
        outputs.append(by_job(job.variant, x, home))
        return run_job(job)

    found = profile(model, spy, repeats=3, threads=1)
    assert {la.name: la.precision for la in found.layers if la.type == "Convolution"}["b"] == "int8"
    return outputs[0]


def by_python_app(model: Path, x: Array, home: Path) -> Array:
    make_app(run_with(model, home / "run"), home / "app", variant="mixed", lang="python")
    return infer([sys.executable, str(home / "app/infer.py")], "m-mixed", x, home)


def by_python_app_of_the_file(model: Path, x: Array, home: Path) -> Array:
    make_app(model, home / "app", lang="python")
    return infer([sys.executable, str(home / "app/infer.py")], model.stem, x, home)


def infer(program: list[str], stem: str, x: Array, home: Path) -> Array:
    np.save(home / "x.npy", x)
    files = [str(home / f"app/models/{stem}.{end}") for end in ("param", "bin")]
    line = [*program, *files, str(home / "x.npy"), str(home / "y.npy"), "--threads=1"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.asarray(np.load(home / "y.npy"))


def run_with(model: Path, out: Path) -> Path:
    """A run folder with this mixed model as a variant."""
    np.save(out.parent / "images.npy", samples(10, (16, 16, 16)))
    recipe = Recipe(
        str(model.parent / "fp32.param"), images=str(out.parent / "images.npy"), backends=("cpu",),
        precisions=("fp32",), threads=1, seconds=0.02, rounds=1,
    )  # fmt: skip
    pipeline.run(recipe, out)
    document = json.loads((out / "run.json").read_text())
    files = {end: f"m-mixed.{end}" for end in ("param", "bin")}
    (row,) = document["variants"]
    document["variants"].append({**row, "name": "mixed-cpu", "precision": "mixed", "files": files})
    (out / "run.json").write_text(json.dumps(document))
    for end, name in files.items():
        (out / name).write_bytes(model.with_suffix(f".{end}").read_bytes())
    return out


@pytest.mark.parametrize("name", ["card", "bare"])
@pytest.mark.parametrize("way", [by_session, by_bench, by_tune, by_profile, by_python_app, by_python_app_of_the_file])
def test_a_mixed_model_gives_the_same_outputs_in_every_way_of_running(
    way: Callable[[Path, Array, Path], Array], name: str, folder: Path, right: Array, tmp_path: Path
) -> None:
    found = way(folder / f"{name}.param", X, tmp_path)
    assert cosine(found, right) > 0.999
    np.testing.assert_allclose(found, output(folder / "card.param", X), atol=0.02)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The C++ app of a mixed model, built once for each library: ``native``, ``current`` or ``aarch64``."""
    from ncnn_library import build, installed

    home = tmp_path_factory.mktemp("cpp")

    @functools.cache
    def make(library: str) -> Path:
        if installed(library) is None:
            pytest.skip(f"needs scripts/ncnn-library {library}")
        Artifact.made(mixed()[1], "mixed", target="x86", ncnn="1.0.20261020").save(home / "m.param")
        make_app(home / "m.param", home / library)
        toolchain = {"aarch64": ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
                                 "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"]}.get(library, [])  # fmt: skip
        return build(home / library, home / library / "build", *toolchain, library=library) / "infer"

    return make


def by_cpp_app(program: Path, model: Path, x: Array, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the C++ app on a model's own files; the output is ``y.npy`` in ``home``."""
    emulator = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"] if "aarch64" in str(program) else []
    np.save(home / "x.npy", x)
    files = [model, model.with_suffix(".bin"), home / "x.npy", home / "y.npy"]
    line = [*emulator, program, *files, "--threads=1", "--loop=1", "--precision=mixed"]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True)


@pytest.mark.app
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("library", "storage"), [("native", "fp32"), ("current", "fp32"), ("current", "bf16")])
def test_a_mixed_model_in_the_cpp_app(library: str, storage: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """Int8 and floating point; also bf16 with its Casts, if the library has bf16 on this CPU."""
    model = Artifact.made(mixed(storage)[1], "mixed").save(tmp_path / "m.param")
    assert (storage == "bf16") is any(layer.type == "Cast" for layer in model.graph.layers)
    done = by_cpp_app(built(library), tmp_path / "m.param", X, tmp_path)
    assert done.returncode == 0, done.stderr
    found, expected = np.load(tmp_path / "y.npy"), output(model, X)
    assert cosine(found, expected) > 0.99999
    np.testing.assert_allclose(found, expected, atol=0.02 if storage == "bf16" else 1e-4)


@pytest.mark.app
@pytest.mark.timeout(900)
def test_a_mixed_model_of_fp16_bf16_and_int8_in_the_cpp_app(
    built: Callable[[str], Path], right: Array, tmp_path: Path
) -> None:
    """On an emulated Arm CPU, which has all of them, with Casts from fp16 and bf16. This CPU cannot run the model."""
    model = Artifact.made(mixed("bf16", fp16=True)[1], "mixed").save(tmp_path / "m.param")
    casts = [layer.get("type_from") for layer in model.graph.layers if layer.type == "Cast"]
    assert sorted(casts) == [2, 4, 4]
    done = by_cpp_app(built("aarch64"), tmp_path / "m.param", X, tmp_path)
    assert done.returncode == 0, done.stderr
    assert cosine(np.load(tmp_path / "y.npy"), right) > 0.999


@pytest.mark.app
@pytest.mark.timeout(900)
def test_the_cpp_app_names_the_found_and_the_required_precision(built: Callable[[str], Path], tmp_path: Path) -> None:
    """The older library has no bf16 on this CPU."""
    Artifact.made(mixed()[1], "mixed").save(tmp_path / "m.param")
    done = by_cpp_app(built("native"), tmp_path / "m.param", X, tmp_path)
    assert done.returncode == 1
    for text in (
        "m.param: this model does not run here: layer a outputs fp32, but Cast b/cast reads bf16; ",
        "here: ncnn 1.0.20230719, --precision=mixed; ",
        "it needs: ncnn 1.0.20261020 or newer, --precision=mixed and a CPU like those of the target x86\n",
    ):
        assert text in done.stderr


@pytest.mark.app
@pytest.mark.timeout(900)
@pytest.mark.parametrize("library", ["current", "aarch64"])
def test_the_cpp_app_refuses_a_mask_that_forbids_its_input_type(
    library: str, built: Callable[[str], Path], tmp_path: Path
) -> None:
    Artifact.made(without_casts(), "mixed").save(tmp_path / "m.param")
    done = by_cpp_app(built(library), tmp_path / "m.param", X, tmp_path)
    assert done.returncode == 1
    assert "layer a outputs bf16, but layer b reads f" in done.stderr


@pytest.mark.parametrize("name", ["card", "bare"])
def test_a_mixed_model_is_compared_as_it_is_run(name: str, folder: Path) -> None:
    first, second = (Artifact.load(folder / f"{stem}.param") for stem in ("fp32", name))
    steps: list[tuple[str, int, int]] = []
    found = compare_models(
        first, second, ArraySamples((X[None],)), layers=True, progress=lambda *said: steps.append(said)
    )
    assert {step for step, *_ in steps} == {"compare outputs", "compare layers"}
    assert found.accuracy.cosine is not None
    assert found.accuracy.cosine > 0.999


# -------------------------------------------------------------------------------------------------------------- Casts


def test_a_cast_that_would_read_another_type_is_refused() -> None:
    _, made = mixed()
    bf16_only = Artifact.made(made, "mixed", settings={"mixed": PRECISIONS["int8"].options})
    with pytest.raises(RuntimeFailure, match=r"layer a outputs float, but Cast .* reads bf16"):
        nk.Session(bf16_only)


def without_casts() -> nk.Graph:
    """A mixed network in which an int8 layer would read bf16 although its mask forbids it."""
    text = """
        Input       in0 0 1 in0 0=16 1=16 2=16
        Convolution a   1 1 in0 x 0=16 1=1 5=1 6=256 31=3
        Convolution b   1 1 x out0 0=16 1=1 5=1 6=256 31=7
    """
    return network(text)


def test_a_masked_layer_that_would_read_16_bits_is_refused() -> None:
    """ncnn converts for a layer that does not support bf16, but not if a mask forbids it: the layer reads beyond its
    input.
    """
    with pytest.raises(RuntimeFailure, match=r"layer a outputs bf16, but layer b reads f"):
        nk.Session(Artifact.made(without_casts(), "mixed"))


def test_a_cast_from_fp16_is_refused_if_its_input_is_not_fp16() -> None:
    if "fp16-arithmetic" in look_at().cpu_features:
        pytest.skip("this CPU hands on fp16")
    with pytest.raises(RuntimeFailure, match="reads fp16"):
        nk.Session(mixed("fp16")[1])


def test_a_job_reports_why_a_variant_was_refused(folder: Path, tmp_path: Path) -> None:
    variant = job_variant(folder / "card.param", "int8")
    (row,) = run_job(outputs_only([variant], X, tmp_path)).variants
    assert row.status == "crashed"
    assert "this model does not run here" in row.reason


# -------------------------------------------------------------------------------------------------------------- cards


def test_a_card_contains_all_known_facts(tmp_path: Path) -> None:
    how = nk.Preprocess(resize=20, crop=(16, 16), mean=(0.5,), std=(0.25,))
    made = Artifact.made(small(), "fp32", preprocess=how, labels=("a", "bé"), ncnn="1.0.2", target="x86")
    saved = made.save(tmp_path / "m.param")
    found = Artifact.load(tmp_path / "m.param")
    assert found.graph.layers == small().layers
    for name in ("precision", "precisions", "inputs", "outputs", "preprocess", "labels", "ncnn", "target", "settings"):
        assert getattr(found, name) == getattr(saved, name) == getattr(made, name), name
    assert not found.derived
    assert json.loads((tmp_path / "m.json").read_text())["options"]["bf16"]["use_bf16_storage"] is True


def test_the_file_of_fp32_serves_all_floating_point_precisions(tmp_path: Path) -> None:
    nk.save(small(), tmp_path / "m.param")
    model = Artifact.load(tmp_path / "m.param")
    assert model.precisions == FLOATS == ("fp32", "fp16", "bf16")
    assert model.at("bf16").options == PRECISIONS["bf16"].options
    with pytest.raises(ModelError, match="cannot run in mixed"):
        model.at("mixed")
    with pytest.raises(RecipeError, match="unknown precision 'fp8'"):
        model.at("fp8")


@pytest.mark.parametrize("change", ["weights", "structure", "precision", "field", "target", "task", "decoder", "end"])
def test_a_card_of_another_model_is_ignored_with_a_warning(change: str, tmp_path: Path) -> None:
    param = tmp_path / "m.param"
    Artifact.made(small(), "fp16").save(param)
    card = json.loads(card_of(param).read_text())
    if change == "weights":
        raw = bytearray(param.with_suffix(".bin").read_bytes())
        raw[-1] ^= 1
        param.with_suffix(".bin").write_bytes(raw)
    elif change == "structure":
        param.write_text(param.read_text() + "\n")
    elif change == "end":
        card_of(param).write_bytes(card_of(param).read_bytes()[:300])
    else:
        card |= {
            "precision": {"precisions": ["fp9"]}, "field": {"inputs": 5}, "target": {"target": "$(touch x)"},
            "task": {"task": "segmentation:axis=x"}, "decoder": {"task": "detection"},
        }[change]  # fmt: skip
        card_of(param).write_text(json.dumps(card))
    with pytest.warns(UserWarning, match="this card is ignored"):
        found = Artifact.load(param)
    assert (found.derived, found.precision) == (True, "fp32")


def test_a_file_that_is_not_a_card_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    place = tmp_path / "m.json"
    place.write_text('{"mine": 1}')
    with pytest.raises(StorageError, match="exists, but ncnnkit did not write it"):
        nk.save(small(), tmp_path / "m.param")
    assert place.read_text() == '{"mine": 1}'
    assert not (tmp_path / "m.param").exists()
    place.unlink()
    nk.save(small(), tmp_path / "m.param")
    place.write_text('{"mine": 1}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Artifact.load(tmp_path / "m.param").derived


# ---------------------------------------------------------------------------------------------------- without a card


def overflowing() -> nk.Graph:
    """A user's network with a mask that forbids fp16 arithmetic for a layer with large values."""
    graph = small()
    graph.layers[1].params["featmask"] = 1
    return graph


def halved() -> nk.Graph:
    graph = small()
    store_fp16(graph)
    return graph


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (small, "fp32"), (halved, "fp32"), (overflowing, "fp32"), (lambda: quantised(small()), "int8"),
        (lambda: mixed()[1], "mixed"), (lambda: mixed("fp16")[1], "mixed"),
    ],
)  # fmt: skip
def test_the_precision_of_a_model_without_a_card(make: Callable[[], nk.Graph], precision: str) -> None:
    assert Artifact.of(make()).precision == precision


def test_a_derived_precision_is_reported(folder: Path) -> None:
    words = ["bench", str(folder / "bare.param"), "--backend", "cpu", "--threads", "1", "--seconds", "0.1"]
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    assert "it has no card and is run in mixed: layer" in said.stderr
    words[1] = str(folder / "card.param")
    assert "no card" not in CliRunner().invoke(app, words).stderr


def test_functions_that_need_floating_point_refuse_int8(folder: Path) -> None:
    with pytest.raises(ModelError, match="quantising needs a floating point model"):
        nk.quantize(folder / "card.param", [X[None]])
    with pytest.raises(ModelError, match="calibration needs a floating point model"):
        nk.calibrate(folder / "bare.param", X[None])


# ------------------------------------------------------------------------------------------------------------ Vulkan


def padding() -> nk.Graph:
    """An int8 network made for a CPU: a layer pads with the zero point."""
    graph = quantised(small())
    layer = next(layer for layer in graph.layers if layer.type == "Convolution" and layer.params.get("int8_scale_term"))
    layer.params["pad_value"] = 3.0
    return graph


def test_an_int8_model_made_for_a_cpu_is_not_run_on_a_gpu() -> None:
    assert "pads with another value" in Artifact.of(padding()).refused_by_vulkan
    assert not Artifact.of(quantised(small())).refused_by_vulkan
    with pytest.raises(ModelError, match="made for CPUs"):
        nk.Session(padding(), backend="vulkan")


def test_the_table_of_precisions_is_consistent() -> None:
    assert [row.name for row in PRECISIONS.values()] == list(PRECISIONS)
    assert served("int8") == ("int8",)
    assert served("fp16") == ("fp16", "fp32", "bf16")
    assert set(STORAGES) == {"fp16", "bf16", "int8", "int8-winograd"}
    assert STORAGES["bf16"] == "bf16"
    assert MASKS.keys() == {*FLOATS, "int8", "int8-winograd"}


# ------------------------------------------------------------------------------------------- names and empty results


def test_outputs_are_kept_for_any_name_of_a_variant(folder: Path, tmp_path: Path) -> None:
    names = ["fp32-cpu@ssh://one/", "fp32-cpu@../two", "same", "same"]
    rows = [job_variant(folder / "fp32.param", "fp32", name) for name in names]
    found = run_job(outputs_only(rows, X, tmp_path)).variants
    assert [(row.name, row.status) for row in found] == [(name, "ok") for name in names]
    paths = [path for row in found for path in row.outputs.values()]
    assert len(set(paths)) == len(names)
    assert {Path(path).parent for path in paths} == {tmp_path}


def test_a_bench_without_results_gives_the_reason(tmp_path: Path) -> None:
    if "fp16-arithmetic" in look_at().cpu_features:
        pytest.skip("this CPU hands on fp16")
    Artifact.made(mixed("fp16")[1], "mixed").save(tmp_path / "m.param")
    words = ["bench", str(tmp_path / "m.param"), "--backend", "cpu", "--threads", "1", "--seconds", "0.1"]
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 5
    assert "crashed: mixed-cpu: this model does not run here" in said.stdout
    assert "no variant can be used: mixed-cpu crashed: this model does not run here" in said.stderr


def test_a_run_without_results_keeps_its_report(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", samples(10, (16, 16, 16)))
    recipe = Recipe(
        str(folder / "fp32.param"), images=str(tmp_path / "images.npy"), backends=("vulkan",), precisions=("fp32",),
        threads=1, seconds=0.02, rounds=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VK_DRIVER_FILES", "/nonexistent")
        patch.setenv("VK_ICD_FILENAMES", "/nonexistent")
        with pytest.raises(
            VerificationError, match="no variant can be used: fp32-vulkan skipped: there is no Vulkan device"
        ):
            pipeline.run(recipe, tmp_path / "out")
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize(("target", "extra"), [("", True), ("arm", True), ("vulkan", False)])
def test_a_gpu_gets_its_own_int8_model(target: str, extra: bool) -> None:
    machine = boards.machine(vulkan=[boards.vulkan("integrated")])
    site = Site(LOCAL, machine, target or "x86")
    efforts = efforts_by_target(Recipe("m.onnx", target=target), [site])
    assert "vulkan" in efforts
    assert len(efforts) == 1 + extra


def test_no_gpu_gets_a_model_that_pads_as_cpus_do(tmp_path: Path) -> None:
    machine = boards.machine(vulkan=[boards.vulkan("integrated")], cores=2)
    model = Artifact.made(padding(), "int8", target="arm").save(tmp_path / "m.param")
    recipe = Recipe("m.onnx", precisions=("int8",), backends=("cpu", "vulkan"))
    on_cpu, on_gpu = list_variants(recipe, {("int8", "arm"): model}, [Site(LOCAL, machine, "arm")])
    assert on_cpu.model is model
    assert on_gpu.model is None
    assert "made for CPUs" in on_gpu.skipped
