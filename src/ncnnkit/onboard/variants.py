"""A variant of a job: how its process loads it, and what is done around timing it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Callable, Iterator, Optional

from .clocks import fixed_clocks, restore_clocks
from .facts import VulkanDevice
from .messages import Message
from .protocol import ClocksReport
from .sampler import Sampler

Notify = Callable[[Message], None]

LOAD_FIELDS = ("param", "bin", "options", "backend", "threads", "cpus", "switches")
"""Of a variant: what a serving process must know to load it. The last two may be absent."""


@contextlib.contextmanager
def held_clocks(job: Message) -> Iterator[Optional[ClocksReport]]:
    """Hold the clocks, if the job wants it. What a killed run left fixed is put back in any case."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    journal = Path(job.get("journal") or os.path.join(cache, "ncnnkit", "clocks.json"))
    restore_clocks(journal)
    if not job.get("fix_clocks"):
        yield None
        return
    with fixed_clocks(journal) as report:
        yield report


def watching(variant: Message) -> Sampler:
    """What watches while this variant runs."""
    return Sampler(cpus=variant.get("cpus"), on_gpu=variant["backend"] == "vulkan")


def device_of(loaded: Message) -> Optional[VulkanDevice]:
    """The Vulkan device that a network was loaded on, of the answer to ``load``; None on the CPU."""
    return VulkanDevice(**loaded["device"]) if loaded["device"] else None


def loading(variant: Message) -> Message:
    return {field: variant[field] for field in LOAD_FIELDS if field in variant}


def on_the_cpu(variant: Message, device: Optional[VulkanDevice]) -> bool:
    """Whether Vulkan was asked for and there is none, or one in software."""
    return bool(variant["backend"] == "vulkan" and (device is None or device.type == "cpu"))


def write_whole(path: str, message: Message) -> None:
    """Write JSON to a file that is there complete or not at all."""
    partial = Path(path + ".part")
    partial.write_text(json.dumps(message))
    partial.replace(path)
