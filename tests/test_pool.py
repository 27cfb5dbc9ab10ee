"""Pooling: every backend against every window enumerated, bit for bit for maxima, within the bound for sums."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from bench.beside_forward import beside_forward
from stridekit.backends.cuda import pool_windows as cuda_pooling
from stridekit.backends.cuda.catalog import families
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.emulator.machine import SCHEDULES
from tests.kit.cases import DTYPES
from tests.kit.guarded import guarded
from tests.kit.laying import MEMORY_ORDERS, TRANSPOSED, WAYS, empty_like_laid, lay
from tests.kit.oracle import assert_same_bits
from tests.kit.pooling import (
    PoolCase,
    check_avg,
    check_beside_reference,
    check_grads,
    check_max,
    random_pool,
    with_arrays,
)
from tests.kit.randoms import SEED
from tests.kit.thinning import every

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
emulated = pytest.mark.skipif(bool(why_not()), reason=why_not())
PROBLEMS = {"reference": 50, "cpu": 50, "cuda": 6}
"""Random problems of each chunk."""
PLAIN = PoolCase((10, 8), (3, 2), (2, 2), padding=1, ceil_mode=True, channels=5)
CURATED = {
    "plain": PLAIN,
    "kernel beyond the padded input": PoolCase((2, 3), (4, 3), (3, 2), ceil_mode=True),
    "windows wholly in padding": PoolCase((3, 2), (2, 2), (1, 1), padding=((5, 4), (3, 6)), count_include_pad=False),
    "gaps between windows": PoolCase((17, 11), (2, 2), (5, 4), padding=((0, 3), (1, 2)), ceil_mode=True),
    "one pixel": PoolCase((1, 1), (1, 1), (1, 1), channels=1, batch=1),
    "global": PoolCase((7, 7), (7, 7), (7, 7), channels=33, channels_last=True),
    "long rows": PoolCase((560,), (3,), (1,), padding=1, channels=1, dilation=(2,)),
    "long strided rows": PoolCase((1, 1040), (1, 5), (1, 2), padding="same", channels=1, ceil_mode=True),
    "many channels": PoolCase((3, 4), (2, 2), (1, 1), channels=520, channels_last=True, batch=1),
    "causal": PoolCase((19,), (4,), (3,), padding="causal", dilation=(2,)),
    "clip": PoolCase((5, 6, 7), (2, 3, 3), (1, 2, 2), padding=((0, 1), (1, 1), (2, 0)), ceil_mode=True),
    "steps beyond 32 bits": PoolCase((5, 4), (1, 2), (2**33, 2**34), padding=1, dilation=(2**35, 1), channels=2),
    "no samples": PoolCase((5, 6), (2, 2), (2, 2), batch=0),
}
LARGE = {
    "global, of many planes": PoolCase((21, 19), (21, 19), (1, 1), channels=35),
    "global signal": PoolCase((700,), (700,), (700,), batch=3, channels=5),
    "global clip": PoolCase((4, 7, 6), (4, 7, 6), (1, 1, 1), channels=19),
    "windows that overlap": PoolCase((26, 25), (17, 17), (1, 1), padding=8, channels=5),
    "windows that overlap every other": PoolCase((24, 25), (17, 16), (2, 3), padding=7, channels=20, ceil_mode=True),
    "clip of windows that overlap": PoolCase((6, 9, 8), (4, 5, 7), (1, 2, 1), padding=2, count_include_pad=False),
    "spread signal": PoolCase((900,), (150,), (3,), padding=9, dilation=(3,)),
    "windows with far taps": PoolCase((1000,), (3,), (2,), padding=290, dilation=(300,)),
    "lines far apart": PoolCase((700, 3), (3, 2), (1, 1), dilation=(300, 1), channels=2),
    "lines of even steps far apart": PoolCase((500, 4), (4, 1), (6, 2), padding=((90, 70), (0, 0)), dilation=(64, 1)),
    "small planes": PoolCase((2, 2), (2, 2), (2, 2), batch=9, channels=17),
    "one pixel, many channels": PoolCase((1, 1), (1, 1), (1, 1), batch=5, channels=300),
    "one plane": PoolCase((35, 600), (2, 3), (1, 2), padding=1, batch=1, channels=1),
    "few long signals": PoolCase((1200,), (5,), (2,), padding=3, dilation=(3,), channels=1, ceil_mode=True),
    "few long clips": PoolCase((2, 700, 5), (2, 3, 2), (1, 5, 2), padding=1, channels=2, count_include_pad=False),
    "short lines": PoolCase((98, 2), (3, 2), (2, 2), padding=(1, 0), channels=20),
    "far windows": PoolCase((60, 61), (2, 2), (7, 9), padding=1, ceil_mode=True, channels=18),
    "one column": PoolCase((300, 1), (49, 1), (5, 1), channels=33),
}
every_case = pytest.mark.parametrize("case", CURATED.values(), ids=CURATED)


@every_dtype
@every_case
@pytest.mark.rotated("dtype")
def test_curated_poolings_and_their_gradients_are_right(backend: str, case: PoolCase, dtype: str) -> None:
    data = "integers" if dtype == "bfloat16" else "normal"
    case = replace(case, dtype=dtype, data=data)
    check_max(case, backend)
    check_avg(case, backend)
    check_grads(case, backend)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("number", "name"), list(enumerate(LARGE)))
def test_large_windows_and_small_planes_are_pooled_as_the_reference_does(number: int, name: str) -> None:
    """With any number of threads, and each sample as if it were alone."""
    case = replace(LARGE[name], dtype=DTYPES[number % len(DTYPES)], memory=MEMORY_ORDERS[number // 2 % 2])
    check_beside_reference(case, "cpu")
    found = []
    for count in (1, 2):
        sk.set_num_threads(count)
        found.append({name: call(backend="cpu") for name, call in calls(case).items()})
    alone = calls(with_arrays(case, case.x[1:2], case.grad_output[1:2])) if case.batch > 1 else {}
    for name, wanted in found[0].items():
        assert_same_bits(found[1][name], wanted, name)
        if alone:
            assert_same_bits(alone[name](backend="cpu"), wanted[1:2], name)


@pytest.mark.thorough
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@every_dtype
def test_large_windows_are_pooled_in_every_dtype_and_order(dtype: str, memory: str) -> None:
    for case in LARGE.values():
        for lies in ("contiguous", "every_other"):
            check_beside_reference(replace(case, dtype=dtype, memory=memory, lies=lies), "cpu")


EVERY_WIDTH = """
import sys
sys.path.insert(0, {tests!r})
from tests import test_pool
for case in test_pool.LARGE.values():
    test_pool.check_beside_reference(test_pool.replace(case, dtype={dtype!r}), "cpu")
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("bits", "dtype"), list(zip(("128", "256", "512", "256"), DTYPES, strict=True)))
def test_every_vector_width_pools_the_same(bits: str, dtype: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_WIDTH.format(tests=str(Path(__file__).parents[1]), dtype=dtype)],
        env={**os.environ, "STRIDEKIT_VECTOR_BITS": bits},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("chunk", every(4, range(4)))
def test_random_poolings_and_their_gradients_are_right(backend: str, chunk: int) -> None:
    rng = np.random.default_rng([SEED, chunk, 77])
    for _ in range(PROBLEMS[backend]):
        case = random_pool(rng)
        check_max(case, backend)
        check_avg(case, backend)
        check_grads(case, backend)


@every_dtype
def test_small_integers_average_to_the_same_bits_on_every_backend(backend: str, dtype: str) -> None:
    rng = np.random.default_rng([SEED, 5])
    for _ in range(PROBLEMS[backend] // 3):
        case = random_pool(rng, dtype=dtype, data="integers")
        assert_same_bits(case.avg_pool(backend=backend), case.avg_pool(backend="reference"), case)


# What the definition leaves to be said.


def test_a_window_wholly_in_padding_gives_minus_infinity_and_no_index(backend: str) -> None:
    x = np.array([[[2.0, -5.0]]], np.float32)
    y, indices = sk.max_pool1d(x, 1, padding=2, return_indices=True, backend=backend)
    assert y.tolist() == [[[-np.inf, -np.inf, 2.0, -5.0, -np.inf, -np.inf]]]
    assert indices.tolist() == [[[-1, -1, 0, 1, -1, -1]]]
    ones = np.ones_like(y)
    assert sk.max_pool_grad(x, ones, 1, padding=2, backend=backend).tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_the_average_of_a_window_wholly_in_padding_is_0(backend: str, count_include_pad: bool) -> None:
    x = np.array([[[2.0, np.nan]]], np.float32)
    y = sk.avg_pool1d(x, 1, padding=2, count_include_pad=count_include_pad, backend=backend)
    np.testing.assert_array_equal(y, [[[0.0, 0.0, 2.0, np.nan, 0.0, 0.0]]])
    gradient = sk.avg_pool_grad(x.shape, np.ones_like(y), 1, padding=2, backend=backend)
    assert gradient.tolist() == [[[1.0, 1.0]]]


def test_the_first_nan_wins_then_the_first_of_equals(backend: str) -> None:
    x = np.array([[[1, 3, 3, np.nan, 9, np.nan, -0.0, 0.0, -np.inf, -np.inf, np.inf, np.nan]]], np.float32)
    y, indices = sk.max_pool1d(x, 3, return_indices=True, backend=backend)
    np.testing.assert_array_equal(y, [[[3, np.nan, 0.0, np.nan]]])
    assert np.signbit(y[0, 0, 2])
    assert indices.tolist() == [[[1, 3, 6, 11]]]
    lowest = np.full((1, 1, 4), -np.inf, np.float32)
    assert sk.max_pool1d(lowest, 2, return_indices=True, backend=backend)[1].tolist() == [[[0, 2]]]


def test_what_a_last_window_takes_beyond_the_padding_is_not_counted(backend: str) -> None:
    x = np.full((1, 1, 4), 6.0, np.float32)
    window: dict[str, Any] = {"stride": 3, "padding": 1, "backend": backend}
    assert sk.avg_pool1d(x, 3, ceil_mode=False, **window).tolist() == [[[4.0, 4.0]]]
    # The third begins at 5 - 1 = 4: in the padding after the input, so there is none.
    assert sk.avg_pool1d(x, 3, ceil_mode=True, **window).tolist() == [[[4.0, 4.0]]]
    # The second begins at 2 and ends one beyond the padding: of its 4 taps 3 count, 2 of them pixels.
    assert sk.avg_pool1d(x, 4, ceil_mode=True, **window).tolist() == [[[4.5, 4.0]]]
    assert sk.avg_pool1d(x, 4, ceil_mode=True, count_include_pad=False, **window).tolist() == [[[6.0, 6.0]]]


def test_without_a_stride_windows_touch() -> None:
    x = np.arange(42.0).reshape(1, 1, 6, 7)
    assert_same_bits(sk.max_pool2d(x, (2, 3)), sk.max_pool2d(x, (2, 3), stride=(2, 3)))
    assert sk.avg_pool2d(x, 2).shape == (1, 1, 3, 3)


# Gradients.


def test_a_gradient_is_the_adjoint_of_its_pooling(backend: str) -> None:
    """``<pool(x), g> = <x, gradient(g)>``: of a maximum too, which picks where it does."""
    rng = np.random.default_rng([SEED, 9])
    for _ in range(PROBLEMS[backend]):
        case = random_pool(rng, dtype="float64", data="normal", padding="same", batch=2)
        g = case.grad_output
        for y, gradient in (
            (case.max_pool(backend=backend), case.max_grad(backend=backend)),
            (case.avg_pool(backend=backend), case.avg_grad(backend=backend)),
        ):
            products = np.where(np.isinf(y), 0.0, y) * g
            scale = float(np.sum(np.abs(products))) + 1e-300
            assert abs(float(np.sum(products)) - float(np.sum(case.x * gradient))) <= 1e-13 * scale, case


@every_dtype
def test_a_gradient_lies_as_its_input_whatever_the_other_does(backend: str, dtype: str) -> None:
    case = replace(PLAIN, dtype=dtype)
    for memory in MEMORY_ORDERS:
        x, g = lay(case.x, memory, "contiguous"), case.grad_output
        wanted = sk.max_pool_grad(case.x, g, **case.window, backend="reference")
        for order in MEMORY_ORDERS:
            found = sk.max_pool_grad(x, lay(g, order, "every_other"), **case.window, backend=backend)
            assert_same_bits(found, wanted)
            assert found.flags.c_contiguous == (memory == "channels_first")


# Arrays.


def calls(case: PoolCase) -> dict[str, Callable[..., np.ndarray]]:
    return {"max": case.max_pool, "avg": case.avg_pool, "max grad": case.max_grad, "avg grad": case.avg_grad}


@pytest.mark.parametrize("way", [*WAYS, TRANSPOSED])
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.rotated("backend", "memory", "way", "channels_last")
def test_out_receives_the_same_bits_however_it_lies(backend: str, memory: str, way: str, channels_last: bool) -> None:
    case = replace(PLAIN, channels_last=channels_last)
    for name, call in calls(case).items():
        wanted = call(backend=backend)
        out = case.viewed(empty_like_laid(case.first(wanted).shape, wanted.dtype, memory, way))
        if way == "read_only":
            with pytest.raises(sk.LayoutError, match="out is read-only"):
                call(backend=backend, out=out)
            assert np.isnan(out).all()
        else:
            assert call(backend=backend, out=out) is out
            assert_same_bits(out, wanted, name)


@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@every_dtype
@pytest.mark.rotated("backend", "dtype", "memory")
def test_nothing_beside_out_is_written(backend: str, dtype: str, memory: str) -> None:
    case = replace(PLAIN, dtype=dtype, memory=memory, data="integers", channels=19)
    for name, call in calls(case).items():
        wanted = call(backend=backend)
        large = lay(np.full([size + 2 for size in wanted.shape], 77, wanted.dtype), memory, "contiguous")
        inner = large[tuple(slice(1, -1) for _ in wanted.shape)]
        call(backend=backend, out=inner)
        assert_same_bits(np.ascontiguousarray(inner), np.ascontiguousarray(wanted), name)
        inner[...] = 77
        assert (large == 77).all(), name


@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_beyond_an_array_is_touched(at_end: bool) -> None:
    rng = np.random.default_rng([SEED, 3])
    for _ in range(60):
        case = random_pool(rng, lies="contiguous", batch=2)
        y = case.max_pool(backend="cpu")
        with guarded(case.x, at_end=at_end) as x, guarded(y, at_end=at_end) as out:
            guard = replace(case, lies="contiguous")
            guard.__dict__["x"] = x
            assert_same_bits(guard.max_pool(backend="cpu", out=out), y)
            guard.avg_pool(backend="cpu", out=out)
        with guarded(case.grad_output, at_end=at_end) as g, guarded(case.x, at_end=at_end) as out:
            guard.__dict__.update(grad_output=g, x=case.x)
            guard.max_grad(backend="cpu", out=out)
            guard.avg_grad(backend="cpu", out=out)


@pytest.mark.parametrize("memory", MEMORY_ORDERS)
def test_results_lie_in_memory_as_x_does(backend: str, memory: str) -> None:
    case = replace(PLAIN, memory=memory)
    y, indices = case.max_pool(backend=backend, return_indices=True)
    for result in (y, indices, case.avg_pool(backend=backend), case.avg_grad(backend=backend)):
        stored = result if memory == "channels_first" else np.moveaxis(result, 1, -1)
        assert stored.flags.c_contiguous


@pytest.mark.usefixtures("threads")
def test_neither_threads_nor_the_batch_change_a_bit() -> None:
    for memory in MEMORY_ORDERS:
        case = PoolCase((40, 39), (3, 3), (2, 1), padding=1, channels=24, batch=4, memory=memory)
        found = []
        for count in (1, 2, 5):
            sk.set_num_threads(count)
            found.append([call(backend="cpu") for call in calls(case).values()])
        for results in found[1:]:
            for one, other in zip(found[0], results, strict=True):
                assert_same_bits(one, other)
        alone = sk.avg_pool2d(case.x[2:3], **case.window, backend="cpu")
        assert_same_bits(alone, case.avg_pool(backend="cpu")[2:3])


@pytest.mark.emulator
@emulated
def test_numpy_arrays_are_taken_to_the_device_and_back() -> None:
    with use_emulator(resident=False):
        for case in (PLAIN, replace(PLAIN, memory="channels_last"), replace(PLAIN, channels_last=True)):
            check_max(case, "cuda")
            check_avg(case, "cuda")
            check_grads(case, "cuda")
            out = np.full_like(case.avg_pool(backend="cuda"), np.nan)
            assert case.avg_pool(backend="cuda", out=out) is out
            assert_same_bits(out, case.avg_pool(backend="cuda"))


# Memory.


def test_memory_is_counted_to_the_byte(backend: str) -> None:
    case = replace(PLAIN, batch=3)
    unit = 512 if backend == "cuda" else 1
    outputs, inputs = 3 * 5 * 6 * 5, 3 * 5 * 10 * 8
    assert case.max_pool(backend=backend).size == outputs
    wanted = {
        "max": outputs * 4,
        "avg": outputs * 4,
        "max grad": (inputs * 4, outputs * 8),
        "avg grad": inputs * 4,
    }
    for name, call in calls(case).items():
        needed = sum(-(-n // unit) * unit for n in np.atleast_1d(wanted[name]).tolist())
        with sk.vram.track() as usage:
            kept = call(backend=backend)
        assert usage.peak == needed, name
        with sk.vram.budget(needed):
            assert_same_bits(call(backend=backend), kept)
        with sk.vram.budget(0) as usage, pytest.raises(sk.VramBudgetError, match=r"0 bytes are left .* that works"):
            call(backend=backend)
        assert usage.peak == 0
    with sk.vram.track() as usage:
        case.max_pool(backend=backend, return_indices=True, out=np.empty_like(case.max_pool(backend=backend)))
    assert usage.peak == -(-outputs * 8 // unit) * unit


def test_within_a_budget_a_gradient_takes_few_samples_at_a_time(backend: str) -> None:
    case = replace(PLAIN, batch=7)
    unit = 512 if backend == "cuda" else 1
    own, sample = -(-7 * 5 * 10 * 8 * 4 // unit) * unit, 5 * 6 * 5 * 8
    wanted = case.max_grad(backend=backend)
    for samples in (1, 3):
        limit = own + -(-samples * sample // unit) * unit
        with sk.vram.budget(limit) as usage:
            assert_same_bits(case.max_grad(backend=backend), wanted)
        assert own < usage.peak <= limit
    with sk.vram.budget(own + 1) as usage, pytest.raises(sk.VramBudgetError):
        case.max_grad(backend=backend)
    assert usage.peak == 0


# Errors.

X = np.ones((2, 3, 6, 6), np.float32)
BAD = {
    "an axis too few": (lambda: sk.max_pool2d(X[0], 2), sk.ShapeError, r"x has 3 axes .* add a batch axis: x\[None\]"),
    "kernel 0": (lambda: sk.max_pool2d(X, 0), sk.ShapeError, "kernel_size is 0"),
    "three kernel sizes": (lambda: sk.avg_pool2d(X, (2, 2, 2)), sk.ShapeError, "kernel_size has 3 values"),
    "kernel too large": (lambda: sk.avg_pool2d(X, 9), sk.ShapeError, "kernel_size 9 .* spans 9 pixels"),
    "too large with ceil": (lambda: sk.avg_pool2d(X, 9, stride=3, ceil_mode=True), sk.ShapeError, "spans 9 pixels"),
    "stride 0": (lambda: sk.max_pool2d(X, 2, stride=0), sk.ShapeError, "stride is 0"),
    "dilation as a float": (lambda: sk.max_pool2d(X, 2, dilation=1.5), sk.ShapeError, "dilation"),
    "negative padding": (lambda: sk.max_pool2d(X, 2, padding=-1), sk.ShapeError, "padding is -1"),
    "causal in 2-D": (lambda: sk.max_pool2d(X, 2, padding="causal"), sk.ShapeError, "causal"),
    "ceil_mode 1": (lambda: sk.max_pool2d(X, 2, ceil_mode=1), sk.ShapeError, "ceil_mode is 1; wanted True or False"),
    "layout": (lambda: sk.max_pool2d(X, 2, layout="CHWN"), sk.LayoutError, "layout is 'CHWN'"),
    "integers": (lambda: sk.max_pool2d(X.astype(int), 2), sk.DtypeError, "int64"),
    "a list": (lambda: sk.max_pool2d([[[[1.0]]]], 1), sk.DtypeError, "x is a list"),
    "no channels": (lambda: sk.max_pool2d(X[:, :0], 2), sk.ShapeError, "at least one channel"),
    "no pixels": (lambda: sk.max_pool2d(X[..., :0], 2), sk.ShapeError, "at least one pixel"),
    "out of wrong shape": (lambda: sk.max_pool2d(X, 2, out=X[:1].copy()), sk.ShapeError, "out has shape"),
    "out of wrong dtype": (lambda: sk.max_pool2d(X, 2, out=np.ones((2, 3, 3, 3))), sk.DtypeError, "out is float64"),
    "out is x": (lambda: sk.max_pool2d(X, 1, out=X), sk.LayoutError, "out overlaps x"),
    "gradient of wrong shape": (lambda: sk.max_pool_grad(X, X, 2), sk.ShapeError, "grad_output has shape"),
    "gradient of wrong dtype": (
        lambda: sk.max_pool_grad(X, X.astype(np.float64), 1),
        sk.DtypeError,
        "grad_output is float64, wanted float32",
    ),
    "an array for its shape": (lambda: sk.avg_pool_grad(X, X, 1), sk.ShapeError, "input_shape is an array"),
    "gradient of other rank": (lambda: sk.avg_pool_grad((2, 3, 6), X, 1), sk.ShapeError, "grad_output has 4 axes"),
    "two axes": (lambda: sk.max_pool_grad(X[0, 0], X, 1), sk.ShapeError, "x has 2 axes"),
    "negative batch": (lambda: sk.avg_pool_grad((-2, 3, 6, 6), X, 1), sk.ShapeError, "no size may be negative"),
    "beyond 2**40": (lambda: sk.max_pool2d(X, 2, padding=2**41), sk.ShapeError, r"2\*\*40"),
    "no such backend": (lambda: sk.max_pool2d(X, 2, backend="gpu"), sk.BackendUnavailableError, "backend is 'gpu'"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.rotated("backend")
def test_bad_input_is_refused_by_name(backend: str, what: str) -> None:
    call, error, message = BAD[what]
    with sk.use_backend(backend), pytest.raises(error, match=message) as caught:
        call()
    assert caught.type is error


# The kernels of the cuda backend.


@pytest.mark.emulator
@emulated
@pytest.mark.parametrize("schedule", SCHEDULES[1::2], ids=lambda s: f"{s.order}-{s.copies}")
def test_64_bit_coordinates_give_the_same_bits(schedule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [PLAIN, replace(CURATED["clip"], channels_last=True), CURATED["causal"]]
    with use_emulator(schedule=schedule) as runtime:
        narrow = [call(backend="cuda") for case in cases for call in calls(case).values()]
        assert {entry[-3:] for entry in runtime.launched} == {"i32"}
        monkeypatch.setattr(cuda_pooling, "_narrow", lambda *_: False)
        runtime.launched.clear()
        wide = [call(backend="cuda") for case in cases for call in calls(case).values()]
        assert {entry[-3:] for entry in runtime.launched} == {"i64"}
    for one, other in zip(narrow, wide, strict=True):
        assert_same_bits(one, other)


@pytest.mark.emulator
@emulated
def test_small_cases_for_a_gpu_launch_a_kernel_of_every_family_and_are_right() -> None:
    with use_emulator() as runtime:
        for case in beside_forward("pool"):
            case.check()
    pooling_kernels = [family for family in families() if family[0].file.startswith("pool")]
    assert len(pooling_kernels) == 16
    assert all({kernel.entry for kernel in family} & set(runtime.launched) for family in pooling_kernels)
