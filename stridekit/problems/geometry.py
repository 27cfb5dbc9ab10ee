"""Sizes of strided windows, in integers: what a stride, a padding and a dilation do to an axis.

Every other room takes its sizes from here. This one knows nothing of arrays, dtypes or backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stridekit.arguments import as_int, is_int, items_of, per_axis, shown
from stridekit.concurrency import Remembering, cached_property
from stridekit.errors import ShapeError
from stridekit.problems.padding import Padding, PaddingPairs, check_padding_mode, resolve_padding

T = TypeVar("T")

MOST_LISTED = 2**20
"""Outputs that are listed one by one."""


@dataclass(frozen=True)
class AxisGeometry(Remembering):
    """One axis of a strided window: integers in, integers out.

    Attributes
    ----------
    size, kernel, stride, dilation : int
        Input pixels, kernel taps, step between windows and step between taps, in pixels.
    pad_before, pad_after : int
        Padding pixels on either side.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    pad_before: int
    pad_after: int

    @property
    def kernel_extent(self) -> int:
        """Pixels from the first tap to the last, both included: ``d * (F - 1) + 1``."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded_size(self) -> int:
        """Input pixels with the padding on both sides."""
        return self.size + self.pad_before + self.pad_after

    @property
    def output_size(self) -> int:
        """Number of windows: ``floor((W + p_lo + p_hi - d * (F - 1) - 1) / s) + 1``.

        Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning" (2016),
        relationship 15.
        """
        return (self.padded_size - self.kernel_extent) // self.stride + 1

    @property
    def remainder(self) -> int:
        """What the floor of the output size leaves over: trailing padded pixels that no window reaches."""
        return (self.padded_size - self.kernel_extent) % self.stride

    @property
    def dropped(self) -> int:
        """How many of the `remainder` are pixels of the input, not of the padding."""
        reached = (self.output_size - 1) * self.stride + self.kernel_extent - self.pad_before
        return max(0, self.size - max(0, reached))

    @property
    def overlap(self) -> int:
        """Pixels that two neighbouring windows share; negative where the stride leaves a gap between them."""
        return self.kernel_extent - self.stride

    @property
    def phase(self) -> float:
        """Input coordinate of the centre of the first window, in pixels; ends in .5 for an even extent."""
        centre = (self.kernel_extent - 1) / 2
        return centre - self.pad_before

    @cached_property
    def unread(self) -> int:
        """Input pixels that no tap of any window reads: the dropped ones, and those in gaps and holes."""
        return self.size - (self._read_before(self.pad_before + self.size) - self._read_before(self.pad_before))

    def _read_before(self, end: int) -> int:
        """Count the padded positions below `end` that a window reads, each once."""
        windows, common = self.output_size, math.gcd(self.stride, self.dilation)
        # A tap reads where the one so many before it does, so many windows later.
        taps_apart, windows_apart = self.stride // common, self.dilation // common
        if windows <= windows_apart:
            return _positions_before(end, windows, self.stride, self.kernel, self.dilation)
        # So the taps below `taps_apart` stand for all: runs of as many windows as they and those behind them read.
        rows, longer = divmod(self.kernel, taps_apart)
        most, others = rows * windows_apart + windows, min(self.kernel, taps_apart) - longer
        return _positions_before(end, longer, self.dilation, most, self.stride) + _positions_before(
            end - longer * self.dilation, others, self.dilation, most - windows_apart, self.stride
        )

    def input_window(self, output: int) -> range:
        """Input coordinates that output pixel `output` reads; those below 0 or from `size` on are padding."""
        first = output * self.stride - self.pad_before
        return range(first, first + self.kernel_extent, self.dilation)

    def outputs_reading(self, pixel: int) -> tuple[int, ...]:
        """Output pixels whose window reads the input pixel `pixel`, in ascending order.

        Raises
        ------
        ShapeError
            If there are more than 2**20: `reading` has them as a range.
        """
        found = self.reading(pixel)
        if (found.stop - found.start) // found.step > MOST_LISTED:
            raise ShapeError(f"pixel {pixel} is read by more outputs than the {MOST_LISTED} that are listed")
        return tuple(found)

    def reading(self, pixel: int) -> range:
        """Output pixels whose window reads the input pixel `pixel`, however many there are."""
        position, common = pixel + self.pad_before, math.gcd(self.stride, self.dilation)
        step = self.dilation // common
        first = max(0, -((self.kernel_extent - 1 - position) // self.stride))
        last = min(self.output_size - 1, position // self.stride)
        if position % common:
            return range(0)
        # The outputs o for which `position - o * stride` is a multiple of the dilation.
        aligned = position // common * pow(self.stride // common, -1, step)
        return range(first + (aligned - first) % step, last + 1, step)


def _positions_before(end: int, rows: int, row_step: int, length: int, step: int) -> int:
    """Count the pairs (i, j), i below `rows` and j below `length`, for which ``i * row_step + j * step < end``."""
    if length < 1:
        return 0
    whole = min(rows, max(0, -(((length - 1) * step - end) // row_step)))
    some = min(rows, max(0, -(-end // row_step)))
    # The others from the last on: each holds a row's step more than the one after it.
    left = end - (some - 1) * row_step
    return whole * length + _floor_sum(some - whole, step, row_step, left + step - 1)


def _floor_sum(count: int, divisor: int, factor: int, offset: int) -> int:
    """Return the sum of ``floor((factor * i + offset) / divisor)`` over i from 0 to `count` - 1; none is negative.

    Source: R. L. Graham, D. E. Knuth and O. Patashnik, "Concrete Mathematics", section 3.5: a sum over i becomes one
    over quotients, with divisor and factor as in Euclid's algorithm.
    """
    total = 0
    while count > 0:
        total += factor // divisor * (count * (count - 1) // 2) + offset // divisor * count
        factor, offset = factor % divisor, offset % divisor
        count, offset = divmod(factor * count + offset, divisor)
        divisor, factor = factor, divisor
    return total


@dataclass(frozen=True)
class ConvGeometry(Remembering):
    """The geometry of all spatial axes, in the array's own order: rows before columns."""

    axes: tuple[AxisGeometry, ...]

    def _each(self, value: Callable[[AxisGeometry], T]) -> tuple[T, ...]:
        return tuple(value(axis) for axis in self.axes)

    @cached_property
    def input_size(self) -> tuple[int, ...]:
        """Input pixels per axis."""
        return self._each(lambda axis: axis.size)

    @cached_property
    def kernel_size(self) -> tuple[int, ...]:
        """Kernel taps per axis."""
        return self._each(lambda axis: axis.kernel)

    @cached_property
    def stride(self) -> tuple[int, ...]:
        """Step between windows per axis, in pixels."""
        return self._each(lambda axis: axis.stride)

    @cached_property
    def dilation(self) -> tuple[int, ...]:
        """Step between taps per axis, in pixels."""
        return self._each(lambda axis: axis.dilation)

    @cached_property
    def padding(self) -> PaddingPairs:
        """Padding pixels (before, after) per axis."""
        return self._each(lambda axis: (axis.pad_before, axis.pad_after))

    @cached_property
    def kernel_extent(self) -> tuple[int, ...]:
        """`AxisGeometry.kernel_extent` per axis."""
        return self._each(lambda axis: axis.kernel_extent)

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """`AxisGeometry.output_size` per axis."""
        return self._each(lambda axis: axis.output_size)

    @cached_property
    def remainder(self) -> tuple[int, ...]:
        """`AxisGeometry.remainder` per axis."""
        return self._each(lambda axis: axis.remainder)

    @cached_property
    def dropped(self) -> tuple[int, ...]:
        """`AxisGeometry.dropped` per axis."""
        return self._each(lambda axis: axis.dropped)

    @cached_property
    def unread(self) -> tuple[int, ...]:
        """`AxisGeometry.unread` per axis."""
        return self._each(lambda axis: axis.unread)

    @cached_property
    def overlap(self) -> tuple[int, ...]:
        """`AxisGeometry.overlap` per axis."""
        return self._each(lambda axis: axis.overlap)

    @cached_property
    def phase(self) -> tuple[float, ...]:
        """`AxisGeometry.phase` per axis."""
        return self._each(lambda axis: axis.phase)

    def input_window(self, output: Sequence[int]) -> tuple[range, ...]:
        """Input coordinates per axis that the output pixel at `output` reads."""
        return tuple(axis.input_window(o) for axis, o in zip(self.axes, self._at("output", output), strict=True))

    def outputs_reading(self, pixel: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Output coordinates per axis whose windows read the input pixel at `pixel`."""
        return tuple(axis.outputs_reading(i) for axis, i in zip(self.axes, self._at("pixel", pixel), strict=True))

    def _at(self, name: str, position: Sequence[int]) -> tuple[int, ...]:
        items = items_of(position)
        if items is None or len(items) != len(self.axes):
            raise ShapeError(f"{name} is {shown(position)}; wanted {len(self.axes)} ints, one for each spatial axis")
        return tuple(as_int(name, item) for item in items)


def conv_geometry(
    input_size: int | Sequence[int],
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    padding_mode: str = "zeros",
) -> ConvGeometry:
    """Say what a convolution or a pooling does to the sizes of its input.

    Parameters
    ----------
    input_size : int or one int per axis
        Spatial size in pixels; its length is the rank, an int means one axis.
    kernel_size, stride, dilation : int or one int per axis
        In the array's own axis order: ``stride=(2, 1)`` steps 2 rows and 1 column.
    padding : int, one int or one (before, after) pair per axis, or a name
        ``"valid"`` is none. ``"same"`` gives ``ceil(W / s)`` outputs at every stride, an odd pixel after;
        ``"same_lower"`` puts it before. ``"causal"`` (one axis only) puts all of it before.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the padding holds; it bounds how much of it there can be.

    Returns
    -------
    ConvGeometry
        Per-axis tuples: ``output_size``, ``padding``, ``remainder``, ``dropped``, ``overlap`` ...

    Raises
    ------
    ShapeError
        For a value out of range, or a kernel larger than the padded input.

    Examples
    --------
    >>> g = conv_geometry((224, 224), kernel_size=7, stride=2, padding=3)
    >>> g.output_size, g.remainder, g.dropped
    ((112, 112), (1, 1), (0, 0))
    """
    sizes = _sizes(input_size)
    rank = len(sizes)
    kernels = per_axis("kernel_size", kernel_size, rank)
    strides = per_axis("stride", stride, rank)
    dilations = per_axis("dilation", dilation, rank)
    pairs = resolve_padding(padding, sizes, kernels, strides, dilations)
    check_padding_mode(padding_mode, pairs, sizes)
    axes = tuple(
        AxisGeometry(size, kernel, step, spread, before, after)
        for size, kernel, step, spread, (before, after) in zip(sizes, kernels, strides, dilations, pairs, strict=True)
    )
    needed = max(-((axis.size - axis.kernel_extent) // 2) for axis in axes)
    for number, axis in enumerate(axes):
        if axis.kernel_extent > axis.padded_size:
            raise ShapeError(
                f"kernel_size {axis.kernel} with dilation {axis.dilation} spans {axis.kernel_extent} pixels, more "
                f"than the {axis.padded_size} of the padded input on spatial axis {number} ({axis.size} + "
                f"{axis.pad_before} + {axis.pad_after}); a padding of at least {needed} or a smaller kernel fits"
            )
    return ConvGeometry(axes)


def _sizes(input_size: int | Sequence[int]) -> tuple[int, ...]:
    items = (input_size,) if is_int(input_size) else items_of(input_size)
    if items is None:
        raise ShapeError(f"input_size is {shown(input_size)}; wanted an int, or one int per spatial axis")
    sizes = tuple(as_int("input_size", item) for item in items)
    if not sizes:
        raise ShapeError("input_size is empty; wanted at least one spatial axis")
    if min(sizes) < 1:
        raise ShapeError(f"input_size is {shown(sizes)}; every spatial axis needs at least one pixel")
    return sizes
