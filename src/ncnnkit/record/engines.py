"""The records of engines other than ncnn in run.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EngineModelRecord:
    """A model of another engine, or the reason why there is none.

    Attributes:
        kind: ``float`` (for every precision in floating point) or ``int8``.
        settings: precision -> how the engine makes and runs such a model.
        files: names of its files in the run folder, with the SHA-256 of each in hexadecimal; empty if there is no
            model.
        seconds: how long it took to make the model.
        reason: why there is none; empty otherwise.
    """

    kind: Literal["float", "int8"]
    settings: dict[str, str]
    files: dict[str, str]
    seconds: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """An engine that was measured together with ncnn.

    Attributes:
        name: as in ``variants``.
        title: its name as its makers write it.
        version: the version of its package.
        tools: package that made its models -> its version.
        models: its models.
    """

    name: str
    title: str
    version: str
    tools: dict[str, str]
    models: list[EngineModelRecord]
