"""Blur pooling: the binomial filter of Zhang 2019, its padding, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype
from tests.kit.cases import DTYPES, LAYOUTS
from tests.kit.oracle import Truth, assert_within, correlate, pad
from tests.kit.randoms import SEED
from tests.kit.thinning import every

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def blur(rank: int) -> Callable[..., np.ndarray]:
    return {1: sk.blur_pool1d, 2: sk.blur_pool2d, 3: sk.blur_pool3d}[rank]  # type: ignore[no-any-return]


def weights(size: int, rank: int, channels: int) -> np.ndarray:
    line = np.array([math.comb(size - 1, k) for k in range(size)]) / 2 ** (size - 1)
    taps = line
    for _ in range(rank - 1):
        taps = taps[..., None] * line
    return np.broadcast_to(taps, (channels, 1, *taps.shape))


def truth(x: np.ndarray, size: int, stride: tuple[int, ...], mode: str) -> Truth:
    rank, wide = x.ndim - 2, x.astype(np.float64)
    pairs = (((size - 1) // 2, size // 2),) * rank
    w = weights(size, rank, x.shape[1])
    how = (stride, (1,) * rank, x.shape[1])
    parts = (pad(wide, pairs, mode), w), (pad(np.abs(wide), pairs, mode), w)
    linear, magnitude = (correlate(a, b, *how) for a, b in parts)
    return Truth(linear, magnitude, correlate((pad(wide, pairs, mode) != 0) * 1.0, np.ones_like(w), *how))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", every(2, [1, 2, 3, 4, 5]))
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_it_is_the_binomial_filter_then_the_stride(
    backend: str, dtype: str, size: int, rank: int, rng: np.random.Generator
) -> None:
    spatial = (9, 8, 6)[:rank]
    mode = ("reflect", "zeros", "replicate", "circular")[(size + rank) % 4]
    stride = tuple(int(s) for s in rng.integers(1, 4, rank))
    x = rng.standard_normal((2, 3, *spatial)).astype(numpy_dtype(dtype))
    y = blur(rank)(x, stride=stride, filter_size=size, padding_mode=mode, backend=backend)
    assert y.dtype == x.dtype
    assert y.shape[2:] == tuple(-(-w // s) for w, s in zip(spatial, stride, strict=True))
    assert_within(y, truth(x, size, stride, mode), dtype, label=(size, stride, mode))
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    other = blur(rank)(
        last, stride=stride, filter_size=size, padding_mode=mode, layout=LAYOUTS[rank][1], backend=backend
    )
    assert_within(np.moveaxis(other, -1, 1), truth(x, size, stride, mode), dtype)


def test_constants_stay_and_checkers_vanish(backend: str) -> None:
    """What sums to one keeps a constant; (1, 2, 1) has its zero at the highest frequency."""
    ones = np.ones((1, 2, 7, 6), np.float32)
    for size in range(1, 8):
        for mode in ("reflect", "replicate", "circular"):
            y = sk.blur_pool2d(ones, filter_size=min(size, 6), padding_mode=mode, backend=backend)
            np.testing.assert_array_equal(y, 1.0)
    checkers = (np.indices((6, 8)).sum(0) % 2 * 2.0 - 1.0).astype(np.float32)[None, None]
    for size in (2, 3, 4, 5):
        y = sk.blur_pool2d(checkers, stride=1, filter_size=size, padding_mode="circular", backend=backend)
        np.testing.assert_array_equal(y, 0.0)


def test_without_a_filter_every_other_pixel_is_left(backend: str) -> None:
    x = np.arange(60.0).reshape(1, 2, 5, 6)
    np.testing.assert_array_equal(sk.blur_pool2d(x, filter_size=1, backend=backend), x[:, :, ::2, ::2])


@pytest.mark.parametrize("mode", ["reflect", "zeros", "replicate", "circular"])
def test_a_gradient_is_the_adjoint_of_its_pooling(backend: str, mode: str) -> None:
    rng = np.random.default_rng([SEED, 4])
    for rank in (1, 2, 3):
        for size in (1, 2, 3, 4):
            x = rng.standard_normal((2, 3, *(9, 7, 6)[:rank]))
            how: dict[str, Any] = {"stride": (2, 3, 1)[:rank], "filter_size": size, "padding_mode": mode}
            y = blur(rank)(x, **how, backend=backend)
            g = rng.standard_normal(y.shape)
            gradient = sk.blur_pool_grad(x.shape, g, **how, backend=backend)
            assert gradient.shape == x.shape
            scale = float(np.sum(np.abs(y * g)))
            assert abs(float(np.sum(y * g)) - float(np.sum(x * gradient))) <= 1e-13 * scale, (rank, size)


def test_padding_may_be_given_and_out_is_filled(backend: str) -> None:
    x = np.arange(12.0).reshape(1, 2, 6)
    y = sk.blur_pool1d(x, padding="valid", backend=backend)
    np.testing.assert_array_equal(y, [[[1, 3], [7, 9]]])
    out = np.full_like(y, np.nan)
    assert sk.blur_pool1d(x, padding="valid", out=out, backend=backend) is out
    np.testing.assert_array_equal(out, y)


X = np.ones((2, 3, 6, 6), np.float32)
BAD = {
    "an axis too few": (lambda: sk.blur_pool2d(X[0]), sk.ShapeError, r"blur_pool2d wants 4; add a batch axis"),
    "filter 0": (lambda: sk.blur_pool2d(X, filter_size=0), sk.ShapeError, "filter_size is 0; wanted 1 to 64"),
    "filter as a float": (lambda: sk.blur_pool2d(X, filter_size=3.0), sk.ShapeError, "filter_size"),
    "beyond what reflects": (lambda: sk.blur_pool2d(X[..., :1]), sk.ShapeError, "'reflect' can take"),
    "integers": (lambda: sk.blur_pool2d(X.astype(int)), sk.DtypeError, "int64"),
    "a list": (lambda: sk.blur_pool2d([1.0]), sk.DtypeError, "x is a list"),
    "layout": (lambda: sk.blur_pool2d(X, layout="NWC"), sk.LayoutError, "layout is 'NWC'"),
    "an array for its shape": (lambda: sk.blur_pool_grad(X, X), sk.ShapeError, "input_shape is an array"),
    "two axes": (lambda: sk.blur_pool_grad((6, 6), X), sk.ShapeError, "input_shape has 2 axes"),
    "no channels": (lambda: sk.blur_pool2d(X[:, :0]), sk.ShapeError, "0 channels"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what: str) -> None:
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call()
