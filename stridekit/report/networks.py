"""A network in the terminal: its summary, and the memory that it needs."""

from __future__ import annotations

from collections.abc import Iterator

from stridekit.arguments import printable
from stridekit.drawing.tables import print_parts
from stridekit.drawing.units import format_bytes
from stridekit.networks.execution import NetworkVram
from stridekit.networks.summary import Summary
from stridekit.networks.summary_tables import summary_parts


def print_network(summary: Summary, usage: NetworkVram | None, what: str, *, all_layers: bool) -> None:
    """Print a summary to stdout, and the memory that `what` needs."""
    print_parts(summary_parts(summary, all_layers=all_layers))
    if usage is not None:
        print_parts(_memory(usage, what))


def _memory(usage: NetworkVram, what: str) -> Iterator[str]:
    yield ""
    yield f"Memory of {what}, predicted"
    parts = {
        "parameters": usage.parameters,
        "input": usage.input,
        "output": usage.output,
        "optimizer state": usage.optimizer,
        "arena": usage.arena,
    }
    for name, nbytes in parts.items():
        if nbytes:
            yield f"  {name:<16} {format_bytes(nbytes):>9}  {nbytes:,} bytes"
    alive = {
        "activations": usage.activations,
        "gradients": usage.gradients,
        "gradients of parameters": usage.parameter_gradients,
        "statistics": usage.saved,
        "workspace": usage.workspace,
    }
    shares = ", ".join(f"{name} {format_bytes(nbytes)}" for name, nbytes in alive.items() if nbytes)
    yield f"  fullest at {printable(usage.at)}: {shares}"
    yield f"  {'allocated':<16} {format_bytes(usage.allocated):>9}  {usage.allocated:,} bytes"
    yield f"  {'peak':<16} {format_bytes(usage.peak):>9}  {usage.peak:,} bytes"
