"""ONNX Runtime in child processes: nothing that a model does there ends this process, and no child is left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from processes import children
from small_heads import detector

import ncnnkit
from ncnnkit.errors import ConvertError, ModelError
from ncnnkit.onboard import messages, process
from ncnnkit.source import forked, open_model, sessions
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.files import onnx_run, onnx_session
from ncnnkit.source.forked import ServerError
from ncnnkit.source.onnx.reading import read
from ncnnkit.source.sessions import OnnxSession

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT
HANGING = 600
value = helper.make_tensor_value_info


def model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int] = (1, 3), weights: dict[str, Array] | None = None
) -> onnx.ModelProto:
    """A model with the input x and the output y."""
    graph = helper.make_graph(
        nodes, "g", [value("x", FLOAT, shape)], [value("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def relu() -> bytes:
    found: bytes = model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
    return found


def endless() -> onnx.ModelProto:
    """A Loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["a"], ["a2"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("a", FLOAT, [1, 3])],
        [value("c2", TensorProto.BOOL, []), value("a2", FLOAT, [1, 3])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Loop", ["", "true", "r"], ["y"], body=body),
    ]
    return model(nodes, weights={"true": np.array(True)})


def giant(operator: str) -> onnx.ModelProto:
    """A model whose output has 100 GB. Its shape depends on the input, so nothing can know it before it runs."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Abs", ["sum"], ["size"]),
        helper.make_node("Cast", ["size"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "more"], ["side"]),
        helper.make_node("Expand", ["x", "side"], ["y"])
        if operator == "Expand"
        else helper.make_node("ConstantOfShape", ["side"], ["y"]),
    ]
    return model(nodes, weights={"more": np.array([25_000, 1_000_000, 1], np.int64)})


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, str(path))
    return path


def ends(pid: int, seconds: float = 5.0) -> bool:
    """Whether a process ends soon. A zombie has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test leaves no child process and no open descriptor."""
    before, open_before = set(children()), set(os.listdir("/proc/self/fd"))
    yield
    if set(children()) - before:
        gc.collect()  # an exception may hold an object that holds a session
    assert not set(children()) - before
    assert len(set(os.listdir("/proc/self/fd")) - open_before) <= 1  # that of listdir


# ------------------------------------------------------------------------------------------- only children compute


def quantised(path: Path) -> Path:
    from onnxruntime import quantization as oq

    convolution = helper.make_node("Conv", ["x", "w"], ["y"])
    whole = model([convolution], (1, 3, 8, 8), {"w": np.ones((4, 3, 3, 3), np.float32)})

    class Samples(oq.CalibrationDataReader):  # type: ignore[misc]
        left = iter([{"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}])

        def get_next(self) -> Any:
            return next(self.left, None)

    saved(whole, path.with_name("float.onnx"))
    oq.quantize_static(str(path.with_name("float.onnx")), str(path), Samples(), quant_format=oq.QuantFormat.QDQ)
    return path


def test_this_process_computes_no_model(tmp_path: Path) -> None:
    """Opening, converting, cutting, comparing layers, rewriting a batch, and a quantised original."""
    quantised(tmp_path / "quantised.onnx")
    detector(tmp_path / "detector.onnx")
    pool = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    saved(model(pool, (4, 3, 8, 8), {"w": np.ones((4, 3, 3, 3), np.float32)}), tmp_path / "batch.onnx")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(ALL), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "decoder, quantised, one sample, compared"


ALL = """
    import os, sys
    from pathlib import Path
    import onnxruntime

    ours, kind = os.getpid(), onnxruntime.InferenceSession
    class Elsewhere(kind):
        def __init__(self, *arguments, **options):
            if os.getpid() == ours:
                os._exit(99)  # an exception might be taken for a fault of the model
            super().__init__(*arguments, **options)
    onnxruntime.InferenceSession = Elsewhere

    from ncnnkit.source import open_model
    from ncnnkit.source.bisection import bisect
    from ncnnkit.source.conversion import convert_opened
    from ncnnkit.source.model import example_arrays

    folder, said = Path(sys.argv[1]), []
    for name in ("detector", "quantised", "batch"):
        source = open_model(str(folder / (name + ".onnx")))
        made, check = convert_opened(source, route="onnx")
        said += ["decoder"] * (name == "detector" and source.decoder is not None)
        said += ["quantised"] * (name == "quantised" and check.own is not None)
        said += ["one sample"] * (name == "batch" and "rewritten to take one" in " ".join(source.changes))
    found = bisect(source, made.graph, example_arrays(source.inputs))
    said += ["compared"] * bool(found.layers)
    print(", ".join(said))
"""


def test_one_module_makes_sessions_and_infers_types() -> None:
    """Besides the engine that is measured, which runs in a serving process."""
    home = Path(ncnnkit.__file__).parent
    makers = {
        str(path.relative_to(home))
        for path in home.rglob("*.py")
        if re.search(r"InferenceSession\(|onnx\.shape_inference", path.read_text(encoding="utf-8"))
    }
    assert makers == {"source/sessions.py", "onboard/engines/onnxruntime.py"}


# ------------------------------------------------------------------------------------------- what a model does there


def test_a_loop_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RUN_SECONDS", 0.5)
    path = saved(endless(), tmp_path / "m.onnx")
    source = open_model(path)
    with pytest.raises(ModelError, match=r"the original fails on sample 0: ONNX Runtime did not finish within 0\.5 s"):
        convert_opened(source, route="pnnx")
    with pytest.raises(ConvertError, match=r"ONNX Runtime did not finish within 0\.5 s; it used \d+\.\d GB"):
        read(path, [(1, 3)])


@pytest.mark.parametrize("operator", ["Expand", "ConstantOfShape"])
def test_a_model_that_asks_for_100_gb_is_refused(tmp_path: Path, operator: str) -> None:
    path = saved(giant(operator), tmp_path / "m.onnx")
    source = open_model(path)
    for _ in range(2):  # it is an answer of a process that goes on
        with pytest.raises(ModelError, match=r"the original fails on sample 0: .*is there enough memory\?"):
            list(source.reference_outputs([[np.zeros(3, np.float32)]]))  # type: ignore[arg-type]
    with pytest.raises(ConvertError, match=r"ONNX Runtime cannot run it: .*is there enough memory\?"):
        read(path, [(1, 3)])


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    """As native code does that holds Python's lock."""
    ctypes.PyDLL(None).sleep(HANGING)


def hoard() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 28))


def write() -> None:
    Path("written").write_bytes(b"x")


def open_many() -> None:
    kept = []
    while True:
        kept.append(open(os.devnull))  # noqa: SIM115


class Doing:
    """A session that does something when it runs."""

    def __init__(self, does: Callable[[], object]) -> None:
        self.run = lambda *_: does()
        self.real = onnxruntime.InferenceSession(relu())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize("when", ["load", "run"])
@pytest.mark.parametrize(
    ("does", "said"),
    [
        (crash, "ONNX Runtime crashed (SIGSEGV); it used"),
        (hang, "ONNX Runtime did not finish within 1 s; it used"),
        (hoard, "MemoryError (is there enough memory?)"),
        (write, "File too large"),
        (open_many, "Too many open files"),
    ],
    ids=lambda found: getattr(found, "__name__", ""),
)
def test_what_a_model_does_to_onnx_runtime_is_an_error(
    does: Callable[[], None], said: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(relu())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sessions, "_load", lambda *_: Doing(does) if when == "run" else does())
    monkeypatch.setattr(sessions, "LOAD_SECONDS", 1.0 if (does, when) == (hang, "load") else 20.0)
    monkeypatch.setattr(sessions, "RUN_SECONDS", 1.0 if does is hang else 20.0)
    monkeypatch.setattr(process, "system_memory_mb", lambda _: 300.0)
    monkeypatch.setattr(process, "LEAST_FREE_MB", 300.0)
    with pytest.raises(ModelError) as found:
        list(open_model(path).reference_outputs([[np.zeros(3, np.float32)]]))  # type: ignore[arg-type]
    assert said in str(found.value)
    assert str(path) in str(found.value)
    assert not (tmp_path / "written").exists() or not (tmp_path / "written").stat().st_size


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (crash, r"^ONNX crashed \(SIGSEGV\); it used"),
        (hang, r"^ONNX did not finish within 1 s; it used"),
        (hoard, r"^the ONNX file contradicts itself: MemoryError \(is there enough memory\?\)"),
    ],
)
def test_what_a_model_does_to_onnx_is_an_error(
    does: Callable[[], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(relu())
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda *_: does())
    monkeypatch.setattr(sessions, "LOAD_SECONDS", 1.0 if does is hang else 20.0)
    monkeypatch.setattr(process, "system_memory_mb", lambda _: 300.0)
    monkeypatch.setattr(process, "LEAST_FREE_MB", 300.0)
    with pytest.raises(ConvertError, match=said):
        read(path, [(1, 3)])


def test_what_is_printed_there_is_lost(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def load(*_: Any) -> Any:
        for descriptor in (1, 2):
            os.write(descriptor, b"printed")
        print("printed", flush=True)
        warnings.warn("printed", stacklevel=1)
        return onnxruntime.InferenceSession(relu())

    monkeypatch.setattr(sessions, "_load", load)
    with OnnxSession(relu()) as session, warnings.catch_warnings():
        warnings.simplefilter("always")
        assert session.run({"x": np.ones((1, 3), np.float32)})[0].sum() == 3
    assert "printed" not in "".join(capfd.readouterr())


def test_a_process_that_ended_gives_an_error_each_time() -> None:
    with OnnxSession(relu()) as session:
        os.kill(session._server._child.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"ONNX Runtime crashed \(SIGKILL\).*"):
            session.run({"x": np.zeros((1, 3), np.float32)})
        with pytest.raises(ServerError, match="ONNX Runtime was ended before"):
            session.run({"x": np.zeros((1, 3), np.float32)})


# ------------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("dtype", sorted({np.dtype(kind).name for kind in "?bBhHiIqQefd"}))
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 5)])
def test_arrays_of_every_type_arrive_unchanged(dtype: str, shape: tuple[int, ...]) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", kind, shape)], [value("y", kind, shape)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    array = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    with OnnxSession(proto.SerializeToString()) as session:
        (found,) = session.run({"x": array})
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
    assert found.flags.writeable


def test_it_computes_the_same_as_onnx_runtime_here(tmp_path: Path) -> None:
    path = Path(ncnnkit.__file__).parent / "data" / "efficientnet-lite0.onnx"
    x = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    here = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    expected = here.run(None, {"input": x})
    session = onnx_session(path)
    (given,) = session.inputs
    assert (given.name, given.type, given.shape, session.outputs) == (
        "input", "tensor(float)", [1, 3, 224, 224], ["logits"],
    )  # fmt: skip
    assert "ncnnkit.preprocess" in session.metadata
    assert all(np.array_equal(*pair) for pair in zip(onnx_run(session)([x]), expected, strict=True))


@pytest.mark.parametrize("count", [1, 5])
def test_large_outputs_come_in_pieces(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_PIECE", 100_000)
    names = [f"y{index}" for index in range(count)]
    nodes = [helper.make_node("Mul", ["x", f"w{index}"], [name]) for index, name in enumerate(names)]
    proto = model(nodes, (1, 20_000), {f"w{index}": np.array(index, np.float32) for index in range(count)})
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    asked: list[int] = []
    receive = messages.receive

    def counted(*streams: Any) -> Any:
        asked.append(1)
        return receive(*streams)

    monkeypatch.setattr(forked, "receive", counted)
    x = np.random.default_rng(0).random((1, 20_000), np.float32)
    with OnnxSession(proto.SerializeToString()) as session:
        found = session.run({"x": x})
        again = session.run({"x": x}, names[-1:])
    assert len(asked) == (3 if count == 1 else 1 + 6 + 1)
    assert all(np.array_equal(array, x * index) for index, array in enumerate(found))
    assert np.array_equal(again[0], found[-1])


def test_outputs_larger_than_the_free_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_PIECE", 100)
    monkeypatch.setattr(sessions, "system_memory_mb", lambda _: 0.001)
    proto = model([helper.make_node("Relu", ["x"], ["y"])], (1, 500))
    refused = pytest.raises(ServerError, match=r"its outputs have .* GB, and .* GB of memory are free")
    with OnnxSession(proto.SerializeToString()) as session, refused:
        session.run({"x": np.zeros((1, 500), np.float32)})


@pytest.mark.parametrize(
    "answer",
    [
        lambda: (sessions._Made([("float32", (2, 3))]), [np.zeros((1, 3), np.float32)]),
        lambda: (sessions._Made([("object", (1, 3))]), []),
        lambda: (sessions._Made([("float32", (1, -3))]), []),
        lambda: (sessions._Made([("float32", (1, 3))] * 2), [np.zeros((1, 3), np.float32)] * 2),
        lambda: (sessions._Made([("float32", (1, 3))]), []),
        lambda: (sessions._Made([]), []),
        lambda: (sessions._Rest(), []),
        lambda: (sessions._Made([(7, "x")]), []),  # type: ignore[list-item]
        lambda: os.write(4, b"{]\n"),
    ],
)
def test_an_answer_that_is_nonsense_is_an_error(answer: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions._Network, "run", lambda *_: answer())
    monkeypatch.setattr(sessions._Network, "rest", lambda *_: (sessions._Rest(), []))
    with OnnxSession(relu()) as session, pytest.raises(ServerError):
        session.run({"x": np.zeros((1, 3), np.float32)})


def test_texts_are_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [value("x", FLOAT, [1])],
        [value("y", TensorProto.STRING, [1])], [helper.make_tensor("w", TensorProto.STRING, [1], [b"cat"])],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with OnnxSession(proto.SerializeToString()) as session:
        with pytest.raises(ServerError, match="output 'y' is not an array of numbers"):
            session.run({"x": np.zeros(1, np.float32)})
        with pytest.raises(ServerError, match="input 'x' is object, not numbers"):
            session.run({"x": np.array(["cat"], object)})


# ----------------------------------------------------------------------------------------------------- no child is left

PARENT = """
    import ctypes, os, sys, threading, time
    import numpy as np
    from ncnnkit.source import sessions
    from ncnnkit.source.sessions import OnnxSession

    what, model = sys.argv[1], open(sys.argv[2], "rb").read()
    if what == "loads":
        ours, child = os.getpid(), None
        sessions._load = lambda *_: ctypes.PyDLL(None).sleep(600)
        threading.Thread(target=OnnxSession, args=[model], daemon=True).start()
        from processes import children
        while not (found := children()):
            time.sleep(0.01)
        time.sleep(1)
        print(found[0], flush=True)
    else:
        made = []
        beginner = threading.Thread(target=lambda: made.append(OnnxSession(model)))
        beginner.start()
        beginner.join()  # the thread that forked it has ended
        session = made.pop()
        assert session.run({"x": -np.ones((1, 3), np.float32)})[0].sum() == 0 or what == "runs"
        print(session._server._child.pid, flush=True)
        if what == "forked" and not os.fork():
            time.sleep(10)
            os._exit(0)
        if what == "exits":
            sys.exit()
        if what == "fails":
            raise SystemError
    time.sleep(600)
"""


def begun(what: str, path: Path) -> tuple[subprocess.Popen[str], int]:
    """A program with a session, and the number of the session's process."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), what, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line, program.communicate()[1]
    return program, int(line)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("what", ["waits", "loads", "forked"])
def test_a_program_that_is_killed_leaves_no_process(what: str, how: str, tmp_path: Path) -> None:
    program, child = begun(what, saved(onnx.load_from_string(relu()), tmp_path / "m.onnx"))
    try:
        assert not ends(child, 0.2)
        program.send_signal(signal.Signals[how])
        program.wait(20)
        assert ends(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


@pytest.mark.parametrize("what", ["exits", "fails"])
def test_a_program_that_ends_leaves_no_process(what: str, tmp_path: Path) -> None:
    program, child = begun(what, saved(onnx.load_from_string(relu()), tmp_path / "m.onnx"))
    program.communicate(timeout=20)
    assert ends(child)


def test_a_program_that_is_killed_while_a_model_runs_leaves_no_process(tmp_path: Path) -> None:
    path = saved(endless(), tmp_path / "m.onnx")
    code = PARENT.replace("assert session.run", "print(session._server._child.pid, flush=True); session.run")
    code = code.replace('[0].sum() == 0 or what == "runs"', "")
    program = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), "runs", str(path)], stdout=subprocess.PIPE)
    assert program.stdout is not None
    child = int(program.stdout.readline())
    time.sleep(0.5)
    program.kill()
    program.communicate()
    assert ends(child)


def test_a_session_ends_with_its_block_and_with_its_object() -> None:
    with OnnxSession(relu()) as session:
        first = session._server._child.pid
        assert first in children()
    assert first not in children()
    session = OnnxSession(relu())
    second = session._server._child.pid
    del session
    gc.collect()
    assert second not in children()


def test_a_fork_neither_ends_nor_uses_the_process_of_its_parent() -> None:
    x = np.ones((1, 3), np.float32)
    with OnnxSession(relu()) as session:
        child = os.fork()
        if not child:
            status = 1
            try:
                session.run({"x": x})
            except ServerError:
                session.close()
                status = 7
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert np.array_equal(session.run({"x": x})[0], x)


def test_ctrl_c_while_a_model_runs_ends_its_process() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with OnnxSession(endless().SerializeToString()) as session:
            child = session._server._child.pid
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                session.run({"x": np.zeros((1, 3), np.float32)})
            assert child not in children()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_its_process_holds_no_descriptors_of_its_parent(tmp_path: Path) -> None:
    """A lock of the parent would be held for as long as the process lives."""
    with open(tmp_path / "x", "w"), OnnxSession(relu()) as session:
        names = [os.readlink(entry) for entry in Path(f"/proc/{session._server._child.pid}/fd").iterdir()]
    assert str(tmp_path / "x") not in names
    assert len([name for name in names if name.startswith("pipe:")]) == 3
