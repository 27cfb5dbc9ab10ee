"""Resizing: one axis after the other, each pixel a copy or the weighted mean of two; backward the transpose of it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array
from stridekit.memory.workspace import align
from stridekit.networks.execution.kernels.base import Backward, Forward, Kernel
from stridekit.networks.operations import Shape, Upsample
from stridekit.networks.operations.shaping import resizing_map


class UpsampleKernel(Kernel):
    """Resizing to the output's size."""

    runs = (Upsample,)

    @cached_property
    def _sizes(self) -> tuple[Shape, ...]:
        """Shapes ``(N, *spatial, C)`` from the input to the output, one axis after the other."""
        n, c, *spatial = self.inputs[0]
        shapes = [(n, *spatial, c)]
        for axis, wanted in enumerate(self.output[2:]):
            spatial[axis] = wanted
            shapes.append((n, *spatial, c))
        return tuple(shapes)

    def _taps(self, axis: int) -> list[list[tuple[int, float]]]:
        """Return for each output pixel of an axis the one or two that it is taken from, and their shares."""
        size, wanted = self.inputs[0][2 + axis], self.output[2 + axis]
        step, offset = resizing_map(size, wanted, self.operation.mode, self.operation.align_corners)
        taps = []
        for pixel in range(wanted):
            position = min(max(offset + pixel * step, Fraction(0)), Fraction(size - 1))
            low = math.floor(position)
            share = 0.0 if self.operation.mode == "nearest" else float(position - low)
            taps.append([(low, 1 - share), (low + 1, share)] if share else [(low, 1.0)])
        return taps

    @property
    def _slice_bytes(self) -> int:
        """Of one slice across an axis, the largest there is."""
        largest = max(
            math.prod(shape) // shape[1 + axis] for axis in range(len(self._sizes) - 1) for shape in self._sizes
        )
        return align(largest * self.context.accumulator.itemsize)

    @property
    def _between_bytes(self) -> tuple[int, ...]:
        """Of what lies between the axes."""
        return tuple(align(math.prod(shape) * self.context.accumulator.itemsize) for shape in self._sizes[1:-1])

    @property
    def forward_workspace(self) -> int:
        """Two slices, and what lies between the axes."""
        return 2 * self._slice_bytes + sum(self._between_bytes)

    @property
    def backward_workspace(self) -> int:
        """Two slices, and what lies between the axes."""
        return self.forward_workspace if self.wanted[0] else 0

    def forward(self, pass_: Forward) -> None:
        """Resize axis after axis."""
        stages = self._stages(pass_.inputs[0], pass_.output, pass_.workspace)
        for axis, (source, target) in enumerate(pairwise(stages)):
            for pixel, taps in enumerate(self._taps(axis)):
                self._mean(taps, source, target, axis, pixel, pass_.workspace)

    def backward(self, pass_: Backward) -> None:
        """Bring each pixel the gradients of those that were taken from it."""
        if pass_.grad_inputs[0] is None:
            return
        stages = self._stages(pass_.grad_inputs[0], pass_.grad_output, pass_.workspace)
        for axis in reversed(range(len(stages) - 1)):
            target, source = stages[axis], stages[axis + 1]
            back: list[list[tuple[int, float]]] = [[] for _ in range(target.shape[1 + axis])]
            for pixel, taps in enumerate(self._taps(axis)):
                for place, share in taps:
                    back[place].append((pixel, share))
            for place, pixels in enumerate(back):
                self._mean(pixels, source, target, axis, place, pass_.workspace)

    def _mean(
        self, taps: list[tuple[int, float]], source: Array, target: Array, axis: int, pixel: int, workspace: Array
    ) -> None:
        """Write to one slice of `target` the weighted sum of slices of `source`."""
        here = _across(target, axis, pixel)
        if not taps:
            here[...] = 0
            return
        (first, share), *others = taps
        if share == 1 and not others:
            here[...] = _across(source, axis, first)
            return
        total, term = (self._slice(part, here.shape) for part in (workspace, workspace[self._slice_bytes :]))
        self.xp.multiply(_across(source, axis, first), share, out=total, dtype=total.dtype)
        for place, share in others:
            self.xp.multiply(_across(source, axis, place), share, out=term, dtype=term.dtype)
            self.xp.add(total, term, out=total)
        here[...] = total

    def _stages(self, first: Array, last: Array, workspace: Array) -> list[Array]:
        """Return the arrays from the input to the output; those between lie in the workspace."""
        stages, offset = [first], 2 * self._slice_bytes
        for shape, nbytes in zip(self._sizes[1:-1], self._between_bytes, strict=True):
            exact = math.prod(shape) * self.context.accumulator.itemsize
            stages.append(workspace[offset : offset + exact].view(self.context.accumulator).reshape(shape))
            offset += nbytes
        return [*stages, last]

    def _slice(self, workspace: Array, shape: Shape) -> Array:
        exact = math.prod(shape) * self.context.accumulator.itemsize
        return workspace[:exact].view(self.context.accumulator).reshape(shape)


def _across(array: Array, axis: int, pixel: int) -> Array:
    """Return the slice across a spatial axis."""
    return array[(slice(None),) * (1 + axis) + (pixel,)]
