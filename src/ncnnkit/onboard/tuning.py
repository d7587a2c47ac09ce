"""The job ``tune``: the fastest of many settings whose outputs are right."""

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
    """Successive halving: the best of many at about the cost of timing a few well.

    In each rung all that are left share an equal part of the time, and the better half goes on with twice as much each
    (K. Jamieson, A. Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016).

    Args:
        names: the candidates.
        score: (those left, seconds for each) -> their scores, the lower the better; who is not in it has dropped out.
        seconds: for all rungs together.

    Returns:
        Those left, the best first: one, or none where all dropped out; and the rungs.
    """
    left = list(names)
    count = max(1, math.ceil(math.log2(max(1, len(left)))))
    rungs: List[Rung] = []
    while left and len(rungs) < count:
        each = seconds / (count * len(left))
        scores = score(left, each)
        # Where some drop out, their half is the one that goes.
        keep = 1 if len(rungs) + 1 == count else (len(left) + 1) // 2
        left = sorted((name for name in left if name in scores), key=lambda name: scores[name])[:keep]
        rungs.append(Rung(each, scores, left))
    return left, rungs


PARTS: Dict[str, str] = {"cpus": "cpus", "threads": "threads", "precision": "model", "backend": "backend"}
"""What of a candidate can be put back to the defaults by itself -> its field; each of its switches is one, too."""


def differences(settings: Settings, base: Settings) -> List[str]:
    """The parts in which settings are not as the defaults: of :data:`PARTS`, and the switches."""
    return [part for part in PARTS if getattr(settings, part) != getattr(base, part)] + list(settings.switches)


def put_back(variant: JobVariant, base: JobVariant, part: str) -> JobVariant:
    """The variant with one part as the defaults have it."""
    if part in PARTS:
        return replace(variant, **{PARTS[part]: getattr(base, PARTS[part])})
    return replace(variant, switches={name: on for name, on in variant.switches.items() if name != part})


def clearly_above_one(ratios: Sequence[float]) -> bool:
    """Three of four rounds say so."""
    return float(np.percentile(ratios, 25)) > 1.0


def tune(job: TuneJob, notify: Notify) -> TuneResult:
    """Find the candidate that is fastest here and still right, by :func:`halve`, and what makes it so.

    Every rung goes through its candidates in blocks, as many at once as the memory allows, each with the defaults among
    them: scores are times of the defaults' time in the same block and turn, so that a machine that gets slower in
    between favours no candidate. In the final, each setting of the winner that differs from the
    defaults is reset by itself; one without a clear effect stays reset.

    Args:
        job: the candidates, and how long.
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
    """The candidates of a search: opens them, checks their outputs, times them against the defaults."""

    TURNS = 3  # of a rung
    AT_ONCE = 8  # processes: more would take each other's caches

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
        """Of those that run and are right, their time over the base's."""
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
        """The best without each thing that sets it apart, then what is left of it against the base.

        Returns:
            The winner's settings, the rounds, and the winner's result and conditions in them.
        """
        fastest, base = self.variants[best], self.variants[self.base]
        parts = differences(fastest.settings, base.settings)
        without: Dict[str, List[float]] = {}
        plain = fastest
        for part in parts if len(parts) > 1 else ():  # without the only one it is the base
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
        # Two things that make no difference each may make one together.
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
        """The median ms of each in each turn; those that fail or are wrong are absent, and ``rows`` says why."""
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
                        # The first finds another's data in the caches.
                        times[name].append(statistics.median(found.samples[1:]))
        return times

    def _begin(self, variant: JobVariant, row: CandidateResult) -> Child:
        """A process with the candidate loaded, which has computed what it should."""

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
    """A candidate that fails has dropped out; the others go on."""
    try:
        yield
    except WorkerError as error:
        rows[name].status, rows[name].reason = "dropped", str(error)
        times.pop(name, None)


def _paired(found: Arrays, right: Arrays) -> Tuple[Arrays, Arrays]:
    """Outputs of detections as pairs of rows: rounding moves scores over a threshold, and changes their order.

    Each row of the smaller output is compared with the nearest of the other. What has less than half as many rows, or
    rows of another kind, stays as it is, and is wrong.
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
    """The SQNR, dB, of the output that is furthest from what it should be; infinite where all are equal.

    An output that should be zero has no signal to compare its noise with, and does not count; one of another shape is
    as wrong as can be.
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
    """The cosine of the output that is furthest from what it should be; None where one is not finite.

    Two outputs of zeros are the same, one is as wrong as can be; so is another shape.
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
