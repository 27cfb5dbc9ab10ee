"""Who runs in the race: stridekit in each layout, weights as given or packed, and the libraries it is held to.

A contender is a function of no arguments that runs one layer and returns its result, channels first. Each gets
its arrays in the layout it likes best and may keep what it can prepare once. Inputs are copies that take turns, so
that none is found in the second-level cache just because the call before had read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

import stridekit as sk
from bench.layers import Layer
from stridekit.backends.cpu.runtime.processor import host
from stridekit.planning.plan import PackedWeight, Plan

Call = Callable[[], np.ndarray]
OURS = ("given_first", "given_last", "packed_first", "packed_last")
PEERS = ("torch_first", "torch_last", "onnxruntime")


def ours(layer: Layer, threads: int) -> dict[str, Call]:
    """Return stridekit with channels first and last in memory, weights as given and packed once."""
    sk.set_num_threads(threads)
    x, weight, bias = layer.arrays()
    calls: dict[str, Call] = {}
    for order, last in (("first", False), ("last", True)):
        plan = layer.plan(channels_last=last)
        inputs = cycle([aligned(x, last) for _ in range(copies(x.nbytes))])
        packed = plan.pack(weight)

        def given(plan: Plan = plan, inputs: Iterator[np.ndarray] = inputs) -> np.ndarray:
            return plan.execute(next(inputs), weight, bias)

        def prepared(
            plan: Plan = plan, inputs: Iterator[np.ndarray] = inputs, packed: PackedWeight = packed
        ) -> np.ndarray:
            return plan.execute(next(inputs), packed, bias)

        calls[f"given_{order}"], calls[f"packed_{order}"] = given, prepared
    return calls


def torch_calls(layer: Layer, threads: int) -> dict[str, Call]:
    """Return PyTorch (oneDNN) with channels first and last in memory."""
    import torch

    torch.set_num_threads(threads)
    x, weight, bias = (torch.from_numpy(array) for array in layer.arrays())
    conv = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[layer.rank]
    calls: dict[str, Call] = {}
    for order in ("first", "last"):
        memory_format: Any = {2: torch.channels_last, 3: torch.channels_last_3d}.get(layer.rank)
        if order == "last" and memory_format is None:
            continue
        if order == "last":
            x, weight = x.to(memory_format=memory_format), weight.to(memory_format=memory_format)
        inputs = cycle([x.clone() for _ in range(copies(x.nbytes))])

        def call(inputs: Iterator[Any] = inputs, weight: Any = weight) -> np.ndarray:
            with torch.inference_mode():
                y = conv(next(inputs), weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
            return y.numpy()

        calls[f"torch_{order}"] = call
    return calls


def onnxruntime_call(layer: Layer, threads: int) -> dict[str, Call]:
    """Return ONNX Runtime with the weights as constants, which it packs when the model is loaded."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    x, weight, bias = layer.arrays()
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        strides=layer.stride,
        pads=[*layer.padding, *layer.padding],
        dilations=layer.dilation,
        group=layer.groups,
    )
    graph = helper.make_graph(
        [node],
        layer.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, layer.plan().output_shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = min(model.ir_version, 10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool would slow whoever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = cycle([aligned(x, False) for _ in range(copies(x.nbytes))])
    return {"onnxruntime": lambda: session.run(None, {"x": next(inputs)})[0]}


def copies(nbytes: int, cache_bytes: int | None = None) -> int:
    """Return how many copies of an input are more than the second-level cache holds, twice over; 16 at most."""
    return max(1, min(16, -(-2 * (cache_bytes or host().l2_bytes) // max(nbytes, 1))))


def l2_bytes(device: str) -> int:
    """Return the second-level cache of ``"cpu"`` or ``"cuda"``, in bytes."""
    if device == "cpu":
        return host().l2_bytes
    import cupy

    return int(cupy.cuda.Device().attributes["L2CacheSize"])


def aligned(x: np.ndarray, channels_last: bool) -> np.ndarray:
    """Return the same values in the same shape, lying as a result of stridekit does: on a cache line.

    PyTorch and ONNX Runtime allocate so too.
    """
    given = np.moveaxis(x, 1, -1) if channels_last else x
    stored = sk.vram.allocate(given.shape, given.dtype)
    stored[...] = given
    return np.moveaxis(stored, -1, 1) if channels_last else stored
