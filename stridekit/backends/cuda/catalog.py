"""Every specialisation that the algorithms can ask for, to be compiled, inspected and tried one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from stridekit.backends.cuda.direct import FILTERS, direct_kernel
from stridekit.backends.cuda.folding import FILL_PARAMETERS, FOLD_PARAMETERS, FOLDED, fill_kernel, fold_kernel
from stridekit.backends.cuda.gemm_kernels import LOADERS, PRODUCTS, gemm_kernel, sum_kernel
from stridekit.backends.cuda.moving import COPY_PARAMETERS, PACK_PARAMETERS, STORAGE, moving_kernel
from stridekit.backends.cuda.parameters import PARAMETERS, WALK
from stridekit.backends.cuda.pool_windows import POOL_PARAMETERS, pool_kernel
from stridekit.backends.cuda.sources import Kernel
from stridekit.backends.cuda.tiles import FLOAT32_TILES, FLOAT64_TILES, TENSOR_TILES, Tile
from stridekit.memory.dtypes import DTYPES

ARCHITECTURES = ("80", "86", "89", "90a", "100", "120")
"""What every kernel must build for: compute capabilities 8.0 to 12.0, 9.0 with the features that only it has."""

TILES: dict[tuple[str, str], tuple[Tile, ...]] = {
    **dict.fromkeys(PRODUCTS.items(), TENSOR_TILES),
    ("float32", ""): FLOAT32_TILES,
    ("float64", ""): FLOAT64_TILES,
}
"""The tiles of each dtype and way to multiply; the empty name is fused multiply-adds."""


STRUCTS = {
    "ConvParameters": ("parameters.cuh", PARAMETERS),
    "Walk": ("walk.cuh", WALK),
    "PoolParameters": ("pooling.cuh", POOL_PARAMETERS),
    "FillParameters": ("fill.cu", FILL_PARAMETERS),
    "FoldParameters": ("fold_padding.cu", FOLD_PARAMETERS),
    "PackParameters": ("pack_weights.cu", PACK_PARAMETERS),
    "CopyParameters": ("to_channels_last.cu", COPY_PARAMETERS),
}
"""Every struct that a kernel is given: the file that defines it, and its twin."""


def families() -> Iterator[tuple[Kernel, ...]]:
    """Yield the kernels in groups that differ only by tile, or by a constant of as little consequence."""
    for dtype in DTYPES:
        flags = itertools.product((max(FILTERS), min(FILTERS)), (False, True), (True, False))
        yield tuple(direct_kernel(dtype, filters, by_filters, narrow) for filters, by_filters, narrow in flags)
        yield (sum_kernel(dtype),)
        yield (fill_kernel(dtype),)
        for operation, direction in itertools.product(("max", "avg"), ("forward", "input_grad")):
            flags_of_pool = itertools.product((True, False), (False, True))
            yield tuple(pool_kernel(operation, direction, dtype, inside, narrow) for inside, narrow in flags_of_pool)
    for (dtype, product), tiles in TILES.items():
        for loader in LOADERS:
            yield tuple(gemm_kernel(dtype, product, tile, loader) for tile in tiles)
    yield tuple(itertools.starmap(fold_kernel, FOLDED))
    for name, itemsize in itertools.product(("pack_weights", "to_channels_last"), STORAGE):
        yield (moving_kernel(name, itemsize),)


def all_kernels() -> list[Kernel]:
    """Return every kernel there is."""
    return [kernel for family in families() for kernel in family]
