"""How an operation runs: forward, and backward to its inputs and parameters, in memory that it is given.

Arrays lie channels innermost: ``(N, *spatial, C)``, or ``(N, F)``. A kernel allocates nothing: whatever it needs on the
way is its workspace. Element by element work goes in blocks, so that on a CPU what lies between two steps stays in a
cache, and the workspace is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

import numpy as np

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout
from stridekit.networks.operations import Operation, Resolved, Shape

Saved: TypeAlias = tuple[Shape, "np.dtype[Any]"]

_HOST_BLOCK, _DEVICE_BLOCK = 1 << 16, 1 << 24
SUM_ROWS = 256
"""Rows that are added up in the accumulator's type before they are added in float64."""


@dataclass(frozen=True)
class Context:
    """Where and in what type a program runs."""

    backend: str
    device: Any
    library: str
    dtype: str
    training: bool

    @cached_property
    def xp(self) -> Any:
        """NumPy, or CuPy."""
        if self.library == "numpy":
            return np
        import cupy

        return cupy

    @cached_property
    def element(self) -> np.dtype[Any]:
        """The type of activations and parameters."""
        return DTYPES[self.dtype].numpy

    @property
    def accumulator(self) -> np.dtype[Any]:
        """The type in which sums and statistics are kept: float64, or float32 for all others."""
        return DTYPES[self.dtype].accumulator.numpy

    @property
    def block(self) -> int:
        """Elements that are worked on at a time."""
        return _HOST_BLOCK if self.library == "numpy" else _DEVICE_BLOCK


@dataclass
class Forward:
    """What a forward pass reads and writes."""

    inputs: Sequence[Array]
    output: Array
    parameters: Mapping[str, Array]
    saved: Mapping[str, Array]
    workspace: Array


@dataclass
class Backward:
    """What a backward pass reads and writes; a gradient that nobody wants is None."""

    grad_output: Array
    inputs: Sequence[Array]
    output: Array
    parameters: Mapping[str, Array]
    saved: Mapping[str, Array]
    grad_inputs: Sequence[Array]
    grad_parameters: Mapping[str, Array]
    workspace: Array


@dataclass
class LayerKernel:
    """One layer, ready to run.

    Attributes
    ----------
    context : Context
    resolved : Resolved
        The operation on one sample.
    inputs : tuple of Shape
        ``(N, C, *spatial)`` of each.
    output : Shape
    """

    runs: ClassVar[tuple[type[Operation], ...]] = ()
    """The operations that it is for, where it suits."""
    saves_inputs: ClassVar[bool] = False
    """Whether the backward pass reads the inputs."""
    saves_output: ClassVar[bool] = False
    """Whether the backward pass reads the output."""
    passes_gradient: ClassVar[bool] = False
    """Whether every input's gradient is the output's gradient itself."""

    context: Context
    resolved: Resolved
    inputs: tuple[Shape, ...]
    output: Shape
    wanted: tuple[bool, ...] = field(default=())
    """Which inputs' gradients are wanted."""

    @classmethod
    def suits(cls, context: Context, resolved: Resolved) -> bool:
        """Say whether it runs this one of the operations that it is for."""
        return True

    @property
    def operation(self) -> Any:
        """The operation."""
        return self.resolved.operation

    @property
    def in_place(self) -> tuple[int, ...]:
        """Inputs whose memory the output may take."""
        return ()

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """Inputs whose gradient may take the memory of the output's gradient."""
        return ()

    @property
    def saved(self) -> dict[str, Saved]:
        """Return what else the forward pass keeps for the backward pass: shape and type, by name."""
        return {}

    @property
    def forward_workspace(self) -> int:
        """Bytes."""
        return 0

    @property
    def backward_workspace(self) -> int:
        """Bytes."""
        return 0

    def forward(self, pass_: Forward) -> None:
        """Compute the output."""
        raise NotImplementedError

    def backward(self, pass_: Backward) -> None:
        """Compute the gradients that are wanted."""
        raise NotImplementedError

    @property
    def xp(self) -> Any:
        """NumPy, or CuPy."""
        return self.context.xp

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.output[1]

    @property
    def rows(self) -> int:
        """Samples times pixels of the output."""
        return math.prod(self.output) // self.output[1]

    # Blocks.

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return max(1, min(self.rows, self.context.block // self.channels))

    @property
    def _block(self) -> Saved:
        return (self.block_rows, self.channels), self.context.accumulator

    def block_bytes(self, count: int) -> int:
        """Bytes of `count` blocks in the accumulator's type."""
        return carved_bytes(*(self._block,) * count)

    def blocks(self, workspace: Array, count: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Yield block after block of arrays of rows, each with `count` blocks of workspace for it."""
        *scratch, _ = carve(workspace, *(self._block,) * count)
        flat = [array.reshape(-1, self.channels) for array in arrays]
        for start in range(0, self.rows, self.block_rows):
            stop = min(start + self.block_rows, self.rows)
            yield (*(array[start:stop] for array in flat), *(part[: stop - start] for part in scratch))

    # Sums over all rows: of each channel, in an order that only the shape fixes.

    @property
    def _sums(self) -> tuple[Saved, Saved]:
        groups = -(-self.block_rows // SUM_ROWS)
        return ((groups, self.channels), self.context.accumulator), ((self.channels,), FLOAT64)

    @property
    def sums_bytes(self) -> int:
        """Bytes that `add_sums` needs."""
        return carved_bytes(*self._sums)

    def add_sums(self, values: Array, total: Array, workspace: Array) -> None:
        """Add each column's sum of `values`, shape (rows, C) of a block, to `total` (float64, shape (C,))."""
        xp, accumulator = self.xp, self.context.accumulator
        count, channels = values.shape
        whole = count // SUM_ROWS
        groups = -(-count // SUM_ROWS)
        partial, last, _ = carve(workspace, *self._sums)
        if whole:
            grouped = values[: whole * SUM_ROWS].reshape(whole, SUM_ROWS, channels)
            xp.add.reduce(grouped, axis=1, out=partial[:whole], dtype=accumulator)
        if whole < groups:
            xp.add.reduce(values[whole * SUM_ROWS :], axis=0, out=partial[whole], dtype=accumulator)
        xp.add.reduce(partial[:groups], axis=0, out=last, dtype=np.float64)
        xp.add(total, last, out=total)


class PointwiseKernel(LayerKernel):
    """What reads of its first input, block by block, only what it then writes: one may lie where the other was."""

    @property
    def in_place(self) -> tuple[int, ...]:
        """The first input's memory, if nothing reads it later."""
        return (0,)

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The memory of the output's gradient."""
        return (0,)


def carve(workspace: Array, *regions: Saved) -> tuple[Array, ...]:
    """Cut arrays from the start of a workspace, each on a cache line; return them and what is left."""
    layout = _layout(*regions)
    parts = layout.cut(workspace).values()
    found = (part.view(dtype).reshape(shape) for part, (shape, dtype) in zip(parts, regions, strict=True))
    return (*found, workspace[layout.nbytes :])


def carved_bytes(*regions: Saved) -> int:
    """Return the bytes that `carve` takes for these regions."""
    return _layout(*regions).nbytes


@lru_cache(maxsize=4096)
def _layout(*regions: Saved) -> WorkspaceLayout:
    sizes = (math.prod(shape) * dtype.itemsize for shape, dtype in regions)
    return WorkspaceLayout(tuple((str(number), nbytes) for number, nbytes in enumerate(sizes)))


FLOAT64: np.dtype[Any] = np.dtype(np.float64)
