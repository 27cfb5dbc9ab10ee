"""Every kernel, tile and way to read, forced in turn on shapes with tails, through the emulator."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends.cuda import implicit_gemm
from stridekit.backends.cuda.catalog import STRUCTS, TILES, all_kernels, families
from stridekit.backends.cuda.implicit_gemm import LOADERS
from stridekit.backends.cuda.parameters import DIVISOR, divisor
from stridekit.backends.cuda.sources import Kernel, kernels_dir
from stridekit.backends.cuda.tiles import TENSOR_TILES, Tile, inner_axis
from stridekit.planning.plan import Plan
from tests.emulator import use_emulator
from tests.emulator.building import build, why_not
from tests.emulator.machine import SCHEDULES, Module
from tests.emulator.runtime import EmulatedRuntime
from tests.kit.cases import Case, case
from tests.kit.curated import CURATED
from tests.kit.oracle import assert_correct, assert_same_bits, channels_first, truth

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

GIVEN = re.compile(r"__grid_constant__ (\w+) P\)")
SHARPEST = [("float16", "HalfProduct"), ("float32", "")]
"""One product of the tensor cores, and one of the other units."""
KINDS = [(dtype, product, tile) for (dtype, product), tiles in TILES.items() for tile in tiles]
TAILED = {
    LOADERS[0]: case("chunks", (11, 13), 3, stride=2, padding=((1, 2), (0, 1)), channels=40, memory="channels_last"),
    LOADERS[1]: case("elements", (11, 13), 3, stride=2, padding=((1, 2), (0, 1)), channels=37),
    LOADERS[2]: case("stem", (21, 17), (5, 3), stride=(3, 2), padding=2, channels=1, dilation=(1, 2)),
}
"""A shape for each way to read; each test adds more filters and pixels than a whole number of tiles holds."""


@pytest.fixture
def emulator() -> Iterator[EmulatedRuntime]:
    with use_emulator() as runtime:
        yield runtime


def force(patch: pytest.MonkeyPatch, *tiles: Tile) -> None:
    """Leave only `tiles` to choose from."""
    for name in ("TENSOR_TILES", "FLOAT32_TILES", "FLOAT64_TILES"):
        patch.setattr(implicit_gemm, name, tiles)


def gemm_plan(of: Case, product: str, *, in_place: bool = False) -> Plan:
    """Plan for the implicit GEMM, whether or not it is the cheapest."""
    precision = "tf32" if product == "Tf32Product" else "ieee"
    plan = of.plan("cuda", precision=precision)
    device = plan.device.frugal() if in_place else plan.device
    return replace(plan, algorithm="implicit_gemm" if product else "implicit_gemm_fma", device=device)


def tailed(loader: str, dtype: str, tile: Tile) -> Case:
    """Return a case whose pixels and filters fill a tile and a bit of the next."""
    of = replace(TAILED[loader], dtype=dtype, filters=tile.n + 5, bias=True, activation="relu")
    pixels = int(np.prod(of.output_sizes))
    return replace(of, name=f"{of.name}, {dtype}, {tile.name}", batch=-(-(tile.m + 3) // pixels))


@pytest.mark.parametrize("schedule", SCHEDULES[1::2], ids=lambda s: f"{s.order}-{s.copies}")
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("dtype", "product", "tile"), KINDS, ids=lambda v: getattr(v, "name", v) or "fma")
@pytest.mark.rotated("loader", "schedule")
def test_every_tile_and_way_to_read_is_right_on_tails(
    dtype: str, product: str, tile: Tile, loader: str, schedule: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, tile)
    of = tailed(loader, dtype, tile)
    arrays = of.arrays()
    with use_emulator(schedule=schedule) as runtime:
        plan = gemm_plan(of, product, in_place=True)
        y = plan.execute(*arrays)
        how = {LOADERS[0]: "chunks", LOADERS[1]: "elements", LOADERS[2]: "stem"}[loader]
        assert any(entry.endswith(f"{tile.name}_{how}") for entry in runtime.launched), runtime.launched
    if product == "Tf32Product":
        assert_within_tf32(y, of, *arrays)
    else:
        assert_correct(y, of, *arrays)


def assert_within_tf32(y: np.ndarray, of: Case, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> None:
    """Raise unless within the float32 bound plus what rounding both factors to 11 bits can lose, 2 * 2**-11 of each."""
    exact = truth(of, x, weight, bias)
    u = 2.0**-24
    bound = (2 * 2.0**-11 + 2.0**-22 + 4 * (exact.count + 1) * u) * exact.magnitude + u * np.abs(exact.linear)
    error = np.abs(channels_first(y, of.channels_last) - np.maximum(exact.linear, 0))
    assert (error <= bound).all(), f"{of}: {np.max(error / bound):.3g} of the bound"


def test_tf32_is_taken_only_where_it_is_asked_for(emulator: EmulatedRuntime) -> None:
    of = case("wide", (9, 8), 3, channels=256, filters=64, data="sparse")
    arrays = of.arrays()
    assert_correct(of.run(arrays, backend="cuda"), of, *arrays)
    assert not any("tf32" in entry for entry in emulator.launched)
    y = of.run(arrays, backend="cuda", precision="tf32")
    with pytest.raises(AssertionError, match="elements are wrong"):
        assert_correct(y if any("tf32" in e for e in emulator.launched) else forced_tf32(of), of, *arrays)


def forced_tf32(of: Case) -> np.ndarray:
    return gemm_plan(of, "Tf32Product").execute(*of.arrays())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("dtype", "product"),
    [pytest.param(*key, marks=[pytest.mark.thorough] * (key not in SHARPEST)) for key in TILES],
    ids=lambda v: v or "fma",
)
def test_no_tile_or_way_to_read_changes_a_bit(
    dtype: str, product: str, emulator: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = case("bits", (9, 10), 3, channels=72, filters=70, padding=1, stride=2, dtype=dtype, bias=True, batch=3)
    arrays = of.arrays()
    wanted = gemm_plan(of, product).execute(*arrays)
    for tile, in_place, memory in itertools.product(TILES[dtype, product], (False, True), (None, "channels_last")):
        force(monkeypatch, tile)
        other = replace(of, memory=memory)
        x = np.ascontiguousarray(np.moveaxis(arrays.x, 1, -1)) if memory else arrays.x
        y = gemm_plan(other, product, in_place=in_place).execute(
            np.moveaxis(x, -1, 1) if memory else x, arrays.weight, arrays.bias
        )
        assert_same_bits(y, wanted, (tile.name, in_place, memory))
    assert {entry.rsplit("_", 1)[-1] for entry in emulator.launched if "gemm" in entry} == {"chunks", "elements"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_splits_are_those_of_one_sample_and_are_added_in_order(dtype: str, emulator: EmulatedRuntime) -> None:
    of = case("deep", (5, 5), 3, channels=160, filters=66, dtype=dtype, bias=True, activation="gelu", batch=4)
    arrays = of.arrays()
    product = "HalfProduct" if dtype == "float16" else ""
    plan = gemm_plan(of, product)
    assert inner_axis(plan.problem, plan.device).splits > 1
    y = plan.execute(*arrays)
    assert any("sum_partials" in entry for entry in emulator.launched)
    assert_correct(y, of, *arrays)
    for n in range(4):
        alone = gemm_plan(replace(of, batch=1), product).execute(arrays.x[n : n + 1], arrays.weight, arrays.bias)
        assert_same_bits(alone, y[n : n + 1], n)
    packed = plan.pack(arrays.weight)
    most, by_sample = sk.vram.estimate(plan, packed=True).allocated, len(emulator.launched)
    with sk.vram.budget(most - 1):
        assert_same_bits(plan.execute(arrays.x, packed, arrays.bias), y)
    with sk.vram.budget(most // 2):
        assert_same_bits(plan.execute(arrays.x, packed, arrays.bias), y)
    assert sum("sum_partials" in entry for entry in emulator.launched[by_sample:]) > 2


def test_a_batch_too_large_for_one_launch_runs_in_parts(
    emulator: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = case("parts", (6, 7), 3, channels=40, filters=33, batch=7, dtype="float16", bias=True)
    arrays = of.arrays()
    plan = gemm_plan(of, "HalfProduct")
    wanted = plan.execute(*arrays)
    before = len(emulator.launched)
    force(monkeypatch, TENSOR_TILES[2])
    monkeypatch.setattr(implicit_gemm, "LARGEST_M", 2 * plan.problem.output_pixels + TENSOR_TILES[2].m)
    assert_same_bits(plan.execute(*arrays), wanted)
    assert sum("gemm" in entry for entry in emulator.launched[before:]) == 4


@pytest.mark.parametrize("narrow", [True, False])
def test_the_direct_kernel_is_the_same_with_64_bit_indices(
    narrow: bool, emulator: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stridekit.backends.cuda import direct

    monkeypatch.setattr(direct, "_narrow", lambda *_: narrow)
    for of in CURATED[::7]:
        arrays = of.arrays()
        assert_correct(replace(of.plan("cuda"), algorithm="direct").execute(*arrays), of, *arrays)
    assert {entry[-3:] for entry in emulator.launched if "direct" in entry} == {"i32" if narrow else "i64"}


def test_every_family_of_kernels_is_launched_somewhere_above() -> None:
    """The catalog and the tests above name the same kernels: what is added to one must be added to the other."""
    files = {kernel.file for kernel in all_kernels()}
    assert files == {path.name for path in kernels_dir().glob("*.cu")}
    assert len({kernel.entry for kernel in all_kernels()}) == len(all_kernels())
    assert len(KINDS) * len(LOADERS) == sum(kernel.file == "implicit_gemm.cu" for kernel in all_kernels())
    assert sum(len(family) for family in families()) == len(all_kernels())


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_is_the_same_in_python_and_in_c(name: str, tmp_path: Path) -> None:
    file, twin = STRUCTS[name]
    source, fields = tmp_path / "layout.cu", twin.fields
    assert fields is not None
    lines = [f"static_assert(offsetof({name}, {field}) == {fields[field][1]});" for field in fields]
    sizes = [f"static_assert(sizeof({name}::{field}) == {fields[field][0].itemsize});" for field in fields]
    whole = f"static_assert(sizeof({name}) == {twin.itemsize});"
    source.write_text("\n".join(["#include <stddef.h>", f'#include "{file}"', *lines, *sizes, whole]))
    build(source, [kernels_dir()], next((k.all_defines for k in all_kernels() if k.file == file), {}), "fast")


def test_every_kernel_is_given_a_struct_with_a_twin() -> None:
    given = {name for path in kernels_dir().glob("*.cu") for name in GIVEN.findall(path.read_text())}
    assert given | {"Walk"} == set(STRUCTS)


DIVIDING = """
#include "parameters.cuh"
struct Division { const u64* n; u64* quotient; i64 count; i64 wide; Divisor by; };
extern "C" __global__ void dividing(const __grid_constant__ Division p) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    p.quotient[i] = p.wide ? divide(p.n[i], p.by) : divide(static_cast<u32>(p.n[i]), p.by);
}
EXPORT(dividing)
"""


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_division_by_multiplication_is_exact(wide: bool, tmp_path: object, rng: np.random.Generator) -> None:
    source = tmp_path / "dividing.cu"  # type: ignore[operator]
    source.write_text(DIVIDING)
    module = Module(build(source, [kernels_dir()], {}, "fast"))
    fields = [("n", "u8"), ("quotient", "u8"), ("count", "i8"), ("wide", "i8"), ("by", DIVISOR)]
    struct = np.dtype(fields, align=True)
    most = 2**63 - 1 if wide else 2**31 - 1
    powers = [2**k + d for k in range(0, 63 if wide else 31) for d in (-1, 0, 1) if 1 <= 2**k + d <= most]
    divisors = [*range(1, 40), *powers, *(int(d) for d in rng.integers(1, most, 40))]
    for d in divisors:
        edges = [q * d + e for q in (0, 1, 2, most // d - 1, most // d) for e in (-1, 0, 1, d - 1)]
        values = [v for v in [*edges, most, *(int(v) for v in rng.integers(0, most, 30))] if 0 <= v <= most]
        n = np.array(values, np.uint64)
        quotient = np.zeros(len(n), np.uint64)
        given = np.array([(n.ctypes.data, quotient.ctypes.data, len(n), wide, divisor(d))], struct)
        module.launch("dividing", (-(-len(n) // 64),), (64,), 0, given)
        assert [int(q) for q in quotient] == [v // d for v in values], d


def test_a_kernel_is_named_by_what_it_is() -> None:
    names = {kernel.entry for kernel in all_kernels()}
    assert "conv_forward_implicit_gemm_float16_128x128_chunks" in names
    assert "conv_forward_direct_float64_f4_pixels_i64" in names
    assert all(isinstance(kernel, Kernel) for kernel in all_kernels())
