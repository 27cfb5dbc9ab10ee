"""The cases' gradients: operands, plans, and the truth by the definition's own scatter, in float64.

``grad_x[n, c, i] = sum over k, p, t with pixel(p * stride + t * dilation) = i of w[k, c, t] * grad_y[n, k, p]``
``grad_w[k, c, t] = sum over n, p of pad(x)[n, c, p * stride + t * dilation] * grad_y[n, k, p]``

``pixel`` says which input pixel a position of the padded input holds. Magnitude and count, for the bound of `oracle`,
are the same sums over absolute values and over what is not zero.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import stridekit as sk
from tests.kit.cases import Case
from tests.kit.laying import MEMORY_ORDERS, lay
from tests.kit.oracle import NP_MODES, Pairs, Truth, assert_within, channels_first, pad

DIRECTIONS = ("input_grad", "weight_grad")
Operands = tuple[np.ndarray, np.ndarray]


def taps(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield every position in a kernel."""
    return itertools.product(*map(range, kernel))


def read(at: tuple[int, ...], outputs: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Any:
    """Index the positions ``p * stride + at * dilation`` of ``(N, C, *padded)``, one for each output."""
    spatial = (
        slice(t * d, t * d + s * (p - 1) + 1, s) for t, p, s, d in zip(at, outputs, stride, dilation, strict=True)
    )
    return (slice(None), slice(None), *spatial)


def scatter(
    grad_output: np.ndarray, weight: np.ndarray, padded: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    groups: int,
) -> np.ndarray:  # fmt: skip
    """Add every output's gradient, times every tap, to the position of the padded input that it was read from."""
    batch, filters, *outputs = grad_output.shape
    per_out, per_in = filters // groups, weight.shape[1]
    found = np.zeros((batch, groups * per_in, *padded))
    flat = grad_output.reshape(batch, groups, per_out, math.prod(outputs))
    for at in taps(weight.shape[2:]):
        turned = weight[(slice(None), slice(None), *at)].reshape(groups, per_out, per_in).swapaxes(1, 2)
        found[read(at, outputs, stride, dilation)] += (turned @ flat).reshape(batch, groups * per_in, *outputs)
    return found


def fold(padded: np.ndarray, sizes: Sequence[int], pairs: Pairs, mode: str) -> np.ndarray:
    """Add every position of the padding to the pixel that it holds; padding of zeros holds none."""
    for axis, (size, (before, after)) in enumerate(zip(sizes, pairs, strict=True), start=2):
        first = np.moveaxis(padded, axis, 0)
        if mode == "zeros":
            # Less than no padding behind the last pixel: positions that no window reaches.
            first = first[before:][:size]
            padded = np.moveaxis(np.concatenate([first, np.zeros((size - len(first), *first.shape[1:]))]), 0, axis)
            continue
        held: Any = np.pad(np.arange(size), (before, after), mode=NP_MODES[mode])  # type: ignore[call-overload]
        found = np.zeros((size, *first.shape[1:]))
        np.add.at(found, held, first)
        padded = np.moveaxis(found, 0, axis)
    return padded


def correlate_with_outputs(
    padded: np.ndarray, grad_output: np.ndarray, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    groups: int,
) -> np.ndarray:  # fmt: skip
    """Sum input times output's gradient over samples and outputs, for every tap."""
    batch, filters, *outputs = grad_output.shape
    per_in, per_out = padded.shape[1] // groups, filters // groups
    found = np.zeros((groups, per_out, per_in, *kernel))
    flat = grad_output.reshape(batch, groups, per_out, math.prod(outputs))
    for at in taps(kernel):
        seen = padded[read(at, outputs, stride, dilation)].reshape(batch, groups, per_in, math.prod(outputs))
        found[(..., *at)] = (flat @ seen.swapaxes(2, 3)).sum(0)
    return found.reshape(filters, per_in, *kernel)


def three_times(of: Callable[[np.ndarray, np.ndarray], np.ndarray], first: np.ndarray, second: np.ndarray) -> Truth:
    """Compute a bilinear function, its magnitude and the number of its products that are not zero."""
    a, b = (np.asarray(array).astype(np.float64) for array in (first, second))
    with np.errstate(all="ignore"):
        count = of((a != 0).astype(np.float64), (b != 0).astype(np.float64))
        return Truth(of(a, b), of(np.abs(a), np.abs(b)), count)


@dataclass(frozen=True)
class Gradient:
    """One gradient of a case, without its bias and activation."""

    case: Case
    direction: str

    def __str__(self) -> str:
        return f"{self.case}, {self.direction}"

    @property
    def names(self) -> tuple[str, str]:
        """Names of the operands, in order."""
        return ("weight" if self.direction == "input_grad" else "x", "grad_output")

    @property
    def channels_last(self) -> bool:
        """Whether the result's channels are its last axis."""
        return self.case.channels_last and self.direction == "input_grad"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.case.input_shape if self.direction == "input_grad" else self.case.weight_shape

    @property
    def memory_order(self) -> str:
        """Where the order shows that of the first operand over pixels, else the layout's own."""
        if self.direction == "weight_grad":
            return self.case.memory_order
        own = MEMORY_ORDERS[self.case.channels_last]
        hidden = self.case.filters == 1 or math.prod(self.case.output_sizes) == 1
        return own if hidden else self.case.memory or own

    def operands(self) -> Operands:
        """Build the operands; the same numbers for the same case.

        Of sparse data at most 4 weights of a filter, or 4 gradients of an output channel, are not zero.
        """
        of = self.case
        x, weight, _ = of.arrays()
        rng = np.random.default_rng(zlib.crc32(repr(self).encode()))
        grad = of.numbers(rng, (of.batch, of.filters, *of.output_sizes), 3)
        if of.data == "sparse" and self.direction == "weight_grad":
            flat = np.moveaxis(grad, 1, 0).reshape(of.filters, -1)
            order = rng.permuted(np.tile(np.arange(flat.shape[1]), (of.filters, 1)), axis=1)
            flat = np.where(order < 4, flat, 0.0)
            grad = np.moveaxis(flat.reshape(of.filters, of.batch, *of.output_sizes), 0, 1)
        way = of.lies if self.direction == "input_grad" else of.weight_lies
        grad = lay(grad.astype(of.numpy_dtype), of.memory or MEMORY_ORDERS[of.channels_last], way)
        grad = np.moveaxis(grad, 1, -1) if of.channels_last else grad
        return (weight if self.direction == "input_grad" else x), grad

    @property
    def keywords(self) -> dict[str, Any]:
        """Arguments that the gradients' functions and `plan_conv` share."""
        return {name: value for name, value in self.case.keywords.items() if name != "activation"}

    def run(self, operands: Operands, **keywords: Any) -> np.ndarray:
        """Call the public function."""
        merged = {**self.keywords, **keywords}
        if self.direction == "input_grad":
            return sk.conv_input_grad(self.case.input_shape, *operands, **merged)
        return sk.conv_weight_grad(operands[0], self.case.weight_shape, operands[1], **merged)

    def plan(self, backend: str, **keywords: Any) -> Any:
        """Plan the same gradient."""
        own = {"dtype": self.case.dtype, "memory_order": self.memory_order, "direction": self.direction}
        merged = {**self.keywords, **own, **keywords}
        return sk.plan_conv(self.case.input_shape, self.case.weight_shape, backend=backend, **merged)

    def truth(self, operands: Operands) -> Truth:
        """Compute what `assert_within` needs, in float64."""
        of, how = self.case, (self.case.stride, self.case.dilation, self.case.groups)
        grad = channels_first(operands[1], of.channels_last)
        if self.direction == "weight_grad":
            x = pad(channels_first(operands[0], of.channels_last).astype(np.float64), of.pairs, of.padding_mode)
            return three_times(lambda a, b: correlate_with_outputs(a, b, of.kernel, *how), x, grad)
        padded = [size + before + after for size, (before, after) in zip(of.sizes, of.pairs, strict=True)]

        def adjoint(w: np.ndarray, g: np.ndarray) -> np.ndarray:
            return fold(scatter(g, w, padded, *how), of.sizes, of.pairs, of.padding_mode)

        return three_times(adjoint, operands[0], grad)

    def assert_correct(self, y: np.ndarray, operands: Operands, label: object = "") -> None:
        """Raise `AssertionError` unless `y` is of the right dtype and shape and within the bound."""
        if y.dtype != self.case.numpy_dtype or y.shape != self.shape:
            raise AssertionError(f"{self}: {y.dtype}{y.shape}, wanted {self.case.dtype}{self.shape}")
        exact = self.truth(operands)
        assert_within(channels_first(y, self.channels_last), exact, self.case.dtype, label=f"{self} {label}")

    def assert_lies(self, y: np.ndarray) -> None:
        """Raise unless `y` is contiguous in the order that is promised."""
        stored = channels_first(y, self.channels_last)
        if self.direction == "input_grad" and self.memory_order == "channels_last":
            stored = np.moveaxis(stored, 1, -1)
        if not stored.flags.c_contiguous:
            raise AssertionError(f"{self}: strides {y.strides} of shape {y.shape} are not contiguous")

    def but(self, **changes: Any) -> Gradient:
        """Return the same gradient of another case."""
        return replace(self, case=replace(self.case, **changes))
