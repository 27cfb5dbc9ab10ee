"""Products: of a layer and trained factors of its channels, of two layers, and of a layer and a gate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array
from stridekit.networks.execution.kernels.base import (
    FLOAT64,
    SUM_ROWS,
    Backward,
    Context,
    Forward,
    LayerKernel,
    PointwiseKernel,
    carve,
    carved_bytes,
)
from stridekit.networks.operations import Multiply, Resolved, Scale, Shape


class ScaleKernel(PointwiseKernel):
    """A factor for each channel."""

    runs = (Scale,)
    saves_inputs: ClassVar[bool] = True

    @property
    def backward_workspace(self) -> int:
        """One block, and the sums."""
        return carved_bytes(((self.channels,), FLOAT64)) + self.block_bytes(1) + self.sums_bytes

    def forward(self, pass_: Forward) -> None:
        for x, y in self.blocks(pass_.workspace, 0, pass_.inputs[0], pass_.output):
            self.xp.multiply(x, pass_.parameters["weight"], out=y)

    def backward(self, pass_: Backward) -> None:
        """Sum for the factors, multiply for the input."""
        total, rest = carve(pass_.workspace, ((self.channels,), FLOAT64))
        sums = rest[self.block_bytes(1) :]
        if "weight" in pass_.grad_parameters:
            total[...] = 0
            for x, g, v in self.blocks(rest, 1, pass_.inputs[0], pass_.grad_output):
                self.xp.multiply(x, g, out=v, dtype=v.dtype, casting="unsafe")
                self.add_sums(v, total, sums)
            pass_.grad_parameters["weight"][...] = total
        if pass_.grad_inputs[0] is not None:
            for g, gx in self.blocks(rest, 0, pass_.grad_output, pass_.grad_inputs[0]):
                self.xp.multiply(g, pass_.parameters["weight"], out=gx)


class MultiplyKernel(LayerKernel):
    """A product: each input's gradient is the output's, times the other input."""

    runs = (Multiply,)
    saves_inputs: ClassVar[bool] = True

    @property
    def in_place(self) -> tuple[int, ...]:
        return (0, 1)

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The gradient's memory, for either input's."""
        return (0, 1)

    @property
    def backward_workspace(self) -> int:
        """Two blocks."""
        return self.block_bytes(2)

    def forward(self, pass_: Forward) -> None:
        for a, b, y in self.blocks(pass_.workspace, 0, *pass_.inputs, pass_.output):
            self.xp.multiply(a, b, out=y)

    def backward(self, pass_: Backward) -> None:
        """Multiply the gradient by each; it may lie where one of the two products will."""
        wanted = [number for number in (0, 1) if pass_.grad_inputs[number] is not None]
        targets = [pass_.grad_inputs[number] for number in wanted]
        for a, b, g, *rest in self.blocks(pass_.workspace, 2, *pass_.inputs, pass_.grad_output, *targets):
            found, scratch = rest[: len(targets)], rest[len(targets) :]
            for number, v in zip(wanted, scratch, strict=False):
                self.xp.multiply(g, (b, a)[number], out=v, dtype=v.dtype, casting="unsafe")
            for gradient, v in zip(found, scratch, strict=False):
                gradient[...] = v


class GateKernel(PointwiseKernel):
    """A product with a gate, one number for each sample and channel, whose gradient is a sum over the pixels.

    Summed as all sums over rows are, for each sample by itself: in an order that the number of pixels fixes, so that a
    sample's has the same bits in any batch.
    """

    runs = (Multiply,)
    saves_inputs: ClassVar[bool] = True

    @classmethod
    def suits(cls, context: Context, resolved: Resolved) -> bool:
        """Say so of inputs of two sizes."""
        return resolved.inputs[0] != resolved.inputs[1]

    @property
    def backward_workspace(self) -> int:
        """One block and its sums, where the gate's gradient is wanted."""
        return carved_bytes(*self._regions) if self.wanted[1] else 0

    def forward(self, pass_: Forward) -> None:
        x, gate, y = (self._by_sample(array) for array in (*pass_.inputs, pass_.output))
        for part in self._parts():
            self.xp.multiply(x[part], gate[part[0]], out=y[part])

    def backward(self, pass_: Backward) -> None:
        """Sum up for the gate, then multiply for the other, block by block: they may share the gradient's memory."""
        xp, (for_x, for_gate) = self.xp, pass_.grad_inputs
        x, gate, g = (self._by_sample(array) for array in (*pass_.inputs, pass_.grad_output))
        total = None
        if for_gate is not None:
            v, partial, last, total, _ = carve(pass_.workspace, *self._regions)
            total[...] = 0
        for part in self._parts():
            if total is not None:
                samples, pixels = g[part].shape[:2]
                xp.multiply(x[part], g[part], out=v[:samples, :pixels], dtype=v.dtype, casting="unsafe")
                self._add_sums(v[:samples, :pixels], partial[:samples], last[:samples], total[part[0]])
            if for_x is not None:
                xp.multiply(g[part], gate[part[0]], out=self._by_sample(for_x)[part])
        if total is not None:
            self._by_sample(for_gate)[...] = total[:, None]

    def _add_sums(self, values: Array, partial: Array, last: Array, total: Array) -> None:
        """Add to `total` each sample's sums of `values`, shape (samples, pixels, C)."""
        xp, accumulator = self.xp, self.context.accumulator
        samples, pixels, channels = values.shape
        whole = pixels // SUM_ROWS
        groups = -(-pixels // SUM_ROWS)
        if whole:
            grouped = values[:, : whole * SUM_ROWS].reshape(samples, whole, SUM_ROWS, channels)
            xp.add.reduce(grouped, axis=2, out=partial[:, :whole], dtype=accumulator)
        if whole < groups:
            xp.add.reduce(values[:, whole * SUM_ROWS :], axis=1, out=partial[:, whole], dtype=accumulator)
        xp.add.reduce(partial[:, :groups], axis=1, out=last, dtype=np.float64)
        xp.add(total, last, out=total)

    def _by_sample(self, array: Array) -> Array:
        """Return an array as (samples, pixels, C)."""
        return array.reshape(self.output[0], -1, self.channels)

    @property
    def _pixels(self) -> int:
        return math.prod(self.output[2:])

    @cached_property
    def _cut(self) -> tuple[int, int]:
        """Samples and pixels of a block: some samples whole, or a part of one."""
        pixels = max(1, min(self._pixels, self.context.block // self.channels))
        samples = self.context.block // (pixels * self.channels) if pixels == self._pixels else 1
        return max(1, min(self.output[0], samples)), pixels

    def _parts(self) -> Iterator[tuple[slice, slice]]:
        samples, pixels = self._cut
        for sample in range(0, self.output[0], samples):
            for pixel in range(0, self._pixels, pixels):
                yield slice(sample, sample + samples), slice(pixel, pixel + pixels)

    @property
    def _regions(self) -> tuple[tuple[Shape, np.dtype[Any]], ...]:
        """A block, its sums of some pixels and of all, and the sums of every sample."""
        (samples, pixels), channels, accumulator = self._cut, self.channels, self.context.accumulator
        return (
            ((samples, pixels, channels), accumulator),
            ((samples, -(-pixels // SUM_ROWS), channels), accumulator),
            ((samples, channels), FLOAT64),
            ((self.output[0], channels), FLOAT64),
        )
