"""Layers and how they fit together: names checked, and each operation resolved on what comes out of those before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from stridekit.arguments import as_int, counted, is_int, items_of, shown
from stridekit.errors import NetworkError, ShapeError, StridekitError
from stridekit.memory.limits import LARGEST_FEATURE
from stridekit.networks.operations import Input, Operation, Resolved, Shape

InputSize: TypeAlias = int | Sequence[int] | None


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes
    ----------
    name : str
    operation : Operation
    inputs : tuple of str
        Names of the layers that it reads.
    shares : str, optional
        Name of the layer whose parameters it uses; by default its own.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...] = ()
    shares: str | None = None

    @property
    def owner(self) -> str:
        """Name of the layer that the parameters are of."""
        return self.name if self.shares is None else self.shares

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the inputs that are read: of the others only the size matters."""
        return self.inputs[: self.operation.reads]


@dataclass(frozen=True)
class Feature:
    """What comes out of a layer: ``shape`` of one sample, and how many such samples for each of the batch."""

    shape: Shape
    samples: int = 1


def input_shape(asked: int | Sequence[int], size: Shape) -> Shape:
    """Read an input size, given with its channels or without, or one number for every spatial axis."""
    items = (asked,) * (len(size) - 1) if is_int(asked) else items_of(asked) or ()
    sizes = tuple(as_int("input_size", value) for value in items)
    if len(sizes) == len(size) - 1:
        sizes = (size[0], *sizes)
    if len(sizes) != len(size) or min(sizes) < 1:
        raise ShapeError(
            f"input_size is {shown(asked)}; wanted {len(size) - 1} spatial sizes, or the {size[0]} channels and those"
        )
    return sizes


def listed(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return layers as a tuple, if they are that."""
    try:
        found = tuple(layers)
    except Exception:
        raise NetworkError(f"layers is {shown(layers)}; wanted a list of Layer", key="layers") from None
    for layer in found:
        if not isinstance(layer, Layer):
            raise NetworkError(f"layers holds {shown(layer)}; wanted a Layer", key="layers")
    return found


def resolve(layers: Sequence[Layer]) -> dict[str, tuple[Resolved, Feature]]:
    """Return by name each layer's operation on what it reads, and what comes out; check names and order on the way."""
    found: dict[str, tuple[Resolved, Feature]] = {}
    for layer in layers:
        _check_kinds(layer)
        _check_names(layer, found)
        try:
            found[layer.name] = _resolved(layer.operation, [found[name][1] for name in layer.inputs])
        except StridekitError as error:
            raise _at(layer, error) from None
    owners = {layer.name: found[layer.name][0] for layer in layers if layer.shares is None}
    for layer in layers:
        if layer.shares is not None:
            _check_sharing(layer, found[layer.name][0], owners.get(layer.shares))
    if not any(isinstance(layer.operation, Input) for layer in layers):
        raise NetworkError("a network needs an input layer")
    return found


def _resolved(operation: Operation, inputs: Sequence[Feature]) -> tuple[Resolved, Feature]:
    found = operation.resolved(tuple(feature.shape for feature in inputs))
    if math.prod(found.output) > LARGEST_FEATURE:
        raise ShapeError(f"it gives {found.output}, more numbers than the {LARGEST_FEATURE} that a sample can have")
    if isinstance(operation, Input):
        return found, Feature(found.output, operation.samples)
    samples = {feature.samples for feature in inputs[: operation.reads]}
    if len(samples) > 1:
        raise ShapeError("its inputs have different numbers of samples")
    return found, Feature(found.output, samples.pop())


def _check_kinds(layer: Layer) -> None:
    wanted = {
        "name": (isinstance(layer.name, str), "a str"),
        "operation": (isinstance(layer.operation, Operation), "an Operation"),
        "inputs": (isinstance(layer.inputs, tuple) and all(isinstance(n, str) for n in layer.inputs), "a tuple of str"),
        "shares": (layer.shares is None or isinstance(layer.shares, str), "a str"),
    }
    for field, (right, kind) in wanted.items():
        if not right:
            raise NetworkError(
                f"layer {shown(layer.name)}: {field} is {shown(getattr(layer, field))}; wanted {kind}", key=field
            )


def _check_names(layer: Layer, before: Mapping[str, object]) -> None:
    if layer.name in before:
        raise NetworkError(f"layer {shown(layer.name)}: there are two of that name", layer=layer.name, key="name")
    for name in layer.inputs:
        if name not in before:
            raise NetworkError(
                f"layer {shown(layer.name)}: inputs names {shown(name)}, and there is no such layer before it",
                layer=layer.name,
                key="inputs",
            )
    fewest, most = layer.operation.arity
    if len(layer.inputs) < fewest or (most is not None and len(layer.inputs) > most):
        wanted = fewest if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise NetworkError(
            f"layer {shown(layer.name)}: inputs has {len(layer.inputs)} names, {layer.operation.kind} wants {wanted}",
            layer=layer.name,
            key="inputs",
        )


def _check_sharing(layer: Layer, own: Resolved, owner: Resolved | None) -> None:
    if owner is None:
        message = f"shares names {shown(layer.shares)}, and there is no such layer with parameters of its own"
    elif (owner.parameters, owner.buffers) != (own.parameters, own.buffers):
        message = f"shares names {shown(layer.shares)}, whose parameters have other shapes"
    else:
        return
    raise NetworkError(f"layer {shown(layer.name)}: {message}", layer=layer.name, key="shares")


def _at(layer: Layer, error: Exception) -> NetworkError:
    """Name the layer; the message's first word is the key where it is one of the operation's."""
    message = str(error)
    word = message.split(" ", 1)[0]
    key = word if word in getattr(layer.operation, "__dataclass_fields__", {}) else None
    return NetworkError(f"layer {shown(layer.name)} ({layer.operation.kind}): {message}", layer=layer.name, key=key)


def ends(
    layers: Sequence[Layer], outputs: Sequence[str] | None, output_names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers whose results are returned, by default those that no other reads, and what these are called."""
    known, read = {layer.name for layer in layers}, {name for layer in layers for name in layer.inputs}
    unread = tuple(layer.name for layer in layers if layer.name not in read)
    found = unread if outputs is None else _names("outputs", outputs)
    for output in found:
        if output not in known:
            raise NetworkError(f"outputs names {shown(output)}, and there is no such layer", key="outputs")
    called = found if output_names is None else _names("output_names", output_names)
    if len(called) != len(found):
        raise NetworkError(f"output_names has {counted(called)} for {len(found)} outputs")
    if len(set(called)) < len(called):
        key = "outputs" if output_names is None else "output_names"
        raise NetworkError(f"{key} names one twice, of {counted(called)}; results come by these names", key=key)
    return found, called


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    items = items_of(names)
    if not items or not all(isinstance(item, str) for item in items):
        raise NetworkError(f"{what} is {shown(names)}; wanted a list of names", key=what)
    return items
