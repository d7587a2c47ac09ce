"""Jobs, their progress and their results: dataclasses, which are JSON objects in files and messages.

The host checks what it reads (``ncnnkit.device.base``): the dataclasses give the types, and :meth:`Job.check` checks
that a result belongs to its job.
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
    """Which clocks were held at their maximum.

    Attributes:
        fixed: the names of the clocks that are fixed.
        refused: name of a clock -> why it could not be fixed.
    """

    fixed: List[str] = field(default_factory=list)
    refused: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """The result of a job that failed as a whole. Other results have no ``error``.

    Attributes:
        error: what failed; empty if nothing did.
        crashed: whether a process died.
    """

    error: str = ""
    crashed: bool = False


@dataclass
class VariantResult:
    """The result of a variant of a job ``measure``, as far as it got.

    Attributes:
        name: the name of the variant.
        status: ``ok``, ``fallback`` (Vulkan was requested, but the CPU computed), ``crashed`` or ``skipped`` (not
            tried).
        reason: why the status is not ``ok``.
        device: the Vulkan device; None on the CPU.
        without_vulkan: the types of layers that ncnn runs on the CPU although Vulkan was requested.
        load_ms: the time to load the model, ms.
        first_ms: the time of the first inference after the cold load, ms.
        samples: the latencies, ms; empty if it was not timed.
        peak_memory_mb: the peak memory of its process minus the memory before the load, MB of 10⁶ bytes; None if it
            crashed.
        outputs: name of an output -> its rows, a file of :class:`ncnnkit.onboard.rows.RowWriter`; empty if it was not
            evaluated.
        conditions: the conditions during the timing.
        sustained: the long run without pauses; None if there was none.
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
    """The result of the job ``measure``.

    Attributes:
        variants: the results of the variants, in the order of the job.
        clocks: which clocks were fixed; None if the job did not ask for that.
    """

    variants: List[VariantResult]
    clocks: Optional[ClocksReport] = None


@dataclass(frozen=True)
class ProfileResult:
    """The result of the job ``profile``.

    Attributes:
        whole: the time of an inference, ms.
        measuring: the time of an inference whose layers are timed, ms.
        layers: the time of each layer, ms, in the order of the job's ``taps``.
        bits: the bits of an output value of each layer.
        vulkan: the names of the layers that have Vulkan kernels.
        device: the Vulkan device; None on the CPU.
        threads: the number of CPU threads.
        conditions: the conditions during the timing.
        clocks: which clocks were fixed; None if the job did not ask for that.
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
    """The result of a candidate of a search.

    Attributes:
        name: the name of the candidate.
        status: ``dropped`` if it failed, or if its outputs are wrong.
        reason: why it was dropped.
        cosine: the cosine between its worst output and the reference's; None if not finite, or if it was not run.
        ms: the median time in its last rung, ms; None if it was not timed.
        ratio: this time divided by the time of ncnn's defaults in the same turns.
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
        seconds: the time for each candidate, seconds.
        scores: candidate -> its score; lower is better. Candidates that were dropped are absent.
        kept: the candidates that went on, the best first.
    """

    seconds: float
    scores: Dict[str, float]
    kept: List[str]


@dataclass(frozen=True)
class Final:
    """The final of a search, round by round.

    Attributes:
        winner: the time of the winner, ms.
        base: the time of ncnn's defaults, ms.
        ratio: ``base`` divided by ``winner``.
        without: part of the fastest candidate -> its time without that part, divided by its time with it.
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
    """The settings of a variant that a search can choose.

    Attributes:
        name: the name of the variant.
        precision: the precision of the model.
        backend: ``cpu`` or ``vulkan``.
        threads: the number of CPU threads; 0: ncnn's default, but at most one for each core that the process may use.
        cpus: the CPUs that the process is pinned to; empty: it is not pinned.
        switches: name in :data:`ncnnkit.onboard.network.SWITCHES` -> on or off; applied after the model's options.
    """

    name: str
    precision: str
    backend: str
    threads: int
    cpus: List[int]
    switches: Dict[str, bool]


@dataclass(frozen=True)
class TuneResult:
    """The result of the job ``tune``.

    Attributes:
        winner: the fastest settings. They may differ from all candidates.
        candidates: the results of the candidates, in the order of the job.
        rungs: the rungs of the halving, in order.
        together: the number of processes that were open at once.
        final: the winner against ncnn's defaults.
        cosine: the cosine between the winner's worst output and the reference's.
        conditions: the conditions while the winner ran in the final.
        clocks: which clocks were fixed; None if the job did not ask for that.
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
"""The default engine of a model."""

R = TypeVar("R", bound="Result")
J = TypeVar("J", bound="Job")  # type: ignore[type-arg]
Change = Callable[[str], str]


@dataclass(frozen=True)
class JobModel:
    """A model of a job.

    Attributes:
        files: its files, in the order in which its engine reads them. Those of ncnn are a .param and a .bin.
        precision: the precision at which it runs.
        options: the fields of ``ncnn::Option`` for this precision; empty for another engine.
        least_sqnr_db: the least SQNR of its worst output against the reference, dB.
        engine: the engine that computes it: ``ncnn``, or one of :data:`ncnnkit.onboard.engines.ENGINES`.
        inputs, outputs: the names of the network's inputs and outputs, in order; empty for ncnn, which reads them from
            its files.
        shapes: name of an input or output -> its shape with the batch axis; empty for ncnn.
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
    """A model and how it is run. All attributes but ``model`` and ``inputs`` are as in :class:`Settings`.

    Attributes:
        inputs: a .npy file (N, …) for each network input, if its inputs differ from those of the other variants.
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
    """Work to do where models run; a dataclass.

    Attributes:
        kind: the name of this kind of job in a file.
        result: the class of its result.
    """

    kind: ClassVar[str]
    result: ClassVar[Type[Result]]

    @abstractmethod
    def with_files(self: J, change: Change) -> J:
        """The same job with the path of every file that it reads changed."""

    def check(self, result: R) -> None:
        """Check that a result belongs to this job. Raises ValueError."""

    def text(self) -> str:
        """The job as JSON. Equal jobs have equal texts."""
        return json.dumps(dict(asdict(self), kind=self.kind), sort_keys=True)  # type: ignore[call-overload]


@dataclass(frozen=True)
class MeasureJob(Job[MeasureResult]):
    """Measure some variants; see :func:`ncnnkit.onboard.measuring.measure`.

    Attributes:
        variants: the variants, which are timed in interleaved rounds.
        inputs: a .npy file (N, …) for each network input. All samples are evaluated; the last one is timed.
        folder: the folder for the outputs.
        rounds: the number of rounds of timing.
        seconds: the time for each variant in all rounds together.
        slow_seconds: the limit for evaluating, and for timing, on a software device, seconds.
        least: the least number of timed inferences of each variant in a round, however long they take.
        sustained: how long each variant then runs alone without pauses, seconds.
        record: a file with the results so far, which is always up to date; empty: none.
        fix_clocks: whether to hold the clocks at their maximum.
        journal: the file that records the clocks' settings meanwhile; empty: a file in the user's cache.
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
    """Time the layers of a network inside it; see :func:`ncnnkit.onboard.profiling.profile`.

    Attributes:
        variant: the network.
        inputs: a .npy file with a sample for each network input.
        taps: a row of blobs for each layer; see :meth:`ncnnkit.onboard.network.Network.profile`.
        outputs: the outputs of the network.
        repeats: the number of inferences whose layers are timed. As many inferences are timed as a whole.
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
    """Find the fastest of many variants with correct outputs; see :func:`ncnnkit.onboard.tuning.tune`.

    Attributes:
        candidates: the variants to search.
        base: the name of the candidate with ncnn's defaults.
        reference: a variant with correct outputs.
        inputs: a .npy file with a sample for each network input.
        seconds: the time for all rungs together.
        final_seconds: the time for each finalist, seconds.
        rounds: the number of rounds of the final.
        varies: whether the number of rows of an output depends on the values, as with detections.
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
            raise ValueError("a rung keeps a candidate that the job does not have")
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
    """A progress message of a job.

    Attributes:
        stage: what the job does now.
        variant: the variant that it works on; empty: several.
        done: how much of the stage is done: variants, rounds or seconds.
        of: how much there is to do; 0 if unknown.
    """

    stage: Literal["evaluate", "time", "sustain", "profile", "tune", "final"]
    variant: str = ""
    done: float = 0
    of: float = 0


Notify = Callable[[Step], None]
"""Called with each progress message."""


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        done: whether there is a result.
        said: the last line of its log.
    """

    done: bool
    said: str


@dataclass(frozen=True)
class Line:
    """A line from following a job: a progress message, or the job's end.

    If both are None, it only shows that the connection is alive.
    """

    step: Optional[Step] = None
    ended: Optional[Ended] = None
