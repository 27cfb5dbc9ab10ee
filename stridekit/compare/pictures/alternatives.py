"""Ways to shrink by a stride, side by side: time, peak memory and aliased energy of each, as one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stridekit.drawing.figures import BLUE, GREEN, ORANGE, entitle, legend, log_axis, new_figure
from stridekit.drawing.units import format_stride

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from stridekit.compare.comparison import AlternativeRow, StrideComparison

_LOOKS = {"conv": ("o", ORANGE), "max_pool": ("s", BLUE), "avg_pool": ("^", GREEN), "blur_pool": ("D", "#CC79A7")}
"""Marker and colour; from Okabe and Ito's palette, and never by colour alone."""


def draw_alternatives(comparison: StrideComparison) -> Figure:
    """Draw what each way to shrink takes and folds back, against stride; training steps hollow."""
    rows = comparison.alternatives
    strides = list(dict.fromkeys(row.stride for row in rows))
    names = list(dict.fromkeys(row.alternative for row in rows))
    figure = new_figure(max(7.0, 1.3 * len(strides) + 2), 8.4)
    entitle(figure, f"Ways to shrink by a stride\n{comparison.device}", 10)
    time_axes, memory_axes, aliasing_axes = figure.subplots(3, 1, sharex=True)
    times, peaks = [], []
    for number, name in enumerate(names):
        own = [row for row in rows if row.alternative == name]
        places = [strides.index(row.stride) + 0.18 * (number - (len(names) - 1) / 2) for row in own]
        times += _draw(time_axes, places, own, name, "time_s", 1e3)
        peaks += _draw(memory_axes, places, own, name, "peak_bytes", 2**-20)
        marker, colour = _LOOKS[name]
        aliasing_axes.plot(places, [100 * row.aliased_energy for row in own], marker, color=colour, label=name)
    log_axis(time_axes, "time (ms)", times)
    log_axis(memory_axes, "peak memory (MiB)", peaks)
    aliasing_axes.set_ylabel("aliased energy (%)")
    aliasing_axes.set_ylim(-6, 112)
    aliasing_axes.set_xticks(range(len(strides)), [format_stride(stride) for stride in strides])
    aliasing_axes.set_xlabel("stride in pixels" + ("; hollow: a training step" if rows[0].training else ""))
    for axes in (time_axes, memory_axes, aliasing_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    legend(time_axes)
    return figure


def _draw(
    axes: Any, places: Sequence[float], rows: Sequence[AlternativeRow], name: str, what: str, factor: float
) -> list[float]:
    marker, colour = _LOOKS[name]
    values = [factor * float(getattr(row.forward, what)) for row in rows]
    axes.plot(places, values, marker, color=colour, label=name)
    steps = [factor * float(getattr(row.training, what)) for row in rows if row.training]
    if steps:
        axes.plot(places, steps, marker, color=colour, markerfacecolor="none")
    return values + steps
