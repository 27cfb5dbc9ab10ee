"""Operations that shrink without weights: max-, average- and blur-pooling, and poolings over everything there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stridekit.arguments import per_axis
from stridekit.errors import ShapeError
from stridekit.networks.operations.base import Operation, Reach, Shape, Sizes, check_spatial, window_reach
from stridekit.ops.blur_pool import centred_padding, check_filter_size
from stridekit.problems.geometry import ConvGeometry, conv_geometry
from stridekit.problems.padding import Padding
from stridekit.problems.pool_problem import PoolProblem, pool_problem


class _Windowed(Operation):
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return ``(C, *output_size)``."""
        found = self.geometry(inputs)
        assert found is not None
        return (inputs[0][0], *found.output_size)

    def reach(self, inputs: Sequence[Shape], output: Shape) -> tuple[Reach, ...]:
        """Return what a window reads."""
        found = self.geometry(inputs)
        assert found is not None
        return window_reach(found)


@dataclass(frozen=True)
class _Pool(_Windowed):
    operation: ClassVar[str] = ""

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Padding = 0
    dilation: Sizes = 1
    ceil_mode: bool = False

    def geometry(self, inputs: Sequence[Shape]) -> ConvGeometry:
        """Return the windows' geometry, with what `ceil_mode` adds."""
        return self.problem((1, *inputs[0]), "float32", "channels_last", "forward").geometry

    def problem(self, shape: Shape, dtype: str, memory_order: str, direction: str) -> PoolProblem:
        """State the pooling of an input ``(N, C, *spatial)``, or its gradient."""
        check_spatial(shape[1:])
        return pool_problem(
            self.operation,
            direction,
            shape,
            dtype=dtype,
            memory_order=memory_order,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.counts_padding,
        )

    @property
    def counts_padding(self) -> bool:
        """Whether padding counts for an average's divisor."""
        return True


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest of each window."""

    kind: ClassVar[str] = "max_pool"
    operation: ClassVar[str] = "max"


@dataclass(frozen=True)
class AvgPool(_Pool):
    """The mean of each window."""

    kind: ClassVar[str] = "avg_pool"
    operation: ClassVar[str] = "avg"

    count_include_pad: bool = True

    @property
    def counts_padding(self) -> bool:
        """Whether padding counts for the divisor."""
        return self.count_include_pad


@dataclass(frozen=True)
class BlurPool(_Windowed):
    """A binomial low-pass, then the stride, as `stridekit.blur_pool2d`."""

    kind: ClassVar[str] = "blur_pool"

    stride: Sizes = 2
    filter_size: int = 3
    padding: Padding | None = None
    padding_mode: str = "reflect"

    def geometry(self, inputs: Sequence[Shape]) -> ConvGeometry:
        """Return the windows' geometry."""
        check_spatial(inputs[0])
        rank, taps = len(inputs[0]) - 1, check_filter_size(self.filter_size)
        return conv_geometry(
            inputs[0][1:],
            kernel_size=taps,
            stride=self.stride,
            padding=centred_padding(taps, rank) if self.padding is None else self.padding,
            padding_mode=self.padding_mode,
        )


@dataclass(frozen=True)
class _GlobalPool(Operation):
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return ``(C, 1, ...)``, with as many axes as the input."""
        check_spatial(inputs[0])
        return (inputs[0][0], *(1 for _ in inputs[0][1:]))

    def reach(self, inputs: Sequence[Shape], output: Shape) -> None:
        """Return None: every pixel is read."""
        return


@dataclass(frozen=True)
class GlobalAvgPool(_GlobalPool):
    """The mean over all pixels."""

    kind: ClassVar[str] = "global_avg_pool"


@dataclass(frozen=True)
class GlobalMaxPool(_GlobalPool):
    """The largest of all pixels."""

    kind: ClassVar[str] = "global_max_pool"


@dataclass(frozen=True)
class AdaptiveAvgPool(_Windowed):
    """The mean over windows that share the input out evenly: a pooling whose stride follows from the sizes."""

    kind: ClassVar[str] = "adaptive_avg_pool"

    output_size: Sizes

    def geometry(self, inputs: Sequence[Shape]) -> ConvGeometry:
        """Return the windows' geometry.

        Raises
        ------
        ShapeError
            Unless the output's size divides the input's.
        """
        check_spatial(inputs[0])
        sizes = inputs[0][1:]
        wanted = per_axis("output_size", self.output_size, len(sizes))
        if any(size % parts for size, parts in zip(sizes, wanted, strict=True)):
            raise ShapeError(f"output_size is {self.output_size}; it must divide the input's {sizes} pixels evenly")
        window = tuple(size // parts for size, parts in zip(sizes, wanted, strict=True))
        return conv_geometry(sizes, kernel_size=window, stride=window)
