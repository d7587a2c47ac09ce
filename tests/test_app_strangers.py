"""The app of an untrusted run folder or card: no name or text in it gets into code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from networks import network, small
from small_run import edit, refused

from ncnnkit.app import make_app
from ncnnkit.app.facts import facts_of
from ncnnkit.app.models import shipment
from ncnnkit.artifact import Artifact
from ncnnkit.errors import FormatError, ModelError
from ncnnkit.quoting import cpp

EVIL = 'x"; system("touch PWNED"); //\n#include <evil.h>\n\\ ??/ ${PWNED} $(touch PWNED) `touch PWNED` 🐈'


def code_of(folder: Path) -> str:
    """The text of an app that a compiler, CMake or a shell reads."""
    files = [folder / name for name in ("CMakeLists.txt", "run.sh", "scripts/deploy.sh", "models/variants.txt")]
    return "".join(path.read_text() for path in (*files, *sorted((folder / "src").iterdir())))


@pytest.mark.parametrize("name", ["m$(touch PWNED)", "m`touch PWNED`", 'm"); system("x', "m\n", "../m", "/etc/m", "-m"])
def test_file_names_of_a_run_have_no_special_meaning(name: str, own_run: Path, tmp_path: Path) -> None:
    variants = json.loads((own_run / "run.json").read_text())["variants"]
    variants[0]["files"]["param"] = f"{name}.param"
    edit(own_run, variants=variants)
    refused(own_run, tmp_path, FormatError, r"variants\[0\]\.files\.param is ")


def test_the_models_name_has_no_special_meaning(own_run: Path, tmp_path: Path) -> None:
    for name in (EVIL, "m\nint evil();"):
        edit(own_run, model={**json.loads((own_run / "run.json").read_text())["model"], "name": name})
        refused(own_run, tmp_path, FormatError, r"model\.name is ")


def test_free_texts_of_a_run_do_not_reach_code(own_run: Path, tmp_path: Path) -> None:
    document = json.loads((own_run / "run.json").read_text())
    model = {**document["model"], "reference": EVIL}
    model["inputs"][0]["name"] = model["outputs"][0]["name"] = EVIL
    devices = [
        {**device, "machine": {**device["machine"], "cpu": EVIL}, "address": EVIL} for device in document["devices"]
    ]
    variants = [{**v, "device_name": EVIL, "reason": EVIL, "notes": [EVIL]} for v in document["variants"]]
    images = {**document["images"], "source": EVIL}
    edit(
        own_run, model=model, variants=variants, devices=devices, warnings=[EVIL], why=EVIL, images=images,
        preprocess_origin=EVIL,
    )  # fmt: skip
    make_app(own_run, tmp_path / "app", variant="int8")
    assert "PWNED" not in code_of(tmp_path / "app")
    assert "evil" not in code_of(tmp_path / "app")


def test_a_blobs_name_stays_within_its_literal(own_run: Path, tmp_path: Path) -> None:
    """Names of blobs come from the .param, which is untrusted, too."""
    param = own_run / "m-int8.param"
    param.write_text(param.read_text().replace("in0", 'in";evil();//\\'))
    with pytest.warns(UserWarning, match="this card is ignored"):
        make_app(own_run, tmp_path / "app", variant="int8")
    header = (tmp_path / "app/src/model.h").read_text()
    assert '"in\\042;evil();//\\134"' in header


@pytest.mark.parametrize("name", ["m$(touch PWNED)", "m`touch PWNED`", 'm"); system("touch PWNED', "m\n", "-m", "é x"])
def test_the_name_of_a_models_file_has_no_special_meaning(name: str, tmp_path: Path) -> None:
    """A model that is given directly may have any name. Its files in the app get a plain name."""
    Artifact.made(small(), "fp32").save(tmp_path / f"{name}.param")
    chosen = make_app(tmp_path / f"{name}.param", tmp_path / "app")
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", chosen.stem)
    assert (tmp_path / f"app/models/{chosen.stem}.bin").is_file()
    for text in ("$(touch", "`touch", "system("):
        assert text not in code_of(tmp_path / "app").replace("$(touch a)", "")


HOSTILE: dict[str, dict[str, Any]] = {
    "target": {"target": EVIL},
    "ncnn": {"ncnn": 'x"; evil(); //'},
    "pillow": {"pillow": "13\nint evil();"},
    "precision": {"precisions": [EVIL], "options": {EVIL: {}}},
    "option": {"options": {"fp32": {EVIL: True}, "fp16": {}, "bf16": {}}},
    "options that are not all": {"options": {"fp32": {}, "fp16": {}, "bf16": {}}},
    "filter": {"preprocess": {"interpolation": "bilinear, evil()"}},
    "colour": {"preprocess": {"color": EVIL}},
    "pixels": {"preprocess": {"resize": 1 << 40}},
    "crop": {"preprocess": {"crop": [1 << 40, 1]}},
    "mean": {"preprocess": {"mean": [1e300]}},
    "divisor": {"preprocess": {"divisor": 1e-300}},
    "shape": {"inputs": [{"name": "in0", "shape": [3, 16, 1 << 40]}]},
    "negative": {"inputs": [{"name": "in0", "shape": [3, 16, -16]}]},
    "twice": {"precisions": ["fp32", "fp32"]},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_card_is_refused(what: str, tmp_path: Path) -> None:
    param = tmp_path / "m.param"
    Artifact.made(small(), "fp32").save(param)
    card = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**card, **HOSTILE[what]}))
    with pytest.warns(UserWarning, match="this card is ignored"):
        make_app(param, tmp_path / "app")
    assert "evil" not in code_of(tmp_path / "app")
    assert "PWNED" not in code_of(tmp_path / "app")


def test_free_texts_of_a_card_do_not_reach_code(tmp_path: Path) -> None:
    tensor = {"name": EVIL, "shape": [3, 16, 16]}
    Artifact.made(small(), "fp32").save(tmp_path / "m.param")
    card = json.loads((tmp_path / "m.json").read_text())
    card |= {"labels": [EVIL, "a\r\nb", "c\u2028d"], "inputs": [tensor], "outputs": [tensor]}
    (tmp_path / "m.json").write_text(json.dumps(card))
    make_app(tmp_path / "m.param", tmp_path / "app")
    assert "PWNED" not in code_of(tmp_path / "app")
    assert len((tmp_path / "app/models/labels.txt").read_text().splitlines()) == 3, "a class a line"


def test_a_card_with_the_shape_of_another_network_is_refused(tmp_path: Path) -> None:
    Artifact.made(small(), "fp32").save(tmp_path / "m.param")
    card = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**card, "inputs": [{"name": "in0", "shape": [5, 16, 16]}]}))
    with pytest.raises(ModelError, match="layer Convolution c1 expects 3 channels, but gets 5x16x16"):
        make_app(tmp_path / "m.param", tmp_path / "app")


def test_a_blobs_name_is_not_used_as_a_path() -> None:
    """Each of several outputs gets a file. Blobs may have any name without spaces."""
    text = """
        Split s 1 2 in0 a b
        ReLU r 1 1 a ../../up
        ReLU t 1 1 b detection/boxes:0
    """
    facts = facts_of(shipment(network(text)))
    assert [(output.blob, output.file) for output in facts.outputs] == [
        ("../../up", "up"), ("detection/boxes:0", "detection-boxes-0"),
    ]  # fmt: skip
    alike = facts_of(shipment(network("Split s 1 2 in0 a/b a:b")))
    assert [output.file for output in alike.outputs] == ["0", "1"]


def test_a_variants_name_contains_no_line_ends(own_run: Path, tmp_path: Path) -> None:
    variants = json.loads((own_run / "run.json").read_text())["variants"]
    variants[0]["name"] = "fp32-cpu\nint evil();"
    edit(own_run, variants=variants, recommended=None)
    refused(own_run, tmp_path, FormatError, "holds no control characters")


@pytest.mark.parametrize("text", [EVIL, "", "plain", "é\u202e", "\ud800", "a\0b"])
def test_a_literal_is_read_back_unchanged(text: str) -> None:
    literal = cpp(text)
    assert re.fullmatch(r'"([A-Za-z0-9 .,:;_\-+/()\[\]@=]|\\[0-7]{3})*"', literal)
    octal = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), literal[1:-1].encode())
    assert octal == text.encode("utf-8", "replace")
