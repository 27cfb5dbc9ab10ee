"""The networks that ship, held against what their papers and their usual implementations publish of them."""

from __future__ import annotations

import re
from functools import cache
from math import prod
from pathlib import Path

import pytest

import stridekit.networks as networks
from stridekit.networks import Network
from stridekit.networks.summary import Summary, SummaryRow

PRESETS = Path(networks.__file__).parent / "presets"


@cache
def network(name: str) -> Network:
    return networks.load(name)


@cache
def summary(name: str, size: tuple[int, ...] | None = None) -> Summary:
    return network(name).summary(size)


def row(name: str, layer: str, size: tuple[int, ...] | None = None) -> SummaryRow:
    return next(each for each in summary(name, size).rows if each.name == layer)


def shape(name: str, layer: str, size: tuple[int, ...] | None = None) -> tuple[int, ...]:
    return row(name, layer, size).output_shape[1:]


TORCHVISION = "torchvision 0.29, meta num_params and _ops of the weights, which counts one multiply-accumulate as one"
PARAMETERS = [
    ("alexnet", 61_100_840, TORCHVISION),
    ("vgg16", 138_357_544, TORCHVISION),
    ("resnet18", 11_689_512, TORCHVISION),
    ("resnet50", 25_557_032, TORCHVISION),
    ("resnet101", 44_549_160, TORCHVISION),
    ("resnet50_v1", 25_557_032, "as resnet50: where a stride lies changes no weight"),
    ("resnet101_v1", 44_549_160, "as resnet101: where a stride lies changes no weight"),
    ("mobilenet_v1", 4_231_976, "Keras' MobileNet, summary(): trainable"),
    ("mobilenet_v2", 3_504_872, TORCHVISION),
    ("mobilenet_v3_large", 5_483_032, TORCHVISION),
    ("efficientnet_b0", 5_288_548, TORCHVISION),
    ("convnext_t", 28_589_128, TORCHVISION),
    ("faster_rcnn_r50_fpn", 41_755_286, TORCHVISION),
    # 42,004,074 in torchvision, whose auxiliary head has a 3x3 convolution from 1024 to 256 channels, its batch norm
    # and a 1x1 to 21 classes.
    ("deeplabv3_r50", 42_004_074 - (9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21), TORCHVISION),
    ("deeplabv3_r50_os16", 42_004_074 - (9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21), TORCHVISION),
    # Of Ultralytics' 3,157,200, the decoder's 16 are the numbers 0 to 15 and "gradients" are said to be 3,157,184.
    ("yolov8n", 3_157_200 - 16, "Ultralytics, model summary"),
    ("unet", 31_030_658, "gchlebus' U-Net, README: of the paper's, whose padding has no weights"),
    # The convolutions of 3, 4 and 5 words, and the linear layer.
    ("textcnn", 360_300 + 602, "parameters of Kim's CNN without the embeddings, as PyTorch prints them"),
    ("vit_b16", 16 * 16 * 3 * 768 + 768, "Dosovitskiy et al., equation 1: a projection of P * P * C to D, with bias"),
    ("deepspeech2", (41 * 11 * 32 + 32 + 64) + (21 * 11 * 32 * 32 + 32 + 64), "filters, biases and batch norms"),
]


@pytest.mark.parametrize(("name", "parameters", "source"), PARAMETERS, ids=[each[0] for each in PARAMETERS])
def test_a_network_has_as_many_parameters_as_is_published(name: str, parameters: int, source: str) -> None:
    assert summary(name).parameters == parameters, source


def test_every_network_that_ships_is_tested_and_says_where_it_is_from() -> None:
    assert set(networks.names()) == {each[0] for each in PARAMETERS}
    for name in networks.names():
        assert network(name).name == name
        assert re.search(r"\((.* )?20\d\d\)", network(name).source), name


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_file_has_one_line_for_each_layer(path: Path) -> None:
    for line in path.read_text().splitlines():
        layers = len(re.findall(r"\bop = ", line))
        assert layers <= 1
        assert line.startswith("  {") == (layers == 1)


MACS = [
    ("alexnet", None, 0.714, 3),
    ("vgg16", None, 15.47, 2),
    ("resnet18", None, 1.814, 3),
    ("resnet50", None, 4.089, 3),
    ("resnet101", None, 7.801, 3),
    ("mobilenet_v2", None, 0.301, 3),
    ("mobilenet_v3_large", None, 0.217, 3),
    ("efficientnet_b0", None, 0.386, 3),
    ("convnext_t", None, 4.456, 3),
    # torchvision counts at an image of 512x512, which its transform resizes to 800x800; 1000 regions remain.
    ("faster_rcnn_r50_fpn", (800, 800), 134.38, 2),
    # The auxiliary head's products come to the 178.722 of torchvision, at 65x65 pixels.
    ("deeplabv3_r50", (520, 520), round(178.722 - 65 * 65 * (9 * 1024 * 256 + 256 * 21) / 1e9, 3), 3),
]


@pytest.mark.parametrize(("name", "size", "published", "digits"), MACS, ids=[each[0] for each in MACS])
def test_multiply_accumulates_are_torchvisions(
    name: str, size: tuple[int, int] | None, published: float, digits: int
) -> None:
    assert round(summary(name, size).macs / 1e9, digits) == published, TORCHVISION


def test_a_detector_counts_more_at_the_size_of_an_image_than_where_torchvision_counted() -> None:
    # Convolutions grow with the pixels, 1333 to 800; the box head's 1000 regions do not.
    small, large = summary("faster_rcnn_r50_fpn", (800, 800)), summary("faster_rcnn_r50_fpn")
    linear = [each.macs for each in large.rows if each.operation == "linear"]
    # 12544 features of a region to 1024, 1024, and 91 classes and 4 * 91 sides of boxes.
    assert sum(linear) == 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * 91 + 1024 * 364)
    assert (large.macs - sum(linear)) / (small.macs - sum(linear)) == pytest.approx(1333 / 800, rel=0.005)


def test_multiply_accumulates_are_the_papers() -> None:
    # He et al., table 1: 3.8e9 and 7.6e9, which counts multiply-adds; v1.5 costs more, its 3x3 before the stride.
    assert summary("resnet50_v1").macs == pytest.approx(3.8e9, rel=0.02)
    assert summary("resnet101_v1").macs == pytest.approx(7.6e9, rel=0.01)
    assert summary("resnet18").macs == pytest.approx(1.8e9, rel=0.01)
    # Howard et al., table 4: 569 million; Sandler et al., table 4: 300 million.
    assert round(summary("mobilenet_v1").macs / 1e6) == 569
    assert summary("mobilenet_v2").macs == pytest.approx(300e6, rel=0.005)
    # Howard et al., MobileNetV3, table 3: 219 million and 5.4 million parameters.
    assert summary("mobilenet_v3_large").macs == pytest.approx(219e6, rel=0.012)
    assert summary("mobilenet_v3_large").parameters == pytest.approx(5.4e6, rel=0.02)
    # Tan and Le, table 2: 0.39 billion and 5.3 million parameters.
    assert round(summary("efficientnet_b0").macs / 1e9, 2) == 0.39
    assert round(summary("efficientnet_b0").parameters / 1e6, 1) == 5.3
    # Z. Liu et al., table 1: 4.5e9.
    assert round(summary("convnext_t").macs / 1e9, 1) == 4.5
    # Ultralytics: 8.7 GFLOPs, two for each multiply-add, of the model with its batch norms fused.
    assert round(2 * summary("yolov8n").macs / 1e9, 1) == 8.7


# A. Araujo, W. Norris and J. Sim, Distill 2019, table: field, effective stride and effective padding before the image.
FIELDS = [
    # Their AlexNet is alexnet_v2 of TF-slim, whose first convolution is not padded; torchvision's one is, by 2.
    ("alexnet", "pool5", 195, 32, 64 + 2),
    ("vgg16", "block5.pool", 212, 32, 90),
    ("mobilenet_v1", "dw13.pointwise", 315, 32, 126),
    ("resnet50_v1", "layer4.2.conv3", 483, 32, 239),
    ("resnet101_v1", "layer4.2.conv3", 1027, 32, 511),
    # With the stride in the 3x3, the first 3x3 of three stages sees pixels of 4, 8 and 16 in place of 8, 16 and 32;
    # and torchvision pads the pooling before the image, too: by one pixel of 2.
    ("resnet50", "layer4.2.conv3", 483 - 2 * (4 + 8 + 16), 32, 239 - (4 + 8 + 16) + 2),
    ("resnet101", "layer4.2.conv3", 1027 - 2 * (4 + 8 + 16), 32, 511 - (4 + 8 + 16) + 2),
]


@pytest.mark.parametrize(("name", "layer", "field", "stride", "padding"), FIELDS, ids=[each[0] for each in FIELDS])
def test_receptive_fields_are_those_of_araujo_norris_and_sim(
    name: str, layer: str, field: int, stride: int, padding: int
) -> None:
    found = row(name, layer)
    assert found.receptive_field == (field, field)
    assert found.effective_stride == (stride, stride)
    assert found.field_start == (-padding, -padding)
    assert found.field_padding is not None
    assert [before for before, _ in found.field_padding] == [padding, padding]
    assert summary(name).receptive_field == (field, field)


@pytest.mark.parametrize(("name", "layer", "field", "stride", "padding"), FIELDS, ids=[each[0] for each in FIELDS])
def test_fields_cover_the_image_and_its_padding(name: str, layer: str, field: int, stride: int, padding: int) -> None:
    found = row(name, layer)
    assert found.field_padding is not None
    after = found.field_padding[0][1]
    assert padding + 224 + after == field + (found.output_shape[2] - 1) * stride


def three_quarters(text: str) -> str:
    """Make a network's layers narrower, as Howard et al. do by their width multiplier."""
    return re.sub(r"\b(out_channels|in|out) = (\d+)", lambda found: f"{found[1]} = {int(found[2]) * 3 // 4}", text)


def test_a_narrower_mobilenet_sees_as_far_and_costs_as_howard_et_al_say() -> None:
    found = Network.parse(three_quarters((PRESETS / "mobilenet_v1.toml").read_text())).summary()
    # Araujo et al., mobilenet_v1_075; Howard et al., table 6: 325 million, 2.6 million.
    assert found.receptive_field == (315, 315)
    assert round(found.macs / 1e6) == 325
    assert round(found.parameters / 1e6, 1) == 2.6


def test_mobilenets_layers_share_cost_and_parameters_as_howard_et_al_say() -> None:
    products = [name for name, shape in network("mobilenet_v1").parameter_shapes.items() if len(shape) > 1]
    weights = {name: prod(network("mobilenet_v1").parameter_shapes[name]) for name in products}
    # Table 2: percent of the multiply-adds, and of the parameters, without those of batch norms and biases. For conv1's
    # multiply-adds it prints 1.19, with which the column sums to 99.29; with the 1.91 here it sums to 100.01.
    for ending, macs, parameters in (
        ("pointwise", 94.86, 74.59),
        ("depthwise", 3.06, 1.06),
        ("conv1", 1.91, 0.02),
        ("fc", 0.18, 24.33),
    ):
        share = sum(each.macs for each in summary("mobilenet_v1").rows if each.name.endswith(ending))
        assert 100 * share / summary("mobilenet_v1").macs == pytest.approx(macs, abs=0.01)
        share = sum(count for name, count in weights.items() if name.endswith(f"{ending}.weight"))
        assert 100 * share / sum(weights.values()) == pytest.approx(parameters, abs=0.01)


def test_keras_counts_kept_means_and_variances_of_mobilenet_too() -> None:
    assert summary("mobilenet_v1").weight_bytes == 4 * 4_253_864  # Keras' MobileNet, summary(): total


def test_fusing_yolos_batch_norms_saves_what_ultralytics_says() -> None:
    # Fused, each batch norm's weight and bias become the bias of its convolution; "fused: 3151904 parameters".
    norms = sum(each.parameters for each in summary("yolov8n").rows if each.operation == "batch_norm")
    assert summary("yolov8n").parameters + 16 - norms // 2 == 3_151_904


def test_frozen_batch_norms_are_kept_and_not_trained() -> None:
    detector = network("faster_rcnn_r50_fpn")
    assert not any("bn" in name or "downsample.1" in name for name in detector.parameter_shapes)
    # ResNet-50's 26,560 channels of batch norms, and 4 numbers of each.
    norms = [layer for layer in network("resnet50").layers if layer.operation.kind == "batch_norm"]
    channels = sum(layer.operation.channels for layer in norms)  # type: ignore[attr-defined]
    assert channels == 26_560
    assert sum(shape[0] for shape in detector.buffer_shapes.values()) == 4 * channels


def test_one_head_looks_at_all_five_levels() -> None:
    detector = network("faster_rcnn_r50_fpn")
    owners = [layer.owner for layer in detector.layers if layer.operation.kind == "conv"]
    assert [owners.count(name) for name in ("rpn2", "objects2", "deltas2")] == [5, 5, 5]
    # Ren et al.: 3 anchors at a pixel, of one score and four sides each.
    assert [shape("faster_rcnn_r50_fpn", f"{kind}2")[0] for kind in ("objects", "deltas")] == [3, 4 * 3]


SIZES = [
    ("alexnet", None, "conv1 64 55 55, pool1 64 27 27, pool2 192 13 13, pool5 256 6 6"),
    ("vgg16", None, "block1.pool 64 112 112, block3.pool 256 28 28, block5.pool 512 7 7"),
    ("resnet18", None, "conv1 64 112 112, layer1.1.relu2 64 56 56, layer4.1.relu2 512 7 7"),
    (
        "resnet50_v1",
        None,
        "maxpool 64 56 56, layer1.2.relu3 256 56 56, layer2.3.relu3 512 28 28, layer4.2.relu3 2048 7 7",
    ),
    ("resnet101", None, "layer3.22.relu3 1024 14 14, layer4.2.relu3 2048 7 7, avgpool 2048 1 1, fc 1000"),
    (
        "mobilenet_v1",
        None,
        "conv1 32 112 112, dw5.pointwise 256 28 28, dw.11.pointwise 512 14 14, dw13.relu62 1024 7 7",
    ),
    ("mobilenet_v2", None, "conv1 32 112 112, stage2.1.add1 24 56 56, stage4.3.add1 64 14 14, relu18 1280 7 7"),
    # Howard et al., table 1: the sizes that come into each row are those that leave the one before.
    (
        "mobilenet_v3_large",
        None,
        "conv1 16 112 112, stage1.0.add1 16 112 112, stage2.1.add1 24 56 56, stage3.2.add1 40 28 28, "
        "stage4.3.add1 80 14 14, stage5.1.add1 112 14 14, stage6.2.add1 160 7 7, swish17 960 7 7, fc1 1280, fc2 1000",
    ),
    # Tan and Le, table 1, likewise; the 320 channels of stage 7 are those that come into the last.
    (
        "efficientnet_b0",
        None,
        "stem 32 112 112, stage1.0.bn2 16 112 112, stage2.1.add1 24 56 56, stage3.1.add1 40 28 28, "
        "stage4.2.add1 80 14 14, stage5.2.add1 112 14 14, stage6.3.add1 192 7 7, stage7.0.bn3 320 7 7, silu8 1280 7 7",
    ),
    ("convnext_t", None, "stem.1 96 56 56, stage2.2.add1 192 28 28, stage3.8.add1 384 14 14, stage4.2.add1 768 7 7"),
    ("vit_b16", None, "patches 768 14 14"),
    # C2 to C5 and P6 of 800x1333, and of the 800x1344 to which torchvision fills up: the same.
    (
        "faster_rcnn_r50_fpn",
        (800, 1333),
        "layer1.2.relu3 256 200 334, layer2.3.relu3 512 100 167, layer3.5.relu3 1024 50 84, layer4.2.relu3 2048 25 42, "
        "p2 256 200 334, p3 256 100 167, p4 256 50 84, p5 256 25 42, p6 256 13 21, classes 91, boxes 364",
    ),
    (
        "faster_rcnn_r50_fpn",
        (800, 1344),
        "p2 256 200 336, p3 256 100 168, p4 256 50 84, p5 256 25 42, p6 256 13 21",
    ),
    # Output stride 8: 520 / 8 = 65. Output stride 16: 33, as the paper's 513 / 16 rounds up.
    ("deeplabv3_r50", (520, 520), "layer4.2.relu3 2048 65 65, pyramid 1280 65 65, classes 21 65 65, mask 21 520 520"),
    ("deeplabv3_r50_os16", (513, 513), "layer4.2.relu3 2048 33 33, classes 21 33 33, mask 21 513 513"),
    (
        "yolov8n",
        None,
        "boxes8.2 64 80 80, classes8.2 80 80 80, boxes16.2 64 40 40, classes16.2 80 40 40, boxes32.2 64 20 20, "
        "classes32.2 80 20 20",
    ),
    ("unet", (256, 256), "bottom.relu2 1024 16 16, both1 128 256 256, mask 2 256 256"),
    # 161 = 16000 * 0.02 / 2 + 1 frequencies; deepspeech.pytorch reckons 41 after both: 32 * 41 = 1312 features.
    ("deepspeech2", (161, 400), "conv1 32 81 200, clip2 32 41 200"),
    ("textcnn", (56,), "three.conv 100 54, four.conv 100 53, five.conv 100 52, concat1 300 1, fc 2"),
]


@pytest.mark.parametrize(("name", "size", "published"), SIZES, ids=[f"{each[0]}-{each[1]}" for each in SIZES])
def test_layers_have_the_published_sizes(name: str, size: tuple[int, ...] | None, published: str) -> None:
    for entry in published.split(", "):
        layer, *sizes = entry.split()
        assert shape(name, layer, size) == tuple(map(int, sizes)), layer


@pytest.mark.parametrize(("name", "first"), [("efficientnet_b0", 7), ("mobilenet_v3_large", 35)])
def test_a_gate_sees_the_whole_image_and_so_does_what_follows(name: str, first: int) -> None:
    rows = summary(name).rows
    at = next(number for number, each in enumerate(rows) if each.operation == "multiply")
    assert all(each.receptive_field is None for each in rows[at:])
    # Before the first gate: 3 of the stem and 2 * 2 of the first depthwise convolution; MobileNetV3's first gate comes
    # later, after strides of 2 and 4: 3 + 2 * 2 + 2 * 2 + 4 * 2 + 4 * 4.
    assert summary(name).receptive_field == (first, first)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_large"])
def test_gates_are_as_narrow_as_torchvisions(name: str) -> None:
    squeezed = [each.output_shape[1] for each in summary(name).rows if each.name.endswith("squeeze")]
    if name == "efficientnet_b0":
        # A quarter of what comes into the block.
        assert squeezed == [8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48]
    else:
        # A quarter of the expanded channels, to a multiple of 8 that is no tenth less.
        assert squeezed == [24, 32, 32, 120, 168, 168, 240, 240]


@pytest.mark.parametrize("name", ["deeplabv3_r50", "deeplabv3_r50_os16", "unet"])
@pytest.mark.parametrize("size", [(97, 113), (65, 129), (224, 225), (33, 47), (16, 17)])
def test_a_mask_has_the_images_size(name: str, size: tuple[int, int]) -> None:
    (output,) = network(name).outputs
    assert shape(name, output, size)[1:] == size


@pytest.mark.parametrize(("name", "stride"), [("deeplabv3_r50", 8), ("deeplabv3_r50_os16", 16)])
def test_a_dilated_backbone_keeps_its_stride_and_sees_as_far(name: str, stride: int) -> None:
    assert row(name, "layer4.2.conv3").effective_stride == (stride, stride)
    # Dilations of 2 and 4 stand in for strides, so that the last block reaches as far as the plain one: 2 * 32.
    before, last = row(name, "layer4.1.relu3"), row(name, "layer4.2.relu3")
    assert last.receptive_field is not None
    assert before.receptive_field is not None
    assert last.receptive_field[0] - before.receptive_field[0] == 64


def test_rates_of_the_pyramid_are_as_far_apart_in_the_image_at_both_strides() -> None:
    # Chen et al., section 3.3: rates 6, 12, 18 at output stride 16 are doubled at 8.
    for layer in ("aspp1.conv", "aspp2.conv", "aspp3.conv"):
        fine, coarse = row("deeplabv3_r50", layer), row("deeplabv3_r50_os16", layer)
        assert fine.receptive_field == coarse.receptive_field


@pytest.mark.parametrize("size", [(640, 640), (479, 641), (97, 113)])
def test_a_detectors_outputs_lie_8_16_and_32_pixels_apart(size: tuple[int, int]) -> None:
    assert len(network("yolov8n").outputs) == 6
    for stride in (8, 16, 32):
        for kind, channels in (("boxes", 64), ("classes", 80)):
            found = row("yolov8n", f"{kind}{stride}.2", size)
            assert f"{kind}{stride}.2" in network("yolov8n").outputs
            assert found.output_shape[1:] == (channels, *(-(-pixels // stride) for pixels in size))
            assert found.effective_stride is not None
            if size[0] % 32 == 0 == size[1] % 32:
                assert found.effective_stride == (stride, stride)


def test_boxes_are_of_the_regions_that_are_given() -> None:
    assert [layer.name for layer in network("faster_rcnn_r50_fpn").inputs] == ["image", "regions"]
    assert row("faster_rcnn_r50_fpn", "classes").output_shape == (1000, 91)
    assert network("faster_rcnn_r50_fpn").summary(batch=2).rows[-1].output_shape == (2000, 4 * 91)


def test_unpadded_a_u_net_loses_what_its_field_reaches_beyond_the_image() -> None:
    # Ronneberger et al., figure 1: 572x572 in and 388x388 out, 92 pixels less on each side. So far reaches the one of
    # 16 neighbouring pixels that reaches least; the field that holds all of theirs begins up to 15 pixels earlier.
    found = row("unet", "mask", (572, 572))
    margin = (572 - 388) // 2
    assert found.field_start == (-(margin + 15),) * 2
    assert found.receptive_field == (2 * (margin + 15) + 1,) * 2


def test_deep_speech_strides_over_frequency_twice_and_over_time_once() -> None:
    found = row("deepspeech2", "clip2", (161, 400))
    assert found.effective_stride == (4, 2)
    # 41 + 2 * (21 - 1) frequencies, 11 + 2 * (11 - 1) frames.
    assert found.receptive_field == (81, 31)
    assert found.output_shape[1] * found.output_shape[2] == 1312
    # Two convolutions' outputs, times the taps of a filter.
    assert summary("deepspeech2", (161, 400)).macs == 32 * 81 * 200 * (41 * 11) + 32 * 41 * 200 * (32 * 21 * 11)


@pytest.mark.parametrize("words", [5, 20, 56, 301])
def test_a_sentence_of_any_length_has_300_features(words: int) -> None:
    assert shape("textcnn", "concat1", (words,)) == (300, 1)
    # Kim: 100 filters of 3, 4 and 5 words over embeddings of 300; two classes.
    products = sum(100 * 300 * window * (words - window + 1) for window in (3, 4, 5)) + 300 * 2
    assert summary("textcnn", (words,)).macs == products
