"""ONNX models as networks, with their weights: `Network.from_onnx`.

Operators that are not known are named with their node, and so are attributes that would change what a known one means.
"""

from __future__ import annotations

from stridekit.networks.readers.onnx.reader import read_onnx

__all__ = ["read_onnx"]
