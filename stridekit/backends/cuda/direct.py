"""The direct algorithm: one thread an output pixel and a few filters; every problem, nothing packed, no workspace."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from stridekit.backends import Operands
from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.moving import pack_weights
from stridekit.backends.cuda.parameters import fresh, parameters_of, set_divisors, set_result, steps_of, three
from stridekit.backends.cuda.runtime import LARGEST_GRID
from stridekit.backends.cuda.sources import Kernel
from stridekit.memory.arrays import Array, address
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.conv_problem import ConvProblem

_THREADS = 128
FILTERS = (1, 4)
"""Filters that one thread may compute."""
_EFFICIENCY = 0.1
"""Share of the peak of fused multiply-adds, to order of magnitude: each product takes a load or two."""
LAUNCH_SECONDS = 3e-6
_TYPICAL_BATCH = 8


class Direct:
    """Sums where the arrays lie."""

    name = "direct"

    def supports(self, problem: ConvProblem, device: CudaDevice) -> str:
        """Return ``""``, or that the grid would be too large."""
        if -(-_threads(problem) // _THREADS) > LARGEST_GRID[0]:
            return f"it would take {_threads(problem)} threads; CUDA takes {LARGEST_GRID[0] * _THREADS}"
        return ""

    def cost(self, problem: ConvProblem, device: CudaDevice) -> float:
        """Return the modelled seconds: multiply-adds at a tenth of the peak, or the bytes that must move."""
        problem = at_typical_batch(problem)
        computing = problem.flops / 2 / (device.multiply_adds_per_s(DTYPES[problem.dtype].sums) * _EFFICIENCY)
        return max(computing, problem.moved_bytes / device.memory_bytes_per_s) + LAUNCH_SECONDS

    def detail(self, problem: ConvProblem, device: CudaDevice) -> str:
        """Say how many filters a thread computes."""
        return f"{_filters(problem)} filters a thread"

    def packing(self, problem: ConvProblem, device: CudaDevice) -> tuple[object, ...]:
        """Packed weights hold the channels of a tap together."""
        return (problem.weight_shape, problem.dtype)

    def packed_bytes(self, problem: ConvProblem, device: CudaDevice) -> int:
        """Return the bytes of the weights."""
        return problem.weight_bytes

    def pack(self, problem: ConvProblem, device: CudaDevice, weight: Array, packed: Array) -> None:
        """Write the weights as [K][taps][C]."""
        channels = problem.group_in_channels
        pack_weights(problem, device, weight, packed, channels, channels * problem.taps)

    def workspace(self, problem: ConvProblem, device: CudaDevice, *, packed: bool) -> int:
        """Return 0."""
        return 0

    def run(self, problem: ConvProblem, device: CudaDevice, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`."""
        weight, x = operands.weight, operands.x
        filled = fresh(_prepared(problem))
        p = filled[0]
        p["x"], p["x_step"] = address(x), steps_of(x)
        set_result(p, operands, out)
        if operands.packed_weight is None:
            p["weight"], p["weight_step"] = address(weight), steps_of(weight)
        else:
            p["weight"], p["weight_step"] = address(operands.packed_weight), _packed_steps(problem)
        last = abs(int(p["y_step"]["c"])) == 1 and problem.output_pixels > 1
        kernel = direct_kernel(problem.dtype, _filters(problem), last, _narrow(problem, p))
        launch(device, kernel, (-(-_threads(problem) // _THREADS), 1, 1), filled)


@lru_cache(maxsize=256)
def direct_kernel(dtype: str, filters: int, neighbours_are_filters: bool, narrow: bool) -> Kernel:
    """Return the specialisation; `narrow` says that 32 bits hold every index."""
    name = f"conv_forward_direct_{dtype}_f{filters}_{'filters' if neighbours_are_filters else 'pixels'}"
    defines = (
        ("ELEMENT", DTYPES[dtype].cuda_element),
        ("INDEX", "int" if narrow else "i64"),
        ("UNSIGNED_INDEX", "u32" if narrow else "u64"),
        ("FILTERS", str(filters)),
        ("NEIGHBOURS_ARE_FILTERS", str(int(neighbours_are_filters))),
        # Few registers for many warps where a thread waits for most of its time; what 64 bits take would spill.
        ("MIN_BLOCKS", "8" if filters == 1 and narrow else "1"),
    )
    return Kernel("direct.cu", f"{name}_{'i32' if narrow else 'i64'}", defines, _THREADS)


def at_typical_batch(problem: ConvProblem) -> ConvProblem:
    """Return the problem at the batch for which algorithms are compared, whatever its own.

    Algorithms add in different orders: if a larger batch took another one, a sample's bits would depend on it.
    """
    return replace(problem, batch=_TYPICAL_BATCH)


def _filters(problem: ConvProblem) -> int:
    few, many = FILTERS
    return many if problem.group_out_channels >= many else few


def _packed_steps(problem: ConvProblem) -> tuple[int, int, int, int, int]:
    channels = problem.group_in_channels
    _, rows, columns = three([axis.kernel for axis in problem.geometry.axes], 1)
    return channels * problem.taps, 1, rows * columns * channels, columns * channels, channels


def _blocks_of_group(problem: ConvProblem) -> int:
    return -(-problem.group_out_channels // _filters(problem))


def _threads(problem: ConvProblem) -> int:
    return problem.batch * problem.groups * _blocks_of_group(problem) * problem.output_pixels


def _narrow(problem: ConvProblem, p: Any) -> bool:
    """Prove that 32 bits hold every coordinate, every channel and filter times its step, and every thread."""
    largest = max(
        _threads(problem) + _THREADS,
        *(axis.padded_size + axis.kernel_extent for axis in problem.geometry.axes),
        *(axis.stride * axis.output_size for axis in problem.geometry.axes),
        problem.group_in_channels * abs(int(p["x_step"]["c"])),
        problem.group_in_channels * abs(int(p["weight_step"][1])) + 2 * max(FILTERS) * abs(int(p["weight_step"][0])),
        problem.out_channels,
    )
    return largest < 2**31


@lru_cache(maxsize=4096)
def _prepared(problem: ConvProblem) -> np.ndarray:
    filled = parameters_of(problem)
    blocks = _blocks_of_group(problem)
    filled[0]["threads"] = _threads(problem)
    depth, rows, columns = three([axis.output_size for axis in problem.geometry.axes], 1)
    set_divisors(
        filled,
        output_depth=depth,
        output_row=rows,
        output_column=columns,
        filter_blocks=blocks,
        all_filter_blocks=blocks * problem.groups,
    )
    return filled
