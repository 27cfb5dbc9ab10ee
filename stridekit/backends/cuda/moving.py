"""Elements moved, not computed: weights into the order of a reduction, inputs into channels-last order."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.parameters import DIVISOR, STEPS, divisor, fresh, steps_of, three
from stridekit.backends.cuda.runtime import LARGEST_GRID
from stridekit.backends.cuda.sources import Kernel
from stridekit.errors import ShapeError
from stridekit.memory.arrays import Array, address
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.conv_problem import ConvProblem

_THREADS = 256
TILE_SIDE = 32
"""Pixels, and channels, of a tile of to_channels_last.cu."""
PACK_PARAMETERS: np.dtype[Any] = np.dtype(
    [
        ("weight", np.uint64),
        ("weight_step", np.int64, 5),
        ("packed", np.uint64),
        *((name, np.int64) for name in ("elements", "channels", "depths")),
        *((f"by_{name}", DIVISOR) for name in ("row", "channel_pitch", "kernel_row", "kernel_column")),
    ],
    align=True,
)
COPY_PARAMETERS: np.dtype[Any] = np.dtype(
    [
        ("x", np.uint64),
        ("x_step", STEPS),
        ("y", np.uint64),
        *((name, np.int64) for name in ("samples", "pixels", "channels", "padded_channels")),
        *((f"by_{name}", DIVISOR) for name in ("channel_pitch", "row", "column")),
    ],
    align=True,
)
"""The twins of `PackParameters` in kernels/pack_weights.cu and of `CopyParameters` in kernels/to_channels_last.cu."""
STORAGE = {dtype.nbytes: f"u{8 * dtype.nbytes}" for dtype in DTYPES.values()}
"""The integers that elements are moved as, by the bytes of one."""


@lru_cache(maxsize=64)
def moving_kernel(name: str, itemsize: int) -> Kernel:
    """Return a kernel that moves elements of so many bytes: pack_weights or to_channels_last."""
    storage = STORAGE[itemsize]
    shared = TILE_SIDE * (TILE_SIDE + 1) * itemsize if name == "to_channels_last" else 0
    return Kernel(f"{name}.cu", f"{name}_{storage}", (("STORAGE", storage),), _THREADS, shared)


def pack_weights(
    problem: ConvProblem, device: CudaDevice, weight: Array, packed: Array, channel_pitch: int, depth: int
) -> None:
    """Write weights as [groups][K][depth]: taps in order, `channel_pitch` channels each, zeros where there are none."""
    if depth >= 2**31:
        raise ShapeError(f"a filter of {depth} weights cannot be packed; give the weights as they are")
    filled = fresh(_packing(problem, channel_pitch, depth))
    p: Any = filled[0]
    p["weight"], p["weight_step"], p["packed"] = address(weight), steps_of(weight), address(packed)
    blocks = -(-problem.out_channels * depth // _THREADS)
    launch(device, moving_kernel("pack_weights", problem.itemsize), (blocks, 1, 1), filled)


@lru_cache(maxsize=1024)
def _packing(problem: ConvProblem, channel_pitch: int, depth: int) -> np.ndarray:
    filled = np.zeros(1, PACK_PARAMETERS)
    p: Any = filled[0]
    depths, rows, columns = three([axis.kernel for axis in problem.geometry.axes], 1)
    p["elements"], p["channels"], p["depths"] = problem.out_channels * depth, problem.group_in_channels, depths
    p["by_row"], p["by_channel_pitch"] = divisor(depth), divisor(channel_pitch)
    p["by_kernel_row"], p["by_kernel_column"] = divisor(rows), divisor(columns)
    return filled


class Placed(NamedTuple):
    """Where a kernel finds an input: its address, its steps, and that from one group's channels to the next's."""

    x: int
    x_step: tuple[int, ...]
    group_step: int


def to_channels_last(problem: ConvProblem, device: CudaDevice, x: Array, target: Array, channel_pitch: int) -> Placed:
    """Copy the input to `target` as [N][D][H][W][groups][channel_pitch]; return where it now lies."""
    filled = np.zeros(1, COPY_PARAMETERS)
    p: Any = filled[0]
    depths, rows, columns = three([axis.size for axis in problem.geometry.axes], 1)
    pixels, channels = depths * rows * columns, problem.groups * channel_pitch
    p["x"], p["x_step"], p["y"] = address(x), steps_of(x), address(target)
    p["samples"], p["pixels"] = problem.batch, pixels
    p["channels"], p["padded_channels"] = problem.group_in_channels, channels
    p["by_channel_pitch"], p["by_row"], p["by_column"] = divisor(channel_pitch), divisor(rows), divisor(columns)
    grid = (-(-pixels // TILE_SIDE), -(-channels // TILE_SIDE), min(problem.batch, LARGEST_GRID[2]))
    launch(device, moving_kernel("to_channels_last", problem.itemsize), grid, filled)
    steps = pixels * channels, 1, rows * columns * channels, columns * channels, channels
    return Placed(address(target), steps, channel_pitch)
