"""The reference backend: NumPy in float64, the definition of right."""

from __future__ import annotations

from typing import Any

import numpy as np

from stridekit.backends import Algorithm
from stridekit.backends.pool_algorithm import Pooling
from stridekit.backends.reference.conv_taps import ReferenceDevice, ScatteredTaps, SlidingTaps, SummedTaps
from stridekit.backends.reference.pool_taps import pool as windows
from stridekit.memory.spaces import HOST, Memory

ALGORITHMS: dict[str, tuple[Algorithm, ...]] = {
    "forward": (SlidingTaps(),),
    "input_grad": (ScatteredTaps(),),
    "weight_grad": (SummedTaps(),),
    "pool": (Pooling(windows),),
}


def unavailable() -> str:
    """Return ``""``: NumPy is always there."""
    return ""


def device(array: Any = None) -> ReferenceDevice:
    """Return the one device there is."""
    return ReferenceDevice()


def memory(device: ReferenceDevice) -> Memory:
    """Return main memory."""
    return HOST


def versions() -> dict[str, str]:
    """Return NumPy's version."""
    return {"numpy": np.__version__}


def cache_dir() -> str | None:
    """Return None: nothing is compiled."""
    return None
