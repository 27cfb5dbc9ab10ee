"""Resizing: one axis after the other, each pixel a copy or the weighted mean of two; backward the transpose of it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array
from stridekit.networks.execution.kernels.base import Backward, Forward, LayerKernel, Saved, carve, carved_bytes
from stridekit.networks.operations import Shape, Upsample
from stridekit.networks.operations.shaping import resizing_map


class UpsampleKernel(LayerKernel):
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

    @cached_property
    def _regions(self) -> tuple[Saved, ...]:
        """Two slices across an axis, the largest there are, and what lies between the axes."""
        largest = max(
            math.prod(shape) // shape[1 + axis] for axis in range(len(self._sizes) - 1) for shape in self._sizes
        )
        return tuple((shape, self.context.accumulator) for shape in ((largest,), (largest,), *self._sizes[1:-1]))

    @property
    def forward_workspace(self) -> int:
        """Two slices, and what lies between the axes."""
        return carved_bytes(*self._regions)

    @property
    def backward_workspace(self) -> int:
        """Two slices, and what lies between the axes."""
        return self.forward_workspace if self.wanted[0] else 0

    def forward(self, pass_: Forward) -> None:
        slices, stages = self._rooms(pass_.inputs[0], pass_.output, pass_.workspace)
        for axis, (source, target) in enumerate(pairwise(stages)):
            for pixel, taps in enumerate(self._taps(axis)):
                self._mean(taps, source, target, axis, pixel, slices)

    def backward(self, pass_: Backward) -> None:
        """Bring each pixel the gradients of those that were taken from it."""
        if pass_.grad_inputs[0] is None:
            return
        slices, stages = self._rooms(pass_.grad_inputs[0], pass_.grad_output, pass_.workspace)
        for axis in reversed(range(len(stages) - 1)):
            target, source = stages[axis], stages[axis + 1]
            back: list[list[tuple[int, float]]] = [[] for _ in range(target.shape[1 + axis])]
            for pixel, taps in enumerate(self._taps(axis)):
                for place, share in taps:
                    back[place].append((pixel, share))
            for place, pixels in enumerate(back):
                self._mean(pixels, source, target, axis, place, slices)

    def _mean(
        self, taps: list[tuple[int, float]], source: Array, target: Array, axis: int, pixel: int, slices: list[Array]
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
        total, term = (each[: here.size].reshape(here.shape) for each in slices)
        self.xp.multiply(_across(source, axis, first), share, out=total, dtype=total.dtype)
        for place, share in others:
            self.xp.multiply(_across(source, axis, place), share, out=term, dtype=term.dtype)
            self.xp.add(total, term, out=total)
        here[...] = total

    def _rooms(self, first: Array, last: Array, workspace: Array) -> tuple[list[Array], list[Array]]:
        """Return room for two slices, and the arrays from the input to the output: those between lie in `workspace`."""
        *rooms, _ = carve(workspace, *self._regions)
        return rooms[:2], [first, *rooms[2:], last]


def _across(array: Array, axis: int, pixel: int) -> Array:
    """Return the slice across a spatial axis."""
    return array[(slice(None),) * (1 + axis) + (pixel,)]
