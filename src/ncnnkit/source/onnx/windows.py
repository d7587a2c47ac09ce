"""Operators that move a window over an image: convolution, pooling, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from ...model.ops import FLOAT_MAX
from .axes import taken
from .elementwise import raised
from .lowering import Array, Blob, Node, Shape, Unsupported, each_of_batch, operator
from .reduce import reduced_over

_DIMENSIONS = {1: "w", 2: "hw", 3: "dhw"}
_ENDS = {"w": ("pad_left", "pad_right"), "h": ("pad_top", "pad_bottom"), "d": ("pad_front", "pad_behind")}
_TYPES = {1: "1D", 2: "", 3: "3D"}


def _image(node: Node, index: int = 0) -> tuple[Blob, int]:
    """The image that a node reads, as a blob (channels, *spatial shape), and its number of spatial axes."""
    shape = node.shape(index)
    if shape[0] != 1:
        raise Unsupported(f"works on a batch of {shape[0]}")
    return node.blob(index, shape[1:]), _dimensions(node)


def _dimensions(node: Node) -> int:
    """The number of spatial axes: 1, 2 or 3."""
    shape = node.shape(0)
    if not 1 <= len(shape) - 2 <= 3:
        raise Unsupported(f"works on {list(shape)}")
    return len(shape) - 2


def _pads(node: Node, sides: Shape, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The padding of each spatial axis, in ONNX's order: before each axis, then after each axis."""
    auto = node.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        whole = [
            max((math.ceil(side / s) - 1) * s + (k - 1) * d + 1 - side, 0)
            for side, k, s, d in zip(sides, kernel, stride, dilation)
        ]
        small = [total // 2 for total in whole]
        large = [total - half for total, half in zip(whole, small)]
        return [*small, *large] if auto == "SAME_UPPER" else [*large, *small]
    if auto == "VALID":
        return [0] * (2 * len(sides))
    return [int(p) for p in node.attr("pads", (0,) * (2 * len(sides)))]


def _sides(dimensions: int, prefix: str, values: Sequence[int]) -> dict[str, int]:
    return {f"{prefix}_{axis}": int(value) for axis, value in zip(_DIMENSIONS[dimensions], values)}


def _padded(dimensions: int, pads: Sequence[int]) -> dict[str, int]:
    made = {}
    for index, axis in enumerate(_DIMENSIONS[dimensions]):
        before, after = _ENDS[axis]
        made[before], made[after] = int(pads[index]), int(pads[index + dimensions])
    return made


@operator("Conv")
def convolution(node: Node) -> None:
    node.gives(each_of_batch(node, lambda x: _convolved(node, x)))


def _convolved(node: Node, x: Blob) -> Blob:
    n = _dimensions(node)
    weight = node.needed_constant(1, "weights").astype(np.float32)
    bias = node.needed_constant(2, "bias") if node.has(2) else None
    kernel, group = weight.shape[2:], int(node.attr("group", 1))
    stride, dilation = node.attr("strides", (1,) * n), node.attr("dilations", (1,) * n)
    pads = _pads(node, x.shape[1:], kernel, stride, dilation)
    if min(pads) < 0:
        x = _cropped(node, x, [max(-p, 0) for p in pads])
        pads = [max(p, 0) for p in pads]
    params = {
        **_sides(n, "kernel", kernel), **_sides(n, "stride", stride), **_sides(n, "dilation", dilation),
        **_padded(n, pads),
    }  # fmt: skip
    made = node.emit(
        ("ConvolutionDepthWise" if group > 1 else "Convolution") + _TYPES[n],
        [x],
        (weight.shape[0], *node.out_shape()[2:]),
        {"weight": weight} | ({} if bias is None else {"bias": bias}),
        num_output=weight.shape[0],
        bias_term=int(bias is not None),
        weight_data_size=weight.size,
        **({"group": group} if group > 1 else {}),
        **params,
    )
    return made


def _cropped(node: Node, x: Blob, cuts: Sequence[int]) -> Blob:
    n = len(cuts) // 2
    ends = [side - cut for side, cut in zip(x.shape[1:], cuts[n:])]
    shape = (x.shape[0], *(end - start for start, end in zip(cuts, ends)))
    return node.emit("Crop", [x], shape, starts=tuple(cuts[:n]), ends=tuple(ends), axes=tuple(range(1, n + 1)))


@operator("ConvTranspose")
def deconvolution(node: Node) -> None:
    node.gives(each_of_batch(node, lambda x: _deconvolved(node, x)))


def _deconvolved(node: Node, x: Blob) -> Blob:
    n = _dimensions(node)
    weight = node.needed_constant(1, "weights").astype(np.float32)
    bias = node.needed_constant(2, "bias") if node.has(2) else None
    group = int(node.attr("group", 1))
    outputs = weight.shape[1] * group
    # ONNX has (inputs, outputs of a group, kernel), ncnn (outputs, inputs of a group, kernel).
    grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    weight = np.moveaxis(grouped, 1, 2).reshape(outputs, -1, *weight.shape[2:])
    kernel = weight.shape[2:]
    stride, dilation = node.attr("strides", (1,) * n), node.attr("dilations", (1,) * n)
    extra = node.attr("output_padding", (0,) * n)
    wanted = node.out_shape()[2:]
    full = [(side - 1) * s + (k - 1) * d + 1 + e
            for side, s, k, d, e in zip(x.shape[1:], stride, kernel, dilation, extra)]  # fmt: skip
    total = [f - w for f, w in zip(full, wanted)]
    if node.attr("auto_pad", "NOTSET") == "NOTSET" and node.attr("output_shape") is None:
        pads = [int(p) for p in node.attr("pads", (0,) * (2 * n))]
    else:
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*less, *more] if node.attr("auto_pad") == "SAME_UPPER" else [*more, *less]
    if min(pads) < 0:
        raise Unsupported("has negative padding")
    after = {"w": "output_pad_right", "h": "output_pad_bottom", "d": "output_pad_behind"}
    made = node.emit(
        ("DeconvolutionDepthWise" if group > 1 else "Deconvolution") + _TYPES[n],
        [x],
        (outputs, *wanted),
        {"weight": weight} | ({} if bias is None else {"bias": bias}),
        num_output=outputs,
        bias_term=int(bias is not None),
        weight_data_size=weight.size,
        **({"group": group} if group > 1 else {}),
        **_sides(n, "kernel", kernel), **_sides(n, "stride", stride), **_sides(n, "dilation", dilation),
        **_padded(n, pads), **{after[axis]: int(e) for axis, e in zip(_DIMENSIONS[n], extra)},
    )  # fmt: skip
    return made


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pooling(node: Node) -> None:
    node.gives(_pooled_whole(node, _channels(node)))


def _pooled_whole(node: Node, x: Blob) -> Blob:
    n = _dimensions(node)
    kind = int(node.op == "GlobalAveragePool")
    return node.emit(f"Pooling{_TYPES[n]}", [x], x.shape[:1], pooling_type=kind, global_pooling=1)


@operator("GlobalLpPool")
def global_norm_pooling(node: Node) -> None:
    p = float(node.attr("p", 2))

    x = _channels(node)
    image = node.lowering.view(x, (x.shape[0], math.prod(x.shape[1:])))
    powers = raised(node, node.emit("AbsVal", [image], image.shape), p)
    node.gives(raised(node, reduced_over(node, powers, 0, (1,)), 1 / p))


@operator("LpPool")
def norm_pooling(node: Node) -> None:
    """Write the root of a sum of powers. The sum is an average times the size of the window."""
    p, size = float(node.attr("p", 2)), math.prod(node.attr("kernel_shape"))

    x = _channels(node)
    average = _pooled(node, raised(node, node.emit("AbsVal", [x], x.shape), p))
    total = node.emit("BinaryOp", [average], average.shape, op_type=2, with_scalar=1, b=float(size))
    node.gives(raised(node, total, 1 / p))


@operator("MaxPool", "AveragePool")
def pooling(node: Node) -> None:
    node.gives(_pooled(node, _channels(node)))


def _channels(node: Node) -> Blob:
    """The batch as one image with more channels, because each channel is pooled separately."""
    batch, channels, *sides = node.shape(0)
    return node.blob(0, (batch * channels, *sides))


def _pooled(node: Node, x: Blob) -> Blob:
    n = _dimensions(node)
    if node.is_read(1):
        raise Unsupported("returns the indices of the maxima")
    kernel = node.attr("kernel_shape")
    stride, dilation = node.attr("strides", (1,) * n), node.attr("dilations", (1,) * n)
    pads = _pads(node, x.shape[1:], kernel, stride, dilation)
    wanted = node.out_shape()[2:]
    average = node.op != "MaxPool"
    include = node.op == "LpPool" or bool(node.attr("count_include_pad", 0))
    # With ceil_mode, the last window may reach beyond the padding.
    reach = [
        (out - 1) * s + (k - 1) * d + 1 - side - before
        for out, s, k, d, side, before in zip(wanted, stride, kernel, dilation, x.shape[1:], pads)
    ]
    ends = [*pads[:n], *(max(r, 0) if r > p else p for r, p in zip(reach, pads[n:]))]
    dilated = set(dilation) != {1}
    if dilated:
        made = _pooled_apart(node, x, ends, average=average)
    else:
        beyond = node.op == "AveragePool" and ends != pads and (include or any(pads))
        params = {
            "pooling_type": int(average), "pad_mode": 1, "avgpool_count_include_pad": int(include or beyond),
            **_sides(n, "kernel", kernel), **_sides(n, "stride", stride), **_padded(n, ends),
        }  # fmt: skip
        made = node.emit(f"Pooling{_TYPES[n]}", [x], (x.shape[0], *wanted), **params)
        if not beyond:
            return made
    if not average:
        return made
    # Convert a sum, or a mean over whole windows, to the mean of the elements that count in each window.
    whole = np.full(wanted, math.prod(kernel))
    counted = whole if node.op == "LpPool" else _counted(node, x.shape[1:], pads, include=include)
    factor = (np.ones_like(whole) if dilated else whole) / counted
    means = node.lowering.hold(factor, (1, *wanted), f"{node.name}/counts")
    return node.emit("BinaryOp", [made, means], made.shape, op_type=2)


def _pooled_apart(node: Node, x: Blob, ends: Sequence[int], *, average: bool) -> Blob:
    """The maxima or sums of dilated windows, axis by axis. For each element of the window, a strided part is taken."""
    n = _dimensions(node)
    stride, dilation, wanted = node.attr("strides", (1,) * n), node.attr("dilations"), node.out_shape()[2:]
    padding = {i + 1: (ends[i], ends[i + n]) for i in range(n) if ends[i] or ends[i + n]}
    blob = _padded_image(node, x, x.shape, padding, "constant", 0.0 if average else -FLOAT_MAX)
    shape: Shape = (x.shape[0], *(side + ends[i] + ends[i + n] for i, side in enumerate(x.shape[1:])))
    for i, (k, s, d, out) in enumerate(zip(node.attr("kernel_shape"), stride, dilation, wanted)):
        ranges = [range(j * d, j * d + (out - 1) * s + 1, s) for j in range(k)]
        parts = [taken(node, blob, shape, {i + 1: picked})[0] for picked in ranges]
        shape = (*shape[: i + 1], out, *shape[i + 2 :])
        blob, *others = (node.lowering.view(part, shape) for part in parts)
        for other in others:
            blob = node.emit("BinaryOp", [blob, other], shape, op_type=0 if average else 4)
    return blob


def _counted(node: Node, sides: Shape, pads: Sequence[int], *, include: bool) -> Array:
    """The number of elements that count in each window: those in the image, and with ``include`` in its padding."""
    n = len(sides)
    stride, dilation = node.attr("strides", (1,) * n), node.attr("dilations", (1,) * n)
    found = np.ones((), np.int64)
    for i, (k, s, d, side, out) in enumerate(
        zip(node.attr("kernel_shape"), stride, dilation, sides, node.out_shape()[2:])
    ):
        places = np.arange(out)[:, None] * s - pads[i] + np.arange(k) * d
        low, high = (-pads[i], side + pads[i + n]) if include else (0, side)
        found = found[..., None] * ((places >= low) & (places < high)).sum(axis=1)
    return np.maximum(found, 1)


@operator("Pad")
def pad(node: Node) -> None:
    shape = node.shape(0)
    given = node.ints("pads", 1) or node.attr("paddings")
    if given is None:
        raise Unsupported("gives no padding")
    axes = [a % len(shape) for a in node.ints("axes", 3) or range(len(shape))]
    before, after = [0] * len(shape), [0] * len(shape)
    for index, axis in enumerate(axes):
        before[axis], after[axis] = given[index], given[index + len(axes)]
    mode = node.attr("mode", "constant")
    if mode != "wrap" and mode not in _PADDINGS:
        raise Unsupported(f"has mode {mode!r}")
    value = float(node.needed_constant(2, "value").reshape(-1)[0]) if node.has(2) else float(node.attr("value", 0.0))
    value = min(max(value, -FLOAT_MAX), FLOAT_MAX)
    blob = node.blob(0)
    # Negative padding crops.
    kept = {axis: range(max(-before[axis], 0), side - max(-after[axis], 0)) for axis, side in enumerate(shape)}
    blob, shape = taken(node, blob, shape, kept)
    ends = {a: (max(before[a], 0), max(after[a], 0)) for a in range(len(shape)) if max(before[a], after[a]) > 0}
    node.gives(_padded_image(node, blob, shape, ends, mode, value))


_PADDINGS = {"constant": 0, "edge": 1, "reflect": 2}


def _padded_image(
    node: Node, blob: Blob, shape: Shape, ends: dict[int, tuple[int, int]], mode: str, value: float
) -> Blob:
    """Pad by one layer if only the last two axes grow, otherwise axis by axis.

    Args:
        node: the node that gives the layers its name.
        blob: in any view.
        shape: ONNX's shape of the blob.
        ends: axis -> the padding before and after it.
        mode: ONNX's mode.
        value: of the padding in the mode "constant".
    """
    rank = len(shape)
    if mode != "wrap" and ends and min(ends) >= rank - 2 and rank > 1:
        view = (math.prod(shape[:-2]), *shape[-2:])
        (top, bottom), (left, right) = (ends.get(axis, (0, 0)) for axis in (rank - 2, rank - 1))
        sides = {"top": top, "bottom": bottom, "left": left, "right": right}
        x = node.lowering.view(blob, view)
        out = (view[0], view[1] + top + bottom, view[2] + left + right)
        return node.emit("Padding", [x], out, type=_PADDINGS[mode], value=value, **sides)
    for axis, (start, end) in ends.items():
        view = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        x = node.lowering.view(blob, view)
        out = (view[0], view[1] + start + end, view[2])
        if mode == "wrap":
            blob = _wrapped(node, x, start, end)
        else:
            blob = node.emit("Padding", [x], out, type=_PADDINGS[mode], value=value, top=start, bottom=end)
        shape = (*shape[:axis], out[1], *shape[axis + 1 :])
    return blob


def _wrapped(node: Node, x: Blob, start: int, end: int) -> Blob:
    """Put the end of the middle axis before it, and its start after it."""
    outer, side, inner = x.shape
    if max(start, end) > side:
        raise Unsupported("wraps around more than once")
    cuts = ([(side - start, side)] if start else []) + [(0, side)] + ([(0, end)] if end else [])
    parts = [
        x if cut == (0, side) else
        node.emit("Crop", [x], (outer, cut[1] - cut[0], inner), starts=cut[:1], ends=cut[1:], axes=(1,))
        for cut in cuts
    ]  # fmt: skip
    return node.emit("Concat", parts, (outer, side + start + end, inner), axis=1)


@operator("DeformConv")
def deformable_convolution(node: Node) -> None:
    """Write deformable convolutions. ncnn's layer has one group and one set of offsets.

    So each group becomes a layer of its own, and the layers of a group with several sets of offsets are summed.
    """
    x, n = _image(node)
    if n != 2:
        raise Unsupported(f"works on {list(node.shape(0))}")
    weight = node.needed_constant(1, "weights").astype(np.float32)
    bias = node.needed_constant(3, "bias").astype(np.float32) if node.has(3) else None
    groups, sets = int(node.attr("group", 1)), int(node.attr("offset_group", 1))
    # A part is a set of channels with the same weights and the same offsets.
    parts = math.lcm(groups, sets)
    images = _parts(node, x, parts)
    offsets = _parts(node, node.blob(2, node.shape(2)[1:]), sets)
    masks = _parts(node, node.blob(4, node.shape(4)[1:]), sets) if node.has(4) else []
    width, in_group = x.shape[0] // parts, parts // groups
    each = weight.shape[0] // groups

    def convolved(group: int, place: int) -> Blob:
        """The convolution of one part of a group. The first part also adds the bias."""
        part, rows = group * in_group + place, slice(group * each, (group + 1) * each)
        chosen = part * sets // parts
        inputs = [images[part], offsets[chosen], *masks[chosen : chosen + 1]]
        columns = slice(place * width, (place + 1) * width)
        return _deformed(node, inputs, weight[rows, columns], bias[rows] if bias is not None and place == 0 else None)

    def added(one: Blob, other: Blob) -> Blob:
        return node.emit("BinaryOp", [one, other], other.shape, op_type=0)

    made = [reduce(added, (convolved(group, place) for place in range(in_group))) for group in range(groups)]
    node.gives(made[0] if groups == 1 else node.emit("Concat", made, node.out_shape()[1:], axis=0))


def _deformed(node: Node, inputs: Sequence[Blob], weight: Array, bias: Array | None) -> Blob:
    """One DeformableConv2D of an image, offsets and perhaps a mask."""
    stride, dilation = node.attr("strides", (1, 1)), node.attr("dilations", (1, 1))
    params = {
        **_sides(2, "kernel", weight.shape[2:]), **_sides(2, "stride", stride), **_sides(2, "dilation", dilation),
        **_padded(2, [int(p) for p in node.attr("pads", (0, 0, 0, 0))]),
        "num_output": len(weight), "bias_term": int(bias is not None), "weight_data_size": weight.size,
    }  # fmt: skip
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return node.emit("DeformableConv2D", inputs, (len(weight), *node.out_shape()[2:]), weights, **params)


def _parts(node: Node, x: Blob, count: int) -> list[Blob]:
    """Cut an image into so many parts with equal numbers of channels."""
    return node.split(x, [x.shape[0] // count] * count, 0)


@operator("Col2Im")
def fold(node: Node) -> None:
    image, block = (node.needed_constant(i, "sizes").reshape(-1).tolist() for i in (1, 2))
    if len(image) != 2:
        raise Unsupported(f"makes images with {len(image)} axes")
    stride, dilation = node.attr("strides", (1, 1)), node.attr("dilations", (1, 1))
    pads = [int(p) for p in node.attr("pads", (0, 0, 0, 0))]
    params = {
        **_sides(2, "kernel", block), **_sides(2, "stride", stride), **_sides(2, "dilation", dilation),
        **_padded(2, pads), **_sides(2, "output", image),
    }  # fmt: skip
    shape = (node.shape(0)[1] // math.prod(block), int(image[0]), int(image[1]))
    node.gives(each_of_batch(node, lambda x: node.emit("Fold", [x], shape, **params)))
