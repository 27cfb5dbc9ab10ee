"""CuPy as the runtime: its current device, stream and pool; our own machine code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np

from stridekit.backends.cuda import compiling
from stridekit.backends.cuda.device import GRANULARITY, OLDEST, CudaDevice
from stridekit.backends.cuda.runtime import Grid
from stridekit.backends.cuda.sources import Kernel
from stridekit.concurrency import loaded
from stridekit.errors import BackendUnavailableError
from stridekit.memory.arrays import Array
from stridekit.memory.spaces import WholeUnits

_OPT_IN_SHARED = 48 * 1024
"""Bytes of dynamic shared memory that a kernel gets without asking."""
_OLDEST_CUDA_12 = 12080
"""CUDA's version of which the extra cuda12 brings the compiler."""
_OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY."""
_SLOWEST_MEMORY = 10**10
"""Bytes per second, for devices that do not say how fast their memory is."""


class CupyMemory(WholeUnits):
    """The memory of one device, in CuPy's current pool."""

    library = "cupy"
    granularity = GRANULARITY

    def __init__(self, ordinal: int):
        self._ordinal = ordinal

    def entered(self) -> AbstractContextManager[object]:
        """Make the device the current one; CuPy's current stream stays as it is."""
        return _cupy().cuda.Device(self._ordinal)  # type: ignore[no-any-return]

    def empty(self, nbytes: int) -> tuple[object, Array]:
        """Allocate from the current pool; CuPy's OutOfMemoryError is a MemoryError."""
        array = _cupy().empty(nbytes, np.uint8)
        return array, array

    def resident(self, array: Array) -> bool:
        """Say whether it is CuPy's; NumPy arrays are uploaded."""
        return not isinstance(array, np.ndarray)

    def refuses(self, array: Array) -> str:
        """Return ``""`` if an array of CuPy's lies on this device, on whole elements."""
        if array.device.id != self._ordinal:
            return f"lies on cuda:{array.device.id}, the plan runs on cuda:{self._ordinal}; copy it there"
        whole = [array.data.ptr, *(step for step, size in zip(array.strides, array.shape, strict=True) if size > 1)]
        if any(number % array.itemsize for number in whole):
            return "does not lie on whole elements; copy it with cupy.ascontiguousarray"
        return ""

    def upload(self, target: Array, source: np.ndarray) -> None:
        """Copy to the device, and wait: pinned memory is read later, and the caller may change it."""
        target.set(source)
        _cupy().cuda.get_current_stream().synchronize()

    def download(self, source: Array) -> np.ndarray:
        """Copy from the device, and wait."""
        # Into memory of its own: where the host can read the device's, get() alone may return that, and not wait.
        result = np.empty(source.shape, source.dtype)
        source.get(out=result)
        return result

    def free_bytes(self) -> int | None:
        """Return what the driver and the default pool could give, within the pool's limit."""
        cupy = _cupy()
        pool = cupy.get_default_memory_pool()
        free = int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
        limit = int(pool.get_limit())
        return min(free, limit - int(pool.used_bytes())) if limit else free

    def seconds(self, call: Callable[[], object]) -> float:
        """Time a call by events on the current stream."""
        cupy = _cupy()
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3


class CupyRuntime:
    """Kernels on NVIDIA's devices."""

    def unavailable(self) -> str:
        """Return why CUDA cannot be used here and what to install or change, or ``""``."""
        return _unavailable()

    def device(self, ordinal: int | None = None) -> CudaDevice:
        """Describe a device; the current one by default."""
        return _device(int(_cupy().cuda.runtime.getDevice()) if ordinal is None else ordinal)

    def ordinal_of(self, array: Array) -> int | None:
        """Return the number of an array's device."""
        return None if isinstance(array, np.ndarray) else int(array.device.id)

    def memory(self, device: CudaDevice) -> CupyMemory:
        """Return the memory of a device that is here.

        Raises
        ------
        BackendUnavailableError
            For a profile.
        """
        reason = self.unavailable()
        if reason and device.ordinal is not None:
            raise BackendUnavailableError(f"the plan is for {device.name}, and CUDA cannot be used here: {reason}")
        if device.ordinal is None:
            raise BackendUnavailableError(
                f"the plan was made for the profile {device.name!r}, which predicts and does not run; plan with "
                f"device=None to run on the device at hand"
            )
        return CupyMemory(device.ordinal)

    def launch(self, device: CudaDevice, kernel: Kernel, grid: Grid, parameters: np.ndarray) -> None:
        """Launch on CuPy's current stream."""
        function = _function(kernel, device.architecture, device.ordinal)
        function(grid, (kernel.threads,), (parameters,), shared_mem=kernel.shared_bytes)

    def versions(self) -> dict[str, str]:
        """Return the versions of CuPy, NVRTC and the driver."""
        major, minor = compiling.version()
        driver = int(_cupy().cuda.runtime.driverGetVersion())
        return {
            "cupy": _cupy().__version__,
            "nvrtc": f"{major}.{minor}",
            "driver": f"CUDA {_dotted(driver)}",
        }


CUPY = CupyRuntime()


@cache
def _cupy() -> Any:
    return loaded("cupy")


@cache
def _function(kernel: Kernel, architecture: str, ordinal: int | None) -> Any:
    """Load a kernel on a device, once in a process; modules belong to a device, so `ordinal` is part of the key."""
    path = compiling.cubin_path(kernel, architecture)
    try:
        try:
            return _loaded(kernel, str(path))
        except Exception as error:
            if getattr(error, "status", None) != _OUT_OF_MEMORY:
                raise
        # Code takes memory of the device too, beside CuPy's pool, which may hold all of it.
        _cupy().get_default_memory_pool().free_all_blocks()
        return _loaded(kernel, str(path))
    except Exception as error:
        if getattr(error, "status", None) == _OUT_OF_MEMORY:
            raise MemoryError(f"the device has no memory left for the code of {kernel.entry}") from error
        major, minor = compiling.version()
        raise BackendUnavailableError(
            f"the driver (CUDA {_dotted(int(_cupy().cuda.runtime.driverGetVersion()))}) cannot load {kernel.entry}, "
            f"compiled by NVRTC {major}.{minor} for sm_{architecture}: {error}; install a newer driver, or an older "
            f"NVRTC: {compiling.INSTALL}"
        ) from error


def _loaded(kernel: Kernel, path: str) -> Any:
    # Of this kernel's own: a module that failed to load is not remembered.
    function = _cupy().RawModule(path=path).get_function(kernel.entry)
    if kernel.shared_bytes > _OPT_IN_SHARED:
        function.max_dynamic_shared_size_bytes = kernel.shared_bytes
    return function


_verdict: list[str] = []


def _unavailable() -> str:
    # Only a success is remembered: what is missing may be installed while an interpreter runs.
    if not _verdict:
        reason = _probe()
        if reason:
            return reason
        _verdict.append(reason)
    return _verdict[0]


def _probe() -> str:
    try:
        runtime = _cupy().cuda.runtime
    except Exception as error:
        return f"CuPy cannot be imported ({error}); {compiling.INSTALL}"
    try:
        count = int(runtime.getDeviceCount())
    except Exception as error:
        return _no_driver(runtime, error)
    if count == 0:
        return "CUDA sees no device; is CUDA_VISIBLE_DEVICES set, and is the container run with --gpus all?"
    ordinal = int(runtime.getDevice())
    properties = runtime.getDeviceProperties(ordinal)
    return _too_old(properties) or compiling.unavailable()


def _too_old(properties: dict[str, Any]) -> str:
    capability = int(properties["major"]), int(properties["minor"])
    if capability >= OLDEST:
        return ""
    return (
        f"{properties['name'].decode()} has compute capability {capability[0]}.{capability[1]}, the kernels need "
        f"{OLDEST[0]}.{OLDEST[1]} (Ampere) or later; NumPy arrays run with backend='cpu'"
    )


def _no_driver(runtime: Any, error: Exception) -> str:
    try:
        driver = int(runtime.driverGetVersion())
    except Exception:
        driver = 0
    wanted = int(runtime.runtimeGetVersion())
    if driver == 0:
        return "there is no NVIDIA driver here; install one, or run the container with --gpus all"
    if driver // 1000 < wanted // 1000:
        older = ", or pip install '.[cuda12]' in the clone" if driver >= _OLDEST_CUDA_12 else ""
        return (
            f"the driver is too old: it knows CUDA {_dotted(driver)} and this CuPy wants {_dotted(wanted)}; update it"
            f"{older}"
        )
    return f"CUDA does not start ({error})"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


@cache
def _device(ordinal: int) -> CudaDevice:
    properties = _cupy().cuda.runtime.getDeviceProperties(ordinal)
    reason = _too_old(properties)
    if reason:
        raise BackendUnavailableError(f"cuda:{ordinal} cannot be used: {reason}")
    attributes = _cupy().cuda.Device(ordinal).attributes
    # Bytes per second: memory clock in kHz, both edges, times the width of the bus in bits.
    bandwidth = attributes["MemoryClockRate"] * 1000 * 2 * attributes["GlobalMemoryBusWidth"] // 8
    return CudaDevice(
        name=f"cuda:{ordinal}",
        model=properties["name"].decode(),
        ordinal=ordinal,
        compute_capability=(int(properties["major"]), int(properties["minor"])),
        multiprocessors=int(properties["multiProcessorCount"]),
        clock_hz=int(attributes["ClockRate"]) * 1000,
        memory_bytes=int(properties["totalGlobalMem"]),
        memory_bytes_per_s=max(int(bandwidth), _SLOWEST_MEMORY),
        shared_bytes_of_block=int(attributes["MaxSharedMemoryPerBlockOptin"]),
        shared_bytes_of_multiprocessor=int(attributes["MaxSharedMemoryPerMultiprocessor"]),
    )
