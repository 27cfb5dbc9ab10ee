"""A comparison as tables of text, each narrow enough for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from stridekit.compare.comparison import AlternativeRow, Cost, StrideComparison, StrideRow
from stridekit.compare.units import format_bytes, format_share, format_sizes, format_stride, format_time


def tables_of(comparison: StrideComparison) -> tuple[Table, ...]:
    """Lay a comparison out as tables: what each stride does to sizes, what it costs and loses, and what else would do.

    The alternatives, and their training steps, have tables only where they were measured.
    """
    tables = [_sizes_table(comparison), _costs_table(comparison)]
    if comparison.alternatives:
        tables.append(_alternatives_table(comparison))
    if any(row.training for row in comparison.alternatives):
        tables.append(_training_table(comparison))
    return tuple(tables)


def _sizes_table(comparison: StrideComparison) -> Table:
    return text_table(
        "Sizes, in pixels (rows x columns)",
        ("stride", "output", "kept", "dropped", "unread", "overlap", "phase", "next 3x3 spans"),
        [
            (
                _name(row, comparison),
                format_sizes(row.output_size),
                format_share(row.positions_kept),
                _pair(row.dropped),
                _pair(row.unread),
                _pair(row.overlap),
                _pair(row.phase),
                f"{_pair(row.receptive_field_growth)} (was {_pair(row.receptive_field_after_stride_1)})",
            )
            for row in comparison.rows
        ],
    )


def _costs_table(comparison: StrideComparison) -> Table:
    return text_table(
        f"Cost and loss (median time and quartiles of {comparison.repeats} runs, peak memory)",
        ("stride", "GFLOP", "time", "quartiles", "speedup", "peak", "predicted", "aliased"),
        [
            (
                _name(row, comparison),
                f"{row.flops / 1e9:.3g}",
                format_time(row.time_s),
                _quartiles(row),
                f"{row.speedup:.1f}x",
                format_bytes(row.peak_bytes),
                format_bytes(row.predicted_peak_bytes),
                format_share(row.aliased_energy),
            )
            for row in comparison.rows
        ],
    )


def _alternatives_table(comparison: StrideComparison) -> Table:
    return text_table(
        f"Ways to shrink (median time of {comparison.alternatives_repeats} runs, peak memory)",
        ("stride", "by", "output", "GFLOP", "time", "peak", "predicted", "aliased", "energy kept"),
        [
            (
                format_stride(row.stride),
                _with_window(row),
                format_sizes(row.output_size),
                *_cost(row.forward),
                format_share(row.aliased_energy),
                format_share(row.energy_kept),
            )
            for row in comparison.alternatives
        ],
    )


def _training_table(comparison: StrideComparison) -> Table:
    return text_table(
        "A training step of each",
        ("stride", "by", "GFLOP", "time", "peak", "predicted"),
        [
            (format_stride(row.stride), _with_window(row), *_cost(row.training))
            for row in comparison.alternatives
            if row.training
        ],
    )


def _cost(cost: Cost) -> tuple[str, str, str, str]:
    times, peak = format_time(cost.time_s), format_bytes(cost.peak_bytes)
    return f"{cost.flops / 1e9:.3g}", times, peak, format_bytes(cost.predicted_peak_bytes)


def _with_window(row: AlternativeRow) -> str:
    return row.alternative if row.alternative == "conv" else f"{row.alternative} {format_stride(row.window)}"


def text_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, names: bool = False) -> Table:
    """Lay rows of text out under headings, aligned to the right; names, in the first column, to the left."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, heading in enumerate(headings):
        # Fold, never an ellipsis: in a narrow terminal a number may break, it may not lose digits.
        table.add_column(heading, justify="left" if names and not number else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _name(row: StrideRow, comparison: StrideComparison) -> str:
    return format_stride(row.stride) + (" *" if row.stride == comparison.recommended_stride else "  ")


def _pair(values: Sequence[float]) -> str:
    """One number where both axes agree, which most often they do."""
    return f"{values[0]:g}" if values[0] == values[1] else format_sizes(values)


def _quartiles(row: StrideRow) -> str:
    """Both quartiles, with a unit only where it is not the median's."""
    unit = format_time(row.time_s).split()[1]
    return "..".join(format_time(seconds).removesuffix(f" {unit}") for seconds in row.time_quartiles_s)
