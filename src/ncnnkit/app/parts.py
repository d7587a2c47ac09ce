"""The parts of a C++ app. A program has the parts that its model, its samples and its user need."""

from __future__ import annotations

from types import MappingProxyType

from ..errors import RecipeError
from ..model.precision import PRECISIONS
from ..onboard.picture import Tiles
from .facts import Facts
from .models import Shipment

EXTRAS = MappingProxyType(
    {
        "streams": "several workers in parallel, for throughput",
        "camera": "frames from a V4L2 camera, or from a file of raw frames",
        "gpu": "GPUs by Vulkan; included anyway if the run measured a GPU",
        "arrays": "arrays as inputs of a network that takes images",
    }
)
"""Part that the user may ask for -> what it is."""

FILES = MappingProxyType(
    {
        "src/streams.cpp": "streams", "src/streams.h": "streams", "src/camera.cpp": "camera", "src/camera.h": "camera",
        "src/storages.cpp": "casts", "src/storages.h": "casts",
        "src/arrays.cpp": "arrays", "src/arrays.h": "arrays", "src/draw.cpp": "draw", "src/draw.h": "draw",
        "src/preprocess.cpp": "images", "src/preprocess.h": "images", "src/resize.cpp": "images",
        "src/resize.h": "images", "src/image.cpp": "pixels", "src/image.h": "pixels", "src/formats.h": "pixels",
        "src/jpeg.cpp": "pixels", "src/png.cpp": "pixels", "src/pnm.cpp": "pixels", "src/vulkan.cpp": "gpu",
        "src/vulkan.h": "gpu", "src/selftest.cpp": "examples", "src/selftest.h": "examples",
        "src/frames.cpp": "frames", "src/frames.h": "frames",
    }
)  # fmt: skip
"""File of ``cpp``, without ``.jinja`` -> its part. All other files are in every app. Templates may also test parts."""


def parts_of(shipped: Shipment, facts: Facts, embed: bool, extras: tuple[str, ...]) -> frozenset[str]:
    """The parts of an app.

    These are those of :data:`EXTRAS`, and:

    - ``embed``: the model is compiled into the program.
    - ``casts``: a model has Casts, or layers of several precisions.
    - ``int8``, ``bf16``: a model computes in this precision.
    - ``examples``: there are examples for the self-test.
    - ``images``: an input takes images.
    - ``tiles``: images are cut into tiles.
    - ``several``: the network has several inputs.
    - ``frames``: the network has one input, so the program can read many samples one after the other.
    - ``draw``: the answer can be drawn onto the image.
    - ``written``: the program writes images.
    - ``pixels``: the program reads or writes images.

    Raises:
        RecipeError: there is no such part.
    """
    unknown = sorted(set(extras) - EXTRAS.keys())
    if unknown:
        raise RecipeError(f"there is no part {unknown[0]!r} of an app", hint=", ".join(EXTRAS))
    models = [row.model for row in shipped.models]
    mixed = any(model.precision == "mixed" or any(la.type == "Cast" for la in model.graph.layers) for model in models)
    int8 = mixed or any(PRECISIONS[model.precision].int8 for model in models)
    images = any(each.takes_images for each in facts.inputs)
    whole = all(each.takes_images and not (each.preprocess and each.preprocess.arrays) for each in facts.inputs)
    draw, makes = images and facts.task.draws, bool(facts.task.makes)
    how = facts.inputs[facts.main].preprocess
    found = {
        "embed": embed,
        "casts": mixed,
        "int8": int8,
        "examples": bool(shipped.examples.rows),
        "bf16": any(model.options.get("use_bf16_storage") for model in models),
        "gpu": any(row.backend == "vulkan" for row in shipped.models),
        "arrays": not whole or any(ending == ".npy" for row in shipped.examples.rows for ending, _ in row.files),
        "images": images,
        "tiles": how is not None and isinstance(how.crop, Tiles),
        "several": len(facts.inputs) > 1,
        "frames": len(facts.inputs) == 1,
        "draw": draw,
        "written": draw or makes,
        "pixels": images or makes,
    }
    return frozenset({*extras, *(name for name, wanted in found.items() if wanted)})
