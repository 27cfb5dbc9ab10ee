"""The main job: run one layer at several strides, and measure what each stride gives, costs and loses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from stridekit import vram
from stridekit.arguments import as_flag, as_int, per_axis, printable, shown
from stridekit.backends import load_backend, preferred_backend
from stridekit.compare.advice import recommend, typical_use, warnings_about
from stridekit.compare.comparison import FeatureMap, Pictures, StrideComparison, StrideRow
from stridekit.compare.inputs import (
    checked_alternatives,
    checked_bank,
    checked_dtype,
    checked_pixels,
    checked_share,
    checked_strides,
)
from stridekit.compare.measuring import (
    BASELINE,
    Progress,
    Stride,
    StrideRun,
    check_room,
    spectra_of,
    take_turns,
    warm_up,
)
from stridekit.compare.shrinking import measure_alternatives
from stridekit.errors import ShapeError
from stridekit.memory.arrays import Array
from stridekit.memory.limits import MOST_REPEATS, MOST_STRIDES
from stridekit.planning.dispatch import asked_backend, plan_conv
from stridekit.planning.plan import Plan
from stridekit.problems.padding import Padding

DEFAULT_STRIDES = (1, 2, 3, 4, 5, 8, 10)
DEFAULT_MAX_ALIASED_ENERGY = 0.1
SHOWN_FILTERS = 4


@dataclass(frozen=True)
class ChosenDevice:
    """Where a comparison runs, and why there."""

    backend: str
    description: str
    why: str


def compare_strides(
    image: str | os.PathLike[str] | Array,
    strides: Sequence[int | Sequence[int]] = DEFAULT_STRIDES,
    *,
    kernel_size: int | Sequence[int] = 7,
    filters: int = 32,
    padding: Padding = "same",
    dtype: Any = "float32",
    backend: str = "auto",
    weight: Array | None = None,
    repeats: int | None = None,
    max_aliased_energy: float = DEFAULT_MAX_ALIASED_ENERGY,
    alternatives: Sequence[str] = (),
    backward: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> StrideComparison:
    """Run a layer at several strides on a picture, and measure what each stride gives, costs and loses.

    Time is of ``plan.execute`` with packed weights, into memory that is already there: after a warm-up the strides
    take turns, so that whatever else the machine does hits all alike. Stride 1 is always measured, as the baseline.

    The recommendation is the largest stride (in input positions for each output position) of those asked for whose
    aliased energy is at most `max_aliased_energy` and whose windows leave no gap between them.

    Parameters
    ----------
    image : path or array
        A file that Pillow reads, or floats of shape (H, W) or (N, C, H, W). What may as well have its channels last,
        such as (1, 480, 640, 3), is refused, unless `weight` says how many there are.
    strides : sequence of int or (rows, columns)
        Repeated ones are measured once.
    kernel_size, filters : int or (rows, columns), int
        Of `stridekit.compare.filters.filter_bank`; unused if `weight` is given.
    padding : int, pairs or name
        As for `stridekit.conv2d`.
    dtype : str or dtype
        What image and weights are cast to.
    backend : {"auto", "cuda", "cpu", "reference"}
        "auto": as `stridekit.use_backend` or STRIDEKIT_BACKEND say, else the first that can run here.
    weight : array, shape (K, C, R, S), optional
        Filters of your own.
    repeats : int, optional
        Timed executions of each stride. By default what fits into 3 seconds, at least 5 and at most 50.
    max_aliased_energy : float
        0 to 1.
    alternatives : sequence of str
        Ways to shrink by each stride beyond 1, to be compared: the strided layer, ``"conv"``, and the layer at stride
        1 before ``"max_pool"``, ``"avg_pool"`` or ``"blur_pool"``. By default none: they take several times as long.
    backward : bool
        Whether to measure a training step of each alternative too; of ``"conv"`` if none is given.
    name : str, optional
        What reports call the picture.
    progress : callable, optional
        Called with (what is done, steps done, steps in all).

    Returns
    -------
    StrideComparison
        ``.rows``, ``.alternatives``, ``.recommendation``, ``.warnings``; ``.to_json()``; ``.save(directory)``.

    Raises
    ------
    ShapeError, DtypeError, ImageError, BackendUnavailableError
        Before anything is computed.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> from stridekit.compare.images import zone_plate
    >>> result = sk.compare_strides(zone_plate(64), (2, (2, 1)), filters=4, backend="reference", repeats=1)
    >>> [row.output_size for row in result.rows]
    [(32, 32), (32, 64)]
    """
    asked = checked_strides(strides)
    if len(asked) > MOST_STRIDES:
        raise ShapeError(f"strides holds {len(asked)} different ones; at most {MOST_STRIDES} are compared at once")
    max_aliased_energy = checked_share("max_aliased_energy", max_aliased_energy)
    repeats = None if repeats is None else as_int("repeats", repeats, 1)
    if repeats is not None and repeats > MOST_REPEATS:
        raise ShapeError(f"repeats is {repeats}; wanted at least 1 and at most {MOST_REPEATS}")
    backward = as_flag("backward", backward)
    if name is not None and not isinstance(name, str):
        raise ShapeError(f"name is {shown(name)}; wanted a str")
    if progress is not None and not callable(progress):
        raise ShapeError(
            f"progress is {shown(progress)}; wanted a function of (what is done, steps done, steps in all)"
        )
    ways = checked_alternatives(alternatives) or (("conv",) if backward else ())
    dtype = checked_dtype(dtype)
    device = choose_device(backend)
    pixels = checked_pixels(image, dtype, weighted=weight is not None)
    planned = partial(plan_conv, pixels.shape, dtype=dtype, padding=padding, backend=device.backend)
    if weight is None and as_int("filters", filters) > 0:
        # What the filters come to is known before there are any.
        taps = per_axis("kernel_size", kernel_size, 2)
        check_room([planned((filters, pixels.shape[1], *taps), stride=BASELINE)])
    bank = checked_bank(weight, filters, kernel_size, pixels.shape[1], dtype)
    plans = {stride: planned(bank.weight.shape, stride=stride) for stride in dict.fromkeys((BASELINE, *asked))}
    check_room(plans.values())
    report = progress or _silent
    runs = warm_up(plans, pixels, bank.weight, report)
    # The spectrum comes before the clock: it is where a response that overflowed its dtype is found.
    total, beyond = spectra_of(runs, dtype, report)
    rounds = take_turns(runs.values(), repeats, report)
    rows = {stride: _row(stride, runs, total, beyond[number]) for number, stride in enumerate(runs)}
    baseline = rows[BASELINE]
    chosen = tuple(rows[stride] for stride in asked)
    compared, turns = measure_alternatives(
        {stride: runs[stride] for stride in asked}, runs[BASELINE], bank.weight, ways,
        shares={row.stride: row.aliased_energy for row in chosen}, energy=float(total.sum()),
        backward=backward, repeats=repeats, report=report,
    )  # fmt: skip
    best, recommendation = recommend(chosen, baseline, max_aliased_energy, bank.labels)
    if name is None:
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "an array"
    name = printable(name)
    return StrideComparison(
        layer=_layer(plans[BASELINE], padding, "filter bank" if weight is None else "given"),
        device=f"{device.backend}: {device.description}",
        backend=device.backend,
        why=device.why,
        rows=chosen,
        baseline=baseline,
        alternatives=compared,
        recommended_stride=best.stride,
        recommendation=recommendation,
        warnings=warnings_about(chosen, plans[BASELINE].geometry.kernel_extent, flat=not total.any()),
        max_aliased_energy=max_aliased_energy,
        repeats=rounds,
        alternatives_repeats=turns,
        filter_labels=bank.labels,
        image={
            "name": name,
            "size": list(pixels.shape[2:]),
            "channels": pixels.shape[1],
            "batch": pixels.shape[0],
        },
        versions=_versions(device.backend),
        pictures=_pictures(pixels, runs, np.array([row.aliased_energy_by_filter for row in chosen])),
    )


def choose_device(backend: str = "auto") -> ChosenDevice:
    """Choose where a comparison runs: by argument, `stridekit.use_backend`, STRIDEKIT_BACKEND, else what is best here.

    Raises
    ------
    BackendUnavailableError
        If what was asked for cannot run here.
    """
    # An array runs where it lives; a file lives nowhere yet, so what is best here may be chosen.
    name, why = asked_backend(backend) or preferred_backend()
    return ChosenDevice(name, load_backend(name).device().description, why)


def _row(stride: Stride, runs: dict[Stride, StrideRun], total: np.ndarray, beyond: np.ndarray) -> StrideRow:
    run, baseline = runs[stride], runs[BASELINE]
    plan, geometry = run.plan, run.plan.geometry
    first, median, third = (float(value) for value in np.percentile(run.seconds, (25, 50, 75)))
    whole = float(total.sum())
    by_filter = np.divide(beyond, total, out=np.zeros_like(beyond), where=total > 0)
    extents = geometry.kernel_extent
    return StrideRow(
        stride=stride,
        output_size=geometry.output_size,
        positions_kept=plan.problem.output_pixels / baseline.plan.problem.output_pixels,
        padding=geometry.padding,
        dropped=geometry.dropped,
        unread=geometry.unread,
        overlap=geometry.overlap,
        phase=geometry.phase,
        flops=plan.flops,
        time_s=median,
        time_quartiles_s=(first, third),
        speedup=float(np.median(baseline.seconds)) / median,
        bytes=plan.bytes,
        predicted_peak_bytes=vram.estimate(plan, packed=True).peak,
        peak_bytes=run.peak_bytes,
        aliased_energy=float(beyond.sum()) / whole if whole else 0.0,
        aliased_energy_by_filter=tuple(by_filter.tolist()),
        receptive_field_growth=tuple(extent + 2 * step for extent, step in zip(extents, stride, strict=True)),
        receptive_field_after_stride_1=tuple(extent + 2 for extent in extents),
        algorithm=plan.algorithm,
        typical_use=typical_use(stride, extents),
    )


def _pictures(pixels: np.ndarray, runs: dict[Stride, StrideRun], shares: np.ndarray) -> Pictures:
    """Keep a few filters of the first sample, from the one that aliases least to the one that aliases most."""
    order = np.argsort(shares.mean(0), kind="stable")
    places = np.linspace(0, len(order) - 1, min(SHOWN_FILTERS, len(order))).round().astype(int)
    shown = tuple(int(order[place]) for place in places)
    maps = {
        stride: FeatureMap(run.response[0, list(shown)].astype(np.float32), run.plan.geometry)
        for stride, run in runs.items()
    }
    return Pictures(pixels[0], shown, maps)


def _layer(plan: Plan, padding: Padding, weights: str) -> dict[str, Any]:
    problem = plan.problem
    return {
        "input_shape": list(problem.input_shape),
        "weight_shape": list(problem.weight_shape),
        "kernel_size": list(plan.geometry.kernel_size),
        "filters": problem.out_channels,
        "in_channels": problem.in_channels,
        "weights": weights,
        "padding": padding if isinstance(padding, str) else [list(pair) for pair in plan.geometry.padding],
        "dtype": problem.dtype,
    }


def _versions(backend: str) -> dict[str, str]:
    import stridekit

    return {"stridekit": stridekit.__version__, "numpy": np.__version__, **load_backend(backend).versions()}


def _silent(what: str, done: int, of: int) -> None:
    """Tell nobody."""
