"""Pooling: every backend against every window enumerated, bit for bit for maxima, within the bound for sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import DTYPES
from conftest import SEED
from oracle import assert_same_bits, assert_within
from pooling import PoolCase, random_pool, true_avg, true_grad, true_max

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
PROBLEMS = {"reference": 60, "cpu": 60, "cuda": 6}
"""Random problems of each chunk."""


def check_max(case: PoolCase, backend: str) -> None:
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


@pytest.mark.parametrize("chunk", range(4))
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
