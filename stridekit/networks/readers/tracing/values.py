"""What an operator reads and gives while a model is followed: a layer's features, a constant, or what is none yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.operations import FUNCTIONS
from stridekit.problems.padding import PaddingPairs

Function: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Constant:
    """A weight, or a number that the model computes with.

    Attributes
    ----------
    array : numpy.ndarray
    name : str
        As in the model; empty where it has none.
    key : hashable, optional
        The same for what is one parameter used in several places.
    """

    array: np.ndarray
    name: str = ""
    key: Hashable = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape


@dataclass(frozen=True)
class Tensor:
    """The features of a layer, as the model sees them.

    Attributes
    ----------
    layer : str
    shape : tuple of int
        With the batch, in the model's order of axes.
    order : tuple of int
        Which axis of ``(N, C, *spatial)`` each of the model's axes is; ``(0, 2, 3, 1)`` has channels last.
    formula : Formula, optional
        Where the layer is an activation: of what it is which function.
    """

    layer: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    formula: Formula | None = None

    @property
    def channel_axis(self) -> int:
        """Where the model has the channels."""
        return self.order.index(1)

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Where the model has the pixels."""
        return tuple(axis for axis, own in enumerate(self.order) if own > 1)

    @property
    def channels_first(self) -> bool:
        """Whether the model's order is the layer's."""
        return self.order == tuple(range(len(self.order)))

    def same_elements(self, other: Tensor) -> bool:
        """Say whether both are one and the same."""
        return (self.layer, self.order) == (other.layer, other.order)


@dataclass(frozen=True, eq=False)
class Formula:
    """A function of each element of a tensor, by its values at the points that functions are told apart by.

    `tolerance` is what the constants in it were rounded by.
    """

    base: Tensor
    values: np.ndarray
    tolerance: float


@dataclass(frozen=True)
class Unfinished:
    """A function of each element that is no operation of a network: a step of one that was written out, perhaps."""

    formula: Formula
    steps: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's."""
        return self.formula.base.shape


@dataclass(frozen=True)
class Padded:
    """A tensor whose spatial axes are padded, until the window comes that takes the padding as its own."""

    tensor: Tensor
    pairs: PaddingPairs
    mode: str
    place: str

    @property
    def shape(self) -> tuple[int, ...]:
        """With the padding."""
        grown = dict(zip(self.tensor.spatial_axes, self.pairs, strict=True))
        return tuple(size + sum(grown.get(axis, (0, 0))) for axis, size in enumerate(self.tensor.shape))


Value: TypeAlias = Tensor | Constant | Unfinished | Padded | tuple[Any, ...] | None


def features(value: Value, what: str = "the input") -> Tensor:
    """Return `value` if a layer gives it; else say what it is."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Unfinished):
        raise NetworkError(
            f"{what} is a function of each element, by {', '.join(value.steps)}, that is none of {', '.join(FUNCTIONS)}"
        )
    if isinstance(value, Padded):
        raise NetworkError(
            f"{what} is padded by {value.place}: only a convolution or an average pooling that counts it takes that"
        )
    if isinstance(value, Constant):
        raise NetworkError(f"{what} is a constant; wanted what a layer gives")
    raise NetworkError(
        f"{what} is missing; wanted what a layer gives" if value is None else f"{what} is several values"
    )


def channels_first(value: Value, what: str = "the input") -> Tensor:
    """Return `value` if a layer gives it and the model has its axes in the layer's order."""
    tensor = features(value, what)
    if not tensor.channels_first:
        raise NetworkError(
            f"{what} has its axes in the order {tensor.order} of (N, C, *spatial); wanted channels first"
        )
    return tensor


def constant(value: Value, what: str) -> Constant:
    """Return `value` if it is a constant."""
    if not isinstance(value, Constant):
        raise NetworkError(f"{what} is {'missing' if value is None else 'computed'}; wanted a constant of the model")
    return value


def number(value: Value) -> float | None:
    """Return the one number that a constant holds, or None if `value` is no such constant."""
    if isinstance(value, Constant) and math.prod(value.shape) == 1:
        return float(value.array.reshape(()).astype(np.float64))
    return None


def decimal(value: float) -> float:
    """Return the shortest decimal with the same float32: models keep 1e-5 as 9.99999974738e-06."""
    return float(str(np.float32(value)))
