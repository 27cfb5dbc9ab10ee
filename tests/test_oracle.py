"""The oracle itself: planted faults are caught, and what is right passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.kit.cases import DTYPES, Case, case
from tests.kit.curated import CURATED
from tests.kit.oracle import (
    activate,
    as_float64,
    assert_correct,
    assert_same_bits,
    correlate,
    pad,
    padding_pairs,
    truth,
)

PLAIN = case("plain", (9, 8), 3, padding=1, stride=(2, 1), bias=True, channels=6)
FEW = case("few weights", (9, 8), 3, padding=1, stride=(2, 1), channels=300, data="sparse")
WIDE = case("wide", (9, 8), 3, padding=1, channels=600)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_kind = pytest.mark.parametrize("kind", [PLAIN, FEW, WIDE], ids=str)


def rounded(of: Case) -> np.ndarray:
    """The float64 result, rounded to the case's dtype: as right as an answer can be."""
    with np.errstate(over="ignore"):
        exact = activate(truth(of, *of.arrays()).linear, of.activation).astype(of.numpy_dtype)
    return np.moveaxis(exact, 1, -1) if of.channels_last else exact


def assert_caught(y: np.ndarray, of: Case) -> None:
    with pytest.raises(AssertionError, match="are wrong"):
        assert_correct(y, of, *of.arrays())


@every_dtype
@pytest.mark.parametrize("of", CURATED, ids=str)
@pytest.mark.rotated("dtype")
def test_a_correctly_rounded_result_passes(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    assert_correct(rounded(of), of, *of.arrays())


@every_dtype
@every_kind
@pytest.mark.rotated("dtype")
def test_all_zeros_are_caught(kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype)
    assert_caught(np.zeros_like(rounded(of)), of)


@every_dtype
@every_kind
@pytest.mark.rotated("dtype")
def test_a_single_wrong_tap_is_caught(kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype)
    x, weight, bias = of.arrays()
    wrong = np.array(weight)
    at = tuple(np.argwhere(np.abs(as_float64(weight)) > 0.5)[0])
    wrong[at] *= -1
    y = truth(of, x, wrong, bias).linear.astype(of.numpy_dtype)
    assert_caught(y, of)


@every_dtype
def test_a_dropped_bias_is_caught(dtype: str) -> None:
    of = replace(PLAIN, dtype=dtype)
    x, weight, _ = of.arrays()
    assert_caught(truth(of, x, weight, None).linear.astype(of.numpy_dtype), of)


@every_dtype
@every_kind
@pytest.mark.rotated("dtype")
def test_a_window_shifted_by_one_pixel_is_caught(kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype)
    shifted = replace(of, padding=((0, 2), (1, 1)))
    assert_caught(truth(shifted, *of.arrays()).linear.astype(of.numpy_dtype), of)


@every_dtype
@every_kind
@pytest.mark.rotated("dtype")
def test_swapped_stride_axes_are_caught(kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype, sizes=(8, 8), stride=(2, 1))
    swapped = truth(replace(of, stride=(1, 2)), *of.arrays()).linear.astype(of.numpy_dtype)
    with pytest.raises(AssertionError, match="shape"):
        assert_correct(swapped, of, *of.arrays())
    assert_caught(np.swapaxes(swapped, 2, 3), of)


@every_dtype
def test_a_flipped_kernel_is_caught(dtype: str) -> None:
    of = replace(PLAIN, dtype=dtype)
    x, weight, bias = of.arrays()
    assert_caught(truth(of, x, weight[:, :, ::-1, ::-1], bias).linear.astype(of.numpy_dtype), of)


@every_dtype
def test_zeros_for_another_padding_mode_are_caught(dtype: str) -> None:
    of = replace(PLAIN, dtype=dtype, padding_mode="replicate")
    zeros = truth(replace(of, padding_mode="zeros"), *of.arrays())
    assert_caught(zeros.linear.astype(of.numpy_dtype), of)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_kind
def test_one_unit_in_the_last_place_passes_where_sums_are_of_the_outputs_type(kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype)
    y = rounded(of)
    # Where no product is summed there is nothing to round, and only the exact answer will do.
    assert_correct(np.where(y == 0, y, np.nextafter(y, y.dtype.type(np.inf))), of, *of.arrays())


def test_where_every_weight_is_zero_only_zero_will_do() -> None:
    x, weight, _ = FEW.arrays()
    weight[1] = 0.0
    y = truth(FEW, x, weight, None).linear.astype(np.float32)
    assert_correct(y, FEW, x, weight)
    y[:, 1] = 1e-30
    with pytest.raises(AssertionError, match="are wrong"):
        assert_correct(y, FEW, x, weight)


def test_one_unit_of_float16_is_caught_where_few_products_are_summed() -> None:
    of = replace(FEW, dtype="float16")
    y = rounded(of)
    assert_caught(np.nextafter(y, np.float16(np.inf)), of)


def test_factors_rounded_to_tf32_are_caught() -> None:
    of = FEW
    x, weight, bias = of.arrays()

    def tf32(array: np.ndarray) -> np.ndarray:
        return ((np.ascontiguousarray(array).view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)

    assert_caught(truth(of, tf32(x), tf32(weight), bias).linear.astype(np.float32), of)


@every_dtype
@pytest.mark.parametrize("activation", ["relu", "relu6", "silu", "gelu", ("leaky_relu", 0.1)])
def test_a_forgotten_activation_is_caught_and_a_rounded_one_passes(activation: object, dtype: str) -> None:
    of = replace(PLAIN, dtype=dtype, activation=activation)
    assert_correct(rounded(of), of, *of.arrays())
    assert_caught(truth(of, *of.arrays()).linear.astype(of.numpy_dtype), of)


def test_overflow_must_be_infinite_and_may_not_be_where_the_result_fits() -> None:
    of = case("one product", (1, 1), 1, channels=1, filters=1, batch=1, dtype="float16")
    huge, large = (np.full((1, 1, 1, 1), value, np.float16) for value in (60000, 300))
    assert_correct(np.full((1, 1, 1, 1), np.inf, np.float16), of, huge, large)
    for bad in (65504, -np.inf, np.nan):
        with pytest.raises(AssertionError):
            assert_correct(np.full((1, 1, 1, 1), bad, np.float16), of, huge, large)
    one = np.ones((1, 1, 1, 1), np.float16)
    with pytest.raises(AssertionError):
        assert_correct(np.full((1, 1, 1, 1), np.inf, np.float16), of, huge, one)


@every_dtype
def test_a_nan_that_is_missing_or_that_nobody_asked_for_is_caught(dtype: str) -> None:
    of = replace(PLAIN, dtype=dtype)
    x, weight, bias = of.arrays()
    y = rounded(of)
    with_nan = np.array(y)
    with_nan[0, 0, 0, 0] = np.nan
    with pytest.raises(AssertionError, match="1 of"):
        assert_correct(with_nan, of, x, weight, bias)
    x = np.array(x)
    x[0, 0, 4, 4] = np.nan
    with pytest.raises(AssertionError, match="wanted nan"):
        assert_correct(y, of, x, weight, bias)


def test_wrong_dtype_is_caught() -> None:
    with pytest.raises(AssertionError, match="dtype"):
        assert_correct(rounded(PLAIN).astype(np.float64), PLAIN, *PLAIN.arrays())


def test_same_bits_tells_zeros_and_last_places_apart() -> None:
    a = np.zeros((2, 2), np.float32)
    assert_same_bits(a, a.copy())
    for b in (-a, np.nextafter(a, np.float32(1)), a.astype(np.float64), a[:1]):
        with pytest.raises(AssertionError):
            assert_same_bits(a, b)


def test_the_oracle_agrees_with_a_loop_over_the_formula() -> None:
    of = case("loop", (5, 4), (3, 2), padding=((1, 0), (2, 1)), stride=(2, 1), dilation=(1, 2), groups=2,
              channels=4, filters=6, dtype="float64")  # fmt: skip
    x, weight, _ = of.arrays()
    pairs = padding_pairs(of.padding, of.sizes, of.kernel, of.stride, of.dilation)
    padded = pad(x, pairs, "zeros")
    wanted = np.zeros((of.batch, of.filters, *of.output_sizes))
    for n, k, p, q in np.ndindex(*wanted.shape):
        for c, r, s in np.ndindex(2, 3, 2):
            wanted[n, k, p, q] += weight[k, c, r, s] * padded[n, k // 3 * 2 + c, 2 * p + r, q + 2 * s]
    np.testing.assert_allclose(correlate(padded, weight, of.stride, of.dilation, 2), wanted, rtol=1e-13, atol=1e-13)
