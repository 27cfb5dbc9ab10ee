"""Python under a sanitizer: the runtime must be there before anything is loaded, so a process of its own is started."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import building

_LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
# Python and NumPy keep what they allocated until the end, which is no leak of a kernel's.
_OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "report_signal_unsafe=0:exitcode=66"},
}


def why_not(flavour: str) -> str:
    """Say why a flavour of `building.FLAVOURS` cannot run here; empty where it can."""
    if reason := building.why_not():
        return reason
    if flavour == "fast":
        return ""
    missing = [name for name in _LIBRARIES[flavour] if not _library(name).is_file()]
    if missing:
        return f"{flavour} needs {', '.join(missing)}, part of GCC: apt-get install libgcc-12-dev, or the like"
    if shutil.which("setarch") is None:
        return f"{flavour} needs setarch: apt-get install util-linux"
    # Some containers forbid it.
    if subprocess.run(["setarch", "-R", "true"], capture_output=True, check=False).returncode:
        return f"{flavour} needs `setarch -R`, which is not permitted here"
    return ""


def command(flavour: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run Python under a flavour.

    Parameters
    ----------
    flavour
        A key of `building.FLAVOURS`.
    arguments
        Python's own: ["-m", "tests.emulator.probing", "thread", "hand_on"].

    Returns
    -------
    tuple
        For `subprocess.run(command, env=environment)`. A report of ThreadSanitizer ends the process with status 66.
    """
    environment = dict(os.environ)
    if flavour == "fast":
        return [sys.executable, *arguments], environment
    environment |= _OPTIONS[flavour]
    # BLAS's threads, which neither sanitizer knows, only cost time.
    environment["OPENBLAS_NUM_THREADS"] = "1"
    preload = ":".join(str(_library(name)) for name in _LIBRARIES[flavour])
    # Random addresses may lie where a sanitizer keeps its shadow. `env` comes second, so that setarch runs without.
    return ["setarch", "-R", "env", f"LD_PRELOAD={preload}", sys.executable, *arguments], environment


@functools.cache
def _library(name: str) -> Path:
    asked = ["g++", f"-print-file-name={name}"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()).resolve()
