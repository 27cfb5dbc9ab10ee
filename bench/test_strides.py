"""Time each layer at strides 1 to 4: ``pytest bench --benchmark-group-by=param:layer``.

Packed weights, channels last, all threads; inputs take turns so that none waits in the cache. Only results that are
right are timed. With ``--device cuda`` a call lasts until the device has done its work.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import stridekit as sk
from bench.contenders import copies, l2_bytes
from bench.gpu_cases import first_view, to_host
from bench.layers import Layer, suite
from stridekit.backends import memory_of
from stridekit.memory.spaces import uploaded

STRIDES = (1, 2, 3, 4)
LARGEST_FLOPS = 2e10
"""Beyond this (an 8K image at stride 1) a benchmark is left out: it would take minutes and tens of gigabytes."""


def cases() -> list[object]:
    found: list[object] = []
    for layer in suite():
        for stride in STRIDES:
            flops = layer.with_stride(stride).plan().flops
            late = pytest.mark.skipif(flops > LARGEST_FLOPS, reason=f"{flops / 1e9:.0f} GFLOP")
            found.append(pytest.param(layer.name, stride, marks=late, id=f"{layer.name}-{stride}"))
    return found


@pytest.mark.parametrize(("layer", "stride"), cases())
def test_stride(benchmark: BenchmarkFixture, layer: str, stride: int, device: str) -> None:
    at_stride = next(known for known in suite() if known.name == layer).with_stride(stride)
    x, weight, bias = at_stride.arrays()
    plan = at_stride.plan(channels_last=True, backend=device)
    memory = memory_of(plan.backend, plan.device)
    stored = np.moveaxis(x, 1, -1)
    inputs = [first_view(uploaded(stored.copy(), memory)) for _ in range(copies(x.nbytes, l2_bytes(device)))]
    packed, biases, turns = plan.pack(weight), uploaded(bias, memory), cycle(inputs)
    assert_right(to_host(plan.execute(inputs[0], packed, biases), memory, True), x, weight, bias, at_stride)
    benchmark.extra_info.update(flops=plan.flops, predicted_peak_bytes=sk.vram.estimate(plan, packed=True).peak)
    # Waits for the end of each call.
    benchmark(lambda: memory.seconds(lambda: plan.execute(next(turns), packed, biases)))


def assert_right(y: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, layer: Layer) -> None:
    """Compare a few outputs with their definition, in float64."""
    rng = np.random.default_rng(1)
    spread = [(0, 0), (0, 0), *((amount, amount) for amount in layer.padding)]
    padded = np.pad(x, spread) if any(layer.padding) else x
    reads, makes = weight.shape[1], weight.shape[0] // layer.groups
    for _ in range(20):
        k, *position = (int(rng.integers(size)) for size in y.shape[1:])
        first = k // makes * reads
        window = tuple(
            slice(p * s, p * s + d * (f - 1) + 1, d)
            for p, s, d, f in zip(position, layer.stride, layer.dilation, weight.shape[2:], strict=True)
        )
        products = padded[(0, slice(first, first + reads), *window)].astype(np.float64) * weight[k]
        wanted = products.sum() + bias[k]
        bound = 2.0**-24 * (abs(wanted) + 4 * (products.size + 1) * (np.abs(products).sum() + abs(bias[k])))
        error = abs(float(y[(0, k, *position)]) - wanted)
        assert error <= bound, f"{layer.name}: output {(k, *position)} is off by {error:.2e}, more than {bound:.2e}"
