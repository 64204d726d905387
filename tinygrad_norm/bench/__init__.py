"""How fast it is, against torch and JAX on the same work: `tinygrad-norm bench`, or `bench()` from Python.

In reading order: rows.py (what is compared, and what is asked), work.py (each row's work, one text for torch and this project),
contest.py (processes that take turns), worker.py (a contestant's side), report.py.
"""

from .command import bench

__all__ = ["bench"]
