"""Labels that are pictures: a mask of classes, or the image that a network should make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..onboard.picture import Placement
from .finding import files_of
from .pictures import opened_picture
from .preprocess import resized

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
UNKNOWN = 255
"""The value of ignored pixels in a mask, as in Pascal VOC and Cityscapes."""
NO_CLASS = -1
"""The class of an ignored pixel."""


@dataclass(frozen=True)
class LabelPicture:
    """The picture that belongs to an image.

    Attributes:
        path: the file of the picture.
        placement: the position of the image in the network's input.
        interpolation: the filter that resized the image.
    """

    path: str
    placement: Placement
    interpolation: str

    def mask(self, classes: int) -> NDArray[np.int64]:
        """The class of each pixel of the network's input; :data:`NO_CLASS` outside the image, and for ignored pixels.

        Args:
            classes: the number of classes. 1 means object and background; 0 in a mask is the background then.

        Raises:
            ImageError: it is not a mask of this image, or has other classes.
        """
        picture = self._loaded()
        values = np.asarray(picture)
        height, width = self.placement.image
        if values.ndim != 2 or values.dtype.kind not in "bui":
            hint = "a mask is a PNG file in grey or with a palette; its pixels are indices of classes"
            raise ImageError(f"has pixels of {picture.mode}, not classes", where=self.path, hint=hint)
        if values.shape != (height, width):
            had = f"{picture.width}x{picture.height} pixels, but its image has {width}x{height}"
            raise ImageError(f"has {had}", where=self.path)
        found = values.astype(np.int64)
        if classes == 1:
            unknown = (found == UNKNOWN) & bool((found == 1).any())  # in a mask of 0 and 255, 255 is the object
            found = np.where(unknown, NO_CLASS, found > 0)
        else:
            found[found == UNKNOWN] = NO_CLASS
            if found.max(initial=0) >= classes:
                most = int(found.max())
                raise ImageError(f"has class {most}, but the network has 0 to {classes - 1}", where=self.path)
        rows, row = _sources(self.placement.input[0], self.placement.top, self.placement.resized[0], height)
        columns, column = _sources(self.placement.input[1], self.placement.left, self.placement.resized[1], width)
        return np.where(row[:, None] & column, found[np.ix_(rows, columns)], NO_CLASS)

    def target(self, channels: int, scale: int, *, bgr: bool = False) -> tuple[NDArray[np.uint8], int, int]:
        """The desired values of the part of the output that the picture covers.

        Args:
            channels: the number of channels of the output, 1 or 3.
            scale: the size of the output divided by the size of the input.
            bgr: whether the first channel of the output is blue.

        Returns:
            (pixels, uint8 (channels, height, width); the row and the column of the output where they begin).

        Raises:
            ImageError: the size of the picture is not ``scale`` times that of the image.
        """
        place = self.placement
        picture = self._loaded().convert("L" if channels == 1 else "RGB")
        wanted = (place.image[0] * scale, place.image[1] * scale)
        if (picture.height, picture.width) != wanted:
            had = f"{picture.width}x{picture.height} pixels; its image has {place.image[1]}x{place.image[0]}"
            raise ImageError(
                f"has {had}, but the network enlarges {scale} times: {wanted[1]}x{wanted[0]} are expected",
                where=self.path,
            )
        size = (place.resized[0] * scale, place.resized[1] * scale)
        values = np.asarray(picture if size == wanted else resized(picture, size, self.interpolation))
        values = np.atleast_3d(values)
        top, left = place.top * scale, place.left * scale
        height, width = place.input[0] * scale, place.input[1] * scale
        values = values[max(0, -top) : height - top, max(0, -left) : width - left]
        pixels = np.moveaxis(values[..., ::-1] if bgr else values, -1, 0)
        return np.ascontiguousarray(pixels), max(0, top), max(0, left)

    def _loaded(self) -> Image.Image:
        try:
            with opened_picture(self.path) as picture:
                picture.load()
        except Exception as error:  # decoders raise any exception for damaged files
            raise ImageError(f"cannot be read: {error}", where=self.path) from None
        found: Image.Image = picture
        return found


def _sources(count: int, start: int, resized: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(position in the picture of each position in the input, whether there is one), along one axis."""
    places = np.arange(count) - start
    inside = (places >= 0) & (places < resized)
    return np.clip(((places + 0.5) * size / resized).astype(np.int64), 0, size - 1), inside


def read_pictures(
    folder: str | Path, names: Sequence[str], placements: Sequence[Placement | None], interpolation: str
) -> list[LabelPicture]:
    """The picture of each image: a file with the image's name and any extension.

    Args:
        folder: the folder of the pictures.
        names: the names of the images, as ``ImageSet.names``.
        placements: the position of each image in the network's input.
        interpolation: the filter that resized the images.

    Raises:
        ImageError: an image has no picture, or a sample is not an image.
    """
    folder = Path(folder)
    files = files_of(folder, names, ENDINGS)
    found: list[LabelPicture] = []
    for name, file, placement in zip(names, files, placements):
        if placement is None:
            raise ImageError("pictures as labels need images, but some samples are arrays", where=str(folder))
        if file is None:
            count = sum(each is None for each in files)
            raise ImageError(f"has no picture for {name} ({count} of {len(names)} images)", where=str(folder))
        found.append(LabelPicture(str(file), placement, interpolation))
    return found
