"""How each operation runs: the table from an operation to its kernel."""

from __future__ import annotations

from typing import Any

from stridekit.networks.execution.kernels.base import Backward, Context, Forward, Kernel
from stridekit.networks.execution.kernels.convolving import (
    BlurPoolKernel,
    ConvKernel,
    ConvTransposeKernel,
    LinearKernel,
)
from stridekit.networks.execution.kernels.elementwise import ActivationKernel, AddKernel, GeluKernel
from stridekit.networks.execution.kernels.loss import SoftmaxKernel
from stridekit.networks.execution.kernels.multiplying import GateKernel, MultiplyKernel, ScaleKernel
from stridekit.networks.execution.kernels.normalising import BatchNormKernel, FixedBatchNormKernel, LayerNormKernel
from stridekit.networks.execution.kernels.pooling import MaxPoolKernel, PoolKernel
from stridekit.networks.execution.kernels.resizing import UpsampleKernel
from stridekit.networks.execution.kernels.shaping import ConcatKernel, FlattenKernel, SliceKernel
from stridekit.networks.operations import BatchNorm, Multiply, Operation, Shape

_KERNELS: dict[str, type[Kernel]] = {
    "conv": ConvKernel,
    "conv_transpose": ConvTransposeKernel,
    "linear": LinearKernel,
    "max_pool": MaxPoolKernel,
    "avg_pool": PoolKernel,
    "blur_pool": BlurPoolKernel,
    "global_avg_pool": PoolKernel,
    "global_max_pool": MaxPoolKernel,
    "adaptive_avg_pool": PoolKernel,
    "activation": ActivationKernel,
    "batch_norm": BatchNormKernel,
    "layer_norm": LayerNormKernel,
    "scale": ScaleKernel,
    "add": AddKernel,
    "multiply": MultiplyKernel,
    "concat": ConcatKernel,
    "slice": SliceKernel,
    "upsample": UpsampleKernel,
    "flatten": FlattenKernel,
    "softmax_cross_entropy": SoftmaxKernel,
}


def kernel_for(
    context: Context, operation: Operation, inputs: tuple[Shape, ...], output: Shape, wanted: tuple[bool, ...]
) -> Kernel:
    """Return how `operation` runs on inputs ``(N, C, *spatial)``; `wanted` says which inputs' gradients are."""
    found: Any = _KERNELS[operation.kind]
    if getattr(operation, "function", None) == "gelu":
        found = GeluKernel
    if isinstance(operation, Multiply) and inputs[0] != inputs[1]:
        found = GateKernel
    if isinstance(operation, BatchNorm) and not (context.training and operation.trained):
        found = FixedBatchNormKernel
    kernel: Kernel = found(context, operation, inputs, output, wanted)
    return kernel


__all__ = ["Backward", "Context", "Forward", "Kernel", "SoftmaxKernel", "kernel_for"]
