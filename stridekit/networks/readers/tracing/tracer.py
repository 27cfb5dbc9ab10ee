"""The tracer: the layers found so far, where in the model they come from, and the draft that they make in the end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from stridekit.errors import NetworkError
from stridekit.memory.limits import MADE_BYTES, MADE_SHARE
from stridekit.networks.layers import Layer
from stridekit.networks.operations import Activation, Conv, ConvTranspose, Input, Linear, Operation, Resolved, Shape
from stridekit.networks.readers import Draft
from stridekit.networks.readers.tracing.values import Constant, Formula, Tensor, Value, channels_first

_NAMED_BY_WEIGHT = re.compile(r"[\w./-]+\.weight")


@dataclass(frozen=True)
class Offset(Operation):
    """A number added to each channel: the bias of the product before it, which `Tracer.draft` makes it."""

    kind: ClassVar[str] = "offset"

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's shape."""
        return Resolved(self, inputs, inputs[0])


@dataclass(frozen=True)
class Place:
    """Where in the model an operator stands.

    Attributes
    ----------
    text : str
        For messages, such as ``"node 'conv1' (Conv)"``.
    path : str
        Of the module that it is in; may be empty.
    whole : bool
        Whether the operator is all that the module does, so that its layer has the module's name.
    """

    text: str
    path: str = ""
    whole: bool = False


@dataclass
class _Traced:
    layer: Layer
    shape: Shape
    place: Place
    constants: dict[str, Constant] = field(default_factory=dict)


class Tracer:
    """Collects layers.

    Parameters
    ----------
    batch : int
        That the model is followed with.
    ties : bool
        Whether one parameter in two places is one that both train: so in PyTorch; ONNX exporters merge what is equal.
    brought : int, optional
        Bytes of the constants that a file brings, by which it is measured what it makes of them; None for a model that
        is in memory already.
    """

    def __init__(self, batch: int, *, ties: bool, brought: int | None = None):
        self.batch, self.ties = batch, ties
        self._most_made, self._made = math.inf if brought is None else MADE_BYTES + MADE_SHARE * brought, 0
        self._traced: dict[str, _Traced] = {}
        self._latest: dict[Shape, str] = {}
        self._numbers: dict[str, int] = {}
        self._place, self._here = Place(""), 0

    def at(self, place: Place) -> None:
        """Say where the layers that follow come from."""
        self._place, self._here = place, 0

    @property
    def place(self) -> Place:
        """Where the model is followed now."""
        return self._place

    def make(self, shape: Sequence[int], itemsize: int) -> None:
        """Allow a constant that is computed of others, before it is; a few bytes of a model may ask for any number.

        Raises
        ------
        NetworkError
            If there are too many bytes of them.
        """
        self._made += math.prod(shape) * itemsize
        if self._made > self._most_made:
            raise NetworkError(
                f"makes a constant {tuple(shape)} of less: {self._made} bytes with those before it; a model may make "
                f"{self._most_made}: {MADE_BYTES}, and {MADE_SHARE} times what it brings"
            )

    def input(self, name: str, size: Shape) -> Tensor:
        """Add an input of one sample's `size`."""
        return self._add(Layer(self._unused(name or "image"), Input(size)), size, {}, None)

    def emit(
        self,
        operation: Operation,
        inputs: Iterable[Tensor],
        constants: Mapping[str, Constant | None] | None = None,
        formula: Formula | None = None,
    ) -> Tensor:
        """Add a layer, and return its features in the first input's order of axes, if it keeps their number."""
        read = tuple(inputs)
        given = {name: value for name, value in (constants or {}).items() if value is not None}
        resolved = operation.resolved(tuple(self._traced[tensor.layer].shape for tensor in read))
        if not isinstance(operation, Offset):
            _check(resolved, given)
        layer = Layer(self._name(operation, given), operation, tuple(tensor.layer for tensor in read))
        return replace(self._add(layer, resolved.output, given, read[0].order), formula=formula)

    def sized(self, sizes: tuple[int, ...]) -> Tensor | None:
        """Return the latest layer with this many pixels on its axes."""
        name = self._latest.get(sizes)
        return None if name is None else self._tensor(name, self._traced[name].shape, None)

    def draft(self, name: str, outputs: Sequence[Value], output_names: Sequence[str] | None = None) -> Draft:
        """Return the network that gives `outputs`, under `output_names`; what they do not depend on is left out.

        Without names the outputs are called as the layers that give them.
        """
        self.at(Place(""))
        called = range(len(outputs)) if output_names is None else map(repr, output_names)
        ends = [channels_first(value, f"output {which}") for value, which in zip(outputs, called, strict=True)]
        if not ends:
            raise NetworkError("the model gives nothing; wanted an output")
        layers_read = [end.layer for end in ends]
        traced = _without_offsets(self._read_by(layers_read), layers_read)
        layers, parameters = self._owned(list({id(each): each for each in traced.values()}.values()))
        names = [traced[end.layer].layer.name for end in ends]
        return Draft(name, layers, names, output_names or _distinct(names), parameters=parameters)

    def _add(self, layer: Layer, shape: Shape, constants: dict[str, Constant], order: tuple[int, ...] | None) -> Tensor:
        self._traced[layer.name] = _Traced(layer, shape, self._place, constants)
        self._latest[shape[1:]] = layer.name
        self._here += 1
        return self._tensor(layer.name, shape, order)

    def _tensor(self, layer: str, shape: Shape, order: tuple[int, ...] | None) -> Tensor:
        if order is None or len(order) != len(shape) + 1:
            order = tuple(range(len(shape) + 1))
        whole = (self.batch, *shape)
        return Tensor(layer, tuple(whole[axis] for axis in order), order)

    def _name(self, operation: Operation, constants: dict[str, Constant]) -> str:
        kind = operation.function if isinstance(operation, Activation) else operation.kind
        weight = constants["weight"].name if "weight" in constants else ""
        path = self._place.path
        if _NAMED_BY_WEIGHT.fullmatch(weight):
            return self._unused(weight.removesuffix(".weight"))
        if operation.kind == "scale" and re.fullmatch(r"[\w./-]+", weight):
            return self._unused(weight)
        if path and (self._place.whole and not self._here):
            return self._unused(path)
        return self._unused(f"{path}.{kind}" if path else kind)

    def _unused(self, name: str) -> str:
        found, number = name, self._numbers.get(name, 1)
        while found in self._traced:
            number += 1
            found = f"{name}_{number}"
        self._numbers[name] = number
        return found

    def _read_by(self, ends: list[str]) -> list[_Traced]:
        """Return what the ends depend on, and the inputs, in order."""
        wanted, left = set(), list(ends)
        while left:
            name = left.pop()
            if name not in wanted:
                wanted.add(name)
                left.extend(self._traced[name].layer.inputs)
        return [
            each for name, each in self._traced.items() if name in wanted or isinstance(each.layer.operation, Input)
        ]

    def _owned(self, traced: list[_Traced]) -> tuple[list[Layer], dict[str, np.ndarray]]:
        """Return the layers, of which those with one and the same parameters share them, and all parameters."""
        layers: list[Layer] = []
        parameters: dict[str, np.ndarray] = {}
        owners: dict[object, tuple[str, dict[str, object]]] = {}
        used: set[object] = set()
        for each in traced:
            layer = each.layer
            keys: dict[str, object] = {name: value.key for name, value in each.constants.items()}
            first = keys.get("weight")
            if first is not None and (self.ties or each.constants["weight"].array.ndim > 1):
                owner, theirs = owners.setdefault(first, (layer.name, keys))
                if owner != layer.name and theirs == keys:
                    layers.append(replace(layer, shares=owner))
                    continue
                if owner != layer.name and self.ties:
                    raise NetworkError(
                        f"{each.place.text}: its weight is that of layer {owner!r}, and another parameter is not; "
                        "layers share all of their parameters or none"
                    )
            layers.append(layer)
            self.at(each.place)
            for name, value in each.constants.items():
                if value.key is None or value.key in used:
                    self.make(value.shape, value.array.itemsize)
                used.add(value.key)
                parameters[f"{layer.name}.{name}"] = np.array(value.array, order="C")
        return layers, parameters


def _check(resolved: Resolved, constants: dict[str, Constant]) -> None:
    wanted = resolved.kept
    for name, value in constants.items():
        if value.shape != wanted[name]:
            raise NetworkError(f"{name} is {value.shape}; wanted {wanted[name]}")
    missing = [name for name in wanted if name not in constants]
    if missing:
        raise NetworkError(f"there is no {' and no '.join(missing)}; wanted a constant of the model")


def _distinct(names: list[str]) -> list[str]:
    """Return names of which none is there twice: a number is added to the later ones."""
    found: list[str] = []
    for name in names:
        other, number = name, 1
        while other in found or (number > 1 and other in names):
            number += 1
            other = f"{name}_{number}"
        found.append(other)
    return found


def _without_offsets(traced: list[_Traced], ends: list[str]) -> dict[str, _Traced]:
    """Make each offset the bias of the product that it follows; return by each old name the layer that it is now."""
    readers: dict[str, int] = {}
    for name in [*ends, *(name for each in traced for name in each.layer.inputs)]:
        readers[name] = readers.get(name, 0) + 1
    found: dict[str, _Traced] = {}
    for each in traced:
        layer = each.layer
        if not isinstance(layer.operation, Offset):
            each.layer = replace(layer, inputs=tuple(found[name].layer.name for name in layer.inputs))
            found[layer.name] = each
            continue
        before = found[layer.inputs[0]]
        product = before.layer.operation
        if not isinstance(product, Conv | ConvTranspose | Linear) or product.bias or readers[layer.inputs[0]] > 1:
            raise NetworkError(
                f"{each.place.text}: adds a constant to what {product.kind} {before.layer.name!r} gives; "
                "that is known only right after a convolution or linear layer without bias"
            )
        before.layer = replace(before.layer, operation=replace(product, bias=True))
        before.constants["bias"] = each.constants["bias"]
        found[layer.name] = before
    return found
