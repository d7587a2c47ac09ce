"""Recipes: valid and invalid contents, and a saved recipe makes the same run."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ncnnkit.errors import RecipeError, StorageError
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.model.targets import TARGETS
from ncnnkit.recipe import BACKENDS, KEYS, Recipe, make_recipe, parse_cpus, save_recipe

FULL = Recipe(
    model="models/größe.onnx",
    images="calib",
    eval_images="eval",
    labels='a "quoted" \\ name.txt',
    shapes=((3, 224, 224), (10,)),
    shape_too=((3, 320, 320), (12,)),
    weights="none",
    route="pnnx",
    outputs=("boxes", "stage 3/scores:0"),
    fix={"sr": 16000.0, "a switch": 1.0},
    task="detection",
    metric="own.figures:score",
    preset="imagenet",
    preprocess={"mean": (0.5, 0.5, 0.5), "resize": None, "crop": (224, 224), "color": "bgr", "divisor": 1.0},
    on=("ssh://user@rock5b", "my phone"),
    backends=("vulkan",),
    precisions=("int8", "fp32"),
    threads=3,
    engines=("onnxruntime",),
    scheduler="tcp://10.0.0.5:8786",
    cluster="big",
    fix_clocks=True,
    sustained=60.0,
    target="arm",
    method="kl",
    effort="best",
    require=("sqnr>=30", "cosine>=0.99"),
    max_latency="20ms",
    seconds=0.5,
    rounds=2,
    force=True,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("recipe", [Recipe("m.onnx"), FULL], ids=["defaults", "full"])
def test_a_saved_recipe_is_the_same(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    save_recipe(recipe, path)
    assert make_recipe({}, path) == recipe
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("4-7", (4, 5, 6, 7)), ("0,2", (0, 2)), ("6,0-1,1", (0, 1, 6)), ("big", ()), ("", ()), ("3-1", ()), ("1,", ())],
)
def test_lists_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


def test_every_field_differs_in_the_full_recipe() -> None:
    plain = Recipe("m.onnx")
    assert not [f.name for f in dataclasses.fields(Recipe) if getattr(FULL, f.name) == getattr(plain, f.name)]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        Recipe,
        model=TEXT.filter(bool),
        images=TEXT,
        weights=TEXT,
        preset=TEXT,
        shapes=st.lists(st.lists(st.integers(1, 9999), min_size=1, max_size=4).map(tuple), max_size=3).map(tuple),
        backends=st.lists(st.sampled_from(BACKENDS), min_size=1, unique=True).map(tuple),
        precisions=st.lists(st.sampled_from(tuple(PRECISIONS)), min_size=1, unique=True).map(tuple),
        preprocess=st.dictionaries(
            st.sampled_from(("mean", "std", "crop", "resize", "color")),
            st.none()
            | st.integers(-(2**60), 2**60)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.lists(st.integers(0, 9)),
        ),
        seconds=st.floats(0, 1e300),
        threads=st.integers(0, 64),
        force=st.booleans(),
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_recipe_comes_back(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "recipe.toml"
    save_recipe(recipe, path)
    assert make_recipe({}, path) == recipe


def test_a_recipe_is_plain_json() -> None:
    values = FULL.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["shapes"] == [[3, 224, 224], [10]]
    assert values["preprocess"]["resize"] is None
    assert list(values) == [field.name for field in dataclasses.fields(Recipe)]


def test_recipes_that_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        save_recipe(FULL, tmp_path / "file" / "recipe.toml")


# --------------------------------------------------------------------------------------------- options and the file


def test_options_go_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'model = "a.onnx"\nimages = "calib"\nthreads = 2\nbackends = ["cpu"]\n')
    recipe = make_recipe({"model": "b.onnx", "threads": 4, "images": None, "method": "kl"}, path)
    assert recipe == Recipe("b.onnx", images="calib", threads=4, backends=("cpu",), method="kl")


def test_a_false_or_empty_option_counts(tmp_path: Path) -> None:
    path = write(tmp_path, 'model = "a.onnx"\nforce = true\nimages = "calib"\nthreads = 2\n')
    recipe = make_recipe({"force": False, "images": "", "threads": 0}, path)
    assert recipe == Recipe("a.onnx")


def test_options_alone_make_a_recipe() -> None:
    assert make_recipe({"model": "a.onnx", "shapes": [[3, 8, 8]]}) == Recipe("a.onnx", shapes=((3, 8, 8),))


def test_lists_and_paths_are_copied() -> None:
    given: Any = {"backends": ["cpu"], "shapes": [[3, 8, 8]], "preprocess": {"mean": [0.5]}}
    recipe = Recipe(Path("a.onnx"), **given)  # type: ignore[arg-type]
    same = Recipe("a.onnx", backends=("cpu",), shapes=((3, 8, 8),), preprocess={"mean": (0.5,)})
    assert recipe == same
    given["preprocess"]["mean"].append(1)
    given["preprocess"]["std"] = 2
    given["backends"].append("vulkan")
    assert recipe == same
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.threads = 2  # type: ignore[misc]


# ---------------------------------------------------------------------------------------------------------- refusals

WRONG = [
    ("threads", '"two"', "threads must be a whole number, not the text 'two'"),
    ("threads", "2.0", "threads must be a whole number, not 2.0"),
    ("threads", "true", "threads must be a whole number, not true"),
    ("threads", "-1", "threads is -1, but must be at least 0"),
    ("rounds", "0", "rounds is 0, but must be at least 1"),
    ("rounds", "[1]", "rounds must be a whole number, not [1]"),
    ("seconds", '"3"', "seconds must be a number, not the text '3'"),
    ("seconds", "nan", "seconds must be a number, not nan"),
    ("seconds", "inf", "seconds must be a number, not inf"),
    ("seconds", "-0.5", "seconds is -0.5, but must be at least 0"),
    ("force", "1", "force must be true or false, not 1"),
    ("force", '"no"', "force must be true or false, not the text 'no'"),
    ("model", "3", "model must be text, not 3"),
    ("labels", '["a", "b"]', "labels must be text, not ['a', 'b']"),
    ("images", '["a", "b"]', f"images must be {KEYS['images'].expects}, not ['a', 'b']"),
    ("images", "{left = 1}", f"images must be {KEYS['images'].expects}, not {{'left': 1}}"),
    ("labels", "1979-05-27", "labels must be text, not 1979-05-27"),
    ("method", '"median"', "unknown method 'median' (one of auto, own, mse, kl, aciq, minmax)"),
    ("cluster", '"4-"', "unknown cluster '4-' (one of all, big, middle, little, or cores such as 4-7 or 0,2)"),
    ("effort", '"much"', "unknown effort 'much' (one of fast, default, best)"),
    ("require", '"mse<=1"', "require must be a list, such as [\"cosine>=0.999\"], not the text 'mse<=1'"),
    ("max_latency", "20", "max_latency must be text, not 20"),
    ("target", '"rk3589"', "unknown target 'rk3589' (did you mean rk3588 or rk3568 or rk3528?)"),
    ("target", '"z80"', f"unknown target 'z80' (one of {', '.join(('auto', *TARGETS))})"),
    ("backends", '"cpu"', "backends must be a list, such as [\"cpu\"], not the text 'cpu'"),
    ("backends", "[1]", 'backends must be a list, such as ["cpu"], not [1]'),
    ("backends", "[]", "no backend is given (one of cpu, vulkan)"),
    ("backends", '["cpu", "gpu"]', "unknown backend 'gpu' (one of cpu, vulkan)"),
    ("precisions", '"int8"', 'precisions must be a list, such as ["fp32", "int8"], not the text \'int8\''),
    ("precisions", "[]", "no precision is given (one of fp32, fp16, bf16, int8, mixed)"),
    ("precisions", '["int4"]', "unknown precision 'int4' (one of fp32, fp16, bf16, int8, mixed)"),
    (
        "shapes",
        "[3, 224, 224]",
        "shapes must be one shape per input, sizes from 1, such as [[3, 224, 224]], not [3, 224, 224]",
    ),
    (
        "shapes",
        '"3,224,224"',
        "shapes must be one shape per input, sizes from 1, such as [[3, 224, 224]], not the text '3,224,224'",
    ),
    (
        "shapes",
        "[[]]",
        "shapes must be one shape per input, sizes from 1, such as [[3, 224, 224]], not [[]]",
    ),
    (
        "shapes",
        "[[3, 0]]",
        "shapes must be one shape per input, sizes from 1, such as [[3, 224, 224]], not [[3, 0]]",
    ),
    (
        "shapes",
        "[[3, 2.5]]",
        "shapes must be one shape per input, sizes from 1, such as [[3, 224, 224]], not [[3, 2.5]]",
    ),
    (
        "shapes",
        "[[true]]",
        "shapes must be one shape per input, sizes from 1, such as [[3, 224, 224]], not [[True]]",
    ),
    ("preprocess", '"imagenet"', "preprocess must be a table of single fields, not the text 'imagenet'"),
    ("preprocess", "[1]", "preprocess must be a table of single fields, not [1]"),
    (
        "preprocess",
        "{size = 3}",
        "unknown preprocess 'size' (one of arrays, color, crop, divisor, interpolation, layout, mean, resize, std)",
    ),
    ("thread", "2", f"unknown key 'thread' (one of {', '.join(sorted(f.name for f in dataclasses.fields(Recipe)))})"),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG)
def test_a_wrong_line_in_a_file(key: str, value: str, says: str, tmp_path: Path) -> None:
    text = f"{key} = {value}\n" if key == "model" else f'model = "m.onnx"\n{key} = {value}\n'
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as error:
        make_recipe({}, path)
    assert error.value.line() == f"{path}: {says}"


def test_an_error_of_an_option_does_not_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'model = "m.onnx"\n')
    with pytest.raises(RecipeError) as error:
        make_recipe({"threads": -1}, path)
    assert error.value.line() == "threads is -1, but must be at least 0"
    with pytest.raises(RecipeError, match=r"^unknown key 'thread' \(one of "):
        make_recipe({"model": "m.onnx", "thread": 1})


def test_a_wrong_line_is_an_error_even_if_an_option_overrides_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'model = "m.onnx"\nthreads = "two"\n')
    with pytest.raises(RecipeError, match=r"recipe\.toml: threads must be a whole number"):
        make_recipe({"threads": 1}, path)


def test_a_recipe_needs_a_model(tmp_path: Path) -> None:
    for options, file in (({}, None), ({"model": ""}, None), ({}, write(tmp_path, "threads = 2\n"))):
        with pytest.raises(RecipeError) as error:
            make_recipe(options, file)
        assert error.value.line() == "no model is given (give a model, or give a recipe with a model)"


def test_text_no_file_could_hold_is_refused() -> None:
    # How Python represents a file name that is not UTF-8.
    with pytest.raises(RecipeError, match="labels must be text"):
        Recipe("m.onnx", labels="\udcff.jpg")
    for images in ("\udcff.jpg", {"left": "a", "right": "\udcff.jpg"}):
        with pytest.raises(RecipeError, match="images must be a path"):
            Recipe("m.onnx", images=images)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"model = ", "is not TOML: .+"),
        (b"model", "is not TOML: .+"),
        (b'model = "a"\nmodel = "b"\n', "is not TOML: .+line 2.+"),
        (b"model = '\xff'\n", "is not TOML: .+ position 9"),
        (b"a = " + b"[" * 10_000, "is nested too deeply|is not TOML: .+"),
    ],
    ids=["no value", "no equals sign", "twice", "not UTF-8", "deep"],
)
def test_a_file_that_is_not_toml(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(data)
    with pytest.raises(RecipeError) as error:
        make_recipe({}, path)
    assert re.fullmatch(f"{re.escape(str(path))}: ({says})", error.value.line())


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml: cannot be read: No such file or directory"):
        make_recipe({}, tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        make_recipe({}, tmp_path)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Recipe)]), VALUES, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_value_gives_at_worst_a_recipe_error(values: dict[str, Any]) -> None:
    try:
        recipe = make_recipe({"model": "m.onnx", **values})
    except RecipeError as error:
        refusal = error.line()
    else:
        refusal = ""
        assert make_recipe(recipe.to_dict()) == recipe
    assert "\n" not in refusal


# ------------------------------------------------------------------------------------------ a field is declared once


def test_every_field_has_a_description() -> None:
    assert list(KEYS) == [field.name for field in dataclasses.fields(Recipe)]
    for name, key in KEYS.items():
        assert len(key.help) > 10, name
        assert f"    {name}: {key.help}" in str(Recipe.__doc__)


def test_every_field_is_an_option_of_run_and_in_the_documents() -> None:
    from typer.main import get_command

    from ncnnkit.cli import app

    command: Any = get_command(app)
    _, run, _ = command.resolve_command(None, ["run"])
    options = {parameter.name: parameter for parameter in run.params}
    page = (Path(__file__).parent.parent / "docs/run-json.md").read_text(encoding="utf-8")
    for name, key in KEYS.items():
        if name != "preprocess":  # one option for each of its fields
            assert options[name].help == key.help
        assert f"| `{name}` |" in page
        assert key.help[1:] in page


def test_a_number_of_numpy_is_a_number() -> None:
    recipe = Recipe("m.onnx", sustained=np.float64(2.0))
    assert type(recipe.sustained) is float
