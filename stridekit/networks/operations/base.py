"""What every operation of a network says of itself: shapes, parameters, costs, and what an output pixel reads.

Nothing here runs, and no array is kept. A shape is that of one sample: ``(C, *spatial)``, or ``(F,)`` once flattened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, TypeAlias

import numpy as np

from stridekit.errors import ShapeError
from stridekit.problems.geometry import AxisGeometry, ConvGeometry

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


NO_WINDOWS = ConvGeometry(())


@dataclass(frozen=True)
class Operation:
    """One operation of a network; its fields are what a network file may say of it."""

    kind: ClassVar[str] = ""
    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    """The fewest and the most inputs; None is any number."""
    reads: ClassVar[int | None] = None
    """How many of the inputs are read, None for all: of those after them only the size matters."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return all that follows from the shapes of the inputs.

        Raises
        ------
        ShapeError
            If the inputs do not fit.
        """
        raise NotImplementedError

    def spreads(self, position: int, inputs: tuple[Shape, ...]) -> bool:
        """Say whether the one pixel of the input at `position` is read by every output pixel."""
        return False

    def reach(self, at: Resolved) -> tuple[Reach, ...] | None:
        """Return for each spatial axis what an output pixel reads; None where it reads every pixel."""
        windows = (*map(_window_reach, at.geometry.axes), *map(_spread_reach, at.spread.axes))
        return windows or (SAME_PIXEL,) * (len(at.output) - 1)

    def draw(self, name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return a parameter or a buffer as it is before training."""
        return np.zeros(shape)


@dataclass(frozen=True)
class Resolved:
    """An operation on inputs of known shapes.

    Attributes
    ----------
    operation : Operation
        Held to the channels that its parameters are for.
    inputs : tuple of Shape
    output : Shape
    parameters, buffers : mapping of Shape
        What is trained, and what is kept beside it, by name.
    macs : int
        Multiply-accumulates of one sample; products with padding are counted.
    geometry : ConvGeometry
        Of the windows over the input; without axes where there are none.
    spread : ConvGeometry
        Of a transposed convolution: its inputs are the output's pixels, and its outputs the input's.
    """

    operation: Operation
    inputs: tuple[Shape, ...]
    output: Shape
    parameters: Mapping[str, Shape] = field(default_factory=dict)
    buffers: Mapping[str, Shape] = field(default_factory=dict)
    macs: int = 0
    geometry: ConvGeometry = NO_WINDOWS
    spread: ConvGeometry = NO_WINDOWS

    @property
    def kept(self) -> dict[str, Shape]:
        """Parameters and buffers."""
        return {**self.parameters, **self.buffers}


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


def _window_reach(axis: AxisGeometry) -> Reach:
    return Reach(Fraction(-axis.pad_before), Fraction(axis.kernel_extent - 1 - axis.pad_before), Fraction(axis.stride))


def _spread_reach(axis: AxisGeometry) -> Reach:
    """Return the span of inputs that reach an output pixel: of ``axis``, inputs are the windows, outputs the pixels.

    Input i reaches pixels ``i * stride - pad + tap``; some phase has the last tap at an input, and some the first.
    """
    return Reach(
        Fraction(axis.pad_before - (axis.kernel_extent - 1), axis.stride),
        Fraction(axis.pad_before, axis.stride),
        Fraction(1, axis.stride),
    )
