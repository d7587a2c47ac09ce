"""Names for devices, kept in ``~/.config/ncnnkit/devices.toml``: a table of name = "address".

Several addresses, separated by spaces, are boards of one type that share an evaluation.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RecipeError, reading
from ..model.ncnnfile import atomic_write
from ..older import tomllib
from ..onboard.userfiles import read_text
from .transport import TRANSPORTS, parse_ssh


def names_file() -> Path:
    """``$XDG_CONFIG_HOME/ncnnkit/devices.toml``, by default below ``~/.config``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ncnnkit" / "devices.toml"


def load_names() -> dict[str, str]:
    """Name -> address. Raises RecipeError if the file is not valid."""
    path = names_file()
    with reading(path, RecipeError, ValueError):
        try:
            table = tomllib.loads(read_text(path))
        except FileNotFoundError:
            return {}
    if not all(isinstance(address, str) for address in table.values()):
        raise RecipeError('must contain lines of name = "address"', where=str(path))
    return table


def save_names(names: dict[str, str]) -> None:
    """Write the file. Raises StorageError."""
    import tomli_w

    path = names_file()
    with atomic_write(path) as file:
        file.write(tomli_w.dumps(names).encode())


def add_name(name: str, address: str) -> None:
    """Give an address a name. Raises RecipeError if either is not valid."""
    if is_address(name) or not name.strip() or not name.isprintable():
        raise RecipeError(f"{name!r} is not a valid name", hint="letters, digits, . _ and -, such as rock5b")
    save_names({**load_names(), name: check_address(address)})


def remove_name(name: str) -> None:
    """Remove a name. Raises RecipeError if there is no such name."""
    names = load_names()
    if names.pop(name, None) is None:
        raise RecipeError(f"no device is called {name!r}", hint="ncnnkit devices lists them")
    save_names(names)


def is_address(text: str) -> bool:
    """Whether a text has the form of an address, not of a name."""
    return text == "local" or text.partition("://")[0] in TRANSPORTS


def check_address(address: str) -> str:
    """The address, or the addresses of several boards, if valid. Otherwise raises RecipeError."""
    words = address.split(" ")
    for word in words:
        scheme, separator, _ = word.partition("://")
        if any(not c.isprintable() for c in word) or not is_address(word):
            raise RecipeError(f"{word!r} is not a device", hint="local, ssh://user@host, adb://serial, or a name of "
                              "`ncnnkit devices`")  # fmt: skip
        if separator and scheme == "ssh":
            parse_ssh(word)
        if len(words) > 1 and (word == "local" or words.count(word) > 1):
            raise RecipeError(f"{address!r} is not several boards", hint="ssh:// or adb:// addresses, each once")
    return address


def addresses(name: str) -> list[str]:
    """The addresses of a name or address: of each board of a fleet. Raises RecipeError."""
    return resolve(name).split(" ")


def resolve(name: str) -> str:
    """The address of a name or address; of a fleet, several, separated by spaces. Raises RecipeError."""
    return check_address(name if is_address(name) else load_names().get(name, name))
