"""The public gradients of a convolution, of any rank: arguments in, problem, plan, array out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec

from stridekit.arguments import as_shape
from stridekit.backends import load_backend
from stridekit.errors import ShapeError
from stridekit.memory.arrays import (
    Array,
    channels_first_shape,
    channels_last_layout,
    layout_shape,
    memory_order_of,
    one_dtype,
    one_library,
    shape_of,
)
from stridekit.planning.dispatch import choose_backend, choose_plan
from stridekit.problems.conv_problem import conv_problem
from stridekit.problems.padding import Padding

P = ParamSpec("P")


def conv_input_grad(
    input_shape: Sequence[int],
    weight: Array,
    grad_output: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Compute the gradient of a convolution's input from that of its output.

    Split by phase: at stride s each of the s phases of an axis is a dense problem of its own, so nothing is multiplied
    by inserted zeros, and pixels that no window reads receive an exact zero.

    Parameters
    ----------
    input_shape : sequence of int
        Of the convolution's input: ``(N, C, *spatial)``, or ``(N, *spatial, C)`` with a channels-last `layout`.
    weight : array, shape (K, C / groups, \\*kernel)
    grad_output : array, shape (N, K, \\*output)
        Or ``(N, *output, K)``; of the weight's dtype.
    stride, padding, dilation, groups, padding_mode, precision, backend
        Those of the convolution, as for `stridekit.conv2d`.
    layout : str, optional
        Such as ``"NHWC"``; None is channels first.
    out : array, optional
        Receives the result.

    Returns
    -------
    array, shape `input_shape`
        In the memory order of `grad_output`.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> gradient = sk.conv_input_grad((1, 1, 6), np.ones((1, 1, 2)), np.ones((1, 1, 2)), stride=3)
    >>> gradient.tolist()
    [[[1.0, 1.0, 0.0, 1.0, 1.0, 0.0]]]
    """
    shape = as_shape("input_shape", input_shape)
    return _gradient(
        "input_grad", shape, shape_of("weight", weight), {"weight": weight, "grad_output": grad_output},
        stride, padding, dilation, groups, padding_mode, layout, precision, out, backend,
    )  # fmt: skip


def _also_input(function: Callable[P, Array]) -> Callable[P, Array]:
    """Let ``input=`` name `x` too."""

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> Array:
        if "input" in options and "x" not in options:
            options["x"] = options.pop("input")
        return function(*arguments, **options)

    return called


@_also_input
def conv_weight_grad(
    x: Array,
    weight_shape: Sequence[int],
    grad_output: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Compute the gradient of a convolution's weight from its input and the gradient of its output.

    Samples and pixels are summed in an order fixed by the shapes: the same bits in every run, on any number of threads.

    Parameters
    ----------
    x : array, shape (N, C, \\*spatial), or (N, \\*spatial, C) with a channels-last `layout`
        The convolution's input; ``input=`` names it too.
    weight_shape : sequence of int
        ``(K, C / groups, *kernel)``.
    grad_output : array, shape (N, K, \\*output)
        Or ``(N, *output, K)``; of x's dtype, in any memory order.
    stride, padding, dilation, groups, padding_mode, layout, precision, out, backend
        As for `conv_input_grad`.

    Returns
    -------
    array, shape `weight_shape`

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> sk.conv_weight_grad(np.arange(6.0).reshape(1, 1, 6), (1, 1, 2), np.ones((1, 1, 2)), stride=3).tolist()
    [[[3.0, 5.0]]]
    """
    shape = as_shape("weight_shape", weight_shape)
    return _gradient(
        "weight_grad", shape_of("x", x), shape, {"x": x, "grad_output": grad_output},
        stride, padding, dilation, groups, padding_mode, layout, precision, out, backend,
    )  # fmt: skip


def _gradient(
    direction: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    operands: dict[str, Array],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
    padding_mode: str,
    layout: str | None,
    precision: str,
    out: Array | None,
    backend: str,
) -> Array:
    library = one_library({**operands, "out": out})
    grad_output = operands["grad_output"]
    rank = len(weight_shape) - 2
    if rank not in (1, 2, 3) or not len(input_shape) == grad_output.ndim == rank + 2:
        input_name, weight_name = ("input_shape", "weight") if "weight" in operands else ("x", "weight_shape")
        raise ShapeError(
            f"{input_name} has {len(input_shape)} axes, {weight_name} {len(weight_shape)} and grad_output "
            f"{grad_output.ndim}; wanted 3, 4 or 5, the same of each: batch and channels, then 1 to 3 spatial axes"
        )
    last = channels_last_layout(layout, rank)
    # The first operand over pixels says how the result, or the input, lies.
    followed = operands.get("x", grad_output)
    problem = conv_problem(
        channels_first_shape(input_shape, last),
        weight_shape,
        dtype=one_dtype(operands),
        memory_order=memory_order_of(followed, last),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        precision=precision,
        direction=direction,
    )
    wanted = layout_shape(problem.output_shape, last)
    if tuple(grad_output.shape) != wanted:
        raise ShapeError(
            f"grad_output has shape {tuple(grad_output.shape)}; the convolution of an input {input_shape} with a "
            f"weight {weight_shape}, stride {problem.geometry.stride} and padding {problem.geometry.padding} gives "
            f"{wanted}"
        )
    name, reason = choose_backend(backend, library)
    plan = choose_plan(problem, layout, name, reason, load_backend(name).device(followed))
    return plan.execute(*operands.values(), out=out)
