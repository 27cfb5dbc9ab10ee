"""Softmax over the channels of each pixel; trained, the cross-entropy against a class for each."""

from __future__ import annotations

from typing import ClassVar

from stridekit.arrays import Array
from stridekit.networks.execution.kernels.base import FLOAT64, Forward, Kernel, Saved, carve, carved_bytes


class SoftmaxKernel(Kernel):
    """Softmax; the loss' gradient needs only the probabilities, and is written over them."""

    saves_output: ClassVar[bool] = True

    @property
    def in_place(self) -> tuple[int, ...]:
        """The input's memory."""
        return (0,)

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The gradient's memory."""
        return (0,)

    @property
    def _per_row(self) -> Saved:
        return (self.block_rows, 1), self.context.accumulator

    @property
    def forward_workspace(self) -> int:
        """One block, and a number for each row."""
        return carved_bytes(self._per_row) + self.block_bytes(1)

    def forward(self, pass_: Forward) -> None:
        """Exponentials of what is left when the largest is taken off, over their sum."""
        xp = self.xp
        per_row, rest = carve(pass_.workspace, self._per_row)
        for x, y, v in self.blocks(rest, 1, pass_.inputs[0], pass_.output):
            row = per_row[: len(v)]
            v[...] = x
            xp.maximum.reduce(v, axis=1, out=row[:, 0])
            xp.subtract(v, row, out=v)
            xp.exp(v, out=v)
            xp.add.reduce(v, axis=1, out=row[:, 0], dtype=row.dtype)
            xp.divide(v, row, out=v)
            y[...] = v

    # The loss. It has steps of its own: the target is not a layer's output.

    @property
    def loss_workspace(self) -> int:
        """A number for each row of a block."""
        return carved_bytes(((self.block_rows,), FLOAT64))

    def loss(self, probabilities: Array, target: Array, gradient: Array, workspace: Array) -> float:
        """Return the mean negative log-probability of `target`, and write the gradient of the softmax's input.

        Parameters
        ----------
        probabilities, gradient : array, shape (rows, C)
            May be one and the same.
        target : int array, shape (rows,)
            Classes, 0 to C - 1.
        """
        xp, rows = self.xp, self.rows
        tiny = xp.finfo(self.context.accumulator).tiny
        (work, _) = carve(workspace, ((self.block_rows,), FLOAT64))
        total, start = 0.0, 0
        for p, g in self.blocks(workspace, 0, probabilities, gradient):
            classes = target[start : start + len(p)]
            numbers = xp.arange(len(p))
            logs = work[: len(p)]
            logs[...] = p[numbers, classes]
            xp.maximum(logs, tiny, out=logs)
            xp.log(logs, out=logs)
            total -= float(logs.sum())
            xp.multiply(p, 1 / rows, out=g)
            g[numbers, classes] -= self.context.element.type(1 / rows)
            start += len(p)
        return total / rows if rows else 0.0
