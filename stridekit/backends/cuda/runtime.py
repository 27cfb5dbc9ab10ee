"""What runs kernels: a small interface with two implementations, CuPy here and the emulator of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from stridekit.arrays import Array
from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.sources import Kernel
from stridekit.errors import ShapeError
from stridekit.memory import Memory

Grid = tuple[int, int, int]
LARGEST_GRID = (2**31 - 1, 65535, 65535)
"""CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"."""


class Runtime(Protocol):
    """Devices, their memory, and kernels on them."""

    def unavailable(self) -> str:
        """Return ``""`` if kernels can run here, else why not and what to install or change."""

    def device(self, ordinal: int | None = None) -> CudaDevice:
        """Return the device of that number, or the current one."""

    def ordinal_of(self, array: Array) -> int | None:
        """Return the number of the device on which `array` lies, or None if it is a NumPy array in main memory."""

    def memory(self, device: CudaDevice) -> Memory:
        """Return the memory of a device."""

    def launch(self, device: CudaDevice, kernel: Kernel, grid: Grid, parameters: np.ndarray) -> None:
        """Start a kernel on the current stream of `device`, which is the current device; do not wait for it."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what it consists of."""


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
