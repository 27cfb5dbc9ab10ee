"""What becomes of each ONNX operator. To know another: a function here, and its line in `OPERATORS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.readers.onnx import constants, windows
from stridekit.networks.readers.onnx.constants import axes_of
from stridekit.networks.readers.onnx.node import Node
from stridekit.networks.readers.onnx.windows import weights
from stridekit.networks.readers.tracing import Constant, Tensor, Value, elementwise, normalising, shaping
from stridekit.networks.readers.tracing.values import constant, decimal, features, number
from stridekit.networks.readers.tracing.windows import global_pool
from stridekit.problems.activations import ACTIVATIONS

Handler = Callable[[Node], Value]

_SIXTH = decimal(1 / 6)


def _function(name: str) -> Handler:
    return lambda node: elementwise.activation(node.tracer, node.input(0), name)


def _step(name: str) -> Handler:
    return lambda node: elementwise.step(node.tracer, node.input(0), elementwise.STEPS[name], node.operator)


def _leaky_relu(node: Node) -> Value:
    return elementwise.activation(node.tracer, node.input(0), "leaky_relu", node.real("alpha", 0.01))


def _gelu(node: Node) -> Value:
    if node.text("approximate", "none") != "none":
        raise NetworkError("approximate is known as 'none' alone")
    return elementwise.activation(node.tracer, node.input(0), "gelu")


def _hard_sigmoid(node: Node) -> Value:
    alpha, beta = node.real("alpha", 0.2), node.real("beta", 0.5)
    if (alpha, beta) != (_SIXTH, 0.5):
        raise NetworkError(f"alpha is {alpha} and beta {beta}; known are 1/6 and 0.5")
    return elementwise.activation(node.tracer, node.input(0), "hard_sigmoid")


def _clip(node: Node) -> Value:
    if node.opset < 11:
        low = node.real("min", 0.0) if node.has("min") else None
        high = node.real("max", 0.0) if node.has("max") else None
    else:
        low, high = (_bound(node.input(at)) for at in (1, 2))
    return elementwise.clip(node.tracer, node.input(0), low, high, node.operator)


def _bound(value: Value) -> float | None:
    found = number(value)
    if value is not None and found is None:
        raise NetworkError("a bound is not one constant number")
    return found


def _add(node: Node) -> Value:
    return elementwise.add(node.tracer, _weighing(node.input(0)), _weighing(node.input(1)), node.operator)


def _mul(node: Node) -> Value:
    return elementwise.multiply(node.tracer, _weighing(node.input(0)), _weighing(node.input(1)), node.operator)


def _sum(node: Node) -> Value:
    found = node.input(0)
    for value in node.inputs[1:]:
        found = elementwise.add(node.tracer, found, _weighing(value), node.operator)
    return found


def _with_number(function: Callable[..., np.ndarray]) -> Handler:
    return lambda node: elementwise.with_number(node.tracer, node.input(0), node.input(1), function, node.operator)


def _batch_norm(node: Node) -> Value:
    node.one_output()
    if node.flag("training_mode") or not node.flag("spatial", True):
        raise NetworkError("training_mode and spatial = 0 are not known")
    node.ignored("is_test", "consumed_inputs")
    value, *kept = (weights(node.input(at), f"input {at}") for at in range(5))
    return normalising.batch_norm(
        node.tracer,
        value,
        *kept,
        epsilon=node.real("epsilon", 1e-5),
        # ONNX has the share of the old mean, PyTorch and networks that of the new one.
        momentum=decimal(1 - node.real("momentum", 0.9)),
    )


def _layer_norm(node: Node) -> Value:
    node.one_output()
    node.ignored("stash_type")
    tensor = features(node.input(0))
    axis, rank = node.integer("axis", -1), len(tensor.shape)
    return normalising.layer_norm(
        node.tracer,
        tensor,
        range(axis % rank, rank),
        weights(node.input(1), "the scale"),
        weights(node.input(2), "the bias"),
        epsilon=node.real("epsilon", 1e-5),
    )


def _gemm(node: Node) -> Value:
    if node.flag("transA") or node.real("alpha", 1.0) != 1 or (node.real("beta", 1.0) != 1 and node.input(2)):
        raise NetworkError("transA, alpha and beta are not known")
    tensor, weight = features(node.input(0)), constant(weights(node.input(1), "B"), "B")
    if len(tensor.shape) != 2:
        raise NetworkError(f"A is {tensor.shape}; wanted (N, features)")
    bias = weights(node.input(2), "C")
    matrix = weight if node.flag("transB") else _turned(weight)
    if isinstance(bias, Constant):
        count = matrix.shape[0] if matrix.shape else 0
        # One number serves all features; a row of them may have a batch of 1 before it.
        node.tracer.make((count,), bias.array.itemsize)
        bias = Constant(np.broadcast_to(bias.array, (1, count)).reshape(count), bias.name, bias.key)
    return normalising.linear(node.tracer, tensor, matrix, bias)


def _matmul(node: Node) -> Value:
    weight = constant(weights(node.input(1), "B"), "B")
    return normalising.linear(node.tracer, node.input(0), _turned(weight), None)


def _turned(weight: Constant) -> Constant:
    if len(weight.shape) != 2:
        raise NetworkError(f"B is {weight.shape}; wanted a matrix")
    return Constant(weight.array.T, weight.name, weight.key)


def _softmax(node: Node) -> Value:
    tensor = features(node.input(0))
    axis = node.integer("axis", -1 if node.opset >= 13 else 1)
    # Up to opset 12 it went over all axes from this one on.
    if (
        node.opset < 13
        and any(tensor.shape[(axis % len(tensor.shape)) + 1 :])
        and max(tensor.shape[(axis % len(tensor.shape)) + 1 :], default=1) > 1
    ):
        raise NetworkError(f"goes over all axes of {tensor.shape} from {axis} on in opset {node.opset}")
    return normalising.softmax(node.tracer, tensor, axis)


def _concat(node: Node) -> Value:
    return shaping.concat(node.tracer, node.inputs, node.integer("axis", 1))


def _slice(node: Node) -> Value:
    value: Value = features(node.input(0))
    for axis, start, stop, step in constants.slices(node):
        value = shaping.take(node.tracer, value, axis, start, stop, step)
    return value


def _split(node: Node) -> Value:
    tensor, axis = features(node.input(0)), node.integer("axis", 0)
    sizes = node.integers("split") if node.opset < 13 else node.integers_input(1)
    count = node.integer("num_outputs", len(node.outputs))
    if count != len(node.outputs) or not -len(tensor.shape) <= axis < len(tensor.shape):
        raise NetworkError(f"num_outputs is {count} and axis {axis}, for {len(node.outputs)} outputs of {tensor.shape}")
    if sizes is None:
        size = tensor.shape[axis]
        most = -(-size // count)
        sizes = tuple(min(most, size - most * part) for part in range(count))
    return shaping.split(node.tracer, tensor, axis, sizes)


def _gather(node: Node) -> Value:
    raise NetworkError("operator Gather is known for constants alone, as sizes are put together with it")


def _reshape(node: Node) -> Value:
    wanted = node.integers("shape") if node.opset < 5 else node.integers_input(1)
    return shaping.reshape(node.tracer, node.input(0), wanted or (), zero_copies=not node.flag("allowzero"))


def _reduce(largest: bool) -> Handler:
    def handled(node: Node) -> Value:
        tensor, axes = features(node.input(0)), axes_of(node)
        if node.flag("noop_with_empty_axes") and not axes:
            return tensor
        chosen = axes or tuple(range(len(tensor.shape)))
        return shaping.reduce(node.tracer, tensor, chosen, keep=node.flag("keepdims", True), largest=largest)

    return handled


def _cast(node: Node) -> Value:
    from onnx import TensorProto

    node.ignored("saturate", "round_mode")
    to = node.integer("to", 0)
    if to not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
        raise NetworkError("casts what a layer gives to a type that is no float")
    return features(node.input(0))


def _dropout(node: Node) -> Value:
    node.ignored("ratio", "seed", "is_test", "consumed_inputs")
    node.one_output()
    training = node.input(2)
    if training is not None and bool(constant(training, "training_mode").array.any()):
        raise NetworkError("training_mode is not known")
    return node.input(0)


def _transpose(node: Node) -> Value:
    tensor = features(node.input(0))
    return shaping.transpose(tensor, node.integers("perm") or tuple(reversed(range(len(tensor.shape)))))


def _weighing(value: Value) -> Value:
    """Let a constant meet layers only in a dtype that networks take."""
    return weights(value, "a constant")


def _same(node: Node) -> Tensor | Value:
    return node.input(0)


OPERATORS: dict[str, Handler] = {
    **{function.onnx: _function(name) for name, function in ACTIVATIONS.items() if function.onnx},
    "Add": _add,
    "AveragePool": windows.average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": constants.literal,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "Div": _with_number(np.divide),
    "Dropout": _dropout,
    "Erf": _step("erf"),
    "Exp": _step("exp"),
    "Flatten": lambda node: shaping.flatten(node.tracer, node.input(0), node.integer("axis", 1)),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node: global_pool(node.tracer, node.input(0), largest=False),
    "GlobalMaxPool": lambda node: global_pool(node.tracer, node.input(0), largest=True),
    "HardSigmoid": _hard_sigmoid,
    "Identity": _same,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": windows.max_pool,
    "Mul": _mul,
    "Neg": _step("neg"),
    "Pad": windows.pad,
    "Reciprocal": _step("reciprocal"),
    "ReduceMax": _reduce(largest=True),
    "ReduceMean": _reduce(largest=False),
    "Reshape": _reshape,
    "Resize": windows.resize,
    "Shape": constants.shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _step("softplus"),
    "Split": _split,
    "Squeeze": lambda node: shaping.squeeze(node.tracer, node.input(0), axes_of(node)),
    "Sub": _with_number(np.subtract),
    "Sum": _sum,
    "Swish": lambda node: _swish(node),
    "Transpose": _transpose,
    "Upsample": windows.resize,
}


def _swish(node: Node) -> Value:
    if node.real("alpha", 1.0) != 1:
        raise NetworkError("alpha is known as 1 alone")
    return elementwise.activation(node.tracer, node.input(0), "silu")
