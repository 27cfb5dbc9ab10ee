"""Implicit GEMM: packed weights times a matrix of windows that is never written down, on tensor cores or without."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from stridekit.backends import Operands
from stridekit.backends.cuda.device import CudaDevice
from stridekit.backends.cuda.direct import LAUNCH_SECONDS, at_typical_batch
from stridekit.backends.cuda.gemm_kernels import LOADERS, PRODUCTS, THREADS, gemm_kernel, sum_kernel
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.moving import TILE_SIDE, Placed, pack_weights, to_channels_last
from stridekit.backends.cuda.parameters import fresh, parameters_of, set_divisors, set_result, steps_of, three
from stridekit.backends.cuda.runtime import LARGEST_GRID
from stridekit.backends.cuda.sources import Kernel
from stridekit.backends.cuda.tiles import (
    CHUNK_BYTES,
    FLOAT32_TILES,
    FLOAT64_TILES,
    TENSOR_TILES,
    InnerAxis,
    Tile,
    choose_tile,
    chunk_elements,
    inner_axis,
)
from stridekit.memory.arrays import Array, address
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout
from stridekit.problems.conv_problem import ConvProblem

LARGEST_M = 2**31 - 1
"""Output pixels of one launch: its indices of pixels have 32 bits."""
_READING = dict(zip(LOADERS, (1.0, 1.5, 5.0), strict=True))
"""How much longer a tile takes by the way it reads, to order of magnitude: a stem finds a place for each element."""


class _ImplicitGemm:
    """What both ways to multiply share."""

    name: str

    def tiles(self, problem: ConvProblem) -> tuple[Tile, ...]:
        """Return the tiles that can be taken."""
        raise NotImplementedError

    def rate(self, problem: ConvProblem, device: CudaDevice) -> float:
        """Return the peak in multiply-adds per second."""
        raise NotImplementedError

    def refuses(self, problem: ConvProblem) -> str:
        """Return why this way to multiply cannot serve the problem's dtype, or ``""``."""
        raise NotImplementedError

    def supports(self, problem: ConvProblem, device: CudaDevice) -> str:
        """Return ``""``, or why not."""
        refused = self.refuses(problem)
        if refused:
            return refused
        inner = inner_axis(problem, device)
        narrow = (
            *(axis.padded_size + axis.kernel_extent for axis in problem.geometry.axes),
            *(axis.stride * axis.output_size for axis in problem.geometry.axes),
            problem.sample_pixels,
            inner.depth,
            problem.out_channels,
        )
        if max(narrow) >= 2**31:
            return f"{max(narrow)} does not fit into the 31 bits of its coordinates"
        if problem.groups > LARGEST_GRID[1]:
            return f"{problem.groups} groups are more than the {LARGEST_GRID[1]} of a grid"
        if _copies(problem, device) and problem.groups * inner.channel_pitch > LARGEST_GRID[1] * TILE_SIDE:
            return f"{problem.in_channels} channels are more than a grid copies"
        tile, _, excluded = choose_tile(problem, device, self.tiles(problem), self.rate(problem, device))
        return "" if tile else "; ".join(excluded)

    def cost(self, problem: ConvProblem, device: CudaDevice) -> float:
        """Return the modelled seconds: tiles, and what is packed, copied and added up beside them."""
        problem = at_typical_batch(problem)
        _, seconds, _ = choose_tile(problem, device, self.tiles(problem), self.rate(problem, device))
        seconds *= _READING[_loader(problem, device)]
        beside = 2 * sum(nbytes for _, nbytes in _layout(problem, device, packed=False).regions)
        launches = 1 + len(_layout(problem, device, packed=False).regions)
        moving = (beside + problem.moved_bytes) / device.memory_bytes_per_s
        return max(seconds, moving) + launches * LAUNCH_SECONDS

    def detail(self, problem: ConvProblem, device: CudaDevice) -> str:
        """Say which tile, how many splits, and how the input is read."""
        inner = inner_axis(problem, device)
        splits = f", {inner.splits} splits" if inner.splits > 1 else ""
        read = "copied to channels last" if _copies(problem, device) else "read in place"
        return f"tile {self._tile(problem, device).name}{splits}, input {read}"

    def packing(self, problem: ConvProblem, device: CudaDevice) -> tuple[object, ...]:
        """Return what the order of packed weights depends on."""
        return (problem.weight_shape, problem.groups, problem.dtype)

    def packed_bytes(self, problem: ConvProblem, device: CudaDevice) -> int:
        """Return the bytes of the weights as [groups][K][depth]."""
        return problem.out_channels * inner_axis(problem, device).depth * problem.itemsize

    def pack(self, problem: ConvProblem, device: CudaDevice, weight: Array, packed: Array) -> None:
        """Write the weights in the order of the reduction."""
        inner = inner_axis(problem, device)
        pack_weights(problem, device, weight, packed, inner.channel_pitch, inner.depth)

    def workspace(self, problem: ConvProblem, device: CudaDevice, *, packed: bool) -> int:
        """Return the bytes of packed weights, of the copy in channels-last order, and of the splits' sums."""
        return _layout(problem, device, packed=packed).nbytes

    def run(self, problem: ConvProblem, device: CudaDevice, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`, in parts of fewer than 2**31 output pixels."""
        layout = _layout(problem, device, packed=operands.packed_weight is not None)
        parts = layout.cut(workspace)
        packed = operands.packed_weight
        if packed is None:
            packed = parts["packed"]
            self.pack(problem, device, operands.weight, packed)
        tile = self._tile(problem, device)
        filter_tiles = -(-problem.group_out_channels // tile.n)
        pixels = min(LARGEST_M - tile.m, LARGEST_GRID[0] // filter_tiles * tile.m)
        most = max(1, pixels // problem.output_pixels)
        for first in range(0, problem.batch, most):
            samples = slice(first, min(first + most, problem.batch))
            whole = samples == slice(0, problem.batch)
            part = problem if whole else replace(problem, batch=samples.stop - first)
            x, y = (operands.x, out) if whole else (operands.x[samples], out[samples])
            residual = None if operands.residual is None else operands.residual[samples]
            given = Operands(x=x, packed_weight=packed, bias=operands.bias, residual=residual)
            self._run_part(part, device, tile, given, parts, y)

    def _run_part(
        self, problem: ConvProblem, device: CudaDevice, tile: Tile, operands: Operands, parts: dict[str, Array],
        out: Array,
    ) -> None:  # fmt: skip
        inner, x = inner_axis(problem, device), operands.x
        filled = fresh(_prepared(problem, device))
        p = filled[0]
        p["packed"] = address(operands.packed_weight)
        set_result(p, operands, out)
        p["filter_tiles"] = -(-problem.group_out_channels // tile.n)
        p["y_by_filters"] = abs(int(p["y_step"]["c"])) == 1 and problem.output_pixels > 1
        p["y_in_vectors"] = _in_chunks(out, problem.group_out_channels)
        loader = _loader(problem, device)
        read = Placed(address(x), steps_of(x), problem.group_in_channels * _channel_step(x))
        if "channels_last" in parts:
            read = to_channels_last(problem, device, x, parts["channels_last"], inner.channel_pitch)
        elif loader == LOADERS[0] and not _in_chunks(x, problem.group_in_channels):
            # A view that lies otherwise than its order promised: the same sums, read element by element.
            loader = LOADERS[1]
        p["x"], p["x_step"], p["group_step"] = read
        if "partials" in parts:
            p["partials"] = address(parts["partials"])
        tiles = -(-int(p["M"]) // tile.m) * int(p["filter_tiles"])
        launch(device, self.kernel(problem, tile, loader), (tiles, problem.groups, inner.splits), filled)
        if inner.splits > 1:
            count = int(p["M"]) * problem.out_channels
            launch(device, sum_kernel(problem.dtype), (-(-count // THREADS), 1, 1), filled)

    def kernel(self, problem: ConvProblem, tile: Tile, loader: str) -> Kernel:
        """Return the specialisation for a tile and a way to read."""
        raise NotImplementedError

    def _tile(self, problem: ConvProblem, device: CudaDevice) -> Tile:
        tile, _, excluded = choose_tile(problem, device, self.tiles(problem), self.rate(problem, device))
        if tile is None:
            raise ValueError(f"{self.name} has no tile here: {'; '.join(excluded)}")
        return tile


class ImplicitGemm(_ImplicitGemm):
    """On tensor cores, by mma.sync: float16, bfloat16, and float32 where tf32 is asked for."""

    name = "implicit_gemm"

    def refuses(self, problem: ConvProblem) -> str:
        """Return ``""`` for what tensor cores multiply within the bound."""
        if problem.dtype not in PRODUCTS:
            return f"tensor cores do not multiply {problem.dtype} by mma.sync in this version"
        if DTYPES[problem.dtype].sums_itself and problem.precision != "tf32":
            return f"tensor cores round {problem.dtype}; precision='tf32' allows it"
        return ""

    def tiles(self, problem: ConvProblem) -> tuple[Tile, ...]:
        """Return the tiles of warps."""
        return TENSOR_TILES

    def rate(self, problem: ConvProblem, device: CudaDevice) -> float:
        """Return the tensor cores' peak."""
        return device.multiply_adds_per_s("tf32" if DTYPES[problem.dtype].sums_itself else "tensor16")

    def kernel(self, problem: ConvProblem, tile: Tile, loader: str) -> Kernel:
        """Return the specialisation for a tile and a way to read."""
        return gemm_kernel(problem.dtype, PRODUCTS[problem.dtype], tile, loader)


class ImplicitGemmFma(_ImplicitGemm):
    """By fused multiply-adds: float32 and float64, as accurate as the direct algorithm."""

    name = "implicit_gemm_fma"

    def refuses(self, problem: ConvProblem) -> str:
        """Return ``""`` for the types that are summed in themselves."""
        if not DTYPES[problem.dtype].sums_itself:
            return f"{problem.dtype} is multiplied on tensor cores"
        if problem.precision == "tf32" and problem.dtype in PRODUCTS:
            return "tf32 is allowed, and tensor cores are faster"
        return ""

    def tiles(self, problem: ConvProblem) -> tuple[Tile, ...]:
        """Return the tiles of threads."""
        return FLOAT64_TILES if problem.dtype == "float64" else FLOAT32_TILES

    def rate(self, problem: ConvProblem, device: CudaDevice) -> float:
        """Return the peak of fused multiply-adds."""
        return device.multiply_adds_per_s(problem.dtype)

    def kernel(self, problem: ConvProblem, tile: Tile, loader: str) -> Kernel:
        """Return the specialisation for a tile and a way to read."""
        return gemm_kernel(problem.dtype, "", tile, loader)


def _channel_step(x: Array) -> int:
    return int(x.strides[1]) // int(x.itemsize)


def _in_chunks(array: Array, channels_of_group: int) -> bool:
    """Say whether an ``(N, C, *spatial)`` array can be read and written in whole chunks of channels."""
    itemsize = array.itemsize
    steps = [step for axis, (step, size) in enumerate(zip(array.strides, array.shape, strict=True))
             if axis != 1 and size > 1]  # fmt: skip
    return (
        (array.strides[1] == itemsize or array.shape[1] == 1)
        and channels_of_group * itemsize % CHUNK_BYTES == 0
        and all(step % CHUNK_BYTES == 0 for step in [address(array), *steps])
    )


def _loader(problem: ConvProblem, device: CudaDevice) -> str:
    """Decide how inputs are read, from their order and channels alone."""
    if problem.group_in_channels < chunk_elements(problem):
        return LOADERS[2]
    if _copies(problem, device):
        return LOADERS[0]
    whole = problem.group_in_channels % chunk_elements(problem) == 0
    return LOADERS[0] if whole and problem.memory_order == "channels_last" else LOADERS[1]


def _copies(problem: ConvProblem, device: CudaDevice) -> bool:
    """Say whether inputs are copied to channels-last order first."""
    if device.reads_in_place or problem.group_in_channels < chunk_elements(problem):
        return False
    return problem.memory_order != "channels_last" or problem.group_in_channels % chunk_elements(problem) != 0


@lru_cache(maxsize=4096)
def _layout(problem: ConvProblem, device: CudaDevice, *, packed: bool) -> WorkspaceLayout:
    inner = inner_axis(problem, device)
    regions = []
    if not packed:
        regions.append(("packed", problem.out_channels * inner.depth * problem.itemsize))
    if _copies(problem, device):
        pixels = problem.batch * int(np.prod([axis.size for axis in problem.geometry.axes], dtype=object))
        regions.append(("channels_last", pixels * problem.groups * inner.channel_pitch * problem.itemsize))
    if inner.splits > 1:
        sums = problem.batch * problem.output_pixels * problem.out_channels
        regions.append(("partials", inner.splits * sums * DTYPES[problem.dtype].accumulator.nbytes))
    return WorkspaceLayout(tuple(regions))


@lru_cache(maxsize=4096)
def _prepared(problem: ConvProblem, device: CudaDevice) -> np.ndarray:
    filled = parameters_of(problem)
    p: Any = filled[0]
    inner: InnerAxis = inner_axis(problem, device)
    p["M"] = problem.batch * problem.output_pixels
    p["depth"], p["channel_pitch"] = inner.depth, inner.channel_pitch
    p["splits"], p["blocks_per_split"] = inner.splits, inner.blocks_per_split
    axes = problem.geometry.axes
    depth, rows, columns = three([axis.output_size for axis in axes], 1)
    _, kernel_rows, kernel_columns = three([axis.kernel for axis in axes], 1)
    set_divisors(
        filled,
        channel_pitch=inner.channel_pitch,
        filters=problem.group_out_channels,
        pixels=max(1, int(p["M"])),
        kernel_row=kernel_rows,
        kernel_column=kernel_columns,
        output_depth=depth,
        output_row=rows,
        output_column=columns,
    )
    return filled
