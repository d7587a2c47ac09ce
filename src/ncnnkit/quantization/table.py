"""ncnn2table's calibration table: the scales of a network's int8 layers as text.

Each line has a key: ``NAME_param_0 s s s …`` gives the weight scales of layer NAME, and ``NAME s`` the scale of its
input. A layer without lines stays in floating point, so you can choose layers by deleting lines.

Source: ``save_table`` in ``tools/quantize/ncnn2table.cpp``, ``read_int8scale_table`` in
``tools/quantize/ncnn2int8.cpp``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, reading
from ..model.ncnnfile import atomic_write
from ..onboard.userfiles import LINES, read_text

_WEIGHT_KEY = re.compile(r".*_param_\d+")


@dataclass(frozen=True, eq=False)
class Table:
    """Scales by layer.

    Attributes:
        weights: ``NAME_param_N`` -> float32 scales, one per weight row.
        inputs: layer name -> the scale of its input.
        path: the file that it was read from, for errors; empty if there is none.
    """

    weights: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    inputs: Mapping[str, float] = field(default_factory=dict)
    path: str = ""

    def without(self, layers: set[str]) -> Table:
        """The table without some layers, which then stay in floating point."""
        return Table(
            {k: v for k, v in self.weights.items() if k.rsplit("_param_", 1)[0] not in layers},
            {k: v for k, v in self.inputs.items() if k not in layers},
            self.path,
        )


def save_table(table: Table, path: str | Path) -> None:
    """Write a table as ncnn2table does, with six decimals, or nine digits for a small scale.

    Raises:
        StorageError: the file cannot be written.
        FormatError: the name of a layer would be read as the key of weight scales.
    """
    for name in table.inputs:
        if _WEIGHT_KEY.fullmatch(name):
            hint = "rename the layer: _param_ and a number at the end make it the key of weight scales"
            raise FormatError(f"a table cannot hold the layer {name!r}", where=str(path), hint=hint)

    def text(scale: float) -> str:
        return f"{scale:f} " if scale >= 0.1 else f"{scale:.9g} "

    lines = [f"{key} " + "".join(map(text, scales)) for key, scales in table.weights.items()]
    lines += [f"{name} {text(scale)}" for name, scale in table.inputs.items()]
    with atomic_write(Path(path)) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def load_table(path: str | Path) -> Table:
    """Read a table.

    Raises:
        FormatError: the file is missing, no line has the scale of a layer's input, or a line has no scales, a scale
            that is not positive, or an infinite scale of an activation (a dead blob in ncnn2table). The error has the
            line number.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    inputs: dict[str, float] = {}
    with reading(path, FormatError):
        try:
            text = read_text(path, LINES)
        except FileNotFoundError:
            raise FormatError("no such file", where=str(path)) from None
        except (IsADirectoryError, UnicodeDecodeError):
            raise FormatError("is not a calibration table", where=str(path)) from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        key, *words = line.split()
        where = f"{path}:{number}"
        try:
            scales = [float(word) for word in words]
        except ValueError as error:
            raise FormatError(f"{error}", where=where, hint="expected: a name, then scales") from None
        if not scales:
            raise FormatError(f"{key} has no scale", where=where)
        if _WEIGHT_KEY.fullmatch(key):
            # The weights of the channel are all zero. ncnn2table of 2023 writes infinity, later versions write 1.
            scales = [
                1.0 if word.lower() in ("inf", "+inf", "infinity") else scale for word, scale in zip(words, scales)
            ]
        with np.errstate(over="ignore"):
            values = np.array(scales, np.float32)
        for scale, value in zip(scales, values.tolist()):
            if not (math.isfinite(value) and value > 0):
                beyond = ", which is not a number above 0 in float32" if 0 < scale < math.inf else ""
                raise FormatError(
                    f"{key} has the scale {scale}{beyond}",
                    where=where,
                    hint="a dead blob; calibrate with ncnnkit, or write 1",
                )
        if _WEIGHT_KEY.fullmatch(key):
            weights[key] = values
        else:
            inputs[key] = scales[0]
    if not inputs:
        hint = "a layer needs the line: its name, and the scale of its input"
        raise FormatError("has no scale of a layer's input", where=str(path), hint=hint)
    return Table(weights, inputs, str(path))
