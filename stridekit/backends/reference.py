"""The definition of right: NumPy, tap by tap and sample by sample, accumulating in float64.

It follows the formula and nothing else::

    y[n, k, p] = activation(bias[k] + sum over c, f of  w[k, c, f] * x[n, c, p * stride + f * dilation - pad])

Samples are taken one at a time so that none depends on its neighbours; einsum without ``optimize`` never calls
BLAS, whose order of summation is its own affair.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit.activation import apply_activation
from stridekit.backends import Algorithm, Operands
from stridekit.memory import HOST, Memory
from stridekit.padding import PADDING_MODES, source_index
from stridekit.problem import ConvProblem
from stridekit.workspace import WorkspaceLayout

_FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True)
class ReferenceDevice:
    """NumPy on one thread."""

    name: str = "reference"
    granularity = 1
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
        parts = layout.carve(workspace, dict.fromkeys((name for name, _ in layout.regions), _FLOAT64))
        if operands.packed_weight is not None:
            weight = operands.packed_weight.view(_FLOAT64)
        else:
            weight = parts["weight"]
            self.pack(problem, device, operands.weight, weight.view(np.uint8))
        weight = weight.reshape(problem.weight_shape)
        padded = parts["padded"].reshape(problem.in_channels, *(a.padded_size for a in problem.geometry.axes))
        total = parts["total"].reshape(problem.out_channels, *problem.geometry.output_size)
        product = parts["product"].reshape(total.shape)
        with np.errstate(all="ignore"):
            for n in range(problem.batch):
                pad_sample(problem, operands.input[n], padded)
                correlate(problem, padded, weight, total, product)
                if operands.bias is not None:
                    total += operands.bias.astype(np.float64).reshape(-1, *(1,) * problem.rank)
                if problem.activation is not None:
                    apply_activation(total, problem.activation)
                out[n] = total

    def _layout(self, problem: ConvProblem, packed: bool) -> WorkspaceLayout:
        padded = math.prod(axis.padded_size for axis in problem.geometry.axes) * problem.in_channels
        total = problem.output_pixels * problem.out_channels
        regions = [("padded", padded), ("total", total), ("product", total)]
        if not packed:
            regions.append(("weight", math.prod(problem.weight_shape)))
        return WorkspaceLayout(tuple((name, count * _FLOAT64.itemsize) for name, count in regions))


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
        margins = itertools.chain(range(-axis.pad_before, 0), range(axis.size, axis.size + axis.pad_after))
        for position in margins:
            lines[position + axis.pad_before] = lines[source_index(position, axis.size, mode) + axis.pad_before]


def correlate(
    problem: ConvProblem, padded: np.ndarray, weight: np.ndarray, total: np.ndarray, product: np.ndarray
) -> None:
    """Sum ``weight * padded`` over channels and taps into `total`, group by group."""
    axes = problem.geometry.axes
    per_group_in, per_group_out = problem.group_in_channels, problem.group_out_channels
    total[...] = 0.0
    for group in range(problem.groups):
        reads = slice(group * per_group_in, (group + 1) * per_group_in)
        writes = slice(group * per_group_out, (group + 1) * per_group_out)
        for tap in itertools.product(*(range(axis.kernel) for axis in axes)):
            window = tuple(
                slice(f * a.dilation, f * a.dilation + (a.output_size - 1) * a.stride + 1, a.stride)
                for f, a in zip(tap, axes, strict=True)
            )
            factor: tuple[Any, ...] = (writes, slice(None), *tap)
            np.einsum("kc,c...->k...", weight[factor], padded[(reads, *window)], out=product[writes])
            total[writes] += product[writes]


ALGORITHMS: tuple[Algorithm, ...] = (SlidingTaps(),)


def unavailable() -> str:
    """Return ``""``: NumPy is always there."""
    return ""


def device(array: Any = None) -> ReferenceDevice:
    """Return the one device there is."""
    return ReferenceDevice()


def memory(device: ReferenceDevice) -> Memory:
    """Return main memory."""
    return HOST


def versions() -> dict[str, str]:
    """Return NumPy's version."""
    return {"numpy": np.__version__}


def cache_dir() -> str | None:
    """Return None: nothing is compiled."""
    return None
