"""How an algorithm's workspace is cut: one list of regions tells its size beforehand and its parts afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit.concurrency import cached_property

ALIGNMENT = 64
"""Bytes: a cache line, and the width of the widest vector."""

_UINT8 = np.dtype(np.uint8)


def align(nbytes: int, unit: int = ALIGNMENT) -> int:
    """Round a number of bytes up to whole units: cache lines, or what a memory deals out."""
    return -(-nbytes // unit) * unit


@dataclass(frozen=True)
class WorkspaceLayout:
    """Named regions of a workspace, in bytes, in order, each beginning on a cache line."""

    regions: tuple[tuple[str, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes to allocate."""
        return sum(align(nbytes) for _, nbytes in self.regions)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Bytes from the start to each region."""
        offsets, offset = {}, 0
        for name, nbytes in self.regions:
            offsets[name] = offset
            offset += align(nbytes)
        return offsets

    def cut(self, workspace: Any, dtype: np.dtype[Any] = _UINT8) -> dict[str, Any]:
        """Cut `workspace` (uint8, `nbytes` long or more, on a cache line) into flat arrays of `dtype`, by name."""
        return {name: workspace[self.offsets[name] :][:nbytes].view(dtype) for name, nbytes in self.regions}
