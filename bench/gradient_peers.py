"""Race the gradients with PyTorch's own backward over the suite: ``python -m bench.peers --direction input_grad``.

PyTorch's side is ``torch.ops.aten.convolution_backward`` with only the gradient asked for, so that neither side pays
for autograd. Each library at its best layout; a wrong result stops the race.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import stridekit as sk
from bench import machine
from bench.contenders import Call, aligned, copies
from bench.layers import Layer, chosen
from bench.racing import race
from bench.records import RESULTS
from stridekit.planning.plan import Plan

TOLERANCE = 1e-4
"""Of the largest element: catches a wrong result, not a rounding; the tests hold the real bound."""


def run(options: argparse.Namespace, threads: list[int], versions: dict[str, str]) -> None:
    """Run the race for ``options.direction`` and write its table and JSON."""
    layers = chosen(options.layers)
    console = Console(width=None if sys.stdout.isatty() else 120)
    runs = []
    for number in threads:
        rows = [
            _row(layer, options.direction, options.batch, number, options.rounds)
            for layer in track(layers, f"{number} threads", console=Console(stderr=True), transient=True)
        ]
        mean = math.exp(sum(math.log(row["over_torch"]) for row in rows) / len(rows))
        runs.append({"threads": number, "geometric_mean": {"over_torch": mean}, "layers": rows})
        console.print(_table(runs[-1], options.direction))
    result = {
        "machine": machine.description(),
        "versions": versions,
        "direction": options.direction,
        "batch": options.batch,
        "rounds": options.rounds,
        "runs": runs,
    }
    path: Path | None = options.json or (None if options.layers else RESULTS / f"peers_cpu_{options.direction}.json")
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {path}")


def _row(layer: Layer, direction: str, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    calls = {**_ours(layer, direction, batch, threads), **_torch_calls(layer, direction, batch, threads)}
    results = {name: np.asarray(call()) for name, call in calls.items()}
    truth = results["torch_first"].astype(np.float64)
    for name, gradient in results.items():
        error = float(np.max(np.abs(gradient - truth))) / float(np.max(np.abs(truth)))
        if gradient.shape != truth.shape or not error < TOLERANCE:
            raise SystemExit(f"{layer.name}: {name} differs from PyTorch by {error:.1e} of the largest element")
    timings = race(calls, rounds)
    best = {
        side: min(timing.median for name, timing in timings.items() if name.startswith(side))
        for side in ("ours", "torch")
    }
    plan = _plan(layer, direction, batch, False)
    return {
        "layer": layer.name,
        "algorithm": plan.algorithm,
        "flops": plan.flops,
        "time_s": {name: vars(timing) for name, timing in timings.items()},
        "over_torch": best["torch"] / best["ours"],
    }


def _plan(layer: Layer, direction: str, batch: int, last: bool) -> Plan:
    return sk.plan_conv(
        (batch, *layer.input_shape[1:]),
        layer.weight_shape,
        memory_order="channels_last" if last else "channels_first",
        backend="cpu",
        direction=direction,
        **layer.arguments,
    )


def _arrays(layer: Layer, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return input, weight and gradient of the output; the same numbers every time."""
    x, weight, _ = layer.arrays(batch)
    shape = _plan(layer, "forward", batch, False).output_shape
    return x, weight, np.random.default_rng(batch).standard_normal(shape, np.float32)


def _ours(layer: Layer, direction: str, batch: int, threads: int) -> dict[str, Call]:
    sk.set_num_threads(threads)
    x, weight, grad_output = _arrays(layer, batch)
    calls: dict[str, Call] = {}
    for order, last in (("first", False), ("last", True)):
        plan, kept = _plan(layer, direction, batch, last), aligned(x, last)
        grads = cycle([aligned(grad_output, last) for _ in range(copies(grad_output.nbytes))])

        def call(plan: Plan = plan, kept: np.ndarray = kept, grads: Iterator[np.ndarray] = grads) -> np.ndarray:
            first = weight if plan.problem.direction == "input_grad" else kept
            return plan.execute(first, next(grads))

        calls[f"ours_{order}"] = call
    return calls


def _torch_calls(layer: Layer, direction: str, batch: int, threads: int) -> dict[str, Call]:
    import torch

    torch.set_num_threads(threads)
    x, weight, grad_output = (torch.from_numpy(array) for array in _arrays(layer, batch))
    mask = [direction == "input_grad", direction == "weight_grad", False]
    calls: dict[str, Call] = {}
    for order in ("first", "last"):
        memory_format: Any = {2: torch.channels_last, 3: torch.channels_last_3d}.get(layer.rank)
        if order == "last" and memory_format is None:
            continue
        if order == "last":
            x, weight, grad_output = (t.to(memory_format=memory_format) for t in (x, weight, grad_output))
        grads = cycle([grad_output.clone() for _ in range(copies(grad_output.nbytes))])

        def call(x: Any = x, weight: Any = weight, grads: Iterator[Any] = grads) -> np.ndarray:
            with torch.inference_mode():
                found = torch.ops.aten.convolution_backward(
                    next(grads), x, weight, None, layer.stride, layer.padding, layer.dilation, False,
                    [0] * layer.rank, layer.groups, mask,
                )  # fmt: skip
            return found[mask.index(True)].numpy()

        calls[f"torch_{order}"] = call
    return calls


def _table(run: dict[str, Any], direction: str) -> Table:
    table = Table(
        title=f"{direction}, {run['threads']} threads; speed relative to PyTorch's backward, each at its best layout",
        caption="above 1 stridekit is faster",
    )
    table.add_column("layer")
    for heading in ("first ms", "last ms", "PyTorch ms", "GFLOP/s", "over PyTorch"):
        table.add_column(heading, justify="right")
    for row in run["layers"]:
        times = {name: time["median"] for name, time in row["time_s"].items()}
        torch = min(seconds for name, seconds in times.items() if name.startswith("torch"))
        ours = min(times["ours_first"], times["ours_last"])
        table.add_row(
            row["layer"],
            *(f"{1e3 * seconds:.3f}" for seconds in (times["ours_first"], times["ours_last"], torch)),
            f"{row['flops'] / ours / 1e9:.1f}",
            f"{row['over_torch']:.2f}",
        )
    table.add_section()
    table.add_row("geometric mean", *[""] * 4, f"{run['geometric_mean']['over_torch']:.3f}")
    return table
