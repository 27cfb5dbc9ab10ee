"""Softmax over the channels of each pixel; trained, the cross-entropy against a class for each, with its gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from stridekit.memory.arrays import Array
from stridekit.networks.execution.kernels.base import (
    FLOAT64,
    Backward,
    Forward,
    PointwiseKernel,
    Saved,
    carve,
    carved_bytes,
)
from stridekit.networks.operations import SoftmaxCrossEntropy

_INT64: np.dtype[Any] = np.dtype(np.int64)


class SoftmaxKernel(PointwiseKernel):
    """Softmax, and the loss."""

    runs = (SoftmaxCrossEntropy,)
    saves_output: ClassVar[bool] = True

    @property
    def _per_row(self) -> Saved:
        return (self.block_rows, 1), self.context.accumulator

    @property
    def forward_workspace(self) -> int:
        """One block, and a number for each row."""
        return carved_bytes(self._per_row) + self.block_bytes(1)

    @property
    def backward_workspace(self) -> int:
        """Two blocks, and a number for each row."""
        return carved_bytes(self._per_row) + self.block_bytes(2)

    def forward(self, pass_: Forward) -> None:
        """Exponentials of what is left when the largest is taken off, over their sum."""
        xp = self.xp
        per_row, rest = carve(pass_.workspace, self._per_row)
        for x, y, v in self.blocks(rest, 1, pass_.inputs[0], pass_.output):
            row = per_row[: len(v)]
            self._without_largest(x, v, row)
            self._exponentials(v, row)
            xp.divide(v, row, out=v)
            y[...] = v

    def backward(self, pass_: Backward) -> None:
        """Compute ``y (g - sum(y g))``, for a softmax that is not the last layer."""
        xp = self.xp
        if pass_.grad_inputs[0] is None:
            return
        per_row, rest = carve(pass_.workspace, self._per_row)
        for y, g, gx, v, t in self.blocks(rest, 2, pass_.output, pass_.grad_output, pass_.grad_inputs[0]):
            row = per_row[: len(v)]
            v[...] = y
            xp.multiply(v, g, out=t)
            xp.add.reduce(t, axis=1, out=row[:, 0], dtype=row.dtype)
            xp.subtract(g, row, out=t)
            xp.multiply(t, v, out=t)
            gx[...] = t

    # The loss, of what comes into the last softmax: a step of its own, since the target is not a layer's output.

    @property
    def _loss_regions(self) -> tuple[Saved, ...]:
        rows = self.block_rows
        return (
            self._per_row,
            ((rows,), self.context.accumulator),
            ((rows,), FLOAT64),
            ((rows,), _INT64),
            ((rows,), _INT64),
        )

    @property
    def loss_workspace(self) -> int:
        """One block, and for each of its rows five numbers."""
        return carved_bytes(*self._loss_regions) + self.block_bytes(1)

    def loss(self, x: Array, target: Array, gradient: Array, workspace: Array) -> float:
        """Return the mean negative log-probability of `target`, and write the gradient by `x`.

        By the logarithm of the exponentials' sum: a probability too small for its type has a loss all the same.

        Parameters
        ----------
        x, gradient : array, shape (rows, C)
            May be one and the same.
        target : int array, shape (rows,)
            Classes, 0 to C - 1.
        """
        xp, rows = self.xp, self.rows
        per_row, taken, logs, begins, places, rest = carve(workspace, *self._loss_regions)
        # Where each row of a block begins.
        begins[...] = self.channels
        begins[:1] = 0
        xp.cumsum(begins, out=begins)
        total, start = 0.0, 0
        for p, g, v in self.blocks(rest, 1, x, gradient):
            count = len(v)
            row, own, log, place = per_row[:count], taken[:count], logs[:count], places[:count]
            flat = v.reshape(-1)
            xp.add(begins[:count], target[start : start + count], out=place, casting="unsafe")
            self._without_largest(p, v, row)
            self._take(flat, place, own)
            self._exponentials(v, row)
            xp.log(row[:, 0], out=log, dtype=FLOAT64)
            xp.subtract(log, own, out=log)
            total += float(log.sum())
            xp.divide(v, row, out=v)
            self._take(flat, place, own)
            xp.subtract(own, 1, out=own)
            xp.put(flat, place, own, mode="wrap")
            xp.divide(v, rows, out=v)
            g[...] = v
            start += count
        return total / rows

    def _without_largest(self, x: Array, v: Array, row: Array) -> None:
        v[...] = x
        v.max(axis=1, out=row[:, 0])
        self.xp.subtract(v, row, out=v)

    def _exponentials(self, v: Array, row: Array) -> None:
        """Leave exponentials in `v` and their sums in `row`."""
        self.xp.exp(v, out=v)
        self.xp.add.reduce(v, axis=1, out=row[:, 0], dtype=row.dtype)

    def _take(self, flat: Array, places: Array, out: Array) -> None:
        """Take elements. NumPy would first copy them where it has to check places; CuPy never does."""
        if self.context.library == "numpy":
            flat.take(places, out=out, mode="wrap")
        else:
            flat.take(places, out=out)
