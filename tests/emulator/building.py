"""From a kernel's source to a shared library for the CPU, in one of three flavours, kept in a cache folder."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent

# -O1 compiles a kernel in half the time of -O3, half a second, and runs it at two thirds of the speed: on the small
# problems of tests that is less in all. No contraction: a kernel says fmaf where it means it. Hidden names and no
# unique ones: each library has an emulator of its own, whatever else is loaded.
_COMMON = (
    *("-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique", "-march=x86-64-v3"),
    *("-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-Wno-unknown-pragmas"),
)
FLAVOURS: dict[str, tuple[str, ...]] = {
    "fast": ("-O1",),
    "address": ("-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    # Without that last option GCC turns the emulator's own loops into calls that ThreadSanitizer watches.
    "thread": ("-O1", "-g1", "-fsanitize=thread", "-fno-tree-loop-distribute-patterns"),
}


def why_not() -> str:
    """Say why kernels cannot be compiled here; empty where they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"the emulator runs on x86-64 Linux, not on {platform.machine()} {platform.system()}"
    if shutil.which("g++") is None:
        return "the emulator needs g++: apt-get install g++"
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        return "the emulator's code is for processors with AVX2"
    return ""


def build(
    source: Path, includes: Sequence[Path], defines: Mapping[str, object], flavour: str, *, options: Sequence[str] = ()
) -> Path:
    """Compile a kernel, or find it compiled.

    Parameters
    ----------
    source
        A `.cu` file.
    includes
        Folders searched for what it includes; `kernels/` for `device.cuh`.
    defines
        Macros and their values.
    flavour
        A key of `FLAVOURS`.
    options
        More options for g++, the last of the command.

    Returns
    -------
    Path
        The shared library, for `Module`.

    Raises
    ------
    RuntimeError
        With the compiler's messages, where it fails.
    """
    folders = [*includes, HERE]
    command = [
        *("g++", *_COMMON, *FLAVOURS[flavour]),
        *(f"-I{folder}" for folder in folders),
        *(f"-D{name}={value}" for name, value in defines.items()),
        *options,
        *("-x", "c++", str(source)),
    ]
    library = _cache() / f"{source.stem}-{flavour}-{_key(command, source, folders)}.so"
    if _own(library, stat.S_ISREG):
        return library
    # Two builders of one library each write a file of their own; the last rename wins, and both files are the same.
    descriptor, aside = tempfile.mkstemp(suffix=".so", prefix="building-", dir=library.parent)
    os.close(descriptor)
    try:
        done = subprocess.run([*command, "-o", aside], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        # The linker makes it anew, with the rights that the umask leaves.
        os.chmod(aside, 0o700)
        os.replace(aside, library)
    finally:
        Path(aside).unlink(missing_ok=True)
    return library


def _cache() -> Path:
    chosen = os.environ.get("STRIDEKIT_EMULATOR_CACHE")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"stridekit-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # What lies there is loaded into the process: whoever else can write to it could run what they like.
    if not _own(folder, stat.S_ISDIR):
        raise RuntimeError(
            f"{folder} is not a folder that this user alone can write to; remove it or set STRIDEKIT_EMULATOR_CACHE"
        )
    return folder


def _own(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Say whether a file or folder is there, is the user's own, and nobody else can write to it."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return False
    return is_kind(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022


def _key(command: Sequence[str], source: Path, folders: Sequence[Path]) -> str:
    """Hash all that the library depends on: any change of any header there counts, included or not."""
    key = hashlib.sha256(repr((command, _compiler())).encode())
    files = {path for folder in folders for pattern in ("*.cu", "*.cuh", "*.h") for path in folder.glob(pattern)}
    for path in [source, *sorted(files)]:
        content = path.read_bytes()
        key.update(f"{path.name} {len(content)} ".encode() + content)
    return key.hexdigest()[:32]


@functools.cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout
