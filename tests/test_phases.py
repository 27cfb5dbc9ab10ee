"""The phases of a strided adjoint, in integers: every pixel once, and exactly the pairs that the definition has."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stridekit.problems.geometry import AxisGeometry
from stridekit.problems.phases import (
    AxisPhase,
    axis_phases,
    covered,
    phase_classes,
    phases,
    read_taps,
    runs_of_phases,
)

axes = st.builds(
    AxisGeometry,
    size=st.integers(1, 40),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 12),
    dilation=st.integers(1, 12),
    pad_before=st.integers(0, 9),
    pad_after=st.integers(-3, 9),
).filter(lambda axis: axis.padded_size >= axis.kernel_extent)
many = settings(max_examples=200)


def chosen(of: slice, size: int) -> list[int]:
    return list(range(size))[of]


def pairs(axis: AxisGeometry, phase: AxisPhase) -> dict[int, list[tuple[int, int]]]:
    """Say which (output, tap) pairs the dense problem of a phase multiplies for each of its pixels."""
    outputs, taps = chosen(phase.outputs, axis.output_size), chosen(phase.taps, axis.kernel)
    found = {}
    for q, pixel in enumerate(chosen(phase.pixels, axis.size)):
        window = phase.axis.input_window(q)
        found[pixel] = [(outputs[at], tap) for tap, at in zip(taps, window, strict=True) if 0 <= at < len(outputs)]
    return found


@many
@given(axis=axes)
def test_every_pixel_that_a_window_reads_lies_in_exactly_one_phase(axis: AxisGeometry) -> None:
    lying = [pixel for phase in axis_phases(axis) for pixel in chosen(phase.pixels, axis.size)]
    assert len(lying) == len(set(lying))
    assert {pixel for pixel in range(axis.size) if axis.outputs_reading(pixel)} <= set(lying) <= set(range(axis.size))
    assert covered(axis) == (len(lying) == axis.size)
    firsts = [phase.pixels.start for phase in axis_phases(axis)]
    assert firsts == sorted(firsts)


@many
@given(axis=axes)
def test_a_class_is_all_phases_of_one_dense_problem(axis: AxisGeometry) -> None:
    found = Counter(phase.axis for phase in axis_phases(axis))
    classes = phase_classes(axis)
    assert {each.axis: each.count for each in classes} == found
    assert [each.first for each in classes][:1] == list(axis_phases(axis))[:1]
    assert all(each.first in axis_phases(axis) for each in classes)
    lowest = [phase.taps.indices(axis.kernel)[0] % (axis.stride // gcd(axis.stride, axis.dilation))
              for phase in axis_phases(axis)]  # fmt: skip
    assert sorted(lowest) == [tap for taps in read_taps(axis) for tap in taps]
    assert len(classes) <= 5 * runs_of_phases(axis)


@many
@given(axis=axes)
def test_without_dilation_there_are_at_most_five_classes(axis: AxisGeometry) -> None:
    dense = replace(axis, dilation=1)
    assert runs_of_phases(dense) == 1
    assert len(phase_classes(dense)) <= 5


@many
@given(axis=axes)
def test_a_phase_multiplies_the_outputs_that_read_each_pixel_by_the_taps_that_read_it(axis: AxisGeometry) -> None:
    for phase in axis_phases(axis):
        for pixel, multiplied in pairs(axis, phase).items():
            assert sorted(output for output, _ in multiplied) == list(axis.outputs_reading(pixel))
            for output, tap in multiplied:
                assert axis.input_window(output)[tap] == pixel


@many
@given(axis=axes)
def test_the_dense_problem_of_a_phase_has_its_pixels_outputs_and_taps(axis: AxisGeometry) -> None:
    for phase in axis_phases(axis):
        assert phase.axis.stride == 1
        assert phase.axis.output_size == len(chosen(phase.pixels, axis.size))
        assert phase.axis.size == len(chosen(phase.outputs, axis.output_size)) > 0
        assert phase.axis.kernel == len(chosen(phase.taps, axis.kernel)) > 0


@many
@given(axis=axes)
def test_all_phases_together_multiply_no_more_often_than_the_forward_problem_with_its_padding(
    axis: AxisGeometry,
) -> None:
    dense = [phase.axis for phase in axis_phases(axis)]
    multiplied = sum(len(found) for phase in axis_phases(axis) for found in pairs(axis, phase).values())
    forward = sum(
        axis.input_window(o)[t] in range(axis.size) for o in range(axis.output_size) for t in range(axis.kernel)
    )
    assert multiplied == forward
    assert sum(each.output_size * each.kernel for each in dense) <= axis.size * axis.kernel


@given(axis=axes)
def test_taps_are_shared_out_among_the_phases(axis: AxisGeometry) -> None:
    """Phases as far apart as the stride and the dilation's common factor says have taps of their own."""
    taps = [tap for phase in axis_phases(axis) for tap in chosen(phase.taps, axis.kernel)]
    assert len(taps) == len(set(taps)), "no tap serves two phases"


def test_phases_of_several_axes_are_every_combination() -> None:
    rows, columns = AxisGeometry(9, 3, 2, 1, 1, 1), AxisGeometry(8, 2, 3, 2, 0, 0)
    found = phases((rows, columns))
    assert found == tuple(itertools.product(axis_phases(rows), axis_phases(columns)))
    assert len(found) == 4


@pytest.mark.parametrize("size", [2**40, 2**40 + 1])
def test_huge_axes_are_exact(size: int) -> None:
    axis = AxisGeometry(size, 3, 2, 1, 1, 1)
    even, odd = axis_phases(axis)
    assert even.axis == AxisGeometry(-(-size // 2), 1, 1, 1, 0, 0)
    assert odd.axis.kernel == 2
    assert odd.axis.output_size == size // 2


def test_a_stride_far_beyond_the_axis_has_one_phase_for_each_pixel_that_is_read() -> None:
    axis = AxisGeometry(4, 3, 2**40, 1, 1, 1)
    assert [phase.pixels.start for phase in axis_phases(axis)] == [0, 1]
    assert not covered(axis)


@pytest.mark.parametrize(
    "axis",
    [
        AxisGeometry(2**40, 2**38, 2**39 + 1, 1, 5, 7),
        AxisGeometry(2**40, 2**38, 2**38 + 1, 3, 0, 0),
        AxisGeometry(10**9, 10**6, 10**6, 1, 0, 0),
        AxisGeometry(10**12, 10**6, 10**6, 10**6, 7, 0),
    ],
)
def test_classes_of_a_huge_stride_are_counted_not_walked(axis: AxisGeometry) -> None:
    classes = phase_classes(axis)
    assert len(classes) <= 5 * runs_of_phases(axis) <= 20
    # No phase is lost: each tap is one of some phase's, unless the phase has no pixel.
    assert sum(each.count * each.axis.kernel for each in classes) == axis.kernel
