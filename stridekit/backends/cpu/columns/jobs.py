"""The jobs of the kernels that add columns up and lay weights out for them, as they lie in memory."""

from __future__ import annotations

from typing import NamedTuple

from stridekit.backends.cpu.forward.jobs import Weight


class Line(NamedTuple):
    """One axis: what is added, and where it goes.

    Attributes
    ----------
    kernel, stride, dilation, pad : int
    first, last : int
        The outputs whose columns there are.
    low, high : int
        The pixels that are dealt with.
    block, blocks : int
        Pixels of a box; boxes.
    """

    kernel: int
    stride: int
    dilation: int
    pad: int
    first: int
    last: int
    low: int
    high: int
    block: int
    blocks: int


class Columns(NamedTuple):
    """Address of the first column; bytes to the next sample, plane, output and tap."""

    start: int
    n: int
    p: int
    d: int
    h: int
    w: int
    tap_d: int
    tap_h: int
    tap_w: int


class Planes(NamedTuple):
    """Address of an array; bytes to the next sample, plane, element of a pixel, and pixel."""

    start: int
    n: int
    p: int
    c: int
    d: int
    h: int
    w: int


class Adding(NamedTuple):
    """A job of adding columns up.

    Attributes
    ----------
    d, h, w : Line
    tasks, counter : how many boxes in all, and the address of the shared task counter
    planes, unit, itemsize : planes of a sample, neighbouring elements of a plane's pixel, bytes of a sum
    by_pixels : whether a run is the outputs of a row, rather than the taps of one
    columns : Columns
    sums, out : Planes of the sums and of the result; address 0 where the sums are the result
    bias, begins, ends : address of a sum for each channel; whether sums begin with it; whether they are then complete
    activation, slope : number in `epilogue`, and address of its parameter in the type of the sums
    """

    d: Line
    h: Line
    w: Line
    tasks: int
    counter: int
    planes: int
    unit: int
    itemsize: int
    by_pixels: int
    columns: Columns
    sums: Planes
    out: Planes
    bias: int
    begins: int
    ends: int
    activation: int
    slope: int


class Laying(NamedTuple):
    """A job of laying weights out for the product.

    Attributes
    ----------
    tasks, counter : rows in all, and the address of the shared task counter
    packed : address of the first row in tile order
    channels, filters : rows of a group (the convolution's filters), elements of a row
    vector, tile, itemsize : elements of a vector, elements of a row that lie together, bytes of one
    flat : whether the weights of a row lie end to end in the order of its elements, in the type of the sums
    by_taps : whether the elements of a row are ordered by taps, then by the convolution's channels
    c, t_d, t_h, t_w : the convolution's channels of a group, and the taps
    weight : Weight
    """

    tasks: int
    counter: int
    packed: int
    channels: int
    filters: int
    vector: int
    tile: int
    itemsize: int
    flat: int
    by_taps: int
    c: int
    t_d: int
    t_h: int
    t_w: int
    weight: Weight
