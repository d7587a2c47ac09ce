"""What is done with the networks of a job: measured, profiled, tuned. Runs where they will run, as ``worker.py`` does.

Only ncnn, numpy, the standard library and the files beside it, Python 3.9 or newer; nothing else of ncnnkit.

``jobs.py JOB.json RESULT.json`` does what the job's ``kind`` says (:data:`JOBS`), ``measure`` by default, and prints
one JSON line of progress a step. Several networks are timed in interleaved rounds, a serving process for each, so that
a drift of the machine's speed meets all alike.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

try:
    from . import sysfs
    from .rows import Rows, RowWriter
    from .worker import LOAD_TIMEOUT, RUN_TIMEOUT, Arrays, Child, Message, WorkerError
except ImportError:  # run as a script, with the others beside it
    import sysfs  # type: ignore[no-redef, import-not-found]
    from rows import Rows, RowWriter  # type: ignore[no-redef, import-not-found]
    from worker import (  # type: ignore[no-redef, import-not-found]
        LOAD_TIMEOUT,
        RUN_TIMEOUT,
        Arrays,
        Child,
        Message,
        WorkerError,
    )  # fmt: skip

Tell = Callable[[Message], None]

LOAD_FIELDS = ("param", "bin", "precision", "backend", "threads", "cpus", "options")
"""Of a variant: what a serving process must know to load it. The last two may be absent."""

HEARTBEAT = 5.0  # seconds between two words of a long run


def measure(job: Message, tell: Tell) -> Message:
    """Measure the variants of a job.

    Args:
        job: ``variants`` (each ``name``, ``param``, ``bin``, ``precision``, ``backend``, ``threads`` (0: as many as
            ncnn takes by itself) and, if wanted, ``cpus`` (a list to pin it to) and ``options`` (of :data:`SWITCHES`)),
            ``inputs`` (one .npy of N samples for each network input), ``folder`` (where outputs go), ``rounds``,
            ``seconds`` (of timing, a variant), ``slow_seconds`` (of evaluating, and of timing, on a software device).
            If wanted ``record`` (a file that always holds the results so far), ``fix_clocks`` (hold the clocks at
            their highest, see :func:`sysfs.fixed_clocks`), ``journal`` (where these are noted, by default in the user's
            cache) and ``sustained`` (seconds that each variant then runs alone without a rest).
        tell: called with progress, one message a step.

    Returns:
        ``clocks`` (``fixed`` and ``refused``; None where they were not to be fixed) and ``variants``: for each its
        ``status`` and ``reason``, ``device``, ``load_ms``, ``first_ms`` (the first inference after the cold load),
        ``samples`` (ms), ``peak_memory_mb``, ``outputs`` (.npy files of N samples), ``conditions`` (what a
        :class:`sysfs.Sampler` saw while it was timed) and ``sustained`` (``seconds``, ``samples`` (how many),
        ``first_ms`` and ``last_ms`` (medians of the first and the last tenth) and ``conditions``), as far as it came.
    """
    inputs = [Rows(path) for path in job["inputs"]]
    results = [{"name": v["name"], "status": "ok", "reason": ""} for v in job["variants"]]
    watches = [_watch(variant) for variant in job["variants"]]
    children: List[Optional[Child]] = []
    with _clocks(job) as clocks:
        try:
            for variant, result in zip(job["variants"], results):
                tell({"stage": "evaluate", "variant": variant["name"]})
                children.append(_attempt(_open_and_evaluate, variant, result, inputs, job))
                _record(job, results)
            for round_number in range(job["rounds"]):
                tell({"stage": "time", "round": round_number + 1, "of": job["rounds"]})
                for index, (child, result, watch) in enumerate(zip(children, results, watches)):
                    if child is not None:
                        children[index] = _attempt(_time, child, result, job, watch)
                _record(job, results)
            for index, (child, result, variant) in enumerate(zip(children, results, job["variants"])):
                if child is not None and job.get("sustained") and result["status"] == "ok":
                    children[index] = _attempt(_sustain, child, result, variant, job["sustained"], tell)
            for child, result in zip(children, results):
                if child is not None:
                    _attempt(_remember, child, result)
        finally:
            for child in children:
                if child is not None:
                    child.close()
    for result, watch in zip(results, watches):
        if "samples" in result:
            result["conditions"] = watch.result(statistics.fmean(result["samples"]))
    return {"variants": results, "clocks": clocks}


def _record(job: Message, results: List[Message]) -> None:
    """Note how far the variants are, where the job says to: all there is of it if this process dies."""
    if job.get("record"):
        write_whole(job["record"], {"variants": results})


def write_whole(path: str, message: Message) -> None:
    """Write JSON to a file that is there complete or not at all."""
    partial = Path(path + ".part")
    partial.write_text(json.dumps(message))
    partial.replace(path)


@contextlib.contextmanager
def _clocks(job: Message) -> Iterator[Optional[Message]]:
    """Hold the clocks, if the job wants it. What a killed run left fixed is put back in any case."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    journal = Path(job.get("journal") or os.path.join(cache, "ncnnkit", "clocks.json"))
    sysfs.restore_clocks(journal)
    if not job.get("fix_clocks"):
        yield None
        return
    with sysfs.fixed_clocks(journal) as report:
        yield report


def _watch(variant: Message) -> sysfs.Sampler:
    """What watches while this variant runs."""
    return sysfs.Sampler(cpus=variant.get("cpus"), on_gpu=variant["backend"] == "vulkan")


def _loading(variant: Message) -> Message:
    return {field: variant[field] for field in LOAD_FIELDS if field in variant}


def _on_the_cpu(variant: Message, device: Optional[Message]) -> bool:
    """Whether Vulkan was asked for and there is none, or one in software."""
    return bool(variant["backend"] == "vulkan" and (device is None or device["type"] == "cpu"))


def _attempt(step: Callable[..., Child], subject: Any, result: Message, *rest: Any) -> Optional[Child]:
    """Run a step of one variant; a failure is that variant's result, not the job's end."""
    try:
        return step(subject, result, *rest)
    except WorkerError as error:
        result.update(status="crashed", reason=str(error))
        if isinstance(subject, Child):
            subject.close()
        return None


def _open_and_evaluate(variant: Message, result: Message, inputs: Sequence[Rows], job: Message) -> Child:
    child = Child()
    try:
        request = _loading(variant)
        cold = child.ask("load", timeout=LOAD_TIMEOUT, cold=True, **request)[0]
        first = child.ask("run", [np.asarray(a[0], np.float32) for a in inputs])[0]
        warm = child.ask("load", timeout=LOAD_TIMEOUT, **request)[0]
        device = cold["device"]
        result.update(device=device, load_ms={"cold": cold["load_ms"], "warm": warm["load_ms"]})
        result["first_ms"] = first["ms"]
        result["without_vulkan"] = cold["without_vulkan"]
        software = _on_the_cpu(variant, device)
        seconds = job["slow_seconds"] if software else float("inf")
        result["outputs"] = _evaluate(child, inputs, Path(job["folder"]), variant["name"], seconds)
        if software:
            found = (
                "runs in software on the CPU: " + device["name"]
                if device
                else "no Vulkan device: ncnn ran it on the CPU"
            )
            result.update(status="fallback", reason=found)
        return child
    except BaseException:
        child.close()
        raise


def _evaluate(child: Child, inputs: Sequence[Rows], folder: Path, name: str, seconds: float) -> Message:
    """Run the samples, as many as ``seconds`` allow; returns output name -> .npy file of (N, …) float32."""
    end = time.monotonic() + seconds
    writers: Dict[str, RowWriter] = {}
    with contextlib.ExitStack() as stack:
        for number, sample in enumerate(zip(*inputs)):
            if number >= 2 and time.monotonic() > end:
                break
            message, outputs = child.ask("run", [np.asarray(a, np.float32) for a in sample])
            for blob, output in zip(message["names"], outputs):
                if blob not in writers:
                    file = folder / ("%s-%d.npy" % (name, len(writers)))
                    writers[blob] = stack.enter_context(RowWriter(file))
                try:
                    writers[blob].append(output)
                except ValueError:
                    raise WorkerError("output %r changes its shape from sample to sample" % blob) from None
    return {blob: writer.path for blob, writer in writers.items()}


def _time(child: Child, result: Message, job: Message, watch: sysfs.Sampler) -> Child:
    slow = result["status"] == "fallback"
    whole = min(job["slow_seconds"], job["seconds"]) if slow else job["seconds"]
    if slow and sum(result.get("samples", [])) > whole * 1000:
        return child  # it has had its time: no figure of a GPU comes of it anyway
    seconds = whole / job["rounds"]
    limits = {"seconds": seconds, "min_samples": 1 if slow else 3, "max_samples": 200}
    with watch:
        samples = child.ask("time", timeout=RUN_TIMEOUT + 10 * seconds, **limits)[0]["samples"]
    # The first inference after another variant had the caches is not a sample of this one.
    result.setdefault("samples", []).extend(samples[1:] if len(samples) > 3 else samples)
    return child


def _sustain(child: Child, result: Message, variant: Message, seconds: float, tell: Tell) -> Child:
    """Run one variant without a rest: a chip that heats up shows it in a minute, not in rounds."""
    samples: List[float] = []
    watch, start = _watch(variant), time.monotonic()
    with watch:
        while time.monotonic() - start < seconds:
            gone = time.monotonic() - start
            tell({"stage": "sustain", "variant": variant["name"], "seconds": round(gone), "of": seconds})
            part = min(HEARTBEAT, seconds - gone)
            limits: Message = {"seconds": part, "min_samples": 1, "max_samples": 1 << 30}
            samples += child.ask("time", timeout=RUN_TIMEOUT + 10 * part, **limits)[0]["samples"]
    tenth = max(1, len(samples) // 10)
    result["sustained"] = {
        "seconds": time.monotonic() - start,
        "samples": len(samples),
        "first_ms": statistics.median(samples[:tenth]),
        "last_ms": statistics.median(samples[-tenth:]),
        "conditions": watch.result(statistics.fmean(samples)),
    }
    return child


def _remember(child: Child, result: Message) -> Child:
    result["peak_memory_mb"] = child.ask("memory")[0]["peak_mb"]
    return child


# --------------------------------------------------------------------------------------------- layers and settings


def profile(job: Message, tell: Tell) -> Message:
    """Time the layers of a network inside it, see :meth:`Network.profile`.

    Args:
        job: ``variant`` (as :func:`measure`'s), ``inputs`` (one .npy of a sample for each network input), ``taps``,
            ``outputs`` and ``repeats``. If wanted ``fix_clocks`` and ``journal``.
        tell: called with progress.

    Returns:
        ``whole``, ``measuring`` and ``layers`` (ms), ``bits``, ``vulkan`` (layers that have Vulkan kernels),
        ``device``, ``threads``, ``clocks`` and ``conditions``.

    Raises:
        WorkerError: ncnn crashed or refused.
    """
    tell({"stage": "profile"})
    arrays = [np.asarray(np.load(path), np.float32) for path in job["inputs"]]
    watch = _watch(job["variant"])
    with _clocks(job) as clocks, Child() as child:
        loaded = child.ask("load", timeout=LOAD_TIMEOUT, **_loading(job["variant"]))[0]
        with watch:
            asked = {field: job[field] for field in ("taps", "outputs", "repeats")}
            answer = child.ask("profile", arrays, timeout=LOAD_TIMEOUT, **asked)[0]
        vulkan = child.ask("layers")[0]["vulkan"]
    found = {"device": loaded["device"], "threads": loaded["threads"], "vulkan": vulkan, "clocks": clocks}
    return dict(answer, **found, conditions=watch.result(answer["whole"]))


def halve(
    names: Sequence[str], score: Callable[[List[str], float], Dict[str, float]], seconds: float
) -> Tuple[List[str], List[Message]]:
    """Successive halving: the best of many at about the cost of timing a few well.

    In each rung all that are left share an equal part of the time, and the better half goes on with twice as much each
    (K. Jamieson, A. Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016).

    Args:
        names: the candidates.
        score: (those left, seconds for each) -> their scores, the lower the better; who is not in it has dropped out.
        seconds: for all rungs together.

    Returns:
        Those left, the best first: one, or none where all dropped out; and the rungs, each ``seconds`` (a candidate),
        ``scores`` and ``kept``.
    """
    left = list(names)
    count = max(1, math.ceil(math.log2(max(1, len(left)))))
    rungs: List[Message] = []
    while left and len(rungs) < count:
        each = seconds / (count * len(left))
        scores = score(left, each)
        # Where some drop out, their half is the one that goes.
        keep = 1 if len(rungs) + 1 == count else (len(left) + 1) // 2
        left = sorted((name for name in left if name in scores), key=lambda name: scores[name])[:keep]
        rungs.append({"seconds": each, "scores": scores, "kept": left})
    return left, rungs


PARTS: Dict[str, Tuple[str, ...]] = {
    "cpus": ("cpus",),
    "threads": ("threads",),
    "precision": ("precision", "param", "bin", "min_cosine"),
    "backend": ("backend",),
}
"""What of a candidate can be put back to the defaults by itself -> its fields; each of its options is one, too."""


def differences(variant: Message, base: Message) -> List[str]:
    """The parts in which a variant is not as the defaults: of :data:`PARTS`, and its options."""
    parts = [part for part, fields in PARTS.items() if variant.get(fields[0]) != base.get(fields[0])]
    return parts + list(variant.get("options") or {})


def put_back(variant: Message, base: Message, part: str) -> Message:
    """The variant with one part as the defaults have it."""
    if part in PARTS:
        return dict(variant, **{field: base.get(field) for field in PARTS[part]})
    return dict(variant, options={name: on for name, on in variant["options"].items() if name != part})


def clearly_above_one(ratios: Sequence[float]) -> bool:
    """Three of four rounds say so."""
    return float(np.percentile(ratios, 25)) > 1.0


def tune(job: Message, tell: Tell) -> Message:
    """Find the candidate that is fastest here and still right, by :func:`halve`, and what makes it so.

    Every rung goes through its candidates in blocks, as many at once as the memory allows, each with the defaults among
    them: scores are times of the defaults' time in the same block and turn, so that a machine that gets slower in
    between favours nobody. In the final, the winner runs in turn with itself without each thing that sets it apart from
    the defaults; what makes no clear difference is put back, so that nobody carries a switch for nothing.

    Args:
        job: ``candidates`` (variants as :func:`measure`'s, each with ``min_cosine``, which its worst output must reach
            against the reference's), ``base`` (the name of the one with ncnn's defaults), ``reference`` (a variant
            whose outputs are right), ``inputs`` (one .npy of a sample for each network input), ``seconds`` (of timing
            in all rungs), ``final_seconds`` (for each finalist) and ``rounds`` (of the final). If wanted ``fix_clocks``
            and ``journal``.
        tell: called with progress.

    Returns:
        ``winner`` (a variant, perhaps none of the candidates), ``candidates`` (each ``name``, ``status`` (ok or
        dropped), ``reason``, ``cosine``, and ``ms`` and ``ratio`` over the defaults' time in its last rung), ``rungs``
        (see :func:`halve`), ``together`` (processes at once), ``final`` (a list over the rounds of each: ``winner`` and
        ``base`` in ms, ``ratio`` (how many times as fast as the base the winner is), and ``without``: part of the
        fastest candidate (see :func:`differences`) -> how many times as slow it is without), ``cosine`` and
        ``conditions`` (of the winner in the final) and ``clocks``.

    Raises:
        WorkerError: the reference or the defaults do not run.
    """
    with _clocks(job) as clocks, tempfile.TemporaryDirectory(prefix="ncnnkit-") as caches:
        contest = _Contest(job, caches)
        left, rungs = halve(list(contest.rows), lambda names, each: contest.score(names, each, tell), job["seconds"])
        tell({"stage": "final"})
        found = contest.final(left[0] if left else job["base"], job["rounds"], job["final_seconds"])
    rows = list(contest.rows.values())
    return dict(found, candidates=rows, rungs=rungs, together=contest.together, clocks=clocks)


class _Contest:
    """The candidates of a search: opens them, checks their outputs, times them against the defaults."""

    TURNS = 3  # of a rung
    AT_ONCE = 8  # processes: more would take each other's caches

    def __init__(self, job: Message, caches: str) -> None:
        self.base = job["base"]
        self.variants = {variant["name"]: variant for variant in job["candidates"]}
        self.rows = {name: _row(name) for name in self.variants}
        self._arrays = [np.asarray(np.load(path), np.float32) for path in job["inputs"]]
        self._caches = caches
        with Child(caches=caches) as child:
            child.ask("load", timeout=LOAD_TIMEOUT, **_loading(job["reference"]))
            self._right = child.ask("run", self._arrays)[1]
            needs = child.ask("memory")[0]["peak_mb"] + 100.0  # Python, NumPy and ncnn
        # Half of what is free: a board whose memory is full swaps or kills, and measures neither.
        free = sysfs.memory_mb("MemAvailable") or math.inf
        self.together = int(max(2, min(self.AT_ONCE, free / 2 / needs)))

    def score(self, names: List[str], seconds: float, tell: Tell) -> Dict[str, float]:
        """Of those that run and are right, their time over the base's."""
        scores: Dict[str, float] = {}
        others = [name for name in names if name != self.base]
        size = self.together - 1
        for start in range(0, max(1, len(others)), size):
            tell({"stage": "tune", "candidates": len(names), "done": start})
            block = {name: self.variants[name] for name in (self.base, *others[start : start + size])}
            times = self._times(block, self.rows, seconds, self.TURNS)
            if self.base not in times:
                raise WorkerError("ncnn's defaults do not run here: " + self.rows[self.base]["reason"])
            for name, ms in times.items():
                scores[name] = statistics.median(a / b for a, b in zip(ms, times[self.base]))
                self.rows[name].update(ms=statistics.median(ms), ratio=scores[name])
        return {name: scores[name] for name in names if name in scores}

    def final(self, best: str, rounds: int, seconds: float) -> Message:
        """The best without each thing that sets it apart, then what is left of it against the base."""
        fastest, base = self.variants[best], self.variants[self.base]
        parts = differences(fastest, base)
        without: Dict[str, List[float]] = {}
        plain = fastest
        for part in parts if len(parts) > 1 else ():  # without the only one it is the base
            pair = {"with": fastest, "without": put_back(fastest, base, part)}
            ms = self._times(pair, {name: _row(name) for name in pair}, seconds, rounds)
            if len(ms) == len(pair):
                without[part] = [a / b for a, b in zip(ms["without"], ms["with"])]
                if not clearly_above_one(without[part]):
                    plain = put_back(plain, base, part)
        ends = {"plain": plain, "fastest": fastest, "base": base}
        rows = {name: _row(name) for name in ends}
        watches = {name: _watch(variant) for name, variant in ends.items()}
        times = self._times(ends, rows, seconds, rounds, watches)
        for name in ("fastest", "base"):
            if name not in times:
                raise WorkerError("a finalist does not run any more: " + rows[name]["reason"])
        # Two things that make no difference each may make one together.
        slower = "plain" not in times or clearly_above_one([a / b for a, b in zip(times["plain"], times["fastest"])])
        winner = "fastest" if slower else "plain"
        return {
            "winner": ends[winner],
            "final": {
                "winner": times[winner], "base": times["base"], "without": without,
                "ratio": [b / a for a, b in zip(times[winner], times["base"])],
            },
            "cosine": rows[winner]["cosine"],
            "conditions": watches[winner].result(statistics.fmean(times[winner])),
        }  # fmt: skip

    def _times(
        self,
        variants: Dict[str, Message],
        rows: Dict[str, Message],
        seconds: float,
        turns: int,
        watches: Optional[Dict[str, sysfs.Sampler]] = None,
    ) -> Dict[str, List[float]]:
        """The median ms of each in each turn; those that fail or are wrong are absent, and ``rows`` says why."""
        times: Dict[str, List[float]] = {}
        children: Dict[str, Child] = {}
        limits: Message = {"seconds": seconds / turns, "min_samples": 2, "max_samples": 1 << 30}
        with contextlib.ExitStack() as stack:
            for name, variant in variants.items():
                with _dropping(name, rows, times):
                    children[name] = self._open(variant, rows[name], stack)
                    times[name] = []
            for _turn in range(turns):
                for name in list(times):
                    with _dropping(name, rows, times), (watches or {}).get(name, contextlib.nullcontext()):
                        answer = children[name].ask("time", timeout=RUN_TIMEOUT + 10 * seconds, **limits)[0]
                        # The first finds another's data in the caches.
                        times[name].append(statistics.median(answer["samples"][1:]))
        return times

    def _open(self, variant: Message, row: Message, stack: contextlib.ExitStack) -> Child:
        """A process with the candidate loaded, which has computed what it should."""
        child = stack.enter_context(Child(caches=self._caches))
        loaded = child.ask("load", timeout=LOAD_TIMEOUT, **_loading(variant))[0]
        if _on_the_cpu(variant, loaded["device"]):
            raise WorkerError("no GPU: it would run on the CPU")
        cosine = row["cosine"] = worst_cosine(child.ask("run", self._arrays)[1], self._right)
        if cosine is None:
            raise WorkerError("its outputs hold NaN or infinity")
        if cosine < variant["min_cosine"]:
            raise WorkerError("wrong outputs: their cosine to the reference is %.4f" % cosine)
        return child


def _row(name: str) -> Message:
    return {"name": name, "status": "ok", "reason": "", "cosine": None, "ms": None, "ratio": None}


@contextlib.contextmanager
def _dropping(name: str, rows: Dict[str, Message], times: Dict[str, List[float]]) -> Iterator[None]:
    """A candidate that fails has dropped out; the others go on."""
    try:
        yield
    except WorkerError as error:
        rows[name].update(status="dropped", reason=str(error))
        times.pop(name, None)


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


JOBS: Dict[str, Callable[[Message, Tell], Message]] = {"measure": measure, "profile": profile, "tune": tune}
"""Kind of a job -> what does it."""


def run_job(job: Message, tell: Tell = lambda step: None) -> Message:
    """Do a job of any kind on this machine."""
    return JOBS[job.get("kind", "measure")](job, tell)


def main(job_file: str, result_file: str) -> None:
    result = run_job(json.loads(Path(job_file).read_text()), lambda step: print(json.dumps(step), flush=True))
    write_whole(result_file, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
