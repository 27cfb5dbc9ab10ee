"""Transposed convolutions: cases, and the truth by the definition's own scatter, in float64.

Every pixel of x, times every tap, is added to the result at ``p * stride + t * dilation - pad_before``; what lies
outside is dropped. Then come bias and activation, on pixels that nothing was added to as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import stridekit as sk
from tests.kit.cases import ACTIVATIONS, DTYPES, Arrays, Windows
from tests.kit.gradients import scatter, three_times
from tests.kit.oracle import Pairs, Truth, assert_within, padding_pairs

NAMED = ("same", "same_lower")


@dataclass(frozen=True)
class Transposed(Windows):
    """One transposed convolution; `channels` are x's, `filters` the result's."""

    name: str
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: Any = 0
    output_padding: Any = 0
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    batch: int = 2
    channels: int = 4
    filters: int = 3
    bias: bool = False
    activation: Any = None
    dtype: str = "float32"
    channels_last: bool = False
    lies: str = "contiguous"
    memory: ClassVar[str | None] = None

    def __str__(self) -> str:
        return self.name

    @property
    def extra(self) -> tuple[int, ...]:
        """Output padding of each axis."""
        added = self.output_padding
        return (added,) * self.rank if isinstance(added, int) else added

    @property
    def reached(self) -> tuple[int, ...]:
        """Pixels from the first that a window reaches to the last, before any are taken off."""
        axes = zip(self.sizes, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((w - 1) * s + d * (f - 1) + 1 for w, f, s, d in axes)

    @property
    def pairs(self) -> Pairs:
        """Pixels taken off; what ``"same"`` takes follows from a result of size * stride pixels."""
        whole = tuple(w * s for w, s in zip(self.sizes, self.stride, strict=True))
        return padding_pairs(self.padding, whole, self.kernel, self.stride, self.dilation)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        if self.padding in NAMED:
            return tuple(w * s + e for w, s, e in zip(self.sizes, self.stride, self.extra, strict=True))
        pairs = zip(self.reached, self.pairs, self.extra, strict=True)
        return tuple(size - before - after + added for size, (before, after), added in pairs)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.channels, self.filters // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.in_layout(self.filters, self.output_sizes)

    def arrays(self) -> Arrays:
        """Build the operands; the same numbers for the same case."""
        rng = self.drawing()
        dtype = self.numpy_dtype
        x = rng.standard_normal((self.batch, self.channels, *self.sizes)).astype(dtype)
        weight = rng.standard_normal(self.weight_shape).astype(dtype)
        bias = rng.standard_normal(self.filters).astype(dtype) if self.bias else None
        return Arrays(self.laid(x), weight, bias)

    def run(self, arrays: Arrays, **keywords: Any) -> np.ndarray:
        """Call the public function."""
        of: Any = {1: sk.conv_transpose1d, 2: sk.conv_transpose2d, 3: sk.conv_transpose3d}[self.rank]
        own = {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "layout": self.layout,
            "activation": self.activation,
        }
        return of(*arrays, **{**own, **keywords})  # type: ignore[no-any-return]

    def truth(self, arrays: Arrays) -> Truth:
        """Compute what `assert_within` needs, in float64."""
        firsts = tuple(before for before, _ in self.pairs)
        room = [max(r, f + p) for r, f, p in zip(self.reached, firsts, self.output_sizes, strict=True)]
        kept = tuple(slice(f, f + p) for f, p in zip(firsts, self.output_sizes, strict=True))

        def spread(w: np.ndarray, x: np.ndarray) -> np.ndarray:
            return scatter(x, w, room, self.stride, self.dilation, self.groups)[(slice(None), slice(None), *kept)]

        found = three_times(spread, arrays.weight, self.first(arrays.x))
        if arrays.bias is None:
            return found
        b = arrays.bias.astype(np.float64).reshape(-1, *(1,) * self.rank)
        return Truth(found.linear + b, found.magnitude + np.abs(b), found.count + (b != 0))

    def assert_correct(self, y: np.ndarray, exact: Truth, label: object = "") -> None:
        """Raise `AssertionError` unless `y` is of the right dtype and shape and within the bound."""
        if y.dtype != self.numpy_dtype or y.shape != self.output_shape:
            raise AssertionError(f"{self!r}: {y.dtype}{y.shape}, wanted {self.dtype}{self.output_shape}")
        assert_within(self.first(y), exact, self.dtype, self.activation, f"{self!r} {label}")


def random_transposed(rng: np.random.Generator) -> Transposed:
    """Draw a legal case."""
    rank = int(rng.choice([1, 2, 2, 3]))
    while True:
        found = _drawn(rng, rank)
        if min(found.output_sizes) >= 1 and math.prod(found.output_sizes) < 4000:
            return found


def _drawn(rng: np.random.Generator, rank: int) -> Transposed:
    def each(values: Any) -> tuple[int, ...]:
        return tuple(int(v) for v in rng.choice(values, rank))

    stride, dilation = each([1, 1, 2, 2, 3, 5]), each([1, 1, 1, 2, 3])
    form = rng.integers(5)
    padding: Any = int(rng.integers(0, 4))
    if form == 1:
        padding = each([0, 1, 2])
    elif form == 2:
        padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (rank, 2)))
    elif form == 3:
        padding = str(rng.choice(["valid", *NAMED]))
    groups = int(rng.choice([1, 1, 2, 3]))
    single = bool(rng.random() < 0.2)
    channels = groups * (1 if single else int(rng.integers(1, 6)))
    return Transposed(
        "random",
        each(range(1, {1: 14, 2: 7, 3: 4}[rank])),
        each(range(1, {1: 7, 2: 5, 3: 4}[rank])),
        stride,
        padding,
        tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)),
        dilation,
        groups,
        int(rng.integers(1, 3)),
        channels,
        channels if single else groups * int(rng.integers(1, 6)),
        bool(rng.random() < 0.6),
        ACTIVATIONS[rng.integers(len(ACTIVATIONS))] if rng.random() < 0.4 else None,
        str(rng.choice(DTYPES)),
        bool(rng.random() < 0.4),
        str(rng.choice(["contiguous", "sliced", "reversed"])),
    )
