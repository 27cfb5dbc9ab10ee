"""Figures for files: no display is needed, nor is pyplot's state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

DPI = 120

# Okabe and Ito's palette, told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, `width` x `height` inches, that draws into memory."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def entitle(figure: Figure, title: str, size: int) -> None:
    """Put a title over a figure as it is: a ``$`` in a file's name begins no formula."""
    figure.suptitle(title, fontsize=size).set_parse_math(False)


def log_axis(axes: Any, label: str, values: Sequence[float]) -> None:
    """Scale an axis by factors, with plain numbers at 1, 2 and 5 of each decade and room for the labels."""
    low, high = min(values), max(values)
    axes.set_yscale("log")
    axes.set_ylabel(label)
    axes.set_ylim(low / 1.5, high * 1.5 * (high / low) ** 0.12)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend(axes: Any) -> None:
    """Say what is what above the plot, in one line."""
    axes.legend(
        fontsize=8,
        frameon=False,
        ncols=4,
        loc="lower right",
        bbox_to_anchor=(1, 1.01),
        borderaxespad=0,
        borderpad=0,
    )


def shortened(name: str, most: int = 40) -> str:
    """Keep the end of a long name, which is where paths differ."""
    return name if len(name) <= most else "..." + name[-(most - 3) :]
