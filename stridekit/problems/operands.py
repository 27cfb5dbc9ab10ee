"""Operands: what a problem reads and writes, said once for checks, allocations, uploads, tiles and predictions."""

from __future__ import annotations

import math
from typing import NamedTuple

from stridekit.memory.arrays import itemsize


class Operand(NamedTuple):
    """One array that a problem reads or writes.

    Attributes
    ----------
    name : str
        Of the argument.
    shape : tuple of int
        With channels first.
    dtype : str
    over : {"input", "output", ""}
        Whose pixels it has: it follows layout, memory order and tiles. Else it lies as it is, in every layout.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    over: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * itemsize(self.dtype)
