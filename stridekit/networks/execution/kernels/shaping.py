"""Concatenation, slices and flattening: copies, with nothing computed."""

from __future__ import annotations

from collections.abc import Iterator

from stridekit.memory.arrays import Array, channels_first_view
from stridekit.networks.execution.kernels.base import Backward, Forward, LayerKernel
from stridekit.networks.operations import Concat, Flatten, Slice


class ConcatKernel(LayerKernel):
    """The channels of all inputs, one after the other."""

    runs = (Concat,)

    def _parts(self, whole: Array) -> Iterator[Array]:
        start = 0
        for shape in self.inputs:
            yield whole[..., start : start + shape[1]]
            start += shape[1]

    def forward(self, pass_: Forward) -> None:
        """Copy each to its channels."""
        for part, x in zip(self._parts(pass_.output), pass_.inputs, strict=True):
            part[...] = x

    def backward(self, pass_: Backward) -> None:
        """Copy each its channels' gradient."""
        for part, gradient in zip(self._parts(pass_.grad_output), pass_.grad_inputs, strict=True):
            if gradient is not None:
                gradient[...] = part


class SliceKernel(LayerKernel):
    """Some of the channels."""

    runs = (Slice,)

    def forward(self, pass_: Forward) -> None:
        pass_.output[...] = pass_.inputs[0][..., self.operation.start : self.operation.stop]

    def backward(self, pass_: Backward) -> None:
        """Give the others no gradient."""
        gradient = pass_.grad_inputs[0]
        if gradient is not None:
            gradient[...] = 0
            gradient[..., self.operation.start : self.operation.stop] = pass_.grad_output


class FlattenKernel(LayerKernel):
    """All features in a row, channels outermost, as the layers after it were made for."""

    runs = (Flatten,)

    @property
    def in_place(self) -> tuple[int, ...]:
        """The input's memory, if no feature changes its place."""
        return (0,) if self.inputs[0][1] == self.output[1] else ()

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The gradient's memory, if no feature changes its place."""
        return self.in_place

    def forward(self, pass_: Forward) -> None:
        pass_.output.reshape(self.inputs[0])[...] = channels_first_view(pass_.inputs[0], True)

    def backward(self, pass_: Backward) -> None:
        if pass_.grad_inputs[0] is not None:
            channels_first_view(pass_.grad_inputs[0], True)[...] = pass_.grad_output.reshape(self.inputs[0])
