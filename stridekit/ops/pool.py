"""The public poolings: arguments in, problem, plan, array out."""

from __future__ import annotations

from typing import Any

from stridekit.arguments import as_flag
from stridekit.backends import load_backend
from stridekit.memory.arrays import (
    Array,
    channels_first_shape,
    channels_last_layout,
    check_axes,
    dtype_name,
    library_of,
    memory_order_of,
    one_library,
)
from stridekit.ops.ranks import of_rank
from stridekit.planning.dispatch import choose_backend, choose_plan
from stridekit.planning.plan import Plan
from stridekit.problems.padding import Padding
from stridekit.problems.pool_problem import Sizes, pool_problem


def max_pool(
    rank: int,
    x: Array,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    layout: str | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Any:
    """Take the largest value of each window of {things}.

    Parameters
    ----------
    x : array, shape (N, C, *spatial), or (N, *spatial, C) with channels last
        float16, bfloat16, float32 or float64; any strides.
    kernel_size, stride, dilation : int, or one per axis
        Pixels of a window, between windows (by default `kernel_size`) and between the pixels of a window.
    padding : int, one int or one (before, after) pair per axis, or a name
        As for `stridekit.conv2d`, of any size. Padding is never the largest: a window wholly in it gives -inf.
    ceil_mode : bool
        Whether pixels left over get a window too, where it begins in the input or in the padding before it.
    return_indices : bool
        Whether to return where each value lies in its plane, in 2-D ``row * W + column``, as PyTorch numbers; -1 for a
        window wholly in padding.
    layout : {"NCW", "NWC"}, {"NCHW", "NHWC"} or {"NCDHW", "NDHWC"}
    out : array, optional
        Receives the values: exactly their shape and dtype, no memory shared with `x`.
    backend : {"auto", "cuda", "cpu", "reference"}

    Returns
    -------
    array, shape (N, C, *output) or (N, *output, C)
        Of x's dtype and memory order; the same bits on every backend. The first of equal values is taken, and NaN
        before any number, the first of several (PyTorch's indices name the last).
    array of int64, of the same shape, with ``return_indices``

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError, VramBudgetError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> y, indices = sk.max_pool1d(np.array([[[1.0, 3, 2, 2, 0, 1]]]), 2, return_indices=True)
    >>> y.tolist(), indices.tolist()
    ([[[3.0, 2.0, 1.0]]], [[[1, 2, 5]]])
    >>> sk.max_pool2d(np.arange(30.0).reshape(1, 1, 5, 6), 3, stride=2, ceil_mode=True).tolist()
    [[[[14.0, 16.0, 17.0], [26.0, 28.0, 29.0]]]]
    >>> sk.max_pool3d(np.zeros((1, 8, 4, 14, 14), "float32"), (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)).shape
    (1, 8, 4, 7, 7)
    """
    window: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    library_of("x", x)
    check_axes("max_pool", rank, x)
    return_indices = as_flag("return_indices", return_indices)
    window |= {"ceil_mode": ceil_mode, "indices": return_indices}
    return pool_plan("max", "forward", {"x": x, "out": out}, x.shape, layout, backend, window).execute(x, out=out)


def avg_pool(
    rank: int,
    x: Array,
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
    """Average each window of {things}.

    Parameters
    ----------
    x, kernel_size, stride, padding, dilation, ceil_mode, layout, out, backend
        As for `stridekit.max_pool2d`; padding holds zeros.
    count_include_pad : bool
        Whether the divisor counts padding. What a last window of `ceil_mode` takes beyond the padding is never
        counted, as in PyTorch. Without it, a window wholly in padding gives 0.

    Returns
    -------
    array, shape (N, C, *output) or (N, *output, C)
        Of x's dtype and memory order; 16-bit inputs are summed in float32.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError, VramBudgetError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x = np.array([[[3.0, 6.0, 9.0]]])
    >>> sk.avg_pool1d(x, 3, stride=1, padding=1).tolist()
    [[[3.0, 6.0, 5.0]]]
    >>> sk.avg_pool1d(x, 3, stride=1, padding=1, count_include_pad=False).tolist()
    [[[4.5, 6.0, 7.5]]]
    >>> sk.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    >>> sk.avg_pool3d(np.ones((1, 8, 4, 6, 6)), 2).shape
    (1, 8, 2, 3, 3)
    """
    window: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    library_of("x", x)
    check_axes("avg_pool", rank, x)
    window |= {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return pool_plan("avg", "forward", {"x": x, "out": out}, x.shape, layout, backend, window).execute(x, out=out)


max_pool1d, max_pool2d, max_pool3d = (of_rank(max_pool, rank) for rank in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (of_rank(avg_pool, rank) for rank in (1, 2, 3))


def pool_plan(
    operation: str,
    direction: str,
    arrays: dict[str, Array],
    input_shape: tuple[int, ...],
    layout: str | None,
    backend: str,
    window: dict[str, Any],
) -> Plan:
    """Check a pooling's arguments and plan it.

    Parameters
    ----------
    arrays : dict of array
        By the arguments' names; the first says dtype and memory order. `out` may be None.
    input_shape : tuple of int
        In `layout`.
    window : dict
        What else `pool_problem` takes.
    """
    library = one_library(arrays)
    name, first = next(iter(arrays.items()))
    last = channels_last_layout(layout, len(input_shape) - 2)
    problem = pool_problem(
        operation,
        direction,
        channels_first_shape(tuple(input_shape), last),
        dtype=dtype_name(name, first),
        memory_order=memory_order_of(first, last),
        **window,
    )
    chosen, reason = choose_backend(backend, library)
    return choose_plan(problem, layout, chosen, reason, load_backend(chosen).device(first))
