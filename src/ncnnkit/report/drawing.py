"""Draws a network: layers from top to bottom, each below its inputs.

It is a layered drawing: ranks, an order in each rank with few crossing edges, then horizontal positions. These minimise
the squared distances to the neighbours' positions under the order and the minimum distances, by pooling adjacent
violators. Source: Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures",
1981.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 148, 26
"""Size of a layer, in units of the drawing."""
DOWN, APART, BEND = 50, 20, 14  # distances of ranks, of layers in a rank, and of passing edges
SWEEPS = 6
MOST_BENDS = 20_000
"""The largest number of bends. Edges that pass ranks bend around the layers there; with more bends, all edges are
straight."""
_STIFF = 6.0  # weight of straight passing edges, relative to edges between layers


@dataclass(frozen=True)
class Drawing:
    """The positions of the layers and the edges.

    Attributes:
        places: the centre of each layer.
        edges: (producer, reader, the points from one to the other).
        width, height: the size of the drawing.
    """

    places: list[tuple[float, float]]
    edges: list[tuple[int, int, list[tuple[float, float]]]]
    width: float
    height: float


def draw(reads: Sequence[Sequence[int]]) -> Drawing:
    """Place the layers of a network.

    Args:
        reads: for each layer, the indices of the layers that it reads; all are smaller than its own.

    Example:
        >>> draw([[], [0]]).places
        [(74.0, 13.0), (74.0, 63.0)]
    """
    ranks = _ranks(reads)
    rows, parents, chains = _rows(reads, ranks)
    children: list[list[int]] = [[] for _ in parents]
    for node, above in enumerate(parents):
        for parent in above:
            children[parent].append(node)
    count = len(reads)
    _order(rows, parents, children)
    x = _across(rows, parents, children, lambda node: float(WIDTH if node < count else BEND), count)
    y = {node: rank * DOWN + HEIGHT / 2 for rank, row in enumerate(rows) for node in row}
    left = min((x[node] - WIDTH / 2 for node in range(count)), default=0.0)
    right = max((x[node] + WIDTH / 2 for node in range(count)), default=0.0)
    edges = []
    for reader, sources in enumerate(reads):
        for source in sources:
            bends = chains.get(source, [])[: ranks[reader] - ranks[source] - 1]
            points = [(x[source] - left, y[source] + HEIGHT / 2)]
            points += [(x[bend] - left, y[bend]) for bend in bends]
            points.append((x[reader] - left, y[reader] - HEIGHT / 2))
            edges.append((source, reader, _without_straight(points)))
    places = [(x[node] - left, y[node]) for node in range(count)]
    return Drawing(places, edges, right - left, len(rows) * DOWN - (DOWN - HEIGHT))


def _ranks(reads: Sequence[Sequence[int]]) -> list[int]:
    """The rank of each layer: one below the deepest layer that it reads; without inputs, just above its first
    reader."""
    ranks: list[int] = []
    for sources in reads:
        ranks.append(max((ranks[source] + 1 for source in sources), default=0))
    first: dict[int, int] = {}
    for reader, sources in enumerate(reads):
        for source in sources:
            first[source] = min(first.get(source, ranks[reader]), ranks[reader])
    return [
        max(first.get(layer, 1) - 1, 0) if not sources else rank
        for layer, (sources, rank) in enumerate(zip(reads, ranks))
    ]


def _rows(
    reads: Sequence[Sequence[int]], ranks: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], dict[int, list[int]]]:
    """(the nodes of each rank, the parents of each node, the bends of each layer's edges from top to bottom).

    Edges from one layer share their bends.
    """
    rows: list[list[int]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for layer, rank in enumerate(ranks):
        rows[rank].append(layer)
    parents: list[list[int]] = [[] for _ in reads]
    furthest: dict[int, int] = {}
    for reader, sources in enumerate(reads):
        for source in sources:
            furthest[source] = max(furthest.get(source, 0), ranks[reader])
    bent = sum(max(0, rank - ranks[source] - 1) for source, rank in furthest.items()) <= MOST_BENDS
    chains: dict[int, list[int]] = {}
    for source, rank in furthest.items() if bent else ():
        chains[source] = []
        for between in range(ranks[source] + 1, rank):
            parents.append([chains[source][-1] if chains[source] else source])
            chains[source].append(len(parents) - 1)
            rows[between].append(len(parents) - 1)
    for reader, sources in enumerate(reads):
        for source in sources:
            passed = ranks[reader] - ranks[source] - 1
            chain = chains.get(source, [])[:passed]
            if chain or passed == 0:
                parents[reader].append(chain[-1] if chain else source)
    return rows, parents, chains


def _order(rows: list[list[int]], parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]]) -> None:
    """Sort each row by the mean position of the neighbours above it, then below it, several times."""
    place = {node: float(i) for row in rows for i, node in enumerate(row)}
    for sweep in range(SWEEPS):
        neighbours = parents if sweep % 2 == 0 else children
        for row in rows if sweep % 2 == 0 else reversed(rows):
            means = {
                node: sum(place[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else place[node]
                for node in row
            }
            row.sort(key=lambda node: means[node])
            place.update((node, float(i)) for i, node in enumerate(row))


def _across(
    rows: Sequence[Sequence[int]],
    parents: Sequence[Sequence[int]],
    children: Sequence[Sequence[int]],
    size: Callable[[int], float],
    count: int,
) -> dict[int, float]:
    """The horizontal position of each node: near its neighbours, in the order of its row, without overlaps."""
    x: dict[int, float] = {}
    for row in rows:
        right = 0.0
        for node in row:
            x[node] = right + size(node) / 2
            right += size(node) + APART
    for sweep in range(2 * SWEEPS):
        neighbours = parents if sweep % 2 == 0 else children
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [
                sum(x[other] for other in neighbours[node]) / len(neighbours[node]) if neighbours[node] else x[node]
                for node in row
            ]
            gaps = [(size(a) + size(b)) / 2 + APART for a, b in itertools.pairwise(row)]
            weights = [1.0 if node < count else _STIFF for node in row]
            x.update(zip(row, _spread(wanted, gaps, weights)))
    return x


def _spread(wanted: Sequence[float], gaps: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The positions closest to the wanted ones (weighted least squares), in order and at least the gaps apart."""
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, number of nodes)
    for want, offset, weight in zip(wanted, offsets, weights):
        block = (want - offset, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, total, many = blocks.pop()
            joined = total + block[1]
            block = ((mean * total + block[0] * block[1]) / joined, joined, many + block[2])
        blocks.append(block)
    means = [mean for mean, _, many in blocks for _ in range(many)]
    return [mean + offset for mean, offset in zip(means, offsets)]


def _without_straight(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same line without points in the middle of vertical segments."""
    return [
        point
        for i, point in enumerate(points)
        if i in (0, len(points) - 1) or not (abs(points[i - 1][0] - point[0]) < 0.5 > abs(points[i + 1][0] - point[0]))
    ]


def path(points: Sequence[tuple[float, float]]) -> str:
    """The ``d`` of an SVG path through points: it leaves and reaches each of them downwards."""
    text = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        if abs(x - to_x) < 0.5:
            text += f"V{to_y:.0f}"
        else:
            middle = (y + to_y) / 2
            text += f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
    return text
