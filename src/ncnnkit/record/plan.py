"""The records of the plan of a mixed model in run.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A predicted plan between the fastest and the most accurate one.

    Attributes:
        ms: predicted latency, ms.
        noise: predicted noise over signal of the outputs; null if it is infinite.
        int8: number of layers in int8.
    """

    ms: float
    noise: float | None
    int8: int


@dataclass(frozen=True, kw_only=True)
class LayerOption:
    """A possible precision of a layer.

    Attributes:
        choice: the precision, as in ``choice`` of the layer.
        ms: predicted time of the layer alone, ms, without conversions between neighbours.
        noise: predicted contribution to the outputs' noise over signal; null if it is infinite.
    """

    choice: str
    ms: float | None
    noise: float | None


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """A layer that computes something, and its precision.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: the layer's type, as ncnn names it.
        choice: ``fp32``, ``fp16``, ``bf16``, ``int8``, or ``int8-winograd``: int8 with Winograd's faster, less
            accurate kernels.
        options: the possible precisions, including the choice.
        why: the reason for the choice.
    """

    name: str
    type: str
    choice: str
    options: list[LayerOption]
    why: str

    def __post_init__(self) -> None:
        if not any(option.choice == self.choice for option in self.options):
            raise ValueError(f"the choice {self.choice!r} is none of the options")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the mixed model was made: the precision of each layer.

    Noise is the noise power of an output against fp32 over the signal power of that output, averaged over the outputs.

    Attributes:
        requirements: the requirements as a text, such as ``cosine ≥ 0.999``; empty if there are none.
        holds: whether the plan satisfies them. Figures are measured on the held-back images on the device; a latency is
            predicted.
        unmet: the requirements that it does not satisfy, as clauses such as ``cosine 0.99 is below 0.999``.
        few: the requirements for which there were too few held-back images to judge the plan, as clauses.
        refused: the reason why ncnn did not run a model while the plan was made -> number of such models.
        repairs: how often the allowed noise was changed because the measured error of a plan was too large.
        predicted_ms: predicted latency of one inference, ms: the sum of the layers' times, scaled to the speed of the
            machine when fp32-cpu was measured.
        measured_ms: the median latency of the ``mixed-cpu`` variant, ms; null if it was not timed.
        predicted_noise: the sum of the noise of each layer alone; null if it is infinite.
        measured_noise: the noise measured on the held-back images on the device; null if an output is not finite.
        front: plans from the fastest to the most accurate, as predicted.
        layers: the layers that compute something, in the network's order.
    """

    requirements: str
    holds: bool
    unmet: list[str]
    few: list[str]
    refused: dict[str, int]
    repairs: int
    predicted_ms: float
    measured_ms: float | None
    predicted_noise: float | None
    measured_noise: float | None
    front: list[FrontPoint]
    layers: list[PlannedLayer]
