"""The job of the kernels that sum chains and add them up, as it lies in memory: an `Accumulation`."""

from __future__ import annotations

from typing import NamedTuple

from stridekit.backends.cpu.forward.jobs import Weight
from stridekit.backends.cpu.runtime.records import Strided


class Accumulation(NamedTuple):
    """What a call adds to a `Reduction`.

    Attributes
    ----------
    reduction : address of the `Reduction`
    scratch, scratch_step : address of ``r.scratch`` bytes for each thread, and bytes from one to the next
    partials : address of the sums of each task, if there are several chains
    counter : address of the shared task counter
    x, gradient : Strided of the input and of the output's gradient
    out : Weight
    """

    reduction: int
    scratch: int
    scratch_step: int
    partials: int
    counter: int
    x: Strided
    gradient: Strided
    out: Weight
