"""The job of the kernels that multiply matrices, as it lies in memory: a `Multiplication`."""

from __future__ import annotations

from typing import NamedTuple

from stridekit.backends.cpu.products.blocking import Cut, Matrix


class WindowAxis(NamedTuple):
    """A spatial axis: sizes, steps in pixels, and bytes from pixel to pixel."""

    out: int
    size: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    step: int


class Windows(NamedTuple):
    """How windows lie in an input: bytes between samples and channels, the padding mode, and the axes."""

    sample: int
    channel: int
    mode: int
    d: WindowAxis
    h: WindowAxis
    w: WindowAxis


class Bias(NamedTuple):
    """Address, or 0 for none, and bytes to the next group's, row's, column's."""

    start: int
    group: int
    row: int
    column: int


class Multiplication(NamedTuple):
    """A product of `a` and `b`.

    Attributes
    ----------
    counter : address of the shared task counter
    scratch, scratch_step : address of ``cut.scratch`` bytes for each thread, and bytes from one to the next
    activation, slope : number in `epilogue`, and address of its parameter in the type of the sums
    bias, cut : Bias, Cut
    a, b, result : Matrix
    windows : Windows, if an operand is those
    """

    counter: int
    scratch: int
    scratch_step: int
    activation: int
    slope: int
    bias: Bias
    cut: Cut
    a: Matrix
    b: Matrix
    result: Matrix
    windows: Windows
