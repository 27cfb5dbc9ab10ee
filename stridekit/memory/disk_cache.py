"""Files that stridekit keeps on disk to be faster next time: where they lie, and which of them are believed.

They hold machine code, and who can write to one decides what runs. So the folder and each file must be the user's own
and writable by nobody else; else they are not used, and a warning says so. A hash tells damage apart: a file is
written aside and renamed into place, and carries the hash of its contents. A cache that cannot be used costs time,
never an error.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

DIGEST_BYTES = hashlib.sha256().digest_size
_MOST_LINKS = 40
"""Symbolic links followed in one path, as many as Linux follows."""
_OWNERS = hasattr(os, "geteuid")
"""Whether files have owners and modes; where not, as on Windows, a user's folders are the system's to protect."""
_ROOT = 0
_CURE = "remove it, or set STRIDEKIT_CACHE_DIR to a folder of your own"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Nothing that is opened may be a link, make the reader wait, or be passed on to a program that is started meanwhile.
_SAFELY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_told: set[Path] = set()


class NotOwnError(PermissionError):
    """What others can write to must not be run."""


def cache_dir() -> Path:
    """Return the folder of compiled code: STRIDEKIT_CACHE_DIR, or ``stridekit`` in the user's cache folder."""
    own = os.environ.get("STRIDEKIT_CACHE_DIR")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "stridekit"
    except RuntimeError:
        return private_folder()


def cache_fault() -> str:
    """Return why the folder of compiled code, or a file in it, is not used: ``""`` if nothing is wrong."""
    place = cache_dir()
    try:
        with _opened(place) as folder:
            for name in sorted(os.listdir(place if folder is None else folder)):
                state = os.stat(_named(place / name, folder), dir_fd=folder, follow_symlinks=False)
                _require_own(state, place / name)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    return ""


@cache
def private_folder() -> Path:
    """Make a folder for this process alone: for a user without a home, and for what only others' folders could hold."""
    folder = Path(tempfile.mkdtemp(prefix="stridekit-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, unless this is a forked child of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def sealed(content: bytes) -> bytes:
    """Put the hash of `content` before it."""
    return hashlib.sha256(content).digest() + content


def unsealed(stored: bytes) -> bytes | None:
    """Return what `sealed` was given, or None if a bit has changed."""
    content = stored[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == stored[:DIGEST_BYTES] else None


def read_own(path: Path) -> bytes | None:
    """Read a file of the user's own that nobody else can write to; None if there is no such file."""
    try:
        with _opened(path.parent) as folder:
            descriptor = os.open(_named(path, folder), os.O_RDONLY | _SAFELY, dir_fd=folder)
            try:
                _require_own(os.fstat(descriptor), path)
                with open(descriptor, "rb", closefd=False) as file:
                    return file.read()
            finally:
                os.close(descriptor)
    except NotOwnError as error:
        _tell(path.parent, error)
    except OSError:
        pass
    return None


def write_renamed(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees half of it, in a folder of the user's own.

    Raises
    ------
    OSError
        If it cannot be written; `NotOwnError` if others can write to the folder.
    """
    _make(path.parent)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _opened(path.parent) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
            descriptor = os.open(_named(aside, folder), flags, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                os.replace(_named(aside, folder), _named(path, folder), src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(_named(aside, folder), dir_fd=folder)
                raise
    except NotOwnError as error:
        _tell(path.parent, error)
        raise


def _tell(folder: Path, error: NotOwnError) -> None:
    # Marked first: where warnings are errors, the next call must get by without.
    if folder not in _told:
        _told.add(folder)
        warnings.warn(f"stridekit runs no compiled code that others could have put there: {error}", RuntimeWarning, 3)


def _named(path: Path, folder: int | None) -> str:
    """Return how a file is named beside the descriptor of its folder."""
    return str(path) if folder is None else path.name


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """Open a folder of the user's own, so that what is opened in it lies there; None on systems without owners."""
    if not _OWNERS:
        yield None
        return
    descriptor = os.open(_followed(folder), os.O_RDONLY | os.O_DIRECTORY | _SAFELY)
    try:
        _require_own(os.fstat(descriptor), folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _require_own(state: os.stat_result, path: Path) -> None:
    """Demand a file or folder of the user's own that nobody else can write to."""
    if not _OWNERS:
        return
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
        raise NotOwnError(f"{path} is neither a file nor a folder; {_CURE}")
    if state.st_uid != os.geteuid():
        raise NotOwnError(f"{path} is user {state.st_uid}'s, and this process is user {os.geteuid()}'s; {_CURE}")
    if state.st_mode & _OTHERS_WRITE:
        raise NotOwnError(f"others can write to {path} (mode {stat.S_IMODE(state.st_mode):04o}); {_CURE}")


def _followed(folder: Path) -> Path:
    """Follow a path link by link, and demand that nobody else can lead it elsewhere."""
    todo = list(reversed(folder.absolute().parts))
    at, links = Path(todo.pop()), 0
    _require_fixed(at)
    while todo:
        step = at / todo.pop()
        state = step.lstat()
        if step.name == os.pardir:
            at = at.parent
        elif stat.S_ISLNK(state.st_mode):
            if state.st_uid not in (os.geteuid(), _ROOT):
                raise NotOwnError(f"{step} is a link of user {state.st_uid}'s; {_CURE}")
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
            # An absolute target begins anew: joined to any folder, it is itself.
            todo += reversed(step.readlink().parts)
        else:
            at = step
            if todo:
                _require_fixed(at)
    return at


def _require_fixed(parent: Path) -> None:
    """Demand that what lies in a folder is put there, or taken from there, by its owner, the user or root alone."""
    state = parent.lstat()
    open_to_others = state.st_mode & _OTHERS_WRITE and not state.st_mode & stat.S_ISVTX
    if state.st_uid != os.geteuid() and (open_to_others or state.st_uid != _ROOT):
        mode = stat.S_IMODE(state.st_mode)
        raise NotOwnError(f"others can replace what lies in {parent} (user {state.st_uid}, mode {mode:04o}); {_CURE}")


def _make(folder: Path) -> None:
    """Make a folder and those that it lies in, each for the user alone."""
    if not folder.is_dir():
        _make(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(0o700)
