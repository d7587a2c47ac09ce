"""Runs of ONNX Runtime with a time limit."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

LIMIT = 120.0
"""Seconds that one sample may take. A Loop may run forever."""


def run_session(session: Any, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
    """Run a session once. The run is stopped after :data:`LIMIT` seconds.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        names: of the outputs; None for all.
        feeds: name of an input -> its array.

    Returns:
        An array for each output.

    Raises:
        RuntimeError: it did not finish in time.
        Exception: any exception of ONNX Runtime.
    """
    import onnxruntime

    options, late = onnxruntime.RunOptions(), threading.Event()

    def end() -> None:
        late.set()
        options.terminate = True

    timer = threading.Timer(LIMIT, end)
    timer.daemon = True
    timer.start()
    try:
        return list(session.run(names, dict(feeds), options))
    except Exception:
        if late.is_set():
            raise RuntimeError(f"it did not finish one sample within {LIMIT:g} s") from None
        raise
    finally:
        timer.cancel()
