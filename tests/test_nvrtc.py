"""Every kernel builds for every architecture without a GPU, spills nothing, and becomes the instruction it is for."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest

from stridekit.backends.cuda import compiling
from stridekit.backends.cuda.catalog import ARCHITECTURES, all_kernels, families
from stridekit.backends.cuda.device import profile
from stridekit.backends.cuda.sources import Kernel
from stridekit.errors import BackendUnavailableError

REGISTERS = 65536
"""Of a multiprocessor, in every architecture here: CUDA C++ Programming Guide."""
EVERYTHING = bool(os.environ.get("STRIDEKIT_NVRTC_ALL"))


def nvdisasm() -> str | None:
    """Find the disassembler: on the path, or in the wheel nvidia-cuda-nvdisasm."""
    found = shutil.which("nvdisasm")
    spec = importlib.util.find_spec("nvidia")
    folders = [] if found or spec is None else list(spec.submodule_search_locations or [])
    return found or next((str(path) for folder in folders for path in Path(folder).glob("*/bin/nvdisasm")), None)


pytestmark = [
    pytest.mark.nvrtc,
    pytest.mark.skipif(
        bool(compiling.unavailable()) or nvdisasm() is None,
        reason=compiling.unavailable() or "there is no nvdisasm; pip install '.[nvrtc]'",
    ),
]


def builds() -> list[tuple[Kernel, str]]:
    """Pair kernels and architectures: one of each family, another for each; all with STRIDEKIT_NVRTC_ALL=1."""
    if EVERYTHING:
        return [(kernel, target) for kernel in all_kernels() for target in ARCHITECTURES]
    return [
        (family[(number + turn) % len(family)], target)
        for number, family in enumerate(families())
        for turn, target in enumerate(ARCHITECTURES)
    ]


def instructions(kernel: Kernel) -> list[str]:
    """Name what must be in the machine code: the products, and the ways to shared memory."""
    defines = kernel.all_defines
    if kernel.file == "direct.cu":
        return ["DFMA"] if defines["ELEMENT"] == "Float64" else ["FFMA"]
    if kernel.file == "fold_padding.cu":
        return ["DADD"] if defines["SOURCE"] == "Float64" else ["FADD"]
    if kernel.file != "implicit_gemm.cu":
        return []
    products = {
        "HalfProduct": r"HMMA\.16816\.F32\b(?!\.BF16)",
        "BFloat16Product": r"HMMA\.16816\.F32\.BF16",
        "Tf32Product": r"HMMA\.1688\.F32\.TF32",
    }
    product = next((text for name, text in products.items() if name in defines["MULTIPLIER"]), None)
    found = [product, r"LDSM\.16\.M88\.4"] if product else ["DFMA" if defines["ELEMENT"] == "Float64" else "FFMA"]
    return [*found, r"LDGSTS\.E\.BYPASS\.128", r"STG\.E\.128"]


@cache
def built(kernel: Kernel, architecture: str) -> compiling.Compiled:
    return compiling.compile_kernel(kernel, architecture)


@pytest.mark.parametrize(("kernel", "architecture"), builds(), ids=lambda v: v if isinstance(v, str) else v.entry)
def test_kernel_builds_without_spills_into_its_instructions(kernel: Kernel, architecture: str, tmp_path: Path) -> None:
    compiled = built(kernel, architecture)
    assert "warning" not in compiled.log.lower(), compiled.log
    registers = int(re.findall(r"Used (\d+) registers", compiled.log)[0])
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", compiled.log)
    assert spilled == [("0", "0")], compiled.log
    resident = int(kernel.all_defines.get("MIN_BLOCKS", "1"))
    # A register file is dealt out to warps in units of 8 registers a thread.
    assert -(-registers // 8) * 8 * kernel.threads * resident <= REGISTERS
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.cubin)
    done = subprocess.run([str(nvdisasm()), "-c", str(cubin)], capture_output=True, text=True, check=True)
    assert kernel.entry in done.stdout
    for instruction in instructions(kernel):
        assert re.search(instruction, done.stdout), f"no {instruction} in {kernel.entry} for sm_{architecture}"


def test_shared_memory_fits_the_devices_that_take_the_tile() -> None:
    for kernel in all_kernels():
        assert kernel.shared_bytes <= profile("RTX 4090").shared_bytes_of_block, kernel.entry


def test_a_kernel_is_compiled_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", str(tmp_path))
    kernel = all_kernels()[-1]
    first, wanted = compiling.cubin_path(kernel, "90a"), built(kernel, "90a").cubin
    monkeypatch.setattr(compiling, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    start = time.perf_counter()
    again = compiling.cubin_path(kernel, "90a")
    assert time.perf_counter() - start < 0.05
    assert again == first
    assert first.read_bytes() == wanted


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "hash missing", "hash of another"])
def test_a_damaged_file_is_compiled_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", str(tmp_path))
    kernel = all_kernels()[-1]
    path = compiling.cubin_path(kernel, "80")
    good = path.read_bytes()
    digest = path.with_suffix(".sha256")
    if damage == "flipped":
        path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    elif damage == "cut":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "hash missing":
        digest.unlink()
    else:
        digest.write_bytes(b"0" * 64)
    assert compiling.cubin_path(kernel, "80").read_bytes() == good
    assert digest.is_file()


def test_an_edited_header_another_option_or_architecture_is_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = all_kernels()[0]
    keys = {compiling._key(kernel, "80"), compiling._key(kernel, "90a"), compiling._key(all_kernels()[1], "80")}
    source = compiling.source_of(kernel.file)
    assert "Granlund" in source, "headers are part of the source"
    monkeypatch.setattr(compiling, "source_of", lambda _: source.replace("Granlund", "granlund"))
    keys.add(compiling._key(kernel, "80"))
    assert len(keys) == 4


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "a file"
    blocked.write_bytes(b"")
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", str(blocked))
    kernel = all_kernels()[-1]
    path = compiling.cubin_path(kernel, "80")
    assert path.is_file()
    assert blocked not in path.parents


def test_what_cannot_be_compiled_says_so_in_the_compilers_words() -> None:
    kernel = all_kernels()[0]
    with pytest.raises(BackendUnavailableError, match=r"cannot compile .* sm_30 \(it knows .*sm_90"):
        compiling.compile_kernel(kernel, "30")
    wrong = Kernel(kernel.file, kernel.entry, (*kernel.defines[:-1], ("FILTERS", "99")), kernel.threads)
    with pytest.raises(BackendUnavailableError, match="each filter takes a register"):
        compiling.compile_kernel(wrong, "80")


def test_the_first_compilation_of_a_kernel_takes_less_than_two_seconds() -> None:
    slow = {}
    for family in families():
        start = time.perf_counter()
        compiling.compile_kernel(family[0], "90a")
        slow[family[0].entry] = time.perf_counter() - start
    # The machine is shared: the slowest may have had bad luck, all of them together may not.
    assert sum(slow.values()) / len(slow) < 2.0, slow
    assert sorted(slow.values())[len(slow) * 9 // 10] < 2.0, slow
