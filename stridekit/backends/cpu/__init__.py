"""The cpu backend: NumPy arrays, Numba, one vector tile for which everything else packs."""

from __future__ import annotations

import importlib.metadata
from functools import cache

from stridekit import caching
from stridekit.backends import Algorithm
from stridekit.backends.cpu.algorithms import BroadcastTile, LanewiseTile, PairedTile
from stridekit.backends.cpu.moving import HostMoves
from stridekit.backends.cpu.phasing import JointInputGradient
from stridekit.backends.cpu.processor import CpuDevice as CpuDevice
from stridekit.backends.cpu.processor import device as device
from stridekit.backends.cpu.products import DenseGradient, PlaneProduct, TurnedProduct, WindowProduct
from stridekit.backends.cpu.weight_products import PlaneGradient, WindowGradient
from stridekit.backends.cpu.weights import RunTile
from stridekit.backends.gradients import WeightGradient
from stridekit.backends.patches import PatchGradient
from stridekit.memory import HOST, Memory

_TILES, _MOVES = (LanewiseTile(), PairedTile(), BroadcastTile()), HostMoves()

ALGORITHMS: dict[str, tuple[Algorithm, ...]] = {
    "forward": (*_TILES, WindowProduct(), PlaneProduct()),
    "input_grad": (
        *(JointInputGradient(algorithm, _MOVES) for algorithm in _TILES),
        *(PatchGradient(algorithm, _MOVES) for algorithm in (*_TILES, TurnedProduct())),
        *(DenseGradient(algorithm, _MOVES) for algorithm in (TurnedProduct(), PlaneProduct())),
    ),
    "weight_grad": (WeightGradient(LanewiseTile()), RunTile(), WindowGradient(), PlaneGradient()),
}


@cache
def unavailable() -> str:
    """Return ``""`` if Numba can be imported, else why not and how to get it."""
    try:
        import numba  # noqa: F401
    except Exception as error:
        return f"Numba cannot be imported ({error}); pip install --upgrade numba"
    return ""


def memory(device: CpuDevice) -> Memory:
    """Return main memory."""
    return HOST


def versions() -> dict[str, str]:
    """Return the versions of Numba and llvmlite."""
    return {name: importlib.metadata.version(name) for name in ("numba", "llvmlite")}


def cache_dir() -> str | None:
    """Return the folder of compiled code."""
    return str(caching.cache_dir())
