"""Who runs in the race on a GPU: stridekit and cuDNN, by PyTorch, on the very same memory.

PyTorch owns the operands and CuPy views them. Both run on the null stream, which is the current one of both libraries.
A call takes a number and reads the input of that number; all inputs together are more than twice the second-level
cache, so that none is found there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.cuda_timing import Call, allow_tf32, torch_dtype
from bench.layers import SEED, Layer
from stridekit.memory.arrays import Array, numpy_dtype
from stridekit.planning.plan import PackedWeight, Plan

TOLERANCES = {"float16": 2e-3, "bfloat16": 2e-2, "tf32": 2e-3, "float32": 1e-4}
"""Of the largest output: catches a wrong result, not a rounding; the tests hold the real bound."""


@dataclass(frozen=True)
class Operands:
    """A layer's operands as PyTorch's tensors, inputs once in each memory order.

    Attributes
    ----------
    inputs : dict of str to list of tensor, shape (N, C, \\*spatial)
        Under ``"first"`` and ``"last"``.
    """

    inputs: dict[str, list[Any]]
    weight: Any
    bias: Any


def operands(layer: Layer, batch: int, dtype: str, device: str, l2_bytes: int) -> Operands:
    """Draw a layer's operands on the device; the same numbers every time."""
    import torch

    generator = torch.Generator(device).manual_seed(SEED)
    kind = torch_dtype(dtype)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)

    shape = (batch, *layer.input_shape[1:])
    # Copies have the same numbers: to draw new ones for each would take longer than the race.
    x = normal(*shape).to(kind)
    count = 1 + 2 * l2_bytes // max(1, x.numel() * x.element_size())
    first = [x, *(x.clone() for _ in range(count - 1))]
    last = [channels_last(tensor) for tensor in first]
    weight = (normal(*layer.weight_shape) * float(np.prod(layer.weight_shape[1:])) ** -0.5).to(kind)
    return Operands({"first": first, "last": last}, weight, normal(layer.weight_shape[0]).to(kind))


def channels_last(x: Any) -> Any:
    """Copy an ``(N, C, *spatial)`` tensor so that its channels lie innermost."""
    axes = (0, *range(2, x.dim()), 1)
    return x.permute(axes).contiguous().permute(0, x.dim() - 1, *range(1, x.dim() - 1))


def shared(tensor: Any, dtype: str) -> Array:
    """View a tensor's memory as a CuPy array."""
    import cupy

    kind = numpy_dtype("float32" if dtype == "tf32" else dtype)
    nbytes = tensor.untyped_storage().nbytes()
    memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), nbytes, tensor, tensor.device.index or 0)
    steps = tuple(step * kind.itemsize for step in tensor.stride())
    return cupy.ndarray(tuple(tensor.shape), kind, cupy.cuda.MemoryPointer(memory, 0), strides=steps)


def tensor_of(array: Array, dtype: str) -> Any:
    """View a CuPy array's memory as a tensor; as integers on the way, since bfloat16 has no name there."""
    import torch

    bits = array.view({2: np.int16, 4: np.int32}[array.itemsize])
    return torch.as_tensor(bits, device=f"cuda:{array.device.id}").view(torch_dtype(dtype))


def ours(layer: Layer, batch: int, dtype: str, given: Operands) -> tuple[dict[str, Call], dict[str, Plan]]:
    """Return stridekit in each memory order, with weights as given and packed once; and the plan of each."""
    element, precision = ("float32", "tf32") if dtype == "tf32" else (dtype, "ieee")
    chosen: dict[str, Any] = {"backend": "cuda", "batch": batch, "precision": precision}
    weight, bias = shared(given.weight, dtype), shared(given.bias, dtype)
    calls: dict[str, Call] = {}
    plans: dict[str, Plan] = {}
    for order, tensors in given.inputs.items():
        plan = plans[order] = layer.plan(element, channels_last=order == "last", **chosen)
        inputs = [shared(tensor, dtype) for tensor in tensors]
        for name, weights in (("given", weight), ("packed", plan.pack(weight))):
            calls[f"{name}_{order}"] = partial(_execute, plan, inputs, weights, bias)
    return calls, plans


def _execute(plan: Plan, inputs: list[Array], weight: Array | PackedWeight, bias: Array, number: int) -> Array:
    return plan.execute(inputs[number % len(inputs)], weight, bias)


def cudnn(layer: Layer, given: Operands) -> dict[str, Call]:
    """Return cuDNN in each memory order, without a bias and with one, which PyTorch adds by a kernel of its own."""
    calls: dict[str, Call] = {}
    for order, tensors in given.inputs.items():
        weight = channels_last(given.weight) if order == "last" else given.weight
        for name, bias in (("cudnn", None), ("cudnn_bias", given.bias)):
            calls[f"{name}_{order}"] = partial(_convolve, layer, tensors, weight, bias)
    return calls


def _convolve(layer: Layer, inputs: list[Any], weight: Any, bias: Any, number: int) -> Any:
    return convolution(layer, inputs[number % len(inputs)], weight, bias)


def convolution(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    """Convolve by PyTorch. Signals are images of one row, since only of those it knows channels-last order."""
    import torch

    arguments = [layer.stride, layer.padding, layer.dilation]
    if layer.rank == 1:
        rows = [(first, *values) for first, values in zip((1, 0, 1), arguments, strict=True)]
        return torch.conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, *rows, layer.groups).squeeze(2)
    return (torch.conv2d if layer.rank == 2 else torch.conv3d)(x, weight, bias, *arguments, layer.groups)


def transposes(given: Operands) -> dict[str, Call]:
    """Return the copies from one memory order into the other that cuDNN's user makes, or PyTorch for him."""
    first, last = given.inputs["first"], given.inputs["last"]
    return {
        "to_last": lambda number: channels_last(first[number % len(first)]),
        "to_first": lambda number: last[number % len(last)].contiguous(),
    }


def wrong_result(layer: Layer, dtype: str, given: Operands, calls: dict[str, Call]) -> str:
    """Return ``""``, or which of `calls` is off, on the first and the last sample, and by how much.

    The truth is a convolution in float32, without rounded factors; afterwards PyTorch is set to race in `dtype`.
    """
    import torch

    allow_tf32(False)
    torch.backends.cudnn.benchmark = False
    picked = sorted({0, len(given.inputs["first"][0]) - 1})
    x, weight, bias = given.inputs["first"][0][picked].float(), given.weight.float(), given.bias.float()
    plain = convolution(layer, x, weight, None)
    torch.backends.cudnn.benchmark = True
    allow_tf32(dtype == "tf32")
    biased = plain + bias.reshape(-1, *(1,) * layer.rank)
    for name, call in calls.items():
        truth = plain if name.startswith("cudnn_") and "bias" not in name else biased
        y = call(0)
        got = (y if isinstance(y, torch.Tensor) else tensor_of(y, dtype))[picked].float()
        if got.shape != truth.shape:
            return f"{name}: shape {tuple(got.shape)}, wanted {tuple(truth.shape)}"
        error = float((got - truth).abs().max() / truth.abs().max())
        if not error < TOLERANCES[dtype]:
            return f"{name} is off by {error:.1e} of the largest output; allowed are {TOLERANCES[dtype]:.0e}"
    return ""
