"""What ncnnkit writes and reads again is the same: jobs, results, records, cards, tables, rows, examples.

Other formats have their tests beside the others of their module: ``.param`` and ``.bin`` in test_ncnnfile.py, recipes
in test_recipe.py, messages in test_worker.py, preprocessing in test_preprocess.py.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from networks import small
from test_preprocess import preprocesses

from ncnnkit.artifact import Artifact, Tensor
from ncnnkit.codec import as_read, decode, encode
from ncnnkit.device.names import load_names, save_names
from ncnnkit.errors import NcnnkitError
from ncnnkit.model.scales import LayerScales
from ncnnkit.onboard.answers import ANSWERS
from ncnnkit.onboard.facts import Machine, Platform
from ncnnkit.onboard.jobs import JOBS, read_job
from ncnnkit.onboard.picture import Placement
from ncnnkit.onboard.protocol import Failure, Line
from ncnnkit.onboard.rows import Rows, RowWriter
from ncnnkit.quantization.table import Table, load_table, save_table
from ncnnkit.recipe import Recipe
from ncnnkit.record.examples import Example, Examples
from ncnnkit.record.folder import load_run, save_run
from ncnnkit.record.run import Run
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.tasks import presets

FOLDER = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(1e-9, 1e9)  # times, sizes and clocks are above 0
plain = st.text("abcXYZ019._+-", max_size=8)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: texts, int: st.integers(-(2**53), 2**53), float: numbers, bool: st.booleans(), type(None): st.none(),
    Recipe: st.builds(Recipe, model=texts.filter(bool), images=texts, seconds=st.floats(0, 1e9)),
    Preprocess: preprocesses(),
}  # fmt: skip
"""Type -> its values."""


MORE: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    Machine: dict.fromkeys(("ncnn", "python", "numpy", "machine"), plain),
    Platform: {
        **dict.fromkeys(("machine", "system"), plain), "python": st.lists(st.integers(0, 999), min_size=3, max_size=3),
        "libc": st.sampled_from(["glibc", ""]), "libc_version": st.sampled_from(["2.17", "2.36.1"]),
    },
}  # fmt: skip
"""Class -> its fields that have a form of their own."""


def of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type, such as a dataclass of dataclasses; those that the class refuses are left out."""
    if kind in PLAIN:
        return PLAIN[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return st.from_regex(parts[1], fullmatch=True).filter(str.isascii)  # a plain name
    if origin is Literal:
        return st.sampled_from(parts)
    if dataclasses.is_dataclass(kind):
        return st.deferred(lambda: _of_dataclass(kind))
    if origin is list:
        return st.lists(of(parts[0]), max_size=2)
    if origin is tuple:
        return st.lists(of(parts[0]), max_size=3).map(tuple) if parts[1:] == (...,) else st.tuples(*map(of, parts))
    if origin is dict:
        return st.dictionaries(of(parts[0]), of(parts[1]), max_size=2)
    if origin is Union or origin is type(int | str):
        return st.one_of(*map(of, parts))
    raise TypeError(kind)


def _of_dataclass(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: of(hints[field.name]) for field in dataclasses.fields(kind) if field.init}
    fields |= MORE.get(kind, {})

    @st.composite
    def made(draw: st.DrawFn) -> Any:
        try:
            return kind(**{name: draw(values) for name, values in fields.items()})
        except (ValueError, NcnnkitError):
            return reject()

    return made()


@pytest.mark.parametrize("kind", JOBS, ids=lambda kind: kind.kind)
@given(data=st.data())
@settings(max_examples=60)
def test_a_job_arrives_as_it_was_sent(kind: Any, data: st.DataObject) -> None:
    job = data.draw(of(kind))
    found = read_job(job.text())
    assert found == job
    assert found.text() == job.text()


SENT = [*(kind.result for kind in JOBS), Failure, Line, Platform, Machine, *dict.fromkeys(ANSWERS.values())]


@pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_what_a_board_sends_is_read_as_it_was(kind: Any, data: st.DataObject) -> None:
    value = data.draw(of(kind))
    assert decode(encode(value), kind) == value


def _run(draw: st.DrawFn) -> Run:
    """A run whose variants have different names, of which one may be recommended."""
    fields = {field.name: None for field in dataclasses.fields(Run)}
    hints = get_type_hints(Run, include_extras=True)
    values = {name: draw(of(hints[name])) for name in fields if name not in ("schema", "variants", "recommended")}
    names = st.text(st.characters(categories=["L", "N", "P"]), max_size=8)
    kind = get_args(hints["variants"])[0]
    variants = [
        dataclasses.replace(draw(of(kind)), name=name) for name in draw(st.lists(names, max_size=2, unique=True))
    ]
    recommended = draw(st.sampled_from([None, *(variant.name for variant in variants)]))
    try:
        return Run(**values, variants=variants, recommended=recommended)
    except ValueError:
        return reject()


@given(st.composite(_run)())
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_a_run_comes_back(tmp_path: Path, run: Run) -> None:
    save_run(run, tmp_path / "run.json")
    assert load_run(tmp_path) == run
    assert as_read(run) == run


scales = st.builds(
    LayerScales,
    st.lists(st.integers(0, 128), max_size=3).map(tuple),
    st.floats(1e-30, 1e30),
    st.integers(-127, 127),
)


@given(
    st.none() | preprocesses(), st.lists(texts, max_size=3).map(tuple),
    st.sampled_from([None, presets.yolox((64, 64), 3), presets.yolov5(2), presets.ctc(9, tuple("abcdefgh"))]),
    st.dictionaries(texts, scales, max_size=2), st.sampled_from(["fp32", "int8", "mixed"]),
    st.lists(st.integers(1, 1 << 24), max_size=4).map(tuple),
)  # fmt: skip
@FOLDER
def test_a_card_comes_back(
    tmp_path: Path, how: Any, labels: Any, decoder: Any, kept: Any, precision: str, shape: tuple[int, ...]
) -> None:
    graph = small()
    graph.scales = kept
    facts = {"preprocess": how, "labels": labels, "decoder": decoder, "target": "arm", "ncnn": "1.0", "pillow": "12.0"}
    model = Artifact.made(graph, precision, **facts, outputs=(Tensor("out0", shape),), fed=("image",))
    saved = model.save(tmp_path / "m.param")
    for name in [*facts, "inputs", "outputs", "fed", "precision", "precisions", "settings", "task"]:
        assert getattr(saved, name) == getattr(model, name), name
    assert saved.graph.scales == kept


layer_names = st.from_regex(r"[!-~]{1,12}", fullmatch=True).filter(lambda name: "_param_" not in name)


@given(
    st.dictionaries(
        layer_names,
        st.tuples(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=4), st.floats(1e-30, 1e30)),
        min_size=1,
    )
)
@FOLDER
def test_a_table_comes_back(tmp_path: Path, layers: dict[str, Any]) -> None:
    weights = {f"{name}_param_0": np.array(row, np.float32) for name, (row, _) in layers.items()}
    table = Table(weights, {name: scale for name, (_, scale) in layers.items()})
    save_table(table, tmp_path / "m.table")
    again = load_table(tmp_path / "m.table")
    assert again.weights.keys() == weights.keys()
    for key, row in weights.items():
        np.testing.assert_allclose(again.weights[key], row, rtol=1e-5)
    assert again.inputs == pytest.approx(table.inputs, rel=1e-5)


@given(st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=5), st.integers(0, 9))
@FOLDER
def test_rows_come_back(tmp_path: Path, shapes: list[tuple[int, ...]], seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    with RowWriter(tmp_path / "x.npy") as writer:
        for row in rows:
            writer.append(row)
    found = list(Rows(tmp_path / "x.npy"))
    assert [row.shape for row in found] == [row.shape for row in rows]
    assert all(np.array_equal(a, b) for a, b in zip(found, rows, strict=True))


files = st.tuples(st.sampled_from([".png", ".npy", ".wav"]), st.binary(min_size=1, max_size=20))
places = st.builds(
    Placement, *[st.tuples(st.integers(1, 99), st.integers(1, 99))] * 2, st.integers(-9, 9), st.integers(-9, 9),
    st.tuples(st.integers(1, 99), st.integers(1, 99)),
)  # fmt: skip
examples = st.builds(
    lambda inputs, shape, place: Example(tuple(inputs), (np.ones(shape, np.float32),), place),
    st.lists(files, min_size=1, max_size=2), st.lists(st.integers(0, 3), max_size=3).map(tuple), st.none() | places,
)  # fmt: skip


@given(
    st.lists(examples, max_size=3),
    st.dictionaries(st.from_regex(r"[a-z0-9-]{1,9}", fullmatch=True), numbers, max_size=2),
)
@FOLDER
def test_examples_come_back(tmp_path: Path, rows: list[Example], decibels: dict[str, float]) -> None:
    Examples(tuple(rows), decibels).save(tmp_path / "x.npz")
    found = Examples.load(tmp_path / "x.npz")
    assert found.sqnr_db == decibels
    assert [(row.files, row.placement) for row in found.rows] == [(row.files, row.placement) for row in rows]
    for row, known in zip(found.rows, rows, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(row.outputs, known.outputs, strict=True))


@given(st.dictionaries(texts, texts, max_size=4))
@FOLDER
def test_names_of_devices_come_back(tmp_path: Path, names: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        save_names(names)
        assert load_names() == names
