"""The algorithms of the cpu backend: two tiles, one loop nest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stridekit.activation import ACTIVATIONS
from stridekit.backends import Operands
from stridekit.backends.cpu.blocking import Blocking, broadcast_blocking, lanewise_blocking
from stridekit.backends.cpu.processor import CpuDevice
from stridekit.problem import ConvProblem
from stridekit.workspace import WorkspaceLayout, align

_WORD_BYTES = 8


@dataclass(frozen=True, eq=False)
class _Job:
    """All of a problem that does not change from call to call, as the kernels want it.

    Attributes
    ----------
    blocking : Blocking
        How the problem is cut.
    words : int64 array
        The same as the kernels read it; empty for a problem too large for any memory.
    tag, acc, activation
        As the kernels want them.
    slope : array
        The activation's parameter.
    address, slope_address : int
        Where `words` and `slope` lie.
    as_given, as_packed : WorkspaceLayout
        The workspace for weights as given and for packed ones.
    """

    blocking: Blocking
    words: np.ndarray
    tag: Any
    acc: Any
    activation: int
    slope: np.ndarray
    address: int
    slope_address: int
    as_given: WorkspaceLayout
    as_packed: WorkspaceLayout

    def layout(self, packed: bool) -> WorkspaceLayout:
        return self.as_packed if packed else self.as_given


class _TileAlgorithm:
    """What the two tiles share: workspace, packing and the call of the loop nest."""

    name: str
    _blocking: Callable[[ConvProblem, CpuDevice], Blocking]

    def blocking(self, problem: ConvProblem, device: CpuDevice) -> Blocking:
        """Return how the problem is cut for this tile."""
        return type(self)._blocking(problem, device)

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""``, or why not."""
        if problem.dtype == "float16" and not device.half:
            return "this processor has no instruction that converts float16 (F16C)"
        return ""

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled time: every multiply-add of every tile, spare lanes and pixels included."""
        b = self.blocking(problem, device)
        vectors = b.groups * b.vectors * problem.output_pixels * problem.batch
        products = vectors * problem.taps * b.channels
        # A lanewise tile gathers a box for every block of filters, even where all read the same channel.
        gathered = b.multiplier * problem.batch * math.prod(problem.geometry.input_size) * b.vectors
        return (products + 4 * gathered * b.lanewise) / (_VECTORS_PER_SECOND * device.threads)

    def detail(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Say how wide the tile is."""
        b = self.blocking(problem, device)
        return f"{b.tile_vectors} vectors of {b.lanes} filters"

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return shape, groups, type, tile and channel block: what the order of packed weights depends on."""
        b = self.blocking(problem, device)
        return (problem.weight_shape, problem.groups, problem.dtype, b.lanes, b.tile_vectors, b.channel_block)

    def packed_bytes(self, problem: ConvProblem, device: CpuDevice) -> int:
        """Return the bytes of the weights in tile order."""
        return _packed_bytes(self.blocking(problem, device))

    def pack(self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Write the weights in tile order."""
        _pack(problem.dtype, self._job(problem, device), weight, packed)

    def workspace(self, problem: ConvProblem, device: CpuDevice, *, packed: bool) -> int:
        """Return the bytes of packed weights, bias, task counter and each thread's scratch."""
        return self._job(problem, device).layout(packed).nbytes

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        from stridekit.backends.cpu.convolving import Call, convolve
        from stridekit.backends.cpu.crew import run
        from stridekit.backends.cpu.packing import pack_bias

        job = self._job(problem, device)
        b, packed, bias = job.blocking, operands.packed_weight, operands.bias
        base, offsets = workspace.ctypes.data, job.layout(packed is not None).offsets
        counter, bias_row = base + offsets["counter"], base + offsets["bias"]
        given = (0, 0) if bias is None else (bias.ctypes.data, bias.strides[0])
        pack_bias(job.tag, job.acc, job.address, *given, bias_row, counter)
        if packed is not None:
            weights = packed.ctypes.data
        else:
            weights = base + offsets["weights"]
            _pack(problem.dtype, job, operands.weight, workspace[offsets["weights"] :][: _packed_bytes(b)])
        x = operands.input
        call = Call(
            job.address,
            weights,
            weights + align(b.packed_elements * b.itemsize),
            bias_row,
            job.activation,
            job.slope_address,
            b.copies and b.multiplier == 1 and (x.strides[1] == b.itemsize or _one_channel(b)),
            base + offsets["scratch"],
            align(b.scratch),
            counter,
            x.ctypes.data,
            *_strides(x),
            out.ctypes.data,
            *_strides(out),
        )
        run(convolve(problem.dtype), np.array(call, np.int64), b.workers, workspace, operands, out, job)

    def _job(self, problem: ConvProblem, device: CpuDevice) -> _Job:
        return _prepare(type(self)._blocking, problem, device)


def _one_channel(b: Blocking) -> bool:
    """Say whether filters read a single channel, so that it does not matter how far the next one lies."""
    return b.channels == 1 and not b.lanewise


@lru_cache(maxsize=4096)
def _prepare(cut: Callable[[ConvProblem, CpuDevice], Blocking], problem: ConvProblem, device: CpuDevice) -> _Job:
    from stridekit.backends.cpu.vector import tags

    b = cut(problem, device)
    tag, acc = tags(problem.dtype)
    activation, slope = -1, 0.0
    if problem.activation is not None:
        activation, slope = ACTIVATIONS.index(problem.activation.name), problem.activation.slope
    regions = (
        ("counter", _WORD_BYTES),
        ("bias", b.bias_elements * b.itemsize),
        ("scratch", b.workers * align(b.scratch)),
    )
    weights = ("weights", _packed_bytes(b))
    parameter = np.array(slope, type(acc))
    words = np.array(b.words if max(b.words) < 2**63 else (), np.int64)
    return _Job(
        blocking=b,
        tag=tag,
        acc=acc,
        activation=activation,
        slope=parameter,
        words=words,
        address=int(words.ctypes.data),
        slope_address=int(parameter.ctypes.data),
        as_given=WorkspaceLayout((*regions, weights)),
        as_packed=WorkspaceLayout(regions),
    )


def _packed_bytes(b: Blocking) -> int:
    """Return the bytes of packed weights, and of the word behind them that says whether one is not finite."""
    return align(b.packed_elements * b.itemsize) + align(_WORD_BYTES)


def _pack(dtype: str, job: _Job, weight: np.ndarray, packed: np.ndarray) -> None:
    from stridekit.backends.cpu.crew import run
    from stridekit.backends.cpu.packing import Packing, pack_weights

    packed[-align(_WORD_BYTES) :] = 0
    counter = np.zeros(1, np.int64)
    flat = weight[:1].flags.c_contiguous
    start, end = packed.ctypes.data, packed.nbytes - align(_WORD_BYTES)
    packing = Packing(job.address, start, start + end, counter.ctypes.data, flat, weight.ctypes.data, *_strides(weight))
    arrays = weight, packed, packed.base, counter, job
    run(pack_weights(dtype), np.array(packing, np.int64), job.blocking.workers, *arrays)


_VECTORS_PER_SECOND = 2.5e9
"""Multiply-adds of 256-bit vectors of float32 that one core does in a second, to order of magnitude."""


class BroadcastTile(_TileAlgorithm):
    """Lanes are filters that read the same input: every problem."""

    name = "broadcast_tile"
    _blocking = staticmethod(broadcast_blocking)


class LanewiseTile(_TileAlgorithm):
    """Lanes are filters that each read one input channel of their own: depthwise, with any multiplier."""

    name = "lanewise_tile"
    _blocking = staticmethod(lanewise_blocking)

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""`` for depthwise problems, else why not."""
        if problem.group_in_channels != 1:
            return f"each filter reads {problem.group_in_channels} channels, a lane only one"
        return super().supports(problem, device)


def _strides(array: np.ndarray) -> tuple[int, int, int, int, int]:
    """Return the strides of (n, c, d, h, w) in bytes, 0 for the axes that a lower rank lacks."""
    n, c, d, h, w = *array.strides[:2], *(0,) * (5 - array.ndim), *array.strides[2:]
    return n, c, d, h, w
