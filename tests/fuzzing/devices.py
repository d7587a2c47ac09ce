"""What a board answers."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import boards
import numpy as np
from mutations import mutate_bytes, mutate_text
from numpy.typing import NDArray

from fuzzing.format import BYTES, JSON, TEXT, Format, each_way, npy, values
from ncnnkit.codec import decode, encode
from ncnnkit.device.base import RESULT, read_result
from ncnnkit.device.link import Link
from ncnnkit.device.serving import CheckedChild
from ncnnkit.errors import NcnnkitError
from ncnnkit.onboard import MARK, answers, messages
from ncnnkit.onboard.answers import ANSWERS
from ncnnkit.onboard.child import WorkerError, _counts
from ncnnkit.onboard.facts import Conditions, Load, Platform, Quantity, Sustained
from ncnnkit.onboard.protocol import (
    CandidateResult,
    ClocksReport,
    Ended,
    Failure,
    Final,
    JobModel,
    JobVariant,
    Line,
    MeasureJob,
    MeasureResult,
    ProfileJob,
    ProfileResult,
    Rung,
    Step,
    TuneJob,
    TuneResult,
    VariantResult,
)
from ncnnkit.onboard.reading import ProtocolError

NET = {"param": "p", "bin": "b", "inputs": [["in0", [1]]], "ready": ["r"], "outputs": ["o"]}
ASKED: dict[str, dict[str, Any]] = {
    "load": {"backend": "cpu"},
    "run": {"blobs": ["out0"]},
    "time": {"seconds": 1.0, "min_samples": 2, "max_samples": 3},
    "profile": {"taps": [["a"], ["b"]]},
    "time_nets": {"nets": [NET]},
}
F32, F64, I64 = np.zeros(3, np.float32), np.zeros(3), np.zeros(3, np.int64)
RIGHT: dict[str, tuple[answers.Answer, list[NDArray[Any]]]] = {
    "machine": (answers.MachineAnswer(boards.machine()), []),
    "load": (answers.Loaded(1.0, None, 1, ["in0"], ["out0"], [], ""), []),
    "run": (answers.Ran(1.0, ["out0"]), [F32]),
    "time": (answers.Timed([1.0, 2.0]), []),
    "tally_so_far": (answers.Tallied([answers.TallyRow(0, "b", 1.0, 1.0, 3)], ["b"]), [F64[None], F64[None], I64]),
    "means_so_far": (answers.Means(["b"]), [F64[None]]),
    "memory": (answers.Memory(1.0), []),
    "layers": (answers.Layers({"c": ["fp16"]}, ["c"]), []),
    "profile": (answers.Profiled(2.0, 2.0, [1.0, 1.0], [32, 8]), []),
    "time_nets": (answers.NetTimes([answers.NetTime(1.0, 1.0, 0.0, [32], [8])]), []),
}


def _answer_seeds() -> list[bytes]:
    made = []
    for record, arrays in RIGHT.values():
        stream = io.BytesIO()
        messages.send(stream, asdict(record), arrays)
        made.append(stream.getvalue())
    return [*made, b'{"so_far": [1, 4], "arrays": []}\n']


def _read_answer(folder: Path, data: bytes) -> None:
    """The same bytes as the answer to each request."""
    stream = io.BytesIO(data)
    received = messages.receive(stream.readinto, stream.readline)
    if received is None:
        return
    message, arrays = received
    if messages.SO_FAR in message:
        _counts(message[messages.SO_FAR])
    for op in RIGHT:
        try:
            record = CheckedChild._read(CheckedChild.__new__(CheckedChild), message, ANSWERS[op])
            record.check(ASKED.get(op, {}), arrays)
        except (ProtocolError, ValueError):  # what Child.ask catches
            continue
        assert isinstance(record, ANSWERS[op])


CONDITIONS = Conditions(
    3, {"big": Quantity(1.0, 2.0, 3.0, 2.0)}, {}, {"board": Quantity(1, 2, 3, 2)}, 5.5, "board", False
)


@cache
def _results() -> list[tuple[Any, Any]]:
    """(job, result) of each kind."""
    variants = [JobVariant(name, JobModel(["p", "b"], "fp32")) for name in ("one", "two")]
    clocks = ClocksReport(["cpu0"], {"gpu": "no permission"})
    rows = [
        VariantResult("one", load_ms=Load(3.0, 1.0), first_ms=2.0, samples=[1.0, 2.0], peak_memory_mb=4.5,
                      outputs={"out0": "0-0.npy"}, conditions=CONDITIONS,
                      sustained=Sustained(2.0, 100, 1.0, 1.5, CONDITIONS)),
        VariantResult("two", "crashed", "signal 11", boards.vulkan("integrated"), ["Softmax"]),
    ]  # fmt: skip
    final = Final([1.0], [2.0], [2.0], {"threads": [1.5]})
    tuned = TuneResult(
        variants[0].settings,
        [CandidateResult("one", cosine=1.0, ms=1.0, ratio=0.5), CandidateResult("two", "dropped", "x")],
        [Rung(0.5, {"one": 1.0}, ["one"])], 2, final, 1.0, CONDITIONS, clocks,
    )  # fmt: skip
    taps = [["a"], ["b"]]
    profile = ProfileResult(2.0, 2.5, [1.0, 1.0], [32, 8], ["c"], None, 4, CONDITIONS, clocks)
    return [
        (MeasureJob(variants, ["x.npy"], "outputs", 2, 1.0, 1.0), MeasureResult(rows, clocks)),
        (ProfileJob(variants[0], ["x.npy"], taps, ["out0"], 3), profile),
        (TuneJob(variants, "one", variants[0], ["x.npy"], 1.0, 1.0, 2), tuned),
    ]


def _result_seeds() -> list[bytes]:
    return [*(encode(result) for _, result in _results()), encode(Failure("ncnn died", True))]


def _read_job_result(folder: Path, data: bytes) -> None:
    """The same bytes as the result of each kind of job."""
    (folder / RESULT).write_bytes(data)

    def read(job: Any) -> None:
        found = read_result(folder, "said", "the board", job)
        assert decode(encode(found), job.result) == found

    each_way((partial(read, job) for job, _ in _results()), (NcnnkitError, WorkerError))


PLATFORM = Platform([3, 11, 2], "aarch64", "Linux", "glibc", "2.36", 1, 1.0)
AGENT: dict[type[Any], Any] = {
    Platform: PLATFORM, list[str]: ["ab" * 32], bool: True, Line: Line(Step("time", "one", 1, 4)), type(None): None,
}  # fmt: skip
"""What the agent of a board may be asked for -> an answer."""


class Saying:
    """A board whose agent prints these bytes: a transport without a connection."""

    address = "ssh://board"
    begun = None
    returncode = 0

    def __init__(self, said: Path) -> None:
        self.said = said
        self.stderr = io.BytesIO()

    def run(self, words: Sequence[str], data: bytes, timeout: float) -> bytes:
        return self.said.read_bytes()

    def popen(self, words: Sequence[str]) -> Any:
        return self

    def __enter__(self) -> Saying:
        self.stdout = self.said.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()

    def wait(self, timeout: float) -> int:
        return 0

    def kill(self) -> None:
        pass


def _agent_seeds() -> list[bytes]:
    lines = [json.dumps(asdict(value) if hasattr(value, "__dataclass_fields__") else value) for value in AGENT.values()]
    lines.append(json.dumps(asdict(Line(ended=Ended(True, "said")))))
    return [b"Welcome!\n" + MARK + line.encode() + b"\n" for line in lines]


def _read_agent(folder: Path, data: bytes) -> None:
    (folder / "said").write_bytes(data)
    board: Any = Saying(folder / "said")
    link = Link(board, "the board")

    def follow() -> None:
        with board as process:
            for _ in link.lines(process, "follow"):
                pass

    each_way([*(partial(link.ask, kind, "request") for kind in AGENT), follow])


def _tar_seeds() -> list[bytes]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("result.json", "outputs/0-0.npy", "é" * 60 + "/x"):
            content = npy(values(3, 4))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return [MARK + stream.getvalue()]


def _read_tar(folder: Path, data: bytes) -> None:
    (folder / "said").write_bytes(data)
    inside = folder / "inside"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    board: Any = Saying(folder / "said")
    try:
        Link(board, "the board").fetch(["fetch"], inside)
    finally:
        assert sorted(path.name for path in folder.iterdir()) == ["inside", "said"]
        assert not any(path.is_symlink() for path in inside.rglob("*"))


FORMATS: dict[str, Format] = {
    "answer": Format(_answer_seeds, _read_answer, (mutate_text, mutate_bytes), (ProtocolError,)),
    "result": Format(_result_seeds, _read_job_result, JSON, (NcnnkitError, WorkerError)),
    "agent": Format(_agent_seeds, _read_agent, TEXT),
    "tar": Format(_tar_seeds, _read_tar, BYTES),
}
