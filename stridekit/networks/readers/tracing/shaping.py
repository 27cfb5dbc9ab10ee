"""What moves axes, channels and pixels while a model is followed: transpositions, slices, resizing, flattening."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from stridekit.errors import NetworkError
from stridekit.networks.operations import Concat, Flatten, GlobalAvgPool, GlobalMaxPool, Slice, Upsample
from stridekit.networks.readers.tracing.tracer import Tracer
from stridekit.networks.readers.tracing.values import Padded, Tensor, Value, channels_first, features
from stridekit.networks.readers.tracing.windows import plain


def transpose(value: Value, axes: Sequence[int]) -> Tensor:
    """Return the same features with their axes in another order."""
    tensor = features(value)
    rank = len(tensor.shape)
    chosen = tuple(axis % rank for axis in axes)
    if sorted(chosen) != list(range(rank)):
        raise NetworkError(f"the axes are {tuple(axes)}; wanted each of {rank} once")
    # An activation's formula is of its elements in their old places.
    return replace(
        tensor,
        shape=tuple(tensor.shape[axis] for axis in chosen),
        order=tuple(tensor.order[axis] for axis in chosen),
        formula=None,
    )


def reshape(tracer: Tracer, value: Value, shape: Sequence[int], *, zero_copies: bool = False) -> Tensor:
    """Flatten, or leave as it is: no other change of shape keeps pixels and channels what they are."""
    tensor = features(value)
    wanted = _filled(tensor.shape, tuple(shape), zero_copies)
    if wanted == tensor.shape:
        return tensor
    batch = tensor.shape[0]
    if wanted != (batch, math.prod(tensor.shape[1:])) or tensor.order[0] != 0:
        raise NetworkError(f"{tensor.shape} to {wanted} is not known; only to ({batch}, features), which flattens")
    if not tensor.channels_first and math.prod(tensor.shape[axis] for axis in tensor.spatial_axes) > 1:
        raise NetworkError(f"flattens {tensor.shape} with its channels last; known is with its channels first")
    return tracer.emit(Flatten(), [tensor])


def flatten(tracer: Tracer, value: Value, start: int = 1) -> Tensor:
    """Make all axes from `start` on one."""
    tensor = features(value)
    rank = len(tensor.shape)
    start = start + rank if start < 0 else start
    if not 0 <= start <= rank:
        raise NetworkError(f"axis is {start}; there are {rank}")
    return reshape(tracer, tensor, (math.prod(tensor.shape[:start]), math.prod(tensor.shape[start:])))


def squeeze(tracer: Tracer, value: Value, axes: Sequence[int] | None) -> Tensor:
    """Remove axes of one pixel: all spatial ones, which flattens."""
    tensor = features(value)
    rank = len(tensor.shape)
    if axes is None:
        chosen = {axis for axis, size in enumerate(tensor.shape) if size == 1}
    else:
        chosen = {axis % rank for axis in axes}
    if not chosen:
        return tensor
    if any(tensor.shape[axis] != 1 for axis in chosen):
        raise NetworkError(f"axes {sorted(chosen)} of {tensor.shape} are not all 1")
    if chosen != set(tensor.spatial_axes):
        raise NetworkError(f"removes axes {sorted(chosen)} of {tensor.shape}; known is to remove all spatial ones")
    return tracer.emit(Flatten(), [tensor])


def reduce(tracer: Tracer, value: Value, axes: Sequence[int], *, keep: bool, largest: bool) -> Tensor:
    """Pool over all pixels, where that is what is reduced over."""
    tensor = features(value)
    chosen = {axis % len(tensor.shape) for axis in axes}
    if not chosen or chosen != set(tensor.spatial_axes):
        raise NetworkError(
            f"reduces axes {sorted(chosen)} of {tensor.shape}; known is over all spatial ones, {tensor.spatial_axes}"
        )
    pooled = tracer.emit(GlobalMaxPool() if largest else GlobalAvgPool(), [tensor])
    return pooled if keep else tracer.emit(Flatten(), [pooled])


def concat(tracer: Tracer, values: Sequence[Value], axis: int) -> Tensor:
    """Put channels one after the other."""
    tensors = [features(value, f"input {number}") for number, value in enumerate(values)]
    if not tensors:
        raise NetworkError("has no inputs")
    first = tensors[0]
    if axis % len(first.shape) != first.channel_axis or any(tensor.order != first.order for tensor in tensors):
        raise NetworkError(f"axis is {axis} of {first.shape}; known is along the channels, axis {first.channel_axis}")
    return first if len(tensors) == 1 else tracer.emit(Concat(), tensors)


def take(tracer: Tracer, value: Value, axis: int, start: int, stop: int, step: int = 1) -> Tensor:
    """Take some of the channels, with `start` and `stop` as in a Python slice."""
    tensor = features(value)
    if not -len(tensor.shape) <= axis < len(tensor.shape):
        raise NetworkError(f"axis is {axis}; there are {len(tensor.shape)}")
    axis %= len(tensor.shape)
    size = tensor.shape[axis]
    first, last, _ = slice(start, stop, 1).indices(size)
    if (first, last, step) == (0, size, 1):
        return tensor
    if axis != tensor.channel_axis or step != 1 or first >= last:
        raise NetworkError(
            f"takes {start} to {stop}, step {step}, of axis {axis} of {tensor.shape}; "
            f"known is a span of channels, axis {tensor.channel_axis}"
        )
    return tracer.emit(Slice(first, last), [tensor])


def split(tracer: Tracer, value: Value, axis: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Take all of the channels, in parts of the given sizes."""
    tensor = features(value)
    if not -len(tensor.shape) <= axis < len(tensor.shape):
        raise NetworkError(f"axis is {axis}; there are {len(tensor.shape)}")
    if sum(sizes) != tensor.shape[axis] or min(sizes, default=0) < 1:
        raise NetworkError(f"the parts are {tuple(sizes)} of {tensor.shape[axis]}; wanted all of them")
    parts, start = [], 0
    for size in sizes:
        parts.append(take(tracer, tensor, axis, start, start + size))
        start += size
    return tuple(parts)


def resize(tracer: Tracer, value: Value, sizes: Sequence[int], mode: str, *, align_corners: bool) -> Tensor:
    """Resize to spatial sizes: by a whole factor, else to the size of the latest layer that has it."""
    tensor = channels_first(value)
    have, wanted = tensor.shape[2:], tuple(sizes)
    if len(have) != len(wanted) or min(wanted, default=0) < 1:
        raise NetworkError(f"resizes {tensor.shape} to {wanted}")
    if have == wanted:
        return tensor
    align_corners = align_corners and mode == "linear"
    factors = [Fraction(size, old) for size, old in zip(wanted, have, strict=True)]
    if all(factor.denominator == 1 for factor in factors):
        factor = plain(tuple(int(factor) for factor in factors))
        return tracer.emit(Upsample(factor, mode, align_corners), [tensor])
    like = tracer.sized(wanted)
    if like is None:
        raise NetworkError(f"resizes {have} to {wanted}; known are whole factors, and sizes that a layer before has")
    return tracer.emit(Upsample(None, mode, align_corners), [tensor, like])


def pad(value: Value, pairs: Sequence[tuple[int, int]], mode: str, place: str) -> Tensor | Padded:
    """Put a padding aside, of every axis of the model, for the window that takes it."""
    tensor = features(value)
    if len(pairs) != len(tensor.shape):
        raise NetworkError(f"pads {len(pairs)} axes of {tensor.shape}")
    if any(amount < 0 for pair in pairs for amount in pair):
        raise NetworkError(f"the padding is {tuple(pairs)}; a negative one is not known")
    if any(any(pair) for axis, pair in enumerate(pairs) if tensor.order[axis] < 2):
        raise NetworkError(f"the padding is {tuple(pairs)}; known is one of spatial axes alone")
    if not any(map(any, pairs)):
        return tensor
    return Padded(tensor, tuple(pairs[axis] for axis in tensor.spatial_axes), mode, place)


def _filled(shape: tuple[int, ...], wanted: tuple[int, ...], zero_copies: bool) -> tuple[int, ...]:
    """Put numbers for -1, and for 0 where that copies the old size."""
    sizes = list(wanted)
    for axis, size in enumerate(sizes):
        if size == 0 and zero_copies and axis < len(shape):
            sizes[axis] = shape[axis]
    if sizes.count(-1) == 1:
        others = math.prod(size for size in sizes if size != -1)
        if others > 0 and math.prod(shape) % others == 0:
            sizes[sizes.index(-1)] = math.prod(shape) // others
    if min(sizes, default=0) < 1 or math.prod(sizes) != math.prod(shape):
        raise NetworkError(f"{shape} does not reshape to {wanted}")
    return tuple(sizes)
