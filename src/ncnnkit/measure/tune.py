"""Finds the fastest run settings of a model on a machine: cores, threads, backend, precision, ncnn's switches.

This module makes the candidates and describes the winner. The search itself, successive halving, runs on the device
(:func:`ncnnkit.onboard.tuning.tune`), so a board needs only one job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..device.session import noise, save_arrays
from ..errors import ModelError, RuntimeFailure
from ..formatting import plain
from ..model.graph import Graph
from ..model.precision import FLOATS, PRECISIONS
from ..onboard.child import WorkerError
from ..onboard.facts import Cluster, Conditions, Machine
from ..onboard.protocol import CandidateResult, ClocksReport, JobVariant, Settings, TuneJob, TuneResult
from ..onboard.scratch import Scratch
from ..onboard.tuning import differences
from ..record.variant import EMULATED
from .models import job_model

Array = NDArray[Any]

SWITCHED: tuple[dict[str, bool], ...] = (
    {},
    {"winograd": False},
    {"sgemm": False},
    {"winograd": False, "sgemm": False},
    {"packing": False},
    {"lightmode": False},
)
"""The combinations of ncnn's switches to try: each alone, and both that choose the kernels of a convolution."""

BASE = "ncnn's defaults"

NOISY = 0.5
"""If the interquartile range of the rounds' ratios divided by their median is larger, the final is too noisy."""

OUTLYING = 5.0
"""If the time of a round divided by the median is larger, another program disturbed the round."""


@dataclass(frozen=True)
class Placement:
    """The threads and the CPUs of a network. Without CPUs, the system chooses them."""

    threads: int
    cluster: str = ""
    cpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads} on {self.cluster}" if self.cluster else threads


def placements(clusters: Sequence[Cluster]) -> list[Placement]:
    """The placements to try: of a cluster, all its cores and the powers of two below; and all cores of the machine.

    With hyperthreads, each thread gets its own core if there are enough cores. The slowest cluster is tried only as a
    whole, because fewer of its cores are slower still. If there is only one cluster and it has no hyperthreads, threads
    are not pinned, because the system cannot choose wrong cores.

    Args:
        clusters: the clusters of a machine, the slowest first.
    """
    found: list[Placement] = []
    for cluster in clusters:
        cores, cpus = cluster.cores, cluster.cpus
        fastest, alone = cluster is clusters[-1], len(clusters) == 1
        name = "" if alone and len(cores) == len(cpus) else "cores" if alone else cluster.name
        powers = [2**i for i in range(len(cores).bit_length()) if 2**i < len(cores)] if fastest else []
        for threads in (*powers, len(cores)):
            found.append(Placement(threads, name, tuple(cores) if name else ()))
        if fastest and len(cpus) > len(cores):
            found.append(Placement(len(cpus), "" if alone else name, () if alone else tuple(cpus)))
    if len(clusters) > 2:
        fast = [cpu for cluster in clusters[1:] for cpu in cluster.cores]
        found.append(Placement(len(fast), "all but little", tuple(sorted(fast))))
    if len(clusters) > 1:
        found.append(Placement(sum(len(cluster.cpus) for cluster in clusters)))
    return found


def candidates(
    models: Mapping[str, Artifact],
    machine: Machine,
    *,
    backends: Sequence[str] = ("cpu", "vulkan"),
    switched: Sequence[Mapping[str, bool]] = SWITCHED,
) -> list[JobVariant]:
    """The grid of candidates, as variants of a job. The first has ncnn's defaults.

    On Vulkan, the CPU's cores, packing and sgemm have no effect.

    Args:
        models: precision -> the model that runs at it.
        machine: the machine that will run them.
        backends: Vulkan is used only if the machine has a GPU.
        switched: rows as in :data:`SWITCHED`.
    """
    cores = machine.default_threads or machine.cores
    gpu = machine.has_gpu
    places = placements(machine.board.clusters) or [Placement(machine.cores)]
    first = "fp16" if "fp16" in models else next(iter(models))  # fp16 is on by default
    rows = [_variant(models, BASE, first, "cpu", Placement(cores), {})]
    for precision in models:
        if "cpu" in backends:
            options = list(switched)
            if precision == "fp16" and "fp16-arithmetic" in machine.cpu_features:
                options.append({"fp16_arithmetic": False})
            for place in places:
                for switches in options:
                    name = ", ".join([precision, str(place), *_switches(switches)])
                    rows.append(_variant(models, name, precision, "cpu", place, switches))
        if "vulkan" in backends and gpu and not models[precision].at(precision).refused_by_vulkan:
            for switches in (s for s in switched if s.keys() <= {"winograd", "lightmode"}):
                name = ", ".join([precision, "Vulkan", *_switches(switches)])
                rows.append(_variant(models, name, precision, "vulkan", Placement(cores), switches))
    same = [_unnamed(row.settings) for row in rows]
    return [row for i, row in enumerate(rows) if same[i] not in same[:i]]


def _variant(
    models: Mapping[str, Artifact],
    name: str,
    precision: str,
    backend: str,
    place: Placement,
    switches: Mapping[str, bool],
) -> JobVariant:
    model = job_model(models[precision].at(precision))
    return JobVariant(name, model, backend, place.threads, list(place.cpus), dict(switches))


def _unnamed(settings: Settings) -> Settings:
    return replace(settings, name="")


def _switches(switches: Mapping[str, bool]) -> list[str]:
    return [name if on else f"no {name}" for name, on in switches.items()]


# ---------------------------------------------------------------------------------------------------------- tuning


@dataclass
class Candidate(CandidateResult):
    """A candidate and its result.

    Attributes:
        rungs: the number of rungs in which it was in the better half; None if it was dropped.
    """

    rungs: int | None = None


@dataclass(frozen=True)
class Tuning:
    """The settings that were found, with the reasons.

    Attributes:
        settings: the settings of the winner; ncnn's defaults if nothing was clearly faster.
        base: ncnn's defaults on this machine.
        ratio: the time of the defaults divided by that of the winner, the median of interleaved rounds.
        spread: the interquartile range of the rounds' ratios divided by their median.
        without: part of the settings -> the time without it divided by the time with it, the median of interleaved
            rounds. A part is missing if its rounds are too noisy (:data:`NOISY`).
        ms: the median latencies of ``settings`` and ``base``, ms.
        cosine: the cosine between the worst output and the reference's.
        candidates: all candidates. Those that stayed longest in the search come first.
        why: a sentence that summarises this.
        notes: further facts that a reader needs.
        conditions: clocks, temperatures and power while the winner ran in the final.
        clocks: which clocks were fixed, if requested.
    """

    settings: Settings
    base: Settings
    ratio: float
    spread: float
    without: Mapping[str, float]
    ms: Mapping[str, float]
    cosine: float | None
    candidates: Sequence[Candidate]
    why: str
    notes: Sequence[str]
    conditions: Conditions
    clocks: ClocksReport | None


def tune(
    model: Artifact | Graph | str | Path,
    run_job: Callable[[TuneJob], TuneResult],
    machine: Machine,
    *,
    int8: Artifact | Graph | str | Path | None = None,
    precisions: Sequence[str] | None = None,
    backends: Sequence[str] = ("cpu", "vulkan"),
    shapes: Sequence[tuple[int, ...]] = (),
    sample: Sequence[Array] | None = None,
    seconds: float = 60.0,
    final_seconds: float | None = None,
    rounds: int = 10,
    fix_clocks: bool = False,
) -> Tuning:
    """Find the fastest run settings of a model on one machine, in one job.

    Args:
        model: an Artifact, a Graph or the path of a ``.param``. A floating-point model runs in fp32, fp16 and bf16, and
            the outputs of candidates are compared with fp32. An int8 or mixed model is compared with itself with ncnn's
            defaults.
        run_job: a function that does a job on that machine.
        machine: the facts about the machine.
        int8: the same network in int8, as a further candidate.
        precisions: the precisions to try; by default all at which the models can run.
        backends: ``cpu``, ``vulkan``.
        shapes: the shapes of the inputs, if the file does not have them.
        sample: a float32 array for each network input, without a batch axis; by default noise.
        seconds: the time for timing all candidates together. Loading takes additional time.
        final_seconds: the time for each finalist, seconds; by default a twelfth of ``seconds``.
        rounds: the number of rounds of the final.
        fix_clocks: whether to hold the clocks at their maximum, if permitted.

    Raises:
        ModelError: the shape of an input is unknown, or the model cannot run at a precision.
        RuntimeFailure: the reference or the defaults did not run.
    """
    given = [Artifact.of(made) for made in (model, int8) if made is not None]
    with ExitStack() as stack:
        folder = stack.enter_context(Scratch())
        on_disk = [replace(made, param=stack.enter_context(made.files())[0]) for made in given]
        models = {name: made for made in reversed(on_disk) for name in made.precisions}
        # In the order of the table. A floating-point file also serves fp16 and bf16. The first model has priority.
        models = {name: models[name] for name in PRECISIONS if name in models}
        unknown = sorted(set(precisions or ()) - models.keys())
        if unknown:
            hint = f"it can run in {', '.join(models)}"
            raise ModelError(f"cannot run in {unknown[0]}", where=given[0].name, hint=hint)
        wanted = {name: made for name, made in models.items() if name in (precisions or models)}
        rows = candidates(wanted, machine, backends=backends)
        exact = FLOATS[0] if FLOATS[0] in on_disk[0].precisions else on_disk[0].precision
        reference = _variant(models, "reference", exact, "cpu", Placement(rows[0].threads), {})
        arrays = sample if sample is not None else noise(given[0].graph, shapes, where=given[0].name)
        job = TuneJob(
            candidates=rows,
            base=BASE,
            reference=reference,
            inputs=save_arrays(arrays, Path(folder)),
            seconds=seconds,
            final_seconds=seconds / 12 if final_seconds is None else final_seconds,
            rounds=rounds,
            varies=given[0].graph.varies,
            fix_clocks=fix_clocks,
        )
        try:
            result = run_job(job)
        except WorkerError as error:
            raise RuntimeFailure(f"tuning: {'ncnn died: ' if error.crashed else ''}{error}") from None
    return judge([row.settings for row in rows], result, machine)


def judge(tried: Sequence[Settings], result: TuneResult, machine: Machine) -> Tuning:
    """The result of a finished search: the winner, if the rounds are clear, and what makes it fast.

    Args:
        tried: the settings of the job's candidates.
        result: the result of the search.
        machine: the machine of the search.
    """
    final, base = result.final, next(settings for settings in tried if settings.name == BASE)
    low, ratio, high = _quartiles(final.ratio)
    apart = differences(result.winner, base)
    spread = _spread(final.ratio)
    clear = bool(apart) and low > 1.0 and spread <= NOISY
    chosen = replace(result.winner, name=_name(result.winner, tried)) if clear else base
    effects = {part: final.without[part] for part in apart if clear and part in final.without}
    without = {part: _quartiles(ratios)[1] for part, ratios in effects.items() if _spread(ratios) <= NOISY}
    ms = {"settings": float(np.median(final.winner if clear else final.base)), "base": float(np.median(final.base))}
    lasted = {name: number for number, rung in enumerate(result.rungs, 1) for name in rung.kept}
    rows = sorted(
        (
            Candidate(**asdict(row), rungs=lasted.get(row.name, 0) if row.status == "ok" else None)
            for row in result.candidates
        ),
        key=lambda row: (row.status != "ok", -(row.rungs or 0), row.ratio or float("inf")),
    )
    notes = []
    if machine.board.emulated:
        notes.append(EMULATED)
    if result.conditions.throttled:
        notes.append("throttled: " + "; ".join(result.conditions.throttled_by))
    for name, reason in (result.clocks.refused if result.clocks else {}).items():
        notes.append(f"the clock of {name} was not fixed: {reason}")
    notes += _outliers("the winner", final.winner) + _outliers(BASE, final.base)
    notes += _ties(result, chosen.name, spread) if clear else []
    unclear = [_part(part, chosen) for part in effects if part not in without]
    notes += [f"too noisy to say what each setting gains: {', '.join(unclear)}"] if unclear else []
    cosine = result.cosine if clear else next(row.cosine for row in rows if row.name == BASE)
    interval = f"the middle half of the {len(final.ratio)} rounds: {low:.2f} to {high:.2f}"
    if clear:
        why = _why(chosen, base, ratio, interval, without)
    elif apart and spread > NOISY:
        why = (
            f"too noisy to recommend other settings than {_defaults(base)}: the fastest were {ratio:.2f} times as fast "
            f"({interval}); stop other programs, hold the clocks (--fix-clocks), or give more --seconds"
        )
    else:
        why = _nothing(base, ratio, bool(apart), interval)
    return Tuning(
        chosen, base, ratio if clear else 1.0, spread, without, ms, cosine, rows, why, notes,
        result.conditions, result.clocks,
    )  # fmt: skip


def _quartiles(ratios: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = (float(v) for v in np.percentile(ratios, (25, 50, 75)))
    return low, median, high


def _spread(ratios: Sequence[float]) -> float:
    """The interquartile range divided by the median."""
    low, median, high = _quartiles(ratios)
    return (high - low) / median


def _name(winner: Settings, tried: Sequence[Settings]) -> str:
    """The name of the candidate with these settings; a new name if the final reset some of them."""
    known = [settings.name for settings in tried if _unnamed(settings) == _unnamed(winner)]
    return known[0] if known else f"{winner.name}, simplified"


def _outliers(name: str, times: Sequence[float]) -> list[str]:
    """A sentence about rounds that took far longer than the others; none if there are no such rounds."""
    median = float(np.median(times))
    far = [ms for ms in times if ms > OUTLYING * median]
    if not far:
        return []
    rounds = "one round" if len(far) == 1 else f"{len(far)} rounds"
    return [
        f"{name}: {rounds} of {len(times)} took up to {max(far) / median:.0f} times the median of {plain(median)} ms: "
        "another program ran, or the clock changed"
    ]


def _ties(result: TuneResult, chosen: str, spread: float) -> list[str]:
    """A sentence that names the candidates of the last rung that were as fast as the winner, within the spread."""
    scores = result.rungs[-1].scores if result.rungs else {}
    bound = scores.get(chosen, 0.0) * (1 + spread)
    ties = [name for name, score in scores.items() if name != chosen and score <= bound]
    return [f"as fast within the spread: {', '.join(ties)}"] if ties else []


def _why(chosen: Settings, base: Settings, ratio: float, interval: str, without: Mapping[str, float]) -> str:
    said = f"{ratio:.2f} times as fast as {_defaults(base)} ({interval})"
    gains = [f"{_part(part, chosen)} {times:.2f}×" for part, times in sorted(without.items(), key=lambda p: -p[1])]
    return f"{said}; effect of each setting: {', '.join(gains)}" if gains else said


def _nothing(base: Settings, ratio: float, other: bool, interval: str) -> str:
    noise = ", which is within noise" if ratio >= 1 else ""
    best = f"; the fastest other settings were {ratio:.2f} times as fast ({interval}){noise}" if other else ""
    return f"nothing is clearly faster than {_defaults(base)}{best}"


def _defaults(base: Settings) -> str:
    return f"ncnn's defaults ({base.precision}, {Placement(base.threads)})"


def _part(part: str, chosen: Settings) -> str:
    """The name of a part of the settings in a sentence."""
    named = {
        "cpus": f"pinning to {chosen.cpus}" if chosen.cpus else "not pinning",
        "threads": str(Placement(chosen.threads)),
        "precision": chosen.precision,
        "backend": chosen.backend,
    }
    return named.get(part) or _switches({part: chosen.switches[part]})[0]
