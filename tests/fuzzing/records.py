"""Recipes, runs, names of devices."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path

from mutations import mutate_json

from fuzzing.format import JSON, TOML, Format, scratch
from ncnnkit.codec import decode
from ncnnkit.device.names import load_names, names_file, save_names
from ncnnkit.recipe import Recipe, make_recipe, save_recipe
from ncnnkit.record.folder import load_run, recover, save_run


def _recipe_seeds() -> list[bytes]:
    with scratch() as folder:
        recipe = Recipe(
            "m.onnx", images={"left": "l/", "right": "r/"}, shapes=((3, 8, 8), (4,)), outputs=("a", "b"),
            fix={"sr": 16000.0},
            preprocess={"resize": (8, 8), "mean": (0.5,), "crop": None}, on=("ssh://u@b", "local"), threads=4,
            require=("cosine>=0.99", "sqnr>=30"), max_latency="20ms", seconds=0.5, cluster="0-3,6",
        )  # fmt: skip
        save_recipe(recipe, folder / "recipe.toml")
        return [(folder / "recipe.toml").read_bytes()]


def _read_recipe(folder: Path, data: bytes) -> None:
    (folder / "recipe.toml").write_bytes(data)
    recipe = make_recipe({}, folder / "recipe.toml")
    save_recipe(recipe, folder / "again.toml")
    assert make_recipe({}, folder / "again.toml") == recipe


def _names_seeds() -> list[bytes]:
    return [b'rock5b = "ssh://rock@rock5b"\nphone = "adb://ABC"\n"a b" = "local"\n']


def _read_names(folder: Path, data: bytes) -> None:
    os.environ["XDG_CONFIG_HOME"] = str(folder)
    names_file().parent.mkdir(exist_ok=True)
    names_file().write_bytes(data)
    found = load_names()
    save_names(found)
    assert load_names() == found


@cache
def _run_seeds() -> list[bytes]:
    from test_schema import sample_run

    run = sample_run()
    # Two of each are enough, and are changed faster.
    for entries in (
        run["variants"],
        run["network"],
        run["stages"],
        run["plan"]["layers"],
        run["quantisation"]["layers"],
    ):
        del entries[2:]
    run["recommended"] = run["variants"][1]["name"]
    return [json.dumps(run).encode()]


def _read_run(folder: Path, data: bytes) -> None:
    (folder / "run.json").write_bytes(data)
    run = load_run(folder)
    save_run(run, folder / "run.json")
    assert load_run(folder) == run


def _read_report(folder: Path, data: bytes) -> None:
    """A run that was read becomes a page and a table, and is compared."""
    from ncnnkit.record.diff import compare_runs
    from ncnnkit.report.html import render

    (folder / "run.json").write_bytes(data)
    run = load_run(folder)
    assert render(run, folder).rstrip().endswith("</html>")
    compare_runs(run, decode(_run_seeds()[0], type(run)))


def _moves_seeds() -> list[bytes]:
    return [json.dumps({"out": ["run.json", "a.param"], "into": ["a.param", "run.json"]}).encode()]


def _read_moves(folder: Path, data: bytes) -> None:
    home, outside = folder / "home", folder / "outside"
    shutil.rmtree(home, ignore_errors=True)
    outside.mkdir(exist_ok=True)
    (outside / "kept").write_text("kept")
    for name in ("new", "old"):
        (home / ".ncnnkit" / name).mkdir(parents=True)
    for place in (home, home / ".ncnnkit" / "new"):
        (place / "a.param").write_text(str(place))
    (home / ".ncnnkit" / "moves.json").write_bytes(data)
    try:
        recover(home)
    finally:
        assert sorted(path.name for path in folder.iterdir()) == ["home", "outside"]
        assert (outside / "kept").read_text() == "kept"


FORMATS: dict[str, Format] = {
    "recipe": Format(_recipe_seeds, _read_recipe, TOML),
    "devices": Format(_names_seeds, _read_names, TOML),
    "run": Format(_run_seeds, _read_run, JSON),
    "report": Format(_run_seeds, _read_report, (mutate_json,)),
    "moves": Format(_moves_seeds, _read_moves, JSON),
}
