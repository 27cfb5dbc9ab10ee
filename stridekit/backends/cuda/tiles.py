"""The tiles of the implicit GEMM, how many splits a reduction has, and which tile is cheapest: pure functions.

No choice of tile changes a bit of the result. The number of splits does, so that it follows from one sample, the dtype
and the device alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from stridekit.backends.cuda.device import CudaDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.conv_problem import ConvProblem

ROW_BYTES, CHUNK_BYTES = 64, 16
"""Bytes of the reduction in a row of a stage, and of a chunk: kernels/tile.cuh."""
MOST_SPLITS = 8
_FEWEST_BLOCKS_OF_SPLIT = 8
"""A split shorter than this spends its time on filling the pipeline."""
_PER_SAMPLE_TILE = 64
"""Side of the tile by which splits are counted, whatever tile is taken."""


@dataclass(frozen=True)
class Tile:
    """A tile of output pixels times filters.

    Attributes
    ----------
    m, n : int
        Output pixels and filters.
    part_m, part_n : int
        What one warp (tensor cores) or thread (fused multiply-adds) computes of it.
    threads : int
    stages : int
        Of the pipeline.
    resident : int
        Blocks that share a multiprocessor, for which registers are held down.
    efficiency : float
        Share of a multiprocessor's peak that a full grid of it reaches, to order of magnitude: larger tiles reuse more.
    """

    m: int
    n: int
    part_m: int
    part_n: int
    threads: int
    stages: int
    resident: int
    efficiency: float

    @property
    def name(self) -> str:
        """Such as ``"128x64"``."""
        return f"{self.m}x{self.n}"

    def shared_bytes(self, accumulator_bytes: int) -> int:
        """Return the dynamic shared memory of a block: its stages or, later, its sums and their places."""
        operands = self.stages * (self.m + self.n) * ROW_BYTES
        padding = CHUNK_BYTES // accumulator_bytes
        sums = max(self.m * (self.n + padding), self.n * (self.m + padding)) * accumulator_bytes
        return max(operands, sums + self.m * 8)


TENSOR_TILES = (
    Tile(128, 128, 64, 32, threads=256, stages=4, resident=2, efficiency=0.6),
    Tile(128, 64, 64, 32, threads=128, stages=4, resident=2, efficiency=0.5),
    Tile(64, 64, 32, 32, threads=128, stages=4, resident=3, efficiency=0.4),
    Tile(128, 32, 32, 32, threads=128, stages=4, resident=3, efficiency=0.35),
)
FLOAT32_TILES = (
    Tile(128, 64, 8, 8, threads=128, stages=3, resident=3, efficiency=0.7),
    Tile(64, 64, 8, 4, threads=128, stages=3, resident=3, efficiency=0.6),
    Tile(128, 32, 8, 4, threads=128, stages=3, resident=3, efficiency=0.55),
)
FLOAT64_TILES = (
    Tile(64, 64, 8, 4, threads=128, stages=3, resident=3, efficiency=0.6),
    Tile(128, 32, 8, 4, threads=128, stages=3, resident=2, efficiency=0.55),
)


@dataclass(frozen=True)
class InnerAxis:
    """The implicit matrix's inner axis, in elements and in blocks of 64 bytes.

    Attributes
    ----------
    channel_pitch : int
        Channels of one tap, rounded up to whole chunks if they fill at least one.
    depth : int
        All taps, rounded up to whole blocks.
    splits, blocks_per_split : int
    """

    channel_pitch: int
    depth: int
    splits: int
    blocks_per_split: int


def chunk_elements(problem: ConvProblem) -> int:
    """Elements in 16 bytes."""
    return CHUNK_BYTES // problem.itemsize


@lru_cache(maxsize=4096)
def inner_axis(problem: ConvProblem, device: CudaDevice) -> InnerAxis:
    """Lay out the sums of one sample and split them so that small images fill the device."""
    chunk, row = chunk_elements(problem), ROW_BYTES // problem.itemsize
    channels = problem.group_in_channels
    pitch = channels if channels < chunk else -(-channels // chunk) * chunk
    blocks = -(-problem.taps * pitch // row)
    tiles = -(-problem.sample_pixels // _PER_SAMPLE_TILE) * -(-problem.group_out_channels // _PER_SAMPLE_TILE)
    # Splits are for images too small to fill the device; where a batch fills it anyway, their sums must not cost more
    # than the products, so that a quarter of the device is reason enough to stop.
    wanted = device.multiprocessors // (4 * tiles * problem.groups)
    splits = max(1, min(MOST_SPLITS, wanted, blocks // _FEWEST_BLOCKS_OF_SPLIT))
    per_split = -(-blocks // splits)
    return InnerAxis(pitch, blocks * row, -(-blocks // per_split), per_split)


@lru_cache(maxsize=4096)
def choose_tile(
    problem: ConvProblem, device: CudaDevice, tiles: tuple[Tile, ...], multiply_adds_per_s: float
) -> tuple[Tile | None, float, tuple[str, ...]]:
    """Take the tile with the least modelled time.

    Returns
    -------
    (Tile or None, float, tuple of str)
        The tile, its time in seconds, and why others were excluded.
    """
    accumulator = DTYPES[problem.dtype].accumulator.nbytes
    excluded, timed = [], []
    for tile in tiles:
        shared = tile.shared_bytes(accumulator)
        if shared > device.shared_bytes_of_block:
            excluded.append(f"{tile.name}: {shared} bytes of shared memory of {device.shared_bytes_of_block}")
            continue
        timed.append((_seconds(problem, device, tile, shared, multiply_adds_per_s), tile))
    if not timed:
        return None, float("inf"), tuple(excluded)
    seconds, best = min(timed, key=lambda each: each[0])
    return best, seconds, tuple(excluded)


def _seconds(problem: ConvProblem, device: CudaDevice, tile: Tile, shared: int, multiply_adds_per_s: float) -> float:
    """Model: waves of blocks, each as long as its multiply-adds take where `resident` blocks share a multiprocessor."""
    inner = inner_axis(problem, device)
    pixels = max(1, problem.batch) * problem.output_pixels
    blocks = -(-pixels // tile.m) * -(-problem.group_out_channels // tile.n) * problem.groups * inner.splits
    resident = max(1, min(tile.resident, device.shared_bytes_of_multiprocessor // (shared + 1024)))
    waves = -(-blocks // (resident * device.multiprocessors))
    of_block = tile.m * tile.n * inner.blocks_per_split * (ROW_BYTES // problem.itemsize)
    # In the last, partial wave a multiprocessor shares its rate among fewer blocks.
    left = blocks - (waves - 1) * resident * device.multiprocessors
    crowd = (waves - 1) * resident + -(-left // device.multiprocessors)
    return crowd * of_block * device.multiprocessors / (multiply_adds_per_s * tile.efficiency)
