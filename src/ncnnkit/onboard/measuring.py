"""The job ``measure``: outputs, latency, load times and memory of some variants.

Several networks are timed in interleaved rounds, each in its own serving process, so that a drift of the machine's
speed affects all of them equally.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from .answers import Arrays, Ran
from .child import LOAD_TIMEOUT, RUN_TIMEOUT, Child, WorkerError
from .facts import Load, Sustained
from .messages import Message
from .protocol import JobVariant, MeasureJob, MeasureResult, Notify, Step, VariantResult
from .rows import Rows, RowWriter
from .sampler import Sampler
from .scratch import Scratch
from .variants import KeptOpen, begin, held_clocks, loading, on_the_cpu, watching, write_whole

HEARTBEAT = 5.0  # seconds between two progress messages of a long run


def measure(job: MeasureJob, notify: Notify) -> MeasureResult:
    """Measure the variants of a job.

    Args:
        job: what to measure, and how long.
        notify: called with progress, once for each step.
    """
    inputs = [[Rows(path) for path in variant.inputs or job.inputs] for variant in job.variants]
    results = [VariantResult(variant.name) for variant in job.variants]
    rows = list(zip(job.variants, results))
    with contextlib.ExitStack() as stack:
        clocks = stack.enter_context(held_clocks(job))
        contenders = [stack.enter_context(_Contender(*row, fed)) for row, fed in zip(rows, inputs)]
        for number, each in enumerate(contenders):
            notify(Step("evaluate", each.variant.name, number, len(contenders)))
            each.do(_load_and_evaluate, each.variant, number, each.inputs, job)
            _record(job, results)
        for round_number in range(job.rounds):
            notify(Step("time", done=round_number + 1, of=job.rounds))
            for each in contenders:
                each.do(_time, job, each.watch)
            _record(job, results)
        for each in contenders:
            if job.sustained and each.result.status == "ok":
                each.do(_sustain, each.variant, job.sustained, notify)
        for each in contenders:
            each.finish()
    return MeasureResult(results, clocks)


class _Contender:
    """A variant under measurement.

    Its process stays open between rounds if memory allows, so that the rounds of all variants can alternate without
    loading again; see :class:`KeptOpen`.
    """

    def __init__(self, variant: JobVariant, result: VariantResult, inputs: Sequence[Rows]) -> None:
        self.variant, self.result = variant, result
        self.watch = watching(variant)
        self.inputs = inputs
        self._caches = Scratch()  # keeps a GPU's compiled shaders from one process to the next
        self._process = KeptOpen(self._begin)
        self._evaluated = False

    def __enter__(self) -> _Contender:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass
        self._caches.cleanup()

    def do(self, step: Callable[..., None], *rest: Any) -> None:
        """Do a step with the process and the result. A failure becomes the result of this variant; the job goes on."""
        if self.result.status == "crashed":
            return
        try:
            with self._process.step() as child:
                step(child, self.result, *rest)
                self._evaluated = True
        except WorkerError as error:
            self.result.status, self.result.reason = "crashed", str(error)

    def finish(self) -> None:
        """Complete the result, if the variant was timed."""
        if self.result.samples:
            self.result.conditions = self.watch.result(statistics.fmean(self.result.samples))
        if self.result.status != "crashed":
            self.result.peak_memory_mb = self._process.peak_mb

    def _begin(self) -> Child:
        """A new process. If it replaces an earlier one, it runs the timed sample first."""
        ready = [self._load, self._run_last] if self._evaluated else []
        return begin(self._caches.name, *ready, engine=self.variant.model.engine)

    def _load(self, child: Child) -> None:
        child.ask("load", timeout=LOAD_TIMEOUT, **loading(self.variant))

    def _run_last(self, child: Child) -> None:
        child.ask("run", [np.asarray(rows[len(rows) - 1], np.float32) for rows in self.inputs])


def _record(job: MeasureJob, results: List[VariantResult]) -> None:
    """Write the results so far, if the job asks for it. If this process dies, only they remain."""
    if job.record:
        write_whole(job.record, asdict(MeasureResult(results)))


def _load_and_evaluate(
    child: Child, result: VariantResult, variant: JobVariant, number: int, inputs: Sequence[Rows], job: MeasureJob
) -> None:
    request = loading(variant)
    cold = child.ask("load", timeout=LOAD_TIMEOUT, cold=True, **request)[0]
    first = child.ask("run", [np.asarray(a[0], np.float32) for a in inputs])
    warm = child.ask("load", timeout=LOAD_TIMEOUT, **request)[0]
    device = result.device = cold.device
    result.load_ms = Load(cold.load_ms, warm.load_ms)
    result.first_ms = first[0].ms
    result.without_vulkan = cold.without_vulkan
    software = bool(cold.instead) or on_the_cpu(variant, device)
    seconds = job.slow_seconds if software else float("inf")
    result.outputs = _evaluate(child, inputs, first, Path(job.folder), number, seconds)
    if software:
        result.status = "fallback"
        found = "runs in software on the CPU: " + device.name if device else "no Vulkan device: ncnn ran it on the CPU"
        result.reason = cold.instead or found


def _evaluate(
    child: Child, inputs: Sequence[Rows], first: Tuple[Ran, Arrays], folder: Path, number: int, seconds: float
) -> Dict[str, str]:
    """Run as many samples as ``seconds`` allow. Returns output name -> file of :class:`RowWriter`.

    ``first`` is the result of the first sample, which is not run again. The file names have the number of the variant,
    because names of variants and blobs may contain any character, such as slashes.
    """
    end = time.monotonic() + seconds
    writers: Dict[str, RowWriter] = {}
    with contextlib.ExitStack() as stack:
        for done, sample in enumerate(zip(*inputs)):
            if done >= 2 and time.monotonic() > end:
                break
            ran, outputs = child.ask("run", [np.asarray(a, np.float32) for a in sample]) if done else first
            for blob, output in zip(ran.names, outputs):
                if blob not in writers:
                    file = folder / ("%d-%d.npy" % (number, len(writers)))
                    writers[blob] = stack.enter_context(RowWriter(file))
                writers[blob].append(output)
    return {blob: writer.path for blob, writer in writers.items()}


def _time(child: Child, result: VariantResult, job: MeasureJob, watch: Sampler) -> None:
    slow = result.status == "fallback"
    whole = min(job.slow_seconds, job.seconds) if slow else job.seconds
    if slow and sum(result.samples) > whole * 1000:
        return  # the time is over; a software device gives no GPU figures anyway
    seconds = whole / job.rounds
    limits: Message = {"seconds": seconds, "min_samples": 1 if slow else job.least, "max_samples": 200}
    with watch:
        samples = child.ask("time", timeout=RUN_TIMEOUT + 10 * seconds, **limits)[0].samples
    # The first inference after another variant is not a sample, because the caches hold the other's data.
    result.samples.extend(samples[1:] if len(samples) > 3 else samples)


def _sustain(child: Child, result: VariantResult, variant: JobVariant, seconds: float, notify: Notify) -> None:
    """Run one variant without pauses for some time, so that the chip heats up."""
    samples: List[float] = []
    watch, start = watching(variant), time.monotonic()
    with watch:
        while time.monotonic() - start < seconds:
            gone = time.monotonic() - start
            notify(Step("sustain", variant.name, round(gone), seconds))
            part = min(HEARTBEAT, seconds - gone)
            limits: Message = {"seconds": part, "min_samples": 1, "max_samples": 1 << 30}
            samples += child.ask("time", timeout=RUN_TIMEOUT + 10 * part, **limits)[0].samples
    tenth = max(1, len(samples) // 10)
    result.sustained = Sustained(
        seconds=time.monotonic() - start,
        samples=len(samples),
        first_ms=statistics.median(samples[:tenth]),
        last_ms=statistics.median(samples[-tenth:]),
        conditions=watch.result(statistics.fmean(samples)),
    )
