"""A network with an output of another shape for each sample: a detector that selects its boxes itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncnn_library import build
from ncnn_library import run as run_program
from networks import network
from numpy.typing import NDArray

from ncnnkit.app import make_app
from ncnnkit.artifact import Artifact
from ncnnkit.comparison.judge import Judge, judged_blobs
from ncnnkit.comparison.layers import compare_models, layer_errors
from ncnnkit.device.session import Session
from ncnnkit.measure.profiles import profile
from ncnnkit.measure.variants import bench
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.model.precision import is_int8
from ncnnkit.onboard.jobs import run_job
from ncnnkit.pipeline import run
from ncnnkit.quantization import quantize
from ncnnkit.recipe import Recipe
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.tasks.detection import Detection
from ncnnkit.tasks.ncnn_heads import detection_layer


def detector() -> Graph:
    """A detector of two classes with non-maximum suppression, for inputs of 3x16x16."""
    text = """
        Input                 in0 0 1 in0 0=16 1=16 2=3
        Convolution           c1  1 1 in0 b1 0=8 1=3 3=2 4=1 5=1 6=216 9=1
        Convolution           c2  1 1 b1 b2 0=21 1=1 6=168
        Yolov3DetectionOutput d 1 1 b2 out0 0=2 1=3 2=0.52 3=0.3 4=2.,2.,4.,4.,6.,6. 5=0.,1.,2. -23306=1,2.
    """
    return network(text, 0, **{"c1.bias": 0.0, "c2.bias": 0.0})


def inputs(count: int = 24) -> NDArray[np.float32]:
    """Samples of all contrasts. In those with the lowest contrast, nothing is detected."""
    noise = np.random.default_rng(0).standard_normal((count, 3, 16, 16), np.float32)
    return noise * np.linspace(0, 3, count, dtype=np.float32)[:, None, None, None]


def counts(graph: Graph) -> list[int]:
    with Session(graph, precision="fp32") as net:
        return [len(net.blobs(x, names=["out0"])[0]) for x in inputs()]


def test_the_number_of_detections_depends_on_the_sample() -> None:
    found = counts(detector())
    assert found[0] == 0
    assert len(set(found)) > 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of the detector, and its folder."""
    home = tmp_path_factory.mktemp("detections")
    ncnnfile.save(detector(), home / "net.param")
    np.save(home / "x.npy", inputs())
    recipe = Recipe(
        str(home / "net.param"), images=str(home / "x.npy"), backends=("cpu",), effort="fast", seconds=0.05, rounds=1,
        precisions=("fp32", "fp16", "bf16", "int8", "mixed"), threads=1,
    )  # fmt: skip
    return home / "out", run(recipe, home / "out")


def test_a_run_measures_all_variants(made: tuple[Path, Any]) -> None:
    out, document = made
    assert document.model.outputs[0].shape in ((-1, 6), [-1, 6])
    rows = {variant.name: variant for variant in document.variants}
    assert rows["fp32-cpu"].status == "ok"
    assert rows["fp32-cpu"].accuracy.mse == 0
    assert not rows["fp32-cpu"].notes
    for row in rows.values():
        assert row.accuracy is not None, row.reason
        (output,) = row.accuracy.outputs
        said = f"has another shape than the reference on {output.other_shape} of {row.accuracy.images} samples"
        assert any(said in note for note in row.notes) == (output.other_shape > 0)
        assert (row.status == "crashed") == (output.other_shape > row.accuracy.images / 2), row.reason
    assert any(row.accuracy.outputs[0].other_shape for row in rows.values())
    assert "has another shape than the reference" in (out / "report.html").read_text()


def test_the_app_in_python_detects_the_same_and_nothing(made: tuple[Path, Any], tmp_path: Path) -> None:
    make_app(made[0], tmp_path / "app", lang="python", variant="fp32-cpu")
    expected = counts(detector())
    for number in (0, 23):
        np.save(tmp_path / "x.npy", inputs()[number])
        files = ["models/net-fp32.param", "models/net-fp32.bin", str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
        words = [sys.executable, "infer.py", *files, "--json"]
        done = subprocess.run(words, cwd=tmp_path / "app", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["boxes"]) == expected[number]
        assert np.load(tmp_path / "y.npy").shape == (expected[number], 6)


@pytest.mark.app
@pytest.mark.slow  # compiles a program, with sanitizers
@pytest.mark.timeout(300)
def test_the_app_in_cpp_detects_the_same_and_nothing(made: tuple[Path, Any], tmp_path: Path) -> None:
    make_app(made[0], tmp_path / "app", variant="fp32-cpu")
    flags = "-O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
    build(tmp_path / "app", tmp_path / "build", "-DCMAKE_BUILD_TYPE=", f"-DCMAKE_CXX_FLAGS={flags}")
    expected = counts(detector())
    for number in (0, 23):
        np.save(tmp_path / "x.npy", inputs()[number])
        model = [tmp_path / f"app/models/net-fp32.{end}" for end in ("param", "bin")]
        said = run_program(
            tmp_path / "build/infer", *model, tmp_path / "x.npy", tmp_path / "y.npy", "--loop=2", "--json"
        )
        assert len(json.loads(said)["boxes"]) == expected[number]
        assert np.load(tmp_path / "y.npy").shape == (expected[number], 6)


def test_versions_are_compared_and_judged() -> None:
    graph, samples = detector(), ArraySamples((inputs(),))
    coarse = graph.copy()
    coarse.layer("c2").weights["weight"] = coarse.layer("c2").array("weight") * np.float32(0.9)
    expected = sum(a != b for a, b in zip(counts(graph), counts(coarse)))
    assert 0 < expected < 24
    with Judge(graph, samples, threads=1) as judge:
        right, wrong = judge.here([graph, coarse])
    assert (right.relative, right.other_shape, wrong.other_shape) == (0, [0], [0]), "before boxes are chosen"
    assert wrong.relative == pytest.approx(0.01, rel=0.01), "a tenth of the signal"
    found = compare_models(Artifact.of(graph), Artifact.of(coarse), samples, layers=True)
    assert found.accuracy.other_shapes() == [
        f"output 'out0' has another shape than the reference on {expected} of 24 samples"
    ]
    assert [layer.name for layer in found.layers] == ["c1", "c2", "d"]
    assert len(layer_errors(graph, coarse, samples, int8_only=False)) == 3


def test_it_is_timed_and_profiled_where_it_detects_nothing(tmp_path: Path) -> None:
    graph = detector()
    graph.layer("d").params["confidence_threshold"] = 0.999
    (row,) = bench(graph, backends=["cpu"], precisions=["fp32"], seconds=0.05)
    assert (row.status, row.latency_ms is None) == ("ok", False), row.reason
    assert [layer.name for layer in profile(graph, run_job, threads=1, repeats=3).layers] == ["c1", "c2", "d"]


def test_it_is_quantised_and_planned_by_its_detections() -> None:
    made = quantize(detector(), inputs(), effort="default")
    assert sum(is_int8(layer) for layer in made.layers) == 2


def test_it_is_judged_before_boxes_are_chosen() -> None:
    """Scores that change by a hundredth are little noise, but they add and remove boxes, so the rows would be all
    wrong.
    """
    graph = detector()
    graph.set_input_shapes([(3, 16, 16)])
    changed, silent_one = graph.copy(), graph.copy()
    for version, factor in ((changed, 1.01), (silent_one, 0.0)):
        weight = version.layer("c2").array("weight").copy()
        weight.reshape(3, 7, -1)[:, 4] *= factor  # of the objectness
        version.layer("c2").weights["weight"] = weight
    found = detection_layer(graph, (16, 16))
    assert found is not None
    assert found.after is not None
    assert judged_blobs(graph) == ["b2"]
    assert counts(changed) != counts(graph)
    with Judge(graph, ArraySamples((inputs(),)), Detection(decoder=found.after), threads=1) as judge:
        same, little, nothing = judge.here([graph, changed, silent_one], figures=True)
    assert (same.relative, same.figures()["kept"], same.figures()["new"]) == (0.0, 1.0, 0.0)
    assert 0 < little.relative < 1e-3
    assert (little.figures()["kept"] or 0) > 0.9
    assert nothing.relative > 0.05
    assert nothing.figures()["kept"] == 0
