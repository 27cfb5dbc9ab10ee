"""What gradients need beside correlating: pixels filled, types widened, padding folded back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.parameters import STEPS, WALK, fresh, parameters_of, steps_of, three, walk_of
from stridekit.backends.cuda.sources import Kernel
from stridekit.memory.arrays import Array, address
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.padding import PADDING_MODES

_THREADS = 256
_WRITTEN = [("walk", WALK), ("y", np.uint64), ("y_step", STEPS), ("channels_inside", np.int64)]
FILL_PARAMETERS: np.dtype[Any] = np.dtype(
    [*_WRITTEN, ("bias", np.uint64), ("bias_step", np.int64), ("activation", np.int64), ("slope", np.float64)],
    align=True,
)
FOLD_PARAMETERS: np.dtype[Any] = np.dtype(
    [
        *_WRITTEN,
        ("x", np.uint64),
        ("x_step", STEPS),
        *((name, np.int64, 3) for name in ("size", "before", "behind")),
        ("padding_mode", np.int64),
    ],
    align=True,
)
"""The twins of `FillParameters` in kernels/fill.cu and of `FoldParameters` in kernels/fold_padding.cu."""
_WIDER = {dtype.name: dtype.sums for dtype in DTYPES.values() if not dtype.sums_itself}
FOLDED = (*((dtype, dtype) for dtype in DTYPES), *_WIDER.items(), *((wide, dtype) for dtype, wide in _WIDER.items()))
"""The types (from, to) that kernels/fold_padding.cu is asked for."""


class DeviceMoves:
    """On a GPU, by kernels of our own; every sum in one order."""

    def fill(self, problem: ConvProblem, device: CudaDevice, bias: Array, target: Array) -> None:
        """Write ``activation(bias)``, or zeros."""
        filled = _writing(target, FILL_PARAMETERS)
        p: Any = filled[0]
        known = parameters_of(problem)[0]
        p["activation"], p["slope"] = known["activation"], known["slope"]
        if bias is not None:
            p["bias"], p["bias_step"] = address(bias), bias.strides[0] // bias.itemsize
        _launch(device, fill_kernel(problem.dtype), filled)

    def convert(self, device: CudaDevice, source: Array, target: Array) -> None:
        """Copy, to a wider type if `target` has one."""
        _launch(device, fold_kernel(str(source.dtype), str(target.dtype)), _adding(source, target))

    def fold(self, problem: ConvProblem, device: CudaDevice, padded: Array, target: Array) -> None:
        """Add every pixel of the padding to the one it was copied from."""
        filled = _adding(padded, target)
        p: Any = filled[0]
        p["before"] = three([axis.pad_before for axis in problem.geometry.axes], 0)
        p["behind"] = three([axis.pad_after for axis in problem.geometry.axes], 0)
        p["padding_mode"] = PADDING_MODES.index(problem.padding_mode)
        _launch(device, fold_kernel(str(padded.dtype), str(target.dtype)), filled)


@lru_cache(maxsize=16)
def fold_kernel(source: str, target: str) -> Kernel:
    """Return the kernel that adds `source` elements up into `target` elements."""
    defines = (("SOURCE", DTYPES[source].cuda_element), ("ELEMENT", DTYPES[target].cuda_element))
    return Kernel("fold_padding.cu", f"fold_padding_{source}_to_{target}", defines, _THREADS)


@lru_cache(maxsize=8)
def fill_kernel(dtype: str) -> Kernel:
    """Return the kernel that writes one value to all pixels of a channel."""
    return Kernel("fill.cu", f"fill_{dtype}", (("ELEMENT", DTYPES[dtype].cuda_element),), _THREADS)


def _writing(target: Array, kind: np.dtype[Any]) -> np.ndarray:
    """Return a struct of `kind` that walks over the elements of an ``(N, C, *spatial)`` array."""
    filled = fresh(_walking(tuple(target.shape), kind))
    p: Any = filled[0]
    p["y"], p["y_step"] = address(target), steps_of(target)
    p["channels_inside"] = abs(int(p["y_step"]["c"])) == 1
    return filled


def _adding(source: Array, target: Array) -> np.ndarray:
    """Return a struct that adds up `source`, which has no padding yet."""
    filled = _writing(target, FOLD_PARAMETERS)
    p: Any = filled[0]
    p["x"], p["x_step"], p["size"] = address(source), steps_of(source), three(target.shape[2:], 1)
    return filled


@lru_cache(maxsize=1024)
def _walking(shape: tuple[int, ...], kind: np.dtype[Any]) -> np.ndarray:
    filled = np.zeros(1, kind)
    filled[0]["walk"] = walk_of(shape)
    return filled


def _launch(device: CudaDevice, kernel: Kernel, filled: np.ndarray) -> None:
    blocks = -(-int(filled[0]["walk"]["elements"]) // _THREADS)
    if blocks:
        launch(device, kernel, (blocks, 1, 1), filled)
