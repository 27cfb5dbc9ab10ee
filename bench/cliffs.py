"""Look for cliffs: ``python -m bench.cliffs`` times shapes that are known for them, and random ones, beside PyTorch.

Nothing may take longer than `TIMES` of PyTorch's time and `PLUS_SECONDS`, on the same threads and in the same memory
order. The shapes lie in ``cliffs.toml``, by kind; ``--random`` draws others. Both libraries are called as people call
them; of each the fastest of several turns counts, since a neighbour can only make a call slower.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype

TIMES = 5.0
"""How many times as long as PyTorch a call may take,"""
PLUS_SECONDS = 0.2e-3
"""and how much longer than that: what a call from Python costs."""
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}
"""Of the largest element; catches a wrong result, not a rounding: the tests hold the real bound."""
_PATH = Path(__file__).with_name("cliffs.toml")
_WINDOWS = ("max_pool", "avg_pool", "max_pool_grad", "avg_pool_grad")
_TURN_SECONDS = 0.01
_GIVE_UP_SECONDS = 2.0

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One operation on one shape, as ``cliffs.toml`` has it."""

    operation: str
    input: tuple[int, ...]
    window: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    last: bool = False

    @property
    def rank(self) -> int:
        return len(self.input) - 2

    def __str__(self) -> str:
        shown = [f"{name}={value}" for name, value in self.arguments.items()]
        shown += [self.dtype] * (self.dtype != "float32") + ["channels last"] * self.last
        return " ".join((self.operation, _by(self.input), "with", _by(self.window), *shown))


@dataclass(frozen=True)
class Times:
    """Seconds of the fastest call of each library."""

    ours: float
    torch: float

    @property
    def share(self) -> float:
        """How much of the time allowed was taken: above 1 is a cliff."""
        return self.ours / (TIMES * self.torch + PLUS_SECONDS)


def kinds() -> dict[str, tuple[Case, ...]]:
    """Read the cases by kind."""
    return {
        kind: tuple(_case(**entry) for entry in table["cases"])
        for kind, table in tomllib.loads(_PATH.read_text()).items()
    }


def _case(
    operation: str,
    input: list[int],
    weight: list[int] | None = None,
    kernel: list[int] | None = None,
    dtype: str = "float32",
    last: bool = False,
    **arguments: Any,
) -> Case:
    window = kernel if operation in _WINDOWS else weight
    if window is None:
        raise ValueError(f"{operation} {input}: no {'kernel' if operation in _WINDOWS else 'weight'}")
    return Case(operation, tuple(input), tuple(window), arguments, dtype, last)


def drawn(count: int, seed: int, most_flops: float = 2e9) -> Iterator[Case]:
    """Draw convolutions and gradients that are large along some axes and small along the others."""
    rng = np.random.default_rng(seed)
    while count:
        case = _draw(rng)
        if 0 < _flops(case) <= most_flops and math.prod(case.input) <= 1 << 23 and math.prod(case.window) <= 1 << 23:
            count -= 1
            yield case


def _draw(rng: np.random.Generator) -> Case:
    def size(most: int) -> int:
        return int(np.exp(rng.uniform(0, np.log(most + 1))))

    rank = int(rng.integers(1, 4))
    kernel = [size((4000, 150, 24)[rank - 1]) for _ in range(rank)]
    stride, dilation = [1] * rank, [1] * rank
    if rng.random() < 0.5:
        stride = [size(40) for _ in range(rank)]
    if rng.random() < 0.25:
        dilation = [size(300 // rank**2) for _ in range(rank)]
    outputs = [size((400, 40, 10)[rank - 1]) for _ in range(rank)]
    if rng.random() < 0.4:
        outputs = [min(each, 3) for each in outputs]
    groups = size(16) if rng.random() < 0.25 else 1
    channels, filters = size(300 // groups + 1) * groups, size(300 // groups + 1) * groups
    batch = size(8)
    transposed = rng.random() < 0.3
    arguments: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
    last = bool(rng.random() < 0.3)
    dtype = str(rng.choice(["float32"] * 6 + ["float64"]))
    if transposed:
        shapes = (batch, filters, *outputs), (filters, channels // groups, *kernel)
        return Case("conv_transpose", *shapes, arguments, dtype, last)
    padding = [int(rng.integers(0, f)) if rng.random() < 0.4 else 0 for f in kernel]
    sizes = [
        max((p - 1) * s + d * (f - 1) + 1 - 2 * pad + int(rng.integers(0, s)), 1)
        for p, s, d, f, pad in zip(outputs, stride, dilation, kernel, padding, strict=True)
    ]
    shapes = (batch, channels, *sizes), (filters, channels // groups, *kernel)
    operation = str(rng.choice(["forward", "input_grad", "input_grad", "weight_grad"]))
    return Case(operation, *shapes, arguments | {"padding": padding}, dtype, last)


def _flops(case: Case) -> float:
    """Return twice the multiply-adds, or 0 for what no window fits."""
    if case.operation == "conv_transpose":
        return 2.0 * case.input[0] * math.prod(case.window) * math.prod(case.input[2:])
    known = {name: case.arguments[name] for name in ("stride", "padding", "dilation")}
    try:
        geometry = sk.conv_geometry(case.input[2:], kernel_size=case.window[2:], **_tuples(known))
    except ValueError:
        return 0.0
    return 2.0 * case.input[0] * math.prod(case.window) * math.prod(geometry.output_size)


def timed(case: Case, threads: int, turns: int = 5) -> Times:
    """Check the results of both libraries against each other, then time them in turn.

    Raises
    ------
    ValueError
        If they differ.
    """
    import torch

    sk.set_num_threads(threads)
    torch.set_num_threads(threads)
    ours, theirs = _calls(case)
    got, wanted = np.asarray(ours()).astype(np.float64), theirs().to(torch.float64).numpy()
    error = float(np.max(np.abs(got - wanted), initial=0.0)) if got.shape == wanted.shape else math.inf
    if not error <= TOLERANCE.get(case.dtype, 1e-3) * max(1.0, float(np.max(np.abs(wanted), initial=0.0))):
        raise ValueError(f"{case}: {got.shape} differs from PyTorch's {wanted.shape} by {error:.1e}")
    # One thread's own time leaves out what neighbours on the machine take.
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = [math.inf, math.inf]
    for _ in range(turns):
        for number, call in enumerate((ours, theirs)):
            # A call that lasts seconds is not delayed by its neighbours alone.
            if best[number] == math.inf or best[number] < _GIVE_UP_SECONDS:
                best[number] = min(best[number], _turn(call, clock))
    return Times(*best)


def _turn(call: Call, clock: Callable[[], float]) -> float:
    """Return the fastest of the calls that fit into a turn, after one that is not counted."""
    best, end = math.inf, 0.0
    begin = clock()
    call()
    end = clock()
    if end - begin > _GIVE_UP_SECONDS:
        return end - begin
    stop = end + _TURN_SECONDS
    while best == math.inf or end < stop:
        begin = clock()
        call()
        end = clock()
        best = min(best, end - begin)
    return best


def _calls(case: Case) -> tuple[Call, Call]:
    """Return the same operation in both libraries, on the same numbers."""
    rng = np.random.default_rng(0)
    pooled = case.operation in _WINDOWS
    x = _laid(rng.standard_normal(case.input), case)
    known = _tuples(case.arguments)
    operation, gradient = case.operation.removesuffix("_grad"), case.operation.endswith("_grad")
    if not gradient:
        function = getattr(sk, f"{'conv' if operation == 'forward' else operation}{case.rank}d")
        window = case.window if pooled else _weight(rng, case)
        return (lambda: function(x, window, **known)), _torch_forward(case, operation, x, window, False)
    if pooled:
        forward = getattr(sk, f"{operation}{case.rank}d")
        grad = _laid(rng.standard_normal(forward(x, case.window, **known).shape), case)
        theirs = _torch_gradient(case, operation, x, case.window, grad, None)
        if operation == "max_pool":
            return (lambda: sk.max_pool_grad(x, grad, case.window, **known)), theirs
        return (lambda: sk.avg_pool_grad(x.shape, grad, case.window, **known)), theirs
    weight = _weight(rng, case)
    outputs = sk.plan_conv(x.shape, weight.shape, dtype=case.dtype, **known).output_shape
    grad = _laid(rng.standard_normal(outputs), case)
    theirs = _torch_gradient(case, "forward", x, weight, grad, operation)
    if operation == "input":
        return (lambda: sk.conv_input_grad(x.shape, weight, grad, **known)), theirs
    return (lambda: sk.conv_weight_grad(x, weight.shape, grad, **known)), theirs


def _laid(values: np.ndarray, case: Case) -> np.ndarray:
    """Return values in the case's type and memory order, channels first in shape."""
    values = values.astype(numpy_dtype(case.dtype))
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1) if case.last else values


def _weight(rng: np.random.Generator, case: Case) -> np.ndarray:
    summed = math.prod(case.window[1:])
    return (rng.standard_normal(case.window) / math.sqrt(summed)).astype(numpy_dtype(case.dtype))


def _torch_forward(case: Case, operation: str, x: Any, window: Any, graph: bool) -> Call:
    import torch
    from torch.nn import functional

    x = x if isinstance(x, torch.Tensor) else _tensor(x)
    known = _tuples(case.arguments)
    if operation in _WINDOWS:
        function = getattr(functional, f"{operation}{case.rank}d")
    else:
        window = window if isinstance(window, torch.Tensor) else _tensor(window)
        function = getattr(functional, f"{'conv' if operation == 'forward' else operation}{case.rank}d")
    mode, padding = known.pop("padding_mode", "zeros"), ()
    if mode != "zeros":
        padding = known.pop("padding")
        both = [padding] * case.rank if isinstance(padding, int) else padding
        padding = tuple(amount for each in reversed(both) for amount in (each, each))

    def call() -> Any:
        with torch.set_grad_enabled(graph):
            return function(functional.pad(x, padding, mode) if padding else x, window, **known)

    return call


def _torch_gradient(case: Case, operation: str, x: Any, window: Any, grad: Any, of: str | None) -> Call:
    """Return PyTorch's backward; a pool's with the forward pass that it needs."""
    import torch

    x, grad = _tensor(x), _tensor(grad)
    wanted = x
    if of is not None:
        window = _tensor(window)
        wanted = x if of == "input" else window
    wanted.requires_grad_()
    forward = _torch_forward(case, operation, x, window, True)
    if of is None:
        return lambda: torch.autograd.grad(forward(), wanted, grad)[0]
    y = forward()
    return lambda: torch.autograd.grad(y, wanted, grad, retain_graph=True)[0]


def _tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def main() -> int:
    """Time the kinds asked for; 1 where a case is over the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.cliffs", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(kinds())}; default: all")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="draw so many more; alone, only those")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--threads", default="1,2", help="thread counts (default: 1,2)")
    parser.add_argument("--turns", type=int, default=5, help="of each library on each case (default: 5)")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="show only the worst N")
    options = parser.parse_args()
    known = kinds()
    unknown = set(options.kinds) - set(known)
    if unknown:
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    asked = options.kinds or ([] if options.random else list(known))
    cases = [(kind, case) for kind in asked for case in known[kind]]
    cases += [("random", case) for case in drawn(options.random, options.seed)]
    rows, wrong = [], []
    for kind, case in cases:
        for threads in map(int, options.threads.split(",")):
            try:
                rows.append((timed(case, threads, options.turns), threads, kind, case))
            except ValueError as error:
                wrong.append(str(error))
    rows.sort(key=lambda row: -row[0].share)
    over = sum(row[0].share > 1 for row in rows)
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(_table(rows[: options.worst or None]))
    console.print(f"{over} of {len(rows)} take longer than {TIMES:g} times PyTorch and {1e3 * PLUS_SECONDS:g} ms")
    for message in wrong:
        console.print(f"wrong: {message}")
    return int(over > 0 or bool(wrong))


def _table(rows: list[tuple[Times, int, str, Case]]) -> Table:
    table = Table(caption="share of the time allowed; above 1 is a cliff")
    for heading in ("kind", "case", "threads", "ours ms", "PyTorch ms", "share"):
        table.add_column(heading, justify="left" if heading in ("kind", "case") else "right", overflow="fold")
    for times, threads, kind, case in rows:
        figures = (f"{1e3 * times.ours:.3f}", f"{1e3 * times.torch:.3f}", f"{times.share:.2f}")
        table.add_row(kind, str(case), str(threads), *figures)
    return table


if __name__ == "__main__":
    sys.exit(main())
