"""Opening files that a caller names: regular ones alone, since a pipe or a device may have no end, or wait for ever."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str], *, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading bytes.

    Parameters
    ----------
    most : int, optional
        Bytes that it may have.

    Raises
    ------
    OSError
        As `open` does; for what is no regular file, and for a larger one.
    """
    # Opened first and looked at then, so that what was looked at is what is read. Without waiting: a pipe that nobody
    # writes to would else never open.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    found = os.fstat(file.fileno())
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None and (most is None or found.st_size <= most):
        return file
    file.close()
    if kind is not None:
        raise OSError(errno.EINVAL, f"is {kind}, not a file", os.fspath(path))
    raise OSError(errno.EFBIG, f"has {found.st_size} bytes; at most {most} are read", os.fspath(path))
