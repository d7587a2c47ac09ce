#!/usr/bin/env python3
"""Change files of the formats that ncnnkit reads, and read them: each is read, or refused with an error of ncnnkit.

    scripts/fuzz.py                             every format, 1000 changed files of each
    scripts/fuzz.py param npz --count 100000    some formats
    scripts/fuzz.py --seconds 60 --seed 7       at most a minute for each format, other files
    scripts/fuzz.py onnx --coverage             guided by the lines that run; needs `pip install atheris`
    scripts/fuzz.py param --replay FILE…        read these files

The formats are in tests/fuzzing, the changes in tests/mutations.py. A fault is another exception, a reading
that takes more than 2 seconds of the processor, one that takes more memory than the file justifies, or the death of the
process. Files that show a fault are saved in --out, under the name of the fault, the seed and the number of the file:
the same command makes the same files. Files with a new kind of error are changed further.

The result is a table as in docs/security.md. The exit status is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "src"))

if TYPE_CHECKING:  # atheris must see how ncnnkit is imported
    from fuzzing.engine import Progress, Result


def table(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    rows = [
        "| format | files | refused | seconds | slowest, s | most memory, MB | times its file | faults |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results:
        share = row.refused / max(row.files, 1)
        rows.append(
            f"| {row.format} | {row.files:,} | {share:.0%} | {row.seconds:.0f} | {row.slowest:.2f} | {row.most_mb:.1f} "
            f"| {row.times:.0f} | {sum(row.faults.values()) or '–'} |"
        )
    files, seconds = (sum(getattr(row, name) for row in results) for name in ("files", "seconds"))
    faults = sum(sum(row.faults.values()) for row in results)
    rows.append(f"| all | {files:,} | | {seconds:.0f} | | | | {faults or '–'} |")
    return "\n".join(rows)


def added(lines: Sequence[str]) -> list[Result]:
    """The results of several runs, added up for each format. The lines are those of --json."""
    from fuzzing.engine import Result

    found: dict[str, Result] = {}
    for line in lines:
        row = Result(**json.loads(line))
        whole = found.setdefault(row.format, Result(row.format))
        whole.files += row.files
        whole.refused += row.refused
        whole.seconds += row.seconds
        whole.slowest = max(whole.slowest, row.slowest)
        whole.most_mb, whole.times = max((whole.most_mb, whole.times), (row.most_mb, row.times))
        for name, count in row.faults.items():
            whole.faults[name] = whole.faults.get(name, 0) + count
    return list(found.values())


def save(result: Result, seed: int, out: Path) -> None:
    """Write the files that show faults."""
    for fault in result.examples:
        out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9]+", "-", fault.name)
        path = out / f"{result.format}-{name}-{seed}-{fault.index}"
        path.write_bytes(fault.data)
        path.with_name(path.name + ".txt").write_text(fault.text, encoding="utf-8", errors="replace")


def _shows(total: int) -> Progress:
    """Shows how far a format is: one line of a terminal, or a line each half minute of a log."""
    terminal = sys.stderr.isatty()
    shown = 0.0

    def show(result: Result) -> None:
        nonlocal shown
        if time.monotonic() - shown < (0.5 if terminal else 30):
            return
        shown = time.monotonic()
        speed = result.files / max(result.seconds, 1e-3)
        text = (
            f"{result.format}: {result.files:,} of {total:,} files, {speed:.0f}/s, faults {sum(result.faults.values())}"
        )
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


def main() -> int:
    if "--coverage" in sys.argv:
        _instrument()
    from fuzzing import FORMATS
    from fuzzing.engine import fuzz, replay

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"all by default: {', '.join(FORMATS)}")
    parser.add_argument("--count", type=int, default=1000, help="files of each format (default: 1000)")
    parser.add_argument("--seconds", type=float, default=1e9, help="end each format after so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="other files for another number (default: 0)")
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the files")
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"), help="folder for files with faults")
    parser.add_argument("--json", type=Path, help="append the results to this file, a line each")
    parser.add_argument("--add", type=Path, metavar="FILE", help="add up what --json has written, and read nothing")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="read these files of the one format")
    args = parser.parse_args()
    if args.add:
        print(table(added(args.add.read_text().splitlines())))
        return 0
    unknown = [name for name in args.formats if name not in FORMATS]
    if unknown:
        parser.error(f"no format {unknown[0]!r}; one of {', '.join(FORMATS)}")
    if args.replay:
        if len(args.formats) != 1:
            parser.error("--replay needs one format")
        found = replay(args.formats[0], [path.read_bytes() for path in args.replay])
        for path, (fault, text) in zip(args.replay, found):
            print(f"{path}: {fault or 'no fault'}\n{text}")
        return int(any(fault for fault, _ in found))
    results: list[Result] = []
    try:
        for name in args.formats or FORMATS:
            show = _shows(args.count)
            results.append(fuzz(name, args.count, args.seed, args.seconds, coverage=args.coverage, progress=show))
            save(results[-1], args.seed, args.out)
            print(file=sys.stderr)
            for fault, count in results[-1].faults.items():
                print(f"{name}: {fault} ({count})", file=sys.stderr)
            if args.json:
                with args.json.open("a") as file:
                    row = {key: value for key, value in asdict(results[-1]).items() if key != "examples"}
                    file.write(json.dumps(row) + "\n")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    print(table(results))
    return int(any(row.faults for row in results))


def _instrument() -> None:
    """Let atheris see which lines of ncnnkit run."""
    import atheris

    with atheris.instrument_imports(include=["ncnnkit"]):
        import ncnnkit

        for module in pkgutil.walk_packages(ncnnkit.__path__, "ncnnkit."):
            if not re.search(r"__main__|\.app\.python|\.onboard\.engines\.", module.name):
                __import__(module.name)


if __name__ == "__main__":
    sys.exit(main())
