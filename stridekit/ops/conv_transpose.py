"""The public transposed convolutions: the input's gradient of a convolution, with bias and activation."""

from __future__ import annotations

from collections.abc import Sequence

from stridekit.arguments import per_axis
from stridekit.backends import load_backend
from stridekit.errors import ShapeError
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
from stridekit.problems.conv_problem import transposed_problem
from stridekit.problems.geometry import AxisGeometry, ConvGeometry
from stridekit.problems.padding import Padding, resolve_padding


def conv_transpose(
    rank: int,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    layout: str | None = None,
    activation: ActivationArgument = None,
    precision: str = "ieee",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Spread {things} by a bank of filters: the input's gradient of a convolution, with bias and activation.

    Parameters
    ----------
    x : array, shape (N, C, *spatial), or (N, *spatial, C) with channels last
    weight : array, shape (C, K / groups, *kernel)
        In every layout; of x's dtype.
    bias : array, shape (K,), optional
    stride, dilation : int, or one per axis
    padding : int, one int or one (before, after) pair per axis, or a name
        Pixels taken off the result. ``"same"`` gives ``size * stride`` outputs, an odd pixel after;
        ``"same_lower"``: before; ``"valid"``: none.
    output_padding : int, or one per axis
        Pixels added after the result, which may lie beyond every window and then hold the activated bias; less than
        the larger of stride and dilation.
    groups, layout, activation, precision, out, backend
        As for `stridekit.conv2d`.

    Returns
    -------
    array, shape (N, K, *output) or (N, *output, K)
        Each size is ``(size - 1) * s - p_lo - p_hi + d * (kernel - 1) + output_padding + 1``.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> sk.conv_transpose1d(np.ones((1, 1, 2)), np.ones((1, 1, 2)), stride=3, output_padding=1).tolist()
    [[[1.0, 1.0, 0.0, 1.0, 1.0, 0.0]]]
    >>> x = np.ones((1, 8, 7, 7), np.float32)
    >>> sk.conv_transpose2d(x, np.ones((8, 3, 4, 4), np.float32), stride=2, padding=1).shape
    (1, 3, 14, 14)
    """
    library = one_library({"x": x, "weight": weight, "bias": bias, "out": out})
    last = channels_last_layout(layout, rank)
    check_axes("conv_transpose", rank, x, weight)
    shape = channels_first_shape(tuple(x.shape), last)
    problem = transposed_problem(
        shape,
        tuple(weight.shape),
        transposed_geometry(shape[2:], tuple(weight.shape[2:]), stride, padding, output_padding, dilation),
        dtype=one_dtype({"x": x, "weight": weight}),
        memory_order=memory_order_of(x, last),
        groups=groups,
        bias=bias is not None,
        activation=activation,
        precision=precision,
    )
    name, reason = choose_backend(backend, library)
    plan = choose_plan(problem, layout, name, reason, load_backend(name).device(x))
    return plan.execute(weight, x, bias, out=out)


conv_transpose1d, conv_transpose2d, conv_transpose3d = (of_rank(conv_transpose, rank) for rank in (1, 2, 3))


def transposed_geometry(
    sizes: tuple[int, ...],
    kernels: tuple[int, ...],
    stride: int | Sequence[int],
    padding: Padding,
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> ConvGeometry:
    """Return the convolution whose outputs are x's pixels and whose inputs are the result's."""
    rank = len(sizes)
    if min((*sizes, *kernels), default=1) < 1:
        raise ShapeError(f"x {sizes} and weight {kernels} need at least one pixel and one tap on every spatial axis")
    strides, dilations = per_axis("stride", stride, rank), per_axis("dilation", dilation, rank)
    extra = per_axis("output_padding", output_padding, rank, minimum=0)
    for added, step, spread in zip(extra, strides, dilations, strict=True):
        if added >= max(step, spread):
            raise ShapeError(
                f"output_padding is {output_padding!r}; it must be less than the larger of stride {step} and dilation "
                f"{spread}: more pixels than that lie beyond every window"
            )
    if isinstance(padding, str) and padding == "causal":
        raise ShapeError("padding 'causal' is for convolutions; give (before, after) pairs")
    whole = tuple(size * step for size, step in zip(sizes, strides, strict=True))
    pairs = resolve_padding(padding, whole, kernels, strides, dilations)
    same = isinstance(padding, str) and padding in ("same", "same_lower")
    axes = []
    for number, (size, kernel, step, spread, (before, after), added) in enumerate(
        zip(sizes, kernels, strides, dilations, pairs, extra, strict=True)
    ):
        reached = (size - 1) * step + spread * (kernel - 1) + 1
        result = whole[number] + added if same else reached - before - after + added
        if result < 1:
            raise ShapeError(
                f"padding {(before, after)} takes all of the {reached} pixels of spatial axis {number}; give less"
            )
        # What lies beyond the windows is less than no padding: the outputs stay x's pixels.
        axes.append(AxisGeometry(result, kernel, step, spread, before, reached - before - result))
    return ConvGeometry(tuple(axes))
