"""PyTorch's convolution modules with another computation: their parameters, state dicts and arguments are its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from stridekit.arguments import per_axis
from stridekit.torch.functions import conv, conv_transpose


class _Convolution:
    """What `Conv1d`, `Conv2d` and `Conv3d` have beyond their PyTorch class."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        *arguments: Any,
        **options: Any,
    ) -> None:
        # PyTorch refuses "same" with a stride (pytorch#67551); stridekit's takes every stride.
        same = isinstance(padding, str) and padding == "same"
        made: Any = super()
        made.__init__(in_channels, out_channels, kernel_size, 1 if same else stride, padding, *arguments, **options)
        if same:
            rank = len(self.kernel_size)
            self.stride = per_axis("stride", stride, rank)

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv(
            len(self.kernel_size),
            input,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
        )


class Conv1d(_Convolution, nn.Conv1d):
    """`torch.nn.Conv1d`, computed by `stridekit.torch.conv1d`; ``padding="same"`` with every stride."""


class Conv2d(_Convolution, nn.Conv2d):
    """`torch.nn.Conv2d`, computed by `stridekit.torch.conv2d`; ``padding="same"`` with every stride.

    Examples
    --------
    >>> import torch, stridekit.torch
    >>> layer = stridekit.torch.Conv2d(3, 8, 3, stride=2, padding="same", padding_mode="reflect")
    >>> layer(torch.ones(1, 3, 7, 7)).shape
    torch.Size([1, 8, 4, 4])
    """


class Conv3d(_Convolution, nn.Conv3d):
    """`torch.nn.Conv3d`, computed by `stridekit.torch.conv3d`; ``padding="same"`` with every stride."""


class _Transposed:
    """What the transposed modules have beyond their PyTorch class."""

    kernel_size: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    _output_padding: Any

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        rank = len(self.kernel_size)
        added = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, rank, self.dilation
        )
        return conv_transpose(
            rank, input, self.weight, self.bias, self.stride, self.padding, added, self.groups, self.dilation
        )


class ConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`, computed by `stridekit.torch.conv_transpose1d`."""


class ConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, computed by `stridekit.torch.conv_transpose2d`."""


class ConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d`, computed by `stridekit.torch.conv_transpose3d`."""
