"""Where models run: this machine, a board over SSH, a phone over adb. One interface, :class:`Device`.

==========  ===============================================================
module      what is in it
==========  ===============================================================
base        what every device can do
local       this machine
transport   running a command somewhere else: SSH, adb
board       a device behind a transport: Python, ncnn, files and jobs there
agent       what runs on the board for it
wheels      ncnn and numpy for a board's Python
names       names for devices, kept in a file
==========  ===============================================================
"""

from __future__ import annotations

from .base import Device
from .board import Board
from .local import LOCAL, Local
from .names import resolve
from .transport import TRANSPORTS, Lost, Refused, parse_ssh

__all__ = ["LOCAL", "Board", "Device", "Local", "Lost", "Refused", "open_device", "parse_ssh", "resolve"]


def open_device(name: str) -> Device:
    """The device of a name (``ncnnkit devices``) or an address: ``local``, ``ssh://…``, ``adb://…``.

    It is a context manager; nothing is done on the board before it is asked for something.

    Raises:
        RecipeError: no such name, or no address.
    """
    address = resolve(name)
    if address == "local":
        return Local()
    return Board(TRANSPORTS[address.partition("://")[0]](address), name)
