"""The definition of right: NumPy, tap by tap and sample by sample, accumulating in float64.

It follows the formula and nothing else::

    y[n, k, p] = activation(bias[k] + sum over c, f of  w[k, c, f] * x[n, c, p * stride + f * dilation - pad])

and for the gradients the same products, added up where their other factor came from.

Samples are taken one at a time so that none depends on its neighbours; einsum without ``optimize`` never calls
BLAS, whose order of summation is its own affair.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit.backends import NothingToPack, Operands
from stridekit.memory.spaces import WholeUnits
from stridekit.memory.workspace import WorkspaceLayout
from stridekit.problems.activations import apply_activation
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.padding import PADDING_MODES, margin_lines

_FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True)
class ReferenceDevice(WholeUnits):
    """NumPy on one thread."""

    name: str = "reference"
    description: str = "NumPy in float64, one thread"

    def frugal(self) -> ReferenceDevice:
        """Return itself: there is only one thread."""
        return self


class SlidingTaps:
    """One multiply-add of a whole strided slice for each tap of the kernel."""

    name = "sliding_taps"

    def supports(self, problem: ConvProblem, device: ReferenceDevice) -> str:
        """Return ``""``: it computes every problem."""
        return ""

    def cost(self, problem: ConvProblem, device: ReferenceDevice) -> float:
        """Return seconds at about 1 GFLOP/s, what einsum reaches on one core."""
        return problem.flops / 1e9

    def detail(self, problem: ConvProblem, device: ReferenceDevice) -> str:
        """Return ``""``: there is nothing else to decide."""
        return ""

    def packing(self, problem: ConvProblem, device: ReferenceDevice) -> tuple[object, ...]:
        """Packed weights are the weights in float64."""
        return (problem.weight_shape, problem.groups)

    def packed_bytes(self, problem: ConvProblem, device: ReferenceDevice) -> int:
        """Return the bytes of the weights in float64."""
        return math.prod(problem.weight_shape) * _FLOAT64.itemsize

    def pack(self, problem: ConvProblem, device: ReferenceDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Copy the weights to float64."""
        packed.view(_FLOAT64).reshape(weight.shape)[...] = weight

    def workspace(self, problem: ConvProblem, device: ReferenceDevice, *, packed: bool) -> int:
        """Return the bytes of one padded sample, one sum and one product, in float64."""
        return self._layout(problem, packed).nbytes

    def run(
        self,
        problem: ConvProblem,
        device: ReferenceDevice,
        operands: Operands,
        workspace: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Compute `problem` into `out`."""
        layout = self._layout(problem, operands.packed_weight is not None)
        parts = layout.cut(workspace, _FLOAT64)
        weight = _wide_weight(problem, operands, parts)
        padded = parts["padded"].reshape(problem.in_channels, *(a.padded_size for a in problem.geometry.axes))
        total = parts["total"].reshape(problem.out_channels, *problem.geometry.output_size)
        product = parts["product"].reshape(total.shape)
        with np.errstate(all="ignore"):
            for n in range(problem.batch):
                pad_sample(problem, operands.x[n], padded)
                correlate(problem, padded, weight, total, product)
                if operands.residual is not None:
                    product[...] = operands.residual[n]
                    total += product
                out[n] = _finished(problem, operands, total)

    def _layout(self, problem: ConvProblem, packed: bool) -> WorkspaceLayout:
        padded = math.prod(axis.padded_size for axis in problem.geometry.axes) * problem.in_channels
        total = problem.output_pixels * problem.out_channels
        regions = [("padded", padded), ("total", total), ("product", total)]
        if not packed:
            regions.append(("weight", math.prod(problem.weight_shape)))
        return WorkspaceLayout(tuple((name, count * _FLOAT64.itemsize) for name, count in regions))


def _wide_weight(problem: ConvProblem, operands: Operands, parts: dict[str, np.ndarray]) -> np.ndarray:
    """Return the weights in float64, packed or now copied to the workspace."""
    if operands.packed_weight is not None:
        weight: np.ndarray = operands.packed_weight.view(_FLOAT64).reshape(problem.weight_shape)
        return weight
    weight = parts["weight"].reshape(problem.weight_shape)
    weight[...] = operands.weight
    return weight


def _finished(problem: ConvProblem, operands: Operands, total: np.ndarray) -> np.ndarray:
    """Add the bias to one sample's sums and activate them, in place."""
    if operands.bias is not None:
        total += operands.bias.astype(np.float64).reshape(-1, *(1,) * problem.rank)
    if problem.activation is not None:
        apply_activation(total, problem.activation)
    return total


def pad_sample(problem: ConvProblem, sample: np.ndarray, padded: np.ndarray) -> None:
    """Write one sample ``(C, *spatial)`` with its padding into `padded` (float64), axis after axis."""
    axes = problem.geometry.axes
    interior = tuple(slice(a.pad_before, a.pad_before + a.size) for a in axes)
    padded[...] = 0.0
    padded[(slice(None), *interior)] = sample
    mode = PADDING_MODES.index(problem.padding_mode)
    if mode == PADDING_MODES.index("zeros"):
        return
    for number, axis in enumerate(axes):
        lines = np.moveaxis(padded, number + 1, 0)
        for line, source in margin_lines(axis.size, axis.pad_before, axis.pad_after, mode):
            lines[line] = lines[source]


def correlate(
    problem: ConvProblem, padded: np.ndarray, weight: np.ndarray, total: np.ndarray, product: np.ndarray
) -> None:
    """Sum ``weight * padded`` over channels and taps into `total`, group by group."""
    total[...] = 0.0
    for reads, writes, factor, window in _windows(problem):
        np.einsum("kc,c...->k...", weight[factor], padded[(reads, *window)], out=product[writes])
        total[writes] += product[writes]


def fold_sample(problem: ConvProblem, padded: np.ndarray) -> np.ndarray:
    """Add the padding's lines to those they were copied from, axis after axis; return the view of the input's pixels.

    The adjoint of `pad_sample`.
    """
    axes, mode = problem.geometry.axes, PADDING_MODES.index(problem.padding_mode)
    if mode != PADDING_MODES.index("zeros"):
        for number, axis in enumerate(axes):
            lines = np.moveaxis(padded, number + 1, 0)
            for line, source in margin_lines(axis.size, axis.pad_before, axis.pad_after, mode):
                lines[source] += lines[line]
    return padded[(slice(None), *(slice(a.pad_before, a.pad_before + a.size) for a in axes))]


def _room(problem: ConvProblem) -> list[int]:
    """Return the padded pixels per axis; of a transposed convolution some may lie beyond what any window reads."""
    return [max(axis.padded_size, axis.pad_before + axis.size) for axis in problem.geometry.axes]


def _windows(problem: ConvProblem) -> Iterator[tuple[slice, slice, tuple[Any, ...], tuple[slice, ...]]]:
    """Yield for every group and tap: its channels, its filters, its place in the weights, and the pixels it reads."""
    axes = problem.geometry.axes
    per_group_in, per_group_out = problem.group_in_channels, problem.group_out_channels
    for group in range(problem.groups):
        reads = slice(group * per_group_in, (group + 1) * per_group_in)
        writes = slice(group * per_group_out, (group + 1) * per_group_out)
        for tap in itertools.product(*(range(axis.kernel) for axis in axes)):
            window = tuple(
                slice(f * a.dilation, f * a.dilation + (a.output_size - 1) * a.stride + 1, a.stride)
                for f, a in zip(tap, axes, strict=True)
            )
            yield reads, writes, (writes, slice(None), *tap), window


class ScatteredTaps:
    """The input's gradient: each tap's products are added to the padded pixels that it read, which are then folded."""

    name = "scattered_taps"
    supports, cost, detail = SlidingTaps.supports, SlidingTaps.cost, SlidingTaps.detail
    packing, packed_bytes, pack = SlidingTaps.packing, SlidingTaps.packed_bytes, SlidingTaps.pack

    def workspace(self, problem: ConvProblem, device: ReferenceDevice, *, packed: bool) -> int:
        """Return the bytes of one padded sample, its sums, one product and one output, in float64."""
        return self._layout(problem, packed).nbytes

    def run(
        self,
        problem: ConvProblem,
        device: ReferenceDevice,
        operands: Operands,
        workspace: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Compute `problem` into `out`."""
        layout = self._layout(problem, operands.packed_weight is not None)
        parts = layout.cut(workspace, _FLOAT64)
        weight = _wide_weight(problem, operands, parts)
        padded = parts["padded"].reshape(problem.in_channels, *_room(problem))
        grad = parts["grad"].reshape(problem.out_channels, *problem.geometry.output_size)
        product = parts["product"].reshape(problem.in_channels, *problem.geometry.output_size)
        total = parts["total"].reshape(problem.in_channels, *problem.geometry.input_size)
        with np.errstate(all="ignore"):
            for n in range(problem.batch):
                grad[...] = operands.grad_output[n]
                padded[...] = 0.0
                for reads, writes, factor, window in _windows(problem):
                    np.einsum("kc,k...->c...", weight[factor], grad[writes], out=product[reads])
                    padded[(reads, *window)] += product[reads]
                total[...] = fold_sample(problem, padded)
                out[n] = _finished(problem, operands, total)

    def _layout(self, problem: ConvProblem, packed: bool) -> WorkspaceLayout:
        padded = math.prod(_room(problem)) * problem.in_channels
        regions = [
            ("padded", padded),
            ("total", math.prod(problem.geometry.input_size) * problem.in_channels),
            ("grad", problem.output_pixels * problem.out_channels),
            ("product", problem.output_pixels * problem.in_channels),
        ]
        if not packed:
            regions.append(("weight", math.prod(problem.weight_shape)))
        return WorkspaceLayout(tuple((name, count * _FLOAT64.itemsize) for name, count in regions))


class SummedTaps(NothingToPack):
    """The weight's gradient: tap by tap the sum over samples and pixels."""

    name = "summed_taps"
    supports, cost, detail = SlidingTaps.supports, SlidingTaps.cost, SlidingTaps.detail

    def workspace(self, problem: ConvProblem, device: ReferenceDevice, *, packed: bool) -> int:
        """Return the bytes of one padded sample, one output, the sums and one tap's product, in float64."""
        return self._layout(problem).nbytes

    def run(
        self,
        problem: ConvProblem,
        device: ReferenceDevice,
        operands: Operands,
        workspace: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Compute `problem` into `out`."""
        layout = self._layout(problem)
        parts = layout.cut(workspace, _FLOAT64)
        padded = parts["padded"].reshape(problem.in_channels, *(a.padded_size for a in problem.geometry.axes))
        grad = parts["grad"].reshape(problem.out_channels, *problem.geometry.output_size)
        total = parts["total"].reshape(problem.weight_shape)
        product = parts["product"].reshape(problem.group_out_channels, problem.group_in_channels)
        total[...] = 0.0
        pixels = "dhw"[: problem.rank]
        with np.errstate(all="ignore"):
            for n in range(problem.batch):
                pad_sample(problem, operands.x[n], padded)
                grad[...] = operands.grad_output[n]
                for reads, writes, factor, window in _windows(problem):
                    np.einsum(f"k{pixels},c{pixels}->kc", grad[writes], padded[(reads, *window)], out=product)
                    total[factor] += product
            out[...] = total

    def _layout(self, problem: ConvProblem) -> WorkspaceLayout:
        padded = math.prod(axis.padded_size for axis in problem.geometry.axes) * problem.in_channels
        regions = (
            ("padded", padded),
            ("grad", problem.output_pixels * problem.out_channels),
            ("total", math.prod(problem.weight_shape)),
            ("product", problem.group_out_channels * problem.group_in_channels),
        )
        return WorkspaceLayout(tuple((name, count * _FLOAT64.itemsize) for name, count in regions))
