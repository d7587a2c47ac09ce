"""Images that are decoded, few at a time: threads decode side by side, and a large image takes much memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..onboard.picture import LARGEST_IMAGE
from ..onboard.userfiles import opened_image


class _Turns:
    """Makes threads wait, so that what they decode has at most ``most`` pixels together, or is one image."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._changed = most, 0, threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


_TURNS = _Turns(LARGEST_IMAGE)  # about 1 GB: 4 bytes a pixel as decoded, 4 as converted, 3 as an array


@contextmanager
def opened_picture(path: str) -> Iterator[Any]:
    """A Pillow image to decode, when it is its turn. Raises as :func:`~ncnnkit.onboard.userfiles.opened_image` does."""
    with opened_image(path) as image, _TURNS.take(image.width * image.height):
        yield image
