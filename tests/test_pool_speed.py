"""No pooling is a cliff beside PyTorch: large windows, small planes, few planes."""

from __future__ import annotations

import pytest

from bench.cliffs import kinds
from tests.test_columns import race

POOLS = kinds()["pools"]
WORST = [
    of
    for of in POOLS
    if (of.operation, of.input) in (("avg_pool_grad", (4, 64, 2000)), ("max_pool_grad", (8, 256, 49, 1)))
    or (of.operation, of.input, of.dtype) == ("avg_pool", (8, 2048, 7, 7), "float32")
]
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("threads"),
]


@pytest.mark.parametrize("of", WORST, ids=str)
def test_the_worst_poolings_are_no_cliff_beside_pytorch(of: object) -> None:
    pytest.importorskip("torch", reason="the race is with PyTorch; pip install torch")
    times = race(of, 1)
    assert times.share <= 1, times


@pytest.mark.thorough
@pytest.mark.parametrize("threads_used", [1, 2])
@pytest.mark.parametrize("of", POOLS, ids=str)
def test_no_pooling_that_is_known_is_a_cliff_beside_pytorch(of: object, threads_used: int) -> None:
    pytest.importorskip("torch", reason="the race is with PyTorch; pip install torch")
    times = race(of, threads_used)
    assert times.share <= 1, times
