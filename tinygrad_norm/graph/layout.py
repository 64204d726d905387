"""Where the boxes of a graph stand and how its arrows run: a layered drawing (Sugiyama, Tagawa & Toda 1981).

    1. ranks       each box one row below the lowest box it reads (longest path); leaves just above their first reader
    2. chains      an arrow over several rows becomes a chain of narrow stand-ins, one a row: so it has a column of its own past the boxes
    3. order       in each row by the mean place of the neighbours (barycentre), down and up, keeping the order with the fewest crossings
    4. places      each row as near as it can be to its neighbours without changing its order or touching: a least-squares problem that
                   pooling adjacent violators solves exactly
    5. arrows      curves between the rows, straight lines along them: nothing ever crosses a box

Nothing here knows what the boxes are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Layout", "layout"]

GAP = 22.0  # between boxes of a row
CHAIN = 12.0  # what a passing arrow takes
LABEL = 17.0  # the height above a box in which arrows run straight down, with their labels at their right
PORT = 14.0  # between arrows that leave one box
SWEEPS, SETTLING = 12, 80  # down and up again, for the order and for the places

Point = tuple[float, float]


class Layout(NamedTuple):
    """The result, in pixels.

    Attributes:
        corners: the upper left corner of each box. widths: of the boxes.
        paths: for each arrow the points it runs through, alternately the start and the end of a straight piece.
        width, height: of the whole.
    """

    corners: list[Point]
    widths: list[float]
    paths: list[list[Point]]
    width: float
    height: float


def layout(sizes: Sequence[tuple[float, float]], arrows: Sequence[tuple[int, int]], labels: Sequence[float]) -> Layout:
    """Places boxes in rows, arrows from top to bottom.

    Args:
        sizes: the least width, and the height of each box; it is made wide enough for the labels of what arrives.
        arrows: (start, end), numbers of boxes; no circles.
        labels: the width of each arrow's label.
    """
    wide = _widths(sizes, arrows, labels)
    rank = _ranks(len(sizes), arrows)
    rows, chains = _chains(rank, arrows)
    vertices = sum(map(len, rows))
    links = [(u, v) for chain in chains for u, v in itertools.pairwise(chain)]
    rows = _order(rows, links, vertices)
    place = {v: i for row in rows for i, v in enumerate(row)}
    level = {v: r for r, row in enumerate(rows) for v in row}
    half = [wide[v] / 2 if v < len(sizes) else CHAIN / 2 for v in range(vertices)]
    leaving, arriving = _ports(len(sizes), arrows, chains, place, labels)
    x = _places(rows, level, chains, half, leaving, arriving, len(sizes))

    shift = 8 - min(x[v] - half[v] for v in range(vertices)) if vertices else 0
    x = [value + shift for value in x]
    tops, bottoms = _row_heights(rows, level, sizes, chains, x, leaving, arriving)
    paths = []
    for k, chain in enumerate(chains):
        first, last = chain[0], chain[-1]
        path = [(x[first] + leaving[k], tops[level[first]] + sizes[first][1]), (x[first] + leaving[k], bottoms[level[first]])]
        for v in chain[1:-1]:
            path += [(x[v], tops[level[v]] - LABEL), (x[v], bottoms[level[v]])]
        path += [(x[last] + arriving[k], tops[level[last]] - LABEL), (x[last] + arriving[k], tops[level[last]])]
        paths.append(path)
    corners = [(x[v] - half[v], tops[level[v]]) for v in range(len(sizes))]
    width = max((x[v] + half[v] for v in range(vertices)), default=0.0) + 8
    return Layout(corners, wide, paths, width, (bottoms[-1] if bottoms else 0.0) + 8)


def _widths(sizes: Sequence[tuple[float, float]], arrows: Sequence[tuple[int, int]], labels: Sequence[float]) -> list[float]:
    """How wide each box must be for its text and for the labels of the arrows that arrive."""
    arriving: list[list[float]] = [[] for _ in sizes]
    leaving = [0] * len(sizes)
    for (start, end), label in zip(arrows, labels):
        arriving[end].append(label)
        leaving[start] += 1
    return [
        max(width, sum(n + PORT for n in ns) if len(ns) > 1 else 2 * (ns[0] + 8) if ns else 0, leaving[i] * PORT + 8)
        for i, ((width, _), ns) in enumerate(zip(sizes, arriving))
    ]


# -- 1. Ranks -----------------------------------------------------------------------------------------------------------------------------


def _ranks(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    below: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for start, end in arrows:
        below[start].append(end)
        waits[end] += 1
    sources = [v for v in range(count) if not waits[v]]
    rank = [0] * count
    ready = list(sources)
    while ready:
        v = ready.pop()
        for w in below[v]:
            rank[w] = max(rank[w], rank[v] + 1)
            waits[w] -= 1
            if not waits[w]:
                ready.append(w)
    for v in sources:
        if below[v]:
            rank[v] = min(rank[w] for w in below[v]) - 1
    return rank


# -- 2. Chains ----------------------------------------------------------------------------------------------------------------------------


def _chains(rank: list[int], arrows: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    """The rows of vertices, and each arrow as the vertices it runs through; numbers from len(rank) on are stand-ins."""
    rows: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for v, r in enumerate(rank):
        rows[r].append(v)
    fresh = len(rank)
    chains = []
    for start, end in arrows:
        chain = [start]
        for r in range(rank[start] + 1, rank[end]):
            rows[r].append(fresh)
            chain.append(fresh)
            fresh += 1
        chains.append([*chain, end])
    return rows, chains


# -- 3. Order -----------------------------------------------------------------------------------------------------------------------------


def _order(rows: list[list[int]], links: list[tuple[int, int]], count: int) -> list[list[int]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for u, v in links:
        below[u].append(v)
        above[v].append(u)
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        rows = [list(row) for row in rows]
        down = sweep % 2 == 0
        for r in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            neighbours = above if down else below
            place = {v: i for i, v in enumerate(rows[r - 1 if down else r + 1])}
            own = {v: float(i) for i, v in enumerate(rows[r])}
            for v in rows[r]:
                if neighbours[v]:
                    own[v] = sum(place[u] for u in neighbours[v]) / len(neighbours[v])
            rows[r].sort(key=own.__getitem__)  # stable: what is equal keeps its order
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(rows: list[list[int]], below: list[list[int]]) -> int:
    """Pairs of links between two rows that cross."""
    total = 0
    for upper, lower in itertools.pairwise(rows):
        place = {v: i for i, v in enumerate(lower)}
        seen: list[int] = []  # ends of the links of vertices further left
        for v in upper:
            ends = [place[w] for w in below[v]]
            total += sum(1 for e in ends for s in seen if s > e)
            seen += ends
    return total


# -- 4. Places ----------------------------------------------------------------------------------------------------------------------------


def _ports(
    count: int, arrows: Sequence[tuple[int, int]], chains: list[list[int]], place: dict[int, int], labels: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Where each arrow leaves its box and arrives at the next, from the box's middle: in the order of where it goes and comes from."""
    leaving, arriving = [0.0] * len(arrows), [0.0] * len(arrows)
    outs: list[list[int]] = [[] for _ in range(count)]
    ins: list[list[int]] = [[] for _ in range(count)]
    for k, (start, end) in enumerate(arrows):
        outs[start].append(k)
        ins[end].append(k)
    for ks in outs:
        ks.sort(key=lambda k: (place[chains[k][1]], k))
        for i, k in enumerate(ks):
            leaving[k] = (i - (len(ks) - 1) / 2) * PORT
    for ks in ins:
        if len(ks) > 1:
            ks.sort(key=lambda k: (place[chains[k][-2]], k))
            left = -sum(labels[k] + PORT for k in ks) / 2
            for k in ks:
                arriving[k] = left + PORT / 2
                left += labels[k] + PORT
    return leaving, arriving


def _places(
    rows: list[list[int]],
    level: dict[int, int],
    chains: list[list[int]],
    half: list[float],
    leaving: list[float],
    arriving: list[float],
    boxes: int,
) -> list[float]:
    x = [0.0] * len(half)
    for row in rows:
        at = 0.0
        for v in row:
            x[v] = at + half[v]
            at += 2 * half[v] + GAP
        for v in row:
            x[v] -= at / 2
    sources = {chain[0] for chain in chains} - {chain[-1] for chain in chains}
    pulls: list[list[tuple[int, float, float]]] = [[] for _ in half]  # of each vertex: a neighbour, where it wants this one from there, how strongly
    for k, chain in enumerate(chains):
        for i, (u, v) in enumerate(itertools.pairwise(chain)):
            offset = (leaving[k] if i == 0 else 0.0) - (arriving[k] if i == len(chain) - 2 else 0.0)
            strength = 0.1 if chain[0] in sources and len(chain) == 2 else 1.0 + 3 * (u >= boxes and v >= boxes)  # the trunk and long arrows straight
            pulls[v].append((u, offset, strength))
            pulls[u].append((v, -offset, strength))
    for sweep in range(SETTLING):
        order = range(len(rows)) if sweep % 2 == 0 else range(len(rows) - 1, -1, -1)
        whole = sweep >= SWEEPS  # first from one side, then from both
        for r in order:
            wanted, strengths = [], []
            for v in rows[r]:
                near = [p for p in pulls[v] if whole or (level[p[0]] < r) == (sweep % 2 == 0)]
                total = sum(s for _, _, s in near)
                wanted.append(sum((x[u] + d) * s for u, d, s in near) / total if total else x[v])
                strengths.append(total or 0.1)
            for v, value in zip(rows[r], _apart(wanted, strengths, [half[v] for v in rows[r]])):
                x[v] = value
    return x


def _apart(wanted: list[float], strengths: list[float], half: list[float]) -> list[float]:
    """The places nearest to those wanted (least squares) at which neighbours do not touch: pool adjacent violators.

    With the room that the boxes to the left take subtracted, "do not touch" is "ascending".
    """
    taken = [0.0]
    for a, b in itertools.pairwise(half):
        taken.append(taken[-1] + a + b + GAP)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight, before in zip(wanted, strengths, taken):
        mean, members = value - before, 1
        while pools and pools[-1][0] > mean:
            m, w, n = pools.pop()
            mean, weight, members = (mean * weight + m * w) / (weight + w), weight + w, members + n
        pools.append((mean, weight, members))
    flat = [mean for mean, _, members in pools for _ in range(members)]
    return [a + b for a, b in zip(flat, taken)]


# -- 5. Rows ------------------------------------------------------------------------------------------------------------------------------


def _row_heights(
    rows: list[list[int]],
    level: dict[int, int],
    sizes: Sequence[tuple[float, float]],
    chains: list[list[int]],
    x: list[float],
    leaving: list[float],
    arriving: list[float],
) -> tuple[list[float], list[float]]:
    """Top and bottom of each row; the gap above one grows with how far the arrows in it must go sideways."""
    sideways = [0.0] * len(rows)
    for k, chain in enumerate(chains):
        for i, (u, v) in enumerate(itertools.pairwise(chain)):
            start = x[u] + (leaving[k] if i == 0 else 0.0)
            end = x[v] + (arriving[k] if i == len(chain) - 2 else 0.0)
            sideways[level[v]] = max(sideways[level[v]], abs(start - end))
    tops: list[float] = []
    bottoms: list[float] = []
    at = 8.0
    for r, row in enumerate(rows):
        if r:
            at += LABEL + (8.0 if sideways[r] < 1 else min(22 + sideways[r] / 8, 90.0))
        tops.append(at)
        at += max((sizes[v][1] for v in row if v < len(sizes)), default=0.0)
        bottoms.append(at)
    return tops, bottoms
