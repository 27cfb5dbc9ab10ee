"""How arrays may lie in memory: the same numbers, contiguous or not, with poison wherever nobody may look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MEMORY_ORDERS = ("channels_first", "channels_last")
POISON = float("nan")


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def _sliced(array: np.ndarray) -> np.ndarray:
    large = np.full([size + 3 for size in array.shape], POISON, array.dtype)
    view = large[tuple(slice(1, 1 + size) for size in array.shape)]
    view[...] = array
    return view


def _every_other(array: np.ndarray) -> np.ndarray:
    large = np.full([2 * size + 1 for size in array.shape], POISON, array.dtype)
    view = large[tuple(slice(1, 1 + 2 * size, 2) for size in array.shape)]
    view[...] = array
    return view


def _reversed(array: np.ndarray) -> np.ndarray:
    back = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[back])[back]


def _misaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": _contiguous,
    "read_only": _read_only,
    "sliced": _sliced,
    "every_other": _every_other,
    "reversed": _reversed,
    "misaligned": _misaligned,
}
TRANSPOSED = "transposed"


def lay(array: np.ndarray, memory: str, way: str) -> np.ndarray:
    """Copy an ``(N, C, *spatial)`` array so that it lies in memory order `memory`, in the manner of `way`.

    "transposed" lies with the spatial axes in the opposite order and the samples innermost.
    """
    if way == TRANSPOSED:
        pixels = range(array.ndim - 1, 1, -1)
        order = (1, *pixels, 0) if memory == "channels_first" else (*pixels, 1, 0)
        return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    if memory == "channels_first":
        return WAYS[way](array)
    return np.moveaxis(WAYS[way](np.moveaxis(array, 1, -1)), -1, 1)


def empty_like_laid(shape: tuple[int, ...], dtype: Any, memory: str, way: str) -> np.ndarray:
    """Return an array of NaN, to be written, that lies so; `shape` has its channels first."""
    return lay(np.full(shape, POISON, dtype), memory, way)
