"""The kernels as text: where they lie, what a specialisation is, and its source with all that it includes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stridekit.errors import BackendUnavailableError

_PACKAGE = Path(__file__).parents[2]
_INCLUDE = re.compile(r'#include "([^"]+)"')
EMULATED = "emulated_device.h"
"""What the other half of device.cuh includes; no compiler for a GPU sees it."""


@dataclass(frozen=True)
class Kernel:
    """One specialisation of one kernel: a module with one entry.

    Attributes
    ----------
    file : str
        In `kernels_dir`.
    entry : str
        Its ``extern "C"`` name: operation, algorithm, dtype, tile.
    defines : tuple of (str, str)
        The constants that specialise it, in order.
    threads, shared_bytes : int
        Of a block.
    """

    file: str
    entry: str
    defines: tuple[tuple[str, str], ...]
    threads: int
    shared_bytes: int = 0

    @property
    def all_defines(self) -> dict[str, str]:
        """Every constant that the file names in its header, as the compiler takes them."""
        return {"ENTRY": self.entry, "THREADS": str(self.threads), **dict(self.defines)}


@cache
def kernels_dir() -> Path:
    """Return the folder of the kernels: in the package (an installed wheel), or beside it (a clone)."""
    for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels"):
        if (folder / "device.cuh").is_file():
            return folder
    raise BackendUnavailableError(
        f"the CUDA kernels are neither in {_PACKAGE / 'kernels'} nor in {_PACKAGE.parent / 'kernels'}; "
        f"install stridekit again"
    )


@cache
def source_of(file: str) -> str:
    """Return a kernel's text with every header put in where it is first included: all that its object depends on."""
    return _inlined(file, set())


def _inlined(file: str, seen: set[str]) -> str:
    seen.add(file)
    lines = []
    for number, line in enumerate((kernels_dir() / file).read_text(encoding="utf-8").splitlines(), 1):
        found = _INCLUDE.match(line)
        if line == "#pragma once" or (found and found[1] in seen):
            lines.append("")
        elif found and found[1] != EMULATED:
            lines += [f'#line 1 "{found[1]}"', _inlined(found[1], seen), f'#line {number + 1} "{file}"']
        else:
            lines.append(line)
    return "\n".join(lines)
