"""An oracle that shares no code with stridekit: the formula in float64, and the bound within which a result is right.

``y[n, k, p] = f(bias[k] + sum over c, t of w[k, c, t] * pad(x)[n, c, p * stride + t * dilation])``

A result ``y`` with a linear part ``v`` is right where

    |y - f(v64)| <= u_out * |f(v64)| + L * 4 * (K_nz + 1) * u_acc * conv(|x|, |w|) + evaluation + underflow

- ``conv(|x|, |w|)`` and ``K_nz``, the number of products that are not zero, are taken over the padded input. A bias is
  one product more, ``1 * bias``: it joins both.
- The sum is off by the second term, so ``f`` of it by at most ``L`` times that, L the Lipschitz constant of ``f``.
- ``evaluation`` is what computing f itself may cost: nothing for relu and relu6, else `EVALUATION` roundings.
- ``underflow``: below the smallest normal number spacing is absolute. Half the output's smallest subnormal, and as
  much of the accumulator's for each product: without it a correctly rounded 1e-7 in float16 would be refused.

Where ``v64`` is NaN or infinite, y must be the same. Where ``|v64|`` lies beyond what rounds to the output's largest
number by more than the sum's own error, y must be an infinity; nearer than that, it may be.
The float64 oracle errs too, by at most ``(K_nz + 1) * 2**-53 * conv(|x|, |w|)``: the factor 4 holds room for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from tests.kit.cases import Case

Pairs = tuple[tuple[int, int], ...]

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
NP_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
EVALUATION = 8
"""Roundings, in the accumulator's type and relative to |f|, that silu, gelu and leaky_relu may take."""


@dataclass(frozen=True)
class Truth:
    """The linear part in float64, ``conv(|x|, |w|) + |bias|`` and K_nz, all of shape (N, K, \\*spatial)."""

    linear: np.ndarray
    magnitude: np.ndarray
    count: np.ndarray


def padding_pairs(
    padding: Any, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Resolve the `padding` argument to one (before, after) pair per axis, by the formulas of the contract."""
    if padding == "valid":
        return tuple((0, 0) for _ in sizes)
    if padding == "causal":
        return tuple((d * (f - 1), 0) for f, d in zip(kernel, dilation, strict=True))
    if padding in ("same", "same_lower"):
        found = []
        for w, f, s, d in zip(sizes, kernel, stride, dilation, strict=True):
            total = max((math.ceil(w / s) - 1) * s + d * (f - 1) + 1 - w, 0)
            less, more = total // 2, total - total // 2
            found.append((less, more) if padding == "same" else (more, less))
        return tuple(found)
    if isinstance(padding, int):
        return tuple((padding, padding) for _ in sizes)
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding)


def pad(x: np.ndarray, pairs: Pairs, mode: str) -> np.ndarray:
    """Pad the spatial axes of ``(N, C, *spatial)``; NumPy's own, one axis after the other."""
    widths = ((0, 0), (0, 0), *pairs)
    return np.pad(x, widths, mode=NP_MODES[mode])  # type: ignore[call-overload]


def correlate(x: np.ndarray, w: np.ndarray, stride: Sequence[int], dilation: Sequence[int], groups: int) -> np.ndarray:
    """Correlate a padded ``(N, C, *spatial)`` with ``(K, C / groups, *kernel)``, in the arrays' own dtype."""
    rank = x.ndim - 2
    spatial = tuple(range(2, 2 + rank))
    extents = tuple(d * (f - 1) + 1 for f, d in zip(w.shape[2:], dilation, strict=True))
    windows = sliding_window_view(x, extents, axis=spatial)  # type: ignore[call-overload]
    steps = tuple(slice(None, None, s) for s in stride)
    taps = tuple(slice(None, None, d) for d in dilation)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    per_in, per_out = x.shape[1] // groups, w.shape[0] // groups
    window_axes = tuple(range(2 + rank, 2 + 2 * rank))
    blocks = [
        np.tensordot(
            windows[:, g * per_in : (g + 1) * per_in],
            w[g * per_out : (g + 1) * per_out],
            axes=((1, *window_axes), (1, *spatial)),
        )
        for g in range(groups)
    ]
    return np.moveaxis(np.concatenate(blocks, axis=-1), -1, 1)


def channels_first(array: np.ndarray, channels_last: bool) -> np.ndarray:
    """View an array of either layout as ``(N, C, *spatial)``."""
    return np.moveaxis(array, -1, 1) if channels_last else array


def truth(case: Case, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> Truth:
    """Compute what `assert_within` needs, in float64."""
    wide = np.asarray(channels_first(np.asarray(x), case.channels_last)).astype(np.float64)
    w = np.asarray(weight).astype(np.float64)
    padded = pad(wide, case.pairs, case.padding_mode)
    how = (case.stride, case.dilation, case.groups)
    with np.errstate(all="ignore"):
        linear = correlate(padded, w, *how)
        magnitude = correlate(np.abs(padded), np.abs(w), *how)
        count = correlate((padded != 0).astype(np.float64), (w != 0).astype(np.float64), *how)
        if bias is not None:
            b = np.asarray(bias).astype(np.float64).reshape(-1, *(1,) * case.rank)
            linear, magnitude, count = linear + b, magnitude + np.abs(b), count + (b != 0)
    return Truth(linear, magnitude, count)


def activate(v: np.ndarray, activation: Any) -> np.ndarray:
    """Apply an activation by its definition; NaN stays NaN."""
    name, slope = activation if isinstance(activation, tuple) else (activation, 0.0)
    with np.errstate(all="ignore"):
        if name is None:
            return v
        if name == "relu":
            return np.where(v < 0, 0.0, v)
        if name == "relu6":
            return np.where(v < 0, 0.0, np.where(v > 6, 6.0, v))
        if name == "leaky_relu":
            return np.where(v < 0, v * slope, v)
        if name == "silu":
            return v / (1.0 + np.exp(-v))
        if name == "gelu":
            erfc = np.vectorize(math.erfc, otypes=[np.float64])
            return 0.5 * v * erfc(-v / math.sqrt(2.0))
    raise ValueError(f"no oracle for activation {activation!r}")


def lipschitz(activation: Any) -> float:
    """Return the most that f stretches a distance: the largest slope of silu is 1.0998, of gelu 1.1290."""
    if isinstance(activation, tuple):
        return max(1.0, abs(activation[1]))
    return {None: 1.0, "relu": 1.0, "relu6": 1.0, "silu": 1.1, "gelu": 1.13}[activation]


def as_float64(y: np.ndarray) -> np.ndarray:
    """Widen, without NumPy's warning that a signalling NaN was met."""
    with np.errstate(invalid="ignore"):
        return np.asarray(y).astype(np.float64)


def assert_within(y: np.ndarray, exact: Truth, dtype: str, activation: Any = None, label: object = "") -> None:
    """Raise `AssertionError` unless `y`, shape (N, K, \\*spatial), is right everywhere, as said at the top."""
    if y.shape != exact.linear.shape:
        raise AssertionError(f"{label}: shape {y.shape}, wanted {exact.linear.shape}")
    u_out, u_acc = UNIT_ROUNDOFF[dtype], UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    finfo, accumulator = ml_dtypes.finfo(dtype), np.finfo("float64" if dtype == "float64" else "float32")
    got, wanted = as_float64(y), activate(exact.linear, activation)
    with np.errstate(all="ignore"):
        sums = lipschitz(activation) * 4 * (exact.count + 1) * u_acc * exact.magnitude
        sums += exact.count * float(accumulator.smallest_subnormal)
        if activation not in (None, "relu", "relu6"):
            sums += EVALUATION * u_acc * np.abs(wanted) + float(accumulator.tiny) * u_acc
        bound = u_out * np.abs(wanted) + sums + float(finfo.smallest_subnormal) / 2
        limit = float(finfo.max) * (1 + u_out) if dtype != "float64" else math.inf
        right = np.abs(got - wanted) <= bound
        # Overflow: an infinity where the sum may round to one, and nothing else where it must.
        same_sign = np.isinf(got) & (np.signbit(got) == np.signbit(wanted))
        right = np.where(np.abs(wanted) + sums >= limit, right | same_sign, right)
        right = np.where(np.abs(wanted) - sums >= limit, same_sign, right)
    right = np.where(np.isfinite(wanted), right, np.where(np.isnan(wanted), np.isnan(got), got == wanted))
    if right.all():
        return
    wrong = ~right
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise AssertionError(
        f"{label}: {int(wrong.sum())} of {wrong.size} elements are wrong; at {at} (n, k, *spatial) got {got[at]:.17g}, "
        f"wanted {wanted[at]:.17g} +- {bound[at]:.3g} (K_nz {exact.count[at]:.0f}, "
        f"conv(|x|, |w|) {exact.magnitude[at]:.3g})"
    )


def assert_correct(
    y: np.ndarray,
    case: Case,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> None:
    """Raise `AssertionError` unless `y` is of the right dtype and shape and within the bound, for `case`'s arrays."""
    if y.dtype != case.numpy_dtype:
        raise AssertionError(f"{case}: dtype {y.dtype}, wanted {case.dtype}")
    exact = truth(case, x, weight, bias)
    if residual is not None:
        r = channels_first(residual, case.channels_last).astype(np.float64)
        exact = Truth(exact.linear + r, exact.magnitude + np.abs(r), exact.count + (r != 0))
    assert_within(channels_first(y, case.channels_last), exact, case.dtype, case.activation, case)


def assert_same_bits(a: np.ndarray, b: np.ndarray, label: object = "") -> None:
    """Raise unless `a` and `b` agree in shape, dtype and every bit, but for which NaN a NaN is."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise AssertionError(f"{label}: {a.dtype}{a.shape} is not {b.dtype}{b.shape}")
    if a.size == 0:
        return
    bits = f"u{a.dtype.itemsize}"
    left, right = (np.ascontiguousarray(array) for array in (a, b))
    differ = (left.view(bits) != right.view(bits)) & ~(np.isnan(as_float64(left)) & np.isnan(as_float64(right)))
    if differ.any():
        at = tuple(int(i) for i in np.argwhere(differ)[0])
        count = f"{int(differ.sum())} of {differ.size}"
        raise AssertionError(f"{label}: {count} differ; at {at} {a[at]!r} is not {b[at]!r}")
