"""The job ``measure``: outputs, latency, load times and memory of some variants.

Several networks are timed in interleaved rounds, a serving process for each, so that a drift of the machine's speed
meets all alike.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from .child import LOAD_TIMEOUT, RUN_TIMEOUT, Child, WorkerError
from .messages import Message
from .rows import Rows, RowWriter
from .sampler import Sampler
from .variants import Tell, held_clocks, loading, on_the_cpu, watching, write_whole

HEARTBEAT = 5.0  # seconds between two words of a long run


def measure(job: Message, tell: Tell) -> Message:
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
        tell: called with progress, one message a step.

    Returns:
        ``clocks`` (``fixed`` and ``refused``; None where they were not to be fixed) and ``variants``: for each its
        ``status`` and ``reason``, ``device``, ``load_ms``, ``first_ms`` (the first inference after the cold load),
        ``samples`` (ms), ``peak_memory_mb``, ``outputs`` (.npy files of N samples), ``conditions`` (what a
        :class:`Sampler` saw while it was timed) and ``sustained`` (``seconds``, ``samples`` (how many),
        ``first_ms`` and ``last_ms`` (medians of the first and the last tenth) and ``conditions``), as far as it came.
    """
    inputs = [Rows(path) for path in job["inputs"]]
    results = [{"name": v["name"], "status": "ok", "reason": ""} for v in job["variants"]]
    watches = [watching(variant) for variant in job["variants"]]
    children: List[Optional[Child]] = []
    with held_clocks(job) as clocks:
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
        result["outputs"] = _evaluate(child, inputs, Path(job["folder"]), job["variants"].index(variant), seconds)
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


def _time(child: Child, result: Message, job: Message, watch: Sampler) -> Child:
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
    watch, start = watching(variant), time.monotonic()
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
