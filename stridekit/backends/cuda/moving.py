"""Elements moved, not computed: weights into the order of a reduction, inputs into channels-last order."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stridekit.arrays import Array, address
from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.parameters import fresh, parameters_of, set_divisors, steps_of, three
from stridekit.backends.cuda.runtime import LARGEST_GRID
from stridekit.backends.cuda.sources import Kernel
from stridekit.errors import ShapeError
from stridekit.problem import ConvProblem

_THREADS = 256
TILE_SIDE = 32
"""Pixels, and channels, of a tile of to_channels_last.cu."""
_STORAGE = {2: "u16", 4: "u32", 8: "u64"}


@lru_cache(maxsize=64)
def moving_kernel(name: str, itemsize: int) -> Kernel:
    """Return a kernel that moves elements of so many bytes: pack_weights or to_channels_last."""
    storage = _STORAGE[itemsize]
    shared = TILE_SIDE * (TILE_SIDE + 1) * itemsize if name == "to_channels_last" else 0
    return Kernel(f"{name}.cu", f"{name}_{storage}", (("STORAGE", storage),), _THREADS, shared)


def pack_weights(
    problem: ConvProblem, device: CudaDevice, weight: Array, packed: Array, channel_pitch: int, depth: int
) -> None:
    """Write weights as [groups][K][depth]: taps in order, `channel_pitch` channels each, zeros where there are none."""
    if depth >= 2**31:
        raise ShapeError(f"a filter of {depth} weights cannot be packed; give the weights as they are")
    filled = fresh(_packing(problem, channel_pitch, depth))
    p = filled[0]
    p["weight"], p["weight_step"], p["packed"] = address(weight), steps_of(weight), address(packed)
    blocks = -(-problem.out_channels * depth // _THREADS)
    launch(device, moving_kernel("pack_weights", problem.itemsize), (blocks, 1, 1), filled)


@lru_cache(maxsize=1024)
def _packing(problem: ConvProblem, channel_pitch: int, depth: int) -> np.ndarray:
    filled = parameters_of(problem)
    filled[0]["depth"], filled[0]["channel_pitch"] = depth, channel_pitch
    _, rows, columns = three([axis.kernel for axis in problem.geometry.axes], 1)
    set_divisors(filled, channel_pitch=channel_pitch, depth=depth, kernel_row=rows, kernel_column=columns)
    return filled


def to_channels_last(problem: ConvProblem, device: CudaDevice, filled: np.ndarray, target: Array) -> None:
    """Copy the input to `target` as [N][D][H][W][groups][channel_pitch], then let the parameters speak of the copy."""
    p = filled[0]
    p["channels_last"] = address(target)
    _, rows, columns = (int(size) for size in p["size"])
    pixels, pitch = int(np.prod(p["size"])), int(p["channel_pitch"])
    channels = problem.groups * pitch
    grid = (-(-pixels // TILE_SIDE), -(-channels // TILE_SIDE), min(problem.batch, LARGEST_GRID[2]))
    launch(device, moving_kernel("to_channels_last", problem.itemsize), grid, filled)
    p["x"], p["group_step"] = p["channels_last"], pitch
    p["x_step"] = (pixels * channels, 1, rows * columns * channels, columns * channels, channels)
