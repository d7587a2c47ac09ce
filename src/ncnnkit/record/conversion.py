"""The records of the conversion to ncnn in run.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..formatting import counted, decibel
from .names import PlainName
from .quantisation import Loss

Outcome = Literal["taken", "passed", "wrong", "failed"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A route from the original to ncnn, and its outcome.

    Attributes:
        route: the name of the route.
        outcome: ``taken`` (its network is the one that was used), ``passed`` (its network is good, but was not used),
            ``wrong`` (its network differs from the original) or ``failed`` (it made no network that ncnn can run).
        reason: why it failed, or why its network is wrong; empty otherwise.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null if the outputs are equal or were not compared.
        layers: number of layers of its network after optimisation; null if it failed.
        seconds: duration, including the comparison.
    """

    route: str
    outcome: Outcome
    reason: str
    sqnr_db: float | None
    layers: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class OwnQuantisation:
    """The quantisation of an original that is quantised.

    For the comparison with ncnn's fp32 network, the original runs in floating point: with its quantised weights, but
    without the rounding of its activations.

    Attributes:
        kept: number of layers of the ncnn network that keep the original's scales.
        lost: what ncnn cannot keep.
        sqnr_db: SQNR of the original in floating point against the original as it is: the noise of its own
            quantisation. As in ``accuracy``, of the worst output, dB; null if the outputs are equal.
    """

    kept: int
    lost: list[Loss]
    sqnr_db: float | None

    @property
    def said(self) -> list[str]:
        """The record as sentences."""
        noise = "" if self.sqnr_db is None else f" ({decibel(self.sqnr_db)} dB against itself in floating point)"
        kept = f"the int8 model keeps its scales in {counted(self.kept, 'layer')}"
        return [f"the original is quantised{noise}; {kept}", *(loss.said for loss in self.lost)]


@dataclass(frozen=True, kw_only=True)
class DecodedCheck:
    """The predictions of the converted network, compared with those of the original.

    They are computed on the images with which the conversion was checked. If the network was cut, the predictions of
    the original are its own outputs. Otherwise they are its outputs after the same decoder.

    Attributes:
        decoder: the kind of decoder: ``boxes``, ``argmax`` (a map of classes), ``ctc`` (text) or ``points``. The
            model's card contains all of it.
        original: number of predictions of the original: boxes, positions of its map of classes, characters or points.
        network: number of predictions of the network.
        matched: number of predictions that agree: pairs of boxes with the same class and an intersection over union of
            0.5 or more, positions with the same class, characters in the same order, or points that are at most a pixel
            apart.
        iou: mean intersection over union of these pairs of boxes; null if there are none.
        score_error: largest difference of the two scores of a pair of boxes; null if there are none.
    """

    decoder: str
    original: int
    network: int
    matched: int
    iou: float | None
    score_error: float | None


@dataclass(frozen=True, kw_only=True)
class ShapeCheck:
    """The accuracy of the converted network for inputs of further shapes.

    It was measured on images that were resized to these shapes. If the samples are arrays, or if the preprocessing does
    not resize, it was measured on noise.

    Attributes:
        shapes: the shapes of the inputs, without the batch axis.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null if the outputs are equal.
        cosine: as in ``accuracy``, of the worst output.
        max_error: the largest absolute difference, in the output's unit.
        original_sqnr_db: as in ``conversion``, for these shapes.
    """

    shapes: list[tuple[int, ...]]
    sqnr_db: float | None
    cosine: float | None
    max_error: float
    original_sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class ConversionCheck:
    """The routes to ncnn, and the accuracy of the converted network before optimisation.

    The accuracy is measured with ncnn in fp32 against the original, on a few evaluation images.

    Attributes:
        route: the route whose network was used.
        verified: whether the network was compared with an original of which at least one output was finite.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null if the outputs are equal or were not compared. fp32
            normally reaches 100; below 80 the run warns, and below 60 it ends, unless ``force`` is set.
        cosine: as in ``accuracy``, of the worst output; null if the outputs were not compared.
        max_error: the largest absolute difference, in the output's unit; null if the outputs were not compared.
        original_sqnr_db: the SQNR of the original against itself when the last bit of its inputs changes, of the worst
            output, dB. It explains an ``sqnr_db`` below 80: outputs within 6 dB of it are as exact as the original.
            null if it explains nothing.
        shapes: the same for each further input shape that was asked for; empty if there is no original to compare with.
        seconds: duration of all routes together.
        attempts: the routes that were tried, in order.
        pnnx_version: version of pnnx, or ``unknown``; null if pnnx did not run.
        log: file in the run folder with the output of pnnx; null if pnnx did not run.
        own: what is known of the quantisation of the original; null for an original in floating point.
        decoded: the predictions; null if no decoder is known, or if there was no original to compare with.
    """

    route: str
    verified: bool
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    original_sqnr_db: float | None
    shapes: list[ShapeCheck]
    seconds: float
    attempts: list[Attempt]
    pnnx_version: str | None
    log: PlainName | None
    own: OwnQuantisation | None = None
    decoded: DecodedCheck | None = None
