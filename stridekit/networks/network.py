"""The network: named layers in an order in which they can run, and the parameters that they share or own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stridekit.arguments import as_int, is_int
from stridekit.errors import NetworkError, ShapeError, StridekitError
from stridekit.networks.operations import Input, Operation, Shape

if TYPE_CHECKING:
    from stridekit.networks.summary import Summary

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


class Network:
    """A graph of layers.

    Made by `stridekit.networks.load`, `Network.from_toml`, `Network.from_onnx` or `Network.from_torch`.

    Parameters
    ----------
    name : str
    layers : iterable of Layer
        Each after the layers that it reads; at least one is an input.
    outputs : sequence of str, optional
        Names of the layers whose results are returned; by default those that no other reads.
    source : str
        Where the architecture is from.
    parameters : dict of array, optional
        By ``"layer.name"``, such as ``"conv1.weight"``; what is not given is drawn by `initialize` at first use.

    Raises
    ------
    NetworkError
        Naming the layer that does not fit.
    """

    def __init__(
        self,
        name: str,
        layers: Iterable[Layer],
        *,
        outputs: Sequence[str] | None = None,
        source: str = "",
        parameters: dict[str, Any] | None = None,
    ):
        self.name, self.source = name, source
        self.layers = _resolved(tuple(layers))
        self.by_name = {layer.name: layer for layer in self.layers}
        read = {name for layer in self.layers for name in layer.inputs}
        unread = tuple(layer.name for layer in self.layers if layer.name not in read)
        self.outputs = unread if outputs is None else tuple(outputs)
        for output in self.outputs:
            if output not in self.by_name:
                raise NetworkError(f"outputs names {output!r}, and there is no such layer", key="outputs")
        self._parameters = dict(parameters or {})
        self._check_parameters()

    # Reading.

    @classmethod
    def from_toml(cls, path: str | Path) -> Network:
        """Read a network file; `stridekit.networks.load` takes the names of those that ship, too.

        Raises
        ------
        NetworkError
            Naming file, line and key.
        """
        from stridekit.networks.toml_files import read_toml

        return read_toml(Path(path))

    @classmethod
    def from_onnx(cls, model: Any) -> Network:
        """Read an ONNX model, a path or a loaded one, with its weights.

        Raises
        ------
        NetworkError
            Naming the node and the operator, for one that is not known.
        """
        from stridekit.networks.from_onnx import network_of_onnx

        return network_of_onnx(model)

    @classmethod
    def from_torch(cls, module: Any, input_size: Sequence[int] = (3, 224, 224)) -> Network:
        """Read a ``torch.nn.Module``, with its weights, by exporting it in evaluation mode at `input_size`.

        Raises
        ------
        NetworkError
            Naming the node and the operator, for one that is not known.
        """
        from stridekit.networks.from_torch import network_of_torch

        return network_of_torch(module, tuple(input_size))

    # Sizes.

    @property
    def inputs(self) -> tuple[Layer, ...]:
        """The layers that hold what the network is given."""
        return tuple(layer for layer in self.layers if isinstance(layer.operation, Input))

    def resized(self, input_size: InputSize) -> Network:
        """Return the same network, of the same parameters, at another size of its first input.

        Parameters
        ----------
        input_size : int, spatial sizes, or ``(C, *spatial)``; None leaves it
        """
        if input_size is None:
            return self
        first = self.inputs[0]
        assert isinstance(first.operation, Input)
        size = _input_shape(input_size, first.operation.size)
        layers = [
            replace(layer, operation=replace(first.operation, size=size)) if layer is first else layer
            for layer in self.layers
        ]
        other = Network(self.name, layers, outputs=self.outputs, source=self.source)
        # One dictionary: what is trained or drawn in one is so in the other.
        other._parameters = self._parameters
        return other

    @cached_property
    def features(self) -> dict[str, Feature]:
        """What comes out of each layer, by name."""
        return _features(self.layers)

    def input_shapes(self, layer: Layer) -> tuple[Shape, ...]:
        """Return the shapes that a layer reads."""
        return tuple(self.features[name].shape for name in layer.inputs)

    # Parameters.

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shapes of all that is trained, by ``"layer.name"``."""
        return {
            f"{layer.name}.{name}": shape
            for layer in self.layers
            if layer.shares is None
            for name, shape in layer.operation.parameter_shapes().items()
        }

    @cached_property
    def buffer_shapes(self) -> dict[str, Shape]:
        """Shapes of all that is kept and not trained, by ``"layer.name"``."""
        return {
            f"{layer.name}.{name}": shape
            for layer in self.layers
            if layer.shares is None
            for name, shape in layer.operation.buffer_shapes().items()
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters and buffers, by ``"layer.name"``; drawn by `initialize` if some are missing."""
        if len(self._parameters) < len(self.parameter_shapes) + len(self.buffer_shapes):
            self.initialize()
        return self._parameters

    def initialize(self, seed: int = 0, dtype: Any = "float32", *, all: bool = False) -> Network:
        """Draw the parameters that are missing, or all of them, and return the network.

        Weights are normal with variance ``2 / fan_in`` (K. He et al., ICCV 2015), biases 0, normalisations 1 and 0.

        Parameters
        ----------
        seed : int
        dtype : str or dtype
        all : bool
            Also those that there are.
        """
        from stridekit.networks.initializing import draw

        have = {} if all else self._parameters
        drawn = draw(self, seed, np.dtype(dtype) if dtype != "bfloat16" else _bfloat16())
        self._parameters.update({name: value for name, value in drawn.items() if name not in have})
        return self

    def _check_parameters(self) -> None:
        shapes = {**self.parameter_shapes, **self.buffer_shapes}
        for name, value in self._parameters.items():
            if name not in shapes:
                raise NetworkError(f"there is no parameter {name!r}")
            if tuple(value.shape) != shapes[name]:
                raise NetworkError(f"parameter {name!r} is {tuple(value.shape)}; the layer wants {shapes[name]}")

    # Answers.

    def summary(self, input_size: InputSize = None, batch: int = 1, dtype: Any = "float32") -> Summary:
        """Say what every layer does to sizes and receptive field, and what it costs.

        Parameters
        ----------
        input_size : int, spatial sizes, or ``(C, *spatial)``, optional
            By default the size that the network was made for.
        batch : int
            Samples; bytes and multiply-accumulates are of all of them.
        dtype : str or dtype
            Of activations and weights.

        Returns
        -------
        Summary
            ``rows``, totals, ``to_json()``; printed, it is a table.

        Raises
        ------
        NetworkError
            Naming the first layer that the size does not fit.
        """
        from stridekit.networks.summary import summarize

        return summarize(self.resized(input_size), as_int("batch", batch), dtype)

    def __repr__(self) -> str:
        sizes = ", ".join(str(self.features[layer.name].shape) for layer in self.inputs)
        return f"Network({self.name!r}, {len(self.layers)} layers, input {sizes})"


def _bfloat16() -> np.dtype[Any]:
    from stridekit.arrays import numpy_dtype

    return numpy_dtype("bfloat16")


def _input_shape(asked: int | Sequence[int], size: Shape) -> Shape:
    """Read an input size, given with its channels or without, or one number for every spatial axis."""
    if is_int(asked):
        spatial: tuple[int, ...] = (as_int("input_size", asked),) * (len(size) - 1)
        return (size[0], *spatial)
    sizes = tuple(as_int("input_size", value) for value in asked)  # type: ignore[union-attr]
    if len(sizes) == len(size) - 1:
        sizes = (size[0], *sizes)
    if len(sizes) != len(size) or min(sizes) < 1:
        raise ShapeError(
            f"input_size is {asked}; wanted {len(size) - 1} spatial sizes, or the {size[0]} channels and those"
        )
    return sizes


def _resolved(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Fill in what each operation takes from its inputs; check names and order on the way."""
    found: list[Layer] = []
    features: dict[str, Feature] = {}
    for layer in layers:
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


def _check_names(layer: Layer, before: dict[str, Feature]) -> None:
    if layer.name in before:
        raise NetworkError(f"layer {layer.name!r}: there are two of that name", layer=layer.name, key="name")
    for name in layer.inputs:
        if name not in before:
            raise NetworkError(
                f"layer {layer.name!r}: inputs names {name!r}, and there is no such layer before it",
                layer=layer.name,
                key="inputs",
            )
    fewest, most = layer.operation.arity
    if len(layer.inputs) < fewest or (most is not None and len(layer.inputs) > most):
        wanted = fewest if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise NetworkError(
            f"layer {layer.name!r}: inputs has {len(layer.inputs)} names, {layer.operation.kind} wants {wanted}",
            layer=layer.name,
            key="inputs",
        )


def _check_sharing(layer: Layer, by_name: dict[str, Layer]) -> None:
    owner = by_name.get(str(layer.shares))
    if owner is None or owner.shares is not None:
        message = f"shares names {layer.shares!r}, and there is no such layer with parameters of its own"
    elif owner.operation.parameter_shapes() != layer.operation.parameter_shapes():
        message = f"shares names {layer.shares!r}, whose parameters have other shapes"
    else:
        return
    raise NetworkError(f"layer {layer.name!r}: {message}", layer=layer.name, key="shares")


def _features(layers: tuple[Layer, ...]) -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for layer in layers:
        features[layer.name] = _feature(layer, features)
    return features


def _feature(layer: Layer, before: dict[str, Feature]) -> Feature:
    operation = layer.operation
    try:
        if isinstance(operation, Input):
            return Feature(operation.output_shape(()), operation.samples)
        read = [before[name] for position, name in enumerate(layer.inputs) if operation.reads(position)]
        if len({feature.samples for feature in read}) > 1:
            raise ShapeError("its inputs have different numbers of samples")
        shape = operation.output_shape(tuple(before[name].shape for name in layer.inputs))
        return Feature(shape, read[0].samples)
    except StridekitError as error:
        raise _at(layer, error) from None


def _at(layer: Layer, error: Exception) -> NetworkError:
    """Name the layer; the message's first word is the key where it is one of the operation's."""
    message = str(error)
    word = message.split(" ", 1)[0]
    key = word if word in getattr(layer.operation, "__dataclass_fields__", {}) else None
    return NetworkError(f"layer {layer.name!r} ({layer.operation.kind}): {message}", layer=layer.name, key=key)
