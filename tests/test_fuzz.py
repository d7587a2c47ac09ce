"""Changed files of every format that ncnnkit reads: each is read, or refused with an error of ncnnkit.

``scripts/fuzz.py`` reads many more. Files that failed once are in tests/corpus.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fuzzing import FORMATS
from fuzzing.engine import Reader, corpus, fuzz, replay
from fuzzing.format import BYTES, MB, Format
from mutations import mutated

from ncnnkit.errors import FormatError

ROOT = Path(__file__).parent.parent
COUNTS = {"onnx": 20, "report": 20}
"""Changed files of the formats that take longer to read; of the others: 100."""


@pytest.mark.parametrize("name", FORMATS)
def test_valid_files_are_no_fault(name: str) -> None:
    assert [fault for fault in replay(name, FORMATS[name].seeds()) if fault[0]] == []


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_failed_once_do_not_fail_again(name: str) -> None:
    paths = corpus(name)
    found = replay(name, [path.read_bytes() for path in paths])
    assert [(path.name, *fault) for path, fault in zip(paths, found, strict=True) if fault[0]] == []


def test_every_folder_of_files_that_failed_belongs_to_a_format() -> None:
    assert {path.name for path in (ROOT / "tests" / "corpus").iterdir()} <= FORMATS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_read_or_refused(name: str) -> None:
    count = COUNTS.get(name, 100)
    result = fuzz(name, count)
    assert [(fault.name, fault.text) for fault in result.examples] == []
    assert result.files == count


def test_the_same_seed_makes_the_same_files() -> None:
    for name in ("param", "card", "npz", "onnx", "recipe"):
        row = FORMATS[name]
        seeds = row.seeds()
        one, again, other = (
            [mutated(seeds[0], Random(f"{seed} {index}"), seeds, row.kinds) for index in range(50)]
            for seed in (0, 0, 1)
        )
        assert one == again
        assert one != other


# ----------------------------------------------------------------------------------------------------------- the engine


def _divide(folder: Path, data: bytes) -> None:
    raise ZeroDivisionError


def _wait(folder: Path, data: bytes) -> None:
    while True:
        pass


def _take_memory(folder: Path, data: bytes) -> None:
    bytearray(64 * MB)


def _take_all(folder: Path, data: bytes) -> None:
    bytearray(1 << 40)


def _die(folder: Path, data: bytes) -> None:
    os.abort()


def _refuse(folder: Path, data: bytes) -> None:
    raise FormatError("no")


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (_divide, "ZeroDivisionError in test_fuzz.py"),
        (_wait, "Slow in test_fuzz.py"),
        (_take_memory, "memory"),
        (_take_all, "MemoryError in test_fuzz.py"),
        (_die, "process died, SIGABRT"),
    ],
)
def test_a_fault_is_found_and_the_others_are_read(
    read: Callable[[Path, bytes], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_times(folder: Path, data: bytes) -> None:
        read(folder, data) if data[:1] < b"\x40" else _refuse(folder, data)

    monkeypatch.setitem(FORMATS, "odd", Format(lambda: [b"\xff" * 3], at_times, BYTES))
    result = fuzz("odd", 12 if read is _wait else 60, seed=3)
    assert [fault for fault in result.faults if not fault.startswith(name)] == []
    assert sum(result.faults.values()) >= 1
    assert result.examples[0].data[:1] < b"\x40"
    assert result.refused >= 1


def test_a_process_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.engine.HUNG", 0.5)
    sleep = Format(lambda: [b"x"], lambda folder, data: time.sleep(0 if data == b"x" else 60), BYTES)
    monkeypatch.setitem(FORMATS, "odd", sleep)
    assert fuzz("odd", 1).faults == {"hangs": 1}


def test_memory_of_a_large_file_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "odd", Format(lambda: [b"x"], _take_memory, BYTES))
    reader = Reader("odd", tmp_path)
    assert reader.read(b"x")[0] == "memory"
    assert reader.read(b"x" * MB)[0] == ""


FREE_MEMORY = """
    import ctypes
    from fuzzing.engine import _Memory

    c = ctypes.CDLL(None)
    c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    c.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: large blocks come from the heap, too
    blocks, last = [c.malloc(1 << 20) for _ in range(100)], c.malloc(1 << 10)
    for block in blocks:
        ctypes.memset(block, 1, 1 << 20)
    for block in blocks:
        c.free(block)
    memory = _Memory()
    memory.reset()
    bytearray(64 << 20)
    assert memory.growth > 60 << 20, memory.growth
"""


def test_memory_counts_that_the_process_had_freed_before() -> None:
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FREE_MEMORY)],
        check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_the_command_saves_what_shows_a_fault_and_replays_it(tmp_path: Path) -> None:
    """A fault that is made for this: the calibration table is read by a program that divides by zero."""
    program = (
        "import sys; sys.argv[0] = 'fuzz.py'; sys.path[:0] = [{tests!r}, {scripts!r}]\n"
        "import fuzz, fuzzing, dataclasses\n"
        "row = fuzzing.FORMATS['table']\n"
        "fuzzing.FORMATS['table'] = dataclasses.replace(row, read=lambda folder, data: 1 / len(data[:0]))\n"
        "sys.exit(fuzz.main())"
    ).format(tests=str(ROOT / "tests"), scripts=str(ROOT / "scripts"))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    out = tmp_path / "out"
    done = call("table", "--count", "5", "--seed", "9", "--out", str(out), "--json", str(tmp_path / "x.jsonl"))
    assert done.returncode == 1, done.stderr
    assert "| table | 5 |" in done.stdout
    assert "ZeroDivisionError" in done.stderr
    saved = sorted(path for path in out.iterdir() if path.suffix != ".txt")
    assert len(saved) == 3
    assert all(path.name.startswith("table-ZeroDivisionError-in-") and "-9-" in path.name for path in saved)
    assert "| table | 5 |" in call("--add", str(tmp_path / "x.jsonl")).stdout
    again = call("table", "--replay", *map(str, saved))
    assert again.returncode == 1
    assert again.stdout.count("ZeroDivisionError in ") == 3
    assert call("nothing").returncode == 2


def test_the_threat_model_names_tests_and_formats_that_there_are() -> None:
    page = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    tests = set(re.findall(r"`(tests/\w+\.py)`", page))
    assert tests
    assert [name for name in tests if not (ROOT / name).is_file()] == []
    said = [re.findall(r"`(\w+)`", row) for row in re.findall(r"formats? (`.*?) of the fuzzer", page)]
    named = {name for row in said for name in row}
    assert named <= FORMATS.keys()
    assert FORMATS.keys() - named == {"table", "devices"}, "files that only the user writes"
