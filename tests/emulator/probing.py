"""One run of one kernel of `probes.cu`; as a command, for a process of its own under a sanitizer."""

from __future__ import annotations

import argparse
import functools

import numpy as np

from .building import FLAVOURS, HERE, build
from .machine import SCHEDULES, Module, Schedule

KERNELS = HERE.parents[1] / "kernels"
PARAMETERS = np.dtype([("x", "u8"), ("y", "u8"), ("amount", "i8"), ("planted", "i8")])
"""Twin of `ProbeParameters`."""


@functools.cache
def probes(flavour: str) -> Module:
    """Return all probes, compiled."""
    return Module(build(HERE / "probes.cu", [KERNELS], {}, flavour))


def probe(
    entry: str,
    *,
    amount: int = 0,
    planted: int = 0,
    x: np.ndarray | None = None,
    size: int = 128,
    grid: tuple[int, ...] = (1,),
    block: tuple[int, ...] = (128,),
    shared_bytes: int = 0,
    schedule: Schedule = SCHEDULES[0],
    flavour: str = "fast",
) -> np.ndarray:
    """Launch one probe on x, 0, 1, 2, ... where none is given; return its y, NaN where it was not written."""
    if x is None:
        x = np.arange(size, dtype=np.float32)
    y = np.full(size, np.nan, np.float32)
    parameters = np.array([(x.ctypes.data, y.ctypes.data, amount, planted)], PARAMETERS)
    probes(flavour).launch(entry, grid, block, shared_bytes, parameters, schedule)
    return y


def main() -> None:
    """Run the probe that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.emulator.probing", description=__doc__)
    parser.add_argument("flavour", choices=FLAVOURS)
    parser.add_argument("entry")
    for option in ("--amount", "--planted", "--shared-bytes"):
        parser.add_argument(option, type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    chosen = vars(parser.parse_args())
    for schedule in SCHEDULES:
        probe(**chosen, schedule=schedule)
    print("finished")


if __name__ == "__main__":
    main()
