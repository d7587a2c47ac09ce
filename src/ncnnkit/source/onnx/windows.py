"""Operators that move a window over an image: convolution, pooling, padding, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...model.ops import FLOAT_MAX
from .axes import taken
from .lowering import Array, Blob, Node, Shape, Unsupported, each_of_batch, operator

_DIMENSIONS = {1: "w", 2: "hw", 3: "dhw"}
_ENDS = {"w": ("pad_left", "pad_right"), "h": ("pad_top", "pad_bottom"), "d": ("pad_front", "pad_behind")}
_TYPES = {1: "1D", 2: "", 3: "3D"}


def _image(node: Node, index: int = 0) -> tuple[Blob, int]:
    """The image that a node reads as a blob of (channels, sides), and how many sides it has."""
    shape = node.shape(index)
    if shape[0] != 1:
        raise Unsupported(f"works on a batch of {shape[0]}")
    return node.blob(index, shape[1:]), _dimensions(node)


def _dimensions(node: Node) -> int:
    """How many sides an image has: 1, 2 or 3."""
    shape = node.shape(0)
    if not 1 <= len(shape) - 2 <= 3:
        raise Unsupported(f"works on {list(shape)}")
    return len(shape) - 2


def _pads(node: Node, sides: Shape, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding before and after each side, in ONNX's order: all beginnings, then all ends."""
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
    node.gives(each_of_batch(node, lambda x: _pooled_whole(node, x)))


def _pooled_whole(node: Node, x: Blob) -> Blob:
    n = _dimensions(node)
    kind = int(node.op == "GlobalAveragePool")
    return node.emit(f"Pooling{_TYPES[n]}", [x], x.shape[:1], pooling_type=kind, global_pooling=1)


@operator("MaxPool", "AveragePool")
def pooling(node: Node) -> None:
    node.gives(each_of_batch(node, lambda x: _pooled(node, x)))


def _pooled(node: Node, x: Blob) -> Blob:
    n = _dimensions(node)
    if node.outputs > 1:
        raise Unsupported("hands out the indices of the maxima")
    kernel = node.attr("kernel_shape")
    stride, dilation = node.attr("strides", (1,) * n), node.attr("dilations", (1,) * n)
    if set(dilation) != {1}:
        raise Unsupported("has a dilation")
    pads = _pads(node, x.shape[1:], kernel, stride, dilation)
    wanted = node.out_shape()[2:]
    average = node.op == "AveragePool"
    include = bool(node.attr("count_include_pad", 0))
    # Where ONNX rounds up, windows may reach beyond the padding: as far as the last one does.
    reach = [
        (out - 1) * s + k - side - before for out, s, k, side, before in zip(wanted, stride, kernel, x.shape[1:], pads)
    ]
    beyond = [max(r, 0) if r > p else p for r, p in zip(reach, pads[n:])]
    if average and any(b > p for b, p in zip(beyond, pads[n:])) and (include or any(pads)):
        raise Unsupported("averages over windows that reach beyond the padding")
    pads = [*pads[:n], *beyond]
    params = {
        "pooling_type": int(average), "pad_mode": 1, "avgpool_count_include_pad": int(include),
        **_sides(n, "kernel", kernel), **_sides(n, "stride", stride), **_padded(n, pads),
    }  # fmt: skip
    return node.emit(f"Pooling{_TYPES[n]}", [x], (x.shape[0], *wanted), **params)


@operator("Pad")
def pad(node: Node) -> None:
    shape = node.shape(0)
    given = node.ints("pads", 1) or node.attr("paddings")
    if given is None:
        raise Unsupported("says no padding")
    axes = [a % len(shape) for a in node.ints("axes", 3) or range(len(shape))]
    before, after = [0] * len(shape), [0] * len(shape)
    for index, axis in enumerate(axes):
        before[axis], after[axis] = given[index], given[index + len(axes)]
    mode = node.attr("mode", "constant")
    value = float(node.needed_constant(2, "value").reshape(-1)[0]) if node.has(2) else float(node.attr("value", 0.0))
    value = min(max(value, -FLOAT_MAX), FLOAT_MAX)
    padded = [i for i in range(len(shape)) if before[i] or after[i]]
    if not padded:
        node.gives(node.blob(0))
        return
    given_blob = node.blob(0)
    for axis in range(len(shape)):  # what is negative cuts off
        kept = range(max(-before[axis], 0), shape[axis] - max(-after[axis], 0))
        given_blob, shape = taken(node, given_blob, shape, axis, kept)
        before[axis], after[axis] = max(before[axis], 0), max(after[axis], 0)
    padded = [i for i in range(len(shape)) if before[i] or after[i]]
    if not padded:
        node.gives(given_blob)
        return
    first = next((i for i, side in enumerate(shape) if side != 1 or i in padded), 0)
    body = shape[max(first, len(shape) - 3) if not any(i < len(shape) - 3 for i in padded) else first :]
    start = len(shape) - len(body)
    if math.prod(shape[:start]) != 1:  # what lies in front of the padded axes stays one axis
        body = (math.prod(shape[:start]), *body)
        start -= 1
    if len(body) > 4:
        raise Unsupported(f"pads {list(shape)}")
    names = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}[len(body)]
    ends = {"w": ("left", "right"), "h": ("top", "bottom"), "d": ("front", "behind"), "c": ("front", "behind")}
    params: dict[str, int] = {}
    for offset, letter in enumerate(names):
        source = start + offset
        if source in padded:
            if letter == "c" and len(body) == 4:
                raise Unsupported(f"pads the first of the four axes of {list(body)}")
            if letter in "cd" and mode != "constant":
                raise Unsupported(f"pads {list(shape)} in mode {mode} along its channels")
            params[ends[letter][0]], params[ends[letter][1]] = before[source], after[source]
    kinds = {"constant": 0, "edge": 1, "reflect": 2}
    if mode not in kinds:
        raise Unsupported(f"has mode {mode!r}")
    x = node.lowering.view(given_blob, body)
    out = tuple(
        side + (before[start + i] + after[start + i] if start + i in padded else 0) for i, side in enumerate(body)
    )
    node.gives(node.emit("Padding", [x], out, type=kinds[mode], value=value, **params))


@operator("Resize", "Upsample")
def resize(node: Node) -> None:
    x, n = _image(node)
    if n == 3:
        raise Unsupported("resizes a volume")
    wanted = node.out_shape()
    if wanted[1] != x.shape[0]:
        raise Unsupported("resizes the channels")
    mode = node.attr("mode", "nearest")
    sides, asked = x.shape[1:], wanted[2:]
    if sides == asked:
        node.gives(x)
        return
    how = node.attr("coordinate_transformation_mode", "half_pixel" if node.op == "Resize" else "asymmetric")
    _check_scales(node, sides, asked)
    height, width = (1, asked[0]) if n == 1 else asked
    if n == 1:
        x = node.lowering.view(x, (x.shape[0], 1, sides[0]))
    if mode == "nearest":
        _check_nearest(node, sides, asked, how)
        params = {"resize_type": 1}
    else:
        params = {"resize_type": {"linear": 2, "cubic": 3}[mode], "align_corner": _aligned(node, how, sides, asked)}
        if mode == "cubic" and not math.isclose(node.attr("cubic_coeff_a", -0.75), -0.75):
            raise Unsupported(f"has the coefficient {node.attr('cubic_coeff_a')}")
    made = node.emit("Interp", [x], (x.shape[0], height, width), output_height=height, output_width=width, **params)
    node.gives(made)


def _check_scales(node: Node, sides: Shape, asked: Shape) -> None:
    """Refuse scales that are not output over input: ncnn knows the sizes only."""
    if node.attr("antialias", 0):
        raise Unsupported("smooths while it makes the image smaller")
    if node.attr("exclude_outside", 0):
        raise Unsupported("leaves out what is outside of the image")
    place = 1 if node.op == "Upsample" or node.lowering.opset < 11 else 2
    scales = node.constant(place) if node.has(place) else None
    if scales is None or not scales.size or node.attr("mode", "nearest") == "nearest":
        return
    for side, out, scale in zip(sides, asked, scales.reshape(-1)[-len(sides) :]):
        if not math.isclose(side * float(scale), out, rel_tol=1e-5):
            raise Unsupported(f"has the scale {scale:g}, its sizes {side} and {out} have another")


def _aligned(node: Node, how: str, sides: Shape, asked: Shape) -> int:
    if how == "align_corners":
        return 1
    if how == "half_pixel" or (how == "pytorch_half_pixel" and 1 not in asked):
        return 0
    raise Unsupported(f"has coordinates of mode {how!r}")


def _check_nearest(node: Node, sides: Shape, asked: Shape, how: str) -> None:
    """Refuse what does not pick the pixels that ncnn picks: floor(x * input / output)."""
    rounding = node.attr("nearest_mode", "round_prefer_floor" if node.op == "Resize" else "floor")
    for side, out in zip(sides, asked):
        x = np.arange(out, dtype=np.float64)
        at = {
            "asymmetric": x * side / out,
            "half_pixel": (x + 0.5) * side / out - 0.5,
            "half_pixel_symmetric": (x + 0.5) * side / out - 0.5,
            "pytorch_half_pixel": (x + 0.5) * side / out - 0.5 if out > 1 else x * 0,
            "align_corners": x * (side - 1) / max(out - 1, 1),
        }.get(how)
        if at is None:
            raise Unsupported(f"has coordinates of mode {how!r}")
        rounded: Array = {
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
        }[rounding]
        if not np.array_equal(np.clip(rounded, 0, side - 1), np.minimum(np.floor(x * side / out), side - 1)):
            raise Unsupported(f"picks other pixels than ncnn does ({how}, {rounding})")


@operator("GridSample")
def grid_sample(node: Node) -> None:
    """Places far outside are reflected once by ncnn, by ONNX as often as it takes: the check on samples tells."""
    x, n = _image(node)
    modes = {"linear": 1, "bilinear": 1, "nearest": 2, "cubic": 3, "bicubic": 3}
    padding = {"zeros": 1, "border": 2, "reflection": 3}
    if n == 1:
        raise Unsupported("samples a sequence")
    out = node.out_shape()
    params = {
        "sample_type": modes[node.attr("mode", "linear")],
        "padding_mode": padding[node.attr("padding_mode", "zeros")],
        "align_corner": int(node.attr("align_corners", 0)),
    }
    grid = node.blob(1, node.shape(1)[1:])
    node.gives(node.emit("GridSample", [x, grid], out[1:], **params))


@operator("DeformConv")
def deformable_convolution(node: Node) -> None:
    x, n = _image(node)
    weight = node.needed_constant(1, "weights").astype(np.float32)
    bias = node.needed_constant(3, "bias") if node.has(3) else None
    if n != 2 or node.attr("group", 1) != 1 or node.attr("offset_group", 1) != 1:
        raise Unsupported("works in groups")
    kernel = weight.shape[2:]
    stride, dilation = node.attr("strides", (1, 1)), node.attr("dilations", (1, 1))
    inputs = [x, node.blob(2, node.shape(2)[1:])]
    if node.has(4):
        inputs.append(node.blob(4, node.shape(4)[1:]))
    params = {
        **_sides(2, "kernel", kernel), **_sides(2, "stride", stride), **_sides(2, "dilation", dilation),
        **_padded(2, [int(p) for p in node.attr("pads", (0, 0, 0, 0))]),
        "num_output": weight.shape[0], "bias_term": int(bias is not None), "weight_data_size": weight.size,
    }  # fmt: skip
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    node.gives(node.emit("DeformableConv2D", inputs, node.out_shape()[1:], weights, **params))


@operator("Col2Im")
def fold(node: Node) -> None:
    image, block = (node.needed_constant(i, "sizes").reshape(-1).tolist() for i in (1, 2))
    if len(image) != 2:
        raise Unsupported(f"makes images of {len(image)} sides")
    stride, dilation = node.attr("strides", (1, 1)), node.attr("dilations", (1, 1))
    pads = [int(p) for p in node.attr("pads", (0, 0, 0, 0))]
    params = {
        **_sides(2, "kernel", block), **_sides(2, "stride", stride), **_sides(2, "dilation", dilation),
        **_padded(2, pads), **_sides(2, "output", image),
    }  # fmt: skip
    shape = (node.shape(0)[1] // math.prod(block), int(image[0]), int(image[1]))
    node.gives(each_of_batch(node, lambda x: node.emit("Fold", [x], shape, **params)))
