"""Poolings for the tests: cases, random ones, and an oracle that enumerates every window from the definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import stridekit as sk
from tests.kit.cases import DTYPES, Windows
from tests.kit.laying import MEMORY_ORDERS, TRANSPOSED, WAYS
from tests.kit.oracle import Pairs, Truth, assert_same_bits, assert_within, padding_pairs

Coordinates = tuple[int, ...]


@dataclass(frozen=True)
class PoolCase(Windows):
    """One pooling; its numbers follow from its repr."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any = 0
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    count_include_pad: bool = True
    batch: int = 2
    channels: int = 3
    dtype: str = "float32"
    channels_last: bool = False
    memory: str | None = None
    lies: str = "contiguous"
    data: str = "normal"

    @property
    def spread(self) -> tuple[int, ...]:
        return self.dilation or (1,) * self.rank

    @property
    def pairs(self) -> Pairs:
        return padding_pairs(self.padding, self.sizes, self.kernel, self.stride, self.spread)

    @property
    def window(self) -> dict[str, Any]:
        own = {"kernel_size": self.kernel, "stride": self.stride, "padding": self.padding, "dilation": self.spread}
        return {**own, "ceil_mode": self.ceil_mode, "layout": self.layout}

    @cached_property
    def starts(self) -> tuple[list[int], ...]:
        """First coordinate of every window on every axis; negative in the padding."""
        found = []
        for size, kernel, stride, spread, (before, after) in zip(
            self.sizes, self.kernel, self.stride, self.spread, self.pairs, strict=True
        ):
            extent, end = spread * (kernel - 1) + 1, size + after
            own = [start for start in range(-before, end, stride) if start + extent <= end]
            following = own[-1] + stride if own else -before
            # Pixels left over, reached by a window that begins less than a stride after the last that fits.
            left_over = end - following + stride - extent > 0
            if self.ceil_mode and left_over and following < size:
                own.append(following)
            found.append(own)
        return tuple(found)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(len(own) for own in self.starts)

    def windows(self) -> Iterator[tuple[Coordinates, list[Coordinates], int]]:
        """Yield each output pixel, the input pixels of its window in order, and its divisor."""
        for output in itertools.product(*map(range, self.output_sizes)):
            axes = []
            for axis, o in enumerate(output):
                first = self.starts[axis][o]
                axes.append([first + t * self.spread[axis] for t in range(self.kernel[axis])])
            inside = [
                at
                for at in itertools.product(*axes)
                if all(0 <= i < size for i, size in zip(at, self.sizes, strict=True))
            ]
            padded = math.prod(
                sum(i < size + after for i in own)
                for own, size, (_, after) in zip(axes, self.sizes, self.pairs, strict=True)
            )
            yield output, inside, padded if self.count_include_pad else len(inside)

    def numbers(self, shape: tuple[int, ...], salt: str) -> np.ndarray:
        """Draw normal numbers, or small integers with many ties."""
        rng = self.drawing(f" {salt}")
        drawn = rng.integers(-3, 4, shape) * 1.0 if self.data == "integers" else rng.standard_normal(shape)
        if self.data == "non-finite":
            drawn = np.where(rng.random(shape) < 0.3, rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0], shape), drawn)
        return drawn.astype(self.numpy_dtype)

    @cached_property
    def x(self) -> np.ndarray:
        return self.laid(self.numbers((self.batch, self.channels, *self.sizes), "x"))

    @cached_property
    def grad_output(self) -> np.ndarray:
        return self.laid(self.numbers((self.batch, self.channels, *self.output_sizes), "g"))

    def max_pool(self, **keywords: Any) -> Any:
        call: Callable[..., Any] = getattr(sk, f"max_pool{self.rank}d")
        return call(self.x, **{**self.window, **keywords})

    def avg_pool(self, **keywords: Any) -> np.ndarray:
        call: Callable[..., np.ndarray] = getattr(sk, f"avg_pool{self.rank}d")
        return call(self.x, **{**self.window, "count_include_pad": self.count_include_pad, **keywords})

    def max_grad(self, **keywords: Any) -> np.ndarray:
        return sk.max_pool_grad(self.x, self.grad_output, **{**self.window, **keywords})

    def avg_grad(self, **keywords: Any) -> np.ndarray:
        window = {**self.window, "count_include_pad": self.count_include_pad, **keywords}
        return sk.avg_pool_grad(self.x.shape, self.grad_output, **window)


def true_max(case: PoolCase) -> tuple[np.ndarray, np.ndarray]:
    """Return the maxima and their indices, ``(N, C, *spatial)``: NaN before all, the first of several."""
    x = case.first(case.x)
    shape = (*x.shape[:2], *case.output_sizes)
    values, indices = np.full(shape, -np.inf, x.dtype), np.full(shape, -1, np.int64)
    for output, inside, _ in case.windows():
        for n, c in np.ndindex(*shape[:2]):
            pixels = [x[(n, c, *at)] for at in inside]
            if pixels:
                wide = np.array(pixels).astype(np.float64)
                best = int(np.argmax(np.isnan(wide))) if np.isnan(wide).any() else int(np.argmax(wide))
                values[(n, c, *output)] = pixels[best]
                indices[(n, c, *output)] = np.ravel_multi_index(inside[best], case.sizes)
    return values, indices


def true_avg(case: PoolCase) -> Truth:
    """Return the averages, those of magnitudes, and the pixels that are not 0."""
    x = case.first(case.x).astype(np.float64)
    shape = (*x.shape[:2], *case.output_sizes)
    linear, magnitude, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    with np.errstate(all="ignore"):
        for output, inside, divisor in case.windows():
            at = (slice(None), slice(None), *output)
            for pixel in inside:
                value = x[(slice(None), slice(None), *pixel)]
                linear[at] += value
                magnitude[at] += np.abs(value)
                count[at] += value != 0
            linear[at] /= max(divisor, 1)
            magnitude[at] /= max(divisor, 1)
    return Truth(linear, magnitude, count)


def true_grad(case: PoolCase, operation: str) -> Truth:
    """Return the gradient of the input, with what `assert_within` needs."""
    g = case.first(case.grad_output).astype(np.float64)
    shape = (case.batch, case.channels, *case.sizes)
    linear, magnitude, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    indices = true_max(case)[1] if operation == "max" else None
    for output, inside, divisor in case.windows():
        at = (slice(None), slice(None), *output)
        for pixel in inside:
            flat = np.ravel_multi_index(pixel, case.sizes)
            share = g[at] / divisor if indices is None else np.where(indices[at] == flat, g[at], 0.0)
            to = (slice(None), slice(None), *pixel)
            linear[to] += share
            magnitude[to] += np.abs(share)
            count[to] += share != 0
    return Truth(linear, magnitude, count)


def with_arrays(case: PoolCase, x: np.ndarray, grad_output: np.ndarray) -> PoolCase:
    """Return the case on other numbers, or on some of its samples."""
    other = replace(case)
    other.__dict__.update(x=x, grad_output=grad_output)
    return other


def check_beside_reference(case: PoolCase, backend: str) -> None:
    """Raise unless maxima, indices and picks are the reference's, and sums near its sums in float64.

    For windows that are too large to be enumerated.
    """
    wild = replace(case, data="non-finite")
    for asked in (True, False):
        found, wanted = (wild.max_pool(backend=name, return_indices=asked) for name in (backend, "reference"))
        for one, other in zip(*((found, wanted) if asked else ([found], [wanted])), strict=True):
            assert_same_bits(one, other, case)
    x, g = (array.astype(np.float64) for array in (case.x, case.grad_output))
    exact, sizes, ones = (with_arrays(case, x, of) for of in (g, np.abs(g), (g != 0) * 1.0))
    picked = [case.first(of.max_grad(backend="reference")) for of in (exact, sizes, ones)]
    assert_within(case.first(case.max_grad(backend=backend)), Truth(*picked), case.dtype, label=("max", case))
    most = math.prod(case.kernel)
    magnitude = with_arrays(case, np.abs(x), np.abs(g))
    for name in ("avg_pool", "avg_grad"):
        linear, size = (case.first(getattr(of, name)(backend="reference")) for of in (exact, magnitude))
        truth = Truth(linear, size, np.full_like(linear, most))
        assert_within(case.first(getattr(case, name)(backend=backend)), truth, case.dtype, label=(name, case))


def random_pool(rng: np.random.Generator, **fixed: Any) -> PoolCase:
    """Draw a small legal pooling of any kind."""
    while True:
        rank = int(rng.choice([1, 2, 2, 2, 3]))
        kernel = tuple(int(k) for k in rng.integers(1, {1: 7, 2: 5, 3: 4}[rank], rank))
        drawn: dict[str, Any] = {
            "sizes": tuple(int(size) for size in rng.integers(1, {1: 40, 2: 12, 3: 6}[rank], rank)),
            "kernel": kernel,
            "stride": kernel if rng.random() < 0.3 else tuple(int(s) for s in rng.integers(1, 5, rank)),
            "dilation": tuple(int(d) for d in rng.choice([1, 1, 1, 2, 3], rank)),
            "padding": _padding(rng, rank),
            "ceil_mode": bool(rng.random() < 0.5),
            "count_include_pad": bool(rng.random() < 0.5),
            "batch": int(rng.choice([0, 1, 2, 2, 3])),
            "channels": int(rng.choice([1, 2, 3, 5, 17, 35, 70])),
            "dtype": str(rng.choice(DTYPES)),
            "channels_last": bool(rng.random() < 0.5),
            "memory": [None, None, *MEMORY_ORDERS][rng.integers(4)],
            "lies": str(rng.choice([*WAYS, TRANSPOSED])) if rng.random() < 0.5 else "contiguous",
            "data": str(rng.choice(["normal", "integers", "non-finite"])),
        }
        case = PoolCase(**{**drawn, **fixed})
        if min(case.output_sizes) > 0:
            return case


def _padding(rng: np.random.Generator, rank: int) -> Any:
    form = int(rng.integers(8 if rank == 1 else 7))
    if form < 2:
        return form
    if form < 4:
        return tuple((int(before), int(after)) for before, after in rng.integers(0, 6, (rank, 2)))
    return ("valid", "same", "same_lower", "causal")[form - 4]


def check_max(case: PoolCase, backend: str) -> None:
    """Raise unless maxima and indices are right, bit for bit, with indices asked for or not."""
    values, indices = true_max(case)
    y, found = case.max_pool(backend=backend, return_indices=True)
    assert found.dtype == np.int64
    assert_same_bits(case.first(y), values, case)
    np.testing.assert_array_equal(case.first(found), indices, str(case))
    assert_same_bits(case.max_pool(backend=backend), y, case)


def check_avg(case: PoolCase, backend: str) -> None:
    y = case.avg_pool(backend=backend)
    assert y.dtype == case.x.dtype
    assert_within(case.first(y), true_avg(case), case.dtype, label=case)


def check_grads(case: PoolCase, backend: str) -> None:
    case = replace(case, data="normal" if case.data == "non-finite" else case.data)
    for operation, gradient in (("max", case.max_grad(backend=backend)), ("avg", case.avg_grad(backend=backend))):
        assert gradient.dtype == case.x.dtype
        assert_within(case.first(gradient), true_grad(case, operation), case.dtype, label=(operation, case))
