"""ncnn's own layers that select boxes: their inputs and outputs.

The number of output rows changes from sample to sample, so the error of such an output is not meaningful. The inputs of
the layer have the same shape for every sample. A network that ends in such a layer is judged by these blobs, and by its
boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import ModelError
from ..model.graph import Graph, Layer
from .decoder import Decoder, Grid, Part, Table

Size = tuple[int, int]
Shapes = Sequence[tuple[int, ...] | None]


@dataclass(frozen=True)
class DetectionLayer:
    """A layer that selects boxes.

    Attributes:
        type, name: the type and the name of the layer.
        blobs: its input blobs, in order. Extract them before the outputs, because ncnn frees a blob after the layers
            that read it have run.
        output: its output blob.
        before: the decoder from these blobs to the boxes that the layer finds; None if they cannot be decoded.
        after: the decoder of the network's outputs; None if the layer's output is not one of them.
    """

    type: str
    name: str
    blobs: tuple[str, ...]
    output: str
    before: Decoder | None
    after: Decoder | None


def detection_layer(graph: Graph, size: Size = (0, 0)) -> DetectionLayer | None:
    """The last layer of a network that selects boxes; None if there is none.

    Args:
        graph: the network.
        size: (height, width) of its image, pixels. (0, 0) if unknown: boxes are then in fractions of the image, and the
            shapes of the blobs are unknown.

    Example:
        >>> found = detection_layer(ncnnkit.load("mobilenet_ssd.param"), (300, 300))  # doctest: +SKIP
        >>> found.blobs  # doctest: +SKIP
        ('mbox_loc', 'mbox_conf_flatten', 'mbox_priorbox')
    """
    layers = [layer for layer in graph.layers if layer.type in BEFORE]
    if not layers:
        return None
    layer = layers[-1]
    scale = (float(size[1]), float(size[0])) if all(size) else (1.0, 1.0)
    shapes = _shapes(graph, layer, size)
    before = BEFORE[layer.type](layer, shapes) if all(size) else None
    outputs = graph.outputs
    after = None
    if layer.type in ROWS and layer.outputs[0] in outputs:
        parts: tuple[Part, ...] = ("label", "scores", "boxes")
        after = Decoder("boxes", (Table(outputs.index(layer.outputs[0]), parts),), 1, scale=scale)
        after = replace(after, score_threshold=layer.p.confidence_threshold)
    before = before and replace(before, scale=scale)
    return DetectionLayer(layer.type, layer.name, tuple(layer.inputs), layer.outputs[0], before, after)


def _shapes(graph: Graph, layer: Layer, size: Size) -> Shapes:
    """The shapes of its inputs; None if one is unknown."""
    given = [(shape or (3, 0, 0))[:1] + size for shape in graph.input_shapes()]
    try:
        known: Mapping[str, object] = graph.infer_shapes(given if len(given) == 1 and all(size) else None)
    except ModelError:
        return [None] * len(layer.inputs)
    shapes = [known[blob] for blob in layer.inputs]
    return [s if isinstance(s, tuple) and all(isinstance(n, int) for n in s) else None for s in shapes]


def _ssd(layer: Layer, shapes: Shapes) -> Decoder | None:
    """The decoder of locations, confidences and priors.

    With ``num_class=-233`` they are in the order of mxnet's SSD.
    """
    p, scores = layer.p, shapes[1]
    mxnet = p.num_class == _MXNET
    if mxnet and (scores is None or len(scores) != 2):
        return None
    table = Table(1, ("scores",), "columns" if mxnet else "rows")
    variances = (p.variance0, p.variance1, p.variance2, p.variance3)
    return Decoder(
        "boxes",
        (Table(0, ("boxes",)), table, Table(2, ("priors",))),
        scores[0] if mxnet and scores else p.num_class,
        boxes="deltas",
        weights=tuple(1 / variance for variance in variances) if all(variances) else (1.0,) * 4,
        background=0,
        score_threshold=p.confidence_threshold,
        iou_threshold=p.nms_threshold,
        candidates=p.nms_top_k,
        group="class",
        multi_label=True,
        most=p.keep_top_k,
    )


_MXNET = -233


def _yolov3(layer: Layer, shapes: Shapes) -> Decoder | None:
    p = layer.p
    boxes = [list(map(int, p.mask[index * p.num_box :][: p.num_box])) for index in range(len(shapes))]
    if len(p.anchors_scale) < len(shapes) or any(len(each) < p.num_box for each in boxes):
        return None
    if any(2 * box + 1 >= len(p.biases) for each in boxes for box in each):
        return None
    sizes = [[(p.biases[2 * box], p.biases[2 * box + 1]) for box in each] for each in boxes]
    made = _maps(layer, shapes, sizes, p.anchors_scale)
    # A background class comes first, so the layer adds 1 to the index.
    return made and replace(made, combination="ncnn", scores="sigmoid")


def _yolov2(layer: Layer, shapes: Shapes) -> Decoder | None:
    p = layer.p
    if len(p.biases) < 2 * p.num_box:
        return None
    sizes = [[(p.biases[2 * box], p.biases[2 * box + 1]) for box in range(p.num_box)]] * len(shapes)
    made = _maps(layer, shapes, sizes, [1.0] * len(shapes))
    return made and replace(made, scores="softmax")


def _maps(
    layer: Layer, shapes: Shapes, sizes: Sequence[Sequence[tuple[float, float]]], cells: Sequence[float]
) -> Decoder | None:
    """The decoder of YOLO's maps.

    Args:
        layer: the layer.
        shapes: the shapes of its inputs.
        sizes: the sizes of the anchors of each map, in the pixels of ``cells``.
        cells: the side of a cell of each map, in pixels.
    """
    p = layer.p
    grids = []
    for shape, boxes, cell in zip(shapes, sizes, cells):
        if shape is None or len(shape) != 3 or cell * min(shape) < 1 or shape[0] != p.num_box * (5 + p.num_class):
            return None
        _, height, width = shape
        # ncnn truncates the sides of the image to whole numbers: 33.6 x 13 cells are 436.
        relative = tuple((w / int(cell * width), h / int(cell * height)) for w, h in boxes)
        grids.append(Grid(height, width, (1 / height, 1 / width), (0.5 / height, 0.5 / width), relative))
    parts: tuple[Part, ...] = ("boxes", "objectness", "scores")
    return Decoder(
        "boxes", tuple(Table(index, parts, "maps") for index in range(len(grids))), p.num_class, boxes="yolov3",
        first_label=1, anchors=tuple(grids), score_threshold=p.confidence_threshold, iou_threshold=p.nms_threshold,
        agnostic=True,
    )  # fmt: skip


BEFORE: dict[str, Callable[[Layer, Shapes], Decoder | None]] = {
    "DetectionOutput": _ssd,
    "Yolov3DetectionOutput": _yolov3,
    "YoloDetectionOutput": _yolov2,
    "Proposal": lambda layer, shapes: None,  # its boxes are candidates for a second stage
}
"""Type of layer -> function that gives the decoder of its inputs. Source: ncnn's implementation of each layer."""

ROWS = ("DetectionOutput", "Yolov3DetectionOutput", "YoloDetectionOutput")
"""Types of layers that output rows of label, score, x1, y1, x2, y2, in fractions of the image."""
