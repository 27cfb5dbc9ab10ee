"""A network in plain NumPy and float64, every operation by its formula; nothing of the engine is used."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from stridekit.networks import Layer, Network

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
ERF = np.vectorize(math.erf, otypes=[np.float64])
FUNCTIONS: dict[str, Any] = {
    "relu": lambda x, of: np.maximum(x, 0),
    "relu6": lambda x, of: np.clip(x, 0, 6),
    "clipped_relu": lambda x, of: np.clip(x, 0, of.limit),
    "leaky_relu": lambda x, of: np.where(x > 0, x, of.slope * x),
    "sigmoid": lambda x, of: np.exp(-np.logaddexp(0, -x)),
    "silu": lambda x, of: x * np.exp(-np.logaddexp(0, -x)),
    "tanh": lambda x, of: np.tanh(x),
    "hard_sigmoid": lambda x, of: np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x, of: x * np.clip(x + 3, 0, 6) / 6,
    "gelu": lambda x, of: x * 0.5 * (1 + ERF(x / math.sqrt(2))),
}


def evaluate(network: Network, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every layer's result, outside training."""
    values: dict[str, np.ndarray] = {}
    for layer in network.layers:
        if layer.operation.kind == "input":
            values[layer.name] = given[layer.name].astype(np.float64)
        else:
            values[layer.name] = formula(network, layer, [values[name] for name in layer.inputs])
    return values


def formula(network: Network, layer: Layer, inputs: list[np.ndarray]) -> np.ndarray:
    """Return what a layer gives for float64 inputs, outside training."""
    of: Any = layer.operation
    x, rank, kind = inputs[0], inputs[0].ndim - 2, layer.operation.kind
    at = layer.operation.resolved(tuple(each.shape[1:] for each in inputs))

    def own(name: str, *, spread: bool = True) -> np.ndarray:
        value = np.asarray(network.parameters[f"{layer.owner}.{name}"]).astype(np.float64)
        return value.reshape(-1, *(1,) * rank) if spread else value

    if kind == "conv":
        y = correlated(x, own("weight", spread=False), at.geometry, of.groups, of.padding_mode)
        return y + own("bias") if of.bias else y
    if kind == "conv_transpose":
        y = spread_out(x, own("weight", spread=False), at.spread, of.groups)
        return y + own("bias") if of.bias else y
    if kind == "linear":
        y = x @ own("weight", spread=False).T
        return y + own("bias", spread=False) if of.bias else y
    if kind in ("max_pool", "avg_pool"):
        return _pooled(x, at.geometry, kind == "max_pool", kind == "max_pool" or not of.count_include_pad)
    if kind == "adaptive_avg_pool":
        return _pooled(x, at.geometry, False, False)
    if kind == "blur_pool":
        line = (np.poly1d([0.5, 0.5]) ** (of.filter_size - 1)).coeffs
        taps = line
        for _ in range(rank - 1):
            taps = np.multiply.outer(taps, line)
        weight = np.broadcast_to(taps, (x.shape[1], 1, *taps.shape))
        return correlated(x, weight, at.geometry, x.shape[1], of.padding_mode)
    if kind in ("global_avg_pool", "global_max_pool"):
        axes = tuple(range(2, x.ndim))
        return x.mean(axes, keepdims=True) if kind == "global_avg_pool" else x.max(axes, keepdims=True)
    if kind == "activation":
        return FUNCTIONS[of.function](x, of)
    if kind == "batch_norm":
        return (x - own("running_mean")) / np.sqrt(own("running_var") + of.epsilon) * own("weight") + own("bias")
    if kind == "layer_norm":
        centred = x - x.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + of.epsilon) * own("weight") + own("bias")
    if kind == "scale":
        return x * own("weight")
    if kind == "add":
        return np.add.reduce(inputs)
    if kind == "multiply":
        return inputs[0] * inputs[1]
    if kind == "concat":
        return np.concatenate(inputs, 1)
    if kind == "slice":
        return x[:, of.start : of.stop]
    if kind == "upsample":
        for axis, wanted in enumerate(at.output[1:]):
            x = _resized(x, 2 + axis, wanted, of.mode, of.align_corners)
        return x
    if kind == "flatten":
        return x.reshape(len(x), -1)
    if kind == "softmax_cross_entropy":
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)
    raise AssertionError(f"no formula for {kind}")


def correlated(x: np.ndarray, weight: np.ndarray, geometry: Any, groups: int, mode: str) -> np.ndarray:
    """Return a convolution: tap after tap, each a product of channels with the pixels that it meets."""
    n, rank = len(x), x.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *geometry.padding], MODES[mode])
    y = np.zeros((n, groups, len(weight) // groups, *geometry.output_size))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    for tap in product(*map(range, weight.shape[2:])):
        met = x[(slice(None), slice(None), *_met(tap, geometry))].reshape(n, groups, -1, *geometry.output_size)
        letters = "xyz"[:rank]
        y += np.einsum(f"gkc,ngc{letters}->ngk{letters}", grouped[(..., *tap)], met)
    return y.reshape(n, len(weight), *geometry.output_size)


def spread_out(x: np.ndarray, weight: np.ndarray, geometry: Any, groups: int) -> np.ndarray:
    """Return a transposed convolution: each tap adds its product to the pixels that it would have met."""
    n, rank, filters = len(x), x.ndim - 2, weight.shape[1] * groups
    padded = [size + sum(pads) for size, pads in zip(geometry.input_size, geometry.padding, strict=True)]
    y = np.zeros((n, filters, *padded))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    source = x.reshape(n, groups, -1, *x.shape[2:])
    for tap in product(*map(range, weight.shape[2:])):
        letters = "xyz"[:rank]
        part = np.einsum(f"gck,ngc{letters}->ngk{letters}", grouped[(..., *tap)], source)
        y[(slice(None), slice(None), *_met(tap, geometry))] += part.reshape(n, filters, *x.shape[2:])
    inside = [
        slice(before, before + size) for (before, _), size in zip(geometry.padding, geometry.input_size, strict=True)
    ]
    return y[(slice(None), slice(None), *inside)]


def _met(tap: tuple[int, ...], geometry: Any) -> list[slice]:
    """Return the padded pixels that a tap meets in all windows."""
    return [
        slice(at * axis.dilation, at * axis.dilation + (axis.output_size - 1) * axis.stride + 1, axis.stride)
        for at, axis in zip(tap, geometry.axes, strict=True)
    ]


def _pooled(x: np.ndarray, geometry: Any, largest: bool, real_only: bool) -> np.ndarray:
    """Pool window by window."""
    y = np.empty((*x.shape[:2], *geometry.output_size))
    for window in product(*map(range, geometry.output_size)):
        taken = []
        for at, axis in zip(window, geometry.axes, strict=True):
            start = at * axis.stride - axis.pad_before
            taps = [start + tap * axis.dilation for tap in range(axis.kernel)]
            taken.append([tap for tap in taps if 0 <= tap < axis.size])
        part = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *taken)].reshape(*x.shape[:2], -1)
        # Of an average with padding and ceil_mode the divisor is another; none is tested here.
        divisor = part.shape[2] if real_only else math.prod(axis.kernel for axis in geometry.axes)
        y[(..., *window)] = part.max(2) if largest else part.sum(2) / divisor
    return y


def _resized(x: np.ndarray, axis: int, wanted: int, mode: str, align_corners: bool) -> np.ndarray:
    size = x.shape[axis]
    if mode == "nearest":
        return x.take([pixel * size // wanted for pixel in range(wanted)], axis)
    pixels = np.arange(wanted)
    at = pixels * ((size - 1) / max(wanted - 1, 1)) if align_corners else (pixels + 0.5) * (size / wanted) - 0.5
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, size - 1), axis) * share
