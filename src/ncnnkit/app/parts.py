"""The parts of a C++ app that not every model needs."""

from __future__ import annotations

from types import MappingProxyType

from ..errors import RecipeError
from .models import Shipment

EXTRAS = MappingProxyType(
    {
        "streams": "several workers side by side, for throughput",
        "camera": "frames from a V4L2 camera, or from a file of raw frames",
    }
)
"""What the user may ask for -> what it is."""

FILES = MappingProxyType(
    {
        "src/streams.cpp": "streams", "src/streams.h": "streams", "src/camera.cpp": "camera", "src/camera.h": "camera",
        "src/storages.cpp": "casts", "src/storages.h": "casts",
    }
)  # fmt: skip
"""File of ``cpp`` -> its part. All others are in every app; some are templates that ask for parts."""

RESIZING = ("pillow", "nearest", "opencv")
"""Ways to resize, of which an app has one: ``pillow`` is all filters but these."""
ALL = frozenset({*EXTRAS, *RESIZING, "casts"})
"""All parts but ``embed``."""


def parts_of(shipped: Shipment, embed: bool, extras: tuple[str, ...]) -> frozenset[str]:
    """The parts of an app: what the user asks for, and what its models need.

    ``embed``: the model is part of the program. ``casts``: a model has Casts, or layers of several precisions. The
    others: how images are resized.

    Raises:
        RecipeError: there is no such part.
    """
    unknown = sorted(set(extras) - EXTRAS.keys())
    if unknown:
        raise RecipeError(f"there is no part {unknown[0]!r} of an app", hint=", ".join(EXTRAS))
    models = [row.model for row in shipped.models]
    mixed = any(model.precision == "mixed" or any(la.type == "Cast" for la in model.graph.layers) for model in models)
    how = shipped.chosen.model.preprocess
    filters = how.interpolation if how is not None else ""
    resizing = filters if filters in RESIZING else "pillow"
    found = {"embed": embed, "casts": mixed}
    return frozenset({*extras, resizing, *(name for name, wanted in found.items() if wanted)})
