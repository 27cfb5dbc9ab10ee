"""The problem: everything a backend may know of a call before it sees an array. Frozen and hashable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from stridekit.arguments import as_flag, as_int, one_of, remembered
from stridekit.concurrency import Remembering, cached_property
from stridekit.errors import DtypeError, LayoutError, ShapeError
from stridekit.memory.arrays import MEMORY_ORDERS, itemsize
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.activations import ActivationArgument, FusedActivation, parse_activation
from stridekit.problems.geometry import ConvGeometry, conv_geometry
from stridekit.problems.operands import Operand
from stridekit.problems.padding import Padding

PRECISIONS = ("ieee", "tf32")
DIRECTIONS = ("forward", "input_grad", "weight_grad")
LARGEST = 2**40
"""The largest size, step or padding: with the bytes of an element and a few more axes it still fits 64 bits."""
ADDRESSABLE = 2**63 - 1
"""The most bytes of one array."""


@dataclass(frozen=True)
class ConvProblem(Remembering):
    """A convolution, or a gradient of one: sizes, dtype and memory order, all checked.

    Whatever the direction, input, weight and output are those of the forward convolution.

    Attributes
    ----------
    direction : {"forward", "input_grad", "weight_grad"}
        What is computed from what: the output from input and weight, the input's gradient from weight and the
        output's, or the weight's from input and the output's.
    batch, in_channels, out_channels, groups : int
        N, C, K and G.
    geometry : ConvGeometry
        Spatial sizes, padding resolved to pixels.
    padding_mode : str
        One of `stridekit.problems.padding.PADDING_MODES`.
    dtype, precision, memory_order : str
        Of the input, or of the output's gradient where the input's is computed; a result over pixels has the same.
    bias : bool
        Whether a bias is added to the result: to an input's gradient too, as a transposed convolution wants.
    activation : FusedActivation or None
        What the result goes through last.
    residual : bool
        Whether an array of the result's shape is added before that.
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
    activation: FusedActivation | None
    residual: bool = False
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

    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        """What is read, in the order of the direction's function."""
        x = Operand("x", self.input_shape, self.dtype, "input")
        weight = Operand("weight", self.weight_shape, self.dtype)
        grad_output = Operand("grad_output", self.output_shape, self.dtype, "output")
        factors = {"forward": (x, weight), "input_grad": (weight, grad_output), "weight_grad": (x, grad_output)}
        bias = Operand("bias", (self.bias_channels,), self.dtype)
        residual = Operand("residual", self.output_shape, self.dtype, "output")
        added = (*((bias,) if self.bias else ()), *((residual,) if self.residual else ()))
        return (*factors[self.direction], *added)

    @cached_property
    def results(self) -> tuple[Operand, ...]:
        """What is computed."""
        shapes = {"forward": self.output_shape, "input_grad": self.input_shape, "weight_grad": self.weight_shape}
        over = {"forward": "output", "input_grad": "input", "weight_grad": ""}
        return (Operand("out", shapes[self.direction], self.dtype, over[self.direction]),)

    @property
    def table(self) -> str:
        """Which of a backend's algorithms compute it: those of the direction."""
        return self.direction

    @property
    def cuts_samples(self) -> bool:
        """Whether samples may be computed one after the other; a weight's gradient sums over them, in one order."""
        return self.direction != "weight_grad"

    @property
    def cuts_rows(self) -> bool:
        """Whether rows of the output may be: reflected and circular padding read rows that a tile does not hold."""
        return self.direction == "forward" and self.padding_mode in ("zeros", "replicate")

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of what is computed: that of the output, the input or the weight."""
        return self.results[0].shape

    @property
    def bias_channels(self) -> int:
        """Channels of the result, which a bias has too."""
        return self.in_channels if self.direction == "input_grad" else self.out_channels

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as given, 0 where they are not read."""
        return sum(each.nbytes for each in self.operands if each.name == "weight")

    @property
    def bias_bytes(self) -> int:
        """Bytes of the bias, 0 without one."""
        return sum(each.nbytes for each in self.operands if each.name == "bias")

    @property
    def result_bytes(self) -> int:
        """Bytes of what is computed."""
        return self.results[0].nbytes

    @property
    def moved_bytes(self) -> int:
        """Bytes that any algorithm must move: each operand read once, the result written once."""
        return sum(each.nbytes for each in (*self.operands, *self.results))


@remembered
def conv_problem(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    dtype: str,
    memory_order: str,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    bias: bool = False,
    activation: ActivationArgument = None,
    precision: str = "ieee",
    direction: str = "forward",
    residual: bool = False,
) -> ConvProblem:
    """Check a convolution's arguments, once, and state it, or a gradient of it, as a `ConvProblem`.

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
    groups = _groups(groups)
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
    _check_kind(dtype, precision, memory_order)
    direction, bias = one_of("direction", direction, DIRECTIONS), as_flag("bias", bias)
    if direction == "weight_grad" and (bias or activation is not None):
        raise ShapeError("a weight gradient takes neither bias nor activation")
    if as_flag("residual", residual) and direction != "forward":
        raise ShapeError("a gradient takes no residual")
    geometry = conv_geometry(
        size, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=padding_mode
    )
    output_shape = (batch, filters, *geometry.output_size)
    _check_magnitude({"input": input_shape, "weight": weight_shape, "output": output_shape}, geometry, dtype)
    return ConvProblem(
        direction=direction,
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
        residual=residual,
    )


def transposed_problem(
    grad_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    geometry: ConvGeometry,
    *,
    dtype: str,
    memory_order: str,
    groups: int = 1,
    bias: bool = False,
    activation: ActivationArgument = None,
    precision: str = "ieee",
) -> ConvProblem:
    """Check a transposed convolution's arguments and state it as the input's gradient of a `ConvProblem`.

    Parameters
    ----------
    grad_shape : tuple of int
        ``(N, C, *spatial)`` of what is spread: the output of the convolution that `geometry` is of.
    weight_shape : tuple of int
        ``(C, K / groups, *kernel)``.
    """
    groups = _groups(groups)
    batch, channels, *_ = grad_shape
    filters, per_group, *_ = weight_shape
    if filters != channels:
        raise ShapeError(f"weight {weight_shape} spreads {filters} channels, its first axis; x has {channels}")
    if channels < 1 or per_group < 1:
        raise ShapeError(f"x {grad_shape} and weight {weight_shape} need at least one channel and one filter")
    if channels % groups:
        raise ShapeError(f"groups is {groups}; it must divide the {channels} input channels")
    _check_kind(dtype, precision, memory_order)
    result_shape = (batch, per_group * groups, *geometry.input_size)
    _check_magnitude({"x": grad_shape, "weight": weight_shape, "result": result_shape}, geometry, dtype)
    return ConvProblem(
        direction="input_grad",
        batch=batch,
        in_channels=per_group * groups,
        out_channels=channels,
        groups=groups,
        geometry=geometry,
        padding_mode="zeros",
        dtype=dtype,
        precision=precision,
        memory_order=memory_order,
        bias=bias,
        activation=parse_activation(activation),
    )


def _groups(groups: int) -> int:
    return as_int("groups", groups, 1)


def _check_kind(dtype: str, precision: str, memory_order: str) -> None:
    one_of("dtype", dtype, DTYPES, error=DtypeError)
    one_of("precision", precision, PRECISIONS, error=DtypeError)
    one_of("memory_order", memory_order, MEMORY_ORDERS, error=LayoutError)


def _check_magnitude(shapes: dict[str, tuple[int, ...]], geometry: ConvGeometry, dtype: str) -> None:
    """Refuse sizes and steps, by name, that 64 bits do not hold together, and arrays of more bytes than they count."""
    steps = {
        "stride": geometry.stride,
        "dilation": geometry.dilation,
        "padding": tuple(amount for pair in geometry.padding for amount in pair),
    }
    given = {name: shape for name, shape in shapes.items() if name not in ("output", "result")}
    for name, values in {**given, **steps}.items():
        if max(values) > LARGEST:
            raise ShapeError(f"{name} holds {max(values)}; the largest size or step is 2**40")
    for name, shape in shapes.items():
        if math.prod(shape) * itemsize(dtype) > ADDRESSABLE:
            raise ShapeError(
                f"{name} is {shape}, which takes more than 2**63 - 1 bytes; stride is {geometry.stride}, dilation "
                f"{geometry.dilation} and padding {geometry.padding}"
            )
