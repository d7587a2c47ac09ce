"""Kill a run with SIGKILL at random moments, start it again, and compare the results with those of a run left alone.

python scripts/kill_and_resume.py [--kills 50] [--seed 0] [--model FILE --images DIR]

Each time, a run begins in an empty run folder, is killed after a random time, and is started again in the same folder
until it ends. Every second kill hits the main process only, so that nothing but ncnnkit ends the other processes; the
others hit the whole group. In half of the rounds the results of earlier runs are removed first, so that the kill comes
while these are made. Then the models, the accuracy figures and the list of files must be those of the undisturbed run,
and nothing may be left: no process, no temporary folder or file, no lock, nothing in /dev/shm.

The recipe makes everything whose result does not depend on time: fp32, fp16, bf16 and int8. A mixed model depends on
measured latencies, so two undisturbed runs may choose different ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "src" / "ncnnkit" / "data"
MARK = "NCNNKIT_KILL_AND_RESUME"
"""The variable of the environment by which every process of a run is found again, whoever is its parent."""

DYING = 10.0
"""Seconds after which a process that should have died is one that is left."""

OPTIONS = ["--precision", "fp32,fp16,bf16,int8", "--backend", "cpu", "--seconds", "0.1", "--rounds", "1", "--quiet"]


@dataclass(frozen=True)
class Place:
    """The folders of a round.

    Attributes:
        home: everything is in it.
        mark: the value of the variable by which its processes are found.
    """

    home: Path
    mark: str

    @property
    def out(self) -> Path:
        return self.home / "out"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def temporary(self) -> Path:
        return self.home / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ, MARK: self.mark, "XDG_CACHE_HOME": str(self.cache), "TMPDIR": str(self.temporary)
        }  # fmt: skip


def begin(arguments: list[str], place: Place) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    with (place.home / "log").open("ab") as log:
        command = [sys.executable, "-m", "ncnnkit", "run", *arguments, "--out", str(place.out)]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=place.environment, start_new_session=True
        )


def whole_run(arguments: list[str], place: Place) -> float:
    """Run to the end; returns the seconds that this took."""
    start = time.monotonic()
    status = begin(arguments, place).wait()
    if status:
        raise SystemExit(f"a run failed with status {status}: {(place.home / 'log').read_text()[-2000:]}")
    return time.monotonic() - start


def results(out: Path) -> dict[str, Any]:
    """All of a run folder that must not depend on when it was made: hashes of models, figures, names of files."""
    document = json.loads((out / "run.json").read_text())
    return {
        "files": sorted(path.name for path in out.iterdir()),
        "models": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.iterdir())
            if path.suffix in (".param", ".bin") or path.name == "recipe.toml"
        },
        "variants": {row["name"]: (row["status"], row["accuracy"]) for row in document["variants"]},
        "trials": [
            (trial["method"], trial["relative_error"], trial["kept"])
            for trial in (document["quantisation"] or {"trials": []})["trials"]
        ],
    }


def marked(mark: str) -> Iterator[int]:
    """The processes with this value of the variable."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def left_processes(mark: str) -> list[int]:
    """The processes that are left after some time to die."""
    until = time.monotonic() + DYING
    while (found := list(marked(mark))) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def leftovers(place: Place, shared: set[str]) -> list[str]:
    """What a run has left beside its results."""
    hidden = [path for path in (place.out, place.cache / "ncnnkit" / "stages") for path in path.glob(".*")]
    scratch = (place.cache / "ncnnkit").rglob("ncnnkit-scratch-*")
    found = [*hidden, *scratch, *place.temporary.iterdir()]
    return [*map(str, found), *(f"/dev/shm/{name}" for name in shared_memory() - shared)]


def shared_memory() -> set[str]:
    """Shared memory and semaphores as Python, torch and ncnnkit name them, without those of a process that runs."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    found = {name for name in names if name.startswith(("ncnnkit", "psm_", "sem.", "torch_"))}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            text = maps.read_text()
            found = {name for name in found if f"/dev/shm/{name}" not in text}
    return found


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names of the results that differ."""
    return [
        f"{name}: {ours[name]} instead of {theirs[name]}" for name in theirs if ours.get(name) != theirs[name]
    ]  # fmt: skip


def kill_and_resume(arguments: list[str], kills: int, seed: int, home: Path) -> list[str]:
    """Everything that was wrong, in sentences; empty if nothing was.

    Args:
        arguments: of ``ncnnkit run``.
        kills: the number of kills.
        seed: of the moments.
        home: an empty folder.
    """
    chance, shared, wrong = random.Random(seed), shared_memory(), []
    place = Place(home, f"{os.getpid()}-{seed}")
    place.temporary.mkdir()
    first = whole_run(arguments, place)
    expected = results(place.out)
    again = whole_run(arguments, place)
    if found := differences(results(place.out), expected):
        wrong.append(f"two undisturbed runs differ: {found}")
    print(f"undisturbed: {first:.1f} s, with the results of an earlier run {again:.1f} s", flush=True)
    hits = 0
    for number in range(kills):
        known = len(wrong)
        fresh = number // 2 % 2 == 0
        if fresh:
            shutil.rmtree(place.cache)
        keep_old = chance.random() < 0.5
        if not keep_old:
            shutil.rmtree(place.out)
        moment = chance.uniform(0, 1.1 * (first if fresh else again))
        process = begin(arguments, place)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            hits += 1
        (os.kill if number % 2 else os.killpg)(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        if left := left_processes(place.mark):
            wrong.append(f"kill {number} after {moment:.2f} s left the processes {left}")
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if keep_old and not place.out.joinpath("run.json").exists():
            whole_or_none = [path.name for path in place.out.iterdir() if not path.name.startswith(".ncnnkit")]
            if not (place.out / ".ncnnkit" / "moves.json").exists():
                wrong.append(f"kill {number} after {moment:.2f} s destroyed the earlier run; left: {whole_or_none}")
        took = whole_run(arguments, place)
        for what in (*differences(results(place.out), expected), *leftovers(place, shared)):
            wrong.append(f"kill {number} after {moment:.2f} s: {what}")
        of = "the main process" if number % 2 else "the group"
        print(
            f"{number + 1}/{kills}: {of} after {moment:.2f} s, then {took:.1f} s",
            *wrong[known:],
            sep="\n    ",
            flush=True,
        )
    print(f"{hits} of {kills} kills came before the run had ended")
    if left := left_processes(place.mark):
        wrong.append(f"at the end the processes {left} are left")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=str(DATA / "efficientnet-lite0.onnx"))
    parser.add_argument("--images", default=str(DATA / "images" / "calibration"))
    parser.add_argument("--effort", default="fast")
    asked = parser.parse_args()
    arguments = [asked.model, "--images", asked.images, "--effort", asked.effort, *OPTIONS]
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as home:
        wrong = kill_and_resume(arguments, asked.kills, asked.seed, Path(home))
    print(f"{len(wrong)} faults" if wrong else "every run ended with the same results, and nothing was left")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
