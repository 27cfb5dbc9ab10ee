"""Normalisations, linear layers and softmax while a model is followed."""

from __future__ import annotations

from collections.abc import Sequence

from stridekit.errors import NetworkError
from stridekit.networks.operations import BatchNorm, Conv, LayerNorm, Linear, SoftmaxCrossEntropy
from stridekit.networks.readers.tracing.tracer import Tracer
from stridekit.networks.readers.tracing.values import Tensor, Value, channels_first, constant, features
from stridekit.networks.readers.tracing.windows import optional, pointwise


def batch_norm(
    tracer: Tracer,
    value: Value,
    weight: Value,
    bias: Value,
    mean: Value,
    variance: Value,
    *,
    epsilon: float,
    momentum: float,
) -> Tensor:
    """Add a normalisation by the kept mean and variance."""
    constants = {
        "weight": constant(weight, "the scale (weight)"),
        "bias": constant(bias, "the bias"),
        "running_mean": constant(mean, "the mean"),
        "running_var": constant(variance, "the variance"),
    }
    return tracer.emit(BatchNorm(epsilon=epsilon, momentum=momentum), [channels_first(value)], constants)


def layer_norm(
    tracer: Tracer, value: Value, axes: Sequence[int], weight: Value, bias: Value, *, epsilon: float
) -> Tensor:
    """Add a normalisation of each pixel over its channels."""
    tensor = features(value)
    if tuple(axes) != (tensor.channel_axis,):
        raise NetworkError(
            f"normalises axes {tuple(axes)} of {tensor.shape}; known is one over the channels alone, "
            f"which are axis {tensor.channel_axis}"
        )
    constants = {"weight": constant(weight, "the scale (weight)"), "bias": constant(bias, "the bias")}
    return tracer.emit(LayerNorm(epsilon=epsilon), [tensor], constants)


def linear(tracer: Tracer, value: Value, weight: Value, bias: Value) -> Tensor:
    """Add a linear layer on features, or on the channels of each pixel, which is a convolution of one tap.

    The weight is ``(out_features, in_features)``.
    """
    tensor, matrix = features(value), constant(weight, "the weight")
    if len(matrix.shape) != 2 or min(matrix.shape) < 1:
        raise NetworkError(f"the weight is {matrix.shape}; wanted (out_features, in_features)")
    if tensor.channel_axis != len(tensor.shape) - 1:
        raise NetworkError(
            f"multiplies the last axis of {tensor.shape}, which are no channels; flatten it, or put its channels last"
        )
    offset, spatial = optional(bias), len(tensor.spatial_axes)
    if not spatial:
        operation: Linear | Conv = Linear(matrix.shape[0], offset is not None)
    else:
        operation, matrix = Conv(matrix.shape[0], 1, bias=offset is not None), pointwise(matrix, spatial)
    return tracer.emit(operation, [tensor], {"weight": matrix, "bias": offset})


def softmax(tracer: Tracer, value: Value, axis: int) -> Tensor:
    """Add the probabilities over the channels."""
    tensor = features(value)
    if axis % len(tensor.shape) != tensor.channel_axis:
        raise NetworkError(f"axis is {axis}; a softmax is known over the channels, axis {tensor.channel_axis}")
    return tracer.emit(SoftmaxCrossEntropy(), [tensor])
