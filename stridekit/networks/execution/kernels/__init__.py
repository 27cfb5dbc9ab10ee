"""How each operation runs: the kernels, each of which says what it runs."""

from __future__ import annotations

from stridekit.networks.execution.kernels.base import Backward, Context, Forward, LayerKernel
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
from stridekit.networks.operations import Resolved, Shape

_KERNELS: tuple[type[LayerKernel], ...] = (
    *(ConvKernel, ConvTransposeKernel, LinearKernel, BlurPoolKernel, PoolKernel, MaxPoolKernel),
    *(GeluKernel, ActivationKernel, BatchNormKernel, FixedBatchNormKernel, LayerNormKernel, SoftmaxKernel),
    *(AddKernel, GateKernel, MultiplyKernel, ScaleKernel, ConcatKernel, SliceKernel, UpsampleKernel, FlattenKernel),
)
"""Of several for one operation the first that suits is taken."""


def kernel_for(
    context: Context, resolved: Resolved, inputs: tuple[Shape, ...], output: Shape, wanted: tuple[bool, ...]
) -> LayerKernel:
    """Return how an operation runs on inputs ``(N, C, *spatial)``; `wanted` says which inputs' gradients are."""
    kind = type(resolved.operation)
    kernel = next(each for each in _KERNELS if kind in each.runs and each.suits(context, resolved))
    return kernel(context, resolved, inputs, output, wanted)


__all__ = ["Backward", "Context", "Forward", "LayerKernel", "SoftmaxKernel", "kernel_for"]
