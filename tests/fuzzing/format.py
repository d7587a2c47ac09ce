"""What a format is for the fuzzer, and what the formats share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mutations import Mutate, mutate_bytes, mutate_json, mutate_text, mutate_toml, mutate_zip
from numpy.typing import NDArray

from ncnnkit.errors import NcnnkitError
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess

MB = 1 << 20

BYTES: tuple[Mutate, ...] = (mutate_bytes,)
TEXT: tuple[Mutate, ...] = (*[mutate_text] * 6, mutate_bytes)
TOML: tuple[Mutate, ...] = (mutate_toml, mutate_toml, mutate_toml, mutate_text, mutate_bytes)
JSON: tuple[Mutate, ...] = (mutate_json, mutate_json, mutate_json, mutate_json, mutate_text, mutate_bytes)
ZIP: tuple[Mutate, ...] = (mutate_zip, mutate_zip, mutate_bytes)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder."""
    with TemporaryDirectory() as name:
        yield Path(name)


def each_way(uses: Iterable[Callable[[], object]], raises: tuple[type[Exception], ...] = (NcnnkitError,)) -> None:
    """Use a file in several ways. If one of them refuses it, raise its error after all were tried."""
    refused: Exception | None = None
    for use in uses:
        try:
            use()
        except raises as error:
            refused = error
    if refused is not None:
        raise refused


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        seeds: makes valid files.
        read: reads the content of a file: (a folder for files, the content).
        kinds: how files are changed.
        raises: what ``read`` may raise.
        room: the memory that reading a small file may take, bytes. A larger file may take 100 times its size more.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[Path, bytes], object]
    kinds: tuple[Mutate, ...]
    raises: tuple[type[Exception], ...] = (NcnnkitError,)
    room: int = 32 * MB


INPUTS = (InputSpec("in0", (3, 8, 8)),)
PREPROCESS = Preprocess(resize=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))


def values(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).random(shape).astype(np.float32)


def npy(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()
