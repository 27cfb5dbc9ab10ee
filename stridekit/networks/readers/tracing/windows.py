"""Convolutions and poolings while a model is followed, and the padding that an operator before them put aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

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


class Window(NamedTuple):
    """What slides over the pixels: of each axis, or one number for all."""

    stride: Sizes = 1
    padding: Padding = 0
    dilation: Sizes = 1
    kernel: Sizes = ()

    def pairs(self, sizes: tuple[int, ...]) -> PaddingPairs:
        """Return the padding of each axis, for so many pixels."""
        spread = (per_axis("", each, len(sizes)) for each in (self.kernel, self.stride, self.dilation))
        return resolve_padding(self.padding, sizes, *spread)

    def options(self) -> dict[str, Any]:
        """Return it as operations have it, with one number for all axes where a person would write one."""
        sizes = {"kernel_size": self.kernel, "stride": self.stride, "dilation": self.dilation}
        return {"padding": _plain_padding(self.padding), **{name: plain(size) for name, size in sizes.items()}}


def conv(tracer: Tracer, value: Value, weight: Value, bias: Value, window: Window, groups: int) -> Tensor:
    """Add a convolution; `weight` is ``(K, C / groups, *kernel)``."""
    filters, offset = constant(weight, "the weight"), optional(bias)
    window, mode = _with_padding(value, window._replace(kernel=_kernel(filters, value)))
    operation = Conv(filters.shape[0], **window.options(), groups=groups, padding_mode=mode, bias=offset is not None)
    return tracer.emit(operation, [_inner(value)], {"weight": filters, "bias": offset})


def conv_transpose(
    tracer: Tracer, value: Value, weight: Value, bias: Value, window: Window, output_padding: Sizes, groups: int
) -> Tensor:
    """Add a transposed convolution; `weight` is ``(C, K / groups, *kernel)``."""
    tensor, filters, offset = channels_first(value), constant(weight, "the weight"), optional(bias)
    operation = ConvTranspose(
        filters.shape[1] * groups,
        **window._replace(kernel=_kernel(filters, value)).options(),
        output_padding=plain(output_padding),
        groups=groups,
        bias=offset is not None,
    )
    return tracer.emit(operation, [tensor], {"weight": filters, "bias": offset})


def max_pool(tracer: Tracer, value: Value, window: Window, *, ceil_mode: bool) -> Tensor:
    """Add a max-pooling. Its own padding never wins; zeros from an earlier Pad could, so those are refused."""
    tensor = channels_first(value)
    return tracer.emit(MaxPool(**window.options(), ceil_mode=ceil_mode), [tensor])


def avg_pool(tracer: Tracer, value: Value, window: Window, *, ceil_mode: bool, count_include_pad: bool) -> Tensor:
    """Add an average pooling."""
    if isinstance(value, Padded):
        if ceil_mode:
            raise NetworkError(f"ceil_mode after the padding of {value.place} is not known")
        if not count_include_pad and any(map(any, window.pairs(value.tensor.shape[2:]))):
            raise NetworkError(
                f"has a padding that does not count, and {value.place} one that does; wanted one of them"
            )
        window, mode = _with_padding(value, window)
        if mode != "zeros":
            raise NetworkError(f"the input is padded by {value.place} in mode {mode!r}; a pooling takes zeros")
        count_include_pad = True
    operation = AvgPool(**window.options(), ceil_mode=ceil_mode, count_include_pad=count_include_pad)
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


def _plain_padding(padding: Padding) -> Padding:
    """Write equal paddings as one number."""
    if isinstance(padding, str) or is_int(padding):
        return padding
    pairs = tuple(pair if isinstance(pair, tuple) else (int(pair), int(pair)) for pair in padding)  # type: ignore[union-attr]
    amounts = {amount for pair in pairs for amount in pair}
    return amounts.pop() if len(amounts) == 1 else pairs


def _with_padding(value: Value, window: Window) -> tuple[Window, str]:
    """Return a window that takes the padding before it as its own, and the padding's mode."""
    if not isinstance(value, Padded):
        return window, "zeros"
    own = window.pairs(tuple(value.shape[axis] for axis in value.tensor.spatial_axes))
    if value.mode != "zeros" and any(map(any, own)):
        raise NetworkError(f"pads with zeros what {value.place} padded in mode {value.mode!r}; wanted one padding")
    pairs: PaddingPairs = tuple(
        (before + outer, after + more) for (before, after), (outer, more) in zip(value.pairs, own, strict=True)
    )
    return window._replace(padding=pairs), value.mode


def _inner(value: Value) -> Tensor:
    return channels_first(value.tensor if isinstance(value, Padded) else value)


def _kernel(weight: Constant, value: Value) -> tuple[int, ...]:
    rank = len(_inner(value).shape)
    if len(weight.shape) != rank or rank < 3 or min(weight.shape) < 1:
        raise NetworkError(f"the weight is {weight.shape}, for an input of {rank - 2} spatial axes")
    return weight.shape[2:]


def optional(bias: Value) -> Constant | None:
    """Return a bias that need not be there."""
    return None if bias is None else constant(bias, "the bias")


def pointwise(weight: Constant, rank: int) -> Constant:
    """Return the weight ``(K, C)`` of a linear layer as that of a convolution of one tap."""
    return replace(weight, array=weight.array.reshape(*weight.shape, *(1,) * rank))
