"""The strided adjoint, axis by axis, in integers: which outputs reach an input pixel, phase by phase.

With stride s the input pixels fall into s phases. The gradient on one of them is a dense correlation of the output's
gradient at stride 1 with every (s / g)-th tap of the kernel, in reverse, at dilation d / g, where g = gcd(s, d): no
multiplication by the zeros that an "upsampled" gradient would hold, and every pixel belongs to exactly one phase.

A stride may be as long as an axis and a kernel as long as memory: planning looks at classes of phases, which are the
same dense problem but for where they begin. Without dilation an axis has at most five. Only what runs takes phases
one by one, and of those only the ones that a window reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from stridekit.problems.geometry import AxisGeometry

MOST_CLASSES = 512
"""Different dense problems of one gradient that are planned for: more take a kernel and steps of hundreds of pixels."""


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
    axis : AxisGeometry
        The correlation from `outputs` to `pixels`.
    """

    pixels: slice
    outputs: slice
    taps: slice
    axis: AxisGeometry


@dataclass(frozen=True)
class PhaseClass:
    """The phases of an axis that are the same dense problem.

    Attributes
    ----------
    first : AxisPhase
        The one of them that begins first.
    members : tuple of range
        All of them, each by the lowest of its taps.
    """

    first: AxisPhase
    members: tuple[range, ...]

    @property
    def axis(self) -> AxisGeometry:
        """Return their correlation."""
        return self.first.axis

    @property
    def count(self) -> int:
        """How many phases there are."""
        return sum(map(len, self.members))


def runs_of_phases(axis: AxisGeometry) -> int:
    """Return an upper bound of the runs of neighbouring taps that read the same outputs: 1 without dilation."""
    taps = _lowest_taps(axis)
    return min(taps, (taps - 1) * axis.dilation // axis.stride + 1)


def count_classes(axes: tuple[AxisGeometry, ...]) -> int:
    """Return how many combinations of one class of each axis there are, or a bound of them above `MOST_CLASSES`."""
    runs = math.prod(map(runs_of_phases, axes))
    return runs if runs > MOST_CLASSES else math.prod(len(phase_classes(axis)) for axis in axes)


@lru_cache(maxsize=4096)
def phase_classes(axis: AxisGeometry) -> tuple[PhaseClass, ...]:
    """Return the classes of the phases that a window reads, of an axis whose padding holds zeros.

    It takes time in proportion to `runs_of_phases`. The class of the first phase comes first.
    """
    found: dict[AxisGeometry, PhaseClass] = {}
    for members in _alike(axis):
        phase = _phase(axis, members.start)
        if phase is not None:
            known = found.get(phase.axis, PhaseClass(phase, ()))
            first = min(known.first, phase, key=_place)
            found[phase.axis] = PhaseClass(first, (*known.members, members))
    return tuple(sorted(found.values(), key=lambda each: _place(each.first)))


def axis_phases(axis: AxisGeometry) -> tuple[AxisPhase, ...]:
    """Return the phases that a window reads, of an axis whose padding holds zeros, in order of their first pixels."""
    found = (_phase(axis, tap) for each in phase_classes(axis) for tap in itertools.chain(*each.members))
    return tuple(sorted((phase for phase in found if phase is not None), key=_place))


def read_taps(axis: AxisGeometry) -> tuple[range, ...]:
    """Return the phases that a window reads by the lowest of their taps, in as few ranges as they fill."""
    found: list[range] = []
    for each in sorted(itertools.chain(*(each.members for each in phase_classes(axis))), key=lambda taps: taps.start):
        if found and found[-1].stop == each.start:
            found[-1] = range(found[-1].start, each.stop)
        else:
            found.append(each)
    return tuple(found)


def covered(axis: AxisGeometry) -> bool:
    """Say whether every input pixel belongs to a phase that a window reads."""
    return sum(each.count for each in phase_classes(axis)) == min(axis.stride, axis.size)


def phases(axes: tuple[AxisGeometry, ...]) -> tuple[tuple[AxisPhase, ...], ...]:
    """Return every combination of one phase of each axis that a window reads."""
    return tuple(itertools.product(*map(axis_phases, axes)))


def _place(phase: AxisPhase) -> int:
    """Return the first pixel of a phase."""
    first: int = phase.pixels.start
    return first


def _tap_step(axis: AxisGeometry) -> int:
    """Return how far the taps of one phase lie apart."""
    return axis.stride // math.gcd(axis.stride, axis.dilation)


def _lowest_taps(axis: AxisGeometry) -> int:
    """Return how many phases have taps: tap after tap from 0 on is the lowest of another."""
    return min(_tap_step(axis), axis.kernel)


def _alike(axis: AxisGeometry) -> Iterator[range]:
    """Yield ranges of lowest taps whose phases are the same dense problem, if a window reads them."""
    stride, dilation, taps = axis.stride, axis.dilation, _lowest_taps(axis)
    shift, left_over = axis.pad_before % stride, axis.size % stride
    # Where taps become one fewer, where the phase's first pixel is one stride further, where its pixels become fewer.
    fewer = axis.kernel % _tap_step(axis)
    offsets = (shift, left_over + shift, left_over + shift - stride)
    start = 0
    while start < taps:
        strides = start * dilation // stride
        stop = min(taps, -(-(strides + 1) * stride // dilation))
        cuts = (fewer, *(-(-(strides * stride + offset) // dilation) for offset in offsets))
        edges = sorted({start, stop, *(cut for cut in cuts if start < cut < stop)})
        yield from map(range, edges, edges[1:])
        start = stop


def _phase(axis: AxisGeometry, tap: int) -> AxisPhase | None:
    """Return the phase whose lowest tap is `tap`; None where it has no pixels or no window reads them."""
    stride = axis.stride
    early, residue = divmod(tap * axis.dilation, stride)
    first = (residue - axis.pad_before) % stride
    count = -(-(axis.size - first) // stride)
    if count < 1:
        return None
    lowest = (first + axis.pad_before) // stride
    step, spread = _tap_step(axis), axis.dilation // math.gcd(stride, axis.dilation)
    taps = -(-(axis.kernel - tap) // step)
    # Pixel q of the phase reads outputs `lowest + q - early - j * spread`, j counting the taps.
    start = lowest - early - (taps - 1) * spread
    stop = lowest + count - early
    low, high = max(0, start), min(axis.output_size, stop)
    if low >= high:
        return None
    last = tap + (taps - 1) * step
    return AxisPhase(
        slice(first, axis.size, stride),
        slice(low, high),
        slice(last, None, -step),
        AxisGeometry(high - low, taps, 1, spread, low - start, stop - high),
    )
