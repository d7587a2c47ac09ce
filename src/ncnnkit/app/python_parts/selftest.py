"""``--self-test``: runs the examples, and compares the outputs and answers with those of the original."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from ncnnkit.app.python_parts.images import read_image
from ncnnkit.app.python_parts.inputs import read_inputs
from ncnnkit.app.python_parts.network import Model, Network, Settings, in_words, is_older
from ncnnkit.app.python_tasks.classification import agreement
from ncnnkit.app.python_tasks.common import Failure, rounded
from ncnnkit.onboard.picture import Array
from ncnnkit.onboard.userfiles import LINES, read_text

# ---------------------------------------------------------------------------------------------------------- self-test

FAILED = 3
"""The exit status if a figure is below its bound."""
CHECKED = 1024
"""The largest number of values of an output that are compared, evenly spaced."""


@dataclass
class Example:
    """An example, read from N.txt, which lists the input files, the original's outputs and its prediction.

    Attributes:
        path: of N.txt.
        files: the input files.
        outputs: the compared values of each output.
        found: ``score``, ``box``, ``points`` or ``embedding`` -> the numbers of each such line; ``picture`` -> pixels.
    """

    path: Path
    files: List[Path]
    outputs: List[Array]
    found: Dict[str, Any]


class Figure(NamedTuple):
    """A figure of the self-test, and the least value that passes."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the value is at least the bound."""
        return self.value >= self.bound  # False for NaN


def self_test(model: Model, settings: Settings, count: int, as_json: bool) -> int:
    """Run the examples, and print a table of figures and their bounds. Returns the exit status."""
    examples = read_examples(model.param.parent.parent / "examples")
    least_db, least_agreement = bounds_of(model, settings)
    network, noise = Network(model, settings), Noise()
    names = [row["name"] for row in model.facts["inputs"]]
    agreed: List[float] = []
    input_ms: List[float] = []
    samples: List[float] = []
    for example in examples:
        start = time.perf_counter()
        given = read_inputs(dict(zip(names, example.files)), model.facts)
        input_ms.append((time.perf_counter() - start) * 1000)
        timed, outputs = network.timed(given, count)
        noise.add(outputs, example.outputs)
        if example.found:
            found = network.predict(given)
            try:
                agreed.append(agreement(found, example.found))
            except (KeyError, IndexError, TypeError, ValueError):  # the file has no prediction of this task
                raise Failure("%s: is damaged" % example.path) from None
        samples += timed[1:] if samples else timed
    older = is_older(network.version, model.facts["ncnn"])
    figures = [
        Figure("SQNR of the outputs", noise.sqnr_db, least_db, "dB"),
        Figure("ncnn as new as measured", 0.0 if older else 1.0, 1.0, ""),
    ]
    if agreed:
        figures.append(Figure("agreement of the answers", float(np.mean(agreed)), least_agreement, ""))
    passed = all(figure.passed for figure in figures)
    about = network.about(float(np.mean(input_ms)), samples)
    if as_json:
        rows = [{**f._asdict(), "value": f.value if math.isfinite(f.value) else None, "passed": f.passed}
                for f in figures]  # fmt: skip
        print(json.dumps({**about, "examples": len(examples), "figures": rows, "passed": passed}))
        return 0 if passed else FAILED
    for line in in_words(about):
        print(line)
    print("%-28s %10s %10s" % ("figure", "value", "at least"))
    for f in figures:
        row = (f.name, rounded(f.value), rounded(f.bound), f.unit, "pass" if f.passed else "FAIL")
        print("%-28s %10s %10s %-3s %s" % row)
    print("%s: %d examples" % ("passed" if passed else "FAILED", len(examples)))
    return 0 if passed else FAILED


def read_examples(folder: Path) -> List[Example]:
    """The examples 1.txt, 2.txt and so on in a folder. Raises Failure if there are none."""
    found: List[Example] = []
    while (path := folder / ("%d.txt" % (len(found) + 1))).is_file():
        found.append(read_example(path))
    if not found:
        raise Failure("%s: contains no examples: write the app from a run, or with --images" % folder)
    return found


def read_example(path: Path) -> Example:
    """Read an example. Raises Failure."""
    example = Example(path, [], [], {})
    for line in read_text(path, LINES).splitlines():
        word, _, rest = line.partition(" ")
        try:
            if word == "file":
                example.files.append(path.with_name(rest))
            elif word == "picture":
                example.found[word] = read_image(path.with_name(rest))
            elif word == "output":
                example.outputs.append(np.array(rest.split(), np.float64))
            else:
                example.found.setdefault(word, []).append([float(number) for number in rest.split()])
        except ValueError:
            raise Failure("%s: is damaged: %r" % (path, line[:40])) from None
    return example


def bounds_of(model: Model, settings: Settings) -> Tuple[float, float]:
    """(least SQNR in dB, least agreement) of the variant with this precision and backend, or with this precision."""
    rows = [row for row in model.variants if row[1] == settings.precision]
    rows.sort(key=lambda row: row[2] != ("vulkan" if settings.gpu else "cpu"))
    if not rows or len(rows[0]) != 6:
        raise Failure("variants.txt: gives no bounds for --precision=%s" % settings.precision)
    return float(rows[0][4]), float(rows[0][5])


class Noise:
    """Noise and signal of the outputs, summed over examples."""

    def __init__(self) -> None:
        self._sums: Dict[int, Array] = {}  # output -> noise, signal

    def add(self, outputs: Sequence[Array], exact: Sequence[Array]) -> None:
        """Add the outputs for an example; ``exact`` are the compared values of the original."""
        for index, wanted in enumerate(exact):
            flat = outputs[index].reshape(-1).astype(np.float64) if index < len(outputs) else np.zeros(0)
            found = flat[:: max(1, flat.size // CHECKED)][:CHECKED]
            found = found if found.shape == wanted.shape else np.zeros_like(wanted)
            sums = np.array([np.sum((found - wanted) ** 2), np.sum(wanted**2)])
            self._sums[index] = self._sums.get(index, np.zeros(2)) + sums

    @property
    def sqnr_db(self) -> float:
        """SQNR from the mean of noise over signal of the outputs, dB; 200 if there is no noise."""
        shares = [noise / signal if signal else math.inf for noise, signal in self._sums.values() if noise]
        return -10 * math.log10(max(sum(shares) / max(1, len(self._sums)), 1e-20))
