"""What the primitives of `kernels/device.cuh` are given, and how two answers compare: the emulator's and a GPU's.

`primitives.cu` has one kernel for each. Nothing here says what the answer is: `tests/test_emulator.py` does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from .building import HERE
from .machine import SCHEDULES, Module, Schedule

SOURCE = HERE / "primitives.cu"
PARAMETERS = np.dtype([("a", "u8"), ("b", "u8"), ("c", "u8"), ("result", "u8"), ("count", "i8")])
"""Twin of `PrimitiveParameters`: four addresses and a length."""
BLOCK = (32, 1, 1)
SHARED_BYTES = 512


def _nothing() -> np.ndarray:
    return np.zeros(4, np.uint32)


@dataclass(frozen=True)
class Primitive:
    """One kernel of `primitives.cu`, what it reads, and the form of what it writes.

    Parameters
    ----------
    entry
        The kernel's name.
    shape, dtype
        Of the result. A float16, bfloat16 or float32 is written as its bits.
    a, b, c
        What it reads.
    warp_each
        Whether a warp makes one item of the result's first axis, not 32.
    """

    entry: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    a: np.ndarray = field(repr=False)
    b: np.ndarray = field(default_factory=_nothing, repr=False)
    c: np.ndarray = field(default_factory=_nothing, repr=False)
    warp_each: bool = False

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks to launch."""
        return (self.shape[0] if self.warp_each else -(-self.shape[0] // 32), 1, 1)

    def parameters(self, addresses: Mapping[str, int]) -> np.ndarray:
        """Return the kernel's argument, given where `a`, `b`, `c` and `result` lie."""
        place = tuple(addresses[name] for name in ("a", "b", "c", "result"))
        return np.array([(*place, self.shape[0])], PARAMETERS)

    def emulated(self, module: Module, schedule: Schedule = SCHEDULES[0]) -> np.ndarray:
        """Return what the emulator makes of it."""
        result = np.zeros(self.shape, self.dtype)
        arrays = {"a": self.a, "b": self.b, "c": self.c, "result": result}
        argument = self.parameters({name: array.ctypes.data for name, array in arrays.items()})
        module.launch(self.entry, self.grid, BLOCK, SHARED_BYTES, argument, schedule)
        return result


@functools.cache
def primitives() -> tuple[Primitive, ...]:
    """Return all of them, with the same inputs every time."""
    rng = np.random.default_rng(1)
    patterns = np.arange(1 << 16, dtype=np.uint16)
    floats = _floats(rng)
    float32, float16 = np.dtype(np.float32), np.dtype(np.float16)
    bfloat16, words = np.dtype(ml_dtypes.bfloat16), np.dtype(np.uint32)
    rows = rng.integers(0, 1 << 32, (96, 4), np.uint32)
    return (
        Primitive("half_to_float", patterns.shape, float32, patterns),
        Primitive("bfloat16_to_float", patterns.shape, float32, patterns),
        Primitive("float_to_half", floats.shape, float16, floats),
        Primitive("float_to_bfloat16", floats.shape, bfloat16, floats),
        Primitive("float_to_tf32", floats.shape, float32, floats),
        Primitive("load", (10, 32, 4), words, rows[:32], _row_choices(rng), warp_each=True),
        _product("product_half", float16, rng),
        _product("product_bfloat16", bfloat16, rng),
        _product("product_tf32", float32, rng),
        Primitive("copy", rows.shape, words, rows, rng.integers(0, 2, len(rows), np.uint32)),
        Primitive("store", rows.shape, words, rows),
    )


def compare(a: np.ndarray, b: np.ndarray) -> None:
    """Raise where two results differ in a bit. Any NaN equals any other: formats leave its payload open."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        raise AssertionError(f"{a.dtype} {a.shape} beside {b.dtype} {b.shape}")
    bits = f"u{a.dtype.itemsize}"
    differ = a.view(bits) != b.view(bits)
    if a.dtype.kind != "u":
        differ &= ~(np.isnan(a) & np.isnan(b))
    if differ.any():
        at = tuple(int(i) for i in np.argwhere(differ)[0])
        raise AssertionError(
            f"{differ.sum()} of {a.size} differ, the first at {at}: "
            f"{a[at]} ({a.view(bits)[at]:#x}) beside {b[at]} ({b.view(bits)[at]:#x})"
        )


def _floats(rng: np.random.Generator) -> np.ndarray:
    """Every sign and exponent, with mantissas at and beside each tie of each rounding; and any bits at all."""
    places = 1 << np.arange(22)
    near = np.concatenate([places * odd + delta for odd in (1, 3) for delta in (-1, 0, 1)])
    mantissas = np.unique(np.concatenate([[0, 0x7FFFFF], near, 0x7FFFFF - near, 0x555555 ^ near])) & 0x7FFFFF
    bits = (np.arange(512, dtype=np.uint32)[:, None] << 23 | mantissas.astype(np.uint32)).ravel()
    return np.concatenate([bits, rng.integers(0, 1 << 32, 1 << 17, np.uint32)]).view(np.float32)


def _row_choices(rng: np.random.Generator) -> np.ndarray:
    """In order, in other orders, and the same rows more than once."""
    orders = [np.arange(32), *(rng.permutation(32) for _ in range(5)), *(rng.integers(0, 32, 32) for _ in range(4))]
    return np.array(orders, np.uint32)


def _product(entry: str, dtype: np.dtype[Any], rng: np.random.Generator) -> Primitive:
    """Small integers: no sum is rounded, so that any order and any width of summing gives the same."""
    count, lanes = 50, 4 // dtype.itemsize

    def registers(number: int) -> np.ndarray:
        return rng.integers(-8, 9, (count, 32, number * lanes)).astype(dtype).view(np.uint32)

    sums = rng.integers(-99, 100, (count, 32, 4)).astype(np.float32)
    return Primitive(entry, sums.shape, sums.dtype, registers(4), registers(2), sums, warp_each=True)
