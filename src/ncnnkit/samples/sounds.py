"""Recordings: ``.wav`` files, cut into windows with the length of a network's input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..onboard.userfiles import check_regular

SUFFIX = ".wav"
_FORMATS = ("WAV", "WAVEX", "RF64", "W64")
"""libsndfile's names of the formats of ``.wav`` files."""


@dataclass(frozen=True)
class Recording:
    """The properties of a ``.wav`` file.

    Attributes:
        rate: the sample rate, Hz.
        samples: the number of samples in each channel.
        channels: the number of channels.
    """

    rate: int
    samples: int
    channels: int


def read_recording(path: str) -> Recording:
    """The properties of a ``.wav`` file of integers or floats. Its samples are read later.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file, or it is damaged.
    """
    with _opened(path) as file:
        return Recording(file.samplerate, file.frames, file.channels)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The file as a ``soundfile.SoundFile``. Raises as :func:`read_recording` does."""
    import soundfile

    check_regular(path)
    with open(path, "rb"):  # gives the usual error if the file cannot be opened
        pass
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in _FORMATS:  # a few bytes of another format may say that it has billions of samples
                raise ValueError(f"is no .wav file, but {file.format_info}")
            yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(f"is not a readable .wav file: {error.error_string}") from None


def takes_sound(shape: Sequence[int]) -> bool:
    """Whether an input may take a waveform: samples along the last axis, one or two channels before it.

    Example:
        >>> takes_sound((16000,)), takes_sound((2, 16000)), takes_sound((3, 224, 224))
        (True, True, False)
    """
    return bool(shape) and math.prod(shape[:-1]) in (1, 2)


def windows(samples: int, length: int) -> int:
    """The number of windows of a recording, without an incomplete one at the end; 1 for a short recording."""
    return max(1, samples // length)


def window_of(path: str, index: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """A window of a recording, float32 ``shape``. A short recording is padded with zeros.

    Args:
        path: the file.
        index: the index of the window.
        shape: the shape of the input.

    Raises:
        OSError, ValueError: see :func:`read_recording`.
    """
    length = shape[-1]
    with _opened(path) as file:
        file.seek(min(index * length, file.frames))
        # Floats from -1 to 1: integers of b bits are divided by 2^(b-1).
        part = file.read(length, dtype="float32", always_2d=True)
    return np.ascontiguousarray(np.pad(part, ((0, length - len(part)), (0, 0))).T.reshape(shape))
