"""Runs the self-test of an app on a device, and writes its receipt (``ncnnkit verify``)."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from ..codec import decode
from ..device.board import Board
from ..device.names import addresses
from ..device.transport import TRANSPORTS, Refused, Transport
from ..errors import DeviceError, FormatError, NcnnkitError, RecipeError
from ..model.ncnnfile import atomic_write
from ..older import UTC
from ..onboard.scratch import Scratch
from ..onboard.userfiles import SETTINGS, read_bytes
from ..progress import StepProgress, silent_steps
from .bundling import PARTS
from .writing import files_in

RECEIPT = "receipt.json"
SCHEMA = "ncnnkit-receipt/1"
BUILD_TIMEOUT = 3600.0  # seconds: ncnn itself may be built, on a slow board
RUN_TIMEOUT = 1800.0
FAILED = 3
"""The exit status of a self-test in which a figure is below its bound."""

SCRIPT = "infer.py"
"""The program of an app in Python, beside its app.json."""
PROGRAM_PARTS = (SCRIPT, PARTS, "infer.json")
"""The files and folders of the program of an app in Python."""

MACHINES = {62: "x86_64", 183: "aarch64", 40: "arm", 243: "riscv64"}
"""ELF's e_machine -> the output of ``uname -m``, or how it begins."""


@dataclass(frozen=True)
class TestedFigure:
    """A figure of a self-test.

    Attributes:
        name: of the figure.
        value: on the device; null if it is not a finite number.
        bound: the least value that passes.
        unit: ``dB``, or empty.
        passed: whether the value is at least the bound.
    """

    name: str
    value: float | None
    bound: float
    unit: str
    passed: bool


@dataclass(frozen=True)
class SelfTest:
    """What ``infer --self-test --json`` prints, in C++ and in Python.

    Attributes:
        model, precision, backend, device, threads: what ran, and where.
        ncnn, measured_ncnn: the version of ncnn in the program, and the version with which the model was measured.
        notes: differences from the conditions under which the model was measured.
        load_ms, input_ms: duration of loading, and of decoding and preparing an input, ms.
        latency_ms: ``first``, ``min``, ``median`` and ``p90``, ms, and ``runs``, the number of timed inferences.
        peak_memory_mb: peak resident memory, 10^6 bytes.
        examples: the number of examples.
        figures: the figures with their bounds.
        passed: whether all figures passed.
    """

    model: str
    precision: str
    backend: str
    device: str
    threads: int
    ncnn: str
    measured_ncnn: str
    notes: list[str]
    load_ms: float
    input_ms: float
    latency_ms: dict[str, float]
    peak_memory_mb: float
    examples: int
    figures: list[TestedFigure]
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The result of an app's self-test on a device: ``receipt.json``.

    Attributes:
        passed: whether all figures of the self-test passed, and no file of the app was changed.
        why: the reason if it did not pass; otherwise empty.
        made: time of the test, UTC.
        on: the name or address of the device.
        system: the output of ``uname`` on the device.
        cpu: the name of its processor; empty if Linux does not report it.
        built_there: whether the program was compiled on the device.
        changed: files of the app that differ from those that ncnnkit wrote.
        sha256: of the program, and of each file of the app that the self-test uses.
        versions: of ncnnkit, of ncnn in the program, and of the ncnn with which the model was measured.
        test: the self-test; null if it did not finish.
        conditions: clocks, temperatures and load before and after the test, read from files of the device.
        schema: version of this file's format.
    """

    passed: bool
    why: str
    made: str
    on: str
    system: str
    cpu: str
    built_there: bool
    changed: list[str]
    sha256: dict[str, str]
    versions: dict[str, str]
    test: SelfTest | None
    conditions: dict[str, dict[str, str]] = field(default_factory=dict)
    schema: str = SCHEMA


class _Tree(subprocess.Popen[bytes]):
    """A command in a session of its own. With it, everything that it has started is killed, such as compilers."""

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class Here(Transport):
    """A transport to this machine."""

    address = "local"

    def command(self, words: Sequence[str]) -> list[str]:
        return list(words)

    def popen(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return self.begun.add(_Tree(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True))

    def explained(self, words: Sequence[str], status: int, said: str) -> DeviceError:
        lines = [line for line in said.splitlines() if line.strip()]
        return Refused(lines[-1] if lines else f"{words[0]} ended with status {status}", where=self.address)


def open_transport(name: str) -> Transport:
    """A transport to the device with a name or address; to the first board of a fleet. Raises RecipeError."""
    address = addresses(name)[0]
    return Here() if address == "local" else TRANSPORTS[address.partition("://")[0]](address)


def verify_app(
    app: str | Path, on: str = "local", *, program: str | Path | None = None, options: Sequence[str] = (),
    progress: StepProgress = silent_steps,
) -> Receipt:  # fmt: skip
    """Run an app's self-test on a device, and write the result into its ``receipt.json``.

    The app's files are copied to the device. A program in C++ is built there if the device has CMake and a compiler.
    Otherwise a program for its processor is sent: ``program``, or one from the app's ``build`` folder. A program in
    Python runs in the device's own Python if that has ncnn and numpy; otherwise in ncnnkit's Python environment there,
    which has no Pillow.

    Args:
        app: the folder of an app.
        on: the device: a name, ``local``, ``ssh://…`` or ``adb://…``.
        program: the path of an ``infer`` for that device, only for an app in C++; None: see above.
        options: of ``infer``, such as ``--gpu`` or ``--threads=2``.
        progress: called with each step.

    Returns:
        The receipt. It is written whether the test passed or not.

    Raises:
        FormatError: the folder contains no app.
        RecipeError: there is no such device, or ``program`` is given for an app in Python.
        DeviceError: the device cannot be reached, or there is no program for it.

    Example:
        >>> verify_app("myapp", "rock5b").passed  # doctest: +SKIP
        True
    """
    app = Path(app)
    written = written_files(app)
    in_python = SCRIPT in written
    if in_python and program is not None:
        raise RecipeError("--infer is for an app in C++", where=str(app), hint="leave it out")
    with open_transport(on) as transport:
        board = _Board(transport, on)
        built_there = program is None and board.has_compiler and not in_python
        files = {name: app / name for name in written if (app / name).is_file()}
        if not in_python and not built_there:
            files["infer"] = Path(program) if program else fitting(app, board)
        hashes = {name: _sha256(path) for name, path in files.items()}
        changed = sorted(name for name, digest in written.items() if hashes.get(name) != digest)
        progress("copy the app", 0, 0)
        board.send(files, hashes)
        if built_there:
            progress("build the program", 0, 0)
            board.build()
        if in_python:
            progress("find a Python for the app", 0, 0)
            board.find_python()
        progress("self-test", 0, 0)
        before = board.conditions()
        test, why = board.self_test(options)
        conditions = {"before": before, "after": board.conditions()}
        folders = ("models", "examples", *(PROGRAM_PARTS if in_python else ()))
        used = {name: hashes[name] for name in sorted(hashes) if name.partition("/")[0] in folders}
        if not in_python:
            used["infer"] = board.sha256_of_program()
    if test is not None and not test.passed:
        why = "; ".join(f"{f.name} is {f.value}, below {f.bound:.4g}" for f in test.figures if not f.passed)
    if changed and not why:
        why = f"{changed[0]} was changed since ncnnkit wrote it"
    receipt = Receipt(
        passed=test is not None and not why, why=why, made=datetime.now(UTC).isoformat(timespec="seconds"),
        on=on, system=board.system, cpu=board.cpu, built_there=built_there, changed=changed, sha256=used,
        versions={
            "ncnnkit": version("ncnnkit"), "ncnn": test.ncnn if test else "",
            "measured_ncnn": test.measured_ncnn if test else "",
        },
        test=test, conditions=conditions,
    )  # fmt: skip
    save_receipt(receipt, app / RECEIPT)
    return receipt


def save_receipt(receipt: Receipt, path: Path) -> None:
    """Write a receipt. If a link is there, it is replaced, not what it points to. Raises StorageError."""
    with atomic_write(path) as file:
        file.write((json.dumps(asdict(receipt), indent=2) + "\n").encode())


def written_files(app: Path) -> dict[str, str]:
    """Path of each file that ncnnkit wrote into an app -> its SHA-256. Raises FormatError if there is no app."""
    from . import RECORD

    path = app / RECORD
    try:
        data = read_bytes(path, SETTINGS)
    except OSError:
        raise FormatError("contains no app", where=str(app), hint="ncnnkit app writes one") from None
    try:
        written = decode(data, dict[str, str])
    except FormatError as error:
        raise FormatError(f"is damaged: {error}", where=str(path), hint="write the app again") from None
    folder = Path(os.path.realpath(app))
    for name in written:
        if not name.isprintable() or not Path(os.path.realpath(app / name)).is_relative_to(folder):
            raise FormatError(f"names {name!r}, which is outside the app", where=str(path))
    return written


def machine_of(program: Path) -> str:
    """The processor of a program, as ``uname -m`` names it; empty if the file is not a program."""
    head = program.read_bytes()[:20] if program.is_file() else b""
    return MACHINES.get(struct.unpack_from("<H", head, 18)[0], "") if head[:4] == b"\x7fELF" and len(head) == 20 else ""


def fitting(app: Path, board: _Board) -> Path:
    """The newest program for the board's processor in the app's ``build`` folder. Raises DeviceError."""
    found = [
        path
        for path in files_in(app / "build")
        if path.name == "infer" and board.machine.startswith(machine_of(path) or "-")
    ]
    if not found:
        hint = "build one with cmake --preset aarch64-linux, name one with --infer, or install cmake and g++ there"
        what = f"has no compiler, and build/ contains no infer for {board.machine}"
        raise DeviceError(what, where=board.name, hint=hint)
    return max(found, key=lambda path: path.stat().st_mtime)


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


_HELLO = r"""
umask 077
mkdir -p "{cache}/apps" && cd "{cache}/apps" || exit 1
compiler=no
command -v cmake >/dev/null && {{ command -v c++ || command -v g++ || command -v clang++; }} >/dev/null && compiler=yes
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
model=$(tr -d '\000' 2>/dev/null </proc/device-tree/model || true)
printf '\036%s\037%s\037%s\037%s\037%s\036' "$PWD" "$compiler" "$(uname -m)" "$(uname -srvm)" "${{model:-$cpu}}"
"""
_CONDITIONS = r"""
cpus=/sys/devices/system/cpu/cpufreq
for file in $cpus/policy*/scaling_governor $cpus/policy*/scaling_cur_freq /sys/class/thermal/thermal_zone*/temp \
        /proc/loadavg; do
    [ -r "$file" ] && printf '%s=%s\n' "$file" "$(head -n 1 "$file" 2>/dev/null)"
done
true
"""
_OWN_PYTHON = r"""
python3 -c 'import ncnn, numpy' 2>/dev/null && command -v python3
true
"""
# Without a number, make compiles all files of ncnn at once. nproc prints OMP_NUM_THREADS if that is set.
_BUILD = r"""
unset OMP_NUM_THREADS OMP_THREAD_LIMIT
cd "$1" && {
    cmake -S . -B build -DCMAKE_BUILD_TYPE=Release &&
    cmake --build build --parallel "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN || echo 2)"
} >&2
"""
_SUM = 'cd "$1" && { sha256sum "$2" 2>/dev/null || shasum -a 256 "$2"; } | cut -c1-64'


class _Board:
    """The folder of an app on a device. All methods raise DeviceError."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = transport
        said = self._run(["sh", "-c", _HELLO.format(cache=transport.cache)]).split("\x1e")
        if len(said) < 3 or said[1].count("\x1f") != 4:
            raise DeviceError("has no Unix shell", where=name)
        self._home, compiler, self.machine, self.system, self.cpu = said[1].split("\x1f")
        self.has_compiler = compiler == "yes"
        self._folder = ""
        self._program = ["./infer"]

    def send(self, files: dict[str, Path], hashes: dict[str, str]) -> None:
        """Copy the files into a folder of their own, named after a hash of their content."""
        digest = sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()[:16]
        self._folder = f"{self._home}/{digest}"
        with Scratch() as work:
            archive = Path(work) / "app.tar"
            with tarfile.open(archive, "w") as tar:
                for name, path in files.items():
                    data = path.read_bytes()
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = (
                        len(data),
                        0o755 if name.endswith(".sh") or name in ("infer", SCRIPT) else 0o644,
                    )
                    tar.addfile(member, io.BytesIO(data))
            unpack = 'rm -rf "$1" && mkdir -p "$1" && tar -C "$1" -xf -'
            self._run(["sh", "-c", unpack, "sh", self._folder], archive.read_bytes(), RUN_TIMEOUT)

    def build(self) -> None:
        """Compile the program."""
        self._run(["sh", "-c", _BUILD, "sh", self._folder], timeout=BUILD_TIMEOUT)
        self._program = ["./build/infer"]

    def find_python(self) -> None:
        """Choose the Python that runs ``infer.py``."""
        if isinstance(self._transport, Here):
            own = sys.executable
        else:
            own = self._run(["sh", "-c", _OWN_PYTHON]).strip() or Board(self._transport, self.name).python
        self._program = [own, SCRIPT]

    def self_test(self, options: Sequence[str]) -> tuple[SelfTest | None, str]:
        """Run the self-test. Returns (result, ""), or (None, the reason) if there is no result."""
        line = f'cd "$1" && shift && "$@" || [ $? -eq {FAILED} ]'
        words = [*self._program, "--self-test", "--json", *options]
        try:
            said = self._run(["sh", "-c", line, "sh", self._folder, *words], timeout=RUN_TIMEOUT)
            return decode(said.splitlines()[-1].encode(), SelfTest), ""
        except Refused as error:
            return None, error.what
        except (FormatError, LookupError) as error:
            return None, f"the program's answer cannot be read: {error}"

    def conditions(self) -> dict[str, str]:
        """Path of a system file -> its first line."""
        lines = self._run(["sh", "-c", _CONDITIONS]).splitlines()
        return {name: value for name, found, value in (line.partition("=") for line in lines[:200]) if found}

    def sha256_of_program(self) -> str:
        """The SHA-256 of the program on the device."""
        return self._run(["sh", "-c", _SUM, "sh", self._folder, *self._program]).strip()

    def _run(self, words: Sequence[str], data: bytes = b"", timeout: float = 60.0) -> str:
        try:
            return self._transport.run(words, data, timeout).decode(errors="replace")
        except Refused as error:
            raise type(error)(error.what, where=self.name, hint=error.hint) from None
        except NcnnkitError as error:
            raise DeviceError(error.what, where=self.name, hint=error.hint) from None


def check_options(options: Sequence[str]) -> list[str]:
    """Check that options for the program name no files. Raises RecipeError."""
    strange = next((word for word in options if not word.startswith("--")), None)
    if strange is not None:
        raise RecipeError(f"{strange!r} is not an option of infer", hint="give options such as --gpu or --threads=2")
    return list(options)
