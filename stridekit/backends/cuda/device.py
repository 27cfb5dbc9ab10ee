"""A CUDA device in numbers: all that choosing an algorithm and a tile depends on, of a card at hand or of a known one.

Sources: NVIDIA's data sheets for clocks, memory and bandwidth; CUDA C++ Programming Guide 13.0, tables "Arithmetic
Instructions" and "Technical Specifications per Compute Capability"; the architecture white papers for tensor cores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stridekit.arguments import shown
from stridekit.errors import BackendUnavailableError
from stridekit.memory.spaces import WholeUnits

GRANULARITY = 512
"""Bytes: CuPy's pool allocates whole multiples (``ALLOCATION_UNIT_SIZE`` in cupy/cuda/memory.pyx)."""
OLDEST = (8, 0)
"""The first compute capability with cp.async and bfloat16 matrix products."""

_RATES = {
    (8, 0): (64, 32, 1024, 512),
    (8, 6): (128, 2, 512, 256),
    (8, 9): (128, 2, 512, 256),
    (9, 0): (128, 64, 2048, 1024),
    (10, 0): (128, 64, 2048, 1024),
    (12, 0): (128, 2, 512, 256),
}
"""Multiply-adds per clock and multiprocessor: float32, float64, and on tensor cores 16 bits and tf32, dense."""


@dataclass(frozen=True)
class CudaDevice(WholeUnits):
    """One device, or a known model of one.

    Attributes
    ----------
    name : str
        ``"cuda:0"``, or the profile's name.
    model : str
        As the driver calls it.
    ordinal : int or None
        CUDA's number of the device; None for a profile, which can be planned for but not run on.
    compute_capability : (int, int)
    multiprocessors, clock_hz : int
    memory_bytes, memory_bytes_per_s : int
    shared_bytes_of_block, shared_bytes_of_multiprocessor : int
        Shared memory at most, opted in.
    reads_in_place : bool
        Whether inputs are read where they lie even where a copy in channels-last order is faster: less workspace.
    """

    name: str
    model: str
    ordinal: int | None
    compute_capability: tuple[int, int]
    multiprocessors: int
    clock_hz: int
    memory_bytes: int
    memory_bytes_per_s: int
    shared_bytes_of_block: int
    shared_bytes_of_multiprocessor: int
    reads_in_place: bool = False

    granularity = GRANULARITY

    @property
    def description(self) -> str:
        """Model, compute capability, multiprocessors, memory."""
        major, minor = self.compute_capability
        return (
            f"{self.model}, compute capability {major}.{minor}, {self.multiprocessors} multiprocessors, "
            f"{self.memory_bytes / 2**30:.0f} GiB"
        )

    @property
    def architecture(self) -> str:
        """The target of the compiler: ``"80"``, ``"90a"``; 9.0 with the features that only it has."""
        major, minor = self.compute_capability
        return f"{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")

    def frugal(self) -> CudaDevice:
        """Return the same device without the copy in channels-last order; the bits stay the same."""
        return replace(self, reads_in_place=True)

    def multiply_adds_per_s(self, kind: str) -> float:
        """Return the peak rate for ``"float32"``, ``"float64"``, ``"tensor16"`` or ``"tf32"``."""
        known = max((c for c in _RATES if c <= self.compute_capability), default=OLDEST)
        rate = _RATES[known][("float32", "float64", "tensor16", "tf32").index(kind)]
        return float(rate) * self.multiprocessors * self.clock_hz


def _profile(
    name: str, capability: tuple[int, int], multiprocessors: int, mhz: int, gib: int, gb_per_s: int
) -> CudaDevice:
    block, multiprocessor = _SHARED_KIB[capability]
    return CudaDevice(
        name, f"NVIDIA {name}", None, capability, multiprocessors, mhz * 10**6, gib * 2**30, gb_per_s * 10**9,
        block * 1024, multiprocessor * 1024,
    )  # fmt: skip


_SHARED_KIB = {(8, 0): (163, 164), (8, 6): (99, 100), (8, 9): (99, 100), (9, 0): (227, 228), (10, 0): (227, 228),
               (12, 0): (99, 100)}  # fmt: skip

PROFILES = {
    device.name: device
    for device in (
        _profile("A100", (8, 0), 108, 1410, 80, 2039),
        _profile("RTX 3090", (8, 6), 82, 1695, 24, 936),
        _profile("L40S", (8, 9), 142, 2520, 48, 864),
        _profile("RTX 4090", (8, 9), 128, 2520, 24, 1008),
        _profile("H100", (9, 0), 132, 1980, 80, 3352),
        _profile("H200", (9, 0), 132, 1980, 141, 4800),
        _profile("B200", (10, 0), 148, 1965, 180, 8000),
        _profile("RTX 5090", (12, 0), 170, 2407, 32, 1792),
    )
}


def profile(name: str) -> CudaDevice:
    """Return the known device called `name`, to plan for a card that is not here.

    Raises
    ------
    BackendUnavailableError
        Naming those there are.
    """
    for known, device in PROFILES.items():
        if known.lower() == name.lower():
            return device
    hint = "; an array runs on its own device, and backend= chooses among backends"
    raise BackendUnavailableError(f"device is {shown(name)}; the profiles are {', '.join(PROFILES)}{hint}")
