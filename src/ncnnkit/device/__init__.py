"""Where models run: this machine, a board over SSH, a phone over adb. One interface, :class:`Device`.

==========  ===============================================================
module      what it contains
==========  ===============================================================
base        the interface of every device
local       this machine
transport   runs a command on another machine: SSH, adb
board       a device behind a transport: Python, ncnn, files and jobs there
link        requests to the agent of a board (``onboard/agent.py``)
wheels      ncnn and numpy for a board's Python
serving     a serving process whose answers are checked
session     a network that runs on a device
looking     what a device reports about itself
fleet       several boards of one type as one device
sites       the devices of a run, with the facts about each
begun       the running processes of a device
names       names for devices, kept in a file
==========  ===============================================================
"""

from __future__ import annotations

from .base import Device
from .board import Board
from .fleet import Fleet
from .local import LOCAL, Local
from .names import addresses, resolve
from .transport import TRANSPORTS, Lost, Refused, parse_ssh

__all__ = [
    "LOCAL",
    "Board",
    "Device",
    "Fleet",
    "Local",
    "Lost",
    "Refused",
    "addresses",
    "open_device",
    "parse_ssh",
    "resolve",
]


def open_device(name: str) -> Device:
    """Open the device with a name (``ncnnkit devices``) or an address: ``local``, ``ssh://…``, ``adb://…``.

    Several addresses, separated by spaces, are a fleet of boards. A device is a context manager. Nothing happens on a
    board before the first request.

    Raises:
        RecipeError: there is no such name, and it is not an address.
    """
    found = addresses(name)
    if found == ["local"]:
        return Local()
    if len(found) > 1:
        return Fleet([_board(address) for address in found], name)
    return _board(found[0], name)


def _board(address: str, name: str = "") -> Board:
    return Board(TRANSPORTS[address.partition("://")[0]](address), name)
