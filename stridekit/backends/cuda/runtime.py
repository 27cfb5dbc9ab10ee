"""What runs kernels: a small interface with two implementations, CuPy here and the emulator of the tests."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.sources import Kernel
from stridekit.memory.arrays import Array
from stridekit.memory.spaces import Memory

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
