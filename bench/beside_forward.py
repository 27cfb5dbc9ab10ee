"""Small poolings and gradients for the kernels that only they launch, compared bit for bit with the reference.

Small integers leave nothing to round. NumPy arrays go to the device and back, so that no CuPy is needed to draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import stridekit as sk
from bench.comparing import assert_same_numbers
from stridekit.memory.arrays import numpy_dtype
from stridekit.memory.dtypes import DTYPES


@dataclass(frozen=True)
class Several:
    """Several results of one dtype and layout."""

    name: str
    dtype: str
    layout: str
    algorithm: str
    results: Callable[[Several, np.random.Generator, str], list[np.ndarray]]

    def draw(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Draw small integers."""
        return rng.integers(-2, 3, shape).astype(numpy_dtype(self.dtype))

    def pixels(self, channels: int, *sizes: int) -> tuple[int, ...]:
        """Return the shape of two samples."""
        return (2, channels, *sizes) if self.layout == "NCHW" else (2, *sizes, channels)

    def check(self) -> None:
        """Raise unless all results on cuda are the reference's, bit for bit."""
        computed = (self.results(self, np.random.default_rng(7), backend) for backend in ("cuda", "reference"))
        for got, wanted in zip(*computed, strict=True):
            assert_same_numbers(got, wanted)


def _pooled(of: Several, rng: np.random.Generator, backend: str) -> list[np.ndarray]:
    """Maximum, average and both gradients of one window on one input."""
    window: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 2), 1), "dilation": (1, 2), "ceil_mode": True}
    window |= {"layout": of.layout, "backend": backend}
    x = of.draw(rng, *of.pixels(5, 9, 8))
    y, indices = sk.max_pool2d(x, (3, 2), return_indices=True, **window)
    g = of.draw(rng, *y.shape)
    # Two taps a window: halves, whose sums are exact.
    halves = dict(window, stride=1, padding=0, dilation=1)
    slopes = of.draw(rng, *sk.avg_pool2d(x, (2, 1), **halves).shape)
    return [
        y,
        indices,
        sk.avg_pool2d(x, (3, 2), **window),
        sk.max_pool_grad(x, g, (3, 2), **window),
        sk.avg_pool_grad(x.shape, slopes, (2, 1), **halves),
    ]


def _gradients(of: Several, rng: np.random.Generator, backend: str) -> list[np.ndarray]:
    """Both gradients under folded padding, and a transposed convolution with pixels that no window reads."""
    common: dict[str, Any] = {"layout": of.layout, "backend": backend, "groups": 2}
    folded = common | {"stride": (2, 3), "padding": ((1, 2), 2), "padding_mode": "circular", "dilation": (1, 2)}
    x, weight = of.draw(rng, *of.pixels(6, 9, 8)), of.draw(rng, 4, 3, 3, 2)
    grad = of.draw(rng, *sk.conv2d(x, weight, **folded).shape)
    # Stride beyond the kernel: some phases have no tap.
    weights = of.draw(rng, 4, 3, 2, 2), of.draw(rng, 6)
    return [
        sk.conv_input_grad(x.shape, weight, grad, **folded),
        sk.conv_weight_grad(x, weight.shape, grad, **folded),
        sk.conv_transpose2d(grad, *weights, stride=(4, 3), activation="relu", **common),
    ]


def beside_forward(*only: str) -> Iterator[Several]:
    """Yield cases for each family of kernels beside the convolution's; of `only` these algorithms, if given."""
    for algorithm, results in (("gradients", _gradients), ("pool", _pooled)):
        for dtype in DTYPES:
            for layout in ("NCHW", "NHWC"):
                if not only or algorithm in only:
                    yield Several(f"{algorithm}, {layout}", dtype, layout, algorithm, results)
