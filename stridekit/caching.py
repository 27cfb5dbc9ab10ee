"""Files that stridekit keeps on disk to be faster next time: where they lie, and how a damaged one is told apart.

A file is written aside and renamed into place, and believed only if it carries the hash of its contents. A cache that
cannot be read or written costs time, never an error.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

DIGEST_BYTES = hashlib.sha256().digest_size


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


@cache
def private_folder() -> Path:
    """Make a folder for this process alone: a user without a home; what others can write must not be loaded."""
    folder = Path(tempfile.mkdtemp(prefix="stridekit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sealed(content: bytes) -> bytes:
    """Put the hash of `content` before it."""
    return hashlib.sha256(content).digest() + content


def unsealed(stored: bytes) -> bytes | None:
    """Return what `sealed` was given, or None if a bit has changed."""
    content = stored[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == stored[:DIGEST_BYTES] else None


def write_renamed(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
