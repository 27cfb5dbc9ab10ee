"""Hundreds of random poolings and their gradients against PyTorch in float64: values, indices, divisors, ceil_mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.emulator.machine import SCHEDULES
from tests.kit.oracle import Truth, assert_within
from tests.kit.pooling import PoolCase, random_pool
from tests.kit.randoms import SEED

torch = pytest.importorskip("torch", reason="the oracle is PyTorch; pip install torch")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CHUNKS, PROBLEMS_PER_CHUNK = 20, 30


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def random_legal(rng: np.random.Generator, **fixed: Any) -> PoolCase:
    """Draw a pooling that PyTorch takes: padding of at most half the kernel, the same on both sides, some samples."""
    while True:
        rank = int(rng.choice([1, 2, 2, 3]))
        kernel = tuple(int(k) for k in rng.integers(1, 6, rank))
        padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        batch, data = int(rng.integers(1, 3)), str(rng.choice(["normal", "integers"]))
        sizes = tuple(int(s) for s in rng.integers(1, {1: 40, 2: 12, 3: 7}[rank], rank))
        stride = tuple(int(s) for s in rng.integers(1, 5, rank))
        dilation = tuple(int(d) for d in rng.choice([1, 1, 2, 3], rank))
        own = {"kernel": kernel, "sizes": sizes, "stride": stride, "padding": padding, "dilation": dilation}
        extents = [d * (k - 1) + 1 for k, d in zip(kernel, {**own, **fixed}["dilation"] or (1,) * rank, strict=True)]
        # PyTorch's avg_pool3d has no gradient for an input smaller than its kernel.
        room = padding if rank < 3 else (0,) * 3
        if all(size + 2 * p >= extent for size, p, extent in zip(sizes, room, extents, strict=True)):
            case = random_pool(rng, **{**own, "batch": batch, "data": data, **fixed})
            # Where dilation steps over all of a window's pixels, PyTorch's index is of none of them.
            if all(inside for _, inside, _ in case.windows()):
                return case


def wide(array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array).astype(np.float64))


def forward(case: PoolCase, operation: str, x: Any) -> Any:
    call = getattr(torch.nn.functional, f"{operation}_pool{case.rank}d")
    window = {"stride": case.stride, "padding": case.padding, "ceil_mode": case.ceil_mode}
    if operation == "max":
        return call(x, case.kernel, dilation=case.spread, return_indices=True, **window)
    return call(x, case.kernel, count_include_pad=case.count_include_pad, **window)


def backward(case: PoolCase, operation: str, g: np.ndarray) -> np.ndarray:
    x = wide(case.first(case.x)).requires_grad_()
    y = forward(case, operation, x)
    (gradient,) = torch.autograd.grad(y[0] if operation == "max" else y, x, wide(g))
    return gradient.numpy()  # type: ignore[no-any-return]


def compare(case: PoolCase, backend: str) -> None:
    x, g = case.first(case.x), case.first(case.grad_output)
    values, indices = forward(case, "max", wide(x))
    y, found = case.max_pool(backend=backend, return_indices=True)
    np.testing.assert_array_equal(case.first(y).astype(np.float64), values.numpy(), str(case))
    np.testing.assert_array_equal(case.first(found), indices.numpy(), str(case))
    picked = [backward(case, "max", part) for part in (g, np.abs(g), g != 0)]
    assert_within(case.first(case.max_grad(backend=backend)), Truth(*picked), case.dtype, label=("max", case))


def compare_average(case: PoolCase, backend: str) -> None:
    x, g = case.first(case.x), case.first(case.grad_output)
    linear, magnitude = (forward(case, "avg", wide(part)).numpy() for part in (x, np.abs(x)))
    most = np.full_like(linear, np.prod(case.kernel))
    assert_within(case.first(case.avg_pool(backend=backend)), Truth(linear, magnitude, most), case.dtype, label=case)
    spread, magnitude = (backward(case, "avg", part) for part in (g, np.abs(g)))
    most = np.full_like(spread, np.prod(case.kernel))
    found = case.first(case.avg_grad(backend=backend))
    assert_within(found, Truth(spread, magnitude, most), case.dtype, label=case)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_poolings_agree_with_torch(chunk: int) -> None:
    rng = np.random.default_rng([SEED, chunk, 11])
    for _ in range(PROBLEMS_PER_CHUNK):
        case, average = random_legal(rng), random_legal(rng, dilation=())
        for backend in ("reference", "cpu"):
            compare(case, backend)
            compare_average(average, backend)


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_random_poolings_agree_with_torch_on_the_emulated_cuda() -> None:
    rng = np.random.default_rng([SEED, 12])
    for number in range(60):
        with use_emulator(schedule=SCHEDULES[number % len(SCHEDULES)]):
            compare(random_legal(rng), "cuda")
            compare_average(random_legal(rng, dilation=()), "cuda")
