"""Normalisations: their statistics are kept in the accumulator's type, and summed in an order that shapes fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from stridekit.memory.arrays import Array
from stridekit.networks.execution.kernels.base import (
    FLOAT64,
    Backward,
    Context,
    Forward,
    PointwiseKernel,
    Saved,
    carve,
    carved_bytes,
)
from stridekit.networks.operations import BatchNorm, LayerNorm, Resolved


class _PerChannel(PointwiseKernel):
    runs = (BatchNorm,)

    @property
    def _per_channel(self) -> tuple[Saved, ...]:
        return (((self.channels,), FLOAT64),) * 2 + (((self.channels,), self.context.accumulator),) * 2


class FixedBatchNormKernel(_PerChannel):
    """Normalisation of each channel by the kept statistics: outside training, or frozen in it."""

    @property
    def forward_workspace(self) -> int:
        """One block, and what there is for each channel."""
        return carved_bytes(*self._per_channel) + self.block_bytes(1)

    @property
    def backward_workspace(self) -> int:
        """One block, and what there is for each channel."""
        return self.forward_workspace

    def forward(self, pass_: Forward) -> None:
        scale, shift, rest = self._affine(pass_.parameters, pass_.workspace)
        for x, y, v in self.blocks(rest, 1, pass_.inputs[0], pass_.output):
            self.xp.multiply(x, scale, out=v)
            self.xp.add(v, shift, out=v)
            y[...] = v

    def backward(self, pass_: Backward) -> None:
        scale, _, rest = self._affine(pass_.parameters, pass_.workspace)
        if pass_.grad_inputs[0] is not None:
            for g, gx, v in self.blocks(rest, 1, pass_.grad_output, pass_.grad_inputs[0]):
                self.xp.multiply(g, scale, out=v)
                gx[...] = v

    def _affine(self, parameters: Mapping[str, Array], workspace: Array) -> tuple[Array, Array, Array]:
        """Return ``weight / deviation`` and ``bias - mean * weight / deviation``, and what is left of the workspace."""
        xp = self.xp
        factor, term, scale, shift, rest = carve(workspace, *self._per_channel)
        factor[...] = parameters["running_var"]
        invert(xp, factor, self.operation.epsilon)
        xp.multiply(factor, parameters["weight"], out=factor)
        xp.multiply(factor, parameters["running_mean"], out=term)
        xp.subtract(parameters["bias"], term, out=term)
        scale[...] = factor
        shift[...] = term
        return scale, shift, rest


class BatchNormKernel(_PerChannel):
    """Normalisation of each channel by the batch's statistics, of which the kept ones take a share."""

    saves_inputs: ClassVar[bool] = True

    @classmethod
    def suits(cls, context: Context, resolved: Resolved) -> bool:
        """Say so in training, where it is not frozen."""
        return context.training and isinstance(resolved.operation, BatchNorm) and resolved.operation.trained

    @property
    def saved(self) -> dict[str, Saved]:
        """The batch's mean, and one over its standard deviation."""
        each = ((self.channels,), self.context.accumulator)
        return {"mean": each, "inverse": each}

    @property
    def forward_workspace(self) -> int:
        """One block, the sums, and what there is for each channel."""
        return carved_bytes(*self._per_channel) + self.block_bytes(1) + self.sums_bytes

    @property
    def backward_workspace(self) -> int:
        """Two blocks, the sums, and what there is for each channel."""
        return carved_bytes(*self._per_channel) + self.block_bytes(2) + self.sums_bytes

    def forward(self, pass_: Forward) -> None:
        xp, parameters = self.xp, pass_.parameters
        mean64, spread64, scale, shift, rest = carve(pass_.workspace, *self._per_channel)
        self._measure(pass_, mean64, spread64, rest)
        # y = x * scale + shift, with scale = weight / deviation and shift = bias - mean * scale.
        xp.multiply(spread64, parameters["weight"], out=spread64)
        scale[...] = spread64
        xp.multiply(mean64, spread64, out=mean64)
        xp.subtract(parameters["bias"], mean64, out=mean64)
        shift[...] = mean64
        for x, y, v in self.blocks(rest, 1, pass_.inputs[0], pass_.output):
            xp.multiply(x, scale, out=v)
            xp.add(v, shift, out=v)
            y[...] = v

    def _measure(self, pass_: Forward, mean: Array, variance: Array, rest: Array) -> None:
        """Find mean and variance of the batch, keep them, and leave one over the deviation in `variance`."""
        xp, x = self.xp, pass_.inputs[0]
        sums = rest[self.block_bytes(1) :]
        mean[...] = 0
        for (rows,) in self.blocks(rest, 0, x):
            self.add_sums(rows, mean, sums)
        xp.divide(mean, self.rows, out=mean)
        saved_mean = pass_.saved["mean"]
        saved_mean[...] = mean
        variance[...] = 0
        for rows, v in self.blocks(rest, 1, x):
            xp.subtract(rows, saved_mean, out=v)
            xp.multiply(v, v, out=v)
            self.add_sums(v, variance, sums)
        xp.divide(variance, self.rows, out=variance)
        # What is kept is the unbiased variance, as PyTorch keeps it.
        self._keep(pass_.parameters["running_mean"], mean, 1.0, sums)
        self._keep(pass_.parameters["running_var"], variance, self.rows / max(self.rows - 1, 1), sums)
        invert(self.xp, variance, self.operation.epsilon)
        pass_.saved["inverse"][...] = variance

    def _keep(self, kept: Array, new: Array, factor: float, workspace: Array) -> None:
        """Move a kept statistic towards that of the batch."""
        momentum, work = self.operation.momentum, workspace[: 8 * self.channels].view(FLOAT64)
        self.xp.multiply(new, factor, out=work)
        self.xp.subtract(work, kept, out=work)
        self.xp.multiply(work, momentum, out=work)
        self.xp.add(work, kept, out=work)
        kept[...] = work

    def backward(self, pass_: Backward) -> None:
        """Compute the gradients of weight, bias and input.

        ``dx = weight / deviation * (dy - mean(dy) - xhat * mean(dy * xhat))``; S. Ioffe and C. Szegedy, section 3.
        """
        xp, x, g = self.xp, pass_.inputs[0], pass_.grad_output
        of_bias, of_weight, first, second, rest = carve(pass_.workspace, *self._per_channel)
        sums = rest[self.block_bytes(2) :]
        mean, inverse = pass_.saved["mean"], pass_.saved["inverse"]
        of_bias[...] = 0
        of_weight[...] = 0
        for rows, gradients, v, t in self.blocks(rest, 2, x, g):
            self._normalised(rows, mean, inverse, v)
            xp.multiply(v, gradients, out=v)
            t[...] = gradients
            self.add_sums(v, of_weight, sums)
            self.add_sums(t, of_bias, sums)
        if "weight" in pass_.grad_parameters:
            pass_.grad_parameters["weight"][...] = of_weight
            pass_.grad_parameters["bias"][...] = of_bias
        if pass_.grad_inputs[0] is None:
            return
        xp.divide(of_weight, self.rows, out=of_weight)
        xp.divide(of_bias, self.rows, out=of_bias)
        first[...] = of_bias
        second[...] = of_weight
        scale = of_weight.view(self.context.accumulator)[: self.channels]
        xp.multiply(inverse, pass_.parameters["weight"], out=scale)
        for rows, gradients, target, v, t in self.blocks(rest, 2, x, g, pass_.grad_inputs[0]):
            self._normalised(rows, mean, inverse, v)
            xp.multiply(v, second, out=v)
            xp.subtract(gradients, first, out=t)
            xp.subtract(t, v, out=t)
            xp.multiply(t, scale, out=t)
            target[...] = t

    def _normalised(self, rows: Array, mean: Array, inverse: Array, out: Array) -> None:
        self.xp.subtract(rows, mean, out=out)
        self.xp.multiply(out, inverse, out=out)


class LayerNormKernel(PointwiseKernel):
    """Normalisation of each pixel over its channels; the backward pass finds the statistics again."""

    runs = (LayerNorm,)
    saves_inputs: ClassVar[bool] = True

    @property
    def _per_row(self) -> tuple[Saved, ...]:
        return (((self.block_rows, 1), self.context.accumulator),) * 2

    @property
    def forward_workspace(self) -> int:
        """Two blocks, and two numbers for each row."""
        return carved_bytes(*self._per_row) + self.block_bytes(2)

    @property
    def backward_workspace(self) -> int:
        """Two blocks, the sums, two numbers for each row and two for each channel."""
        totals = carved_bytes(*((((self.channels,), FLOAT64),) * 2))
        return totals + carved_bytes(*self._per_row) + self.block_bytes(2) + self.sums_bytes

    def forward(self, pass_: Forward) -> None:
        xp = self.xp
        *per_row, rest = carve(pass_.workspace, *self._per_row)
        for x, y, v, t in self.blocks(rest, 2, pass_.inputs[0], pass_.output):
            self._normalised(x, v, t, per_row)
            xp.multiply(v, pass_.parameters["weight"], out=v)
            xp.add(v, pass_.parameters["bias"], out=v)
            y[...] = v

    def backward(self, pass_: Backward) -> None:
        """Compute the gradients of weight, bias and input.

        ``dx = (h - mean(h) - xhat * mean(h * xhat)) / deviation`` with ``h = weight * dy``, means over channels.
        """
        xp = self.xp
        of_weight, of_bias, *per_row, rest = carve(
            pass_.workspace, *((((self.channels,), FLOAT64),) * 2), *self._per_row
        )
        sums = rest[self.block_bytes(2) :]
        of_weight[...] = 0
        of_bias[...] = 0
        wanted = pass_.grad_inputs[0]
        target = pass_.inputs[0] if wanted is None else wanted
        for x, g, gx, v, t in self.blocks(rest, 2, pass_.inputs[0], pass_.grad_output, target):
            inverse = self._normalised(x, v, t, per_row)
            t[...] = g
            self.add_sums(t, of_bias, sums)
            xp.multiply(t, v, out=t)
            self.add_sums(t, of_weight, sums)
            if wanted is None:
                continue
            mean = per_row[0][: len(v)]
            xp.multiply(t, pass_.parameters["weight"], out=t)
            self._row_means(t, mean)
            xp.multiply(v, mean, out=v)
            xp.multiply(g, pass_.parameters["weight"], out=t, dtype=t.dtype)
            self._row_means(t, mean)
            xp.subtract(t, mean, out=t)
            xp.subtract(t, v, out=t)
            xp.multiply(t, inverse, out=t)
            gx[...] = t
        if "weight" in pass_.grad_parameters:
            pass_.grad_parameters["weight"][...] = of_weight
            pass_.grad_parameters["bias"][...] = of_bias

    def _normalised(self, x: Array, v: Array, t: Array, per_row: list[Array]) -> Array:
        """Leave normalised rows in `v`; return one over each row's deviation."""
        xp = self.xp
        mean, inverse = (part[: len(v)] for part in per_row)
        v[...] = x
        self._row_means(v, mean)
        xp.subtract(v, mean, out=v)
        xp.multiply(v, v, out=t)
        self._row_means(t, inverse)
        invert(xp, inverse, self.operation.epsilon)
        xp.multiply(v, inverse, out=v)
        return inverse

    def _row_means(self, rows: Array, out: Array) -> None:
        self.xp.add.reduce(rows, axis=1, out=out[:, 0], dtype=out.dtype)
        self.xp.divide(out, rows.shape[1], out=out)


def invert(xp: Any, variance: Array, epsilon: float) -> None:
    """Leave one over the standard deviation in `variance`."""
    xp.add(variance, epsilon, out=variance)
    xp.sqrt(variance, out=variance)
    xp.divide(1, variance, out=variance)
