"""Runs the commands of a page of docs/ as a reader types them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from ncnn_library import installed, library_options, run
from PIL import Image
from small_heads import detector

ROOT = Path(__file__).parents[1]
DATA = ROOT / "src/ncnnkit/data"


def yolo_and_photographs(folder: Path, kind: str) -> None:
    """Make the files with which the pages on a detector begin: yolov8n.onnx, images in street/, and street.jpg.

    Args:
        folder: where to make them.
        kind: the extension of the images in street/, such as ``png``.

    The network is a small one with the same outputs and metadata as Ultralytics' files.
    """
    detector(folder / "yolov8n.onnx")
    (folder / "street").mkdir()
    for path in (DATA / "images/evaluation").iterdir():
        with Image.open(path) as image:
            image.resize((160, 120)).save(folder / f"street/{path.stem}.{kind}")
    shutil.copy(DATA / "images/evaluation/coffee-5.jpg", folder / "street.jpg")


def blocks(page: str) -> list[str]:
    """The blocks of commands of a page that must be run: those that begin with ```sh."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.DOTALL)


def printing(page: str) -> list[tuple[str, str]]:
    """(Python code, printed text) for the code of a page that is followed by its output."""
    return re.findall(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", page, re.DOTALL)


def run_block(
    number: int,
    folder: Path,
    options: list[str] | None = None,
    board: str = "",
    page: str = "tutorial",
    swap: tuple[str, str] = ("", ""),
) -> str:
    """Run a block of commands of a page in a folder, with this ncnnkit. Returns the printed text.

    Args:
        number: the number of the block on the page.
        folder: the folder in which it runs.
        options: options for CMake. None uses this machine's library, which is older than the measured one.
        board: the address that replaces the address on the page.
        page: the page of docs/.
        swap: text that the tests cannot run as it is -> its replacement.
    """
    block = blocks(page)[number]
    block = block.replace(*swap) if swap[0] else block
    command = folder / "bin/ncnnkit"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f"#!{sys.executable}\nfrom ncnnkit.cli import main\n\nmain()\n")
    command.chmod(0o755)
    env = {
        **os.environ, "XDG_CONFIG_HOME": str(folder / "config"),
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"), "CMAKE_GENERATOR": "Ninja", "COLUMNS": "120",
    }  # fmt: skip
    if current := installed("current"):  # otherwise ncnnkit verify downloads and builds ncnn
        env["CMAKE_PREFIX_PATH"] = str(current)
    if "cmake -S" in block:  # a library is only needed here
        given = shlex.join(library_options("native") if options is None else options)
        block = block.replace("cmake -S", f"cmake {given} -S")
    block = block.replace("ssh://rock@192.168.1.7", board)
    return run("sh", "-e", "-c", block, cwd=folder, env=env)
