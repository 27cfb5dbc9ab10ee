"""Where arrays live: what a plan needs of a memory to allocate in it, to move arrays there and back, and to wait.

Main memory is here; a device's memory is its backend's. Nothing here counts bytes: that is `stridekit.vram`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np

from stridekit.errors import VramBudgetError
from stridekit.memory.arrays import Array
from stridekit.memory.limits import check_memory
from stridekit.memory.workspace import ALIGNMENT, align


class WholeUnits:
    """What gives out memory in whole units of `granularity` bytes."""

    granularity: int = 1

    def rounded(self, nbytes: int) -> int:
        """Return the bytes that an allocation of so many takes."""
        return align(nbytes, self.granularity)


class Memory(Protocol):
    """A memory, and the library whose arrays live in it."""

    @property
    def library(self) -> str:
        """``"numpy"`` or ``"cupy"``: whose arrays live here."""

    @property
    def granularity(self) -> int:
        """Bytes: every allocation takes a whole multiple."""

    def rounded(self, nbytes: int) -> int:
        """Return the bytes that an allocation of so many takes."""

    def entered(self) -> AbstractContextManager[object]:
        """Make this memory's device the current one."""

    def empty(self, nbytes: int) -> tuple[object, Array]:
        """Allocate; return what owns the memory, and a flat uint8 array on a cache line within it.

        Raises
        ------
        MemoryError
            If there is not so much.
        """

    def resident(self, array: Array) -> bool:
        """Say whether kernels can read `array` where it lies; else it must be uploaded."""

    def refuses(self, array: Array) -> str:
        """Return ``""``, or why an array of this library can neither be read here nor uploaded."""

    def upload(self, target: Array, source: np.ndarray) -> None:
        """Copy a C-contiguous NumPy array into an array of this memory, of the same shape and dtype."""

    def download(self, source: Array) -> np.ndarray:
        """Copy a C-contiguous array of this memory into a new NumPy array, once all work on it is done."""

    def free_bytes(self) -> int | None:
        """Return what could be allocated now, or None where nobody knows."""

    def seconds(self, call: Callable[[], object]) -> float:
        """Run `call` and return how long its work took here, from start to end."""


class HostMemory(WholeUnits):
    """Main memory, and NumPy's arrays."""

    library = "numpy"

    def entered(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return _NOTHING

    def empty(self, nbytes: int) -> tuple[object, np.ndarray]:
        """Allocate on a cache line.

        NumPy's own arrays begin on any 16 bytes, so that every vector load would cross a line: a third of a depthwise
        layer's time. The 64 bytes that this takes are not counted, as malloc's own are not.
        """
        # The system lends more than it has, and ends the process that takes it.
        check_memory("an array", nbytes)
        try:
            buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
        except (MemoryError, ValueError):  # The second for more than an address counts.
            raise VramBudgetError(f"main memory does not give {nbytes} bytes; nothing was allocated") from None
        offset = -buffer.ctypes.data % ALIGNMENT
        return buffer, buffer[offset : offset + nbytes]

    def resident(self, array: np.ndarray) -> bool:
        """Return True: there is one main memory."""
        return True

    def refuses(self, array: np.ndarray) -> str:
        """Return ``""``."""
        return ""

    def upload(self, target: np.ndarray, source: np.ndarray) -> None:
        """Copy."""
        target[...] = source

    def download(self, source: np.ndarray) -> np.ndarray:
        """Copy."""
        return source.copy()

    def free_bytes(self) -> int | None:
        """Return None: the system lends more than it has."""
        return None

    def seconds(self, call: Callable[[], object]) -> float:
        """Time a call by the clock."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


HOST = HostMemory()
_NOTHING = nullcontext()


def uploaded(array: np.ndarray, memory: Memory) -> Array:
    """Return `array` where `memory` is: itself, or a copy that belongs to the caller and is not counted."""
    if memory.resident(array):
        return array
    given = np.ascontiguousarray(array)
    with memory.entered():
        target = memory.empty(given.nbytes)[1].view(given.dtype).reshape(given.shape)
        memory.upload(target, given)
    return target
