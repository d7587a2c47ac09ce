"""Runs of ONNX Runtime that end."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

LIMIT = 120.0
"""Seconds that one sample may take: a Loop may never end by itself."""


def run_session(session: Any, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
    """One run of a session, which is ended after :data:`LIMIT`.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        names: of the outputs; None for all.
        feeds: input -> its array.

    Raises:
        RuntimeError: it did not finish in time.
        Exception: whatever ONNX Runtime raises.
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
