"""One node of an ONNX graph: its inputs as values, and its attributes, each asked for by name and type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.readers.tracing import Constant, Place, Tracer, Value
from stridekit.networks.readers.tracing.values import constant, decimal

_MOST_NUMBERS = 64
"""Of a list of axes, sizes or paddings: there are few axes."""


class Node:
    """A node.

    Parameters
    ----------
    proto : onnx.NodeProto
    inputs : sequence of value
        None for one that is left out.
    opset : int
        Of the standard operators.
    tracer : Tracer
    """

    def __init__(self, proto: Any, inputs: Sequence[Value], opset: int, tracer: Tracer):
        self.operator, self.outputs = proto.op_type, tuple(proto.output)
        self.inputs, self.opset, self.tracer = tuple(inputs), opset, tracer
        self._attributes = {attribute.name: attribute for attribute in proto.attribute}
        self._asked: set[str] = set()

    def input(self, number: int) -> Value:
        """Return an input, or None where there is none."""
        return self.inputs[number] if number < len(self.inputs) else None

    def integers_input(self, number: int) -> tuple[int, ...] | None:
        """Return the integers of a constant input, or None where there is none."""
        value = self.input(number)
        return None if value is None else integers(value, f"input {number}")

    def one_output(self) -> None:
        """Refuse a node whose further outputs are used."""
        if any(self.outputs[1:]):
            raise NetworkError(f"has {len([name for name in self.outputs if name])} outputs; only the first is known")

    # Attributes.

    def has(self, name: str) -> bool:
        """Say whether an attribute is given."""
        return name in self._attributes

    def integer(self, name: str, default: int) -> int:
        """Return an integer."""
        return int(self._value(name, "INT", default))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an integer that means yes or no."""
        found = self.integer(name, int(default))
        if found not in (0, 1):
            raise NetworkError(f"{name} is {found}; wanted 0 or 1")
        return bool(found)

    def real(self, name: str, default: float) -> float:
        """Return a number, as the shortest decimal that it can have been."""
        value = self._value(name, "FLOAT", None)
        return default if value is None else decimal(value)

    def text(self, name: str, default: str) -> str:
        """Return a string."""
        value = self._value(name, "STRING", default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return integers, or None where there are none."""
        value = self._value(name, "INTS", None)
        if value is not None and len(value) > _MOST_NUMBERS:
            raise NetworkError(f"{name} has {len(value)} numbers")
        return None if value is None else tuple(int(item) for item in value)

    def reals(self, name: str) -> tuple[float, ...] | None:
        """Return numbers, or None where there are none."""
        value = self._value(name, "FLOATS", None)
        return None if value is None else tuple(float(item) for item in value)

    def raw(self, name: str) -> Any:
        """Return an attribute's proto, or None."""
        self._asked.add(name)
        return self._attributes.get(name)

    def ignored(self, *names: str) -> None:
        """Pass over attributes that do not change what the outputs are."""
        self._asked.update(names)

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        for name in self._attributes:
            if name not in self._asked:
                raise NetworkError(f"attribute {name} is not known")

    def _value(self, name: str, kind: str, default: Any) -> Any:
        from onnx import AttributeProto, helper

        found = self.raw(name)
        if found is None:
            return default
        if found.type != AttributeProto.AttributeType.Value(kind) or found.ref_attr_name:
            raise NetworkError(f"attribute {name} is no {kind}")
        return helper.get_attribute_value(found)


def integers(value: Value, what: str) -> tuple[int, ...]:
    """Return the integers of a constant."""
    array = constant(value, what).array
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > _MOST_NUMBERS:
        raise NetworkError(f"{what} is {array.dtype.name} {array.shape}; wanted a few integers")
    return tuple(int(item) for item in np.atleast_1d(array))


def place_of(proto: Any, number: int) -> Place:
    """Return where a node stands: by its name, its output's, or its number.

    PyTorch names nodes ``/layer1/layer1.0/conv1/Conv``: the modules on the way, each with those that list it, then
    the operator.
    """
    name = proto.name or next((output for output in proto.output if output), f"#{number}")
    place = f"node {name!r} ({proto.op_type})"
    if not proto.name.startswith("/"):
        return Place(place, proto.name, bool(proto.name))
    path: list[str] = []
    for part in proto.name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    last = path[-1].rsplit(".", 1)[-1].lower().replace("_", "") if path else ""
    operator = proto.op_type.lower()
    return Place(place, ".".join(path), bool(last) and (operator in last or last.rstrip("0123456789") in operator))


def named(constant_: Constant, name: str) -> Constant:
    """Return a constant under another name, as one of its own."""
    return Constant(constant_.array, name, name)
