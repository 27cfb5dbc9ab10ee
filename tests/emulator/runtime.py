"""The emulator as a runtime of the cuda backend: NumPy arrays are its device memory, g++ its compiler."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np

from stridekit.backends.cuda.device import GRANULARITY, CudaDevice, profile
from stridekit.backends.cuda.runtime import Grid
from stridekit.backends.cuda.sources import Kernel, kernels_dir
from stridekit.memory.spaces import WholeUnits
from tests.emulator.building import build, why_not
from tests.emulator.machine import SCHEDULES, Module, Schedule


class EmulatedMemory(WholeUnits):
    """Main memory, counted as CuPy's pool counts, or to the byte; beyond `capacity` bytes allocations fail."""

    library = "numpy"

    def __init__(self, resident: bool, capacity: int | None, granularity: int = GRANULARITY):
        self.granularity = granularity
        self._resident = resident
        self._capacity = capacity
        self._taken = 0

    def entered(self) -> AbstractContextManager[object]:
        return nullcontext()

    def empty(self, nbytes: int) -> tuple[object, np.ndarray]:
        free = self.free_bytes()
        if free is not None and nbytes > free:
            raise MemoryError(f"emulated device: {nbytes} bytes wanted, {free} free")
        # NaN everywhere: what a kernel leaves unwritten shows. On 512 bytes, as CuPy's are, unless bytes are counted.
        spare = 0 if self.granularity == 1 else GRANULARITY
        buffer = np.full(nbytes + spare, 0xFF, np.uint8)
        self._take(nbytes)
        weakref.finalize(buffer, self._take, -nbytes).atexit = False
        offset = -buffer.ctypes.data % GRANULARITY if spare else 0
        return buffer, buffer[offset : offset + nbytes]

    def _take(self, nbytes: int) -> None:
        self._taken += nbytes

    def resident(self, array: np.ndarray) -> bool:
        # A GPU reads whole elements only; what lies otherwise is copied, as arrays of the host are.
        whole = [array.ctypes.data, *(s for s, size in zip(array.strides, array.shape, strict=True) if size > 1)]
        return self._resident and not any(number % array.itemsize for number in whole)

    def refuses(self, array: np.ndarray) -> str:
        return ""

    def upload(self, target: np.ndarray, source: np.ndarray) -> None:
        target[...] = source

    def download(self, source: np.ndarray) -> np.ndarray:
        return source.copy()

    def free_bytes(self) -> int | None:
        return None if self._capacity is None else self._capacity - self._taken

    def seconds(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class ByteDevice(CudaDevice):
    """A device that counts single bytes: AddressSanitizer then sees the end of every array, not of what it is in."""

    granularity = 1


class EmulatedRuntime:
    """One emulated device.

    Parameters
    ----------
    flavour
        Of `tests.emulator.building.FLAVOURS`.
    schedule
        How threads take turns and when asynchronous copies land.
    resident
        Whether NumPy arrays count as device memory; else they are copied there and back, as on a real device.
    capacity
        Bytes that the device has.
    model
        Name of the profile whose numbers the device has.
    """

    def __init__(
        self,
        *,
        flavour: str = "fast",
        schedule: Schedule = SCHEDULES[0],
        resident: bool = True,
        capacity: int | None = None,
        model: str = "H200",
    ):
        kind, known = ByteDevice if flavour == "address" else CudaDevice, profile(model)
        self._device = kind(**{**vars(known), "name": "emulator", "model": f"emulated {model}", "ordinal": 0})
        self._memory = EmulatedMemory(resident, capacity, kind.granularity)
        self.flavour, self.schedule = flavour, schedule
        self.launched: list[str] = []

    def unavailable(self) -> str:
        return why_not()

    def device(self, ordinal: int | None = None) -> CudaDevice:
        return self._device

    def ordinal_of(self, array: Any) -> int | None:
        return None

    def memory(self, device: CudaDevice) -> EmulatedMemory:
        return self._memory

    def launch(self, device: CudaDevice, kernel: Kernel, grid: Grid, parameters: np.ndarray) -> None:
        self.launched.append(kernel.entry)
        module = _module(kernel, self.flavour)
        module.launch(kernel.entry, grid, (kernel.threads, 1, 1), kernel.shared_bytes, parameters, self.schedule)

    def versions(self) -> dict[str, str]:
        return {"emulator": "g++"}


@cache
def _module(kernel: Kernel, flavour: str) -> Module:
    return Module(build(kernels_dir() / kernel.file, [kernels_dir()], kernel.all_defines, flavour))
