"""Jobs, what they say meanwhile, and what they answer with: dataclasses here, JSON objects in a file or on their way.

The host checks what it reads (``ncnnkit.device.base``): the types by the dataclasses, and by :meth:`Job.check` that a
result belongs to its job.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    Generic,
    List,
    Literal,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from .facts import Conditions, Load, Status, Sustained, VulkanDevice

# ------------------------------------------------------------------------------------------------------------- results


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
        outputs: name of an output: its rows, a file of :class:`ncnnkit.onboard.rows.RowWriter`; empty: it was not
            evaluated.
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

    def __post_init__(self) -> None:
        _require_above_zero(self.samples)
        if self.peak_memory_mb is not None and self.peak_memory_mb < 0:
            raise ValueError("the memory is negative")


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
        bits: of one output value of each layer.
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
        _require_above_zero([self.whole, self.measuring, sum(self.layers)])


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
        rounds = [self.winner, self.base, self.ratio, *self.without.values()]
        if not all(rounds):
            raise ValueError("the final has no rounds")
        for values in rounds:
            _require_above_zero(values)


@dataclass(frozen=True)
class Settings:
    """How a network is run, as far as a search chooses it.

    Attributes:
        name: of a variant that is run so.
        precision: of the model.
        backend: ``cpu`` or ``vulkan``.
        threads: of the CPU; 0: as many as ncnn takes by itself, at most one for each core that the process may use.
        cpus: the CPUs that the process is pinned to; empty: none.
        switches: of :data:`ncnnkit.onboard.network.SWITCHES`, applied after the model's options.
    """

    name: str
    precision: str
    backend: str
    threads: int
    cpus: List[int]
    switches: Dict[str, bool]


@dataclass(frozen=True)
class TuneResult:
    """What the job ``tune`` found.

    Attributes:
        winner: perhaps none of the candidates'.
        candidates: in the order of the job.
        rungs: of the halving, in order.
        together: processes that were open at once.
        final: the winner against ncnn's defaults.
        cosine: of the winner's worst output to the reference's.
        conditions: while the winner ran in the final.
        clocks: None where they were not to be fixed.
    """

    winner: Settings
    candidates: List[CandidateResult]
    rungs: List[Rung]
    together: int
    final: Final
    cosine: Optional[float]
    conditions: Conditions
    clocks: Optional[ClocksReport] = None


Result = Union[MeasureResult, ProfileResult, TuneResult]


def _require_above_zero(values: Sequence[float]) -> None:
    if not all(value > 0 and math.isfinite(value) for value in values):
        raise ValueError("it took no time")


# ---------------------------------------------------------------------------------------------------------------- jobs

NCNN = "ncnn"
"""The engine of a model that names no other."""

R = TypeVar("R", bound="Result")
J = TypeVar("J", bound="Job")  # type: ignore[type-arg]
Change = Callable[[str], str]


@dataclass(frozen=True)
class JobModel:
    """A model of a job.

    Attributes:
        files: its files, in the order in which its engine reads them. Those of ncnn are a .param and a .bin.
        precision: what it is run in.
        options: the fields of ``ncnn::Option`` that this takes; empty for another engine.
        least_sqnr_db: what its worst output must reach against the right ones, dB.
        engine: what computes it: ``ncnn``, or one of :data:`ncnnkit.onboard.engines.ENGINES`.
        inputs, outputs: the names of the network's inputs and outputs, in its order; empty for ncnn, which knows them.
        shapes: name of an input or output: its shape with the batch axis; empty for ncnn.
    """

    files: List[str]
    precision: str
    options: Dict[str, bool] = field(default_factory=dict)
    least_sqnr_db: float = 0.0
    engine: str = NCNN
    inputs: List[str] = field(default_factory=list)
    outputs: List[str] = field(default_factory=list)
    shapes: Dict[str, List[int]] = field(default_factory=dict)

    def with_files(self, change: Change) -> JobModel:
        return replace(self, files=list(map(change, self.files)))


@dataclass(frozen=True)
class JobVariant:
    """A model and how it is run; all but ``model`` and ``inputs`` as in :class:`Settings`.

    Attributes:
        inputs: a .npy file (N, …) for each network input, where it is fed something else than the others of its job.
    """

    name: str
    model: JobModel
    backend: str = "cpu"
    threads: int = 0
    cpus: List[int] = field(default_factory=list)
    switches: Dict[str, bool] = field(default_factory=dict)
    inputs: List[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(self.name, self.model.precision, self.backend, self.threads, self.cpus, self.switches)

    def with_files(self, change: Change) -> JobVariant:
        return replace(self, model=self.model.with_files(change), inputs=list(map(change, self.inputs)))


class Job(ABC, Generic[R]):
    """What is to be done where models run; a dataclass.

    Attributes:
        kind: its name in a file.
        result: the class of what it answers with.
    """

    kind: ClassVar[str]
    result: ClassVar[Type[Result]]

    @abstractmethod
    def with_files(self: J, change: Change) -> J:
        """The same job with every file it reads changed to another path."""

    def check(self, result: R) -> None:
        """See whether this is an answer to the job. Raises ValueError."""

    def text(self) -> str:
        """The job as a file holds it: equal jobs have equal texts."""
        return json.dumps(dict(asdict(self), kind=self.kind), sort_keys=True)  # type: ignore[call-overload]


@dataclass(frozen=True)
class MeasureJob(Job[MeasureResult]):
    """Measure some variants, see :func:`ncnnkit.onboard.measuring.measure`.

    Attributes:
        variants: these, in interleaved rounds.
        inputs: a .npy file (N, …) for each network input: all samples are evaluated, the last is timed.
        folder: where the outputs go.
        rounds: of timing.
        seconds: of timing, for each variant, in all rounds.
        slow_seconds: of evaluating, and of timing, on a software device.
        least: timed inferences of each variant in a round, however long they take.
        sustained: seconds that each variant then runs alone without a rest.
        record: a file that always holds the results so far; empty: none.
        fix_clocks: whether to hold the clocks at their highest.
        journal: where these are noted meanwhile; empty: in the user's cache.
    """

    kind: ClassVar[str] = "measure"
    result: ClassVar[Type[MeasureResult]] = MeasureResult

    variants: List[JobVariant]
    inputs: List[str]
    folder: str
    rounds: int
    seconds: float
    slow_seconds: float
    least: int = 3
    sustained: float = 0.0
    record: str = ""
    fix_clocks: bool = False
    journal: str = ""

    def with_files(self, change: Change) -> MeasureJob:
        variants = [variant.with_files(change) for variant in self.variants]
        return replace(self, variants=variants, inputs=list(map(change, self.inputs)))


@dataclass(frozen=True)
class ProfileJob(Job[ProfileResult]):
    """Time the layers of a network inside it, see :func:`ncnnkit.onboard.profiling.profile`.

    Attributes:
        variant: the network.
        inputs: a .npy file of a sample for each network input.
        taps: a row of blobs for each layer, see :meth:`ncnnkit.onboard.network.Network.profile`.
        outputs: the network's.
        repeats: inferences with timing the layers, and as many without.
        fix_clocks, journal: as in :class:`MeasureJob`.
    """

    kind: ClassVar[str] = "profile"
    result: ClassVar[Type[ProfileResult]] = ProfileResult

    variant: JobVariant
    inputs: List[str]
    taps: List[List[str]]
    outputs: List[str]
    repeats: int
    fix_clocks: bool = False
    journal: str = ""

    def with_files(self, change: Change) -> ProfileJob:
        return replace(self, variant=self.variant.with_files(change), inputs=list(map(change, self.inputs)))

    def check(self, result: ProfileResult) -> None:
        if not len(result.layers) == len(result.bits) == len(self.taps):
            raise ValueError("it has %d layers, not %d" % (len(result.layers), len(self.taps)))


@dataclass(frozen=True)
class TuneJob(Job[TuneResult]):
    """Search the fastest of many variants whose outputs are right, see :func:`ncnnkit.onboard.tuning.tune`.

    Attributes:
        candidates: these.
        base: the name of the one with ncnn's defaults.
        reference: one whose outputs are right.
        inputs: a .npy file of a sample for each network input.
        seconds: of timing, in all rungs.
        final_seconds: of timing, for each finalist.
        rounds: of the final.
        varies: whether the number of rows of an output depends on the values, as that of detections does.
        fix_clocks, journal: as in :class:`MeasureJob`.
    """

    kind: ClassVar[str] = "tune"
    result: ClassVar[Type[TuneResult]] = TuneResult

    candidates: List[JobVariant]
    base: str
    reference: JobVariant
    inputs: List[str]
    seconds: float
    final_seconds: float
    rounds: int
    varies: bool = False
    fix_clocks: bool = False
    journal: str = ""

    def with_files(self, change: Change) -> TuneJob:
        return replace(
            self,
            candidates=[candidate.with_files(change) for candidate in self.candidates],
            reference=self.reference.with_files(change),
            inputs=list(map(change, self.inputs)),
        )

    def check(self, result: TuneResult) -> None:
        names = [candidate.name for candidate in self.candidates]
        if [row.name for row in result.candidates] != names:
            raise ValueError("these are not the candidates of the job")
        if not {name for rung in result.rungs for name in rung.kept} <= set(names):
            raise ValueError("a rung keeps what is no candidate")
        settings = [candidate.settings for candidate in self.candidates]
        switches = {name: on for chosen in settings for name, on in chosen.switches.items()}
        winner = result.winner
        known: List[Tuple[object, Set[Any]]] = [
            (winner.precision, {chosen.precision for chosen in settings}),
            (winner.backend, {chosen.backend for chosen in settings}),
            (winner.threads, {chosen.threads for chosen in settings}),
            (tuple(winner.cpus), {tuple(chosen.cpus) for chosen in settings}),
        ]
        if not all(value in values for value, values in known) or not winner.switches.items() <= switches.items():
            raise ValueError("the winner has settings that no candidate has")


# ------------------------------------------------------------------------------------------------------------ progress


@dataclass(frozen=True)
class Step:
    """What a job says of its progress.

    Attributes:
        stage: what it does now.
        variant: to which variant; empty: to several.
        done: how much of it is done: variants, rounds or seconds.
        of: how much there is; 0: that is not known.
    """

    stage: Literal["evaluate", "time", "sustain", "profile", "tune", "final"]
    variant: str = ""
    done: float = 0
    of: float = 0


Notify = Callable[[Step], None]
"""Gets what a job says."""


@dataclass(frozen=True)
class Ended:
    """How a job ended that is followed.

    Attributes:
        done: whether there is a result.
        said: the last line of its log.
    """

    done: bool
    said: str


@dataclass(frozen=True)
class Line:
    """A line of a job's progress, and of the request that follows it; neither of both is a sign of life."""

    step: Optional[Step] = None
    ended: Optional[Ended] = None
