"""What a run takes from an earlier one: all that nothing has changed for, and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import samples, small
from PIL import Image
from rich.console import Console

import ncnnkit as nk
from ncnnkit import pipeline, reuse
from ncnnkit.cache.packing import Unpackable
from ncnnkit.cache.store import Store
from ncnnkit.model import ncnnfile
from ncnnkit.model.work import Budget
from ncnnkit.progress import Position
from ncnnkit.progress_on_console import shown_on
from ncnnkit.recipe import KEYS, Objects, Recipe
from ncnnkit.record.run import Run
from ncnnkit.reuse import RESULTS, Asked, Reuse, Tools, key_of

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from kill_and_resume import kill_and_resume

PACKAGE = Path(nk.__file__).parent

OTHERS: dict[str, Any] = {
    "scheduler": "local",
    "model": "other.onnx", "images": "other/", "eval_images": "more/", "labels": "labels.txt", "shapes": ((3, 8, 8),),
    "shape_too": ((3, 9, 9),), "weights": "none", "route": "pnnx", "outputs": ("x",), "fix": {"sr": 1.0},
    "preset": "imagenet", "preprocess": {"divisor": 1.0}, "on": ("ssh://b",), "backends": ("cpu",),
    "precisions": ("fp32",), "engines": ("mnn",), "threads": 3, "cluster": "big", "fix_clocks": True, "sustained": 1.0,
    "target": "arm", "method": "kl", "effort": "best", "task": "detection", "metric": "m:f",
    "require": ("cosine>=0.5",), "max_latency": "9ms", "seconds": 9.0, "rounds": 9, "force": True,
}  # fmt: skip
"""Another value than the default of each field of a recipe."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, Run]:
    """A run of a small network on images: its recipe, a folder with ``out`` and ``stages``, and its record."""
    home = tmp_path_factory.mktemp("first")
    ncnnfile.save(small(), home / "model.param")
    (home / "images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(15):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(home / f"images/{index:02}.png")
    recipe = Recipe(
        str(home / "model.param"), images=str(home / "images"), backends=("cpu",), precisions=("fp32", "int8"),
        target="x86", threads=1, seconds=0.02, rounds=1, effort="fast",
    )  # fmt: skip
    return recipe, home, pipeline.run(recipe, home / "out", store=Store(home / "stages"))


@pytest.fixture
def recipe(first: tuple[Recipe, Path, Run]) -> Recipe:
    """The recipe of the first run."""
    return first[0]


@pytest.fixture
def store(first: tuple[Recipe, Path, Run], tmp_path: Path) -> Store:
    """What the first run kept."""
    return Store(Path(shutil.copytree(first[1] / "stages", tmp_path / "stages")))


def reused(document: Run) -> set[str]:
    return {what for stage in document.stages for what in stage.reused}


def results(document: Run, out: Path) -> Any:
    """What two runs of the same recipe have in common."""
    models = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if p.suffix in (".param", ".bin")
    }
    quantised = document.quantisation
    assert quantised is not None
    return (
        models, document.files, document.reference, document.preprocess, document.network,
        [(row.name, row.status, row.accuracy, row.layers) for row in document.variants],
        [dataclasses.replace(trial, seconds=0) for trial in quantised.trials],
        dataclasses.replace(quantised, trials=[]),
        dataclasses.replace(document.conversion, seconds=0, attempts=[]),
    )  # fmt: skip


ALL = {"network", "outputs", "int8 network", "int8-cpu"}
"""int8-cpu: the errors of its layers."""


def test_the_same_run_again_takes_everything_and_ends_the_same(
    first: tuple[Recipe, Path, Run], store: Store, tmp_path: Path
) -> None:
    recipe, home, document = first
    log = tmp_path / "log"
    with log.open("w") as file, shown_on(Console(file=file, width=200), plain=True) as shown:
        again = pipeline.run(recipe, tmp_path / "b", shown, store=store)
    alone = pipeline.run(recipe, tmp_path / "c")
    assert (reused(document), reused(again), reused(alone)) == (set(), ALL, set())
    expected = results(document, home / "out")
    assert results(again, tmp_path / "b") == expected
    assert results(alone, tmp_path / "c") == expected
    latencies = [row.latency_ms for row in (*document.variants, *again.variants)]
    assert len({latency.median for latency in latencies if latency}) > 2, "timings are measured in every run"

    # It says so: in the terminal, in run.json and in the report.
    assert "convert (network reused) " in log.read_text()
    assert "quantise (int8 network reused) " in log.read_text()
    stages = json.loads((tmp_path / "b" / "run.json").read_text())["stages"]
    assert {stage["name"]: stage["reused"] for stage in stages}["reference outputs"] == ["outputs"]
    assert "of an earlier run" in (tmp_path / "b" / "report.html").read_text()


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"rounds": 2, "require": ("cosine>=0.5",), "precisions": ("fp32", "fp16", "int8"), "seconds": 0.01}, ALL),
        ({"force": True}, ALL - {"network"}),
        ({"method": "minmax"}, {"network", "outputs"}),
        ({"effort": "default"}, {"outputs"}),
        ({"target": "arm"}, ALL - {"int8 network"}),  # the int8 network for arm is the same here, so its layers are
        ({"preprocess": {"divisor": 1.0}}, set()),
    ],
)
def test_one_changed_option_redoes_what_depends_on_it(
    recipe: Recipe, store: Store, tmp_path: Path, fields: dict[str, Any], kept: set[str]
) -> None:
    assert reused(pipeline.run(dataclasses.replace(recipe, **fields), tmp_path / "out", store=store)) == kept


def test_content_counts_and_names_do_not(first: tuple[Recipe, Path, Run], store: Store, tmp_path: Path) -> None:
    recipe, home, _ = first
    images, model = shutil.copytree(home / "images", tmp_path / "moved"), tmp_path / "renamed.param"
    ncnnfile.save(small(), model)
    Image.new("RGB", (16, 16), "teal").save(images / "00.png")  # the first one calibrates
    elsewhere = dataclasses.replace(recipe, images=str(images), model=str(model))
    assert reused(pipeline.run(elsewhere, tmp_path / "out", store=store)) == {"network", "outputs"}
    ncnnfile.save(small(seed=1), model)
    assert reused(pipeline.run(elsewhere, tmp_path / "out", store=store)) == set()


def test_the_sensitivity_is_taken_and_the_plan_is_timed_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a stage left out of a heavy network is said in the second run, too, although it was not run there."""
    monkeypatch.setattr(Budget, "inferences", property(lambda budget: 30.0))
    store, said = Store(tmp_path / "stages"), list[Position]()
    recipe = dataclasses.replace(recipe, precisions=("int8", "mixed"))
    before = pipeline.run(recipe, tmp_path / "out", store=store)
    again = pipeline.run(recipe, tmp_path / "out", lambda position, done, total: said.append(position), store=store)
    assert reused(again) >= ALL | {"sensitivity"}
    steps = {position.step for position in said if position.stage == "plan"}
    assert "sensitivity" not in steps
    assert "layer costs" in steps
    reduced = [[text for text in run.warnings if "calibration samples" in text] for run in (before, again)]
    assert reduced[0] == reduced[1] != []


# ------------------------------------------------------------------------------------------------------- the table


def test_every_field_of_a_recipe_changes_the_keys_of_the_results_that_read_it() -> None:
    assert OTHERS.keys() == KEYS.keys(), "a new field needs another value here"
    before = Recipe("model.onnx")
    for result in RESULTS:
        changes = {
            name
            for name, value in OTHERS.items()
            if key_of(result, dataclasses.replace(before, **{name: value}), {}) != key_of(result, before, {})
        }
        assert changes == set(result.reads), result.what


def test_inputs_change_the_key() -> None:
    recipe = Recipe("model.onnx")
    for result in RESULTS:
        keys = {key_of(result, recipe, inputs) for inputs in ({}, {"a": "1"}, {"a": "2"}, {"b": "1"})}
        assert len(keys) == 4
    assert len({key_of(result, recipe, {}) for result in RESULTS}) == len(RESULTS)


def test_a_field_that_a_row_does_not_name_cannot_be_read(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    asked = Asked(recipe, ("method",))
    assert asked.method == "auto"
    with pytest.raises(AttributeError, match="does not say that this reads 'effort'"):
        _ = asked.effort
    row = dataclasses.replace(reuse.QUANTISED, reads=("threads",))
    monkeypatch.setattr(pipeline, "QUANTISED", row)
    with pytest.raises(AttributeError, match="reads 'method'"):
        pipeline.run(recipe, tmp_path / "out")


def test_every_field_that_a_row_names_is_read() -> None:
    """Otherwise a run is redone for nothing."""
    tree = ast.parse(Path(reuse.__file__).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for result in RESULTS:
        read = {
            node.attr
            for node in ast.walk(functions[result.make.__name__])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asked"
        }
        # The scheduler is not read there: it says whose processors compute.
        assert read == set(result.reads) - {"scheduler"}, result.what


def imported_by(module: str) -> Iterator[str]:
    """The modules of ncnnkit that a module imports, also within functions, but not for type checks only."""
    path = PACKAGE.parent / Path(*module.split("."))
    package = path.is_dir()
    path = path / "__init__.py" if package else path.with_suffix(".py")
    tree = ast.parse(path.read_text())
    checks = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in checks:
            base = module.split(".")[: len(module.split(".")) - node.level + package]
            home = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = PACKAGE.parent / Path(*home.split("."), alias.name)
                yield f"{home}.{alias.name}" if inner.is_dir() or inner.with_suffix(".py").is_file() else home


ROOTS = {
    "network": ["ncnnkit.source.conversion", "ncnnkit.source", "ncnnkit.quantization.efforts"],
    "outputs": ["ncnnkit.source.reference", "ncnnkit.source"],
    "int8 network": ["ncnnkit.quantization", "ncnnkit.quantization.stored"],
    "sensitivity": ["ncnnkit.plan.search", "ncnnkit.quantization"],
    "layer errors": ["ncnnkit.comparison.layers"],
}
"""Result -> the modules that compute it."""


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.what)
def test_a_row_names_all_the_code_that_its_result_depends_on(result: Any) -> None:
    found, todo = set[str](), list(ROOTS[result.what])
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += imported_by(module)
    parts = {module.split(".")[1] for module in found if "." in module}
    assert parts <= set(result.code)
    assert len(found) > 50, "otherwise this test finds no imports"


def test_a_changed_module_changes_the_key(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(reuse, "__file__", str(tmp_path / "reuse.py"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.py").write_text("x = 1\n")
    (tmp_path / "errors.py").write_text("")
    before = reuse.code_of.__wrapped__(("model", "errors"))
    assert reuse.code_of.__wrapped__(("errors", "model")) == before
    (tmp_path / "model" / "a.py").write_text("x = 2\n")
    assert reuse.code_of.__wrapped__(("model", "errors")) != before


# --------------------------------------------------------------------------------- what cannot be told is not kept


def test_the_outputs_of_a_users_own_code_are_not_kept(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def run(network: Any) -> Run:
        made = dataclasses.replace(recipe, model="<Module>", shapes=((3, 16, 16),))
        return pipeline.run(made, tmp_path / "out", objects=Objects(model=network), store=store)

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    run(network)
    assert reused(run(network)) == {"int8 network", "int8-cpu"}, "the converted network is the same"


def test_a_task_of_the_user_is_not_compared() -> None:
    with pytest.raises(Unpackable):
        Reuse(Recipe("m.onnx"), None, lambda stage, what: None)._digest(len)


def test_a_damaged_or_foreign_value_is_computed_again(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    for kept in store.entries():
        store._remove([kept.key])
        store.keep(kept.key, kept.what, b"\xc1")
    assert reused(pipeline.run(recipe, tmp_path / "out", store=store)) == set()


def test_a_function_gets_a_folder_and_progress(tmp_path: Path) -> None:
    assert [field.name for field in dataclasses.fields(Tools)] == ["folder", "progress"]


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_run_that_is_started_again_ends_the_same(tmp_path: Path) -> None:
    """The short form of scripts/kill_and_resume.py."""
    ncnnfile.save(small(), tmp_path / "model.param")
    np.save(tmp_path / "x.npy", samples(20))
    arguments = [
        str(tmp_path / "model.param"), "--images", str(tmp_path / "x.npy"), "--precision", "fp32,int8", "--backend",
        "cpu", "--seconds", "0.05", "--rounds", "1", "--effort", "fast", "--quiet",
    ]  # fmt: skip
    (tmp_path / "home").mkdir()
    assert kill_and_resume(arguments, 4, 0, tmp_path / "home") == []
