"""Rewrites Einsums that are matrix products as MatMul, so that patterns need to know only one form."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def write_out(graph: ir.Graph) -> None:
    """Replace each Einsum that is one matrix product, with axes in any order, by Transposes and a MatMul.

    Other Einsums stay: those that sum over several axes, that have several row axes, or that have an ellipsis.
    """
    for node in list(graph):
        if node.op_type != "Einsum" or node.domain or None in node.inputs:
            continue
        orders = _orders(node.attributes["equation"].as_string().replace(" ", ""))
        if orders is not None:
            _replace(graph, node, *orders)


def _orders(equation: str) -> tuple[bool, list[int], list[int], list[int]] | None:
    """(whether the factors are swapped, permutation of the first factor, of the second, of the product).

    None if the equation is not one matrix product.
    """
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    plain = all(term.isalpha() and len(set(term)) == len(term) for term in (*terms, right))
    if not arrow or len(terms) != 2 or not plain:
        return None
    a, b = terms
    batch = [letter for letter in right if letter in a and letter in b]
    rows, columns = ([letter for letter in one if letter not in other] for one, other in ((a, b), (b, a)))
    inner = [letter for letter in a if letter in b and letter not in right]
    if not len(rows) == len(columns) == len(inner) == 1 or not set(rows + columns) <= set(right):
        return None
    swapped = right.index(rows[0]) > right.index(columns[0])
    if swapped:
        a, b, rows, columns = b, a, columns, rows
    made = batch + rows + columns
    return (
        swapped,
        [a.index(letter) for letter in batch + rows + inner],
        [b.index(letter) for letter in batch + inner + columns],
        [made.index(letter) for letter in right],
    )


def _replace(graph: ir.Graph, node: ir.Node, swapped: bool, a: list[int], b: list[int], back: list[int]) -> None:
    new: list[ir.Node] = []

    def transposed(value: ir.Value | None, order: Sequence[int]) -> ir.Value | None:
        if value is None or list(order) == sorted(order):
            return value
        new.append(ir.node("Transpose", [value], {"perm": list(order)}))
        return new[-1].outputs[0]

    first, second = reversed(node.inputs) if swapped else node.inputs
    new.append(ir.node("MatMul", [transposed(first, a), transposed(second, b)], name=node.name))
    made = transposed(new[-1].outputs[0], back)
    assert made is not None
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, [made])
