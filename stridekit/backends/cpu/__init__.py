"""The cpu backend: NumPy arrays, Numba, one vector tile for which everything else packs."""

from __future__ import annotations

import importlib.metadata
import pkgutil
from functools import cache

from stridekit.backends import Algorithm
from stridekit.backends.cpu.columns.algorithm import ColumnsGradient
from stridekit.backends.cpu.forward.algorithm import BroadcastTile, LanewiseTile, PairedTile
from stridekit.backends.cpu.input_gradient.algorithm import JointInputGradient
from stridekit.backends.cpu.input_gradient.moves import HostMoves
from stridekit.backends.cpu.pool.algorithm import pool as windows
from stridekit.backends.cpu.products.algorithm import DenseGradient, PlaneProduct, TurnedProduct, WindowProduct
from stridekit.backends.cpu.products.weight_products import PlaneGradient, WindowGradient
from stridekit.backends.cpu.runtime.processor import CpuDevice as CpuDevice
from stridekit.backends.cpu.runtime.processor import device as device
from stridekit.backends.cpu.weight_gradient.algorithm import RunTile
from stridekit.backends.gradients.weight_gradient import WeightGradient
from stridekit.backends.pool_algorithm import Pooling
from stridekit.concurrency import loaded, undisturbed
from stridekit.memory import disk_cache
from stridekit.memory.spaces import HOST, Memory

_TILES, _MOVES = (LanewiseTile(), PairedTile(), BroadcastTile()), HostMoves()

ALGORITHMS: dict[str, tuple[Algorithm, ...]] = {
    "forward": (*_TILES, WindowProduct(), PlaneProduct()),
    "input_grad": (
        *(JointInputGradient(algorithm, _MOVES) for algorithm in _TILES),
        ColumnsGradient(_MOVES),
        *(DenseGradient(algorithm, _MOVES) for algorithm in (TurnedProduct(), PlaneProduct())),
    ),
    "weight_grad": (WeightGradient(LanewiseTile()), RunTile(), WindowGradient(), PlaneGradient()),
    "pool": (Pooling(windows),),
}


@cache
def unavailable() -> str:
    """Return ``""`` if Numba can be imported, else why not and how to get it."""
    try:
        loaded("numba")
    except Exception as error:
        return f"Numba cannot be imported ({error}); pip install --upgrade numba"
    undisturbed(_load_kernels)
    return ""


def _load_kernels() -> None:
    """Import what needs Numba: what runs imports it later, where an interrupt or a fork could come in between."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)


def memory(device: CpuDevice) -> Memory:
    """Return main memory."""
    return HOST


def versions() -> dict[str, str]:
    """Return the versions of Numba and llvmlite."""
    return {name: importlib.metadata.version(name) for name in ("numba", "llvmlite")}


def cache_dir() -> str | None:
    """Return the folder of compiled code."""
    return str(disk_cache.cache_dir())
