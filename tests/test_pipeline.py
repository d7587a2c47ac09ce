"""Whole runs: their files, their messages, and their errors."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import boards
import numpy as np
import pytest
from networks import SMALL, mixed, network, samples, small, with_weights
from PIL import Image
from test_recommendation import variant

import ncnnkit as nk
from ncnnkit import pipeline
from ncnnkit.comparison.outputs import keep_outputs
from ncnnkit.comparison.truths import truths
from ncnnkit.device import LOCAL
from ncnnkit.device.looking import look_at
from ncnnkit.device.sites import Site
from ncnnkit.errors import ImageError, ModelError, RecipeError, StorageError, VerificationError
from ncnnkit.measure import variants
from ncnnkit.measure.copies import refuse_copies
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard.facts import Board, Cluster
from ncnnkit.onboard.protocol import VariantResult
from ncnnkit.progress import Position
from ncnnkit.recipe import Recipe, make_recipe
from ncnnkit.record.folder import load_run
from ncnnkit.record.names import PLAIN_NAME
from ncnnkit.record.run import Run
from ncnnkit.record.variant import Accuracy
from ncnnkit.report import shipping
from ncnnkit.samples.labels import Labels
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.source import open_model
from ncnnkit.source.conversion import convert_source
from ncnnkit.source.model import file_safe
from ncnnkit.source.opening import GUESS, choose_preprocess, open_with_images
from ncnnkit.tasks.classification import Classification
from ncnnkit.tasks.tensor import Tensors

DATA = Path(nk.__file__).parent / "data"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A small network and arrays, measured for a short time on the CPU."""
    ncnnfile.save(small(), tmp_path / "model.param")
    np.save(tmp_path / "samples.npy", samples(30))
    return Recipe(
        str(tmp_path / "model.param"),
        images=str(tmp_path / "samples.npy"),
        backends=("cpu",),
        threads=1,
        seconds=0.05,
        rounds=2,
    )


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return dataclasses.replace(recipe, **fields)


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(list(folder.name.encode()))
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_a_run_leaves_models_that_run_and_a_record_that_is_true(recipe: Recipe, tmp_path: Path) -> None:
    told: list[Position] = []
    document = pipeline.run(recipe, tmp_path / "out", lambda position, done, total: told.append(position))
    assert document == load_run(tmp_path / "out")
    assert [v.name for v in document.variants] == [
        "fp32-cpu", "fp16-cpu", "bf16-cpu", "int8-cpu", "mixed-cpu"
    ]  # fmt: skip
    assert {v.status for v in document.variants} == {"ok"}
    assert (document.images.calibration, document.images.evaluation) == (24, 6)
    assert document.reference.engine == "ncnn"
    numbers = [number for number, _ in itertools.groupby(position.number for position in told)]
    assert numbers == list(range(1, told[-1].of + 1)), "no stage is missing, and none comes twice"
    assert told[-1].stage == "write the report"
    assert document.preprocess is None, "arrays are fed as they are"
    assert not [w for w in document.warnings if "ImageNet" in w]

    # The record of the int8 model agrees with its files.
    int8 = document.variants[3]
    assert int8.files is not None
    assert int8.accuracy is not None
    param = tmp_path / "out" / int8.files.param
    assert int8.size_bytes == param.stat().st_size + param.with_suffix(".bin").stat().st_size
    held_out = samples(30)[4::5]
    with nk.Session(param) as net, nk.Session(small()) as exact:
        errors = np.array([net.run(x) for x in held_out]) - np.array([exact.run(x) for x in held_out])
    assert int8.accuracy.mse == pytest.approx(float(np.mean(errors.astype(np.float64) ** 2)), rel=1e-3)
    computing = ["c1", "d1", "c2", "c3", "add", "gap", "fc"]
    for row in document.variants[1:]:
        assert [layer.name for layer in row.layers] == computing, row.name
    assert document.variants[0].layers == [], "fp32 is what they are compared with"
    for file, digest in int8.files.sha256.items():
        assert hashlib.sha256((tmp_path / "out" / file).read_bytes()).hexdigest() == digest
    assert len(int8.files.sha256) == 2

    # So does the record of the network.
    shipped = {layer.name: layer for layer in nk.load(param).layers}
    rows = {layer.name: layer for layer in document.network}
    assert list(rows) == ["in0", *computing]
    assert (rows["c3"].reads, rows["add"].reads) == (["c2"], ["c3", "c2"]), "the Split is left out"
    for name, layer in rows.items():
        found = layer.int8
        assert (found is not None) == ("input_scale" in shipped[name].weights)
        if found:
            assert (found.high - found.low) / 2 == pytest.approx(127 / shipped[name].array("input_scale")[0])
            assert (found.high + found.low) / 2 == pytest.approx(found.zero_point, abs=1e-6)
            assert sum(found.weights.counts) == small().layer(name).array("weight").size
            assert found.inputs
            assert sum(found.inputs.counts) > 0
    with nk.Session(small(), keep_blobs=True) as exact:
        for layer in document.network:
            assert exact.blobs(held_out[0], names=layer.outputs[:1])[0].shape == layer.shape

    left = {path.name for path in (tmp_path / "out").iterdir()}
    models = {f"model-{p}.{end}" for p in ("fp32", "fp16", "int8", "mixed") for end in ("param", "bin", "json")}
    others = {"run.json", "report.html", "recipe.toml", "examples.npz"}
    assert left == models | others, "no pnnx.log: nothing was converted"
    assert document.files == sorted(left)
    html = (tmp_path / "out/report.html").read_text()
    assert "int8-cpu" in html


@pytest.mark.parametrize("precision", ["bf16", "mixed"])
def test_the_printed_lines_compute_the_same_as_the_variant(
    precision: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both need options that differ from ncnn's defaults."""
    import ncnn

    document = pipeline.run(changed(recipe, precisions=("fp32", precision)), tmp_path / "out")
    ship = shipping(dataclasses.replace(document, recommended=f"{precision}-cpu"), "out")
    assert ship
    monkeypatch.chdir(tmp_path / "out")
    (image,) = samples(1)
    found: dict[str, Any] = {"input": ncnn.Mat(image).clone()}
    exec(ship.python, found)
    with nk.Session(nk.Artifact.load(ship.files[0]).at(precision), threads=recipe.threads or None) as net:
        np.testing.assert_allclose(np.array(found["output"]), net.run(image), rtol=1e-6, atol=1e-6)


def test_the_recipe_in_the_folder_makes_the_same_run(recipe: Recipe, tmp_path: Path) -> None:
    pipeline.run(recipe, tmp_path / "out")
    assert make_recipe({}, tmp_path / "out/recipe.toml") == recipe


def test_images_labels_and_files_that_are_not_images(recipe: Recipe, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 6)
    (images / "notes.txt").write_text("not an image")
    (images / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    evaluation = photographs(tmp_path / "evaluation", 3)
    with nk.Session(small()) as net:
        inputs = nk.open_images(evaluation, nk.Preprocess(resize=(16, 16)), pipeline_inputs(recipe))
        best = [int(np.argmax(net.run(x))) for (x,) in inputs]
    labels = tmp_path / "labels.txt"
    labels.write_text(f"00.png {best[0]}\n01.png {best[1]}\n02.png {(best[2] + 1) % 10}\n")
    asked = changed(
        recipe, images=str(images), eval_images=str(evaluation), labels=str(labels),
        preprocess={"mean": 0.0, "std": 1.0}, precisions=("fp32",),
    )  # fmt: skip
    document = pipeline.run(asked, tmp_path / "out")
    accuracy = document.variants[0].accuracy
    assert accuracy is not None
    assert accuracy.figures()["top1"] == pytest.approx(2 / 3)
    assert (document.images.calibration, document.images.evaluation) == (6, 3)
    assert {row.name for row in document.images.skipped} == {"notes.txt", "torn.jpg"}
    assert any("2 files are not usable images" in warning for warning in document.warnings)
    assert document.preprocess is not None
    assert document.preprocess_origin == "mean, std as given"


def test_the_record_says_what_each_image_was_used_for(recipe: Recipe, tmp_path: Path) -> None:
    """Of 50 images, one is a copy and ten evaluate.

    Effort fast uses 32 of the others: 24 to fit, and eight to judge.
    """
    images = photographs(tmp_path / "images", 50)
    (images / "copy.png").write_bytes((images / "07.png").read_bytes())
    asked = changed(
        recipe, images=str(images), preprocess={"mean": 0.5, "std": 0.25}, precisions=("fp32", "int8"), effort="fast"
    )
    document = pipeline.run(asked, tmp_path / "out")
    used = document.images
    assert (used.available, used.calibration, used.evaluation) == (40, 32, 10)
    assert (used.fitted, used.held_back) == (24, 8)
    assert [(copy.name, copy.of) for copy in used.copies] == [("copy.png", "07.png")]
    assert "one sample was dropped as a copy of another: copy.png has the same content as 07.png" in document.warnings
    assert not list((tmp_path / "out").rglob("*.npy")), "inputs and outputs kept on disk go with the run"


def test_images_in_both_sets_are_not_evaluated_on(recipe: Recipe, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 12)
    (images / "calibration").mkdir()
    for number in range(7):
        (images / f"{number:02}.png").rename(images / "calibration" / f"{number:02}.png")
    asked = changed(
        recipe, images=str(images / "calibration"), eval_images=str(images), preprocess={"mean": 0.5, "std": 0.25},
        precisions=("fp32",),
    )  # fmt: skip
    document = pipeline.run(asked, tmp_path / "out")
    assert (document.images.calibration, document.images.evaluation) == (7, 5)
    assert len(document.images.copies) == 7
    assert any("7 samples were dropped as copies of others" in warning for warning in document.warnings)


def test_a_reference_of_zeros_proves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """Random weights can have this effect. Every variant is exact then, but this does not show that it is right."""
    ncnnfile.save(with_weights(network(SMALL), values={"fc.weight": 0.0, "fc.bias": 0.0}), tmp_path / "model.param")
    document = pipeline.run(changed(recipe, precisions=("fp32",)), tmp_path / "out")
    figures = document.variants[0].accuracy
    assert figures is not None
    assert (figures.cosine, figures.sqnr_db, figures.mse, figures.task) == (None, None, 0.0, [])
    assert document.recommended is None
    assert document.why.startswith("the original's outputs are zero for every sample, so no variant can be judged")
    assert len([warning for warning in document.warnings if "no variant can be judged" in warning]) == 1


def test_a_vector_without_evidence_is_not_a_classifier(recipe: Recipe, tmp_path: Path) -> None:
    document = pipeline.run(changed(recipe, precisions=("fp32",)), tmp_path / "out")
    figures = document.variants[0].accuracy
    assert figures is not None
    assert (document.model.classes, figures.task) == (0, [])
    assert any("a vector of 10 values, but nothing says" in warning for warning in document.warnings)
    softmax = SMALL.replace("b6 out0 0=10", "b6 b7 0=10") + "    Softmax p 1 1 b7 out0"
    ncnnfile.save(network(softmax), tmp_path / "model.param")
    document = pipeline.run(changed(recipe, precisions=("fp32",)), tmp_path / "out2")
    figures = document.variants[0].accuracy
    assert figures is not None
    assert (document.model.classes, figures.figures()["top1_agreement"]) == (10, 1.0)


def test_implausible_preprocessing_gives_a_warning(recipe: Recipe, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 10)
    asked = changed(recipe, images=str(images), preprocess={"mean": 127.0, "std": 128.0}, precisions=("fp32",))
    document = pipeline.run(asked, tmp_path / "out")
    assert any("the mean 127, 127, 127 belongs to pixels" in warning for warning in document.warnings)


def test_a_preset_is_scaled_to_the_networks_input(recipe: Recipe) -> None:
    source = open_model(recipe.model)
    found, origin = choose_preprocess(source, "imagenet", {})
    assert found is not None
    assert (found.crop, found.resize, found.mean) == ((16, 16), 18, nk.preset("imagenet").mean)
    assert origin == "the preset imagenet, scaled to 16x16"


def pipeline_inputs(recipe: Recipe) -> Any:
    return open_model(recipe.model).inputs


def poisoned(folder: Path) -> str:
    graph = small()
    graph.layer("fc").weights["bias"] = np.full(10, np.nan, np.float32)
    ncnnfile.save(graph, folder / "poisoned.param")
    return str(folder / "poisoned.param")


@pytest.mark.parametrize(
    ("prepare", "error", "said"),
    [
        (
            lambda r, d: changed(r, images=str(photographs(d / "few", 3))),
            ImageError,
            "too few images to hold out every 5th one: 3",
        ),
        (lambda r, d: changed(r, images=""), ImageError, "no images are given"),
        (lambda r, d: changed(r, shapes=((3, 8, 8),)), ImageError, "input 'in0' takes N x 3x8x8"),
        (lambda r, d: changed(r, shapes=((4, 16, 16),)), ModelError, "expects 3 channels, but gets 4x16x16"),
        (lambda r, d: changed(r, images=str(d / "nowhere")), ImageError, "no such file or folder"),
        (
            lambda r, d: changed(r, eval_images=str(d / "nowhere"), model="none.onnx"),
            ImageError,
            "no such file or folder",
        ),
        (
            lambda r, d: changed(r, model=poisoned(d)),
            VerificationError,
            "'out0' contains NaN or infinity",
        ),
    ],
)
def test_a_failed_run_leaves_the_folder_unchanged(
    recipe: Recipe, tmp_path: Path, prepare: Callable[..., Any], error: type[Exception], said: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    older = '{"files": ["run.json"]}'
    (out / "run.json").write_text(older)
    with pytest.raises(error, match=said):
        pipeline.run(prepare(recipe, tmp_path), out)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("run.json", older)]


def test_a_folder_that_cannot_be_made(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is not a folder"):
        pipeline.run(recipe, tmp_path / "file")


# ---------------------------------------------------------------------------------------------- single decisions


def checked(run: Callable[[list[Any]], list[Any]], recipe: Recipe, folder: Path, *, force: bool = False) -> Accuracy:
    """The small network, converted and compared with an original that computes something else."""
    source = dataclasses.replace(open_model(recipe.model), engine="onnxruntime", run=run)
    found = convert_source(source, ArraySamples((samples(4),)), folder, force=force).taken.compared
    assert found is not None
    return found.errors


def test_a_wrong_conversion_stops_the_run_unless_forced(recipe: Recipe, tmp_path: Path) -> None:
    def other(inputs: list[Any]) -> list[Any]:
        return [np.cos(np.arange(10.0))[None]]

    with pytest.raises(VerificationError, match=r"original in fp32: SQNR .*60 dB are needed.*--force") as stopped:
        checked(other, recipe, tmp_path)
    assert stopped.value.exit_code == 5
    assert (checked(other, recipe, tmp_path, force=True).sqnr_db or 0) < 30


def test_a_conversion_is_judged_by_the_noise_over_the_signal_of_all_samples(recipe: Recipe, tmp_path: Path) -> None:
    """A text detector's map is almost empty if there is no text. It then only contains rounding errors."""
    rng = np.random.default_rng(0)
    text, blank = (scale * rng.random((1, 10)).astype(np.float32) for scale in (1.0, 1e-7))
    calls = 0

    def detector(inputs: list[Any]) -> list[Any]:
        nonlocal calls
        calls += 1
        return [text if calls == 1 else blank]

    noise = 1e-6 * rng.standard_normal((4, 10))
    with mock.patch("ncnnkit.source.reference.Session") as session:
        net = session.return_value.__enter__.return_value
        net.outputs = ["out0"]
        net.blobs.side_effect = [(row + extra,) for row, extra in zip([text[0], *[blank[0]] * 3], noise)]
        figures = checked(detector, recipe, tmp_path)
    assert (figures.sqnr_db or 0) > 100


def test_a_conversion_with_noise_in_a_zero_output_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="the original's output is all zero, ncnn's is not"):
        checked(lambda inputs: [np.zeros((1, 10))], recipe, tmp_path)


def test_a_conversion_with_other_outputs_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="has 10 values, but the original's has 7"):
        checked(lambda inputs: [np.zeros((1, 7))], recipe, tmp_path)


def test_where_the_preprocessing_comes_from(recipe: Recipe) -> None:
    onnx = str(DATA / "efficientnet-lite0.onnx")
    source = open_model(onnx)
    own, origin = choose_preprocess(source, "", {})
    assert own == nk.preset("efficientnet-lite0")
    assert "metadata" in origin
    given, origin = choose_preprocess(source, "", {"mean": (0.1,)})
    assert own is not None
    assert given == dataclasses.replace(own, mean=(0.1,), arrays=True)
    assert origin.startswith("mean as given, the rest from the model's own metadata")
    guess, origin = choose_preprocess(open_model(recipe.model), "", {})
    assert guess is not None
    assert (guess.resize, guess.color, guess.mean) == ((16, 16), "rgb", (0.485, 0.456, 0.406))
    assert origin == GUESS


def test_vulkan_that_gives_the_cpus_bits_did_not_run_on_the_gpu(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(2, (10,)))
    np.save(tmp_path / "b.npy", samples(2, (10,), seed=1))
    result = {name: VariantResult(name, outputs={"out0": str(tmp_path / f"{name}.npy")}) for name in "ab"}

    def status(gpu: str) -> str:
        rows = [variant(f"fp32-{backend}", 1.0) for backend in ("cpu", "vulkan")]
        return refuse_copies(rows, [result["a"], result[gpu]])[1].status

    assert (status("a"), status("b")) == ("fallback", "ok")


def test_requirements_decide_the_recommendation(recipe: Recipe, tmp_path: Path) -> None:
    document = pipeline.run(changed(recipe, precisions=("fp32", "bf16"), require=("sqnr>=90",)), tmp_path / "out")
    assert document.recommended == "fp32-cpu"
    assert "satisfies SQNR ≥ 90 dB" in document.why
    assert document.devices[0].recommended == "fp32-cpu"
    document = pipeline.run(changed(recipe, precisions=("fp32",), max_latency="0.000001ms"), tmp_path / "late")
    assert document.recommended is None
    assert "fp32-cpu comes nearest: latency" in document.why


def test_a_requirement_that_needs_labels_is_refused_before_any_work(recipe: Recipe, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(RecipeError, match=r"require: top1 needs labels \(give the labels"):
        pipeline.run(changed(recipe, require=("top1>=0.5",)), tmp_path / "out", lambda at, *_: told.append(at.stage))
    assert not told


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "segmentation", "require": ("map50>=0.9",)}, "map50 is not a figure of the task segmentation"),
        ({"task": "segmentatoin"}, "unknown task 'segmentatoin'"),
        ({"task": "segmentation:treshold=0.3"}, "'treshold=0.3' is not an attribute of segmentation"),
        ({"metric": "math:hypot", "require": ("miou>=0.9",)}, "miou is not a figure of the task metric"),
    ],
)
def test_options_of_another_task_are_refused_before_any_work(
    fields: dict[str, Any], says: str, recipe: Recipe, tmp_path: Path
) -> None:
    told: list[str] = []
    with pytest.raises(RecipeError, match=says):
        pipeline.run(changed(recipe, **fields), tmp_path / "out", lambda at, *_: told.append(at.stage))
    assert not told


def test_a_wrong_kernel_on_the_cpu_is_found_and_its_layer_named(recipe: Recipe, tmp_path: Path) -> None:
    """ncnn's bf16 grouped convolution is wrong on x86. On other CPUs the row is right."""
    grouped = network(
        """Input           in0 0 1 in0 0=16 1=16 2=3
        Convolution        c0 1 1 in0 b1 0=32 1=1 6=96
        ConvolutionDepthWise g 1 1 b1 b2 0=32 1=3 4=1 5=1 6=2304 7=4
        Pooling            p  1 1 b2 out0 0=1 4=1"""
    )
    ncnnfile.save(grouped, tmp_path / "model.param")
    rows = {
        v.precision: v for v in pipeline.run(changed(recipe, precisions=("fp32", "bf16")), tmp_path / "out").variants
    }
    assert rows["fp32"].status == "ok"
    if rows["bf16"].status == "ok":
        assert rows["bf16"].accuracy is not None
        assert rows["bf16"].accuracy.cosine is not None
        assert rows["bf16"].accuracy.cosine > 0.99
    else:
        assert rows["bf16"].reason.endswith("the first wrong layer is g (ConvolutionDepthWise)")


def test_cpus_for_pinning() -> None:
    clusters = [Cluster("little", [0, 1, 2, 3], [0, 1, 2, 3]), Cluster("big", [4, 5], [4, 5])]
    site = Site(LOCAL, boards.machine(board=Board(clusters=clusters)), "arm")
    found = [site.cluster(name) for name in ("", "all", "big", "3-4")]
    assert found == [(), (), (4, 5), (3, 4)]
    for name in ("middle", "5-6"):
        with pytest.raises(RecipeError, match=rf"local has no {name} cores .*little \(0, 1, 2, 3\), big \(4, 5\)"):
            site.cluster(name)


def test_names_that_are_not_utf8_work_and_are_shown_with_replacement_characters(recipe: Recipe, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 6)
    for old, new in (("00.png", b"caf\xe9.png"), ("01.png", b"\xfftorn.png")):
        os.rename(images / old, os.fsencode(images) + b"/" + new)
    Path(images / os.fsdecode(b"\xfftorn.png")).write_bytes(b"torn")
    labels = b"".join(b"%s 3\n" % os.fsencode(path.name) for path in images.iterdir())
    (tmp_path / "labels.txt").write_bytes(labels)
    out = tmp_path / os.fsdecode(b"out\xe9")
    asked = changed(
        recipe, images=str(images), labels=str(tmp_path / "labels.txt"), eval_images="", precisions=("fp32", "int8"),
        effort="fast",
    )  # fmt: skip
    document = pipeline.run(asked, out)
    assert {v.status for v in document.variants} == {"ok"}
    assert [skipped.name for skipped in document.images.skipped] == ["\ufffdtorn.png"]
    assert any("\ufffdtorn.png" in warning for warning in document.warnings)
    assert "\ufffdtorn.png" in (out / "report.html").read_text("utf-8")
    assert load_run(out) == document
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "stem", ["a b", "-o", "..net", "m$(touch X)", "café", "m;rm", "x" * 240, "---", "m\nn", 'q"q', "\udcff"]
)
def test_a_run_makes_names_that_its_record_may_hold(stem: str) -> None:
    name = file_safe(stem)
    assert PLAIN_NAME.fullmatch(name)
    assert len(name) <= 100


def test_two_devices_whose_names_become_one_file_name(recipe: Recipe, tmp_path: Path) -> None:
    """A device may have any name. Its mixed model is named after it. The target on the card is that of its CPU."""
    sites = [Site(LOCAL, boards.machine(), "arm", f"@{name}") for name in ("a/b", "a:b", "a@b")]
    plans = {site: cast(Any, SimpleNamespace(graph=mixed()[1])) for site in sites}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = variants.write_models(changed(recipe, precisions=("mixed",)), small(), {}, plans, "m", tmp_path)
        read = [nk.Artifact.load(model.param) for model in models.values() if model.param]
    names = sorted(model.param.name for model in read if model.param)
    assert names == ["m-mixed-a-b-2.param", "m-mixed-a-b-3.param", "m-mixed-a-b.param"]
    assert all(PLAIN_NAME.fullmatch(name) for name in names)
    assert {(model.precision, model.target) for model in read} == {("mixed", "arm")}


def test_a_card_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its card cannot be written: 'a/b' has characters other than"):
        nk.Artifact.made(small(), "fp32", target="a/b").save(tmp_path / "m.param")
    assert not (tmp_path / "m.json").exists()
    nk.Artifact.made(small(), "fp32", ncnn="1.0.20261020+cpu").save(tmp_path / "m.param")
    assert nk.Artifact.load(tmp_path / "m.param").ncnn == "1.0.20261020+cpu"


def test_nan_in_a_variants_outputs_is_a_crash_with_a_reason(recipe: Recipe, tmp_path: Path) -> None:
    """fp16 overflows on some devices. The figures of the other variants are still valid."""
    np.save(tmp_path / "nan.npy", np.full((2, 10), np.nan, np.float32))
    spec = variants.VariantSpec("fp16-cpu", "fp16", "cpu", 1, Site(LOCAL, look_at(), "x86"), None)
    result = VariantResult(spec.name, outputs={"out0": str(tmp_path / "nan.npy")})
    reference = keep_outputs(["out0"], zip(samples(2, (10,))), tmp_path / "reference")
    row = variants.variant_record(spec, result, reference, None, None, [])
    assert (row.status, row.accuracy) == ("crashed", None)
    assert "NaN" in row.reason


def test_a_network_without_int8_layers_skips_that_row(recipe: Recipe, tmp_path: Path) -> None:
    ncnnfile.save(network("ReLU r 1 1 in0 out0"), tmp_path / "model.param")
    np.save(tmp_path / "samples.npy", samples(10, (4, 5, 6)))
    document = pipeline.run(recipe, tmp_path / "out")
    row = document.variants[3]
    assert (row.name, row.status) == ("int8-cpu", "skipped")
    assert "no convolution or inner product" in row.reason
    assert (row.files, row.latency_ms, row.accuracy) == (None, None, None)


def test_bench_times_a_model_without_images(recipe: Recipe) -> None:
    (row,) = variants.bench(Path(recipe.model), backends=["cpu"], precisions=["fp32"], seconds=0.1)
    assert (row.status, row.accuracy) == ("ok", None)
    assert row.latency_ms is not None
    assert 0 < row.latency_ms.min <= row.latency_ms.median <= row.latency_ms.p90
    assert row.latency_ms.samples >= 5


# -------------------------------------------------------------------------------------------------- real networks


def on_the_photographs(model: str, **fields: Any) -> Recipe:
    calibration, evaluation = (str(DATA / "images" / name) for name in ("calibration", "evaluation"))
    return Recipe(model, images=calibration, eval_images=evaluation, rounds=2, **fields)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.vulkan
def test_a_whole_run_of_the_demo_network(tmp_path: Path) -> None:
    document = pipeline.run(on_the_photographs(str(DATA / "efficientnet-lite0.onnx"), seconds=0.3), tmp_path / "out")
    check_whole_way(document)
    rows = {v.name: v.accuracy for v in document.variants}
    assert rows["int8-cpu"] is not None
    assert (rows["int8-cpu"].cosine or 0) > 0.99
    (guess,) = document.top5
    assert guess.recommended[0].label == guess.reference[0].label
    assert load_run(tmp_path / "out") == document


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.torch
@pytest.mark.vulkan
def test_a_whole_run_of_resnet18(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    document = pipeline.run(on_the_photographs("torchvision:resnet18", seconds=0.5, weights="none"), tmp_path / "out")
    # With random weights, int8 has a low SQNR. Batch-norm statistics of real images do not allow more.
    check_whole_way(document, least_int8=0.9)
    assert document.reference.engine == "torch"
    assert document.preprocess is not None
    assert "torchvision's preset" in document.preprocess_origin


def check_whole_way(document: Run, least_int8: float = 0.95) -> None:
    """Check that fp32 equals the original, that every precision has a row on CPU and Vulkan, and that no row claims a
    GPU.
    """
    rows = {v.name: v for v in document.variants}
    expected = {f"{precision}-{backend}" for precision in PRECISIONS for backend in ("cpu", "vulkan")}
    assert rows.keys() == expected
    assert (document.conversion.cosine or 0) >= 0.99999
    assert (document.conversion.sqnr_db or 0) >= 90
    for name, row in rows.items():
        on_cpu = row.backend == "cpu"
        software = all(device.type == "cpu" for device in document.environment.machine.vulkan)
        if name == "mixed-vulkan":
            assert row.status == "skipped"
            continue
        assert row.status == ("ok" if on_cpu or not software else "fallback"), (name, row.reason)
        assert row.accuracy is not None
        assert (row.accuracy.cosine or 0) >= {
            "fp32": 0.99999,
            "fp16": 0.998,
            "bf16": 0.99,
            "int8": least_int8,
            "mixed": 0.97,
        }[row.precision]
    assert (rows["int8-cpu"].size_bytes or math.inf) < 0.3 * (rows["fp32-cpu"].size_bytes or 0)
    assert rows[document.recommended or ""].status == "ok"


def test_an_unread_blob_is_not_an_output_of_the_original(recipe: Recipe, tmp_path: Path) -> None:
    """ncnn treats it as an output: half of a chunk that the network does not use."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Split", ["y", "sizes"], ["used", "unused"], axis=1),
        helper.make_node("Relu", ["used"], ["z"]),
    ]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([4, 4]), "sizes")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 16, 16]) for n, c in (("x", 3), ("z", 4))]
    model = helper.make_model(
        helper.make_graph(nodes, "half", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    checker.check_model(model)
    save(model, str(tmp_path / "half.onnx"))
    document = pipeline.run(changed(recipe, model=str(tmp_path / "half.onnx")), tmp_path / "out")
    assert (document.conversion.cosine or 0) > 0.99999
    assert {v.status for v in document.variants} == {"ok"}
    assert [tensor.name for tensor in document.model.outputs] == ["z"]


def test_single_steps_take_the_preprocessing_from_the_run_that_made_the_model(recipe: Recipe, tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 10)
    asked = changed(recipe, images=str(images), preprocess={"mean": 0.25, "std": 0.5}, precisions=("fp32",))
    pipeline.run(asked, tmp_path / "out")
    step = Recipe(str(tmp_path / "out/model-fp32.param"), images=str(images))
    _, samples_of_step, said = open_with_images(step)
    assert "its card" in said[0]
    fresh = nk.open_images(images, nk.Preprocess(resize=(16, 16), mean=(0.25,), std=(0.5,)), pipeline_inputs(recipe))
    assert np.array_equal(samples_of_step[0][0], fresh[0][0])
    (tmp_path / "out/other.param").write_bytes((tmp_path / "out/model-fp32.param").read_bytes())
    (tmp_path / "out/other.bin").write_bytes((tmp_path / "out/model-fp32.bin").read_bytes())
    _, _, said = open_with_images(changed(step, model=str(tmp_path / "out/other.param")))
    assert said[0] == f"preprocessing: {GUESS}"


def test_a_run_among_the_users_files_leaves_them(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "model-int8.param").write_text("mine")
    (tmp_path / "recipe.toml").write_text("mine")
    (tmp_path / "pnnx.log").write_text("mine")
    told: list[str] = []
    for name in ("recipe.toml", "model-int8.param"):
        with pytest.raises(StorageError, match=f"contains {name}, which ncnnkit did not write"):
            pipeline.run(recipe, tmp_path, lambda position, done, total: told.append(position.stage))
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert "convert" not in told, "it is said before the work"
    (tmp_path / "notes.log").write_text("mine")
    short = changed(recipe, precisions=("fp32",))
    for precisions in (("fp32", "fp16"), ("fp32",)):
        pipeline.run(changed(short, precisions=precisions), tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    made = {
        "model-fp32.param",
        "model-fp32.bin",
        "model-fp32.json",
        "run.json",
        "report.html",
        "recipe.toml",
        "examples.npz",
    }
    assert left == made | {"model.param", "model.bin", "samples.npy", "notes.log", "pnnx.log"}
    with pytest.raises(StorageError, match=r"model-fp32\.param is an input of this run"):
        pipeline.run(changed(short, model=str(tmp_path / "model-fp32.param")), tmp_path)


def test_an_int8_model_is_not_an_original(recipe: Recipe, tmp_path: Path) -> None:
    ncnnfile.save(nk.quantize(small(), nk.calibrate(small(), samples(4))), tmp_path / "int8.param")
    with pytest.raises(ModelError, match="is an int8 model already"):
        pipeline.run(changed(recipe, model=str(tmp_path / "int8.param")), tmp_path / "out")
    with pytest.raises(ModelError, match=r"cannot run in fp32 \(it runs in int8; "):
        variants.bench(tmp_path / "int8.param", precisions=["fp32"])
    with pytest.raises(ModelError, match=r"cannot run in int8 \(it runs in fp32, fp16, bf16; "):
        variants.bench(Path(recipe.model), precisions=["int8"])


def test_labels_are_read_before_the_work(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("nonsense")
    told: list[str] = []
    with pytest.raises(ImageError, match=r"labels\.txt"):
        pipeline.run(
            changed(recipe, labels=str(tmp_path / "labels.txt")), tmp_path / "out", lambda at, *_: told.append(at.stage)
        )
    assert "calibrate" not in told


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [
        (4, [0, 4], r"class 4 is given, but the network has 4"),
        (0, [0, 1], "the task tensor has no figures against labels"),
    ],
)
def test_labels_the_outputs_cannot_be_compared_with(classes: int, labels: list[int], said: str) -> None:
    task = Classification(((classes,),)) if classes else Tensors()
    assert truths(None, task) is None
    with pytest.raises(ImageError, match=said):
        truths(Labels("classes", labels, "labels.txt"), task)


def test_the_report_mentions_a_missing_original(recipe: Recipe, tmp_path: Path) -> None:
    document = pipeline.run(changed(recipe, precisions=("fp32",)), tmp_path / "out")
    assert any("the original is unknown" in warning for warning in document.warnings)
