"""Operations with weights that multiply: convolution, transposed convolution, and the product on flattened features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from stridekit.arguments import as_int, per_axis
from stridekit.errors import ShapeError
from stridekit.networks.operations.base import (
    Operation,
    Reach,
    Resolved,
    Shape,
    Sizes,
    check_channels,
    check_spatial,
    volume,
)
from stridekit.ops.conv_transpose import transposed_geometry
from stridekit.problems.geometry import ConvGeometry, conv_geometry
from stridekit.problems.padding import Padding


class _Product(Operation):
    def draw(self, name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return weights that are normal with variance ``2 / fan_in``, and a bias of 0.

        Source: K. He, X. Zhang, S. Ren and J. Sun, "Delving Deep into Rectifiers", ICCV 2015, equation 10.
        """
        if name != "weight":
            return super().draw(name, shape, rng)
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / self.fan_in(shape)))

    def fan_in(self, weight: Shape) -> int:
        """Return how many products are summed up in one output."""
        return volume(weight[1:])


@dataclass(frozen=True)
class Conv(_Product):
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
    """That the weight is for; None is any number."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(out_channels, *output_size)`` of ``weight (K, C / groups, *kernel)`` and ``bias (K,)``."""
        groups = _groups(self, inputs[0])
        geometry = conv_geometry(
            inputs[0][1:],
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
        )
        weight = (self.out_channels, inputs[0][0] // groups, *geometry.kernel_size)
        output = (self.out_channels, *geometry.output_size)
        return Resolved(
            replace(self, in_channels=inputs[0][0], groups=groups),
            inputs,
            output,
            _parameters(weight, self.out_channels, self.bias),
            # Output pixels x filters x taps of a filter: the output's size already holds the stride.
            macs=volume(output) * volume(weight[1:]),
            geometry=geometry,
        )


@dataclass(frozen=True)
class ConvTranspose(_Product):
    """A transposed convolution, as `stridekit.conv_transpose2d`; a second input, if there is one, gives its size."""

    kind: ClassVar[str] = "conv_transpose"
    arity: ClassVar[tuple[int, int | None]] = (1, 2)
    reads: ClassVar[int | None] = 1

    out_channels: int
    kernel_size: Sizes
    stride: Sizes = 1
    padding: Padding = 0
    output_padding: Sizes = 0
    dilation: Sizes = 1
    groups: int = 1
    bias: bool = True
    in_channels: int | None = None
    """That the weight is for; None is any number."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(out_channels, *output_size)`` of ``weight (C, K / groups, *kernel)`` and ``bias (K,)``."""
        groups = _groups(self, inputs[0])
        spread = self._spread(inputs)
        weight = (inputs[0][0], self.out_channels // groups, *spread.kernel_size)
        return Resolved(
            replace(self, in_channels=inputs[0][0], groups=groups),
            inputs,
            (self.out_channels, *spread.input_size),
            _parameters(weight, self.out_channels, self.bias),
            macs=volume(inputs[0]) * volume(weight[1:]),
            spread=spread,
        )

    def fan_in(self, weight: Shape) -> int:
        """Return channels x taps: the second axis is the filters of a group, and the first is summed over."""
        return weight[0] * volume(weight[2:])

    def _spread(self, inputs: tuple[Shape, ...]) -> ConvGeometry:
        """Return the convolution whose outputs are the input's pixels, and whose inputs are the output's."""
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


@dataclass(frozen=True)
class Linear(_Product):
    """A matrix product on flattened features."""

    kind: ClassVar[str] = "linear"

    out_features: int
    bias: bool = True
    in_features: int | None = None
    """That the weight is for; None is any number."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(out_features,)`` of ``weight (out_features, in_features)`` and ``bias (out_features,)``."""
        if len(inputs[0]) != 1:
            raise ShapeError(f"the input is {inputs[0]}; flatten it first, or take a 1x1 convolution")
        check_channels(self.in_features, inputs[0], "features")
        if as_int("out_features", self.out_features) < 1:
            raise ShapeError(f"out_features is {self.out_features}; wanted at least 1")
        weight = (self.out_features, *inputs[0])
        return Resolved(
            replace(self, in_features=inputs[0][0]),
            inputs,
            (self.out_features,),
            _parameters(weight, self.out_features, self.bias),
            macs=volume(weight),
        )

    def reach(self, at: Resolved) -> tuple[Reach, ...] | None:
        """Return None: every feature is read."""
        return None


def _parameters(weight: Shape, channels: int, bias: bool) -> dict[str, Shape]:
    return {"weight": weight, "bias": (channels,)} if bias else {"weight": weight}


def _groups(operation: Conv | ConvTranspose, shape: Shape) -> int:
    """Return the groups, once they are known to divide the channels."""
    check_spatial(shape)
    check_channels(operation.in_channels, shape)
    if as_int("out_channels", operation.out_channels) < 1:
        raise ShapeError(f"out_channels is {operation.out_channels}; wanted at least 1")
    groups, filters = as_int("groups", operation.groups), operation.out_channels
    if groups < 1 or shape[0] % groups or filters % groups:
        raise ShapeError(
            f"groups is {operation.groups}; it must divide the {shape[0]} input and {filters} output channels"
        )
    return groups
