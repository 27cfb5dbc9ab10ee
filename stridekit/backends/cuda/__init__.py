"""The cuda backend: CuPy arrays, and our own kernels in kernels/, compiled for the device at hand."""

from __future__ import annotations

from typing import Any

from stridekit.backends import Algorithm
from stridekit.backends.cuda.device import CudaDevice as CudaDevice
from stridekit.backends.cuda.device import profile as profile
from stridekit.backends.cuda.direct import Direct
from stridekit.backends.cuda.folding import DeviceMoves
from stridekit.backends.cuda.implicit_gemm import ImplicitGemm, ImplicitGemmFma
from stridekit.backends.cuda.launching import runtime
from stridekit.backends.cuda.pool_windows import pool as windows
from stridekit.backends.gradients.directions import directions
from stridekit.backends.pool_algorithm import Pooling
from stridekit.memory import disk_cache
from stridekit.memory.spaces import Memory

ALGORITHMS: dict[str, tuple[Algorithm, ...]] = {
    **directions((ImplicitGemm(), ImplicitGemmFma(), Direct()), DeviceMoves()),
    "pool": (Pooling(windows),),
}


def unavailable() -> str:
    """Return ``""`` if kernels can run here, else why not and what to install or change."""
    return runtime().unavailable()


def device(array: Any = None) -> CudaDevice:
    """Return the device on which `array` lies; for a NumPy array or none, the current one."""
    return runtime().device(None if array is None else runtime().ordinal_of(array))


def memory(device: CudaDevice) -> Memory:
    """Return the memory of a device that is here."""
    return runtime().memory(device)


def versions() -> dict[str, str]:
    """Return the versions of CuPy, NVRTC and the driver."""
    return runtime().versions()


def cache_dir() -> str | None:
    """Return the folder of compiled kernels."""
    return str(disk_cache.cache_dir())
