"""The algorithms of the cpu backend that pack weights: three tiles, one loop nest."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from stridekit.backends import Operands
from stridekit.backends.cpu.forward.blocking import (
    Blocking,
    accumulator_itemsize,
    broadcast_blocking,
    lanewise_blocking,
    paired_blocking,
)
from stridekit.backends.cpu.forward.jobs import Weight
from stridekit.backends.cpu.forward.launch import (
    Counted,
    Job,
    Part,
    execute,
    job_of,
    layout_of,
    packers,
    packing_of,
    placed,
    weights_bytes,
)
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import (
    OUT,
    RESIDUAL,
    WEIGHT,
    WORD_BYTES,
    Strided,
    X,
    bases,
    rows,
    strides_of,
)
from stridekit.memory.workspace import align
from stridekit.problems.conv_problem import ConvProblem


class TileAlgorithm:
    """What the two tiles share: workspace, packing and the call of the loop nest."""

    name: str
    _blocking: Callable[[ConvProblem, CpuDevice], Blocking]

    def blocking(self, problem: ConvProblem, device: CpuDevice) -> Blocking:
        """Return how the problem is cut for this tile."""
        return type(self)._blocking(problem, device)

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""``, or why not."""
        return no_half(problem, device)

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled time: the products, weights packed, planes turned into pixels and back."""
        b = self.blocking(problem, device)
        # Samples are counted one by one, though their weights are packed once: the choice, and with it the order of
        # a sum, must not depend on the batch.
        packed = _PACKING * b.groups * b.vectors * problem.taps * b.channels
        beside = packed + _TURNING * turned_elements(problem) / b.lanes
        return self.products(problem, device) + problem.batch * beside / (VECTORS_PER_SECOND * device.threads)

    def products(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled time of every multiply-add of every tile, spare lanes and pixels included."""
        b = self.blocking(problem, device)
        products = b.groups * b.vectors * problem.taps * b.channels * problem.output_pixels
        # A lanewise tile gathers a box for every block of filters, even where all read the same channel.
        gathered = 4 * b.multiplier * math.prod(problem.geometry.input_size) * b.vectors * b.lanewise
        return problem.batch * (products + gathered) / (VECTORS_PER_SECOND * device.threads)

    def detail(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Say how wide the tile is."""
        b = self.blocking(problem, device)
        return f"{b.tile_vectors} vectors of {b.lanes} filters"

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return shape, groups, type, tile and channel block: what the order of packed weights depends on."""
        b = self.blocking(problem, device)
        return (problem.weight_shape, problem.groups, problem.dtype, b.lanes, b.tile_vectors, b.channel_block)

    def packed_bytes(self, problem: ConvProblem, device: CpuDevice) -> int:
        """Return the bytes of the weights in tile order, and of the word that says whether one is not finite."""
        return align(weights_bytes(self.blocking(problem, device))) + align(WORD_BYTES)

    def pack(self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Write the weights in tile order."""
        from stridekit.backends.cpu.forward.pack_weights import pack_weights
        from stridekit.backends.cpu.runtime.thread_pool import run

        found = placed(type(self)._blocking, problem, device)
        strides = grouped_strides(problem, weight.strides)
        counter = np.zeros(1, np.int64)
        end = packed.nbytes - align(WORD_BYTES)
        packed[end:] = 0
        begin = packed.ctypes.data
        packing = packing_of(found, Weight(WEIGHT, *strides), begin, begin + end, counter.ctypes.data)
        job = rows(1, packing).at(bases(None, None, None, weight))
        run(pack_weights(problem.dtype), job, packers([found], device), weight, packed, packed.base, counter, found)

    def workspace(self, problem: ConvProblem, device: CpuDevice, *, packed: bool) -> int:
        """Return the bytes of packed weights, bias, task counters and each thread's scratch."""
        return self.workspace_together(((problem, 1),), device, packed=packed)

    def workspace_together(self, problems: Counted, device: CpuDevice, *, packed: bool) -> int:
        """Return the bytes of workspace of problems that are run together, each so many times."""
        return layout_of(type(self)._blocking, problems, device, packed)[0].nbytes

    def job(self, parts: tuple[Part, ...], device: CpuDevice, packed: bool) -> Job:
        """Prepare problems to be run together."""
        return job_of(type(self)._blocking, parts, device, packed)

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        x, weight, packed = operands.x, operands.weight, operands.packed_weight
        strides = None if packed is not None else weight.strides
        residual = operands.residual
        added = None if residual is None else strides_of(residual)
        job = _alone(self, problem, device, strides_of(x), strides, strides_of(out), added)
        execute(job, problem.dtype, workspace, x, weight, packed, operands.bias, out, residual)


@lru_cache(maxsize=1024)
def _alone(
    algorithm: TileAlgorithm,
    problem: ConvProblem,
    device: CpuDevice,
    x: tuple[int, ...],
    weight: tuple[int, ...] | None,
    out: tuple[int, ...],
    residual: tuple[int, ...] | None,
) -> Job:
    """Prepare one problem, given the strides of its arrays; None for packed weights, and for no residual."""
    added = Strided() if residual is None else Strided(RESIDUAL, *residual)
    steps = () if weight is None else grouped_strides(problem, weight)
    part = Part(problem, Strided(X, *x), Strided(OUT, *out), Weight(WEIGHT, *steps), added)
    return algorithm.job((part,), device, weight is None)


def grouped_strides(problem: ConvProblem, weight: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of weights ``(K, C / groups, *kernel)`` as a `Part` has them."""
    k, c, *kernel = weight
    return (problem.group_out_channels * k, k, c, *(0,) * (3 - len(kernel)), *kernel)


_PACKING = 16
"""What it takes to pack a vector of weights, in vectors of products; half of it, since they may come packed."""
_TURNING = 6
"""What it takes to turn a vector of planes into pixels, or back, in vectors of products."""
VECTORS_PER_SECOND = 2.5e9
"""Multiply-adds of 256-bit vectors of float32 that one core does in a second, to order of magnitude."""


def no_half(problem: ConvProblem, device: CpuDevice) -> str:
    """Return ``""``, or why arrays of the problem's type cannot be read."""
    if problem.dtype == "float16" and not device.half:
        return "this processor has no instruction that converts float16 (F16C)"
    return ""


def turned_elements(problem: ConvProblem) -> int:
    """Return how many elements of one sample's input and output lie as planes, and have to become pixels."""
    if problem.memory_order != "channels_first":
        return 0
    read = problem.in_channels * math.prod(problem.geometry.input_size)
    return read + problem.out_channels * problem.output_pixels


class BroadcastTile(TileAlgorithm):
    """Lanes are filters that read the same input: every problem."""

    name = "broadcast_tile"
    _blocking = staticmethod(broadcast_blocking)


class LanewiseTile(TileAlgorithm):
    """Lanes are filters that each read one input channel of their own: depthwise, with any multiplier."""

    name = "lanewise_tile"
    _blocking = staticmethod(lanewise_blocking)

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""`` for depthwise problems, else why not."""
        if problem.group_in_channels != 1:
            return f"each filter reads {problem.group_in_channels} channels, a lane only one"
        return super().supports(problem, device)


class PairedTile(TileAlgorithm):
    """Lanes are the filters of two groups, half a vector each: groups too narrow to fill one."""

    name = "paired_tile"
    _blocking = staticmethod(paired_blocking)

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""`` for an even number of groups of half a vector of filters, else why not."""
        half = device.lanes(accumulator_itemsize(problem)) // 2
        if problem.groups % 2 or problem.group_out_channels != half:
            return f"groups of {problem.group_out_channels} filters, {problem.groups} of them, are no pairs of {half}"
        return super().supports(problem, device)
