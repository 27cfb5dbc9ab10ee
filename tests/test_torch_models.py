"""Whole networks, built from their configurations with random weights, give with `convert` what they give without.

Two comparisons, each as sharp as its precision allows. In float64 every output and every parameter's gradient agrees
with PyTorch's to 1e-11 of the tensor's largest element: a wrong tap, pad or group would show there in the first digit.
In float32 the error against that truth, of each output and each convolution's gradient, may be at most 3 times the one
that PyTorch's own float32 makes, or 16 roundings where PyTorch happened to make less.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="stridekit.torch is for PyTorch; pip install torch")
# Nothing is to be downloaded: a configuration is all that a model is built from.
os.environ["HF_HUB_OFFLINE"] = "1"
models = pytest.importorskip("transformers", reason="the models are transformers'; pip install transformers")
pytestmark = [
    pytest.mark.oracle,
    # What torch and transformers say of themselves and of each other is none of ours.
    pytest.mark.filterwarnings("ignore"),
]

import stridekit.torch as skt  # noqa: E402

ROUNDOFF = 2.0**-24
nn = torch.nn


def stages(config: Any, **options: Any) -> Any:
    return config(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1], num_labels=5, **options)


def resnet() -> Any:
    return models.ResNetForImageClassification(stages(models.ResNetConfig, embedding_size=8, layer_type="bottleneck"))


def mobilenet() -> Any:
    return models.MobileNetV2ForImageClassification(models.MobileNetV2Config(depth_multiplier=0.25, num_labels=5))


def convnext() -> Any:
    return models.ConvNextForImageClassification(stages(models.ConvNextConfig))


def detr() -> Any:
    backbone = stages(models.ResNetConfig, embedding_size=8, out_features=["stage4"])
    return models.DetrForObjectDetection(
        models.DetrConfig(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=6, num_labels=5,
        )
    )  # fmt: skip


def yolos() -> Any:
    return models.YolosForObjectDetection(
        models.YolosConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=[64, 96],
            num_detection_tokens=6, num_labels=5,
        )
    )  # fmt: skip


def deeplab() -> Any:
    config = models.MobileNetV2Config(depth_multiplier=0.25, output_stride=8, num_labels=5)
    return models.MobileNetV2ForSemanticSegmentation(config)


def segformer() -> Any:
    return models.SegformerForSemanticSegmentation(
        models.SegformerConfig(
            hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16,
            num_attention_heads=[1, 1, 2, 2], num_labels=5,
        )
    )  # fmt: skip


def upernet() -> Any:
    backbone = stages(models.ConvNextConfig, out_features=["stage1", "stage2", "stage3", "stage4"])
    return models.UperNetForSemanticSegmentation(
        models.UperNetConfig(
            backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8, num_labels=5
        )
    )


def wav2vec2() -> Any:
    return models.Wav2Vec2ForCTC(
        models.Wav2Vec2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16, 16),
            conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4, vocab_size=12,
        )
    )  # fmt: skip


def whisper() -> Any:
    return models.WhisperForAudioClassification(
        models.WhisperConfig(
            d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64,
            num_mel_bins=16, max_source_positions=50, classifier_proj_size=16, num_labels=5,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Model:
    """How a model is built, what it takes, and of how many of its convolutions a subclass of PyTorch's computes."""

    build: Callable[[], Any]
    argument: str = "pixel_values"
    shape: tuple[int, ...] = (2, 3, 65, 71)
    parametrised: int = 0
    training: bool = False


MODELS = {
    "ResNet": Model(resnet),
    "ResNet in training": Model(resnet, shape=(3, 3, 64, 96), training=True),
    "MobileNetV2": Model(mobilenet),
    "MobileNetV2 in training": Model(mobilenet, shape=(3, 3, 97, 65), training=True),
    "ConvNeXt": Model(convnext, shape=(2, 3, 67, 98)),
    "DETR": Model(detr, shape=(2, 3, 65, 97)),
    "YOLOS": Model(yolos, shape=(2, 3, 64, 96)),
    "DeepLabV3+ on MobileNetV2": Model(deeplab),
    "SegFormer": Model(segformer),
    "UperNet on ConvNeXt": Model(upernet),
    # Its positional convolution is a parametrised one, left to PyTorch.
    "Wav2Vec2": Model(wav2vec2, "input_values", (2, 1603), parametrised=1),
    "Whisper": Model(whisper, "input_features", (2, 16, 100)),
}
SEGMENTERS = ["DeepLabV3+ on MobileNetV2", "SegFormer", "UperNet on ConvNeXt"]


def built(of: Model) -> tuple[Any, Any]:
    """Build a model and its input in float32, with weights of such a size that signals neither fade nor burst."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # All of it: DETR freezes most of its backbone.
    model = of.build().train(of.training).requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model, torch.randn(of.shape)


def outputs(of: Model, model: Any, x: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    result = model(**{of.argument: x})
    return {name: result[name] for name in ("logits", "pred_boxes") if name in result}


def results(of: Model, model: Any, x: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs, and the parameters' gradients of a function of them that weighs each element differently."""
    found = outputs(of, model, x)
    sum((value.sin() * torch.arange(1, value.numel() + 1).reshape(value.shape) / value.numel()).sum()
        for value in found.values()).backward()  # fmt: skip
    return found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("of", MODELS.values(), ids=MODELS)
def test_a_converted_model_gives_torchs_outputs_and_gradients(of: Model) -> None:
    model, x = built(of)
    ours = skt.convert(copy.deepcopy(model))
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)]
    names = skt.converted(ours)
    assert set(names) <= set(convolutions)
    assert len(names) == len(convolutions) - of.parametrised

    wide, gradients = results(of, copy.deepcopy(model).double(), x.double())
    our_wide, our_gradients = results(of, copy.deepcopy(ours).double(), x.double())
    assert our_gradients.keys() == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, truth in {**wide, **gradients}.items():
        got = {**our_wide, **our_gradients}[name]
        # A gradient that is zero but for rounding (a bias before a normalisation) has no digits of its own.
        bound = 1e-11 * truth.abs().max() + 1e-13 * largest
        assert (got - truth).abs().max() <= bound, name

    narrow, our_narrow = results(of, model, x), results(of, ours, x)
    for name, truth in wide.items():
        assert_no_worse(our_narrow[0][name], narrow[0][name], truth, name)
    # Weights that a model does not use get no gradient.
    for weight in gradients.keys() & {f"{name}.weight" for name in names}:
        assert_no_worse(our_narrow[1][weight], narrow[1][weight], gradients[weight], weight)


def assert_no_worse(ours: Any, theirs: Any, truth: Any, name: str) -> None:
    mine, its = ((each.double() - truth).norm().item() for each in (ours, theirs))
    assert mine <= max(3 * its, 16 * ROUNDOFF * truth.norm().item()), f"{name}: {mine}, PyTorch {its}"


@pytest.mark.parametrize("size", [(65, 71), (63, 98)], ids=str)
@pytest.mark.parametrize("name", SEGMENTERS)
def test_masks_of_the_inputs_size_are_torchs(name: str, size: tuple[int, int]) -> None:
    model, _ = built(MODELS[name])
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    masks = []
    for each in (model.double(), skt.convert(copy.deepcopy(model)).double()):
        with torch.inference_mode():
            logits = outputs(MODELS[name], each, x)["logits"]
            full = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        masks.append(full.argmax(1))
    assert masks[0].shape == (2, *size)
    assert masks[0].unique().numel() > 1
    assert torch.equal(*masks)


@pytest.mark.parametrize("name", ["ResNet", "ConvNeXt"])
def test_in_bfloat16_under_autocast_a_model_is_as_near_as_torchs(name: str) -> None:
    of = MODELS[name]
    model, x = built(of)
    truth = outputs(of, copy.deepcopy(model).double(), x.double())["logits"]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = outputs(of, model, x)["logits"]
        ours = outputs(of, skt.convert(copy.deepcopy(model)), x)["logits"]
    assert ours.dtype == theirs.dtype
    errors = [(each.double() - truth).norm().item() for each in (ours, theirs)]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("name", ["ResNet", "UperNet on ConvNeXt"])
def test_a_model_reverted_gives_the_very_bits_of_before(name: str) -> None:
    of = MODELS[name]
    model, x = built(of)
    with torch.inference_mode():
        before = outputs(of, model, x)["logits"]
        after = outputs(of, skt.revert(skt.convert(model)), x)["logits"]
    assert torch.equal(before, after)
