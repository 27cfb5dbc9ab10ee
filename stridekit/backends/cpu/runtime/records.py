"""What compiled code is told: records, written by name here, and read by name there with `vector_memory.reader`.

A *record* is a NamedTuple of integers and of other records; in memory it is a row of int64, in the order of its fields.
What a call does not change is written beforehand: an `Address` says which of the call's arrays it is counted from.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import numpy as np

WORD_BYTES = 8


class Strided(NamedTuple):
    """Address of element (0, 0, 0, 0, 0) of an array and its strides in bytes, 0 for axes that a lower rank lacks."""

    start: int = 0
    n: int = 0
    c: int = 0
    d: int = 0
    h: int = 0
    w: int = 0


def strides_of(array: np.ndarray) -> tuple[int, int, int, int, int]:
    """Return the strides of (n, c, d, h, w) in bytes, 0 for the axes that a lower rank lacks."""
    n, c, d, h, w = *array.strides[:2], *(0,) * (5 - array.ndim), *array.strides[2:]
    return n, c, d, h, w


class Address(int):
    """Bytes from where an array begins, one of those below."""

    base: int

    def __new__(cls, base: int, nbytes: int = 0) -> Address:
        """Return the place `nbytes` behind the beginning of array number `base`."""
        address = super().__new__(cls, nbytes)
        address.base = base
        return address

    def __add__(self, nbytes: int) -> Address:
        return Address(self.base, int(self) + nbytes)


WORKSPACE, X, OUT, WEIGHT, BIAS, RESIDUAL = (Address(base) for base in range(1, 7))


class Rows(NamedTuple):
    """Records as integers, and the number of the array that each is counted from, or 0."""

    offsets: np.ndarray
    counted_from: np.ndarray

    def at(self, bases: np.ndarray) -> np.ndarray:
        """Return them for arrays that begin at `bases`."""
        numbers: np.ndarray = bases[self.counted_from] + self.offsets
        return numbers


def integers(record: tuple[Any, ...]) -> list[int]:
    """Return all integers of a record, or of several."""
    found: list[int] = []
    for field in record:
        if isinstance(field, tuple):
            found += integers(field)
        else:
            found.append(field)
    return found


def nbytes(kind: type[tuple[Any, ...]]) -> int:
    """Return the bytes of a record in memory."""
    return sum(nbytes(field) if issubclass(field, tuple) else WORD_BYTES for field in get_type_hints(kind).values())


def row(record: tuple[Any, ...]) -> np.ndarray:
    """Return a record as int64, none of it if no memory could hold what it describes."""
    numbers = integers(record)
    return np.array(numbers if max(numbers) < 2**63 else (), np.int64)


def rows(*records: int | tuple[Any, ...]) -> Rows:
    """Return records, and integers among them, as rows of a job."""
    numbers = integers(records)
    counted_from = [number.base if isinstance(number, Address) else 0 for number in numbers]
    return Rows(np.array(numbers, np.int64), np.array(counted_from, np.intp))


def bases(*arrays: np.ndarray | None) -> np.ndarray:
    """Return where workspace, x, out, weight, bias and residual begin, for `Rows.at`; None for what a call lacks."""
    return np.array([0, *[0 if array is None else array.ctypes.data for array in arrays]], np.int64)
