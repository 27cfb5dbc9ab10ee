"""One small pooling for each family of pooling kernels, compared bit for bit with the reference.

Small integers leave nothing to round. NumPy arrays go to the device and back, so that no CuPy is needed to draw them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import stridekit as sk
from bench.comparing import assert_same_numbers
from stridekit.backends.cuda.direct import ELEMENTS
from stridekit.memory.arrays import numpy_dtype


@dataclass(frozen=True)
class PoolingCase:
    """Maximum, average and both gradients of one window on one input."""

    name: str
    dtype: str
    layout: str
    algorithm: str = "pool"

    def run(self, backend: str) -> list[np.ndarray]:
        """Compute them all."""
        shape = (2, 5, 9, 8) if self.layout == "NCHW" else (2, 9, 8, 5)
        rng = np.random.default_rng(7)
        window: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 2), 1), "dilation": (1, 2), "ceil_mode": True}
        window |= {"layout": self.layout, "backend": backend}
        x = rng.integers(-2, 3, shape).astype(numpy_dtype(self.dtype))
        y, indices = sk.max_pool2d(x, (3, 2), return_indices=True, **window)
        mean = sk.avg_pool2d(x, (3, 2), **window)
        g = rng.integers(-2, 3, y.shape).astype(x.dtype)
        # Two taps a window: halves, whose sums are exact.
        halves = dict(window, stride=1, padding=0, dilation=1)
        slopes = rng.integers(-2, 3, sk.avg_pool2d(x, (2, 1), **halves).shape).astype(x.dtype)
        gradients = sk.max_pool_grad(x, g, (3, 2), **window), sk.avg_pool_grad(shape, slopes, (2, 1), **halves)
        return [y, indices, mean, *gradients]

    def check(self) -> None:
        """Raise unless all results on cuda are the reference's, bit for bit."""
        for got, wanted in zip(self.run("cuda"), self.run("reference"), strict=True):
            assert_same_numbers(got, wanted)


def pool_cases() -> Iterator[PoolingCase]:
    """Yield a case or more for each family of pooling kernels in the catalog."""
    for dtype in ELEMENTS:
        for layout in ("NCHW", "NHWC"):
            yield PoolingCase(f"poolings, {layout}", dtype, layout)
