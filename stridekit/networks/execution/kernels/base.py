"""How an operation runs: forward, and backward to its inputs and parameters, in memory that it is given.

Arrays lie channels innermost: ``(N, *spatial, C)``, or ``(N, F)``. A kernel allocates nothing: whatever it needs on the
way is its workspace. Element by element work goes in blocks, so that on a CPU what lies between two steps stays in a
cache, and the workspace is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import align
from stridekit.networks.operations import Shape

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
class Kernel:
    """One layer, ready to run.

    Attributes
    ----------
    context : Context
    operation : Operation
    inputs : tuple of Shape
        ``(N, C, *spatial)`` of each.
    output : Shape
    """

    saves_inputs: ClassVar[bool] = False
    """Whether the backward pass reads the inputs."""
    saves_output: ClassVar[bool] = False
    """Whether the backward pass reads the output."""
    passes_gradient: ClassVar[bool] = False
    """Whether every input's gradient is the output's gradient itself."""

    context: Context
    operation: Any
    inputs: tuple[Shape, ...]
    output: Shape
    wanted: tuple[bool, ...] = field(default=())
    """Which inputs' gradients are wanted."""

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

    def block_bytes(self, count: int) -> int:
        """Bytes of `count` blocks in the accumulator's type."""
        return count * align(self.block_rows * self.channels * self.context.accumulator.itemsize)

    def blocks(self, workspace: Array, count: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Yield block after block of arrays of rows, each with `count` blocks of workspace for it."""
        rows, channels = self.block_rows, self.channels
        step = self.block_bytes(1)
        scratch = [
            workspace[number * step :][: rows * channels * self.context.accumulator.itemsize]
            .view(self.context.accumulator)
            .reshape(rows, channels)
            for number in range(count)
        ]
        flat = [array.reshape(-1, channels) for array in arrays]
        for start in range(0, self.rows, rows):
            stop = min(start + rows, self.rows)
            yield (*(array[start:stop] for array in flat), *(part[: stop - start] for part in scratch))

    # Sums over all rows: of each channel, in an order that only the shape fixes.

    @property
    def sums_bytes(self) -> int:
        """Bytes that `add_sums` needs."""
        return align(-(-self.block_rows // SUM_ROWS) * self.channels * self.context.accumulator.itemsize) + align(
            8 * self.channels
        )

    def add_sums(self, values: Array, total: Array, workspace: Array) -> None:
        """Add each column's sum of `values`, shape (rows, C), to `total` (float64, shape (C,))."""
        xp, accumulator = self.xp, self.context.accumulator
        count, channels = values.shape
        whole = count // SUM_ROWS
        groups = -(-count // SUM_ROWS)
        partial = workspace[: groups * channels * accumulator.itemsize].view(accumulator).reshape(groups, channels)
        if whole:
            grouped = values[: whole * SUM_ROWS].reshape(whole, SUM_ROWS, channels)
            xp.add.reduce(grouped, axis=1, out=partial[:whole], dtype=accumulator)
        if whole < groups:
            xp.add.reduce(values[whole * SUM_ROWS :], axis=0, out=partial[whole], dtype=accumulator)
        last = workspace[align(partial.nbytes) :][: 8 * channels].view(np.float64)
        xp.add.reduce(partial, axis=0, out=last, dtype=np.float64)
        xp.add(total, last, out=total)


class PointwiseKernel(Kernel):
    """What reads of its first input, block by block, only what it then writes: one may lie where the other was."""

    @property
    def in_place(self) -> tuple[int, ...]:
        """The first input's memory, if nothing reads it later."""
        return (0,)

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The memory of the output's gradient."""
        return (0,)


def carve(workspace: Array, *regions: tuple[Shape, np.dtype[Any]]) -> tuple[Array, ...]:
    """Cut arrays from the start of a workspace, each on a cache line; return them and what is left."""
    found, offset = [], 0
    for shape, dtype in regions:
        nbytes = math.prod(shape) * dtype.itemsize
        found.append(workspace[offset : offset + nbytes].view(dtype).reshape(shape))
        offset += align(nbytes)
    return (*found, workspace[offset:])


def carved_bytes(*regions: tuple[Shape, np.dtype[Any]]) -> int:
    """Return the bytes that `carve` takes for these regions."""
    return sum(align(math.prod(shape) * dtype.itemsize) for shape, dtype in regions)


FLOAT64: np.dtype[Any] = np.dtype(np.float64)
