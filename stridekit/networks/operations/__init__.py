"""The operations of networks, by name. To add one: its class, a line in the table, and how it runs in `execution`."""

from __future__ import annotations

from stridekit.networks.operations.base import Operation, Reach, Resolved, Shape, volume
from stridekit.networks.operations.convolving import Conv, ConvTranspose, Linear
from stridekit.networks.operations.elementwise import (
    FUNCTIONS,
    Activation,
    Add,
    BatchNorm,
    LayerNorm,
    Multiply,
    Scale,
    SoftmaxCrossEntropy,
)
from stridekit.networks.operations.pooling import (
    AdaptiveAvgPool,
    AvgPool,
    BlurPool,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
)
from stridekit.networks.operations.shaping import Concat, Flatten, Input, Slice, Upsample

OPERATIONS: dict[str, type[Operation]] = {
    operation.kind: operation
    for operation in (
        Input,
        Conv,
        ConvTranspose,
        Linear,
        MaxPool,
        AvgPool,
        BlurPool,
        GlobalAvgPool,
        GlobalMaxPool,
        AdaptiveAvgPool,
        Activation,
        BatchNorm,
        LayerNorm,
        Scale,
        Add,
        Multiply,
        Concat,
        Slice,
        Upsample,
        Flatten,
        SoftmaxCrossEntropy,
    )
}

__all__ = [
    "FUNCTIONS",
    "OPERATIONS",
    "Activation",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool",
    "BatchNorm",
    "BlurPool",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Input",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "Multiply",
    "Operation",
    "Reach",
    "Resolved",
    "Scale",
    "Shape",
    "Slice",
    "SoftmaxCrossEntropy",
    "Upsample",
    "volume",
]
