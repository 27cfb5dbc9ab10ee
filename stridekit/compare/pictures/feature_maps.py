"""What a layer sees at each stride, as pictures: every map is drawn where its windows lie on the input.

So maps of all strides have the same physical size, and a shift of the sampling phase is seen as one. One filter has
one colour scale, and one place for a close look, at all strides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.patches import Rectangle

from stridekit.drawing.figures import DPI, GREEN, entitle, new_figure, shortened
from stridekit.drawing.units import format_share, format_sizes, format_stride

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stridekit.compare.comparison import FeatureMap, StrideComparison, StrideRow
    from stridekit.problems.geometry import ConvGeometry

Window: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""(first, past the last) row and column of the input."""

# Blue and red are told apart with every common kind of colour vision, and white lies at 0 for all.
_SIGNED, _POSITIVE = "RdBu_r", "gray"

_PANEL_INCHES = 2.2
_DETAIL_PIXELS = 96
_DETAIL_STEP = 8


@dataclass(frozen=True)
class Look:
    """How one filter is drawn at all strides: the part looked at closely, and the colour scale.

    Attributes
    ----------
    window : Window
        96 pixels square, where the response at stride 1 varies most.
    scale : float
        Largest response worth a colour: few stray peaks do not set it.
    signed : bool
        Whether the response has both signs.
    """

    window: Window
    scale: float
    signed: bool


def looks_of(comparison: StrideComparison) -> tuple[Look, ...]:
    """Choose a look for each shown filter, from its response at stride 1."""
    looks = []
    for place, values in enumerate(comparison.pictures.maps[comparison.baseline.stride].values):
        scale = float(np.quantile(np.abs(values), 0.995))
        signed = float(np.quantile(values, 0.02)) < -0.02 * scale
        looks.append(Look(_busiest(comparison, place), scale or 1.0, signed))
    return tuple(looks)


def draw_overview(comparison: StrideComparison, looks: Sequence[Look]) -> Figure:
    """Draw the shown filters (rows) at every stride (columns), each looked at closely where it varies most."""
    pictures = comparison.pictures
    rows, filters = comparison.rows, pictures.filters
    windows = [look.window for look in looks]
    panel = max(1.3, min(_PANEL_INCHES, 18 / (len(rows) + 1)))
    heights = [panel * _aspect(window) for window in windows]
    figure = new_figure(panel * (len(rows) + 1) + 0.9, sum(heights) + 0.45 * len(filters) + 0.6)
    grid = figure.subplots(len(filters), len(rows) + 1, squeeze=False, height_ratios=heights)
    name = shortened(comparison.image["name"].rsplit("/", 1)[-1])
    entitle(figure, f"{name}: {_span(windows[0])} pixels, where each filter varies most", 11)
    for place, (axes_row, number) in enumerate(zip(grid, filters, strict=True)):
        _draw_image(axes_row[0], pictures.image, windows[place], panel)
        axes_row[0].set_ylabel(comparison.filter_labels[number], fontsize=9)
        axes_row[0].set_title("input", fontsize=9)
        for axes, row in zip(axes_row[1:], rows, strict=True):
            drawn = _draw_map(axes, pictures.maps[row.stride], place, looks[place], windows[place], panel)
            share = format_share(row.aliased_energy_by_filter[number])
            axes.set_title(f"stride {format_stride(row.stride)}\n{share} aliased", fontsize=9)
        figure.colorbar(drawn, ax=list(axes_row), fraction=0.02, pad=0.01).ax.tick_params(labelsize=7)
    return figure


def draw_stride(comparison: StrideComparison, row: StrideRow, looks: Sequence[Look]) -> Figure:
    """Draw the shown filters at one stride: the whole picture above, a close look at the boxed part below."""
    pictures = comparison.pictures
    height, width = pictures.image.shape[1:]
    whole = ((0, height), (0, width))
    windows = [look.window for look in looks]
    columns = len(windows) + 1
    heights = [_PANEL_INCHES * _aspect(whole), _PANEL_INCHES * max(_aspect(window) for window in windows)]
    figure = new_figure(_PANEL_INCHES * columns + 0.8 * (columns - 1), sum(heights) + 1.5)
    figure.suptitle(
        f"Stride {format_stride(row.stride)}: {format_sizes(row.output_size)} positions, "
        f"{format_share(row.aliased_energy)} of the energy of all filters aliased",
        fontsize=11,
    )
    grid = figure.subplots(2, columns, squeeze=False, height_ratios=heights)
    _draw_image(grid[0][0], pictures.image, whole, _PANEL_INCHES)
    grid[0][0].set_title("input", fontsize=9)
    grid[1][0].set_axis_off()
    note = f"Right: the boxes,\n{_span(windows[0])} pixels,\nwhere each filter\nvaries most"
    grid[1][0].text(0.5, 0.5, note, ha="center", va="center", fontsize=9, transform=grid[1][0].transAxes)
    for place, (number, window) in enumerate(zip(pictures.filters, windows, strict=True)):
        above, below = grid[0][place + 1], grid[1][place + 1]
        share = format_share(row.aliased_energy_by_filter[number])
        above.set_title(f"{comparison.filter_labels[number]}\n{share} aliased", fontsize=9)
        for axes, part in ((above, whole), (below, window)):
            drawn = _draw_map(axes, pictures.maps[row.stride], place, looks[place], part, _PANEL_INCHES)
            figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02).ax.tick_params(labelsize=7)
        (top, bottom), (left, right) = window
        corner, width_height = (left - 0.5, top - 0.5), (right - left, bottom - top)
        above.add_patch(Rectangle(corner, *width_height, fill=False, color=GREEN, linewidth=1.2))
    return figure


def _draw_map(axes: Any, feature_map: FeatureMap, place: int, look: Look, window: Window, panel: float) -> Any:
    values, extent = _cropped(feature_map.values[place], feature_map.geometry, window)
    drawn = axes.imshow(
        values,
        cmap=_SIGNED if look.signed else _POSITIVE,
        vmin=-look.scale if look.signed else 0,
        vmax=look.scale,
        extent=extent,
        interpolation=_interpolation(values.shape[1], panel),
    )
    _frame(axes, window)
    return drawn


def _draw_image(axes: Any, image: np.ndarray, window: Window, panel: float) -> None:
    # Pictures lie in [0, 1]; an array that does not is squeezed into it.
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    (top, bottom), (left, right) = window
    part = (image[:, top:bottom, left:right].astype(np.float32) - low) / (high - low)
    axes.imshow(
        part.transpose(1, 2, 0) if len(part) == 3 else part.mean(0),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        interpolation=_interpolation(right - left, panel),
    )
    _frame(axes, window)


def _frame(axes: Any, window: Window) -> None:
    (top, bottom), (left, right) = window
    axes.set_xlim(left - 0.5, right - 0.5)
    axes.set_ylim(bottom - 0.5, top - 0.5)
    axes.set_xticks([])
    axes.set_yticks([])


def _cropped(
    values: np.ndarray, geometry: ConvGeometry, window: Window
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Cut out what lies in `window`, with its place on the input: a block of one stride around each window's centre."""
    kept, edges = [], []
    for (first, past), phase, step, size in zip(
        window, geometry.phase, geometry.stride, geometry.output_size, strict=True
    ):
        # At least one position is kept, even where a stride is larger than the window.
        start = min(max(0, math.floor((first - phase) / step - 0.5)), size - 1)
        stop = max(min(size, math.ceil((past - phase) / step + 0.5)), start + 1)
        kept.append(slice(start, stop))
        edges.append((phase + (start - 0.5) * step, phase + (stop - 0.5) * step))
    (top, bottom), (left, right) = edges
    return values[tuple(kept)], (left, right, bottom, top)


def _interpolation(columns: int, panel: float) -> str:
    """Show values as blocks where there is room; else average, since skipping some would alias on the screen too."""
    return "nearest" if columns <= panel * DPI else "antialiased"


def _busiest(comparison: StrideComparison, place: int) -> Window:
    """Find the part of the input, 96 pixels square, where a filter's response at stride 1 varies most."""
    feature_map = comparison.pictures.maps[comparison.baseline.stride]
    geometry = feature_map.geometry
    values = feature_map.values[place].astype(np.float64)
    for axis, extent in enumerate(geometry.kernel_extent):
        # The border answers to the padding: an edge that is not in the picture.
        edges = np.r_[: min(extent, values.shape[axis]), -min(extent, values.shape[axis]) : 0]
        values[(slice(None),) * axis + (edges,)] = 0
    starts, spans = [], []
    for size, positions in zip(comparison.pictures.image.shape[1:], values.shape, strict=True):
        spans.append(min(_DETAIL_PIXELS, size, positions))
        starts.append(np.arange(0, positions - spans[-1] + 1, _DETAIL_STEP))
    sums, squares = (_window_sums(plane, starts, spans) for plane in (values, values**2))
    variation = squares - sums**2 / (spans[0] * spans[1])
    best = np.unravel_index(int(variation.argmax()), variation.shape)
    sizes = comparison.pictures.image.shape[1:]
    top_left = [int(choice[k]) + round(phase) for choice, k, phase in zip(starts, best, geometry.phase, strict=True)]
    return _interval(top_left[0], sizes[0]), _interval(top_left[1], sizes[1])


def _window_sums(plane: np.ndarray, starts: list[np.ndarray], spans: list[int]) -> np.ndarray:
    """Sum `plane` over windows of `spans` positions at each of `starts`, through its running sums."""
    running = np.pad(plane, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    (y, x), (rows, columns) = np.ix_(*starts), spans
    sums: np.ndarray = running[y + rows, x + columns] - running[y, x + columns] - running[y + rows, x] + running[y, x]
    return sums


def _interval(first: int, size: int) -> tuple[int, int]:
    pixels = min(_DETAIL_PIXELS, size)
    first = min(max(first, 0), size - pixels)
    return first, first + pixels


def _span(window: Window) -> str:
    return format_sizes([past - first for first, past in window])


def _aspect(window: Window) -> float:
    (top, bottom), (left, right) = window
    return min(2.0, max(0.3, (bottom - top) / (right - left)))
