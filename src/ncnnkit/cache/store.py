"""Entries on disk, by key: ``$XDG_CACHE_HOME/ncnnkit/stages``, by default ``~/.cache/ncnnkit/stages``.

======================  ============================================================
``KEY/entry.json``      what the entry is, and the SHA-256 of each of its files
``KEY/value``           the value, as bytes
``KEY/files/…``         files that belong to it, if there are any
``ncnnkit-scratch-…/``  what a process is writing or removing; see :class:`Scratch`
======================  ============================================================

An entry is written in a scratch folder and renamed, so it is whole or absent, whenever a process is killed. The next
process that uses the folder removes what a dead one left. Nothing is synchronised to the disk: after a power failure a
file may be wrong, and then its hash is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..codec import decode, encode
from ..errors import FormatError, StorageError
from ..older import file_digest
from ..onboard.scratch import Scratch, remove_left
from ..onboard.userfiles import SETTINGS, open_regular, read_bytes

MOST_BYTES = 2 << 30
"""All entries together. Beyond it, the least recently used ones are removed."""

LARGEST_SHARE = 4
"""An entry may take one part in so many of :data:`MOST_BYTES`; a larger one is not kept."""

LEAST_FREE = 1 << 30
"""Bytes that must stay free on the disk."""


def cache_folder() -> Path:
    """The folder for files that are expensive to make: ``$XDG_CACHE_HOME/ncnnkit``, by default ``~/.cache/ncnnkit``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncnnkit"


@dataclass(frozen=True)
class Entry:
    """What an entry says of itself.

    Attributes:
        what: the result, in words, such as ``int8 network``.
        sha256: path within the entry -> SHA-256.
    """

    what: str
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """An entry in a list.

    Attributes:
        key: its key.
        what: the result, in words.
        size: of its files, bytes.
        used: when it was last used, seconds since 1970.
    """

    key: str
    what: str
    size: int
    used: float


class Store:
    """The entries in a folder. Several processes may use it at the same time.

    Args:
        home: the folder; it is made when something is kept. By default that of the user.
        most: bytes of all entries together.

    Example:
        >>> store = Store(Path("stages"))
        >>> store.keep("ab12", "greeting", b"hello")
        True
        >>> store.value("ab12")
        b'hello'
    """

    def __init__(self, home: Path | None = None, most: int = MOST_BYTES) -> None:
        self.home = cache_folder() / "stages" if home is None else home
        self._most = most

    def value(self, key: str, folder: Path | None = None) -> bytes | None:
        """The value of an entry; None if there is none. An entry that is damaged is removed.

        Args:
            key: the key.
            folder: gets copies of the entry's files.
        """
        if not self._is_ours():
            return None
        remove_left(str(self.home))
        place = self.home / key
        try:
            entry = decode(read_bytes(place / _ENTRY, SETTINGS), Entry)
            value = read_bytes(place / _VALUE, self._most)
            found = {_VALUE: hashlib.sha256(value).hexdigest()}
            for name in entry.sha256.keys() - {_VALUE}:
                found[name] = (
                    _digest(place / name) if folder is None else _copied(place / name, folder / Path(name).name)
                )
            if found != entry.sha256:
                raise ValueError("damaged")
            os.utime(place / _ENTRY)
        except FileNotFoundError:
            if not place.exists():
                return None
            self._remove([key])
        except (FormatError, ValueError):
            self._remove([key])
        except OSError as error:  # not readable, or the disk is full
            if error.errno in _NO_FILE:
                self._remove([key])
        else:
            return value
        return None

    def keep(self, key: str, what: str, value: bytes, files: Sequence[Path] = ()) -> bool:
        """Keep a value and copies of files; the least recently used entries make room for it.

        Args:
            key: the key. If it has an entry, that stays.
            what: the result, in words.
            value: the value.
            files: files with different names.

        Returns:
            Whether it is kept. It is not if it is too large, the disk is full, or the folder belongs to someone else.
        """
        size = len(value) + sum(path.stat().st_size for path in files)
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self.home).free
            if not self._is_ours() or size > self._most // LARGEST_SHARE or free - size < LEAST_FREE:
                return False
            with Scratch(str(self.home)) as scratch:
                draft = Path(scratch) / "entry"
                (draft / _FILES).mkdir(parents=True)
                (draft / _VALUE).write_bytes(value)
                names = {f"{_FILES}/{path.name}": _copied(path, draft / _FILES / path.name) for path in files}
                sha256 = {_VALUE: hashlib.sha256(value).hexdigest(), **names}
                (draft / _ENTRY).write_bytes(encode(Entry(what, sha256)))
                with suppress(OSError):  # another process kept the same meanwhile
                    draft.rename(self.home / key)
            self._make_room()
        except OSError:  # whatever keeps a cache from growing, the run is none the worse for it
            return False
        return True

    def entries(self) -> list[Kept]:
        """Every entry, the least recently used first."""
        found = []
        for place in self._places():
            with suppress(OSError, FormatError):
                described = place / _ENTRY
                what = decode(read_bytes(described, SETTINGS), Entry).what
                found.append(Kept(place.name, what, _size(place), described.stat().st_mtime))
        return sorted(found, key=lambda kept: kept.used)

    def clear(self) -> int:
        """Remove every entry; returns the number of bytes that this frees.

        Raises:
            StorageError: the folder is another user's, or cannot be written.
        """
        if not self.home.exists():
            return 0
        if not self._is_ours():
            raise StorageError("belongs to another user, or others may write into it", where=str(self.home))
        places = self._places()
        freed = sum(map(_size, places))
        try:
            self._remove([place.name for place in places])
        except OSError as error:
            raise StorageError(f"cannot be written: {error.strerror}", where=str(self.home)) from None
        return freed

    def _places(self) -> list[Path]:
        try:
            return [place for place in self.home.iterdir() if (place / _ENTRY).is_file()]
        except OSError:
            return []

    def _make_room(self) -> None:
        entries = self.entries()
        spare = sum(kept.size for kept in entries) - self._most
        removed = []
        for kept in entries:
            if spare <= 0:
                break
            removed.append(kept.key)
            spare -= kept.size
        self._remove(removed)

    def _remove(self, keys: Iterable[str]) -> None:
        """Remove entries, each of them at once: nobody sees half of one."""
        keys = list(keys)
        if keys:
            with Scratch(str(self.home)) as scratch:
                for key in keys:
                    with suppress(FileNotFoundError):
                        (self.home / key).rename(Path(scratch) / key)

    def _is_ours(self) -> bool:
        """Whether the folder is this user's, and no other user may write into it: entries are trusted."""
        try:
            found = self.home.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


_ENTRY, _VALUE, _FILES = "entry.json", "value", "files"
_NO_FILE = (errno.EINVAL, errno.EFBIG, errno.EISDIR)  # how what is no file, or is too large, is refused
_PART = 1 << 20


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return str(file_digest(file).hexdigest())


def _copied(path: Path, to: Path) -> str:
    """Copy a file; returns the SHA-256 of its content."""
    digest = hashlib.sha256()
    to.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(path) as source, to.open("wb") as target:
        while part := source.read(_PART):
            digest.update(part)
            target.write(part)
    return digest.hexdigest()


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
