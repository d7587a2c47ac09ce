"""Recordings: ``.wav`` files, cut into windows as long as the input of a network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".wav"


@dataclass(frozen=True)
class Recording:
    """What a ``.wav`` file holds.

    Attributes:
        rate: samples a second.
        values: (samples, channels), in the file's own type.
    """

    rate: int
    values: NDArray[Any]

    @property
    def channels(self) -> int:
        """Their number."""
        return int(self.values.shape[1])


def read_recording(path: str) -> Recording:
    """Open a ``.wav`` file of whole numbers or floats. Most are mapped, and read where they are used.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about chunks of the file that hold no samples
        try:
            try:
                rate, values = wavfile.read(path, mmap=True)
            except ValueError:  # 24 bits cannot be mapped
                rate, values = wavfile.read(path)
        except OSError:
            raise
        except Exception as error:  # SciPy trips over damaged files in many ways
            raise ValueError(f"is no .wav file that can be read: {error}") from None
    return Recording(int(rate), values.reshape(len(values), -1))


def waveform(values: NDArray[Any]) -> NDArray[np.float32]:
    """Samples from -1 to 1, whatever type a file has. Whole numbers are divided by 2 to the bits less one.

    torchaudio and soundfile return the same.

    Example:
        >>> waveform(np.array([-32768, 16384], np.int16)).tolist()
        [-1.0, 0.5]
    """
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    half = float(2 ** (8 * values.dtype.itemsize - 1))
    shifted = values.astype(np.float64) - (half if values.dtype.kind == "u" else 0.0)  # only 8 bits are unsigned
    return np.asarray(shifted / half, np.float32)


def takes_sound(shape: Sequence[int]) -> bool:
    """Whether an input may take a waveform: samples along the last axis, one or two channels before it.

    Example:
        >>> takes_sound((16000,)), takes_sound((2, 16000)), takes_sound((3, 224, 224))
        (True, True, False)
    """
    return bool(shape) and math.prod(shape[:-1]) in (1, 2)


def windows(samples: int, length: int) -> int:
    """How many windows a recording has. Its end is left out where it fills none; a short recording is one window."""
    return max(1, samples // length)


def window_of(path: str, index: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """A window of a recording as an input takes it, float32; zeros follow the end of a short recording.

    Args:
        path: of the file.
        index: of the window.
        shape: of the input.

    Raises:
        OSError, ValueError: see :func:`read_recording`.
    """
    length = shape[-1]
    part = waveform(read_recording(path).values[index * length : (index + 1) * length])
    return np.ascontiguousarray(np.pad(part, ((0, length - len(part)), (0, 0))).T.reshape(shape))
