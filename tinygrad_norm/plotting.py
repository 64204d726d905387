"""The one way to a picture, for all that draw one: matplotlib without a window, imported when the first is asked for; and its colours."""

from __future__ import annotations

from typing import Any

__all__ = ["BLACK", "BLUE", "GREEN", "GREY", "ORANGE", "PINK", "RUST", "check_matplotlib", "new_figure"]

# Those of Okabe & Ito, which all eyes tell apart; of their orange, RUST is dark enough for small text, and GREY is for what matters less.
BLACK, BLUE, GREEN, ORANGE, PINK = "#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7"
RUST, GREY = "#A63C00", "#595959"


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure of so many inches, white in a dark page too.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class, canvas_class = _classes()
    figure = figure_class(figsize=(width, height), layout="constrained", facecolor="white")
    canvas_class(figure)
    return figure


def check_matplotlib() -> None:
    """ImportError where there is no matplotlib: for what is to be said before the work, not after it."""
    _classes()


def _classes() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('a picture needs matplotlib: pip install "tinygrad_norm[plot]"') from None
    return Figure, FigureCanvasAgg
