"""Random problems on the emulator, checked by the oracle: every family of kernels once, then whatever is drawn.

As a command it goes on for as long as it is told, and starts itself anew where a sanitizer must be loaded first:

    python -m tests.emulator.sampling --flavour thread --seconds 200

Every sample is printed before it runs, so that the last line is the one that a sanitizer's report is about; `--repeat`
runs it again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from stridekit.backends.cuda import direct, implicit_gemm, pool_windows
from stridekit.backends.cuda.catalog import TILES, families
from stridekit.backends.cuda.tiles import Tile
from stridekit.memory.workspace import ALIGNMENT, align
from tests.kit.cases import DTYPES, MODES, Arrays, Case, case
from tests.kit.curated import CURATED
from tests.kit.gradients import DIRECTIONS, Gradient, Operands
from tests.kit.oracle import assert_correct
from tests.kit.pooling import PoolCase, check_avg, check_grads, check_max, random_pool
from tests.kit.randoms import random_case

from . import runtime as emulated
from . import sanitizing, use_emulator
from .building import FLAVOURS
from .machine import SCHEDULES, Schedule

ROOT = Path(__file__).parents[2]
MOST_FLOPS = 8_000_000
"""Of a random problem: a few tenths of a second under a sanitizer."""
_TILED = ("TENSOR_TILES", "FLOAT32_TILES", "FLOAT64_TILES")
_RUNTIMES = {"address": "libasan", "thread": "libtsan"}


@dataclass(frozen=True)
class Sample:
    """One problem and all that decides which kernels compute it, and how they take turns.

    Parameters
    ----------
    case
        The problem; its numbers follow from it.
    algorithm, precision
        Of the plan.
    tile
        The only one of the implicit GEMM.
    in_place
        Whether inputs are read where they lie, not copied to channels last.
    packed
        Whether the weights are packed beforehand.
    wide
        Whether the direct kernel has 64-bit indices.
    schedule
        Of the emulator.
    direction
        Forward, or one of `gradients.DIRECTIONS`, without bias and activation.
    adds
        Whether a residual is added.
    """

    case: Case
    algorithm: str = "direct"
    precision: str = "ieee"
    tile: Tile | None = None
    in_place: bool = False
    packed: bool = False
    wide: bool = False
    schedule: Schedule = SCHEDULES[0]
    direction: str = "forward"
    adds: bool = False

    @property
    def gradient(self) -> Gradient:
        """The gradient that is computed, unless forward."""
        return Gradient(self.case, self.direction)

    def operands(self) -> Arrays | Operands:
        """Build what the plan executes."""
        return self.case.arrays() if self.direction == "forward" else self.gradient.operands()

    def run(self, flavour: str = "fast") -> list[str]:
        """Compute it, raise where the result is wrong, and return the kernels launched."""
        first, second, *bias = self.operands()
        residual = self.case.residual() if self.adds else None
        with ExitStack() as stack:
            if self.tile:
                stack.enter_context(patch.multiple(implicit_gemm, **dict.fromkeys(_TILED, (self.tile,))))
            if self.wide:
                stack.enter_context(patch.object(direct, "_narrow", lambda *_: False))
            if flavour == "address":
                # The last part of a workspace ends where the workspace ends; what every part needs, its size keeps.
                stack.enter_context(patch("stridekit.memory.workspace.align", _unless_cache_lines))
            runtime = stack.enter_context(use_emulator(flavour=flavour, schedule=self.schedule))
            plan = self.plan()
            given = [first, second]
            if self.packed and self.direction != "weight_grad":
                place = 1 if self.direction == "forward" else 0
                given[place] = plan.pack(given[place])
            y = plan.execute(*given, *bias, residual=residual)
        if self.precision == "tf32" and _forward_name(self.algorithm) == "implicit_gemm":
            # Products of rounded factors are exact, so that the bound of float32 holds for them.
            first, second = _tf32(first), _tf32(second)
        if self.direction == "forward":
            assert_correct(y, self.case, first, second, *bias, residual=residual)
        else:
            self.gradient.assert_correct(y, (first, second))
        return list(runtime.launched)

    def plan(self) -> Any:
        """Plan it for the runtime in use."""
        if self.direction == "forward":
            plan = self.case.plan("cuda", precision=self.precision, residual=self.adds)
        else:
            plan = self.gradient.plan("cuda", precision=self.precision)
        device = plan.device.frugal() if self.in_place else plan.device
        return replace(plan, algorithm=self.algorithm, device=device)


@dataclass(frozen=True)
class PoolSample:
    """One pooling and its gradients; `wide` for 64-bit coordinates."""

    case: PoolCase
    wide: bool = False
    schedule: Schedule = SCHEDULES[0]

    def run(self, flavour: str = "fast") -> list[str]:
        """Compute them, raise where one is wrong, and return the kernels launched."""
        with ExitStack() as stack:
            if self.wide:
                stack.enter_context(patch.object(pool_windows, "_narrow", lambda *_: False))
            runtime = stack.enter_context(use_emulator(flavour=flavour, schedule=self.schedule))
            for check in (check_max, check_avg, check_grads):
                check(self.case, "cuda")
        return list(runtime.launched)


def _unless_cache_lines(nbytes: int, unit: int = ALIGNMENT) -> int:
    return nbytes if unit == ALIGNMENT else align(nbytes, unit)


def _tf32(values: np.ndarray) -> np.ndarray:
    """Round to ten bits behind the leading one, ties away from zero."""
    bits = np.array(values, np.float32, order="K").view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def visits(rng: np.random.Generator) -> Iterator[Sample | PoolSample]:
    """Yield samples that launch a kernel of every family, on shapes with a tail in every dimension."""
    tailed = case(
        *("tailed", (23, 29), 3), stride=(4, 5), padding=((1, 2), (0, 1)), batch=4, bias=True, activation="gelu"
    )
    for (dtype, product), tiles in TILES.items():
        few = 1 if dtype == "float64" else 3
        for of, chosen in (
            (replace(tailed, channels=61, batch=1), {}),  # copied, and long enough to be split
            (replace(tailed, channels=40, memory="channels_last"), {"packed": True}),
            (replace(tailed, channels=37), {"in_place": True, "packed": True}),
            (replace(tailed, channels=few, kernel=(5, 3), stride=(6, 5), dilation=(1, 2)), {}),
        ):
            tile = tiles[rng.integers(len(tiles))]
            problem = replace(of, dtype=dtype, filters=tile.n + 5)
            algorithm = "implicit_gemm" if product else "implicit_gemm_fma"
            precision = "tf32" if product == "Tf32Product" else "ieee"
            yield Sample(problem, algorithm, precision, tile, schedule=_schedule(rng), **chosen)
    for dtype in DTYPES:
        of = replace(tailed, channels=7, filters=7, dtype=dtype, channels_last=bool(rng.integers(2)))
        yield Sample(of, wide=bool(rng.integers(2)), schedule=_schedule(rng))
        # Rows and columns between the windows are filled; the gradient of the padding is widened and folded.
        yield Sample(replace(of, kernel=(3, 2)), schedule=_schedule(rng), direction="input_grad")
        folded = replace(of, padding_mode=MODES[rng.integers(1, len(MODES))], stride=(2, 1))
        yield Sample(folded, schedule=_schedule(rng), direction="input_grad")
        yield Sample(of, schedule=_schedule(rng), direction="weight_grad")
        window = PoolCase((23, 19), (3, 4), (2, 3), padding=((1, 2), (3, 0)), dilation=(2, 1), ceil_mode=True)
        pool = replace(window, channels=7, dtype=dtype, channels_last=bool(rng.integers(2)))
        yield PoolSample(pool, wide=bool(rng.integers(2)), schedule=_schedule(rng))


def draws(rng: np.random.Generator) -> Iterator[Sample | PoolSample]:
    """Yield random samples without end: an eighth poolings; of the others a third curated, half gradients."""
    while True:
        dtype = str(rng.choice(DTYPES))
        if rng.random() < 1 / 8:
            yield PoolSample(random_pool(rng, dtype=dtype), wide=bool(rng.integers(2)), schedule=_schedule(rng))
            continue
        curated = rng.random() < 1 / 3
        of = replace(CURATED[rng.integers(len(CURATED))], dtype=dtype) if curated else random_case(rng, dtype=dtype)
        sample = Sample(of, precision="tf32" if dtype == "float32" and rng.random() < 1 / 2 else "ieee")
        if of.batch and rng.random() < 1 / 2:
            sample = replace(sample, direction=DIRECTIONS[rng.integers(2)])
        elif rng.random() < 1 / 3:
            sample = replace(sample, adds=True)
        with use_emulator():
            plan = sample.plan()
        if plan.flops > MOST_FLOPS:
            continue
        algorithm = str(rng.choice([c.algorithm for c in plan.candidates if not c.excluded]))
        tile = None
        if (computing := _forward_name(algorithm)) != "direct":
            product = implicit_gemm.PRODUCTS[dtype] if computing == "implicit_gemm" else ""
            # The gradient of a padding that is no zeros is summed in float32, whatever the type.
            tiles = TILES.get((dtype, product), TILES["float32", ""])
            tile = tiles[rng.integers(len(tiles))]
        in_place, packed, wide = (bool(chance) for chance in rng.integers(2, size=3))
        wide = wide and not tile
        yield replace(sample, algorithm=algorithm, tile=tile, in_place=in_place, packed=packed, wide=wide,
                      schedule=_schedule(rng))  # fmt: skip


def _forward_name(algorithm: str) -> str:
    """Return the algorithm that runs: a gradient of patches is one product, by a forward algorithm."""
    return algorithm.removesuffix("_of_patches")


def _schedule(rng: np.random.Generator) -> Schedule:
    return replace(SCHEDULES[rng.integers(len(SCHEDULES))], seed=int(rng.integers(1 << 30)))


def unvisited(launched: Collection[str]) -> list[str]:
    """Return a kernel of each family of which none was launched."""
    return [family[0].entry for family in families() if not any(kernel.entry in launched for kernel in family)]


def sample(flavour: str, seconds: float, seed: int) -> Counter[str]:
    """Visit every family, then run random samples until the time is up; return how often each kernel was launched."""
    rng, launched, start = np.random.default_rng(seed), Counter[str](), time.monotonic()
    missing = unvisited(launched)
    for each in itertools.chain(visits(rng), draws(rng)):
        # However slow the machine: no family may go without.
        if not missing and time.monotonic() - start > seconds:
            break
        print(each, flush=True)
        launched.update(each.run(flavour))
        if missing and not (missing := unvisited(launched)):
            print(f"every family was visited after {time.monotonic() - start:.0f} s")
    return launched


def command(flavour: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that sample under a flavour, to be run in `ROOT`."""
    own, environment = sanitizing.command(
        flavour, ["-m", "tests.emulator.sampling", f"--flavour={flavour}", *arguments]
    )
    if flavour == "thread":
        # It would go on, and the last sample would not be the one.
        environment["TSAN_OPTIONS"] += ":halt_on_error=1"
    return own, environment


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.emulator.sampling", description=__doc__)
    parser.add_argument("--flavour", choices=FLAVOURS, default="fast")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=int(f"{datetime.now(UTC):%Y%m%d}"), help="default: today's date")
    parser.add_argument("--repeat", metavar="SAMPLE", help="run only this sample, as it was printed")
    parser.add_argument("--kernels", type=Path, help="a folder of other kernels than the project's")
    chosen = parser.parse_args()
    if chosen.flavour != "fast" and _RUNTIMES[chosen.flavour] not in os.environ.get("LD_PRELOAD", ""):
        own, environment = command(chosen.flavour, *sys.argv[1:])
        os.execvpe(own[0], own, environment)
    if chosen.kernels:
        emulated.kernels_dir = lambda: chosen.kernels
    if chosen.repeat:
        launched = Counter(eval(chosen.repeat).run(chosen.flavour))
    else:
        print(f"seed {chosen.seed}")
        launched = sample(chosen.flavour, chosen.seconds, chosen.seed)
    for entry, count in sorted(launched.items()):
        print(f"{count:6} {entry}")
    print(f"{launched.total()} launches of {len(launched)} kernels; families not visited: {unvisited(launched)}")


if __name__ == "__main__":
    main()
