"""Outputs of unknown meaning: only the errors of their values count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .decoder import Array
from .figures import named
from .task import Task


@dataclass(frozen=True)
class Tensors(Task):
    """A network that is judged by the values of its outputs: sequences, audio, and everything without another task.

    It has the figures of :data:`~ncnnkit.tasks.figures.OUTPUTS` only.
    """

    name = "tensor"
    figures = named()
    requires = ("cosine>=0.999",)

    def predict(self, outputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs themselves."""
        return outputs

    def compare(self, ours: Any, theirs: Any, truth: Any = None) -> None:
        """Nothing to compare here, because the values of outputs are compared in any case."""

    def summarise(self, rows: Sequence[None]) -> dict[str, float | None]:
        """No figures."""
        return {}
