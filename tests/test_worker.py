"""The serving process: its protocol, processes that die or hang, and histograms that can be merged."""

from __future__ import annotations

import ast
import io
import os
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, samples, small
from processes import children

from ncnnkit.device.board import PROGRAM
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard import messages
from ncnnkit.onboard.child import Child, WorkerError
from ncnnkit.onboard.machine import driver_version
from ncnnkit.onboard.network import SWITCHES
from ncnnkit.onboard.tally import Tally, stride


@pytest.fixture
def model(tmp_path: Path) -> Path:
    param = tmp_path / "model.param"
    ncnnfile.save(small(), param)
    return param


def load(param: Path, **fields: Any) -> dict[str, Any]:
    files = {"param": str(param), "bin": str(param.with_suffix(".bin"))}
    return {"backend": "cpu", "options": PRECISIONS["fp32"].options, "threads": 1, **files, **fields}


def script(folder: Path, body: str) -> str:
    """A program to run instead of Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


# -------------------------------------------------------------------------------------------------------- protocol


@given(
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4),
    st.lists(st.tuples(st.sampled_from(["float32", "int64", "uint8"]), st.lists(st.integers(0, 4), max_size=3))),
)
@settings(max_examples=50, deadline=None)
def test_messages_arrive_unchanged(message: dict[str, Any], kinds: list[tuple[str, list[int]]]) -> None:
    message.pop("arrays", None)
    arrays = [np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape) for dtype, shape in kinds]
    stream = io.BytesIO()
    messages.send(stream, message, arrays)
    stream.seek(0)
    received = messages.receive(stream.readinto, stream.readline)
    assert received is not None
    assert received[0] == message
    assert [(a.dtype, a.shape) for a in received[1]] == [(a.dtype, a.shape) for a in arrays]
    assert all(np.array_equal(a, b) for a, b in zip(received[1], arrays, strict=True))
    assert messages.receive(stream.readinto, stream.readline) is None


def packages(nodes: Iterable[ast.AST]) -> set[str]:
    """The packages that are imported there by their full names."""
    found = {name.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return found | {(n.module or "").split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}


@pytest.mark.parametrize("path", PROGRAM.values(), ids=PROGRAM)
def test_what_a_board_gets_needs_only_numpy_ncnn_and_the_standard_library(path: Path) -> None:
    """A module of an engine also needs that engine, and userfiles.py Pillow, but only inside their functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    within = [node for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) for node in ast.walk(each)]
    inner = [*within] if path.parent.name == "engines" or path.name == "userfiles.py" else []
    assert packages([n for n in ast.walk(tree) if n not in inner]) - set(sys.stdlib_module_names) <= {"numpy", "ncnn"}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    depth = 2 if path.parent.name == "engines" else 1
    assert {node.level for node in froms} <= set(range(1, depth + 1))
    names = {path.stem for path in PROGRAM.values()}
    assert {(node.module or "").split(".")[0] for node in froms} <= {"", *names, "engines"}


@pytest.mark.parametrize("path", PROGRAM.values(), ids=PROGRAM)
def test_what_a_board_gets_is_written_for_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]


# ------------------------------------------------------------------------------------------------ the child process


def test_a_refused_request_leaves_the_process_usable(model: Path) -> None:
    with Child() as child:
        with pytest.raises(WorkerError, match="could not load") as refused:
            child.ask("load", **load(model.with_name("absent.param")))
        assert not refused.value.crashed
        answer, _ = child.ask("load", **load(model))
        assert (answer.inputs, answer.outputs, answer.device) == (["in0"], ["out0"], None)
        _, (output,) = child.ask("run", [samples(1)[0]])
        assert output.shape == (10,)
        with pytest.raises(WorkerError, match=r"could not compute blob nothing"):
            child.ask("run", [samples(1)[0]], blobs=["nothing"])


@pytest.mark.parametrize(
    ("body", "said", "native"),
    [
        ("kill -SEGV $$", r"signal 11 \(SIGSEGV\) during 'machine'", True),
        ("echo driver said no >&2; exit 3", "exit status 3 during 'machine'; last words: driver said no", False),
        ("kill -KILL $$", "probably out of memory", False),
    ],
)
def test_a_dead_process_is_reported_with_its_cause(tmp_path: Path, body: str, said: str, native: bool) -> None:
    with Child([script(tmp_path, body)]) as child, pytest.raises(WorkerError, match=said) as died:
        child.ask("machine")
    assert died.value.crashed
    assert died.value.native == native


def test_a_hanging_process_is_ended(tmp_path: Path) -> None:
    with Child([script(tmp_path, "sleep 60")]) as child, pytest.raises(WorkerError, match="hung") as late:
        child.ask("machine", timeout=0.2)
    assert late.value.crashed


def test_a_process_that_reads_nothing_is_ended(tmp_path: Path) -> None:
    """The request is larger than a pipe's buffer."""
    with Child([script(tmp_path, "sleep 60")]) as child, pytest.raises(WorkerError, match="hung") as late:
        child.ask("run", [np.zeros(1 << 22, np.float32)], timeout=0.2)
    assert late.value.crashed


SERVE = f"exec {sys.executable} {Path(messages.__file__).parent} serve"
MARKED = r"printf '\036ncnnkit\036\n'; "


@pytest.mark.parametrize("greeting", ["Welcome to rock5b", '{"arrays": []}', "", "x" * 100_000])
def test_text_before_the_mark_is_not_an_answer(tmp_path: Path, greeting: str) -> None:
    with Child([script(tmp_path, f"echo '{greeting}'\n{SERVE}")]) as child:
        assert child.ask("machine")[0].machine.cores >= 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (MARKED + "echo hello; sleep 60", "it sent 'hello"),
        (MARKED + "echo '[1]'; sleep 60", "it sent"),
        (MARKED + """echo '{"arrays": [["O", [1]]]}'; sleep 60""", "it sent"),
        (MARKED + """echo '{"arrays": [["<f4", [-1]]]}'; sleep 60""", "it sent"),
        (MARKED + """echo '{"arrays": 3}'; sleep 60""", "it sent"),
        (MARKED + "yes | tr -d '\\n'", "more than is allowed"),
        ("yes", "more than is allowed"),
    ],
)
def test_a_process_that_breaks_the_protocol_is_ended(tmp_path: Path, body: str, said: str) -> None:
    with Child([script(tmp_path, body)]) as child, pytest.raises(WorkerError, match=said) as broken:
        child.ask("machine")
    assert broken.value.crashed


def test_a_process_that_closes_its_output_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncnnkit.onboard.child.DYING", 0.1)
    body = "exec 1>&-; sleep 60"
    with Child([script(tmp_path, body)]) as child, pytest.raises(WorkerError, match="closed its output"):
        child.ask("machine")


def test_a_refused_load_contains_ncnns_messages(model: Path) -> None:
    model.write_text(model.read_text().replace("Pooling ", "Foo "))
    with Child() as child, pytest.raises(WorkerError) as refused:
        child.ask("load", **load(model))
    assert str(refused.value) == f"could not load {model}: layer Foo not exists or registered"
    assert refused.value.sentence == f"ncnn: {refused.value}"


ORPHANING = """
    import sys
    from ncnnkit.onboard.child import Child
    with Child() as child:
        child.ask("load", param=sys.argv[1], bin=sys.argv[2], backend="cpu", options={}, threads=1)
        child.ask("run", [__import__("numpy").zeros((4, 12, 12), "float32")])
        print(child._process.pid, flush=True)
        child.ask("time", seconds=60, min_samples=1, max_samples=1 << 30)
"""


def ticks(pid: int) -> int:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_a_computing_process_ends_at_once_with_its_parent(model: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(ORPHANING), str(model), str(model.with_suffix(".bin"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watching = int(parent.stdout.readline())
        (worker,) = children(watching)
        ends = [os.pidfd_open(pid) for pid in (watching, worker)]
        before = ticks(worker)
        while ticks(worker) < before + 5:  # it computes
            time.sleep(0.01)
        parent.kill()
        for end in ends:
            assert select.select([end], [], [], 20)[0], "it computes for 60 s"
            os.close(end)


def allowed_cpus(child: Child) -> list[str]:
    """Of each thread of the process, the CPUs it may use."""
    watching = child._process.pid  # the process at work is its child
    (worker,) = children(watching)
    tasks = Path(f"/proc/{worker}/task").iterdir()
    return [re.findall(r"Cpus_allowed_list:\s+(\S+)", (task / "status").read_text())[0] for task in tasks]


def test_a_pinned_process_starts_its_threads_on_its_cpus(model: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    with Child() as child:
        child.ask("load", **load(model, threads=3, cpus=[cpu]))
        child.ask("run", [samples(1)[0]])
        found = allowed_cpus(child)
    assert found.count(str(cpu)) >= 3, "NumPy's own threads were there before"


def test_a_missing_cpu_is_refused(model: Path) -> None:
    with Child() as child, pytest.raises(WorkerError, match=r"cannot pin to the CPUs \[4095\]; the usable CPUs are"):
        child.ask("load", **load(model, cpus=[4095]))


def test_switches_reach_ncnn_after_the_options(model: Path) -> None:
    ncnnfile.save(network("Input in0 0 1 in0 0=24 1=24 2=32\nConvolution c 1 1 in0 out0 0=32 1=3 4=1 6=9216"), model)
    x = samples(1, (32, 24, 24))[0]
    outputs = {}
    with Child() as child:
        for name, switches in {"default": {}, "no winograd": {"winograd": False}, "on": {"winograd": True}}.items():
            child.ask("load", **load(model, switches=switches))
            outputs[name] = child.ask("run", [x])[1][0]
        with pytest.raises(WorkerError, match="no switch 'speed'"):
            child.ask("load", **load(model, switches={"speed": True}))
    assert np.array_equal(outputs["default"], outputs["on"])
    assert not np.array_equal(outputs["default"], outputs["no winograd"])
    assert np.allclose(outputs["default"], outputs["no winograd"], atol=1e-4)


def test_every_switch_is_an_option_of_ncnn() -> None:
    import ncnn

    assert all(isinstance(getattr(ncnn.Option(), option), bool) for option in SWITCHES.values())


def test_without_a_number_of_threads_ncnn_takes_its_own(model: Path) -> None:
    with Child() as child:
        assert child.ask("load", **load(model, threads=0))[0].threads == child.ask("machine")[0].machine.default_threads


def test_a_process_reports_its_board() -> None:
    with Child() as child:
        board = child.ask("machine")[0].machine.board
    cpus = sorted(cpu for cluster in board.clusters for cpu in cluster.cpus)
    assert cpus == sorted(os.sched_getaffinity(0))
    assert board.emulated is False


def test_fp32_is_fp32(model: Path) -> None:
    """ncnn enables fp16 and bf16 by default. If they are disabled, the outputs are those of fp32 arithmetic."""
    outputs = {}
    with Child() as child:
        for precision in ("fp32", "bf16"):
            child.ask("load", **load(model, options=PRECISIONS[precision].options))
            outputs[precision] = child.ask("run", [samples(1)[0]])[1][0]
    graph = small()
    weights = {name: graph.layer(name).array("weight").astype(np.float64) for name in ("c1", "c2", "c3", "d1", "fc")}
    expected = _forward(samples(1)[0].astype(np.float64), weights, graph)
    assert np.abs(outputs["fp32"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(outputs["bf16"] - expected).max() > 1e-4 * np.abs(expected).max()


def _forward(x: Any, weights: dict[str, Any], graph: Any) -> Any:
    def conv(x: Any, name: str, relu: bool) -> Any:
        w, bias = weights[name], graph.layer(name).array("bias") if graph.layer(name).get("bias_term") else 0.0
        pad = w.shape[-1] // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[-2:], axis=(1, 2))
        rule = "chwij,cij->chw" if name == "d1" else "chwij,ocij->ohw"
        y = np.einsum(rule, windows, w.reshape(8, 3, 3) if name == "d1" else w) + np.reshape(bias, (-1, 1, 1))
        return np.maximum(y, 0) if relu else y

    trunk = conv(conv(conv(x, "c1", True), "d1", True), "c2", False)
    pooled = (conv(trunk, "c3", False) + trunk).mean(axis=(1, 2))
    return weights["fc"].reshape(10, 8) @ pooled + graph.layer("fc").array("bias")


# --------------------------------------------------------------------------------------------------------- tallies

values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))


@given(st.lists(values, min_size=1, max_size=5), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_counting_does_not_matter(batches: list[Any], random: Any) -> None:
    """The bins do not depend on the order, so separate counts can be merged exactly."""
    tallies = []
    for _ in range(2):
        tally = Tally(64)
        for batch in batches:
            tally.add(batch)
        tallies.append(tally)
        random.shuffle(batches)
    one, other = tallies
    assert (one.width, one.absmax, one.count) == (other.width, other.absmax, other.count)
    assert np.array_equal(one.histogram, other.histogram)


@given(values)
@settings(max_examples=100, deadline=None)
def test_a_growing_histogram_counts_every_value_in_its_bin(batch: Any) -> None:
    tally = Tally(64)
    tally.add(batch)
    magnitudes = np.abs(batch[batch != 0]).astype(np.float64)
    assert tally.count == len(batch)
    assert tally.absmax == (magnitudes.max() if len(magnitudes) else 0.0)
    if len(magnitudes):
        assert tally.absmax < tally.width * 64
        assert tally.width * 32 <= tally.absmax or tally.width == 2.0**-100
        expected = np.bincount((magnitudes / tally.width).astype(int), minlength=64)
        assert np.array_equal(tally.histogram, expected)


def test_fixed_bins_are_ncnn2tables() -> None:
    """``min(int(|x| / absmax * bins), bins - 1)`` in fp32, zeros left out."""
    batch = np.concatenate([samples(1).reshape(-1), np.zeros(7, np.float32)])
    absmax = float(np.abs(batch).max())
    tally = Tally(2048, absmax / 2048)
    tally.add(batch.reshape(5, -1))
    magnitudes = np.abs(batch[batch != 0])
    index = np.minimum((magnitudes / np.float32(absmax) * np.float32(2048)).astype(int), 2047)
    assert np.array_equal(tally.histogram, np.bincount(index, minlength=2048))


@pytest.mark.parametrize("shape", [(4, 50, 60), (300, 40), (12000,)])
def test_a_sample_is_spread_evenly_and_knows_the_largest_value(shape: tuple[int, ...]) -> None:
    batch = np.abs(samples(1, shape)[0]) + 1.0
    batch.flat[7] = 100.0
    tally = Tally(256, sample=1000)
    tally.add(batch)
    assert (tally.absmax, tally.count) == (100.0, batch.size)
    assert 800 <= tally.histogram.sum() <= batch.size


def test_a_sample_visits_every_column() -> None:
    """With a step that divides the width, the same columns of every row would be counted, for example the border."""
    batch = np.zeros((32, 256, 256), np.float32)
    batch[:, :, 0] = 1.0
    tally = Tally(64, sample=1 << 14)
    tally.add(batch)
    counted = batch.size / stride(batch.size // (1 << 14), 256)
    assert tally.histogram.sum() == pytest.approx(counted / 256, rel=0.05)
    assert stride(0, 7) == 1


# ------------------------------------------------------------------------------------------------------------ ncnn


@pytest.mark.parametrize(
    ("vendor", "number", "expected"),
    [(0x10DE, 2435301632, "580.159.04"), (0x10005, 1, "0.0.1"), (0x13B5, 4194305, "1.0.1")],
)
def test_driver_versions_have_the_vendors_format(vendor: int, number: int, expected: str) -> None:
    assert driver_version(vendor, number) == expected


def test_an_in_place_layer_does_not_change_the_input(tmp_path: Path) -> None:
    """ncnn crashed here in light mode when its Mat used numpy's memory."""
    param = tmp_path / "inplace.param"
    ncnnfile.save(network("BinaryOp half 1 1 in0 b1 0=2 1=1 2=0.5\nReLU r 1 1 b1 out0"), param)
    x = samples(1, (4, 5, 6))[0]
    with Child() as child:
        child.ask("load", **load(param))
        outputs = [child.ask("run", [x])[1][0], child.ask("run")[1][0], child.ask("run")[1][0]]
    for output in outputs:
        np.testing.assert_allclose(output, np.maximum(x * 0.5, 0), rtol=1e-6)
