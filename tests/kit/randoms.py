"""Random cases: small, legal, and of every kind that the arguments allow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tests.kit.cases import ACTIVATIONS, DTYPES, MODES, Case, case
from tests.kit.laying import MEMORY_ORDERS, TRANSPOSED, WAYS
from tests.kit.oracle import padding_pairs

SEED = int(os.environ.get("STRIDEKIT_TEST_SEED", "0"))
"""What random cases of a run follow from."""


def random_case(rng: np.random.Generator, **fixed: Any) -> Case:
    """Draw a case; a third of them with few weights over many channels. `fixed` overrules what was drawn."""
    rank = int(rng.choice([1, 2, 2, 2, 3]))
    few = bool(rng.random() < 1 / 3)
    while True:
        sizes, window = _axes(rng, rank, few)
        mode, padding = str(rng.choice(MODES)), _padding(rng, rank)
        if _fits(sizes, window, padding, mode):
            break
    groups, channels, filters = _channels(rng, few)
    drawn: dict[str, Any] = {
        **window,
        "padding": padding,
        "padding_mode": mode,
        "groups": groups,
        "channels": channels,
        "filters": filters,
        "batch": int(rng.choice([0, 1, 1, 2, 2, 3])) if rng.random() < 0.1 else int(rng.integers(1, 3)),
        "bias": bool(rng.random() < 0.4),
        "activation": ACTIVATIONS[rng.integers(len(ACTIVATIONS))] if rng.random() < 0.4 else None,
        "dtype": str(rng.choice(DTYPES)),
        "channels_last": bool(rng.random() < 0.4),
        "memory": [None, None, *MEMORY_ORDERS][rng.integers(4)],
        "lies": _way(rng),
        "weight_lies": _way(rng),
        "data": "sparse" if few else "normal",
    }
    return case("random", sizes, **{**drawn, **fixed})


def _axes(rng: np.random.Generator, rank: int, few: bool) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    largest = {1: 7, 2: 4, 3: 3}[rank] - (1 if few and rank > 1 else 0)
    room = {1: 24, 2: 9, 3: 4}[rank] - (3 if few else 0)
    kernel = tuple(int(f) for f in rng.integers(1, largest + 1, rank))
    dilation = tuple(int(d) for d in rng.choice([1, 1, 1, 2, 3], rank))
    stride = tuple(int(s) for s in rng.choice([1, 1, 2, 2, 3, 4, 7], rank))
    extents = [d * (f - 1) + 1 for f, d in zip(kernel, dilation, strict=True)]
    sizes = tuple(max(1, extent - int(rng.integers(0, 4)) + int(rng.integers(0, room))) for extent in extents)
    return sizes, {"kernel": kernel, "stride": stride, "dilation": dilation}


def _padding(rng: np.random.Generator, rank: int) -> Any:
    form = rng.integers(7 if rank == 1 else 6)
    if form == 0:
        return int(rng.integers(0, 4))
    if form == 1:
        return tuple(int(p) for p in rng.integers(0, 4, rank))
    if form in (2, 3):
        return tuple((int(before), int(after)) for before, after in rng.integers(0, 5, (rank, 2)))
    return ("valid", "same", "same_lower", "causal")[int(rng.integers(3)) if form < 6 else 3]


def _fits(sizes: tuple[int, ...], window: dict[str, tuple[int, ...]], padding: Any, mode: str) -> bool:
    pairs = padding_pairs(padding, sizes, window["kernel"], window["stride"], window["dilation"])
    for size, f, d, pair in zip(sizes, window["kernel"], window["dilation"], pairs, strict=True):
        most = {"reflect": size - 1, "circular": size}.get(mode, max(pair))
        if max(pair) > most or d * (f - 1) + 1 > size + sum(pair):
            return False
    return True


def _channels(rng: np.random.Generator, few: bool) -> tuple[int, int, int]:
    if few:
        groups = int(rng.choice([1, 1, 2]))
        return groups, groups * int(rng.integers(256, 300)), groups * int(rng.integers(1, 5))
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    if rng.random() < 0.25:
        channels = int(rng.integers(1, 70))
        return channels, channels, channels * int(rng.choice([1, 1, 2, 3]))
    filters = groups * int(rng.integers(1, 8)) if rng.random() < 0.8 else groups * int(rng.integers(30, 70))
    return groups, groups * int(rng.integers(1, 9)), filters


def _way(rng: np.random.Generator) -> str:
    return str(rng.choice([*WAYS, TRANSPOSED])) if rng.random() < 0.5 else "contiguous"
