"""A comparison in the terminal: tables, typical uses, the recommendation and what to beware of."""

from __future__ import annotations

import sys

from rich.console import Console

from stridekit.compare.comparison import StrideComparison
from stridekit.compare.units import format_bytes, format_sizes, format_stride, format_time
from stridekit.report.tables import tables_of

_UNLIMITED = 200
"""Columns where nobody looks: in a pipe or a file no table is to be folded."""


def print_comparison(comparison: StrideComparison) -> None:
    """Print a comparison to stdout."""
    piped = not sys.stdout.isatty()
    console = Console(width=_UNLIMITED if piped else None, highlight=False, markup=False)
    for line in _heading(comparison):
        console.print(line, soft_wrap=piped)
    for table in tables_of(comparison):
        console.print()
        console.print(table)
    for line in _words(comparison):
        console.print(line, soft_wrap=piped)


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
