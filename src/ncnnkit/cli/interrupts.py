"""Ctrl-C, SIGTERM and SIGHUP end a command within two seconds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ..errors import INTERRUPTED

CLEANING_UP = 1.8
"""Seconds after an interrupt until the process ends in any case."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP clean up like Ctrl-C, and end the process within two seconds.

    A signal that the process inherited as ignored stays ignored: Ctrl-C of a background job, SIGHUP under nohup.
    """
    ours = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    reading, writing = os.pipe()

    def interrupt(*_: object) -> NoReturn:
        for number in ours:  # a second one must not disturb the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def insist() -> None:
        # Python's handlers run between bytecodes, so a solver or a slow disk delays them. The wakeup byte comes at
        # once.
        while os.read(reading, 1)[0] not in ours:
            pass
        time.sleep(CLEANING_UP)
        os.write(2, b"interrupted; cleaning up took too long\n")
        os._exit(INTERRUPTED)

    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in ours:
        signal.signal(number, interrupt)
    threading.Thread(target=insist, daemon=True).start()
    yield
