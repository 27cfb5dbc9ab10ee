"""What the readers of ONNX and of PyTorch share: following a model operator by operator, and what becomes of each.

A reader walks through its graph, hands every operator's values to the functions here, and gets values back: features
of layers, constants, and what lies between two layers until it is known what it becomes (a padding before its
convolution, the steps of an activation that was written out). So both readers make the same network of the same model.
"""

from __future__ import annotations

from stridekit.networks.readers.tracing.tracer import Place, Tracer
from stridekit.networks.readers.tracing.values import Constant, Padded, Tensor, Unfinished, Value

__all__ = ["Constant", "Padded", "Place", "Tensor", "Tracer", "Unfinished", "Value"]
