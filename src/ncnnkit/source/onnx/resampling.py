"""Operators that compute values between the pixels of an image: Resize, Upsample, GridSample."""

from __future__ import annotations

import math

import numpy as np

from .lowering import Array, Blob, Node, Shape, Unsupported, each_of_batch, operator
from .reading import run_operator


@operator("Resize", "Upsample")
def resize(node: Node) -> None:
    """Write ncnn's Interp if it computes the same; otherwise a product with a matrix along each axis."""
    shape, wanted = node.shape(0), node.out_shape()
    changed = [axis for axis, (side, out) in enumerate(zip(shape, wanted)) if side != out]
    if not changed:
        node.gives(node.blob(0))
        return
    if len(shape) in (3, 4) and min(changed) >= 2 and _interpolates(node):
        node.gives(each_of_batch(node, lambda x: _interpolated(node, x, wanted[2:])))
        return
    blob = node.blob(0)
    for axis in changed:
        blob = _resized(node, blob, shape, axis, wanted[axis])
        shape = (*shape[:axis], wanted[axis], *shape[axis + 1 :])
    node.gives(blob)


_INTERPOLATIONS = {"nearest": 1, "linear": 2, "cubic": 3}


def _coordinates(node: Node) -> str:
    newer = node.op == "Resize" and node.lowering.opset >= 11
    return str(node.attr("coordinate_transformation_mode", "half_pixel" if newer else "asymmetric"))


def _interpolates(node: Node) -> bool:
    """Whether ncnn's Interp computes the same. It uses sizes, not scales, and has three interpolations."""
    shape, wanted = node.shape(0), node.out_shape()
    pairs = [(axis, shape[axis], wanted[axis]) for axis in range(2, len(shape))]
    if node.attr("mode", "nearest") == "nearest":
        return all(side == out or _same_pixels(node, axis, side, out) for axis, side, out in pairs)
    if node.attr("antialias", 0) or node.attr("exclude_outside", 0) or any(1 in pair[1:] for pair in pairs):
        return False
    if node.attr("mode") == "cubic" and (len(pairs) == 1 or not math.isclose(node.attr("cubic_coeff_a", -0.75), -0.75)):
        return False
    for axis, side, out in pairs:
        scale = _scale(node, axis)
        if scale is not None and not math.isclose(side * scale, out, rel_tol=1e-5):
            return False
    return _coordinates(node) in ("align_corners", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")


def _scale(node: Node, axis: int) -> float | None:
    """The scale of an axis; None if it is the size of the output over that of the input."""
    shape = node.shape(0)
    axes = [a % len(shape) for a in node.attr("axes", range(len(shape)))]
    if axis not in axes:
        return 1.0
    if node.op == "Upsample" and not node.has(1):
        return float(node.attr("scales")[axis])
    scales = node.constant(1 if node.op == "Upsample" or node.lowering.opset < 11 else 2)
    if scales is not None and scales.size:
        return float(scales.reshape(-1)[axes.index(axis)])
    choose = {"not_larger": min, "not_smaller": max}.get(node.attr("keep_aspect_ratio_policy", "stretch"))
    if choose is None:
        return None
    sizes = node.needed_constant(3, "sizes").reshape(-1)
    return float(choose(size / shape[a] for a, size in zip(axes, sizes)))


def _same_pixels(node: Node, axis: int, side: int, out: int) -> bool:
    """Whether ONNX picks the same nearest pixels as ncnn, which are floor(x * input / output)."""
    if side * out > _LARGEST_MATRIX:
        return False
    picked = np.minimum(np.floor(np.arange(out, dtype=np.float32) * np.float32(side / out)), side - 1).astype(int)
    return bool(np.array_equal(_matrix(node, axis, side, out), np.eye(side)[:, picked]))


def _interpolated(node: Node, x: Blob, asked: Shape) -> Blob:
    height, width = (1, asked[0]) if len(asked) == 1 else asked
    image = node.lowering.view(x, (x.shape[0], 1, x.shape[1])) if len(asked) == 1 else x
    params = {
        "resize_type": _INTERPOLATIONS[node.attr("mode", "nearest")],
        "align_corner": int(_coordinates(node) == "align_corners" and node.attr("mode", "nearest") != "nearest"),
        "output_height": height, "output_width": width,
    }  # fmt: skip
    return node.emit("Interp", [image], (x.shape[0], height, width), **params)


_LARGEST_MATRIX = 2048 * 2048


def _resized(node: Node, blob: Blob, shape: Shape, axis: int, out: int) -> Blob:
    """Resize one axis by a product with a matrix (size of the input, size of the output)."""
    side = shape[axis]
    if side * out > _LARGEST_MATRIX:
        raise Unsupported(f"resizes {side} to {out} in a way that ncnn's Interp does not support")
    matrix = _matrix(node, axis, side, out)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    x = node.lowering.view(blob, (outer, side, inner))
    if inner > 1:
        x = node.emit("Permute", [x], (outer, inner, side), order_type=1)
    x = node.lowering.view(x, (outer * inner, side))
    made = node.emit(
        "InnerProduct", [x], (outer * inner, out), {"weight": np.ascontiguousarray(matrix.T)},
        num_output=out, bias_term=0, weight_data_size=matrix.size,
    )  # fmt: skip
    if inner > 1:
        made = node.emit("Permute", [node.lowering.view(made, (outer, inner, out))], (outer, out, inner), order_type=1)
    return made


_RESIZE_ATTRIBUTES = (
    "mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias",
)  # fmt: skip


def _matrix(node: Node, axis: int, side: int, out: int) -> Array:
    """The matrix (side, out) by which ONNX Runtime resizes an axis, measured by resizing an identity matrix."""
    if _coordinates(node) == "tf_crop_and_resize":
        raise Unsupported("crops while it resizes")
    scale = _scale(node, axis)
    places: tuple[str, ...]
    # Before opset 13, an unused input must be an empty tensor; newer opsets leave it out.
    none = "none" if node.lowering.opset < 13 else ""
    if scale is None:
        given, places = np.array([1, side, 1, out], np.int64), ("x", none, none, "given")
    else:
        newer = node.op == "Resize" and node.lowering.opset >= 11
        given, places = np.array([1, 1, 1, scale], np.float32), ("x", none, "given") if newer else ("x", "given")
    image = np.eye(side, dtype=np.float32).reshape(1, side, 1, side)
    inputs: dict[str, Array] = {"x": image, "none": np.zeros(0, np.float32), "given": given}
    found = run_operator(
        node.op,
        {name: inputs[name] for name in dict.fromkeys(places) if name},
        places,
        {name: value for name in _RESIZE_ATTRIBUTES if (value := node.attr(name)) is not None},
        9 if node.op == "Upsample" else max(node.lowering.opset, 10),
    )
    return found.reshape(side, -1)


@operator("GridSample")
def grid_sample(node: Node) -> None:
    """Write a GridSample. ncnn reflects a coordinate only once, so with "reflection" the grid is reflected before."""
    modes = {"linear": 1, "bilinear": 1, "nearest": 2, "cubic": 3, "bicubic": 3}
    paddings = {"zeros": 1, "border": 2, "reflection": 3}
    mode, padding = modes[node.attr("mode", "linear")], node.attr("padding_mode", "zeros")
    shape, out = node.shape(0), node.out_shape()
    aligned = int(node.attr("align_corners", 0))
    if len(shape) not in (4, 5):
        raise Unsupported(f"samples {list(shape)}")
    if shape[0] != 1:
        raise Unsupported(f"works on a batch of {shape[0]}")
    if mode == 3 and len(shape) == 5:
        raise Unsupported("samples a volume with cubic interpolation")
    constant = node.constant(1)
    if mode == 2 and constant is not None:
        _check_ties(constant, shape[2:], aligned)
    x, grid = node.blob(0, shape[1:]), node.blob(1, node.shape(1)[1:])
    if padding == "reflection":
        grid = _reflected(node, grid)
    params = {"sample_type": mode, "padding_mode": paddings[padding], "align_corner": aligned}
    node.gives(node.emit("GridSample", [x, grid], out[1:], **params))


def _check_ties(grid: Array, sides: Shape, aligned: int) -> None:
    """Refuse points halfway between two pixels: ncnn takes the upper pixel, ONNX the even one."""
    ends = np.array(sides[::-1], np.float32)
    at = (grid + 1) / 2 * (ends - 1) if aligned else ((grid + 1) * ends - 1) / 2
    if (np.abs(at - np.floor(at) - 0.5) < 1e-5).any():
        raise Unsupported("takes the nearest pixel at points halfway between two pixels")


def _reflected(node: Node, grid: Blob) -> Blob:
    """Map coordinates to [-1, 1] by reflections at both ends.

    This is a triangle wave of period 4 that equals x from -1 to 1: 1 - |4 (t - floor(t)) - 2| with t = (x + 1) / 4.
    """

    def number(x: Blob, kind: int, value: float) -> Blob:
        return node.emit("BinaryOp", [x], x.shape, op_type=kind, with_scalar=1, b=value)

    turns = number(number(grid, 0, 1.0), 2, 0.25)
    whole = node.emit("UnaryOp", [turns], turns.shape, op_type=2)
    part = number(node.emit("BinaryOp", [turns, whole], turns.shape, op_type=1), 2, 4.0)
    return number(node.emit("AbsVal", [number(part, 1, 2.0)], part.shape), 7, 1.0)
