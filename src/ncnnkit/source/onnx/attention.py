"""Attention: as one operator, and as exporters spell it out; rotary embeddings."""

from __future__ import annotations

import math

import numpy as np

from .axes import permuted
from .elementwise import finite
from .lowering import Array, Blob, Node, Shape, Unsupported, operator
from .patterns import both_ways, ends_in, product_of, scalar

_CAUSAL = -1e30  # what is not to be looked at; infinity less infinity is no number


def dot_product(node: Node, query: Blob, key: Blob, value: Blob, scale: float, mask: Array | Blob | None) -> Blob:
    """softmax(query key' * scale + mask) value, by heads.

    Args:
        node: whose name the layer gets.
        query: of shape (heads, places, size).
        key: of shape (groups, keys, size); the heads of a group are neighbours.
        value: of shape (groups, keys, size of values).
        scale: of the scores.
        mask: of shape (places, keys) or (heads, places, keys).
    """
    inputs = [query, key, value]
    if isinstance(mask, Blob):
        inputs.append(mask)
    elif mask is not None:
        alike = mask.ndim == 3 and all(np.array_equal(mask[0], row) for row in mask[1:])
        numbers = finite(mask[0] if alike else mask)
        inputs.append(node.lowering.hold(numbers, numbers.shape, f"{node.name}/mask"))
    shape = (*query.shape[:2], value.shape[2])
    return node.emit("SDPA", inputs, shape, attn_mask=int(mask is not None), scale=float(scale))


_ATTRIBUTES = {
    "is_causal", "kv_num_heads", "q_num_heads", "scale", "softcap", "qk_matmul_output_mode", "softmax_precision",
}  # fmt: skip


@operator("Attention")
def attention(node: Node) -> None:
    if any(node.is_read(i) for i in range(1, node.outputs)) or any(node.has(i) for i in (4, 5, 6)):
        raise Unsupported("keeps keys and values of earlier runs, or hands out its scores")
    if node.attr("softcap", 0.0):
        raise Unsupported("caps its scores")
    if unknown := node.attributes - _ATTRIBUTES:
        raise Unsupported(f"has {', '.join(sorted(unknown))}")
    shapes = [node.shape(i) for i in range(3)]
    heads, groups = (
        (shapes[0][1], shapes[1][1]) if len(shapes[0]) == 4
        else (int(node.attr("q_num_heads")), int(node.attr("kv_num_heads")))
    )  # fmt: skip
    batch = shapes[0][0]
    query, key, value = (
        by_heads(node, node.blob(i), shape, count)
        for i, (shape, count) in enumerate(zip(shapes, (heads, groups, groups)))
    )
    if len(shapes[1]) == 4:
        of_groups = [_by_groups(node, 1), _by_groups(node, 2)]
        if of_groups[0].shape[0] == of_groups[1].shape[0]:
            key, value = of_groups
    places, keys = query.shape[1], key.shape[1]
    mask = mask_of(node, 3, (batch, heads, places, keys)) if node.has(3) else None
    if node.attr("is_causal", 0):
        below = np.where(np.tri(places, keys, dtype=bool), 0, np.float32(_CAUSAL))
        if isinstance(mask, Blob):
            raise Unsupported("is causal and computes a mask")
        mask = below if mask is None else finite(mask) + below
    if isinstance(mask, np.ndarray) and (mask <= _CAUSAL / 2).all(axis=-1).any():
        raise Unsupported("has places that may look nowhere: ncnn's softmax makes them look everywhere")
    made = dot_product(node, query, key, value, node.attr("scale", 1 / math.sqrt(query.shape[2])), mask)
    node.gives(made if len(shapes[0]) == 4 else joined(node, made, batch))


def by_heads(node: Node, blob: Blob, shape: Shape, heads: int) -> Blob:
    """Queries, keys or values as (batch and heads, places, size)."""
    if len(shape) == 4:
        return node.lowering.view(blob, (shape[0] * shape[1], *shape[2:]))
    batch, places, width = shape
    turned = permuted(node, blob, (batch, places, heads, width // heads), (0, 2, 1, 3))
    return node.lowering.view(turned, (batch * heads, places, width // heads))


def joined(node: Node, blob: Blob, batch: int) -> Blob:
    """The heads beside each other again: (batch, places, heads, size)."""
    heads, places, size = blob.shape
    return permuted(node, blob, (batch, heads // batch, places, size), (0, 2, 1, 3))


def mask_of(node: Node, index: int, scores: Shape) -> Array | Blob:
    """A mask as numbers to add to the scores (batch, heads, places, keys)."""
    shape = node.shape(index)
    constant = node.constant(index)
    if constant is not None:
        numbers = np.where(constant, 0, np.float32(_CAUSAL)) if constant.dtype == bool else finite(constant)
        full = np.broadcast_to(numbers, (*np.broadcast_shapes(shape[:-1], scores[:-1]), shape[-1]))
        if shape[-1] < scores[-1]:  # keys that a shorter mask does not name are not looked at
            full = np.pad(full, [(0, 0)] * (full.ndim - 1) + [(0, scores[-1] - shape[-1])], constant_values=_CAUSAL)
        return np.broadcast_to(full, scores).reshape(scores[0] * scores[1], *scores[2:])
    if shape[-2:] != scores[-2:] or math.prod(shape[:-2]) not in (1, scores[0] * scores[1]):
        raise Unsupported(f"has a mask {list(shape)} for scores {list(scores)}")
    blob = node.blob(index, shape[-2:] if math.prod(shape[:-2]) == 1 else (scores[0] * scores[1], *scores[2:]))
    if node.input_kind(index) == "b":  # 1 where it may look: (mask - 1) * 1e30
        blob = node.emit("BinaryOp", [blob], blob.shape, op_type=1, with_scalar=1, b=1.0)
        blob = node.emit("BinaryOp", [blob], blob.shape, op_type=2, with_scalar=1, b=-_CAUSAL)
    return blob


# ---------------------------------------------------------------------------------------------------------- spelled out


@ends_in("MatMul")
def spelled_out(node: Node) -> bool:
    """softmax(q k' * scale + mask) v, with constant masks; numbers may multiply q and k, too."""
    soft = node.maker(0)
    while soft is not None and soft.op in ("Identity", "Dropout", "Cast"):
        soft = soft.maker(0)
    if soft is None or soft.op != "Softmax" or int(soft.attr("axis", -1)) not in (-1, len(soft.shape(0)) - 1):
        return False
    shape = soft.shape(0)
    scores, factor, mask = _scores(soft)
    if scores is None or not math.isfinite(factor) or factor == 0 or node.constant(1) is not None:
        return False
    q, k, v = scores.shape(0), scores.shape(1), node.shape(1)
    if len(q) < 3 or q[:-2] != k[:-2] or q[:-2] != v[:-2] or any(scores.constant(i) is not None for i in (0, 1)):
        return False
    heads = math.prod(q[:-2])
    if shape[-2:] != (q[-2], k[-1]):
        return False
    reader, index, of_query = _unscaled(scores, 0)
    query = reader.blob(index, (heads, *q[-2:]))
    key, of_key = _key(node, scores, grouped=True)
    value = _by_groups(node, 1)
    if key.shape[0] != value.shape[0]:
        (key, _), value = _key(node, scores, grouped=False), node.blob(1, (heads, *v[-2:]))
    whole = None if mask is None else np.broadcast_to(mask, shape).reshape(heads, q[-2], k[-1])
    node.gives(dot_product(node, query, key, value, factor * of_query * of_key, whole))
    return True


def _key(node: Node, scores: Node, *, grouped: bool) -> tuple[Blob, float]:
    """The keys (heads or groups, places, size) from their transpose, by one Permute at most, and what scales them."""
    reader, index, scale = _unscaled(scores, 1)
    shape = reader.shape(index)
    maker = reader.maker(index)
    while maker is not None and maker.op in _VIEWS and maker.shape(0)[-2:] == shape[-2:]:
        reader, index, maker = maker, 0, maker.maker(0)
    rank = len(reader.shape(index))
    places = [*range(rank - 2), rank - 1, rank - 2]
    if maker is not None and maker.op == "Transpose":
        order = [int(axis) for axis in maker.attr("perm", tuple(reversed(range(rank))))]
        places = [order[axis] for axis in places]
        reader, index, more = _unscaled(maker, 0)
        scale *= more
        if grouped and places == sorted(places):
            return _by_groups(reader, index), scale
    blob = permuted(node, reader.blob(index), reader.shape(index), places)
    return node.lowering.view(blob, (math.prod(shape[:-2]), shape[-1], shape[-2])), scale


def _by_groups(reader: Node, index: int) -> Blob:
    """Keys or values (heads, places, size); where each group was repeated for its heads, (groups, places, size)."""
    shape = reader.shape(index)
    fold = reader.maker(index)
    wide = fold.maker(0) if fold is not None and fold.op == "Reshape" else None
    if wide is not None and wide.op == "Expand" and len(wide.shape(0)) == len(wide.out_shape()) == 5:
        narrow, spread = wide.shape(0), wide.out_shape()
        alone = narrow[2] == 1 and all(narrow[axis] == spread[axis] for axis in (0, 1, 3, 4))
        if alone and spread[3:] == shape[-2:]:
            return wide.blob(0, (narrow[0] * narrow[1], *narrow[3:]))
    return reader.blob(index, (math.prod(shape[:-2]), *shape[-2:]))


_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")


def _scores(soft: Node) -> tuple[Node | None, float, Array | None]:
    """The product of q and k' that a Softmax is of, what it is multiplied with, and what is added."""
    shape, factor = soft.shape(0), 1.0
    mask: Array | None = None
    at = soft.maker(0)
    while at is not None and at.op != "MatMul":
        if not at.alone:
            return None, 0.0, None
        if at.op in ("Mul", "Div"):
            found = product_of(at)
            if len(found.factors) != 1:
                return None, 0.0, None
            factor, at = factor * found.scale, found.factors[0][1]
        elif at.op == "Add":
            for s, m in both_ways(at):
                added = at.constant(m)
                if added is not None and at.shape(s) == at.out_shape():
                    full = np.broadcast_to(finite(added) * np.float32(factor), at.out_shape()).reshape(shape)
                    mask, at = full if mask is None else mask + full, at.maker(s)
                    break
            else:
                return None, 0.0, None
        elif at.op == "Where":
            hidden = _hidden(at, factor)
            if hidden is None:
                return None, 0.0, None
            full = np.where(hidden[1], np.float32(_CAUSAL), np.float32(0)).reshape(shape)
            mask, at = full if mask is None else mask + full, at.maker(hidden[0])
        elif at.op in _VIEWS and at.shape(0)[-2:] == shape[-2:] == at.out_shape()[-2:]:
            at = at.maker(0)
        else:
            return None, 0.0, None
    return at, factor, mask


def _hidden(where: Node, factor: float) -> tuple[int, Array] | None:
    """Which input of a Where is the scores, and where a large negative number takes their place.

    None where that is not known, where the number is not low enough to make the softmax 0, and where a place may look
    nowhere: it would look everywhere then, and nowhere in particular with the scores added.
    """
    condition = where.constant(0)
    if condition is None:
        return None
    for scores, number in ((2, 1), (1, 2)):
        low = scalar(where, number)
        if low is not None and low * factor <= _LOW and where.shape(scores) == where.out_shape():
            hidden = np.broadcast_to(condition if number == 1 else ~condition, where.out_shape())
            return None if hidden.all(axis=-1).any() else (scores, hidden)
    return None


_LOW = -1e4  # far below all scores: its exponential is 0


def _unscaled(node: Node, index: int) -> tuple[Node, int, float]:
    """Who reads the value that an input is a multiple of, as which input, and the number it is multiplied by."""
    maker = node.maker(index)
    if maker is not None and maker.op in ("Mul", "Div"):
        for x, c in both_ways(maker) if maker.op == "Mul" else ((0, 1),):
            number = scalar(maker, c)
            if number and maker.constant(x) is None and maker.shape(x) == maker.out_shape():
                return maker, x, number if maker.op == "Mul" else 1 / number
    return node, index, 1.0


# ----------------------------------------------------------------------------------------------------- rotary embedding


@ends_in("Add")
def rotated(node: Node) -> bool:
    """x * cos + (-x2, x1) * sin, with x1 and x2 the halves of x, and constant angles."""
    for c, s in both_ways(node):
        straight, turned = node.maker(c), node.maker(s)
        if straight is None or turned is None or straight.op != "Mul" or turned.op != "Mul":
            continue
        for (x, cos), (half, sin) in ((p, q) for p in both_ways(straight) for q in both_ways(turned)):
            angles = [straight.constant(cos), turned.constant(sin)]
            if any(angle is None for angle in angles) or not _is_half_turned(turned.maker(half), straight.value(x)):
                continue
            shape = straight.shape(x)
            halves = [_half_of_angles(angle, shape) for angle in angles if angle is not None]
            if len(halves) == 2 and all(found is not None for found in halves):
                blob = straight.blob(x, (math.prod(shape[:-2]), *shape[-2:]))
                cosines, sines = (found for found in halves if found is not None)
                node.gives(_rotary(node, blob, cosines, sines, interleaved=0))
                return True
    return False


def _rotary(node: Node, x: Blob, cos: Array, sin: Array, interleaved: int) -> Blob:
    tables = [node.lowering.hold(t, t.shape, f"{node.name}/{name}") for t, name in ((cos, "cos"), (sin, "sin"))]
    return node.emit("RotaryEmbed", [x, *tables], x.shape, interleaved=interleaved)


def _half_of_angles(angles: Array, shape: Shape) -> Array | None:
    """(places, half of the size), where both halves are alike and every head has the same."""
    places, size = shape[-2:]
    if math.prod(angles.shape[:-2]) != 1 or angles.shape[-1] != size or size % 2:
        return None
    full = np.broadcast_to(angles.reshape(angles.shape[-2:] if angles.ndim > 1 else (1, size)), (places, size))
    half = size // 2
    return full[:, :half] if np.array_equal(full[:, :half], full[:, half:]) else None


def _is_half_turned(node: Node | None, x: str) -> bool:
    """Whether a node is (-x2, x1)."""
    if node is None or node.op != "Concat" or node.inputs != 2 or int(node.attr("axis")) not in (-1, _last(node)):
        return False
    minus = node.maker(0)
    if minus is None or minus.op != "Neg":
        return False
    return _is_half(minus, 0, x, second=True) and _is_half(node, 1, x, second=False)


def _last(node: Node) -> int:
    return len(node.out_shape()) - 1


def _is_half(reader: Node, index: int, x: str, *, second: bool) -> bool:
    """Whether an input is the first or the second half of x along the last axis, by a Slice or a Split."""
    part = reader.maker(index)
    if part is None or part.op not in ("Slice", "Split") or part.value(0) != x:
        return False
    size = part.shape(0)[-1]
    if reader.shape(index) != (*part.shape(0)[:-1], size // 2) or size % 2:
        return False
    if part.op == "Split":
        return part.outputs == 2 and part.output(int(second)) == reader.value(index)
    starts, steps = part.ints("starts", 1), part.ints("steps", 4)
    return starts is not None and starts[0] % size == (size // 2 if second else 0) and steps in (None, (1,))


def _rotary_of_batch(node: Node, x: Blob, cos: Array, sin: Array, interleaved: int) -> Blob:
    """The same with angles (batch, places, half of the size)."""
    if all(np.array_equal(table, table[:1].repeat(len(table), 0)) for table in (cos, sin)):
        return _rotary(node, x, cos[0], sin[0], interleaved)
    heads = x.shape[0] // len(cos)
    shapes = [(heads, *x.shape[1:])] * len(cos)
    parts = node.emit_many("Slice", [x], shapes, slices=(heads,) * len(cos), axis=0)
    made = [_rotary(node, part, c, s, interleaved) for part, c, s in zip(parts, cos, sin, strict=True)]
    return node.emit("Concat", made, x.shape, axis=0)


@operator("RotaryEmbedding")
def rotary_embedding(node: Node) -> None:
    """With angles that are constant, chosen by constant places."""
    cos, sin = (node.needed_constant(i, "angles").astype(np.float32) for i in (1, 2))
    if node.has(3):
        chosen = node.needed_constant(3, "places")
        cos, sin = cos[chosen], sin[chosen]
    node.gives(rotated_by(node, cos, sin))


def rotated_by(node: Node, cos: Array, sin: Array) -> Blob:
    """The first input of a node, rotated by angles (batch, places, half of the size)."""
    shape = node.shape(0)
    heads = shape[1] if len(shape) == 4 else int(node.attr("num_heads"))
    batch, places = shape[0], shape[2] if len(shape) == 4 else shape[1]
    size = shape[3] if len(shape) == 4 else shape[2] // heads
    rotated_size = int(node.attr("rotary_embedding_dim", 0)) or size
    x = by_heads(node, node.blob(0), shape, heads)
    parts = [x]
    if rotated_size != size:
        sizes = (rotated_size, size - rotated_size)
        parts = node.emit_many("Slice", [x], [(*x.shape[:2], s) for s in sizes], slices=sizes, axis=2)
    tables = [table.reshape(len(table), places, -1)[..., : rotated_size // 2] for table in (cos, sin)]
    made = _rotary_of_batch(node, parts[0], tables[0], tables[1], int(node.attr("interleaved", 0)))
    if len(parts) == 2:
        made = node.emit("Concat", [made, parts[1]], x.shape, axis=2)
    return made if len(shape) == 4 else joined(node, made, batch)
