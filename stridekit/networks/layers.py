"""Layers and how they fit together: names checked, channels filled in, shapes carried from one to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from stridekit.arguments import as_int, is_int, items_of, shown
from stridekit.errors import NetworkError, ShapeError, StridekitError
from stridekit.memory.limits import LARGEST_FEATURE
from stridekit.networks.operations import Input, Operation, Shape

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


def resolved(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Fill in what each operation takes from its inputs; check names and order on the way."""
    found: list[Layer] = []
    features: dict[str, Feature] = {}
    for layer in layers:
        _check_kinds(layer)
        _check_names(layer, features)
        shapes = tuple(features[name].shape for name in layer.inputs)
        try:
            operation = layer.operation.resolved(shapes)
        except StridekitError as error:
            raise _at(layer, error) from None
        found.append(replace(layer, operation=operation))
        features[layer.name] = _feature(found[-1], features)
    by_name = {layer.name: layer for layer in found}
    for layer in found:
        if layer.shares is not None:
            _check_sharing(layer, by_name)
    if not any(isinstance(layer.operation, Input) for layer in found):
        raise NetworkError("a network needs an input layer")
    return tuple(found)


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


def _check_names(layer: Layer, before: dict[str, Feature]) -> None:
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


def _check_sharing(layer: Layer, by_name: dict[str, Layer]) -> None:
    owner = by_name.get(str(layer.shares))
    if owner is None or owner.shares is not None:
        message = f"shares names {shown(layer.shares)}, and there is no such layer with parameters of its own"
    elif _kept(owner.operation) != _kept(layer.operation):
        message = f"shares names {shown(layer.shares)}, whose parameters have other shapes"
    else:
        return
    raise NetworkError(f"layer {shown(layer.name)}: {message}", layer=layer.name, key="shares")


def _kept(operation: Operation) -> tuple[dict[str, Shape], dict[str, Shape]]:
    return operation.parameter_shapes(), operation.buffer_shapes()


def features_of(layers: tuple[Layer, ...]) -> dict[str, Feature]:
    """Return what comes out of each layer, by name."""
    features: dict[str, Feature] = {}
    for layer in layers:
        features[layer.name] = _feature(layer, features)
    return features


def _feature(layer: Layer, before: dict[str, Feature]) -> Feature:
    operation = layer.operation
    try:
        shape = operation.output_shape(tuple(before[name].shape for name in layer.inputs))
        if math.prod(shape) > LARGEST_FEATURE:
            raise ShapeError(f"it gives {shape}, more numbers than the {LARGEST_FEATURE} that a sample can have")
        if isinstance(operation, Input):
            return Feature(shape, operation.samples)
        read = [before[name] for position, name in enumerate(layer.inputs) if operation.reads(position)]
        if len({feature.samples for feature in read}) > 1:
            raise ShapeError("its inputs have different numbers of samples")
        return Feature(shape, read[0].samples)
    except StridekitError as error:
        raise _at(layer, error) from None


def _at(layer: Layer, error: Exception) -> NetworkError:
    """Name the layer; the message's first word is the key where it is one of the operation's."""
    message = str(error)
    word = message.split(" ", 1)[0]
    key = word if word in getattr(layer.operation, "__dataclass_fields__", {}) else None
    return NetworkError(f"layer {shown(layer.name)} ({layer.operation.kind}): {message}", layer=layer.name, key=key)
