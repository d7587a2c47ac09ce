"""What runs keep for later ones."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import typer

from .commands import Group, command, guarded, shown_examples
from .options import Json
from .terminal import out

group = typer.Typer()
cache = typer.Typer(cls=Group, epilog=shown_examples("ncnnkit cache", "ncnnkit cache clear"))
group.add_typer(cache, name="cache")


@cache.callback(invoke_without_command=True)
@guarded
def look_at_cache(context: typer.Context, as_json: Json = False) -> None:
    """Show what runs have kept for later ones. Without a command: list the results, the most recently used first."""
    from ..cache.store import MOST_BYTES, Store
    from ..formatting import counted, duration, megabytes

    if context.invoked_subcommand is not None:
        return
    store = Store()
    entries = store.entries()[::-1]
    size = sum(entry.size for entry in entries)
    if as_json:
        found = {"folder": str(store.home), "bytes": size, "entries": [asdict(entry) for entry in entries]}
        print(json.dumps(found, indent=2))
        return
    for entry in entries:
        ago = duration(max(time.time() - entry.used, 0))
        out.print(f"{entry.what:<14} {megabytes(entry.size):>6} MB  used {ago} ago", markup=False, highlight=False)
    bound = f"at most {megabytes(MOST_BYTES)} MB are kept"
    out.print(f"{store.home}: {counted(len(entries), 'result')}, {megabytes(size)} MB; {bound}", soft_wrap=True)


@command(cache, "clear", "ncnnkit cache clear")
def clear_cache() -> None:
    """Remove all that runs have kept. Run folders are not changed."""
    from ..cache.store import Store
    from ..formatting import megabytes

    freed = Store().clear()
    out.print(f"{megabytes(freed)} MB are free again", markup=False)
