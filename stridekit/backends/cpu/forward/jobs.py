"""The jobs of the kernels that pack and convolve, as they lie in memory: a count, and so many of these records."""

from __future__ import annotations

from typing import NamedTuple

from stridekit.backends.cpu.runtime.records import Strided


class Weight(NamedTuple):
    """Address of the first weight, and bytes from one group, filter, channel and tap to the next; 0 if packed."""

    start: int
    g: int = 0
    k: int = 0
    c: int = 0
    d: int = 0
    h: int = 0
    w: int = 0

    def end_to_end(self, sizes: tuple[int, ...], itemsize: int) -> bool:
        """Say whether the weights of a filter of so many channels and taps per axis lie end to end."""
        expected = itemsize
        for size, stride in zip(reversed(sizes), reversed(self[3:]), strict=True):
            if size > 1 and stride != expected:
                return False
            expected *= size
        return True


class Packing(NamedTuple):
    """A job of packing.

    Attributes
    ----------
    blocking : address of the `Blocking`
    packed : address that is written
    unbounded : address of a word that becomes 1 if a weight is infinite or NaN
    counter : address of the shared task counter
    flat : whether each filter's weights lie end to end
    weight : Weight
    """

    blocking: int
    packed: int
    unbounded: int
    counter: int
    flat: int
    weight: Weight


class Call(NamedTuple):
    """What a call adds to a `Blocking`.

    Attributes
    ----------
    blocking : address of the `Blocking`
    weights, unbounded, bias : addresses of what `pack_weights` wrote: `unbounded` of the word after the weights
    activation, slope : number in `epilogue`, and address of its parameter in the type of the sums
    in_place : whether a block that touches no padding may be read where it lies
    scratch, scratch_step : address of ``b.scratch`` bytes for each thread, and bytes from one to the next
    counter : address of the shared task counter
    adds : whether a residual is added to the sums
    x, out, residual : Strided
    """

    blocking: int
    weights: int
    unbounded: int
    bias: int
    activation: int
    slope: int
    in_place: int
    scratch: int
    scratch_step: int
    counter: int
    adds: int
    x: Strided
    out: Strided
    residual: Strided
