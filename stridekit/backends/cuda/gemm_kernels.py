"""The specialisations of the implicit GEMM: a tile, a way to read, a way to multiply."""

from __future__ import annotations

from functools import lru_cache

from stridekit.backends.cuda.sources import Kernel
from stridekit.backends.cuda.tiles import Tile
from stridekit.memory.dtypes import DTYPES

THREADS = 256
"""Of a block of sum_partials.cu."""
LOADERS = ("ChunkLoader", "ElementLoader<false>", "ElementLoader<true>")
"""The classes of kernels/loading.cuh: chunks of 16 bytes; elements; elements of taps that share a chunk."""
PRODUCTS = {dtype.name: dtype.cuda_product for dtype in DTYPES.values() if dtype.cuda_product}
"""The classes of kernels/multiplying.cuh, by the dtypes that tensor cores multiply."""


@lru_cache(maxsize=1024)
def gemm_kernel(dtype: str, product: str, tile: Tile, loader: str) -> Kernel:
    """Return a specialisation of implicit_gemm.cu; without a product it multiplies by fused multiply-adds."""
    part = f"{tile.part_m},{tile.part_n}"
    multiplier = f"TensorMultiplier<multiplying::{product},{part}>" if product else f"FmaMultiplier<{part}>"
    kind = f"{dtype}_fma" if not product else "tf32" if DTYPES[dtype].sums_itself else dtype
    how = {LOADERS[0]: "chunks", LOADERS[1]: "elements", LOADERS[2]: "stem"}[loader]
    shared = tile.shared_bytes(DTYPES[dtype].accumulator.nbytes)
    defines = (
        ("ELEMENT", DTYPES[dtype].cuda_element),
        ("LOADER", loader),
        ("MULTIPLIER", multiplier),
        ("TILE_M", str(tile.m)),
        ("TILE_N", str(tile.n)),
        ("STAGES", str(tile.stages)),
        ("MIN_BLOCKS", str(tile.resident)),
        ("EXPECTED_SHARED_BYTES", str(shared)),
    )
    entry = f"conv_forward_implicit_gemm_{kind}_{tile.name}_{how}"
    return Kernel("implicit_gemm.cu", entry, defines, tile.threads, shared)


@lru_cache(maxsize=64)
def sum_kernel(dtype: str) -> Kernel:
    """Return the kernel that adds up splits."""
    return Kernel(
        "sum_partials.cu", f"conv_forward_sum_partials_{dtype}", (("ELEMENT", DTYPES[dtype].cuda_element),), THREADS
    )
