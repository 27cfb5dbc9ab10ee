"""Arithmetic on constants, as exporters leave it: sizes put together for a Resize or Reshape, weights transposed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.readers.onnx.loading import array_of
from stridekit.networks.readers.onnx.node import Node, integers
from stridekit.networks.readers.tracing import Constant

_WIDEST = 8
"""Bytes of an element whose type is not known before it is made."""


def shape(node: Node) -> Constant:
    """Return a value's shape, of which a part may be asked for."""
    value = node.input(0)
    if value is None or isinstance(value, tuple):
        raise NetworkError("the input is missing")
    start, end = node.integer("start", 0), node.integer("end", 2**31)
    return Constant(np.array(value.shape[slice(start, end)], np.int64))


def literal(node: Node) -> Constant:
    """Return the number or array that a Constant holds."""
    from onnx import helper

    for name in ("value", "value_int", "value_ints", "value_float", "value_floats"):
        if node.has(name):
            proto = node.raw(name)
            if name == "value":
                return Constant(array_of(proto.t), node.outputs[0], node.outputs[0])
            dtype = np.int64 if "int" in name else np.float32
            return Constant(np.array(helper.get_attribute_value(proto), dtype))
    raise NetworkError("holds no number or array")


def fold(node: Node) -> Constant | None:
    """Return what a node makes of constants, or None if it is not known here."""
    if (
        node.operator not in FOLDS
        or not node.inputs
        or not all(isinstance(value, Constant) or value is None for value in node.inputs)
    ):
        return None
    with np.errstate(all="ignore"):
        return FOLDS[node.operator](node)


def _arrays(node: Node) -> list[np.ndarray]:
    return [value.array for value in node.inputs if isinstance(value, Constant)]


def _elementwise(function: Callable[..., Any]) -> Callable[[Node], Constant]:
    def folded(node: Node) -> Constant:
        arrays = _arrays(node)
        # Of many inputs one result is made after the other.
        results = max(1, len(arrays) - 1)
        node.tracer.make(np.broadcast_shapes(*(array.shape for array in arrays)), _WIDEST * results)
        found = np.asarray(function(*arrays))
        return Constant(found)

    return folded


def _divided(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if left.dtype.kind not in "iu":
        return np.asarray(left / right)
    if not np.all(right):
        raise NetworkError("divides by zero")
    # ONNX truncates, Python floors.
    return np.asarray((np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))).astype(left.dtype))


def _moved(change: Callable[[Node, np.ndarray], np.ndarray]) -> Callable[[Node], Constant]:
    """Fold what keeps the numbers and moves them: the parameter stays the same one."""

    def folded(node: Node) -> Constant:
        value = node.input(0)
        assert isinstance(value, Constant)
        return replace(value, array=np.asarray(change(node, value.array)))

    return folded


def _cast(node: Node, array: np.ndarray) -> np.ndarray:
    from onnx import helper

    node.ignored("saturate", "round_mode")
    dtype = helper.tensor_dtype_to_np_dtype(node.integer("to", 0))
    node.tracer.make(array.shape, dtype.itemsize)
    return array.astype(dtype)


def axes_of(node: Node, number: int = 1) -> tuple[int, ...] | None:
    """Return axes, which are an attribute in older models and an input in newer ones."""
    asked = node.integers("axes")
    return asked if asked is not None else node.integers_input(number)


def _unsqueezed(node: Node, array: np.ndarray) -> np.ndarray:
    axes = axes_of(node)
    return np.expand_dims(array, axes or ())


def _squeezed(node: Node, array: np.ndarray) -> np.ndarray:
    return np.squeeze(array, axes_of(node))


def _transposed(node: Node, array: np.ndarray) -> np.ndarray:
    return np.transpose(array, node.integers("perm"))


def _reshaped(node: Node, array: np.ndarray) -> np.ndarray:
    wanted = list(node.integers_input(1) or ())
    if not node.flag("allowzero"):
        wanted = [array.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    # What was transposed before is copied.
    node.tracer.make(array.shape, array.itemsize)
    return array.reshape(wanted)


def _gather(node: Node) -> Constant:
    array, indices = _arrays(node)
    axis = _axis(node.integer("axis", 0), array)
    node.tracer.make((*array.shape[:axis], *indices.shape, *array.shape[axis + 1 :]), array.itemsize)
    return Constant(np.take(array, indices, axis=axis))


def _axis(axis: int, array: np.ndarray) -> int:
    if not -array.ndim <= axis < array.ndim:
        raise NetworkError(f"axis is {axis}; the constant has {array.ndim}")
    return axis % array.ndim


def _concat(node: Node) -> Constant:
    arrays = _arrays(node)
    axis = _axis(node.integer("axis", 0), arrays[0])
    whole = list(arrays[0].shape)
    whole[axis] = sum(array.shape[axis] for array in arrays if array.ndim == len(whole))
    node.tracer.make(whole, max(array.itemsize for array in arrays))
    return Constant(np.concatenate(arrays, axis=axis))


def slices(node: Node) -> list[tuple[int, int, int, int]]:
    """Return (axis, start, stop, step) of each axis that a Slice takes a part of."""
    if node.opset < 10:
        starts, ends, axes, steps = node.integers("starts"), node.integers("ends"), node.integers("axes"), None
    else:
        starts, ends, axes, steps = (node.integers_input(number) for number in (1, 2, 3, 4))
    if starts is None or ends is None:
        raise NetworkError("has no starts or no ends")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    return list(zip(axes, starts, ends, steps, strict=True))


def _sliced(node: Node) -> Constant:
    array = _arrays(node)[0]
    index = [slice(None)] * array.ndim
    for axis, start, stop, step in slices(node):
        # In a walk backwards the far end, a large negative number, is before the first element: None in Python.
        index[axis] = slice(start, None if step < 0 and stop < -array.shape[axis] else stop, step)
    return Constant(array[tuple(index)])


def _filled(node: Node) -> Constant:
    wanted = integers(node.input(0), "the shape")
    proto = node.raw("value")
    value = np.zeros(1, np.float32) if proto is None else array_of(proto.t)
    node.tracer.make(wanted, value.itemsize)
    return Constant(np.full(wanted, value.reshape(-1)[0], value.dtype))


def _expanded(node: Node) -> Constant:
    array, wanted = _arrays(node)[0], integers(node.input(1), "the shape")
    whole = np.broadcast_shapes(array.shape, wanted)
    node.tracer.make(whole, array.itemsize)
    return Constant(np.broadcast_to(array, whole))


def _reduced(function: Callable[..., Any]) -> Callable[[Node], Constant]:
    def folded(node: Node) -> Constant:
        array, axes = _arrays(node)[0], axes_of(node)
        over = range(array.ndim) if axes is None else {_axis(axis, array) for axis in axes}
        # Over an axis of no elements, too, which lets any number of results come of nothing.
        node.tracer.make([size for axis, size in enumerate(array.shape) if axis not in over], _WIDEST)
        return Constant(np.asarray(function(array, axis=axes, keepdims=node.flag("keepdims", True))))

    return folded


def _identity(node: Node) -> Constant:
    value = node.input(0)
    assert isinstance(value, Constant)
    # Exporters merge equal weights by an Identity: under its own name it is a parameter of its own.
    return Constant(value.array, node.outputs[0], node.outputs[0])


FOLDS: dict[str, Callable[[Node], Constant]] = {
    "Identity": _identity,
    "Cast": _moved(_cast),
    "Unsqueeze": _moved(_unsqueezed),
    "Squeeze": _moved(_squeezed),
    "Transpose": _moved(_transposed),
    "Reshape": _moved(_reshaped),
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _sliced,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divided),
    "Mod": _elementwise(np.mod),
    "Neg": _elementwise(np.negative),
    "Sqrt": _elementwise(np.sqrt),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Min": _elementwise(lambda *arrays: reduce(np.minimum, arrays)),
    "Max": _elementwise(lambda *arrays: reduce(np.maximum, arrays)),
    "Equal": _elementwise(np.equal),
    "Where": _elementwise(np.where),
    "ReduceProd": _reduced(np.prod),
}
