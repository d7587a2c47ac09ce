"""The job ``profile``: the time of every layer inside its network."""

from __future__ import annotations

import numpy as np

from .child import LOAD_TIMEOUT, Child
from .protocol import Notify, ProfileJob, ProfileResult, Step
from .variants import held_clocks, loading, watching


def profile(job: ProfileJob, notify: Notify) -> ProfileResult:
    """Time the layers of a network inside it; see :meth:`Network.profile`.

    Args:
        job: the network and its layers.
        notify: called with progress.

    Raises:
        WorkerError: ncnn crashed or refused the network.
    """
    notify(Step("profile"))
    arrays = [np.asarray(np.load(path), np.float32) for path in job.inputs]
    watch = watching(job.variant)
    with held_clocks(job) as clocks, Child() as child:
        loaded = child.ask("load", timeout=LOAD_TIMEOUT, **loading(job.variant))[0]
        with watch:
            found = child.ask(
                "profile", arrays, timeout=LOAD_TIMEOUT, taps=job.taps, outputs=job.outputs, repeats=job.repeats
            )[0]
        vulkan = child.ask("layers")[0].vulkan
    return ProfileResult(
        whole=found.whole,
        measuring=found.measuring,
        layers=found.layers,
        bits=found.bits,
        vulkan=vulkan,
        device=loaded.device,
        threads=loaded.threads,
        conditions=watch.result(found.whole),
        clocks=clocks,
    )
