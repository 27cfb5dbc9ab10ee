"""Race stridekit with PyTorch and ONNX Runtime over the suite: ``python -m bench.peers --device cpu``.

``--device cuda`` races with cuDNN instead, with options of its own: bench/cuda_peers.py. Weights as given are compared
with PyTorch, packed weights with ONNX Runtime, which packs its constants; each at its best layout. A wrong result stops
the race.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import stridekit as sk
from bench import contenders, cuda_peers, gradient_peers, machine
from bench.layers import Layer, chosen
from bench.racing import Timing, race
from bench.records import RESULTS

TOLERANCE = 1e-4
"""Of the largest output: catches a wrong result, not a rounding; the tests hold the real bound."""


def main() -> None:
    """Run the race and write its table and JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__, add_help=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    known, rest = parser.parse_known_args()
    if known.device == "cuda":
        sys.exit(cuda_peers.main(rest))
    parser.add_argument("-h", "--help", action="help")
    parser.add_argument("--threads", default="1,all", help="thread counts, such as 1,2,all (default: 1,all)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender on each layer (default: 9)")
    parser.add_argument("--layers", nargs="*", default=[], metavar="NAME", help="shell patterns; default: all")
    parser.add_argument("--json", type=Path, help="default, for the whole suite: in bench/results/")
    parser.add_argument(
        "--direction",
        choices=["forward", "input_grad", "weight_grad"],
        default="forward",
        help="gradients race with PyTorch's own backward (default: forward)",
    )
    parser.add_argument("--batch", type=int, default=1, help="of the gradients' race (default: 1)")
    options = parser.parse_args()
    if options.direction != "forward":
        gradient_peers.run(options, _thread_counts(options.threads), _versions())
        return
    layers = chosen(options.layers)
    console = Console(width=None if sys.stdout.isatty() else 150)
    runs = []
    for threads in _thread_counts(options.threads):
        limits = {"fma_peak_flops_per_s": machine.fma_peak(threads), "copy_bytes_per_s": machine.copy_rate(threads)}
        rows = [
            _row(layer, threads, options.rounds, limits)
            for layer in track(layers, f"{threads} threads", console=Console(stderr=True), transient=True)
        ]
        runs.append({"threads": threads, **limits, "geometric_mean": _means(rows), "layers": rows})
        console.print(_table(runs[-1]))
    result = {"machine": machine.description(), "versions": _versions(), "rounds": options.rounds, "runs": runs}
    path = options.json or (None if options.layers else RESULTS / "peers_cpu.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {path}")


def _row(layer: Layer, threads: int, rounds: int, limits: dict[str, float]) -> dict[str, Any]:
    calls = {
        **contenders.ours(layer, threads),
        **contenders.torch_calls(layer, threads),
        **contenders.onnxruntime_call(layer, threads),
    }
    _check(layer, calls)
    timings = race(calls, rounds)
    plan = layer.plan()
    floor = max(plan.flops / limits["fma_peak_flops_per_s"], plan.bytes / limits["copy_bytes_per_s"])
    return {
        "layer": layer.name,
        "algorithm": plan.algorithm,
        "flops": plan.flops,
        "bytes": plan.bytes,
        "floor_s": floor,
        "time_s": {name: vars(timing) for name, timing in timings.items()},
        **_ratios(timings),
        "fraction_of_floor": floor / _best(timings, "packed"),
    }


def _ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Speed as a share of the peer's: above 1 stridekit is faster."""
    given, packed = _best(timings, "given"), _best(timings, "packed")
    torch, ort = _best(timings, "torch"), _best(timings, "onnxruntime")
    return {
        "given_over_torch": torch / given,
        "packed_over_onnxruntime": ort / packed,
        "over_better": min(torch / given, ort / packed),
        "given_over_better": min(torch, ort) / given,
        "packed_over_better": min(torch, ort) / packed,
    }


_RATIOS = ("given_over_torch", "packed_over_onnxruntime", "over_better", "given_over_better", "packed_over_better")


def _best(timings: dict[str, Timing], prefix: str) -> float:
    return min(timing.median for name, timing in timings.items() if name.startswith(prefix))


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {key: math.exp(sum(math.log(row[key]) for row in rows) / len(rows)) for key in _RATIOS}


def _check(layer: Layer, calls: dict[str, contenders.Call]) -> None:
    results = {name: np.asarray(call()) for name, call in calls.items()}
    truth = results["onnxruntime"].astype(np.float64)
    for name, y in results.items():
        error = float(np.max(np.abs(y - truth))) / float(np.max(np.abs(truth)))
        if y.shape != truth.shape or not error < TOLERANCE:
            raise SystemExit(f"{layer.name}: {name} differs from ONNX Runtime by {error:.1e} of the largest output")


def _table(run: dict[str, Any]) -> Table:
    plural = "" if run["threads"] == 1 else "s"
    table = Table(
        title=f"{run['threads']} thread{plural}; FMA peak {run['fma_peak_flops_per_s'] / 1e9:.1f} GFLOP/s, "
        f"copy {run['copy_bytes_per_s'] / 1e9:.1f} GB/s; speed relative to each peer at its best layout",
        caption="given: weights as given; packed: plan.pack; above 1 stridekit is faster",
    )
    table.add_column("layer")
    columns = ("given ms", "packed ms", "PyTorch ms", "ORT ms", "GFLOP/s", "of floor")
    for heading in (*columns, "given/PyTorch", "packed/ORT", "given/better", "packed/better"):
        table.add_column(heading, justify="right")
    for row in run["layers"]:
        best = {
            key: min(time["median"] for name, time in row["time_s"].items() if name.startswith(key))
            for key in ("given", "packed", "torch", "onnxruntime")
        }
        table.add_row(
            row["layer"],
            *(f"{1e3 * seconds:.3f}" for seconds in best.values()),
            f"{row['flops'] / best['packed'] / 1e9:.1f}",
            f"{row['fraction_of_floor']:.2f}",
            *(f"{row[key]:.2f}" for key in (_RATIOS[0], _RATIOS[1], _RATIOS[3], _RATIOS[4])),
        )
    means = run["geometric_mean"]
    table.add_section()
    table.add_row(
        "geometric mean", *[""] * 6, *(f"{means[key]:.3f}" for key in (_RATIOS[0], _RATIOS[1], _RATIOS[3], _RATIOS[4]))
    )
    return table


def _thread_counts(text: str) -> list[int]:
    available = len(os.sched_getaffinity(0))
    counts = [available if word == "all" else int(word) for word in text.split(",")]
    return list(dict.fromkeys(counts))


def _versions() -> dict[str, str]:
    names = ("numpy", "numba", "llvmlite", "torch", "onnxruntime")
    return {"stridekit": sk.__version__, **{name: importlib.metadata.version(name) for name in names}}


if __name__ == "__main__":
    main()
