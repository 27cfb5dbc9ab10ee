"""The problem: everything a backend may know of a call before it sees an array. Frozen and hashable."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

from stridekit.activation import Activation, ActivationArgument, parse_activation
from stridekit.arguments import as_int
from stridekit.arrays import DTYPES, MEMORY_ORDERS, itemsize
from stridekit.errors import DtypeError, LayoutError, ShapeError
from stridekit.geometry import ConvGeometry, conv_geometry
from stridekit.padding import Padding

PRECISIONS = ("ieee", "tf32")
LARGEST = 2**40
"""The largest size, step or padding: with the bytes of an element and a few more axes it still fits 64 bits."""


@dataclass(frozen=True)
class ConvProblem:
    """A convolution: sizes, dtype and memory order, all checked.

    Attributes
    ----------
    direction : {"forward"}
        What is computed from what.
    batch, in_channels, out_channels, groups : int
        N, C, K and G.
    geometry : ConvGeometry
        Spatial sizes, padding resolved to pixels.
    padding_mode : str
        One of `stridekit.padding.PADDING_MODES`.
    dtype, precision, memory_order : str
        Of the input; the output has the same dtype and memory order.
    bias : bool
        Whether a bias is added.
    activation : Activation or None
        What the output goes through last.
    cut_from : int or None
        Output pixels of a sample of the problem that this is a tile of: what fixes the order of a reduction, so that
        tiles give the same bits as the whole.
    """

    direction: str
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    geometry: ConvGeometry
    padding_mode: str
    dtype: str
    precision: str
    memory_order: str
    bias: bool
    activation: Activation | None
    cut_from: int | None = None

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.geometry.axes)

    @property
    def group_in_channels(self) -> int:
        """Input channels that one filter reads."""
        return self.in_channels // self.groups

    @property
    def group_out_channels(self) -> int:
        """Filters that read the same input channels."""
        return self.out_channels // self.groups

    @property
    def taps(self) -> int:
        """Kernel positions: the product of the kernel's sizes."""
        return math.prod(self.geometry.kernel_size)

    @property
    def output_pixels(self) -> int:
        """Output positions of one sample and channel."""
        return math.prod(self.geometry.output_size)

    @property
    def sample_pixels(self) -> int:
        """Output positions of one sample and channel of the whole, of which this may be a tile."""
        return self.output_pixels if self.cut_from is None else self.cut_from

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """``(N, C, *spatial)``."""
        return (self.batch, self.in_channels, *self.geometry.input_size)

    @cached_property
    def weight_shape(self) -> tuple[int, ...]:
        """``(K, C / groups, *kernel)``."""
        return (self.out_channels, self.group_in_channels, *self.geometry.kernel_size)

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """``(N, K, *spatial)``."""
        return (self.batch, self.out_channels, *self.geometry.output_size)

    @property
    def flops(self) -> int:
        """Floating-point operations, 2 for each multiply-add; products with padding are counted."""
        return 2 * math.prod(self.output_shape) * self.group_in_channels * self.taps

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    @property
    def input_bytes(self) -> int:
        """Bytes of the input."""
        return math.prod(self.input_shape) * self.itemsize

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as given."""
        return math.prod(self.weight_shape) * self.itemsize

    @property
    def bias_bytes(self) -> int:
        """Bytes of the bias, 0 without one."""
        return self.out_channels * self.itemsize if self.bias else 0

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return math.prod(self.output_shape) * self.itemsize

    @property
    def moved_bytes(self) -> int:
        """Bytes that any algorithm must move: each operand read once, the output written once."""
        return self.input_bytes + self.weight_bytes + self.bias_bytes + self.output_bytes


def conv_problem(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    dtype: str,
    memory_order: str,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    bias: bool = False,
    activation: ActivationArgument = None,
    precision: str = "ieee",
) -> ConvProblem:
    """Check a forward convolution's arguments, once, and state it as a `ConvProblem`.

    Parameters
    ----------
    input_shape : tuple of int
        ``(N, C, *spatial)``, whatever the layout of the array.
    weight_shape : tuple of int
        ``(K, C / groups, *kernel)``.

    Raises
    ------
    ShapeError, DtypeError, LayoutError
        Naming the argument, what came and what was wanted.
    """
    batch, channels, *size = input_shape
    filters, filter_channels, *kernel = weight_shape
    groups = as_int("groups", groups)
    if groups < 1:
        raise ShapeError(f"groups is {groups}; wanted at least 1")
    if channels < 1 or filters < 1:
        raise ShapeError(f"input {input_shape} and weight {weight_shape} need at least one channel and one filter")
    if channels % groups or filters % groups:
        raise ShapeError(f"groups is {groups}; it must divide the {channels} input and {filters} output channels")
    if filter_channels * groups != channels:
        grouped = f" in each of {groups} groups" if groups > 1 else ""
        hint = ""
        if filter_channels * groups == size[-1]:
            hint = "; if the channels are x's last axis, say so with layout, such as layout='NHWC'"
        raise ShapeError(
            f"weight {weight_shape} reads {filter_channels} channels{grouped}; the input has {channels}, so weight's "
            f"second axis must be {channels // groups}{hint}"
        )
    if dtype not in DTYPES:
        raise DtypeError(f"dtype is {dtype!r}; wanted one of {', '.join(DTYPES)}")
    if precision not in PRECISIONS:
        raise DtypeError(f"precision is {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    if memory_order not in MEMORY_ORDERS:
        raise LayoutError(f"memory_order is {memory_order!r}; wanted one of {', '.join(MEMORY_ORDERS)}")
    geometry = conv_geometry(
        size, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=padding_mode
    )
    _check_magnitude(input_shape, weight_shape, geometry)
    return ConvProblem(
        direction="forward",
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        groups=groups,
        geometry=geometry,
        padding_mode=padding_mode,
        dtype=dtype,
        precision=precision,
        memory_order=memory_order,
        bias=bias,
        activation=parse_activation(activation),
    )


def _check_magnitude(input_shape: tuple[int, ...], weight_shape: tuple[int, ...], geometry: ConvGeometry) -> None:
    named = {
        "input": input_shape,
        "weight": weight_shape,
        "stride": geometry.stride,
        "dilation": geometry.dilation,
        "padding": tuple(amount for pair in geometry.padding for amount in pair),
    }
    for name, values in named.items():
        if max(values) > LARGEST:
            raise ShapeError(f"{name} holds {max(values)}; the largest size or step is 2**40")
