"""The one generator of convolutions for every test: named cases that once mattered, and random ones without end.

A `Case` is all of a problem but its numbers; those follow from its repr, so that a printed case is the whole story.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype
from tests.kit.laying import MEMORY_ORDERS, lay
from tests.kit.oracle import Pairs, padding_pairs

DTYPES = ("float16", "bfloat16", "float32", "float64")
ACTIVATIONS = (None, "relu", "relu6", "silu", "gelu", ("leaky_relu", 0.125))
EXACT_ACTIVATIONS = (None, "relu", "relu6", ("leaky_relu", 0.125))
"""Those that keep small integers exact: the last divides by 8."""
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
MODES = ("zeros", "reflect", "replicate", "circular")


class Arrays(NamedTuple):
    """A case's operands."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None


class Windows:
    """What every kind of case has: windows over pixels, and arrays that lie as it says."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    batch: int
    channels: int
    dtype: str
    channels_last: bool
    memory: str | None
    lies: str

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def layout(self) -> str:
        return LAYOUTS[self.rank][self.channels_last]

    @property
    def memory_order(self) -> str:
        """Where the order shows (more than one channel and pixel) that of x, else the layout's own."""
        own = MEMORY_ORDERS[self.channels_last]
        return own if self.channels == 1 or math.prod(self.sizes) == 1 else self.memory or own

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.dtype)

    @property
    def pairs(self) -> Pairs:
        return padding_pairs(self.padding, self.sizes, self.kernel, self.stride, self.dilation)

    def in_layout(self, channels: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an array of this case's batch and layout."""
        return (self.batch, *sizes, channels) if self.channels_last else (self.batch, channels, *sizes)

    def viewed(self, array: np.ndarray) -> np.ndarray:
        """View ``(N, C, *spatial)`` in the case's layout."""
        return np.moveaxis(array, 1, -1) if self.channels_last else array

    def first(self, array: np.ndarray) -> np.ndarray:
        """View an array of the case's layout as ``(N, C, *spatial)``."""
        return np.moveaxis(array, -1, 1) if self.channels_last else array

    def laid(self, array: np.ndarray) -> np.ndarray:
        """Lay ``(N, C, *spatial)`` as the case says and view it in the case's layout."""
        return self.viewed(lay(array, self.memory or MEMORY_ORDERS[self.channels_last], self.lies))

    def drawing(self, salt: str = "") -> np.random.Generator:
        """Return random numbers that follow from the case's repr."""
        return np.random.default_rng(zlib.crc32(f"{self!r}{salt}".encode()))


@dataclass(frozen=True)
class Case(Windows):
    """One convolution.

    Attributes
    ----------
    sizes, kernel, stride, dilation : one int per spatial axis
    padding : any form of the argument
    channels_last : layout of the arrays (and of nothing else)
    memory : order in which x lies; as the layout says if None
    lies, weight_lies : names of `laying.WAYS`
    data : "normal", "integers" (every result exact) or "sparse" (at most 4 weights of a filter are not zero)
    """

    name: str
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    padding_mode: str
    dilation: tuple[int, ...]
    groups: int
    batch: int
    channels: int
    filters: int
    bias: bool
    activation: Any
    dtype: str
    channels_last: bool
    memory: str | None
    lies: str
    weight_lies: str
    data: str

    def __str__(self) -> str:
        return self.name

    @property
    def output_sizes(self) -> tuple[int, ...]:
        extents = (d * (f - 1) + 1 for f, d in zip(self.kernel, self.dilation, strict=True))
        return tuple(
            (w + before + after - extent) // s + 1
            for w, (before, after), extent, s in zip(self.sizes, self.pairs, extents, self.stride, strict=True)
        )

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.filters, self.channels // self.groups, *self.kernel)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.in_layout(self.channels, self.sizes)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.in_layout(self.filters, self.output_sizes)

    @property
    def keywords(self) -> dict[str, Any]:
        """Arguments that `conv2d` and `plan_conv` share."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.padding_mode,
            "layout": self.layout,
            "activation": self.activation,
        }

    @property
    def convolution(self) -> Callable[..., np.ndarray]:
        return {1: sk.conv1d, 2: sk.conv2d, 3: sk.conv3d}[self.rank]  # type: ignore[no-any-return]

    def run(self, arrays: Arrays, **keywords: Any) -> np.ndarray:
        """Call the public convolution."""
        return self.convolution(*arrays, **{**self.keywords, **keywords})

    def plan(self, backend: str, **keywords: Any) -> Any:
        """Plan the same convolution."""
        own = {"dtype": self.dtype, "bias": self.bias, "memory_order": self.memory_order}
        merged = {**self.keywords, **own, **keywords}
        return sk.plan_conv(self.input_shape, self.weight_shape, backend=backend, **merged)

    def residual(self, way: str = "contiguous") -> np.ndarray:
        """Draw a residual that lies in the opposite of x's memory order."""
        drawn = self.numbers(self.drawing("residual"), (self.batch, self.filters, *self.output_sizes), 3)
        order = MEMORY_ORDERS[1 - MEMORY_ORDERS.index(self.memory_order)]
        return self.viewed(lay(drawn.astype(self.numpy_dtype), order, way))

    def numbers(self, rng: np.random.Generator, shape: tuple[int, ...], spread: int) -> np.ndarray:
        """Draw normal numbers, or integers up to `spread` on either side."""
        if self.data == "integers":
            return rng.integers(-spread, spread + 1, shape).astype(np.float64)
        return rng.standard_normal(shape)

    def arrays(self) -> Arrays:
        """Build the operands; the same numbers for the same case."""
        rng = self.drawing()
        x = self.numbers(rng, (self.batch, self.channels, *self.sizes), 3)
        weight = self.numbers(rng, self.weight_shape, 2)
        if self.data == "sparse":
            flat = weight.reshape(self.filters, -1)
            order = rng.permuted(np.tile(np.arange(flat.shape[1]), (self.filters, 1)), axis=1)
            flat[order >= rng.integers(1, 5)] = 0.0
        bias = self.numbers(rng, (self.filters,), 3) if self.bias else None
        dtype = self.numpy_dtype
        return Arrays(
            self.laid(x.astype(dtype)),
            lay(weight.astype(dtype), "channels_first", self.weight_lies),
            None if bias is None else bias.astype(dtype),
        )


def case(
    name: str,
    sizes: tuple[int, ...],
    kernel: int | tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    padding_mode: str = "zeros",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    batch: int = 2,
    channels: int = 3,
    filters: int = 5,
    bias: bool = False,
    activation: Any = None,
    dtype: str = "float32",
    channels_last: bool = False,
    memory: str | None = None,
    lies: str = "contiguous",
    weight_lies: str = "contiguous",
    data: str = "normal",
) -> Case:
    """Build a `Case`; an int stands for the same on every axis."""

    def spread(value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * len(sizes) if isinstance(value, int) else value

    return Case(
        name, sizes, spread(kernel), spread(stride), padding, padding_mode, spread(dilation), groups, batch, channels,
        filters, bias, activation, dtype, channels_last, memory, lies, weight_lies, data,
    )  # fmt: skip


def sparse(of: Case, channels: int = 261) -> Case:
    """Return the same case with at most 4 weights a filter that are not zero, over 256 channels or more."""
    return replace(of, name=f"{of.name}, sparse", channels=channels * of.groups, data="sparse")
