"""Profiles: layer times add up to the network, with the precision and the processor of each layer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from networks import network, samples, small

import ncnnkit
from ncnnkit.device.looking import look_at
from ncnnkit.device.session import Session
from ncnnkit.errors import RuntimeFailure
from ncnnkit.measure.profiles import profile, tapped
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.onboard.child import WorkerError
from ncnnkit.onboard.jobs import run_job
from ncnnkit.onboard.protocol import ProfileJob, ProfileResult

LITE0 = Path(ncnnkit.__file__).parent / "data" / "efficientnet-lite0.onnx"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ncnnfile.save(small(), tmp_path / "m.param")
    return tmp_path / "m.param"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Give our processes priority if permitted, because on a busy machine they are disturbed every 10 ms."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_every_layer_that_computes_is_timed(model: Path) -> None:
    found = profile(model, run_job, threads=1, repeats=5)
    assert [layer.name for layer in found.layers] == ["c1", "d1", "c2", "c3", "add", "gap", "fc"]
    assert {(layer.bits, layer.precision, layer.runs_on) for layer in found.layers} == {(32, "fp32", "CPU")}
    assert all(layer.ms > 0 for layer in found.layers)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1.0)
    assert found.sum <= found.measuring * 1.5
    assert (found.threads, found.device) == (1, None)
    assert "add up to" in found.how
    off = abs(found.sum / found.whole - 1) > 0.1
    assert ["differs from the whole" in note for note in found.notes] == [True] * off


@pytest.fixture(scope="module")
def lite0() -> Graph:
    return ncnnkit.optimize(ncnnkit.convert(str(LITE0))).graph


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_layers_add_up_to_the_network(tmp_path: Path, lite0: Graph, precision: str) -> None:
    graph = lite0
    if precision == "int8":
        stats = ncnnkit.calibrate(lite0, samples(2, (3, 224, 224)))
        graph = ncnnkit.quantize(lite0, stats, target="x86")
    ncnnfile.save(graph, tmp_path / "m.param")
    off = []
    with undisturbed():
        for _ in range(5):
            found = profile(tmp_path / "m.param", run_job, threads=1, repeats=40)
            off.append(abs(found.sum / found.whole - 1))
            if off[-1] < 0.1:
                break
    assert min(off) < 0.1, f"off by {off} in five tries"
    assert found.measuring < 1.3 * found.whole
    computed = {layer.precision for layer in found.layers if layer.type == "Convolution"}
    assert computed == {precision}


@pytest.mark.slow
@pytest.mark.vulkan
def test_on_vulkan_they_add_up_too(tmp_path: Path, lite0: Graph) -> None:
    """The time of submission and download is subtracted.

    Otherwise the layers would take longer than the whole on a GPU.
    """
    ncnnfile.save(lite0, tmp_path / "m.param")
    off = []
    with undisturbed():
        for _ in range(5):
            found = profile(tmp_path / "m.param", run_job, backend="vulkan", repeats=6)
            off.append(abs(found.sum / found.whole - 1))
            if off[-1] < 0.1:
                break
    assert min(off) < 0.1, f"off by {off} in five tries"
    assert {layer.runs_on for layer in found.layers} == {"Vulkan"}


def test_the_output_of_a_layer_shows_its_precision(model: Path) -> None:
    ncnnfile.save(ncnnkit.quantize(small(), ncnnkit.calibrate(small(), samples(2)), target="x86"), model)
    found = {layer.name: layer for layer in profile(model, run_job, repeats=3).layers}
    assert {name: found[name].precision for name in ("c1", "c2", "fc")} == {"c1": "int8", "c2": "int8", "fc": "int8"}
    assert found["c1"].bits == 8, "hands int8 on to d1"
    assert found["add"].precision != "int8"


@pytest.mark.skipif(look_at().machine != "x86_64", reason="which layers have bf16 differs")
def test_layers_without_bf16_are_reported_as_fp32(model: Path) -> None:
    found = {la.name: la.precision for la in profile(model, run_job, precision="bf16", repeats=3).layers}
    assert (found["c1"], found["d1"]) == ("bf16", "fp32")


def test_taps_do_not_change_the_outputs() -> None:
    graph = small()
    layers = [layer for layer in graph.layers if layer.op.computes]
    run, taps = tapped(graph, layers)
    run.verify()
    assert len(taps) == len(layers) == 7
    x = samples(1)[0]
    with Session(graph, threads=1) as plain, Session(run, threads=1) as split:
        for name, tap in zip(("b1", "b5", "out0"), (taps[0], taps[4], taps[6]), strict=True):
            (expected,) = plain.blobs(x, names=[name])
            for blob in split.blobs(x, names=[name, *tap]):
                np.testing.assert_array_equal(blob, expected)


@pytest.mark.vulkan
def test_on_vulkan_each_layer_is_placed(tmp_path: Path) -> None:
    graph = network("Convolution c 1 1 in0 b0 0=8 1=3 4=1 5=1 6=288\nPooling p 1 1 b0 b1 0=1 4=1\nExp e 1 1 b1 out0")
    graph.layer("p").params["featmask"] = 16  # no Vulkan
    ncnnfile.save(graph, tmp_path / "m.param")
    found = profile(tmp_path / "m.param", run_job, backend="vulkan", repeats=3)
    placed = {layer.name: layer.runs_on for layer in found.layers}
    assert (placed["c"], placed["p"]) == ("Vulkan", "CPU")
    assert any("p" in note and "although Vulkan was requested" in note for note in found.notes)
    assert found.device is not None
    if found.device.type == "cpu":
        assert any("in software" in note for note in found.notes)
    assert {layer.bits for layer in found.layers} == {None}, "they cannot be seen there"


def test_a_missing_vulkan_device_is_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent")
    found = profile(model, run_job, backend="vulkan", repeats=3)
    assert found.notes[0] == "no Vulkan device: ncnn ran all layers on the CPU"
    assert {(layer.runs_on, layer.precision) for layer in found.layers} == {("CPU", "fp32")}


def test_a_failed_job_gives_the_reason(model: Path) -> None:
    def refuse(job: ProfileJob) -> ProfileResult:
        raise WorkerError("signal 11 (SIGSEGV) during 'load'", crashed=True)

    with pytest.raises(RuntimeFailure, match="timing layers: ncnn died: signal 11"):
        profile(model, refuse)
