"""The job ``measure``: outputs, latency, load times and memory of some variants.

Several networks are timed in interleaved rounds, a serving process for each, so that a drift of the machine's speed
meets all alike.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from .child import LOAD_TIMEOUT, RUN_TIMEOUT, Child, WorkerError
from .facts import Sustained
from .messages import Message
from .rows import Rows, RowWriter
from .sampler import Sampler
from .sysfs import system_memory_mb
from .variants import Notify, held_clocks, loading, on_the_cpu, watching, write_whole

HEARTBEAT = 5.0  # seconds between two words of a long run


def measure(job: Message, notify: Notify) -> Message:
    """Measure the variants of a job.

    Args:
        job: ``variants`` (each ``name``, ``param``, ``bin``, ``options`` (fields of ``ncnn::Option``), ``backend``,
            ``threads`` (0: as many as ncnn takes by itself) and, if wanted, ``cpus`` (a list to pin it to) and
            ``switches`` (of :data:`SWITCHES`)),
            ``inputs`` (one .npy of N samples for each network input), ``folder`` (where outputs go), ``rounds``,
            ``seconds`` (of timing, a variant), ``slow_seconds`` (of evaluating, and of timing, on a software device).
            If wanted ``record`` (a file that always holds the results so far), ``fix_clocks`` (hold the clocks at
            their highest, see :func:`fixed_clocks`), ``journal`` (where these are noted, by default in the user's
            cache) and ``sustained`` (seconds that each variant then runs alone without a rest).
        notify: called with progress, one message a step.

    Returns:
        ``clocks`` (``fixed`` and ``refused``; None where they were not to be fixed) and ``variants``: for each its
        ``status`` and ``reason``, ``device``, ``load_ms``, ``first_ms`` (the first inference after the cold load),
        ``samples`` (ms), ``peak_memory_mb``, ``outputs`` (.npy files of N samples), ``conditions`` (the
        fields of :class:`Conditions`) and ``sustained`` (those of :class:`Sustained`), as far as it came.
    """
    inputs = [Rows(path) for path in job["inputs"]]
    results = [{"name": v["name"], "status": "ok", "reason": ""} for v in job["variants"]]
    rows = list(zip(job["variants"], results))
    with contextlib.ExitStack() as stack:
        clocks = stack.enter_context(held_clocks(job))
        contenders = [stack.enter_context(_Contender(variant, result, inputs)) for variant, result in rows]
        for number, each in enumerate(contenders):
            notify({"stage": "evaluate", "variant": each.variant["name"]})
            each.do(_load_and_evaluate, each.variant, number, inputs, job)
            _record(job, results)
        for round_number in range(job["rounds"]):
            notify({"stage": "time", "round": round_number + 1, "of": job["rounds"]})
            for each in contenders:
                each.do(_time, job, each.watch)
            _record(job, results)
        for each in contenders:
            if job.get("sustained") and each.result["status"] == "ok":
                each.do(_sustain, each.variant, job["sustained"], notify)
        for each in contenders:
            each.finish()
    return {"variants": results, "clocks": clocks}


class _Contender:
    """A variant under measurement.

    Its process stays open between two rounds where the memory allows it, so that the rounds of all can take turns at
    once. On a small board it is opened anew for every round.
    """

    SPARE = 2.0  # what must stay free for the processes to come, of what this one needs
    BARE_MB = 100.0  # of a process with Python, NumPy and ncnn

    def __init__(self, variant: Message, result: Message, inputs: Sequence[Rows]) -> None:
        self.variant, self.result = variant, result
        self.watch = watching(variant)
        self._inputs = inputs
        self._caches = tempfile.TemporaryDirectory(prefix="ncnnkit-")  # a GPU's compiled shaders outlive the process
        self._child: Optional[Child] = None
        self._peak_mb = 0.0
        self._evaluated = False

    def __enter__(self) -> _Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._caches.cleanup()

    def do(self, step: Callable[..., None], *rest: Any) -> None:
        """A step with the process and the result; a failure is this variant's result, not the job's end."""
        if self.result["status"] == "crashed":
            return
        try:
            child = self._child = self._child or self._open()
            step(child, self.result, *rest)
            self._evaluated = True
            self._peak_mb = max(self._peak_mb, child.ask("memory")[0]["peak_mb"])
        except WorkerError as error:
            self.result.update(status="crashed", reason=str(error))
        free = system_memory_mb("MemAvailable")
        crowded = free is not None and free < self.SPARE * (self._peak_mb + self.BARE_MB)
        if crowded or self.result["status"] == "crashed":
            self._close()

    def finish(self) -> None:
        """Sum up, if it came so far."""
        if "samples" in self.result:
            self.result["conditions"] = asdict(self.watch.result(statistics.fmean(self.result["samples"])))
        if self.result["status"] != "crashed":
            self.result["peak_memory_mb"] = self._peak_mb

    def _open(self) -> Child:
        """A process; one that is opened again has run the sample that is timed."""
        child = self._child = Child(caches=self._caches.name)
        if self._evaluated:
            child.ask("load", timeout=LOAD_TIMEOUT, **loading(self.variant))
            child.ask("run", [np.asarray(rows[len(rows) - 1], np.float32) for rows in self._inputs])
        return child

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _record(job: Message, results: List[Message]) -> None:
    """Note how far the variants are, where the job says to: all there is of it if this process dies."""
    if job.get("record"):
        write_whole(job["record"], {"variants": results})


def _load_and_evaluate(
    child: Child, result: Message, variant: Message, number: int, inputs: Sequence[Rows], job: Message
) -> None:
    request = loading(variant)
    cold = child.ask("load", timeout=LOAD_TIMEOUT, cold=True, **request)[0]
    first = child.ask("run", [np.asarray(a[0], np.float32) for a in inputs])[0]
    warm = child.ask("load", timeout=LOAD_TIMEOUT, **request)[0]
    device = cold["device"]
    result.update(device=device, load_ms={"cold": cold["load_ms"], "warm": warm["load_ms"]})
    result["first_ms"] = first["ms"]
    result["without_vulkan"] = cold["without_vulkan"]
    software = on_the_cpu(variant, device)
    seconds = job["slow_seconds"] if software else float("inf")
    result["outputs"] = _evaluate(child, inputs, Path(job["folder"]), number, seconds)
    if software:
        found = (
            "runs in software on the CPU: " + device["name"] if device else "no Vulkan device: ncnn ran it on the CPU"
        )
        result.update(status="fallback", reason=found)


def _evaluate(child: Child, inputs: Sequence[Rows], folder: Path, number: int, seconds: float) -> Message:
    """Run the samples, as many as ``seconds`` allow; returns output name -> .npy file of (N, …) float32.

    The files have the variant's number in the job: names of variants and blobs may hold anything, slashes too.
    """
    end = time.monotonic() + seconds
    writers: Dict[str, RowWriter] = {}
    with contextlib.ExitStack() as stack:
        for done, sample in enumerate(zip(*inputs)):
            if done >= 2 and time.monotonic() > end:
                break
            message, outputs = child.ask("run", [np.asarray(a, np.float32) for a in sample])
            for blob, output in zip(message["names"], outputs):
                if blob not in writers:
                    file = folder / ("%d-%d.npy" % (number, len(writers)))
                    writers[blob] = stack.enter_context(RowWriter(file))
                try:
                    writers[blob].append(output)
                except ValueError:
                    raise WorkerError("output %r changes its shape from sample to sample" % blob) from None
    return {blob: writer.path for blob, writer in writers.items()}


def _time(child: Child, result: Message, job: Message, watch: Sampler) -> None:
    slow = result["status"] == "fallback"
    whole = min(job["slow_seconds"], job["seconds"]) if slow else job["seconds"]
    if slow and sum(result.get("samples", [])) > whole * 1000:
        return  # it has had its time: no figure of a GPU comes of it anyway
    seconds = whole / job["rounds"]
    limits = {"seconds": seconds, "min_samples": 1 if slow else 3, "max_samples": 200}
    with watch:
        samples = child.ask("time", timeout=RUN_TIMEOUT + 10 * seconds, **limits)[0]["samples"]
    # The first inference after another variant had the caches is not a sample of this one.
    result.setdefault("samples", []).extend(samples[1:] if len(samples) > 3 else samples)


def _sustain(child: Child, result: Message, variant: Message, seconds: float, notify: Notify) -> None:
    """Run one variant without a rest: a chip that heats up shows it in a minute, not in rounds."""
    samples: List[float] = []
    watch, start = watching(variant), time.monotonic()
    with watch:
        while time.monotonic() - start < seconds:
            gone = time.monotonic() - start
            notify({"stage": "sustain", "variant": variant["name"], "seconds": round(gone), "of": seconds})
            part = min(HEARTBEAT, seconds - gone)
            limits: Message = {"seconds": part, "min_samples": 1, "max_samples": 1 << 30}
            samples += child.ask("time", timeout=RUN_TIMEOUT + 10 * part, **limits)[0]["samples"]
    tenth = max(1, len(samples) // 10)
    found = Sustained(
        seconds=time.monotonic() - start,
        samples=len(samples),
        first_ms=statistics.median(samples[:tenth]),
        last_ms=statistics.median(samples[-tenth:]),
        conditions=watch.result(statistics.fmean(samples)),
    )
    result["sustained"] = asdict(found)
