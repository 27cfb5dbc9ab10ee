"""Time, memory and aliased energy against stride, as one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stridekit.drawing.figures import BLUE, GREEN, GREY, ORANGE, entitle, legend, log_axis, new_figure, shortened
from stridekit.drawing.units import format_bytes, format_share, format_sizes, format_stride, format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from stridekit.compare.comparison import StrideComparison, StrideRow


def draw_costs(comparison: StrideComparison) -> Figure:
    """Draw time with its quartiles, peak memory and aliased energy, one above the other, against stride."""
    rows = comparison.rows
    width = max(7.0, 0.9 * len(rows) + 2)
    figure = new_figure(width, 8.4)
    layer = comparison.layer
    kernel = format_sizes(layer["kernel_size"])
    filters = f"{layer['filters']} filter{'' if layer['filters'] == 1 else 's'}"
    entitle(
        figure,
        f"{kernel} kernel, {filters}, {layer['dtype']}, padding {_padding(layer['padding'])}, on "
        f"{shortened(comparison.image['name'])}\n{comparison.device}",
        10,
    )
    time_axes, memory_axes, aliasing_axes = figure.subplots(3, 1, sharex=True)
    _draw_times(time_axes, comparison)
    _draw_memory(memory_axes, comparison)
    _draw_aliasing(aliasing_axes, comparison)
    places = range(len(rows))
    aliasing_axes.set_xticks(places, [format_stride(row.stride) for row in rows])
    aliasing_axes.set_xlim(-0.6, len(rows) - 0.4)
    aliasing_axes.set_xlabel("stride in pixels (rows x columns where they differ); the recommended one is shaded")
    for axes in (time_axes, memory_axes, aliasing_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        for place, row in zip(places, rows, strict=True):
            if row.stride == comparison.recommended_stride:
                axes.axvspan(place - 0.45, place + 0.45, color="#F0E442", alpha=0.35, linewidth=0, zorder=0)
    return figure


def _draw_times(axes: Any, comparison: StrideComparison) -> None:
    rows = comparison.rows
    times = [1e3 * row.time_s for row in rows]
    spread = [
        [1e3 * (row.time_s - row.time_quartiles_s[0]) for row in rows],
        [1e3 * (row.time_quartiles_s[1] - row.time_s) for row in rows],
    ]
    ideal = [1e3 * comparison.baseline.time_s * row.positions_kept for row in rows]
    places = range(len(rows))
    axes.plot(places, ideal, "_", color=GREY, markersize=18, label="stride 1's time x share of positions kept")
    axes.errorbar(places, times, spread, fmt="o", color=BLUE, capsize=5, label="median; bars: quartiles")
    _mark(axes, rows, times, [format_time(row.time_s) for row in rows])
    log_axis(axes, "time (ms)", [*times, *ideal])
    legend(axes)


def _draw_memory(axes: Any, comparison: StrideComparison) -> None:
    rows = comparison.rows
    measured = [row.peak_bytes / 2**20 for row in rows]
    places = range(len(rows))
    axes.plot(
        places,
        [row.predicted_peak_bytes / 2**20 for row in rows],
        "_",
        color=GREY,
        markersize=18,
        label="predicted",
    )
    axes.plot(places, measured, "s", color=GREEN, label="measured")
    _mark(axes, rows, measured, [format_bytes(row.peak_bytes) for row in rows])
    log_axis(axes, "peak memory (MiB)", measured)
    legend(axes)


def _draw_aliasing(axes: Any, comparison: StrideComparison) -> None:
    rows = comparison.rows
    shares = [100 * row.aliased_energy for row in rows]
    places = range(len(rows))
    least = [100 * min(row.aliased_energy_by_filter) for row in rows]
    most = [100 * max(row.aliased_energy_by_filter) for row in rows]
    axes.vlines(places, least, most, color=GREY, linewidth=1, label="from the least to the most aliased filter")
    axes.plot(places, shares, "D", color=ORANGE, label="all filters together")
    limit = 100 * comparison.max_aliased_energy
    axes.axhline(limit, color=ORANGE, linestyle="--", linewidth=1, label=f"limit, {format_share(limit / 100)}")
    _mark(axes, rows, shares, [format_share(row.aliased_energy) for row in rows])
    axes.set_ylim(-6, 112)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("aliased energy (%)")
    legend(axes)


def _mark(axes: Any, rows: Sequence[StrideRow], values: Sequence[float], texts: Sequence[str]) -> None:
    for place, value, text in zip(range(len(rows)), values, texts, strict=True):
        note = axes.annotate(text, (place, value), xytext=(8, 5), textcoords="offset points", fontsize=8)
        # A pale ground, so that the limit's line does not strike a number through.
        note.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})


def _padding(padding: Any) -> str:
    return padding if isinstance(padding, str) else ", ".join(f"{before}:{after}" for before, after in padding)
