"""Attention, as one operator or as a group of nodes, and rotary embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .axes import permuted
from .elementwise import finite
from .groups import MOVES, Group, groups_of
from .lowering import Array, Blob, Node, Shape, Unsupported, operator
from .patterns import both_ways, ends_in, product_of, scalar

_CAUSAL = -1e30  # score of a masked key. It is finite, because infinity minus infinity is NaN


def dot_product(node: Node, query: Blob, key: Blob, value: Blob, scale: float, mask: Array | Blob | None) -> Blob:
    """Write softmax(query key' * scale + mask) value for each head.

    Args:
        node: the node that gives the layer its name.
        query: of shape (heads, queries, size).
        key: of shape (groups, keys, size). The heads of a group are consecutive.
        value: of shape (groups, keys, size of values).
        scale: of the scores.
        mask: of shape (queries, keys) or (heads, queries, keys); it is added to the scores.
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
    """Write ONNX's Attention, including cached keys and values and a soft cap of the scores."""
    if node.is_read(3):
        raise Unsupported("returns its scores")
    if node.has(6):
        raise Unsupported("gets the number of its keys at run time")
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
    past = 0
    if node.has(4):
        past = node.shape(4)[2]
        key, value = (_continued(node, i, part) for i, part in ((4, key), (5, value)))
    elif len(shapes[1]) == 4:
        of_groups = [_by_groups(node, 1), _by_groups(node, 2)]
        if of_groups[0].shape[0] == of_groups[1].shape[0]:
            key, value = of_groups
    places, keys = query.shape[1], key.shape[1]
    mask = mask_of(node, 3, (batch, heads, places, keys)) if node.has(3) else None
    if node.attr("is_causal", 0):
        if past and places != keys - past:  # runtimes disagree on which keys each query may attend to
            raise Unsupported("is causal with cached keys, and has different numbers of new keys and queries")
        below = np.where(np.tri(places, keys, past, dtype=bool), 0, np.float32(_CAUSAL))
        if isinstance(mask, Blob):
            raise Unsupported("is causal, and has a mask that is not constant")
        mask = below if mask is None else finite(mask) + below
    if isinstance(mask, np.ndarray) and (mask <= _CAUSAL / 2).all(axis=-1).any():
        raise Unsupported("has queries without an allowed key, which ncnn's softmax would let attend to all keys")
    scale, cap = node.attr("scale", 1 / math.sqrt(query.shape[2])), node.attr("softcap", 0.0)
    write = partial(_capped, cap=cap) if cap else dot_product
    made = write(node, query, key, value, scale, mask)
    node.gives(made if len(shapes[0]) == 4 else joined(node, made, batch), key, value)


def _continued(node: Node, index: int, blob: Blob) -> Blob:
    """Append keys or values (groups, positions, size) to the cached ones, which are an input."""
    batch, groups, past, size = node.shape(index)
    if not past:
        return blob
    earlier = node.blob(index, (batch * groups, past, size))
    return node.emit("Concat", [earlier, blob], (batch * groups, past + blob.shape[1], size), axis=1)


def _capped(
    node: Node, query: Blob, key: Blob, value: Blob, scale: float, mask: Array | Blob | None, *, cap: float
) -> Blob:
    """Write softmax(tanh(query key' * scale / cap) * cap + mask) value. Arguments are those of :func:`dot_product`."""
    (heads, places, size), (groups, keys, _) = query.shape, key.shape
    rows = heads // groups * places  # the heads of a group are consecutive, so their rows are one matrix
    scores = node.emit("MatMul", [node.lowering.view(query, (groups, rows, size)), key], (groups, rows, keys), transB=1)
    for kind, params in (
        ("BinaryOp", {"op_type": 2, "with_scalar": 1, "b": float(scale / cap)}),
        ("TanH", {}),
        ("BinaryOp", {"op_type": 2, "with_scalar": 1, "b": float(cap)}),
    ):
        scores = node.emit(kind, [scores], scores.shape, **params)
    if mask is not None:
        shape = (1,) * (3 - len(mask.shape)) + tuple(mask.shape)
        added = (
            node.lowering.view(mask, shape) if isinstance(mask, Blob)
            else node.lowering.hold(finite(mask), shape, f"{node.name}/mask")
        )  # fmt: skip
        scores = node.lowering.view(scores, (heads, places, keys))
        scores = node.emit("BinaryOp", [scores, added], scores.shape, op_type=0)
        scores = node.lowering.view(scores, (groups, rows, keys))
    weights = node.emit("Softmax", [scores], scores.shape, axis=2, fixbug0=1)
    made = node.emit("MatMul", [weights, value], (groups, rows, value.shape[2]), transB=0)
    return node.lowering.view(made, (heads, places, value.shape[2]))


def by_heads(node: Node, blob: Blob, shape: Shape, heads: int) -> Blob:
    """Queries, keys or values as (batch * heads, positions, size)."""
    if len(shape) == 4:
        return node.lowering.view(blob, (shape[0] * shape[1], *shape[2:]))
    batch, places, width = shape
    turned = permuted(node, blob, (batch, places, heads, width // heads), (0, 2, 1, 3))
    return node.lowering.view(turned, (batch * heads, places, width // heads))


def joined(node: Node, blob: Blob, batch: int) -> Blob:
    """Join the heads again: (batch, positions, heads, size)."""
    heads, places, size = blob.shape
    return permuted(node, blob, (batch, heads // batch, places, size), (0, 2, 1, 3))


def mask_of(node: Node, index: int, scores: Shape) -> Array | Blob:
    """A mask as numbers that are added to the scores (batch, heads, queries, keys)."""
    shape = node.shape(index)
    constant = node.constant(index)
    if constant is not None:
        numbers = np.where(constant, 0, np.float32(_CAUSAL)) if constant.dtype == bool else finite(constant)
        full = np.broadcast_to(numbers, (*np.broadcast_shapes(shape[:-1], scores[:-1]), shape[-1]))
        if shape[-1] < scores[-1]:  # a shorter mask excludes the remaining keys
            full = np.pad(full, [(0, 0)] * (full.ndim - 1) + [(0, scores[-1] - shape[-1])], constant_values=_CAUSAL)
        return np.broadcast_to(full, scores).reshape(scores[0] * scores[1], *scores[2:])
    if shape[-2:] != scores[-2:] or math.prod(shape[:-2]) not in (1, scores[0] * scores[1]):
        raise Unsupported(f"has a mask {list(shape)} for scores {list(scores)}")
    blob = node.blob(index, shape[-2:] if math.prod(shape[:-2]) == 1 else (scores[0] * scores[1], *scores[2:]))
    if node.input_kind(index) == "b":  # 1 for an allowed key: (mask - 1) * 1e30
        blob = node.emit("BinaryOp", [blob], blob.shape, op_type=1, with_scalar=1, b=1.0)
        blob = node.emit("BinaryOp", [blob], blob.shape, op_type=2, with_scalar=1, b=-_CAUSAL)
    return blob


# ---------------------------------------------------------------------------------------------------------- spelled out


@ends_in("MatMul")
def spelled_out(node: Node) -> bool:
    """A group of nodes that computes softmax(q k' * scale + mask) v. q and k may be multiplied by scalars, too."""
    soft = node.maker(0)
    while soft is not None and soft.op in ("Identity", "Dropout", "Cast") and soft.alone:
        soft = soft.maker(0)
    if (
        soft is None
        or not soft.alone
        or soft.op != "Softmax"
        or int(soft.attr("axis", -1)) not in (-1, len(soft.shape(0)) - 1)
    ):
        return False
    shape = soft.shape(0)
    found = _scores(soft.maker(0), shape, 1.0)
    if found is None or not math.isfinite(found.factor) or found.factor == 0 or node.constant(1) is not None:
        return False
    scores = found.product
    q, k, v = scores.shape(0), scores.shape(1), node.shape(1)
    if len(q) < 3 or q[:-2] != k[:-2] or q[:-2] != v[:-2] or any(scores.constant(i) is not None for i in (0, 1)):
        return False
    heads = math.prod(q[:-2])
    if shape[-2:] != (q[-2], k[-1]):
        return False
    mask = found.mask if found.computed is None else _computed_mask(*found.computed, (heads, *shape[-2:]))
    if found.computed is not None and (mask is None or found.mask is not None):
        return False
    reader, index, of_query = _unscaled(scores, 0)
    query = reader.blob(index, (heads, *q[-2:]))
    key, of_key = _key(node, scores, grouped=True)
    value = _by_groups(node, 1)
    if key.shape[0] != value.shape[0]:
        (key, _), value = _key(node, scores, grouped=False), node.blob(1, (heads, *v[-2:]))
    if found.of_heads is not None:
        scale = node.lowering.hold(found.of_heads, (heads, 1, 1), f"{node.name}/scale")
        query = node.emit("BinaryOp", [query, scale], query.shape, op_type=2)
    if isinstance(mask, np.ndarray):
        mask = np.broadcast_to(mask, shape).reshape(heads, q[-2], k[-1])
    node.gives(dot_product(node, query, key, value, found.factor * of_query * of_key, mask))
    return True


def _key(node: Node, scores: Node, *, grouped: bool) -> tuple[Blob, float]:
    """(keys (heads or groups, keys, size) from their transpose, their scale). At most one Permute is written."""
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
    """Keys or values (heads, positions, size), or (groups, positions, size) if groups are repeated for their heads."""
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


@dataclass(frozen=True)
class _Scores:
    """Scores of attention: product * factor * of_heads + mask + computed.

    Attributes:
        product: the MatMul of q and k'.
        factor: a number.
        of_heads: (batch * heads,), a factor for each head; None if there is none.
        mask: constant, of the shape of the Softmax; None if there is none.
        computed: the Add of a mask that is not constant, and the index of the mask among its inputs.
    """

    product: Node
    factor: float
    of_heads: Array | None = None
    mask: Array | None = None
    computed: tuple[Node, int] | None = None

    def plus(self, mask: Array) -> _Scores:
        return replace(self, mask=mask if self.mask is None else self.mask + mask)


def _scores(at: Node | None, shape: Shape, factor: float) -> _Scores | None:
    """Read the output of a node as scores. None if it is something else, or has other readers.

    Args:
        at: the node.
        shape: of the Softmax.
        factor: by which the output is multiplied.
    """
    if at is None or not at.alone:
        return None
    if at.op == "MatMul":
        return _Scores(at, factor)
    if at.op == "Mul" and (by_head := _by_head(at)) is not None:
        found = _scores(at.maker(by_head[0]), shape, factor)
        alone = found is not None and found.of_heads is None and found.mask is None and found.computed is None
        return replace(found, of_heads=by_head[1]) if found is not None and alone else None
    if at.op in ("Mul", "Div"):
        product = product_of(at)
        return _scores(product.factors[0][1], shape, factor * product.scale) if len(product.factors) == 1 else None
    if at.op in _VIEWS and at.shape(0)[-2:] == shape[-2:] == at.out_shape()[-2:]:
        return _scores(at.maker(0), shape, factor)
    if at.op == "Where":
        hidden = _hidden(at, factor)
        found = None if hidden is None else _scores(at.maker(hidden[0]), shape, factor)
        if found is None or hidden is None:
            return None
        return found.plus(np.where(hidden[1], np.float32(_CAUSAL), np.float32(0)).reshape(shape))
    if at.op == "Add":
        for s, m in both_ways(at):
            found = _scores(at.maker(s), shape, factor) if at.shape(s) == at.out_shape() else None
            added = at.constant(m)
            if found is not None and added is not None:
                return found.plus(np.broadcast_to(finite(added) * np.float32(factor), at.out_shape()).reshape(shape))
            if found is not None and factor == 1 and found.computed is None:
                return replace(found, computed=(at, m))
    return None


def _by_head(product: Node) -> tuple[int, Array] | None:
    """(index of the scores among the inputs of a Mul, factor of each head); None if it does not scale by head."""
    shape = product.out_shape()
    for s, c in both_ways(product):
        scale = product.constant(c)
        if scale is not None and scale.size > 1 and (1, 1, *scale.shape)[-2:] == (1, 1) and product.shape(s) == shape:
            return s, np.broadcast_to(scale, (*shape[:-2], 1, 1)).reshape(-1)
    return None


def _computed_mask(node: Node, index: int, scores: Shape) -> Blob | None:
    """The mask that a node adds to scores (heads, queries, keys); None if its shape does not fit them."""
    shape = (1, 1, *node.shape(index))
    sides, lead = shape[-2:], math.prod(shape[:-2])
    if sides[1] != scores[2] or sides[0] not in (1, scores[1]) or lead not in (1, scores[0]):
        return None
    blob = node.blob(index, sides if lead == 1 else (lead, *sides))
    if sides[0] == scores[1]:
        return blob
    full = (*blob.shape[:-2], *scores[1:])
    nothing = node.lowering.hold(np.zeros(full), full, f"{node.name}/places")
    return node.emit("BinaryOp", [nothing, blob], full, op_type=0)


def _hidden(where: Node, factor: float) -> tuple[int, Array] | None:
    """(index of the scores among the inputs of a Where, where they are replaced by a large negative number).

    None if the number is not low enough to make the softmax 0, and if a query has no allowed key. With replaced scores,
    such a query attends to all keys equally. A mask that is added to the scores does not guarantee that.
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


_LOW = -1e4  # far below all scores, so that its exponential is 0


def _unscaled(node: Node, index: int) -> tuple[Node, int, float]:
    """Skip a multiplication by a scalar before an input: (reader of the factor, index of its input, the scalar)."""
    maker = node.maker(index)
    if maker is not None and maker.op in ("Mul", "Div"):
        for x, c in both_ways(maker) if maker.op == "Mul" else ((0, 1),):
            number = scalar(maker, c)
            if number and maker.constant(x) is None and maker.shape(x) == maker.out_shape():
                return maker, x, number if maker.op == "Mul" else 1 / number
    return node, index, 1.0


# ----------------------------------------------------------------------------------------------------- rotary embedding


@ends_in("Add", "Concat")
def rotated(node: Node) -> bool:
    """A group of nodes that computes a rotary embedding: x1 * cos - x2 * sin and x2 * cos + x1 * sin.

    x1 and x2 are the halves of x, or its even and odd elements. The angles are constant.
    """
    for group in groups_of(node, MOVES):
        size = group.shape[-1] if group.shape else 0
        if not group.same_size or size % 2 or size < 4 or not (group.has({"Concat"}) and group.has({"Mul"})):
            continue
        for interleaved in (0, 1):
            angles = _angles(group, interleaved)
            if angles is not None:
                places, tables = _repeated(group.shape[:-1], np.stack(angles))
                x = node.lowering.view(node.blob_of(group.x), (math.prod(group.shape[:-1]) // places, places, size))
                node.gives(_rotary(node, x, tables[0], tables[1], interleaved))
                return True
    return False


def _angles(group: Group, interleaved: int) -> tuple[Array, Array] | None:
    """The cosines and sines (rows, size / 2) by which a group rotates; None if it computes something else."""
    size = group.shape[-1]
    rows, half = math.prod(group.shape[:-1]), size // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))

    def turned(x: Array) -> Array:
        return group(x.reshape(group.shape)).reshape(rows, size)

    ones = np.zeros((rows, size))
    ones[:, first] = 1
    cos, sin = turned(ones)[:, first], turned(ones)[:, second]
    x = np.random.default_rng(0).normal(size=(rows, size))
    wanted = np.empty_like(x)
    wanted[:, first] = x[:, first] * cos - x[:, second] * sin
    wanted[:, second] = x[:, second] * cos + x[:, first] * sin
    # If all angles are multiples of 90 degrees, the group only moves elements, and needs no tables.
    return (cos, sin) if cos.any() and sin.any() and np.allclose(turned(x), wanted, rtol=1e-6, atol=1e-6) else None


def _repeated(shape: Shape, tables: Array) -> tuple[int, Array]:
    """(the number of rows after which the angles repeat, the tables of these rows). The period is a product of axes."""
    for axis in reversed(range(len(shape) + 1)):
        places = math.prod(shape[axis:])
        parts = tables.reshape(2, -1, places, tables.shape[-1])
        if np.array_equal(parts, np.broadcast_to(parts[:, :1], parts.shape)):
            return places, parts[:, 0]
    raise AssertionError("all rows together repeat")


def _rotary(node: Node, x: Blob, cos: Array, sin: Array, interleaved: int) -> Blob:
    tables = [node.lowering.hold(t, t.shape, f"{node.name}/{name}") for t, name in ((cos, "cos"), (sin, "sin"))]
    return node.emit("RotaryEmbed", [x, *tables], x.shape, interleaved=interleaved)


def _rotary_of_batch(node: Node, x: Blob, cos: Array, sin: Array, interleaved: int) -> Blob:
    """Write a rotary embedding with angles (batch, positions, size / 2)."""
    if all(np.array_equal(table, table[:1].repeat(len(table), 0)) for table in (cos, sin)):
        return _rotary(node, x, cos[0], sin[0], interleaved)
    heads = x.shape[0] // len(cos)
    parts = node.split(x, [heads] * len(cos), 0)
    made = [_rotary(node, part, c, s, interleaved) for part, c, s in zip(parts, cos, sin, strict=True)]
    return node.emit("Concat", made, x.shape, axis=0)


@operator("RotaryEmbedding")
def rotary_embedding(node: Node) -> None:
    """Write ONNX's RotaryEmbedding with constant angles and constant positions."""
    cos, sin = (node.needed_constant(i, "angles").astype(np.float32) for i in (1, 2))
    if node.has(3):
        chosen = node.needed_constant(3, "positions")
        cos, sin = cos[chosen], sin[chosen]
    node.gives(rotated_by(node, cos, sin))


def rotated_by(node: Node, cos: Array, sin: Array) -> Blob:
    """Rotate the first input of a node by angles (batch, positions, size / 2)."""
    shape = node.shape(0)
    heads = shape[1] if len(shape) == 4 else int(node.attr("num_heads"))
    batch, places = shape[0], shape[2] if len(shape) == 4 else shape[1]
    size = shape[3] if len(shape) == 4 else shape[2] // heads
    rotated_size = int(node.attr("rotary_embedding_dim", 0)) or size
    x = by_heads(node, node.blob(0), shape, heads)
    sizes = [rotated_size] if rotated_size == size else [rotated_size, size - rotated_size]
    parts = node.split(x, sizes, 2)
    tables = [table.reshape(len(table), places, -1)[..., : rotated_size // 2] for table in (cos, sin)]
    made = _rotary_of_batch(node, parts[0], tables[0], tables[1], int(node.attr("interleaved", 0)))
    if len(parts) == 2:
        made = node.emit("Concat", [made, parts[1]], x.shape, axis=2)
    return made if len(shape) == 4 else joined(node, made, batch)
