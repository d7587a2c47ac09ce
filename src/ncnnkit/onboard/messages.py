"""The messages between a serving process and its parent.

A message is a line of JSON, followed by the raw bytes of the arrays that its ``arrays`` field describes. An answer is a
dataclass of :mod:`ncnnkit.onboard.answers`. :data:`MARK` comes before the first answer. :func:`serve` is one side of
the connection, :class:`ncnnkit.onboard.child.Child` the other. :class:`ncnnkit.source.forked.Server` has both sides.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict
from typing import IO, Any, Callable, Dict, List, NoReturn, Optional, Sequence, Tuple

import numpy as np

from . import MARK
from .answers import Arrays
from .reading import ProtocolError

Message = Dict[str, Any]

LARGEST = 1 << 32  # bytes of a message's arrays

TYPES = {np.dtype(code).name: np.dtype(code) for code in "?bBhHiIlLqQefd"}
"""Name of the type of an array that may be sent -> the type. NumPy itself reads many other texts as a type."""

SO_FAR = "so_far"
"""The field of a progress message, which comes before the answer: (done, total)."""

TELLING = 0.5  # seconds between two such messages; each wakes the parent on the cores that are timed

Tell = Callable[[int, int], None]
"""Called with (done, total) while a request is worked on."""


def untold(done: int, total: int) -> None:
    """A :data:`Tell` that does nothing."""


def send(stream: IO[bytes], message: Message, arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
    """Write one message."""
    blocks = [np.asarray(a, order="C") for a in arrays]
    head = dict(message, arrays=[[str(a.dtype), list(a.shape)] for a in blocks])
    stream.write(json.dumps(head).encode() + b"\n")
    for block in blocks:
        stream.write(block.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(readinto: Callable[[memoryview], int], readline: Callable[[], bytes]) -> Optional[Tuple[Message, Arrays]]:
    """Read one message; None at the end of the stream.

    Raises:
        ProtocolError: the data is not a valid message.
    """
    line = readline()
    if not line:
        return None
    message, kinds = _parse(line)
    arrays = []
    for dtype, shape in kinds:
        try:
            arrays.append(np.empty(shape, dtype))  # its pages take memory when they are filled
        except (MemoryError, ValueError):
            raise ProtocolError("it wants to send an array of %s %s" % (dtype, shape)) from None
        if arrays[-1].size and not _fill(arrays[-1].reshape(-1).view(np.uint8).data, readinto):
            return None
    return message, arrays


def _fill(view: memoryview, readinto: Callable[[memoryview], int]) -> bool:
    """Whether the stream has enough bytes for a view."""
    while view:
        count = readinto(view)
        if not count:
            return False
        view = view[count:]
    return True


def _parse(line: bytes) -> Tuple[Message, List[Tuple[np.dtype[Any], List[int]]]]:
    """The message in a line, and the type and shape of each of its arrays."""
    try:
        message = json.loads(line, parse_constant=_refuse, parse_float=_finite)
        kinds = [(TYPES[dtype], [int(side) for side in shape]) for dtype, shape in message.pop("arrays")]
        if not all(0 <= side <= LARGEST for _, shape in kinds for side in shape):
            raise ValueError("not the shape of an array")
        sizes = [math.prod(max(1, side) for side in shape) * dtype.itemsize for dtype, shape in kinds]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ProtocolError("it sent %r" % line[:60].decode(errors="replace")) from None
    if sum(sizes) > LARGEST:
        raise ProtocolError("it wants to send %d bytes" % sum(sizes))
    return message, kinds


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant + " is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(text + " is too large")
    return float(text)


def serve(make: Callable[[Tell], object]) -> None:
    """Answer requests until stdin ends. Each request names a method.

    Args:
        make: makes the object with the methods. It gets a function that the methods may call to report their progress.
    """
    # The protocol has its own file descriptor, because ncnn and the drivers print to stdout.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answer_requests(make, sys.stdin.buffer, answers)


def answer_requests(make: Callable[[Tell], object], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until their stream ends. The arguments are those of :func:`serve`, and the streams."""
    answers.write(MARK)
    answers.flush()
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELLING:
            told = time.monotonic()
            send(answers, {SO_FAR: [done, total]})

    subject = make(tell)
    while True:
        received = receive(requests.readinto, requests.readline)  # type: ignore[attr-defined]
        if received is None:
            return
        message, arrays = received
        try:
            record, results = getattr(subject, message["op"])(message, arrays)
            answer = asdict(record)
        except Exception as error:
            answer, results = {"error": str(error) or type(error).__name__}, []
        sys.stderr.flush()  # what ncnn printed must arrive before the answer
        send(answers, answer, results)
