"""The pooling problem: what a backend may know of a pooling before it sees an array. Frozen and hashable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from stridekit.arguments import as_flag, per_axis, remembered
from stridekit.concurrency import Remembering, cached_property
from stridekit.errors import ShapeError
from stridekit.memory.arrays import itemsize
from stridekit.problems.conv_problem import ADDRESSABLE, LARGEST
from stridekit.problems.geometry import AxisGeometry, ConvGeometry, conv_geometry
from stridekit.problems.operands import Operand
from stridekit.problems.padding import Padding, PaddingPairs, resolve_padding

Sizes: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class PoolProblem(Remembering):
    """A pooling, or the gradient of one: sizes, dtype and memory order, all checked.

    Whatever the direction, input and output are those of the forward pooling.

    Attributes
    ----------
    operation : {"max", "avg"}
    direction : {"forward", "input_grad"}
        What is computed: the output, or the input's gradient from the output's. For "max" that one also reads the
        indices of the forward pooling.
    batch, channels : int
        N and C.
    geometry : ConvGeometry
        Spatial sizes, padding resolved to pixels, with what a last window of ``ceil_mode`` takes beyond it.
    counted : tuple of (int, int)
        Per axis, from and to which input coordinate a pixel counts for an average's divisor.
    dtype, memory_order : str
        Of what is read; what is computed has the same.
    indices : bool
        Whether a maximum's places are computed too.
    """

    operation: str
    direction: str
    batch: int
    channels: int
    geometry: ConvGeometry
    counted: PaddingPairs
    dtype: str
    memory_order: str
    indices: bool = False

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.geometry.axes)

    @property
    def taps(self) -> int:
        """Pixels of a window."""
        return math.prod(self.geometry.kernel_size)

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """``(N, C, *spatial)``."""
        return (self.batch, self.channels, *self.geometry.input_size)

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """``(N, C, *spatial)``."""
        return (self.batch, self.channels, *self.geometry.output_size)

    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        """What is read, in the order of the direction's function; which pixel was the largest is found again."""
        x = Operand("x", self.input_shape, self.dtype, "input")
        grad_output = Operand("grad_output", self.output_shape, self.dtype, "output")
        if self.direction == "forward":
            return (x,)
        return (x, grad_output) if self.operation == "max" else (grad_output,)

    @cached_property
    def results(self) -> tuple[Operand, ...]:
        """What is computed; with `indices`, where each value lies too."""
        if self.direction != "forward":
            return (Operand("out", self.input_shape, self.dtype, "input"),)
        out = Operand("out", self.output_shape, self.dtype, "output")
        return (out, Operand("indices", self.output_shape, "int64", "output")) if self.indices else (out,)

    @property
    def table(self) -> str:
        """Which of a backend's algorithms compute it."""
        return "pool"

    cuts_samples = True
    cuts_rows = False

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of what is computed."""
        return self.results[0].shape

    @property
    def flops(self) -> int:
        """Operations of either direction: one for each pixel of a window."""
        return math.prod(self.output_shape) * self.taps

    @property
    def moved_bytes(self) -> int:
        """Bytes that any algorithm must move: each operand read once, the results written once."""
        return sum(each.nbytes for each in (*self.operands, *self.results))

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)


@remembered
def pool_problem(
    operation: str,
    direction: str,
    input_shape: tuple[int, ...],
    *,
    dtype: str,
    memory_order: str,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    indices: bool = False,
) -> PoolProblem:
    """Check a pooling's arguments, once, and state it as a `PoolProblem`; `input_shape` has its channels first.

    Raises
    ------
    ShapeError
        Naming the argument, what came and what was wanted.
    """
    ceil_mode = as_flag("ceil_mode", ceil_mode)
    count_include_pad = as_flag("count_include_pad", count_include_pad)
    batch, channels, *sizes = input_shape
    if channels < 1:
        raise ShapeError(f"input {input_shape} needs at least one channel")
    if min(sizes) < 1:
        raise ShapeError(f"input {input_shape} needs at least one pixel on every spatial axis")
    rank = len(sizes)
    kernel = per_axis("kernel_size", kernel_size, rank)
    steps = kernel if stride is None else per_axis("stride", stride, rank)
    spread = per_axis("dilation", dilation, rank)
    pairs = resolve_padding(padding, sizes, kernel, steps, spread)
    reached = pairs
    if ceil_mode:
        axes = zip(sizes, kernel, steps, spread, pairs, strict=True)
        reached = tuple(
            (before, after + _overhang(AxisGeometry(size, f, s, d, before, after)))
            for size, f, s, d, (before, after) in axes
        )
    geometry = conv_geometry(sizes, kernel_size=kernel, stride=steps, padding=reached, dilation=spread)
    largest = max(*input_shape, *kernel, *steps, *spread, *(amount for pair in reached for amount in pair))
    if largest > LARGEST:
        raise ShapeError(f"the largest size, step or padding of a pooling is 2**40; {largest} came")
    for name, shape in (("input", input_shape), ("output", (batch, channels, *geometry.output_size))):
        if math.prod(shape) * itemsize(dtype) > ADDRESSABLE:
            raise ShapeError(f"{name} is {shape}, which takes more than 2**63 - 1 bytes; padding is {pairs}")
    counted = tuple(
        (-before, size + after) if count_include_pad else (0, size)
        for size, (before, after) in zip(sizes, pairs, strict=True)
    )
    return PoolProblem(operation, direction, batch, channels, geometry, counted, dtype, memory_order, indices)


def _overhang(axis: AxisGeometry) -> int:
    """Return how far one window more reaches beyond the padded end, 0 where there is none more.

    As in PyTorch (``pooling_output_shape``), which has one where pixels are left over, if it begins in the input or
    in the padding before it.
    """
    if not axis.remainder or axis.output_size < 0 or axis.output_size * axis.stride >= axis.size + axis.pad_before:
        return 0
    return axis.stride - axis.remainder
