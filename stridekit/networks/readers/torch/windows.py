"""ATen's convolutions, poolings, paddings and interpolations."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from stridekit.errors import NetworkError
from stridekit.networks.readers.torch.call import ExportedCall
from stridekit.networks.readers.tracing import Tensor, Value, shaping, windows
from stridekit.networks.readers.tracing.values import channels_first, features
from stridekit.networks.readers.tracing.windows import Window

_PAD_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def _window(call: ExportedCall) -> Window:
    """Return a convolution's or a pooling's; a pooling without a stride steps by its kernel."""
    kernel = call.sizes("kernel_size") if "kernel_size" in call else ()
    padding = call.sizes("padding")
    return Window(
        call.sizes("stride") if call["stride"] else kernel,
        0 if padding == "valid" else padding,
        call.sizes("dilation") if "dilation" in call else 1,
        kernel,
    )


def _conv(call: ExportedCall) -> Value:
    return windows.conv(call.tracer, call.first, call["weight"], call["bias"], _window(call), call["groups"])


def _conv_transpose(call: ExportedCall) -> Value:
    return windows.conv_transpose(
        call.tracer,
        call.first,
        call["weight"],
        call["bias"],
        _window(call),
        call.sizes("output_padding"),
        call["groups"],
    )


def _convolution(call: ExportedCall) -> Value:
    return _conv_transpose(call) if call["transposed"] else _conv(call)


def _max_pool(call: ExportedCall) -> Value:
    return windows.max_pool(call.tracer, call.first, _window(call), ceil_mode=call["ceil_mode"])


def _avg_pool(call: ExportedCall) -> Value:
    if call.get("divisor_override") is not None:
        raise NetworkError("divisor_override is not known")
    return windows.avg_pool(
        call.tracer,
        call.first,
        _window(call),
        ceil_mode=call["ceil_mode"],
        count_include_pad=call["count_include_pad"],
    )


def _adaptive_avg_pool(call: ExportedCall) -> Value:
    return windows.adaptive_avg_pool(call.tracer, call.first, call["output_size"])


def _adaptive_max_pool(call: ExportedCall) -> Value:
    if any(size != 1 for size in call["output_size"]):
        raise NetworkError(f"output_size is {tuple(call['output_size'])}, known as 1 alone")
    return windows.global_pool(call.tracer, call.first, largest=True), None


def _pad(call: ExportedCall) -> Value:
    tensor = features(call.first)
    mode, value, amounts = call.get("mode", "constant"), call.get("value"), list(call["pad"])
    if mode not in _PAD_MODES:
        raise NetworkError(f"mode is {mode!r}; wanted one of {', '.join(_PAD_MODES)}")
    if mode == "constant" and value not in (None, 0):
        raise NetworkError(f"pads with {value}; known are zeros")
    # From the last axis backwards.
    pairs = [(before, after) for before, after in zip(amounts[::2], amounts[1::2], strict=True)][::-1]
    pairs = [(0, 0)] * (len(tensor.shape) - len(pairs)) + pairs
    return shaping.pad(tensor, pairs, _PAD_MODES[mode], call.tracer.place.text)


def _upsample(mode: str) -> Callable[[ExportedCall], Value]:
    def handled(call: ExportedCall) -> Value:
        tensor = channels_first(call.first)
        sizes = call["output_size" if "output_size" in call else "size"]
        sizes = _scaled(tensor, call["scale_factors"]) if sizes is None else sizes
        scales = [call[name] for name in ("scales", "scales_d", "scales_h", "scales_w") if name in call]
        if any(scale is not None for scale in scales) and _scaled(tensor, scales) != tuple(sizes):
            raise NetworkError(f"the scales are {scales}, and the size {tuple(sizes)} is another")
        return shaping.resize(call.tracer, tensor, sizes, mode, align_corners=bool(call.get("align_corners", False)))

    return handled


def _scaled(tensor: Tensor, scales: Any) -> tuple[int, ...]:
    """Return the sizes that whole pixels come to: of others PyTorch would not keep the ratio of sizes."""
    sizes = []
    for size, scale in zip(tensor.shape[2:], scales, strict=True):
        exact = size * Fraction(float(scale)).limit_denominator(10**4)
        if exact.denominator != 1:
            raise NetworkError(f"the scale is {scale} for {size} pixels, of which {float(exact)} would come")
        sizes.append(int(exact))
    return tuple(sizes)


FUNCTIONS: dict[str, Callable[[ExportedCall], Any]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "convolution": _convolution,
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(
        ("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
        lambda call: (_max_pool(call), None),
    ),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _avg_pool),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d"),
        _adaptive_avg_pool,
    ),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_max_pool),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), _upsample("nearest")),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _upsample("linear")),
}
