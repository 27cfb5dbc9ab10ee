"""The table of backends: what there is, whether it can run here, and what a backend must offer.

A backend is a short list of algorithms and a device. Each is imported when it is first asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from stridekit.arguments import shown
from stridekit.concurrency import loaded
from stridekit.errors import BackendUnavailableError
from stridekit.memory.arrays import Array
from stridekit.memory.spaces import Memory
from stridekit.problems.geometry import ConvGeometry
from stridekit.problems.operands import Operand

BACKEND_NAMES = ("cuda", "cpu", "reference")
LIBRARIES = {"cuda": "cupy", "cpu": "numpy", "reference": "numpy"}
"""Whose arrays live where a backend runs."""
_MODULES = {name: f"stridekit.backends.{name}" for name in BACKEND_NAMES}


class Device(Protocol):
    """Where a plan runs. Frozen and hashable, so that choosing is a pure function of it."""

    @property
    def name(self) -> str:
        """Short name, such as ``"cpu"``."""

    @property
    def description(self) -> str:
        """The device in words: model, threads, vector width."""

    @property
    def granularity(self) -> int:
        """Bytes: every allocation in its memory takes a whole multiple."""

    def rounded(self, nbytes: int) -> int:
        """Return the bytes that an allocation of so many takes in its memory."""

    def frugal(self) -> Device:
        """Return the same device with as little workspace as gives the same bits."""

    def __hash__(self) -> int:
        """Equal devices give equal plans."""


@dataclass(frozen=True)
class Operands:
    """What an algorithm reads: views with channels first, in any memory order; None for what the problem has not.

    Attributes
    ----------
    x : array, shape (N, C, \\*spatial)
    weight : array, shape (K, C / groups, \\*kernel), or None if `packed_weight` is given
    packed_weight : uint8 array that the algorithm's own `pack` wrote
    bias : array, shape (K,), or (C,) for the input's gradient
    grad_output, residual : array, shape (N, K, \\*spatial)
    indices : int64 array of a pooling's output shape, which is written
    """

    x: Array = None
    weight: Array = None
    packed_weight: Array = None
    bias: Array = None
    grad_output: Array = None
    residual: Array = None
    indices: Array = None


class Problem(Protocol):
    """What is computed, in integers: a convolution, a pooling, or a gradient of one. Frozen and hashable."""

    @property
    def direction(self) -> str:
        """``"forward"``, ``"input_grad"`` or ``"weight_grad"``."""

    @property
    def table(self) -> str:
        """Which of a backend's algorithms compute it."""

    @property
    def batch(self) -> int:
        """Samples."""

    @property
    def rank(self) -> int:
        """Number of spatial axes."""

    @property
    def geometry(self) -> ConvGeometry:
        """Sizes, padding, dropped pixels."""

    @property
    def dtype(self) -> str:
        """Of what is read and computed."""

    @property
    def memory_order(self) -> str:
        """In which order arrays over pixels lie."""

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What is read, in order."""

    @property
    def results(self) -> tuple[Operand, ...]:
        """What is computed."""

    @property
    def cuts_samples(self) -> bool:
        """Whether samples may be computed one after the other, with the same bits."""

    @property
    def cuts_rows(self) -> bool:
        """Whether rows of the output may be."""

    @property
    def flops(self) -> int:
        """Floating-point operations."""

    @property
    def moved_bytes(self) -> int:
        """Bytes that any algorithm must move."""

    def __hash__(self) -> int:
        """Equal problems have equal plans."""


class Algorithm(Protocol):
    """One way to compute a problem. It allocates nothing: it receives its workspace and its output."""

    @property
    def name(self) -> str:
        """The name that a plan shows."""

    def supports(self, problem: Any, device: Any) -> str:
        """Return ``""`` if it can compute `problem`, else the reason why not."""

    def cost(self, problem: Any, device: Any) -> float:
        """Return the modelled time in seconds; only the order among algorithms matters."""

    def detail(self, problem: Any, device: Any) -> str:
        """Return what else was decided, in words: tile, splits; or ``""``."""

    def packing(self, problem: Any, device: Any) -> tuple[object, ...]:
        """Return what the order of packed weights depends on; equal packings are interchangeable."""

    def packed_bytes(self, problem: Any, device: Any) -> int:
        """Return the bytes of the weights in the algorithm's own order."""

    def pack(self, problem: Any, device: Any, weight: Array, packed: Array) -> None:
        """Write `weight` into `packed` (uint8, `packed_bytes` long) in the algorithm's own order."""

    def workspace(self, problem: Any, device: Any, *, packed: bool) -> int:
        """Return the bytes of workspace, less if the weights come packed."""

    def __hash__(self) -> int:
        """What it decides is remembered by it."""

    def run(self, problem: Any, device: Any, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`, with channels first, in any memory order."""


class NothingToPack:
    """What an algorithm says of packed weights that reads none."""

    def packing(self, problem: Any, device: Any) -> tuple[object, ...]:
        """Return what no packed weights have."""
        return ("none",)

    def packed_bytes(self, problem: Any, device: Any) -> int:
        """Return 0."""
        return 0

    def pack(self, problem: Any, device: Any, weight: Array, packed: Array) -> None:
        """Do nothing."""


class Backend(Protocol):
    """What a backend's module offers."""

    ALGORITHMS: dict[str, tuple[Algorithm, ...]]
    """By `Problem.table`."""

    def unavailable(self) -> str:
        """Return ``""`` if it can run here, else why not and how to get it."""

    def device(self, array: Array = None) -> Device:
        """Return the device on which `array` lies, or the one at hand."""

    def memory(self, device: Any) -> Memory:
        """Return the memory of a device."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that it runs on."""

    def cache_dir(self) -> str | None:
        """Return the folder of its compiled code, if it has one."""


@dataclass(frozen=True)
class BackendStatus:
    """One backend as it stands on this machine."""

    name: str
    available: bool
    reason: str
    device: str | None
    versions: dict[str, str]
    cache_dir: str | None


def load_backend(name: str) -> Backend:
    """Import the backend called `name`.

    Raises
    ------
    BackendUnavailableError
        If there is none of that name, or it cannot run here.
    """
    if name not in BACKEND_NAMES:
        raise unknown_backend(name)
    reason = unavailable(name)
    if reason:
        raise BackendUnavailableError(f"backend {name!r} cannot run here: {reason}")
    return _import(name)


def unknown_backend(name: object) -> BackendUnavailableError:
    """Return the error for what is no backend's name."""
    return BackendUnavailableError(f"backend is {shown(name)}; wanted one of {', '.join(('auto', *BACKEND_NAMES))}")


@cache
def algorithms_of(name: str, table: str) -> dict[str, Algorithm]:
    """Return the algorithms of the backend called `name` for problems of a table, by their names."""
    # A plan can be made for a card that is not in this machine, so do not check whether the backend can run here.
    return {algorithm.name: algorithm for algorithm in _import(name).ALGORITHMS[table]}


def unavailable(name: str) -> str:
    """Return why the backend called `name` cannot run here and how to get it, or ``""``."""
    return _import(name).unavailable()


def backend_status() -> list[BackendStatus]:
    """Describe every backend: whether it can run here, and if not, why and how to get it."""
    found = []
    for name in BACKEND_NAMES:
        reason = unavailable(name)
        if reason:
            found.append(BackendStatus(name, False, reason, None, {}, None))
        else:
            backend = _import(name)
            found.append(
                BackendStatus(name, True, "", backend.device().description, backend.versions(), backend.cache_dir())
            )
    return found


def preferred_backend() -> tuple[str, str]:
    """Choose for a caller who has no array yet: the first of cuda, cpu, reference that can run, and why."""
    passed: list[str] = []
    for name in BACKEND_NAMES:
        reason = unavailable(name)
        if not reason:
            return name, "; ".join([*passed, f"{name} can run here"])
        passed.append(f"no {name}: {reason.split(';')[0]}")
    raise BackendUnavailableError("no backend can run here")


def memory_of(name: str, device: Device) -> Memory:
    """Return the memory in which the backend called `name` runs on `device`."""
    return _import(name).memory(device)


def profile_called(name: str) -> tuple[str, Device]:
    """Return a known device that need not be here, and the backend that it is of.

    Raises
    ------
    BackendUnavailableError
        Naming those there are.
    """
    from stridekit.backends.cuda.device import profile

    return "cuda", profile(name)


def check_library(name: str, library: str) -> None:
    """Refuse arrays of a device's own for a backend that computes elsewhere; NumPy's go everywhere.

    Raises
    ------
    BackendUnavailableError
    """
    if library == "cupy" and LIBRARIES[name] != library:
        raise BackendUnavailableError(
            f"backend is {name!r} and the arrays are CuPy's; nothing is copied silently: cupy.asnumpy(array)"
        )


def backend_for(library: str) -> tuple[str, str]:
    """Choose where an array lives: the backend's name and the reason in words."""
    if library == "cupy":
        return "cuda", "CuPy arrays run on their own device"
    reason = unavailable("cpu")
    if not reason:
        return "cpu", "NumPy arrays run on the CPU"
    _warn_of_reference(reason)
    return "reference", f"the cpu backend cannot run here: {reason}"


@cache
def _warn_of_reference(reason: str) -> None:
    message = f"stridekit falls back to its slow reference backend, since cpu cannot run here: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=5)


@cache
def _import(name: str) -> Backend:
    return loaded(_MODULES[name])  # type: ignore[no-any-return]
