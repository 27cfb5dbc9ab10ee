"""Blur pooling: a binomial low-pass, then the stride, as one depthwise convolution.

Source: R. Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019 (arXiv:1904.11486).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stridekit.arguments import as_int, as_shape, shown
from stridekit.backends import load_backend
from stridekit.errors import ShapeError
from stridekit.memory.arrays import (
    LAYOUTS,
    Array,
    channels_last_layout,
    check_axes,
    dtype_name,
    library_of,
    numpy_dtype,
)
from stridekit.memory.spaces import uploaded
from stridekit.ops.conv import conv
from stridekit.ops.conv_gradients import conv_input_grad
from stridekit.ops.ranks import of_rank
from stridekit.problems.padding import Padding
from stridekit.problems.pool_problem import Sizes

_LARGEST_FILTER = 64


def blur_pool(
    rank: int,
    x: Array,
    *,
    stride: Sizes = 2,
    filter_size: int = 3,
    padding: Padding | None = None,
    padding_mode: str = "reflect",
    layout: str | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Blur {things} and take every `stride`-th pixel: a stride that aliases less.

    Parameters
    ----------
    x : array, shape (N, C, *spatial), or (N, *spatial, C) with channels last
        float16, bfloat16, float32 or float64; any strides.
    stride : int, or one per axis
    filter_size : int
        Taps per axis of the binomial filter: 3 is ``(1, 2, 1) / 4``, 1 is none.
    padding : any form that `stridekit.conv2d` takes, optional
        By default what the paper's layers use: ``(filter_size - 1) // 2`` before and ``filter_size // 2`` after, which
        gives ``ceil(size / stride)`` outputs whose sampling phase does not depend on the stride.
    padding_mode : {"reflect", "zeros", "replicate", "circular"}
    layout, out, backend
        As for `stridekit.conv2d`.

    Returns
    -------
    array, shape (N, C, *output) or (N, *output, C)

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Notes
    -----
    R. Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019. Filters of up to 5 taps are exact in
    every dtype; the weights of longer ones are rounded to x's.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> sk.blur_pool1d(np.array([[[0.0, 4.0, 0.0, 0.0, 8.0, 0.0]]])).tolist()
    [[[2.0, 1.0, 4.0]]]
    >>> checkers = np.indices((6, 6)).sum(0) % 2 * 2.0
    >>> sk.blur_pool2d(checkers[None, None]).tolist()
    [[[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]]
    >>> sk.blur_pool3d(np.ones((1, 2, 4, 6, 6)), stride=(1, 2, 2)).shape
    (1, 2, 4, 3, 3)
    """
    library_of("x", x)
    check_axes("blur_pool", rank, x)
    channels = int(x.shape[-1 if channels_last_layout(layout, rank) else 1])
    filter_size = check_filter_size(filter_size)
    return conv(
        rank,
        x,
        _binomial("x", x, filter_size, rank, channels),
        stride=stride,
        padding=centred_padding(filter_size, rank) if padding is None else padding,
        groups=channels,
        padding_mode=padding_mode,
        layout=layout,
        out=out,
        backend=backend,
    )


blur_pool1d, blur_pool2d, blur_pool3d = (of_rank(blur_pool, rank) for rank in (1, 2, 3))


def blur_pool_grad(
    input_shape: Sequence[int],
    grad_output: Array,
    *,
    stride: Sizes = 2,
    filter_size: int = 3,
    padding: Padding | None = None,
    padding_mode: str = "reflect",
    layout: str | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Return the gradient of a blur pooling's input, of any rank.

    Parameters
    ----------
    input_shape : sequence of int
        ``(N, C, *spatial)`` with 1 to 3 spatial axes, or channels last as `layout` says.
    layout : str, optional
        Such as ``"NHWC"``; None is channels first.
    grad_output : array, of the pooling's output shape
    stride, filter_size, padding, padding_mode, out, backend
        As for `blur_pool2d`.

    Returns
    -------
    array, of `input_shape`, in grad_output's dtype and memory order

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> sk.blur_pool_grad((1, 1, 4), np.array([[[4.0, 8.0]]]), padding_mode="zeros").tolist()
    [[[2.0, 3.0, 4.0, 2.0]]]
    """
    shape = as_shape("input_shape", input_shape)
    rank = len(shape) - 2
    if rank not in LAYOUTS:
        raise ShapeError(
            f"input_shape has {len(shape)} axes {shown(shape)}; wanted 3, 4 or 5: batch, channels and 1 to 3 more"
        )
    channels = shape[-1 if channels_last_layout(layout, rank) else 1]
    filter_size = check_filter_size(filter_size)
    return conv_input_grad(
        shape,
        _binomial("grad_output", grad_output, filter_size, rank, channels),
        grad_output,
        stride=stride,
        padding=centred_padding(filter_size, rank) if padding is None else padding,
        groups=channels,
        padding_mode=padding_mode,
        layout=layout,
        out=out,
        backend=backend,
    )


def centred_padding(filter_size: int, rank: int) -> tuple[tuple[int, int], ...]:
    """Return the padding by which a binomial filter keeps its place: one pixel less before than after if it is even."""
    return (((filter_size - 1) // 2, filter_size // 2),) * rank


def check_filter_size(filter_size: int) -> int:
    """Read the taps of a binomial filter; refuse those whose weights float64 would no longer hold well."""
    size = as_int("filter_size", filter_size)
    if not 1 <= size <= _LARGEST_FILTER:
        raise ShapeError(f"filter_size is {size}; wanted 1 to {_LARGEST_FILTER}")
    return size


def binomial_weight(filter_size: int, rank: int) -> np.ndarray:
    """Return the binomial filter of `filter_size` taps on each of `rank` axes, in float64; its sum is 1."""
    line = np.array([math.comb(filter_size - 1, tap) for tap in range(filter_size)]) / 2.0 ** (filter_size - 1)
    taps = line
    for _ in range(rank - 1):
        taps = np.multiply.outer(taps, line)
    return taps


def _binomial(name: str, array: Array, size: int, rank: int, channels: int) -> Array:
    """Return weights ``(channels, 1, *filter)`` of `array`'s dtype, where it lies."""
    if channels < 1:
        raise ShapeError(f"{name} has {channels} channels; wanted at least one")
    taps = binomial_weight(size, rank)
    weight = np.broadcast_to(taps, (channels, 1, *taps.shape)).astype(numpy_dtype(dtype_name(name, array)))
    if library_of(name, array) == "numpy":
        return weight
    cuda = load_backend("cuda")
    return uploaded(weight, cuda.memory(cuda.device(array)))
