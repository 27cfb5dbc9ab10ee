"""Operations with weights that multiply: convolution, transposed convolution, and the product on flattened features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from stridekit.arguments import as_int, per_axis
from stridekit.errors import ShapeError
from stridekit.networks.operations.base import (
    Operation,
    Reach,
    Shape,
    Sizes,
    check_channels,
    check_spatial,
    volume,
    window_reach,
)
from stridekit.ops.conv_transpose import transposed_geometry
from stridekit.problems.geometry import AxisGeometry, ConvGeometry, conv_geometry
from stridekit.problems.padding import Padding


@dataclass(frozen=True)
class Conv(Operation):
    """A convolution, as `stridekit.conv2d`, of as many axes as its input has."""

    kind: ClassVar[str] = "conv"

    out_channels: int
    kernel_size: Sizes
    stride: Sizes = 1
    padding: Padding = 0
    dilation: Sizes = 1
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = True
    in_channels: int | None = None
    kernel: Shape = ()
    """Taps of each axis; filled in from `kernel_size`."""

    def resolved(self, inputs: Sequence[Shape]) -> Operation:
        """Fill in the input's channels and the kernel's axes."""
        return _for_input(self, inputs[0])

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return ``(out_channels, *output_size)``."""
        check_channels(self.in_channels, inputs[0])
        return (self.out_channels, *self.geometry(inputs).output_size)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return ``weight (K, C / groups, *kernel)`` and ``bias (K,)``."""
        weight = (self.out_channels, (self.in_channels or 0) // self.groups, *self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Return output pixels x filters x taps of a filter: the output's size already holds the stride."""
        return volume(output) * volume(self.parameter_shapes()["weight"][1:])

    def geometry(self, inputs: Sequence[Shape]) -> ConvGeometry:
        """Return the windows' geometry."""
        check_spatial(inputs[0])
        return conv_geometry(
            inputs[0][1:],
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
        )

    def reach(self, inputs: Sequence[Shape], output: Shape) -> tuple[Reach, ...]:
        """Return what a window reads."""
        return window_reach(self.geometry(inputs))


@dataclass(frozen=True)
class ConvTranspose(Operation):
    """A transposed convolution, as `stridekit.conv_transpose2d`; a second input, if there is one, gives its size."""

    kind: ClassVar[str] = "conv_transpose"
    arity: ClassVar[tuple[int, int | None]] = (1, 2)

    out_channels: int
    kernel_size: Sizes
    stride: Sizes = 1
    padding: Padding = 0
    output_padding: Sizes = 0
    dilation: Sizes = 1
    groups: int = 1
    bias: bool = True
    in_channels: int | None = None
    kernel: Shape = ()

    def resolved(self, inputs: Sequence[Shape]) -> Operation:
        """Fill in the input's channels and the kernel's axes."""
        return _for_input(self, inputs[0])

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return ``(out_channels, *output_size)``."""
        check_channels(self.in_channels, inputs[0])
        return (self.out_channels, *self.spread(inputs).input_size)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return ``weight (C, K / groups, *kernel)`` and ``bias (K,)``."""
        weight = (self.in_channels or 0, self.out_channels // self.groups, *self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Return input pixels x channels x taps that each is spread by."""
        return volume(inputs[0]) * volume(self.parameter_shapes()["weight"][1:])

    def reads(self, position: int) -> bool:
        """Read the first input; of the second only the size matters."""
        return position == 0

    def spread(self, inputs: Sequence[Shape]) -> ConvGeometry:
        """Return the convolution whose outputs are the input's pixels, and whose inputs are the output's."""
        check_spatial(inputs[0])
        sizes, rank = inputs[0][1:], len(inputs[0]) - 1
        kernel = per_axis("kernel_size", self.kernel_size, rank)
        extra = self.output_padding
        if len(inputs) == 2:
            least = transposed_geometry(sizes, kernel, self.stride, self.padding, 0, self.dilation).input_size
            if len(inputs[1]) != rank + 1:
                raise ShapeError(
                    f"the second input is {inputs[1]}; wanted one of {rank} spatial axes, to match its size"
                )
            extra = tuple(wanted - size for wanted, size in zip(inputs[1][1:], least, strict=True))
            if min(extra) < 0:
                raise ShapeError(f"at least {least} pixels come out, more than the {inputs[1][1:]} to match")
        return transposed_geometry(sizes, kernel, self.stride, self.padding, extra, self.dilation)

    def reach(self, inputs: Sequence[Shape], output: Shape) -> tuple[Reach, ...]:
        """Return what of the input an output pixel is summed from, over all phases of the stride."""
        return tuple(_spread_reach(axis) for axis in self.spread(inputs).axes)


@dataclass(frozen=True)
class Linear(Operation):
    """A matrix product on flattened features."""

    kind: ClassVar[str] = "linear"

    out_features: int
    bias: bool = True
    in_features: int | None = None

    def resolved(self, inputs: Sequence[Shape]) -> Operation:
        """Fill in the input's features."""
        self.output_shape(inputs)
        return replace(self, in_features=inputs[0][0])

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return ``(out_features,)``."""
        if len(inputs[0]) != 1:
            raise ShapeError(f"the input is {inputs[0]}; flatten it first, or take a 1x1 convolution")
        check_channels(self.in_features, inputs[0], "features")
        if as_int("out_features", self.out_features) < 1:
            raise ShapeError(f"out_features is {self.out_features}; wanted at least 1")
        return (self.out_features,)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return ``weight (out_features, in_features)`` and ``bias (out_features,)``."""
        weight = (self.out_features, self.in_features or 0)
        return {"weight": weight, "bias": (self.out_features,)} if self.bias else {"weight": weight}

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Return the elements of the weight."""
        return volume(self.parameter_shapes()["weight"])

    def reach(self, inputs: Sequence[Shape], output: Shape) -> None:
        """Return None: every feature is read."""
        return


def _for_input(operation: Conv | ConvTranspose, shape: Shape) -> Operation:
    check_spatial(shape)
    check_channels(operation.in_channels, shape)
    groups = _groups(operation.groups, shape[0], operation.out_channels)
    kernel = per_axis("kernel_size", operation.kernel_size, len(shape) - 1)
    return replace(operation, in_channels=shape[0], groups=groups, kernel=kernel)


def _groups(groups: int, channels: int, out_channels: int) -> int:
    if as_int("out_channels", out_channels) < 1:
        raise ShapeError(f"out_channels is {out_channels}; wanted at least 1")
    count = as_int("groups", groups)
    if count < 1 or channels % count or out_channels % count:
        raise ShapeError(f"groups is {groups}; it must divide the {channels} input and {out_channels} output channels")
    return count


def _spread_reach(axis: AxisGeometry) -> Reach:
    """Return the span of inputs that reach an output pixel: of ``axis``, inputs are the windows, outputs the pixels.

    Input i reaches pixels ``i * stride - pad + tap``; some phase has the last tap at an input, and some the first.
    """
    return Reach(
        Fraction(axis.pad_before - (axis.kernel_extent - 1), axis.stride),
        Fraction(axis.pad_before, axis.stride),
        Fraction(1, axis.stride),
    )
