"""Operations that shrink without weights: max-, average- and blur-pooling, and poolings over everything there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from stridekit.arguments import per_axis
from stridekit.errors import ShapeError
from stridekit.networks.operations.base import Operation, Reach, Resolved, Shape, Sizes, check_spatial
from stridekit.ops.blur_pool import centred_padding, check_filter_size
from stridekit.problems.geometry import conv_geometry
from stridekit.problems.padding import Padding
from stridekit.problems.pool_problem import PoolProblem, pool_problem


class _Pool(Operation):
    operation: ClassVar[str] = ""
    """What becomes of a window: ``"max"`` or ``"avg"``."""

    def window(self, sizes: Shape) -> dict[str, Any]:
        """Return the windows over an input of these spatial sizes, as `pool_problem` takes them."""
        raise NotImplementedError

    def problem(self, shape: Shape, dtype: str, memory_order: str, direction: str) -> PoolProblem:
        """State the pooling of an input ``(N, C, *spatial)``, or its gradient."""
        check_spatial(shape[1:])
        return pool_problem(
            self.operation, direction, shape, dtype=dtype, memory_order=memory_order, **self.window(shape[2:])
        )

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(C, *output_size)``; the geometry has what `ceil_mode` adds."""
        geometry = self.problem((1, *inputs[0]), "float32", "channels_last", "forward").geometry
        return Resolved(self, inputs, (inputs[0][0], *geometry.output_size), geometry=geometry)


@dataclass(frozen=True)
class _WindowedPool(_Pool):
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Padding = 0
    dilation: Sizes = 1
    ceil_mode: bool = False

    def window(self, sizes: Shape) -> dict[str, Any]:
        """Return what was given."""
        return dict(vars(self))


@dataclass(frozen=True)
class MaxPool(_WindowedPool):
    """The largest of each window."""

    kind: ClassVar[str] = "max_pool"
    operation: ClassVar[str] = "max"


@dataclass(frozen=True)
class AvgPool(_WindowedPool):
    """The mean of each window."""

    kind: ClassVar[str] = "avg_pool"
    operation: ClassVar[str] = "avg"

    count_include_pad: bool = True
    """Whether padding counts for the divisor."""


@dataclass(frozen=True)
class BlurPool(Operation):
    """A binomial low-pass, then the stride, as `stridekit.blur_pool2d`."""

    kind: ClassVar[str] = "blur_pool"

    stride: Sizes = 2
    filter_size: int = 3
    padding: Padding | None = None
    padding_mode: str = "reflect"

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(C, *output_size)``."""
        check_spatial(inputs[0])
        channels, *sizes = inputs[0]
        taps = check_filter_size(self.filter_size)
        geometry = conv_geometry(
            sizes,
            kernel_size=taps,
            stride=self.stride,
            padding=centred_padding(taps, len(sizes)) if self.padding is None else self.padding,
            padding_mode=self.padding_mode,
        )
        return Resolved(self, inputs, (channels, *geometry.output_size), geometry=geometry)


@dataclass(frozen=True)
class _GlobalPool(_Pool):
    def window(self, sizes: Shape) -> dict[str, Any]:
        """Return the one that is everything."""
        return _evenly(sizes)

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(C, 1, ...)``, with as many axes as the input."""
        check_spatial(inputs[0])
        return Resolved(self, inputs, (inputs[0][0], *(1 for _ in inputs[0][1:])))

    def reach(self, at: Resolved) -> tuple[Reach, ...] | None:
        """Return None: every pixel is read."""
        return None


@dataclass(frozen=True)
class GlobalAvgPool(_GlobalPool):
    """The mean over all pixels."""

    kind: ClassVar[str] = "global_avg_pool"
    operation: ClassVar[str] = "avg"


@dataclass(frozen=True)
class GlobalMaxPool(_GlobalPool):
    """The largest of all pixels."""

    kind: ClassVar[str] = "global_max_pool"
    operation: ClassVar[str] = "max"


@dataclass(frozen=True)
class AdaptiveAvgPool(_Pool):
    """The mean over windows that share the input out evenly: a pooling whose stride follows from the sizes."""

    kind: ClassVar[str] = "adaptive_avg_pool"
    operation: ClassVar[str] = "avg"

    output_size: Sizes

    def window(self, sizes: Shape) -> dict[str, Any]:
        """Return windows beside each other.

        Raises
        ------
        ShapeError
            Unless the output's size divides the input's.
        """
        wanted = per_axis("output_size", self.output_size, len(sizes))
        if any(size % parts for size, parts in zip(sizes, wanted, strict=True)):
            raise ShapeError(f"output_size is {self.output_size}; it must divide the input's {sizes} pixels evenly")
        return _evenly(tuple(size // parts for size, parts in zip(sizes, wanted, strict=True)))


def _evenly(window: Shape) -> dict[str, Any]:
    return {"kernel_size": window, "stride": window, "padding": 0, "dilation": 1, "ceil_mode": False}
