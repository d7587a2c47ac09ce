"""The public names of ``import ncnnkit``: exactly these, each with an example that runs."""

from __future__ import annotations

import doctest
import importlib.metadata
import inspect
import re
import shutil
from pathlib import Path

import lowered
import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node
from PIL import Image

import ncnnkit
import ncnnkit as nk
from ncnnkit.recipe import KEYS, Recipe
from ncnnkit.runs import run

NAMES = [
    "ActivationStats", "Artifact", "Fit", "Graph", "InputSpec", "Layer", "NcnnkitError", "Preprocess", "Result",
    "Session", "Tiles", "calibrate", "convert", "correct_bias", "load", "make_app", "open_images", "open_run",
    "optimize", "preset", "quantize", "run", "save",
]  # fmt: skip


def test_these_names_are_exported() -> None:
    assert sorted(ncnnkit.__all__) == NAMES
    assert {name for name in dir(ncnnkit) if not name.startswith("_")} == set(NAMES), "a shell completes nothing else"
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = ncnnkit.quantise  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_package() -> None:
    assert ncnnkit.__version__ == importlib.metadata.version("ncnnkit")
    assert re.match(r"\d+\.\d+\.\d+", ncnnkit.__version__)


def test_the_package_declares_that_it_is_typed() -> None:
    assert (Path(ncnnkit.__file__).parent / "py.typed").is_file()
    for name in NAMES:
        signature = inspect.signature(getattr(ncnnkit, name))
        assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values()), name


# ---------------------------------------------------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that examples name: a network, its ncnn model, images and a run."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w", "p"], ["a"], strides=[4, 4]), node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v", "q"], ["c"]),
        node("Relu", ["c"], ["d"]), node("GlobalAveragePool", ["d"], ["e"]), node("Flatten", ["e"], ["y"]),
    ]  # fmt: skip
    shapes = {"w": (8, 3, 3, 3), "p": (8,), "v": (10, 8, 1, 1), "q": (10,)}
    weights = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    given = {name: value.astype(np.float32) for name, value in weights.items()}
    made = lowered.model(nodes, {"x": np.zeros((1, 3, 224, 224), np.float32)}, ["y"], given)
    onnx.save(made, str(folder / "model.onnx"))
    (folder / "calib").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / f"calib/{i:02}.png")
    nk.save(nk.optimize(nk.convert(folder / "model.onnx")), folder / "model.param")
    nk.run(
        folder / "model.onnx", images=folder / "calib", precisions=["fp32", "int8"], backends="cpu", effort="fast",
        seconds=0.05, rounds=1, out=folder / "out", progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    return folder


def examples(name: str) -> list[doctest.DocTest]:
    """The examples in the docstring of a name, and of the methods of a class."""
    offered = getattr(ncnnkit, name)
    found = doctest.DocTestFinder(recurse=True).find(offered, name, globs={"nk": ncnnkit, "np": np})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("here")
def test_an_example_runs(name: str) -> None:
    found = examples(name)
    assert any(test.name == name for test in found), "the docstring has no example"
    for test in found:
        assert not any(doctest.SKIP in example.options for example in test.examples), test.name
        if any("torch." in example.source for example in test.examples):
            test.globs["torch"] = pytest.importorskip("torch")
        if "to_pandas" in test.name:
            pytest.importorskip("pandas")
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


@pytest.mark.usefixtures("here")
def test_an_artifact_prints_a_summary() -> None:
    lines = repr(nk.Artifact.load("model.param")).splitlines()
    assert lines[0] == "Artifact in fp32, also fp16, bf16"
    assert "  inputs: in0 3x224x224" in lines
    assert lines[1] == f"  file: {Path('model.param').absolute()}"


# --------------------------------------------------------------------------------------------- the options of a run


def test_a_run_has_the_options_and_defaults_of_a_recipe() -> None:
    options = dict(inspect.signature(run).parameters)
    assert options.keys() - KEYS.keys() == {"out", "cache", "progress"}
    assert KEYS.keys() <= options.keys()
    assert all(p.kind is p.KEYWORD_ONLY for name, p in options.items() if name != "model")
    recipe = Recipe("m")
    for name in KEYS.keys() - {"model", "images"}:
        default = options[name].default
        assert (default or None) == (getattr(recipe, name) or None), name


def test_the_help_of_a_run_explains_every_option() -> None:
    doc = inspect.getdoc(run) or ""
    for name in inspect.signature(run).parameters:
        assert re.search(rf"^ +{name}: ", doc, re.MULTILINE), name
