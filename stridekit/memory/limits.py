"""What is refused before it is built: how large files and networks may be, and how much memory there is.

A number that a caller or a file gives may be far larger than what it is written in. Counts have limits here, by name;
what takes memory is compared with what the machine has left. Arithmetic on sizes has no limit: it costs the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from stridekit.errors import VramBudgetError

MOST_LAYERS = 10_000
"""Layers of a network, with the blocks of its file, or the functions of its model, written out."""
DEEPEST_BLOCKS = 16
"""Blocks of a network file, or functions of a model, that use each other."""
LONGEST_NAME = 1000
"""Characters of a layer's name, with those of the blocks around it."""
MOST_VALUES = 64
"""Numbers and names in one value of a layer: there are few axes."""
LARGEST_FEATURE = 2**62
"""Numbers that one sample of a layer may have: their bytes still fit an address."""
LARGEST_FIELD_BITS = 512
"""Bits of a number that says what a pixel depends on; a stride of 2**40 a layer would make it longer and longer."""

MOST_TOML_BYTES = 4 * 2**20
"""Of a network file."""
DEEPEST_TOML = 16
"""Brackets within brackets, and parts of a dotted key."""
LONGEST_NUMBER = 40
"""Characters of a number in a network file."""

MOST_MODEL_BYTES = 2**31
"""Of an ONNX file without external data: what the format's reader takes."""
MADE_BYTES = 2**26
"""Bytes that a model may make of constants by computing with them, beside `MADE_SHARE` times those that it brings."""
MADE_SHARE = 8

MOST_STRIDES = 100
"""Of one comparison."""
MOST_REPEATS = 100_000
"""Timed runs of each."""

_SMALL = 2**26
"""Bytes that are asked for without a look at what there is."""


def check_memory(what: str, nbytes: int) -> None:
    """Refuse what main memory has no room for, before it is built.

    Raises
    ------
    VramBudgetError
        Naming `what`, and the bytes that are needed and left.
    """
    if nbytes <= _SMALL:
        return
    left = available_bytes()
    if left is not None and nbytes > left:
        raise VramBudgetError(f"{what} would take {nbytes} bytes, and this machine has {left} left; nothing was built")


def available_bytes() -> int | None:
    """Return how many bytes of main memory a process can still get, or None where nobody says.

    What the system has available, or less where a control group, such as a container's, has less.
    """
    found = [each for each in (_of_system(), *map(_of_group, _groups())) if each is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    available = _fields(Path("/proc/meminfo")).get("MemAvailable:")
    if available is not None:
        return available * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _groups() -> list[Path]:
    """Return the folders in which a control group's memory is written, whichever version there is."""
    root, found = Path("/sys/fs/cgroup"), []
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        base = root if not controllers else root / "memory" if controllers == "memory" else None
        if base is not None:
            found += [base, base / path.lstrip("/")]
    return found


def _of_group(folder: Path) -> int | None:
    stat = _fields(folder / "memory.stat")
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        numbers = [line for name in (limit, used) for line in _lines(folder / name)[:1]]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            # Pages of files that nobody has read for a while are given back first.
            return max(0, int(numbers[0]) - int(numbers[1]) + stat.get(cached, 0))
    return None


def _fields(path: Path) -> dict[str, int]:
    """Return a file's lines of a word and a number."""
    words = (line.split() for line in _lines(path))
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
