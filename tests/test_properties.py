"""Properties that hold whatever the numbers: each a way to compute the same thing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stridekit as sk
from stridekit.planning.plan import Plan
from tests.kit.cases import Arrays, Case
from tests.kit.oracle import UNIT_ROUNDOFF, assert_correct, assert_same_bits, channels_first, pad, truth
from tests.kit.randoms import random_case

BACKENDS = ("cpu", "reference")
seeds = st.integers(0, 2**32 - 1)
backends = pytest.mark.parametrize("backend", BACKENDS)
PLAIN = {"activation": None, "bias": False, "channels_last": False, "memory": None}


def drawn(seed: int, **fixed: object) -> Case:
    return random_case(np.random.default_rng(seed), **{"batch": 2, **fixed})


def without_padding(case: Case) -> Case:
    """Return the same case with no padding, and pixels enough for two outputs on every axis."""
    needs = (s + d * (f - 1) for s, d, f in zip(case.stride, case.dilation, case.kernel, strict=True))
    sizes = tuple(size + need for size, need in zip(case.sizes, needs, strict=True))
    return replace(case, sizes=sizes, padding=0, padding_mode="zeros")


def assert_close(a: np.ndarray, b: np.ndarray, case: Case, magnitude: np.ndarray, count: np.ndarray) -> None:
    """Raise unless two results of the same float64 sum, each within its bound, are that near to each other."""
    unit = UNIT_ROUNDOFF[case.dtype]
    assert (np.abs(a - b) <= 2 * (4 * (count + 1) + 1) * unit * magnitude).all(), case


def planned(case: Case, arrays: Arrays, backend: str, **keywords: object) -> Plan:
    """Plan a case for arrays that may have other sizes than its own."""
    merged = {**case.keywords, "dtype": case.dtype, "memory_order": case.memory_order, **keywords}
    return sk.plan_conv(arrays[0].shape, arrays[1].shape, bias=arrays[2] is not None, backend=backend, **merged)


def by_each_algorithm(*calls: tuple[Plan, Arrays]) -> Iterator[list[np.ndarray]]:
    """Run calls by each algorithm that all of them can take: problems of other sizes may well choose another."""
    able = [{c.algorithm for c in plan.candidates if not c.excluded} for plan, _ in calls]
    for name in sorted(set.intersection(*able)):
        yield [replace(plan, algorithm=name).execute(*arrays) for plan, arrays in calls]


@backends
@given(seed=seeds)
def test_every_random_problem_is_right_to_the_bound(backend: str, seed: int) -> None:
    case = drawn(seed)
    arrays = case.arrays()
    assert_correct(case.run(arrays, backend=backend), case, *arrays)


@backends
@given(seed=seeds, scale=st.sampled_from([0.5, -2.0, 3.25]))
def test_convolution_is_linear_in_its_input(backend: str, seed: int, scale: float) -> None:
    case = drawn(seed, dtype="float64", **PLAIN)
    x, weight, _ = case.arrays()
    other = np.random.default_rng(seed).standard_normal(x.shape)
    whole = case.run((x + scale * other, weight, None), backend=backend)
    parts = case.run((x, weight, None), backend=backend) + scale * case.run((other, weight, None), backend=backend)
    exact = truth(case, np.abs(x) + abs(scale) * np.abs(other), np.abs(weight), None)
    assert_close(whole, parts, case, exact.magnitude, exact.count + 2)


@backends
@given(seed=seeds)
def test_a_shift_by_the_stride_is_a_shift_by_one_output(backend: str, seed: int) -> None:
    case = without_padding(drawn(seed, dtype="float32", lies="contiguous", **PLAIN))
    x, weight, _ = case.arrays()
    shifted = x[(slice(None), slice(None), *(slice(s, None) for s in case.stride))]
    later = (slice(None), slice(None), *(slice(1, None),) * case.rank)
    calls = ((planned(case, each, backend), each) for each in ((x, weight, None), (shifted, weight, None)))
    for a, b in by_each_algorithm(*calls):
        assert_same_bits(a[later], b, case)


@backends
@given(seed=seeds)
def test_a_batch_is_its_samples_side_by_side(backend: str, seed: int) -> None:
    case = drawn(seed, batch=3)
    x, weight, bias = case.arrays()
    whole = case.run((x, weight, bias), backend=backend)
    for n in range(3):
        assert_same_bits(case.run((x[n : n + 1], weight, bias), backend=backend), whole[n : n + 1], case)


@backends
@given(seed=seeds)
def test_a_stride_takes_every_sth_output_of_stride_1(backend: str, seed: int) -> None:
    case = drawn(seed)
    case = replace(case, padding=case.pairs)
    arrays = case.arrays()
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in case.stride))
    plans = planned(case, arrays, backend), planned(case, arrays, backend, stride=1)
    for both in by_each_algorithm(*((plan, arrays) for plan in plans)):
        strided, dense = (channels_first(each, case.channels_last) for each in both)
        assert_same_bits(strided, dense[steps], case)


@backends
@given(seed=seeds)
def test_a_padding_mode_is_numpy_pad_and_no_padding(backend: str, seed: int) -> None:
    case = drawn(seed, channels_last=False, memory=None, lies="contiguous")
    x, weight, bias = case.arrays()
    padded = (pad(x, case.pairs, case.padding_mode), weight, bias)
    calls = (
        (planned(case, (x, weight, bias), backend), (x, weight, bias)),
        (planned(case, padded, backend, padding="valid", padding_mode="zeros"), padded),
    )
    for result, wanted in by_each_algorithm(*calls):
        assert_same_bits(result, wanted, case)


@backends
@given(seed=seeds, groups=st.integers(2, 4))
def test_groups_are_convolutions_side_by_side(backend: str, seed: int, groups: int) -> None:
    case = drawn(seed, groups=groups, channels=3 * groups, filters=5 * groups, channels_last=False, memory=None)
    x, weight, bias = case.arrays()
    parts = []
    for g in range(groups):
        filters = slice(5 * g, 5 * (g + 1))
        part = (x[:, 3 * g : 3 * (g + 1)], weight[filters], None if bias is None else bias[filters])
        parts.append(case.run(part, backend=backend, groups=1))
    assert_same_bits(case.run((x, weight, bias), backend=backend), np.concatenate(parts, axis=1), case)


@backends
@given(seed=seeds)
def test_a_unit_filter_picks_one_tap_of_one_channel(backend: str, seed: int) -> None:
    case = without_padding(drawn(seed, groups=1, **PLAIN))
    x, weight, _ = case.arrays()
    weight = np.zeros(weight.shape, weight.dtype)
    rng = np.random.default_rng(seed)
    channel, tap = int(rng.integers(case.channels)), tuple(int(rng.integers(f)) for f in case.kernel)
    weight[(slice(None), channel, *tap)] = 1
    picked = x[(slice(None), channel, *(
        slice(t * d, t * d + (o - 1) * s + 1, s)
        for t, d, o, s in zip(tap, case.dilation, case.output_sizes, case.stride, strict=True)
    ))]  # fmt: skip
    y = case.run((x, weight, None), backend=backend)
    for k in range(case.filters):
        # Adding 0.0 makes -0.0 what a sum makes of it.
        assert_same_bits(y[:, k], picked + x.dtype.type(0), case)


@given(seed=seeds)
def test_the_order_of_memory_never_changes_what_is_right(seed: int) -> None:
    case = drawn(seed)
    x, weight, bias = case.arrays()
    for copy in (np.ascontiguousarray(x), np.asfortranarray(x)):
        assert_correct(case.run((copy, weight, bias), backend="cpu"), case, copy, weight, bias)


@given(seed=seeds)
def test_geometry_is_that_of_the_array_that_comes_out(seed: int) -> None:
    case = drawn(seed, batch=1)
    g = sk.conv_geometry(
        case.sizes, kernel_size=case.kernel, stride=case.stride, padding=case.padding, dilation=case.dilation,
        padding_mode=case.padding_mode,
    )  # fmt: skip
    assert g.output_size == case.output_sizes
    assert g.padding == case.pairs
    y = channels_first(case.run(case.arrays(), backend="cpu"), case.channels_last)
    assert y.shape[2:] == g.output_size
