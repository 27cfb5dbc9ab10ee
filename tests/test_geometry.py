"""What a stride, a padding and a dilation do to an axis: the facts everyone quotes, and the formulas behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

import stridekit as sk
from stridekit.problems.geometry import AxisGeometry, ConvGeometry, conv_geometry
from stridekit.problems.padding import source_index


def axes() -> Iterator[AxisGeometry]:
    """Every small axis there is."""
    for size in range(1, 9):
        for kernel in range(1, 5):
            for stride in (1, 2, 3, 5):
                for dilation in (1, 2, 3):
                    for pads in ((0, 0), (1, 1), (0, 2), (3, 0)):
                        axis = AxisGeometry(size, kernel, stride, dilation, *pads)
                        if axis.kernel_extent <= axis.padded_size:
                            yield axis


def windows(axis: AxisGeometry) -> list[list[int]]:
    """Slide a window over the padded axis by hand: input coordinates that each output reads."""
    found, start = [], -axis.pad_before
    while start + axis.dilation * (axis.kernel - 1) < axis.size + axis.pad_after:
        found.append([start + axis.dilation * tap for tap in range(axis.kernel)])
        start += axis.stride
    return found


@pytest.mark.parametrize(("stride", "size"), [(1, 7), (2, 4)])
def test_7x7_under_a_padded_3x3_kernel_gives_7x7_at_stride_1_and_4x4_at_stride_2(stride: int, size: int) -> None:
    g = conv_geometry((7, 7), kernel_size=3, stride=stride, padding=1)
    assert g.output_size == (size, size)
    assert g.dropped == (0, 0)


def test_valid_shrinks_by_the_kernels_extent_less_one() -> None:
    assert conv_geometry((7, 9), kernel_size=3, padding="valid").output_size == (5, 7)
    assert conv_geometry((7, 9), kernel_size=3, padding="valid", dilation=2).output_size == (3, 5)
    assert conv_geometry((7, 9), kernel_size=3, padding="valid").padding == ((0, 0), (0, 0))


@pytest.mark.parametrize("name", ["same", "same_lower"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_gives_ceil_of_size_over_stride_at_every_stride(name: str, kernel: int, dilation: int) -> None:
    for size in range(1, 40):
        for stride in range(1, 12):
            g = conv_geometry(size, kernel_size=kernel, stride=stride, padding=name, dilation=dilation)
            wanted = math.ceil(size / stride)
            extent = dilation * (kernel - 1) + 1
            total = max((wanted - 1) * stride + extent - size, 0)
            assert g.output_size == (wanted,)
            more, less = total - total // 2, total // 2
            assert g.padding == (((less, more),) if name == "same" else ((more, less),))


def test_same_shifts_the_sampling_phase_with_the_stride() -> None:
    """640 wide, kernel 7: (6, 5, 3, 0) pixels in all at strides (1, 2, 4, 8), the smaller half before."""
    strides = (1, 2, 4, 8)
    geometries = [conv_geometry(640, kernel_size=7, stride=s, padding="same") for s in strides]
    formula = [max((math.ceil(640 / s) - 1) * s + 7 - 640, 0) for s in strides]
    assert formula == [6, 5, 3, 0]
    assert [sum(g.padding[0]) for g in geometries] == formula
    assert [g.padding[0][0] for g in geometries] == [3, 2, 1, 0]
    assert [g.phase[0] for g in geometries] == [0.0, 1.0, 2.0, 3.0]


def test_a_fractional_quotient_drops_edge_pixels_and_says_how_many() -> None:
    g = conv_geometry((10, 12), kernel_size=3, stride=5)
    assert (g.output_size, g.remainder, g.dropped) == ((2, 2), (2, 4), (2, 4))
    g = conv_geometry(8, kernel_size=3, stride=2)
    assert (g.output_size, g.remainder, g.dropped) == ((3,), (1,), (1,))


def test_a_remainder_of_padding_drops_no_pixel() -> None:
    g = conv_geometry((224, 224), kernel_size=7, stride=2, padding=3)
    assert (g.output_size, g.remainder, g.dropped) == ((112, 112), (1, 1), (0, 0))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "wanted"),
    [(227, 11, 4, 0, 55), (55, 3, 2, 0, 27), (224, 7, 2, 3, 112), (112, 3, 2, 1, 56), (224, 16, 16, 0, 14),
     (5, 3, 2, 0, 2), (32, 5, 1, 2, 32), (28, 5, 1, 0, 24)],
)  # fmt: skip
def test_famous_layers_have_their_famous_sizes(size: int, kernel: int, stride: int, padding: int, wanted: int) -> None:
    """AlexNet's 227/11/4 is 55; ResNet's stem 112 and 56; ViT's patches 14; LeNet's 28 and 24."""
    g = conv_geometry((size, size), kernel_size=kernel, stride=stride, padding=padding)
    assert g.output_size == (wanted, wanted)


def test_strides_are_rows_before_columns() -> None:
    g = conv_geometry((8, 8), kernel_size=2, stride=(2, 1))
    assert g.output_size == (4, 7)
    assert g.stride == (2, 1)


def test_every_size_is_what_a_window_slid_by_hand_gives() -> None:
    for axis in axes():
        by_hand = windows(axis)
        assert axis.output_size == len(by_hand), axis
        assert [list(axis.input_window(o)) for o in range(axis.output_size)] == by_hand, axis
        reached = by_hand[-1][-1] + 1
        assert axis.remainder == axis.size + axis.pad_after - reached, axis
        assert axis.dropped == max(0, axis.size - max(reached, 0)), axis
        read = {pixel for window in by_hand for pixel in window}
        assert axis.unread == sum(pixel not in read for pixel in range(axis.size)), axis


def test_input_window_and_outputs_reading_are_each_others_inverse() -> None:
    for axis in axes():
        by_hand = windows(axis)
        for pixel in range(axis.size):
            wanted = tuple(o for o, window in enumerate(by_hand) if pixel in window)
            assert axis.outputs_reading(pixel) == wanted, (axis, pixel)


def test_windows_of_all_axes_are_those_of_each() -> None:
    g = conv_geometry((9, 10), kernel_size=(3, 2), stride=(2, 3), padding=((1, 0), (0, 1)), dilation=(1, 2))
    assert g.input_window((1, 2)) == (range(1, 4), range(6, 9, 2))
    assert g.outputs_reading((3, 6)) == ((1, 2), (2,))
    with pytest.raises(sk.ShapeError, match="wanted 2 ints"):
        g.input_window((1,))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "overlap"), [(3, 1, 1, 2), (3, 3, 1, 0), (2, 5, 1, -3), (3, 2, 2, 3)]
)
def test_overlap_counts_shared_pixels_and_is_negative_for_a_gap(
    kernel: int, stride: int, dilation: int, overlap: int
) -> None:
    g = conv_geometry(20, kernel_size=kernel, stride=stride, dilation=dilation)
    assert g.overlap == (overlap,)
    first, second = (set(range(w[0].start, w[0].stop)) for w in (g.input_window((0,)), g.input_window((1,))))
    assert len(first & second) == max(overlap, 0)


def test_phase_is_the_centre_of_the_first_window() -> None:
    assert conv_geometry(9, kernel_size=3, padding=1).phase == (0.0,)
    assert conv_geometry(9, kernel_size=3).phase == (1.0,)
    assert conv_geometry(9, kernel_size=2).phase == (0.5,)
    assert conv_geometry(9, kernel_size=3, dilation=2, padding=1).phase == (1.0,)
    for axis in axes():
        window = axis.input_window(0)
        assert axis.phase == (window[0] + window[-1]) / 2


def test_unread_counts_pixels_in_gaps_and_between_dilated_taps() -> None:
    assert conv_geometry(9, kernel_size=2, stride=3).unread == (3,)
    assert conv_geometry(9, kernel_size=2, stride=2, dilation=2).unread == (4,)
    assert conv_geometry(9, kernel_size=3, stride=2).unread == (0,)


def test_causal_padding_lies_all_before_and_no_output_reads_its_future() -> None:
    for stride in (1, 2, 3):
        g = conv_geometry(10, kernel_size=4, stride=stride, dilation=2, padding="causal")
        assert g.padding == ((6, 0),)
        for o in range(g.output_size[0]):
            assert g.input_window((o,))[0][-1] == o * stride
    with pytest.raises(sk.ShapeError, match="causal"):
        conv_geometry((9, 9), kernel_size=3, padding="causal")


def test_every_form_of_padding_says_the_same() -> None:
    forms = (2, (2, 2), ((2, 2), (2, 2)), [2, (2, 2)], np.int64(2), [[2, 2], [2, 2]])
    assert len({conv_geometry((9, 8), kernel_size=3, padding=form) for form in forms}) == 1


@pytest.mark.parametrize(("number", "mode"), [(0, "constant"), (1, "reflect"), (2, "edge"), (3, "wrap")])
def test_a_padded_pixel_comes_from_where_numpy_pad_takes_it(number: int, mode: str) -> None:
    for size in range(1, 7):
        most = {"reflect": size - 1, "wrap": size}.get(mode, 9)
        padded = np.pad(np.arange(size), most, mode=mode, **({"constant_values": -1} if number == 0 else {}))
        assert [source_index(i, size, number) for i in range(-most, size + most)] == padded.tolist()


@pytest.mark.parametrize(
    ("keywords", "argument"),
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size"),
        ({"kernel_size": 3.0}, "kernel_size"),
        ({"kernel_size": 8}, "kernel_size"),
        ({"kernel_size": 3, "dilation": 4}, "dilation"),
        ({"kernel_size": 3, "stride": 0}, "stride"),
        ({"kernel_size": 3, "stride": (1, -1)}, "stride"),
        ({"kernel_size": 3, "stride": True}, "stride"),
        ({"kernel_size": 3, "stride": "2"}, "stride"),
        ({"kernel_size": 3, "stride": None}, "stride"),
        ({"kernel_size": 3, "dilation": 0}, "dilation"),
        ({"kernel_size": 3, "padding": -1}, "padding"),
        ({"kernel_size": 3, "padding": (1, 2, 3)}, "padding"),
        ({"kernel_size": 3, "padding": ((1, 2, 3), 1)}, "padding"),
        ({"kernel_size": 3, "padding": 1.5}, "padding"),
        ({"kernel_size": 3, "padding": "SAME"}, "padding"),
        ({"kernel_size": 3, "padding": 7, "padding_mode": "reflect"}, "reflect"),
        ({"kernel_size": 3, "padding": 8, "padding_mode": "circular"}, "circular"),
        ({"kernel_size": 3, "padding_mode": "mirror"}, "padding_mode"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(keywords: dict[str, object], argument: str) -> None:
    with pytest.raises(sk.ShapeError, match=argument):
        conv_geometry((7, 7), **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(), (0, 5), (-1,), (2.5,), "7"])
def test_an_input_without_pixels_is_refused(sizes: object) -> None:
    with pytest.raises(sk.ShapeError, match="input_size"):
        conv_geometry(sizes, kernel_size=1)  # type: ignore[arg-type]


def test_a_kernel_that_does_not_fit_is_told_the_padding_that_would_make_it_fit() -> None:
    with pytest.raises(sk.ShapeError, match="padding of at least 2 "):
        conv_geometry(4, kernel_size=7)
    assert conv_geometry(4, kernel_size=7, padding=2).output_size == (2,)


def test_geometries_can_be_compared_and_hashed() -> None:
    a, b = (conv_geometry((9, 8), kernel_size=3, stride=2, padding=1) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert isinstance(a, ConvGeometry)


def test_unread_of_a_huge_axis_is_counted_without_walking_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def outputs_reading(self: AxisGeometry, pixel: int) -> tuple[int, ...]:
        nonlocal asked
        asked += 1
        assert asked < 10_000, "walks over the pixels one by one"
        return ()

    monkeypatch.setattr(AxisGeometry, "outputs_reading", outputs_reading)
    g = conv_geometry(2**33, kernel_size=3, stride=2**20)
    assert g.unread == (2**33 - 3 * g.output_size[0],)
