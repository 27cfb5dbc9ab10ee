"""Networks refuse what does not fit in words, by a class that a caller would catch, and leave everything as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.networks import Network, NetworkError
from tests.kit.network_cases import chain, drawn, every_operation, layer

SIZE = (6, 7)
X = np.random.default_rng(0).standard_normal((2, 3, *SIZE)).astype(np.float32)
TARGET = np.array([0, 3])


def two_inputs() -> Network:
    layers = [
        layer("left", "input", size=(2, 4, 4)),
        layer("right", "input", size=(2, 4, 4)),
        layer("sum", "add", ("left", "right")),
        layer("y", "conv", "sum", out_channels=3, kernel_size=3),
    ]
    return drawn(Network("two", layers), "float32")


def train(network: Network, x: Any = X, target: Any = TARGET, optimizer: Any = "adam") -> float:
    return network.train_step(x, target, optimizer)


HALF = np.zeros((2, 2, 4, 4), np.float32)
REFUSED: list[tuple[str, Callable[[Network], Any], type[Exception], str]] = [
    ("a list", lambda n: n.run(X.tolist()), sk.DtypeError, "x is a list.*wanted a NumPy array"),
    ("None", lambda n: n.run(None), sk.DtypeError, "x is a NoneType"),
    ("integers", lambda n: n.run(X.astype(np.int32)), sk.DtypeError, "int32"),
    ("complex numbers", lambda n: n.run(X.astype(np.complex64)), sk.DtypeError, "complex64"),
    ("no batch", lambda n: n.run(X[0]), sk.ShapeError, r"\(3, 6, 7\); wanted \(N, 3, 6, 7\)"),
    ("an axis more", lambda n: n.run(X[None]), sk.ShapeError, r"wanted \(N, 3"),
    ("no axis", lambda n: n.run(X[0, 0, 0, :1].reshape(())), sk.ShapeError, "wanted"),
    ("other channels", lambda n: n.run(X[:, :2]), NetworkError, "'first'.*2 channels.*for 3"),
    ("no pixels", lambda n: n.run(X[..., :0]), sk.ShapeError, "input_size"),
    ("float64 beside float32", lambda n: n.run(X.astype(float)), sk.DtypeError, r"astype\('float64'\)"),
    ("a masked array", lambda n: n.run(np.ma.masked_array(X)), sk.DtypeError, "mask"),
    ("an unknown input", lambda n: n.run({"y": X}), sk.ShapeError, "inputs x.*y came"),
    ("one input too many", lambda n: n.run({"x": X, "y": X}), sk.ShapeError, "x, y came"),
    ("an unknown backend", lambda n: n.run(X, backend="tpu"), sk.BackendUnavailableError, "tpu"),
    ("one input of two", lambda n: two_inputs().run(HALF), sk.ShapeError, "left, right"),
    ("another batch", lambda n: two_inputs().run({"left": HALF, "right": HALF[:1]}), sk.ShapeError,
     r"right is \(1, 2, 4, 4\); wanted \(2, 2, 4, 4\)"),
    ("mixed types", lambda n: two_inputs().run({"left": HALF, "right": HALF.astype(float)}), sk.DtypeError,
     "right is float64, left float32"),
    ("too few targets", lambda n: train(n, target=TARGET[:1]), sk.ShapeError, r"target is \(1,\); wanted \(2,\)"),
    ("one-hot targets", lambda n: train(n, target=np.eye(4, dtype=int)[:2]), sk.ShapeError, r"wanted \(2,\)"),
    ("float targets", lambda n: train(n, target=TARGET.astype(np.float32)), sk.DtypeError, "wanted integers"),
    ("boolean targets", lambda n: train(n, target=TARGET > 1), sk.DtypeError, "wanted integers"),
    ("a list of targets", lambda n: train(n, target=[0, 3]), sk.DtypeError, "target is a list"),
    ("a class too high", lambda n: train(n, target=np.array([0, 4])), sk.ShapeError, "0 to 4; wanted 0 to 3"),
    ("a class below 0", lambda n: train(n, target=np.array([-1, 2])), sk.ShapeError, "-1 to 2; wanted 0 to 3"),
    ("training on nothing", lambda n: train(n, X[:0], TARGET[:0]), sk.ShapeError, "at least one sample"),
    ("training in another type", lambda n: train(n, X.astype(float)), sk.DtypeError, "cast one"),
    ("an unknown optimizer", lambda n: train(n, optimizer="lion"), sk.ShapeError, "lion.*sgd, momentum, adam"),
    ("no optimizer", lambda n: train(n, optimizer=None), sk.ShapeError, "wanted one of"),
    ("a list of optimizers", lambda n: train(n, optimizer=["sgd"]), sk.ShapeError, "wanted one of"),
    ("predicting an optimizer", lambda n: n.vram(training=True, optimizer="lion"), sk.ShapeError, "lion"),
    ("predicting a negative batch", lambda n: n.vram(-1), sk.ShapeError, "batch is -1"),
    ("predicting half a sample", lambda n: n.vram(1.5), sk.StridekitError, "batch"),
    ("predicting integers", lambda n: n.vram(dtype="int8"), sk.DtypeError, "int8"),
    ("predicting for an unknown card", lambda n: n.vram(device="TPU"), sk.StridekitError, "TPU.*H200"),
    ("predicting what does not fit", lambda n: n.vram(input_size=(4, 9, 9)), NetworkError, "4 channels"),
]  # fmt: skip


BUILTIN = {sk.ShapeError: ValueError, NetworkError: ValueError, sk.DtypeError: TypeError,
           sk.BackendUnavailableError: RuntimeError, sk.StridekitError: Exception}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), [each[1:] for each in REFUSED],
                         ids=[each[0] for each in REFUSED])  # fmt: skip
def test_what_does_not_fit_is_refused_in_words_and_changes_nothing(
    call: Callable[[Network], Any], error: type[Exception], words: str
) -> None:
    network = drawn(every_operation(SIZE), "float32")
    before = {name: value.copy() for name, value in network.parameters.items()}
    with pytest.raises(error, match=re.compile(words, re.DOTALL)) as caught:
        call(network)
    assert isinstance(caught.value, BUILTIN[error])
    assert isinstance(caught.value, sk.StridekitError)
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, before[name], strict=True)
    # And it still works.
    assert network.run(X).shape == (2, 4)
    assert np.isfinite(train(network))


def test_training_wants_one_output() -> None:
    network = drawn(every_operation(SIZE), "float32")
    both = Network("both", network.layers, outputs=["flat", "logits"], parameters=network.parameters)
    with pytest.raises(NetworkError, match="one output, both has 2: flat, logits"):
        train(both)


@pytest.mark.parametrize("last", ["relu", "softmax_cross_entropy"])
def test_training_wants_parameters(last: str) -> None:
    network = Network("plain", chain(layer("x", "input", size=(4,)), layer("y", last)))
    assert network.run(np.ones((1, 4), np.float32)).shape == (1, 4)
    with pytest.raises(NetworkError, match="nothing before the output 'y' has parameters"):
        network.train_step(np.ones((1, 4), np.float32), np.array([1]))
    frozen = Network("frozen", chain(layer("x", "input", size=(4, 2)), layer("y", "batch_norm", trained=False)))
    with pytest.raises(NetworkError, match="parameters"):
        frozen.train_step(np.ones((1, 4, 2), np.float32), np.zeros((1, 2), int))


# A workspace of the caller's.


def workspace(nbytes: int, offset: int = 0) -> np.ndarray:
    buffer = np.zeros(nbytes + offset + 64, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    return buffer[start : start + nbytes]


def planned(backend: str) -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((6, 4, 3, 3))
    return sk.plan_conv(x.shape, weight.shape, dtype=x.dtype, padding=1, backend=backend), x, weight


def test_a_workspace_of_the_callers_gives_the_same_bits_and_allocates_nothing(backend: str) -> None:
    plan, x, weight = planned(backend)
    expected, packed = plan.execute(x, weight), plan.pack(weight)
    out = np.empty_like(expected)
    for given, ready in ((weight, False), (packed, True)):
        needed = plan.workspace_bytes(packed=ready)
        for spare in (0, 777):
            with sk.vram.track() as usage:
                plan.execute(x, given, out=out, workspace=workspace(needed + spare))
            assert usage.peak == 0
            np.testing.assert_array_equal(out, expected)
        # It does not count for a budget either.
        with sk.vram.budget(0):
            plan.execute(x, given, out=out, workspace=workspace(needed))
        np.testing.assert_array_equal(plan.execute(x, given, workspace=workspace(needed)), expected)
    empty = sk.plan_conv((0, *x.shape[1:]), weight.shape, dtype=x.dtype, padding=1, backend=backend)
    assert empty.execute(x[:0], weight, workspace=workspace(0)).shape == (0, 6, 9, 8)


def test_a_workspace_that_does_not_serve_is_refused_and_nothing_written() -> None:
    plan, x, weight = planned("cpu")
    needed = plan.workspace_bytes()
    assert needed > 64
    out = np.full((2, 6, 9, 8), 7.0)
    locked = workspace(needed)
    locked.flags.writeable = False
    with_x, with_out = workspace(needed + x.nbytes), workspace(needed + out.nbytes)
    inside = with_x[-x.nbytes :].view(x.dtype).reshape(x.shape)
    inside[...] = x
    refused: list[tuple[Any, type[Exception], str]] = [
        (workspace(needed - 1), sk.ShapeError, f"at least {needed} bytes"),
        (workspace(needed).reshape(1, -1), sk.ShapeError, "one axis"),
        (workspace(needed - needed % 8).view(np.float64), sk.DtypeError, "float64; wanted uint8"),
        (workspace(needed, 8), sk.LayoutError, "begins 8 bytes after one"),
        (workspace(2 * needed)[::2], sk.LayoutError, "contiguous"),
        (locked, sk.LayoutError, "writeable"),
        ([0] * needed, sk.DtypeError, "workspace is a list"),
    ]
    for each, error, words in refused:
        with pytest.raises(error, match=words):
            plan.execute(x, weight, out=out, workspace=each)
    assert (out == 7).all()
    with pytest.raises(sk.LayoutError, match="overlaps x"):
        plan.execute(inside, weight, workspace=with_x)
    with pytest.raises(sk.LayoutError, match="overlaps out"):
        plan.execute(x, weight, out=with_out[-out.nbytes :].view(x.dtype).reshape(out.shape), workspace=with_out)
