"""The job ``profile``: the time of every layer inside its network."""

from __future__ import annotations

import numpy as np

from .child import LOAD_TIMEOUT, Child
from .messages import Message
from .protocol import ProfileResult
from .variants import Notify, device_of, held_clocks, loading, watching


def profile(job: Message, notify: Notify) -> ProfileResult:
    """Time the layers of a network inside it, see :meth:`Network.profile`.

    Args:
        job: ``variant`` (as :func:`measure`'s), ``inputs`` (one .npy of a sample for each network input), ``taps``,
            ``outputs`` and ``repeats``. If wanted ``fix_clocks`` and ``journal``.
        notify: called with progress.

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
    return ProfileResult(
        whole=answer["whole"],
        measuring=answer["measuring"],
        layers=answer["layers"],
        bits=answer["bits"],
        vulkan=vulkan,
        device=device_of(loaded),
        threads=loaded["threads"],
        conditions=watch.result(answer["whole"]),
        clocks=clocks,
    )
