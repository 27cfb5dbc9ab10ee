"""What NumPy allocates beside the memory that is tracked stays small, however large the arrays are."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype
from stridekit.memory.dtypes import DTYPES

BESIDE = 5 * 2**17
"""Bytes; one sample of each input below takes twice as many in float64, so that none is overlooked."""
SIZES = {1: (2, 8, 2**15), 2: (2, 8, 112, 240), 3: (2, 4, 16, 50, 64)}


def beside(call: Callable[[], Any]) -> int:
    """Return the most bytes that Python and NumPy held at once during `call`, less the most that were tracked."""
    gc.collect()
    with sk.vram.track() as usage:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            call()
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    return peak - usage.peak


def drawn(shape: tuple[int, ...], dtype: str, layout: str | None = None) -> np.ndarray:
    array = np.random.default_rng(0).standard_normal(shape, np.float32).astype(numpy_dtype(dtype))
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if layout else array


WINDOWS: dict[str, dict[str, Any]] = {
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dense": {"kernel_size": 2, "stride": 1},
    "dilated": {"kernel_size": 2, "stride": 1, "dilation": 3, "ceil_mode": True},
    "padded": {"kernel_size": 3, "stride": 1, "padding": 1},
}
LAYOUTS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
# Dtype, window, rank and layout take turns.
POOLINGS = [
    (dtype, list(WINDOWS)[number % len(WINDOWS)], 1 + number % 3, number % 2 == 1)
    for number, dtype in enumerate([*DTYPES, *DTYPES, *DTYPES])
]


def pooling(operation: str, backend: str, dtype: str, name: str, rank: int, last: bool) -> Callable[[], Any]:
    layout = LAYOUTS[rank] if last else None
    x = drawn(SIZES[rank], dtype, layout)
    window = {**WINDOWS[name], "backend": backend, **({"layout": layout} if layout else {})}
    maximum, average = (getattr(sk, f"{kind}_pool{rank}d") for kind in ("max", "avg"))
    # What it compiles on its way runs all of these.
    grad = average(x, **window)
    calls: dict[str, Callable[[], Any]] = {
        "max": lambda: maximum(x, **window),
        "max with indices": lambda: maximum(x, return_indices=True, **window),
        "avg": lambda: average(x, **window),
        "max grad": lambda: sk.max_pool_grad(x, grad, **window),
        "avg grad": lambda: sk.avg_pool_grad(x.shape, grad, **window),
    }
    return calls[operation]


@pytest.mark.parametrize("operation", ["max", "max with indices", "avg", "max grad", "avg grad"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.thorough)], ids=["some", "all"])
def test_poolings_allocate_nothing_large_beside_what_is_tracked(backend: str, operation: str, step: int) -> None:
    for case in itertools.islice(POOLINGS, len(operation) % step, None, step):
        assert beside(pooling(operation, backend, *case)) < BESIDE, case


def convolution(direction: str, dtype: str, mode: str, activation: Any) -> Callable[[], Any]:
    x, y, weight = drawn((2, 4, 128, 136), dtype), drawn((2, 6, 128, 136), dtype), drawn((6, 4, 3, 3), dtype)
    bias = drawn((6, 1), dtype)[:, 0]
    options: dict[str, Any] = {"padding": 1, "padding_mode": mode, "backend": "reference"}
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: sk.conv2d(x, weight, bias, activation=activation, **options),
        "transposed": lambda: sk.conv_transpose2d(y, weight, padding=1, activation=activation, backend="reference"),
        "input": lambda: sk.conv_input_grad(x.shape, weight, y, **options),
        "weight": lambda: sk.conv_weight_grad(x, weight.shape, y, **options),
    }
    return calls[direction]


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.thorough)], ids=["one", "all"])
@pytest.mark.parametrize("number", range(4), ids=["forward", "transposed", "input", "weight"])
def test_the_references_convolutions_allocate_nothing_large_beside_what_is_tracked(number: int, step: int) -> None:
    direction = ("forward", "transposed", "input", "weight")[number]
    modes, activations = ("zeros", "reflect", "replicate", "circular"), ("relu", "silu", "relu6", ("leaky_relu", 0.1))
    for case in list(zip(DTYPES, modes, activations, strict=True))[number % step :: step]:
        call = convolution(direction, *case)
        # Modules that are imported on the way are none of a call's memory.
        call()
        assert beside(call) < BESIDE, case
