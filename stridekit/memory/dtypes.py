"""What an element is: one record for each dtype that is convolved, read wherever a decision depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit.concurrency import cached_property, loaded


@dataclass(frozen=True)
class Dtype:
    """A type of elements.

    Attributes
    ----------
    name : str
    nbytes : int
        Bytes of one element.
    epsilon : float
        The distance from 1 to the next number.
    sums : str
        The name of the dtype in which elements are summed.
    cuda_element : str
        The type of kernels/elements.cuh.
    cuda_product : str
        The class of kernels/multiplying.cuh that multiplies on tensor cores; empty where none does.
    stand_in : str
        The NumPy type that marks such elements in compiled code; Numba knows no 16-bit floats.
    in_numpy : bool
        Whether NumPy has the type itself; else ml_dtypes has it.
    """

    name: str
    nbytes: int
    epsilon: float
    sums: str
    cuda_element: str
    cuda_product: str
    stand_in: str
    in_numpy: bool = True

    @property
    def accumulator(self) -> Dtype:
        """The record of the type in which elements are summed."""
        return DTYPES[self.sums]

    @property
    def sums_itself(self) -> bool:
        """Whether elements are summed in their own type, so that nothing is widened or rounded."""
        return self.sums == self.name

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The type as NumPy's."""
        return np.dtype(self.name if self.in_numpy else getattr(loaded("ml_dtypes"), self.name))


DTYPES = {
    dtype.name: dtype
    for dtype in (
        Dtype("float16", 2, 2.0**-10, "float32", "Float16", "HalfProduct", "uint16"),
        Dtype("bfloat16", 2, 2.0**-7, "float32", "BFloat16", "BFloat16Product", "int16", in_numpy=False),
        Dtype("float32", 4, 2.0**-23, "float32", "Float32", "Tf32Product", "float32"),
        Dtype("float64", 8, 2.0**-52, "float64", "Float64", "", "float64"),
    )
}
"""Every dtype that a convolution takes, by its name."""
