"""Pooling on the cuda backend: one thread an element of the result, nothing copied, no workspace."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.parameters import DIVISOR, STEPS, WALK, divisor, steps_of, three, walk_of
from stridekit.backends.cuda.sources import Kernel
from stridekit.memory.arrays import Array, address
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.pool_problem import PoolProblem

_THREADS = 128
_AXES = ("size", "output", "kernel", "stride", "dilation", "padding", "low", "high")
POOL_PARAMETERS: np.dtype[Any] = np.dtype(
    [
        *((name, np.uint64) for name in ("source", "target", "indices")),
        *((f"{name}_step", STEPS) for name in ("source", "target", "index")),
        *((name, np.int64, 3) for name in _AXES),
        ("walk", WALK),
        *((name, DIVISOR, 3) for name in ("by_stride", "by_dilation")),
    ],
    align=True,
)
"""The twin of `PoolParameters` in kernels/pooling.cuh."""


def pool(problem: PoolProblem, device: CudaDevice, source: Array, indices: Array | None, target: Array | None) -> None:
    """Compute `problem`, as `stridekit.backends.pool_algorithm.Windows` says."""
    filled = _prepared(problem).copy()
    p = filled[0]
    p["source"], p["source_step"] = address(source), steps_of(source)
    if target is not None:
        p["target"], p["target_step"] = address(target), steps_of(target)
    if indices is not None:
        p["indices"], p["index_step"] = address(indices), steps_of(indices)
    inside = problem.memory_order == "channels_last"
    kernel = pool_kernel(problem.operation, problem.direction, problem.dtype, inside, _narrow(problem))
    launch(device, kernel, (-(-int(p["walk"]["elements"]) // _THREADS), 1, 1), filled)


@lru_cache(maxsize=256)
def pool_kernel(operation: str, direction: str, dtype: str, channels_inside: bool, narrow: bool) -> Kernel:
    """Return the specialisation; `narrow` says that 32 bits hold every coordinate and thread."""
    name = f"{operation}_pool_{direction}_{dtype}_{'channels' if channels_inside else 'pixels'}"
    defines = (
        ("ELEMENT", DTYPES[dtype].cuda_element),
        ("INDEX", "int" if narrow else "i64"),
        ("UNSIGNED_INDEX", "u32" if narrow else "u64"),
        ("LARGEST", str(int(operation == "max"))),
        ("CHANNELS_INSIDE", str(int(channels_inside))),
    )
    file = "pool.cu" if direction == "forward" else "pool_grad.cu"
    return Kernel(file, f"{name}_{'i32' if narrow else 'i64'}", defines, _THREADS)


def _narrow(problem: PoolProblem) -> bool:
    """Prove that 32 bits hold every coordinate, with a window or a step added, and every thread."""
    largest = max(
        math.prod(problem.result_shape) + _THREADS,
        *(axis.padded_size + axis.kernel_extent + axis.stride + axis.dilation for axis in problem.geometry.axes),
        *(axis.stride * axis.output_size + axis.kernel_extent for axis in problem.geometry.axes),
    )
    return largest < 2**31


@lru_cache(maxsize=1024)
def _prepared(problem: PoolProblem) -> np.ndarray:
    filled = np.zeros(1, POOL_PARAMETERS)
    p, axes = filled[0], problem.geometry.axes
    p["size"], p["output"] = three([a.size for a in axes], 1), three([a.output_size for a in axes], 1)
    p["kernel"], p["stride"] = three([a.kernel for a in axes], 1), three([a.stride for a in axes], 1)
    p["dilation"], p["padding"] = three([a.dilation for a in axes], 1), three([a.pad_before for a in axes], 0)
    p["low"], p["high"] = (three([pair[side] for pair in problem.counted], side) for side in (0, 1))
    p["walk"] = walk_of(problem.result_shape)
    for name in ("stride", "dilation"):
        for axis in range(3):
            p[f"by_{name}"][axis] = divisor(int(p[name][axis]))
    return filled
