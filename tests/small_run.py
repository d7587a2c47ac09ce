"""A run of a small network, and changes of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ncnnkit.app import make_app
from ncnnkit.errors import NcnnkitError
from ncnnkit.samples.preprocess import Preprocess

PREPROCESS = Preprocess(resize=20, interpolation="bicubic", crop=(16, 16), color="bgr", mean=(0.485, 0.456, 0.406))


def edit(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**document, **fields}))


def edit_cards(folder: Path, **fields: Any) -> None:
    for path in folder.glob("m*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(run_folder: Path, tmp_path: Path, kind: type[NcnnkitError], match: str, **options: Any) -> None:
    with pytest.raises(kind, match=match):
        make_app(run_folder, **{"variant": "int8", "folder": tmp_path / "app", **options})
    assert not (tmp_path / "app").exists()
