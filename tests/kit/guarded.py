"""Arrays that end, or begin, where memory ends: one byte read or written beyond them kills the process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.lib.array_utils import byte_bounds

_PAGE = mmap.PAGESIZE


def _protect(address: int, allowed: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), ctypes.c_int(allowed)):
        raise OSError(ctypes.get_errno(), "mprotect")


@contextmanager
def guarded(array: np.ndarray, *, at_end: bool) -> Iterator[np.ndarray]:
    """Copy an array, strides and all, flush against a page that may not be touched."""
    low, high = byte_bounds(array)
    nbytes = high - low
    pages = -(-max(nbytes, 1) // _PAGE)
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    buffer = np.frombuffer(memory, np.uint8)
    start = _PAGE + (pages * _PAGE - nbytes if at_end else 0)
    first = array.__array_interface__["data"][0] - low
    copy: np.ndarray = np.ndarray(array.shape, array.dtype, memory, start + first, array.strides)
    copy[...] = array
    fences = (buffer.ctypes.data, buffer.ctypes.data + (pages + 1) * _PAGE)
    for fence in fences:
        _protect(fence, 0)
    try:
        yield copy
    finally:
        for fence in fences:
            _protect(fence, mmap.PROT_READ | mmap.PROT_WRITE)
