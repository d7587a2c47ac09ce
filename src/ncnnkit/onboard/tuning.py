"""The job ``tune``: finds the fastest of many settings with correct outputs."""

from __future__ import annotations

import contextlib
import math
import statistics
from dataclasses import replace
from functools import partial
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from .answers import Arrays
from .child import LOAD_TIMEOUT, RUN_TIMEOUT, Child, WorkerError
from .facts import Conditions
from .messages import Message
from .protocol import CandidateResult, Final, JobVariant, Notify, Rung, Settings, Step, TuneJob, TuneResult
from .sampler import Sampler
from .scratch import Scratch
from .variants import KeptOpen, begin, held_clocks, loading, on_the_cpu, room_for, watching


def halve(
    names: Sequence[str], score: Callable[[List[str], float], Dict[str, float]], seconds: float
) -> Tuple[List[str], List[Rung]]:
    """Successive halving: finds the best of many candidates at about the cost of timing a few well.

    In each rung, the candidates that are left share the time equally. The better half goes to the next rung, where each
    gets twice as much time (K. Jamieson, A. Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter
    Optimization, AISTATS 2016).

    Args:
        names: the candidates.
        score: (candidates left, seconds for each) -> their scores; lower is better. A candidate without a score is
            dropped.
        seconds: the time for all rungs together.

    Returns:
        (the candidates left: one, or none if all were dropped; the rungs).
    """
    left = list(names)
    count = max(1, math.ceil(math.log2(max(1, len(left)))))
    rungs: List[Rung] = []
    while left and len(rungs) < count:
        each = seconds / (count * len(left))
        scores = score(left, each)
        # Dropped candidates count as part of the worse half.
        keep = 1 if len(rungs) + 1 == count else (len(left) + 1) // 2
        left = sorted((name for name in left if name in scores), key=lambda name: scores[name])[:keep]
        rungs.append(Rung(each, scores, left))
    return left, rungs


PARTS: Dict[str, str] = {"cpus": "cpus", "threads": "threads", "precision": "model", "backend": "backend"}
"""Part of a candidate that can be reset to the default by itself -> its field. Each switch is a part, too."""


def differences(settings: Settings, base: Settings) -> List[str]:
    """The parts in which settings differ from the defaults: of :data:`PARTS`, and the switches."""
    return [part for part in PARTS if getattr(settings, part) != getattr(base, part)] + list(settings.switches)


def put_back(variant: JobVariant, base: JobVariant, part: str) -> JobVariant:
    """The variant with one part reset to the default."""
    if part in PARTS:
        return replace(variant, **{PARTS[part]: getattr(base, PARTS[part])})
    return replace(variant, switches={name: on for name, on in variant.switches.items() if name != part})


def clearly_above_one(ratios: Sequence[float]) -> bool:
    """Whether at least three of four rounds have a ratio above 1."""
    return float(np.percentile(ratios, 25)) > 1.0


def tune(job: TuneJob, notify: Notify) -> TuneResult:
    """Find the fastest candidate with correct outputs, with :func:`halve`, and the settings that make it fast.

    Every rung times its candidates in blocks, as many at once as the memory allows. Each block includes the defaults,
    and a score is a candidate's time divided by the defaults' time in the same block and turn. So a change of the
    machine's speed favours no candidate. In the final, each setting of the winner that differs from the defaults is
    reset by itself. If resetting it makes no clear difference, it stays reset.

    Args:
        job: the candidates and the times.
        notify: called with progress.

    Raises:
        WorkerError: the reference or the defaults do not run.
    """
    with held_clocks(job) as clocks, Scratch() as caches:
        contest = _Contest(job, caches)
        left, rungs = halve(list(contest.rows), lambda names, each: contest.score(names, each, notify), job.seconds)
        notify(Step("final"))
        winner, final, row, conditions = contest.final(left[0] if left else job.base, job.rounds, job.final_seconds)
    return TuneResult(
        winner=winner,
        candidates=list(contest.rows.values()),
        rungs=rungs,
        together=contest.together,
        final=final,
        cosine=row.cosine,
        conditions=conditions,
        clocks=clocks,
    )


class _Contest:
    """The candidates of a search: opens them, checks their outputs, and times them against the defaults."""

    TURNS = 3  # per rung
    AT_ONCE = 8  # processes; more would compete for the caches

    def __init__(self, job: TuneJob, caches: str) -> None:
        self.base = job.base
        self.variants = {variant.name: variant for variant in job.candidates}
        self.rows = {name: CandidateResult(name) for name in self.variants}
        self._varies = job.varies
        self._arrays = [np.asarray(np.load(path), np.float32) for path in job.inputs]
        self._caches = caches
        with Child(caches=caches) as child:
            child.ask("load", timeout=LOAD_TIMEOUT, **loading(job.reference))
            self._right = child.ask("run", self._arrays)[1]
            network_mb = child.ask("memory")[0].peak_mb
        self.together = int(max(2, min(self.AT_ONCE, room_for(network_mb))))

    def score(self, names: List[str], seconds: float, notify: Notify) -> Dict[str, float]:
        """For each candidate that runs and is correct: its time divided by the base's."""
        scores: Dict[str, float] = {}
        others = [name for name in names if name != self.base]
        size = self.together - 1
        for start in range(0, max(1, len(others)), size):
            notify(Step("tune", done=start, of=len(names)))
            block = {name: self.variants[name] for name in (self.base, *others[start : start + size])}
            times = self._times(block, self.rows, seconds, self.TURNS)
            if self.base not in times:
                raise WorkerError("ncnn's defaults do not run here: " + self.rows[self.base].reason)
            for name, ms in times.items():
                scores[name] = statistics.median(a / b for a, b in zip(ms, times[self.base]))
                self.rows[name].ms, self.rows[name].ratio = statistics.median(ms), scores[name]
        return {name: scores[name] for name in names if name in scores}

    def final(self, best: str, rounds: int, seconds: float) -> Tuple[Settings, Final, CandidateResult, Conditions]:
        """Time the best candidate without each of its settings, then with the settings that matter against the base.

        Returns:
            (the winner's settings, the rounds, the winner's result, the conditions while it ran).
        """
        fastest, base = self.variants[best], self.variants[self.base]
        parts = differences(fastest.settings, base.settings)
        without: Dict[str, List[float]] = {}
        plain = fastest
        for part in parts if len(parts) > 1 else ():  # without its only part it is the base
            pair = {"with": fastest, "without": put_back(fastest, base, part)}
            ms = self._times(pair, {name: CandidateResult(name) for name in pair}, seconds, rounds)
            if len(ms) == len(pair):
                without[part] = [a / b for a, b in zip(ms["without"], ms["with"])]
                if not clearly_above_one(without[part]):
                    plain = put_back(plain, base, part)
        ends = {"plain": plain, "fastest": fastest, "base": base}
        rows = {name: CandidateResult(name) for name in ends}
        watches = {name: watching(variant) for name, variant in ends.items()}
        times = self._times(ends, rows, seconds, rounds, watches)
        for name in ("fastest", "base"):
            if name not in times:
                raise WorkerError("a finalist no longer runs: " + rows[name].reason)
        # Two settings that have no effect separately may have one together.
        slower = "plain" not in times or clearly_above_one([a / b for a, b in zip(times["plain"], times["fastest"])])
        winner = "fastest" if slower else "plain"
        ratio = [b / a for a, b in zip(times[winner], times["base"])]
        final = Final(winner=times[winner], base=times["base"], ratio=ratio, without=without)
        return ends[winner].settings, final, rows[winner], watches[winner].result(statistics.fmean(times[winner]))

    def _times(
        self,
        variants: Dict[str, JobVariant],
        rows: Dict[str, CandidateResult],
        seconds: float,
        turns: int,
        watches: Optional[Dict[str, Sampler]] = None,
    ) -> Dict[str, List[float]]:
        """The median time of each in each turn, ms. Variants that fail or are wrong are absent; ``rows`` says why."""
        times: Dict[str, List[float]] = {}
        processes: Dict[str, KeptOpen] = {}
        limits: Message = {"seconds": seconds / turns, "min_samples": 2, "max_samples": 1 << 30}
        with contextlib.ExitStack() as stack:
            for name, variant in variants.items():
                processes[name] = stack.enter_context(KeptOpen(partial(self._begin, variant, rows[name])))
                with _dropping(name, rows, times), processes[name].step():
                    times[name] = []
            for _turn in range(turns):
                for name in list(times):
                    watch = (watches or {}).get(name, contextlib.nullcontext())
                    with _dropping(name, rows, times), processes[name].step() as child, watch:
                        found = child.ask("time", timeout=RUN_TIMEOUT + 10 * seconds, **limits)[0]
                        # The first inference does not count, because the caches hold another candidate's data.
                        times[name].append(statistics.median(found.samples[1:]))
        return times

    def _begin(self, variant: JobVariant, row: CandidateResult) -> Child:
        """A process with the candidate loaded, whose outputs were checked."""

        def load(child: Child) -> None:
            loaded = child.ask("load", timeout=LOAD_TIMEOUT, **loading(variant))[0]
            if on_the_cpu(variant, loaded.device):
                raise WorkerError("no GPU: ncnn would run it on the CPU")

        def run(child: Child) -> None:
            found = child.ask("run", self._arrays)[1]
            right = self._right
            if self._varies:
                found, right = _paired(found, right)
            row.cosine = worst_cosine(found, right)
            if row.cosine is None:
                raise WorkerError("its outputs contain NaN or infinity")
            sqnr = worst_sqnr_db(found, right)
            if sqnr < variant.model.least_sqnr_db:
                raise WorkerError("wrong outputs: SQNR %.1f dB against the reference" % sqnr)

        return begin(self._caches, load, run)


@contextlib.contextmanager
def _dropping(name: str, rows: Dict[str, CandidateResult], times: Dict[str, List[float]]) -> Iterator[None]:
    """Drop a candidate that fails; the others go on."""
    try:
        yield
    except WorkerError as error:
        rows[name].status, rows[name].reason = "dropped", str(error)
        times.pop(name, None)


def _paired(found: Arrays, right: Arrays) -> Tuple[Arrays, Arrays]:
    """Pair the rows of detections, because rounding reorders detections and moves scores across a threshold.

    Each row of the smaller output is paired with the nearest row of the other. If an output has less than half as many
    rows as the other, or rows of another length, it is not paired and counts as wrong.
    """
    ours, theirs = [], []
    for a, b in zip(found, right):
        few, many = sorted((a, b), key=len) if a.ndim and b.ndim else (a, b)
        if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] and 2 * len(few) >= len(many) > 0:
            near = [int(np.argmin(np.sum((many - row) ** 2, axis=1))) for row in few]
            a, b = (a, b[near]) if few is a else (a[near], b)
        ours.append(a)
        theirs.append(b)
    return ours, theirs


def worst_sqnr_db(found: Arrays, right: Arrays) -> float:
    """The SQNR, dB, of the output with the largest error; infinite if all are equal.

    An output that should be zero has no signal to compare its noise with, and is skipped. An output of another shape
    has an SQNR of minus infinity.
    """
    worst = math.inf
    for a, b in zip(found, right):
        x, y = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
        if x.shape != y.shape:
            return -math.inf
        noise, signal = float(np.sum((x - y) ** 2)), float(np.sum(y**2))
        if noise > 0 and signal > 0:
            worst = min(worst, 10 * (math.log10(signal) - math.log10(noise)))
    return worst


def worst_cosine(found: Arrays, right: Arrays) -> Optional[float]:
    """The cosine of the output with the largest error; None if an output is not finite.

    It is 1 for two outputs of zeros, and 0 if only one is zero or if the shapes differ.
    """
    worst = 1.0
    for a, b in zip(found, right):
        if not np.isfinite(a).all():
            return None
        x, y = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
        if x.shape != y.shape:
            return 0.0
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        same = 1.0 if not x.any() and not y.any() else 0.0
        worst = min(worst, float(x @ y) / norm if norm else same)
    return worst
