"""Mistakes planted in the real kernels, one at a time, and what sees them: the checks are checked.

==================================================  ==================================================================
What is planted                                     What sees it
==================================================  ==================================================================
no barrier in the loop; none before the sums, or    a wrong result under every schedule, and ThreadSanitizer
what the activation made of them, are read; none
before the square of to_channels_last.cu is read
no barrier before that square is filled again       a wrong result under every schedule
no barrier before the sums take the stages' place   ThreadSanitizer; a wrong result, without tensor cores
fetch before the barrier                            ThreadSanitizer; a wrong result, without tensor cores, where copies
                                                    are early
wait for one group too few; wait behind the barrier a wrong result, and ThreadSanitizer, where copies are late
wrong stage, padding, reflection or partial sums;   a wrong result under every schedule
tails of channels or taps that are not zero;
padding that is not folded, or twice; pixels that
are filled with something
one pixel, filter or channel too many; filters not  AddressSanitizer, at the end of x, of the weights, of the bias, of
clamped; one thread too many; the next bias,        the residual, of y and of the workspace
residual or y
no swizzle                                          the count of bank conflicts
==================================================  ==================================================================
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stridekit.backends.cuda import moving
from stridekit.backends.cuda.catalog import TILES
from stridekit.backends.cuda.gemm_kernels import LOADERS, gemm_kernel
from stridekit.backends.cuda.sources import kernels_dir
from stridekit.backends.cuda.tiles import FLOAT32_TILES, TENSOR_TILES, Tile
from tests.emulator import runtime, sanitizing
from tests.emulator.building import why_not
from tests.emulator.machine import SCHEDULES, EmulatorError, Schedule
from tests.emulator.sampling import ROOT, Sample, command
from tests.kit.cases import Case, case

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(why_not()), reason=why_not())]

EARLY = tuple(s for s in SCHEDULES if s.copies != "late")
LATE = tuple(s for s in SCHEDULES if s.copies != "early")
TILE = TENSOR_TILES[2]
WIDE = case("wide", (10, 9), 3, channels=40, filters=69, padding=1, dtype="float16", bias=True, activation="relu")


def sample(**chosen: Any) -> Sample:
    """Return a sample of the implicit GEMM on `WIDE`, with other fields of either."""
    own = {name: chosen.pop(name) for name in ("in_place", "packed") if name in chosen}
    return Sample(replace(WIDE, **chosen), "implicit_gemm", tile=TILE, **own)


CHUNKS = sample(memory="channels_last")
LANDING = replace(CHUNKS, schedule=SCHEDULES[1])  # copies land at the wait
SHORT = sample(memory="channels_last", channels=32)  # its last stage lies where the sums will
COPIED = sample(channels=37)
SLICED = sample(channels=37, lies="sliced", weight_lies="sliced")
ELEMENTS = sample(channels=37, padding=0, in_place=True)
REFLECTED = sample(memory="channels_last", padding_mode="reflect")
SPLIT = sample(memory="channels_last", channels=128)
UNPADDED = sample(memory="channels_last", padding=0, packed=True)
CUBE = case("cube", (4, 5, 6), 3, channels=13, filters=69, padding=1, dtype="float16", weight_lies="sliced")
FMA = Sample(
    replace(WIDE, dtype="float32", channels=12, memory="channels_last"), "implicit_gemm_fma", tile=FLOAT32_TILES[1]
)
DIRECT = Sample(replace(WIDE, filters=7))
ADDED = replace(DIRECT, adds=True)
FOLDED = Sample(replace(WIDE, channels=5, filters=6, dtype="float32", padding=2, padding_mode="reflect"),
                direction="input_grad")  # fmt: skip
# The first pixel is one of those that no window reads.
FILLED = Sample(replace(WIDE, channels=5, filters=6, kernel=(1, 1), stride=(2, 2)), direction="input_grad")


@dataclass(frozen=True)
class Bug:
    """A mistake in one kernel, and the sample that shows it.

    Parameters
    ----------
    name
        What is wrong.
    file, old, new
        The one replacement.
    sample
        What goes wrong.
    wrong
        The schedules under which its result does.
    sanitizer
        The flavour that reports it.
    """

    name: str
    file: str
    old: str
    new: str
    sample: Sample
    wrong: tuple[Schedule, ...] = ()
    sanitizer: str = ""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def plant(self, folder: Path) -> Path:
        """Copy the kernels into a folder, make the replacement there, and return where they are."""
        kernels = Path(shutil.copytree(kernels_dir(), folder / "kernels"))
        text = (kernels / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds this {text.count(self.old)} times, not once:\n{self.old}")
        (kernels / self.file).write_text(text.replace(self.old, self.new))
        return kernels


SYNC = "__syncthreads();\n"
WAIT = "copy_async_wait<STAGES - 2>();\n"
IN_LOOP = f"            {WAIT}            {SYNC}        }}\n"
AHEAD = """\
        const bool more = block + STAGES - 1 < blocks;
        const u32 next = operands + free * tile::STAGE_BYTES;
"""
FETCH = """\
        if (more) {
            x.fetch(next);
            weight.fetch(next + tile::X_BYTES);
        }
"""
BARRIER = f"""\
        if (block >= 0) {{
            // A thread's own copies have arrived, then everyone's; and everyone has left the stage that is filled next.
{IN_LOOP}"""
VISIT = "sums[row * step_m + column * step_n] = sum; });\n"

GEMM, STORING = "implicit_gemm.cu", "storing.cuh"
FETCH_EARLY = Bug(
    "fetch before the barrier", GEMM, BARRIER + AHEAD + FETCH, AHEAD + FETCH + BARRIER, CHUNKS, sanitizer="thread"
)
STORE_EARLY = Bug(
    "no barrier behind the loop", GEMM, f"wait<0>();\n    {SYNC}", "wait<0>();\n", SHORT, sanitizer="thread"
)
RACES = [
    Bug("no barrier in the loop", GEMM, IN_LOOP, f"            {WAIT}        }}\n", CHUNKS, SCHEDULES, "thread"),
    Bug("wait for one group too few", GEMM, WAIT, WAIT.replace("2", "1"), LANDING, LATE, "thread"),
    Bug(
        "wait behind the barrier",
        GEMM,
        IN_LOOP,
        f"            {SYNC}            {WAIT}        }}\n",
        LANDING,
        LATE,
        "thread",
    ),
    FETCH_EARLY,
    # No thread of this one waits for its warp, so that one may be far ahead of another.
    replace(FETCH_EARLY, name="fetch before the barrier, fma", sample=FMA, wrong=EARLY),
    STORE_EARLY,
    replace(STORE_EARLY, name="no barrier behind the loop, fma", sample=FMA, wrong=SCHEDULES),
    Bug("no barrier behind the sums", STORING, f"{VISIT}    {SYNC}", VISIT, CHUNKS, SCHEDULES, "thread"),
    Bug("no barrier behind activation", STORING, f"}}\n        {SYNC}", "}\n", COPIED, SCHEDULES, "thread"),
    Bug(
        *("no barrier before the square is read", "to_channels_last.cu", f"        {SYNC}#pragma", "#pragma"),
        *(COPIED, SCHEDULES, "thread"),
    ),
]
REFILLED = Bug(
    "no barrier before the square is filled", "to_channels_last.cu", f"        {SYNC}    }}\n", "    }\n", COPIED
)

FOLDING = "fold_padding.cu"
PADDING = "static_cast<int>(P.padding[1])"
WRONG = [
    Bug("wrong stage", GEMM, "full = full + 1 == STAGES", "full = full + 1 == STAGES - 1", CHUNKS, SCHEDULES),
    Bug("padding off by one", "loading.cuh", PADDING, f"{PADDING} + 1", CHUNKS, SCHEDULES),
    Bug("reflection off by one", "geometry.cuh", "2 * (size - 1)", "2 * size - 1", REFLECTED, SCHEDULES),
    Bug("all splits in one place", STORING, "(split * P.groups + group)", "group", SPLIT, SCHEDULES),
    Bug("tails of channels", "to_channels_last.cu", "channel < P.channels", "true", SLICED, SCHEDULES),
    Bug("padding behind is not folded", FOLDING, "P.before[1] + P.behind[1]", "P.before[1]", FOLDED, SCHEDULES),
    Bug("folded twice", FOLDING, "a + b + e == 0 || ", "", FOLDED, SCHEDULES),
    Bug("filled with ones", "fill.cu", "Accumulator value = 0", "Accumulator value = 1", FILLED, SCHEDULES),
    Bug("tails of taps", "pack_weights.cu", " && t < P.depths", "", replace(CHUNKS, case=CUBE), SCHEDULES),
]

ROWS = "P.M - m < TILE_M ? P.M - m : TILE_M"
CLAMP = "first + f < static_cast<Index>(P.K) ? f"
COUNT = "i >= P.elements"
BEYOND = [
    Bug("one pixel too many", "loading.cuh", "m >= static", "m > static", UNPADDED),
    Bug("one filter too many", "loading.cuh", "= filter < P.K", "= filter <= P.K", UNPADDED),
    Bug("one channel too many", "loading.cuh", "own < static", "own <= static", ELEMENTS),
    Bug("tails of channels", "to_channels_last.cu", "channel < P.channels", "true", COPIED),
    Bug("rows of a whole tile", STORING, ROWS, "TILE_M", CHUNKS),
    Bug("one thread too many that packs", "pack_weights.cu", COUNT, COUNT.replace(">=", ">"), UNPADDED),
    Bug("one thread too many that adds", "sum_partials.cu", "i >= count", "i > count", SPLIT),
    Bug("one thread too many that folds", FOLDING, "i >= P.walk.elements", "i > P.walk.elements", FOLDED),
    Bug("one thread too many that fills", "fill.cu", "i >= P.walk.elements", "i > P.walk.elements", FILLED),
    Bug("filters not clamped", "direct.cu", CLAMP, "true ? f", DIRECT),
    Bug("next channel", "direct.cu", "c < channels", "c <= channels", DIRECT),
    Bug("next residual", "epilogue.cuh", "k * P.residual_step.c]", "(k + 1) * P.residual_step.c]", ADDED),
    Bug("next bias", "epilogue.cuh", "k * P.bias_step", "(k + 1) * P.bias_step", DIRECT),
    Bug("next y", "direct.cu", "y[k * P.y_step.c]", "y[(k + 1) * P.y_step.c]", DIRECT),
]
NO_SWIZZLE = Bug("no swizzle", "tile.cuh", "(chunk ^ (row >> 1 & 3))", "chunk", CHUNKS)
FIRST = ("no barrier in the loop", "wait for one group too few", "fetch before the barrier, fma", "padding off by one")
"""One for each line of the table that a result shows; the samples of all are held to the right result below."""
BUGS = [*RACES, REFILLED, *WRONG, *BEYOND, NO_SWIZZLE]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep libraries of broken kernels out of the cache that stays."""
    monkeypatch.setenv("STRIDEKIT_EMULATOR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def use(cache: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let the emulator take its kernels from a folder."""

    def take(folder: Path) -> None:
        monkeypatch.setattr(runtime, "kernels_dir", lambda: folder)
        runtime._module.cache_clear()

    yield take
    runtime._module.cache_clear()


def spoiled(of: Sample) -> tuple[Schedule, ...]:
    """Return the schedules under which the sample fails."""
    found = []
    for schedule in SCHEDULES:
        try:
            replace(of, schedule=schedule).run()
        except (AssertionError, EmulatorError):
            found.append(schedule)
    return tuple(found)


@pytest.mark.parametrize("of", sorted({bug.sample for bug in BUGS}, key=repr))
def test_a_sample_is_right_on_the_real_kernels(of: Sample) -> None:
    assert spoiled(of) == ()


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, marks=[pytest.mark.thorough] * (bug.name not in FIRST), id=str(bug))
        for bug in (*RACES, *WRONG)
        if bug.wrong
    ],
)
def test_a_result_is_wrong_under_every_schedule_that_can_show_it(bug: Bug, use: Any, tmp_path: Path) -> None:
    use(bug.plant(tmp_path))
    assert spoiled(bug.sample) == bug.wrong


def test_a_square_that_is_filled_again_too_early_gives_a_wrong_result(
    use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block takes a second sample only where a grid cannot hold them all."""
    monkeypatch.setattr(moving, "LARGEST_GRID", (2**31 - 1, 65535, 1))
    assert spoiled(REFILLED.sample) == ()
    use(REFILLED.plant(tmp_path))
    assert spoiled(REFILLED.sample) == SCHEDULES


@pytest.mark.sanitizer
@pytest.mark.skipif(bool(sanitizing.why_not("thread")), reason=sanitizing.why_not("thread"))
@pytest.mark.parametrize("bug", [bug for bug in RACES if bug.sanitizer], ids=str)
def test_thread_sanitizer_sees_a_race(bug: Bug, cache: None, tmp_path: Path) -> None:
    done = sanitized("thread", bug, tmp_path)
    assert done.returncode == 66, done.stderr
    assert "data race" in done.stderr


@pytest.mark.sanitizer
@pytest.mark.skipif(bool(sanitizing.why_not("address")), reason=sanitizing.why_not("address"))
@pytest.mark.parametrize("bug", BEYOND, ids=str)
def test_address_sanitizer_sees_the_end_of_every_array(bug: Bug, cache: None, tmp_path: Path) -> None:
    """In a process of its own: what is written beyond an array may be anyone's."""
    done = sanitized("address", bug, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "heap-buffer-overflow" in done.stderr


def sanitized(flavour: str, bug: Bug, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the bug's sample on the broken kernel, which the report must name."""
    run, environment = command(flavour, "--kernels", str(bug.plant(folder)), "--repeat", repr(bug.sample))
    done = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert str(folder / "kernels") in done.stderr
    return done


def conflicts(tile: Tile, dtype: str, product: str) -> int:
    """Return how often rows of one matrix had to be read after one another, since the last call."""
    counted = runtime._module(gemm_kernel(dtype, product, tile, LOADERS[0]), "fast").statistics()
    assert counted["matrix_loads"]
    return counted["bank_conflicts"]


TENSOR = [(dtype, product, tile) for (dtype, product), tiles in TILES.items() if product for tile in tiles]


@pytest.mark.parametrize(("dtype", "product", "tile"), TENSOR, ids=lambda v: getattr(v, "name", v))
def test_tensor_cores_read_without_bank_conflicts(dtype: str, product: str, tile: Tile) -> None:
    precision = "tf32" if product == "Tf32Product" else "ieee"
    of: Case = replace(WIDE, dtype=dtype, memory="channels_last", filters=tile.n + 5)
    Sample(of, "implicit_gemm", precision, tile).run()
    assert conflicts(tile, dtype, product) == 0


def test_without_the_swizzle_bank_conflicts_are_counted(use: Any, tmp_path: Path) -> None:
    use(NO_SWIZZLE.plant(tmp_path))
    NO_SWIZZLE.sample.run()
    assert conflicts(TILE, "float16", "HalfProduct") > 1000


def test_a_kernel_that_has_changed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no swizzle: .* holds this 0 times, not once"):
        replace(NO_SWIZZLE, old="nothing of the kind").plant(tmp_path)
