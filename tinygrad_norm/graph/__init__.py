"""The graph behind a Tensor, to be looked at: what autograd has recorded, and how it walks back.

nodes.py      the graph as boxes and arrows, with the values that are to be had; record(), which keeps them all
formulas.py   what each op computes, and its gradients, in one table
words.py      how values are written
layout.py     where boxes stand and arrows run
draw.py       the picture: draw(loss)
explain.py    the walk, step by step: explain(loss); page.py shows it in a notebook
"""

from .draw import Picture, draw
from .explain import Step, Sum, Walk, explain
from .nodes import record

__all__ = ["Picture", "Step", "Sum", "Walk", "draw", "explain", "record"]
