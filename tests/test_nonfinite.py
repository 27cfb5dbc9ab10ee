"""NaN, infinities, signed zeros, subnormals and overflow: what IEEE arithmetic on the definition gives."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype
from tests.kit.cases import ACTIVATIONS, DTYPES, Case, case
from tests.kit.curated import CURATED
from tests.kit.oracle import assert_correct, assert_same_bits

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
KINDS = [
    case("strided", (9, 8), 3, stride=2, padding=1, channels=6, filters=70, bias=True),
    case("dilated", (9, 8), 3, dilation=2, padding=2, channels=6),
    case("replicated", (9, 8), 3, padding=2, channels=6, padding_mode="replicate"),
    case("grouped", (9, 8), 3, padding=1, groups=3, channels=6, filters=6),
    case("depthwise", (9, 8), 3, padding=1, groups=33, channels=33, filters=66),
    case("channels-last", (9, 8), 3, padding=1, channels=64, filters=64, channels_last=True, stride=2),
    case(
        "depthwise, channels-last",
        (9, 8),
        3,
        padding=1,
        groups=64,
        channels=64,
        filters=64,
        channels_last=True,
    ),
    case("channels in blocks", (6, 7), 3, padding=1, channels=300),
    case("few weights", (6, 7), 3, padding=1, channels=300, data="sparse"),
    case("gaps between windows", (11, 12), 2, stride=5, channels=3),
    case("rank 1", (20,), 3, stride=2, padding=1),
    case("rank 3", (5, 6, 4), 3, stride=2, padding=1),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
PLANTED = {"nan": [np.nan], "inf": [np.inf], "-inf": [-np.inf], "all": [np.nan, np.inf, -np.inf]}


def plant(of: Case, values: list[float], rng: np.random.Generator) -> np.ndarray:
    """Put each of `values` at a few places of the case's input."""
    x = np.array(of.arrays().x)
    for value in values:
        for _ in range(3):
            x[tuple(int(rng.integers(size)) for size in x.shape)] = value
    return x


@pytest.mark.parametrize("planted", PLANTED)
@every_dtype
@every_kind
@pytest.mark.rotated("backend", "dtype", "planted")
def test_what_is_not_finite_spreads_as_the_definition_says(
    backend: str, kind: Case, dtype: str, planted: str, rng: np.random.Generator
) -> None:
    of = replace(kind, dtype=dtype)
    x, (_, weight, bias) = plant(of, PLANTED[planted], rng), of.arrays()
    assert_correct(of.run((x, weight, bias), backend=backend), of, x, weight, bias)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a] + [("leaky_relu", 0.0)], ids=str)
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_activations_pass_on_nan_and_take_infinities_as_defined(
    backend: str, dtype: str, activation: object, rng: np.random.Generator
) -> None:
    of = replace(KINDS[0], dtype=dtype, activation=activation)
    x, (_, weight, bias) = plant(of, PLANTED["all"], rng), of.arrays()
    assert_correct(of.run((x, weight, bias), backend=backend), of, x, weight, bias)


@every_dtype
def test_relu_of_nan_is_nan(backend: str, dtype: str) -> None:
    x = np.array([[[np.nan, -1.0, 2.0, -np.inf, np.inf, -0.0]]]).astype(numpy_dtype(dtype))
    y = sk.conv1d(x, np.ones((1, 1, 1), x.dtype), activation="relu", backend=backend)
    np.testing.assert_array_equal(y.astype(float), [[[np.nan, 0.0, 2.0, 0.0, np.inf, 0.0]]])


@every_dtype
@every_kind
@pytest.mark.rotated("backend", "dtype")
def test_zeros_among_the_weights_make_nan_of_infinity(backend: str, kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype)
    x, weight, _ = of.arrays()
    x, weight = np.array(x), np.zeros(weight.shape, weight.dtype)
    x[:, 0] = np.inf
    y = of.run((x, weight, None), backend=backend)
    assert_correct(y, replace(of, bias=False), x, weight)
    assert np.isnan(y.astype(float)).any()


@every_dtype
def test_nan_in_a_dropped_or_skipped_pixel_touches_nothing(backend: str, dtype: str) -> None:
    of = case("gaps and a tail", (12, 12), 2, stride=5, channels=5, dtype=dtype)
    x, weight, _ = of.arrays()
    clean = of.run((x, weight, None), backend=backend)
    x = np.array(x)
    x[:, :, 2:5] = np.nan
    x[:, :, 7:10] = np.nan
    x[:, :, :, 2:5] = np.nan
    x[:, :, :, 7:10] = np.nan
    assert_same_bits(of.run((x, weight, None), backend=backend), clean, of)


@every_dtype
def test_nan_in_one_sample_channel_group_or_filter_stays_there(backend: str, dtype: str) -> None:
    of = case("grouped", (7, 7), 3, padding=1, groups=2, channels=8, filters=10, dtype=dtype, bias=True)
    x, weight, bias = of.arrays()
    clean = of.run((x, weight, bias), backend=backend)
    x = np.array(x)
    x[1, :4] = np.nan
    y = of.run((x, weight, bias), backend=backend)
    assert_same_bits(y[0], clean[0], of)
    assert_same_bits(y[1, 5:], clean[1, 5:], of)
    assert np.isnan(y[1, :5].astype(float)).all()


@every_dtype
def test_a_nan_bias_is_the_nan_of_its_own_filter(backend: str, dtype: str) -> None:
    of = case("biased", (7, 7), 3, filters=70, dtype=dtype, bias=True)
    x, weight, bias = of.arrays()
    assert bias is not None
    clean = of.run((x, weight, bias), backend=backend)
    bias[3] = np.nan
    y = of.run((x, weight, bias), backend=backend)
    assert np.isnan(y[:, 3].astype(float)).all()
    others = np.arange(70) != 3
    assert_same_bits(y[:, others], clean[:, others], of)


@every_dtype
@every_kind
@pytest.mark.rotated("backend", "dtype")
def test_weights_that_are_not_finite_spread_where_no_window_touches_padding(
    backend: str, kind: Case, dtype: str
) -> None:
    of = replace(kind, dtype=dtype, padding=0, padding_mode="zeros")
    x, weight, bias = of.arrays()
    weight = np.array(weight)
    weight[0].flat[0], weight[-1].flat[-1] = np.inf, np.nan
    assert_correct(of.run((x, weight, bias), backend=backend), of, x, weight, bias)


@every_dtype
def test_subnormals_are_kept(backend: str, dtype: str) -> None:
    tiny = ml_dtypes.finfo(dtype).smallest_subnormal
    x = np.array([[[1, 2, 5, -3]]]).astype(numpy_dtype(dtype)) * tiny
    one = np.ones((1, 1, 1), x.dtype)
    assert_same_bits(sk.conv1d(x, one, backend=backend), x)
    assert_same_bits(sk.conv1d(x, one, backend=backend, activation="relu"), np.maximum(x, x.dtype.type(0)))
    pair = sk.conv1d(x, np.ones((1, 1, 2), x.dtype), backend=backend)
    assert_same_bits(pair, np.array([[[3, 7, 2]]]).astype(x.dtype) * tiny)


@every_dtype
def test_results_round_into_the_subnormals(backend: str, dtype: str) -> None:
    of = case("small", (9, 8), 3, channels=6, dtype=dtype)
    x, weight, _ = of.arrays()
    x = x * x.dtype.type(float(ml_dtypes.finfo(dtype).tiny) * 4)
    weight = weight * weight.dtype.type(0.125)
    assert_correct(of.run((x, weight, None), backend=backend), of, x, weight)


@every_dtype
def test_minus_zero_comes_back_from_nothing_but_a_negative_product(backend: str, dtype: str) -> None:
    """A sum that begins at +0 never ends at -0 unless it rounds there."""
    x = np.array([[[-0.0, 0.0, -0.0]]]).astype(numpy_dtype(dtype))
    y = sk.conv1d(x, np.ones((1, 1, 1), x.dtype), backend=backend)
    assert (y == 0).all()
    assert not np.signbit(y.astype(float)).any()


@pytest.mark.parametrize("lanes", [1, 64, 65])
@pytest.mark.parametrize("channels_last", [False, True])
def test_float16_overflows_to_infinity_exactly_where_rounding_says(
    backend: str, lanes: int, channels_last: bool
) -> None:
    x = np.array([65504, 65504, 65504, -65504, 60000], np.float16).reshape(1, 1, 5)
    bias = np.array([[15], [16], [17], [-16], [0]], np.float16)
    wanted = [65504, np.inf, np.inf, -np.inf, 60000]
    if channels_last:
        x = np.moveaxis(x, 1, -1)
    layout = "NWC" if channels_last else "NCW"
    for pixel, (add, value) in enumerate(zip(bias, wanted, strict=True)):
        weight, adds = np.ones((lanes, 1, 1), np.float16), np.repeat(add, lanes)
        y = sk.conv1d(x, weight, adds, layout=layout, backend=backend)
        got = y[0, pixel] if channels_last else y[0, :, pixel]
        assert (got == np.float16(value)).all(), (pixel, got)


@pytest.mark.parametrize("lanes", [1, 64, 65])
def test_bfloat16_rounds_to_nearest_even_and_never_makes_infinity_of_nan(backend: str, lanes: int) -> None:
    bits = np.array([0x7F81, 0xFF81, 0x7FC0, 0xFFFF, 0x7FFF, 0x7F80, 0xFF80, 0x7F7F], np.uint16)
    x = bits.view(ml_dtypes.bfloat16).reshape(1, 1, -1)
    y = sk.conv1d(x, np.ones((lanes, 1, 1), x.dtype), backend=backend)
    for k in range(lanes):
        assert_same_bits(y[:, k : k + 1], x)
    # 1 + 2**-8 lies halfway between 1 and 1 + 2**-7, 1 + 3 * 2**-8 halfway to 1 + 2**-6: both go to the even one.
    one = np.array([1.0, 1.0 + 2.0**-7], ml_dtypes.bfloat16).reshape(1, 1, -1)
    half = np.full(lanes, 2.0**-8, ml_dtypes.bfloat16)
    y = sk.conv1d(one, np.ones((lanes, 1, 1), one.dtype), half, backend=backend)
    np.testing.assert_array_equal(y.astype(float)[0], np.tile([1.0, 1.0 + 2.0**-6], (lanes, 1)))


@every_dtype
def test_every_backend_agrees_on_what_is_not_finite(dtype: str, rng: np.random.Generator) -> None:
    for name in ("3x3 with padding", "depthwise with multiplier", "3-D", "reflect at its limit"):
        of = replace(next(c for c in CURATED if c.name == name), dtype=dtype, data="integers")
        x, (_, weight, bias) = plant(of, PLANTED["all"], rng), of.arrays()
        assert_same_bits(of.run((x, weight, bias), backend="cpu"), of.run((x, weight, bias), backend="reference"), of)
