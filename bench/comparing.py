"""Results held to the reference's, bit for bit but for the sign of zero."""

from __future__ import annotations

import numpy as np


def assert_same_numbers(got: np.ndarray, wanted: np.ndarray) -> None:
    """Raise unless both arrays hold the same numbers in the same shape."""
    # Adding zero makes one zero of both.
    wrong = int(np.sum(got.astype(np.float64) + 0.0 != wanted.astype(np.float64) + 0.0))
    if got.shape != wanted.shape or wrong:
        raise AssertionError(f"{wrong} of {wanted.size} outputs differ from the reference's")
