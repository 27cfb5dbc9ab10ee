"""Networks run: every operation by its formula, gradients by differences, the same bits however they are reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import EMULATED

import stridekit as sk
from stridekit.backends import load_backend
from stridekit.memory.arrays import numpy_dtype
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.spaces import HostMemory
from stridekit.networks import Network
from stridekit.networks.execution import Optimizer
from stridekit.networks.execution.kernels import Backward, Context, kernel_for
from stridekit.networks.execution.kernels.multiplying import GateKernel
from stridekit.networks.execution.optimizers import SGD, Adam, Momentum
from stridekit.networks.operations import Multiply
from tests.kit.network_cases import ACCUMULATED, UNIT_ROUNDOFF, chain, drawn, every_operation, layer
from tests.kit.network_numpy import evaluate, formula

SIZES = [(19,), (13, 10), (5, 7, 6)]
by_rank = pytest.mark.parametrize("sizes", SIZES, ids=("1-D", "2-D", "3-D"))
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def asked(rng: np.random.Generator, sizes: tuple[int, ...], batch: int = 2, dtype: str = "float32") -> np.ndarray:
    return rng.standard_normal((batch, 3, *sizes)).astype(numpy_dtype(dtype))


def revealed(network: Network) -> Network:
    """Return the network with every layer's result among its outputs."""
    return Network("revealed", network.layers, outputs=[each.name for each in network.layers],
                   parameters=network.parameters)  # fmt: skip


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the host deals out with NaN, so that reading what nothing wrote shows."""
    plain = HostMemory.empty

    def filled(self: HostMemory, nbytes: int) -> Any:
        owner, flat = plain(self, nbytes)
        flat[...] = 0xFF
        return owner, flat

    monkeypatch.setattr(HostMemory, "empty", filled)


@by_dtype
@by_rank
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_every_operation_gives_what_its_formula_says(
    backend: str, sizes: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    network = drawn(every_operation(sizes), dtype)
    found = revealed(network).run(asked(rng, sizes, dtype=dtype), backend=backend)
    wide = {name: array.astype(np.float64) for name, array in found.items()}
    for each in network.layers[1:]:
        inputs = [wide[name] for name in each.inputs]
        expected = formula(network, each, inputs)
        scale = max(1.0, *(float(np.abs(array).max()) for array in (expected, *inputs)))
        bound = 2 * UNIT_ROUNDOFF[dtype] * np.abs(expected) + 40 * ACCUMULATED[dtype] * scale
        assert found[each.name].dtype == numpy_dtype(dtype)
        assert found[each.name].shape == expected.shape
        assert (np.abs(wide[each.name] - expected) <= bound).all(), each.name


@by_rank
def test_results_that_take_each_others_memory_are_the_same_to_the_bit(
    sizes: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch)
    for pixels in (False, True):
        network = drawn(every_operation(sizes, pixels=pixels), "float32")
        x = asked(rng, sizes)
        for backend in ("reference", "cpu"):
            alone = revealed(network).run(x, backend=backend)
            np.testing.assert_array_equal(network.run(x, backend=backend), alone[network.outputs[0]])


@pytest.mark.parametrize("backend", [EMULATED], indirect=True)
@pytest.mark.parametrize(("sizes", "dtype"), [((9,), "float64"), ((6, 7), "float32"), ((5, 6), "float16")])
def test_a_network_runs_and_trains_on_the_emulated_device(
    backend: str, sizes: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    network = drawn(every_operation(sizes), dtype)
    x = asked(rng, sizes, dtype=dtype)
    y, expected = network.run(x, backend=backend), network.run(x, backend="reference")
    bound = 100 * UNIT_ROUNDOFF[dtype] * max(1.0, float(np.abs(expected.astype(np.float64)).max()))
    np.testing.assert_allclose(y.astype(np.float64), expected.astype(np.float64), 0, bound)
    other = network.astype(dtype)
    losses = [each.train_step(x, np.array([0, 3]), "adam", backend=where)
              for each, where in ((network, backend), (other, "reference"))]  # fmt: skip
    np.testing.assert_allclose(*losses, 0, bound)


# Gradients.


def gradients(network: Network, x: Any, target: np.ndarray, backend: str) -> dict[str, np.ndarray]:
    """Return the gradient of every parameter."""
    copy = network.astype(next(iter(network.parameters.values())).dtype)
    before = {name: value.copy() for name, value in copy.parameters.items()}
    # Without a rate nothing moves, and what the optimizer keeps is the gradient.
    optimizer = Momentum(learning_rate=0.0)
    copy.train_step(x, target, optimizer, backend=backend)
    for name in network.parameter_shapes:
        np.testing.assert_array_equal(copy.parameters[name], before[name])
    return {name: optimizer.state[name][0].copy() for name in network.parameter_shapes}


def loss_of(network: Network, x: Any, target: np.ndarray, backend: str) -> float:
    return network.train_step(x, target, SGD(learning_rate=0.0), backend=backend)


@by_rank
@pytest.mark.parametrize("pixels", [False, True], ids=["classes", "pixels"])
def test_gradients_are_the_slopes_of_the_loss(
    sizes: tuple[int, ...], pixels: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch)
    network = drawn(every_operation(sizes, pixels=pixels), "float64")
    x = asked(rng, sizes, 3, "float64")
    target = rng.integers(0, 4, (3, *sizes) if pixels else 3)
    found = gradients(network, x, target, "cpu")
    for name, other in gradients(network, x, target, "reference").items():
        np.testing.assert_allclose(found[name], other, 1e-9, 1e-12, err_msg=name)
    step = 1e-6
    for name in network.parameter_shapes:
        value, before = network.parameters[name], network.parameters[name].copy()
        direction = rng.standard_normal(value.shape)
        losses = []
        for sign in (1, -1):
            value[...] = before + sign * step * direction
            losses.append(loss_of(network, x, target, "cpu"))
        value[...] = before
        slope, expected = (losses[0] - losses[1]) / (2 * step), float((found[name] * direction).sum())
        assert abs(slope - expected) <= 1e-7 + 1e-5 * abs(expected), (name, slope, expected)


def test_every_function_has_its_derivative_wherever_it_is_looked_at(rng: np.random.Generator) -> None:
    for function in ("sigmoid", "tanh", "silu", "gelu", "leaky_relu", "hard_swish", "hard_sigmoid"):
        network = Network(
            "one", chain(
                layer("x", "input", size=(1,)), layer("factor", "linear", out_features=1, bias=False),
                layer("f", function), layer("both", "linear", out_features=2, bias=False),
            ),
        )  # fmt: skip
        for dtype, relative, least in (("float64", 1e-7, 3e-9), ("float32", 1e-4, 1e-7)):
            network = network.astype(dtype)
            network.parameters["both.weight"][...] = [[1], [0]]
            for at in (-30.0, -7.0, -1.0, -1e-3, -1e-9, 0.0, 1e-12, 1e-5, 0.5, 3.0, 30.0):
                network.parameters["factor.weight"][...] = at
                x, target = np.ones((1, 1), dtype), np.array([1])
                slope = gradients(network, x, target, "reference")["factor.weight"].item()
                step = 1e-6 * max(1.0, abs(at)) if at else 1e-6
                value = network.parameters["factor.weight"].astype(np.float64)
                network64 = network.astype("float64")
                losses = []
                for moved in (value + step, value - step):
                    network64.parameters["factor.weight"][...] = moved
                    losses.append(loss_of(network64, x.astype("float64"), target, "reference"))
                if (function == "leaky_relu" and abs(at) <= step) or (function.startswith("hard") and abs(at) == 3):
                    continue
                expected = (losses[0] - losses[1]) / (2 * step)
                # What a difference of losses near 1 can resolve, or one of 1 and a result.
                assert abs(slope - expected) <= relative * abs(expected) + least, (function, dtype, at, slope, expected)


CORNERS = {"hard_swish": (0.0, 1.0), "hard_sigmoid": (0.0, 0.0), "relu6": (0.0, 0.0)}


@by_dtype
@pytest.mark.parametrize("function", CORNERS)
def test_a_function_has_pytorchs_derivative_at_its_corners(function: str, dtype: str) -> None:
    network = Network("one", chain(
        layer("x", "input", size=(1,)), layer("factor", "linear", out_features=1, bias=False), layer("f", function),
        layer("both", "linear", out_features=2, bias=False),
    ))  # fmt: skip
    network.initialize(dtype=dtype)
    # With weights of 1 and -1 times a little, the loss' slope is near that little itself, times the share of a class.
    network.parameters["both.weight"][...] = [[2**-6], [-(2**-6)]]
    corners = (0.0, 6.0) if function == "relu6" else (-3.0, 3.0)
    for at, wanted in zip((-100, *corners, 100), (0, *CORNERS[function], float(function == "hard_swish")), strict=True):
        network.parameters["factor.weight"][...] = at
        found = gradients(network, np.ones((1, 1), numpy_dtype(dtype)), np.array([1]), "reference")["factor.weight"]
        assert (found.item() != 0) == (wanted != 0), (at, found)
        if wanted:
            share = 1 / (1 + np.exp(-(2**-5) * at))
            assert found.item() == pytest.approx(2**-5 * share, rel=4 * UNIT_ROUNDOFF[dtype] + 1e-2), at


@pytest.mark.parametrize(("size", "batch"), [((17, 19), 5), ((70, 61), 3), ((1, 9), 4), ((600,), 300)])
@by_dtype
@pytest.mark.rotated("dtype")
def test_a_gates_gradient_is_a_sum_over_each_samples_pixels(
    size: tuple[int, ...], batch: int, dtype: str, rng: np.random.Generator
) -> None:
    """Of few pixels and many, in blocks of whole samples and in parts of one."""
    channels = 24
    shapes = ((batch, channels, *size), (batch, channels, *(1 for _ in size)))
    context = Context("cpu", load_backend("cpu").device(), "numpy", dtype, training=True)
    gated = Multiply().resolved((shapes[0][1:], shapes[1][1:]))
    kernel = kernel_for(context, gated, shapes, shapes[0], (True, True))
    x, gate, g = (rng.standard_normal((shape[0], *shape[2:], channels)).astype(numpy_dtype(dtype))
                  for shape in (*shapes, shapes[0]))  # fmt: skip

    def run(part: slice) -> list[np.ndarray]:
        count = len(x[part])
        own = kernel_for(context, gated, tuple((count, *shape[1:]) for shape in shapes), (count, *shapes[0][1:]),
                         (True, True))  # fmt: skip
        workspace = np.full(own.backward_workspace, 0xFF, np.uint8)
        # The gradient's own memory is taken.
        gx, gh = g[part].copy(), np.empty_like(gate[part])
        own.backward(Backward(gx, [x[part], gate[part]], None, {}, {}, [gx, gh], {}, workspace))
        return [gx, gh]

    assert isinstance(kernel, GateKernel)
    gx, gh = run(slice(None))
    wide = [each.astype(np.float64) for each in (x, gate, g)]
    products = (wide[0] * wide[2]).reshape(batch, -1, channels)
    expected, most = products.sum(1), np.abs(products).sum(1)
    error = np.abs(gh.reshape(batch, channels).astype(np.float64) - expected)
    # What is rounded at the end, and on the way: of 256 products in a row and float64 beyond them.
    assert (error <= UNIT_ROUNDOFF[dtype] * np.abs(expected) + 258 * ACCUMULATED[dtype] * most).all()
    np.testing.assert_array_equal(gx, (wide[1] * wide[2]).astype(numpy_dtype(dtype)))
    for at in range(batch):
        for found, whole in zip(run(slice(at, at + 1)), (gx, gh), strict=True):
            np.testing.assert_array_equal(found, whole[at : at + 1])


def test_the_gradient_of_gelu_keeps_small_inputs_of_16_bits() -> None:
    network = Network("one", chain(
        layer("x", "input", size=(1,)), layer("factor", "linear", out_features=1, bias=False), layer("f", "gelu"),
        layer("both", "linear", out_features=2, bias=False),
    ))  # fmt: skip
    network.initialize(dtype="float16")
    network.parameters["both.weight"][...] = [[1], [0]]
    for at in (1e-5, 1e-6, 6e-8, -3e-6, 1e-3, 0.01):
        network.parameters["factor.weight"][...] = at
        found = gradients(network, np.ones((1, 1), np.float16), np.array([1]), "reference")["factor.weight"].item()
        # Half of the loss' slope, which is a half where both classes are alike.
        assert abs(found - 0.25 - 0.4 * at) < 1e-3, (at, found)


def test_a_small_result_of_a_sigmoid_is_no_less_exact() -> None:
    x = np.linspace(-80, 20, 4001, dtype=np.float32).reshape(1, 1, -1)
    for function in ("sigmoid", "silu"):
        network = Network("one", chain(layer("x", "input", size=(1, 4001)), layer("f", function)))
        y, expected = network.run(x), evaluate(network, {"x": x})["f"]
        np.testing.assert_allclose(y, expected, 4e-7, 0)


def test_the_loss_of_an_improbable_class_is_not_cut_off() -> None:
    for dtype, far in (("float16", 30.0), ("float32", 300.0), ("float64", 2000.0)):
        network = Network("one", chain(layer("x", "input", size=(1,)), layer("y", "linear", out_features=2)))
        network.initialize(dtype=dtype)
        network.parameters["y.weight"][...] = [[far], [0]]
        found = network.train_step(np.ones((1, 1), dtype), np.array([1]), SGD(1.0), backend="reference")
        assert found == pytest.approx(far, rel=1e-6)
        np.testing.assert_allclose(network.parameters["y.weight"], [[far - 1], [1]], 1e-3)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@by_dtype
@pytest.mark.rotated("name")
def test_training_lowers_the_loss_in_every_type(name: str, dtype: str, rng: np.random.Generator) -> None:
    network = drawn(every_operation((9, 8)), dtype)
    x, target = asked(rng, (9, 8), 6, dtype), rng.integers(0, 4, 6)
    losses = [network.train_step(x, target, name, backend="reference") for _ in range(8)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_a_frozen_normalisation_is_kept_as_it_is(rng: np.random.Generator) -> None:
    network = drawn(every_operation((9, 8)), "float32")
    kept = {name: network.parameters[name].copy() for name in network.parameters if name.startswith("frozen.")}
    moved = network.parameters["norm.running_mean"].copy()
    network.train_step(asked(rng, (9, 8)), np.array([1, 2]))
    assert len(kept) == 4
    for name, before in kept.items():
        np.testing.assert_array_equal(network.parameters[name], before)
    assert (network.parameters["norm.running_mean"] != moved).all()


def test_weights_decay_and_the_settings_of_an_optimizer_count(rng: np.random.Generator) -> None:
    x, target = asked(rng, (9, 8)), np.array([1, 2])
    for optimizer in (SGD(0.1, weight_decay=0.5), Adam(0.1, betas=(0.5, 0.6))):
        network, plain = (drawn(every_operation((9, 8)), "float32") for _ in range(2))
        network.train_step(x, target, optimizer)
        plain.train_step(x, target, type(optimizer)(0.1))
        first, other = network.parameters["first.weight"], plain.parameters["first.weight"]
        if isinstance(optimizer, SGD):
            before = drawn(every_operation((9, 8)), "float32").parameters["first.weight"]
            np.testing.assert_allclose(first, other - 0.05 * before, 1e-5, 1e-6)
        assert optimizer.steps == 1


def test_a_network_with_a_softmax_at_its_end_trains_as_without(rng: np.random.Generator) -> None:
    plain = drawn(every_operation((9, 8)), "float64")
    ended = Network("ended", [*plain.layers, layer("loss", "softmax_cross_entropy", "logits")],
                    parameters={name: value.copy() for name, value in plain.parameters.items()})  # fmt: skip
    x, target = asked(rng, (9, 8), dtype="float64"), np.array([3, 0])
    np.testing.assert_allclose(ended.run(x).sum(1), 1)
    assert ended.train_step(x, target, "adam") == plain.train_step(x, target, "adam")
    for name, value in plain.parameters.items():
        np.testing.assert_array_equal(value, ended.parameters[name])


def test_layers_may_be_called_as_the_engine_calls_what_it_adds(rng: np.random.Generator) -> None:
    """A layer's name is whatever a file or an exporter says."""
    names = ["target", "loss", "softmax", "loss.grad", "loss.weight", "norm.mean", "norm.weight.grad", "", "a.grad+1"]
    network = Network("named", chain(
        layer("target", "input", size=(3, 5, 5)),
        layer("loss", "conv", out_channels=4, kernel_size=3),
        layer("softmax", "relu"),
        layer("norm", "batch_norm"),
        layer("a", "tanh"),
        layer("a.grad", "add", ("a", "norm", "a")),
        layer("loss.grad", "silu"),
        layer("loss.weight", "gelu"),
        layer("norm.mean", "scale"),
        layer("norm.weight.grad", "add", ("norm.mean", "loss.grad")),
        layer("", "global_avg_pool"),
        layer("a.grad+1", "flatten"),
    ))  # fmt: skip
    renamed = {each.name: f"l{number}" for number, each in enumerate(network.layers)}
    assert set(names) <= set(renamed)
    plain = Network("plain", [type(each)(renamed[each.name], each.operation, tuple(renamed[n] for n in each.inputs))
                              for each in network.layers])  # fmt: skip
    x, target = rng.standard_normal((4, 3, 5, 5)), rng.integers(0, 4, 4)
    drawn(network, "float64")
    own = {name: tuple(name.rsplit(".", 1)) for name in network.parameters}
    for name, (owner, short) in own.items():
        plain.given_parameters[f"{renamed[owner]}.{short}"] = network.parameters[name].copy()
    np.testing.assert_array_equal(network.run(x), plain.run(x))
    assert [network.train_step(x, target, "adam") for _ in range(3)] == [
        plain.train_step(x, target, "adam") for _ in range(3)
    ]


# The same bits.


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_sample_has_the_same_bits_in_any_batch(backend: str, dtype: str, rng: np.random.Generator) -> None:
    for sizes in SIZES:
        network = drawn(every_operation(sizes), dtype)
        x = asked(rng, sizes, 5, dtype)
        whole = network.run(x, backend=backend)
        for n in (1, 4):
            alone = network.run(x[n : n + 1], backend=backend)
            np.testing.assert_array_equal(whole[n : n + 1], alone)
        np.testing.assert_array_equal(whole[1:4], network.run(x[1:4], backend=backend))


def test_a_product_has_the_same_bits_in_any_batch(backend: str, rng: np.random.Generator) -> None:
    network = Network("one", chain(layer("x", "input", size=(300,)), layer("y", "linear", out_features=17)))
    drawn(network, "float32")
    x = rng.standard_normal((37, 300)).astype(np.float32)
    whole = network.run(x, backend=backend)
    for stop in (1, 2, 3, 8, 16, 33):
        np.testing.assert_array_equal(whole[:stop], network.run(x[:stop], backend=backend))


@pytest.mark.usefixtures("threads")
def test_one_thread_and_two_give_the_same_bits_and_so_does_a_second_run(rng: np.random.Generator) -> None:
    runs = []
    for threads in (1, 2, 2):
        sk.set_num_threads(threads)
        network = drawn(every_operation((21, 26)), "float32")
        x = np.random.default_rng(3).standard_normal((4, 3, 21, 26)).astype(np.float32)
        y = network.run(x, backend="cpu")
        losses = [network.train_step(x, np.array([0, 1, 2, 3]), "adam", backend="cpu") for _ in range(2)]
        runs.append((y, losses, dict(network.parameters)))
    for y, losses, parameters in runs[1:]:
        np.testing.assert_array_equal(y, runs[0][0])
        assert losses == runs[0][1]
        for name, value in parameters.items():
            np.testing.assert_array_equal(value, runs[0][2][name], err_msg=name)


# Inputs and outputs of all kinds.


@by_rank
def test_no_sample_one_sample_and_the_smallest_sizes(backend: str, sizes: tuple[int, ...]) -> None:
    if backend == "cuda" and len(sizes) == 3:
        pytest.skip("cuda, emulated: slow, and no other than in two dimensions")
    network = drawn(every_operation(sizes), "float32")
    assert network.run(np.ones((0, 3, *sizes), np.float32), backend=backend).shape == (0, 4)
    pixel = Network("pixel", chain(
        layer("x", "input", size=(2, *(1 for _ in sizes))),
        layer("y", "conv", out_channels=3, kernel_size=3, padding=1),
        layer("n", "batch_norm"), layer("f", "silu"), layer("u", "upsample", factor=3, mode="linear"),
        layer("p", "max_pool", kernel_size=3), layer("flat", "flatten"), layer("z", "linear", out_features=2),
    ))  # fmt: skip
    drawn(pixel, "float32")
    x = np.full((1, 2, *(1 for _ in sizes)), 0.7, np.float32)
    np.testing.assert_allclose(pixel.run(x, backend=backend), evaluate(pixel, {"x": x})["z"], 0, 1e-5)
    assert np.isfinite(pixel.train_step(x, np.array([1]), "adam", backend=backend))


def laid(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the same numbers as they may lie."""
    yield x
    yield np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    wide[..., ::2] = x
    yield wide[..., ::2]
    yield np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
    locked = x.copy()
    locked.flags.writeable = False
    yield locked
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    odd[...] = x
    yield odd


def test_inputs_may_lie_in_any_way_and_stay_as_they_are(backend: str, rng: np.random.Generator) -> None:
    network = drawn(every_operation((6, 7)), "float32")
    x = asked(rng, (6, 7))
    expected = network.run(x, backend=backend)
    for each in laid(x):
        np.testing.assert_array_equal(network.run(each, backend=backend), expected)
        np.testing.assert_array_equal(each, x)


def test_parameters_may_lie_in_any_way(rng: np.random.Generator) -> None:
    x, target = asked(rng, (6, 7)), np.array([1, 2])
    plain = drawn(every_operation((6, 7)), "float32")
    other = drawn(every_operation((6, 7)), "float32")
    for name, value in other.parameters.items():
        if value.ndim > 1:
            other.parameters[name] = np.asfortranarray(value)
        else:
            value.flags.writeable = False
    assert [plain.train_step(x, target, "momentum") for _ in range(3)] == [
        other.train_step(x, target, "momentum") for _ in range(3)
    ]
    for name, value in plain.parameters.items():
        np.testing.assert_array_equal(value, other.parameters[name], err_msg=name)


def test_several_inputs_come_and_several_outputs_go_by_name(backend: str, rng: np.random.Generator) -> None:
    network = Network(
        "two",
        [
            layer("left", "input", size=(2, 6, 5)),
            layer("right", "input", size=(3, 6, 5)),
            layer("regions", "input", size=(4,), samples=3),
            layer("joined", "concat", ("left", "right")),
            layer("f", "relu", "joined"),
            layer("y", "conv", "f", out_channels=2, kernel_size=3),
            layer("scores", "linear", "regions", out_features=2),
        ],
        outputs=["f", "y", "scores", "left"],
    )
    drawn(network, "float32")
    given = {each.name: rng.standard_normal((2 * each.operation.samples, *each.operation.size)).astype(np.float32)
             for each in network.inputs}  # fmt: skip
    found, expected = network.run(given, backend=backend), evaluate(network, given)
    assert list(found) == ["f", "y", "scores", "left"]
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], 0, 1e-5)
    # What is returned is the caller's, and not what was given.
    found["left"][...] = 0
    assert given["left"].any()
    again = network.run(given, backend=backend)
    np.testing.assert_array_equal(again["f"], found["f"])


def test_a_first_input_of_several_samples_counts_by_the_batch(rng: np.random.Generator) -> None:
    network = Network("regions", chain(
        layer("x", "input", size=(4,), samples=3), layer("y", "linear", out_features=2),
    ))  # fmt: skip
    x = rng.standard_normal((6, 4)).astype(np.float32)
    assert network.run(x).shape == (6, 2)
    assert np.isfinite(network.train_step(x, rng.integers(0, 2, 6)))
    with pytest.raises(sk.ShapeError, match="wanted"):
        network.run(x[:5])


def test_shared_parameters_gather_the_gradients_of_all_who_use_them(rng: np.random.Generator) -> None:
    def made(shares: str | None) -> Network:
        return Network("shared", chain(
            layer("x", "input", size=(3, 6, 5)),
            layer("a", "conv", out_channels=3, kernel_size=3, padding=1),
            layer("n", "batch_norm"),
            layer("b", "conv", "n", shares and "a", out_channels=3, kernel_size=3, padding=1),
            layer("m", "batch_norm", "b", shares and "n"),
            layer("c", "conv", "m", shares and "a", out_channels=3, kernel_size=3, padding=1),
            layer("pool", "global_avg_pool"), layer("flat", "flatten"),
        ))  # fmt: skip

    shared, own = drawn(made("a"), "float64"), made(None)
    for name in own.parameter_shapes | own.buffer_shapes:
        owner, short = name.split(".")
        owner = {"b": "a", "c": "a", "m": "n"}.get(owner, owner)
        own.given_parameters[name] = shared.parameters[f"{owner}.{short}"].copy()
    x, target = rng.standard_normal((4, 3, 6, 5)), rng.integers(0, 3, 4)
    np.testing.assert_array_equal(shared.run(x), own.run(x))
    together, apart = gradients(shared, x, target, "cpu"), gradients(own, x, target, "cpu")
    np.testing.assert_allclose(together["a.weight"], sum(apart[f"{each}.weight"] for each in "abc"), 1e-9, 1e-13)
    np.testing.assert_allclose(together["n.bias"], sum(apart[f"{each}.bias"] for each in "nm"), 1e-9, 1e-13)


@pytest.mark.parametrize("size", [(17, 23), (1, 1), (2, 33), (16, 16)])
def test_masks_of_any_size_come_and_train_pixel_by_pixel(size: tuple[int, int], rng: np.random.Generator) -> None:
    network = drawn(Network("mask", chain(
        layer("x", "input", size=(3, 16, 16)),
        layer("a", "conv", out_channels=4, kernel_size=3, stride=2, padding=1), layer("n", "batch_norm"),
        layer("f", "relu"), layer("up", "upsample", ("f", "x"), mode="linear"),
        layer("skip", "concat", ("up", "x")), layer("y", "conv", out_channels=5, kernel_size=1),
    )), "float32")  # fmt: skip
    x, target = asked(rng, size), rng.integers(0, 5, (2, *size)).astype(np.uint8)
    np.testing.assert_allclose(network.run(x), evaluate(network.resized(size), {"x": x})["y"], 0, 1e-5)
    losses = [network.train_step(x, target, Adam(0.05)) for _ in range(2)]
    assert np.isfinite(losses).all()
    # Targets may lie in any way, too.
    copy = network.astype("float32")
    assert copy.train_step(x, np.asfortranarray(target)) == network.train_step(x, target.astype(np.int64))


def test_infinities_stay_what_they_are(rng: np.random.Generator) -> None:
    network = Network(
        "resized", chain(layer("x", "input", size=(1, 5)), layer("y", "upsample", factor=2, mode="linear"))
    )
    x = np.array([1, np.inf, 2, 3, np.nan], np.float32).reshape(1, 1, 5)
    expected = [1, np.inf, np.inf, np.inf, np.inf, 2.25, 2.75, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(network.run(x).ravel(), np.array(expected, np.float32))
    overflowing = drawn(every_operation((6, 7)), "float16")
    assert overflowing.run(np.full((1, 3, 6, 7), 6e4, np.float16)).shape == (1, 4)


def test_a_network_trains_at_several_sizes_with_one_state_and_one_set_of_parameters(rng: np.random.Generator) -> None:
    network = drawn(every_operation((9, 8)), "float32")
    optimizer: Optimizer = Adam()
    for size in ((9, 8), (12, 11), (9, 8)):
        network.train_step(asked(rng, size), np.array([0, 1]), optimizer)
    assert optimizer.steps == 3
    assert set(optimizer.state) == set(network.parameter_shapes)
