"""A comparison in the terminal: tables narrow enough for 80 columns, and words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from stridekit.compare.comparison import AlternativeRow, Cost, StrideComparison, StrideRow
from stridekit.drawing.tables import print_parts, text_table
from stridekit.drawing.units import format_bytes, format_share, format_sizes, format_stride, format_time


def print_comparison(comparison: StrideComparison) -> None:
    """Print a comparison to stdout: tables, typical uses, the recommendation and what to beware of."""
    spaced = (part for table in tables_of(comparison) for part in ("", table))
    print_parts([*_heading(comparison), *spaced, *_words(comparison)])


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


def _name(row: StrideRow, comparison: StrideComparison) -> str:
    return format_stride(row.stride) + (" *" if row.stride == comparison.recommended_stride else "  ")


def _pair(values: Sequence[float]) -> str:
    """One number where both axes agree, which most often they do."""
    return f"{values[0]:g}" if values[0] == values[1] else format_sizes(values)


def _quartiles(row: StrideRow) -> str:
    """Both quartiles, with a unit only where it is not the median's."""
    unit = format_time(row.time_s).split()[1]
    return "..".join(format_time(seconds).removesuffix(f" {unit}") for seconds in row.time_quartiles_s)


def _heading(comparison: StrideComparison) -> list[str]:
    layer, image = comparison.layer, comparison.image
    padding = layer["padding"]
    pads = padding if isinstance(padding, str) else ", ".join(f"{before}:{after}" for before, after in padding)
    return [
        f"Picture: {image['name']}, {format_sizes(image['size'])} pixels, {image['channels']} channels",
        f"Layer: {layer['filters']} filters of {format_sizes(layer['kernel_size'])}, padding {pads}, {layer['dtype']}",
    ]


def _words(comparison: StrideComparison) -> list[str]:
    baseline = comparison.baseline
    lines = [
        f"* recommended; its aliased energy is at most {comparison.max_aliased_energy:g}",
        "dropped: rows x columns at the end that no window reaches; unread: these and those between windows;",
        "overlap: pixels that neighbouring windows share (negative: a gap); phase: pixel at the first window's centre;",
        "next 3x3 spans: input pixels under a 3x3 layer after this one (and after stride 1);",
        "aliased: share of the response's energy that the stride folds back",
    ]
    if comparison.alternatives:
        lines += [
            "by: conv is the layer at that stride; else the layer at stride 1, then a pooling with windows of so many",
            "pixels; aliased and energy kept are there of what the stride samples: the response, pooled at stride 1",
        ]
    if any(row.training for row in comparison.alternatives):
        lines.append("training step: output, and gradients of the pooling, the input and the weight")
    if all(row.stride != baseline.stride for row in comparison.rows):
        lines.append(
            f"Speedup is over stride 1, measured as the baseline: {format_time(baseline.time_s)}, "
            f"{format_bytes(baseline.peak_bytes)}"
        )
    lines += ["", "Typical use"]
    lines += [f"- stride {format_stride(row.stride)}: {row.typical_use}" for row in comparison.rows]
    lines += ["", "Recommendation", comparison.recommendation]
    if comparison.warnings:
        lines += ["", "Beware", *(f"- {warning}" for warning in comparison.warnings)]
    return lines
