"""A stranger's run folder: no text in it means anything in the languages that ncnnkit writes, and no file moves."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from networks import network
from rich.console import Console
from small_run import edit
from test_schema import sample_run

from ncnnkit import quoting
from ncnnkit.app import RECORD, make_app, values_of
from ncnnkit.app.facts import Facts, Input, facts_of
from ncnnkit.app.models import shipment
from ncnnkit.app.parts import EXTRAS
from ncnnkit.app.verify import Receipt, save_receipt, written_files
from ncnnkit.app.writing import write_project
from ncnnkit.codec import decode
from ncnnkit.errors import FormatError, NcnnkitError, printable
from ncnnkit.record.diff import compare_runs
from ncnnkit.record.folder import load_run
from ncnnkit.record.network import NetworkLayer
from ncnnkit.record.run import Run
from ncnnkit.report import (
    LAYER_ORDERS,
    NamedRun,
    console_table,
    diff_table,
    headline,
    junit,
    layer_table,
    markdown,
    plan_table,
    shipping,
)
from ncnnkit.report.html import render
from ncnnkit.report.layers import details
from ncnnkit.report.several import render_comparison

EVIL = 'q\'"`$(touch OWNED)${OWNED}\\\n#include <owned>\n"""]]>;|[/b]<script>owned()</script>\x1b[31m\u202e*/🐈'
HOME = Path(quoting.__file__).parent

TEXTS = [EVIL, "", "plain", "é\u202e", "a\0b", "x\\", "'", '"""', "??/", "\ud800", "%s {0} {{ x }}"]


# ------------------------------------------------------------------------------------------------------- quoting


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_for_python_is_read_back(text: str) -> None:
    assert ast.literal_eval(quoting.python(text)) == text


@pytest.mark.parametrize("text", [text for text in TEXTS if "\0" not in text and "\ud800" not in text])
def test_a_word_for_the_shell_is_read_back(text: str) -> None:
    said = subprocess.run(["sh", "-c", f"printf %s {quoting.shell(text)}"], capture_output=True, check=True).stdout
    assert said.decode() == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_for_cmake_ends_where_it_should(text: str) -> None:
    literal = quoting.cmake(text)
    inner = literal[1:-1].replace("\\\\", "").replace('\\"', "").replace("\\$", "").replace("\\@", "")
    assert not set('"\\$@\n\0') & set(inner)
    literal.encode()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_for_markdown_is_one_line_without_html(text: str) -> None:
    for said in (quoting.markdown(text), quoting.markdown_code(text)):
        assert "\n" not in said
        assert "|" not in said.replace("\\|", "")
        said.encode()
    assert "<" not in quoting.markdown(text).replace("\\<", "")
    code = quoting.markdown_code(text)
    fence = (re.match("`+", code) or [""])[0]
    assert code.endswith(fence)
    assert fence not in re.findall("`+", code[len(fence) : -len(fence)])


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_for_xml_is_read_back(text: str) -> None:
    element = ElementTree.Element("a", b=quoting.xml_characters(text))
    assert ElementTree.fromstring(ElementTree.tostring(element)).get("b") is not None


# ------------------------------------------------------------------------------------------------------ the programs


def with_evil_texts(facts: Facts) -> Facts:
    """The facts with this text wherever a text of a stranger could be, as if nothing had been checked before."""
    inputs = tuple(dataclasses.replace(each, blob=EVIL, name=EVIL) for each in facts.inputs)
    outputs = tuple(dataclasses.replace(each, blob=EVIL, file=EVIL) for each in facts.outputs)
    options = next(iter(facts.precisions.values()))
    return dataclasses.replace(
        facts, model=EVIL, variant=EVIL, precision=EVIL, stem=EVIL, ncnn=EVIL, target=EVIL, inputs=inputs,
        outputs=outputs, precisions={EVIL: options},
    )  # fmt: skip


@pytest.mark.parametrize("language", ["cpp", "python"])
@pytest.mark.parametrize("inputs", [1, 2])
def test_templates_write_each_text_as_one_literal(language: str, inputs: int, tmp_path: Path) -> None:
    facts = with_evil_texts(facts_of(shipment(network("ReLU r 1 1 in0 out0"))))
    facts = dataclasses.replace(facts, inputs=facts.inputs * inputs)
    parts = frozenset({*EXTRAS, "embed", "examples", *(["several"] if inputs > 1 else ["frames"])})
    write_project(HOME / "app" / language, tmp_path, values_of(facts, parts))
    if language == "cpp":
        write_project(HOME / "app" / "cpp_tasks" / facts.task.kind, tmp_path, values_of(facts, parts))
    seen = 0
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        text = path.read_text(encoding="utf-8")
        for made in (quoting.cpp(EVIL), quoting.cpp(EVIL)[1:-1], quoting.cmake(EVIL), json.dumps(EVIL)):
            seen += text.count(made)
            text = text.replace(made, "")
        for ending in (".param", ".bin"):
            text = text.replace(quoting.shell(f"models/{EVIL}{ending}"), "")
        if path.suffix == ".md":  # there it is in code spans, and in lines of their own
            text = text.replace(quoting.markdown_code(EVIL), "").replace(quoting.markdown(EVIL), "")
            text = text.replace(quoting.shell(quoting.line(EVIL)), "")
        assert "owned" not in text.lower(), path
    assert seen


def test_an_emoji_in_a_name_is_ascii_in_the_code(own_run: Path, tmp_path: Path) -> None:
    document = json.loads((own_run / "run.json").read_text())
    variants = [{**row, "name": f"{row['name']}@🐈", "device": "🐈"} for row in document["variants"]]
    devices = [{**row, "name": "🐈", "recommended": None} for row in document["devices"]]
    edit(own_run, variants=variants, devices=devices, recommended=None)
    make_app(own_run, tmp_path / "app", variant="int8-cpu@🐈")
    for path in (tmp_path / "app/src").iterdir():
        assert path.read_text(encoding="utf-8").isascii(), path
    code = shipping(dataclasses.replace(load_run(own_run), recommended="int8-cpu@🐈"), "out")
    assert code is not None
    assert code.cpp.isascii()


def test_lines_that_load_a_model_name_its_blobs_in_each_language() -> None:
    run = decode(json.dumps(sample_run()), Run)
    found = shipping(run, "out")
    assert found is not None
    found = dataclasses.replace(found, inputs=[EVIL, "🐈"], outputs=[EVIL])
    named = [
        node.value
        for node in ast.walk(ast.parse(found.python))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert {EVIL, "🐈"} <= set(named)
    assert quoting.cpp("🐈") in found.cpp
    assert "\\ud83d" not in found.cpp, "a surrogate is no character of C++"


def test_a_reproducer_quotes_the_names_of_layers() -> None:
    from ncnnkit.source import reproducer

    script = reproducer._SCRIPT.format(about=quoting.python(f"{EVIL}."), inputs=1)
    tree = ast.parse(script)
    assert ast.get_docstring(tree, clean=False) == f"{EVIL}."


# ------------------------------------------------------------------------------------------------- reports and tables


def used(run: Run) -> str:
    """Everything that commands show of a run, and of its comparison with another. Returns the pages."""
    other = decode(json.dumps(sample_run()), Run)
    console = Console(file=io.StringIO(), markup=False, emoji=False, width=120)
    console.print(console_table(run.variants, run.recommended, 100))
    console.print(headline(run))
    ship = shipping(run, "out")
    if ship is not None:
        console.print(ship.cpp, ship.python, ship.text())
    made = [render(run)]
    for before, after in ((run, other), (other, run)):
        diff = compare_runs(before, after, ["int8.latency > 1.1x"])
        console.print(diff_table(diff))
        ElementTree.fromstring(junit(diff))
        made += [markdown(diff), junit(diff), render_comparison([NamedRun("a", before), NamedRun("b", after)])]
    for layers in [run.plan.layers] if run.plan else []:
        for order in LAYER_ORDERS:
            console.print(plan_table(layers, order))
        for layer in layers[:2]:
            console.print(layer_table(layer))
    return "".join(made)


def texts_in(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_in(item, f"{path}[{index}]")


def hostile(value: Any, kept: set[str], path: str = "") -> Any:
    """A document with EVIL for each text, but for those that are refused if they are not plain."""
    if isinstance(value, str):
        return value if path in kept else EVIL + path
    if isinstance(value, dict):
        return {key: hostile(item, kept, f"{path}.{key}".removeprefix(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, kept, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def test_free_texts_of_a_run_stay_texts_wherever_they_are_shown() -> None:
    document = sample_run()
    groups: dict[str, set[str]] = {}
    for path in texts_in(document):
        groups.setdefault(re.sub(r"\[\d+\]", "[]", path), set()).add(path)
    paths = set().union(*groups.values())
    kept = set[str]()
    for group in groups.values():  # which texts are free: a document with these alone is accepted
        try:
            decode(json.dumps(hostile(document, paths - group)), Run)
        except FormatError:
            kept |= group
    free = paths - kept
    assert {"why", "warnings[0]", "devices[0].machine.cpu", "variants[0].device_name"} <= free
    assert not {"model.name", "variants[0].files.param", "environment.machine.ncnn"} & free
    made = used(decode(json.dumps(hostile(document, kept)), Run))
    assert "<script>owned" not in made
    assert "owned()" in made
    assert printable(made) == made, "no control character, and none that changes the direction of writing"


def test_names_of_layers_in_the_script_of_a_page_are_printable() -> None:
    layer = NetworkLayer(
        name=EVIL, type=EVIL, reads=[EVIL], outputs=[EVIL], shape=None, parameters=0, int8=None
    )  # fmt: skip
    shown = json.loads(details([layer]))[0]
    assert [shown["name"], shown["type"], *shown["reads"]] == [printable(EVIL)] * 3


BROKEN: dict[str, tuple[str, Any]] = {
    "no variants": ("variants", []),
    "a latency of 0": ("variants[0].latency_ms.median", 0),
    "no latency that could be required": ("recipe.max_latency", "20 knots"),
    "a negative latency": ("variants[0].latency_ms.p25", -1.0),
    "an integer of 400 digits": ("variants[0].size_bytes", int("1" * 400)),
    "an integer of 400 digits for a real number": ("variants[0].latency_ms.median", int("1" * 400)),
    "conditions that are none": ("variants[0].conditions", 3),
    "conditions without values": ("variants[0].conditions", {}),
    "a malformed board": ("devices[0].machine.board", [1]),
    "no files of the recommended variant": ("variants[0].files", None),
    "no such device": ("variants[0].device", "nowhere"),
    "no devices": ("devices", []),
    "a choice that is no option": ("plan.layers[0].choice", "fp8"),
    "no options": ("plan.layers[0].options", []),
    "a plan without layers": ("plan.layers", []),
    "a front of negative times": ("plan.front", [{"ms": -1.0, "noise": 0.0, "int8": 0}]),
    "an empty front": ("plan.front", []),
    "counts of a histogram": ("network[1].int8.inputs.counts", []),
    "a histogram without width": ("network[1].int8.inputs.high", 0.0),
    "a layer that reads itself": ("network[1].reads", ["conv_0"]),
    "a layer that reads none": ("network[1].reads", ["nowhere"]),
    "no network": ("network", []),
    "an empty accuracy": ("variants[0].accuracy.outputs", []),
    "a cosine of 1e308": ("variants[0].accuracy.cosine", 1e308),
    "a tiny latency": ("variants[0].latency_ms", dict.fromkeys(("min", "p25", "median", "p75", "p90"), 5e-324)
                       | {"samples": 1}),
}  # fmt: skip


def put(document: Any, path: str, value: Any) -> None:
    *steps, last = path.replace("[", ".[").split(".")
    for step in steps:
        document = document[int(step[1:-1]) if step.startswith("[") else step]
    document[int(last[1:-1]) if last.startswith("[") else last] = value


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_run_is_refused_or_shown(what: str, tmp_path: Path) -> None:
    document = sample_run()
    put(document, *BROKEN[what])
    (tmp_path / "run.json").write_text(json.dumps(document))
    shown = ""
    with contextlib.suppress(FormatError):
        shown = used(load_run(tmp_path))
    if not shown:
        with pytest.raises(FormatError, match=re.escape(str(tmp_path / "run.json")) + r": .*\(it was edited"):
            load_run(tmp_path)
    assert not shown or "<html" in shown


# ------------------------------------------------------------------------------------------------------------- files

ELSEWHERE = {"../victim", "/etc/victim", "..", ".", "", "a/b", ".ncnnkit"}


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
@pytest.mark.parametrize("kind", ["out", "into"])
def test_a_half_finished_commit_moves_files_of_its_folder_only(kind: str, name: str, tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    work = run / ".ncnnkit"
    (work / "new").mkdir(parents=True)
    (work / "old").mkdir()
    (tmp_path / "a" / "victim").write_text("mine")
    (run / "victim").write_text("a stranger's")  # what new/../../victim is
    (work / "moves.json").write_text(json.dumps({"out": [], "into": [], kind: [name]}))
    with pytest.raises(FormatError, match=r"moves\.json: names files outside of its folder"):
        load_run(run)
    assert (tmp_path / "a" / "victim").read_text() == "mine"


@pytest.mark.parametrize("linked", ["new", "old"])
def test_a_half_finished_commit_follows_no_links(linked: str, tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    mine.mkdir()
    (mine / "key").write_text("secret")
    work = run / ".ncnnkit"
    work.mkdir(parents=True)
    for name in ("new", "old"):
        if name == linked:
            (work / name).symlink_to(mine)
        else:
            (work / name).mkdir()
    (run / "start.desktop").write_text("evil")
    (work / "moves.json").write_text(json.dumps({"out": ["start.desktop"], "into": ["key"]}))
    with pytest.raises(FormatError, match="is a link, which ncnnkit does not make"):
        load_run(run)
    assert [path.name for path in mine.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "moves", ["", "[]", "{}", '{"out": 1, "into": []}', '{"out": [1], "into": []}', "[" * 100000, "\xff"]
)
def test_a_damaged_commit_is_named(moves: str, tmp_path: Path) -> None:
    (tmp_path / ".ncnnkit").mkdir()
    (tmp_path / ".ncnnkit" / "moves.json").write_bytes(moves.encode("latin-1"))
    with pytest.raises(FormatError, match=r"moves\.json: is damaged: .*\(remove "):
        load_run(tmp_path)


def test_the_lock_of_a_folder_is_no_link(tmp_path: Path) -> None:
    work = tmp_path / "run" / ".ncnnkit"
    work.mkdir(parents=True)
    (work / "moves.json").write_text(json.dumps({"out": [], "into": []}))
    (tmp_path / "run" / ".ncnnkit.lock").symlink_to(tmp_path / "made")
    with pytest.raises(NcnnkitError):
        load_run(tmp_path / "run")
    assert not (tmp_path / "made").exists()


def test_a_report_shows_no_file_that_is_no_picture(tmp_path: Path) -> None:
    document = sample_run()
    (tmp_path / "secret").write_text("a private key")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "p.jpg").symlink_to(tmp_path / "secret")
    picture = {"variant": "int8-cpu", "image": "a", "file": "p.jpg", "severity": 1.0, "original_text": "", "text": ""}
    document["pictures"] = [picture]
    page = render(decode(json.dumps(document), Run), tmp_path / "run")
    assert "data:image/jpeg" not in page


def test_a_receipt_replaces_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "receipt.json").symlink_to(tmp_path / "mine")
    receipt = Receipt(
        passed=False, why=EVIL, made="", on="local", system="", cpu="", built_there=False, changed=[], sha256={},
        versions={}, test=None,
    )  # fmt: skip
    save_receipt(receipt, tmp_path / "receipt.json")
    assert (tmp_path / "mine").read_text() == "mine"
    assert json.loads((tmp_path / "receipt.json").read_text())["why"] == EVIL


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"a": 1}', '{"a\\u0000": "0"}', '{"../a": "0"}', '{"loop/a": "0"}', "[" * 100000]
)
def test_a_damaged_list_of_an_app_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(content)
    (tmp_path / "loop").symlink_to("loop")
    if "loop" in content:
        assert written_files(tmp_path) == {"loop/a": "0"}
        return
    with pytest.raises(FormatError, match=r"app\.json: (is damaged|names)"):
        written_files(tmp_path)


EXAMPLES: dict[str, dict[str, Any]] = {
    "a placement that is too short": {"0-placement": np.zeros(3, np.int64)},
    "an output of another shape": {"0-output-0": np.zeros((3, 5), np.float32)},
    "an output without values": {"0-output-0": np.zeros((0,), np.float32)},
    "an output of texts": {"0-output-0": np.array(["a"])},
    "a bound that is an array": {"db int8-cpu": np.zeros(3)},
}


@pytest.mark.parametrize("what", EXAMPLES)
def test_damaged_examples_are_named(what: str, own_run: Path, tmp_path: Path) -> None:
    path = own_run / "examples.npz"
    with np.load(path) as arrays:
        np.savez(path, **{**dict(arrays), **EXAMPLES[what]})
    with pytest.raises(FormatError, match=r"examples\.npz: .*\(run again\)"):
        make_app(own_run, tmp_path / "app", variant="int8")
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing", b"\x93NUMPY"])
def test_a_file_that_holds_no_examples_is_named(content: bytes, own_run: Path, tmp_path: Path) -> None:
    (own_run / "examples.npz").write_bytes(content)
    with pytest.raises(FormatError, match=r"examples\.npz: .*\(run again\)"):
        make_app(own_run, tmp_path / "app", variant="int8")


def test_class_names_that_are_no_text_are_named(own_run: Path, tmp_path: Path) -> None:
    (own_run / "labels.txt").write_bytes(b"\xff\xfe")
    document = json.loads((own_run / "run.json").read_text())
    edit(own_run, model={**document["model"], "labels": 10})
    for card in own_run.glob("m*.json"):
        card.unlink()
    with pytest.raises(FormatError, match=r"labels\.txt: cannot be read: it is not UTF-8 at position 0"):
        make_app(own_run, tmp_path / "app", variant="int8")


def test_facts_hold_no_text_that_this_test_forgets() -> None:
    """A new field of a text belongs into :func:`with_evil_texts`."""
    texts = {f.name for kind in (Facts, Input) for f in dataclasses.fields(kind) if f.type == "str"}
    assert texts == {"model", "variant", "precision", "stem", "ncnn", "target", "blob", "name"}
