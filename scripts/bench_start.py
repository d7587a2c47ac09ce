"""Time importing ncnnkit and printing its help, compared with importing numpy.

python scripts/bench_start.py [--runs 20]

Each row is a separate process, in interleaved rounds. The figure is the shortest time minus the shortest time of Python
alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

ROWS = {
    "Python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import ncnnkit": ["-c", "import ncnnkit"],
    "every name of ncnnkit": ["-c", "import ncnnkit; [getattr(ncnnkit, name) for name in ncnnkit.__all__]"],
    "ncnnkit --help": ["-m", "ncnnkit", "--help"],
    "ncnnkit run --help": ["-m", "ncnnkit", "run", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """The duration of a process, s."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    rounds = [{name: seconds(arguments) for name, arguments in ROWS.items()} for _ in range(runs)]
    least = {name: min(found[name] for found in rounds) for name in ROWS}
    alone = least.pop("Python")
    numpy = least["import numpy"] - alone
    print("| | s, with Python itself | of the time of `import numpy` |\n| --- | --- | --- |")
    for name, found in least.items():
        print(f"| `{name}` | {found:.2f} | {(found - alone) / numpy:.2f} |")


if __name__ == "__main__":
    main()
