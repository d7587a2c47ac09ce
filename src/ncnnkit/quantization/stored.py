"""The result of quantising without its samples, so that it can be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ..model.graph import Graph
from ..model.work import Budget
from ..record.quantisation import Trial
from ..samples.stream import Samples
from ..tasks import Task
from .advice import Advice
from .calibration import ActivationStats
from .efforts import EFFORTS
from .layerwise import Kept
from .methods import Quantized, divided


@dataclass(frozen=True, eq=False)
class StoredQuantized:
    """The fields of :class:`~ncnnkit.quantization.methods.Quantized` that cannot be found again quickly."""

    graph: Graph
    exact: Graph
    fitted: Graph
    trials: list[Trial]
    layers: list[Kept]
    advice: Advice
    own: bool
    lost: Mapping[str, Sequence[str]]
    stats: ActivationStats | None
    offsets: Mapping[str, float]

    @classmethod
    def of(cls, made: Quantized) -> StoredQuantized:
        """What is stored of a result."""
        return cls(**{field.name: getattr(made, field.name) for field in fields(cls)})

    def opened(self, source: Graph, samples: Samples, *, effort: str, task: Task | None, budget: Budget) -> Quantized:
        """The whole result; the arguments are those of :func:`ncnnkit.quantization.quantize_images`."""
        used, held, judging = divided(samples, EFFORTS[effort], budget)
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        return Quantized(source=source, used=used, held=held, judging=judging, task=task, **stored)
