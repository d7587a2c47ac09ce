"""What a serving process and its parent say to each other: a line of JSON, then the raw bytes of the arrays that its
``arrays`` field describes. :func:`serve` is one side of it, :class:`ncnnkit.onboard.child.Child` the other.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

Message = Dict[str, Any]
Arrays = List["np.ndarray[Any, Any]"]


def send(stream: IO[bytes], message: Message, arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
    """Write one message."""
    blocks = [np.asarray(a, order="C") for a in arrays]
    head = dict(message, arrays=[[str(a.dtype), list(a.shape)] for a in blocks])
    stream.write(json.dumps(head).encode() + b"\n")
    for block in blocks:
        stream.write(block.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(read: Callable[[int], bytes], readline: Callable[[], bytes]) -> Optional[Tuple[Message, Arrays]]:
    """Read one message; None at the end of the stream."""
    line = readline()
    if not line:
        return None
    message = json.loads(line)
    arrays = []
    for dtype, shape in message.pop("arrays"):
        data = np.empty(shape, dtype)
        raw = read(data.nbytes)
        if len(raw) < data.nbytes:
            return None
        arrays.append(np.frombuffer(raw, dtype).reshape(shape))
    return message, arrays


def serve(subject: object) -> None:
    """Answer requests until stdin ends, each by the method of ``subject`` that it names."""
    # ncnn and its drivers print to stdout: the protocol keeps a descriptor of its own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    while True:
        received = receive(requests.read, requests.readline)
        if received is None:
            return
        message, arrays = received
        try:
            answer, results = getattr(subject, message["op"])(message, arrays)
        except Exception as error:
            answer, results = {"error": str(error) or type(error).__name__}, []
        send(answers, answer, results)
