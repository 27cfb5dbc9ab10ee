"""The gradients of the poolings, of any rank: what flows back from the output to the input."""

from __future__ import annotations

from typing import Any

from stridekit.arguments import as_shape, shown
from stridekit.errors import ShapeError
from stridekit.memory.arrays import LAYOUTS, Array, library_of
from stridekit.ops.pool import pool_plan
from stridekit.problems.padding import Padding
from stridekit.problems.pool_problem import Sizes


def max_pool_grad(
    x: Array,
    grad_output: Array,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Return the gradient of a max pooling's input: each output's goes to the pixel that it was taken from.

    Where that is, is computed again from `x`, which takes 8 bytes an output; within a `stridekit.vram.budget` for as
    many samples at a time as fit. Each pixel gathers its own sum: the same bits in every run.

    Parameters
    ----------
    x : array, shape (N, C, \\*spatial), or channels last as `layout` says
        The pooling's input, with 1 to 3 spatial axes.
    grad_output : array, of the pooling's output shape and of x's dtype
    kernel_size, stride, padding, dilation, ceil_mode, backend
        As for `stridekit.max_pool2d`.
    layout : str, optional
        Such as ``"NHWC"``; None is channels first.
    out : array, optional
        Receives the gradient: of x's shape and dtype, no memory shared with an operand.

    Returns
    -------
    array, of x's shape, dtype and memory order
        16-bit gradients are summed in float32.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError, VramBudgetError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x = np.array([[[1.0, 3, 2, 0, 1]]])
    >>> sk.max_pool_grad(x, np.array([[[10.0, 20.0]]]), 3, stride=2).tolist()
    [[[0.0, 10.0, 20.0, 0.0, 0.0]]]
    """
    library_of("x", x)
    _check_rank("x", tuple(x.shape))
    arrays = {"x": x, "grad_output": grad_output, "out": out}
    window: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    window |= {"ceil_mode": ceil_mode}
    plan = pool_plan("max", "input_grad", arrays, tuple(x.shape), layout, backend, window)
    return plan.execute(x, grad_output, out=out)


def avg_pool_grad(
    input_shape: tuple[int, ...],
    grad_output: Array,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Return the gradient of an average pooling's input: each output's in equal parts to the pixels of its window.

    Parameters
    ----------
    input_shape : tuple of int
        ``(N, C, *spatial)`` with 1 to 3 spatial axes, or channels last as `layout` says.
    grad_output : array, of the pooling's output shape
    kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, backend
        As for `stridekit.avg_pool2d`.
    layout, out
        As for `max_pool_grad`.

    Returns
    -------
    array, of `input_shape`, in grad_output's dtype and memory order

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError, VramBudgetError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> sk.avg_pool_grad((1, 1, 5), np.array([[[6.0, 12.0]]]), 3, stride=2).tolist()
    [[[2.0, 2.0, 6.0, 4.0, 4.0]]]
    """
    shape = as_shape("input_shape", input_shape)
    _check_rank("input_shape", shape)
    library_of("grad_output", grad_output)
    if grad_output.ndim != len(shape):
        raise ShapeError(
            f"grad_output has {grad_output.ndim} axes {tuple(grad_output.shape)} and input_shape {len(shape)} {shape}; "
            f"wanted as many"
        )
    window: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    window |= {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    arrays = {"grad_output": grad_output, "out": out}
    return pool_plan("avg", "input_grad", arrays, shape, layout, backend, window).execute(grad_output, out=out)


def _check_rank(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) - 2 not in LAYOUTS:
        raise ShapeError(
            f"{name} has {len(shape)} axes {shown(shape)}; wanted 3, 4 or 5: batch, channels and 1 to 3 spatial axes"
        )
