"""The layout of a picture: nothing overlaps."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_norm.graph.layout import LABEL, layout


def apart(a, b, slack=1e-6):
    """Whether two rectangles (left, top, right, bottom) do not overlap."""
    return a[2] <= b[0] + slack or b[2] <= a[0] + slack or a[3] <= b[1] + slack or b[3] <= a[1] + slack


def points_on(path):
    """Many points of an arrow as it is drawn: straight pieces and the S between them."""
    for (x, y0), (_, y1) in zip(path[::2], path[1::2]):
        yield from ((x, y0 + (y1 - y0) * t) for t in np.linspace(0, 1, 5))
    for (x0, y0), (x1, y1) in zip(path[1::2], path[2::2]):
        middle = (y0 + y1) / 2
        for t in np.linspace(0, 1, 15):
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            yield x0 * (a + b) + x1 * (c + d), y0 * a + middle * (b + c) + y1 * d


def check_layout(sizes, arrows, labels):
    placed = layout(sizes, arrows, labels)
    boxes = [(x, y, x + w, y + h) for (x, y), w, (_, h) in zip(placed.corners, placed.widths, sizes)]
    assert all(x >= 0 and y >= 0 and right <= placed.width and bottom <= placed.height for x, y, right, bottom in boxes)
    assert all(apart(a, b) for a, b in itertools.combinations(boxes, 2))
    texts = []
    for (start, end), path, label in zip(arrows, placed.paths, labels):
        assert abs(path[0][1] - boxes[start][3]) < 1e-6 and boxes[start][0] <= path[0][0] <= boxes[start][2]
        assert abs(path[-1][1] - boxes[end][1]) < 1e-6 and boxes[end][0] <= path[-1][0] <= boxes[end][2]
        assert all(b[1] >= a[1] - 1e-6 for a, b in itertools.pairwise(path))  # only downwards
        for x, y in points_on(path):
            assert not any(b[0] + 1e-6 < x < b[2] - 1e-6 and b[1] + 1e-6 < y < b[3] - 1e-6 for b in boxes)
        x, y = path[-1]
        texts.append((x + 6, y - LABEL, x + 6 + label, y))
        assert texts[-1][2] <= boxes[end][2] + 1e-6  # above its own box
    assert all(apart(a, b) for a, b in itertools.combinations(texts, 2))
    assert all(apart(t, b) for t in texts for b in boxes)
    for k, path in enumerate(placed.paths):  # no arrow runs through the label of another
        for j, text in enumerate(texts):
            assert j == k or not any(text[0] < x < text[2] and text[1] + 1e-6 < y < text[3] - 1e-6 for x, y in points_on(path))
    return placed


@settings(max_examples=60)
@given(st.data())
def test_nothing_overlaps(data):
    count = data.draw(st.integers(1, 14))
    arrows = [(data.draw(st.integers(0, v - 1)), v) for v in range(1, count) for _ in range(data.draw(st.integers(0, 3)))]
    sizes = [(data.draw(st.sampled_from([30.0, 90.0, 260.0])), data.draw(st.sampled_from([20.0, 60.0, 110.0]))) for _ in range(count)]
    check_layout(sizes, arrows, [data.draw(st.sampled_from([20.0, 70.0])) for _ in arrows])


def test_a_chain_is_straight():
    placed = check_layout([(80.0 + i % 3 * 20, 40.0) for i in range(201)], [(i, i + 1) for i in range(200)], [30.0] * 200)
    assert len({round(x, 6) for path in placed.paths for x, _ in path}) == 1


def test_barycentres_take_crossings_away():
    """Two bundles of parallel arrows, given in the worst order."""
    n = 6
    placed = check_layout([(40.0, 20.0)] * (2 * n), [(i, 2 * n - 1 - i) for i in range(n)], [10.0] * n)
    ends = sorted((path[0][0], path[-1][0]) for path in placed.paths)
    assert [b for _, b in ends] == sorted(b for _, b in ends)
