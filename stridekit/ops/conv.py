"""The public convolutions: arguments in, problem, plan, array out."""

from __future__ import annotations

from stridekit.backends import load_backend
from stridekit.memory.arrays import (
    Array,
    channels_first_shape,
    channels_last_layout,
    check_axes,
    memory_order_of,
    one_dtype,
    one_library,
)
from stridekit.ops.ranks import of_rank
from stridekit.planning.dispatch import choose_backend, choose_plan
from stridekit.problems.activations import ActivationArgument
from stridekit.problems.conv_problem import conv_problem
from stridekit.problems.padding import Padding


def conv(
    rank: int,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    activation: ActivationArgument = None,
    residual: Array | None = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Correlate {things} with a bank of filters; the kernel is not flipped, as in every framework.

    Parameters
    ----------
    x : array, shape (N, C, *spatial), or (N, *spatial, C) with channels last
        float16, bfloat16, float32 or float64; any strides, so sliced and read-only arrays too.
    weight : array, shape (K, C / groups, *kernel)
        In every layout; of x's dtype.
    bias : array, shape (K,), optional
    stride, dilation : int, or one per axis
        Pixels between windows, and between the taps of a window; in the order of x's axes: rows before columns.
    padding : int, one int or one (before, after) pair per axis, or a name
        ``"valid"``: none. ``"same"``: ``ceil(size / stride)`` outputs at every stride, an odd pixel after;
        ``"same_lower"``: before. In 1-D ``"causal"``: all of it before, so that no output sees its future.
    groups : int
        Channels and filters fall into this many blocks that do not mix; C groups is depthwise.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    layout : {"NCW", "NWC"}, {"NCHW", "NHWC"} or {"NCDHW", "NDHWC"}
        Order of the axes. An array of either may lie in memory in either order; the result lies as x does.
    activation : "relu", "relu6", "silu", "gelu", ("leaky_relu", slope) or None
        Applied to the result before it is stored.
    residual : array, optional
        Of the result's shape and dtype, in any memory order: added after the bias and before the activation.
    precision : {"ieee", "tf32"}
        "ieee": float32 results are float32-accurate. "tf32" allows a GPU to round factors to 10 bits.
    out : array, optional
        Receives the result: exactly its shape and dtype, no memory shared with an operand; it may be `residual` itself.
    backend : {"auto", "cuda", "cpu", "reference"}
        "auto" runs an array where it lives; see also `stridekit.use_backend`.

    Returns
    -------
    array, shape (N, K, *output) or (N, *output, K)
        Each size is ``floor((size + p_lo + p_hi - d * (kernel - 1) - 1) / s) + 1``. Of x's dtype; 16-bit inputs are
        accumulated in float32. The same bits in every run, whatever the batch and the number of threads.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError
        Each also the built-in that fits: ValueError, TypeError, ValueError, RuntimeError.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x = np.arange(6.0).reshape(1, 1, 6)
    >>> sk.conv1d(x, np.ones((1, 1, 3)), stride=2, padding="causal").tolist()
    [[[0.0, 3.0, 9.0]]]
    >>> image = np.ones((1, 3, 7, 7), np.float32)
    >>> sk.conv2d(image, np.ones((8, 3, 3, 3), np.float32), stride=2, padding=1).shape
    (1, 8, 4, 4)
    >>> clip = np.ones((1, 3, 8, 32, 32), np.float32)
    >>> sk.conv3d(clip, np.ones((4, 3, 3, 7, 7), np.float32), stride=(1, 2, 2), padding="same").shape
    (1, 4, 8, 16, 16)
    """
    library = one_library({"x": x, "weight": weight, "bias": bias, "residual": residual, "out": out})
    last = channels_last_layout(layout, rank)
    check_axes("conv", rank, x, weight)
    problem = conv_problem(
        channels_first_shape(tuple(x.shape), last),
        tuple(weight.shape),
        dtype=one_dtype({"x": x, "weight": weight}),
        memory_order=memory_order_of(x, last),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        bias=bias is not None,
        activation=activation,
        precision=precision,
        residual=residual is not None,
    )
    name, reason = choose_backend(backend, library)
    plan = choose_plan(problem, layout, name, reason, load_backend(name).device(x))
    return plan.execute(x, weight, bias, residual=residual, out=out)


conv1d, conv2d, conv3d = (of_rank(conv, rank) for rank in (1, 2, 3))
