"""Tensors as arrays over the same memory, and new tensors that lie in memory as others do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from stridekit.memory.arrays import Array
from stridekit.memory.dtypes import DTYPES


def array_of(tensor: Tensor) -> Array:
    """View a CPU tensor as a NumPy array, a CUDA tensor as a CuPy array; nothing is copied."""
    tensor = tensor.detach().resolve_neg()
    # Neither numpy() nor DLPack carries bfloat16 everywhere: its bits go as integers.
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    if not dtype.in_numpy:
        tensor = tensor.view(torch.int16)
    if tensor.device.type == "cpu":
        array = tensor.numpy()
    else:
        import cupy

        array = cupy.from_dlpack(tensor)
    return array if dtype.in_numpy else array.view(dtype.numpy)


@contextmanager
def current_stream(tensor: Tensor) -> Iterator[None]:
    """Have CuPy work on the stream that PyTorch works on, so that neither waits for the other."""
    if tensor.device.type == "cpu":
        yield
        return
    import cupy

    stream = torch.cuda.current_stream(tensor.device)
    with cupy.cuda.Device(tensor.device.index), cupy.cuda.Stream.from_external(stream):
        yield


def empty_as(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Allocate a tensor of `shape`, (N, C, \\*spatial), with its channels innermost exactly if `tensor`'s are."""
    if lies_channels_last(tensor):
        batch, channels, *sizes = shape
        return tensor.new_empty((batch, *sizes, channels)).movedim(-1, 1)
    return tensor.new_empty(tuple(shape))


def lies_channels_last(tensor: Tensor) -> bool:
    """Say whether an (N, C, \\*spatial) tensor lies with its channels innermost; not where one cannot tell."""
    channels = tensor.shape[1]
    steps = [step for step, size in zip(tensor.stride()[2:], tensor.shape[2:], strict=True) if size > 1]
    return channels > 1 and bool(steps) and tensor.stride(1) < min(steps)
