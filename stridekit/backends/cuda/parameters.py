"""What kernels are told: twins of the structs in kernels/parameters.cuh and walk.cuh, and how a problem fills them in.

A kernel with a struct of its own has the twin where it is launched; `structs` in `catalog` lists all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stridekit.backends import Operands
from stridekit.memory.arrays import address
from stridekit.problems.activations import FUSED
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.padding import PADDING_MODES

STEPS: np.dtype[Any] = np.dtype([(name, np.int64) for name in "ncdhw"])
DIVISOR: np.dtype[Any] = np.dtype(
    [("divisor", np.uint64), ("multiplier_64", np.uint64), ("multiplier_32", np.uint32), ("shift", np.uint32)]
)
POINTERS = ("x", "weight", "bias", "residual", "y", "packed", "partials")
DIVISORS = (
    "channel_pitch", "filters", "pixels", "kernel_row", "kernel_column", "output_depth", "output_row",
    "output_column", "filter_blocks", "all_filter_blocks",
)  # fmt: skip
WALK: np.dtype[Any] = np.dtype(
    [("elements", np.int64), *((f"by_{name}", DIVISOR) for name in ("channels", "depth", "row", "column"))], align=True
)
"""The twin of `Walk` in kernels/walk.cuh."""
SIZES = (
    "threads", "M", "depth", "channel_pitch", "group_step", "splits", "blocks_per_split", "filter_tiles",
    "y_in_vectors", "y_by_filters",
)  # fmt: skip
PARAMETERS: np.dtype[Any] = np.dtype(
    [
        *((name, np.uint64) for name in POINTERS),
        ("x_step", STEPS),
        ("y_step", STEPS),
        ("residual_step", STEPS),
        ("weight_step", np.int64, 5),
        ("bias_step", np.int64),
        *((name, np.int64) for name in ("N", "groups", "C", "K")),
        *((name, np.int64, 3) for name in ("size", "output", "kernel", "stride", "dilation", "padding")),
        ("padding_mode", np.int64),
        ("activation", np.int64),
        ("slope", np.float64),
        *((name, np.int64) for name in SIZES),
        *((f"by_{name}", DIVISOR) for name in DIVISORS),
    ],
    align=True,
)


def divisor(value: int) -> tuple[int, int, int, int]:
    """Return what `Divisor` in kernels/parameters.cuh holds for division by `value`, from 1 up to 2**31.

    Source: Granlund and Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994.
    """
    if value == 1:
        return 1, 0, 0, 0
    log = (value - 1).bit_length()
    return value, -(-(1 << 63 + log) // value), -(-(1 << 31 + log) // value) if log < 32 else 0, log - 1


def three(values: Sequence[int], fill: int) -> list[int]:
    """Fill per-axis values up to depth, rows and columns."""
    return [fill] * (3 - len(values)) + list(values)


def parameters_of(problem: ConvProblem) -> np.ndarray:
    """Return a struct with all that the problem alone decides; pointers, steps and tiles are left at zero."""
    filled = np.zeros(1, PARAMETERS)
    p = filled[0]
    axes = problem.geometry.axes
    p["N"], p["groups"] = problem.batch, problem.groups
    p["C"], p["K"] = problem.group_in_channels, problem.group_out_channels
    p["size"], p["output"] = three([a.size for a in axes], 1), three([a.output_size for a in axes], 1)
    p["kernel"], p["stride"] = three([a.kernel for a in axes], 1), three([a.stride for a in axes], 1)
    p["dilation"], p["padding"] = three([a.dilation for a in axes], 1), three([a.pad_before for a in axes], 0)
    p["padding_mode"] = PADDING_MODES.index(problem.padding_mode)
    p["activation"] = -1
    if problem.activation is not None:
        p["activation"], p["slope"] = FUSED.index(problem.activation.name), problem.activation.slope
    return filled


def set_result(p: Any, operands: Operands, out: Any) -> None:
    """Fill in where the result goes, and what the epilogue adds to it."""
    p["y"], p["y_step"] = address(out), steps_of(out)
    if operands.bias is not None:
        p["bias"], p["bias_step"] = address(operands.bias), operands.bias.strides[0] // operands.bias.itemsize
    if operands.residual is not None:
        p["residual"], p["residual_step"] = address(operands.residual), steps_of(operands.residual)


def fresh(filled: np.ndarray) -> np.ndarray:
    """Copy a struct; as bytes, since NumPy copies structs field by field, which takes longer than a small kernel."""
    return np.frombuffer(bytearray(filled.view(np.uint8)), filled.dtype)


def set_divisors(filled: np.ndarray, **values: int) -> None:
    """Fill in the divisors called ``by_<name>``."""
    for name, value in values.items():
        filled[0][f"by_{name}"] = divisor(value)


def walk_of(shape: Sequence[int]) -> tuple[object, ...]:
    """Return what `Walk` in kernels/walk.cuh holds for an ``(N, C, *spatial)`` array."""
    sizes = shape[1], *three(shape[2:], 1)
    return math.prod(shape), *(divisor(max(1, size)) for size in sizes)


def steps_of(array: Any) -> tuple[int, int, int, int, int]:
    """Return an ``(N, C, *spatial)`` array's steps as (n, c, d, h, w), in elements; 0 for axes that it lacks."""
    steps = [int(step) // int(array.itemsize) for step in array.strides]
    d, h, w = three(steps[2:], 0)
    return steps[0], steps[1], d, h, w
