"""Devices: addresses and names, quoting of commands, and boards that fail during a job.

The board here is this machine behind a shell, like a board behind OpenSSH. Only the connection is a stand-in.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import job_variant, samples, small
from processes import children, open_processes
from test_wrong import changed, judged

import ncnnkit as nk
from ncnnkit.artifact import Artifact
from ncnnkit.device import LOCAL, Board, Lost, Refused, board, link, open_device, parse_ssh, wheels
from ncnnkit.device.base import job_files
from ncnnkit.device.begun import Begun
from ncnnkit.device.link import unpack
from ncnnkit.device.names import add_name, load_names, names_file, remove_name, resolve
from ncnnkit.device.session import Session
from ncnnkit.device.sites import Site, run_jobs
from ncnnkit.device.transport import Adb, Ssh, Transport
from ncnnkit.errors import DeviceError, RecipeError, RuntimeFailure, StorageError
from ncnnkit.measure.variants import VariantSpec, measure
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard import agent
from ncnnkit.onboard.child import WorkerError
from ncnnkit.onboard.facts import Platform
from ncnnkit.onboard.protocol import JobModel, JobVariant, MeasureJob, MeasureResult, TuneJob, VariantResult

NASTY = ["a b", "it's", 'say "x"', "$(touch pwned)", "`touch pwned`", "a\nb", "-rf", "*", "~", "ü; exit 1", "a\\b", ""]


class Shell(Transport):
    """Commands go through a shell on this machine, like a login shell, with a separate home."""

    address = "ssh://here"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cut = threading.Event()
        self.commands: list[Sequence[str]] = []

    def command(self, words: Sequence[str]) -> list[str]:
        self.commands.append(words)
        home = {"HOME": str(self.home), "XDG_CACHE_HOME": ""}
        path = os.environ["PATH"]
        return ["env", "-i", *(f"{k}={v}" for k, v in home.items()), f"PATH={path}", "sh", "-c", shlex.join(words)]

    def popen(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        if self.cut.is_set():
            raise Lost("Connection refused", where=self.address)
        return super().popen(words)

    def explained(self, words: Sequence[str], status: int, said: str) -> DeviceError:
        lines = said.strip().splitlines()
        kind = Lost if status < 0 else Refused
        return kind(lines[-1] if lines else f"status {status}", where=self.address)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    home = tmp_path / "it's $HOME"
    home.mkdir()
    return Shell(home)


@pytest.fixture
def here(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A board with this Python, so nothing is downloaded."""
    monkeypatch.setattr(Board, "python", sys.executable)
    monkeypatch.setattr(link, "PATIENCE", (0.1, 0.2))
    with Board(shell, "the board") as device:
        yield device


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nk.save(small(), tmp_path / "a model's $(param).param")
    return tmp_path / "a model's $(param).param"


def job(folder: Path, model: Path, rounds: int = 2, seconds: float = 0.1) -> MeasureJob:
    np.save(folder / "in put.npy", samples(3))
    variant = job_variant(model, "fp32", "fp32-cpu")
    return MeasureJob([variant], [str(folder / "in put.npy")], str(folder), rounds, seconds, slow_seconds=1.0)


# ---------------------------------------------------------------------------------------------- addresses and names


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ssh://rock5b", ("rock5b", [])),
        ("ssh://Pi4.local:2222", ("Pi4.local", ["-p", "2222"])),
        ("ssh://user@10.0.0.7", ("10.0.0.7", ["-l", "user"])),
        ("ssh://a.b%40c@[fe80::1]:22", ("fe80::1", ["-p", "22", "-l", "a.b@c"])),
    ],
)
def test_an_address(address: str, expected: tuple[str, list[str]]) -> None:
    assert parse_ssh(address) == expected


@pytest.mark.parametrize(
    "address",
    ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://a;b", "ssh://a/b", "ssh://u:secret@h", "ssh://-l@h",
     "ssh://$(x)@h", "ssh://h:99999", "ssh://a\nb", "ssh://h?x", "telnet://h", "", "a board", "adb://"],
)  # fmt: skip
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(RecipeError):
        open_device(address)


@pytest.mark.parametrize("text", NASTY)
def test_a_serial_number_of_adb_is_an_address(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a device"):
        Adb("adb://" + text)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_names() == {}
    for name in ("rock", "it's my $(board)", "Küche"):
        add_name(name, "ssh://user@rock5b")
        assert resolve(name) == "ssh://user@rock5b"
    remove_name("rock")
    assert sorted(load_names()) == ["Küche", "it's my $(board)"]
    for name, address in (("ssh://x", "local"), (" ", "local"), ("a\nb", "local"), ("x", "rock5b"), ("x", "ssh://-x")):
        with pytest.raises(RecipeError):
            add_name(name, address)
    with pytest.raises(RecipeError, match="no device is called 'rock'"):
        remove_name("rock")
    names_file().write_text("rock = 1\n")
    with pytest.raises(RecipeError, match="must contain lines"):
        load_names()


# --------------------------------------------------------------------------------------------------------- commands


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=1, max_size=4))
def test_words_arrive_unchanged(words: list[str]) -> None:
    """The shell on the other side gets the same words that are given to ssh and adb."""
    for command in (Ssh("ssh://host").command(words), adb().command(words)):
        assert command[command.index("--") + 2 if "--" in command else -1 :] == [shlex.join(words)]
    done = subprocess.run(["sh", "-c", shlex.join(["printf", r"%s\0", *words])], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def adb() -> Adb:
    made = Adb.__new__(Adb)
    made.address, made._serial = "adb://1", "1"
    return made


def fake(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + body)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Host key verification failed.", "connect once by hand, with ssh rock5b"),
        ("user@rock5b: Permission denied (publickey).", "ssh-copy-id rock5b"),
        ("ssh: Could not resolve hostname rock5b: Name or service not known", "is the name right"),
        ("ssh: connect to host rock5b port 22: Connection refused", "SSH server"),
        ("ssh: connect to host rock5b port 22: Connection timed out", "switched on"),
    ],
)
def test_messages_of_ssh_have_a_hint(said: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path / "bin", "ssh", f"echo {shlex.quote(said)} >&2; exit 255", monkeypatch)
    with Ssh("ssh://rock5b") as transport, pytest.raises(Lost) as error:
        transport.run(["true"])
    assert (error.value.what, error.value.where) == (said, "ssh://rock5b")
    assert hint in error.value.hint


def test_host_keys_are_checked_without_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path / "bin", "ssh", f'printf "%s\\n" "$@" >> {tmp_path}/seen', monkeypatch)
    with Ssh("ssh://user@rock5b:2222") as transport:
        transport.run(["echo", "it's"])
    seen = (tmp_path / "seen").read_text()
    assert "BatchMode=yes" in seen
    assert "StrictHostKeyChecking" not in seen, "as the user configured it"
    assert "-p\n2222\n-l\nuser\n--\nrock5b\necho 'it'\"'\"'s'\n" in seen
    assert seen.endswith("-O\nexit\n--\nrock5b\n"), "the connection is closed"


def test_a_phone_behind_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for adb with a shell. Only our side is tested."""
    body = '[ "$1 $2 $3 $4" = "-s 1A2b shell -T" ] || exit 9\nexec sh -c "$5"\n'
    fake(tmp_path / "bin", "adb", body, monkeypatch)
    monkeypatch.setattr(Adb, "cache", str(tmp_path / "there"))
    monkeypatch.setattr(Board, "python", sys.executable)
    with open_device("adb://1A2b") as device:
        assert isinstance(device, Board)
        with device.child() as child:
            assert child.ask("machine")[0].machine.machine
        device.clean()
    assert not (tmp_path / "there").exists()
    fake(tmp_path / "bin", "adb", "echo \"adb: device '1A2b' not found\" >&2; exit 1", monkeypatch)
    with open_device("adb://1A2b") as device, pytest.raises(Lost, match="not found"):
        device.put([])


# ------------------------------------------------------------------------------------------------------- the board


def test_a_job_on_a_board_gives_the_same_result_as_here(here: Board, tmp_path: Path, model: Path) -> None:
    steps: list[Any] = []
    (there,) = here.run_job(job(tmp_path, model), steps.append).variants
    (local,) = LOCAL.run_job(job(tmp_path, model)).variants
    assert there.status == "ok"
    for blob, path in there.outputs.items():
        assert np.array_equal(np.load(path), np.load(local.outputs[blob]))
    assert [step.stage for step in steps] == ["evaluate", "time", "time"]
    assert list((home_of(here) / "jobs").iterdir()) == [], "what was brought here is not kept there"


def home_of(device: Board) -> Path:
    transport = device._link.transport
    assert isinstance(transport, Shell)
    return transport.home / ".cache" / "ncnnkit"


def test_files_are_sent_once_and_checked(here: Board, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b $(c)"
    first.write_bytes(b"x" * 3_000_000)
    second.write_bytes(b"y")
    paths = here.put([first, second, first])
    assert [Path(path).read_bytes() for path in paths] == [b"x" * 3_000_000, b"y", b"x" * 3_000_000]
    assert not list(home_of(here).rglob("*.part"))
    transport = here._link.transport
    assert isinstance(transport, Shell)
    transport.commands.clear()
    here.put([second, first])
    assert not [words for words in transport.commands if "receive" in words]


def processes(device: Board, pattern: str) -> str:
    """The pattern for pkill that only matches processes of this board, including its shells, which quote its home."""
    return f"{re.escape(str(home_of(device).parents[2]))}/.*{pattern}"


def test_the_death_of_a_serving_process_on_a_board_is_reported(here: Board, model: Path) -> None:
    with here.child() as child:
        param, weights = here.put([model, model.with_suffix(".bin")])
        child.ask("load", param=param, bin=weights, backend="cpu", options=PRECISIONS["fp32"].options, threads=1)
        subprocess.run(["pkill", "-SEGV", "-f", processes(here, "program-.* serve")], check=True)
        with pytest.raises(WorkerError, match=r"signal 11 \(SIGSEGV\)"):
            child.ask("memory")


def test_cleaning_leaves_nothing(here: Board, tmp_path: Path, model: Path) -> None:
    here.run_job(job(tmp_path, model))
    assert home_of(here).is_dir()
    here.clean()
    assert not home_of(here).exists()
    assert here.run_job(job(tmp_path, model)).variants[0].status == "ok", "and it can be used again"


def test_a_broken_connection_is_resumed(here: Board, tmp_path: Path, model: Path) -> None:
    """The job goes on, and its messages are not lost."""
    transport = here._link.transport
    assert isinstance(transport, Shell)
    broken = 0

    def step(message: Any) -> None:
        nonlocal broken
        if not broken:
            broken += (
                subprocess.run(["pkill", "-f", processes(here, "program-.* agent follow")], check=False).returncode == 0
            )

    (row,) = here.run_job(job(tmp_path, model, rounds=4), step).variants
    assert broken
    assert (row.status, len(row.samples) >= 4) == ("ok", True)
    assert sum("follow" in words for words in transport.commands) == 2


def test_a_lost_board_is_an_error_and_a_second_try_resumes(here: Board, tmp_path: Path, model: Path) -> None:
    transport = here._link.transport
    assert isinstance(transport, Shell)
    asked = job(tmp_path, model, rounds=3, seconds=1.0)

    def cut(_: Any) -> None:
        transport.cut.set()
        subprocess.run(["pkill", "-f", processes(here, "program-.* agent follow")], check=False)

    with pytest.raises(Lost, match=r"the board: .*run again to resume it"):
        here.run_job(asked, cut)
    transport.cut.clear()
    (folder,) = (home_of(here) / "jobs").iterdir()
    number, _ = json.loads((folder / "pid").read_text())
    (row,) = here.run_job(asked).variants
    assert row.status == "ok"
    started = [words for words in transport.commands if "start" in words]
    assert len(started) == 2
    assert number > 0
    assert not folder.exists()


def test_a_measuring_process_that_is_killed_keeps_what_it_had(here: Board, tmp_path: Path, model: Path) -> None:
    asked = job(tmp_path, model, rounds=50, seconds=20.0)
    second = job_variant(model, "bf16", "bf16-cpu")

    def kill(message: Any) -> None:
        if message.stage == "time" and message.done == 2:
            subprocess.run(["pkill", "-KILL", "-f", processes(here, "program-.* job job.json")], check=True)

    rows = here.run_job(replace(asked, variants=[*asked.variants, second]), kill).variants
    assert [row.status for row in rows] == ["crashed", "crashed"]
    assert all("the process that measured it died: killed" in row.reason for row in rows)
    assert all(Path(path).is_file() for row in rows for path in row.outputs.values())


def test_an_interrupt_ends_the_job_there(here: Board, tmp_path: Path, model: Path) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.run_job(job(tmp_path, model, seconds=60.0), interrupt)
    assert list((home_of(here) / "jobs").iterdir()) == []
    assert subprocess.run(["pgrep", "-f", processes(here, "program-.* job job.json")], check=False).returncode == 1


class Outliving(Shell):
    """As with SSH, the job goes on when the connection, a process here, is killed, and its output ends."""

    def command(self, words: Sequence[str]) -> list[str]:
        *start, text = super().command(words)
        pipe = shlex.quote(str(self.home / f"pipe-{len(self.commands)}"))
        return [*start, f"mkfifo {pipe}; exec 3<&0; {{ {text}; }} <&3 3<&- >{pipe} 2>/dev/null & exec cat {pipe}"]


SLOW_START = """
def start(*rest):
    import time
    text = sys.stdin.buffer.read()
    (HOME / "asked").touch()
    while not (HOME / "go on").exists():
        time.sleep(0.01)
    sys.stdin = __import__("io").TextIOWrapper(__import__("io").BytesIO(text))
    try:
        honest_start(*rest)
    finally:
        (HOME / "started").touch()
"""
"""A request of the agent that waits until the file ``go on`` exists."""


@pytest.mark.parametrize("how", ["interrupt", "cancel"])
def test_cancelling_while_a_job_starts_leaves_no_job(
    how: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is still running when the client has left, and the request that forgets the job overtakes it."""
    monkeypatch.setattr(Board, "python", sys.executable)
    (tmp_path / "far").mkdir()
    with Board(Outliving(tmp_path / "far"), "the board") as device:
        device.put([])
        home = home_of(device)
        agent = home / device._there.program / "agent.py"
        text = agent.read_text().replace("def start(", "def honest_start(")
        agent.write_text(text.replace("REQUESTS: Dict", SLOW_START + "\n\nREQUESTS: Dict"))

        def give_up() -> None:
            wait_for(home / "asked")
            os.kill(os.getpid(), signal.SIGINT) if how == "interrupt" else device.cancel()

        thread = threading.Thread(target=give_up)
        thread.start()
        with pytest.raises(KeyboardInterrupt if how == "interrupt" else Lost):
            device.run_job(job(tmp_path, model, seconds=60.0))
        thread.join()
        (home / "go on").touch()
        wait_for(home / "started")
        jobs = home / "jobs"
        assert not jobs.exists() or list(jobs.iterdir()) == []
        assert subprocess.run(["pgrep", "-f", processes(device, "program-.* job job.json")], check=False).returncode


def wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} never came")


def test_a_job_that_arrives_partly_is_not_started(here: Board, tmp_path: Path, model: Path) -> None:
    """The connection broke while it was sent. A new request sends it completely."""
    name = agent.job_name(here._there.program, sys.executable, job(tmp_path, model).text().encode())
    with pytest.raises(Refused, match="the job was damaged during the transfer"):
        here._agent.tell("start", name, "1", sys.executable, data=b'{"kind": "mea')
    assert not (home_of(here) / "jobs").exists()


def test_a_cancelled_job_can_be_requested_again(here: Board, tmp_path: Path, model: Path) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    asked = job(tmp_path, model)
    with pytest.raises(KeyboardInterrupt):
        here.run_job(asked, interrupt)
    assert here.run_job(asked).variants[0].status == "ok"


def test_one_lost_device_does_not_end_the_others(here: Board, tmp_path: Path, model: Path) -> None:
    class Gone:
        name = "gone"

        def run_job(self, *_: Any) -> Any:
            raise Lost("Connection refused", where="gone")

    machine = boards.machine()
    sites = [Site(device, machine, "arm") for device in (Gone(), here)]  # type: ignore[arg-type]
    gone, good = run_jobs({site: job(tmp_path, model) for site in sites}, lambda message: None).values()
    assert isinstance(gone, DeviceError)
    assert isinstance(good, MeasureResult)
    assert good.variants[0].status == "ok"


def test_a_board_without_python_is_an_error(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sh", "env", "mkdir"):
        (bare / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(bare))
    with Board(shell, "the board") as device, pytest.raises(DeviceError, match=r"no Python 3\.9 or newer"):
        device.put([])


def test_a_full_disk_is_reported(here: Board, model: Path) -> None:
    """With the message of Python there. A disk that is really full is tested on the emulated board."""
    here.put([])
    agent = home_of(here) / here._there.program / "agent.py"
    agent.write_text(
        "import sys\ndef main(*_):\n    sys.stdin.buffer.read()\n    sys.exit('[Errno 28] No space left on device')"
    )
    with pytest.raises(DeviceError, match="its disk is full") as error:
        here.put([model])
    assert "devices clean" in error.value.hint


class Chatty(Shell):
    """A board with a login shell that prints text before and after every command."""

    def command(self, words: Sequence[str]) -> list[str]:
        *start, text = super().command(words)
        return [*start, f"echo Welcome to the board; {text}; ended=$?; echo Goodbye; exit $ended"]


def test_a_greeting_of_the_login_shell_is_not_an_answer(here: Board, tmp_path: Path, model: Path) -> None:
    home = tmp_path / "chatty"
    home.mkdir()
    with Board(Chatty(home)) as device:
        assert device.about.python == list(sys.version_info[:3])
        with device.child() as child:
            assert child.ask("machine")[0].machine.cores >= 1
        assert device.run_job(job(tmp_path, model)).variants[0].status == "ok"


def spoil(device: Board, request: str, body: str) -> None:
    """Let the agent there answer a request with something else."""
    device.put([])
    agent = home_of(device) / device._there.program / "agent.py"
    text = agent.read_text().replace("def main(", "def honest(")
    agent.write_text(
        f"{text}\ndef main(request, *rest):\n"
        f"    if request != {request!r}:\n        return honest(request, *rest)\n"
        f"    print(MARK.decode(), end='', flush=True)\n    {body}\n"
    )


BROKEN = [
    ("about", "print('hello')"),
    ("about", "print('{}')"),
    ("missing", "print('3')"),
    ("follow", "print('hello')"),
    ("follow", "print('[1]')"),
    ("follow", """print('{"progress": 1}')"""),
    ("fetch", "print('hello' * 1000)"),
    ("fetch", "sys.stdout.write(''); sys.stdout.flush(); os.kill(os.getpid(), 9)"),
]


@pytest.mark.parametrize(("request_", "body"), BROKEN)
def test_a_board_that_breaks_the_protocol_only_fails_itself(
    here: Board, tmp_path: Path, model: Path, request_: str, body: str
) -> None:
    spoil(here, request_, body)
    with pytest.raises(DeviceError, match="the board: ") if request_ == "about" else contextlib.nullcontext():
        assert here.about or request_ != "about"
    other = tmp_path / "other"
    other.mkdir()
    machine = boards.machine()
    with Board(Shell(other), "the other") as good:
        sites = [Site(device, machine, "arm") for device in (here, good)]
        found, fine = run_jobs({site: job(tmp_path, model) for site in sites}, lambda message: None).values()
    assert isinstance(found, DeviceError) or request_ == "about"
    assert isinstance(fine, MeasureResult)
    assert fine.variants[0].status == "ok"


def answer_with(device: Board, result: str) -> None:
    """Let every job there end with this result."""
    device.put([])
    program = home_of(device) / device._there.program / "jobs.py"
    program.write_text(f"def main(job, result):\n    open(result, 'w').write({result!r})\n")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret", "outputs/../../secret", "outputs/absent.npy"])
def test_a_result_may_only_name_its_own_files(here: Board, tmp_path: Path, model: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    answer_with(here, json.dumps({"variants": [{"name": "fp32-cpu", "status": "ok", "outputs": {"out0": path}}]}))
    with pytest.raises(DeviceError, match="broke the protocol"):
        here.run_job(job(tmp_path, model))


VALID: dict[str, Any] = {"name": "fp32-cpu", "samples": [1.0]}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("[]", "expected an object, found a list"),
        ("{}", "variants: is missing"),
        ("nonsense", "is not JSON"),
        ('{"x": ' + "[" * 5000, "is not JSON"),
        (json.dumps({"error": ["x"]}), "error: expected text, found a list"),
        (json.dumps({"variants": 3}), "variants: expected a list, found a whole number"),
        (json.dumps({"variants": [VALID, {**VALID, "status": "fine"}]}), r"variants\[1\]\.status: .*'fine'"),
        (json.dumps({"variants": [{**VALID, "samples": ["fast"]}]}), r"variants\[0\]\.samples\[0\]: expected a number"),
        (json.dumps({"variants": [{**VALID, "samples": [float("nan")]}]}), "is not JSON"),
        (json.dumps({"variants": [{**VALID, "load_ms": {"cold": 1.0}}]}), r"variants\[0\]\.load_ms\.warm: is missing"),
        (json.dumps({"variants": [{**VALID, "outputs": {"out0": 3}}]}), r"outputs.*: expected text"),
        (
            json.dumps({"variants": [{**VALID, "conditions": {"throttled_by": 1}}]}),
            r"conditions\.throttled_by: expected",
        ),
    ],
)
def test_a_result_that_is_wrong_names_the_first_wrong_field(
    here: Board, tmp_path: Path, model: Path, result: str, said: str
) -> None:
    answer_with(here, result)
    with pytest.raises(DeviceError, match=rf"the board: result\.json is not what a job writes: .*{said}"):
        here.run_job(job(tmp_path, model))


def test_a_session_on_a_board_runs_one_network_after_the_other(here: Board, shell: Shell) -> None:
    other, x = small(), samples(1)[0]
    other.layer("c2").weights["weight"] = other.layer("c2").array("weight") * np.float32(2)
    with Session(small()) as local, Session(small(), device=here) as there:
        served = [words for words in shell.commands if words[-1] == "serve"]
        assert len(served) == 1
        np.testing.assert_allclose(there.run(x), local.run(x), rtol=1e-5)
        refused = small()
        refused.layer("c3").type = "Cast"
        refused.layer("c3").params, refused.layer("c3").weights = {"type_from": 2, "type_to": 1}, {}
        with pytest.raises(RuntimeFailure, match=r"^the board: ncnn: .*c3"):
            there.load(Artifact.made(refused, "fp32"))
        for net in (local, there):
            assert not net.closed
            net.load(other)
        np.testing.assert_allclose(there.run(x), local.run(x), rtol=1e-5)
        assert [words for words in shell.commands if words[-1] == "serve"] == served
    assert there.closed


def test_the_first_wrong_layer_is_searched_on_the_board(here: Board, shell: Shell) -> None:
    """Its kernels differ from this machine's."""
    wrong = changed(small(), "c2", -1.0)
    (row,) = judged([("fp32-cpu", -6.0)], wrong, site=Site(here, boards.machine(), "arm"))
    assert row.reason.endswith("; the first wrong layer is c2 (Convolution)")
    assert any(words[-1] == "serve" for words in shell.commands)


def test_a_board_can_only_answer_for_its_own_variants(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = [Site(LOCAL, boards.machine(), "arm", label) for label in ("@good", "@bad")]
    specs = [VariantSpec(site.variant("fp32", "cpu"), "fp32", "cpu", 1, site, Artifact.of(model)) for site in sites]
    good, bad = VariantResult("fp32-cpu@good", samples=[1.0]), VariantResult("fp32-cpu@good", samples=[2.0])
    answers = {sites[0]: MeasureResult([good]), sites[1]: MeasureResult([bad])}
    monkeypatch.setattr("ncnnkit.measure.variants.run_jobs", lambda jobs, notify: answers)
    first, second = measure(specs, [], tmp_path, seconds=0.1, rounds=1)
    assert first is good
    assert (second.name, second.status, second.reason) == ("fp32-cpu@bad", "crashed", "local returned no result for it")


def test_a_new_program_does_not_resume_the_job_of_an_old_one(
    here: Board, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = here._link.transport
    assert isinstance(transport, Shell)
    asked = job(tmp_path, model, rounds=1)

    def cut(_: Any) -> None:
        transport.cut.set()
        subprocess.run(["pkill", "-f", processes(here, "program-.* agent follow")], check=False)

    with pytest.raises(Lost):
        here.run_job(asked, cut)
    transport.cut.clear()
    (old,) = (home_of(here) / "jobs").iterdir()
    python = tmp_path / "python"  # a newer ncnn's
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(Board, "python", str(python))
    assert here.run_job(asked).variants[0].status == "ok"
    assert old.exists(), "it was another job"
    monkeypatch.setattr(board, "PROGRAM", {**board.PROGRAM, "test.py": Path(__file__)})
    with Board(transport, "the board") as upgraded:
        assert upgraded.run_job(asked).variants[0].status == "ok"
        assert upgraded._there.program != here._there.program
    assert old.exists()


def test_stopping_ends_a_hung_process_in_a_session_of_its_own(here: Board, tmp_path: Path, model: Path) -> None:
    here.put([])
    program = home_of(here) / here._there.program / "jobs.py"
    program.write_text(
        "import signal, subprocess, sys, time\n"
        "def main(job, result):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    code = 'import signal, time; signal.signal(15, 1); print(0, flush=True); time.sleep(600)'\n"
        "    child = subprocess.Popen([sys.executable, '-c', code], stdout=-1, start_new_session=True)\n"
        "    child.stdout.readline()\n"
        """    print('{"step": {"stage": "time", "variant": "%d"}}' % child.pid, flush=True)\n"""
        "    time.sleep(600)\n"
    )
    ends: list[int] = []

    def interrupt(message: Any) -> None:
        ends.append(os.pidfd_open(int(message.variant)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.run_job(job(tmp_path, model), interrupt)
    (end,) = ends
    assert select.select([end], [], [], 10)[0], "it lives for 600 s"
    os.close(end)
    assert list((home_of(here) / "jobs").iterdir()) == []


def test_files_that_were_used_least_recently_are_removed(here: Board, tmp_path: Path) -> None:
    """Files of this request or of a job are never removed."""
    here.put([])
    agent = home_of(here) / here._there.program / "agent.py"
    agent.write_text(agent.read_text().replace("KEEP_BYTES = 2 << 30", "KEEP_BYTES = 250"))
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}")
        paths[-1].write_bytes(bytes([number]) * 100)
    kept = [Path(path) for path in here.put(paths)]
    assert all(path.is_file() for path in kept), "what a request needs is there, whatever the limit"
    for age, path in enumerate(reversed(kept)):
        os.utime(path, (1e9 - age, 1e9 - age))
    job_file = home_of(here) / "jobs" / "j" / "job.json"
    job_file.parent.mkdir(parents=True)
    job_file.write_text(json.dumps({"param": str(kept[1])}))
    here.put([paths[0]])
    assert [path.is_file() for path in kept] == [True, True, False, True, True]


def test_sigterm_stops_a_job(here: Board, tmp_path: Path, model: Path) -> None:
    """SIGTERM of the job's group, as `devices clean` sends it, leaves no process behind."""
    here.put([])
    started = threading.Event()
    result: list[Any] = []

    def run() -> None:
        try:
            here.run_job(job(tmp_path, model, seconds=60.0, rounds=100), lambda _: started.set())
        except DeviceError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    (folder,) = (home_of(here) / "jobs").iterdir()
    number, _ = json.loads((folder / "pid").read_text())
    ends = open_processes(children(number))
    assert ends
    os.killpg(number, signal.SIGTERM)
    thread.join(60)
    assert not thread.is_alive()
    for end in ends.values():
        assert select.select([end], [], [], 20)[0]
        os.close(end)


# ------------------------------------------------------------------------------------------------------------- parts


def test_the_files_of_a_job_are_found_and_changed() -> None:
    variant = JobVariant("param", JobModel(["p", "b"], "fp32", {}))
    reference = JobVariant("bin", JobModel(["q", "c"], "fp32", {}))
    rows = TuneJob([variant, variant], "param", reference, ["i"], 1.0, 1.0, 1)
    assert set(map(str, job_files(rows))) == {"b", "c", "i", "p", "q"}
    changed = rows.with_files(str.upper)
    assert changed.candidates == [JobVariant("param", JobModel(["P", "B"], "fp32", {}))] * 2
    assert (changed.reference.model.files[0], changed.inputs, changed.base) == ("Q", ["I"], "param")


def platform(machine: str, libc: list[str]) -> Platform:
    return Platform([3, 9, 2], machine, "Linux", libc[0], libc[1], free_bytes=0, time=0.0)


@pytest.mark.parametrize(
    ("libc", "machine", "first", "last"),
    [
        (["glibc", "2.36"], "aarch64", "manylinux_2_36_aarch64", "manylinux2014_aarch64"),
        (["glibc", "2.28"], "x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"),
        (["", ""], "aarch64", "musllinux_1_2_aarch64", "musllinux_1_1_aarch64"),
    ],
)
def test_wheels_are_requested_with_every_fitting_tag(libc: list[str], machine: str, first: str, last: str) -> None:
    tags = wheels._tags(platform(machine, libc))
    assert (tags[0], tags[-1]) == (first, last)


def test_wheels_that_do_not_exist_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wanted = platform("aarch64", ["glibc", "2.31"])
    with pytest.raises(DeviceError, match=r"rock5b: no wheels of ncnn==.* and numpy for Python 3\.9 on glibc2"):
        wheels.fetch_wheels(wanted, "rock5b", Begun())
    assert not list(tmp_path.rglob(".part-*"))


def test_a_clock_that_is_fifty_years_late_is_no_problem(
    here: Board, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a board without a battery and a network starts in 1970."""
    late = tmp_path / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text("import time\ntime.time = lambda: 1e6\n")
    plain = Shell.command

    def command(self: Shell, words: Sequence[str]) -> list[str]:
        first, second, *rest = plain(self, words)
        return [first, second, f"PYTHONPATH={late}", *rest]

    monkeypatch.setattr(Shell, "command", command)
    assert here.about.time == 1e6
    assert here.run_job(job(tmp_path, model)).variants[0].status == "ok"


@pytest.mark.parametrize("name", ["inside/x/y", "inside", "n" * 300, "a/" * 3000 + "b"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        for each in ("inside/x", name):
            made.addfile(tarfile.TarInfo(each))
    archive.seek(0)
    with tarfile.open(fileobj=archive, mode="r|") as opened:
        first, bad = iter(opened), None
        unpack(opened, next(first), tmp_path)
        bad = next(first)
        with pytest.raises(ValueError, match=r"cannot be the name of a file|outside the folder"):
            unpack(opened, bad, tmp_path)


def test_a_disk_that_is_full_while_files_of_a_board_arrive_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        made.addfile(tarfile.TarInfo("x"))
    archive.seek(0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with tarfile.open(fileobj=archive, mode="r|") as opened, pytest.raises(StorageError, match="No space left"):
        unpack(opened, next(iter(opened)), tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/tmp/ncnnkit-outside", "a/../../outside", "."])
def test_a_file_of_a_board_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        for each in ("inside/x", name):
            entry = tarfile.TarInfo(each)
            entry.size = 3
            made.addfile(entry, io.BytesIO(b"abc"))
    archive.seek(0)
    (tmp_path / "folder").mkdir()
    with tarfile.open(fileobj=archive, mode="r|") as opened:
        members = iter(opened)
        unpack(opened, next(members), tmp_path / "folder")
        bad = next(members)
        with pytest.raises(ValueError, match="outside the folder"):
            unpack(opened, bad, tmp_path / "folder")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x"]
