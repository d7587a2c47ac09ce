"""Commands for this machine and for boards with names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from ..errors import OK
from .commands import Group, command, guarded, shown_examples
from .options import Json, On, Quiet
from .progress import looking, shown_progress
from .terminal import out

group = typer.Typer()


@command(group, "doctor", "ncnnkit doctor", "ncnnkit doctor --on ssh://rock@board")
def doctor(on: On = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Check this machine or a board: ncnn, pnnx, Vulkan devices and drivers, CPU features."""
    from ..doctor import examine

    if on:
        _print_findings(_examined(on, quiet or as_json), as_json)
    with shown_progress(quiet or as_json) as progress:
        progress(looking(None), 0, 0)
        findings = examine()
    _print_findings(findings, as_json)


def _examined(names: Sequence[str], quiet: bool) -> list[Any]:
    """The findings about each device."""
    from ..doctor import examine_device

    findings = []
    with shown_progress(quiet) as progress:
        for name in names:
            progress(looking(name), 0, 0)
            findings += examine_device(name)
    return findings


def _print_findings(findings: Sequence[Any], as_json: bool) -> NoReturn:
    from ..doctor import as_json as to_json

    styles = {"ok": "green", "note": "yellow", "problem": "red"}
    if as_json:
        print(json.dumps(to_json(list(findings)), indent=2))
    else:
        for finding in findings:
            level = (f"{finding.level:7}", styles[finding.level])
            out.print(Text.assemble(level, " ", (finding.subject, "bold"), f"  {finding.text}"), soft_wrap=True)
    raise typer.Exit(4 if any(finding.level == "problem" for finding in findings) else OK)


devices = typer.Typer(
    cls=Group, epilog=shown_examples("ncnnkit devices", "ncnnkit devices add rock5b ssh://rock@board")
)
group.add_typer(devices, name="devices")

DeviceName = Annotated[str, typer.Argument(metavar="NAME", help="The name.")]


@devices.callback(invoke_without_command=True)
@guarded
def look_at_devices(context: typer.Context, as_json: Json = False, quiet: Quiet = False) -> None:
    """Manage the names of boards. Without a command: check each board that has a name."""
    from ..device.names import load_names

    if context.invoked_subcommand is not None:
        return
    names = load_names()
    if not names and not as_json:
        out.print("no device has a name; add one, such as: ncnnkit devices add rock5b ssh://user@rock5b")
        return
    _print_findings(_examined(list(names), quiet or as_json), as_json)


Addresses = Annotated[
    list[str],
    typer.Argument(
        metavar="ADDRESS", help="ssh://user@host or adb://serial. For several boards of one type: the address of each."
    ),
]


@command(
    devices, "add", "ncnnkit devices add rock5b ssh://rock@192.168.1.7",
    "ncnnkit devices add shelf ssh://rock@board1 ssh://rock@board2",
)  # fmt: skip
def add_device(name: DeviceName, addresses: Addresses) -> None:
    """Give a device a name. Several boards of one type may have one name; each then evaluates a part of the images."""
    from ..device.names import add_name

    address = " ".join(addresses)
    add_name(name, address)
    out.print(f"{name}: {address}")


@command(devices, "remove", "ncnnkit devices remove rock5b")
def remove_device(name: DeviceName) -> None:
    """Remove a name. The files on the device stay; `clean` removes them."""
    from ..device.names import remove_name

    remove_name(name)


@command(devices, "clean", "ncnnkit devices clean rock5b")
def clean_device(name: Annotated[str, typer.Argument(metavar="NAME", help="A name or an address.")]) -> None:
    """Remove all files of ncnnkit from a device: Python packages, models, unfinished jobs."""
    from ..device import open_device

    with open_device(name) as device:
        device.clean()
    out.print(f"{name}: all files of ncnnkit are removed")
