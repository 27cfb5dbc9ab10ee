"""The emulator itself: it computes what a GPU computes, and sees the mistakes it is there to see."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator import building, sanitizing
from tests.emulator.building import build
from tests.emulator.machine import SCHEDULES, EmulatorError, Module, Schedule
from tests.emulator.primitives import SOURCE, Primitive, compare, primitives
from tests.emulator.probing import KERNELS, PARAMETERS, probe, probes

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(building.why_not()), reason=building.why_not())]

any_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.order}-{s.copies}")
PIPELINE: dict[str, Any] = {"amount": 8, "size": 128 * 4 * 8, "shared_bytes": 3 * 128 * 16}
VECTORS: dict[str, Any] = {"size": 128 * 4, "shared_bytes": 128 * 16}


# Kernels without a mistake.


@any_schedule
def test_every_thread_of_every_block_runs_once_and_knows_its_number(schedule: Schedule) -> None:
    numbers = probe("number_threads", size=24 * 12, grid=(3, 2, 2), block=(4, 3, 2), schedule=schedule)
    np.testing.assert_array_equal(numbers, np.arange(24 * 12))


@any_schedule
def test_a_correct_kernel_gives_the_same_under_every_schedule(schedule: Schedule) -> None:
    np.testing.assert_array_equal(probe("sum_block", shared_bytes=16, schedule=schedule)[:128], 127 * 64)
    np.testing.assert_array_equal(probe("hand_on", shared_bytes=512, schedule=schedule), (np.arange(128) + 96) % 128)
    exchanged = np.roll(np.arange(128 * 4), -32 * 4)
    np.testing.assert_array_equal(probe("exchange_vectors", **VECTORS, schedule=schedule), exchanged)
    sums = np.roll(np.arange(128 * 4 * 8.0).reshape(8, 128, 4).sum((0, 2)), -32)
    np.testing.assert_array_equal(probe("pipeline", **PIPELINE, schedule=schedule)[:128], sums)


@pytest.mark.parametrize("amount", [1, 3, 16, 31])
def test_shuffles_and_votes_follow_their_lanes(amount: int) -> None:
    lane = np.arange(32)
    y = probe("shuffle_lanes", amount=amount, size=32 * 6, block=(32,)).reshape(32, 6).T
    np.testing.assert_array_equal(y[0], (lane + amount) % 32)
    np.testing.assert_array_equal(y[1], np.where(lane >= amount, lane - amount, lane))
    np.testing.assert_array_equal(y[2], np.where(lane + amount < 32, lane + amount, lane))
    np.testing.assert_array_equal(y[3], lane ^ amount)
    np.testing.assert_array_equal(y[4], np.where(lane % 8 == 7, lane, lane + 1))
    np.testing.assert_array_equal(y[5], 16)


def test_threads_launch_at_the_same_time_without_meeting() -> None:
    def launches(caller: int) -> None:
        x = np.arange(128, dtype=np.float32) + caller
        for repeat in range(50):
            schedule = SCHEDULES[(caller + repeat) % len(SCHEDULES)]
            sums = probe("sum_block", x=x, shared_bytes=16, schedule=schedule)
            np.testing.assert_array_equal(sums, x.sum())
            with pytest.raises(EmulatorError, match="deadlock"):
                probe("exit_before_barrier", amount=caller + 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(launches, range(4)))


def test_bank_conflicts_are_counted() -> None:
    module = probes("fast")
    module.statistics()
    for pitch, conflicts in ((128, 7 * 4), (64, 3 * 4), (144, 0), (16, 0), (0, 0)):
        probe("load_rows", amount=pitch, shared_bytes=2048, block=(32,))
        counted = module.statistics()
        assert (counted["matrix_loads"], counted["bank_conflicts"]) == (1, conflicts), pitch


# The primitives, beside NumPy and ml_dtypes.


@pytest.mark.parametrize("primitive", primitives(), ids=lambda p: p.entry)
def test_a_primitive_gives_what_the_format_or_the_ptx_isa_says(primitive: Primitive) -> None:
    module = Module(build(SOURCE, [KERNELS], {}, "fast"))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = EXPECTED[primitive.entry](primitive)
    for schedule in SCHEDULES:
        compare(primitive.emulated(module, schedule), expected)


def nearest_tf32(values: np.ndarray) -> np.ndarray:
    """Ten bits behind the leading one, ties away from zero, in float64."""
    wide = values.astype(np.float64)
    finite = np.where(np.isfinite(wide), np.abs(wide), 0)
    place = 2.0 ** (np.maximum(np.frexp(finite)[1] - 1, -126) - 10)
    rounded = np.copysign(np.floor(finite / place + 0.5) * place, wide)
    return np.where(np.isfinite(wide), rounded, wide).astype(np.float32)


def loaded(primitive: Primitive) -> np.ndarray:
    lane, matrix = np.arange(32)[:, None], np.arange(4)
    return primitive.a[primitive.b[:, 8 * matrix + lane // 4], lane % 4]


def multiplied(primitive: Primitive, dtype: Any) -> np.ndarray:
    """PTX ISA 8.7, 9.7.14.5.8: where each lane's elements lie in the matrices."""
    group, within = np.arange(32)[:, None] // 4, np.arange(32)[:, None] % 4
    elements_a, elements_b = (x.view(dtype).astype(np.float64) for x in (primitive.a, primitive.b))
    i, j = np.arange(elements_a.shape[-1]), np.arange(elements_b.shape[-1])
    if len(i) == 8:  # two elements a register
        row, column = group + 8 * ((i % 4) // 2), within * 2 + i % 2 + 8 * (i // 4)
        depth = within * 2 + j % 2 + 8 * (j // 2)
    else:
        row, column = group + 8 * (i % 2), within + 4 * (i // 2)
        depth = within + 4 * j
    count, k = len(elements_a), column.max() + 1
    a, b = np.full((count, 16, k), np.nan), np.full((count, k, 8), np.nan)
    a[:, row, column] = elements_a
    b[:, depth, group] = elements_b
    c = np.arange(4)
    products = np.einsum("nik,nkj->nij", a, b)[:, group + 8 * (c // 2), within * 2 + c % 2]
    return (products + primitive.c).astype(np.float32)


EXPECTED = {
    "half_to_float": lambda p: p.a.view(np.float16).astype(np.float32),
    "bfloat16_to_float": lambda p: p.a.view(ml_dtypes.bfloat16).astype(np.float32),
    "float_to_half": lambda p: p.a.astype(np.float16),
    "float_to_bfloat16": lambda p: p.a.astype(ml_dtypes.bfloat16),
    "float_to_tf32": lambda p: nearest_tf32(p.a),
    "load": loaded,
    "product_half": lambda p: multiplied(p, np.float16),
    "product_bfloat16": lambda p: multiplied(p, ml_dtypes.bfloat16),
    "product_tf32": lambda p: multiplied(p, np.float32),
    "copy": lambda p: np.where(p.b[:, None] != 0, p.a, 0),
    "store": lambda p: p.a,
}


def test_a_comparison_takes_any_nan_for_any_other_and_nothing_else_for_equal() -> None:
    ones = np.ones(3, np.float32)
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001], np.uint32).view(np.float32)
    compare(nans, nans[::-1].copy())
    for other in (nans, -ones, np.nextafter(ones, 2), ones.astype(np.float64), ones[:2]):
        with pytest.raises(AssertionError):
            compare(ones, other)
    with pytest.raises(AssertionError):
        compare(np.zeros(1, np.float32), np.array([-0.0], np.float32))


# Planted mistakes, and what tells of them.


@pytest.mark.parametrize(
    ("message", "entry", "chosen"),
    [
        (r"deadlock: 100 waiting at __syncthreads \(.*probes.cu:\d+\)", "exit_before_barrier", {"amount": 100}),
        ("deadlock: 100 .* the first being thread 0; 28 of 128", "exit_before_barrier", {"amount": 100}),
        ("deadlock: 20 waiting at __shfl_down_sync .*; 108 of 128", "diverging_warp", {"amount": 5}),
        ("divergent __syncthreads: this thread is at .*, others are at", "barrier_in_each_branch", {"amount": 32}),
        ("warp divergence: .* __ballot_sync .* __shfl_down_sync", "diverging_warp", {"amount": 5, "planted": 1}),
        ("store_shared_16: .* 0x408 does not lie on 16", "address_shared", {"amount": 8, "planted": 0}),
        ("store_shared_16: .* lies 64 bytes into .* 64 bytes", "address_shared", {"amount": 64, "planted": 0}),
        ("store_shared_16: .* lies -16 bytes into", "address_shared", {"amount": -16, "planted": 0}),
        ("load_matrices: .* does not lie on 16", "address_shared", {"amount": 4, "planted": 1}),
        ("load_matrices: .* lies 1024 bytes into", "address_shared", {"amount": 1024, "planted": 1}),
        ("copy_async_16: .* does not lie on 16", "address_shared", {"amount": 2, "planted": 2}),
        ("copy_async_16: .* lies 64 bytes into", "address_shared", {"amount": 64, "planted": 2}),
        ("shared_address: .* -1 bytes from the start of 64", "address_shared", {"amount": -1, "planted": 3}),
        ("copy_async_16: global address .* does not lie on 16", "copy_from_global", {"amount": 1}),
        ("the thread needs more stack", "deep_frame", {"block": (2,)}),
    ],
)
def test_a_mistake_is_named_with_its_block_and_thread(message: str, entry: str, chosen: dict[str, Any]) -> None:
    with pytest.raises(EmulatorError, match=r"^block \(0, 0, 0\), thread \(\d+, 0, 0\): " + message):
        probe(entry, **{"shared_bytes": 64, **chosen})


def test_the_block_named_is_the_one_that_failed() -> None:
    with pytest.raises(EmulatorError, match=r"^block \(2, 1, 0\), thread \(0, 0, 0\)"):
        probe("exit_before_barrier", amount=1, grid=(3, 2), schedule=Schedule("descending"))


def test_copies_without_end_are_refused_where_they_are_late() -> None:
    probe("endless_copies", amount=300, shared_bytes=16)
    with pytest.raises(EmulatorError, match="more than 256 copies under way"):
        probe("endless_copies", amount=300, shared_bytes=16, schedule=Schedule(copies="late"))


@pytest.mark.parametrize(
    ("message", "chosen"),
    [
        ("at most 1024", {"block": (1025,)}),
        ("at most 1024", {"block": (32, 33)}),
        ("64 along z", {"block": (1, 1, 65)}),
        (r"a block of \(0, 1, 1\)", {"block": (0,)}),
        ("65535", {"grid": (1, 65536)}),
        ("65535", {"grid": (1, 1, 65536)}),
        ("at least 1", {"grid": (0,)}),
        (r"2\^31 - 1", {"grid": (1 << 31,)}),
        ("out of range", {"grid": (1 << 32,)}),
        ("out of range", {"grid": (-1,)}),
        ("at most 232448", {"shared_bytes": 232449}),
    ],
)
def test_a_launch_that_cuda_refuses_is_refused(message: str, chosen: dict[str, Any]) -> None:
    with pytest.raises(EmulatorError, match=message):
        probe("number_threads", **chosen)


def test_an_unknown_entry_or_a_struct_of_another_size_is_refused() -> None:
    with pytest.raises(EmulatorError, match="no entry is called nothing"):
        probe("nothing")
    with pytest.raises(EmulatorError, match="takes a struct of 32 bytes, and is given 24"):
        probes("fast").launch("sum_block", (1,), (32,), 0, np.zeros(1, "u8, u8, u8"))
    with pytest.raises(ValueError, match="one struct, not 2"):
        probes("fast").launch("sum_block", (1,), (32,), 0, np.zeros(2, PARAMETERS))


def test_shared_memory_begins_as_nan_in_every_block() -> None:
    for _ in range(2):
        y = probe("read_unwritten", amount=100, shared_bytes=512, grid=(2,))
        np.testing.assert_array_equal(np.isnan(y), np.arange(128) >= 100)


@pytest.mark.parametrize(
    ("entry", "planted", "copies"),
    [
        ("sum_block", 1, None),
        ("hand_on", 1, None),
        ("pipeline", 1, "late"),
        ("pipeline", 2, "late"),
        ("pipeline", 3, "late"),
    ],
)
def test_a_missing_barrier_or_wait_gives_a_wrong_result(entry: str, planted: int, copies: str | None) -> None:
    """Where the mistake is about copies, under every schedule that has them late; else under at least one."""
    chosen = PIPELINE if entry == "pipeline" else {"shared_bytes": 512}
    right = probe(entry, **chosen)
    wrong = {
        schedule: not np.array_equal(probe(entry, **chosen, planted=planted, schedule=schedule), right, equal_nan=True)
        for schedule in SCHEDULES
    }
    assert any(wrong.values())
    assert all(wrong[schedule] for schedule in SCHEDULES if schedule.copies == copies)


# Under a sanitizer.


def sanitized(flavour: str, entry: str, **chosen: int) -> subprocess.CompletedProcess[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    command, environment = sanitizing.command(flavour, ["-m", "tests.emulator.probing", flavour, entry, *options])
    root = Path(__file__).parents[1]
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False, timeout=300)


def under(flavour: str, *values: Any) -> Any:
    """Return a pytest parameter that runs only where the flavour can."""
    reason = sanitizing.why_not(flavour)
    return pytest.param(
        flavour, *values, marks=(pytest.mark.sanitizer, pytest.mark.skipif(bool(reason), reason=reason))
    )


@pytest.mark.parametrize("flavour", [under("address"), under("thread")])
@pytest.mark.parametrize(
    ("entry", "chosen"),
    [
        ("sum_block", {"shared_bytes": 16}),
        ("hand_on", {"shared_bytes": 512}),
        ("exchange_vectors", VECTORS),
        ("pipeline", PIPELINE),
    ],
)
def test_a_sanitizer_has_nothing_to_say_of_a_correct_kernel(flavour: str, entry: str, chosen: dict[str, int]) -> None:
    done = sanitized(flavour, entry, **chosen)
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished\n", "")


@pytest.mark.parametrize(
    ("flavour", "entry", "chosen", "report"),
    [
        under("address", "read_global", {"amount": 1}, "heap-buffer-overflow"),
        under("address", "read_global", {"amount": -1}, "heap-buffer-overflow"),
        under("address", "write_shared", {"amount": 1, "shared_bytes": 512}, "heap-buffer-overflow"),
        under("address", "overflow_int", {"amount": 1 << 30}, "signed integer overflow"),
        under("thread", "sum_block", {"planted": 1, "shared_bytes": 16}, "data race"),
        under("thread", "hand_on", {"planted": 1, "shared_bytes": 512}, "data race"),
        under("thread", "exchange_vectors", {**VECTORS, "planted": 1}, "data race"),
        under("thread", "pipeline", {**PIPELINE, "planted": 1}, "data race"),
        # No schedule need give a wrong result here: what is overwritten too early may have been read already.
        under("thread", "pipeline", {**PIPELINE, "planted": 4}, "data race"),
    ],
)
def test_a_sanitizer_names_the_kernel_that_is_wrong(
    flavour: str, entry: str, chosen: dict[str, int], report: str
) -> None:
    done = sanitized(flavour, entry, **chosen)
    assert done.returncode == (66 if flavour == "thread" else 1)
    assert report in done.stderr
    assert "probes.cu" in done.stderr


# From source to library.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRIDEKIT_EMULATOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.cu"
    path.write_text(
        '#include "device.cuh"\n#include "value.cuh"\nstruct One { int* y; };\n'
        "namespace { template <int value> DEVICE int constant() { return value; } }\n"
        'extern "C" __global__ void ENTRY(const __grid_constant__ One P) { *P.y = VALUE + constant<FACTOR>(); }\n'
        "EXPORT(ENTRY)\n"
    )
    (tmp_path / "value.cuh").write_text("#define VALUE 100\n")
    return path


def value_of(library: Path) -> int:
    y = np.zeros(1, np.int32)
    Module(library).launch("entry", (1,), (1,), 0, np.array([(y.ctypes.data,)], [("y", "u8")]))
    return int(y[0])


def test_a_library_is_built_anew_when_a_define_a_header_or_an_option_changes(cache: Path, source: Path) -> None:
    def built(factor: int, *options: str) -> Path:
        defines = {"ENTRY": "entry", "FACTOR": factor}
        return build(source, [KERNELS, source.parent], defines, "fast", options=options)

    first, second = built(1), built(2)
    assert (value_of(first), value_of(second)) == (101, 102)
    assert built(1) == first
    assert built(1, "-O0") != first
    (source.parent / "value.cuh").write_text("#define VALUE 200\n")
    assert value_of(built(1)) == 201
    assert cache.stat().st_mode & 0o777 == 0o700


def test_what_others_can_write_to_is_not_loaded(cache: Path, source: Path) -> None:
    def built() -> Path:
        return build(source, [KERNELS, source.parent], {"ENTRY": "entry", "FACTOR": 4}, "fast")

    library = built()
    library.write_bytes(b"a stranger's")
    library.chmod(0o666)
    assert value_of(built()) == 104
    assert library.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    with pytest.raises(RuntimeError, match="is not a folder that this user alone can write to"):
        built()


def test_builders_at_the_same_time_leave_one_library_and_nothing_else(cache: Path, source: Path) -> None:
    def built(_: int) -> Path:
        return build(source, [KERNELS, source.parent], {"ENTRY": "entry", "FACTOR": 3}, "fast")

    with ThreadPoolExecutor(3) as pool:
        libraries = set(pool.map(built, range(3)))
    assert len(libraries) == 1
    assert list(cache.iterdir()) == list(libraries)
    assert value_of(libraries.pop()) == 103


def test_what_the_compiler_says_reaches_the_caller(cache: Path, source: Path) -> None:
    with pytest.raises(RuntimeError, match="FACTOR"):
        build(source, [KERNELS, source.parent], {"ENTRY": "entry"}, "fast")
    assert list(cache.iterdir()) == []


def test_without_a_compiler_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "apt-get install g++" in building.why_not()
    assert "apt-get install g++" in sanitizing.why_not("thread")
