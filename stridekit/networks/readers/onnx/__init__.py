"""ONNX models as networks, with their weights: `Network.from_onnx`.

Operators that are not known are named with their node, and so are attributes that would change what a known one means.
"""

from __future__ import annotations

from stridekit.networks.readers.onnx.graph import network_of_onnx

__all__ = ["network_of_onnx"]
