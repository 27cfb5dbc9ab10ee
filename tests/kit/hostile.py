"""Values that no argument should take, and every public function with arguments that it does take."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np

import stridekit as sk
from stridekit.compare.images import zone_plate
from stridekit.networks import Network


class Awkward:
    """An object that answers everything with an error of its own."""

    def __index__(self) -> int:
        raise ValueError("no index")

    def __iter__(self) -> Any:
        raise KeyError("no items")

    def __len__(self) -> int:
        raise OverflowError("no length")

    def __float__(self) -> float:
        raise ZeroDivisionError("no number")

    def __bool__(self) -> bool:
        raise ArithmeticError("neither")

    def __eq__(self, other: object) -> Any:
        raise LookupError("no comparison")

    def __hash__(self) -> int:
        raise AssertionError("no hash")

    def __fspath__(self) -> str:
        raise PermissionError("no path")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    @property
    def dtype(self) -> Any:
        raise ConnectionError("no dtype")


class Word(str):
    """A string of another class."""


class Rows(list):  # type: ignore[type-arg]
    """A list whose items cannot be had."""

    def __iter__(self) -> Any:
        raise ConnectionError("no items")


def _matrix() -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix([[1, 1]])


FLOATS = np.ones((2, 3), np.float32)

# Made anew for each call: an iterator is used up by the first.
VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "object": object,
    "awkward": Awkward,
    "type": lambda: int,
    "function": lambda: print,
    "ellipsis": lambda: ...,
    "module": lambda: np,
    "float": lambda: 2.5,
    "whole float": lambda: 1.0,
    "nan": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "complex": lambda: 1j,
    "fraction": lambda: Fraction(1, 2),
    "decimal": lambda: Decimal(1),
    "true": lambda: True,
    "false": lambda: False,
    "numpy bool": lambda: np.bool_(True),
    "numpy float": lambda: np.float32(1),
    "zero": lambda: 0,
    "minus one": lambda: -1,
    "2**40": lambda: 2**40,
    "2**63": lambda: 2**63,
    "-2**63 - 1": lambda: -(2**63) - 1,
    "10**5000": lambda: 10**5000,
    "list of 10**5000": lambda: [10**5000, 10**5000],
    "empty text": lambda: "",
    "text": lambda: "x",
    "digit": lambda: "1",
    "text with a null": lambda: "a\0b",
    "lone surrogate": lambda: "\udcff.toml",
    "long text": lambda: "long" * 5000,
    "word": lambda: Word("x"),
    "numpy text": lambda: np.str_("x"),
    "bytes": lambda: b"\2\2",
    "bytearray": lambda: bytearray(b"\2\2"),
    "memoryview": lambda: memoryview(b"\2\2"),
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset((1, 2)),
    "dict": lambda: {1: 1, 2: 2},
    "dict of text": lambda: {"x": 1},
    "keys": lambda: {1: 1, 2: 2}.keys(),
    "generator": lambda: (1 for _ in range(2)),
    "iterator": lambda: iter([1, 1]),
    "map": lambda: map(int, (1, 1)),
    "empty list": list,
    "empty tuple": tuple,
    "nested list": lambda: [[1]],
    "ragged list": lambda: [[1, 1], [1]],
    "list of none": lambda: [None, None],
    "list of text": lambda: ["1", "1"],
    "list of floats": lambda: [1.0, 1.0],
    "list of bools": lambda: [True, True],
    "list of awkward": lambda: [Awkward(), Awkward()],
    "list of objects": lambda: [object(), object()],
    "long list": lambda: [1] * 1000,
    "unreadable list": lambda: Rows([1, 1]),
    "negative pair": lambda: (-1, -1),
    "huge pair": lambda: (2**40, 2**40),
    "pair beyond": lambda: (2**63, 2**63),
    "0-d float array": lambda: np.array(1.5),
    "0-d bool array": lambda: np.array(True),
    "0-d object array": lambda: np.array(None),
    "empty array": lambda: np.zeros(0),
    "float array": lambda: np.ones(2),
    "bool array": lambda: np.ones(2, bool),
    "object array": lambda: np.array([1, None], object),
    "complex array": lambda: np.ones(2, complex),
    "text array": lambda: np.array(["1", "1"]),
    "dates": lambda: np.array(["2026-01-01", "NaT"], "datetime64[D]"),
    "records": lambda: np.zeros(2, [("a", "i4")]),
    "masked array": lambda: np.ma.masked_array([1, 1], [False, True]),
    "masked": lambda: np.ma.masked,
    "matrix": _matrix,
    "3-d integers": lambda: np.ones((2, 2, 2), int),
    "other floats": lambda: np.ones((2, 3), np.float32),
    "4-d integers": lambda: np.ones((1, 2, 6, 6), int),
    "4-d masked": lambda: np.ma.masked_array(np.ones((1, 2, 6, 6), np.float32)),
    "4-d objects": lambda: np.ones((1, 2, 6, 6), object),
    "4-d list": lambda: np.ones((1, 2, 6, 6)).tolist(),
    "4-d swapped": lambda: np.ones((1, 2, 6, 6), ">f4"),
    "object with a shape": lambda: SimpleNamespace(shape=5, dtype="float32", ndim=4),
}
"""By what they are called."""

# What some kinds of argument do take. What a kind does not name must be refused.
_SIZE = {"2**40"}
_TEXT = {"empty text", "text", "digit", "text with a null", "lone surrogate", "long text", "word", "numpy text"}
KINDS: dict[str, set[str]] = {
    "array": set(),
    "optional array": {"none"},
    "sizes": {"2**40", "huge pair"},
    "sizes from 0": {"2**40", "huge pair", "zero"},
    "optional sizes": {"2**40", "huge pair", "none"},
    "padding": {"2**40", "huge pair", "zero"},
    "optional padding": {"2**40", "huge pair", "zero", "none"},
    "shape": set(),
    "input size": {"2**40", "huge pair"},
    "optional input size": {"2**40", "huge pair", "none"},
    "position": {"huge pair", "negative pair"},
    "count": {"2**40"},
    "count from 0": {"2**40", "zero"},
    "optional count": {"2**40", "none"},
    "limit": {"2**40", "zero", "digit"},
    "optional limit": {"2**40", "zero", "none"},
    "flag": {"true", "false", "numpy bool"},
    "name": set(),
    "optional name": {"none"},
    "dtype": {"0-d float array", "empty array", "float array", "other floats", "numpy float", "masked", "4-d masked"},
    "text": _TEXT,
    "optional text": {*_TEXT, "none"},
    "path": set(),
    "optional path": {"none"},
    "share": {"whole float", "fraction", "decimal", "numpy float", "zero", "0-d float array"},
    "names": {"empty list", "empty tuple", "empty array"},
    "optional names": {"none"},
    "optional function": {"none", "function", "type", "0-d object array"},
    "optional dict": {"none"},
    "picture": {"other floats"},
    "strides": {"list of one", "nested list", "ragged list", "long list", "huge pair"},
    "none": set(),
}

_KIND_OF: dict[str, str] = {
    **dict.fromkeys(("x", "weight", "grad_output", "input"), "array"),
    **dict.fromkeys(("bias", "residual", "out", "workspace"), "optional array"),
    **dict.fromkeys(("stride", "dilation", "kernel_size"), "sizes"),
    **dict.fromkeys(("input_shape", "weight_shape"), "shape"),
    **dict.fromkeys(("padding_mode", "precision", "backend", "direction"), "name"),
    **dict.fromkeys(("layout", "activation", "memory_order", "device"), "optional name"),
    **dict.fromkeys(("groups", "filter_size", "filters"), "count"),
    **dict.fromkeys(("ceil_mode", "return_indices", "count_include_pad", "packed", "out_given"), "flag"),
    **dict.fromkeys(("training", "backward", "all"), "flag"),
    "output_padding": "sizes from 0",
    "padding": "padding",
    "dtype": "dtype",
    "input_size": "optional input size",
    "batch": "count from 0",
    "seed": "count from 0",
    "optimizer": "name",
}


@dataclass(frozen=True)
class Call:
    """A function, arguments that it takes, and what is special about some of them."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    kinds: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    """What messages call an argument, as a pattern; by default by its name."""
    without: dict[str, set[str]] = field(default_factory=dict)
    """By arguments, values that are no mistakes and are not tried: they take long, or write files."""

    every: int = 1
    """Of how many values one is tried: for what is another function of other rank."""

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)

    def pattern(self, parameter: str) -> str:
        """Return what a message must hold: the argument, or what no longer fits where the value alone is right."""
        called = "input_size|input" if parameter == "input_size" else parameter
        return rf"\b({self.called.get(parameter, called)})\b|^(out|grad_output) has shape"

    @property
    def rank(self) -> int:
        """Spatial axes, told from the first array or shape."""
        first = next(iter(self.arguments.values()))
        return len(first) if "input_size" in self.arguments else len(getattr(first, "shape", first)) - 2

    def kind(self, parameter: str) -> str:
        return self.kinds.get(parameter) or _KIND_OF[parameter]


def outcome(call: Call, parameter: str, value: object) -> Exception | None:
    try:
        call.function(**{**call.arguments, parameter: value})
    except Exception as error:
        return error
    return None


def mistakes(name: str, call: Call) -> list[str]:
    """Return what a function does with values that it should refuse, where that is anything else."""
    wrong = []
    for number, parameter in enumerate(call.parameters):
        taken, called = KINDS[call.kind(parameter)], re.compile(call.pattern(parameter))
        for label, made in list(VALUES.items())[number % call.every :: call.every]:
            if label in call.without.get(parameter, ()):
                continue
            error = outcome(call, parameter, made())
            case = f"{name}({parameter}=<{label}>)"
            if error is None:
                if label not in taken:
                    wrong.append(f"{case} is taken")
            elif not isinstance(error, sk.StridekitError):
                wrong.append(f"{case} raises {type(error).__name__}: {error}")
            elif not called.search(str(error)):
                wrong.append(f"{case} is not named: {error}")
            elif len(str(error)) > 600:
                wrong.append(f"{case}: a message of {len(str(error))} characters: {str(error)[:200]}")
    return wrong


def _block(manager: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same arguments that enters a block, and leaves it."""

    def entered(*arguments: Any, **named: Any) -> None:
        with manager(*arguments, **named):
            pass

    entered.__signature__ = inspect.signature(manager)  # type: ignore[attr-defined]
    return entered


def _calls() -> Iterator[tuple[str, Call]]:
    on: dict[str, Any] = {"backend": "reference"}
    for rank, spatial, layout in ((1, (6,), "NCW"), (2, (6, 6), "NCHW"), (3, (4, 3, 3), "NCDHW")):
        x = np.ones((1, 2, *spatial), np.float32)
        y = np.ones((1, 4, *(size - 1 for size in spatial)), np.float32)
        w = np.ones((4, 2, *(2,) * rank), np.float32)
        out = {"out": np.zeros_like(y)}
        yield f"conv{rank}d", Call(getattr(sk, f"conv{rank}d"), {"x": x, "weight": w, "layout": layout, **out, **on})
        yield (
            f"conv_transpose{rank}d",
            Call(
                getattr(sk, f"conv_transpose{rank}d"), {"x": y, "weight": w, "out": np.zeros_like(x), **on},
            ),
        )  # fmt: skip
        pooled = {"out": np.zeros((1, 2, *(size // 2 for size in spatial)), np.float32)}
        window: dict[str, Any] = {"x": x, "kernel_size": 2, **pooled, **on}
        yield f"max_pool{rank}d", Call(getattr(sk, f"max_pool{rank}d"), window, {"stride": "optional sizes"})
        yield f"avg_pool{rank}d", Call(getattr(sk, f"avg_pool{rank}d"), window, {"stride": "optional sizes"})
        blurred = {"x": x, "out": np.zeros((1, 2, *(-(-size // 2) for size in spatial)), np.float32), **on}
        yield f"blur_pool{rank}d", Call(getattr(sk, f"blur_pool{rank}d"), blurred, {"padding": "optional padding"})
    x, w, y = (np.ones(shape, np.float32) for shape in ((1, 2, 6, 6), (4, 2, 3, 3), (1, 4, 4, 4)))
    half = np.ones((1, 2, 3, 3), np.float32)
    yield "conv_input_grad", Call(sk.conv_input_grad, {"input_shape": x.shape, "weight": w, "grad_output": y, **on})
    yield "conv_weight_grad", Call(sk.conv_weight_grad, {"x": x, "weight_shape": w.shape, "grad_output": y, **on})
    pool: dict[str, Any] = {"grad_output": half, "kernel_size": 2, **on}
    yield "max_pool_grad", Call(sk.max_pool_grad, {"x": x, **pool}, {"stride": "optional sizes"})
    yield "avg_pool_grad", Call(sk.avg_pool_grad, {"input_shape": x.shape, **pool}, {"stride": "optional sizes"})
    yield (
        "blur_pool_grad",
        Call(
            sk.blur_pool_grad, {"input_shape": x.shape, "grad_output": half, **on}, {"padding": "optional padding"}
        ),
    )  # fmt: skip
    yield (
        "conv_geometry",
        Call(sk.conv_geometry, {"input_size": (6, 6), "kernel_size": 3}, {"input_size": "input size"}),
    )
    shapes = {"input_shape": x.shape, "weight_shape": w.shape}
    yield "plan_conv", Call(sk.plan_conv, {**shapes, **on}, {"bias": "flag", "residual": "flag"})
    yield "use_backend", Call(_block(sk.use_backend), {"name": "reference"}, {"name": "name"}, {"name": "backend"})
    yield "set_num_threads", Call(_threads, {"threads": 1}, {"threads": "count"})
    yield from _plan_calls(x, w, y)
    yield from _network_calls()
    yield (
        "compare_strides",
        Call(
            sk.compare_strides,
            {"image": zone_plate(8), "strides": (1,), "kernel_size": 3, "filters": 1, "repeats": 1, **on},
            {
                "image": "picture", "strides": "strides", "weight": "optional array", "repeats": "optional count",
                "max_aliased_energy": "share", "alternatives": "names", "name": "optional text",
                "progress": "optional function",
            },
            {"image": "image|no such file|cannot be read", "kernel_size": "kernel_size|weight"},
            without={"progress": {"type"}},
        ),
    )  # fmt: skip
    compared = sk.compare_strides(zone_plate(8), (1,), kernel_size=3, filters=1, repeats=1, backend="reference")
    named = {"text", "digit", "lone surrogate", "word", "numpy text"}
    yield "StrideComparison.save", Call(compared.save, {}, {"directory": "path"}, without={"directory": named})


def _threads(threads: int) -> None:
    before = sk.get_num_threads()
    try:
        sk.set_num_threads(threads)
    finally:
        sk.set_num_threads(before)


def _plan_calls(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, Call]]:
    plan = sk.plan_conv(x.shape, w.shape, backend="reference")
    geometry = plan.geometry
    yield "ConvGeometry.input_window", Call(geometry.input_window, {"output": (0, 0)}, {"output": "position"})
    yield "ConvGeometry.outputs_reading", Call(geometry.outputs_reading, {"pixel": (0, 0)}, {"pixel": "position"})
    yield "Plan.pack", Call(plan.pack, {"weight": w})
    yield (
        "Plan.execute",
        Call(
            plan.execute, {"first": x, "second": w}, {"first": "array", "second": "array"},
            {"first": "x", "second": "weight"},
        ),
    )  # fmt: skip
    yield "Plan.workspace_bytes", Call(plan.workspace_bytes, {})
    yield "Plan.memory", Call(plan.memory, {})
    yield "Plan.schedule", Call(plan.schedule, {}, {"limit": "optional limit"}, {"limit": "limit|smallest that works"})
    yield "vram.estimate", Call(sk.vram.estimate, {"plan": plan}, {"plan": "array"})
    yield "vram.budget", Call(_block(sk.vram.budget), {"limit": "1 MiB"}, {"limit": "limit"})
    yield "vram.track", Call(_block(sk.vram.track), {})


NETWORK = """
name = "small"
layers = [
  {name = "image", op = "input", size = [2, 6, 6]},
  {name = "conv", op = "conv", out_channels = 3, kernel_size = 3},
  {op = "global_avg_pool"},
  {op = "flatten"},
]
"""


def _network_calls() -> Iterator[tuple[str, Call]]:
    from stridekit.networks import Layer

    net = Network.parse(NETWORK).initialize()
    x, target = np.ones((1, 2, 6, 6), np.float32), np.zeros(1, int)
    predicted: dict[str, Any] = {"backend": "reference"}
    yield "networks.names", Call(sk.networks.names, {})
    yield (
        "networks.load",
        Call(sk.networks.load, {"name": "textcnn"}, {"name": "path"}, {"name": "name|network|no such file"}),
    )
    yield (
        "Network.from_toml",
        Call(Network.from_toml, {"path": "x.toml"}, {"path": "path"}, {"path": "path|no such file|cannot be read"}),
    )
    yield (
        "Network.parse",
        Call(Network.parse, {"text": NETWORK}, {"text": "none", "file": "text"}, {"text": "text|layers|not TOML"}),
    )
    yield (
        "Network.from_onnx",
        Call(
            Network.from_onnx, {"model": b""}, {"model": "none", "input_size": "none"}, {"model": "model|no such file"},
            without={"input_size": set(VALUES)},
        ),
    )  # fmt: skip
    yield (
        "Network.from_torch",
        Call(
            Network.from_torch, {"module": None}, {"module": "none", "input_size": "none"}, {"module": "module"},
            without={"input_size": set(VALUES)},
        ),
    )  # fmt: skip
    yield "Network.summary", Call(net.summary, {})
    yield "Network.vram", Call(net.vram, predicted)
    yield (
        "Network.largest_batch",
        Call(net.largest_batch, {"limit": 2**16, **predicted}, {"limit": "limit"}),
    )
    yield "Network.run", Call(net.run, {"x": x, **predicted})
    yield "Network.train_step", Call(net.train_step, {"x": x, "target": target, **predicted}, {"target": "array"})
    yield "Network.resized", Call(net.resized, {"input_size": 6})
    yield "Network.input_shapes", Call(net.input_shapes, {"layer": net.layers[1]}, {"layer": "none"})
    yield "Network.astype", Call(net.astype, {"dtype": "float32"})
    yield "Network.initialize", Call(Network.parse(NETWORK).initialize, {})
    yield (
        "networks.Network",
        Call(
            Network, {"name": "x", "layers": net.layers},
            {"name": "text", "layers": "none", "outputs": "optional names", "output_names": "optional names",
             "source": "text", "parameters": "optional dict"},
            {"layers": "layers|input layer"},
        ),
    )  # fmt: skip

    def layer(name: str, operation: Any, inputs: Any, shares: Any = None) -> Network:
        return Network("x", [net.layers[0], Layer(name, operation, inputs, shares)])

    yield (
        "networks.Layer",
        Call(
            layer, {"name": "y", "operation": net.layers[1].operation, "inputs": ("image",)},
            {"name": "text", "operation": "none", "inputs": "none", "shares": "optional text"},
        ),
    )  # fmt: skip


CALLS: dict[str, Call] = {
    name: replace(call, every=4) if name.endswith(("1d", "3d")) else call for name, call in _calls()
}

RECORDS = {"networks.Feature", "vram.TrackedUsage", "vram.VramUsage"}
"""What the library gives out and never takes."""


def public() -> set[str]:
    """Return the names of everything public that is called with arguments, or could be."""
    found = set()
    for name in sk.__all__:
        value = getattr(sk, name)
        if inspect.ismodule(value):
            found |= {f"{name}.{each}" for each in value.__all__ if not _raised(getattr(value, each))}
        elif callable(value) and not _raised(value):
            found.add(name)
    plan = CALLS["Plan.pack"].function.__self__  # type: ignore[attr-defined]
    compared = CALLS["StrideComparison.save"].function.__self__  # type: ignore[attr-defined]
    for kind in map(type, (plan, plan.geometry, compared)):
        found |= {f"{kind.__name__}.{name}" for name in _methods(kind)}
    found |= {f"Network.{name}" for name in _methods(Network)}
    return found - RECORDS


def _raised(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _methods(kind: type) -> Iterator[str]:
    for name, value in inspect.getmembers(kind, callable):
        if not name.startswith("_") and len(inspect.signature(value).parameters) > (not inspect.ismethod(value)):
            yield name
