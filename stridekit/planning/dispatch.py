"""The dispatcher: a problem and a device in, a plan out.

Choosing is a pure function: the algorithms that can compute the problem are listed, the others are excluded with
their reason, the cost of each is modelled and the least is taken. Only `Plan.execute` touches arrays.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from stridekit.arguments import as_shape, shown
from stridekit.backends import (
    Device,
    Problem,
    algorithms_of,
    backend_for,
    check_library,
    load_backend,
    profile_called,
    unknown_backend,
)
from stridekit.concurrency import Scope, opened, still_open
from stridekit.errors import BackendUnavailableError, ShapeError
from stridekit.memory.arrays import (
    MEMORY_ORDERS,
    channels_first_shape,
    channels_last_layout,
    dtype_name,
)
from stridekit.planning.plan import Candidate, Plan
from stridekit.problems.activations import ActivationArgument
from stridekit.problems.conv_problem import conv_problem
from stridekit.problems.padding import Padding


class _Choice(Scope):
    """A backend that `use_backend` names."""

    def __init__(self, name: str) -> None:
        self.name = name


_choices: ContextVar[tuple[_Choice, ...]] = ContextVar("stridekit_backend", default=())


def plan_conv(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    dtype: Any = "float32",
    stride: int | tuple[int, ...] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    memory_order: str | None = None,
    bias: bool = False,
    activation: ActivationArgument = None,
    residual: bool = False,
    precision: str = "ieee",
    direction: str = "forward",
    device: Device | str | None = None,
    backend: str = "auto",
) -> Plan:
    """Decide how to run a convolution, or a gradient of one, before there is any array.

    Parameters
    ----------
    input_shape : tuple of int
        ``(N, C, *spatial)``, or ``(N, *spatial, C)`` with a channels-last `layout`.
    weight_shape : tuple of int
        ``(K, C / groups, *kernel)`` in every layout.
    dtype : str or dtype
        float16, bfloat16, float32 or float64.
    layout : str, optional
        As for `stridekit.conv2d`; None is channels first.
    memory_order : {"channels_first", "channels_last"}, optional
        How the input (for the input's gradient: the output's) will lie in memory; by default as `layout` says.
    stride, padding, dilation, groups, padding_mode, activation, precision
        As for `stridekit.conv2d`.
    bias, residual : bool
        Whether a bias, and an array of the output's shape, will be added.
    direction : {"forward", "input_grad", "weight_grad"}
        What is computed. The shapes given are the forward convolution's whatever the direction.
    device : Device or str, optional
        Default: the backend's own. A name such as ``"H200"`` plans for a card that need not be here.
    backend : {"auto", "cuda", "cpu", "reference"}

    Returns
    -------
    Plan
        Its ``backend``, ``algorithm``, ``why``, ``flops``, ``bytes`` and ``vram`` are known; ``execute`` runs it.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> plan = plan_conv((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3, backend="reference")
    >>> plan.output_shape, plan.flops
    ((1, 64, 112, 112), 236027904)
    """
    input_shape, weight_shape = as_shape("input_shape", input_shape), as_shape("weight_shape", weight_shape)
    rank = len(weight_shape) - 2
    if rank not in (1, 2, 3) or len(input_shape) != rank + 2:
        raise ShapeError(
            f"input_shape has {len(input_shape)} axes and weight_shape {len(weight_shape)}; wanted 3, 4 or 5 each: "
            f"batch and channels, filters and channels, then 1 to 3 spatial axes"
        )
    last = channels_last_layout(layout, rank)
    problem = conv_problem(
        channels_first_shape(input_shape, last),
        weight_shape,
        dtype=dtype_name("dtype", dtype),
        memory_order=MEMORY_ORDERS[last] if memory_order is None else memory_order,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        bias=bias,
        activation=activation,
        precision=precision,
        direction=direction,
        residual=residual,
    )
    return choose_plan(problem, layout, *place_to_plan_for(device, backend))


def place_to_plan_for(device: Device | str | None, backend: str) -> tuple[str, str, Device]:
    """Return the backend, the reason for it, and the device, where none has been given an array yet.

    Raises
    ------
    BackendUnavailableError
        Unless `device` is a profile's name or a device of the backend.
    """
    if isinstance(device, str):
        name, known = profile_called(device)
        if asked_name(backend) not in ("auto", name):
            raise BackendUnavailableError(f"device is {device!r}, of backend {name!r}, and backend is {backend!r}")
        return name, f"asked for the profile {device}", known
    name, reason = choose_backend(backend, "numpy")
    own = load_backend(name).device()
    if device is not None and not isinstance(device, type(own)):
        raise BackendUnavailableError(
            f"device is {shown(device)}, which is no {type(own).__name__}, as backend {name!r} has; wanted a profile's "
            f"name such as 'H200', or None"
        )
    return name, reason, own if device is None else device


def choose_backend(argument: str, library: str) -> tuple[str, str]:
    """Choose a backend and say why: an explicit argument, then `use_backend`, then STRIDEKIT_BACKEND, then auto."""
    asked = asked_backend(argument)
    if asked is None:
        return backend_for(library)
    check_library(asked[0], library)
    return asked


def asked_name(backend: object) -> str:
    """Read the argument `backend`."""
    if not isinstance(backend, str) or not backend:
        raise unknown_backend(backend)
    return str(backend)


def asked_backend(argument: str) -> tuple[str, str] | None:
    """Return the backend that was asked for and by what, or None if the choice is left to stridekit.

    Raises
    ------
    BackendUnavailableError
        If there is none of that name, or it cannot run here.
    """
    choices = still_open(_choices)
    sources = [
        (asked_name(argument), "argument"),
        (choices[-1].name if choices else None, "use_backend"),
        (os.environ.get("STRIDEKIT_BACKEND"), "STRIDEKIT_BACKEND"),
    ]
    for name, source in sources:
        if name and name != "auto":
            try:
                load_backend(name)
            except BackendUnavailableError as error:
                raise BackendUnavailableError(f"{error} (asked for by {source})") from None
            return name, f"asked for by {source}"
        if name == "auto" and source == "use_backend":
            break
    return None


@lru_cache(maxsize=4096)
def choose_plan(problem: Problem, layout: str | None, backend: str, reason: str, device: Device) -> Plan:
    """Take the cheapest algorithm of `backend` that supports `problem` on `device`: a pure function."""
    candidates = []
    algorithms = algorithms_of(backend, problem.table)
    for algorithm in algorithms.values():
        excluded = algorithm.supports(problem, device)
        cost = float("inf") if excluded else algorithm.cost(problem, device)
        candidates.append(Candidate(algorithm.name, cost, excluded))
    legal = [candidate for candidate in candidates if not candidate.excluded]
    if not legal:
        reasons = "; ".join(f"{c.algorithm}: {c.excluded}" for c in candidates)
        raise BackendUnavailableError(f"backend {backend!r} has no algorithm for this problem ({reasons})")
    best = min(legal, key=lambda candidate: candidate.cost)
    detail = algorithms[best.algorithm].detail(problem, device)
    taken = f"{best.algorithm} ({detail})" if detail else best.algorithm
    why = [f"{backend}: {reason}", f"{taken}: modelled at {_seconds(best.cost)}"]
    why.extend(
        f"not {other.algorithm}: {other.excluded or 'modelled at ' + _seconds(other.cost)}"
        for other in candidates
        if other is not best
    )
    return Plan(problem, device, backend, best.algorithm, "; ".join(why), tuple(candidates), layout)


class use_backend:  # noqa: N801
    """Run every call inside the ``with`` block that names no backend on backend `name`.

    Raises
    ------
    BackendUnavailableError
        At once, if it cannot run here.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> with sk.use_backend("reference"):
    ...     y = sk.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2)), stride=2)
    >>> y.tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """

    def __init__(self, name: str):
        if asked_name(name) != "auto":
            load_backend(name)
        self._name = name
        self._entered: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        entered = opened(_choices, _Choice(self._name))
        self._entered.append(entered)
        entered.__enter__()

    def __exit__(self, *_: object) -> None:
        self._entered.pop().__exit__(None, None, None)


def _seconds(cost: float) -> str:
    return f"{cost * 1e3:.3g} ms"
