"""The job ``profile``: the time of every layer inside its network."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from .child import LOAD_TIMEOUT, Child
from .messages import Message
from .variants import Notify, held_clocks, loading, watching


def profile(job: Message, notify: Notify) -> Message:
    """Time the layers of a network inside it, see :meth:`Network.profile`.

    Args:
        job: ``variant`` (as :func:`measure`'s), ``inputs`` (one .npy of a sample for each network input), ``taps``,
            ``outputs`` and ``repeats``. If wanted ``fix_clocks`` and ``journal``.
        notify: called with progress.

    Returns:
        ``whole``, ``measuring`` and ``layers`` (ms), ``bits``, ``vulkan`` (layers that have Vulkan kernels),
        ``device``, ``threads``, ``clocks`` and ``conditions``.

    Raises:
        WorkerError: ncnn crashed or refused.
    """
    notify({"stage": "profile"})
    arrays = [np.asarray(np.load(path), np.float32) for path in job["inputs"]]
    watch = watching(job["variant"])
    with held_clocks(job) as clocks, Child() as child:
        loaded = child.ask("load", timeout=LOAD_TIMEOUT, **loading(job["variant"]))[0]
        with watch:
            asked = {field: job[field] for field in ("taps", "outputs", "repeats")}
            answer = child.ask("profile", arrays, timeout=LOAD_TIMEOUT, **asked)[0]
        vulkan = child.ask("layers")[0]["vulkan"]
    found = {"device": loaded["device"], "threads": loaded["threads"], "vulkan": vulkan, "clocks": clocks}
    return dict(answer, **found, conditions=asdict(watch.result(answer["whole"])))
