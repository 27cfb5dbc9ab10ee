"""Small gradients for the kernels that only they launch, compared bit for bit with the reference.

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
class GradientCase:
    """Both gradients under folded padding, and a transposed convolution with pixels that no window reads."""

    name: str
    dtype: str
    layout: str
    algorithm: str = "gradients"

    def run(self, backend: str) -> list[np.ndarray]:
        """Compute them all."""
        rng = np.random.default_rng(7)

        def draw(*shape: int) -> np.ndarray:
            return rng.integers(-2, 3, shape).astype(numpy_dtype(self.dtype))

        def pixels(channels: int, *sizes: int) -> np.ndarray:
            return draw(2, channels, *sizes) if self.layout == "NCHW" else draw(2, *sizes, channels)

        common: dict[str, Any] = {"layout": self.layout, "backend": backend, "groups": 2}
        folded = common | {"stride": (2, 3), "padding": ((1, 2), 2), "padding_mode": "circular", "dilation": (1, 2)}
        x, weight = pixels(6, 9, 8), draw(4, 3, 3, 2)
        y = sk.conv2d(x, weight, **folded)
        grad = pixels(4, *(y.shape[2:] if self.layout == "NCHW" else y.shape[1:3]))
        # Stride beyond the kernel: some phases have no tap.
        spread = sk.conv_transpose2d(grad, draw(4, 3, 2, 2), draw(6), stride=(4, 3), activation="relu", **common)
        return [
            sk.conv_input_grad(x.shape, weight, grad, **folded),
            sk.conv_weight_grad(x, weight.shape, grad, **folded),
            spread,
        ]

    def check(self) -> None:
        """Raise unless all results on cuda are the reference's."""
        for got, wanted in zip(self.run("cuda"), self.run("reference"), strict=True):
            assert_same_numbers(got, wanted)


def gradient_cases() -> Iterator[GradientCase]:
    """Yield a case for each type and layout."""
    for dtype in ELEMENTS:
        for layout in ("NCHW", "NHWC"):
            yield GradientCase(f"gradients, {layout}", dtype, layout)
