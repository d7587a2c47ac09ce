"""The errors ncnnkit raises on purpose, and the exit code each one ends a command with.

    NcnnkitError
    ├── InputError            exit 3: something the user gave is wrong
    │   ├── ModelError            a model reference, its weights or its shapes
    │   ├── FormatError           the bytes of a .param, .bin or table file
    │   ├── ImageError            images, arrays, labels
    │   └── RecipeError           an option or a recipe file
    ├── ToolError             exit 4: something ncnnkit relies on failed
    │   ├── ConvertError          no route converts the model to ncnn
    │   ├── RuntimeFailure        ncnn crashed, hung or ran out of memory
    │   ├── DeviceError           a board that cannot be reached, or was lost
    │   └── StorageError          the disk is full or not writable
    └── VerificationError     exit 5: it ran, but the result must not be trusted

Every error says *what* is wrong, *where*, and *what to do* (the hint).

Two functions turn other exceptions into these errors. :func:`reading` does so where a file of the user's is read, and
names the file. :func:`of_machine` does so for the exceptions that the machine causes, such as a full disk; commands
call it for whatever reaches them. Any other exception is a bug in ncnnkit. It ends a command with exit code 1 and a
traceback.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OK = 0
BUG = 1
USAGE = 2  # chosen by Typer/Click for a bad command line
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
UNREAD = 141  # 128 + SIGPIPE: whatever read the output has ended, as `head` does


_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text with visible signs for what controls a terminal: names in files may hold anything.

    Line ends and tabs stay. Characters that change the direction of writing become U+FFFD, because they can make a name
    look like another one.

    Example:
        >>> printable("cat\\x1b[2J")
        'cat␛[2J'
    """

    def sign(found: re.Match[str]) -> str:
        code = ord(found[0])
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"

    return _CONTROLS.sub(sign, text)


class NcnnkitError(Exception):
    """An expected failure.

    Args:
        what: the problem, in one clause.
        where: the file, line, layer or option that has the problem.
        hint: what the user can do about it.

    Example:
        >>> try:
        ...     nk.load("nowhere.param")
        ... except nk.NcnnkitError as error:
        ...     print(error)
        nowhere.param: no such file
    """

    exit_code = BUG

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self.line())

    def line(self) -> str:
        """The error as a command prints it, in one line."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text} ({self.hint})" if self.hint else text
        return printable(" ".join(text.split()))


class InputError(NcnnkitError):
    exit_code = 3


class ModelError(InputError):
    """A model reference, its weights or its input shapes cannot be used."""


class FormatError(InputError):
    """The content of a .param, .bin or table file is not valid."""


class ImageError(InputError):
    """Images, arrays or labels cannot be used."""


class RecipeError(InputError):
    """An option, or a line of a recipe file, cannot be used."""


class ToolError(NcnnkitError):
    exit_code = 4


class ConvertError(ToolError):
    """No route converts the model: a tool is missing or failed, or ncnn has no layer for an operator."""


class RuntimeFailure(ToolError):
    """The process that ran ncnn crashed, hung or ran out of memory."""


class DeviceError(ToolError):
    """A board cannot be reached, was lost during work, or lacks what measuring needs."""


class StorageError(ToolError):
    """A file could not be written: disk full, no permission."""


class VerificationError(NcnnkitError):
    """A model runs, but its outputs must not be trusted."""

    exit_code = 5


@contextmanager
def reading(
    path: str | Path, kind: type[NcnnkitError], *faults: type[Exception], what: str = "cannot be read", hint: str = ""
) -> Iterator[None]:
    """Turn what goes wrong while a file of the user's is read into an error that names the file.

    That is: the system refuses the file, it is not UTF-8, it is nested too deeply, or a number or the whole does not
    fit into memory. Errors of ncnnkit pass as they are. A block should hold the reading only, not the work on what was
    read.

    Args:
        path: the file.
        kind: the class of the error.
        faults: what the reader raises for content that it cannot read, such as ``json.JSONDecodeError``. Errors of
            ncnnkit, too, if they do not name the file.
        what: what the error says before the reason, if the content is at fault.
        hint: what the user can do about it.

    Example:
        >>> with reading("card.json", FormatError, ValueError):
        ...     int("1" * 5000)
        Traceback (most recent call last):
        ncnnkit.errors.FormatError: card.json: cannot be read: a number has too many digits
    """
    always = (OSError, UnicodeDecodeError, RecursionError, MemoryError, OverflowError)
    caught: tuple[type[Exception], ...] = (*always, *faults)
    try:
        yield
    except NcnnkitError as error:
        if not isinstance(error, faults):
            raise
        raise kind(f"{what}: {error.line()}", where=str(path), hint=hint) from None
    except caught as error:
        if isinstance(error, OSError) and (is_full(error) or error.errno in _TOO_MANY):
            raise
        said = "cannot be read" if isinstance(error, OSError | MemoryError) else what
        raise kind(f"{said}: {reason(error)}", where=str(path), hint=hint) from None


def reason(error: BaseException) -> str:
    """Why something failed, as one short clause."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 at position {error.start}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split())
    if text.startswith("Exceeds the limit") and "integer string conversion" in text:
        return "a number has too many digits"
    if isinstance(error, MemoryError):
        return f"it does not fit into the memory{f' ({text})' if text else ''}"
    return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …") or type(error).__name__


def is_full(error: OSError) -> bool:
    """Whether a disk is full. numpy gives no number for that, only "n requested and m written"."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "requested and" in str(error))


_LONGEST = 300
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


def of_machine(error: BaseException) -> NcnnkitError | None:
    """The error for an exception that the machine causes: its memory, its disks, its limits.

    Returns:
        None if the exception is none of these. It is then a bug in ncnnkit.
    """
    if isinstance(error, MemoryError):
        return StorageError(f"there is not enough memory{f' ({error})' if str(error) else ''}")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return ToolError("no more threads can be started", hint="`ulimit -u` shows how many processes you may have")
    if not isinstance(error, OSError):
        return None
    where = "" if error.filename is None else str(error.filename)
    if error.errno in _TOO_MANY:
        return ToolError("too many files are open", hint="`ulimit -n 4096` allows more; or use fewer threads")
    if is_full(error):
        return StorageError("the disk is full", where=where, hint="free some space and run again")
    if error.errno == errno.EFBIG and not where:
        return StorageError("a file is larger than this process may write", hint="`ulimit -f` shows the limit")
    if "temporary directory" in str(error):
        hint = "free some space, or set TMPDIR to a folder that can be written"
        return StorageError("no folder for temporary files can be written", hint=hint)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(reason(error), where=where)
    return InputError(reason(error), where=where) if where else ToolError(reason(error))


def meant(name: str, known: Iterable[str]) -> str:
    """A hint that suggests the known name with the most similar spelling; empty if none is similar.

    Example:
        >>> meant("modle", ["model", "images"])
        'did you mean model?'
    """
    return _did_you_mean(_close(name, known))


def meant_path(path: Path) -> str:
    """A hint that suggests a file or folder with a similar name in the same folder; empty if there is none.

    Names are compared without their extensions. Among similar names, those with the same extension are preferred.
    """
    try:
        names = sorted(path.parent.iterdir())
    except OSError:
        return ""
    close = _close(path.stem, {each.stem for each in names})
    alike = [each for stem in close for each in names if each.stem == stem]
    same = [each for each in alike if each.suffix == path.suffix]
    return _did_you_mean([each.name for each in same or alike][:3])


def _close(name: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # only errors need it

    return get_close_matches(name, list(known), 3)


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""
