"""Running networks on the engine: where, with which program, in how much memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stridekit.arguments import as_flag, as_int, shown
from stridekit.backends import LIBRARIES, Device, load_backend, memory_of
from stridekit.errors import DtypeError, ShapeError
from stridekit.memory.arrays import Array, dtype_name, library_of, one_library, plain
from stridekit.networks.execution.kernels import Context
from stridekit.networks.execution.optimizers import Optimizer, optimizer_called
from stridekit.networks.execution.program import NetworkVram, Program
from stridekit.planning.dispatch import choose_backend, place_to_plan_for

if TYPE_CHECKING:
    from stridekit.networks.layers import InputSize
    from stridekit.networks.network import Network

__all__ = ["NetworkVram", "Optimizer", "Program", "predict_vram", "run", "train_step"]

_KEPT = 8
"""Programs that a network remembers."""


def predict_vram(
    network: Network,
    *,
    input_size: InputSize,
    batch: int,
    dtype: Any,
    training: bool,
    optimizer: Optimizer | str,
    device: Device | str | None,
    backend: str,
) -> NetworkVram:
    """Predict the memory of a run or a training step; `Network.vram` says how."""
    batch, training = as_int("batch", batch, 0), as_flag("training", training)
    name, _, chosen = place_to_plan_for(device, backend)
    if isinstance(device, str):
        # A profile's card need not be here, and then has no memory to ask.
        context = Context(name, chosen, LIBRARIES[name], dtype_name("dtype", dtype), training)
    else:
        context = _context(name, chosen, dtype, training)
    slots = optimizer_called(optimizer).slots
    return _program(network.resized(input_size), batch, context).vram(slots if training else 0)


def run(network: Network, x: Array | Mapping[str, Array], backend: str) -> Array | dict[str, Array]:
    """Run a network; `Network.run` says how."""
    given, program = _ready(network, x, backend, training=False)
    found = program.run(given)
    named = {name: found[layer] for name, layer in zip(network.output_names, network.outputs, strict=True)}
    return next(iter(named.values())) if len(named) == 1 else named


def train_step(
    network: Network, x: Array | Mapping[str, Array], target: Array, optimizer: Optimizer, backend: str
) -> float:
    """Do one step of training; `Network.train_step` says how."""
    library_of("target", target)
    optimizer = optimizer_called(optimizer)
    given, program = _ready(network, x, backend, training=True)
    return program.train(given, plain(target), optimizer)


def _ready(
    network: Network, x: Array | Mapping[str, Array], backend: str, *, training: bool
) -> tuple[dict[str, Array], Program]:
    """Check what is given, choose where to run, and return it by layer, with the program."""
    layers = network.inputs
    named: dict[str, Array] = dict(x) if isinstance(x, Mapping) else {layers[0].name: x}
    if set(named) != {layer.name for layer in layers}:
        wanted = ", ".join(layer.name for layer in layers)
        came = ", ".join(name if isinstance(name, str) else shown(name) for name in named)
        raise ShapeError(f"{network.name} has the inputs {wanted}; give x as a dictionary of them, {came} came")
    called = {name: name if isinstance(x, Mapping) else "x" for name in named}
    library, first = one_library({called[name]: array for name, array in named.items()}), named[layers[0].name]
    dtype = dtype_name(called[layers[0].name], first)
    shape = tuple(first.shape)
    if len(shape) != len(network.features[layers[0].name].shape) + 1:
        raise ShapeError(f"x is {shape}; wanted (N, {', '.join(map(str, network.features[layers[0].name].shape))})")
    sized = network if shape[1:] == network.features[layers[0].name].shape else network.resized(shape[1:])
    batch = shape[0] // network.features[layers[0].name].samples
    for layer in layers:
        feature = sized.features[layer.name]
        expected = (batch * feature.samples, *feature.shape)
        own, array = called[layer.name], named[layer.name]
        if dtype_name(own, array) != dtype:
            raise DtypeError(f"{own} is {array.dtype}, {called[layers[0].name]} {dtype}; cast one of them")
        if tuple(array.shape) != expected:
            raise ShapeError(f"{own} is {tuple(array.shape)}; wanted {expected}")
    if not network.has_parameters:
        network.initialize(dtype=dtype)
    name, _ = choose_backend(backend, library)
    context = _context(name, load_backend(name).device(first), dtype, training)
    return {key: plain(array) for key, array in named.items()}, _program(sized, batch, context)


def _context(name: str, device: Any, dtype: Any, training: bool) -> Context:
    return Context(name, device, memory_of(name, device).library, dtype_name("dtype", dtype), training)


def _program(network: Network, batch: int, context: Context) -> Program:
    """Return the program, remembered by what it depends on."""
    kept: dict[Any, Program] = network.programs
    key = (tuple(network.features[layer.name] for layer in network.inputs), batch, context)
    # Each step is one that other threads come before or after: what was there a step ago need not be there now.
    program = kept.get(key)
    if program is None:
        for oldest in list(kept)[: len(kept) + 1 - _KEPT]:
            kept.pop(oldest, None)
        program = kept.setdefault(key, Program(network, batch, context))
    return program
