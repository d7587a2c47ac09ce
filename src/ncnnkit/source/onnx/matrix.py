"""Matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .axes import permuted
from .elementwise import combine
from .lowering import Array, Blob, Node, Shape, Unsupported, operator
from .reduce import reduced_over


@operator("MatMul")
def matmul(node: Node) -> None:
    a, b = node.shape(0), node.shape(1)
    weight = node.constant(1)
    if weight is not None and math.prod(b[:-2]) == 1 and len(b) >= 2:
        node.gives(linear(node, a, weight.reshape(b[-2:]).T, None))
        return
    left = node.constant(0)
    if left is not None and math.prod(a[:-2]) == 1 and len(a) >= 2 and math.prod(b[:-2]) == 1 and len(b) >= 2:
        # A constant times a matrix is (b' a')', with the constant as weights.
        x = node.blob(1, b[-2:])
        turned = node.emit("Permute", [x], (b[-1], b[-2]), order_type=1)
        made = inner_product(node, turned, left.reshape(a[-2:]), None)
        node.gives(node.emit("Permute", [made], (a[-2], b[-1]), order_type=1))
        return
    one = a if len(a) > 1 else (1, *a)
    other = b if len(b) > 1 else (*b, 1)
    views = _batches(one, other)
    out = (*(max(x, y) for x, y in zip(views[0][:-2], views[1][:-2])), one[-2], other[-1])
    node.gives(node.emit("MatMul", [node.blob(0, views[0]), node.blob(1, views[1])], out, transB=0))


def _batches(a: Shape, b: Shape) -> tuple[Shape, Shape]:
    """Shapes of both factors with the same number of axes, at most four. Batch axes that broadcast alike are merged."""
    rank = max(len(a), len(b)) - 2
    pairs = list(zip((1,) * (rank - len(a) + 2) + a[:-2], (1,) * (rank - len(b) + 2) + b[:-2]))
    merged: list[list[int]] = []
    for one, other in pairs:
        if (one, other) == (1, 1):
            continue
        kind = 0 if one == other else 1 if other == 1 else 2
        if merged and merged[-1][2] == kind:
            merged[-1][0] *= one
            merged[-1][1] *= other
        else:
            merged.append([one, other, kind])
    if len(merged) > 2:
        raise Unsupported(f"multiplies {list(a)} by {list(b)}")
    return (*(m[0] for m in merged), *a[-2:]), (*(m[1] for m in merged), *b[-2:])


def linear(node: Node, shape: Shape, weight: Array, bias: Array | None) -> Blob:
    """Write an InnerProduct over the last axis of the first input: its product with a constant (outputs, inputs)."""
    rows = math.prod(shape[:-1])
    x = node.blob(0, (shape[-1],) if rows == 1 else (rows, shape[-1]))
    return inner_product(node, x, weight, bias)


def inner_product(node: Node, x: Blob, weight: Array, bias: Array | None) -> Blob:
    """Write an InnerProduct: the last axis of a blob times the transpose of ``weight`` (outputs, inputs), plus bias."""
    weight = np.ascontiguousarray(weight, np.float32)
    return node.emit(
        "InnerProduct",
        [x],
        (*x.shape[:-1], weight.shape[0]),
        {"weight": weight} | ({} if bias is None else {"bias": bias}),
        num_output=weight.shape[0],
        bias_term=int(bias is not None),
        weight_data_size=weight.size,
    )


@operator("Gemm")
def gemm(node: Node) -> None:
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    weight, a = node.constant(1), node.shape(0)
    if weight is None or node.attr("transA", 0):
        node.gives(_general(node, alpha, beta))
        return
    weight = (weight if node.attr("transB", 0) else weight.T) * np.float32(alpha)
    bias = node.constant(2)
    if node.has(2) and (
        bias is None or bias.size not in (1, weight.shape[0]) or bias.shape[-1:] == (1,) != (bias.size,)
    ):
        made = linear(node, a, weight, None)
        _, summed = combine(node, 0, (node.out_shape(), made), (node.shape(2), _scaled(node, bias, beta)))
        assert isinstance(summed, Blob)
        node.gives(summed)
        return
    row = None if bias is None else np.broadcast_to(bias.reshape(-1), (weight.shape[0],)) * np.float32(beta)
    node.gives(linear(node, a, weight, row))


def _scaled(node: Node, bias: Array | None, beta: float) -> Blob | Array:
    if bias is not None:
        return np.asarray(bias * np.float32(beta))
    blob = node.blob(2)
    return blob if beta == 1 else node.emit("BinaryOp", [blob], blob.shape, op_type=2, with_scalar=1, b=beta)


def _general(node: Node, alpha: float, beta: float) -> Blob:
    """Write a Gemm of two computed matrices, or with a transposed first matrix."""
    a, b = node.blob(0, node.shape(0)), node.blob(1, node.shape(1))
    if node.attr("transA", 0):
        a = node.emit("Permute", [a], a.shape[::-1], order_type=1)
    rows, columns = node.out_shape()
    made = node.emit("MatMul", [a, b], (rows, columns), transB=int(node.attr("transB", 0)))
    if alpha != 1:
        made = node.emit("BinaryOp", [made], made.shape, op_type=2, with_scalar=1, b=alpha)
    if not node.has(2):
        return made
    _, summed = combine(node, 0, (node.out_shape(), made), (node.shape(2), _scaled(node, node.constant(2), beta)))
    assert isinstance(summed, Blob)
    return summed


@operator("Einsum")
def einsum(node: Node) -> None:
    """Write an Einsum of one or two tensors as one matrix product. Axes of only one tensor are summed before."""
    terms, right = _terms(node)
    sides = {letter: side for i, term in enumerate(terms) for letter, side in zip(term, node.shape(i))}
    found: list[tuple[str, Blob]] = []
    for i, term in enumerate(terms):
        others = right + "".join(terms[:i] + terms[i + 1 :])
        summed = [letter for letter in term if letter not in others]
        blob = node.blob(i)
        if summed:  # these axes are moved to the end, and merged
            kept = [letter for letter in term if letter in others]
            shape = tuple(sides[letter] for letter in term)
            blob = permuted(node, blob, shape, [term.index(letter) for letter in (*kept, *summed)])
            size = math.prod(sides[letter] for letter in summed)
            blob = reduced_over(node, node.lowering.view(blob, (math.prod(shape) // size, size)), 0, (1,))
            term = "".join(kept)
        found.append((term, blob))

    def turned(term: str, blob: Blob, order: Sequence[str]) -> Blob:
        return permuted(node, blob, tuple(sides[letter] for letter in term), [term.index(letter) for letter in order])

    if len(found) == 1:
        node.gives(turned(*found[0], right))
        return
    (a, first), (b, second) = found
    batch = [letter for letter in right if letter in a and letter in b]
    rows = [letter for letter in right if letter in a and letter not in b]
    columns = [letter for letter in right if letter in b and letter not in a]
    inner = [letter for letter in a if letter in b and letter not in right]

    def size_of(letters: Sequence[str]) -> int:
        return math.prod(sides[letter] for letter in letters)

    many = (size_of(batch),) if size_of(batch) > 1 else ()
    one = node.lowering.view(turned(a, first, batch + rows + inner), (*many, size_of(rows), size_of(inner)))
    other = node.lowering.view(turned(b, second, batch + inner + columns), (*many, size_of(inner), size_of(columns)))
    made = node.emit("MatMul", [one, other], (*many, size_of(rows), size_of(columns)), transB=0)
    node.gives(turned("".join(batch + rows + columns), made, right))


def _terms(node: Node) -> tuple[list[str], str]:
    """(the letters of each input's axes, those of the output). An ellipsis is replaced by letters."""
    equation = str(node.attr("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) > 2 or len(terms) != node.inputs:
        raise Unsupported(f"computes {equation!r}")
    free = "".join(letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation)
    ranks = [len(node.shape(i)) - len(term.replace("...", "")) if "..." in term else 0 for i, term in enumerate(terms)]
    most = max(ranks)
    terms = [term.replace("...", free[most - rank : most]) for term, rank in zip(terms, ranks)]
    if not arrow:
        letters = "".join(terms)
        single = sorted(x for x in set(letters) - set(free[:most]) if letters.count(x) == 1)
        right = "..." + "".join(single)
    right = right.replace("...", free[:most])
    if any(len(set(term)) != len(term) for term in (*terms, right)):
        raise Unsupported(f"takes the diagonal in {equation!r}")
    for letter in set("".join(terms)):
        if len({side for i, term in enumerate(terms) for x, side in zip(term, node.shape(i)) if x == letter}) > 1:
            raise Unsupported(f"broadcasts in {equation!r}")
    return terms, right
