"""Networks in plain PyTorch, as torchvision defines them, where no torchvision is installed."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="these are PyTorch's; pip install torch")
nn = torch.nn


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: Any = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Basic(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: Any = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self, block: Any, depths: tuple[int, ...]):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        grown, channels = (4 if block is Bottleneck else 1), 64
        for number, depth in enumerate(depths):
            width, layers = 64 << number, []
            for position in range(depth):
                layers.append(block(channels, width, 2 if number and not position else 1))
                channels = width * grown
            setattr(self, f"layer{number + 1}", nn.Sequential(*layers))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(channels, 1000)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18() -> nn.Module:
    return ResNet(Basic, (2, 2, 2, 2))


def resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3))


class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(True), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(True),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True), nn.Linear(4096, 1000),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class VGG16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(25088, 4096), nn.ReLU(True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 1000),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Inverted(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, expand: int):
        super().__init__()
        wide = channels * expand
        self.residual = stride == 1 and channels == out
        before = [] if expand == 1 else [nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True)]
        self.conv = nn.Sequential(
            *before,
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True),
            nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.conv(x) + x if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(True)]
        channels = 32
        for expand, out, repeat, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for position in range(repeat):
                layers.append(Inverted(channels, out, 1 if position else stride, expand))
                channels = out
        layers += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Any) -> Any:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1))


def _normed(channels: int, out: int, kernel: int, stride: int, act: Any, groups: int = 1, **norm: float) -> list[Any]:
    made: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out, **norm),
    ]  # fmt: skip
    return made if act is None else [*made, act(inplace=True)]


class Excited(nn.Module):
    def __init__(self, channels: int, squeezed: int, act: Any, gate: Any):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = act(), gate()

    def forward(self, x: Any) -> Any:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale_activation(scale) * x


class MBConv(nn.Module):
    def __init__(
        self, channels: int, wide: int, out: int, kernel: int, stride: int, act: Any, excite: Any, **norm: float
    ):
        super().__init__()
        self.residual = stride == 1 and channels == out
        self.block = nn.Sequential(
            *([] if wide == channels else _normed(channels, wide, 1, 1, act, **norm)),
            *_normed(wide, wide, kernel, stride, act, wide, **norm),
            *([] if excite is None else [excite]),
            *_normed(wide, out, 1, 1, None, **norm),
        )

    def forward(self, x: Any) -> Any:
        return self.block(x) + x if self.residual else self.block(x)


class EfficientNetB0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = _normed(3, 32, 3, 2, nn.SiLU)
        channels = 32
        for expand, kernel, stride, out, repeat in (
            (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
            (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
        ):  # fmt: skip
            for position in range(repeat):
                wide = expand * channels
                excite = Excited(wide, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
                layers.append(MBConv(channels, wide, out, kernel, 1 if position else stride, nn.SiLU, excite))
                channels = out
        self.features = nn.Sequential(*layers, *_normed(channels, 1280, 1, 1, nn.SiLU))
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class MobileNetV3Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norm = {"eps": 0.001, "momentum": 0.01}
        layers: list[nn.Module] = _normed(3, 16, 3, 2, nn.Hardswish, **norm)
        channels = 16
        for kernel, wide, out, squeezed, act, stride in (
            (3, 16, 16, 0, nn.ReLU, 1), (3, 64, 24, 0, nn.ReLU, 2), (3, 72, 24, 0, nn.ReLU, 1),
            (5, 72, 40, 24, nn.ReLU, 2), (5, 120, 40, 32, nn.ReLU, 1), (5, 120, 40, 32, nn.ReLU, 1),
            (3, 240, 80, 0, nn.Hardswish, 2), (3, 200, 80, 0, nn.Hardswish, 1), (3, 184, 80, 0, nn.Hardswish, 1),
            (3, 184, 80, 0, nn.Hardswish, 1), (3, 480, 112, 120, nn.Hardswish, 1), (3, 672, 112, 168, nn.Hardswish, 1),
            (5, 672, 160, 168, nn.Hardswish, 2), (5, 960, 160, 240, nn.Hardswish, 1),
            (5, 960, 160, 240, nn.Hardswish, 1),
        ):  # fmt: skip
            excite = Excited(wide, squeezed, nn.ReLU, nn.Hardsigmoid) if squeezed else None
            layers.append(MBConv(channels, wide, out, kernel, stride, act, excite, **norm))
            channels = out
        self.features = nn.Sequential(*layers, *_normed(channels, 960, 1, 1, nn.Hardswish, **norm))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(960, 1280), nn.Hardswish(True), nn.Dropout(0.2), nn.Linear(1280, 1000)
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Any) -> Any:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return (self.gamma * self.pwconv2(self.act(self.pwconv1(y)))).permute(0, 3, 1, 2) + x


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), LayerNorm2d(96, eps=1e-6)]
        channels = 96
        for width, depth in ((96, 3), (192, 3), (384, 9), (768, 3)):
            if width != channels:
                layers += [LayerNorm2d(channels, eps=1e-6), nn.Conv2d(channels, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(768, eps=1e-6), nn.Linear(768, 1000)

    def forward(self, x: Any) -> Any:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.head(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flatten(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.downs = nn.ModuleList(_two(a, b) for a, b in zip((1, *widths), widths, strict=False))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, 2) for w in reversed(widths[1:]))
        self.rights = nn.ModuleList(_two(w, w // 2) for w in reversed(widths[1:]))
        self.mask = nn.Conv2d(64, 2, 1)

    def forward(self, x: Any) -> Any:
        skips = []
        for number, down in enumerate(self.downs):
            x = down(x if not number else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for skip, up, right in zip(skips[-2::-1], self.ups, self.rights, strict=True):
            x = right(torch.cat([skip, up(x)], 1))
        return self.mask(x)


def _two(channels: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True)
    )


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "alexnet": (AlexNet, (3, 224, 224)),
    "convnext_t": (ConvNeXt, (3, 224, 224)),
    "efficientnet_b0": (EfficientNetB0, (3, 224, 224)),
    "mobilenet_v2": (MobileNetV2, (3, 224, 224)),
    "mobilenet_v3_large": (MobileNetV3Large, (3, 224, 224)),
    "resnet18": (resnet18, (3, 224, 224)),
    "resnet50": (resnet50, (3, 224, 224)),
    "unet": (UNet, (1, 64, 96)),
    "vgg16": (VGG16, (3, 224, 224)),
}
"""By the name of the network file that they equal: what makes one, and the size of a sample."""


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and buffer numbers of its own: exporters merge those that are equal."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.ndim > 1:
                tensor.mul_(1.3)
            elif tensor.is_floating_point():
                tensor.uniform_(0.8, 1.2) if name.endswith(("weight", "var", "gamma")) else tensor.uniform_(-0.1, 0.1)
    return module.eval()
