"""PyTorch's convolutions, computed by stridekit: functions, modules, and a swap of a whole model's.

Tensors share their memory with the arrays that the backends see, on the CPU and on CUDA devices; gradients of any order
are PyTorch's to ask for. Nothing else in stridekit imports this package, and only `Network.from_torch` imports
PyTorch, when it is called.
"""

from __future__ import annotations

from stridekit.extras import extra as _extra

try:
    import torch as _torch  # noqa: F401
except ImportError:
    _extra("torch", "torch", "stridekit.torch", "PyTorch")

from stridekit.torch.functions import conv1d as conv1d
from stridekit.torch.functions import conv2d as conv2d
from stridekit.torch.functions import conv3d as conv3d
from stridekit.torch.functions import conv_transpose1d as conv_transpose1d
from stridekit.torch.functions import conv_transpose2d as conv_transpose2d
from stridekit.torch.functions import conv_transpose3d as conv_transpose3d
from stridekit.torch.modules import Conv1d as Conv1d
from stridekit.torch.modules import Conv2d as Conv2d
from stridekit.torch.modules import Conv3d as Conv3d
from stridekit.torch.modules import ConvTranspose1d as ConvTranspose1d
from stridekit.torch.modules import ConvTranspose2d as ConvTranspose2d
from stridekit.torch.modules import ConvTranspose3d as ConvTranspose3d
from stridekit.torch.swapping import convert as convert
from stridekit.torch.swapping import converted as converted
from stridekit.torch.swapping import revert as revert

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convert",
    "converted",
    "revert",
]
