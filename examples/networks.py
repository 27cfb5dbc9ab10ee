"""A small network that shrinks its picture once: by a stride, or at stride 1 with a pooling after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

FILTERS = (8, 16, 32)


@dataclass(frozen=True)
class Choice:
    """How to shrink, ``"conv"``, ``"max_pool"``, ``"avg_pool"`` or ``"blur_pool"``, and by how much."""

    by: str
    factor: int


def network(choice: Choice, classes: int) -> nn.Sequential:
    """Build the network; it has the same parameters whatever the choice, for at its end 4 x 4 positions are left."""
    first, second, third = FILTERS
    shrinking = _layer(first, second, 5, stride=choice.factor if choice.by == "conv" else 1)
    if choice.by == "max_pool":
        shrinking.append(nn.MaxPool2d(choice.factor, ceil_mode=True))
    elif choice.by == "avg_pool":
        shrinking.append(nn.AvgPool2d(choice.factor, ceil_mode=True))
    elif choice.by == "blur_pool":
        shrinking.append(blur(second, choice.factor))
    return nn.Sequential(
        *_layer(1, first, 3),
        *shrinking,
        *_layer(second, third, 3),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * third, classes)),
    )


def _layer(channels: int, filters: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, filters, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(filters), nn.ReLU()]


def blur(channels: int, factor: int) -> nn.Conv2d:
    """Return a binomial filter before a stride, as a convolution that does not train: stridekit computes it too.

    Its ``factor ** 2 / 2 + 1`` taps about halve what lies on the stride's limit, as 3 do for stride 2.
    """
    taps = 2 * (factor * factor // 4) + 1
    line = torch.tensor([math.comb(taps - 1, tap) for tap in range(taps)], dtype=torch.float64) / 2.0 ** (taps - 1)
    layer = nn.Conv2d(channels, channels, taps, factor, taps // 2, groups=channels, bias=False, padding_mode="reflect")
    layer.weight.data.copy_(torch.outer(line, line).expand_as(layer.weight))
    layer.weight.requires_grad_(False)
    return layer
