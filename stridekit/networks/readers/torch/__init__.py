"""PyTorch modules as networks, with their weights: `Network.from_torch`.

Functions that are not known are named with their node and the module that they stand in. PyTorch is imported only when
a module is read.
"""

from __future__ import annotations

from stridekit.networks.readers.torch.reader import read_torch

__all__ = ["read_torch"]
