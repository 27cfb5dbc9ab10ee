"""Compiled kernels loaded and launched, under a schedule that a test chooses."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """What a GPU leaves open: whose turn it is, and when an asynchronous copy lands.

    Parameters
    ----------
    order
        Of blocks, and of the threads of a block that can run: "ascending", "descending" or "random".
    copies
        "early", at the instruction; "late", at the wait that needs them; or "random", each at either.
    seed
        Of what is random.
    """

    order: str = "ascending"
    copies: str = "early"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in _ORDERS or self.copies not in _COPIES:
            raise ValueError(f"order is one of {_ORDERS}, copies of {_COPIES}, not {self.order!r}, {self.copies!r}")


_ORDERS = ("ascending", "descending", "random")
_COPIES = ("early", "late", "random")

SCHEDULES = (
    Schedule("ascending", "early"),
    Schedule("ascending", "late"),
    Schedule("descending", "early"),
    Schedule("descending", "late"),
    Schedule("random", "late", seed=9),
    Schedule("random", "random", seed=5),
)
"""Among them every planted bug shows that any schedule can show."""


class EmulatorError(RuntimeError):
    """A launch that CUDA would refuse, or a kernel that did what it must not do."""


class _Launch(ctypes.Structure):
    """Twin of `Request` in machine.h."""

    _statistics = ("blocks", "switches", "async_copies", "matrix_loads", "bank_conflicts", "matrix_products")
    _fields_ = (
        ("entry", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("order", ctypes.c_int),
        ("copies", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("parameters", ctypes.c_void_p),
        ("parameter_bytes", ctypes.c_uint64),
        ("statistics", ctypes.c_uint64 * len(_statistics)),
        ("message", ctypes.c_char * 1024),
    )


class Module:
    """One library from `build`. Any number of threads may launch at the same time.

    Parameters
    ----------
    library
        Its path.
    """

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).emulator_launch
        self._launch.argtypes = (ctypes.POINTER(_Launch),)
        self._lock = threading.Lock()
        self._statistics = dict.fromkeys(_Launch._statistics, 0)

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        parameters: np.ndarray[Any, Any],
        schedule: Schedule = SCHEDULES[0],
    ) -> None:
        """Run a grid to its end.

        Parameters
        ----------
        entry
            The kernel's name.
        grid, block
            Blocks and threads along x, y, z; what is left out is 1.
        shared_bytes
            Dynamic shared memory of a block, in bytes.
        parameters
            The kernel's one argument: an array of one struct.
        schedule
            Whose turn it is.

        Raises
        ------
        EmulatorError
            Where CUDA would refuse the launch, or a check fails; with the block and the thread.
        """
        if parameters.size != 1:
            raise ValueError(f"parameters is one struct, not {parameters.size}")
        argument = parameters.copy()  # aligned for any struct
        launch = _Launch(
            entry=entry.encode(),
            grid=_three("grid", grid),
            block=_three("block", block),
            shared_bytes=_unsigned("shared_bytes", shared_bytes),
            order=_ORDERS.index(schedule.order),
            copies=_COPIES.index(schedule.copies),
            seed=schedule.seed,
            parameters=argument.ctypes.data,
            parameter_bytes=argument.itemsize,
        )
        failed = self._launch(ctypes.byref(launch))
        with self._lock:
            for name, count in zip(self._statistics, launch.statistics, strict=True):
                self._statistics[name] += count
        if failed:
            raise EmulatorError(launch.message.decode(errors="replace"))

    def statistics(self) -> dict[str, int]:
        """Return what was counted since the last call: blocks, switches of threads, copies, bank conflicts, ..."""
        with self._lock:
            counted, self._statistics = self._statistics, dict.fromkeys(self._statistics, 0)
        return counted


def _three(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name} has one to three sizes, not {len(sizes)}")
    return tuple(_unsigned(name, size) for size in (*sizes, 1, 1)[:3])


def _unsigned(name: str, value: int) -> int:
    # ctypes would wrap what does not fit, and launch something else.
    if not 0 <= value < 2**32:
        raise EmulatorError(f"{name}: {value} is out of range")
    return int(value)
