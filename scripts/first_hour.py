"""A newcomer's first hour on a clean machine, recorded: docs/first-hour.md, and the installation in docs/benchmarks.md.

python scripts/first_hour.py                  # write both; takes some minutes
python scripts/first_hour.py --python python3.12 --keep /tmp/hour

It makes a virtual environment with nothing in it, installs this tree with pip, copies the network and the photographs
that come with ncnnkit, and types what a newcomer types, mistakes included. The page shows each command with its exit
code, its duration, and the longest time without a line. It fails if an exit code is not the expected one.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "src/ncnnkit/data"
PAGE = ROOT / "docs/first-hour.md"
BENCHMARKS = ROOT / "docs/benchmarks.md"
WIDTH = 100
"""Columns of the terminal."""


@dataclass(frozen=True)
class Step:
    """What the newcomer types.

    Args:
        command: a line for the shell.
        why: what the page says before it.
        first: how many lines of its output the page shows from the beginning.
        last: how many from the end.
        code: the exit code that it must have.
        heading: of a section of the page that begins here.
    """

    command: str
    why: str
    first: int = 12
    last: int = 0
    code: int = 0
    heading: str = ""


STEPS = (
    Step("ncnnkit --version", "Is it there?", heading="Looking around"),
    Step("ncnnkit --help", "What can it do? The list of commands goes on:", 22),
    Step(
        "ncnnkit doctor",
        "What works on this machine? A `note` is no error. Here it says that there is no GPU, so the next commands get "
        "`--backend cpu`.",
    ),
    Step(
        "ncnnkit run model.onnx --images photos/ --backend cpu --effort fast --out out/",
        "The whole way, quickly: `--effort fast`. In a terminal a bar shows the progress; a log like this one gets a "
        "line for each stage. The page leaves out the lines that only say how long a stage takes so far.",
        16,
        24,
        heading="The first run",
    ),
    Step("ls out/", "What came out? `report.html` opens in a browser.", 30),
    Step("ncnnkit explain-layer out/ --sort ms", "Why these precisions?", 10),
    Step("ncnnkit report out/", "The report can be written again from `run.json`.", 0, 4),
    Step(
        "ncnnkit bench out/model-fp32.param --backend cpu --seconds 1",
        "How fast is it, at each precision?",
        8,
        6,
        heading="Looking closer",
    ),
    Step("ncnnkit profile out/model-fp32.param --repeats 5", "Where does the time go?", 6, 3),
    Step(
        "ncnnkit compare out/model-fp32.param out/model-int8.param --images photos/ --layers",
        "Where does int8 lose accuracy?",
        10,
        2,
    ),
    Step("ncnnkit app out/ --lang python -o app/", "A program to ship; C++ without `--lang`.", 12, heading="A program"),
    Step("python app/infer.py photos/astronaut-1.jpg", "It needs ncnn, NumPy and Pillow, and nothing of ncnnkit.", 12),
    Step("ncnnkit verify app/", "Does it compute what the run measured?", 12),
    Step(
        "ncnnkit run modle.onnx --images photos/",
        "A name mistyped.",
        code=3,
        heading="What goes wrong in the first hour",
    ),
    Step("ncnnkit run photos/astronaut-1.jpg --images photos/", "Not a network.", code=3),
    Step("ncnnkit run model.onnx", "No images.", code=3),
    Step("ncnnkit run model.onnx --images pictures/", "A folder that is not there.", code=3),
    Step("ncnnkit run model.onnx --images empty/", "A folder with nothing in it.", code=3),
    Step("ncnnkit run model.onnx --images notes/", "A folder with other files.", code=3),
    Step("ncnnkit run mynet.py --images photos/", "A file of Python in place of a network.", code=3),
    Step("ncnnkit run mynet --images photos/", "A module without its function.", code=3),
    Step("ncnnkit run mynet:built --images photos/", "A function that the module does not have.", code=3),
    Step("ncnnkit run torchvision:resnet50 --images photos/", "A network of torchvision, without torch.", code=3),
    Step("ncnnkit run model.onnx --image photos/", "An option mistyped.", 20, code=2),
    Step("ncnnkit run model.onnx --images photos/ --precision int4", "A precision that does not exist.", code=3),
    Step("ncnnkit run model.onnx --images photos/ --require 'accuracy>=1'", "A figure that does not exist.", code=3),
    Step("ncnnkit run model.onnx --images photos/ --on myboard", "A board without a name.", code=3),
    Step("ncnnkit bench out/model-fp32.bin", "The weights in place of the `.param`.", code=3),
    Step("ncnnkit explain-layer photos/", "A folder that is no run.", code=3),
    Step("ncnnkit app out/ -o out/", "A program into the folder of the run.", code=4),
)


@dataclass(frozen=True)
class Done:
    """What came of a command: its exit code, lines, duration and longest silence in seconds."""

    code: int
    lines: tuple[str, ...]
    seconds: float
    silence: float


def watched(command: Sequence[str], folder: Path, env: dict[str, str]) -> Done:
    """Run a command, and note when its lines come."""
    start = last = time.monotonic()
    silence, lines = 0.0, []
    with subprocess.Popen(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            now = time.monotonic()
            silence, last = max(silence, now - last), now
            lines.append(line.rstrip())
    end = time.monotonic()
    return Done(process.returncode, tuple(lines), end - start, max(silence, end - last))


def shortened(lines: Sequence[str], first: int, last: int) -> list[str]:
    """The first and last lines, without the progress in between and without empty lines at both ends."""
    kept = [line for line in lines if not re.match(r"  Stage |  \S.*, \d+(\.\d+)? s$", line)]
    while kept and not kept[0]:
        kept.pop(0)
    while kept and not kept[-1]:
        kept.pop()
    if len(kept) <= first + last + 1:
        return kept
    return [*kept[:first], "…", *(kept[-last:] if last else [])]


def installed(python: str, folder: Path) -> tuple[Path, float, float]:
    """A virtual environment with this tree in it: its folder, the seconds of pip, and its size in MB."""
    environment = folder / "environment"
    subprocess.run([python, "-m", "venv", str(environment)], check=True)
    before = size_mb(environment)
    start = time.monotonic()
    pip = [str(environment / "bin/pip"), "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]
    subprocess.run([*pip, str(ROOT)], check=True)
    return environment, time.monotonic() - start, size_mb(environment) - before


def size_mb(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def largest(environment: Path, count: int = 6) -> list[tuple[str, float]]:
    """(name, MB) of the largest packages of an environment, without pip and what a new environment contains."""
    (packages,) = environment.glob("lib/python*/site-packages")
    sizes = [(path.name, size_mb(path)) for path in packages.iterdir() if path.is_dir() and path.name != "pip"]
    return sorted(sizes, key=lambda row: -row[1])[:count]


def prepare(folder: Path) -> None:
    """What the newcomer has: a network, photographs, and some files that are of no use."""
    folder.mkdir()
    shutil.copy(DATA / "efficientnet-lite0.onnx", folder / "model.onnx")
    shutil.copytree(DATA / "images/calibration", folder / "photos")
    for path in (DATA / "images/evaluation").iterdir():
        shutil.copy(path, folder / "photos")
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes/todo.txt").write_text("ship it\n")
    (folder / "mynet.py").write_text("def build():\n    return None\n")


def machine() -> str:
    """This machine: its processor, cores, and what else it does."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        processor = found[1] if found else processor
    load = os.getloadavg()[0]
    busy = f", busy with other work (load average {load:.1f})" if load > 0.5 else ""
    return f"{processor}, {os.cpu_count()} cores{busy}"


def replaced(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of a part of a page that is made."""
    old = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: made by scripts/first_hour.py -->\n", f"<!-- end of {name} -->"
    new, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + text + end, old, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page.name}: no part {name}")
    page.write_text(new, encoding="utf-8")


INTRODUCTION = """\
# The first hour

<!-- Made by scripts/first_hour.py. Change that, or run it again. -->

What a newcomer sees who installs ncnnkit in an empty environment and tries it with the network and the photographs that
come with it: a recording, mistakes included. The network is `model.onnx`, the photographs are in `photos/`. Long
outputs are shortened (`…`).

Recorded on {machine}. Other work makes the times longer.

```
python3 -m venv environment
environment/bin/pip install .
```

It took {seconds:.0f} s, and the environment grew by {size:.0f} MB.
"""


def page(about: str, seconds: float, size: float, done: Sequence[tuple[Step, Done]]) -> str:
    parts = [INTRODUCTION.format(machine=about, seconds=seconds, size=size)]
    for step, it in done:
        if step.heading:
            parts.append(f"\n## {step.heading}\n")
        shown = shortened(it.lines, step.first, step.last)
        quiet = f", at most {it.silence:.1f} s without a line" if it.silence >= 2 else ""
        body = "\n".join([f"$ {step.command}", *shown])
        parts.append(f"\n{step.why}\n\n```console\n{body}\n```\n\nExit code {it.code}, {it.seconds:.1f} s{quiet}.\n")
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python of the environment")
    parser.add_argument("--keep", type=Path, help="a new folder to work in, which is kept; with an environment/ in it "
                        "from before, nothing is installed and docs/benchmarks.md stays as it is")  # fmt: skip
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.keep or Path(scratch)).resolve()
        folder.mkdir(exist_ok=True)
        again = (folder / "environment").exists()
        about = machine()
        environment, seconds, size = (folder / "environment", 0.0, 0.0) if again else installed(given.python, folder)
        work = folder / "hour"
        shutil.rmtree(work, ignore_errors=True)
        prepare(work)
        kept = {name: value for name, value in os.environ.items() if name in ("LANG", "TERM")}
        env = {
            **kept, "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder),
            "COLUMNS": str(WIDTH), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        done, wrong = [], []
        for step in STEPS:
            it = watched(["sh", "-c", step.command], work, env)
            print(f"{it.code} {it.seconds:6.1f} s, {it.silence:5.1f} s silent  {step.command}", flush=True)
            lines = tuple(line.replace(str(folder), "~") for line in it.lines)
            done.append((step, Done(it.code, lines, it.seconds, it.silence)))
            if it.code != step.code:
                wrong.append(f"{step.command}: exit code {it.code}, not {step.code}\n" + "\n".join(lines[-5:]))
        parts = ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in largest(environment))
    if not again:
        text = (
            f"On {about}: `pip install .` into an empty environment took {seconds:.0f} s without pip's cache, "
            f"download included, and the environment grew by {size:.0f} MB. The largest packages: {parts}.\n"
        )
        replaced(BENCHMARKS, "installation", text)
    target = folder / "first-hour.md" if again else PAGE
    target.write_text(page(about, seconds, size, done), encoding="utf-8")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
