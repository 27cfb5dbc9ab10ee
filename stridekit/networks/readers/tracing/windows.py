"""Convolutions and poolings while a model is followed, and the padding that an operator before them put aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stridekit.arguments import is_int, per_axis
from stridekit.errors import NetworkError
from stridekit.networks.operations import (
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    ConvTranspose,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
)
from stridekit.networks.operations.base import Sizes
from stridekit.networks.readers.tracing.tracer import Tracer
from stridekit.networks.readers.tracing.values import Constant, Padded, Tensor, Value, channels_first, constant
from stridekit.problems.padding import Padding, PaddingPairs, resolve_padding


def conv(
    tracer: Tracer,
    value: Value,
    weight: Value,
    bias: Value,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Add a convolution; `weight` is ``(K, C / groups, *kernel)``."""
    filters, offset = constant(weight, "the weight"), _optional(bias)
    kernel = _kernel(filters, value)
    padding, mode = _with_padding(value, kernel, stride, padding, dilation)
    operation = Conv(
        filters.shape[0],
        plain(kernel),
        plain(stride),
        plain_padding(padding),
        plain(dilation),
        groups,
        mode,
        offset is not None,
    )
    return tracer.emit(operation, [_inner(value)], _named(weight=filters, bias=offset))


def conv_transpose(
    tracer: Tracer,
    value: Value,
    weight: Value,
    bias: Value,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Add a transposed convolution; `weight` is ``(C, K / groups, *kernel)``."""
    tensor, filters, offset = channels_first(value), constant(weight, "the weight"), _optional(bias)
    kernel = _kernel(filters, value)
    operation = ConvTranspose(
        filters.shape[1] * groups,
        plain(kernel),
        plain(stride),
        plain_padding(padding),
        plain(output_padding),
        plain(dilation),
        groups,
        offset is not None,
    )
    return tracer.emit(operation, [tensor], _named(weight=filters, bias=offset))


def max_pool(
    tracer: Tracer, value: Value, *, kernel: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, ceil_mode: bool
) -> Tensor:
    """Add a max-pooling, whose own padding never is the largest; one of zeros before it could be."""
    tensor = channels_first(value)
    return tracer.emit(
        MaxPool(plain(kernel), plain(stride), plain_padding(padding), plain(dilation), ceil_mode), [tensor]
    )


def avg_pool(
    tracer: Tracer,
    value: Value,
    *,
    kernel: Sizes,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes = 1,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    """Add an average pooling."""
    if isinstance(value, Padded):
        if ceil_mode:
            raise NetworkError(f"ceil_mode after the padding of {value.place} is not known")
        sizes = value.tensor.shape[2:]
        own = resolve_padding(padding, sizes, *(per_axis("", each, len(sizes)) for each in (kernel, stride, dilation)))
        if not count_include_pad and any(map(any, own)):
            raise NetworkError(
                f"has a padding that does not count, and {value.place} one that does; wanted one of them"
            )
        padding, mode = _with_padding(value, kernel, stride, padding, dilation)
        if mode != "zeros":
            raise NetworkError(f"the input is padded by {value.place} in mode {mode!r}; a pooling takes zeros")
        count_include_pad = True
    operation = AvgPool(
        plain(kernel), plain(stride), plain_padding(padding), plain(dilation), ceil_mode, count_include_pad
    )
    return tracer.emit(operation, [_inner(value)])


def adaptive_avg_pool(tracer: Tracer, value: Value, output_size: Sequence[int]) -> Tensor:
    """Add an average pooling to an output size."""
    tensor = channels_first(value)
    if all(size == 1 for size in output_size):
        return tracer.emit(GlobalAvgPool(), [tensor])
    return tracer.emit(AdaptiveAvgPool(plain(tuple(output_size))), [tensor])


def global_pool(tracer: Tracer, value: Value, *, largest: bool) -> Tensor:
    """Add a pooling over all pixels."""
    return tracer.emit(GlobalMaxPool() if largest else GlobalAvgPool(), [channels_first(value)])


def plain(sizes: Sizes) -> Sizes:
    """Write equal sizes of all axes as one number, as a person would."""
    if is_int(sizes):
        return sizes
    values = tuple(int(size) for size in sizes)  # type: ignore[union-attr]
    return values[0] if values and len(set(values)) == 1 else values


def plain_padding(padding: Padding) -> Padding:
    """Write equal paddings as one number."""
    if isinstance(padding, str) or is_int(padding):
        return padding
    pairs = tuple(pair if isinstance(pair, tuple) else (int(pair), int(pair)) for pair in padding)  # type: ignore[union-attr]
    amounts = {amount for pair in pairs for amount in pair}
    return amounts.pop() if len(amounts) == 1 else pairs


def _with_padding(value: Value, kernel: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> tuple[Padding, str]:
    """Return padding and mode of a window that takes the padding before it as its own."""
    if not isinstance(value, Padded):
        return padding, "zeros"
    sizes = tuple(value.shape[axis] for axis in value.tensor.spatial_axes)
    own = resolve_padding(padding, sizes, *(per_axis("", each, len(sizes)) for each in (kernel, stride, dilation)))
    if value.mode != "zeros" and any(map(any, own)):
        raise NetworkError(f"pads with zeros what {value.place} padded in mode {value.mode!r}; wanted one padding")
    pairs: PaddingPairs = tuple(
        (before + outer, after + more) for (before, after), (outer, more) in zip(value.pairs, own, strict=True)
    )
    return pairs, value.mode


def _inner(value: Value) -> Tensor:
    return channels_first(value.tensor if isinstance(value, Padded) else value)


def _kernel(weight: Constant, value: Value) -> tuple[int, ...]:
    rank = len(_inner(value).shape)
    if len(weight.shape) != rank or rank < 3 or min(weight.shape) < 1:
        raise NetworkError(f"the weight is {weight.shape}, for an input of {rank - 2} spatial axes")
    return weight.shape[2:]


def _optional(bias: Value) -> Constant | None:
    return None if bias is None else constant(bias, "the bias")


def _named(**constants: Constant | None) -> dict[str, Constant]:
    return {name: value for name, value in constants.items() if value is not None}


def pointwise(weight: Constant, rank: int) -> Constant:
    """Return the weight ``(K, C)`` of a linear layer as that of a convolution of one tap."""
    return replace(weight, array=weight.array.reshape(*weight.shape, *(1,) * rank))
