"""The algorithms of the cpu backend: two tiles, one loop nest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stridekit.activation import ACTIVATIONS
from stridekit.backends import Operands
from stridekit.backends.cpu.blocking import Blocking, accumulator_itemsize, broadcast_blocking, lanewise_blocking
from stridekit.backends.cpu.device import CpuDevice
from stridekit.backends.cpu.threads import run_workers
from stridekit.problem import ConvProblem
from stridekit.workspace import WorkspaceLayout, align

_COUNTER_BYTES = 16
_UINT8 = np.dtype(np.uint8)


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

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return shape, groups, type, tile and channel block: what the order of packed weights depends on."""
        b = self.blocking(problem, device)
        return (problem.weight_shape, problem.groups, problem.dtype, b.lanes, b.tile_vectors, b.channel_block)

    def packed_bytes(self, problem: ConvProblem, device: CpuDevice) -> int:
        """Return the bytes of the weights in tile order."""
        b = self.blocking(problem, device)
        return b.packed_elements * b.itemsize

    def pack(self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Write the weights in tile order."""
        counter = np.zeros(1, np.int64)
        self._pack(problem, self.blocking(problem, device), weight, packed.ctypes.data, counter.ctypes.data)

    def workspace(self, problem: ConvProblem, device: CpuDevice, *, packed: bool) -> int:
        """Return the bytes of packed weights, bias, task counters and each thread's scratch."""
        return self._layout(self.blocking(problem, device), packed).nbytes

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        from stridekit.backends.cpu.convolving import convolve
        from stridekit.backends.cpu.packing import pack_bias

        b = self.blocking(problem, device)
        layout = self._layout(b, operands.packed_weight is not None)
        parts = layout.carve(workspace, dict.fromkeys((name for name, _ in layout.regions), _UINT8))
        address = {name: part.ctypes.data for name, part in parts.items()}
        parts["counters"][...] = 0
        tag, acc = _tags(problem)
        if operands.packed_weight is not None:
            weights = operands.packed_weight.ctypes.data
        else:
            weights = address["weights"]
            self._pack(problem, b, operands.weight, weights, address["counters"] + 8)
        if operands.bias is None:
            pack_bias(tag, acc, b, 0, 0, address["bias"])
        else:
            pack_bias(tag, acc, b, operands.bias.ctypes.data, operands.bias.strides[0], address["bias"])
        x, x_strides = operands.input, _strides(operands.input)
        out_strides = _strides(out)
        activation, slope = -1, acc
        if problem.activation is not None:
            activation, slope = ACTIVATIONS.index(problem.activation.name), type(acc)(problem.activation.slope)
        in_place = bool(b.copies and b.multiplier == 1 and x.strides[1] == b.itemsize)

        def work(worker: int) -> None:
            convolve(
                tag,
                acc,
                b,
                x.ctypes.data,
                x_strides,
                weights,
                address["bias"],
                out.ctypes.data,
                out_strides,
                activation,
                slope,
                in_place,
                address["scratch"] + worker * align(b.scratch),
                address["counters"],
            )

        run_workers(work, b.workers)

    def _pack(self, problem: ConvProblem, b: Blocking, weight: np.ndarray, packed: int, counter: int) -> None:
        from stridekit.backends.cpu.packing import pack_weights

        tag, acc = _tags(problem)
        strides, data = _strides(weight), weight.ctypes.data
        flat = weight[:1].flags.c_contiguous

        def work(worker: int) -> None:
            pack_weights(tag, acc, b, data, strides, flat, packed, counter)

        run_workers(work, b.workers)

    def _layout(self, b: Blocking, packed: bool) -> WorkspaceLayout:
        regions = [
            ("counters", _COUNTER_BYTES),
            ("bias", b.bias_elements * b.itemsize),
            ("scratch", b.workers * align(b.scratch)),
        ]
        if not packed:
            regions.append(("weights", b.packed_elements * b.itemsize))
        return WorkspaceLayout(tuple(regions))


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


def _tags(problem: ConvProblem) -> tuple[Any, Any]:
    from stridekit.backends.cpu.vector import TAGS

    return TAGS[problem.dtype], TAGS["float64" if accumulator_itemsize(problem) == 8 else "float32"]


def _strides(array: np.ndarray) -> tuple[int, ...]:
    """Return the strides of (n, c, d, h, w) in bytes, 0 for the axes that a lower rank lacks."""
    return (*array.strides[:2], *(0,) * (5 - array.ndim), *array.strides[2:])
