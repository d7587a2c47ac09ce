"""What jobs answer with: dataclasses here, JSON objects where they cross a process or a file.

The host checks them when it reads them; see ``ncnnkit.device.base``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Union

from .facts import Conditions, Load, Status, Sustained, VulkanDevice


@dataclass(frozen=True)
class ClocksReport:
    """Which clocks were held at their highest.

    Attributes:
        fixed: names of the clocks that stand still.
        refused: name of a clock: why it does not.
    """

    fixed: List[str] = field(default_factory=list)
    refused: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """What a job answers that cannot do without what failed. Any other result has no ``error``.

    Attributes:
        error: what failed; empty: nothing.
        crashed: whether a process died.
    """

    error: str = ""
    crashed: bool = False


@dataclass
class VariantResult:
    """A variant of a job ``measure``, as far as it came.

    Attributes:
        name: of the variant.
        status: ``ok``, ``fallback`` (Vulkan was asked for; the CPU computed), ``crashed`` or ``skipped`` (not tried).
        reason: of a status other than ``ok``.
        device: the Vulkan device; None on the CPU.
        without_vulkan: types of layers that ncnn runs on the CPU although Vulkan was asked for.
        load_ms: time of loading the model.
        first_ms: the first inference after the cold load, ms.
        samples: latencies, ms; empty: it was not timed.
        peak_memory_mb: of its process, above what that held before, MB of 10⁶ bytes; None where it crashed.
        outputs: name of an output: a .npy file (N, …) of float32; empty: it was not evaluated.
        conditions: while it was timed.
        sustained: a long run without a rest.
    """

    name: str
    status: Status = "ok"
    reason: str = ""
    device: Optional[VulkanDevice] = None
    without_vulkan: List[str] = field(default_factory=list)
    load_ms: Optional[Load] = None
    first_ms: Optional[float] = None
    samples: List[float] = field(default_factory=list)
    peak_memory_mb: Optional[float] = None
    outputs: Dict[str, str] = field(default_factory=dict)
    conditions: Optional[Conditions] = None
    sustained: Optional[Sustained] = None


@dataclass(frozen=True)
class MeasureResult:
    """What the job ``measure`` found.

    Attributes:
        variants: in the order of the job.
        clocks: None where they were not to be fixed.
    """

    variants: List[VariantResult]
    clocks: Optional[ClocksReport] = None


@dataclass(frozen=True)
class ProfileResult:
    """What the job ``profile`` found.

    Attributes:
        whole: an inference, ms.
        measuring: an inference with timing its layers, ms.
        layers: each layer's time, ms, in the order of the job's ``taps``.
        bits: of a value that each of them hands on.
        vulkan: names of the layers that have Vulkan kernels.
        device: the Vulkan device; None on the CPU.
        threads: of the CPU.
        conditions: meanwhile.
        clocks: None where they were not to be fixed.
    """

    whole: float
    measuring: float
    layers: List[float]
    bits: List[int]
    vulkan: List[str]
    device: Optional[VulkanDevice]
    threads: int
    conditions: Conditions
    clocks: Optional[ClocksReport] = None

    def __post_init__(self) -> None:
        if self.whole <= 0 or sum(self.layers) <= 0:
            raise ValueError("it took no time")
        if len(self.bits) != len(self.layers):
            raise ValueError("there are bits of %d layers, and times of %d" % (len(self.bits), len(self.layers)))


@dataclass
class CandidateResult:
    """A candidate of a search.

    Attributes:
        name: of the candidate.
        status: ``dropped``: it failed, or its outputs are wrong.
        reason: why it was dropped.
        cosine: of its worst output to the reference's; None where that is not finite, or it was not run.
        ms: median time in the last rung that it was in; None where it was not timed.
        ratio: of this time over that of ncnn's defaults in the same turns.
    """

    name: str
    status: Literal["ok", "dropped"] = "ok"
    reason: str = ""
    cosine: Optional[float] = None
    ms: Optional[float] = None
    ratio: Optional[float] = None


@dataclass(frozen=True)
class Rung:
    """A rung of successive halving.

    Attributes:
        seconds: of timing, for each candidate.
        scores: candidate: its score, the lower the better. Those that dropped out are absent.
        kept: the candidates that went on, the best first.
    """

    seconds: float
    scores: Dict[str, float]
    kept: List[str]


@dataclass(frozen=True)
class Final:
    """The final of a search, round by round.

    Attributes:
        winner: ms of the winner.
        base: ms of ncnn's defaults.
        ratio: how many times as fast as the defaults the winner was.
        without: part of the fastest candidate: how many times as slow it was without.
    """

    winner: List[float]
    base: List[float]
    ratio: List[float]
    without: Dict[str, List[float]]

    def __post_init__(self) -> None:
        if not all([self.winner, self.base, self.ratio, *self.without.values()]):
            raise ValueError("the final has no rounds")


@dataclass(frozen=True)
class TuneResult:
    """What the job ``tune`` found.

    Attributes:
        winner: a variant, perhaps none of the candidates.
        candidates: in the order of the job.
        rungs: of the halving, in order.
        together: processes that were open at once.
        final: the winner against ncnn's defaults.
        cosine: of the winner's worst output to the reference's.
        conditions: while the winner ran in the final.
        clocks: None where they were not to be fixed.
    """

    winner: Dict[str, Any]
    candidates: List[CandidateResult]
    rungs: List[Rung]
    together: int
    final: Final
    cosine: Optional[float]
    conditions: Conditions
    clocks: Optional[ClocksReport] = None


Result = Union[MeasureResult, ProfileResult, TuneResult]
