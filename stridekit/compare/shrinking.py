"""How ways to shrink by a stride are measured: the layer's own stride, and the layer at stride 1 before a pooling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from stridekit import vram
from stridekit.compare.aliasing import spectral_energy
from stridekit.compare.comparison import AlternativeRow, Cost
from stridekit.compare.measuring import Progress, Stride, StrideRun, take_turns
from stridekit.compare.poolings import Memory, ResponsePooling, memory_of
from stridekit.concurrency import cached_property
from stridekit.drawing.units import format_stride
from stridekit.memory.arrays import Array
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.spaces import uploaded
from stridekit.planning.dispatch import choose_plan
from stridekit.planning.plan import Plan

Arrays: TypeAlias = dict[str, Array]

_GRADIENT_SCALE = 2.0**-6
"""Small, so that no 16-bit weight gradient overflows, which sums over all positions."""


@dataclass
class ShrinkRun:
    """One way to shrink by one stride, forward or as a training step, while it is measured.

    Attributes
    ----------
    stride : tuple of int
    conv : StrideRun
        The layer at `stride`, or at stride 1 before a pooling.
    pooling : ResponsePooling or None
    weight, grad_output : array or None
        Of a training step, where the plan runs; not of a forward run, which has packed weights.
    made : dict of array
        What the first run made, and all later ones write anew; arrays of one kind and shape are shared by all runs.
    peak_bytes : int
        Measured in the first run, operands included.
    seconds : list of float
    """

    stride: Stride
    conv: StrideRun
    pooling: ResponsePooling | None
    weight: Array | None = None
    grad_output: Array | None = None
    made: Arrays = field(default_factory=dict)
    peak_bytes: int = 0
    seconds: list[float] = field(default_factory=list)

    def first(self, shared: dict[tuple[str, tuple[int, ...]], Array]) -> None:
        """Run into memory of its own, all of which is counted, then take the shared memory of that kind."""
        with vram.track() as usage:
            made = self.run({})
        self.peak_bytes = self.operand_bytes + usage.peak
        self.made = {name: shared.setdefault((name, array.shape), array) for name, array in made.items()}

    def once(self) -> float:
        """Run, and return how long it took."""
        return self.conv.memory.seconds(partial(self.run, self.made))

    def run(self, out: Arrays) -> Arrays:
        """Run into `out`, or into new memory where it has none; return all that must stay until the end."""
        conv, pooling = self.conv, self.pooling
        given = conv.packed if self.weight is None else self.weight
        response = conv.plan.execute(conv.pixels, given, out=out.get("response"))
        made = {"response": response}
        if pooling:
            made["output"] = pooling.forward(response, out.get("output"))
        if self.weight is None:
            return made
        grad = self.grad_output
        if pooling:
            grad = made["grad_response"] = pooling.gradient(response, grad, out.get("grad_response"))
        of_input, of_weight = self.gradients
        made["grad_input"] = of_input.execute(self.weight, grad, out=out.get("grad_input"))
        made["grad_weight"] = of_weight.execute(conv.pixels, grad, out=out.get("grad_weight"))
        return made

    @cached_property
    def gradients(self) -> tuple[Plan, Plan]:
        """Plans for the gradients of the layer's input and weight."""
        plan = self.conv.plan
        of_input, of_weight = (
            choose_plan(replace(plan.problem, direction=direction), plan.layout, plan.backend, plan.why, plan.device)
            for direction in ("input_grad", "weight_grad")
        )
        return of_input, of_weight

    @property
    def alternative(self) -> str:
        """Name of the way."""
        return self.pooling.name if self.pooling else "conv"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(N, K, P, Q)``."""
        return self.pooling.output_shape if self.pooling else self.conv.plan.problem.output_shape

    @property
    def operand_bytes(self) -> int:
        """Bytes of what the run is given."""
        given = (self.conv.packed if self.weight is None else self.weight, self.grad_output)
        return self._units(self.conv.pixels.nbytes) + sum(
            self._units(each.nbytes) for each in given if each is not None
        )

    @property
    def predicted_peak_bytes(self) -> int:
        """Bytes that the run will take, by the plans and sizes alone: each step keeps some, and needs some more."""
        pooling, training = self.pooling, self.weight is not None
        steps = [memory_of(self.conv.plan, packed=not training)]
        if pooling:
            steps.append(pooling.forward_memory)
        if pooling and training:
            steps.append(pooling.gradient_memory)
        if training:
            steps += [memory_of(gradient) for gradient in self.gradients]
        return self.operand_bytes + _most_at_once(steps)

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        plan, pooling = self.conv.plan, self.pooling.flops if self.pooling else 0
        if self.weight is None:
            return plan.flops + pooling
        return plan.flops + 2 * pooling + sum(gradient.flops for gradient in self.gradients)

    def cost(self) -> Cost:
        """Return what was measured."""
        first, median, third = (float(value) for value in np.percentile(self.seconds, (25, 50, 75)))
        return Cost(self.flops, median, (first, third), self.peak_bytes, self.predicted_peak_bytes)

    def _units(self, nbytes: int) -> int:
        return self.conv.plan.device.rounded(nbytes)


def measure_alternatives(
    runs: dict[Stride, StrideRun],
    baseline: StrideRun,
    weight: np.ndarray,
    alternatives: Sequence[str],
    *,
    shares: dict[Stride, float],
    energy: float,
    backward: bool,
    repeats: int | None,
    report: Progress,
) -> tuple[tuple[AlternativeRow, ...], int]:
    """Measure each way to shrink by each stride beyond 1; return the rows, and the number of timed rounds.

    `shares` are the aliased energies of the strides alone, `energy` the response's in units of its squared largest.
    """
    strides = [stride for stride in runs if stride != baseline.plan.geometry.stride]
    pairs = [(stride, alternative) for stride in strides for alternative in alternatives]
    if not pairs:
        return (), 0
    sampling = _Sampling(baseline, shares, energy)
    forward = [_forward(alternative, stride, runs[stride], baseline) for stride, alternative in pairs]
    samples = [sampling.measure(run, report) for run in forward]
    training = [_training(run, weight) for run in forward] if backward else []
    shared: dict[tuple[str, tuple[int, ...]], Array] = {}
    for number, run in enumerate([*forward, *training]):
        report(f"first run, {run.alternative} {format_stride(run.stride)}", number, len(forward) + len(training))
        run.first(shared)
    rounds = take_turns([*forward, *training], repeats, report, "timing alternatives")
    rows = tuple(
        AlternativeRow(
            stride=run.stride,
            alternative=run.alternative,
            window=run.pooling.window if run.pooling else (1, 1),
            output_size=tuple(run.output_shape[2:]),
            aliased_energy=aliased,
            energy_kept=kept,
            forward=run.cost(),
            training=training[number].cost() if backward else None,
        )
        for number, (run, (aliased, kept)) in enumerate(zip(forward, samples, strict=True))
    )
    return rows, rounds


def _forward(alternative: str, stride: Stride, run: StrideRun, baseline: StrideRun) -> ShrinkRun:
    if alternative == "conv":
        return ShrinkRun(stride, run, None)
    plan = baseline.plan
    shape, dtype = plan.problem.output_shape, plan.problem.dtype
    return ShrinkRun(stride, baseline, ResponsePooling(alternative, stride, shape, dtype, plan.backend, plan.device))


def _training(run: ShrinkRun, weight: np.ndarray) -> ShrinkRun:
    memory, shape = run.conv.memory, run.output_shape
    noise = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(_GRADIENT_SCALE)
    return replace(
        run,
        weight=uploaded(weight, memory),
        grad_output=uploaded(noise.astype(weight.dtype), memory),
        made={},
        seconds=[],
    )


class _Sampling:
    """Measures what a stride samples: the response, pooled at stride 1."""

    def __init__(self, baseline: StrideRun, shares: dict[Stride, float], energy: float) -> None:
        self._baseline, self._shares, self._energy = baseline, shares, energy
        self._scale = _largest(baseline.response)
        self._rounding = 4 * DTYPES[baseline.plan.problem.dtype].epsilon

    def measure(self, run: ShrinkRun, report: Progress) -> tuple[float, float]:
        """Return the aliased energy and the energy kept."""
        if run.pooling is None or not self._energy:
            return self._shares[run.stride], 1.0
        dense = self._baseline.on_host(run.pooling.densely(self._baseline.output))
        what = f"measuring aliased energy, {run.alternative} {format_stride(run.stride)}"
        total, beyond = spectral_energy(dense, [run.stride], progress=partial(report, what))
        whole = float(total.sum())
        kept = whole / self._energy * (_largest(dense) / self._scale) ** 2
        # What a pooling cancels leaves its rounding, whose spectrum would look like any other's.
        return (float(beyond.sum()) / whole if kept > self._rounding**2 else 0.0), kept


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max())


def _most_at_once(steps: Iterable[Memory]) -> int:
    kept = most = 0
    for keeps, needs in steps:
        kept += keeps
        most = max(most, kept + needs)
    return most
