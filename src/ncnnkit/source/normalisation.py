"""Moves the normalisation at the beginning of a network into the preprocessing of its images.

Many networks begin with ``(x - mean) / std``, and the preprocessing of images ends with the same operation. Merging the
two saves layers on the board. It is exact for every layer that follows. Folding the normalisation into a convolution
would not be exact if the convolution pads its input, because it pads after the normalisation.

A normalisation is recognised by its results, not by its layers. The first layers run on two constant images and one
image of noise. They are a normalisation if they scale and shift each channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..device.session import Session
from ..formatting import plain
from ..model.graph import Graph, Layer
from ..onboard.picture import Fit
from ..samples.preprocess import Preprocess
from .opening import GUESS, GUESSED

_STEPS = frozenset(
    ("BatchNorm", "Bias", "BinaryOp", "Concat", "Crop", "Dropout", "Eltwise", "ExpandDims", "Flip", "Reshape", "Scale",
     "Slice", "Split", "Squeeze", "UnaryOp")
)  # fmt: skip
"""The types of layers that a normalisation may consist of. Whether the layers are a normalisation is then measured."""

_ROUNDING = 1e-5  # largest error relative to the span of a channel; fp32 rounding is smaller
_SHORTEST = 5e-7  # relative error allowed when numbers are shortened: as small as rounding, so 0.4560001 becomes 0.456
_OF_PIXELS = 10.0  # a larger mean or std belongs to pixels from 0 to 255, not to pixels from 0 to 1
_WIDEST_STD = 0.8  # of pixels from 0 to 1. A std of about 1 belongs to inputs that are normalised already

_SWAPPED = {"rgb": "bgr", "bgr": "rgb"}

NORMALISES = f"{GUESSED}the network normalises its input itself, so it takes pixels from {{}}; resized to its size, RGB"


@dataclass(frozen=True)
class Fed:
    """A network without its normalisation, and the preprocessing of its images.

    Attributes:
        graph: the network.
        preprocess: of this network; None if the samples are not images.
        original: preprocessing of the original network. It differs if a normalisation was folded.
        origin: where the preprocessing comes from.
        changes: what was folded, one sentence each.
    """

    graph: Graph
    preprocess: Preprocess | None
    original: Preprocess | None
    origin: str
    changes: tuple[str, ...] = ()


def fold_normalisation(graph: Graph, preprocess: Preprocess | None, origin: str, *, images: bool = True) -> Fed:
    """Move the normalisation that a network begins with into the preprocessing.

    Args:
        graph: a network in floating point. It is not changed.
        preprocess: of the original network.
        origin: where it comes from. If it is a guess, images are fed to the original as pixels from 0 to 1 or from 0
            to 255, whichever its normalisation is made for.
        images: whether all samples are images. Nothing is folded if some are arrays, because arrays are fed unchanged.

    Returns:
        The new network and preprocessing. Both are unchanged if the network does not begin with a normalisation.
    """
    unchanged = Fed(graph, preprocess, preprocess, origin)
    region = _region(graph) if images and preprocess else None
    if preprocess is None or region is None:
        return unchanged
    found = _measured(region, preprocess)
    if found is None or not _padded_with_pixels(preprocess):
        return unchanged
    if origin == GUESS and (pixels := _plain_pixels(found)):
        preprocess = replace(preprocess, divisor=pixels[0], mean=(0.0,), std=(1.0,))
        origin = NORMALISES.format(pixels[1])
    made = _composed(preprocess, found)
    said = (
        f"the network begins with a normalisation ({', '.join(layer.type for layer in region.layers)}), which is part "
        f"of the preprocessing now: {_written(preprocess)} became {_written(made)}"
    )
    return Fed(_without(graph, region), made, preprocess, origin, (said,))


@dataclass(frozen=True)
class _Region:
    """The first layers of a network, up to a blob from which all later layers are computed.

    Attributes:
        layers: without the constants that they read.
        constants: the MemoryData layers that these layers read.
        begin: the Input layer.
        end: the blob that the layers compute. It has the shape of the input.
        shape: of the input, (C, H, W).
    """

    layers: tuple[Layer, ...]
    constants: tuple[Layer, ...]
    begin: Layer
    end: str
    shape: tuple[int, ...]

    @property
    def graph(self) -> Graph:
        """A network of these layers alone."""
        return Graph([self.begin.copy(), *(layer.copy() for layer in (*self.constants, *self.layers))])


def _region(graph: Graph) -> _Region | None:
    """The longest sequence of first layers that may be a normalisation; None if there is none."""
    inputs = [layer for layer in graph.layers if layer.type == "Input"]
    (shape, *_) = [*graph.input_shapes(), ()]
    if len(inputs) != 1 or len(shape) != 3:
        return None
    known = graph.infer_shapes()
    constants = {layer.outputs[0]: layer for layer in graph.layers if layer.type == "MemoryData"}
    front, taken, found = set(inputs[0].outputs), list[Layer](), None
    for layer in graph.layers:
        if layer.type == "Input" or front.isdisjoint(layer.inputs):
            continue
        if layer.type not in _STEPS or not set(layer.inputs) <= front | constants.keys():
            break
        taken.append(layer)
        front = front.difference(layer.inputs).union(layer.outputs)
        if len(front) == 1 and known[next(iter(front))] == shape:
            found = len(taken), next(iter(front))
    if found is None or found[1] in graph.outputs:
        return None
    layers = tuple(taken[: found[0]])
    read = tuple(constants[blob] for layer in layers for blob in layer.inputs if blob in constants)
    return _Region(layers, read, inputs[0], found[1], shape)


@dataclass(frozen=True)
class _Normalisation:
    """Each channel of the output is ``scale * x + offset`` of a channel of the input.

    Attributes:
        scale: float64 (C,), one number for each channel of the output.
        offset: float64 (C,), likewise.
        swapped: whether the output has the channels of the input in reverse order.
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    swapped: bool


def _measured(region: _Region, preprocess: Preprocess) -> _Normalisation | None:
    """The normalisation that the layers compute; None if they compute something else."""
    channels, *_ = region.shape
    if channels != preprocess.channels:
        return None
    # Values of black and white pixels. The layers must be linear between these two.
    black, white = (_values(preprocess, pixel) for pixel in (0.0, 255.0))
    shares = np.random.default_rng(0).random(region.shape)
    with Session(region.graph) as net:
        low, high, between = (
            net.blobs(black + (white - black) * share, names=[region.end])[0].astype(np.float64)
            for share in (np.zeros(region.shape), np.ones(region.shape), shares)
        )
    made_black, made_white = (made.mean((1, 2), keepdims=True) for made in (low, high))
    span = made_white - made_black
    if not (np.isfinite([low, high, between]).all() and span.all()):
        return None
    for swapped in (False, True) if preprocess.color in _SWAPPED else (False,):
        pairs = ((low, 0.0), (high, 1.0), (between, shares[::-1] if swapped else shares))
        if all((np.abs(made - made_black - span * share) <= _ROUNDING * np.abs(span)).all() for made, share in pairs):
            step = (white - black)[::-1] if swapped else white - black
            scale = span / step
            offset = made_black - scale * (black[::-1] if swapped else black)
            return _Normalisation(scale.reshape(-1), offset.reshape(-1), swapped)
    return None


def _values(preprocess: Preprocess, pixel: float) -> NDArray[np.float64]:
    """The value of a pixel after the preprocessing, in each channel, (C, 1, 1)."""
    mean, std = (np.array(values, np.float64).reshape(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    made: NDArray[np.float64] = (pixel / preprocess.divisor - mean) / std
    return made


def _padded_with_pixels(preprocess: Preprocess) -> bool:
    """Whether padding is filled with pixels. A padding of zeros is not normalised, so it would change."""
    fit = preprocess.resize
    return not isinstance(fit, Fit) or fit.way == "multiple" or fit.fill is not None


def _composed(preprocess: Preprocess, after: _Normalisation) -> Preprocess:
    """The preprocessing followed by the normalisation, as one preprocessing."""
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    color = preprocess.color
    if after.swapped:
        mean, std, color = mean[::-1], std[::-1], _SWAPPED[color]
    scaled = std / after.scale
    resize = preprocess.resize
    if after.swapped and isinstance(resize, Fit) and resize.fill:
        resize = replace(resize, fill=resize.fill[::-1])
    return replace(
        preprocess,
        resize=resize,
        color=color,
        mean=tuple(map(_shortest, mean - after.offset * scaled, scaled)),
        std=tuple(map(_shortest, scaled, scaled)),
    )


def _shortest(value: float, std: float) -> float:
    """The number with the fewest digits that equals ``value`` up to fp32 rounding, relative to it and to a std."""
    rounding = _SHORTEST * max(abs(value), abs(std))
    numbers = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return next(number for number in numbers if abs(number - value) <= rounding) + 0.0  # no -0.0


def _plain_pixels(found: _Normalisation) -> tuple[float, str] | None:
    """The divisor of the pixels that a normalisation is made for, and their range; None if it is not clear."""
    mean, std = -found.offset / found.scale, 1 / found.scale
    if max(np.abs(mean).max(), np.abs(std).max()) > _OF_PIXELS:
        return 1.0, "0 to 255"
    of_shares = mean.min() >= 0 and mean.max() <= 1 and np.abs(std).max() < _WIDEST_STD
    return (255.0, "0 to 1") if of_shares else None


def _written(preprocess: Preprocess) -> str:
    mean, std = (" ".join(map(plain, values)) for values in (preprocess.mean, preprocess.std))
    return f"{preprocess.color}, divisor {plain(preprocess.divisor)}, mean {mean}, std {std}"


def _without(graph: Graph, region: _Region) -> Graph:
    """The network without these layers."""
    gone = {layer.name for layer in (*region.layers, *region.constants)}
    begin = region.begin.outputs[0]
    made = Graph([layer.copy() for layer in graph.layers if layer.name not in gone], dict(graph.scales))
    for layer in made.layers:
        layer.inputs = [begin if blob == region.end else blob for blob in layer.inputs]
    made.verify()
    return made
