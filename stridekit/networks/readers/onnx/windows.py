"""ONNX's convolutions and poolings, and Resize."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.readers.onnx.loading import weight_of
from stridekit.networks.readers.onnx.node import Node, integers
from stridekit.networks.readers.tracing import Constant, Tensor, Value, shaping, windows
from stridekit.networks.readers.tracing.values import channels_first, constant
from stridekit.networks.readers.tracing.windows import Window
from stridekit.problems.padding import Padding

_AUTO_PAD = {"VALID": 0, "SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


def rank_of(value: Value) -> int:
    """Return the number of spatial axes."""
    if value is None or isinstance(value, tuple):
        raise NetworkError("the input is missing")
    return len(value.shape) - 2


def weights(value: Value, what: str) -> Value:
    """Return a constant whose dtype a network takes, or None."""
    if isinstance(value, Constant):
        weight_of(value.array, what)
    return value


def conv(node: Node) -> Tensor:
    """Conv."""
    weight, rank = weights(node.input(1), "the weight"), rank_of(node.input(0))
    _check_kernel(node, constant(weight, "the weight").shape[2:])
    return windows.conv(
        node.tracer,
        node.input(0),
        weight,
        weights(node.input(2), "the bias"),
        _window(node, rank),
        node.integer("group", 1),
    )


def conv_transpose(node: Node) -> Tensor:
    """ConvTranspose: with `output_shape`, the padding that leads to it."""
    tensor, weight = channels_first(node.input(0)), weights(node.input(1), "the weight")
    kernel, rank = constant(weight, "the weight").shape[2:], rank_of(tensor)
    _check_kernel(node, kernel)
    if len(kernel) != rank:
        raise NetworkError(f"the weight is {constant(weight, '').shape}, for an input of {rank} spatial axes")
    stride, padding, dilation = _sizes(node, "strides", rank), _padding(node, rank), _sizes(node, "dilations", rank)
    extra = node.integers("output_padding") or (0,) * rank
    wanted, name = node.integers("output_shape"), node.text("auto_pad", "NOTSET")
    if len(extra) != rank or (wanted is not None and len(wanted) != rank):
        raise NetworkError(f"output_padding is {extra} and output_shape {wanted}, for {rank} spatial axes")
    if wanted is not None or name in ("SAME_UPPER", "SAME_LOWER"):
        sizes = tensor.shape[2:]
        ends = wanted or tuple(size * step for size, step in zip(sizes, stride, strict=True))
        totals = [
            step * (size - 1) + more + (taps - 1) * spread + 1 - end
            for size, step, more, taps, spread, end in zip(sizes, stride, extra, kernel, dilation, ends, strict=True)
        ]
        if min(totals) < 0:
            raise NetworkError(f"the output is to be {ends}, more than all windows reach")
        low = [total // 2 if name == "SAME_UPPER" else total - total // 2 for total in totals]
        padding = tuple((before, total - before) for before, total in zip(low, totals, strict=True))
    return windows.conv_transpose(
        node.tracer,
        tensor,
        weight,
        weights(node.input(2), "the bias"),
        Window(stride, padding, dilation),
        extra,
        node.integer("group", 1),
    )


def max_pool(node: Node) -> Tensor:
    """MaxPool, without the indices."""
    node.one_output()
    node.ignored("storage_order")
    return windows.max_pool(node.tracer, node.input(0), _pool_window(node), ceil_mode=node.flag("ceil_mode"))


def average_pool(node: Node) -> Tensor:
    """AveragePool."""
    return windows.avg_pool(
        node.tracer,
        node.input(0),
        _pool_window(node),
        ceil_mode=node.flag("ceil_mode"),
        count_include_pad=node.flag("count_include_pad"),
    )


def pad(node: Node) -> Value:
    """Pad, put aside for the window after it."""
    tensor = node.input(0)
    rank = rank_of(tensor) + 2
    mode = node.text("mode", "constant")
    modes = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in modes:
        raise NetworkError(f"mode is {mode!r}; wanted one of {', '.join(modes)}")
    if node.opset < 11:
        amounts, value = node.integers("pads"), node.real("value", 0.0)
    else:
        filling = node.input(2)
        amounts = node.integers_input(1)
        value = 0.0 if filling is None else float(constant(filling, "the value").array.reshape(-1)[0])
    if mode == "constant" and value != 0:
        raise NetworkError(f"pads with {value}; known are zeros")
    axes = node.integers_input(3)
    chosen = tuple(range(rank)) if axes is None else tuple(axis % rank for axis in axes)
    if amounts is None or len(amounts) != 2 * len(chosen):
        raise NetworkError(f"pads is {amounts}; wanted two numbers for each of {len(chosen)} axes")
    given = dict(zip(chosen, zip(amounts[: len(chosen)], amounts[len(chosen) :], strict=True), strict=True))
    pairs = [given.get(axis, (0, 0)) for axis in range(rank)]
    return shaping.pad(tensor, pairs, modes[mode], node.tracer.place.text)


def resize(node: Node) -> Tensor:
    """Resize and Upsample: nearest by the floor, or linear."""
    tensor = channels_first(node.input(0))
    mode = node.text("mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise NetworkError(f"mode is {mode!r}; wanted nearest or linear")
    old = node.operator == "Upsample" or node.opset < 11
    where = "asymmetric" if old else node.text("coordinate_transformation_mode", "half_pixel")
    wanted, whole = _resized(node, tensor, old)
    node.ignored("cubic_coeff_a", "exclude_outside", "extrapolation_value")
    rounding = node.text("nearest_mode", "floor" if old else "round_prefer_floor")
    if node.flag("antialias") or node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NetworkError("antialias and keep_aspect_ratio_policy are not known")
    if wanted == tensor.shape[2:]:
        return tensor
    if mode == "nearest":
        halves = where in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer")
        # By a whole factor the nearest centre is the floor's pixel.
        known = (where == "asymmetric" and rounding == "floor") or (halves and whole and min(wanted) > 1)
    else:
        halves = where == "half_pixel" or (where == "pytorch_half_pixel" and _no_single(tensor, wanted))
        known = halves or where == "align_corners"
    if not known:
        raise NetworkError(
            f"{mode} at {where} coordinates, {rounding}, is not known; known are nearest, asymmetric, floor, "
            "and linear at half_pixel or align_corners"
        )
    return shaping.resize(node.tracer, tensor, wanted, mode, align_corners=where == "align_corners")


def _no_single(tensor: Tensor, wanted: tuple[int, ...]) -> bool:
    return all(size > 1 or have == 1 for size, have in zip(wanted, tensor.shape[2:], strict=True))


def _resized(node: Node, tensor: Tensor, old: bool) -> tuple[tuple[int, ...], bool]:
    """Return the new size, and whether it is a whole multiple of the old one."""
    rank = len(tensor.shape)
    axes = node.integers("axes")
    chosen = tuple(range(rank)) if axes is None else tuple(axis % rank for axis in axes)
    first, sizes = (1, None) if old else (2, node.input(3))
    scales = node.input(first)
    whole = list(tensor.shape)
    if old and scales is None and node.has("scales"):
        scales = Constant(np.array(node.reals("scales")))
    if isinstance(sizes, Constant):
        new = integers(sizes, "sizes")
        if len(new) != len(chosen):
            raise NetworkError(f"sizes is {new}; wanted {len(chosen)} numbers")
        for axis, size in zip(chosen, new, strict=True):
            whole[axis] = size
    else:
        factors = constant(scales, "scales").array.astype(np.float64).reshape(-1)
        if len(factors) != len(chosen):
            raise NetworkError(f"scales is {tuple(factors)}; wanted {len(chosen)} numbers")
        for axis, factor in zip(chosen, factors.tolist(), strict=True):
            if not math.isfinite(factor) or not 0 < factor <= 2**20:
                raise NetworkError(f"scales is {tuple(factors)}")
            exact = Fraction(factor).limit_denominator(10**4) * whole[axis]
            if exact.denominator != 1:
                raise NetworkError(f"scales is {factor} for {whole[axis]} pixels, of which {float(exact)} would come")
            whole[axis] = int(exact)
    if tuple(whole[:2]) != tensor.shape[:2]:
        raise NetworkError(f"resizes {tensor.shape} to {tuple(whole)}; known is for spatial axes alone")
    new = tuple(whole[2:])
    return new, all(size % have == 0 for size, have in zip(new, tensor.shape[2:], strict=True))


def _pool_window(node: Node) -> Window:
    rank = rank_of(node.input(0))
    kernel = _sizes(node, "kernel_shape", rank)
    return _window(node, rank)._replace(kernel=kernel)


def _window(node: Node, rank: int) -> Window:
    return Window(_sizes(node, "strides", rank), _padding(node, rank), _sizes(node, "dilations", rank))


def _sizes(node: Node, name: str, rank: int) -> tuple[int, ...]:
    sizes = node.integers(name)
    if sizes is None and name == "kernel_shape":
        raise NetworkError("kernel_shape is missing")
    found = (1,) * rank if sizes is None else sizes
    if len(found) != rank or min(found, default=1) < 1:
        raise NetworkError(f"{name} is {found}; wanted {rank} numbers of at least 1")
    return found


def _check_kernel(node: Node, kernel: tuple[int, ...]) -> None:
    given = node.integers("kernel_shape")
    if given is not None and given != kernel:
        raise NetworkError(f"kernel_shape is {given}; the weight has {kernel}")


def _padding(node: Node, rank: int) -> Padding:
    name, pads = node.text("auto_pad", "NOTSET") or "NOTSET", node.integers("pads")
    if name in _AUTO_PAD:
        return _AUTO_PAD[name]  # type: ignore[return-value]
    if name != "NOTSET":
        raise NetworkError(f"auto_pad is {name!r}; wanted NOTSET or one of {', '.join(_AUTO_PAD)}")
    amounts = (0,) * (2 * rank) if pads is None else pads
    if len(amounts) != 2 * rank or min(amounts, default=0) < 0:
        raise NetworkError(f"pads is {amounts}; wanted {2 * rank} numbers of at least 0")
    return tuple(zip(amounts[:rank], amounts[rank:], strict=True))
