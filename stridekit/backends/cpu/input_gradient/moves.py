"""What gradients need beside correlating, by NumPy's own copies and sums of whole slices."""

from __future__ import annotations

import numpy as np

from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.problems.activations import apply_activation
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.padding import PADDING_MODES, margin_lines


class HostMoves:
    """In main memory; every sum in the type of the arrays, in one order."""

    def fill(self, problem: ConvProblem, device: CpuDevice, bias: np.ndarray | None, target: np.ndarray) -> None:
        """Write ``activation(bias)``, or zeros."""
        if bias is None:
            target[...] = 0
            return
        row = bias.astype(np.float64)
        if problem.activation is not None:
            with np.errstate(all="ignore"):
                apply_activation(row, problem.activation)
        target[...] = row.reshape(-1, *(1,) * problem.rank)

    def convert(self, device: CpuDevice, source: np.ndarray, target: np.ndarray) -> None:
        """Copy, to a wider type if `target` has one."""
        with np.errstate(all="ignore"):
            target[...] = source

    def fold(self, problem: ConvProblem, device: CpuDevice, padded: np.ndarray, target: np.ndarray) -> None:
        """Add every line of the padding to the one it was copied from, axis after axis."""
        mode, axes = PADDING_MODES.index(problem.padding_mode), problem.geometry.axes
        with np.errstate(all="ignore"):
            for number, axis in enumerate(axes):
                lines = np.moveaxis(padded, number + 2, 0)
                for line, source in margin_lines(axis.size, axis.pad_before, axis.pad_after, mode):
                    lines[source] += lines[line]
            interior = tuple(slice(axis.pad_before, axis.pad_before + axis.size) for axis in axes)
            target[...] = padded[(slice(None), slice(None), *interior)]
