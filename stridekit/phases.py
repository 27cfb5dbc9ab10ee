"""The strided adjoint, axis by axis, in integers: which outputs reach an input pixel, phase by phase.

With stride s the input pixels fall into s phases. The gradient on one of them is a dense correlation of the output's
gradient at stride 1 with every (s / g)-th tap of the kernel, in reverse, at dilation d / g, where g = gcd(s, d): no
multiplication by the zeros that an "upsampled" gradient would hold, and every pixel belongs to exactly one phase.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from stridekit.geometry import AxisGeometry


@dataclass(frozen=True)
class AxisPhase:
    """Every `stride`-th input pixel of an axis from one on, and what its gradient is a correlation of.

    Attributes
    ----------
    pixels : slice
        These pixels.
    outputs : slice
        The output pixels whose gradient reaches them.
    taps : slice
        The taps they are reached by, in reverse.
    axis : AxisGeometry or None
        The correlation from `outputs` to `pixels`; None where no window reads any of these pixels.
    """

    pixels: slice
    outputs: slice
    taps: slice
    axis: AxisGeometry | None


def axis_phases(axis: AxisGeometry) -> tuple[AxisPhase, ...]:
    """Return the phases of an axis whose padding holds zeros: one for each of the first `stride` input pixels."""
    return tuple(_phase(axis, first) for first in range(min(axis.stride, axis.size)))


def _phase(axis: AxisGeometry, first: int) -> AxisPhase:
    stride, dilation = axis.stride, axis.dilation
    pixels = slice(first, axis.size, stride)
    count = len(range(first, axis.size, stride))
    nothing = AxisPhase(pixels, slice(0, 0), slice(0, 0), None)
    lowest, residue = divmod(first + axis.pad_before, stride)
    common = math.gcd(stride, dilation)
    if residue % common:
        return nothing
    # The taps f with f * dilation = residue (mod stride): every `step`-th from one on.
    step = stride // common
    tap = residue // common * pow(dilation // common, -1, step) % step
    if tap >= axis.kernel:
        return nothing
    taps = -(-(axis.kernel - tap) // step)
    spread = dilation // common
    # Pixel q of the phase reads outputs `lowest + q - early - j * spread`, j counting the taps.
    early = (tap * dilation - residue) // stride
    start = lowest - early - (taps - 1) * spread
    stop = lowest + count - early
    low, high = max(0, start), min(axis.output_size, stop)
    if low >= high:
        return nothing
    last = tap + (taps - 1) * step
    return AxisPhase(
        pixels,
        slice(low, high),
        slice(last, None, -step),
        AxisGeometry(high - low, taps, 1, spread, low - start, stop - high),
    )


def phases(axes: tuple[AxisGeometry, ...]) -> tuple[tuple[AxisPhase, ...], ...]:
    """Return every combination of one phase of each axis."""
    return tuple(itertools.product(*map(axis_phases, axes)))
