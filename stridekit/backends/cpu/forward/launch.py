"""What the kernels are told: one or several problems as rows of integers, all but the addresses made beforehand.

Problems that are run together share scratch and threads, and are begun by one call: a phase of an input gradient can
be a few microseconds of work, less than it takes Python to begin it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends.cpu.forward.blocking import SMALL_FLOPS, Blocking
from stridekit.backends.cpu.forward.partition import TASK_VECTORS
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.activations import FUSED
from stridekit.problems.conv_problem import ConvProblem

Cut = Callable[[ConvProblem, CpuDevice], Blocking]
Counted = tuple[tuple[ConvProblem, int], ...]
"""Problems, and how many there are of each."""
WORD_BYTES = 8
_COUNTERS = 3
"""Words of each problem that begin as 0: tasks drawn of packing, of convolving, whether a weight is not finite."""
NOTHING, WORKSPACE, X, OUT, WEIGHT = range(5)
"""What an integer of a row is counted from."""
Number = tuple[int, int]
"""An integer of a row, and what it is counted from."""


class Part(NamedTuple):
    """A forward problem, and where it finds its arrays within those of a call: bytes from their start, and strides.

    Attributes
    ----------
    problem : ConvProblem
    x, x_strides : int, tuple
        Strides are those of (n, c, d, h, w), 0 for axes that a lower rank lacks.
    out, out_strides : int, tuple
        The same.
    weight, weight_strides : int, tuple
        Strides are those of (group, filter, channel, d, h, w); empty for weights that come packed.
    """

    problem: ConvProblem
    x: int
    x_strides: tuple[int, ...]
    out: int
    out_strides: tuple[int, ...]
    weight: int
    weight_strides: tuple[int, ...]


class Rows(NamedTuple):
    """A job's integers: what each is, and which base it is counted from."""

    offsets: np.ndarray
    counted_from: np.ndarray

    def at(self, bases: np.ndarray) -> np.ndarray:
        """Return them for arrays that begin at `bases`."""
        numbers: np.ndarray = bases[self.counted_from] + self.offsets
        return numbers


@dataclass(frozen=True, eq=False)
class Job:
    """All of a call that does not change from one to the next.

    Attributes
    ----------
    layout : WorkspaceLayout
        Its regions are ``"counters"``, ``"bias"``, ``"scratch"`` and, for weights as given, ``"weights"``.
    packing, convolving : Rows
        For the kernels of those names; `packing` has no rows for packed weights.
    turned : bool
        Whether `packing` is a `Turning`, rather than a count of `Packing`.
    stored, unbounded : tuple of int
        Where in the workspace each problem's weights lie, and the word that says whether one is not finite.
    packers, workers : int
        Threads that are worth it.
    words : int
        Address of the words of one `Blocking`: all lay a bias alike.
    kept : tuple
        The arrays that rows name by address.
    """

    layout: WorkspaceLayout
    packing: Rows
    convolving: Rows
    turned: bool
    stored: tuple[int, ...]
    unbounded: tuple[int, ...]
    packers: int
    workers: int
    words: int
    kept: tuple[np.ndarray, ...]


class Words(NamedTuple):
    """A blocking, and the same as the kernels read it: at `address`, in `array`, empty if no memory could hold it."""

    blocking: Blocking
    array: np.ndarray
    address: int


@lru_cache(maxsize=4096)
def words_of(cut: Cut, problem: ConvProblem, device: CpuDevice) -> Words:
    """Cut a problem, and write down how."""
    b = cut(problem, device)
    array = np.array(b.words if max(b.words) < 2**63 else (), np.int64)
    return Words(b, array, int(array.ctypes.data))


@lru_cache(maxsize=4096)
def layout_of(cut: Cut, problems: Counted, device: CpuDevice, packed: bool) -> tuple[WorkspaceLayout, int]:
    """Return the workspace of problems run together, each so many times, and how many threads are worth it."""
    counts = [count for _, count in problems]
    blockings = [words_of(cut, problem, device).blocking for problem, _ in problems]
    threads = device.threads if sum(problem.flops * count for problem, count in problems) >= SMALL_FLOPS else 1
    workers = max(1, min(threads, sum(b.tasks * count for b, count in zip(blockings, counts, strict=True))))
    regions = [
        ("counters", _COUNTERS * WORD_BYTES * sum(counts)),
        ("bias", max((b.bias_elements * b.itemsize for b in blockings), default=0)),
        ("scratch", workers * scratch_step(blockings)),
    ]
    if not packed:
        each = (align(weights_bytes(b)) * count for b, count in zip(blockings, counts, strict=True))
        regions.append(("weights", sum(each)))
    return WorkspaceLayout(tuple(regions)), workers


def scratch_step(blockings: list[Blocking]) -> int:
    """Return the bytes of a thread's scratch, which serves one problem after the other."""
    return max((align(b.scratch) for b in blockings), default=0)


def weights_bytes(b: Blocking) -> int:
    """Return the bytes of weights in tile order."""
    return b.packed_elements * b.itemsize


@lru_cache(maxsize=1024)
def job_of(cut: Cut, parts: tuple[Part, ...], device: CpuDevice, packed: bool) -> Job:
    """Prepare problems to be run together; `weight` of a part is from the start of the packed weights if `packed`."""
    layout, workers = layout_of(cut, tuple(Counter(part.problem for part in parts).items()), device, packed)
    every = [words_of(cut, part.problem, device) for part in parts]
    step = scratch_step([words.blocking for words in every])
    activation, slope = activation_of(parts[0].problem)
    packing: list[list[Number]] = []
    convolving: list[list[Number]] = []
    places: list[int] = []
    flags: list[int] = []
    counter, stored = layout.offsets["counters"], layout.offsets.get("weights", 0)
    for part, words in zip(parts, every, strict=True):
        b, plain = words.blocking, [(words.address, NOTHING)]
        weights, unbounded = (stored, WORKSPACE), (counter + 2 * WORD_BYTES, WORKSPACE)
        if packed:
            weights = part.weight, WEIGHT
            unbounded = part.weight + align(weights_bytes(b)), WEIGHT
        else:
            packing.append([*plain, *packing_row(b, weights, unbounded, (counter, WORKSPACE), part)])
        convolving.append(
            [
                *plain,
                weights,
                unbounded,
                (layout.offsets["bias"], WORKSPACE),
                (activation, NOTHING),
                (int(slope.ctypes.data), NOTHING),
                (int(_in_place(b, part)), NOTHING),
                (layout.offsets["scratch"], WORKSPACE),
                (step, NOTHING),
                (counter + WORD_BYTES, WORKSPACE),
                (part.x, X),
                *((stride, NOTHING) for stride in part.x_strides),
                (part.out, OUT),
                *((stride, NOTHING) for stride in part.out_strides),
            ]
        )
        places.append(stored)
        flags.append(counter + 2 * WORD_BYTES)
        counter += _COUNTERS * WORD_BYTES
        stored += align(weights_bytes(b))
    return Job(
        layout=layout,
        packing=_counted(packing),
        convolving=_counted(convolving),
        turned=False,
        stored=tuple(places),
        unbounded=tuple(flags),
        packers=packers(every, device),
        workers=workers,
        words=every[0].address,
        kept=(slope, *(words.array for words in every)),
    )


def packers(every: list[Words], device: CpuDevice) -> int:
    """Return how many threads are worth packing weights."""
    nbytes = sum(weights_bytes(words.blocking) for words in every)
    tasks = max(-(-words.blocking.groups * words.blocking.vectors // TASK_VECTORS) for words in every)
    return min(device.threads, tasks) if nbytes >= _SMALL_BYTES else 1


_SMALL_BYTES = 128 * 1024
"""Below this a second thread costs more than it saves: some 20 microseconds of packing."""


def packing_row(b: Blocking, packed: Number, unbounded: Number, counter: Number, part: Part) -> list[Number]:
    """Return a row for the kernel that packs, without the address of the words."""
    flat = _end_to_end(b, part.weight_strides[2:])
    others = (flat, NOTHING), (part.weight, WEIGHT), *((stride, NOTHING) for stride in part.weight_strides)
    return [packed, unbounded, counter, *((int(number), base) for number, base in others)]


def packed_rows(words: Words, part: Part, packed: int, unbounded: int, counter: int, weight: np.ndarray) -> np.ndarray:
    """Return the job of packing one problem's weights, given the addresses."""
    row = packing_row(words.blocking, (packed, NOTHING), (unbounded, NOTHING), (counter, NOTHING), part)
    rows = rows_of([(1, NOTHING), (words.address, NOTHING), *row])
    return rows.at(np.array((0, 0, 0, 0, weight.ctypes.data), np.int64))


def _end_to_end(b: Blocking, strides: tuple[int, ...]) -> bool:
    """Say whether one filter's weights (channel, d, h, w) lie end to end."""
    expected = b.itemsize
    for size, stride in zip((b.w.kernel, b.h.kernel, b.d.kernel, b.channels), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _in_place(b: Blocking, part: Part) -> bool:
    """Say whether a block that touches no padding may be read where it lies."""
    # Where a pixel is a single channel, nobody asks how far the next one lies; a pair of groups reads two.
    one_channel = b.pixel_channels == 1 and not b.lanewise
    return b.copies and b.multiplier == 1 and (part.x_strides[1] == b.itemsize or one_channel)


def activation_of(problem: ConvProblem) -> tuple[int, np.ndarray]:
    """Return an activation's number in `finishing`, and its parameter in the type of the sums."""
    number, slope = -1, 0.0
    if problem.activation is not None:
        number, slope = FUSED.index(problem.activation.name), problem.activation.slope
    return number, np.array(slope, DTYPES[problem.dtype].accumulator.numpy)


def rows_of(pairs: list[Number]) -> Rows:
    """Return integers, given each with what it is counted from."""
    numbers, bases = zip(*pairs, strict=True)
    return Rows(np.array(numbers, np.int64), np.array(bases, np.intp))


def _counted(rows: list[list[Number]]) -> Rows:
    return rows_of([(len(rows), NOTHING), *(pair for row in rows for pair in row)])


def execute(
    job: Job,
    dtype: str,
    workspace: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    packed: np.ndarray | None,
    bias: np.ndarray | None,
    out: np.ndarray,
) -> None:
    """Run a job: pack the weights, unless they come packed, then convolve."""
    from stridekit.backends.cpu.forward.loop_nest import convolve
    from stridekit.backends.cpu.forward.pack_weights import pack_bias, pack_weights
    from stridekit.backends.cpu.input_gradient.pack_weights import turn_weights
    from stridekit.backends.cpu.runtime.thread_pool import run

    first, nbytes = job.layout.offsets["counters"], job.layout.regions[0][1]
    workspace[first : first + nbytes] = 0
    arrays = workspace, x, weight, packed, bias, out, job
    read: Any = weight if packed is None else packed
    base = workspace.ctypes.data
    bases = np.array((0, base, x.ctypes.data, out.ctypes.data, read.ctypes.data), np.int64)
    given = (0, 0) if bias is None else (bias.ctypes.data, bias.strides[0])
    pack_bias(dtype)(job.words, *given, base + job.layout.offsets["bias"])
    if packed is None:
        pack = turn_weights if job.turned else pack_weights
        run(pack(dtype), job.packing.at(bases), job.packers, *arrays)
    run(convolve(dtype), job.convolving.at(bases), job.workers, *arrays)


def strides_of(array: np.ndarray) -> tuple[int, int, int, int, int]:
    """Return the strides of (n, c, d, h, w) in bytes, 0 for the axes that a lower rank lacks."""
    n, c, d, h, w = *array.strides[:2], *(0,) * (5 - array.ndim), *array.strides[2:]
    return n, c, d, h, w
