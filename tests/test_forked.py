"""Work in a copy of this process."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

from ncnnkit.source.forked import run_forked


def test_a_child_does_not_collect_the_garbage_of_its_parent(tmp_path: Path) -> None:
    """A destructor that joins threads, as in an ONNX Runtime session, waits forever in a child without them."""
    parent = os.getpid()

    class Session:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                time.sleep(60)

    gc.disable()
    try:
        Session()
        run_forked(gc.collect, tmp_path, limit=10, what="the work")
    finally:
        gc.enable()
