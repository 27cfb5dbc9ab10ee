"""The suite: which layers the benchmarks run, read from ``layers.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import stridekit as sk
from stridekit.planning.plan import Plan

SEED = 2016


@dataclass(frozen=True)
class Layer:
    """One layer of the suite: per-axis values in the array's own order, padding equal on both sides of an axis."""

    name: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    source: str

    @property
    def rank(self) -> int:
        return len(self.weight_shape) - 2

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def plan(
        self,
        dtype: str = "float32",
        *,
        channels_last: bool = False,
        backend: str = "cpu",
        batch: int = 1,
        precision: str = "ieee",
    ) -> Plan:
        order = "channels_last" if channels_last else "channels_first"
        return sk.plan_conv(
            (batch, *self.input_shape[1:]),
            self.weight_shape,
            dtype=dtype,
            memory_order=order,
            bias=True,
            precision=precision,
            backend=backend,
            **self.arguments,
        )

    def with_stride(self, stride: int) -> Layer:
        """Return the layer with another stride on every axis."""
        return replace(self, stride=(stride,) * self.rank)

    def arrays(self, batch: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return float32 input, weight and bias; the same numbers every time."""
        rng = np.random.default_rng(SEED)
        x = rng.standard_normal((batch, *self.input_shape[1:]), np.float32)
        scale = np.float32(np.prod(self.weight_shape[1:]) ** -0.5)
        weight = rng.standard_normal(self.weight_shape, np.float32) * scale
        return x, weight, rng.standard_normal(self.weight_shape[0], np.float32)


@cache
def suite() -> tuple[Layer, ...]:
    """Return every layer, in the file's order."""
    table = tomllib.loads(Path(__file__).with_name("layers.toml").read_text())
    return tuple(_layer(name, entry) for name, entry in table.items())


def chosen(patterns: list[str]) -> tuple[Layer, ...]:
    """Return the layers whose names match one of the shell patterns; all of them if there is none."""
    layers = tuple(layer for layer in suite() if not patterns or any(fnmatch(layer.name, p) for p in patterns))
    if not layers:
        raise SystemExit(
            f"no layer matches {' '.join(patterns)}; there are {', '.join(layer.name for layer in suite())}"
        )
    return layers


def _layer(name: str, entry: dict[str, Any]) -> Layer:
    rank = len(entry["weight"]) - 2

    def per_axis(key: str, default: int) -> tuple[int, ...]:
        value = entry.get(key, default)
        return (value,) * rank if isinstance(value, int) else tuple(value)

    return Layer(
        name=name,
        input_shape=(1, *entry["input"]),
        weight_shape=tuple(entry["weight"]),
        stride=per_axis("stride", 1),
        padding=per_axis("padding", 0),
        dilation=per_axis("dilation", 1),
        groups=entry.get("groups", 1),
        source=entry["source"],
    )
