"""Transposed convolution on every backend: values to the bound, sizes, what lies beyond every window, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stridekit as sk
from tests.kit.cases import ACTIVATIONS, DTYPES
from tests.kit.laying import MEMORY_ORDERS, WAYS, empty_like_laid
from tests.kit.oracle import activate, assert_same_bits, channels_first
from tests.kit.transposed import Transposed, random_transposed

CASES = [
    Transposed("plain", (5, 6), (3, 3)),
    Transposed("stride 2", (5, 6), (4, 4), (2, 2), 1, bias=True),
    Transposed("stride 2 with output padding", (5, 6), (3, 3), (2, 2), 1, 1, bias=True, activation="relu"),
    Transposed("stride beyond kernel", (4, 5), (2, 1), (5, 3), 0, (4, 2), bias=True, activation="gelu"),
    Transposed("one pixel", (1, 1), (4, 3), (2, 2), bias=True),
    Transposed("dilation beyond stride", (5, 4), (3, 2), (2, 1), 2, (3, 4), (4, 5), bias=True),
    Transposed("output padding beyond every window", (3, 4), (1, 1), (1, 2), 0, (2, 3), (3, 4), bias=True,
               activation=("leaky_relu", 0.25)),
    Transposed("no bias beyond every window", (3, 4), (1, 2), (1, 2), 0, (2, 3), (3, 4)),
    Transposed("asymmetric", (5, 6), (4, 5), (2, 3), ((2, 0), (1, 3)), (1, 2), bias=True),
    Transposed("padding and output padding", (2, 3), (3, 3), (1, 1), 2, (2, 3), (3, 4), bias=True),
    Transposed("same", (5, 6), (3, 4), (2, 3), "same", bias=True),
    Transposed("same_lower", (5, 6), (4, 3), (3, 2), "same_lower"),
    Transposed("same, stride beyond kernel", (3, 4), (2, 1), (4, 5), "same", (1, 2), bias=True, activation="silu"),
    Transposed("valid", (5, 6), (2, 3), (2, 2), "valid", bias=True),
    Transposed("groups", (5, 6), (3, 3), (2, 2), 1, 1, groups=2, channels=6, filters=8, bias=True),
    Transposed("depthwise", (5, 6), (3, 3), (2, 2), 1, groups=33, channels=33, filters=33, bias=True),
    Transposed("depthwise with multiplier", (5, 6), (3, 3), (3, 2), groups=5, channels=5, filters=15),
    Transposed("NHWC", (5, 6), (3, 3), (2, 2), 1, 1, channels=16, filters=70, channels_last=True, bias=True),
    Transposed("sliced", (5, 6), (3, 3), (2, 2), lies="sliced", bias=True),
    Transposed("reversed", (5, 6), (3, 3), (2, 2), lies="reversed", channels_last=True),
    Transposed("read-only", (5, 6), (3, 3), (1, 2), lies="read_only"),
    Transposed("empty batch", (5, 6), (3, 3), (2, 2), batch=0, bias=True),
    Transposed("1-D", (9,), (5,), (3,), 2, 1, (2,), bias=True, activation="relu6"),
    Transposed("1-D NWC", (9,), (4,), (2,), "same", 0, (1,), channels_last=True),
    Transposed("3-D", (3, 4, 2), (2, 3, 3), (2, 1, 3), 1, (1, 0, 2), (1, 1, 1), bias=True),
    Transposed("3-D NDHWC", (2, 3, 3), (3, 2, 2), (1, 2, 2), 0, 0, (2, 1, 1), 2, filters=6, channels_last=True),
]  # fmt: skip
every_case = pytest.mark.parametrize("of", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
@every_case
@pytest.mark.rotated("backend", "dtype")
def test_a_transposed_convolution_is_right_to_the_bound(backend: str, of: Transposed, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    arrays = of.arrays()
    y = of.run(arrays, backend=backend)
    assert type(y) is np.ndarray
    of.assert_correct(y, of.truth(arrays))
    stored = channels_first(y, of.channels_last)
    assert (np.moveaxis(stored, 1, -1) if of.channels_last else stored).flags.c_contiguous


@pytest.mark.parametrize("on", ["reference", "cpu"])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_transposed_convolutions_are_right_to_the_bound(on: str, seed: int) -> None:
    of = random_transposed(np.random.default_rng(seed))
    arrays = of.arrays()
    of.assert_correct(of.run(arrays, backend=on), of.truth(arrays))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_pixels_that_no_window_reaches_hold_the_activated_bias(backend: str, dtype: str, activation: object) -> None:
    of = Transposed("gaps", (3, 2), (2, 1), (4, 3), 0, (3, 2), bias=True, activation=activation, dtype=dtype)
    arrays = of.arrays()
    assert arrays.bias is not None
    out = np.full(of.output_shape, np.nan, arrays.x.dtype)
    of.run(arrays, backend=backend, out=out)
    of.assert_correct(out, of.truth(arrays))
    bias = arrays.bias.astype(np.float64)
    wanted = activate(bias, activation)
    for gap in (out[:, :, 2::4], out[:, :, 3::4], out[..., 1::3], out[:, :, -2:], out[..., -2:]):
        found = gap.astype(np.float64)
        unit = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-20, "float64": 2**-48}[dtype]
        assert (found == found[:1, :, :1, :1]).all(), "one value a channel, bit for bit"
        np.testing.assert_allclose(found[0, :, 0, 0], wanted, rtol=unit, atol=1e-7)


@every_case
@pytest.mark.rotated("backend")
def test_small_changes_of_how_it_is_called_change_no_bit(backend: str, of: Transposed) -> None:
    arrays = of.arrays()
    wanted = of.run(arrays, backend=backend)
    out = np.full(of.output_shape, np.nan, np.float32)
    assert of.run(arrays, backend=backend, out=out) is out
    assert_same_bits(out, wanted, of)
    again = of.run(arrays, backend=backend, stride=list(of.stride), dilation=np.array(of.dilation))
    assert_same_bits(again, wanted, of)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@pytest.mark.rotated("backend", "memory")
def test_out_receives_the_same_bits_however_it_lies(backend: str, memory: str, way: str) -> None:
    of = Transposed("gaps", (4, 5), (2, 1), (5, 3), 0, (4, 2), bias=True, activation="relu")
    arrays = of.arrays()
    wanted = of.run(arrays, backend=backend)
    out = empty_like_laid(of.output_shape, np.float32, memory, way)
    if way == "read_only":
        with pytest.raises(sk.LayoutError, match="out is read-only"):
            of.run(arrays, backend=backend, out=out)
        return
    of.run(arrays, backend=backend, out=out)
    assert_same_bits(out, wanted, of)


@every_case
@pytest.mark.rotated("backend")
def test_what_is_allocated_is_the_result_and_no_more_with_out(backend: str, of: Transposed) -> None:
    arrays = of.arrays()
    unit = 512 if backend == "cuda" else 1
    with sk.vram.track() as whole:
        y = of.run(arrays, backend=backend)
    with sk.vram.track() as given:
        of.run(arrays, backend=backend, out=np.empty_like(y))
    assert whole.current == -(-y.nbytes // unit) * unit
    assert whole.peak == whole.current + given.peak
    if whole.peak:
        with pytest.raises(sk.VramBudgetError), sk.vram.budget(y.nbytes - 1) as usage:
            of.run(arrays, backend=backend)
        assert usage.peak == 0


def test_it_is_the_input_gradient_of_the_convolution_of_the_same_weight(backend: str) -> None:
    for of in CASES:
        if of.bias or of.activation or of.padding == "same_lower" or of.output_padding:
            continue
        x, weight, _ = of.arrays()
        gradient = sk.conv_input_grad(
            of.output_shape, weight, x, stride=of.stride, dilation=of.dilation, groups=of.groups, padding=of.pairs,
            layout={(1, False): "NCW", (1, True): "NWC", (2, False): "NCHW", (2, True): "NHWC", (3, False): "NCDHW",
                    (3, True): "NDHWC"}[of.rank, of.channels_last], backend=backend,
        )  # fmt: skip
        assert_same_bits(of.run((x, weight, None), backend=backend), gradient, of)  # type: ignore[arg-type]


def test_it_undoes_the_size_of_the_convolution_that_it_transposes(backend: str) -> None:
    """Every input size that gives the same output is an output padding."""
    weight = np.ones((4, 3, 3), np.float32)
    for size in range(7, 10):
        y = sk.conv1d(np.ones((1, 3, size), np.float32), weight, stride=3, padding=1, backend=backend)
        assert y.shape[-1] == 3
        back = sk.conv_transpose1d(y, weight, stride=3, padding=1, output_padding=size - 7, backend=backend)
        assert back.shape == (1, 3, size)


@pytest.mark.parametrize("padding", ["same", "same_lower"])
@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("stride", range(1, 6))
def test_same_gives_size_times_stride_pixels(padding: str, kernel: int, stride: int) -> None:
    of = Transposed("same", (4,), (kernel,), (stride,), padding, 0, (1,), bias=True)
    arrays = of.arrays()
    y = of.run(arrays, backend="cpu")
    assert y.shape == (2, 3, 4 * stride)
    of.assert_correct(y, of.truth(arrays))


X, WEIGHT = (2, 4, 5, 6), (4, 3, 3, 3)
Call = Callable[[np.ndarray, np.ndarray], object]
BAD: dict[str, tuple[Call, type[Exception], str]] = {
    "output padding as large as the stride": (
        lambda x, w: sk.conv_transpose2d(x, w, stride=2, output_padding=2), sk.ShapeError, "less than the larger of",
    ),
    "output padding as large as the dilation": (
        lambda x, w: sk.conv_transpose2d(x, w, dilation=3, output_padding=(0, 3)), sk.ShapeError, "dilation 3",
    ),
    "negative output padding": (
        lambda x, w: sk.conv_transpose2d(x, w, stride=2, output_padding=-1), sk.ShapeError, "output_padding is -1",
    ),
    "output padding of another rank": (
        lambda x, w: sk.conv_transpose2d(x, w, stride=2, output_padding=(1,)), sk.ShapeError, "output_padding has 1",
    ),
    "padding takes everything": (
        lambda x, w: sk.conv_transpose2d(x, w, padding=4), sk.ShapeError, "takes all of the 7 pixels",
    ),
    "causal": (
        lambda x, w: sk.conv_transpose1d(x[:, :, 0], w[:, :, 0], padding="causal"), sk.ShapeError, "causal",
    ),
    "unknown padding": (lambda x, w: sk.conv_transpose2d(x, w, padding="full"), sk.ShapeError, "full"),
    "channels disagree": (lambda x, w: sk.conv_transpose2d(x, w[:3]), sk.ShapeError, "spreads 3 channels"),
    "groups do not divide": (lambda x, w: sk.conv_transpose2d(x, w, groups=3), sk.ShapeError, "groups is 3"),
    "no filters": (lambda x, w: sk.conv_transpose2d(x, w[:, :0]), sk.ShapeError, "at least one"),
    "no pixels": (lambda x, w: sk.conv_transpose2d(x[:, :, :0], w), sk.ShapeError, "at least one pixel"),
    "no taps": (lambda x, w: sk.conv_transpose2d(x, w[..., :0]), sk.ShapeError, "one tap"),
    "no batch axis": (lambda x, w: sk.conv_transpose2d(x[0], w), sk.ShapeError, r"x\[None\]"),
    "stride 0": (lambda x, w: sk.conv_transpose2d(x, w, stride=0), sk.ShapeError, "stride is 0"),
    "dtypes disagree": (lambda x, w: sk.conv_transpose2d(x, w.astype("f8")), sk.DtypeError, "float64"),
    "integers": (lambda x, w: sk.conv_transpose2d(x.astype(int), w.astype(int)), sk.DtypeError, "int64"),
    "a list": (lambda x, w: sk.conv_transpose2d(x.tolist(), w), sk.DtypeError, "x"),
    "bias as long as x's channels": (
        lambda x, w: sk.conv_transpose2d(x, w, np.zeros(4, np.float32)), sk.ShapeError, r"bias has shape \(4,\)",
    ),
    "bias of another dtype": (
        lambda x, w: sk.conv_transpose2d(x, w, np.zeros(3)), sk.DtypeError, "bias is float64",
    ),
    "unknown activation": (lambda x, w: sk.conv_transpose2d(x, w, activation="tanh"), sk.ShapeError, "tanh"),
    "unknown layout": (lambda x, w: sk.conv_transpose2d(x, w, layout="NCW"), sk.LayoutError, "NCW"),
    "out of another shape": (
        lambda x, w: sk.conv_transpose2d(x, w, out=np.zeros((2, 3, 7, 7), np.float32)), sk.ShapeError, "out has shape",
    ),
    "out is x": (
        lambda x, w: sk.conv_transpose2d(x[:, :3], w[:3], padding=1, out=x[:, :3]), sk.LayoutError, "out overlaps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.rotated("backend")
def test_every_backend_raises_the_same_class_for_bad_arguments(backend: str, what: str) -> None:
    call, error, message = BAD[what]
    x, weight = np.ones(X, np.float32), np.ones(WEIGHT, np.float32)
    with sk.use_backend(backend), sk.vram.track() as usage, pytest.raises(error, match=message) as caught:
        call(x, weight)
    assert caught.type is error
    assert usage.peak == 0


def test_a_plan_with_a_bias_computes_a_transposed_convolution(backend: str) -> None:
    of = replace(next(of for of in CASES if of.name == "stride 2"), activation="relu")
    x, weight, bias = of.arrays()
    plan = sk.plan_conv(
        of.output_shape, weight.shape, stride=of.stride, padding=of.padding, bias=True, activation="relu",
        direction="input_grad", backend=backend,
    )  # fmt: skip
    y = plan.execute(weight, x, bias)
    of.assert_correct(y, of.truth(of.arrays()))
    assert_same_bits(y, of.run(of.arrays(), backend=backend))
    assert_same_bits(plan.execute(plan.pack(weight), x, bias), y)
    assert plan.flops == 2 * x.size * math.prod(weight.shape[1:])
