"""What a program is made of: values that lie in memory, and steps that read and write them. Nothing here computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from stridekit.memory.arrays import Array, writeable
from stridekit.memory.spaces import Memory, uploaded

Views: TypeAlias = Mapping[str, Array]
"""The values of a run as arrays, by name."""


@dataclass(frozen=True)
class Value:
    """Something that is computed and lies in memory for some steps.

    Attributes
    ----------
    name : str
        Such as ``"conv1"``, what comes out of a layer; ``"conv1.grad"``, its gradient; ``"bn1.mean"``.
    shape : tuple of int
        As it lies in memory, channels innermost: ``(N, *spatial, C)``.
    dtype : dtype
    role : {"activation", "gradient", "parameter gradient", "saved", "output"}
        What it counts as.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    role: str

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Step:
    """One step of a program.

    Attributes
    ----------
    name : str
        Layer and pass, such as ``"conv1 forward"``.
    reads, writes : tuple of str
        Values; one that is read and written again, such as a sum of gradients, is in both.
    workspace : int
        Bytes that only this step needs.
    run : callable
        Takes the values' arrays, and the workspace (uint8).
    in_place : dict
        By what is written, the values whose memory it may take if nothing reads them later.
    feeds : str, optional
        The input that is copied in here, by whoever has it.
    updates : str, optional
        The parameter that is moved here by the gradient that is read, by whoever has the optimizer.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    workspace: int
    run: Callable[[Views, Array], None] | None
    in_place: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    feeds: str | None = None
    updates: str | None = None


def brought(array: Array, memory: Memory) -> Array:
    """Return a parameter or its optimizer state in `memory`, contiguous and writeable; copied only if it is not."""
    if memory.library == "numpy" and not isinstance(array, np.ndarray):
        array = array.get()
    if not memory.resident(array):
        return uploaded(array, memory)
    return array if array.flags.c_contiguous and writeable(array) else array.copy()
