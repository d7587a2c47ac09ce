"""A serving process or a board that gives invalid answers: the error names the device and the request, without
traceback.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import samples, small
from numpy.typing import NDArray

from ncnnkit.codec import decode
from ncnnkit.device.link import BLOCK, Link
from ncnnkit.device.looking import look_at
from ncnnkit.device.serving import CheckedChild
from ncnnkit.device.session import Session
from ncnnkit.device.transport import Refused, Transport
from ncnnkit.errors import DeviceError, FormatError, RuntimeFailure
from ncnnkit.onboard import MARK, answers, messages
from ncnnkit.onboard.agent import REQUESTS
from ncnnkit.onboard.answers import ANSWERS, Answer
from ncnnkit.onboard.child import WorkerError
from ncnnkit.onboard.facts import Platform
from ncnnkit.onboard.network import Network
from ncnnkit.onboard.protocol import Line
from ncnnkit.onboard.reading import ProtocolError
from ncnnkit.plan.timing import measure_costs, time_graphs

Arrays = list[NDArray[Any]]

NET = {"param": "p", "bin": "b", "inputs": [["in0", [1]]], "ready": ["r"], "outputs": ["o"]}
ASKED: dict[str, dict[str, Any]] = {
    "load": {"backend": "cpu"},
    "run": {"blobs": ["out0"]},
    "time": {"seconds": 1.0, "min_samples": 2, "max_samples": 3},
    "profile": {"taps": [["a"], ["b"]]},
    "time_nets": {"nets": [NET]},
}
"""The fields of a request with which its answer is compared."""

F32, F64, I64 = np.zeros(3, np.float32), np.zeros(3), np.zeros(3, np.int64)
RIGHT: dict[str, tuple[Answer, Arrays]] = {
    "machine": (answers.MachineAnswer(boards.machine()), []),
    "load": (answers.Loaded(1.0, None, 1, ["in0"], ["out0"], [], ""), []),
    "run": (answers.Ran(1.0, ["out0"]), [F32]),
    "time": (answers.Timed([1.0, 2.0]), []),
    "tally": (answers.Done(), []),
    "tally_so_far": (answers.Tallied([answers.TallyRow(0, "b", 1.0, 1.0, 3)], ["b"]), [F64[None], F64[None], I64]),
    "means": (answers.Done(), []),
    "means_so_far": (answers.Means(["b"]), [F64[None]]),
    "memory": (answers.Memory(1.0), []),
    "layers": (answers.Layers({"c": ["fp16"]}, ["c"]), []),
    "profile": (answers.Profiled(2.0, 2.0, [1.0, 1.0], [32, 8]), []),
    "time_nets": (answers.NetTimes([answers.NetTime(1.0, 1.0, 0.0, [32], [8])]), []),
}
"""A valid answer to each request."""


class Peer(CheckedChild):
    """A serving process that answers every request with these bytes."""

    def __init__(self, folder: Path, answer: bytes) -> None:
        (folder / "answer").write_bytes(MARK + answer)
        script = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
        # It reads requests, because otherwise writing would fail, and does not end, so that its end shows nothing.
        script += "; sys.stdout.flush(); sys.stdin.buffer.read()"
        super().__init__([sys.executable, "-S", "-c", script, str(folder / "answer")])


def message(fields: Any, arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    messages.send(stream, fields, arrays)
    return stream.getvalue()


def read(op: str, answer: bytes) -> tuple[Any, Arrays]:
    """The result of the parent's code for the bytes of an answer, without a process."""
    stream = io.BytesIO(answer)
    received = messages.receive(stream.readinto, stream.readline)
    assert received is not None
    record = CheckedChild._read(CheckedChild.__new__(CheckedChild), received[0], ANSWERS[op])
    record.check(ASKED.get(op, {}), received[1])
    return record, received[1]


def test_every_request_has_its_answer() -> None:
    asked = {name for name, method in vars(Network).items() if callable(method) and not name.startswith("_")}
    assert asked == ANSWERS.keys() == RIGHT.keys()


@pytest.mark.parametrize("op", ANSWERS)
def test_a_right_answer_is_read_as_it_was_sent(op: str) -> None:
    record, arrays = RIGHT[op]
    found, got = read(op, message(asdict(record), arrays))
    assert found == record
    assert all(np.array_equal(a, b) for a, b in zip(arrays, got, strict=True))


def test_messages_before_an_answer_are_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    before = b"".join(message({"so_far": [done, 4]}, []) for done in (1, 3))
    with Peer(tmp_path, before + message(asdict(RIGHT["memory"][0]), [])) as peer:
        found = peer.ask("memory", progress=lambda *counts: told.append(counts))[0]
    assert found == RIGHT["memory"][0]
    assert told == [(1, 4), (3, 4)]


@pytest.mark.parametrize("far", [3, [1], [2, 1], [-1, 1], [0.5, 1], [True, 1], ["1", "2"], {"a": 1}])
def test_invalid_progress(tmp_path: Path, far: Any) -> None:
    answer = message({"so_far": far}, []) + message(asdict(RIGHT["memory"][0]), [])
    with Peer(tmp_path, answer) as peer, pytest.raises(WorkerError, match="broke the protocol during 'memory'"):
        peer.ask("memory")


NONSENSE: dict[str, Callable[[dict[str, Any], Arrays], bytes]] = {
    "no JSON": lambda fields, arrays: b"hello\n",
    "a list": lambda fields, arrays: b"[1]\n",
    "no arrays field": lambda fields, arrays: json.dumps(fields).encode() + b"\n",
    "an array too many": lambda fields, arrays: message(fields, [*arrays, F32]),
    "an array of another kind": lambda fields, arrays: message(fields, [F32.astype(np.int8)] * max(1, len(arrays))),
    "an array that is larger than any": lambda fields, arrays: (
        json.dumps({**fields, "arrays": [["float32", [1 << 31, 1 << 31]]]}).encode() + b"\n"
    ),
    "an empty array of endless rows": lambda fields, arrays: (
        json.dumps({**fields, "arrays": [["float32", [0, 1 << 62]]]}).encode() + b"\n"
    ),
    "an array of a type that NumPy would read": lambda fields, arrays: (
        json.dumps({**fields, "arrays": [["(1,)f4", [1]]]}).encode() + b"\n"
    ),
    "an array of objects": lambda fields, arrays: json.dumps({**fields, "arrays": [["O", [1]]]}).encode() + b"\n",
    "NaN": lambda fields, arrays: message({**fields, "ms": float("nan")}, arrays),
    "a number that is too large": lambda fields, arrays: message(fields, arrays).replace(
        b'"arrays"', b'"more": 1e999, "arrays"', 1
    ),
    "deep": lambda fields, arrays: b'{"arrays": [], "x": ' + b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("op", ANSWERS)
@pytest.mark.parametrize("kind", NONSENSE)
def test_an_invalid_answer_is_an_error_of_that_process(op: str, kind: str, tmp_path: Path) -> None:
    record, arrays = RIGHT[op]
    with Peer(tmp_path, NONSENSE[kind](asdict(record), arrays)) as peer, pytest.raises(WorkerError) as error:
        peer.ask(op, timeout=30.0, **ASKED.get(op, {}))
    assert f"broke the protocol during {op!r}" in str(error.value)
    assert error.value.crashed


WITH_FIELDS = [op for op, (record, _) in RIGHT.items() if asdict(record)]


@pytest.mark.parametrize("op", WITH_FIELDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_field_of_another_type_is_named(op: str, data: Any) -> None:
    """Each field in turn is removed, or gets an invalid value."""
    record, arrays = RIGHT[op]
    fields = asdict(record)
    name = data.draw(st.sampled_from(sorted(fields)))
    wrong = [value for value in ("x", [["x"]], {"x": {"x": [1]}}, True) if type(value) is not type(fields[name])]
    if data.draw(st.booleans()):
        del fields[name]
    else:
        fields[name] = data.draw(st.sampled_from(wrong))
    with pytest.raises(ProtocolError, match=name):
        read(op, message(fields, arrays))


texts = st.text(max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)


@given(anything, st.sampled_from(sorted(ANSWERS)), st.lists(st.sampled_from([F32, F64, I64]), max_size=2))
@settings(max_examples=200, deadline=None)
def test_any_answer_is_valid_or_a_protocol_error(value: Any, op: str, arrays: Arrays) -> None:
    fields = value if isinstance(value, dict) else {"value": value}
    fields.pop("arrays", None)
    try:
        record, _ = read(op, message(fields, arrays))
    except (ProtocolError, ValueError):
        return
    assert isinstance(record, ANSWERS[op])


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("load", {"load_ms": -1.0}),
        ("load", {"device": asdict(boards.vulkan("integrated"))}),
        ("run", {"names": ["another"]}),
        ("run", {"names": ["out0", "out0"]}),
        ("run", {"ms": 0.0}),
        ("time", {"samples": [1.0]}),
        ("time", {"samples": [1.0] * 4}),
        ("time", {"samples": [1.0, -1.0]}),
        ("tally_so_far", {"rows": []}),
        ("tally_so_far", {"channels": []}),
        ("means_so_far", {"blobs": []}),
        ("memory", {"peak_mb": -1.0}),
        ("profile", {"layers": [1.0]}),
        ("profile", {"bits": []}),
        ("profile", {"whole": 0.0}),
        ("time_nets", {"nets": []}),
        ("time_nets", {"nets": [asdict(answers.NetTime(1.0, 1.0, 0.0, [], [8]))]}),
        ("time_nets", {"nets": [asdict(answers.NetTime(1.0, 0.0, 0.0, [32], [8]))]}),
        ("machine", {"machine": {**asdict(boards.machine()), "ncnn": "../../x"}}),
        ("machine", {"machine": {**asdict(boards.machine()), "machine": "a b"}}),
    ],
)
def test_an_answer_to_another_request_is_refused(op: str, wrong: dict[str, Any]) -> None:
    record, arrays = RIGHT[op]
    with pytest.raises((ProtocolError, ValueError)):
        read(op, message({**asdict(record), **wrong}, arrays))


# ------------------------------------------------------------------------------------------------- where it is used


class Lying:
    """A device with serving processes that give this answer to everything."""

    name, address = "the board", "ssh://board"

    def __init__(self, folder: Path, answer: bytes) -> None:
        self.folder, self.answer = folder, answer

    def child(self) -> Any:
        return Peer(self.folder, self.answer)

    def put(self, files: Any) -> list[str]:
        return [str(path) for path in files]


@pytest.mark.parametrize("answer", [b"hello\n", message({}, []), message({"load_ms": "fast"}, [F32]), b""])
def test_stages_that_ask_a_board_end_with_its_error(answer: bytes, tmp_path: Path) -> None:
    device: Any = Lying(tmp_path, answer or message({"error": "no"}, []))
    graph = small()
    with pytest.raises(RuntimeFailure, match="the board"):
        Session(graph, device=device)
    with pytest.raises(RuntimeFailure, match="ncnn"):
        time_graphs({"fp32": graph}, [samples(1)[0]], 1, device)
    with pytest.raises(RuntimeFailure, match="timing layers: ncnn"):
        measure_costs(graph, graph, {}, ("fp32",), 1, device)
    with pytest.raises(DeviceError, match="the board: ncnn failed while looking at it"):
        look_at(device)


# ------------------------------------------------------------------------------------------------------- the agent


class Saying(Transport):
    """A board with an agent that prints this for every request."""

    address = "ssh://board"

    def __init__(self, said: bytes) -> None:
        self.said = said

    def command(self, words: Any) -> list[str]:
        code = "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1])); sys.stdout.flush(); sys.stdin.read()"
        return [sys.executable, "-S", "-c", code, self.said.hex()]

    def explained(self, words: Any, status: int, said: str) -> DeviceError:
        return Refused(said or str(status), where=self.address)


PLATFORM: dict[str, Any] = asdict(Platform([3, 11, 2], "aarch64", "Linux", "glibc", "2.36", 1, 1.0))
KINDS: dict[str, Any] = {
    "missing": list[str], "venv": bool, "install": type(None), "start": type(None), "forget": type(None),
    "clean": type(None), "about": Platform,
}  # fmt: skip
"""A request with a one-line answer -> the class of the answer."""


def test_every_request_of_the_agent_is_covered() -> None:
    assert KINDS.keys() | {"receive", "follow", "fetch"} == REQUESTS.keys()


@pytest.mark.parametrize("request_", KINDS)
@pytest.mark.parametrize("line", [b"", b"hello", b"{", b"[1]", b'{"a": 1}', b"1e999", b"[" * 5000, b'"' + b"\xff"])
def test_an_invalid_answer_of_the_agent_is_the_boards_error(request_: str, line: bytes) -> None:
    link = Link(Saying(MARK + line + b"\n"), "the board")
    with pytest.raises(DeviceError, match=f"the board: it broke the protocol at {request_!r}"):
        link.ask(KINDS[request_], request_)


@pytest.mark.parametrize(
    "wrong",
    [{"machine": "../../x"}, {"system": "a b"}, {"libc": "a/b"}, {"libc_version": "$(x)"}, {"libc_version": "3"},
     {"python": [3]}, {"python": ["3", 11, 2]}, {"python": [3, -1, 2]}, {"free_bytes": "much"}, {"time": None}],
)  # fmt: skip
def test_facts_of_a_board_can_be_part_of_a_file_name(wrong: dict[str, Any]) -> None:
    assert decode(json.dumps(PLATFORM), Platform).machine == "aarch64"
    link = Link(Saying(MARK + json.dumps({**PLATFORM, **wrong}).encode() + b"\n"), "the board")
    with pytest.raises(DeviceError, match="the board: it broke the protocol at 'about'"):
        link.ask(Platform, "about")


@pytest.mark.parametrize(
    "line",
    ['{"step": {"stage": "[red]"}}', '{"step": {"stage": "time", "done": "x"}}', '{"step": {}}', '{"ended": true}',
     '{"ended": {"done": 1, "said": ""}}', '{"step": {"stage": "time", "of": 1e999}}'],
)  # fmt: skip
def test_an_invalid_line_of_progress_is_refused(line: str) -> None:
    with pytest.raises(FormatError):
        decode(line, Line)


def test_a_tar_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("outputs/0-0.npy")
        info.size = 1 << 14
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 14))
    (tmp_path / "to").mkdir()
    with pytest.raises(DeviceError, match=r"the board: it broke the protocol at 'fetch': 'outputs/0-0\.npy'"):
        Link(Saying(MARK + made.getvalue()), "the board").fetch(["fetch"], tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_empty_files_of_a_tar_take_space_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for number in range(10):
            archive.addfile(tarfile.TarInfo(f"outputs/{number}-0.npy"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * BLOCK))
    with pytest.raises(DeviceError, match=r"'outputs/5-0\.npy' is not a plain file, or is too large"):
        Link(Saying(MARK + made.getvalue()), "the board").fetch(["fetch"], tmp_path)


def test_the_exit_status_of_ssh_is_not_a_signal(tmp_path: Path) -> None:
    """255 is above 128, but 127 is not the number of a signal."""
    with CheckedChild(["sh", "-c", "echo lost >&2; exit 255"]) as child, pytest.raises(WorkerError) as error:
        child.ask("memory")
    assert str(error.value) == "exit status 255 during 'memory'; last words: lost"
