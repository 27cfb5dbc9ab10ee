"""What becomes of each ATen function. To know another: a function here, and its line in `FUNCTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.readers.torch import windows
from stridekit.networks.readers.torch.call import ExportedCall
from stridekit.networks.readers.tracing import Constant, Value, elementwise, normalising, shaping
from stridekit.networks.readers.tracing.values import constant, features
from stridekit.problems.activations import ACTIVATIONS

Handler = Callable[[ExportedCall], Any]


def _function(name: str) -> Handler:
    return lambda call: elementwise.activation(call.tracer, call.first, name)


def _step(name: str) -> Handler:
    return lambda call: elementwise.step(call.tracer, call.first, elementwise.STEPS[name], name)


def _gelu(call: ExportedCall) -> Value:
    if call["approximate"] != "none":
        raise NetworkError(f"approximate is {call['approximate']!r}, known as 'none' alone")
    return elementwise.activation(call.tracer, call.first, "gelu")


def _leaky_relu(call: ExportedCall) -> Value:
    return elementwise.activation(call.tracer, call.first, "leaky_relu", float(call["negative_slope"]))


def _softplus(call: ExportedCall) -> Value:
    if (call["beta"], call["threshold"]) != (1, 20):
        raise NetworkError("beta and threshold are not known")
    return elementwise.step(call.tracer, call.first, elementwise.STEPS["softplus"], "softplus")


def _clamp(low: str, high: str) -> Handler:
    def handled(call: ExportedCall) -> Value:
        least, most = (None if bound is None else float(bound) for bound in (call[low], call[high]))
        return elementwise.clip(call.tracer, call.first, least, most, call.name)

    return handled


def _operand(value: Any) -> Value:
    """Return a number as a constant."""
    operand: Value = Constant(np.array(value, np.float64)) if isinstance(value, int | float) else value
    return operand


def _add(call: ExportedCall) -> Value:
    if call.get("alpha", 1) != 1:
        raise NetworkError("alpha is not known")
    return elementwise.add(call.tracer, call.first, _operand(call["other"]), call.name)


def _mul(call: ExportedCall) -> Value:
    return elementwise.multiply(call.tracer, call.first, _operand(call["other"]), call.name)


def _with_number(function: Callable[[Any, Any], np.ndarray], *, turned: bool = False) -> Handler:
    def handled(call: ExportedCall) -> Value:
        if call.get("alpha", 1) != 1 or call.get("rounding_mode") is not None:
            raise NetworkError("is known with one number alone, as a step of an activation")
        left, right = call.first, _operand(call["other"])
        left, right = (right, left) if turned else (left, right)
        return elementwise.with_number(call.tracer, left, right, function, call.name)

    return handled


def _batch_norm(call: ExportedCall) -> Value:
    weight, bias, mean, variance = (call[name] for name in ("weight", "bias", "running_mean", "running_var"))
    if call.get("training", False):
        raise NetworkError("normalises by the batch, not by kept means")
    return normalising.batch_norm(
        call.tracer,
        call.first,
        weight,
        bias,
        mean,
        variance,
        epsilon=float(call["eps"]),
        momentum=float(call["momentum"]),
    )


def _layer_norm(call: ExportedCall) -> Value:
    tensor, shape = features(call.first), tuple(call["normalized_shape"])
    rank = len(tensor.shape)
    return normalising.layer_norm(
        call.tracer,
        tensor,
        range(rank - len(shape), rank),
        call["weight"],
        call["bias"],
        epsilon=float(call["eps"]),
    )


def _linear(call: ExportedCall) -> Value:
    return normalising.linear(call.tracer, call.first, call["weight"], call["bias"])


def _addmm(call: ExportedCall) -> Value:
    if call["alpha"] != 1 or call["beta"] != 1:
        raise NetworkError("alpha and beta are not known")
    return normalising.linear(call.tracer, call["mat1"], _turned(call["mat2"]), call["self"])


def _matmul(call: ExportedCall) -> Value:
    return normalising.linear(call.tracer, call.first, _turned(call["mat2" if "mat2" in call else "other"]), None)


def _turned(value: Value) -> Constant:
    weight = constant(value, "the weight")
    return Constant(weight.array.T, weight.name, weight.key)


def _softmax(call: ExportedCall) -> Value:
    return normalising.softmax(call.tracer, call.first, call["dim"])


def _reduce(largest: bool) -> Handler:
    def handled(call: ExportedCall) -> Value:
        tensor = features(call.first)
        asked = call.get("dim")
        axes = range(len(tensor.shape)) if asked is None or asked == [] else asked
        keep = bool(call.get("keepdim", False))
        return shaping.reduce(call.tracer, tensor, list(axes), keep=keep, largest=largest)

    return handled


def _flatten(call: ExportedCall) -> Value:
    tensor = features(call.first)
    if call["end_dim"] % len(tensor.shape) != len(tensor.shape) - 1:
        raise NetworkError(f"end_dim is {call['end_dim']}; known is the last")
    return shaping.flatten(call.tracer, tensor, call["start_dim"])


def _reshape(call: ExportedCall) -> Value:
    return shaping.reshape(call.tracer, call.first, call["size" if "size" in call else "shape"])


def _expand(call: ExportedCall) -> Value:
    tensor = features(call.first)
    if any(size not in (-1, own) for size, own in zip(call["size"], tensor.shape, strict=True)):
        raise NetworkError(f"expands {tensor.shape} to {tuple(call['size'])}")
    return tensor


def _squeeze(call: ExportedCall) -> Value:
    axes = call.get("dim")
    if axes is not None:
        tensor = features(call.first)
        # PyTorch passes over axes that are longer than 1.
        axes = [axis for axis in ([axes] if isinstance(axes, int) else axes) if tensor.shape[axis] == 1]
    return shaping.squeeze(call.tracer, call.first, axes)


def _transpose(call: ExportedCall) -> Value:
    tensor = features(call.first)
    axes = list(range(len(tensor.shape)))
    one, other = call["dim0"], call["dim1"]
    axes[one], axes[other] = axes[other], axes[one]
    return shaping.transpose(tensor, axes)


def _slice(call: ExportedCall) -> Value:
    start, stop = call["start"], call["end"]
    stop = 2**62 if stop is None else stop
    return shaping.take(call.tracer, call.first, call["dim"], 0 if start is None else start, stop, call["step"])


def _split(call: ExportedCall) -> Value:
    tensor, axis = features(call.first), call["dim"]
    sizes = call["split_sizes" if "split_sizes" in call else "split_size"]
    if isinstance(sizes, int):
        whole = tensor.shape[axis]
        sizes = [min(sizes, whole - start) for start in range(0, whole, max(sizes, 1))]
    return shaping.split(call.tracer, tensor, axis, sizes)


def _chunk(call: ExportedCall) -> Value:
    tensor, axis = features(call.first), call["dim"]
    size = -(-tensor.shape[axis] // call["chunks"])
    return shaping.split(
        call.tracer,
        tensor,
        axis,
        [min(size, tensor.shape[axis] - start) for start in range(0, tensor.shape[axis], size)],
    )


def _getitem(call: ExportedCall) -> Value:
    several, index = call.args
    found: Value = several[index]
    return found


def _cast(call: ExportedCall) -> Value:
    dtype = call.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise NetworkError(f"casts what a layer gives to {dtype}; wanted floats")
    return features(call.first)


def _dropout(call: ExportedCall) -> Value:
    if call["train"]:
        raise NetworkError("drops out in evaluation mode")
    return call.first


def _same(call: ExportedCall) -> Value:
    return call.first


FUNCTIONS: dict[str, Handler] = {
    **windows.FUNCTIONS,
    **{function.torch: _function(name) for name, function in ACTIVATIONS.items() if function.torch},
    **{name: _step(name) for name in ("erf", "exp", "neg", "reciprocal")},
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "lift_fresh_copy"), _same),
    **dict.fromkeys(("dropout", "feature_dropout"), _dropout),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _reshape),
    **dict.fromkeys(("mm", "matmul"), _matmul),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("to", "_to_copy"), _cast),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "add": _add,
    "addmm": _addmm,
    "amax": _reduce(largest=True),
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda call: (_batch_norm(call), None, None),
    "cat": lambda call: shaping.concat(call.tracer, call["tensors"], call["dim"]),
    "chunk": _chunk,
    "clamp": _clamp("min", "max"),
    "div": _with_number(np.divide),
    "expand": _expand,
    "flatten": _flatten,
    "gelu": _gelu,
    "getitem": _getitem,
    "hardtanh": _clamp("min_val", "max_val"),
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "mean": _reduce(largest=False),
    "mul": _mul,
    "native_layer_norm": lambda call: (_layer_norm(call), None, None),
    "permute": lambda call: shaping.transpose(call.first, call["dims"]),
    "rsub": _with_number(np.subtract, turned=True),
    "slice": _slice,
    "softplus": _softplus,
    "squeeze": _squeeze,
    "sub": _with_number(np.subtract),
    "transpose": _transpose,
    "_assert_tensor_metadata": lambda call: None,
}
