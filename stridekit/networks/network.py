"""The network as people use it: read from anywhere, asked for its sizes and memory, run and trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from stridekit.arguments import as_flag, as_int, as_path, shown
from stridekit.backends import Device
from stridekit.concurrency import Remembering, cached_property
from stridekit.errors import NetworkError
from stridekit.memory.arrays import Array, dtype_name, numpy_dtype
from stridekit.networks.execution import NetworkVram, Optimizer, predict_vram, run, train_step
from stridekit.networks.execution.fitting import largest_batch
from stridekit.networks.execution.optimizers import optimizer_called
from stridekit.networks.layers import Feature, InputSize, Layer, ends, input_shape, listed, resolve
from stridekit.networks.operations import Input, Resolved, Shape
from stridekit.networks.readers import Draft
from stridekit.networks.readers.onnx import read_onnx
from stridekit.networks.readers.toml import parse_toml, read_toml
from stridekit.networks.readers.torch import read_torch
from stridekit.networks.summary import Summary, summarize
from stridekit.networks.trained import Trained, draw
from stridekit.vram import parse_bytes


class Network(Remembering):
    """Layers in an order in which they can run, and their parameters.

    Made by `stridekit.networks.load`, `Network.from_toml`, `Network.from_onnx` or `Network.from_torch`.

    Parameters
    ----------
    name : str
    layers : iterable of Layer
        Each after the layers that it reads; at least one is an input.
    outputs : sequence of str, optional
        Names of the layers whose results are returned; by default those that no other reads.
    output_names : sequence of str, optional
        What `run` calls these results; by default as the layers. Of an ONNX model they are its outputs' names.
    source : str
        Where the architecture is from.
    parameters : dict of array, optional
        By ``"layer.name"``, such as ``"conv1.weight"``; what is not given is drawn by `initialize` at first use.

    Attributes
    ----------
    by_name : dict of Layer
    features : dict of Feature
        What comes out of each layer.
    resolved : dict of Resolved
        Each layer's operation on what it reads.

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
        output_names: Sequence[str] | None = None,
        source: str = "",
        parameters: Mapping[str, Any] | None = None,
    ):
        for what, text in (("name", name), ("source", source)):
            if not isinstance(text, str):
                raise NetworkError(f"{what} is {shown(text)}; wanted a str", key=what)
        self.name, self.source = name, source
        given = listed(layers)
        found = resolve(given)
        self.resolved: dict[str, Resolved] = {name: resolved for name, (resolved, _) in found.items()}
        self.features: dict[str, Feature] = {name: feature for name, (_, feature) in found.items()}
        self.layers = tuple(replace(layer, operation=self.resolved[layer.name].operation) for layer in given)
        self.by_name = {layer.name: layer for layer in self.layers}
        self.outputs, self.output_names = ends(self.layers, outputs, output_names)
        if parameters is not None and not isinstance(parameters, Mapping):
            raise NetworkError(f"parameters is {shown(parameters)}; wanted a dictionary of arrays")
        self._trained = Trained(dict(parameters or {}))
        self._trained.check({**self.parameter_shapes, **self.buffer_shapes})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_trained": copy(self._trained)}

    # Reading.

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a network file; `stridekit.networks.load` takes the names of those that ship, too.

        Raises
        ------
        NetworkError
            Naming file, line and key.
        """
        return cls._of(read_toml(as_path("path", path, error=NetworkError)))

    @classmethod
    def parse(cls, text: str, file: str = "network") -> Self:
        """Read the text of a network file; `file` is its name in messages.

        Raises
        ------
        NetworkError
            Naming file, line and key.
        """
        for name, value in (("text", text), ("file", file)):
            if not isinstance(value, str):
                raise NetworkError(f"{name} is {shown(value)}; wanted a str")
        return cls._of(parse_toml(text, file))

    @classmethod
    def from_onnx(cls, model: Any, *, input_size: InputSize = None) -> Self:
        """Read an ONNX model, with its weights.

        Parameters
        ----------
        model : path, bytes or onnx.ModelProto
        input_size : int, spatial sizes, or ``(C, *spatial)``, optional
            Of the first input, where the model leaves its sizes open.

        Raises
        ------
        NetworkError
            Naming the node and the operator, for one that is not known.
        MissingExtraError
            If onnx is not installed: ``pip install '.[onnx]'`` in the clone.
        """
        return cls._of(read_onnx(model, input_size))

    @classmethod
    def from_torch(cls, module: Any, input_size: Sequence[int] = (3, 224, 224)) -> Self:
        """Read a ``torch.nn.Module``, with its weights, by exporting it in evaluation mode at `input_size`.

        Raises
        ------
        NetworkError
            Naming the node and the operator, for one that is not known.
        """
        return cls._of(read_torch(module, input_size))

    @classmethod
    def _of(cls, draft: Draft) -> Self:
        read = dict(vars(draft))
        placed = read.pop("placed")
        try:
            return cls(**read)
        except NetworkError as error:
            raise placed(error) from None

    def _like(self, layers: Iterable[Layer], parameters: Mapping[str, Any] | None = None) -> Self:
        """Return a network that is called as this one, and gives the same."""
        given: dict[str, Any] = {"outputs": self.outputs, "output_names": self.output_names, "source": self.source}
        return type(self)(self.name, layers, **given, parameters=parameters)

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
        other = self._like(layers)
        # One object: what is trained or drawn in one is so in the other.
        other._trained = self._trained
        return other

    def input_shapes(self, layer: Layer) -> tuple[Shape, ...]:
        """Return the shapes that a layer reads."""
        if not isinstance(layer, Layer) or layer != self.by_name.get(layer.name):
            raise NetworkError(f"layer is {shown(layer)}; wanted one of the network's layers")
        return self.resolved[layer.name].inputs

    # Parameters.

    @property
    def _owners(self) -> dict[str, Resolved]:
        """What each layer with parameters of its own is on what it reads."""
        return {layer.name: self.resolved[layer.name] for layer in self.layers if layer.shares is None}

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shapes of all that is trained, by ``"layer.name"``."""
        return {
            f"{layer}.{name}": shape for layer, own in self._owners.items() for name, shape in own.parameters.items()
        }

    @cached_property
    def buffer_shapes(self) -> dict[str, Shape]:
        """Shapes of all that is kept and not trained, by ``"layer.name"``."""
        return {f"{layer}.{name}": shape for layer, own in self._owners.items() for name, shape in own.buffers.items()}

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters and buffers, by ``"layer.name"``; drawn by `initialize` if some are missing."""
        if not self.has_parameters:
            self.initialize()
        return self._trained.parameters

    @property
    def given_parameters(self) -> dict[str, Any]:
        """Those parameters and buffers that there are already."""
        return self._trained.parameters

    @property
    def has_parameters(self) -> bool:
        """Whether every parameter is there: none has to be drawn."""
        return len(self._trained.parameters) == len(self.parameter_shapes) + len(self.buffer_shapes)

    @property
    def optimizers(self) -> dict[str, Any]:
        """The optimizers that were called by their names, with their states."""
        return self._trained.optimizers

    @property
    def programs(self) -> dict[Any, Any]:
        """What running the network keeps."""
        return self._trained.programs

    def astype(self, dtype: Any) -> Self:
        """Return the same network with its parameters in another float type."""
        kind = numpy_dtype(dtype_name("dtype", dtype))
        cast = {name: value.astype(kind) for name, value in self.parameters.items()}
        return self._like(self.layers, cast)

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
        have = {} if all else self._trained.parameters
        drawn = draw(self._owners, seed, numpy_dtype(dtype_name("dtype", dtype)))
        self._trained.parameters.update({name: value for name, value in drawn.items() if name not in have})
        return self

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
        return summarize(self.resized(input_size), as_int("batch", batch, 0), dtype)

    def vram(
        self,
        batch: int = 1,
        *,
        input_size: InputSize = None,
        dtype: Any = "float32",
        training: bool = False,
        optimizer: Optimizer | str = "sgd",
        device: Device | str | None = None,
        backend: str = "auto",
    ) -> NetworkVram:
        """Predict the memory of `run`, or of `train_step`, before anything is allocated.

        Parameters
        ----------
        batch : int
            Samples; 0 is none.
        input_size : int, spatial sizes, or ``(C, *spatial)``, optional
        dtype : str or dtype
            Of activations, parameters and gradients; the optimizer keeps its state in float32 at least.
        training : bool
            A training step instead of a run.
        optimizer : {"sgd", "momentum", "adam"} or Optimizer
        device : Device or str, optional
            A name such as ``"H200"`` predicts for a card that need not be here.
        backend : {"auto", "cuda", "cpu", "reference"}

        Returns
        -------
        NetworkVram
            In bytes. `allocated` is what `stridekit.vram.track` measures around the first such call.

        Examples
        --------
        >>> import stridekit as sk
        >>> usage = sk.networks.load("resnet18").vram(batch=8, training=True, device="H200")
        >>> usage.parameter_gradients <= usage.arena < usage.peak
        True
        """
        return predict_vram(
            self,
            input_size=input_size,
            batch=batch,
            dtype=dtype,
            training=training,
            optimizer=optimizer,
            device=device,
            backend=backend,
        )

    def largest_batch(
        self,
        limit: int | str,
        *,
        input_size: InputSize = None,
        dtype: Any = "float32",
        training: bool = False,
        optimizer: Optimizer | str = "sgd",
        device: Device | str | None = None,
        backend: str = "auto",
    ) -> int:
        """Return the most samples that a run, or a training step, takes within so much memory.

        Parameters
        ----------
        limit : int or str
            Bytes, or such as ``"24 GiB"``, for all of it: parameters, input, and what `vram` says is allocated.
        input_size, dtype, training, optimizer, device, backend
            As for `vram`.

        Returns
        -------
        int
            0 if not even one sample fits.

        Examples
        --------
        >>> import stridekit as sk
        >>> net = sk.networks.load("resnet18")
        >>> batch = net.largest_batch("2 GiB", training=True, device="H200")
        >>> net.vram(batch, training=True, device="H200").peak <= 2**31
        True
        """

        def peak(batch: int) -> int:
            return self.vram(
                batch,
                input_size=input_size,
                dtype=dtype,
                training=training,
                optimizer=optimizer,
                device=device,
                backend=backend,
            ).peak

        return largest_batch(peak, parse_bytes("the limit of the budget", limit))

    # Running.

    def run(self, x: Array | Mapping[str, Array], *, backend: str = "auto") -> Array | dict[str, Array]:
        r"""Run the network, all of it in one block of memory that was planned before.

        Parameters
        ----------
        x : array, shape (N, C, \*spatial), or a dictionary of them by the inputs' names
            Of any size that the layers fit.
        backend : {"auto", "cuda", "cpu", "reference"}
            The parameters move to where the network runs, and stay there.

        Returns
        -------
        array, or a dictionary of arrays by `output_names`, in their order
            Channels first; images lie channels-last in memory. Two outputs of one layer are one array.

        Raises
        ------
        NetworkError, ShapeError, DtypeError, BackendUnavailableError
        VramBudgetError
            Before anything is computed, if the block does not fit into `stridekit.vram.budget`.

        Examples
        --------
        >>> import numpy as np, stridekit as sk
        >>> sk.networks.load("textcnn").run(np.zeros((2, 300, 20), np.float32)).shape
        (2, 2)
        """
        return run(self, x, backend)

    def train_step(
        self,
        x: Array | Mapping[str, Array],
        target: Array,
        optimizer: Optimizer | str = "sgd",
        *,
        backend: str = "auto",
    ) -> float:
        r"""Do one step of training by the softmax cross-entropy of the network's one output.

        Each parameter moves as soon as its gradient is whole and nothing reads the parameter any more, so that the
        gradients need not all be kept.

        Parameters
        ----------
        x : array, shape (N, C, \*spatial), or a dictionary of them by the inputs' names
        target : integer array, shape (N,), or (N, \*spatial) where the output has pixels
            The class of each sample or pixel, from 0.
        optimizer : {"sgd", "momentum", "adam"} or Optimizer
            Called by its name, it has the usual settings, and the network keeps its state.
        backend : {"auto", "cuda", "cpu", "reference"}

        Returns
        -------
        float
            The loss before the step, averaged over samples and pixels.

        Raises
        ------
        NetworkError, ShapeError, DtypeError, BackendUnavailableError, VramBudgetError

        Examples
        --------
        >>> import numpy as np, stridekit as sk
        >>> network = sk.networks.load("textcnn")
        >>> x = np.random.default_rng(0).standard_normal((4, 300, 20), np.float32)
        >>> losses = [network.train_step(x, np.array([0, 1, 0, 1]), "adam") for _ in range(5)]
        >>> losses[-1] < losses[0]
        True
        """
        chosen = optimizer
        if isinstance(chosen, str):
            chosen = self.optimizers.setdefault(chosen, optimizer_called(chosen))
        return train_step(self, x, target, chosen, backend)

    def __repr__(self) -> str:
        sizes = ", ".join(str(self.features[layer.name].shape) for layer in self.inputs)
        return f"{type(self).__name__}({self.name!r}, {len(self.layers)} layers, input {sizes})"
