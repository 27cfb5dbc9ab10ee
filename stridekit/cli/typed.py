"""What people type, read into what functions take; and what must hold before a command writes anything."""

from __future__ import annotations

import math
import os
import re
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stridekit.arguments import printable, shown
from stridekit.errors import ShapeError, StridekitError
from stridekit.memory.files import open_regular
from stridekit.memory.limits import check_memory
from stridekit.problems.padding import PADDING_NAMES, Padding
from stridekit.vram import parse_bytes

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NPY_MAGIC = b"\x93NUMPY"


class ArgumentError(StridekitError, ValueError):
    """An option or argument that cannot be read."""


def parse_strides(text: str) -> tuple[tuple[int, ...], ...]:
    """Read strides: ``1,2,4``, with ``2x1`` for rows x columns.

    Examples
    --------
    >>> parse_strides("1,2,2x1")
    ((1, 1), (2, 2), (2, 1))
    """
    return tuple(_both(_sizes("--strides", item, "1,2,4 or 1,2x1", least=1)) for item in text.split(","))


def parse_sizes(name: str, text: str) -> tuple[int, ...]:
    """Read one size, or rows x columns, each at least 1.

    Examples
    --------
    >>> parse_sizes("SIZE", "224x320"), parse_sizes("--kernel", "7")
    ((224, 320), (7,))
    """
    return _sizes(name, text, "7 or 7x5", least=1)


def parse_input_size(text: str) -> int | tuple[int, ...]:
    """Read an input size: one number for every spatial axis, the spatial sizes, or channels and those.

    Examples
    --------
    >>> parse_input_size("224"), parse_input_size("800x1333"), parse_input_size("1x161x200")
    (224, (800, 1333), (1, 161, 200))
    """
    numbers = [_integer(part) for part in text.split("x")]
    sizes = tuple(number for number in numbers if number is not None)
    if len(sizes) != len(numbers) or not 1 <= len(sizes) <= 4 or min(sizes) < 1:
        raise ArgumentError(f"--input holds {text!r}; wanted 224, 800x1333 or 3x224x224, every size at least 1")
    return sizes[0] if len(sizes) == 1 else sizes


def parse_padding(text: str) -> Padding:
    """Read a padding: a name, a number, ``3,1`` for rows and columns, or ``3:2,3:2`` with before:after for each.

    Examples
    --------
    >>> parse_padding("same"), parse_padding("3"), parse_padding("3,1"), parse_padding("3:2,3:2")
    ('same', 3, (3, 1), ((3, 2), (3, 2)))
    """
    if text in PADDING_NAMES:
        return text
    items: list[int | tuple[int, int]] = []
    for item in text.split(","):
        before, colon, after = item.partition(":")
        pair = [_integer(part) for part in ((before, after) if colon else (before,))]
        if None in pair:
            names = ", ".join(PADDING_NAMES)
            raise ArgumentError(f"--padding is {text!r}; wanted a number, 3,1 or 3:2,3:2 (before:after), or {names}")
        numbers = [number for number in pair if number is not None]
        if min(numbers) < 0:
            raise ArgumentError(f"--padding is {text!r}; no value may be negative")
        items.append((numbers[0], numbers[1]) if colon else numbers[0])
    return items[0] if len(items) == 1 and isinstance(items[0], int) else tuple(items)


def parse_amount(name: str, text: str) -> int:
    """Read an amount of memory in bytes, written with its unit.

    Examples
    --------
    >>> parse_amount("--fit", "24GiB")
    25769803776
    """
    try:
        # A number alone would be bytes, and is more likely meant in a larger unit.
        return parse_bytes(name, "" if text.strip()[-1:].isdigit() else text)
    except ShapeError:
        raise ArgumentError(
            f"{name} is {shown(text)}; wanted an amount with its unit, such as 24GiB or 500MB"
        ) from None


def load_weights(path: Path) -> np.ndarray:
    """Load weights, shape (K, C, R, S), from a ``.npy`` file; nothing pickled is ever unpacked."""
    try:
        with open_regular(path) as file:
            if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
                raise ArgumentError(f"--weights {printable(str(path))}: not a .npy file; save one with numpy.save")
            file.seek(0)
            _check_npy_size(path, file)
            file.seek(0)
            weight: np.ndarray = np.load(file, allow_pickle=False)
    except StridekitError:
        raise
    except FileNotFoundError:
        raise ArgumentError(f"--weights {printable(str(path))}: no such file") from None
    except OSError as error:
        raise ArgumentError(f"--weights {printable(str(path))}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # A damaged header raises ValueError, SyntaxError, EOFError, UnicodeDecodeError ...
        if "pickle" in str(error):
            raise ArgumentError(
                f"--weights {printable(str(path))}: holds pickled objects, which are never loaded"
            ) from None
        raise ArgumentError(f"--weights {printable(str(path))}: damaged .npy file ({error})") from None
    return weight


def _check_npy_size(path: Path, file: BinaryIO) -> None:
    """Refuse a file whose header promises more than it holds, or more than memory does."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    promised, held = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
    if promised > held and not dtype.hasobject:
        raise ArgumentError(
            f"--weights {path}: damaged .npy file (its header says {shape} of {dtype}, {promised} bytes; {held} follow)"
        )
    check_memory(f"--weights {path}", promised)


def check_writable_folder(name: str, path: Path) -> None:
    """Refuse a folder that could not be made or written, by trying beside it and leaving nothing."""
    place = path
    while not place.exists() and not place.is_symlink() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ArgumentError(f"{name} {printable(str(path))}: {printable(str(place))} is not a folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".stridekit-", dir=place):
            pass
    except OSError as error:
        raise ArgumentError(f"{name} {printable(str(path))}: cannot write there ({error.strerror or error})") from None


def check_writable_file(name: str, path: Path) -> None:
    """Refuse a file that could not be written."""
    if path.is_dir():
        raise ArgumentError(f"{name} {printable(str(path))}: is a folder; wanted a file")
    if not path.parent.is_dir():
        raise ArgumentError(f"{name} {printable(str(path))}: there is no folder {printable(str(path.parent))}")
    check_writable_folder(name, path.parent)


def _sizes(name: str, text: str, example: str, *, least: int) -> tuple[int, ...]:
    numbers = [_integer(part) for part in text.split("x")]
    values = tuple(number for number in numbers if number is not None)
    if len(values) != len(numbers) or len(values) > 2:
        raise ArgumentError(f"{name} holds {text.strip()!r}; wanted numbers such as {example} (rows x columns)")
    if min(values) < least:
        raise ArgumentError(f"{name} holds {text.strip()!r}; every value must be at least {least}")
    return values


def _both(values: tuple[int, ...]) -> tuple[int, ...]:
    return values if len(values) == 2 else values * 2


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text.strip()) else None
