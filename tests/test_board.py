"""Whole runs on the emulated board, over SSH, with Arm's kernels; and failures of boards, which are provoked."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_interrupts
from conftest import BOARD
from networks import job_variant, mixed, network, samples, small
from numpy.typing import NDArray
from test_engines import inputs_of, write_network

import ncnnkit as nk
from ncnnkit import pipeline
from ncnnkit.comparison import accuracy
from ncnnkit.device import Device, open_device
from ncnnkit.doctor import examine_device
from ncnnkit.errors import DeviceError
from ncnnkit.model.graph import Graph
from ncnnkit.onboard.protocol import MeasureJob
from ncnnkit.recipe import Recipe
from ncnnkit.record.variant import EMULATED
from ncnnkit.samples.stream import in_memory

pytestmark = [pytest.mark.board, pytest.mark.slow]

Array = NDArray[Any]

DATA = Path(nk.__file__).parent / "data"
MODEL = DATA / "efficientnet-lite0.onnx"
SCRIPT = Path(__file__).parent.parent / "scripts" / "emulated-board"
IMAGES = 6


def on_board(command: str) -> subprocess.CompletedProcess[bytes]:
    line = ["ssh", "-o", "BatchMode=yes", BOARD, command]
    return subprocess.run(line, check=False, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with open_device(f"ssh://{BOARD}") as found:
        yield found


def outputs_there(device: Device, graph: Graph, precision: str, inputs: Array, folder: Path) -> Array:
    """A graph's outputs on a device, (N, …)."""
    param, array = folder / f"{precision}.param", folder / "inputs.npy"
    nk.save(graph, param)
    np.save(array, inputs)
    variant = job_variant(param, precision)
    job = MeasureJob([variant], [str(array)], str(folder), rounds=0, seconds=0.0, slow_seconds=0.0)
    (row,) = device.run_job(job).variants
    assert row.status == "ok", row.reason
    (path,) = row.outputs.values()
    return np.asarray(np.load(path))


def sqnr(outputs: Array, reference: Array) -> float:
    found = accuracy.sqnr_db(outputs, reference)
    return np.inf if found is None else found


def outputs_here(graph: Graph, inputs: Array) -> Array:
    with nk.Session(graph) as net:
        return np.stack([net.blobs(sample, names=net.outputs)[0] for sample in inputs])


# -------------------------------------------------------------------------------------------------- the whole job


def test_the_whole_job(tmp_path: Path) -> None:
    """From the network to a report, without installing anything on the board by hand."""
    few = tmp_path / "evaluation"
    few.mkdir()
    for path in sorted((DATA / "images" / "evaluation").iterdir())[:2]:
        (few / path.name).symlink_to(path)
    recipe = Recipe(
        str(MODEL), images=str(DATA / "images" / "calibration"), eval_images=str(few), on=(f"ssh://{BOARD}",),
        backends=("cpu",), effort="fast",
    )  # fmt: skip
    run = pipeline.run(recipe, tmp_path / "out")
    rows = {str(variant.precision): variant for variant in run.variants}
    least = {"fp32": 100.0, "fp16": 30.0, "bf16": 25.0, "int8": 15.0}
    for precision, sqnr in least.items():
        row = rows[precision]
        assert (row.status, row.device) == ("ok", f"ssh://{BOARD}")
        assert row.accuracy is not None
        assert row.accuracy.sqnr_db is not None
        assert row.accuracy.sqnr_db > sqnr
        assert EMULATED in row.notes
    assert (rows["mixed"].status, run.recommended) == ("skipped", None)
    (device,) = run.devices
    assert (device.target, device.machine.board.emulated) == ("arm-dotprod", True)
    assert any(EMULATED in warning for warning in run.warnings)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "is emulated: timings are not real" in report
    assert "Cortex-A76" in report


def test_other_engines_run_there(tmp_path: Path) -> None:
    """Their wheels are copied to the board like ncnn's.

    Their errors are valid; timings of an emulated board are not.
    """
    write_network(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", inputs_of(10))
    recipe = Recipe(
        str(tmp_path / "m.onnx"), images=str(tmp_path / "x.npy"), on=(f"ssh://{BOARD}",), backends=("cpu",),
        precisions=("fp32", "int8"), effort="fast", engines=("onnxruntime", "mnn"),
    )  # fmt: skip
    run = pipeline.run(recipe, tmp_path / "out")
    rows = {row.name: row for row in run.variants if row.engine != "ncnn"}
    least = {"fp32": 80.0, "int8": 12.0}
    assert len(rows) == 4
    for row in rows.values():
        assert (row.status, row.reason) == ("ok", "")
        assert row.accuracy is not None
        assert row.accuracy.sqnr_db is None or row.accuracy.sqnr_db > least[row.precision]
        assert EMULATED in row.notes
    assert run.engines_compared == []


@pytest.mark.parametrize("target", ["arm-dotprod", "arm"])
def test_int8_has_the_same_error_on_the_board_and_here(device: Device, target: str, tmp_path: Path) -> None:
    """The host predicts the error on the board within half a decibel, so a model that is quantised here fits there."""
    graph = nk.optimize(nk.convert(str(MODEL))).graph
    spec = nk.InputSpec("in0", (3, 224, 224))
    preprocess = nk.preset("efficientnet-lite0")
    (calibration,) = in_memory(nk.open_images(DATA / "images" / "calibration", preprocess, [spec]))
    (inputs,) = in_memory(nk.open_images(DATA / "images" / "evaluation", preprocess, [spec]).subset(range(IMAGES)))
    int8 = nk.quantize(graph, [calibration], target=target, effort="fast")
    assert_as_predicted(device, graph, int8, inputs, tmp_path)


CONVOLUTIONS = """
    Input in0 0 1 in0 0=20 1=20 2=16
    Convolution c0 1 1 in0 a 0=32 1=3 4=1 5=1 6=4608 9=1
    Convolution c1 1 1 a b 0=32 1=3 4=1 5=1 6=9216 9=1
    Convolution c2 1 1 b out0 0=10 1=3 4=1 5=1 6=2880
"""
"""ncnn runs all these layers with Winograd if it may and if the CPU has no dot product."""


@pytest.mark.parametrize(("method", "largest"), [("mse", 127), ("kl", 31)], ids=["8 bits", "6 bits"])
def test_weights_of_6_and_8_bits(device: Device, method: str, largest: int, tmp_path: Path) -> None:
    graph = network(CONVOLUTIONS)
    inputs = samples(20, graph.input_shapes()[0])
    int8 = nk.quantize(graph, [inputs], target="arm", method=method, effort="fast")
    found = max(int(np.abs(np.asarray(int8.layer(f"c{i}").weights["weight"], np.int32)).max()) for i in range(3))
    assert found == largest
    assert_as_predicted(device, graph, int8, inputs[:IMAGES], tmp_path)


def assert_as_predicted(device: Device, graph: Graph, int8: Graph, inputs: Array, folder: Path) -> None:
    reference = outputs_here(graph, inputs)
    there = sqnr(outputs_there(device, int8, "int8", inputs, folder), reference)
    here = sqnr(outputs_here(int8, inputs), reference)
    print(f"SQNR {there:.2f} dB on the board, {here:.2f} dB predicted")
    assert abs(there - here) < 0.5


@pytest.mark.parametrize(("precision", "least"), [("fp32", 100.0), ("fp16", 40.0), ("bf16", 25.0)])
def test_floating_point_there(device: Device, precision: str, least: float, tmp_path: Path) -> None:
    graph, inputs = small(), samples(3)
    there = outputs_there(device, graph, precision, inputs, tmp_path)
    assert sqnr(there, outputs_here(graph, inputs)) > least


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_a_mixed_model_there(device: Device, storage: str, tmp_path: Path) -> None:
    """The Cortex-A76 outputs fp16 and bf16: int8 layers are between layers in each of them."""
    exact, made = mixed(storage, fp16=True)
    inputs = samples(3, (16, 16, 16))
    there = outputs_there(device, made, "mixed", inputs, tmp_path)
    assert sqnr(there, outputs_here(exact, inputs)) > 25


def test_doctor_describes_the_board() -> None:
    found = {finding.subject: finding.text for finding in examine_device(f"ssh://{BOARD}")}
    assert found["all cores"].startswith("Cortex-A76")
    assert found[f"ssh://{BOARD}"] == EMULATED
    assert "int8-dot-product" in found["CPU"]
    assert "no device" in found["Vulkan"]


# --------------------------------------------------------------------------------------------------------- faults


def job(folder: Path, rounds: int = 3, seconds: float = 1.0) -> MeasureJob:
    param, array = folder / "it's a $(model).param", folder / "in put.npy"
    nk.save(small(), param)
    np.save(array, samples(2))
    variant = job_variant(param, "fp32", "fp32-cpu")
    return MeasureJob([variant], [str(array)], str(folder), rounds, seconds, slow_seconds=1.0)


def test_sshd_is_restarted_in_the_middle(device: Device, tmp_path: Path) -> None:
    """All connections end. The measurement goes on, and its result arrives."""
    restarted: list[Any] = []

    def restart(message: Any) -> None:
        if not restarted:
            restarted.append(message)
            subprocess.run([SCRIPT, "restart"], check=True, capture_output=True, timeout=120)

    (row,) = device.run_job(job(tmp_path, seconds=6.0), restart).variants
    assert restarted
    assert (row.status, len(row.samples) > 3) == ("ok", True)


def test_the_worker_is_killed_there(device: Device, tmp_path: Path) -> None:
    def kill(message: Any) -> None:
        if message.stage == "time":
            on_board("pkill -KILL -f 'program-.* job job.json'")

    (row,) = device.run_job(job(tmp_path, rounds=100, seconds=30.0), kill).variants
    assert row.status == "crashed"
    assert "the process that measured it died" in row.reason
    assert all(Path(path).is_file() for path in row.outputs.values()), "what it had made is kept"


def test_ncnn_is_killed_there(device: Device, tmp_path: Path) -> None:
    """As if the kernel killed it for lack of memory. The row of the variant says so, and the job goes on."""
    rows = job(tmp_path, rounds=4, seconds=4.0)
    second = job_variant(Path(rows.variants[0].model.files[0]), "bf16", "bf16-cpu")
    killed: list[Any] = []

    def kill(message: Any) -> None:
        if message.stage == "time" and not killed:
            killed.append(message)
            on_board("pkill -KILL -o -f 'program-.* serve'")

    first, other = device.run_job(replace(rows, variants=[*rows.variants, second]), kill).variants
    assert (first.status, other.status) == ("crashed", "ok")
    assert "killed during 'time', probably out of memory" in first.reason


def test_an_interrupt_ends_everything_there(tmp_path: Path) -> None:
    nk.save(small(), tmp_path / "m.param")
    np.save(tmp_path / "x.npy", samples(500))
    arguments = f"run m.param --images x.npy --precision fp32 --backend cpu --on ssh://{BOARD} --out o"
    process = test_interrupts.begin(tmp_path, arguments, "evaluate", test_interrupts.TELLING)
    assert on_board("pgrep -f 'program-[0-9a-f]* job'").stdout
    test_interrupts.assert_it_ends(process, signal.SIGINT)
    while on_board("pgrep -f 'program-[0-9a-f]* (job|serve)'").stdout:
        time.sleep(0.1)


def test_its_disk_is_full(tmp_path: Path) -> None:
    with open_device(f"ssh://small@{BOARD}") as small_one:
        with pytest.raises(DeviceError, match="its disk is full") as error:
            small_one.run_job(job(tmp_path))
        small_one.clean()
    assert "devices clean" in error.value.hint


def test_it_has_no_python(tmp_path: Path) -> None:
    with open_device(f"ssh://bare@{BOARD}") as bare, pytest.raises(DeviceError, match=r"no Python 3\.9 or newer"):
        bare.run_job(job(tmp_path))


def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    with open_device("ssh://127.0.0.1:9") as gone, pytest.raises(DeviceError, match="Connection refused"):
        gone.run_job(job(tmp_path))
