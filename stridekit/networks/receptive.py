"""The receptive field: which pixels of the input an output pixel depends on, as an interval that moves with the pixel.

Along one axis, output pixel j of a layer depends on the input's pixels ``[first, last] + j * stride``, with the
effective stride and both ends carried from layer to layer as fractions: no floating point. Source: A. Araujo,
W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from stridekit.errors import NetworkError
from stridekit.memory.limits import LARGEST_FIELD_BITS
from stridekit.networks.operations import Input, Reach
from stridekit.networks.operations.base import FIRST_PIXEL

if TYPE_CHECKING:
    from stridekit.networks.layers import Layer
    from stridekit.networks.network import Network


@dataclass(frozen=True)
class AxisField:
    """What output pixel j depends on along one axis: ``[first, last] + j * stride``, in the input's pixels."""

    first: Fraction
    last: Fraction
    stride: Fraction

    @property
    def size(self) -> int:
        """Pixels; after an upsampling, at most so many."""
        return math.floor(self.last - self.first) + 1

    @property
    def bits(self) -> int:
        """Bits of the longest number in it: strides multiply from layer to layer."""
        numbers = (number for each in (self.first, self.last, self.stride) for number in each.as_integer_ratio())
        return max(map(int.bit_length, numbers))

    def padding(self, outputs: int, pixels: int) -> tuple[int, int]:
        """Return how far the fields of the first and the last of `outputs` pixels reach beyond the input's `pixels`."""
        end = self.last + (outputs - 1) * self.stride
        return math.ceil(-self.first), math.floor(end) - (pixels - 1)

    def through(self, reach: Reach) -> AxisField:
        """Return the field after an operation that reads `reach` of a layer with this field."""
        return AxisField(
            self.first + reach.first * self.stride, self.last + reach.last * self.stride, self.stride * reach.step
        )


START = AxisField(Fraction(0), Fraction(0), Fraction(1))

Fields: TypeAlias = tuple[AxisField, ...]


def axis_fields(network: Network) -> dict[str, Fields | None]:
    """Return what an output pixel of each layer depends on, along each axis; None where that is everything."""
    found: dict[str, Fields | None] = {}
    for layer in network.layers:
        fields = found[layer.name] = _of_layer(network, layer, found)
        if any(field.bits > LARGEST_FIELD_BITS for field in fields or ()):
            raise NetworkError(
                f"layer {layer.name!r}: what its pixels depend on takes numbers of over {LARGEST_FIELD_BITS} bits: "
                "the strides before it multiply to more than any image has pixels",
                layer=layer.name,
            )
    return found


def _of_layer(network: Network, layer: Layer, before: dict[str, Fields | None]) -> Fields | None:
    output = network.features[layer.name].shape
    if isinstance(layer.operation, Input):
        return (START,) * (len(output) - 1) if len(output) > 1 else None
    resolved = network.resolved[layer.name]
    reach = layer.operation.reach(resolved)
    if reach is None:
        return None
    known: list[Fields] = []
    for position, name in enumerate(layer.read):
        fields = before[name]
        if fields is None or len(fields) != len(reach):
            return None
        own = (FIRST_PIXEL,) * len(reach) if layer.operation.spreads(position, resolved.inputs) else reach
        known.append(tuple(field.through(one) for field, one in zip(fields, own, strict=True)))
    return tuple(joined([fields[axis] for fields in known], output[1 + axis]) for axis in range(len(reach)))


def joined(fields: Sequence[AxisField], outputs: int) -> AxisField:
    """Return the smallest field that holds all of `fields`, for `outputs` pixels, at the first one's stride.

    Branches that meet have one size, but an odd size halved and doubled again leaves strides that differ a little, and
    a gate's field has none; the ends are then those at which the first or the last pixel reaches farthest.
    """
    stride = fields[0].stride
    drift = [(field.stride - stride) * (outputs - 1) for field in fields]
    first = min(min(field.first, field.first + far) for field, far in zip(fields, drift, strict=True))
    last = max(max(field.last, field.last + far) for field, far in zip(fields, drift, strict=True))
    return AxisField(first, last, stride)
