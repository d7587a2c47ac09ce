"""Whole runs in Python: objects as arguments, the result, and refused arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import samples, small
from PIL import Image

import ncnnkit as nk
from ncnnkit.errors import ImageError, InputError, ModelError, RecipeError, StorageError, ToolError
from ncnnkit.model import ncnnfile
from ncnnkit.recipe import Recipe
from ncnnkit.result import Result
from ncnnkit.samples.given import find_samples
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.tasks.tensor import Tensors

QUICK: dict[str, Any] = {
    "precisions": ["fp32", "int8"], "backends": "cpu", "effort": "fast", "seconds": 0.05, "rounds": 1, "threads": 1,
    "progress": False,
}  # fmt: skip
INPUT = [InputSpec("in0", (3, 16, 16))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small`` takes 3x16x16."""
    path = tmp_path_factory.mktemp("model") / "net.param"
    ncnnfile.save(small(), path)
    return path


@pytest.fixture(scope="module")
def result(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return nk.run(model, images=samples(20), out=tmp_path_factory.mktemp("run") / "a<b", **QUICK)


# ------------------------------------------------------------------------------------------------------------ samples


def batches(arrays: Any) -> Iterator[Any]:
    yield arrays[:3], "labels are not used"
    yield arrays[3:], None


FORMS: dict[str, Callable[[Any], Any]] = {
    "an array": lambda arrays: arrays,
    "an array for each input": lambda arrays: [arrays],
    "a mapping": lambda arrays: {"in0": arrays, "labels": 3},
    "a list of samples": list,
    "a generator of samples": iter,
    "batches with labels": batches,
    "mappings": lambda arrays: ({"in0": each} for each in arrays),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_samples(form: str) -> None:
    arrays = samples(8)
    found = find_samples(FORMS[form](arrays), None, INPUT)
    assert found.names == tuple(f"images[{i}]" for i in range(8))
    np.testing.assert_array_equal(np.stack([sample[0] for sample in found]), arrays)


def test_values_that_are_repeated_are_duplicates_in_every_form() -> None:
    arrays = np.concatenate([samples(5), samples(5)])
    for form in (arrays, iter(arrays)):
        assert len(find_samples(form, None, INPUT).distinct()) == 5


def test_a_list_of_paths_is_a_list_of_files(tmp_path: Path) -> None:
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.glob("*.png"), reverse=True)
    found = find_samples(paths, Preprocess(resize=(16, 16)), INPUT)
    assert found.names == tuple(map(str, paths))
    assert found.only_pictures
    by_folder = find_samples(tmp_path, Preprocess(resize=(16, 16)), INPUT)
    np.testing.assert_array_equal(found[0][0], by_folder[2][0])
    with pytest.raises(ImageError, match=r"images: no such file: gone\.png"):
        find_samples([*paths, "gone.png"], None, INPUT)


def test_arrays_are_fed_as_they_are_unless_a_normalisation_is_given() -> None:
    arrays = samples(4)
    how = Preprocess(resize=(16, 16), mean=(1.0,), std=(2.0,), divisor=1.0)
    np.testing.assert_array_equal(find_samples(arrays, how, INPUT)[0][0], arrays[0])
    normalised = Preprocess(resize=(16, 16), mean=(1.0,), std=(2.0,), divisor=1.0, arrays=True)
    np.testing.assert_allclose(find_samples(arrays, normalised, INPUT)[0][0], (arrays[0] - 1) / 2, atol=1e-6)


def test_progress_counts_batches() -> None:
    seen: list[tuple[int, int]] = []
    find_samples([samples(3), samples(2)], None, INPUT, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


# --------------------------------------------------------------------------------------------------------- the result


def test_a_result_equals_the_run_in_its_folder(result: Result) -> None:
    assert [variant.name for variant in result.variants] == ["fp32-cpu", "int8-cpu"]
    assert result.best in result.variants
    assert result.variant().name == result.run.recommended
    assert result.variant("int8").name == "int8-cpu"
    assert result.report.is_file()
    assert nk.open_run(result.folder) == result
    assert nk.open_run(result.folder / "run.json") == result
    with pytest.raises(RecipeError, match="no variant 'int4'"):
        result.variant("int4")


def test_a_model_of_a_result_computes_as_the_run_recorded(result: Result) -> None:
    x = samples(1)[0]
    with nk.Session(result.model("fp32")) as exact, nk.Session(result.model("int8")) as net:
        wanted, found = np.asarray(exact.run(x)), np.asarray(net.run(x))
    assert 0 < np.abs(wanted - found).max() < 0.2 * np.abs(wanted).max()


def test_layers_of_a_variant(result: Result) -> None:
    layers = result.layers("int8")
    by_name = {layer.name: layer for layer in layers}
    assert by_name["c1"].precision == "int8"
    assert by_name["gap"].precision == ""
    assert by_name["c1"].parameters == 224
    assert by_name["c1"].shape == (8, 16, 16)
    assert by_name["c1"].sqnr_db is not None
    assert 5 < by_name["c1"].sqnr_db < 80
    assert all(layer.sqnr_db in (None, math.inf) for layer in result.layers("fp32"))


def test_a_notebook_shows_a_table(result: Result) -> None:
    shown = result._repr_html_()
    assert shown.count("<tr>") == 1 + len(result.variants)
    assert "int8-cpu" in shown
    assert "style" not in shown
    assert "color" not in shown


def test_text_in_a_notebook_is_escaped(result: Result) -> None:
    from dataclasses import replace

    evil = replace(result.variants[1], name="<script>x</script>")
    run = replace(result.run, variants=[result.variants[0], evil], recommended=None, why="<b>no</b>")
    shown = Result(run, result.folder)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "&lt;b&gt;no" in shown


def test_print_shows_the_table_of_the_command(result: Result) -> None:
    head, *_, report = str(result).splitlines()
    assert head.split()[:3] == ["variant", "status", "ms"]
    assert report == f"report: {result.report}"
    assert repr(result) == f"Result({str(result.folder)!r}: 2 variants, recommended {result.run.recommended})"


def test_pandas_gets_numbers(result: Result) -> None:
    pandas = pytest.importorskip("pandas")
    table = result.to_pandas()
    assert list(table.index) == ["fp32-cpu", "int8-cpu"]
    assert table.loc["fp32-cpu", "speed_up"] == 1
    assert table["latency_ms"].dtype == float
    assert table.loc["int8-cpu", "sqnr_db"] < table.loc["fp32-cpu", "sqnr_db"]
    layers = pandas.DataFrame(result.layers("int8")).set_index("name")
    assert layers.loc["c1", "precision"] == "int8"


def test_without_pandas_an_error_says_how_to_get_it(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ToolError, match="pip install pandas"):
        result.to_pandas()


def test_an_app_of_a_result(result: Result, tmp_path: Path) -> None:
    folder = result.app(tmp_path / "app", variant="int8", lang="python")
    assert (folder / "models" / "net-int8.param").is_file()


def test_a_result_refuses_models_of_a_later_run(model: Path, tmp_path: Path) -> None:
    options = QUICK | {"precisions": "fp32"}
    first = nk.run(model, images=samples(10), out=tmp_path / "out", **options)
    second = nk.run(model, images=samples(10, seed=1), out=tmp_path / "out", **options)
    assert second.model().precision == "fp32"
    for use in (first.model, lambda: first.app(tmp_path / "app")):
        with pytest.raises(StorageError, match="a later run has replaced this one"):
            use()


# ------------------------------------------------------------------------------------------------------------ objects


def test_a_recipe_with_objects_is_marked(model: Path, tmp_path: Path) -> None:
    def score(ours: Any, theirs: Any) -> float:
        return 1 - float(np.abs(ours[0] - theirs[0]).mean())

    made = nk.run(model, images=iter(samples(20)), metric=score, out=tmp_path / "out", **QUICK)
    assert made.best is not None
    assert made.best.accuracy is not None
    figure = made.best.accuracy.figure("score")
    assert figure is not None
    assert figure.value is not None
    assert 0.9 < figure.value <= 1
    assert made.run.recipe.metric.endswith("score>")
    assert made.run.images.source == made.run.recipe.images
    text = (tmp_path / "out" / "recipe.toml").read_text()
    assert text.startswith("# Objects in Python, which this file only names: images, metric.\n")
    options = made.run.recipe.to_dict()
    with pytest.raises(RecipeError, match="was an object in Python"):
        nk.run(**options, out=tmp_path / "again", progress=False)
    again = nk.run(**{**options, "images": samples(20), "metric": score}, out=tmp_path / "again", progress=False)
    assert again.run.recipe.metric == made.run.recipe.metric


def test_a_task_may_be_a_class(model: Path, tmp_path: Path) -> None:
    class Mine(Tensors):
        name = "mine"

    made = nk.run(model, images=samples(10), task=Mine, out=tmp_path / "out", **QUICK | {"precisions": "fp32"})
    assert made.run.task.name == "mine"


@pytest.mark.torch
def test_a_module_and_a_loader(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(784, 5))
    module.train()
    data = torch.utils.data.TensorDataset(torch.from_numpy(samples(20)), torch.zeros(20))
    made = nk.run(
        module, shapes=[(3, 16, 16)], images=torch.utils.data.DataLoader(data, batch_size=6), out=tmp_path / "out",
        **QUICK,
    )  # fmt: skip
    assert (made.run.recipe.model, made.run.recipe.images) == ("<Sequential>", "<DataLoader>")
    assert made.run.images.calibration + made.run.images.evaluation == 20
    assert module.training, "the caller may train on"
    with nk.Session(made.model("fp32")) as net:
        x = samples(1)[0]
        np.testing.assert_allclose(net.run(x), module(torch.from_numpy(x[None]))[0].detach(), atol=1e-4)


def test_progress_can_be_shown_silent_or_a_function(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = QUICK | {"precisions": "fp32"}
    seen: list[str] = []
    nk.run(model, images=samples(10), out=tmp_path, **options)
    nk.run(model, images=samples(10), out=tmp_path, **options | {"progress": lambda at, *_: seen.append(at.stage)})
    assert capsys.readouterr() == ("", "")
    assert "measure" in seen
    nk.run(model, images=samples(10), out=tmp_path, **options | {"progress": True})
    said = capsys.readouterr()
    assert said.out == ""
    assert "measure" in said.err


# ------------------------------------------------------------------------------------------------------ what is refused


def raising(ours: Any, theirs: Any) -> float:
    raise KeyError("boxes")


X = samples(10)
WRONG: dict[str, tuple[dict[str, Any], type[InputError], str]] = {
    "no images": ({"images": None}, ImageError, "no images are given"),
    "a number": ({"images": 5}, ImageError, "images: an int contains no samples"),
    "bytes": ({"images": b"abc"}, ImageError, "images: a bytes contains no samples"),
    "an empty list": ({"images": []}, ImageError, "images: there are no samples"),
    "an iterator that is used up": ({"images": iter(())}, ImageError, "can be read only once"),
    "other channels": ({"images": X[:, :2]}, ImageError, "images: an array has shape 10x2x16x16, .* not preprocessed"),
    "texts": ({"images": X.astype(str)}, ImageError, "images: an array contains <U"),
    "another name": ({"images": {"x": X}}, ImageError, "there is no array for input 'in0'"),
    "objects": ({"images": [object()]}, ImageError, "images, batch 0: an object cannot feed"),
    "the same twice": ({"eval_images": X}, ImageError, "are also the calibration images"),
    "evaluation of no samples": ({"eval_images": iter(())}, ImageError, "eval_images: there are no samples"),
    "opened samples": ({"images": find_samples(X, None, INPUT)}, ImageError, "already opened"),
    "rounds": ({"rounds": -1}, RecipeError, "rounds is -1, but must be at least 1"),
    "threads": ({"threads": "two"}, RecipeError, "threads must be a whole number"),
    "precision": ({"precisions": "int9"}, RecipeError, "unknown precision 'int9' .*one of fp32"),
    "require": ({"require": 5}, RecipeError, "require must be a list"),
    "figure": ({"require": "cosinus>=1"}, RecipeError, "cosinus"),
    "preprocess": ({"preprocess": 3}, RecipeError, "preprocess must be a table"),
    "metric of one": ({"metric": lambda ours: 1.0}, RecipeError, "cannot be called with two arguments"),
    "metric of texts": ({"metric": lambda ours, theirs: "good"}, RecipeError, "returns a str, not a number"),
    "metric that raises": ({"metric": raising}, RecipeError, "raises KeyError: 'boxes'"),
    "metric": ({"metric": 5}, RecipeError, "metric: <int> is not a function"),
    "task": ({"task": int}, RecipeError, "is not a subclass of ncnnkit.tasks.Task"),
    "task and metric": ({"task": Tensors, "metric": raising}, RecipeError, "exclude each other"),
    "progress": ({"progress": "no"}, RecipeError, "progress must be True, False or a function"),
    "out": ({"out": 3}, RecipeError, "out must be a path, not an int"),
    "model": ({"model": 5}, ModelError, "an int is not a model|torch"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_give_ncnnkits_errors(case: str, model: Path, tmp_path: Path) -> None:
    changes, kind, says = WRONG[case]
    options = {"model": model, "images": X, "out": tmp_path / "out", **QUICK, **changes}
    with pytest.raises(kind, match=says):
        nk.run(**options)
    assert not (tmp_path / "out").exists()


def test_an_error_in_the_callers_data_is_passed_on(model: Path, tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield X[0]
        raise ZeroDivisionError("in the dataset")

    with pytest.raises(ZeroDivisionError, match="in the dataset"):
        nk.run(model, images=broken(), out=tmp_path / "out", **QUICK)


def test_a_recipe_of_paths_has_no_note(tmp_path: Path) -> None:
    from ncnnkit.recipe import save_recipe

    save_recipe(Recipe("m.onnx", images="calib/"), tmp_path / "recipe.toml")
    assert not (tmp_path / "recipe.toml").read_text().startswith("#")
