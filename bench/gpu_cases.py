"""One small problem for each family of kernels, forced and compared bit for bit: ``python -m bench.gpu_cases``.

Small integers leave nothing to round, so that every kernel must give the reference's own bits. Short enough to run
under compute-sanitizer, for which CuPy's pool is left out: an allocation has borders that can be watched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

import stridekit as sk
from bench.beside_forward import Several, beside_forward
from bench.comparing import assert_same_numbers
from stridekit.backends import memory_of, unavailable
from stridekit.backends.cuda import implicit_gemm
from stridekit.backends.cuda.catalog import TILES
from stridekit.backends.cuda.gemm_kernels import LOADERS
from stridekit.backends.cuda.tiles import Tile
from stridekit.memory.arrays import Array, layout_view, numpy_dtype
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.spaces import uploaded
from stridekit.planning.plan import Plan


@dataclass(frozen=True)
class SmallCase:
    """One convolution, and what is forced on it.

    Attributes
    ----------
    tile : Tile or None
        The only one to choose from; None leaves all.
    in_place : bool
        Whether the input is read where it lies, without a copy in channels-last order.
    """

    name: str
    dtype: str
    algorithm: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: Any = 0
    dilation: tuple[int, int] = (1, 1)
    channels_last: bool = False
    precision: str = "ieee"
    tile: Tile | None = None
    in_place: bool = False

    def plan(self, backend: str = "cuda") -> Plan:
        """Plan for a backend; on cuda for the algorithm that is forced."""
        plan = sk.plan_conv(
            self.input_shape, self.weight_shape, dtype=self.dtype, stride=self.stride, padding=self.padding,
            dilation=self.dilation, memory_order="channels_last" if self.channels_last else "channels_first",
            bias=True, activation="relu", precision=self.precision, backend=backend,
        )  # fmt: skip
        if backend != "cuda":
            return plan
        device = plan.device.frugal() if self.in_place else plan.device
        return replace(plan, algorithm=self.algorithm, device=device)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw small integers."""
        rng = np.random.default_rng(7)
        shapes = (self.input_shape, self.weight_shape, self.weight_shape[:1])
        x, weight, bias = (rng.integers(-2, 3, shape).astype(numpy_dtype(self.dtype)) for shape in shapes)
        return (in_channels_last(x) if self.channels_last else x), weight, bias


AnyCase = SmallCase | Several


def small_cases(*, every_tile: bool = False) -> Iterator[AnyCase]:
    """Yield a case or more for each of `catalog.families`, with one tile of each family or all of them."""
    for dtype in DTYPES:
        for filters, last in ((7, False), (3, True)):
            yield SmallCase(f"direct, {filters} filters", dtype, "direct", (2, 5, 9, 8), (filters, 5, 3, 3), (2, 1), 1,
                            channels_last=last)  # fmt: skip
    for number, ((dtype, product), tiles) in enumerate(TILES.items()):
        forced: dict[str, Any] = {
            "dtype": dtype,
            "algorithm": "implicit_gemm" if product else "implicit_gemm_fma",
            "precision": "tf32" if product == "Tf32Product" else "ieee",
        }
        for turn, loader in enumerate(LOADERS):
            for tile in tiles if every_tile else [tiles[(number + turn) % len(tiles)]]:
                yield _case_for(loader, tile, forced)
        # Deep and narrow: its reduction is split and added up; its input is copied and its weights are packed.
        yield SmallCase("split", input_shape=(2, 160, 5, 5), weight_shape=(66, 160, 3, 3), **forced)
    yield from beside_forward()


def _case_for(loader: str, tile: Tile, forced: dict[str, Any]) -> SmallCase:
    """Return a case that fills a tile and a bit of the next, read by `loader`."""
    filters, name = tile.n + 5, f"{loader}, {tile.name}"
    if loader == LOADERS[2]:
        return SmallCase(name, input_shape=(2, 1, 31, 19), weight_shape=(filters, 1, 5, 3), stride=(3, 1), padding=2,
                         dilation=(1, 2), tile=tile, **forced)  # fmt: skip
    channels = 40 if loader == LOADERS[0] else 37
    return SmallCase(name, input_shape=(2, channels, 19, 15), weight_shape=(filters, channels, 3, 3), stride=(2, 1),
                     padding=((1, 2), (0, 1)), channels_last=loader == LOADERS[0], tile=tile, in_place=True,
                     **forced)  # fmt: skip


def run(case: SmallCase) -> np.ndarray:
    """Run a case on the cuda backend's device and bring the result back."""
    with only(case.tile):
        plan = case.plan()
        memory = memory_of("cuda", plan.device)
        x, weight, bias = case.arrays()
        stored = uploaded(layout_view(x, case.channels_last), memory)
        y = plan.execute(
            first_view(stored) if case.channels_last else stored, uploaded(weight, memory), uploaded(bias, memory)
        )
        return to_host(y, memory, case.channels_last)


def check(case: AnyCase) -> None:
    """Raise unless the result is the reference's, bit for bit."""
    if isinstance(case, SmallCase):
        assert_same_numbers(run(case), case.plan("reference").execute(*case.arrays()))
    else:
        case.check()


@contextmanager
def only(tile: Tile | None) -> Iterator[None]:
    """Leave no other tile to choose from."""
    if tile is None:
        yield
        return
    names = ("TENSOR_TILES", "FLOAT32_TILES", "FLOAT64_TILES")
    with mock.patch.multiple(implicit_gemm, **dict.fromkeys(names, (tile,))):
        yield


def in_channels_last(x: np.ndarray) -> np.ndarray:
    """Copy an ``(N, C, *spatial)`` array so that its channels lie innermost."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def first_view(stored: Array) -> Array:
    """View ``(N, *spatial, C)`` as ``(N, C, *spatial)``."""
    return stored.transpose(0, stored.ndim - 1, *range(1, stored.ndim - 1))


def to_host(y: Array, memory: Any, channels_last: bool) -> np.ndarray:
    """Bring an ``(N, K, *spatial)`` result back, by a plain copy of what lies there."""
    if isinstance(y, np.ndarray):
        return y
    stored = memory.download(layout_view(y, channels_last))
    return first_view(stored) if channels_last else stored


def main(arguments: list[str] | None = None) -> int:
    """Check all of them; return 1 if one is wrong, 2 where there is no CUDA."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_cases", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every tile, not one of each family")
    options = parser.parse_args(arguments)
    reason = unavailable("cuda")
    if reason:
        print(f"no CUDA: {reason}", file=sys.stderr)
        return 2
    import cupy

    cupy.cuda.set_allocator(None)
    wrong = 0
    for case in small_cases(every_tile=options.all):
        try:
            check(case)
        except Exception as error:
            wrong += 1
            print(f"{case.dtype}, {case.algorithm}, {case.name}: {type(error).__name__}: {error}", flush=True)
    print("all cases are right" if not wrong else f"{wrong} cases are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
