"""Which runtime is in use, and a launch on it, checked against CUDA's limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.runtime import LARGEST_GRID, Grid, Runtime
from stridekit.backends.cuda.sources import Kernel
from stridekit.errors import ShapeError

_override: list[Runtime] = []


def runtime() -> Runtime:
    """Return the runtime in use: CuPy's, but inside `use_runtime`."""
    if _override:
        return _override[-1]
    from stridekit.backends.cuda.cupy_runtime import CUPY

    return CUPY


@contextmanager
def use_runtime(other: Runtime) -> Iterator[Runtime]:
    """Run kernels by another runtime inside the ``with`` block, in every thread."""
    _override.append(other)
    try:
        yield other
    finally:
        _override.remove(other)


def launch(device: CudaDevice, kernel: Kernel, grid: Grid, parameters: np.ndarray) -> None:
    """Start a kernel, unless there is nothing to do.

    Raises
    ------
    ShapeError
        If the grid is larger than CUDA takes.
    """
    if 0 in grid:
        return
    if any(size > most for size, most in zip(grid, LARGEST_GRID, strict=True)):
        raise ShapeError(f"{kernel.entry} would take a grid of {grid} blocks; CUDA takes {LARGEST_GRID} at most")
    runtime().launch(device, kernel, grid, parameters)
