"""Runs commands on another machine, with the system's OpenSSH or adb. Nothing here depends on ncnn.

A command is a list of words. They are quoted once, here, for the shell that OpenSSH and adb start on the other machine.
No text of a user reaches a shell unquoted.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from ..errors import DeviceError, RecipeError
from ..onboard.scratch import Scratch
from .begun import Begun

TIMEOUT = 60.0  # seconds for one command
CLOSING = 2.0  # seconds for closing the shared connection

_SSH_OPTIONS = MappingProxyType(
    {
        "BatchMode": "yes",  # never ask for a password
        "ConnectTimeout": "15",
        # A lost connection is detected within half a minute; a busy board may be slow to answer.
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        # One connection for all commands.
        "ControlMaster": "auto",
        "ControlPersist": "60",
    }
)
"""Everything else is left to the user's ~/.ssh/config: agents, jump hosts. Host keys are checked as configured
there."""

_HINTS: tuple[tuple[str, str], ...] = (
    ("Host key verification failed", "its key is not known, or has changed: connect once by hand, with ssh {host}"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its key has changed: find out why before you trust it"),
    ("Permission denied", "a key must let you in without a password: ssh-copy-id {host}"),
    ("Could not resolve hostname", "is the name right? Names of ~/.ssh/config work, too"),
    ("Connection refused", "does it run an SSH server, on that port?"),
    ("timed out", "is it switched on, and in this network?"),
    ("No route to host", "is it switched on, and in this network?"),
)
"""Text in a message of ssh -> what to do."""


class Lost(DeviceError):
    """The connection broke, or could not be made. The command may still be running."""


class Refused(DeviceError):
    """The command ran there and failed."""


class Transport(ABC):
    """A way of running commands on a device. A context manager; leaving it closes the connection."""

    address: str
    cache = "${XDG_CACHE_HOME:-$HOME/.cache}/ncnnkit"
    """The folder of our files on the device, in the syntax of its shell."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  # adb has nothing to close
        """Close the connection. Safe to call twice."""

    @cached_property
    def begun(self) -> Begun:
        """The running commands."""
        return Begun()

    @abstractmethod
    def command(self, words: Sequence[str]) -> list[str]:
        """The local command that runs ``words`` on the device, connected to its stdin and stdout."""

    @abstractmethod
    def explained(self, words: Sequence[str], status: int, said: str) -> DeviceError:
        """The error for a command that ended with ``status`` and printed ``said`` to stderr."""

    def popen(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command."""
        pipe = subprocess.PIPE
        # Ctrl-C goes to this process only, which ends the work on the device before it closes the connection.
        return self.begun.add(
            subprocess.Popen(self.command(words), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        )

    def run(self, words: Sequence[str], data: bytes = b"", timeout: float = TIMEOUT) -> bytes:
        """Run a command to its end.

        Args:
            words: the command.
            data: its stdin.
            timeout: seconds.

        Returns:
            Its stdout.

        Raises:
            Lost: the connection broke.
            Refused: the command failed.
        """
        with self.popen(words) as process:
            try:
                output, said = process.communicate(data, timeout)
            except subprocess.TimeoutExpired:
                raise Lost(f"no answer for {timeout:.0f} s", where=self.address) from None
            finally:
                process.kill()
        if process.returncode:
            raise self.explained(words, process.returncode, said.decode(errors="replace"))
        return output


class Ssh(Transport):
    """``ssh://[user@]host[:port]``, with the system's OpenSSH.

    Raises:
        RecipeError: the address is not valid.
        DeviceError: OpenSSH is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._host, options = parse_ssh(address)
        if shutil.which("ssh") is None:
            raise DeviceError("OpenSSH is missing", where=address, hint="Debian: apt install openssh-client")
        self._folder = Scratch()
        control = {"ControlPath": f"{self._folder.name}/ssh"}
        self._options = [f"-o{key}={value}" for key, value in {**_SSH_OPTIONS, **control}.items()] + options

    def command(self, words: Sequence[str]) -> list[str]:
        return ["ssh", "-T", *self._options, "--", self._host, shlex.join(words)]

    def explained(self, words: Sequence[str], status: int, said: str) -> DeviceError:
        lines = [line for line in said.splitlines() if line.strip()]
        # 255 is the status of ssh itself, also if a command was killed with its connection.
        if status == 255 or status < 0:
            hint = next((hint for text, hint in _HINTS if text in said), "")
            return Lost(
                lines[-1] if lines else "the connection broke", where=self.address, hint=hint.format(host=self._host)
            )
        return Refused(lines[-1] if lines else f"{words[0]} ended with status {status}", where=self.address)

    def close(self) -> None:
        if Path(self._folder.name).is_dir():
            ending = ["ssh", *self._options, "-O", "exit", "--", self._host]
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(ending, capture_output=True, check=False, timeout=CLOSING)
            self._folder.cleanup()


class Adb(Transport):
    """``adb://serial``, with the system's adb: a phone or an Android board whose shell user has a Python.

    Raises:
        RecipeError: the address is not valid.
        DeviceError: adb is not installed.
    """

    cache = "/data/local/tmp/ncnnkit"

    def __init__(self, address: str) -> None:
        self.address = address
        serial = unquote(address.partition("://")[2])
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*", serial):
            raise RecipeError(
                f"{address!r} is not a device of adb", hint="adb://SERIAL; `adb devices` lists the serials"
            )
        if shutil.which("adb") is None:
            raise DeviceError("adb is missing", where=address, hint="Debian: apt install adb")
        self._serial = serial

    def command(self, words: Sequence[str]) -> list[str]:
        return ["adb", "-s", self._serial, "shell", "-T", shlex.join(words)]

    def explained(self, words: Sequence[str], status: int, said: str) -> DeviceError:
        lines = [line for line in said.splitlines() if line.strip()]
        if any(text in said for text in ("not found", "offline", "unauthorized", "no devices", "closed")) and (
            "adb" in said or "device" in said
        ):
            return Lost(lines[-1], where=self.address, hint="adb devices shows what is connected")
        return Refused(lines[-1] if lines else f"{words[0]} ended with status {status}", where=self.address)


def parse_ssh(address: str) -> tuple[str, list[str]]:
    """(host as OpenSSH takes it, options for port and user) of an ``ssh://`` address. Raises RecipeError."""
    parts = urlsplit(address)
    bad = RecipeError(f"{address!r} is not an address of a board", hint="such as ssh://user@rock5b:22")
    try:
        host, port, user = parts.hostname, parts.port, unquote(parts.username or "")
    except ValueError:
        raise bad from None
    # Also the names of hosts in ~/.ssh/config, but nothing that ssh would take for an option or expand.
    if not host or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*", host) or parts.path not in ("", "/"):
        raise bad
    if user and not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]*", user):
        raise bad
    if parts.password is not None or parts.query or parts.fragment:
        raise bad
    # Names in ~/.ssh/config are case-sensitive, but urlsplit makes them lower case.
    name = re.search(re.escape(host), parts.netloc, re.IGNORECASE)
    host = name.group() if name else host
    return host, [*(("-p", str(port)) if port else ()), *(("-l", user) if user else ())]


TRANSPORTS: MappingProxyType[str, type[Ssh] | type[Adb]] = MappingProxyType({"ssh": Ssh, "adb": Adb})
"""Scheme of an address -> the class of its transport."""
