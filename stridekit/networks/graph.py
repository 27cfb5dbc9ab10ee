"""The graph: layers in an order in which they can run, and the parameters that they share or own. Nothing here runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from stridekit.arguments import as_flag, as_int, counted, items_of, shown
from stridekit.concurrency import Remembering, cached_property
from stridekit.errors import NetworkError
from stridekit.memory.arrays import dtype_name, numpy_dtype, shape_of
from stridekit.networks.initializing import draw
from stridekit.networks.layers import Feature, InputSize, Layer, features_of, input_shape, resolved
from stridekit.networks.operations import Input, Shape


class Graph(Remembering):
    """Layers and their parameters: what `stridekit.networks.Network` is made of.

    Attributes
    ----------
    name, source : str
    layers : tuple of Layer
    by_name : dict of Layer
    outputs, output_names : tuple of str
        The layers whose results are returned, and what these results are called.
    programs, optimizers : dict
        What running the network keeps; graphs of one network at different sizes share it.
    """

    def __init__(
        self,
        name: str,
        layers: Iterable[Layer],
        *,
        outputs: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        source: str = "",
        parameters: dict[str, Any] | None = None,
    ):
        for what, text in (("name", name), ("source", source)):
            if not isinstance(text, str):
                raise NetworkError(f"{what} is {shown(text)}; wanted a str", key=what)
        self.name, self.source = name, source
        self.layers = resolved(_listed(layers))
        self.by_name = {layer.name: layer for layer in self.layers}
        read = {name for layer in self.layers for name in layer.inputs}
        unread = tuple(layer.name for layer in self.layers if layer.name not in read)
        self.outputs = unread if outputs is None else _names("outputs", outputs)
        for output in self.outputs:
            if output not in self.by_name:
                raise NetworkError(f"outputs names {shown(output)}, and there is no such layer", key="outputs")
        self.output_names = self.outputs if output_names is None else _names("output_names", output_names)
        if len(self.output_names) != len(self.outputs):
            raise NetworkError(f"output_names has {counted(self.output_names)} for {len(self.outputs)} outputs")
        if len(set(self.output_names)) < len(self.output_names):
            key = "outputs" if output_names is None else "output_names"
            raise NetworkError(
                f"{key} names one twice, of {counted(self.output_names)}; results come by these names", key=key
            )
        if parameters is not None and not isinstance(parameters, Mapping):
            raise NetworkError(f"parameters is {shown(parameters)}; wanted a dictionary of arrays")
        self._parameters = dict(parameters or {})
        self._check_parameters()
        self.optimizers: dict[str, Any] = {}
        self.programs: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Programs hold memory plans and steps of this process, which are made again where the network runs.
        return {**super().__getstate__(), "programs": {}}

    # Sizes.

    @property
    def inputs(self) -> tuple[Layer, ...]:
        """The layers that hold what the network is given."""
        return tuple(layer for layer in self.layers if isinstance(layer.operation, Input))

    def resized(self, input_size: InputSize) -> Self:
        """Return the same network, of the same parameters, at another size of its first input.

        Parameters
        ----------
        input_size : int, spatial sizes, or ``(C, *spatial)``; None leaves it
        """
        if input_size is None:
            return self
        first = self.inputs[0]
        assert isinstance(first.operation, Input)
        size = input_shape(input_size, first.operation.size)
        layers = [
            replace(layer, operation=replace(first.operation, size=size)) if layer is first else layer
            for layer in self.layers
        ]
        other = type(self)(self.name, layers, outputs=self.outputs, output_names=self.output_names, source=self.source)
        # One dictionary: what is trained or drawn in one is so in the other.
        other._parameters, other.optimizers, other.programs = self._parameters, self.optimizers, self.programs
        return other

    @cached_property
    def features(self) -> dict[str, Feature]:
        """What comes out of each layer, by name."""
        return features_of(self.layers)

    def input_shapes(self, layer: Layer) -> tuple[Shape, ...]:
        """Return the shapes that a layer reads."""
        if not isinstance(layer, Layer) or layer != self.by_name.get(layer.name):
            raise NetworkError(f"layer is {shown(layer)}; wanted one of the network's layers")
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
        if not self.has_parameters:
            self.initialize()
        return self._parameters

    @property
    def given_parameters(self) -> dict[str, Any]:
        """Those parameters and buffers that there are already."""
        return self._parameters

    @property
    def has_parameters(self) -> bool:
        """Whether every parameter is there: none has to be drawn."""
        return len(self._parameters) == len(self.parameter_shapes) + len(self.buffer_shapes)

    def astype(self, dtype: Any) -> Self:
        """Return the same network with its parameters in another float type."""
        kind = numpy_dtype(dtype_name("dtype", dtype))
        cast = {name: value.astype(kind) for name, value in self.parameters.items()}
        return type(self)(
            self.name,
            self.layers,
            outputs=self.outputs,
            output_names=self.output_names,
            source=self.source,
            parameters=cast,
        )

    def initialize(self, seed: int = 0, dtype: Any = "float32", *, all: bool = False) -> Self:
        """Draw the parameters that are missing, or all of them, and return the network.

        Weights are normal with variance ``2 / fan_in`` (K. He et al., ICCV 2015), biases 0, normalisations 1 and 0.

        Parameters
        ----------
        seed : int
        dtype : str or dtype
        all : bool
            Also those that there are.
        """
        seed, all = as_int("seed", seed, 0), as_flag("all", all)
        have = {} if all else self._parameters
        drawn = draw(self.layers, seed, numpy_dtype(dtype_name("dtype", dtype)))
        self._parameters.update({name: value for name, value in drawn.items() if name not in have})
        return self

    def _check_parameters(self) -> None:
        shapes = {**self.parameter_shapes, **self.buffer_shapes}
        for name, value in self._parameters.items():
            if name not in shapes:
                raise NetworkError(f"parameters holds {shown(name)}, and there is no such parameter")
            shape = shape_of(f"the parameter {name!r}", value)
            if shape != shapes[name]:
                raise NetworkError(f"parameter {name!r} is {shape}; the layer wants {shapes[name]}")

    def __repr__(self) -> str:
        sizes = ", ".join(str(self.features[layer.name].shape) for layer in self.inputs)
        return f"{type(self).__name__}({self.name!r}, {len(self.layers)} layers, input {sizes})"


def _listed(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    try:
        found = tuple(layers)
    except Exception:
        raise NetworkError(f"layers is {shown(layers)}; wanted a list of Layer", key="layers") from None
    for layer in found:
        if not isinstance(layer, Layer):
            raise NetworkError(f"layers holds {shown(layer)}; wanted a Layer", key="layers")
    return found


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    items = items_of(names)
    if not items or not all(isinstance(item, str) for item in items):
        raise NetworkError(f"{what} is {shown(names)}; wanted a list of names", key=what)
    return items
