"""What every operation of a network says of itself: shapes, parameters, costs, and what an output pixel reads.

Nothing here runs, and no array is held. A shape is that of one sample: ``(C, *spatial)``, or ``(F,)`` once flattened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, TypeAlias

from stridekit.errors import ShapeError
from stridekit.problems.geometry import ConvGeometry

Shape: TypeAlias = tuple[int, ...]
Sizes: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class Reach:
    """What the output pixels of one axis read of the input: pixel j reads within ``[first, last] + j * step``.

    Exact for convolutions and poolings. After an upsampling the pixels of one period read different spans; then it
    is the smallest span that moves with the pixel and holds them all, and its ends may lie between pixels.
    """

    first: Fraction
    last: Fraction
    step: Fraction


SAME_PIXEL = Reach(Fraction(0), Fraction(0), Fraction(1))
FIRST_PIXEL = Reach(Fraction(0), Fraction(0), Fraction(0))
"""Wherever the output's pixel is."""


@dataclass(frozen=True)
class Operation:
    """One operation of a network; its fields are what a network file may say of it."""

    kind: ClassVar[str] = ""
    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    """The fewest and the most inputs; None is any number."""

    def resolved(self, inputs: Sequence[Shape]) -> Operation:
        """Return the operation with what it takes from its inputs filled in: channels, features."""
        return self

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the output.

        Raises
        ------
        ShapeError
            If the inputs do not fit.
        """
        raise NotImplementedError

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return what is trained, by name, once resolved."""
        return {}

    def buffer_shapes(self) -> dict[str, Shape]:
        """Return what is kept beside the parameters and not trained."""
        return {}

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Return the multiply-accumulates of one sample; products with padding are counted."""
        return 0

    def geometry(self, inputs: Sequence[Shape]) -> ConvGeometry | None:
        """Return the sliding window's geometry, where there is one."""
        return None

    def reads(self, position: int) -> bool:
        """Say whether the input at `position` is read, or only its size."""
        return True

    def spreads(self, position: int, inputs: Sequence[Shape]) -> bool:
        """Say whether the one pixel of the input at `position` is read by every output pixel."""
        return False

    def reach(self, inputs: Sequence[Shape], output: Shape) -> tuple[Reach, ...] | None:
        """Return for each spatial axis what an output pixel reads; None where it reads every pixel."""
        return (SAME_PIXEL,) * (len(output) - 1)


def check_spatial(shape: Shape) -> None:
    """Refuse a shape without spatial axes, or with more than three."""
    if not 2 <= len(shape) <= 4:
        raise ShapeError(f"the input is {shape}; wanted channels and 1 to 3 spatial axes")


def check_channels(expected: int | None, shape: Shape, what: str = "channels") -> None:
    """Refuse an input of another number of channels than the parameters are for."""
    if expected is not None and shape[0] != expected:
        raise ShapeError(f"the input has {shape[0]} {what} {shape}; the parameters are for {expected}")


def volume(shape: Shape) -> int:
    """Return the number of elements."""
    return math.prod(shape)


def window_reach(geometry: ConvGeometry) -> tuple[Reach, ...]:
    """Return what the windows of a convolution or a pooling read."""
    return tuple(
        Reach(Fraction(-axis.pad_before), Fraction(axis.kernel_extent - 1 - axis.pad_before), Fraction(axis.stride))
        for axis in geometry.axes
    )
