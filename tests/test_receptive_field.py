"""Receptive fields against a walk: which pixels of the input does each output pixel depend on, one by one."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stridekit.networks as networks
from stridekit.networks import Layer, Network
from stridekit.networks.operations import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    GlobalAvgPool,
    Input,
    MaxPool,
    Multiply,
    Operation,
    Upsample,
)
from stridekit.networks.receptive import axis_fields

Span = tuple[int, int] | None


def taps(network: Network, layer: Layer, pixel: int, axis: int) -> list[int]:
    """Pixels of its first input that a pixel of a layer is computed from, by the operation's definition."""
    operation, at = layer.operation, network.resolved[layer.name]
    size, wanted = at.inputs[0][1 + axis], at.output[1 + axis]
    if isinstance(operation, Upsample):
        if operation.mode == "nearest":
            return [math.floor(Fraction(pixel * size, wanted))]
        position = (pixel + Fraction(1, 2)) * Fraction(size, wanted) - Fraction(1, 2)
        if operation.align_corners:
            position = Fraction(pixel * (size - 1), max(wanted - 1, 1))
        return sorted({math.floor(position), math.ceil(position)})
    if isinstance(operation, ConvTranspose):
        window = at.spread.axes[axis]
        places = [pixel + window.pad_before - tap * window.dilation for tap in range(window.kernel)]
        return [place // window.stride for place in places if place % window.stride == 0]
    if not at.geometry.axes:
        return [pixel]
    window = at.geometry.axes[axis]
    return [pixel * window.stride - window.pad_before + tap * window.dilation for tap in range(window.kernel)]


class Walk:
    """First and last pixel of the input that a pixel depends on, or None.

    `clipped` leaves out what lies beyond a layer's pixels, where only zeros are; else the map goes on there, by which
    Araujo et al. count padding as part of the field.
    """

    def __init__(self, network: Network, axis: int = 0, clipped: bool = False):
        self.network, self.axis, self.clipped = network, axis, clipped
        self.span = lru_cache(None)(self._span)

    def _span(self, name: str, pixel: int) -> Span:
        if self.clipped and not 0 <= pixel < self.network.features[name].shape[1 + self.axis]:
            return None
        layer = self.network.by_name[name]
        if isinstance(layer.operation, Input):
            return pixel, pixel
        read = [self.network.by_name[each].name for each in layer.read]
        places = [pixel] if len(read) > 1 else taps(self.network, layer, pixel, self.axis)
        found = [span for each in read for place in places if (span := self.span(each, place)) is not None]
        return (min(first for first, _ in found), max(last for _, last in found)) if found else None


def chain(*operations: Operation, size: int = 40) -> Network:
    layers = [Layer("x", Input((1, size)))]
    for number, operation in enumerate(operations):
        layers.append(Layer(f"l{number}", operation, (layers[-1].name,)))
    return Network("chain", layers)


@st.composite
def windows(draw: st.DrawFn, strides: int = 3) -> Operation:
    """A layer that slides a window, or does not."""
    kind = draw(st.sampled_from(["conv", "conv", "max", "avg", "same"]))
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, strides))
    if kind == "same":
        return draw(st.sampled_from([Activation("relu"), BatchNorm()]))
    if kind == "conv":
        pads = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
        return Conv(1, kernel, stride, (pads,), draw(st.integers(1, 3)))
    return (MaxPool if kind == "max" else AvgPool)(kernel, stride, kernel // 2)


@st.composite
def upsamplings(draw: st.DrawFn) -> Operation:
    """A layer that makes more pixels of fewer."""
    if draw(st.booleans()):
        mode = draw(st.sampled_from(["nearest", "linear", "corners"]))
        return Upsample(draw(st.integers(1, 4)), "nearest" if mode == "nearest" else "linear", mode == "corners")
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    padding = draw(st.integers(0, (kernel - 1) // 2))
    return ConvTranspose(1, kernel, stride, padding, dilation=draw(st.integers(1, 2)))


def fits(*operations: Operation, size: int = 40) -> Network | None:
    try:
        return chain(*operations, size=size)
    except networks.NetworkError:
        return None


@given(st.lists(windows(), min_size=1, max_size=6), st.integers(1, 90))
def test_a_chains_fields_are_exact(operations: list[Operation], size: int) -> None:
    network = fits(*operations, size=size)
    if network is None:
        return
    walk = Walk(network)
    for row in network.summary().rows:
        assert row.field_start is not None
        assert row.receptive_field is not None
        assert row.effective_stride is not None
        assert row.field_padding is not None
        (start,), (field,), (stride,) = row.field_start, row.receptive_field, row.effective_stride
        pixels = row.output_shape[2]
        for pixel in range(pixels):
            assert walk.span(row.name, pixel) == (start + pixel * stride, start + pixel * stride + field - 1)
        first, last = walk.span(row.name, 0), walk.span(row.name, pixels - 1)
        assert first is not None
        assert last is not None
        assert row.field_padding == ((-first[0], last[1] - (size - 1)),)
        assert row.outgrows_image == (field > size)


@st.composite
def branched(draw: st.DrawFn, resizing: bool) -> Network:
    """Branches of one size that meet in a sum or a concatenation, some of them down and up again."""
    layers = [Layer("x", Input((2, draw(st.integers(9, 40)))))]

    def add(operation: Operation, *inputs: str) -> str:
        layers.append(Layer(f"l{len(layers)}", operation, inputs or (layers[-1].name,)))
        return layers[-1].name

    for _ in range(draw(st.integers(1, 3))):
        stem, ends = layers[-1].name, []
        stride = draw(st.integers(1, 2))
        for _ in range(draw(st.integers(2, 3))):
            half, dilation = draw(st.integers(0, 2)), draw(st.integers(1, 2))
            end = add(Conv(2, 2 * half + 1, stride, half * dilation, dilation), stem)
            if resizing and stride == 1 and draw(st.booleans()):
                low = add(draw(st.sampled_from([Conv(2, 3, 2, 1), MaxPool(2, 2, ceil_mode=True), Conv(2, 5, 3, 2)])))
                up = draw(
                    st.sampled_from(
                        [Upsample(), Upsample(None, "linear"), Upsample(None, "linear", True), "transposed"]
                    )
                )
                if up == "transposed":
                    add(Conv(2, 3, 2, 1), end)
                    up, low = ConvTranspose(2, 3, 2, 1), layers[-1].name
                end = add(up, low, stem)  # type: ignore[arg-type]
            ends.append(end)
        add(draw(st.sampled_from([Add(), Concat()])), *ends)
        add(Conv(2, 3, draw(st.integers(1, 2)), 1))
    return Network("branched", layers)


@given(branched(resizing=False))
def test_branches_that_meet_have_the_field_of_all_of_them(network: Network) -> None:
    walk = Walk(network)
    for name, fields in axis_fields(network).items():
        assert fields is not None
        for pixel in range(network.features[name].shape[1]):
            at = pixel * fields[0].stride
            assert walk.span(name, pixel) == (fields[0].first + at, fields[0].last + at)


@given(branched(resizing=True))
def test_no_pixel_depends_on_more_than_its_field(network: Network) -> None:
    walk = Walk(network, clipped=True)
    for name, fields in axis_fields(network).items():
        assert fields is not None
        for pixel in range(network.features[name].shape[1]):
            span, at = walk.span(name, pixel), pixel * fields[0].stride
            if span is not None:
                assert fields[0].first + at <= span[0]
                assert span[1] <= fields[0].last + at


def leaves_gaps(up: ConvTranspose) -> bool:
    """Say whether some of the pixels come from fewer inputs than their span holds, or from none."""
    assert isinstance(up.kernel_size, int)
    assert isinstance(up.stride, int)
    return up.dilation != 1 or up.kernel_size < up.stride


def union(network: Network) -> tuple[Fraction, Fraction]:
    """First and last pixel of the fields of all phases, as they move with the pixel."""
    name, walk = network.layers[-1].name, Walk(network)
    fields = axis_fields(network)[name]
    assert fields is not None
    spans = [(walk.span(name, pixel), pixel * fields[0].stride) for pixel in range(-64, 192)]
    found = [(span[0] - at, span[1] - at) for span, at in spans if span is not None]
    return min(first for first, _ in found), max(last for _, last in found)


@given(st.lists(windows(), max_size=3), upsamplings(), st.lists(windows(strides=1), max_size=2))
def test_after_one_upsampling_the_field_is_the_union_of_the_phases(
    before: list[Operation], up: Operation, after: list[Operation]
) -> None:
    network = fits(*before, up, *after)
    if network is None:
        return
    fields = axis_fields(network)[network.layers[-1].name]
    assert fields is not None
    if (isinstance(up, ConvTranspose) and up.dilation > 1) or any(getattr(each, "dilation", 1) > 1 for each in after):
        # A window with holes may miss the phases that reach farthest, and holes may leave a phase with nothing.
        assert fields[0].first <= union(network)[0]
        assert fields[0].last >= union(network)[1]
        return
    assert (fields[0].first, fields[0].last) == union(network)


@given(st.lists(st.one_of(windows(strides=2), upsamplings()), min_size=2, max_size=5))
def test_each_upsampling_widens_the_field_by_less_than_a_pixel_of_what_it_resizes_at_either_end(
    operations: list[Operation],
) -> None:
    network = fits(*operations)
    if network is None or any(isinstance(each, ConvTranspose) and leaves_gaps(each) for each in operations):
        return
    found = axis_fields(network)
    fields = found[network.layers[-1].name]
    assert fields is not None
    slack = Fraction(0)
    for layer in network.layers:
        if isinstance(layer.operation, Upsample | ConvTranspose):
            below = found[layer.inputs[0]]
            assert below is not None
            slack += below[0].stride
    first, last = union(network)
    assert fields[0].first <= first <= fields[0].first + slack
    assert fields[0].last >= last >= fields[0].last - slack


def test_a_u_nets_pixels_reach_at_least_as_far_as_the_paper_cuts_off() -> None:
    # Ronneberger et al., figure 1: of 572 pixels 388 remain without padding, so the first lacks 92 to its left and the
    # last 92 to its right. Of 16 neighbours that hang on one pixel of the lowest level, the others reach up to 15 more.
    network = networks.load("unet").resized((592, 16))
    walk, margin = Walk(network), (572 - 388) // 2
    spans = [(pixel, walk.span("mask", pixel)) for pixel in range(288, 304)]
    assert sorted(pixel - span[0] for pixel, span in spans if span is not None) == list(range(margin, margin + 16))
    assert sorted(span[1] - pixel for pixel, span in spans if span is not None) == list(range(margin, margin + 16))
    fields = axis_fields(network)["mask"]
    assert fields is not None
    assert (fields[0].first, fields[0].last) == (-(margin + 15), margin + 15)


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("resnet50", (97, 113), ["layer2.0.add1", "layer4.2.add1"]),
        ("mobilenet_v1", (65, 96), ["dw13.relu62"]),
        ("yolov8n", (97, 128), ["boxes8.2", "classes32.2"]),
        ("faster_rcnn_r50_fpn", (97, 161), ["deltas2", "objects6"]),
        ("convnext_t", (64, 97), ["stage4.2.add1"]),
        ("deeplabv3_r50", (65, 97), ["aspp3.bn"]),
    ],
)
def test_no_pixel_of_a_network_that_ships_depends_on_more_than_its_field(
    name: str, size: tuple[int, int], layers: list[str]
) -> None:
    network = networks.load(name).resized(size)
    found = axis_fields(network)
    for axis in (0, 1):
        walk = Walk(network, axis, clipped=True)
        for layer in layers:
            fields, pixels = found[layer], network.features[layer].shape[1 + axis]
            assert fields is not None
            for pixel in {0, pixels // 2, pixels - 1}:
                span = walk.span(layer, pixel)
                assert span is not None
                assert fields[axis].first + pixel * fields[axis].stride <= span[0]
                assert span[1] <= fields[axis].last + pixel * fields[axis].stride


def test_a_global_gate_leaves_no_bounds_and_one_of_a_window_holds_still() -> None:
    def gated(*gate: Operation) -> Network:
        layers = [Layer("x", Input((2, 12))), Layer("l0", Conv(2, 3, 2, 1), ("x",))]
        for number, operation in enumerate(gate, 1):
            layers.append(Layer(f"l{number}", operation, (layers[-1].name,)))
        layers += [Layer("y", Multiply(), ("l0", layers[-1].name)), Layer("after", Conv(2, 3), ("y",))]
        return Network("gated", layers)

    for name in ("y", "after"):
        assert axis_fields(gated(GlobalAvgPool(), Conv(2, 1)))[name] is None
    # All six pixels, which see -1 to 11: the last of them looks back to where the first one is, and that one ahead.
    for gate in (AdaptiveAvgPool(1), Conv(2, 6)):
        row = next(row for row in gated(gate).summary().rows if row.name == "y")
        assert row.field_start == (-1 - 5 * 2,)
        assert row.receptive_field == (1 + 5 * 2 + 11 + 1,)
        assert row.effective_stride == (2,)
        for pixel in range(6):
            start = -11 + 2 * pixel
            assert start <= -1
            assert start + 22 >= 11
    # Of one shape, as a sum.
    product = gated(Conv(2, 3, 1, 1))
    added = Network("sum", [*product.layers[:-2], Layer("y", Add(), ("l0", "l1"))])
    assert axis_fields(product)["y"] == axis_fields(added)["y"]
