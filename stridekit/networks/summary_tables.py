"""A summary as text: what the layers do to sizes, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from stridekit.arguments import printable
from stridekit.drawing.tables import text_table
from stridekit.drawing.units import format_bytes, format_count, format_sizes

if TYPE_CHECKING:
    from stridekit.networks.summary import Summary, SummaryRow


def summary_parts(summary: Summary, *, all_layers: bool) -> Iterator[Table | str]:
    """Yield the tables and lines of a summary; without `all_layers`, the layers that change a size or multiply."""
    spatial = [row for row in summary.rows if all_layers or _changes_size(row)]
    yield _sizes_table(spatial)
    yield _costs_table([row for row in summary.rows if all_layers or row.macs], summary)
    yield from _totals(summary)


def _changes_size(row: SummaryRow) -> bool:
    return row.stride is not None or row.operation in ("input", "conv_transpose", "upsample")


def _sizes_table(rows: Sequence[SummaryRow]) -> Table:
    return text_table(
        "Sizes and receptive fields, in pixels of the input",
        ("layer", "output", "stride", "effective", "field", "starts", "dropped", "remainder", "overlap", "phase"),
        [
            (
                printable(row.name),
                format_sizes(row.output_shape[1:]),
                _each(row.stride),
                _each(row.effective_stride),
                _each(row.receptive_field) + ("!" if row.outgrows_image else ""),
                _each(row.field_start),
                _each(row.dropped),
                _each(row.remainder),
                _each(row.overlap),
                _each(row.phase),
            )
            for row in rows
        ],
        names=True,
    )


def _costs_table(rows: Sequence[SummaryRow], summary: Summary) -> Table:
    body = [
        (
            printable(row.name),
            row.operation,
            f"{row.parameters:,}",
            format_count(row.macs),
            format_bytes(row.bytes_moved),
            format_bytes(row.activation_bytes),
            format_bytes(row.weight_bytes),
        )
        for row in rows
    ]
    total = (
        "total",
        "",
        f"{summary.parameters:,}",
        format_count(summary.macs),
        format_bytes(summary.bytes_moved),
        format_bytes(summary.activation_bytes),
        format_bytes(summary.weight_bytes),
    )
    return text_table(
        f"Costs of a batch of {summary.input_shape[0]} in {summary.dtype}",
        ("layer", "operation", "parameters", "multiply-adds", "moved", "activations", "weights"),
        [*body, total],
        names=True,
    )


def _totals(summary: Summary) -> Iterator[str]:
    yield "effective: pixels of the input between neighbours; field: pixels of the input that one pixel depends on"
    yield "(! larger than the image), the first one's from `starts` on; phase: the first window's centre"
    yield ""
    last = summary.last_spatial
    if last is not None and last.receptive_field is not None and last.effective_stride is not None:
        yield (
            f"Receptive field: {format_sizes(last.receptive_field)} pixels at an effective stride of "
            f"{_stride(last.effective_stride)} (after {printable(last.name)})"
        )
    if summary.outgrows_image_at is not None:
        yield f"It outgrows the image at {printable(summary.outgrows_image_at)}"
    yield (
        f"Parameters: {summary.parameters:,}; multiply-adds: {format_count(summary.macs)}; "
        f"model file: {format_bytes(summary.weight_bytes)} in {summary.dtype}"
    )


def _stride(stride: Sequence[float]) -> str:
    """Write an effective stride: one number where all axes agree, a fraction after an upsampling."""
    return f"{stride[0]:g}" if len(set(stride)) == 1 else format_sizes(stride)


def _each(values: Sequence[float] | None) -> str:
    """Write a value for each axis: one where they agree, nothing where there is none."""
    if not values:
        return ""
    return _stride(values)
