"""The public convolutions: arguments in, problem, plan, array out."""

from __future__ import annotations

from functools import lru_cache

from stridekit.activation import ActivationArgument
from stridekit.arrays import (
    MEMORY_ORDERS,
    Array,
    channels_first_shape,
    channels_first_view,
    channels_last_layout,
    check_axes,
    memory_order,
    one_dtype,
    one_library,
    plain,
)
from stridekit.backends import load_backend
from stridekit.padding import Padding
from stridekit.planning import choose_backend, choose_plan
from stridekit.problem import ConvProblem, conv_problem


def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = "NCW",
    activation: ActivationArgument = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Correlate signals with a bank of filters: `conv2d` with one spatial axis.

    Parameters
    ----------
    x : array, shape (N, C, W), or (N, W, C) with ``layout="NWC"``
    weight : array, shape (K, C / groups, S)
    bias : array, shape (K,), optional
    padding : int, pair or name
        As for `conv2d`, and ``"causal"``: all of it before, so that no output sees its future.
    stride, dilation, groups, padding_mode, layout, activation, precision, out, backend
        As for `conv2d`; `layout` is one of {"NCW", "NWC"}.

    Returns
    -------
    array, shape (N, K, Q) or (N, Q, K)

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x = np.arange(6.0).reshape(1, 1, 6)
    >>> sk.conv1d(x, np.ones((1, 1, 3)), stride=2, padding="causal").tolist()
    [[[0.0, 3.0, 9.0]]]
    """
    return _conv(
        1, x, weight, bias, stride, padding, dilation, groups, padding_mode, layout, activation, precision, out, backend
    )


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = "NCHW",
    activation: ActivationArgument = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Correlate images with a bank of filters; the kernel is not flipped, as in every framework.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        float16, bfloat16, float32 or float64; any strides, so sliced and read-only arrays too.
    weight : array, shape (K, C / groups, R, S)
        In every layout; of x's dtype.
    bias : array, shape (K,), optional
    stride, dilation : int or (rows, columns)
        Pixels between windows, and between the taps of a window.
    padding : int, one int or one (before, after) pair per axis, or a name
        ``"valid"``: none. ``"same"``: ``ceil(size / stride)`` outputs at every stride, an odd pixel after;
        ``"same_lower"``: before.
    groups : int
        Channels and filters fall into this many blocks that do not mix; C groups is depthwise.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    layout : {"NCHW", "NHWC"}
        Order of the axes. An array of either may lie in memory in either order; the result lies as x does.
    activation : "relu", "relu6", "silu", "gelu", ("leaky_relu", slope) or None
        Applied to the result before it is stored.
    precision : {"ieee", "tf32"}
        "ieee": float32 results are float32-accurate. "tf32" allows a GPU to round factors to 10 bits.
    out : array, optional
        Receives the result: exactly its shape and dtype, no memory shared with an operand.
    backend : {"auto", "cuda", "cpu", "reference"}
        "auto" runs an array where it lives; see also `stridekit.use_backend`.

    Returns
    -------
    array, shape (N, K, P, Q) or (N, P, Q, K)
        With ``P = floor((H + p_lo + p_hi - d * (R - 1) - 1) / s) + 1``. Of x's dtype; 16-bit inputs are
        accumulated in float32. The same bits in every run, whatever the batch and the number of threads.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError
        Each also the built-in that fits: ValueError, TypeError, ValueError, RuntimeError.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x = np.ones((1, 3, 7, 7), np.float32)
    >>> sk.conv2d(x, np.ones((8, 3, 3, 3), np.float32), stride=2, padding=1).shape
    (1, 8, 4, 4)
    """
    return _conv(
        2, x, weight, bias, stride, padding, dilation, groups, padding_mode, layout, activation, precision, out, backend
    )


def conv3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int, int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = "NCDHW",
    activation: ActivationArgument = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Correlate volumes or clips with a bank of filters: `conv2d` with three spatial axes.

    Parameters
    ----------
    x : array, shape (N, C, D, H, W), or (N, D, H, W, C) with ``layout="NDHWC"``
    weight : array, shape (K, C / groups, T, R, S)
    bias : array, shape (K,), optional
    stride, padding, dilation, groups, padding_mode, layout, activation, precision, out, backend
        As for `conv2d`; `layout` is one of {"NCDHW", "NDHWC"}.

    Returns
    -------
    array, shape (N, K, O, P, Q) or (N, O, P, Q, K)

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> clip = np.ones((1, 3, 8, 32, 32), np.float32)
    >>> sk.conv3d(clip, np.ones((4, 3, 3, 7, 7), np.float32), stride=(1, 2, 2), padding="same").shape
    (1, 4, 8, 16, 16)
    """
    return _conv(
        3, x, weight, bias, stride, padding, dilation, groups, padding_mode, layout, activation, precision, out, backend
    )


def _conv(
    rank: int,
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: int | tuple[int, ...],
    padding: Padding,
    dilation: int | tuple[int, ...],
    groups: int,
    padding_mode: str,
    layout: str | None,
    activation: ActivationArgument,
    precision: str,
    out: Array | None,
    backend: str,
) -> Array:
    library = one_library({"x": x, "weight": weight, "bias": bias, "out": out})
    last = channels_last_layout(layout, rank)
    check_axes("conv", rank, x, weight)
    dtype = one_dtype({"x": x, "weight": weight})
    arguments = (
        channels_first_shape(tuple(x.shape), last),
        tuple(weight.shape),
        dtype,
        memory_order(channels_first_view(plain(x), last)) or MEMORY_ORDERS[last],
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        activation,
        precision,
    )
    # Only arguments that are exactly ints, strings and tuples of them: True equals 1, but must not pass for it.
    problem = (_known_problem if _plain(arguments) else _problem)(bias is not None, *arguments)
    name, reason = choose_backend(backend, library)
    plan = choose_plan(problem, layout, name, reason, load_backend(name).device(x))
    return plan.execute(x, weight, bias, out=out)


def _plain(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_plain, value))
    return value is None or type(value) in (int, str)


def _problem(
    bias: bool,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    dtype: str,
    order: str,
    stride: int | tuple[int, ...],
    padding: Padding,
    dilation: int | tuple[int, ...],
    groups: int,
    padding_mode: str,
    activation: ActivationArgument,
    precision: str,
) -> ConvProblem:
    return conv_problem(
        input_shape,
        weight_shape,
        dtype=dtype,
        memory_order=order,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        bias=bias,
        activation=activation,
        precision=precision,
    )


_known_problem = lru_cache(maxsize=4096)(_problem)
