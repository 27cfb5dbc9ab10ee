"""Race stridekit with cuDNN over the suite: ``python -m bench.peers --device cuda``.

Each layer at each batch and dtype, weights as given and packed, at the better memory order of each side. stridekit adds
the bias as it stores; cuDNN is timed without one and with one. A wrong result is not timed, and fails the run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import stridekit as sk
from bench import cuda_contenders
from bench.contenders import l2_bytes
from bench.cuda_timing import DTYPES, Times, allow_tf32, limits, take_turns
from bench.layers import Layer, chosen
from bench.records import RESULTS, geometric_mean, result_path, text_table, write_json
from stridekit.backends import load_backend, unavailable

BATCHES = (1, 32)
QUICK = [
    "resnet_stem", "resnet_3x3_shallow", "resnet_3x3_s2_deep", "resnet_1x1", "vgg_3x3", "mobilenet_depthwise_s2",
    "vit_patch", "deeplab_d12", "speech_body", "odd_3x3_s2",
]  # fmt: skip
ROW_SECONDS = 1.5
"""For the turns of one row, where the whole run has no limit."""
RATIOS = ("given_over_cudnn", "packed_over_cudnn", "packed_over_cudnn_bias")


def main(arguments: list[str] | None = None) -> int:
    """Run the race; return 1 if a result is wrong or nothing was timed, 2 where there is no CUDA."""
    options = parser().parse_args(arguments)
    layers = chosen(options.layers or (QUICK if options.quick else []))
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    device = load_backend("cuda").device()
    result: dict[str, Any] = {
        "card": device.model,
        "versions": versions(),
        "limits": limits("cuda"),
        "rows": [],
        "left_out": [],
    }
    path = options.json or (None if options.layers or options.quick else result_path(RESULTS, "peers", device.model))
    rows = list(itertools.product(layers, options.batches, options.dtypes))
    # In random order, so that what is measured when the time is up is a fair sample of the suite.
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    end = time.monotonic() + options.seconds if options.seconds else None
    for done, (layer, batch, dtype) in enumerate(rows):
        seconds = ROW_SECONDS if end is None else (end - time.monotonic()) / (len(rows) - done) / 2
        if end is not None and time.monotonic() > end:
            result["left_out"] += [(*_named(*row), "no time left") for row in rows[done:]]
            break
        row = measured(layer, batch, dtype, min(seconds, ROW_SECONDS), result["limits"])
        if "left_out" in row:
            result["left_out"].append((*_named(layer, batch, dtype), row["left_out"]))
        else:
            result["rows"].append(row)
            print(_line(row), flush=True)
        if path:
            write_json(path, summed_up(result))
    print(f"\n{table(summed_up(result))}\n{result['note']}")
    if path:
        write_json(path, result)
        print(f"written to {path}")
    return int(not result["rows"] or any("wrong" in row for row in result["rows"]))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m bench.peers --device cuda", description=__doc__)
    found.add_argument("--layers", nargs="*", default=[], metavar="NAME", help="shell patterns; default: all")
    found.add_argument("--batches", nargs="*", type=int, default=list(BATCHES), metavar="N")
    found.add_argument("--dtypes", nargs="*", choices=DTYPES, default=list(DTYPES))
    found.add_argument("--quick", action="store_true", help="a few layers of each kind")
    found.add_argument("--seconds", type=float, help="stop after about so long (default: when all is done)")
    found.add_argument("--json", type=Path, help="default: bench/results/peers_<card>.json for the whole suite")
    return found


def missing() -> str:
    """Return what is missing for this race, or ``""``."""
    reason = unavailable("cuda")
    if reason:
        return f"no CUDA: {reason}"
    try:
        import torch
    except ImportError as error:
        return f"cuDNN runs by PyTorch ({error}): pip install torch"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA device: install its CUDA build"
    return ""


def measured(layer: Layer, batch: int, dtype: str, seconds: float, limits: dict[str, Any]) -> dict[str, Any]:
    """Return one row; a layer that memory does not hold is left out, with the reason."""
    try:
        return _row(layer, batch, dtype, seconds, limits)
    except Exception as error:
        # PyTorch's OutOfMemoryError is no MemoryError.
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            return {"left_out": f"out of memory: {str(error).splitlines()[0]}"}
        return {**_keys(layer, batch, dtype), "wrong": f"{type(error).__name__}: {error}"}
    finally:
        release()


def release() -> None:
    """Give back what both libraries keep for themselves: neither sees what the other has."""
    import cupy
    import torch

    torch.cuda.synchronize()
    cupy.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()


def _row(layer: Layer, batch: int, dtype: str, seconds: float, limits: dict[str, Any]) -> dict[str, Any]:
    import torch

    row = _keys(layer, batch, dtype)
    free, _ = torch.cuda.mem_get_info()
    cache = l2_bytes("cuda")
    element = 4 if dtype in ("tf32", "float32") else 2
    needed = 4 * (max(2 * cache, batch * int(np.prod(layer.input_shape[1:])) * element))
    if needed > free:
        return {"left_out": f"inputs and their copies take {needed / 1e9:.0f} GB, free are {free / 1e9:.0f} GB"}
    allow_tf32(dtype == "tf32")
    with torch.inference_mode():
        given = cuda_contenders.operands(layer, batch, dtype, "cuda", cache)
        own, plans = cuda_contenders.ours(layer, batch, dtype, given)
        calls = {**own, **cuda_contenders.cudnn(layer, given)}
        wrong = cuda_contenders.wrong_result(layer, dtype, given, calls)
        if wrong:
            return {**row, "wrong": wrong}
        times = take_turns({**calls, **cuda_contenders.transposes(given)}, seconds)
    plan = plans["first"]
    algorithms = {order: each.algorithm for order, each in plans.items()}
    row |= {"algorithm": algorithms, "flops": plan.flops, "bytes": plan.bytes}
    return row | compared(times, plan.flops, plan.bytes, dtype, limits)


def compared(times: dict[str, Times], flops: int, nbytes: int, dtype: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Return times, their floor and the ratios: above 1 stridekit is faster."""
    floor = max(flops / limits["matrix_product_flops_per_s"][dtype], nbytes / limits["copy_bytes_per_s"])
    best = {
        "given": _best(times, "given_"),
        "packed": _best(times, "packed_"),
        "cudnn": _best({name: each for name, each in times.items() if "bias" not in name}, "cudnn_"),
        "cudnn_bias": _best(times, "cudnn_bias_"),
    }
    return {
        "floor_s": floor,
        "device_s": {name: vars(each.device) for name, each in times.items()},
        "host_s": {name: each.host for name, each in times.items()},
        "waited": sorted(name for name, each in times.items() if not each.gapless),
        "best_s": best,
        "given_over_cudnn": best["cudnn"] / best["given"],
        "packed_over_cudnn": best["cudnn"] / best["packed"],
        "packed_over_cudnn_bias": best["cudnn_bias"] / best["packed"],
        "fraction_of_floor": floor / best["packed"],
        "cudnn_fraction_of_floor": floor / best["cudnn"],
    }


def _best(times: dict[str, Times], prefix: str) -> float:
    return min(each.device.median for name, each in times.items() if name.startswith(prefix))


def summed_up(result: dict[str, Any]) -> dict[str, Any]:
    """Put the means of each dtype and batch beside the rows, and a note in one line."""
    timed = [row for row in result["rows"] if "wrong" not in row]
    wrong = len(result["rows"]) - len(timed)
    means = []
    for dtype, batch in dict.fromkeys((row["dtype"], row["batch"]) for row in sorted(timed, key=_order)):
        of = [row for row in timed if (row["dtype"], row["batch"]) == (dtype, batch)]
        mean = {key: geometric_mean(row[key] for row in of) for key in RATIOS}
        floors = {key: statistics.median(row[key] for row in of) for key in _FLOORS}
        means.append({"dtype": dtype, "batch": batch, "layers": len(of), **mean, **floors})
    overall = geometric_mean(row["packed_over_cudnn"] for row in timed)
    result["note"] = (
        f"{len(timed)} rows timed, {wrong} wrong, {len(result['left_out'])} left out; "
        + (f"{overall:.2f} of cuDNN's speed" if overall else "no ratio")
    )  # fmt: skip
    result["means"] = means
    return result


_FLOORS = ("fraction_of_floor", "cudnn_fraction_of_floor")


def table(result: dict[str, Any]) -> str:
    """Return one line for each dtype and batch: geometric means of ratios, medians of shares."""
    heading = ("dtype", "batch", "layers", "given/cuDNN", "packed/cuDNN", "with bias", "of floor", "cuDNN of floor")
    rows = [
        (mean["dtype"], mean["batch"], mean["layers"], *(f"{mean[key]:.2f}" for key in (*RATIOS, *_FLOORS)))
        for mean in result["means"]
    ]
    return text_table(heading, rows)


def versions() -> dict[str, str]:
    """Return the versions of all that takes part."""
    import torch

    return {
        "stridekit": sk.__version__,
        **load_backend("cuda").versions(),
        "torch": importlib.metadata.version("torch"),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def _keys(layer: Layer, batch: int, dtype: str) -> dict[str, Any]:
    return dict(zip(("layer", "batch", "dtype"), _named(layer, batch, dtype), strict=True))


def _named(layer: Layer, batch: int, dtype: str) -> tuple[str, int, str]:
    return layer.name, int(batch), str(dtype)


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return DTYPES.index(row["dtype"]), row["batch"]


def _line(row: dict[str, Any]) -> str:
    what = f"{row['layer']} x{row['batch']} {row['dtype']}"
    if "wrong" in row:
        return f"{what}: WRONG, {row['wrong']}"
    best = "  ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in row["best_s"].items())
    return f"{what}: {best} us; {row['packed_over_cudnn']:.2f} of cuDNN, {row['fraction_of_floor']:.2f} of floor"


if __name__ == "__main__":
    sys.exit(main())
