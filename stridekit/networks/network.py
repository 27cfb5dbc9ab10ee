"""The network as people use it: read from anywhere, asked for its sizes and memory, run and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stridekit.arguments import as_int, as_path, shown
from stridekit.backends import Device
from stridekit.errors import NetworkError
from stridekit.memory.arrays import Array
from stridekit.networks.execution import NetworkVram, Optimizer, predict_vram, run, train_step
from stridekit.networks.execution.fitting import largest_batch
from stridekit.networks.execution.optimizers import optimizer_called
from stridekit.networks.graph import Graph
from stridekit.networks.layers import InputSize
from stridekit.networks.readers.onnx import network_of_onnx
from stridekit.networks.readers.toml.files import parse_toml, read_toml
from stridekit.networks.readers.torch import network_of_torch
from stridekit.networks.summary import Summary, summarize
from stridekit.vram import parse_bytes


class Network(Graph):
    """A graph of layers.

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

    Raises
    ------
    NetworkError
        Naming the layer that does not fit.
    """

    # Reading.

    @classmethod
    def from_toml(cls, path: str | Path) -> Network:
        """Read a network file; `stridekit.networks.load` takes the names of those that ship, too.

        Raises
        ------
        NetworkError
            Naming file, line and key.
        """
        return cls._of(read_toml(as_path("path", path, error=NetworkError)))

    @classmethod
    def parse(cls, text: str, file: str = "network") -> Network:
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
    def from_onnx(cls, model: Any, *, input_size: InputSize = None) -> Network:
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
        return cls._of(network_of_onnx(model, input_size))

    @classmethod
    def from_torch(cls, module: Any, input_size: Sequence[int] = (3, 224, 224)) -> Network:
        """Read a ``torch.nn.Module``, with its weights, by exporting it in evaluation mode at `input_size`.

        Raises
        ------
        NetworkError
            Naming the node and the operator, for one that is not known.
        """
        return cls._of(network_of_torch(module, input_size))

    @classmethod
    def _of(cls, graph: Graph) -> Network:
        return cls(
            graph.name,
            graph.layers,
            outputs=graph.outputs,
            output_names=graph.output_names,
            source=graph.source,
            parameters=graph.given_parameters,
        )

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
