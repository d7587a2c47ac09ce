"""Record a newcomer's first hour on a clean machine: docs/first-hour.md, and the installation in docs/benchmarks.md.

python scripts/first_hour.py                  # write both; takes some minutes
python scripts/first_hour.py --python python3.12 --keep /tmp/hour

It makes an empty virtual environment, installs this tree with pip, copies the network and the photographs that come
with ncnnkit, and runs the commands of a newcomer, including mistakes. The page shows each command with its exit code,
its duration, and the longest time without a line. It fails if an exit code is not the expected one.
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
"""The number of columns of the terminal."""


@dataclass(frozen=True)
class Step:
    """A command of the newcomer.

    Args:
        command: a line for the shell.
        why: the text of the page before it.
        first: the number of lines that the page shows from the beginning of the output.
        last: the number of lines that it shows from the end.
        code: the expected exit code.
        heading: the heading of a section of the page that begins here; empty for none.
    """

    command: str
    why: str
    first: int = 12
    last: int = 0
    code: int = 0
    heading: str = ""


STEPS = (
    Step("ncnnkit --version", "Check that it is installed:", heading="Looking around"),
    Step("ncnnkit --help", "The help lists the commands. The first lines:", 22),
    Step(
        "ncnnkit doctor",
        "What works on this machine. A `note` is not an error. Here it says that there is no GPU, so the next commands "
        "have `--backend cpu`.",
    ),
    Step(
        "ncnnkit run model.onnx --images photos/ --backend cpu --effort fast --out out/",
        "A quick whole run: `--effort fast`. A terminal shows a progress bar; a log like this one has a line for each "
        "stage. Lines that only show how long a stage has taken so far are left out here.",
        16,
        24,
        heading="The first run",
    ),
    Step("ls out/", "The run folder. `report.html` opens in a browser.", 30),
    Step("ncnnkit explain-layer out/ --sort ms", "The reasons for the precision of each layer:", 10),
    Step("ncnnkit report out/", "The report can be written again from `run.json`:", 0, 4),
    Step(
        "ncnnkit bench out/model-fp32.param --backend cpu --seconds 1",
        "The speed at each precision:",
        8,
        6,
        heading="Looking closer",
    ),
    Step("ncnnkit profile out/model-fp32.param --repeats 5", "The time of each layer:", 6, 3),
    Step(
        "ncnnkit compare out/model-fp32.param out/model-int8.param --images photos/ --layers",
        "The layers in which int8 loses accuracy:",
        10,
        2,
    ),
    Step(
        "ncnnkit app out/ --lang python -o app/",
        "A program to ship. Without `--lang` it is a C++ project.",
        12,
        heading="A program",
    ),
    Step(
        "python app/infer.py photos/astronaut-1.jpg", "The program needs ncnn, NumPy and Pillow, but not ncnnkit.", 12
    ),
    Step("ncnnkit verify app/", "The self-test checks that it computes the same as the run.", 12),
    Step(
        "ncnnkit run modle.onnx --images photos/",
        "A mistyped name.",
        code=3,
        heading="Errors of the first hour",
    ),
    Step("ncnnkit run photos/astronaut-1.jpg --images photos/", "A file that is not a network.", code=3),
    Step("ncnnkit run model.onnx", "A command without images.", code=3),
    Step("ncnnkit run model.onnx --images pictures/", "A folder that does not exist.", code=3),
    Step("ncnnkit run model.onnx --images empty/", "An empty folder.", code=3),
    Step("ncnnkit run model.onnx --images notes/", "A folder without images.", code=3),
    Step("ncnnkit run mynet.py --images photos/", "A Python file instead of a network.", code=3),
    Step("ncnnkit run mynet --images photos/", "A module without a function name.", code=3),
    Step("ncnnkit run mynet:built --images photos/", "A function that the module does not have.", code=3),
    Step("ncnnkit run torchvision:resnet50 --images photos/", "A network of torchvision, without torch.", code=3),
    Step("ncnnkit run model.onnx --image photos/", "A mistyped option.", 20, code=2),
    Step("ncnnkit run model.onnx --images photos/ --precision int4", "A precision that does not exist.", code=3),
    Step("ncnnkit run model.onnx --images photos/ --require 'accuracy>=1'", "A figure that does not exist.", code=3),
    Step("ncnnkit run model.onnx --images photos/ --on myboard", "A board that is not known.", code=3),
    Step("ncnnkit bench out/model-fp32.bin", "The weights instead of the `.param`.", code=3),
    Step("ncnnkit explain-layer photos/", "A folder without a run.", code=3),
    Step("ncnnkit app out/ -o out/", "A program in the folder of the run.", code=4),
)


@dataclass(frozen=True)
class Done:
    """The result of a command: its exit code, its lines, and its duration and longest silence in seconds."""

    code: int
    lines: tuple[str, ...]
    seconds: float
    silence: float


def watched(command: Sequence[str], folder: Path, env: dict[str, str]) -> Done:
    """Run a command, and record when it prints lines."""
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
    """Make the newcomer's files: a network, photographs, and some files that are not usable."""
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
    """A description of this machine: its processor, its cores, and whether it is busy."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        processor = found[1] if found else processor
    load = os.getloadavg()[0]
    busy = f", busy with other work (load average {load:.1f})" if load > 0.5 else ""
    return f"{processor}, {os.cpu_count()} cores{busy}"


def replaced(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of a generated part of a page."""
    old = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: made by scripts/first_hour.py -->\n", f"<!-- end of {name} -->"
    new, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + text + end, old, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page.name}: no part {name}")
    page.write_text(new, encoding="utf-8")


INTRODUCTION = """\
# The first hour

<!-- Made by scripts/first_hour.py. Change that, or run it again. -->

This page is a recording. A newcomer installs ncnnkit in an empty environment, and tries it with the network and the
photographs that come with it. Typical mistakes are included. The network is `model.onnx`, and the photographs are in
`photos/`. Long outputs are shortened (`…`).

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
